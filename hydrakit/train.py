"""Training one round: one loop, read from top to bottom.

In a round that trains all, the loop feeds images to body and head. In a head round the body is
frozen, so what it makes of each image is a constant: it is computed once, and the same loop feeds
these features to the head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit import tasks
from hydrakit.data.load import Cases, Loaded
from hydrakit.data.views import Views, balanced, plain
from hydrakit.errors import PlanError
from hydrakit.hooks import Task
from hydrakit.models import Body, Joined, freeze, set_dropout
from hydrakit.plan import Hyperparameters, Round
from hydrakit.results import EpochRecord, Figures
from hydrakit.tasks import Scale, loss_of, targets_of_tensor

EVALUATION_BATCH = 64

State = dict[str, Tensor]


@dataclass(frozen=True)
class Seeds:
    """Seeds of one round, all derived from the plan's seed and the round's number.

    A round that is run alone, after a stop, so draws the same numbers as in one go.
    """

    plan: int
    round: int

    def of(self, *key: int) -> int:
        """The seed for one purpose."""
        sequence = np.random.SeedSequence(self.plan, spawn_key=(self.round, *key))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def generator(self, *key: int) -> torch.Generator:
        """A generator of the CPU for one purpose."""
        return torch.Generator().manual_seed(self.of(*key))


# Purposes, the first part of a seed's key.
INITIALISATION, VIEWS, EPOCH = range(3)


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout and initialisation use them), and put them back.

    Those of the CPU and of the device alone: `torch.manual_seed` would seed every other GPU too.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield


class Examples:
    """What a round trains on: inputs with labels, in batches, in a new order every epoch.

    Attributes:
        labels: Class of each example of the epoch last begun, on the device.
    """

    def __init__(
        self, data: Loaded, settings: Hyperparameters, seeds: Seeds, *, fixed: bool
    ) -> None:
        self.data = data
        self.settings = settings
        self.seeds = seeds
        self.device = data.train.device
        self.fixed: Tensor | None = None
        self.labels = torch.empty(0)
        if fixed or settings.augmentation != "fresh":
            count = 1 if settings.augmentation == "none" else settings.views
            self._draw(count, seeds.generator(VIEWS))
            every = torch.arange(len(self.rows)).split(EVALUATION_BATCH)
            self.fixed = torch.cat([self._images(rows) for rows in every])

    def _draw(self, views: int, generator: torch.Generator) -> None:
        """Choose which patches come, and a view of each."""
        self.rows = balanced(self.data.train_labels, views, generator)
        self.views = Views.draw(len(self.rows), generator)
        self.labels = self.data.train_labels[self.rows].to(self.device)

    def _images(self, chosen: Tensor) -> Tensor:
        canvas = self.data.train[self.rows[chosen].to(self.device)]
        if self.settings.augmentation == "none":
            return plain(canvas, self.data.patch)
        return self.views[chosen].of(canvas, self.data.patch)

    def through(self, body: nn.Module) -> None:
        """Put the fixed images through a frozen body, once: from here on, examples are features."""
        assert self.fixed is not None
        self.fixed = outputs(body, self.fixed)

    def batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and labels of an epoch, batch by batch."""
        generator = self.seeds.generator(EPOCH, epoch, 0)
        if self.fixed is None:
            self._draw(1, generator)
        order = torch.randperm(len(self.rows), generator=generator)
        for chosen in order.split(self.settings.batch_size):
            on_device = chosen.to(self.device)
            inputs = self._images(chosen) if self.fixed is None else self.fixed[on_device]
            yield inputs, self.labels[on_device]


@dataclass(frozen=True)
class Reference:
    """The head whose validation AUC on the target is followed through the later rounds."""

    head: nn.Module
    val: Cases


@dataclass(frozen=True)
class Trained:
    """A finished round. The modules it was given hold the weights of the best epoch.

    Attributes:
        epochs: One record for each epoch that was run.
        best: That of the best epoch.
        last_head: Weights of the head after the last epoch.
    """

    epochs: list[EpochRecord]
    best: EpochRecord
    last_head: State


