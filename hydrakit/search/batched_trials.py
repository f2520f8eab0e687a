"""Batched training of many heads, with different settings or folds, on features of a frozen body.

A training step of one head is so small that most of its time is the overhead of PyTorch calls. Here
the weights of all heads are stacked, and one call trains all heads: batched matrix products, and
Adam with a learning rate for each head. Each head learns the same as alone, up to rounding. With 16
heads, a head takes 1/5.5 of the time that it takes alone (batch size 16, one thread; 1/4.7 at batch
size 32), but 1/2.6 at batch size 128, where arithmetic takes most of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import ceil, isfinite

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.compute.devices import Compute, thread_count
from hydrakit.compute.modules import StateDict, set_dropout
from hydrakit.hooks import Task
from hydrakit.models.layers import Dropout
from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.rounds import Hyperparameters
from hydrakit.stats.tasks import Scale, from_tensor, loss_of
from hydrakit.training.batched_heads import DropoutMasks, HeadStack, Noise
from hydrakit.training.evaluation import compute_metrics, forward_in_batches
from hydrakit.training.schedule import set_rate
from hydrakit.training.seeds import EPOCH, Seeds, seeded
from hydrakit.training.selection import is_better
from hydrakit.training.step import EagerAdamW, Step

# Hyperparameters that must be equal in trials that are trained together: the first one decides the
# shape of batches, the others decide the features or the loss.
SHARED = (
    *("batch_size", "epoch_size", "fill_epochs", "augmentation", "transforms", "views"),
    *("loss", "label_smoothing"),
)
RULES = ("best", "authors")
CHUNK = 512  # validation cases in a batch, so that activations fit into the CPU cache


@dataclass(frozen=True)
class Trial:
    """One head to train.

    Attributes:
        hyperparameters: Hyperparameters; those that decide the features (augmentation, views) have
            no effect here.
        train_rows: ``(examples,)`` rows of the features to train on, which may be repeated.
        val_rows: ``(cases,)`` rows of the features to validate on.
        seeds: Seeds of the order of examples and of dropout.
    """

    hyperparameters: Hyperparameters
    train_rows: Tensor
    val_rows: Tensor
    seeds: Seeds

    def __post_init__(self) -> None:
        """Check the rows.

        Raises:
            ValueError: There is no example to train on, or no case to validate on.
        """
        for name, rows in (("train_rows", self.train_rows), ("val_rows", self.val_rows)):
            if rows.ndim != 1 or len(rows) == 0:
                raise ValueError(f"{name} must be one axis of rows, got shape {tuple(rows.shape)}")


@dataclass
class TrialOutcome:
    """Result of a trial.

    Attributes:
        trial: The trial.
        epochs: Records of all epochs.
        best: Record of the best epoch; None if the loss was not finite in the first epoch.
        state: Weights of the head after the best epoch; empty if there is none.
        diverged: Whether training stopped because the loss was not finite.
    """

    trial: Trial
    epochs: list[EpochRecord] = field(default_factory=list)
    best: EpochRecord | None = None
    state: StateDict = field(default_factory=dict)
    diverged: bool = False

    def add(
        self, train: Metrics, val: Metrics, *, rate: float, weights: Callable[[], StateDict]
    ) -> bool:
        """Add an epoch; returns whether to train another one."""
        settings = self.trial.hyperparameters
        if not (isfinite(train.loss) and isfinite(val.loss)):
            self.diverged = True
            return False
        epoch = len(self.epochs) + 1
        record = EpochRecord(
            epoch=epoch, learning_rate=rate, train=train, val=val, reference_auc=None
        )
        self.epochs.append(record)
        if self.best is None or is_better(record, self.best, settings.select):
            self.best, self.state = record, weights()
        if settings.patience is not None and epoch - self.best.epoch >= settings.patience:
            return False
        return epoch < settings.epochs


@dataclass(frozen=True)
class _Data:
    """Features ``(rows, features)`` with their labels, on one device."""

    features: Tensor
    labels: Tensor
    task: Task
    scale: Scale | None

    @cached_property
    def has_unknown(self) -> bool:
        """Whether some answers are unknown, so that heads differ in how many they learn from."""
        return bool(self.labels.isnan().any())

    def metrics(self, outputs: Tensor, rows: Tensor, loss: str) -> Metrics:
        labels = from_tensor(self.labels[rows], self.scale)
        return compute_metrics(outputs, labels, task=self.task, loss=loss, scale=self.scale)

    def order(self, trial: Trial, epoch: int) -> Tensor:
        """Training rows of a trial in the order of an epoch, as in `hydrakit.training.batches`."""
        generator = trial.seeds.generator(EPOCH, epoch, 0)
        order = torch.randperm(len(trial.train_rows), generator=generator)
        return trial.train_rows[order.to(trial.train_rows.device)].to(self.features.device)


def train_alone(
    head: nn.Module,
    features: Tensor,
    labels: Tensor,
    trial: Trial,
    *,
    task: Task,
    scale: Scale | None,
) -> TrialOutcome:
    """Train a copy of any head on cached features, as a head round does.

    Args:
        head: Head to start from, ``(batch, features)`` to ``(batch, outputs)``.
        features: ``(rows, features)`` of training and validation cases.
        labels: ``(rows,)`` or ``(rows, outputs)``, as returned by `hydrakit.stats.tasks.to_tensor`.
        trial: Hyperparameters, rows and seeds.
        task: Task of the dataset.
        scale: Scale of the labels in a regression.

    Raises:
        ValueError: A class has no case to train on or to validate on.
    """
    data, settings = _Data(features, labels, task, scale), trial.hyperparameters
    head = deepcopy(head)
    set_dropout(head, settings.dropout)
    model = nn.Sequential(Dropout(settings.dropout * settings.feature_dropout), head)
    step = Step(model, Compute(features.device), settings)
    scheduler = _scheduler(step.optimiser, settings)
    outcome, more, epoch = TrialOutcome(trial), True, 0
    with thread_count(1):  # a step is too small for several threads
        while more:
            epoch += 1
            train = _train_epoch(step, data, trial, epoch)
            rate = step.optimiser.param_groups[0]["lr"]
            outputs = forward_in_batches(head, features[trial.val_rows])
            val = data.metrics(outputs, trial.val_rows, settings.loss)
            more = outcome.add(train, val, rate=rate, weights=lambda: deepcopy(head.state_dict()))
            if scheduler is not None:
                scheduler.step(train.score)
    return outcome


def _train_epoch(step: Step, data: _Data, trial: Trial, epoch: int) -> Metrics:
    """Train a head on each batch of an epoch; returns the training metrics."""
    settings, rows = trial.hyperparameters, data.order(trial, epoch)
    step.model.train()
    with seeded(trial.seeds.of(EPOCH, epoch, 1), data.features.device):
        batches = rows.split(settings.batch_size)
        outputs = []
        for number, batch in enumerate(batches):
            set_rate(step.optimiser, settings, epoch=epoch, step=number, steps=len(batches))
            outputs.append(step(data.features[batch], data.labels[batch], data.task))
    return data.metrics(torch.cat(outputs), rows, settings.loss)


def can_train_together(head: nn.Module) -> bool:
    """Whether `train_together` can train a head: a plain sequence of Linear, ELU and our Dropout.

    PyTorch's own Dropout draws other random numbers, so the head would not learn the same.
    """
    return (
        type(head) is nn.Sequential
        and all(type(layer) in (nn.Linear, nn.ELU, Dropout) for layer in head)
        and all(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))
        and all(p.requires_grad and p.dtype == torch.float32 for p in head.parameters())
        and all(layer.alpha == 1 for layer in head if isinstance(layer, nn.ELU))
        and any(isinstance(layer, nn.Linear) for layer in head)
        and len(list(head.children())) == len(head)  # no layer is used twice
    )


def train_together(
    heads: Sequence[nn.Module],
    features: Tensor,
    labels: Tensor,
    trials: Sequence[Trial],
    *,
    task: Task,
    scale: Scale | None,
) -> list[TrialOutcome]:
    """Train copies of heads together, with the same results as `train_alone` up to rounding.

    Args:
        heads: Head to start from in each trial; they may be the same object.
        features: ``(rows, features)`` of training and validation cases.
        labels: ``(rows,)`` or ``(rows, outputs)``, as returned by `hydrakit.stats.tasks.to_tensor`.
        trials: One trial for each head.
        task: Task of the dataset.
        scale: Scale of the labels in a regression.

    Raises:
        ValueError: A head cannot be trained together with others or differs in shape from the
            first, a trial differs from the first in a hyperparameter of `SHARED`, or a class has no
            case to train on or to validate on.
    """
    _check(heads, trials)
    # Heads with more batches come first, so that those left at the end of an epoch are the first
    # ones. Heads that draw the same random numbers follow one another.
    order = sorted(range(len(heads)), key=lambda index: _noise(trials[index]).key, reverse=True)
    data = _Data(features, labels, task, scale)
    outcomes = [TrialOutcome(trial) for trial in trials]
    with thread_count(1):
        _BatchedTraining([heads[i] for i in order], [outcomes[i] for i in order], data).train()
    return outcomes


class _LearningRate:
    """The learning rate of one head, changed by its own schedule."""

    def __init__(self, settings: Hyperparameters) -> None:
        # A scheduler needs an optimiser; this one has a dummy parameter.
        self._optimiser = EagerAdamW([torch.zeros(1)], lr=settings.learning_rate)
        self._scheduler = _scheduler(self._optimiser, settings)
        self._settings = settings

    def set(self, epoch: int, step: int, steps: int) -> None:
        """Set the rate of a step, if the schedule changes it within an epoch."""
        if step < steps:  # else the head has no such step
            set_rate(self._optimiser, self._settings, epoch=epoch, step=step, steps=steps)

    @property
    def value(self) -> float:
        return float(self._optimiser.param_groups[0]["lr"])

    def update(self, score: float) -> None:
        if self._scheduler is not None:
            self._scheduler.step(score)


class _BatchedTraining:
    """Training of stacked heads; heads whose training has ended are removed."""

    def __init__(self, heads: list[nn.Module], outcomes: list[TrialOutcome], data: _Data) -> None:
        self.data = data
        self.outcomes = outcomes
        self.rates = [_LearningRate(outcome.trial.hyperparameters) for outcome in outcomes]
        self.settings = outcomes[0].trial.hyperparameters  # for the values of `SHARED`
        self.stack = HeadStack(heads, data.features.device)

    def train(self) -> None:
        """Train all epochs of all heads."""
        epoch = 0
        while self.outcomes:
            epoch += 1
            running = [index for index, more in enumerate(self._epoch(epoch)) if more]
            if len(running) < len(self.outcomes):
                self.stack.keep(running)
                self.outcomes = [self.outcomes[index] for index in running]
                self.rates = [self.rates[index] for index in running]

    def _epoch(self, epoch: int) -> list[bool]:
        """Train one epoch; returns for each head whether to train another one."""
        trained = self._train_epoch(epoch)
        more = []
        for index, (train, val) in enumerate(zip(trained, self._validate(), strict=True)):
            rate, weights = self.rates[index], partial(self.stack.state, index)
            more.append(self.outcomes[index].add(train, val, rate=rate.value, weights=weights))
            rate.update(train.score)
        return more

    def _train_epoch(self, epoch: int) -> list[Metrics]:
        """Train every head on each batch of an epoch; returns the training metrics."""
        data, size = self.data, self.settings.batch_size
        trials = [outcome.trial for outcome in self.outcomes]
        noises = [_noise(trial) for trial in trials]
        masks = DropoutMasks(noises, self.stack, epoch=epoch, batch_size=size)
        decays = self.stack.column([trial.hyperparameters.weight_decay for trial in trials])
        rows = [data.order(trial, epoch) for trial in trials]
        counts, outputs = [len(own) for own in rows], []
        steps = [ceil(count / size) for count in counts]
        varying = any(trial.hyperparameters.schedule == "cosine" for trial in trials)
        rates = self.stack.column([rate.value for rate in self.rates])
        # One buffer for all batches: allocating memory would take longer than filling it.
        buffer = data.features.new_empty(len(rows) * min(size, counts[0]), data.features.shape[1])
        for number, batch in enumerate(pad_sequence(rows, batch_first=True).split(size, dim=1)):
            left = [examples - number * size for examples in counts]
            sizes = [min(each, size) for each in left if each > 0]
            batch_rows = batch[: len(sizes)].flatten()
            out = buffer[: batch_rows.numel()]
            inputs = torch.index_select(data.features, 0, batch_rows, out=out)
            inputs = inputs.view(len(sizes), batch.shape[1], -1)
            weights = self.stack.first(len(sizes))
            output = self.stack.forward(inputs, weights, masks.of(number, sizes))
            targets = data.labels[batch_rows].unflatten(0, output.shape[:2])
            gradients = torch.autograd.grad(self._loss(output, targets, sizes), weights)
            if varying:
                for rate, own_steps in zip(self.rates, steps, strict=True):
                    rate.set(epoch, number, own_steps)
                rates = self.stack.column([rate.value for rate in self.rates])
            self.stack.step(gradients, rates, decays)
            padding = (0, 0, 0, 0, 0, len(rows) - len(sizes))
            outputs.append(functional.pad(output.detach(), padding))
        joined, loss = torch.cat(outputs, dim=1), self.settings.loss
        return [data.metrics(joined[i, : len(own)], own, loss) for i, own in enumerate(rows)]

    def _loss(self, output: Tensor, targets: Tensor, sizes: list[int]) -> Tensor:
        """The sum of the mean losses of all heads, each over its own examples."""
        settings = self.settings
        loss = partial(
            loss_of,
            task=self.data.task,
            loss=settings.loss,
            smoothing=settings.label_smoothing,
        )
        if min(sizes) == output.shape[1] and not self.data.has_unknown:
            return loss(output.flatten(0, 1), targets.flatten(0, 1)) * len(sizes)
        return torch.stack(
            [loss(output[i, :size], targets[i, :size]) for i, size in enumerate(sizes)]
        ).sum()

    def _validate(self) -> list[Metrics]:
        """Validation metrics of every head; heads of one fold are evaluated together."""
        folds: dict[bytes, list[int]] = {}
        for index, outcome in enumerate(self.outcomes):
            folds.setdefault(outcome.trial.val_rows.cpu().numpy().tobytes(), []).append(index)
        metrics: dict[int, Metrics] = {}
        for members in folds.values():
            rows = self.outcomes[members[0]].trial.val_rows.to(self.data.features.device)
            weights = [weight[members] for weight in self.stack.weights]
            outputs = []
            for part in rows.split(CHUNK):
                inputs = self.data.features[part].expand(len(members), -1, -1)
                outputs.append(self.stack.forward(inputs, weights))
            for index, output in zip(members, torch.cat(outputs, dim=1), strict=True):
                metrics[index] = self.data.metrics(output, rows, self.settings.loss)
        return [metrics[index] for index in range(len(self.outcomes))]


def _noise(trial: Trial) -> Noise:
    """Random numbers for dropout in a trial: first of the features, then of the head."""
    settings = trial.hyperparameters
    of_features = settings.dropout * settings.feature_dropout
    return Noise(trial.seeds, len(trial.train_rows), of_features, settings.dropout)


def _scheduler(optimiser: Optimizer, settings: Hyperparameters) -> ReduceLROnPlateau | None:
    if settings.schedule != "authors":
        return None
    return ReduceLROnPlateau(optimiser, mode="min", patience=5)


def _check(heads: Sequence[nn.Module], trials: Sequence[Trial]) -> None:
    """Refuse heads and trials that cannot be trained together."""
    if len(heads) != len(trials) or not heads:
        raise ValueError(f"each trial needs a head: got {len(heads)} and {len(trials)}")
    for number, head in enumerate(heads):
        if not can_train_together(head):
            raise ValueError(
                f"head {number} cannot be trained together with others: use train_alone"
            )
        if _shape(head) != _shape(heads[0]):
            raise ValueError(f"head {number} has other layers than head 0: train it alone")
    first = trials[0].hyperparameters
    for number, trial in enumerate(trials):
        if trial.hyperparameters.select not in RULES:
            raise ValueError(
                f"trial {number} selects {trial.hyperparameters.select!r}: train it alone"
            )
        for name in SHARED:
            expected, value = getattr(first, name), getattr(trial.hyperparameters, name)
            if value != expected:
                raise ValueError(f"trial {number} has {name} {value}, trial 0 has {expected}")


def _shape(head: nn.Module) -> list[tuple[str, str, torch.Size | None]]:
    return [
        (name, type(layer).__name__, layer.weight.shape if isinstance(layer, nn.Linear) else None)
        for name, layer in head.named_children()
    ]
