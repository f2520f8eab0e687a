"""What works on any torch module: setting dropout, counting parameters, trying a head."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

StateDict = dict[str, Tensor]

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def logits_of(head: nn.Module, features: Tensor) -> Tensor:
    """Give the logits ``(batch, classes)`` for ``(batch, features)``, without dropout, on the CPU.

    The head itself is left as it is: its mode, its batch-norm statistics, its device.
    """
    with torch.no_grad():
        logits: Tensor = copy.deepcopy(head).cpu().eval()(features)
    return logits


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer in a module."""
    for layer in module.modules():
        if isinstance(layer, _DROPOUT):
            layer.p = probability


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones too; batch-norm statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())
