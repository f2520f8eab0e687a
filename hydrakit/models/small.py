"""The body `small`: a residual network of few weights for small patches."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.models.body import BodyModule, channels_last, use_channels_last
from hydrakit.models.intensity import STATISTICS, first_order
from hydrakit.models.layers import Dropout

Norm = Literal["batch", "group"]

GROUP = 8  # channels that group norm normalises together


class ResidualBlock(nn.Module):
    """Two convolutions of 3x3 pixels, each with normalisation, added to their input; then ReLU.

    If the number of channels changes, a convolution of 1x1 pixels changes that of the input. The
    size of the maps stays the same.
    """

    def __init__(self, inputs: int, outputs: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm1 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm2 = _norm(norm, outputs)
        self.skip = (
            nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Compute the feature maps ``(batch, outputs, height, width)``."""
        new = functional.relu(self.norm1(self.conv1(maps)), inplace=True)
        new = self.norm2(self.conv2(new)) + self.skip(maps)
        return functional.relu(new, inplace=True)


class SmallBody(BodyModule):
    """A residual network whose last maps are pooled by their mean and by their maximum.

    A convolution of 5x5 pixels comes first, then a residual block for each entry of ``channels``;
    2x2 max pooling precedes each of them. (After the convolution it also precedes normalisation,
    which then has a quarter of the values.) Pooling over the whole of the last maps lets images of
    any size pass.

    Attributes:
        intensities: Number of first-order statistics of the images, which are the last features.
    """

    by_dataset = False

    def __init__(
        self,
        *,
        in_channels: int,
        patch: int,
        channels: Sequence[int],
        norm: Norm,
        features: int | None,
        intensities: bool,
    ) -> None:
        super().__init__()
        self.in_channels, self.patch = in_channels, patch
        self.conv = nn.Conv2d(in_channels, channels[0], kernel_size=5, padding=2, bias=False)
        self.norm = _norm(norm, channels[0])
        pairs = pairwise((channels[0], *channels))
        self.blocks = nn.ModuleList(ResidualBlock(*pair, norm) for pair in pairs)
        self.features = features or 2 * channels[-1]
        self.dense = None if features is None else nn.Linear(2 * channels[-1], features)
        self.intensities = len(STATISTICS) * in_channels if intensities else 0
        self.features += self.intensities
        self.dropout = Dropout(0.0)
        use_channels_last(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(batch, in_channels, height, width)`` into ``(batch, features)``."""
        maps = functional.max_pool2d(self.conv(channels_last(images)), 2)
        maps = functional.relu(self.norm(maps), inplace=True)
        for number, block in enumerate(self.blocks):
            maps = block(functional.max_pool2d(maps, 2) if number else maps)
        features: Tensor = torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)
        if self.dense is not None:
            features = functional.relu(self.dense(features))
        features = self.dropout(features)
        if not self.intensities:
            return features
        return torch.cat([features, first_order(images)], dim=1)

    def use(self, dataset: str) -> None:
        """Do nothing: all datasets are treated alike."""


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(1 if channels % GROUP else channels // GROUP, channels)
