"""Builds the body and the heads that a plan or a weight file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from hydrakit.errors import PlanError
from hydrakit.hooks import BodyFactory, DatasetAdapter, HeadFactory
from hydrakit.plan.model import BodySpec, Component, OtherBody, Plan
from hydrakit.plugins.options import parse_options
from hydrakit.plugins.registry import Plugins

if TYPE_CHECKING:
    from torch import nn

    from hydrakit.models.body import BodyModule


def build_body(
    body: BodySpec | OtherBody, *, in_channels: int, datasets: Sequence[str], plugins: Plugins
) -> BodyModule:
    """Build a new body on the CPU, with random weights from PyTorch's global generator.

    Args:
        body: Kind of body, and its options.
        in_channels: Number of channels of its input images.
        datasets: Names of the plan's datasets.
        plugins: Plugins with the body's factory.

    Raises:
        PluginError: No plugin offers the factory, or the factory does not build a body.
        PlanError: The options are invalid.
    """
    factory = plugins.get(BodyFactory, body.name)
    built = factory.build(in_channels, parse_options(factory, body.options), tuple(datasets))
    return cast("BodyModule", built)


def build_head(head: Component, *, features: int, outputs: int, plugins: Plugins) -> nn.Module:
    """Build a new head on the CPU, with random weights from PyTorch's global generator.

    Args:
        head: Kind of head, and its options.
        features: Number of features of the body.
        outputs: Number of logits.
        plugins: Plugins with the head's factory.

    Raises:
        PluginError: No plugin offers the factory, or the factory does not build a head.
        PlanError: The options are invalid.
    """
    factory = plugins.get(HeadFactory, head.name)
    return factory.build(features, outputs, parse_options(factory, head.options))


def check_components(plan: Plan, adapters: Mapping[str, DatasetAdapter], plugins: Plugins) -> None:
    """Check that plugins offer the body and the heads of a plan, for the tasks of its datasets.

    Raises:
        PluginError: No plugin offers one of them.
        PlanError: An option is invalid, or a head cannot learn the task of its dataset.
    """
    body = plugins.get(BodyFactory, plan.body.name)
    parse_options(body, plan.body.options)
    for name, adapter in adapters.items():
        head = plan.head_of(name)
        factory = plugins.get(HeadFactory, head.name)
        parse_options(factory, head.options)
        if adapter.task not in factory.tasks:
            raise PlanError(
                f"head {factory.name!r} cannot learn {name!r}, a {adapter.task} task: "
                f"its tasks are {', '.join(factory.tasks)}"
            )
