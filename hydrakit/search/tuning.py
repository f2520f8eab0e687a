"""A run whose rounds are tuned before they are trained; see `hydrakit.search.tune`."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from hydrakit.errors import PlanError
from hydrakit.plan.model import Plan
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.network import Network
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session
from hydrakit.search.proposals import Proposals
from hydrakit.search.trials import RoundTrials, Setting, TrialRecord, folds_of
from hydrakit.storage.files import read_json, refuse_link, write_atomic
from hydrakit.storage.records import read_lines, readable, writable
from hydrakit.training.seeds import Seeds

ANY = Setting(learning_rate=1.0, dropout=0.0)  # in the place of any setting


@dataclass(frozen=True)
class Candidate:
    """A setting with its trials, one for each fold.

    Attributes:
        setting: What was tried.
        records: By fold.
    """

    setting: Setting
    records: tuple[TrialRecord, ...]

    @property
    def score(self) -> float | None:
        """Mean AUC (of a number, R2) of the folds; None where one could not be trained."""
        scores = [each.score for each in self.records if each.score is not None]
        return mean(scores) if len(scores) == len(self.records) else None

    @property
    def loss(self) -> float:
        """Mean validation loss, of those that could be trained."""
        return mean(each.loss for each in self.records if each.loss is not None)


@dataclass(frozen=True)
class RoundTuning:
    """What was tried for a round, and chosen: the highest mean score; ties: the lower loss.

    Attributes:
        number: Of the round, from 1.
        round: With what was chosen.
        candidates: In the order in which they were proposed; none where nothing is trained.
        chosen: Its place among them; None where there are none.
    """

    number: int
    round: Round
    candidates: tuple[Candidate, ...]
    chosen: int | None

    @property
    def seconds(self) -> float:
        """Of all its trials."""
        return sum(each.seconds for tried in self.candidates for each in tried.records)


class TuneCallback(RunCallback):
    """Called when something happens while a plan is tuned."""

    def trials(self, number: int, done: int, of: int) -> None:
        """A number of a round's trials is finished."""

    def chosen(self, tuning: RoundTuning) -> None:
        """A round's setting is chosen."""


@dataclass(frozen=True)
class Files:
    """The files that tuning writes."""

    out: Path

    @classmethod
    def check(cls, out: Path) -> Files:
        """See that a plan can be written there.

        Raises:
            PlanError: There is something that tuning did not write.
        """
        files = cls(out)
        if out.exists() and not (out.is_file() and files.trials.is_file()):
            raise PlanError(f"{out}: exists already: name another file")
        return files

    @property
    def trials(self) -> Path:
        """Of the file with every trial."""
        return self.out.with_name(f"{self.out.stem}.tuning.jsonl")

    @property
    def kept(self) -> Path:
        """Of the folder of rounds that were trained with a choice, by all that decides them."""
        return self.rundir.path / "kept"

    @property
    def rundir(self) -> RunDir:
        """Of the rounds that are trained on the way."""
        return RunDir(self.out.with_name(f"{self.out.stem}.tuning"))

    def trackers(self, search: str) -> Path:
        """Folder that trackers open.

        A search with further values may choose others, so that its metrics are not those sent
        before.

        Args:
            search: Digest of what is tried.
        """
        return self.rundir.path / f"trackers-{search[:8]}"

    def begin(self) -> RunDir:
        """Make the folder.

        Raises:
            PlanError: It cannot be made, or the file of trials is a link.
        """
        refuse_link(self.trials)
        with writable(self.out, "name a file in another folder"):
            self.rundir.path.mkdir(parents=True, exist_ok=True)
        return self.rundir

    def read(self) -> dict[str, TrialRecord]:
        """The trials that were finished before, by digest; a torn last line is taken out."""
        if not self.trials.is_file():
            return {}
        remedy = "delete it to begin anew"
        with readable(self.trials, remedy):
            text = read_json(self.trials)
        whole = text[: text.rfind(b"\n") + 1]
        if whole != text:  # stopped while it was written
            write_atomic(self.trials, whole)
        records = read_lines(self.trials, TrialRecord, remedy=remedy)
        return {each.digest: each for each in records}

    def add(self, record: TrialRecord) -> None:
        """Write a trial down."""
        with self.trials.open("ab") as file:
            file.write(record.model_dump_json().encode() + b"\n")


