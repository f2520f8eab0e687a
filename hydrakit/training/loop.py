"""Trains one round: prepares its modules, runs its epochs, and ends with the selected weights.

A round that trains all feeds images to body and head. In a head round the body is frozen, so its
features of each image are constant: they are computed once, and the same loop feeds them to the
head alone. A head with a stem for the dataset is the exception: its round trains the stem through
the frozen body, which needs the images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial

import numpy as np
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.compute.devices import Compute, on_device, thread_count
from hydrakit.compute.graphs import without_graphs
from hydrakit.compute.modules import StateDict, is_frozen, set_dropout
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.models.blend import BlendedHead
from hydrakit.models.body import BodyModule, BodyWithHead, set_trainable
from hydrakit.models.layers import Dropout
from hydrakit.models.stem import extractor, head_without_stems, stem_of
from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.rounds import Round
from hydrakit.stats.tasks import from_tensor
from hydrakit.training import exact
from hydrakit.training.batch_norm import refresh_statistics
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.checkpoint import Checkpointer, RoundProgress
from hydrakit.training.diagnostics import first_nonfinite
from hydrakit.training.epochs import EpochRunner, MultiTaskEpoch, SingleTaskEpoch
from hydrakit.training.evaluation import (
    Evaluator,
    Reference,
    compute_metrics,
    forward_in_batches,
    require_finite,
)
from hydrakit.training.seeds import EPOCH, Seeds, seeded
from hydrakit.training.selection import Selection
from hydrakit.training.step import Step


@dataclass(frozen=True)
class TrainingResult:
    """Result of training a round. The trained modules hold the selected weights.

    Attributes:
        epochs: One record for each epoch.
        best: Record of the selected epoch, with the validation metrics of the final weights.
        last_head: Weights of the head after the last epoch.
        penalty: Penalty of a head that was solved exactly; None for any other.
    """

    epochs: list[EpochRecord]
    best: EpochRecord
    last_head: StateDict
    penalty: float | None = None


class DivergedError(PlanError):
    """The loss of an epoch is not finite; a lower learning rate may help.

    Attributes:
        result: Result up to the best epoch so far, which the modules now hold; None if no epoch
            was finished.
    """

    result: TrainingResult | None = None


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
    on_note: Callable[[str], None] = lambda _: None,
    checkpointer: Checkpointer | None = None,
    cache_features: bool = True,
) -> TrainingResult:
    """Train a head, or body and head, and leave both with the weights of the selected epoch.

    Args:
        round: What to train, and how.
        body: Body, trained in place unless the round freezes it.
        head: Head, trained in place.
        data: Dataset of the round.
        seeds: Seeds of the round.
        others: Further heads to train in place, each with its dataset.
        compute: How to compute on the device of the data; None for float32.
        reference: Reference head, evaluated on the target after each epoch (paper, Fig. 4b).
        on_epoch: Called after each epoch.
        on_note: Called with what the user must know about how the round is computed.
        checkpointer: Stores the progress of the round, and training continues from what it has
            stored; None stores nothing on disk.
        cache_features: False puts every image through the frozen body in every epoch of a head
            round, as the authors did: the same result on a CPU, hundreds of times slower.

    Raises:
        DivergedError: The loss is not finite.
        WeightsError: The checkpoint of the round is damaged.
    """
    settings = round.hyperparameters
    compute = compute or Compute(data.train.device)
    examples = TrainingExamples(data, settings, seeds, fixed=round.train == "head")
    prepare_modules(round, body, [head, *(other_head for other_head, _ in others)])
    evaluate = Evaluator(body, head, data.val, reference, settings.loss, graphs=compute.graphs)
    if round.train == "none":
        return _evaluate_untrained(evaluate, data, on_epoch)
    _solve_blends(body, [(head, data), *others], settings.penalty)
    if settings.solver == "exact":
        return _solve(evaluate, data, settings.penalty, on_epoch)

    with ExitStack() as stack:
        runner: EpochRunner
        if others:
            parts = [(head, examples)]
            parts += [
                (other_head, TrainingExamples(other_data, settings, seeds, fixed=False))
                for other_head, other_data in others
            ]
            runner = MultiTaskEpoch(body, parts, round, seeds=seeds, compute=compute)
            if compute.graphs:
                on_note("training steps on several datasets at once do not become a CUDA graph")
        else:
            stem = stem_of(head, round.dataset)
            model: nn.Module = BodyWithHead(body, head, stem)
            if round.train == "head":
                head_input = Dropout(settings.dropout * settings.feature_dropout)
                model = nn.Sequential(head_input, head)
                if cache_features and stem is None:
                    compute = compute.for_cached_features()
                    examples.precompute_features(body, compute.device)
                    stack.enter_context(on_device(head, compute.device))
                    # A head's step is so small that a second thread makes it slower.
                    stack.enter_context(thread_count(1))
                else:
                    model = BodyWithHead(body, model, stem)
            runner = SingleTaskEpoch(Step(model, compute, settings, on_note), examples, head)
        return _run_epochs(
            runner,
            evaluate,
            datasets=[data, *(other_data for _, other_data in others)],
            round=round,
            seeds=seeds,
            on_epoch=on_epoch,
            checkpointer=checkpointer or Checkpointer(),
        )


def prepare_modules(round: Round, body: BodyModule, heads: Sequence[nn.Module]) -> None:
    """Freeze what the round does not train, and set the dataset of the body and the dropout."""
    set_trainable(body, round.train)
    body.use(round.dataset)
    for module in (body, *heads):
        set_dropout(module, round.hyperparameters.dropout)


def _solve_blends(
    body: BodyModule, parts: Sequence[tuple[nn.Module, LoadedDataset]], penalty: float | None
) -> None:
    """Solve the regressions of blended heads, each given with its dataset."""
    for head, data in parts:
        if isinstance(head_without_stems(head), BlendedHead):
            exact.fit_blend(head, body, data, penalty)


def _evaluate_untrained(
    evaluate: Evaluator, data: LoadedDataset, on_epoch: Callable[[EpochRecord], None]
) -> TrainingResult:
    """Evaluate a network without training it: one record, of epoch 0, on unaugmented patches."""
    model = BodyWithHead(evaluate.body, evaluate.head, stem_of(evaluate.head, data.name))
    outputs = forward_in_batches(model, data.train.unaugmented(data.patch))
    targets = from_tensor(data.train_labels, data.scale)
    train = compute_metrics(outputs, targets, task=data.task, loss=evaluate.loss, scale=data.scale)
    val, reference_auc = evaluate()
    for metrics in (train, val):
        require_finite(metrics, "the network", data.name)
    record = EpochRecord(
        epoch=0, learning_rate=0.0, train=train, val=val, reference_auc=reference_auc
    )
    on_epoch(record)
    return TrainingResult([record], record, deepcopy(evaluate.head.state_dict()))


def _solve(
    evaluate: Evaluator,
    data: LoadedDataset,
    penalty: float | None,
    on_epoch: Callable[[EpochRecord], None],
) -> TrainingResult:
    """Solve the head exactly on features of the frozen body: one record, of epoch 1."""
    body, head = evaluate.body, evaluate.head
    features = exact.features_of(data, partial(forward_in_batches, body))
    model = exact.fit(data, features, penalty)
    exact.put_into(head, model)
    outputs = forward_in_batches(head, features.to(data.train.device))
    targets = from_tensor(data.train_labels, data.scale)
    train = compute_metrics(outputs, targets, task=data.task, loss=evaluate.loss, scale=data.scale)
    val, reference_auc = evaluate()
    for metrics in (train, val):
        require_finite(metrics, "the exact solution", data.name)
    record = EpochRecord(
        epoch=1, learning_rate=0.0, train=train, val=val, reference_auc=reference_auc
    )
    on_epoch(record)
    return TrainingResult([record], record, deepcopy(head.state_dict()), model.penalty)


def _run_epochs(
    runner: EpochRunner,
    evaluate: Evaluator,
    *,
    datasets: Sequence[LoadedDataset],
    round: Round,
    seeds: Seeds,
    on_epoch: Callable[[EpochRecord], None],
    checkpointer: Checkpointer,
) -> TrainingResult:
    """Train and evaluate epoch after epoch until the round is over."""
    settings, body = round.hyperparameters, evaluate.body
    parts = list(zip(runner.heads, datasets, strict=True))
    modules = [*([] if is_frozen(body) else [body]), *runner.heads]
    selection = Selection(settings, modules)
    scheduler = ReduceLROnPlateau(runner.optimiser, mode="min", patience=5)
    progress = RoundProgress(modules, runner.optimiser, scheduler, selection)
    checkpointer.begin(progress)
    while not progress.over():
        epoch = len(progress.records) + 1
        train = _train_epoch(runner, evaluate, seeds, epoch)
        if np.isfinite(train.loss):  # a trained stem changes the statistics
            changed = [part for part in parts if stem_of(part[0], part[1].name) is not None]
            _solve_blends(body, changed, settings.penalty)
        val, reference_auc = evaluate()
        numbers = [train.loss, val.loss, 0.0 if reference_auc is None else reference_auc]
        if not np.isfinite(numbers).all():
            checkpointer.roll_back(progress)
            error = _diverged(runner, evaluate, round=round, seeds=seeds, epoch=epoch)
            checkpointer.roll_back(progress)
            if progress.records:
                error.result = _select(progress, evaluate, parts, seeds)
            raise error
        record = EpochRecord(
            epoch=epoch,
            learning_rate=runner.optimiser.param_groups[0]["lr"],
            train=train,
            val=val,
            reference_auc=reference_auc,
            dataset=runner.drawn,
        )
        progress.records.append(record)
        on_epoch(record)
        selection.add(record)
        if settings.schedule == "authors":
            scheduler.step(train.score)
        checkpointer.epoch_finished(progress)
    return _select(progress, evaluate, parts, seeds)


def _train_epoch(runner: EpochRunner, evaluate: Evaluator, seeds: Seeds, epoch: int) -> Metrics:
    """Train one epoch with its own seed, and return its training metrics."""
    evaluate.body.use(evaluate.val.dataset)
    with seeded(seeds.of(EPOCH, epoch, 1), evaluate.val.patches.device):
        return runner.epoch(epoch)


def _select(
    progress: RoundProgress,
    evaluate: Evaluator,
    parts: Sequence[tuple[nn.Module, LoadedDataset]],
    seeds: Seeds,
) -> TrainingResult:
    """Put the selected weights into the modules, and return the result of the round."""
    last_head = deepcopy(evaluate.head.state_dict())
    best, body = progress.selection.finish(evaluate), evaluate.body
    refreshes = progress.selection.settings.refresh_statistics and not is_frozen(body)
    if refreshes and refresh_statistics(body, parts, seeds):
        val, reference_auc = evaluate()
        if not np.isfinite(val.loss):
            raise DivergedError(
                f"{evaluate.val.dataset}: with new batch-norm statistics, the outputs of the "
                "network are not finite: set refresh_statistics to false, or lower the learning "
                "rate"
            )
        best = best.model_copy(update={"val": val, "reference_auc": reference_auc})
    if _finish_blends(body, parts, progress.selection.settings.penalty):
        val, reference_auc = evaluate()
        best = best.model_copy(update={"val": val, "reference_auc": reference_auc})
    return TrainingResult(progress.records, best, last_head)


def _finish_blends(
    body: BodyModule, parts: Sequence[tuple[nn.Module, LoadedDataset]], penalty: float | None
) -> bool:
    """Choose the shares of blended heads for the final weights; return whether any was chosen."""
    chosen = False
    for head, data in parts:
        blended = head_without_stems(head)
        if not isinstance(blended, BlendedHead):
            continue
        if stem_of(head, data.name) is not None:  # training has changed the images of the body
            exact.fit_blend(head, body, data, penalty)
            chosen = True
        if blended.chooses_share:
            features = forward_in_batches(extractor(body, head, data.name), data.val.patches)
            exact.choose_share(blended, features.to(blended.share.device), data.val)
            chosen = True
    return chosen


def _diverged(
    runner: EpochRunner, evaluate: Evaluator, *, round: Round, seeds: Seeds, epoch: int
) -> DivergedError:
    """Error for an epoch with a loss that is not finite.

    The epoch is repeated to find the layer where it happened; the modules must hold the weights
    from before the epoch.
    """
    heads = zip(round.datasets, runner.heads, strict=True)
    modules = [("body", evaluate.body), *((f"head of {name}", head) for name, head in heads)]

    def repeat() -> None:
        _train_epoch(runner, evaluate, seeds, epoch)
        evaluate()

    with without_graphs():  # which would not call the hooks
        where = first_nonfinite(repeat, modules, runner.optimiser)
    return DivergedError(
        f"round {round.dataset} {round.train}: the loss is not finite in epoch {epoch}"
        f"{f' (first: {where})' if where else ''}: lower the learning rate (is "
        f"{round.hyperparameters.learning_rate:g})"
    )
