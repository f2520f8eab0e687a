"""Dropout that costs little on a CPU: masks from 16-bit pieces of random words.

PyTorch draws one Bernoulli number after another: 37 ms for the largest maps of a batch of 32 (3.8
million numbers, 2 cores), as long as the forward convolutions. Random words cut into four pieces
take 6 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.plan.model import BodySpec

PIECES = 2**16  # probabilities are kept so finely on a CPU


class Dropout(nn.Dropout):
    """Dropout as `torch.nn.Dropout`; its probability is rounded to 1/65536 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Make each number 0 with the layer's probability, and scale the others up."""
        if not self.training or self.p == 0:
            return input
        return input * self.mask(input) * self.scale

    @property
    def scale(self) -> float:
        """What the kept numbers are multiplied by, so that the mean stays."""
        return 1 / (1 - self.p)

    def mask(self, like: Tensor) -> Tensor:
        """Which numbers of a tensor are kept: true or false, in its shape, on its device."""
        if like.device.type == "cpu" and not torch.compiler.is_compiling():
            return keep_mask(random_pieces(like), self.p)
        return torch.rand(like.shape, device=like.device) >= self.p


def random_pieces(like: Tensor) -> Tensor:
    """Random int16 numbers from torch's generator of the CPU, in a tensor's shape and layout."""
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    if not _is_dense(like):
        like = like.contiguous()
    return words.view(torch.int16)[:count].as_strided(like.shape, like.stride())


def keep_mask(pieces: Tensor, probability: float) -> Tensor:
    """Which pieces stand for a number that is kept, where one is dropped with a probability."""
    return pieces >= min(round(probability * PIECES), PIECES - 1) - PIECES // 2


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie without gaps, in whatever order of its axes."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


GROUPS = 8  # of channels in group norm, or fewer where the channels cannot be shared out
NormLayer = nn.BatchNorm2d | nn.GroupNorm


class DatasetNorm(nn.BatchNorm2d):
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


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(channels,)`` that a layer uses in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if isinstance(norm, DatasetNorm):
        return norm.running_mean[norm.active], norm.running_var[norm.active]
    return norm.running_mean, norm.running_var


def build_norm(spec: BodySpec, channels: int) -> NormLayer:
    """A new layer of a body's kind."""
    if spec.norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if spec.norm == "dataset":
        return DatasetNorm(channels, len(spec.datasets))
    return nn.BatchNorm2d(channels)


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
