"""The network that is exported: all networks of a model, up to probabilities, as one module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.data.augment import Views
from hydrakit.plan.decision import Calibration
from hydrakit.runs.evaluate import views_of
from hydrakit.runs.model import LoadedNetwork, Model

Axes = tuple[int, ...]  # axes of a batch of images along which a view mirrors them


class ExportedNetwork(nn.Module):
    """The mean of the networks of a model and of their mirror images, as probabilities or numbers.

    It turns images ``(batch, channels, patch, patch)``, as `Model.preprocess` gives them, into
    calibrated probabilities ``(batch, classes)``, for a regression into numbers ``(batch, 1)`` in
    their unit. Probabilities stay logarithms until the end, so that float32 suffices.

    Args:
        model: The model, of which `mirrored_views` are used.
        calibration: Correction of the probabilities; None for none.
    """

    def __init__(self, model: Model, calibration: Calibration | None) -> None:
        super().__init__()
        self.task = model.task
        self.calibration = calibration
        self.networks = nn.ModuleList(network.module for network in model.networks)
        self.mirrors = [mirrored_views(network) for network in model.networks]
        self.scales = [network.head.scale or (0.0, 1.0) for network in model.networks]
        for number, network in enumerate(model.networks):
            factor, shift = _renormalisation(model.networks[0], network)
            self.register_buffer(f"factor{number}", factor)
            self.register_buffer(f"shift{number}", shift)

    def forward(self, images: Tensor) -> Tensor:
        """Compute probabilities or numbers."""
        parts = []
        for number, network in enumerate(self.networks):
            factor, shift = getattr(self, f"factor{number}"), getattr(self, f"shift{number}")
            seen = images if factor is None else images * factor + shift
            for axes in self.mirrors[number]:
                outputs = network(seen.flip(axes) if axes else seen)
                share = 1 / len(self.mirrors[number]) / len(self.networks)
                parts.append(self._part(outputs, share, *self.scales[number]))
        if self.task != "classification":
            return torch.stack(parts).sum(dim=0)
        logarithms = parts[0] if len(parts) == 1 else torch.stack(parts).logsumexp(dim=0)
        rule = self.calibration
        if rule is None:
            return logarithms.exp()
        if rule.method == "temperature":
            return functional.softmax(rule.slope * logarithms, dim=1)
        odds = rule.slope * (logarithms[:, 1:] - logarithms[:, :1]) + rule.intercept
        return torch.cat([torch.sigmoid(-odds), torch.sigmoid(odds)], dim=1)

    def _part(self, outputs: Tensor, share: float, mean: float, deviation: float) -> Tensor:
        """Share of one network and view in the mean; for classes, its logarithm."""
        if self.task == "classification":
            return functional.log_softmax(outputs, dim=1) + math.log(share)
        if self.task == "multilabel":
            return torch.sigmoid(outputs) * share
        return (outputs * deviation + mean) * share


def mirrored_views(network: LoadedNetwork) -> list[Axes]:
    """The first test-time views of a network, as far as they only mirror the patch.

    Other views need more of the image than the patch, and are not exported.
    """
    axes: list[Axes] = []
    for view in views_of(network.head):
        if view is not None and not _is_mirror(view):
            break
        axes.append(() if view is None else _mirrored_axes(view))
    return axes


def _is_mirror(view: Views) -> bool:
    moved = bool(view.angle.any()) or bool(view.shift.any())
    return not moved and bool((view.scale == 1).all())


def _mirrored_axes(view: Views) -> Axes:
    return tuple(axis + 2 for axis, side in enumerate(view.flip[0].tolist()) if side < 0)


def with_mirrored_views(model: Model) -> Model:
    """The model with the views that are exported, and no other."""
    return replace(model, networks=tuple(map(_with_mirrored_views, model.networks)))


def _with_mirrored_views(network: LoadedNetwork) -> LoadedNetwork:
    views, count = network.head.views, len(mirrored_views(network))
    if views is not None:
        views = None if count == 1 else views.model_copy(update={"count": count})
    return replace(network, head=network.head.model_copy(update={"views": views}))


def left_out_views(model: Model) -> int:
    """Number of views of each image that are not exported."""
    views = model.head.views
    return 0 if views is None else views.count - len(mirrored_views(model.networks[0]))


def _renormalisation(
    first: LoadedNetwork, network: LoadedNetwork
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Factor and shift ``(channels, 1, 1)`` that turn the input of one network into another's.

    Both are None if the inputs are equal: only z-scores over a training split can differ.
    """
    before, after = (each.head.preprocessing.grey_values for each in (first, network))
    if before == after or before.mean is None or after.mean is None:
        return None, None
    assert before.deviation is not None
    assert after.deviation is not None

    def divisors(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([value if value > 0 else 1.0 for value in values])

    divisor = divisors(after.deviation)
    factor = divisors(before.deviation) / divisor
    shift = (np.array(before.mean) - np.array(after.mean)) / divisor
    return (
        torch.from_numpy(factor).float()[:, None, None],
        torch.from_numpy(shift).float()[:, None, None],
    )
