"""Evaluation of a body and a head after each epoch, from which the best epoch is selected."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydrakit.compute.graphs import Replayed, foreign_layer
from hydrakit.compute.modules import is_frozen
from hydrakit.data.load import CaseSet, cases_at_once
from hydrakit.errors import PlanError
from hydrakit.hooks import Task
from hydrakit.models.body import BodyModule
from hydrakit.models.stem import extractor, stem_of
from hydrakit.plan.results import Metrics
from hydrakit.stats import tasks
from hydrakit.stats.tasks import Scale

EVALUATION_BATCH = 64  # of cases; fewer if their patches are larger than the paper's


@dataclass(frozen=True)
class Reference:
    """Head of the first round, evaluated on the target's validation split in all later rounds."""

    head: nn.Module
    val: CaseSet


class Evaluator:
    """Evaluates a body and a head with their current weights.

    For a frozen body, its features and the reference score are computed once and reused; not the
    features behind a stem, which is trained with its head.

    Args:
        body: Body to evaluate.
        head: Head to evaluate.
        val: Validation split.
        reference: Head that is evaluated too; None for none.
        loss: Loss function, as in `Hyperparameters`.
        graphs: Whether the features of a body that is trained are replayed as a CUDA graph.
    """

    def __init__(
        self,
        body: BodyModule,
        head: nn.Module,
        val: CaseSet,
        reference: Reference | None,
        loss: str,
        *,
        graphs: bool = False,
    ) -> None:
        self.body = body
        self.head = head
        self.val = val
        self.reference = reference
        self.loss = loss
        self._graphs: dict[int, Replayed] | None = {} if graphs else None
        self._features: dict[int, Tensor] = {}
        self._reference_score: float | None = None

    def __call__(self) -> tuple[Metrics, float | None]:
        """Validation metrics, and the AUC (of a regression R2) of the reference head."""
        if not is_frozen(self.body):
            self._features, self._reference_score = {}, None
        val = self._metrics(self.head, self.val)
        if self.reference is not None and self._reference_score is None:
            self._reference_score = self._metrics(self.reference.head, self.reference.val).score
        return val, self._reference_score

    def _metrics(self, head: nn.Module, cases: CaseSet) -> Metrics:
        """Metrics of a head on some cases."""
        features = self._features.get(id(cases))
        stem = stem_of(head, cases.dataset)
        if features is None or stem is not None:
            module = extractor(self.body, head, cases.dataset)
            features = self._features_of(module, cases)
        if stem is None:
            self._features[id(cases)] = features
        device = next(head.parameters()).device  # CPU if the head trains on cached features
        outputs = forward_in_batches(head, features.to(device))
        return compute_metrics(
            outputs, cases.labels, task=cases.task, loss=self.loss, scale=cases.scale
        )

    def _features_of(self, module: nn.Module, cases: CaseSet) -> Tensor:
        """Features of some cases: those of a body that is trained are computed after each epoch."""
        if self._graphs is None or is_frozen(self.body) or foreign_layer(module) is not None:
            return forward_in_batches(module, cases.patches)
        if id(cases) not in self._graphs:
            self._graphs[id(cases)] = Replayed(
                lambda: forward_in_batches(module, cases.patches), cases.patches.device, warm_up=1
            )
        return self._graphs[id(cases)]()


def forward_in_batches(module: nn.Module, inputs: Tensor) -> Tensor:
    """Output of a module in evaluation mode, without gradients, computed in batches.

    Args:
        module: Module to evaluate.
        inputs: Images ``(n, channels, height, width)``, or features ``(n, features)``.
    """
    count = EVALUATION_BATCH
    if inputs.ndim == 4:
        count = cases_at_once(count, max(inputs.shape[2:]))
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in inputs.split(count)])


def compute_metrics(
    outputs: Tensor,
    targets: Tensor | NDArray[np.int64] | NDArray[np.float64],
    *,
    task: Task,
    loss: str,
    scale: Scale | None,
) -> Metrics:
    """Metrics of a head's outputs, on any device; loss is NaN if an output is not finite.

    They are computed on the CPU: of a GPU, only the outputs are waited for.
    """
    values = outputs.cpu().double()
    if not torch.isfinite(values).all():
        return Metrics.model_construct(loss=float("nan"))
    expected = torch.as_tensor(targets).cpu()
    return tasks.metrics_of(values, expected, task=task, loss=loss, scale=scale)


def require_finite(metrics: Metrics, network: str, dataset: str) -> None:
    """Refuse a network that was not trained yet, and whose outputs are not finite.

    Raises:
        PlanError: They are not.
    """
    if not math.isfinite(metrics.loss):
        raise PlanError(
            f"{network} gives numbers that are not finite for {dataset!r}, before any training: "
            "correct the code or the options of its body and head"
        )
