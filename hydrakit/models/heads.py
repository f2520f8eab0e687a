"""The heads that come with hydrakit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from hydrakit.hooks import HeadFactory, hookimpl

if TYPE_CHECKING:
    from torch import nn


def build_mlp(features: int, classes: int, dropout: float) -> nn.Module:
    """Build the paper's decision maker: dense layers to 64, to 16, and to the classes.

    Gives a module ``(batch, features) -> (batch, classes)`` (paper, Section II-A). The authors
    ended theirs with softmax; this one gives logits.
    """
    from torch import nn

    from hydrakit.models.layers import Dropout

    return nn.Sequential(
        OrderedDict(
            hidden1=nn.Linear(features, 64),
            elu1=nn.ELU(),
            dropout=Dropout(dropout),
            hidden2=nn.Linear(64, 16),
            elu2=nn.ELU(),
            logits=nn.Linear(16, classes),
        )
    )


def build_linear(features: int, classes: int, dropout: float) -> nn.Module:
    """Build dropout and one dense layer: ``(batch, features) -> (batch, classes)``."""
    from torch import nn

    from hydrakit.models.layers import Dropout

    return nn.Sequential(OrderedDict(dropout=Dropout(dropout), logits=nn.Linear(features, classes)))


@hookimpl
def hydrakit_head_factories() -> Iterator[HeadFactory]:
    """The heads `mlp` and `linear`."""
    yield HeadFactory(
        name="mlp",
        summary="The paper's: features to 64 to 16 to classes, with ELU and dropout",
        build=build_mlp,
        tasks=("classification", "regression", "multilabel"),
    )
    yield HeadFactory(
        name="linear",
        summary="Dropout and one dense layer: logistic regression on the features",
        build=build_linear,
        tasks=("classification", "regression", "multilabel"),
    )
