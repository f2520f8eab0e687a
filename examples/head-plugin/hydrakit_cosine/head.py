"""The head `cosine`: cosine similarity of the features to one direction per class."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrakit.hooks import HeadFactory, hookimpl

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Options:
    """Options of the head; users write ``--head-option scale=20``."""

    scale: float = field(
        default=10.0, metadata={"help": "factor of the cosines at the beginning; it is trained"}
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: The scale is out of range.
        """
        if not 0 < self.scale <= 100:
            raise ValueError(f"scale is {self.scale}: it must be above 0 and at most 100")


def build(features: int, outputs: int, options: Options) -> nn.Module:
    """Build a module that turns features ``(batch, features)`` into logits ``(batch, outputs)``."""
    from hydrakit_cosine.network import CosineHead  # here: it imports torch, which is slow

    return CosineHead(features, outputs, options.scale)


HEAD = HeadFactory(
    name="cosine",
    summary="Cosine similarity of the features to one direction per class",
    build=build,
    options=Options,
)


@hookimpl
def hydrakit_head_factories() -> Iterator[HeadFactory]:
    """Yield the heads of this plugin."""
    yield HEAD
