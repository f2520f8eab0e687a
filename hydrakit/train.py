"""Training one round: one loop, read from top to bottom.

In a round that trains all, the loop feeds images to body and head. In a head round the body is
frozen, so what it makes of each image is a constant: it is computed once, and the same loop feeds
these features to the head alone.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.data.load import Loaded
from hydrakit.devices import Compute, threads
from hydrakit.distributed import ALONE, parallel
from hydrakit.errors import PlanError
from hydrakit.examples import Examples
from hydrakit.hooks import Task
from hydrakit.layers import Dropout
from hydrakit.models import Body, Joined, Shared, freeze, set_dropout
from hydrakit.plan import Hyperparameters, Round
from hydrakit.results import EpochRecord, Figures
from hydrakit.seeds import EPOCH, Seeds, seeded
from hydrakit.tasks import from_tensor, loss_of
from hydrakit.validation import Evaluation, Reference, figures

State = dict[str, Tensor]


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
    compute: Compute | None = None,
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
        compute: How to compute on the data's device; None for float32.
        reference: For the figures of the paper's Fig. 4b.
        on_epoch: Called after each epoch.
        cache_features: False puts every image through the frozen body in every epoch of a head
            round, as the authors did: the same result, hundreds of times slower.

    Raises:
        PlanError: The loss is no longer a finite number.
    """
    settings = round.hyperparameters
    compute = compute or Compute(data.train.device)
    team = compute.team if round.train == "all" else ALONE
    examples = Examples(data, settings, seeds, fixed=round.train == "head", team=team)
    freeze(body, round.train == "head")
    set_dropout(body, settings.dropout)
    set_dropout(head, settings.dropout)
    evaluate = Evaluation(body, head, data.val, reference, settings.loss)
    model: nn.Module = Joined(body, head) if team.size == 1 else Shared(body, head, team)
    alone = round.train == "head" and cache_features
    if round.train == "head":
        kept = Dropout(settings.dropout * settings.feature_dropout)
        model = nn.Sequential(kept, head) if alone else Joined(body, nn.Sequential(kept, head))
    if alone:
        examples.through(body)
    # A head's step is too small to share: a second thread on a CPU makes it slower.
    with threads(1) if alone else nullcontext():
        step = Step(model, compute, settings)
        return _train(round, step, examples, evaluate=evaluate, seeds=seeds, on_epoch=on_epoch)


def _train(
    round: Round,
    step: Step,
    examples: Examples,
    *,
    evaluate: Evaluation,
    seeds: Seeds,
    on_epoch: Callable[[EpochRecord], None],
) -> Trained:
    """The epochs of a round."""
    settings, body, head = round.hyperparameters, evaluate.body, evaluate.head
    scheduler = ReduceLROnPlateau(step.optimiser, mode="min", patience=5)
    records: list[EpochRecord] = []
    best: EpochRecord | None = None
    kept: list[tuple[nn.Module, State]] = []
    trained = [head] if body.frozen else [body, head]
    for epoch in range(1, settings.epochs + 1):
        with seeded(seeds.of(EPOCH, epoch, 1), examples.device):
            train = one_epoch(step, examples, epoch)
        val, reference_auc = evaluate()
        record = EpochRecord(
            epoch=epoch,
            learning_rate=step.optimiser.param_groups[0]["lr"],
            train=_finite(train, round, epoch),
            val=_finite(val, round, epoch),
            reference_auc=reference_auc,
        )
        record = examples.team.agreed(record)
        records.append(record)
        on_epoch(record)
        if best is None or is_better(record, best, settings.select):
            best = record
            kept = [(each, deepcopy(each.state_dict())) for each in trained]
        if settings.schedule == "authors":
            scheduler.step(train.score)
        if settings.patience is not None and epoch - best.epoch >= settings.patience:
            break

    assert best is not None
    last_head = deepcopy(head.state_dict())
    for module, weights in kept:
        module.load_state_dict(weights)
    return Trained(records, best, last_head)


class Step:
    """One update of a model on a batch."""

    def __init__(self, model: nn.Module, compute: Compute, settings: Hyperparameters) -> None:
        self.model = model
        self.settings = settings
        self.optimiser = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,  # one call for all parameters: half of a head's step was spent here
        )
        self._compute = compute
        self._shared = isinstance(model, Shared)
        self._forward = parallel(model, compute.device) if self._shared else compute.prepared(model)

    def __call__(self, inputs: Tensor, targets: Tensor, task: Task) -> Tensor:
        """Update on a batch, and give the outputs on the way.

        Args:
            inputs: Of the batch; where processes share it, this one's part.
            targets: Of the whole batch.
            task: What a target is.
        """
        whole = (len(targets),) if self._shared else ()
        with self._compute.training():
            output: Tensor = self._forward(inputs, *whole)
        output = output.float()
        self.optimiser.zero_grad(set_to_none=True)
        loss_of(output, targets, task=task, loss=self.settings.loss).backward()
        self.optimiser.step()
        return output.detach()


def one_epoch(step: Step, examples: Examples, epoch: int) -> Figures:
    """Update a model once on every batch; its figures are those of the outputs on the way."""
    step.model.train()
    data, logits, labels = examples.data, [], []
    for inputs, targets in examples.batches(epoch):
        logits.append(step(inputs, targets, data.task))
        labels.append(targets)
    shown = from_tensor(torch.cat(labels), data.scale)
    found = torch.cat(logits)
    return figures(found, shown, task=data.task, loss=step.settings.loss, scale=data.scale)


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