@dataclass(kw_only=True)
class Tuning(Session):
    """A run whose rounds are tuned before they are trained."""

    proposals: Proposals
    folds: int
    files: Files
    followers: Sequence[TuneCallback] = ()

    def tune(self) -> list[RoundTuning]:
        """Tune every round, and train all but the last with what was chosen."""
        self.check()
        rounds = self.rundir.path / "rounds"  # perhaps of another choice: the right ones are kept
        if rounds.is_dir():
            shutil.rmtree(rounds)
        self.known = self.files.read()
        network, found = self.new_network(), []
        last = len(self.plan.rounds)
        for number in range(1, last + 1):
            tuned = self._tune_round(number, network)
            found.append(tuned)
            self.plan = network.plan = self._with(number, tuned.round)
            for each in self.followers:
                each.chosen(tuned)
            if number < last:
                self._train_for_real(number, network)
        return found

    def _tune_round(self, number: int, network: Network) -> RoundTuning:
        round = self.plan.rounds[number - 1]
        if round.train == "none":
            return RoundTuning(number, round, (), None)
        candidates: list[Candidate] = []
        trials = self._trials(number, round, network)

        def evaluate(settings: Sequence[Setting]) -> list[float | None]:
            new = self._candidates(number, trials, settings)
            candidates.extend(new)
            return [each.score for each in new]

        self.proposals.try_all(evaluate)
        scored = [
            (each.score, -each.loss, at)
            for at, each in enumerate(candidates)
            if each.score is not None
        ]
        if not scored:
            raise PlanError(
                f"round {number} ({round.dataset}, {round.train}): the loss became infinite with "
                "every setting: try lower learning rates (`--learning-rates`)"
            )
        _, _, chosen = max(scored, key=lambda each: (each[0], each[1], -each[2]))
        return RoundTuning(number, candidates[chosen].setting.of(round), tuple(candidates), chosen)

    def _trials(self, number: int, round: Round, network: Network) -> RoundTrials:
        """What the trials of a round begin with."""
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
    ) -> list[Candidate]:
        """Try what was not tried before."""
        jobs = [(setting, fold) for setting in settings for fold in range(self.folds)]
        round_key = self._key(number, trials.round)
        keys = [_digest([round_key, each.model_dump(), fold, self.folds]) for each, fold in jobs]
        missing = {key: job for key, job in zip(keys, jobs, strict=True) if key not in self.known}
        names = list(missing)
        self._tell_trials(number, len(keys) - len(names), len(keys))
        for done, (place, tried) in enumerate(trials.run(list(missing.values())), start=1):
            setting, fold = missing[names[place]]
            best = tried.best
            record = TrialRecord(
                digest=names[place],
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
                epochs=tried.epochs,
                seconds=tried.seconds,
            )
            self.files.add(record)
            self.known[record.digest] = record
            self._tell_trials(number, len(keys) - len(names) + done, len(keys))
        records = [self.known[key] for key in keys]
        return [
            Candidate(setting, tuple(records[at * self.folds : (at + 1) * self.folds]))
            for at, setting in enumerate(settings)
        ]

    def _tell_trials(self, number: int, done: int, of: int) -> None:
        for each in self.followers:
            each.trials(number, done, of)

    def _train_for_real(self, number: int, network: Network) -> None:
        """Train a round with what was chosen, unless that very round was trained before."""
        round = self.plan.rounds[number - 1]
        self.copy_or_train(number, round, network)
        network.load_round(number, round)

    def _with(self, number: int, round: Round) -> Plan:
        """The plan with another round in the place of one."""
        rounds = list(self.plan.rounds)
        rounds[number - 1] = round
        return self.plan.model_copy(update={"rounds": tuple(rounds)})

    def _key(self, number: int, round: Round) -> str:
        """What decides all trials of a round alike, their settings left out."""
        key = self.round_key(number, self._with(number, ANY.of(round)))
        return _digest([key, sorted(self.leakage.units[round.dataset].items())])


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
