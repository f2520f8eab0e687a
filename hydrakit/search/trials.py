"""Trials of settings of one round, by cross-validation within its training split."""

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
from hydrakit.search.batched_trials import (
    RULES,
    Trial,
    TrialOutcome,
    can_train_together,
    train_together,
)
from hydrakit.stats.tasks import strata, strata_names, to_tensor
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.loop import DivergedError, train_round
from hydrakit.training.seeds import Seeds

if TYPE_CHECKING:
    from torch import Tensor, nn


class Setting(Frozen):
    """A setting to try.

    Attributes:
        learning_rate: Adam learning rate.
        dropout: Dropout probability.
    """

    learning_rate: float
    dropout: float

    def apply_to(self, round: Round) -> Round:
        """A copy of a round with this setting."""
        changed = round.hyperparameters.model_copy(update=self.model_dump())
        return round.model_copy(update={"hyperparameters": changed})


class TrialRecord(Frozen):
    """Result of a setting on one fold: a line of ``NAME.tuning.jsonl``.

    Attributes:
        digest: SHA-256 of everything that decides the result.
        round: Number of the round, from 1.
        dataset: Dataset with the training split to cross-validate.
        train: Parts of the network that the round trains.
        learning_rate: Adam learning rate.
        dropout: Dropout probability.
        fold: Number of the validation fold, from 0.
        folds: Number of folds.
        score: Validation AUC (R2 in regression) of the selected epoch; None if training diverged.
        loss: Validation loss of the selected epoch.
        best_epoch: Number of the selected epoch.
        epochs: Number of epochs trained.
        seconds: Training time; for trials that were trained together, an equal share.
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
    """Training of a setting on one fold; `best` is None if it diverged."""

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
    """Divide the training split of a dataset into folds, with each patient in one fold.

    Args:
        data: Dataset in its splits.
        prepared: Prepared dataset.
        adapter: Dataset adapter.
        units: Name of what must stay in one fold, by key of the case (`LeakageResult.units`).
        count: Number of folds.
        seed: Seed of the folds.

    Returns:
        For each fold, the dataset with the fold as validation split and all other folds as training
        split. The validation and test splits of the dataset itself are not used.

    Raises:
        DataError: A class has too few patients to be in every fold.
    """
    cases = [case for case in prepared.index.cases if data.splits.get(case.key) == "train"]
    labels = [case.label for case in cases if case.label is not None]
    members = strata(labels, adapter.task, adapter.classes)
    names = strata_names(adapter.task, adapter.classes)
    patients, groups = [case.patient for case in cases], [units[case.key] for case in cases]
    _check_enough(members, names, unit_numbers(patients, groups), adapter.name, count)
    folds = []
    for index in range(count):
        # The training and validation parts of the split are both used for training.
        split = Split(train=1, val=1, fold=Fold(index=index, count=count))
        parts = split_cases(
            members, patients, groups, split=split, seed=seed, names=names, dataset=adapter.name
        )
        splits = {
            case.key: "val" if part == "test" else "train"
            for case, part in zip(cases, parts, strict=True)
        }
        folds.append(
            load(prepared, adapter, splits=splits, patch=data.patch, device=data.train.device)
        )
    return folds


def _check_enough(
    members: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    names: Sequence[str],
    units: Sequence[int],
    dataset: str,
    count: int,
) -> None:
    """Refuse more folds than a class has patients, and classes with less than 3 patients."""
    for column, name in enumerate(names):
        inside = {unit for unit, member in zip(units, members[:, column], strict=True) if member}
        if len(inside) < max(count, 3):
            raise DataError(
                f"{dataset}: its training split has {len(inside)} patients with class {name!r}: "
                f"too few for {count} folds: use fewer (`--folds`), or add cases"
            )


@dataclass
class RoundTrials:
    """Trials of one round, which all start from the same body and heads.

    Attributes:
        round: Round to train; each trial replaces its setting.
        body: Body after the previous rounds; trials train copies of it, as of the heads.
        head: Head of the round.
        folds: Folds of the round's dataset (`folds_of`).
        seeds: Seeds of the round.
        compute: How to compute.
        others: Further heads of the round with their complete datasets.
    """

    round: Round
    body: BodyModule
    head: nn.Module
    folds: Sequence[LoadedDataset]
    seeds: Seeds
    compute: Compute
    others: Sequence[tuple[nn.Module, LoadedDataset]] = field(default_factory=tuple)

    @property
    def can_batch(self) -> bool:
        """Whether many trials can be trained together."""
        settings = self.round.hyperparameters
        trains_head = self.round.train == "head" and settings.solver == "steps"
        possible = trains_head and settings.select in RULES and can_train_together(self.head)
        return possible and self.compute.has_float64

    def run(self, jobs: Sequence[tuple[Setting, int]]) -> Iterator[tuple[int, TrialHistory]]:
        """Run trials, each of a setting on the fold with a number.

        Yields:
            Index of a job in the list, and its result; in any order.
        """
        if not self.can_batch:
            for index, (setting, fold) in enumerate(jobs):
                yield index, self._train(setting, fold)
            return
        # Trials that are trained together must standardise the labels of a regression alike.
        scales = [self.folds[fold].scale for _, fold in jobs]
        for scale in dict.fromkeys(scales):
            indices = [index for index, each in enumerate(scales) if each == scale]
            chosen = [jobs[index] for index in indices]
            yield from zip(indices, self._train_together(chosen), strict=True)

    def _train(self, setting: Setting, fold: int) -> TrialHistory:
        """Run a trial as a round."""
        start = time.perf_counter()
        epochs: list[EpochRecord] = []
        best: EpochRecord | None
        try:
            best = train_round(
                setting.apply_to(self.round),
                deepcopy(self.body),
                deepcopy(self.head),
                self.folds[fold],
                seeds=self.seeds,
                compute=self.compute,
                others=[(deepcopy(head), data) for head, data in self.others],
                on_epoch=epochs.append,
            ).best
        except DivergedError:  # this is a result of the trial
            best = None
        return TrialHistory(best, len(epochs), time.perf_counter() - start)

    def _train_together(self, jobs: Sequence[tuple[Setting, int]]) -> list[TrialHistory]:
        """Train the heads of several trials together on features of the frozen body."""
        start = time.perf_counter()
        features, labels, rows = self._features
        trials = [
            Trial(setting.apply_to(self.round).hyperparameters, *rows[fold], self.seeds)
            for setting, fold in jobs
        ]
        data = self.folds[jobs[0][1]]
        outcomes = train_together(
            [self.head] * len(trials), features, labels, trials, task=data.task, scale=data.scale
        )
        share = (time.perf_counter() - start) / len(trials)
        return [_history(outcome, share) for outcome in outcomes]

    @cached_property
    def _features(self) -> tuple[Tensor, Tensor, list[tuple[Tensor, Tensor]]]:
        """Features and labels of all folds, and the training and validation rows of each fold.

        Each fold has its own augmented views and class balance, as if it were trained as a round.
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
            first, end = end, middle + len(features[-1])
            rows.append((torch.arange(first, middle), torch.arange(middle, end)))
        return torch.cat(features), torch.cat(labels), rows


def _history(outcome: TrialOutcome, seconds: float) -> TrialHistory:
    best = None if outcome.diverged else outcome.best
    return TrialHistory(best, len(outcome.epochs), seconds)
