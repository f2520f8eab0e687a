"""Tuning learning rate and dropout of every round by cross-validation on training data.

As in the paper, rounds are tuned in order: each one starts from the body of the previous rounds,
trained with the settings chosen for them. Only training splits are cross-validated; the validation
split selects the epoch of a trained round, as in any run. Test splits are never used.

Several processes can share a search (``join``). Each makes the same proposals in the same order,
and a trial is run by the process that holds its claim; the others wait for its record. So all of
them choose the same settings, which are also those of a single process.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.models.build import check_components
from hydrakit.observers.trackers import trackers_of
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import Callbacks, RunCallback, closing
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import find_datasets, prepare_datasets
from hydrakit.runs.earlier import environment_of, with_threads
from hydrakit.runs.network import Network
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session
from hydrakit.runs.start import check_start, store_start
from hydrakit.schema import Frozen, Text
from hydrakit.search.launched import is_launched
from hydrakit.search.proposals import Proposals, proposals
from hydrakit.search.trials import RoundTrials, Setting, TrialRecord, folds_of
from hydrakit.storage.claims import WAIT, Participant
from hydrakit.storage.files import append_line, refuse_link, write_atomic
from hydrakit.storage.lock import joined
from hydrakit.storage.records import read_appended, read_record, writable, write_record
from hydrakit.training.seeds import Seeds
from hydrakit.version import version

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
DROPOUTS = (0.0, 0.1, 0.3)
ANY = Setting(learning_rate=1.0, dropout=0.0)  # replaces the setting in keys of rounds


@dataclass(frozen=True)
class TuningSearch:
    """Settings to try for each round.

    Attributes:
        learning_rates: Learning rates.
        dropouts: Dropout probabilities.
        folds: Number of cross-validation folds within a round's training split.
        method: ``grid`` for all pairs, or ``optuna`` for proposals between the lowest and the
            highest values.
        trials: Number of settings in each round with ``optuna``; None for 20.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    dropouts: Sequence[float] = DROPOUTS
    folds: int = 3
    method: str = "grid"
    trials: int | None = None


@dataclass(frozen=True)
class TriedSetting:
    """A setting with its trials, one for each fold.

    Attributes:
        setting: Learning rate and dropout.
        records: Records of the trials, by fold.
    """

    setting: Setting
    records: tuple[TrialRecord, ...]

    @property
    def score(self) -> float | None:
        """Mean AUC (R2 in regression) of the folds; None if a trial diverged."""
        scores = [each.score for each in self.records if each.score is not None]
        return mean(scores) if len(scores) == len(self.records) else None

    @property
    def loss(self) -> float:
        """Mean validation loss of the trials that did not diverge."""
        return mean(each.loss for each in self.records if each.loss is not None)


@dataclass(frozen=True)
class RoundTuning:
    """The candidates for a round, and the chosen one: highest mean score, then lowest loss.

    Attributes:
        number: Number of the round, from 1.
        round: Round with the chosen setting.
        candidates: Candidates in the order of proposals; none if the round trains nothing, or
            solves its head exactly.
        chosen: Index of the chosen candidate; None if there are none.
    """

    number: int
    round: Round
    candidates: tuple[TriedSetting, ...]
    chosen: int | None


class TuneCallback(RunCallback):
    """Called when something happens while a plan is tuned."""

    def trials(self, number: int, done: int, of: int) -> None:
        """Some trials of a round are finished."""

    def chosen(self, tuning: RoundTuning) -> None:
        """The setting of a round is chosen."""


@dataclass(frozen=True)
class TuneResult:
    """Result of `tune`.

    Attributes:
        plan: Plan with the chosen settings.
        rounds: Candidates and choice for each round.
        path: Path of the plan's file.
        trials_path: Path of the file with all trials.
    """

    plan: Plan
    rounds: tuple[RoundTuning, ...]
    path: Path
    trials_path: Path


