"""Building the body and the heads that a plan, or a weight file, names."""

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
    """Build a new body, on the CPU, with weights from torch's generator.

    Args:
        body: The kind of body, and its options.
        in_channels: Channels of the images that it takes.
        datasets: Names of the plan's datasets.
        plugins: Who offers the factory.

    Raises:
        PluginError: Nobody offers the factory, or it does not build a body.
        PlanError: The factory does not take the options.
    """
    factory = plugins.get(BodyFactory, body.name)
    built = factory.build(in_channels, parse_options(factory, body.options), tuple(datasets))
    return cast("BodyModule", built)


def build_head(head: Component, *, features: int, outputs: int, plugins: Plugins) -> nn.Module:
    """Build a new head, on the CPU, with weights from torch's generator.

    Args:
        head: The kind of head, and its options.
        features: Numbers that it takes from a body.
        outputs: Numbers that it gives.
        plugins: Who offers the factory.

    Raises:
        PluginError: Nobody offers the factory, or it does not build a head.
        PlanError: The factory does not take the options.
    """
    factory = plugins.get(HeadFactory, head.name)
    return factory.build(features, outputs, parse_options(factory, head.options))


def check_components(plan: Plan, adapters: Mapping[str, DatasetAdapter], plugins: Plugins) -> None:
    """Check that the body and the heads of a plan can be built, and can learn its tasks.

    Raises:
        PluginError: Nobody offers one of them.
        PlanError: An option is unknown or not allowed, or a head cannot learn a task.
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
                f"it takes {', '.join(factory.tasks)}"
            )
