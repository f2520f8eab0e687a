"""The heads that come with hydrakit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from hydrakit.errors import PlanError
from hydrakit.hooks import HeadFactory, NoOptions, Task, hookimpl

if TYPE_CHECKING:
    from torch import nn

MAX_LAYERS = 16
MAX_WIDTH = 2**14
MAX_WEIGHTS = 2**25  # of a head, as of a body (`hydrakit.plan.model`)


@dataclass(frozen=True, kw_only=True)
class MlpOptions:
    """Options of the head `mlp`."""

    hidden: tuple[int, ...] = field(
        default=(64, 16), metadata={"help": "number of units of each hidden layer"}
    )

    def __post_init__(self) -> None:
        """Check the number of layers and of their units.

        Raises:
            ValueError: One of them is out of range.
        """
        if not 0 < len(self.hidden) <= MAX_LAYERS:
            raise ValueError(f"hidden has {len(self.hidden)} layers: 1 to {MAX_LAYERS} allowed")
        for width in self.hidden:
            if not 0 < width <= MAX_WIDTH:
                raise ValueError(f"hidden has a layer of {width} units: 1 to {MAX_WIDTH} allowed")


def build_mlp(features: int, outputs: int, options: MlpOptions = MlpOptions()) -> nn.Module:
    """Build hidden dense layers with ELU, dropout after the first of them, and an output layer.

    The default is the paper's decision maker (Section III) without its softmax.

    Raises:
        PlanError: The head would have more than `MAX_WEIGHTS` weights.
    """
    weights = sum(a * b for a, b in pairwise((features, *options.hidden, outputs)))
    if weights > MAX_WEIGHTS:
        raise PlanError(
            f"head 'mlp' with hidden={','.join(map(str, options.hidden))} has {weights:,} weights "
            f"for {features:,} features: the limit is {MAX_WEIGHTS:,}: use fewer or smaller layers"
        )
    from torch import nn

    from hydrakit.models.layers import Dropout

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = features
    for number, units in enumerate(options.hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(width, units)
        layers[f"elu{number}"] = nn.ELU()
        if number == 1:
            layers["dropout"] = Dropout(0.0)
        width = units
    layers["logits"] = nn.Linear(width, outputs)
    return nn.Sequential(layers)


def build_linear(features: int, outputs: int, options: NoOptions = NoOptions()) -> nn.Module:  # noqa: B008 - frozen
    """Build dropout and one dense layer."""
    from torch import nn

    from hydrakit.models.layers import Dropout

    return nn.Sequential(OrderedDict(dropout=Dropout(0.0), logits=nn.Linear(features, outputs)))


@dataclass(frozen=True, kw_only=True)
class BlendOptions:
    """Options of the head `blend`."""

    share: float | None = field(
        default=None,
        metadata={
            "help": "weight of the dense layer in the mean, from 0 to 1; none: chosen on validation"
        },
    )

    def __post_init__(self) -> None:
        """Check the share.

        Raises:
            ValueError: It is out of range.
        """
        if self.share is not None and not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}: 0 to 1 allowed")


def build_blend(features: int, outputs: int, options: BlendOptions = BlendOptions()) -> nn.Module:
    """Build a dense layer that is blended with a regression on the intensities of a patch."""
    from hydrakit.models.blend import BlendedHead

    return BlendedHead(features, outputs, options.share)


@hookimpl
def hydrakit_head_factories() -> Iterator[HeadFactory]:
    """The heads `mlp`, `linear` and `blend`."""
    tasks: tuple[Task, ...] = ("classification", "regression", "multilabel")
    yield HeadFactory(
        name="mlp",
        summary="The paper's head: hidden layers of 64 and 16 units, with ELU and dropout",
        build=build_mlp,
        options=MlpOptions,
        tasks=tasks,
    )
    yield HeadFactory(
        name="linear",
        summary="Dropout and one dense layer: logistic regression on the features",
        build=build_linear,
        tasks=tasks,
    )
    yield HeadFactory(
        name="blend",
        summary="Mean of two log-odds: a dense layer, and a regression on intensities (body small)",
        build=build_blend,
        options=BlendOptions,
        tasks=tasks,
    )
