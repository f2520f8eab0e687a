"""Trying settings of one round by cross-validation within the round's training split."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.compute.devices import Compute
from hydrakit.data.load import LoadedDataset, load
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.quality.split import split_cases, unit_numbers
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.body import BodyModule
from hydrakit.plan.model import Fold, Split
from hydrakit.plan.results import EpochRecord
from hydrakit.rounds import Round, Train
from hydrakit.schema import Frozen, Name
from hydrakit.search.together import RULES, Trial, TrialOutcome, can_train_together, train_together
from hydrakit.stats.tasks import strata, strata_names, to_tensor
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.loop import DivergedError, train_round
from hydrakit.training.seeds import Seeds

if TYPE_CHECKING:
    from torch import Tensor, nn


class Setting(Frozen):
    """What is tried.

    Attributes:
        learning_rate: Of Adam.
        dropout: Probability.
    """

    learning_rate: float
    dropout: float

    def of(self, round: Round) -> Round:
        """A round with this setting."""
        changed = round.hyperparameters.model_copy(update=self.model_dump())
        return round.model_copy(update={"hyperparameters": changed})


class TrialRecord(Frozen):
    """A setting that was tried on one fold: a line of ``NAME.tuning.jsonl``.

    Attributes:
        digest: SHA-256 of everything that decides the figures.
        round: Number, from 1.
        dataset: Whose training split is cross-validated.
        train: What the round trains.
        learning_rate: That was tried.
        dropout: That was tried.
        fold: Which was validated on, from 0.
        folds: How many there are.
        score: Validation AUC (of a number, R2) of the epoch that the round's rule selects; None
            where the loss was no longer a finite number.
        loss: Validation loss of that epoch.
        best_epoch: Its number.
        epochs: How many were run.
        seconds: It took; of trials that were trained together, a share of what all took.
    """

    digest: str
    round: int
    dataset: Name
    train: Train
    learning_rate: float
    dropout: float
    fold: int
    folds: int
    score: float | None
    loss: float | None
    best_epoch: int | None
    epochs: int
    seconds: float


@dataclass(frozen=True)
class TrialHistory:
    """How a setting did on one fold; `best` is None where the loss was not finite."""

    best: EpochRecord | None
    epochs: int
    seconds: float


def folds_of(
    data: LoadedDataset,
    prepared: PreparedDataset,
    adapter: DatasetAdapter,
    *,
    units: Mapping[str, str],
    count: int,
    seed: int,
) -> list[LoadedDataset]:
    """The training split of a dataset as folds, each validated on once; patients stay whole.

    Args:
        data: The dataset in its splits.
        prepared: Its patches.
        adapter: The dataset.
        units: By key, what each case must stay together with (`Gate.units`).
        count: How many folds.
        seed: Of the deal.

    Returns:
        For each fold the dataset with the fold as validation split, and all other folds as training
        split. Validation and test split of the dataset itself take no part.

    Raises:
        DataError: A class has too few patients to be in every fold.
    """
    cases = [case for case in prepared.index.cases if data.splits.get(case.key) == "train"]
    labels = [case.label for case in cases if case.label is not None]
    held = strata(labels, adapter.task, adapter.classes)
    names = strata_names(adapter.task, adapter.classes)
    patients, groups = [case.patient for case in cases], [units[case.key] for case in cases]
    _check_enough(held, names, unit_numbers(patients, groups), adapter.name, count)
    found = []
    for index in range(count):
        # Of the other folds, both parts are for training.
        split = Split(train=1, val=1, fold=Fold(index=index, count=count))
        dealt = split_cases(
            held, patients, groups, split=split, seed=seed, names=names, dataset=adapter.name
        )
        splits = {
            case.key: "val" if part == "test" else "train"
            for case, part in zip(cases, dealt, strict=True)
        }
        found.append(
            load(prepared, adapter, splits=splits, patch=data.patch, device=data.train.device)
        )
    return found


def _check_enough(
    held: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    names: Sequence[str],
    units: Sequence[int],
    dataset: str,
    count: int,
) -> None:
    """Refuse more folds than a class has patients: two more would be needed to train on, too."""
    for column, name in enumerate(names):
        have = len({unit for unit, inside in zip(units, held[:, column], strict=True) if inside})
        if have < max(count, 3):
            raise DataError(
                f"{dataset}: its training split has {have} patients with class {name!r}: too few "
                f"for {count} folds: use fewer (`--folds`), or add cases"
            )


@dataclass
class RoundTrials:
    """Trials of one round, all of which begin with the same body and heads.

    Attributes:
        round: What is trained, and how, apart from what is tried.
        body: As the rounds before left it; stays as it is, like the heads.
        head: Of the round.
        folds: As `folds_of` gives them.
        seeds: Of the round.
        compute: How to compute.
        others: Further heads of the round, with their datasets, whole.
    """

    round: Round
    body: BodyModule
    head: nn.Module
    folds: Sequence[LoadedDataset]
    seeds: Seeds
    compute: Compute
    others: Sequence[tuple[nn.Module, LoadedDataset]] = field(default_factory=tuple)

    @property
    def together(self) -> bool:
        """Whether many trials are trained at once."""
        settings = self.round.hyperparameters
        fits = self.round.train == "head" and settings.select in RULES
        return fits and can_train_together(self.head)

    def run(self, jobs: Sequence[tuple[Setting, int]]) -> Iterator[tuple[int, TrialHistory]]:
        """Try settings, each on the fold of a number.

        Yields:
            The place of a job in the list, and how it went; in any order.
        """
        if not self.together:
            for place, (setting, fold) in enumerate(jobs):
                yield place, self._alone(setting, fold)
            return
        # Numbers are standardised by what a fold trains on: one scale for all that learn at once.
        scales = [self.folds[fold].scale for _, fold in jobs]
        for scale in dict.fromkeys(scales):
            places = [place for place, each in enumerate(scales) if each == scale]
            chosen = [jobs[place] for place in places]
            yield from zip(places, self._at_once(chosen), strict=True)

    def _alone(self, setting: Setting, fold: int) -> TrialHistory:
        """A trial as a round of its own."""
        began = time.perf_counter()
        epochs: list[EpochRecord] = []
        best: EpochRecord | None
        try:
            best = train_round(
                setting.of(self.round),
                deepcopy(self.body),
                deepcopy(self.head),
                self.folds[fold],
                seeds=self.seeds,
                compute=self.compute,
                others=[(deepcopy(head), data) for head, data in self.others],
                on_epoch=epochs.append,
            ).best
        except DivergedError:  # which is the trial's result
            best = None
        return TrialHistory(best, len(epochs), time.perf_counter() - began)

    def _at_once(self, jobs: Sequence[tuple[Setting, int]]) -> list[TrialHistory]:
        """Head trials that learn side by side from the features of the frozen body."""
        began = time.perf_counter()
        features, labels, rows = self._features
        trials = [
            Trial(setting.of(self.round).hyperparameters, *rows[fold], self.seeds)
            for setting, fold in jobs
        ]
        data = self.folds[jobs[0][1]]
        outcomes = train_together(
            [self.head] * len(trials), features, labels, trials, task=data.task, scale=data.scale
        )
        share = (time.perf_counter() - began) / len(trials)
        return [_tried(outcome, share) for outcome in outcomes]

    @cached_property
    def _features(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Features and labels of all folds' examples; and each fold's training and other rows.

        A fold has its own views, balanced over its own cases, as a round of its own would have.
        """
        import torch

        body, device = deepcopy(self.body), self.compute.device
        features, labels, rows, end = [], [], [], 0
        for data in self.folds:
            body.use(data.name)
            examples = TrainingExamples(data, self.round.hyperparameters, self.seeds, fixed=True)
            examples.precompute_features(body, device)
            assert examples.features is not None
            features += [examples.features, forward_in_batches(body, data.val.patches)]
            labels += [examples.labels, to_tensor(data.val.labels, data.scale).to(device)]
            middle = end + len(features[-2])
            start, end = end, middle + len(features[-1])
            rows.append((torch.arange(start, middle), torch.arange(middle, end)))
        return torch.cat(features), torch.cat(labels), rows


def _tried(outcome: TrialOutcome, seconds: float) -> TrialHistory:
    best = None if outcome.diverged else outcome.best
    return TrialHistory(best, len(outcome.epochs), seconds)
