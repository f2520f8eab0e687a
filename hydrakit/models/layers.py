"""Layers of the paper's body: fast dropout, and normalisation.

On a CPU, PyTorch's dropout draws one random number per value: for the largest maps of a batch of 32
(3.8 million values, 2 cores) this takes 37 ms, as long as the convolutions. `Dropout` draws one
64-bit number for four values and takes 6 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.plan.model import BodySpec

PIECES = 2**16  # number of values of a random int16


class Dropout(nn.Dropout):
    """Dropout as in `torch.nn.Dropout`; on a CPU, the probability is rounded to 1/65536."""

    def forward(self, input: Tensor) -> Tensor:
        """Set each value to 0 with probability ``p``, and scale the others to keep the mean."""
        if not self.training or self.p == 0:
            return input
        return input * self.mask(input) * self.scale

    @property
    def scale(self) -> float:
        """Factor of the values that are not set to 0."""
        return 1 / (1 - self.p)

    def mask(self, like: Tensor) -> Tensor:
        """Draw a mask with the shape and device of a tensor: 0 where a value becomes 0, else 1.

        On a CPU it has the type of the tensor. A product with a mask of bool takes 3 times as long,
        because PyTorch converts it, forward and backward.
        """
        compiling = torch.compiler.is_compiling()
        if like.device.type == "cpu" and not compiling:
            return keep_mask(random_pieces(like), self.p).to(like.dtype)
        if like.ndim == 4 and not compiling:  # maps on a GPU: one kernel, in their order in memory
            return torch.empty_like(like, dtype=torch.bool).bernoulli_(1 - self.p)
        return torch.rand(like.shape, device=like.device) >= self.p


def random_pieces(like: Tensor) -> Tensor:
    """Draw int16 values from PyTorch's CPU generator, with the shape and strides of a tensor."""
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    if not _is_dense(like):
        like = like.contiguous()
    return words.view(torch.int16)[:count].as_strided(like.shape, like.stride())


def keep_mask(pieces: Tensor, probability: float) -> Tensor:
    """Turn random int16 values into a mask of float32: 0 with a probability, else 1.

    Comparing the integers, and then converting the result, would take 4 times as long.
    """
    return pieces.float().ge_(min(round(probability * PIECES), PIECES - 1) - PIECES // 2)


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous in one of the two memory formats."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


GROUPS = 8  # most groups of group norm; fewer if they do not divide the number of channels
NormLayer = nn.BatchNorm2d | nn.GroupNorm


class DatasetNorm(nn.BatchNorm2d):
    """Batch norm with statistics for each dataset; all datasets share the scales and shifts.

    ``running_mean`` and ``running_var`` have the shape ``(datasets, channels)``.

    Source: Chang et al. 2019, Domain-Specific Batch Normalization (without separate scales).

    Attributes:
        active: Index of the dataset with the statistics in use; training updates these.
    """

    def __init__(self, channels: int, datasets: int) -> None:
        super().__init__(channels)
        self.active = 0
        self.register_buffer("running_mean", torch.zeros(datasets, channels))
        self.register_buffer("running_var", torch.ones(datasets, channels))

    def forward(self, input: Tensor) -> Tensor:
        """Normalise maps ``(batch, channels, height, width)``, then scale and shift them."""
        mean, var = statistics(self)
        assert self.momentum is not None
        return functional.batch_norm(
            input, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def statistics(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """The mean and variance ``(channels,)`` that a layer uses in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if isinstance(norm, DatasetNorm):
        return norm.running_mean[norm.active], norm.running_var[norm.active]
    return norm.running_mean, norm.running_var


def build_norm(spec: BodySpec, channels: int) -> NormLayer:
    """Build the normalisation layer of a body."""
    if spec.norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if spec.norm == "dataset":
        return DatasetNorm(channels, len(spec.datasets))
    return nn.BatchNorm2d(channels)


def use_statistics(body: nn.Module, dataset: str, datasets: Sequence[str]) -> None:
    """Make all `DatasetNorm` layers of a body use the statistics of a dataset.

    Args:
        body: Body; other normalisation layers stay as they are.
        dataset: Name of the dataset.
        datasets: Names of the datasets with statistics, in order.

    Raises:
        ValueError: The body has no statistics of the dataset.
    """
    layers = [layer for layer in body.modules() if isinstance(layer, DatasetNorm)]
    if layers and dataset not in datasets:
        raise ValueError(
            f"the body has batch norm statistics of {', '.join(datasets)}, not of {dataset!r}"
        )
    for layer in layers:
        layer.active = list(datasets).index(dataset)
