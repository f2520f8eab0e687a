"""Plugin with the body `timm`: the networks of timm (PyTorch Image Models)."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydrakit.errors import PlanError, one_line
from hydrakit.hooks import BodyFactory, InputNeeds, hookimpl

if TYPE_CHECKING:
    from hydrakit.models.body import NetworkBody

NAME = "timm"

LEAST_PATCH = 64
"""Pixels that leave 2 x 2 values after five halvings: batch norm cannot train on a single one."""


@dataclass(frozen=True)
class TimmOptions:
    """Options of the body `timm`."""

    network: str = field(
        default="resnet18", metadata={"help": "name of the network, as `timm.list_models()` lists"}
    )
    patch: int = field(default=64, metadata={"help": "height and width of input images in pixels"})


def build(in_channels: int, options: TimmOptions, datasets: Sequence[str]) -> NetworkBody:
    """Build a network without its classifier; all datasets are treated alike.

    Raises:
        PlanError: timm cannot be imported, or has no such network.
    """
    import torch

    from hydrakit.compute.modules import output_of
    from hydrakit.models.body import NetworkBody

    timm = import_timm()
    if not timm.is_model(options.network):
        raise PlanError(
            f"body {NAME!r}: timm has no network {options.network!r}: `timm.list_models()` of "
            "Python lists them"
        )
    network = timm.create_model(
        options.network, pretrained=False, in_chans=in_channels, num_classes=0
    )
    image = torch.zeros(2, in_channels, options.patch, options.patch)
    features = output_of(network, image).shape[-1]
    return NetworkBody(network, features=features, in_channels=in_channels, patch=options.patch)


def import_timm() -> Any:
    """Import timm.

    Raises:
        PlanError: timm, or torchvision, which it needs, cannot be imported.
    """
    try:
        return importlib.import_module("timm")
    except Exception as error:  # torchvision for another torch raises RuntimeError
        raise PlanError(
            f"body {NAME!r} needs the packages timm and torchvision, which cannot be imported "
            f"({type(error).__name__}: {one_line(str(error), 200)}): "
            "`pip install 'hydrakit-imaging[timm]'`"
        ) from error


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    """The body `timm`."""
    yield BodyFactory(
        name=NAME,
        summary="A network of timm without its classifier: `network` chooses it",
        build=build,
        options=TimmOptions,
        needs=InputNeeds(patch=LEAST_PATCH),
    )
