"""The heads that come with hydrakit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hydrakit.hooks import HeadFactory, NoOptions, Task, hookimpl

if TYPE_CHECKING:
    from torch import nn

MOST_LAYERS = 16
MOST_WIDTH = 2**14


@dataclass(frozen=True, kw_only=True)
class MlpOptions:
    """Options of `mlp`."""

    hidden: tuple[int, ...] = field(
        default=(64, 16), metadata={"help": "widths of the hidden layers, in order"}
    )

    def __post_init__(self) -> None:
        """Refuse widths that no head can have."""
        if not 0 < len(self.hidden) <= MOST_LAYERS:
            raise ValueError(f"hidden names {len(self.hidden)} layers: 1 to {MOST_LAYERS} can be")
        for width in self.hidden:
            if not 0 < width <= MOST_WIDTH:
                raise ValueError(f"hidden has a layer of {width}: 1 to {MOST_WIDTH} can be")


def build_mlp(features: int, outputs: int, options: MlpOptions = MlpOptions()) -> nn.Module:
    """Build dense layers with ELU and, after the first, dropout; then one to the outputs.

    With the default widths it is the paper's decision maker (Section II-A), which ends with
    softmax there and with logits here.
    """
    from torch import nn

    from hydrakit.models.layers import Dropout

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    width = features
    for number, wider in enumerate(options.hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(width, wider)
        layers[f"elu{number}"] = nn.ELU()
        if number == 1:
            layers["dropout"] = Dropout(0.0)
        width = wider
    layers["logits"] = nn.Linear(width, outputs)
    return nn.Sequential(layers)


def build_linear(features: int, outputs: int, options: NoOptions = NoOptions()) -> nn.Module:  # noqa: B008 - frozen
    """Build dropout and one dense layer: ``(batch, features) -> (batch, outputs)``."""
    from torch import nn

    from hydrakit.models.layers import Dropout

    return nn.Sequential(OrderedDict(dropout=Dropout(0.0), logits=nn.Linear(features, outputs)))


@hookimpl
def hydrakit_head_factories() -> Iterator[HeadFactory]:
    """The heads `mlp` and `linear`."""
    tasks: tuple[Task, ...] = ("classification", "regression", "multilabel")
    yield HeadFactory(
        name="mlp",
        summary="The paper's: features to 64 to 16 to the outputs, with ELU and dropout",
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
