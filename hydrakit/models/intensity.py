"""First-order statistics of images: what a regression on grey values alone uses."""

from __future__ import annotations

import torch
from torch import Tensor

from hydrakit.models.body import BodyModule

STATISTICS = (
    "mean of the central half",
    "standard deviation of the central half",
    "maximum of the central half",
    "5th percentile of the central half",
    "25th percentile of the central half",
    "median of the central half",
    "75th percentile of the central half",
    "95th percentile of the central half",
    "mean of the whole",
    "standard deviation of the whole",
    "mean of the central eighth",
)
"""Names of the numbers of each channel, in order; half and eighth are shares of the side."""

PERCENTILES = (5, 25, 50, 75, 95)


def first_order(images: Tensor) -> Tensor:
    """Compute the `STATISTICS` of images.

    Args:
        images: Images ``(n, channels, height, width)``.

    Returns:
        ``(n, 11 * channels)``, the numbers of each channel side by side.
    """
    half, eighth = (_central(images, parts).flatten(start_dim=2) for parts in (2, 8))
    whole = images.flatten(start_dim=2)
    ordered = half.sort(dim=-1).values
    numbers = [
        half.mean(dim=-1),
        half.std(dim=-1, correction=0),
        ordered[..., -1],
        *(_percentile(ordered, percent) for percent in PERCENTILES),
        whole.mean(dim=-1),
        whole.std(dim=-1, correction=0),
        eighth.mean(dim=-1),
    ]
    return torch.stack(numbers, dim=-1).flatten(start_dim=1)


class IntensityBody(BodyModule):
    """A body without weights, whose features are `first_order` statistics."""

    by_dataset = False

    def __init__(self, *, in_channels: int, patch: int) -> None:
        super().__init__()
        self.in_channels, self.patch = in_channels, patch
        self.features = len(STATISTICS) * in_channels

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(batch, in_channels, patch, patch)`` into ``(batch, features)``."""
        return first_order(images)

    def use(self, dataset: str) -> None:
        """Change nothing: all datasets have the same statistics."""


def _central(images: Tensor, parts: int) -> Tensor:
    """The central region of an n-th of the height and of the width, at least one pixel."""
    for axis in (-2, -1):
        size = images.shape[axis]
        length = max(1, size // parts)
        images = images.narrow(axis, (size - length) // 2, length)
    return images


def _percentile(ordered: Tensor, percent: int) -> Tensor:
    """Percentile of ordered values, with linear interpolation.

    ``torch.quantile`` refuses tensors of more than 16 million values.
    """
    last = int(ordered.shape[-1]) - 1  # a tensor while PyTorch traces the network
    below, rest = divmod(percent * last, 100)
    return torch.lerp(ordered[..., below], ordered[..., min(below + 1, last)], rest / 100)
