"""The kinds of normalisation that a body can have after its convolutions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.layers import BatchNorm
from hydrakit.plan import BodySpec

GROUPS = 8  # of channels in group norm, or fewer where the channels cannot be shared out
Norm = BatchNorm | nn.GroupNorm


class DatasetNorm(BatchNorm):
    """Batch norm whose scales and shifts all datasets share, with statistics of each dataset.

    ``running_mean`` and ``running_var`` are ``(datasets, channels)``.

    Source: Chang et al. 2019, Domain-Specific Batch Normalization (statistics alone).

    Attributes:
        active: Number of the dataset whose statistics are used, and changed in training.
    """

    def __init__(self, channels: int, datasets: int) -> None:
        super().__init__(channels)
        self.active = 0
        self.register_buffer("running_mean", torch.zeros(datasets, channels))
        self.register_buffer("running_var", torch.ones(datasets, channels))

    def forward(self, input: Tensor) -> Tensor:
        """Give maps ``(rows, channels, height, width)`` mean 0 and variance 1, then move them."""
        mean, var = statistics(self)
        assert self.momentum is not None
        return functional.batch_norm(
            input, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(channels,)`` that a layer uses in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if isinstance(norm, DatasetNorm):
        return norm.running_mean[norm.active], norm.running_var[norm.active]
    return norm.running_mean, norm.running_var


def norm_of(spec: BodySpec, channels: int) -> Norm:
    """A new layer of a body's kind."""
    if spec.norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if spec.norm == "dataset":
        return DatasetNorm(channels, len(spec.datasets))
    return BatchNorm(channels)


def use(body: nn.Module, dataset: str, datasets: Sequence[str]) -> None:
    """Have a body use, and learn, the statistics of a dataset, where it keeps them apart.

    Raises:
        ValueError: It has none of that dataset.
    """
    layers = [layer for layer in body.modules() if isinstance(layer, DatasetNorm)]
    if layers and dataset not in datasets:
        raise ValueError(
            f"the body's batch norm has statistics of {', '.join(datasets)}, not of {dataset!r}"
        )
    for layer in layers:
        layer.active = list(datasets).index(dataset)
