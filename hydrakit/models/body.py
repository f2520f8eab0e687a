"""The paper's body, and networks of a body with a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrakit.compute.modules import fix_all_but_normalisation, freeze, output_of
from hydrakit.models.layers import Dropout, NormLayer, build_norm, statistics, use_statistics
from hydrakit.plan.model import BodySpec
from hydrakit.rounds import Train

__all__ = ["NetworkBody"]


class Block(nn.Module):
    """A convolution block.

    Convolutions of 3x3, 3x3 and 1x1 pixels, each with normalisation and ELU; then dropout and 2x2
    max pooling. It turns ``(batch, inputs, side, side)`` into ``(batch, outputs, half, half)`` with
    ``half = (side - 4) // 2``, since the convolutions have no padding.
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
        """Compute the feature maps.

        The last ELU comes after dropout and max pooling, where it has a quarter of the values to
        compute. The result is the same, because ELU is increasing and maps 0 to 0.
        """
        maps = functional.elu(_normalised(self.conv1, self.norm1, images), inplace=True)
        maps = functional.elu(_normalised(self.conv2, self.norm2, maps), inplace=True)
        maps = _normalised(self.conv3, self.norm3, maps)
        if not self.training or self.dropout.p == 0:
            return functional.elu(functional.max_pool2d(maps, 2), inplace=True)
        pooled = functional.max_pool2d(maps * self.dropout.mask(maps), 2)
        return functional.elu(pooled, inplace=True) * self.dropout.scale


def channels_last(images: Tensor) -> Tensor:
    """Return the images in channels-last order, with the strides of this order.

    For one channel, both orders have the same bytes, and PyTorch would choose the other strides.
    The maps of the first block, the largest, would then be in the other order, and a training step
    would take 1.2 times as long. Only there are strides set by hand: ONNX has no orders, so that
    they would mix the pixels of several channels up.
    """
    _, channels, height, width = images.shape
    ordered = images.contiguous(memory_format=torch.channels_last)
    if channels > 1:
        return ordered
    return ordered.as_strided(images.shape, (height * width, 1, width, 1))


def _normalised(conv: nn.Conv2d, norm: NormLayer, images: Tensor) -> Tensor:
    """Apply a convolution and its normalisation.

    Batch norm in evaluation mode is folded into the weights of the convolution.
    """
    if norm.training or not isinstance(norm, nn.BatchNorm2d):
        maps: Tensor = norm(conv(images))
        return maps
    mean, variance = statistics(norm)
    scale = norm.weight * torch.rsqrt(variance + norm.eps)
    weight = conv.weight * scale[:, None, None, None]
    assert conv.bias is not None
    return functional.conv2d(images, weight, (conv.bias - mean) * scale + norm.bias)


class BodyModule(nn.Module):
    """Type of an ``nn.Module`` that is a `hydrakit.hooks.Body`; bodies need not inherit from it."""

    features: int
    in_channels: int
    patch: int
    by_dataset: bool
    intensities: int = 0  # number of first-order statistics of the images, which are last features

    def use(self, dataset: str) -> None:
        """Prepare for images of a dataset."""
        raise NotImplementedError


class PaperBody(BodyModule):
    """The paper's body (Section III): convolution blocks, then a dense layer.

    As in the authors' code, weights are initialised with PyTorch's defaults,
    U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Attributes:
        spec: Shape of the body.
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
        """Turn images ``(batch, in_channels, patch, patch)`` into ``(batch, features)``.

        Raises:
            ValueError: The images have the wrong number of channels or the wrong size.
        """
        patch = self.patch
        if images.ndim != 4 or images.shape[1:] != (self.in_channels, patch, patch):
            raise ValueError(
                f"the body needs images of shape (batch, {self.in_channels}, {patch}, {patch}), "
                f"got {tuple(images.shape)}"
            )
        maps = self.blocks(channels_last(images))
        features: Tensor = self.dropout(functional.elu(self.dense(maps.flatten(start_dim=1))))
        return features

    def use(self, dataset: str) -> None:
        """Use the statistics of a dataset, if `BodySpec.norm` is ``dataset``.

        Raises:
            ValueError: The body has no statistics of that dataset.
        """
        use_statistics(self, dataset, self.spec.datasets)


def use_channels_last(body: nn.Module) -> None:
    """Store the weights of convolutions in channels-last order, as the images.

    The results stay the same; training on a CPU is 1.2 times faster.
    """
    for parameter in body.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


class NetworkBody(BodyModule):
    """Any network that turns images into features, as a body: for plugins.

    Dropout, whose probability hydrakit sets, is applied to the features. Convolutions are stored in
    channels-last order, in which training on a CPU is faster; the results are the same.

    Args:
        net: Network that turns images ``(batch, in_channels, patch, patch)``, float32 and
            normalised, into features ``(batch, features)``.
        features: Number of features that it computes for an image.
        in_channels: Number of channels of its input images.
        patch: Height and width of its input images in pixels.

    Attributes:
        net: The network.
    """

    by_dataset = False

    def __init__(self, net: nn.Module, *, features: int, in_channels: int, patch: int) -> None:
        super().__init__()
        self.net = net
        self.features, self.in_channels, self.patch = features, in_channels, patch
        self.dropout = Dropout(0.0)
        use_channels_last(self)

    def forward(self, images: Tensor) -> Tensor:
        """Turn images ``(batch, in_channels, patch, patch)`` into ``(batch, features)``."""
        features: Tensor = self.dropout(self.net(channels_last(images)))
        return features

    def use(self, dataset: str) -> None:
        """Do nothing: all datasets are treated alike."""


class BodyWithHead(nn.Module):
    """A body with a head; turns images ``(batch, channels, patch, patch)`` into logits.

    Args:
        body: The body.
        head: The head.
        stem: Stem of the head for these images (`hydrakit.models.stem`); None if the body takes
            them as they are.
    """

    def __init__(self, body: BodyModule, head: nn.Module, stem: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.head = head
        self.stem = stem

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits ``(batch, outputs)``."""
        logits: Tensor = self.head(self.body(images if self.stem is None else self.stem(images)))
        return logits


def attach_head(body: BodyModule, head: nn.Module, stem: nn.Module | None = None) -> BodyWithHead:
    """Join a body and a head, without copying them: training the result trains both.

    ``stem`` is as in `BodyWithHead`.

    Raises:
        ValueError: The head does not turn features of the body into logits.
    """
    features = body.features
    try:
        shape = tuple(output_of(head, torch.zeros(2, features)).shape)
    except RuntimeError as error:
        raise ValueError(f"the head does not take the body's {features} features") from error
    if len(shape) != 2 or shape[0] != 2:
        raise ValueError(f"a head returns logits of shape (2, outputs) for 2 cases, got {shape}")
    return BodyWithHead(body, head, stem)


def set_trainable(body: nn.Module, train: Train) -> None:
    """Set which weights of a body a round trains (`hydrakit.rounds.Round.train`).

    If the round trains ``norm``, batch norm also updates its statistics, and dropout is on.
    """
    freeze(body, train in ("head", "none"))
    if train == "norm":
        fix_all_but_normalisation(body)
