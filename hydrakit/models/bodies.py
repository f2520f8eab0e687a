"""The bodies that come with hydrakit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import BodyFactory, hookimpl

if TYPE_CHECKING:
    from hydrakit.models.body import PaperBody


@dataclass(frozen=True, kw_only=True)
class PaperOptions:
    """Options of the paper's body; a plan writes and checks them as `hydrakit.plan.BodySpec`."""

    channels: tuple[int, ...] = field(
        default=(32, 64, 128), metadata={"help": "channels of the blocks, in order"}
    )
    features: int = field(default=256, metadata={"help": "numbers that it gives to a head"})
    patch: int = field(default=65, metadata={"help": "side in pixels of the square patches"})
    norm: Literal["batch", "group", "dataset"] = field(
        default="batch",
        metadata={"help": "batch norm, group norm, or batch norm with statistics of each dataset"},
    )


def build_paper(in_channels: int, options: PaperOptions, datasets: Sequence[str]) -> PaperBody:
    """Build the paper's feature extractor: blocks of convolutions, then a dense layer."""
    from hydrakit.models.body import PaperBody
    from hydrakit.plan.model import BodySpec

    apart = tuple(datasets) if options.norm == "dataset" else ()
    return PaperBody(BodySpec(**asdict(options), datasets=apart), in_channels=in_channels)


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    """The body `paper`."""
    yield BodyFactory(
        name="paper",
        summary="The paper's: blocks of convolutions with normalisation, then a dense layer",
        build=build_paper,
        options=PaperOptions,
    )
