"""The bodies that come with hydrakit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import BodyFactory, hookimpl

if TYPE_CHECKING:
    from hydrakit.models.body import BodyModule, PaperBody


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """Options of the body `paper`; `hydrakit.plan.BodySpec` checks them."""

    channels: tuple[int, ...] = field(
        default=(32, 64, 128), metadata={"help": "output channels of each block"}
    )
    features: int = field(default=256, metadata={"help": "number of features for a head"})
    patch: int = field(default=65, metadata={"help": "height and width of input images in pixels"})
    norm: Literal["batch", "group", "dataset"] = field(
        default="batch",
        metadata={"help": "batch norm, group norm, or batch norm with statistics for each dataset"},
    )


def build_paper(in_channels: int, options: PaperOptions, datasets: Sequence[str]) -> PaperBody:
    """Build the paper's feature extractor: convolution blocks, then a dense layer."""
    from hydrakit.models.body import PaperBody
    from hydrakit.plan.model import BodySpec

    separate = tuple(datasets) if options.norm == "dataset" else ()
    return PaperBody(BodySpec(**asdict(options), datasets=separate), in_channels=in_channels)


@dataclass(frozen=True, kw_only=True)
class IntensityOptions:
    """Options of the body `intensity`."""

    patch: int = field(default=65, metadata={"help": "height and width of input images in pixels"})


def build_intensity(
    in_channels: int, options: IntensityOptions, datasets: Sequence[str]
) -> BodyModule:
    """Build the body of 11 first-order statistics of each channel; it has no weights."""
    from hydrakit.models.intensity import IntensityBody

    return IntensityBody(in_channels=in_channels, patch=options.patch)


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    """The bodies `paper` and `intensity`."""
    yield BodyFactory(
        name="paper",
        summary="The paper's body: convolution blocks with normalisation, then a dense layer",
        build=build_paper,
        options=PaperOptions,
    )
    yield BodyFactory(
        name="intensity",
        summary="No weights: 11 statistics of the grey values of each channel, for a baseline",
        build=build_intensity,
        options=IntensityOptions,
    )
