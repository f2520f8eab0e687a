"""Many heads trained at once on the features of one frozen body: settings, folds or seeds.

A head's step is so small that most of its time goes into calling torch. Here the weights of the
heads lie side by side, and one call serves them all: batched matrix products, and an Adam with a
rate for each head. Each head learns what it would learn alone, up to rounding. Of 16 heads each
costs 1/5.5 of what it would cost alone (batch 16, one thread; 1/4.7 at batch 32), but 1/2.6 at
batch 128, where the time goes into arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from math import isfinite

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
from hydrakit.training.epochs import Step
from hydrakit.training.evaluation import compute_metrics, forward_in_batches
from hydrakit.training.seeds import EPOCH, Seeds, seeded
from hydrakit.training.selection import is_better

# Trials that are trained together must agree in these: the first gives the batches their shape,
# the others made the features or are one for all.
SHARED = ("batch_size", "epoch_size", "augmentation", "views", "loss")
RULES = ("best", "authors")
CHUNK = 512  # cases that the heads look at together: what they make of them stays in the cache


@dataclass(frozen=True)
class Trial:
    """One head to train.

    Attributes:
        hyperparameters: How. What made the features (augmentation, views) has been done, and which
            head is carried on is for a round to tell.
        train_rows: ``(examples,)`` rows of the features to train on, some perhaps repeated.
        val_rows: ``(cases,)`` rows of the features that choose the best epoch.
        seeds: Of the order of the examples and of dropout.
    """

    hyperparameters: Hyperparameters
    train_rows: Tensor
    val_rows: Tensor
    seeds: Seeds

    def __post_init__(self) -> None:
        """Refuse what cannot be trained.

        Raises:
            ValueError: There is no example, or no case to validate on.
        """
        for name, rows in (("train_rows", self.train_rows), ("val_rows", self.val_rows)):
            if rows.ndim != 1 or len(rows) == 0:
                raise ValueError(f"{name} must be one axis of rows, got shape {tuple(rows.shape)}")


@dataclass
class TrialOutcome:
    """A head that was trained.

    Attributes:
        trial: How.
        epochs: One record for each epoch that was run.
        best: That of the best epoch; None if the loss was not finite in the first epoch.
        state: The head's weights after the best epoch; empty if there is none.
        diverged: Training ended because the loss was no longer a finite number.
    """

    trial: Trial
    epochs: list[EpochRecord] = field(default_factory=list)
    best: EpochRecord | None = None
    state: StateDict = field(default_factory=dict)
    diverged: bool = False

    def add(
        self, train: Metrics, val: Metrics, *, rate: float, weights: Callable[[], StateDict]
    ) -> bool:
        """Take in an epoch, and say whether there is to be another."""
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

    def metrics(self, found: Tensor, rows: Tensor, loss: str) -> Metrics:
        shown = from_tensor(self.labels[rows], self.scale)
        return compute_metrics(found, shown, task=self.task, loss=loss, scale=self.scale)

    def order(self, trial: Trial, epoch: int) -> Tensor:
        """A trial's rows in the order of an epoch, as `hydrakit.training.batches` draws it."""
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
    """Train any head on cached features, as a head round does. The head itself stays as it is.

    Args:
        head: What to begin with: ``(batch, features)`` to ``(batch, outputs)``.
        features: ``(rows, features)``, of training and validation cases.
        labels: ``(rows,)`` or ``(rows, outputs)``, as `hydrakit.stats.tasks.to_tensor` gives them.
        trial: How, and on which rows.
        task: What a label is.
        scale: Of a number.

    Raises:
        ValueError: There is no case of a class to train on, or to validate on.
    """
    data, settings = _Data(features, labels, task, scale), trial.hyperparameters
    head = deepcopy(head)
    set_dropout(head, settings.dropout)
    model = nn.Sequential(Dropout(settings.dropout * settings.feature_dropout), head)
    step = Step(model, Compute(features.device), settings)
    scheduler = _scheduler(step.optimiser, settings)
    outcome, more, epoch = TrialOutcome(trial), True, 0
    with thread_count(1):  # a step is too small to share
        while more:
            epoch += 1
            rate = step.optimiser.param_groups[0]["lr"]
            train = _pass_alone(step, data, trial, epoch)
            found = forward_in_batches(head, features[trial.val_rows])
            val = data.metrics(found, trial.val_rows, settings.loss)
            more = outcome.add(train, val, rate=rate, weights=lambda: deepcopy(head.state_dict()))
            if scheduler is not None:
                scheduler.step(train.score)
    return outcome


