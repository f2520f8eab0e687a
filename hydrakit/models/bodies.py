"""The bodies that come with hydrakit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import BodyFactory, hookimpl

if TYPE_CHECKING:
    from hydrakit.models.body import BodyModule, PaperBody
    from hydrakit.models.small import SmallBody

MAX_BLOCKS = 8
MAX_CHANNELS = 2**10
MAX_FEATURES = 2**14  # as of a plan's body (`hydrakit.plan.model`)


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


@dataclass(frozen=True, kw_only=True)
class SmallOptions:
    """Options of the body `small`."""

    patch: int = field(default=32, metadata={"help": "height and width of input images in pixels"})
    channels: tuple[int, ...] = field(
        default=(16, 32, 64), metadata={"help": "output channels of each block"}
    )
    norm: Literal["batch", "group"] = field(
        default="group", metadata={"help": "batch norm, or group norm, which has no statistics"}
    )
    features: int | None = field(
        default=None,
        metadata={"help": "number of features of a dense layer; none: the pooled maps themselves"},
    )
    intensities: bool = field(
        default=False, metadata={"help": "add first-order statistics of the patch to the features"}
    )

    def __post_init__(self) -> None:
        """Check the number of blocks and their sizes.

        Raises:
            ValueError: One of them is out of range.
        """
        if not 0 < len(self.channels) <= MAX_BLOCKS:
            raise ValueError(f"channels has {len(self.channels)} blocks: 1 to {MAX_BLOCKS} allowed")
        for channels in self.channels:
            if not 0 < channels <= MAX_CHANNELS:
                raise ValueError(f"channels has {channels}: 1 to {MAX_CHANNELS} allowed")
        if self.features is not None and not 0 < self.features <= MAX_FEATURES:
            raise ValueError(f"features is {self.features}: 1 to {MAX_FEATURES} allowed, or none")
        if self.patch < 2 ** len(self.channels):
            raise ValueError(
                f"a patch of {self.patch} pixels is too small for {len(self.channels)} blocks: "
                f"{2 ** len(self.channels)} pixels or more"
            )


def build_small(in_channels: int, options: SmallOptions, datasets: Sequence[str]) -> SmallBody:
    """Build a residual network of few weights; all datasets are treated alike."""
    from hydrakit.models.small import SmallBody

    return SmallBody(in_channels=in_channels, **asdict(options))


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    """The bodies `paper`, `small` and `intensity`."""
    yield BodyFactory(
        name="paper",
        summary="The paper's body: convolution blocks with normalisation, then a dense layer",
        build=build_paper,
        options=PaperOptions,
    )
    yield BodyFactory(
        name="small",
        summary="Residual network of few weights for patches of 32 to 96 pixels",
        build=build_small,
        options=SmallOptions,
    )
    yield BodyFactory(
        name="intensity",
        summary="No weights: 11 statistics of the grey values of each channel, for a baseline",
        build=build_intensity,
        options=IntensityOptions,
    )