def tune(
    plan: Plan,
    out: Path,
    context: RunContext | None = None,
    *,
    search: TuningSearch | None = None,
    join: bool = False,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> TuneResult:
    """Choose learning rate and dropout of each round of a plan, and write the tuned plan.

    Next to the plan, ``NAME.tuning.jsonl`` gets a line for every trial, and the folder
    ``NAME.tuning`` the rounds trained with chosen settings. After a stop, the same call resumes
    tuning; a call with more values tries only the new ones.

    With ``join``, the same call in other processes, on any machine that sees the folder, shares the
    trials, and returns the same plan.

    Args:
        plan: Plan to tune.
        out: Path of the tuned plan.
        context: Where and how to compute; None for the defaults.
        search: Settings to try; None for the defaults.
        join: Whether other processes may share the search.
        callbacks: Called while rounds are trained with chosen settings, except `completed`, since
            nothing is tested. A `TuneCallback` is also called for each trial and each choice.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is invalid, ``out`` is another file, or all settings diverge.
        PluginError: The plan names a component that no plugin offers.
        DataError: A dataset cannot be used, or is too small for this number of folds.
        HydrakitError: A process that does not share its search, or shares another one, is at work.
    """
    context, search = context_of(context, values), search or TuningSearch()
    if is_launched(context):
        raise PlanError(
            "tuning of learning rates and dropouts takes no `--jobs` and no `--launcher`: start "
            "this command several times with `--join`, or choose values by whole runs (`--try`)"
        )
    settings = proposals(
        search.learning_rates,
        search.dropouts,
        search=search.method,
        trials=search.trials,
        seed=plan.seed,
    )
    files = TuningFiles.check(out)
    if search.folds < 2:
        raise PlanError(f"{search.folds} folds: there must be at least two (`--folds`)")
    plugins = plugins or context.plugins()
    context = context.for_search(files.round_cache)
    before = files.rundir.environment().get("threads")
    context = with_threads(context, before)
    digest = _digest([plan.digest(), asdict(search)])
    with joined(files.create().path) if join else nullcontext() as member:
        rundir, folder = files.rundir, files.trackers(digest)
        if member is not None:
            context = _agree(files, member, digest, context)
            rundir, folder = files.of_member(member.id), folder / member.id
        trackers = trackers_of(context, plugins, folder=folder, group=files.rundir.path.name)
        followers = Callbacks([*callbacks, *trackers])
        with context.active() as compute:
            datasets = find_datasets(plan, context, plugins)
            check_components(plan, datasets.adapters, plugins)
            check_start(plan, rundir)
            tuning = Tuning(
                plan=plan,
                datasets=prepare_datasets(plan, datasets, followers),
                context=context,
                compute=compute,
                plugins=plugins,
                rundir=files.create(rundir),
                callbacks=followers,
                proposals=settings,
                folds=search.folds,
                files=files,
                member=member,
                followers=[each for each in callbacks if isinstance(each, TuneCallback)],
            )
            lock = files.rundir.locked() if member is None else nullcontext()
            with lock, closing(followers):
                followers.started(plan, rundir, str(compute.device))
                tuning.write_environment(before)
                rounds = tuning.tune()
        if member is not None:
            files.write_trials(rounds)
            files.delete_members(member)
        write_atomic(out, tuning.plan.to_json().encode())
    return TuneResult(tuning.plan, tuple(rounds), out, files.trials_path)


class SharedSearch(Frozen):
    """What processes must have in common to share a search: ``shared.json``.

    Attributes:
        hydrakit: Version of hydrakit.
        digest: Digest of the plan and the search.
        threads: Number of CPU threads of each process.
        trials: Digest of what decides the trials of the first round, with the data and the way of
            computing; None before the data is read.
    """

    hydrakit: Text
    digest: Text
    threads: int
    trials: Text | None = None


def _agree(files: TuningFiles, member: Participant, digest: str, context: RunContext) -> RunContext:
    """Refuse to share another search than the other members; the context with their threads.

    Raises:
        HydrakitError: They run another search.
    """
    import torch

    with member.holding("start"):
        others, theirs = member.others(), files.read_shared()
        if others and theirs is not None:
            if (theirs.hydrakit, theirs.digest) != (version(), digest):
                raise HydrakitError(
                    f"{files.rundir.path}: {others[0]} runs another search here, or another "
                    f"version of hydrakit ({theirs.hydrakit}): give the same command, or wait for "
                    "its end"
                )
            return with_threads(context, theirs.threads)
        threads = context.threads or torch.get_num_threads()
        shared = SharedSearch(hydrakit=version(), digest=digest, threads=threads)
        write_record(files.shared_path, shared)
    return context.changed(threads=threads)


@dataclass(frozen=True)
class TuningFiles:
    """The files that tuning writes.

    Attributes:
        out: Path of the tuned plan.
    """

    out: Path

    @classmethod
    def check(cls, out: Path) -> TuningFiles:
        """Refuse a path where a file exists that tuning did not write.

        Raises:
            PlanError: There is such a file.
        """
        files = cls(out)
        if out.exists() and not (out.is_file() and files.trials_path.is_file()):
            raise PlanError(f"{out}: exists already: name another file")
        return files

    @property
    def trials_path(self) -> Path:
        """Path of the file with all trials."""
        return self.out.with_name(f"{self.out.stem}.tuning.jsonl")

    @property
    def round_cache(self) -> Path:
        """Folder of rounds trained with chosen settings, by the key of the round."""
        return self.rundir.path / "kept"

    @property
    def rundir(self) -> RunDir:
        """Folder of the run that trains the chosen settings."""
        return RunDir(self.out.with_name(f"{self.out.stem}.tuning"))

    def trackers(self, search: str) -> Path:
        """Folder for trackers; a search with other values may choose others and gets its own.

        Args:
            search: Digest of the plan and the search.
        """
        return self.rundir.path / f"trackers-{search[:8]}"

    @property
    def shared_path(self) -> Path:
        """Path of what processes that share the search must have in common."""
        return self.rundir.path / "shared.json"

    def read_shared(self) -> SharedSearch | None:
        """What the processes that share the search have in common; None before the first one."""
        if not self.shared_path.is_file():
            return None
        return read_record(self.shared_path, SharedSearch, remedy="delete it and run again")

    def of_member(self, member: str) -> RunDir:
        """Folder of the run of one of several processes that share the search."""
        return RunDir(self.rundir.path / "members" / member)

    def delete_members(self, member: Participant) -> None:
        """Delete the folders of a process and of those that have gone; their rounds are shared."""
        for path in (self.rundir.path / "members").iterdir():
            if path.name == member.id or member.state(path.name) is not None:
                shutil.rmtree(path, ignore_errors=True)  # perhaps another process does so, too

    def shared_trial(self, digest: str) -> Path:
        """Path of the record of a finished trial of a shared search."""
        return self.rundir.path / "trials" / f"{digest}.json"

    def create(self, rundir: RunDir | None = None) -> RunDir:
        """Create the folder, or that of one of several processes.

        Raises:
            PlanError: The folder cannot be created, or the file with all trials is a link.
        """
        refuse_link(self.trials_path)
        rundir = rundir or self.rundir
        with writable(self.out, "name a file in another folder"):
            rundir.path.mkdir(parents=True, exist_ok=True)
        return rundir

    def read_trials(self) -> dict[str, TrialRecord]:
        """Read all finished trials by digest."""
        remedy = "delete it to start again"
        records = []
        if self.trials_path.is_file():
            records = read_appended(self.trials_path, TrialRecord, remedy=remedy)
        known = {each.digest: each for each in records}
        for path in sorted(self.shared_trial("").parent.glob("*.json")):
            if path.stem not in known:
                known[path.stem] = read_record(path, TrialRecord, remedy=remedy)
        return known

    def read_shared_trial(self, digest: str) -> TrialRecord | None:
        """Record of a trial of a shared search; None if it is not finished."""
        path = self.shared_trial(digest)
        if not path.is_file():
            return None
        return read_record(path, TrialRecord, remedy="delete it to start again")

    def add_trial(self, record: TrialRecord) -> None:
        """Append a finished trial."""
        append_line(self.trials_path, record.model_dump_json())

    def add_shared_trial(self, record: TrialRecord) -> None:
        """Write a finished trial of a shared search; lines of several machines could be lost."""
        path = self.shared_trial(record.digest)
        path.parent.mkdir(exist_ok=True)
        write_record(path, record)

    def write_trials(self, rounds: Sequence[RoundTuning]) -> None:
        """Write the file with all trials; every process that shares the search writes the same."""
        known: dict[str, TrialRecord] = {}
        if self.trials_path.is_file():
            records = read_appended(self.trials_path, TrialRecord, remedy="delete it")
            known = {each.digest: each for each in records}
        for tuning in rounds:
            for record in (each for tried in tuning.candidates for each in tried.records):
                known.setdefault(record.digest, record)
        lines = "".join(f"{each.model_dump_json()}\n" for each in known.values())
        write_atomic(self.trials_path, lines.encode())


@dataclass(kw_only=True)
class Tuning(Session):
    """A run that tunes each round before it is trained.

    Attributes:
        proposals: Settings to try.
        folds: Number of cross-validation folds.
        files: Files to write.
        member: This process among those that share the search; None if it is alone.
        followers: Callbacks for trials and choices.
    """

    proposals: Proposals
    folds: int
    files: TuningFiles
    member: Participant | None = None
    followers: Sequence[TuneCallback] = ()

    def write_environment(self, threads: int | None) -> None:
        """Write ``environment.json``; ``threads`` is the number of an earlier search."""
        environment = environment_of(self.compute, self.plugins, self.datasets.roots)
        self.files.rundir.write_json("environment.json", environment)
        if threads not in (None, environment["threads"]):
            self.callbacks.noted(
                f"{self.rundir.path}: trials so far used {threads} CPU threads, and the others use "
                f"{environment['threads']}: their last digits differ"
            )

    def tune(self) -> list[RoundTuning]:
        """Tune every round, and train all but the last with the chosen settings."""
        self.check()
        store_start(self.start_tensors, self.start_heads, self.rundir, self.callbacks)
        rounds = (
            self.rundir.path / "rounds"
        )  # perhaps of other choices; right ones are in the cache
        if rounds.is_dir():
            shutil.rmtree(rounds)
        self.known = self.files.read_trials()
        if self.member is not None:
            self._agree_on_trials(self.member)
        network, tunings = self.new_network(), []
        last = len(self.plan.rounds)
        for number in range(1, last + 1):
            tuning = self._tune_round(number, network)
            tunings.append(tuning)
            self.plan = network.plan = self._plan_with(number, tuning.round)
            for each in self.followers:
                each.chosen(tuning)
            if number < last:
                self._train_chosen(number, tuning.round, network)
                network.load_round(number, tuning.round)
        return tunings

    def _agree_on_trials(self, member: Participant) -> None:
        """Refuse to share trials with processes that compute them from other data or otherwise.

        Raises:
            HydrakitError: They do.
        """
        first = self._key(1, self.plan.rounds[0])
        with member.holding("start"):
            shared, others = self.files.read_shared(), member.others()
            assert shared is not None
            if others and shared.trials not in (None, first):
                raise HydrakitError(
                    f"{self.files.rundir.path}: {others[0]} runs this search with other data, "
                    "plugins or libraries, or on another device: make them equal, or wait for its "
                    "end"
                )
            write_record(self.files.shared_path, shared.model_copy(update={"trials": first}))

    def _train_chosen(self, number: int, round: Round, network: Network) -> None:
        """Train a round with its chosen setting, or copy it from the process that trains it."""
        if self.member is not None:
            name = f"round-{self.round_key(number)[:32]}"
            stored = self.files.round_cache / self.round_key(number)
            while not stored.is_dir():
                if self.member.take(name):
                    self.copy_or_train(number, round, network)
                    self.member.finish(name)
                    return
                time.sleep(WAIT)
        self.copy_or_train(number, round, network)

    def _tune_round(self, number: int, network: Network) -> RoundTuning:
        """Try settings for a round, and choose one."""
        round = self.plan.rounds[number - 1]
        if round.train == "none" or round.hyperparameters.solver == "exact":
            return RoundTuning(number, round, (), None)
        candidates: list[TriedSetting] = []
        trials = self._trials(number, round, network)

        def evaluate(settings: Sequence[Setting]) -> list[float | None]:
            new = self._candidates(number, trials, settings)
            candidates.extend(new)
            return [each.score for each in new]

        self.proposals.try_all(evaluate)
        scored = [
            (each.score, -each.loss, index)
            for index, each in enumerate(candidates)
            if each.score is not None
        ]
        if not scored:
            raise PlanError(
                f"round {number} ({round.dataset}, {round.train}): training diverged with every "
                "setting: try lower learning rates (`--learning-rates`)"
            )
        _, _, chosen = max(scored, key=lambda each: (each[0], each[1], -each[2]))
        return RoundTuning(
            number, candidates[chosen].setting.apply_to(round), tuple(candidates), chosen
        )

    def _trials(self, number: int, round: Round, network: Network) -> RoundTrials:
        """Prepare the trials of a round: body, heads, folds and seeds."""
        seeds = Seeds(self.plan.seed, number)
        if number == 1:
            starts = self.plan.bootstrap
            network.start(seeds, lambda done: self.callbacks.bootstrapping(done, starts))
        data = self.loaded[round.dataset]
        head, *heads = network.heads_of(round, seeds)
        others = [self.loaded[other.dataset] for other in round.others]
        return RoundTrials(
            round=round,
            body=network.body,
            head=head,
            others=list(zip(heads, others, strict=True)),
            folds=folds_of(
                data,
                self.prepared[round.dataset],
                self.adapters[round.dataset],
                units=self.leakage.units[round.dataset],
                count=self.folds,
                seed=self.plan.effective_split_seed,
            ),
            seeds=seeds,
            compute=self.compute,
        )

    def _candidates(
        self, number: int, trials: RoundTrials, settings: Sequence[Setting]
    ) -> list[TriedSetting]:
        """Run the trials of settings that were not run before; return all candidates."""
        jobs = [(setting, fold) for setting in settings for fold in range(self.folds)]
        round_key = self._key(number, trials.round)
        keys = [_digest([round_key, each.model_dump(), fold, self.folds]) for each, fold in jobs]
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self.known}
        self._report_trials(number, len(keys) - len(missing), len(keys))
        if self.member is None:
            self._run_trials(number, trials, missing, of=len(keys))
        else:
            self._share_trials(self.member, number, trials, missing, of=len(keys))
        records = [self.known[key] for key in keys]
        return [
            TriedSetting(setting, tuple(records[index * self.folds : (index + 1) * self.folds]))
            for index, setting in enumerate(settings)
        ]

    def _run_trials(
        self,
        number: int,
        trials: RoundTrials,
        missing: Mapping[str, tuple[Setting, int]],
        *,
        of: int,
    ) -> None:
        """Run trials, given by their digests, and write their records."""
        missing_keys = list(missing)
        for done, (index, trial) in enumerate(trials.run(list(missing.values())), start=1):
            key = missing_keys[index]
            setting, fold = missing[key]
            best = trial.best
            record = TrialRecord(
                digest=key,
                round=number,
                dataset=trials.round.dataset,
                train=trials.round.train,
                learning_rate=setting.learning_rate,
                dropout=setting.dropout,
                fold=fold,
                folds=self.folds,
                score=None if best is None else best.val.score,
                loss=None if best is None else best.val.loss,
                best_epoch=None if best is None else best.epoch,
                epochs=trial.epochs,
                seconds=trial.seconds,
            )
            if self.member is not None:
                self.files.add_shared_trial(record)
                self.known[key] = record
                continue
            self.files.add_trial(record)
            self.known[key] = record
            self._report_trials(number, of - len(missing) + done, of)

    def _share_trials(
        self,
        member: Participant,
        number: int,
        trials: RoundTrials,
        missing: Mapping[str, tuple[Setting, int]],
        *,
        of: int,
    ) -> None:
        """Run those trials whose claims this process gets, until the records of all are there.

        Heads that are trained together, in less time than one after another, have one claim.
        """
        parts = [list(missing)] if trials.can_batch else [[key] for key in missing]
        while parts := [part for part in parts if not self._read_shared(part)]:
            self._report_trials(number, of - sum(map(len, parts)), of)
            for part in parts:
                if not member.take(name := f"trials-{_digest(part)[:32]}"):
                    continue
                if not self._read_shared(part):  # else its owner became silent after its work
                    rest = {key: missing[key] for key in part if key not in self.known}
                    self._run_trials(number, trials, rest, of=of)
                member.finish(name)
                break  # look again at what the others have done meanwhile
            else:
                time.sleep(WAIT)
        self._report_trials(number, of, of)

    def _read_shared(self, keys: Sequence[str]) -> bool:
        """Read records of other processes; whether those of all trials are there."""
        for key in keys:
            if key not in self.known and (record := self.files.read_shared_trial(key)):
                self.known[key] = record
        return all(key in self.known for key in keys)

    def _report_trials(self, number: int, done: int, of: int) -> None:
        for each in self.followers:
            each.trials(number, done, of)

    def _plan_with(self, number: int, round: Round) -> Plan:
        """A copy of the plan in which one round is replaced."""
        rounds = list(self.plan.rounds)
        rounds[number - 1] = round
        return self.plan.model_copy(update={"rounds": tuple(rounds)})

    def _key(self, number: int, round: Round) -> str:
        """Digest of everything that decides the trials of a round, except their settings."""
        key = self.round_key(number, self._plan_with(number, ANY.apply_to(round)))
        return _digest([key, sorted(self.leakage.units[round.dataset].items())])


def _digest(values: object) -> str:
    """SHA-256 of values, by their JSON."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
