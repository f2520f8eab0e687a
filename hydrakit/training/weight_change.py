"""How much training changed a body's weights, by kind of weight."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hydrakit.compute.modules import NORMALISATIONS
from hydrakit.models.body import BodyModule
from hydrakit.plan.results import WeightChange

STATISTICS = ("running_mean", "running_var")


def weight_change(before: Mapping[str, Tensor], body: BodyModule) -> WeightChange:
    """Relative change of a body's weights: ``|after - before| / |before|`` for each kind.

    Args:
        before: ``state_dict`` of the body before training.
        body: Body after training.
    """
    kinds: dict[str, list[str]] = {"convolutions": [], "dense": [], "scales": [], "statistics": []}
    for path, module in body.named_modules():
        for name, _ in module.named_parameters(recurse=False):
            if isinstance(module, nn.modules.conv._ConvNd):
                kind = "convolutions"
            elif isinstance(module, NORMALISATIONS):
                kind = "scales"
            else:
                kind = "dense"
            kinds[kind].append(_path(path, name))
        kinds["statistics"] += [
            _path(path, name)
            for name, _ in module.named_buffers(recurse=False)
            if name in STATISTICS
        ]
    after = body.state_dict()
    shares = {
        kind: _share([before[name] for name in names], [after[name] for name in names])
        for kind, names in kinds.items()
    }
    if not kinds["statistics"]:
        return WeightChange(**shares | {"statistics": None})
    return WeightChange(**shares)


def _path(module: str, name: str) -> str:
    """The name of a tensor in the body's ``state_dict``."""
    return f"{module}.{name}" if module else name


def _share(before: list[Tensor], after: list[Tensor]) -> float:
    """Norm of the change, divided by the norm before; 0 if nothing changed."""
    if not before:
        return 0.0
    old, new = (
        torch.cat([each.flatten().cpu().double() for each in side]) for side in (before, after)
    )
    change = float(torch.linalg.vector_norm(new - old))
    length = float(torch.linalg.vector_norm(old))
    return change / length if length > 0 else float(change > 0)