def _pass_alone(step: Step, data: _Data, trial: Trial, epoch: int) -> Metrics:
    """Update a head once on each of its batches; the figures on the way."""
    settings, rows = trial.hyperparameters, data.order(trial, epoch)
    step.model.train()
    with seeded(trial.seeds.of(EPOCH, epoch, 1), data.features.device):
        batches = rows.split(settings.batch_size)
        found = [step(data.features[at], data.labels[at], data.task) for at in batches]
    return data.metrics(torch.cat(found), rows, settings.loss)


def can_train_together(head: nn.Module) -> bool:
    """Whether `train_together` takes a head: a plain sequence of Linear, ELU and our Dropout.

    Not torch's own Dropout: it draws other numbers, so the head would not learn the same.
    """
    return (
        type(head) is nn.Sequential
        and all(type(layer) in (nn.Linear, nn.ELU, Dropout) for layer in head)
        and all(layer.bias is not None for layer in head if isinstance(layer, nn.Linear))
        and all(p.requires_grad and p.dtype == torch.float32 for p in head.parameters())
        and all(layer.alpha == 1 for layer in head if isinstance(layer, nn.ELU))
        and any(isinstance(layer, nn.Linear) for layer in head)
        and len(list(head.children())) == len(head)  # no layer comes twice
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
    """Train heads at once, each as `train_alone` would, with the same result up to rounding.

    Args:
        heads: What each trial begins with; they stay as they are, and may be one and the same.
        features: As in `train_alone`.
        labels: As in `train_alone`.
        trials: One for each head.
        task: What a label is.
        scale: Of a number.

    Raises:
        ValueError: A head cannot be trained so, is of another shape than the first, or a trial
            has another batch size, augmentation, number of views or loss than the first; or a
            fold has no case of a class.
    """
    _check(heads, trials)
    # Heads with more batches first: those that are left at an epoch's end are then the first ones.
    # Heads that draw the same numbers come one after another.
    order = sorted(range(len(heads)), key=lambda at: _noise(trials[at]).key, reverse=True)
    data = _Data(features, labels, task, scale)
    outcomes = [TrialOutcome(trial) for trial in trials]
    with thread_count(1):
        _Together([heads[at] for at in order], [outcomes[at] for at in order], data).train()
    return outcomes


class _Rate:
    """The learning rate of one head, under its own schedule."""

    def __init__(self, settings: Hyperparameters) -> None:
        # It optimises nothing: schedulers lower the rate of an optimiser.
        self._holder = torch.optim.SGD([torch.zeros(1)], lr=settings.learning_rate)
        self._scheduler = _scheduler(self._holder, settings)

    @property
    def value(self) -> float:
        return float(self._holder.param_groups[0]["lr"])

    def follow(self, score: float) -> None:
        if self._scheduler is not None:
            self._scheduler.step(score)


class _Together:
    """The training of heads that lie side by side; those that are done are taken out."""

    def __init__(self, heads: list[nn.Module], outcomes: list[TrialOutcome], data: _Data) -> None:
        self.data = data
        self.outcomes = outcomes
        self.rates = [_Rate(outcome.trial.hyperparameters) for outcome in outcomes]
        self.settings = outcomes[0].trial.hyperparameters  # for what all trials share
        self.stack = HeadStack(heads, data.features.device)

    def train(self) -> None:
        """Run all epochs of all heads."""
        epoch = 0
        while self.outcomes:
            epoch += 1
            running = [at for at, more in enumerate(self._epoch(epoch)) if more]
            if len(running) < len(self.outcomes):
                self.stack.keep(running)
                self.outcomes = [self.outcomes[at] for at in running]
                self.rates = [self.rates[at] for at in running]

    def _epoch(self, epoch: int) -> list[bool]:
        """One epoch; whether each head is to have another."""
        trained = self._pass(epoch)
        more = []
        for at, (train, val) in enumerate(zip(trained, self._validated(), strict=True)):
            rate, weights = self.rates[at], partial(self.stack.state, at)
            more.append(self.outcomes[at].add(train, val, rate=rate.value, weights=weights))
            rate.follow(train.score)
        return more

    def _pass(self, epoch: int) -> list[Metrics]:
        """Update every head once on each of its batches; the figures on the way."""
        data, size = self.data, self.settings.batch_size
        trials = [outcome.trial for outcome in self.outcomes]
        noises = [_noise(trial) for trial in trials]
        masks = DropoutMasks(noises, self.stack, epoch=epoch, batch_size=size)
        decays = self.stack.column([trial.hyperparameters.weight_decay for trial in trials])
        columns = self.stack.column([rate.value for rate in self.rates]), decays
        rows = [data.order(trial, epoch) for trial in trials]
        counts, found = [len(own) for own in rows], []
        # Filled anew for each batch: new memory would cost more than what is put into it.
        space = data.features.new_empty(len(rows) * min(size, counts[0]), data.features.shape[1])
        for number, batch in enumerate(pad_sequence(rows, batch_first=True).split(size, dim=1)):
            left = [examples - number * size for examples in counts]
            sizes = [min(each, size) for each in left if each > 0]
            taken = batch[: len(sizes)].flatten()
            inputs = torch.index_select(data.features, 0, taken, out=space[: taken.numel()])
            inputs = inputs.view(len(sizes), batch.shape[1], -1)
            weights = self.stack.first(len(sizes))
            output = self.stack.forward(inputs, weights, masks.of(number, sizes))
            targets = data.labels[taken].unflatten(0, output.shape[:2])
            slopes = torch.autograd.grad(self._loss(output, targets, sizes), weights)
            self.stack.step(slopes, *columns)
            every = functional.pad(output.detach(), (0, 0, 0, 0, 0, len(rows) - len(sizes)))
            found.append(every)
        joined, loss = torch.cat(found, dim=1), self.settings.loss
        return [data.metrics(joined[at, : len(own)], own, loss) for at, own in enumerate(rows)]

    def _loss(self, output: Tensor, targets: Tensor, sizes: list[int]) -> Tensor:
        """The sum over the heads of each one's mean loss over its own examples."""
        loss = partial(loss_of, task=self.data.task, loss=self.settings.loss)
        if min(sizes) == output.shape[1]:
            return loss(output.flatten(0, 1), targets.flatten(0, 1)) * len(sizes)
        return torch.stack(
            [loss(output[at, :size], targets[at, :size]) for at, size in enumerate(sizes)]
        ).sum()

    def _validated(self) -> list[Metrics]:
        """The figures of every head on its validation cases; heads of one fold look together."""
        folds: dict[bytes, list[int]] = {}
        for at, outcome in enumerate(self.outcomes):
            folds.setdefault(outcome.trial.val_rows.cpu().numpy().tobytes(), []).append(at)
        found: dict[int, Metrics] = {}
        for members in folds.values():
            rows = self.outcomes[members[0]].trial.val_rows.to(self.data.features.device)
            chosen = [weight[members] for weight in self.stack.weights]
            looked = []
            for part in rows.split(CHUNK):
                inputs = self.data.features[part].expand(len(members), -1, -1)
                looked.append(self.stack.forward(inputs, chosen))
            for at, output in zip(members, torch.cat(looked, dim=1), strict=True):
                found[at] = self.data.metrics(output, rows, self.settings.loss)
        return [found[at] for at in range(len(self.outcomes))]


def _noise(trial: Trial) -> Noise:
    """What the dropout of a trial's head is drawn from: that of the features, then its own."""
    settings = trial.hyperparameters
    of_features = settings.dropout * settings.feature_dropout
    return Noise(trial.seeds, len(trial.train_rows), of_features, settings.dropout)


def _scheduler(optimiser: Optimizer, settings: Hyperparameters) -> ReduceLROnPlateau | None:
    if settings.schedule == "constant":
        return None
    return ReduceLROnPlateau(optimiser, mode="min", patience=5)


def _check(heads: Sequence[nn.Module], trials: Sequence[Trial]) -> None:
    """Refuse what cannot be trained together."""
    if len(heads) != len(trials) or not heads:
        raise ValueError(f"each trial needs a head: got {len(heads)} and {len(trials)}")
    for number, head in enumerate(heads):
        if not can_train_together(head):
            raise ValueError(f"head {number} cannot be trained with others: use train_alone")
        if _shape(head) != _shape(heads[0]):
            raise ValueError(f"head {number} has other layers than head 0: train it apart")
    first = trials[0].hyperparameters
    for number, trial in enumerate(trials):
        if trial.hyperparameters.select not in RULES:
            raise ValueError(
                f"trial {number} selects {trial.hyperparameters.select!r}: train it alone"
            )
        for name in SHARED:
            wanted, found = getattr(first, name), getattr(trial.hyperparameters, name)
            if wanted != found:
                raise ValueError(f"trial {number} has {name} {found}, trial 0 has {wanted}")


def _shape(head: nn.Module) -> list[tuple[str, str, torch.Size | None]]:
    return [
        (name, type(layer).__name__, layer.weight.shape if isinstance(layer, nn.Linear) else None)
        for name, layer in head.named_children()
    ]
