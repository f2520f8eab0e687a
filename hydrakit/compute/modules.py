"""Operations on any torch module: freezing, dropout, counting parameters, a trial forward pass."""

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

    A copy of the module is used: mode, batch-norm statistics and device of the module do not
    change.
    """
    with torch.no_grad():
        output: Tensor = copy.deepcopy(module).cpu().eval()(inputs)
    return output


def only_layer(module: nn.Module) -> nn.Linear | None:
    """The layer of a module that computes what its single linear layer computes; else None.

    Dropout beside the layer does not matter: in evaluation mode it changes nothing.
    """
    layers = [each for each in module.modules() if isinstance(each, nn.Linear)]
    if len(layers) != 1 or layers[0].bias is None:
        return None
    (layer,) = layers
    if {id(each) for each in module.parameters()} != {id(each) for each in layer.parameters()}:
        return None
    inputs = torch.linspace(-3, 3, 4 * layer.in_features).reshape(4, -1)
    return layer if torch.equal(output_of(module, inputs), output_of(layer, inputs)) else None


class _StayInEvaluation:
    """Replaces the method ``train`` of a frozen module."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return self.module


def freeze(module: nn.Module, frozen: bool = True) -> None:
    """Freeze parameters, batch-norm statistics and dropout of a module, or unfreeze them.

    A frozen module gives the same output for the same input, even after ``train()`` on a module
    that contains it. For this, its method ``train`` is replaced while it is frozen. Parameters that
    required no gradient at the first call stay so.
    """
    vars(module).pop("train", None)
    fixed = vars(module).setdefault(
        "_fixed", {name for name, each in module.named_parameters() if not each.requires_grad}
    )
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(not frozen and name not in fixed)
    module.train(not frozen)
    if frozen:
        vars(module)["train"] = _StayInEvaluation(module)


def is_frozen(module: nn.Module) -> bool:
    """Whether a module is frozen by `freeze`."""
    return isinstance(vars(module).get("train"), _StayInEvaluation)


def fix_all_but_normalisation(module: nn.Module) -> None:
    """Fix the parameters of all layers but normalisation layers, which stay as they are."""
    layers = [layer for layer in module.modules() if isinstance(layer, NORMALISATIONS)]
    kept = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)


def is_dropout(layer: nn.Module) -> bool:
    """Whether `set_dropout` sets the probability of a layer."""
    return isinstance(layer, _DROPOUT)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer in a module."""
    for layer in module.modules():
        if isinstance(layer, _DROPOUT):
            layer.p = probability


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, including frozen ones and without batch-norm statistics."""
    return sum(parameter.numel() for parameter in module.parameters())
