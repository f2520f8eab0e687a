"""Stems: small convolutions that turn the channels of one dataset's images into those of a body.

A stem belongs to a head: it is trained with the head, selected and stored with it, and works only
in front of a body. `HeadWithStems` holds a head and its stems, by dataset.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from hydrakit.models.body import BodyModule
from hydrakit.plan.model import StemShape

KERNEL = 3  # pixels; the image is padded with 0, so that its size stays


class Stem(nn.Conv2d):
    """A convolution of 3x3 pixels, which keeps the size of the images.

    Weights and bias are initialised as PyTorch's convolutions are.
    """

    def __init__(self, shape: StemShape) -> None:
        super().__init__(shape.images, shape.body, kernel_size=KERNEL, padding=KERNEL // 2)

    @property
    def shape(self) -> StemShape:
        """Numbers of channels."""
        return StemShape(images=self.in_channels, body=self.out_channels)


class HeadWithStems(nn.Module):
    """A head with the stems of the datasets that it is trained on.

    It turns features into logits as the head alone; the stems are its parameters, too.

    Args:
        head: The head.
        stems: Numbers of channels of each stem, by dataset. The stems are new.
    """

    def __init__(self, head: nn.Module, stems: Mapping[str, StemShape]) -> None:
        super().__init__()
        self.head = head
        for dataset, shape in stems.items():
            self.add_module(_name(dataset), Stem(shape))

    def forward(self, features: Tensor) -> Tensor:
        """Compute the logits."""
        logits: Tensor = self.head(features)
        return logits

    def stem(self, dataset: str) -> Stem | None:
        """The stem of a dataset; None if it has none."""
        stem = self._modules.get(_name(dataset))
        return stem if isinstance(stem, Stem) else None


def _name(dataset: str) -> str:
    """Name of a stem's module; without the prefix, a dataset could have the name of a method."""
    return f"stem-{dataset}"


def with_stem(head: nn.Module, dataset: str, shape: StemShape) -> HeadWithStems:
    """Give a head a new stem for a dataset; its other stems stay."""
    if not isinstance(head, HeadWithStems):
        return HeadWithStems(head, {dataset: shape})
    head.add_module(_name(dataset), Stem(shape))
    return head


def head_without_stems(head: nn.Module) -> nn.Module:
    """The head alone, which turns features into logits."""
    return head.head if isinstance(head, HeadWithStems) else head


def stem_of(head: nn.Module, dataset: str) -> Stem | None:
    """The stem that a head has for the images of a dataset; None for none."""
    return head.stem(dataset) if isinstance(head, HeadWithStems) else None


def extractor(body: BodyModule, head: nn.Module, dataset: str) -> nn.Module:
    """Prepare a body for images of a dataset, and put the head's stem for them before it, if any.

    Returns:
        The module that turns images of the dataset into features of the body: the body itself if
        the head has no stem for them.
    """
    body.use(dataset)
    stem = stem_of(head, dataset)
    return body if stem is None else nn.Sequential(stem, body)
