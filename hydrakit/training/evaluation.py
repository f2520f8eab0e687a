"""How a body and a head do after an epoch: what the best epoch is chosen by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hydrakit.compute.modules import is_frozen
from hydrakit.data.load import CaseSet
from hydrakit.hooks import Task
from hydrakit.models.body import BodyModule
from hydrakit.plan.results import Metrics
from hydrakit.stats import tasks
from hydrakit.stats.tasks import Scale

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Reference:
    """The head whose validation AUC on the target is followed through the later rounds."""

    head: nn.Module
    val: CaseSet


class Evaluator:
    """Validation figures, and the reference head's, of a body and a head as they are now.

    Of a frozen body, what cannot change is computed once: its features of each set of cases, and
    the reference head's figure.
    """

    def __init__(
        self,
        body: BodyModule,
        head: nn.Module,
        val: CaseSet,
        reference: Reference | None,
        loss: str,
    ) -> None:
        self.body = body
        self.head = head
        self.val = val
        self.reference = reference
        self.loss = loss
        self._features: dict[int, Tensor] = {}
        self._reference_score: float | None = None

    def __call__(self) -> tuple[Metrics, float | None]:
        """The figures on the validation split, and the AUC of the reference head."""
        if not is_frozen(self.body):
            self._features, self._reference_score = {}, None
        val = self._figures(self.head, self.val)
        if self.reference is not None and self._reference_score is None:
            figures = self._figures(self.reference.head, self.reference.val)
            self._reference_score = figures.score
        return val, self._reference_score

    def _figures(self, head: nn.Module, cases: CaseSet) -> Metrics:
        """Of a head on some cases; the body looks at a set of cases once."""
        if id(cases) not in self._features:
            self.body.use(cases.dataset)
            self._features[id(cases)] = forward_in_batches(self.body, cases.patches)
        place = next(head.parameters()).device  # one that trains alone is on the CPU
        found = forward_in_batches(head, self._features[id(cases)].to(place))
        return compute_metrics(
            found, cases.labels, task=cases.task, loss=self.loss, scale=cases.scale
        )


def forward_in_batches(module: nn.Module, inputs: Tensor) -> Tensor:
    """What a module gives in evaluation mode, without gradients, in batches."""
    module.eval()
    with torch.no_grad():
        return torch.cat([module(batch) for batch in inputs.split(EVALUATION_BATCH)])


def compute_metrics(
    found: Tensor,
    targets: Tensor | NDArray[np.int64] | NDArray[np.float64],
    *,
    task: Task,
    loss: str,
    scale: Scale | None,
) -> Metrics:
    """Figures of outputs on any device; all are NaN where an output is not finite."""
    values = found.double()
    if not torch.isfinite(values).all():
        return Metrics.model_construct(loss=float("nan"))
    wanted = torch.as_tensor(targets, device=values.device)
    return tasks.metrics_of(values, wanted, task=task, loss=loss, scale=scale)
