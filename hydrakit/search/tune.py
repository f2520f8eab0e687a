"""Tuning learning rate and dropout of every round by cross-validation on training data.

As in the paper, rounds are tuned in order: each one starts from the body of the previous rounds,
trained with the settings chosen for them. Only training splits are cross-validated; the validation
split selects the epoch of a trained round, as in any run. Test splits are never used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from hydrakit.errors import PlanError
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
from hydrakit.search.launched import is_launched
from hydrakit.search.proposals import Proposals, proposals
from hydrakit.search.trials import RoundTrials, Setting, TrialRecord, folds_of
from hydrakit.storage.files import append_line, refuse_link, write_atomic
from hydrakit.storage.records import read_appended, writable
from hydrakit.training.seeds import Seeds

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
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> TuneResult:
    """Choose learning rate and dropout of each round of a plan, and write the tuned plan.

    Next to the plan, ``NAME.tuning.jsonl`` gets a line for every trial, and the folder
    ``NAME.tuning`` the rounds trained with chosen settings. After a stop, the same call resumes
    tuning; a call with more values tries only the new ones.

    Args:
        plan: Plan to tune.
        out: Path of the tuned plan.
        context: Where and how to compute; None for the defaults.
        search: Settings to try; None for the defaults.
        callbacks: Called while rounds are trained with chosen settings, except `completed`, since
            nothing is tested. A `TuneCallback` is also called for each trial and each choice.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is invalid, ``out`` is another file, or all settings diverge.
        PluginError: The plan names a component that no plugin offers.
        DataError: A dataset cannot be used, or is too small for this number of folds.
    """
    context, search = context_of(context, values), search or TuningSearch()
    if is_launched(context):
        raise PlanError(
            "tuning of learning rates and dropouts trains in this process, because the trials of a "
            "round begin with the body of the rounds before: leave out `--jobs` and `--launcher`, "
            "or choose values by whole runs (`--try`)"
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
    trackers = trackers_of(
        context,
        plugins,
        folder=files.trackers(_digest([plan.digest(), asdict(search)])),
        group=files.rundir.path.name,
    )
    followers = Callbacks([*callbacks, *trackers])
    before = files.rundir.environment().get("threads")
    context = with_threads(context, before)
    with context.active() as compute:
        datasets = find_datasets(plan, context, plugins)
        check_components(plan, datasets.adapters, plugins)
        check_start(plan, files.rundir)
        tuning = Tuning(
            plan=plan,
            datasets=prepare_datasets(plan, datasets, followers),
            context=context,
            compute=compute,
            plugins=plugins,
            rundir=files.create(),
            callbacks=followers,
            proposals=settings,
            folds=search.folds,
            files=files,
            followers=[each for each in callbacks if isinstance(each, TuneCallback)],
        )
        with files.rundir.locked(), closing(followers):
            followers.started(plan, files.rundir, str(compute.device))
            tuning.write_environment(before)
            rounds = tuning.tune()
    write_atomic(out, tuning.plan.to_json().encode())
    return TuneResult(tuning.plan, tuple(rounds), out, files.trials_path)


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

    def create(self) -> RunDir:
        """Create the folder.

        Raises:
            PlanError: The folder cannot be created, or the file with all trials is a link.
        """
        refuse_link(self.trials_path)
        with writable(self.out, "name a file in another folder"):
            self.rundir.path.mkdir(parents=True, exist_ok=True)
        return self.rundir

    def read_trials(self) -> dict[str, TrialRecord]:
        """Read all finished trials by digest."""
        if not self.trials_path.is_file():
            return {}
        records = read_appended(self.trials_path, TrialRecord, remedy="delete it to start again")
        return {each.digest: each for each in records}

    def add_trial(self, record: TrialRecord) -> None:
        """Append a finished trial."""
        append_line(self.trials_path, record.model_dump_json())


@dataclass(kw_only=True)
class Tuning(Session):
    """A run that tunes each round before it is trained.

    Attributes:
        proposals: Settings to try.
        folds: Number of cross-validation folds.
        files: Files to write.
        followers: Callbacks for trials and choices.
    """

    proposals: Proposals
    folds: int
    files: TuningFiles
    followers: Sequence[TuneCallback] = ()

    def write_environment(self, threads: int | None) -> None:
        """Write ``environment.json``; ``threads`` is the number of an earlier search."""
        environment = environment_of(self.compute, self.plugins, self.datasets.roots)
        self.rundir.write_json("environment.json", environment)
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
        network, tunings = self.new_network(), []
        last = len(self.plan.rounds)
        for number in range(1, last + 1):
            tuning = self._tune_round(number, network)
            tunings.append(tuning)
            self.plan = network.plan = self._plan_with(number, tuning.round)
            for each in self.followers:
                each.chosen(tuning)
            if number < last:
                self.copy_or_train(number, tuning.round, network)
                network.load_round(number, tuning.round)
        return tunings

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
        missing_keys = list(missing)
        self._report_trials(number, len(keys) - len(missing), len(keys))
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
            self.files.add_trial(record)
            self.known[record.digest] = record
            self._report_trials(number, len(keys) - len(missing) + done, len(keys))
        records = [self.known[key] for key in keys]
        return [
            TriedSetting(setting, tuple(records[index * self.folds : (index + 1) * self.folds]))
            for index, setting in enumerate(settings)
        ]

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