def train_round(
    round: Round,
    body: Body,
    head: nn.Module,
    data: Loaded,
    *,
    seeds: Seeds,
    reference: Reference | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    cache_features: bool = True,
) -> Trained:
    """Train a head, or body and head, and leave both with the weights of the best epoch.

    Args:
        round: What to train, and how.
        body: Trained in place, unless the round trains the head alone.
        head: Trained in place.
        data: The round's dataset.
        seeds: Of the round.
        reference: For the figures of the paper's Fig. 4b.
        on_epoch: Called after each epoch.
        cache_features: False puts every image through the frozen body in every epoch of a head
            round, as the authors did: the same result, hundreds of times slower.

    Raises:
        PlanError: The loss is no longer a finite number.
    """
    settings = round.hyperparameters
    freeze(body, round.train == "head")
    set_dropout(body, settings.dropout)
    set_dropout(head, settings.dropout)
    examples = Examples(data, settings, seeds, fixed=round.train == "head")
    evaluate = Evaluation(body, head, data.val, reference, settings.loss)
    if round.train == "all":
        model: nn.Module = Joined(body, head)
    else:
        evaluate.keep_features()
        model = nn.Sequential(nn.Dropout(settings.dropout * settings.feature_dropout), head)
        if cache_features:
            examples.through(body)
        else:
            model = Joined(body, model)

    optimiser = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
    )
    scheduler = ReduceLROnPlateau(optimiser, mode="min", patience=5)
    records: list[EpochRecord] = []
    best: EpochRecord | None = None
    kept: tuple[State, State] | None = None
    for epoch in range(1, settings.epochs + 1):
        with seeded(seeds.of(EPOCH, epoch, 1), examples.device):
            train = one_epoch(model, optimiser, examples, epoch, settings.loss)
        val, reference_auc = evaluate()
        record = EpochRecord(
            epoch=epoch,
            learning_rate=optimiser.param_groups[0]["lr"],
            train=_finite(train, round, epoch),
            val=_finite(val, round, epoch),
            reference_auc=reference_auc,
        )
        records.append(record)
        on_epoch(record)
        if best is None or is_better(record, best, settings.select):
            best, kept = record, (deepcopy(body.state_dict()), deepcopy(head.state_dict()))
        if settings.schedule == "authors":
            scheduler.step(train.score)
        if settings.patience is not None and epoch - best.epoch >= settings.patience:
            break

    assert best is not None
    assert kept is not None
    last_head = deepcopy(head.state_dict())
    body.load_state_dict(kept[0])
    head.load_state_dict(kept[1])
    return Trained(records, best, last_head)


def one_epoch(
    model: nn.Module, optimiser: torch.optim.Optimizer, examples: Examples, epoch: int, loss: str
) -> Figures:
    """Update a model once on every batch; its figures are those of the outputs on the way."""
    model.train()
    logits, labels = [], []
    for inputs, target in examples.batches(epoch):
        output = model(inputs)
        optimiser.zero_grad(set_to_none=True)
        loss_of(output, target, task=examples.data.task, loss=loss).backward()
        optimiser.step()
        logits.append(output.detach())
        labels.append(target)
    data = examples.data
    shown = targets_of_tensor(torch.cat(labels), data.scale)
    return figures(torch.cat(logits), shown, task=data.task, loss=loss, scale=data.scale)


class Evaluation:
    """Validation figures, and the reference head's, of a body and a head as they are now."""

    def __init__(
        self,
        body: Body,
        head: nn.Module,
        val: Cases,
        reference: Reference | None,
        loss: str,
    ) -> None:
        self.body = body
        self.head = head
        self.val = val
        self.reference = reference
        self.loss = loss
        self.kept: dict[int, Tensor] | None = None

    def keep_features(self) -> None:
        """The body is frozen: compute its features of each set of cases once."""
        self.kept = {}

    def __call__(self) -> tuple[Figures, float | None]:
        """The figures on the validation split, and the AUC of the reference head."""
        seen: dict[int, Tensor] = {} if self.kept is None else self.kept
        val = self._figures(self.head, self.val, seen)
        if self.reference is None:
            return val, None
        return val, self._figures(self.reference.head, self.reference.val, seen).score

    def _figures(self, head: nn.Module, cases: Cases, seen: dict[int, Tensor]) -> Figures:
        """Of a head on some cases; the body looks at a set of cases once."""
        if id(cases) not in seen:
            seen[id(cases)] = outputs(self.body, cases.patches)
        found = outputs(head, seen[id(cases)])
        return figures(found, cases.labels, task=cases.task, loss=self.loss, scale=cases.scale)


def outputs(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a module gives in evaluation mode, without gradients, in batches."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in inputs.split(EVALUATION_BATCH)])


def figures(
    found: Tensor,
    targets: NDArray[np.int64] | NDArray[np.float64],
    *,
    task: Task,
    loss: str,
    scale: Scale | None,
) -> Figures:
    """Figures of outputs on any device; all are NaN where an output is not finite."""
    values = found.cpu().double()
    if not torch.isfinite(values).all():
        return Figures.model_construct(loss=float("nan"))
    return tasks.figures(values.numpy(), targets, task=task, loss=loss, scale=scale)


def is_better(new: EpochRecord, best: EpochRecord, rule: str) -> bool:
    """Whether an epoch takes the place of the best one so far; see `Hyperparameters.select`."""
    if rule == "authors":
        as_accurate = (new.val.accuracy or 0.0) >= (best.val.accuracy or 0.0)
        return new.val.score >= best.val.score and as_accurate
    return (new.val.score, -new.val.loss) > (best.val.score, -best.val.loss)


def _finite(figures: Figures, round: Round, epoch: int) -> Figures:
    if not np.isfinite(figures.loss):
        raise PlanError(
            f"round {round.dataset} {round.train}: the loss is not finite in epoch {epoch}: "
            f"lower the learning rate (is {round.hyperparameters.learning_rate:g})"
        )
    return figures
