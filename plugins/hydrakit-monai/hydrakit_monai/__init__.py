"""Plugin with the body `monai`: MONAI's classification networks in two dimensions."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, InputNeeds, hookimpl

if TYPE_CHECKING:
    from torch import nn

    from hydrakit.models.body import NetworkBody

NAME = "monai"

NetworkName = Literal[
    "densenet121",
    "densenet169",
    "densenet201",
    "densenet264",
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "seresnet50",
    "seresnet101",
    "seresnet152",
    "efficientnet-b0",
    "efficientnet-b1",
    "efficientnet-b2",
    "efficientnet-b3",
    "efficientnet-b4",
]

LEAST_PATCH = 64
"""Pixels that leave 2 x 2 values after five halvings: batch norm cannot train on a single one."""

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # environment variable that changes how torch computes

AS_TORCHVISION = {"conv1_t_stride": 2, "bias_downsample": False}
"""Values of a ResNet that make it torchvision's, so that weights of that match by name."""


@dataclass(frozen=True)
class MonaiOptions:
    """Options of the body `monai`."""

    network: NetworkName = field(default="resnet18", metadata={"help": "network of MONAI"})
    patch: int = field(default=64, metadata={"help": "height and width of input images in pixels"})


def build(in_channels: int, options: MonaiOptions, datasets: Sequence[str]) -> NetworkBody:
    """Build a network without its classifier; all datasets are treated alike.

    Raises:
        PlanError: MONAI is not installed.
    """
    from torch import nn

    from hydrakit.models.body import NetworkBody

    network = build_classifier(options.network, in_channels=in_channels, outputs=1)
    name, dense = [each for each in network.named_modules() if isinstance(each[1], nn.Linear)][-1]
    network.set_submodule(name, nn.Identity())
    return NetworkBody(
        network, features=dense.in_features, in_channels=in_channels, patch=options.patch
    )


def build_classifier(name: NetworkName, *, in_channels: int, outputs: int) -> nn.Module:
    """Build a network of MONAI; its classifier is the last of its dense layers.

    Dropout and stochastic depth of its own are off: hydrakit applies dropout to the features.

    Raises:
        PlanError: MONAI is not installed.
    """
    if importlib.util.find_spec("monai") is None:
        raise PlanError(
            f"body {NAME!r} needs the package MONAI: `pip install 'hydrakit-imaging[monai]'`"
        )
    from torch import nn

    workspace = os.environ.get(WORKSPACE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # MONAI imports all of its modules
        from monai.networks import nets
    if workspace is None:  # MONAI sets it
        os.environ.pop(WORKSPACE, None)

    network: nn.Module
    if name.startswith("densenet"):
        kind = getattr(nets, name.replace("densenet", "DenseNet"))
        network = kind(spatial_dims=2, in_channels=in_channels, out_channels=outputs)
    elif name.startswith("resnet"):
        kind = getattr(nets, name)
        network = kind(
            spatial_dims=2, n_input_channels=in_channels, num_classes=outputs, **AS_TORCHVISION
        )
    elif name.startswith("seresnet"):
        kind = getattr(nets, name.replace("seresnet", "SEResNet"))
        network = kind(spatial_dims=2, in_channels=in_channels, num_classes=outputs)
    else:
        network = nets.EfficientNetBN(
            name, pretrained=False, spatial_dims=2, in_channels=in_channels, num_classes=outputs
        )
        network.set_submodule("_dropout", nn.Identity())
        for block in network.modules():
            if isinstance(block, nets.efficientnet.MBConvBlock):
                block.drop_connect_rate = 0.0
    return network


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    """The body `monai`."""
    yield BodyFactory(
        name=NAME,
        summary="A classification network of MONAI without its classifier: `network` chooses it",
        build=build,
        options=MonaiOptions,
        needs=InputNeeds(patch=LEAST_PATCH),
    )
