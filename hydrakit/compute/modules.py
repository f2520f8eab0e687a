"""Operations on any torch module: freezing, dropout, counting parameters, trying it out."""

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


NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def output_of(module: nn.Module, inputs: Tensor) -> Tensor:
    """Output of a module in evaluation mode, without gradients, on the CPU.

    The module itself is left as it is: its mode, its batch-norm statistics, its device.
    """
    with torch.no_grad():
        output: Tensor = copy.deepcopy(module).cpu().eval()(inputs)
    return output


class _StayInEvaluation:
    """Takes the place of the method ``train`` of a frozen module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def freeze(module: nn.Module, frozen: bool = True) -> None:
    """Freeze a module wholly: parameters, batch-norm statistics and dropout; or free it again.

    A frozen module gives the same output for the same input, also after ``train()`` on a module
    that holds it. Any module can be frozen: its own ``train`` is set aside for as long.
    """
    vars(module).pop("train", None)
    module.requires_grad_(not frozen)
    module.train(not frozen)
    if frozen:
        vars(module)["train"] = _StayInEvaluation(module)


def is_frozen(module: nn.Module) -> bool:
    """Whether `freeze` froze a module."""
    return isinstance(vars(module).get("train"), _StayInEvaluation)


def free_normalisation(module: nn.Module) -> None:
    """Let the parameters of all normalisation layers in a module be trained, and no others."""
    module.requires_grad_(False)
    for layer in module.modules():
        if isinstance(layer, NORMALISATIONS):
            layer.requires_grad_(True)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer in a module."""
    for layer in module.modules():
        if isinstance(layer, _DROPOUT):
            layer.p = probability


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones too; batch-norm statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())
