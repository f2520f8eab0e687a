"""The network: a body that all datasets share, and one head per dataset."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from hydrakit.plan import BodySpec

_DROPOUT = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


class Block(nn.Module):
    """Two 3x3 convolutions and a 1x1 one, each with batch norm and ELU; dropout; max pooling.

    Nothing is padded: ``(batch, inputs, side, side)`` gives ``(batch, outputs, half, half)`` where
    ``half = (side - 4) // 2``.
    """

    def __init__(self, inputs: int, outputs: int, dropout: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, kernel_size=1)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.elu = nn.ELU()
        self.dropout = nn.Dropout(dropout)
        self.pool = nn.MaxPool2d(2)

    def forward(self, images: Tensor) -> Tensor:
        """Give the block's feature maps."""
        maps = self.elu(self.norm1(self.conv1(images)))
        maps = self.elu(self.norm2(self.conv2(maps)))
        maps = self.elu(self.norm3(self.conv3(maps)))
        pooled: Tensor = self.pool(self.dropout(maps))
        return pooled


class Body(nn.Module):
    """The shared part: blocks of convolutions, then a dense layer (paper, Section II-A).

    Weights begin with PyTorch's defaults, U(-1/sqrt(fan_in), 1/sqrt(fan_in)), as the authors' did.

    Attributes:
        spec: Its shape.
        in_channels: Channels of the images that it takes.
        frozen: Whether it stays in evaluation mode whatever `train` is told (see `freeze`).
    """

    def __init__(self, spec: BodySpec, *, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.spec = spec
        self.in_channels = in_channels
        self.frozen = False
        inputs = (in_channels, *spec.channels)
        self.blocks = nn.Sequential(
            *(Block(inputs[i], outputs, dropout) for i, outputs in enumerate(spec.channels))
        )
        self.dense = nn.Linear(spec.channels[-1] * spec.flat_side() ** 2, spec.features)
        self.elu = nn.ELU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(batch, channels, height, width)`` into ``(batch, features)``.

        Raises:
            ValueError: The images have other channels, or another size, than the body takes.
        """
        patch = self.spec.patch
        if images.ndim != 4 or images.shape[1:] != (self.in_channels, patch, patch):
            raise ValueError(
                f"the body takes images of shape (batch, {self.in_channels}, {patch}, {patch}), "
                f"got {tuple(images.shape)}"
            )
        # The same numbers in another order in memory: 1.2 times faster training on a CPU.
        maps = self.blocks(images.contiguous(memory_format=torch.channels_last))
        features: Tensor = self.dropout(self.elu(self.dense(maps.flatten(start_dim=1))))
        return features

    def train(self, mode: bool = True) -> Body:
        """Set training mode, unless the body is frozen: it then stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self


class Joined(nn.Module):
    """A body with a head on it: images ``(batch, channels, height, width)`` to logits."""

    def __init__(self, body: Body, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits ``(batch, classes)``."""
        logits: Tensor = self.head(self.body(images))
        return logits


def joined(body: Body, head: nn.Module) -> Joined:
    """Put a head on a body, once it is known to take the body's features.

    Both are used as they are, not copied: training the joined module trains them.

    Raises:
        ValueError: The head does not turn ``(batch, features)`` into ``(batch, classes)``.
    """
    features = body.spec.features
    try:
        shape = tuple(logits_of(head, torch.zeros(2, features)).shape)
    except RuntimeError as error:
        raise ValueError(f"the head does not take the body's {features} features") from error
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"a head gives logits of shape (2, classes) for a batch of 2, got {shape}")
    return Joined(body, head)


def logits_of(head: nn.Module, features: Tensor) -> Tensor:
    """Give the logits ``(batch, classes)`` for ``(batch, features)``, without dropout, on the CPU.

    The head itself is left as it is: its mode, its batch-norm statistics, its device.
    """
    with torch.no_grad():
        logits: Tensor = copy.deepcopy(head).cpu().eval()(features)
    return logits


def freeze(body: Body, frozen: bool = True) -> None:
    """Freeze a body wholly: parameters, batch-norm statistics and dropout; or free it again.

    A frozen body gives the same features for the same images, also after ``train()`` on a module
    that holds it.
    """
    body.frozen = frozen
    body.requires_grad_(not frozen)
    body.train(not frozen)


def set_dropout(module: nn.Module, probability: float) -> None:
    """Set the probability of every dropout layer in a module."""
    for layer in module.modules():
        if isinstance(layer, _DROPOUT):
            layer.p = probability


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, frozen ones too; batch-norm statistics are none."""
    return sum(parameter.numel() for parameter in module.parameters())
