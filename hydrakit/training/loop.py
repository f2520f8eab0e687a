"""Training one round: one loop, read from top to bottom.

In a round that trains all, the loop feeds images to body and head. In a head round the body is
frozen, so what it makes of each image is a constant: it is computed once, and the same loop feeds
these features to the head alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.compute.devices import Compute, on_device, thread_count
from hydrakit.compute.modules import StateDict, is_frozen, set_dropout
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.models.body import BodyModule, BodyWithHead, set_trainable
from hydrakit.models.layers import Dropout
from hydrakit.plan.results import EpochRecord
from hydrakit.rounds import Round
from hydrakit.stats.tasks import from_tensor
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.checkpoint import Checkpointer, RoundProgress
from hydrakit.training.diagnostics import first_nonfinite
from hydrakit.training.epochs import EpochRunner, MultiTaskEpoch, SingleTaskEpoch, Step
from hydrakit.training.evaluation import Evaluator, Reference, compute_metrics, forward_in_batches
from hydrakit.training.seeds import EPOCH, Seeds, seeded
from hydrakit.training.selection import Selection


@dataclass(frozen=True)
class TrainingResult:
    """A finished round. The modules it was given hold the weights of the best epoch.

    Attributes:
        epochs: One record for each epoch that was run.
        best: That of the best epoch.
        last_head: Weights of the head after the last epoch.
    """

    epochs: list[EpochRecord]
    best: EpochRecord
    last_head: StateDict


class DivergedError(PlanError):
    """Training gave numbers that are not finite: a lower learning rate may mend it.

    Attributes:
        trained: The round up to its best epoch so far, with whose weights it left the modules; None
            where no epoch was over.
    """

    trained: TrainingResult | None = None


def train_round(
    round: Round,
    body: BodyModule,
    head: nn.Module,
    data: LoadedDataset,
    *,
    seeds: Seeds,
    others: Sequence[tuple[nn.Module, LoadedDataset]] = (),
    compute: Compute | None = None,
    reference: Reference | None = None,
    on_epoch: Callable[[EpochRecord], None] = lambda _: None,
    keeper: Checkpointer | None = None,
    cache_features: bool = True,
) -> TrainingResult:
    """Train a head, or body and head, and leave both with the weights of the best epoch.

    Args:
        round: What to train, and how.
        body: Trained in place, unless the round trains the head alone.
        head: Trained in place.
        data: The round's dataset.
        seeds: Of the round.
        others: Heads that are trained in place too, each on its dataset.
        compute: How to compute on the data's device; None for float32.
        reference: For the figures of the paper's Fig. 4b.
        on_epoch: Called after each epoch.
        keeper: Of the round's progress: training goes on from what it has; None keeps none.
        cache_features: False puts every image through the frozen body in every epoch of a head
            round, as the authors did: the same result on a CPU, hundreds of times slower.

    Raises:
        DivergedError: The loss is no longer a finite number.
        WeightsError: The round's checkpoint is damaged.
    """
    settings = round.hyperparameters
    keeper = keeper or Checkpointer()
    compute = compute or Compute(data.train.device)
    examples = TrainingExamples(data, settings, seeds, fixed=round.train == "head")
    set_trainable(body, round.train)
    body.use(data.name)
    for module in (body, head, *(other for other, _ in others)):
        set_dropout(module, settings.dropout)
    evaluate = Evaluator(body, head, data.val, reference, settings.loss)
    if round.train == "none":
        return _as_it_is(evaluate, data, on_epoch)
    model: nn.Module = BodyWithHead(body, head)
    alone = round.train == "head" and cache_features
    if round.train == "head":
        kept = Dropout(settings.dropout * settings.feature_dropout)
        model = (
            nn.Sequential(kept, head) if alone else BodyWithHead(body, nn.Sequential(kept, head))
        )
    with ExitStack() as stack:
        if alone:
            compute = compute.of_heads()
            examples.precompute_features(body, compute.device)
            stack.enter_context(on_device(head, compute.device))
            # Too small to share: a second thread makes a head's step slower.
            stack.enter_context(thread_count(1))
        if others:
            parts = [(head, examples)]
            parts += [
                (one, TrainingExamples(each, settings, seeds, fixed=False)) for one, each in others
            ]
            course: EpochRunner = MultiTaskEpoch(body, parts, round, seeds=seeds, compute=compute)
        else:
            course = SingleTaskEpoch(Step(model, compute, settings), examples, head)
        return _train(course, evaluate, round=round, seeds=seeds, on_epoch=on_epoch, keeper=keeper)


def _train(
    course: EpochRunner,
    evaluate: Evaluator,
    *,
    round: Round,
    seeds: Seeds,
    on_epoch: Callable[[EpochRecord], None],
    keeper: Checkpointer,
) -> TrainingResult:
    """The epochs of a round."""
    settings, body = round.hyperparameters, evaluate.body
    modules = [*([] if is_frozen(body) else [body]), *course.heads]
    selection = Selection(settings, modules)
    scheduler = ReduceLROnPlateau(course.optimiser, mode="min", patience=5)
    progress = RoundProgress(modules, course.optimiser, scheduler, selection)
    keeper.begin(progress)
    while not progress.over():
        epoch = len(progress.records) + 1
        body.use(evaluate.val.dataset)
        with seeded(seeds.of(EPOCH, epoch, 1), evaluate.val.patches.device):
            train = course.epoch(epoch)
        val, reference_auc = evaluate()
        if not np.isfinite([train.loss, val.loss]).all():
            keeper.back(progress)
            error = _diverged(course, evaluate, round=round, seeds=seeds, epoch=epoch)
            keeper.back(progress)
            if progress.records:
                error.trained = _trained(progress, evaluate)
            raise error
        record = EpochRecord(
            epoch=epoch,
            learning_rate=course.optimiser.param_groups[0]["lr"],
            train=train,
            val=val,
            reference_auc=reference_auc,
            dataset=course.drawn,
        )
        progress.records.append(record)
        on_epoch(record)
        selection.see(record)
        if settings.schedule == "authors":
            scheduler.step(train.score)
        keeper.epoch_over(progress)

    return _trained(progress, evaluate)


def _trained(progress: RoundProgress, evaluate: Evaluator) -> TrainingResult:
    """What a round ends with, after the epochs that it has had."""
    last_head = deepcopy(evaluate.head.state_dict())
    return TrainingResult(progress.records, progress.selection.finish(evaluate), last_head)


def _as_it_is(
    evaluate: Evaluator, data: LoadedDataset, on_epoch: Callable[[EpochRecord], None]
) -> TrainingResult:
    """How a network does that is not trained: its figures on the patches as they are."""
    model = BodyWithHead(evaluate.body, evaluate.head)
    found = forward_in_batches(model, data.train.unaugmented(data.patch))
    targets = from_tensor(data.train_labels, data.scale)
    train = compute_metrics(found, targets, task=data.task, loss=evaluate.loss, scale=data.scale)
    val, reference_auc = evaluate()
    record = EpochRecord(
        epoch=0, learning_rate=0.0, train=train, val=val, reference_auc=reference_auc
    )
    on_epoch(record)
    return TrainingResult([record], record, deepcopy(evaluate.head.state_dict()))


def _diverged(
    course: EpochRunner, evaluate: Evaluator, *, round: Round, seeds: Seeds, epoch: int
) -> DivergedError:
    """What to tell of an epoch whose figures are not finite; the network is as before it."""
    body, device = evaluate.body, evaluate.val.patches.device
    heads = zip(round.datasets, course.heads, strict=True)
    named = [("body", body), *((f"head of {name}", head) for name, head in heads)]

    def again() -> None:
        body.use(evaluate.val.dataset)
        with seeded(seeds.of(EPOCH, epoch, 1), device):
            course.epoch(epoch)
        evaluate()

    where = first_nonfinite(again, named, course.optimiser)
    return DivergedError(
        f"round {round.dataset} {round.train}: the loss is not finite in epoch {epoch}"
        f"{f' (first: {where})' if where else ''}: lower the learning rate (is "
        f"{round.hyperparameters.learning_rate:g})"
    )
