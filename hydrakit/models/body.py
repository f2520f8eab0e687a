"""The network: a body that all datasets share, and one head per dataset."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.compute.modules import free_normalisation, freeze, output_of
from hydrakit.models.layers import (
    Dropout,
    NormLayer,
    build_norm,
    statistics,
    use,
)
from hydrakit.plan.model import BodySpec
from hydrakit.rounds import Train


class Block(nn.Module):
    """Two 3x3 convolutions and a 1x1 one, each with batch norm and ELU; dropout; max pooling.

    Nothing is padded: ``(batch, inputs, side, side)`` gives ``(batch, outputs, half, half)`` where
    ``half = (side - 4) // 2``.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float, spec: BodySpec) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3)
        self.norm1 = build_norm(spec, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3)
        self.norm2 = build_norm(spec, outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, kernel_size=1)
        self.norm3 = build_norm(spec, outputs)
        self.dropout = Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Give the block's feature maps.

        ELU, dropout and max pooling come in another order than told above, with the same result:
        ELU rises everywhere and leaves 0 at 0, so it may come last, on a quarter of the numbers.
        """
        maps = functional.elu(_normed(self.conv1, self.norm1, images), inplace=True)
        maps = functional.elu(_normed(self.conv2, self.norm2, maps), inplace=True)
        maps = _normed(self.conv3, self.norm3, maps)
        if not self.training or self.dropout.p == 0:
            return functional.elu(functional.max_pool2d(maps, 2), inplace=True)
        pooled = functional.max_pool2d(maps * self.dropout.mask(maps), 2)
        return functional.elu(pooled, inplace=True) * self.dropout.scale


def _channels_last(images: Tensor) -> Tensor:
    """The same images in channels-last order, with strides that say so for one channel too.

    There both orders are the same bytes and PyTorch would take it for the other one: the first
    block's maps, the largest of all, came in the wrong order, and a step took 1.2 times as long.
    """
    _, channels, height, width = images.shape
    ordered = images.contiguous(memory_format=torch.channels_last)
    strides = (channels * height * width, 1, channels * width, channels)
    return ordered.as_strided(images.shape, strides)


def _normed(conv: nn.Conv2d, norm: NormLayer, images: Tensor) -> Tensor:
    """A convolution and its norm; batch norm in evaluation mode in one, with scaled weights."""
    if norm.training or not isinstance(norm, nn.BatchNorm2d):
        maps: Tensor = norm(conv(images))
        return maps
    mean, variance = statistics(norm)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    weight = conv.weight * scale[:, None, None, None]
    assert conv.bias is not None
    return functional.conv2d(images, weight, (conv.bias - mean) * scale + norm.bias)


class BodyModule(nn.Module):
    """An ``nn.Module`` that is a `hydrakit.hooks.Body`: for type checkers, not for inheriting."""

    features: int
    in_channels: int
    patch: int
    by_dataset: bool

    def use(self, dataset: str) -> None:
        """Prepare for images of a dataset."""
        raise NotImplementedError


class PaperBody(BodyModule):
    """The shared part: blocks of convolutions, then a dense layer (paper, Section II-A).

    Weights begin with PyTorch's defaults, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as the authors' did.

    Attributes:
        spec: Its shape.
    """

    def __init__(self, spec: BodySpec, *, in_channels: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.spec = spec
        self.features, self.patch = spec.features, spec.patch
        self.in_channels = in_channels
        self.by_dataset = spec.norm == "dataset"
        inputs = (in_channels, *spec.channels)
        self.blocks = nn.Sequential(
            *(Block(inputs[i], outputs, dropout, spec) for i, outputs in enumerate(spec.channels))
        )
        self.dense = nn.Linear(spec.channels[-1] * spec.flat_side() ** 2, spec.features)
        self.dropout = Dropout(dropout)
        use_channels_last(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(batch, channels, height, width)`` into ``(batch, features)``.

        Raises:
            ValueError: The images have other channels, or another size, than the body takes.
        """
        patch = self.patch
        if images.ndim != 4 or images.shape[1:] != (self.in_channels, patch, patch):
            raise ValueError(
                f"the body takes images of shape (batch, {self.in_channels}, {patch}, {patch}), "
                f"got {tuple(images.shape)}"
            )
        maps = self.blocks(_channels_last(images))
        features: Tensor = self.dropout(functional.elu(self.dense(maps.flatten(start_dim=1))))
        return features

    def use(self, dataset: str) -> None:
        """Normalise by the statistics of a dataset, where they are kept apart (`BodySpec.norm`).

        Raises:
            ValueError: The body has none of that dataset.
        """
        use(self, dataset, self.spec.datasets)


def use_channels_last(body: PaperBody) -> None:
    """Order the weights of convolutions in memory as those of channels-last images are.

    The numbers stay the same; training on a CPU is 1.2 times faster with both.
    """
    for parameter in body.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class BodyWithHead(nn.Module):
    """A body with a head on it: images ``(batch, channels, height, width)`` to logits."""

    def __init__(self, body: BodyModule, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits ``(batch, classes)``."""
        logits: Tensor = self.head(self.body(images))
        return logits


def attach_head(body: BodyModule, head: nn.Module) -> BodyWithHead:
    """Put a head on a body, once it is known to take the body's features.

    Both are used as they are, not copied: training the joined module trains them.

    Raises:
        ValueError: The head does not turn ``(batch, features)`` into ``(batch, classes)``.
    """
    features = body.features
    try:
        shape = tuple(output_of(head, torch.zeros(2, features)).shape)
    except RuntimeError as error:
        raise ValueError(f"the head does not take the body's {features} features") from error
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"a head gives logits of shape (2, classes) for a batch of 2, got {shape}")
    return BodyWithHead(body, head)


def set_trainable(body: nn.Module, train: Train) -> None:
    """Free or freeze a body for a round; see `hydrakit.rounds.Round`.

    In a round that trains ``norm`` the statistics of batch norm move on, as dropout does.
    """
    freeze(body, train in ("head", "none"))
    if train == "norm":
        free_normalisation(body)
