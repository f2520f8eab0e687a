"""Builds the body and the heads that a plan or a weight file describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from hydrakit.errors import PlanError, PluginError, command_line
from hydrakit.hooks import BodyFactory, DatasetAdapter, HeadFactory, Window
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
        PlanError: An option is invalid, the body needs other input images, a head cannot learn the
            task of its dataset, or labels that are numbers would be smoothed.
    """
    body = plugins.get(BodyFactory, plan.body.name)
    parse_options(body, plan.body.options)
    if plan.patch < body.needs.patch:
        raise PlanError(
            f"body {body.name!r} needs patches of {body.needs.patch} pixels or more, and the plan "
            f"has {plan.patch}: use `{command_line('--body-option', f'patch={body.needs.patch}')}`"
        )
    for name, adapter in adapters.items():
        head = plan.head_of(name)
        factory = plugins.get(HeadFactory, head.name)
        parse_options(factory, head.options)
        _check_normalise(body, adapter)
        if adapter.task not in factory.tasks:
            raise PlanError(
                f"head {factory.name!r} cannot learn {name!r}, a {adapter.task} task: "
                f"its tasks are {', '.join(factory.tasks)}"
            )
    for number, round in enumerate(plan.rounds, start=1):
        smoothing = round.hyperparameters.label_smoothing
        if smoothing and all(adapters[name].task == "regression" for name in round.datasets):
            option = command_line("--set", f"rounds.{number}.label_smoothing=0")
            raise PlanError(
                f"round {number}: label_smoothing is {smoothing:g}, but the labels of "
                f"{round.dataset!r} are numbers, not classes: `{option}`"
            )


def _check_normalise(body: BodyFactory, adapter: DatasetAdapter) -> None:
    """Check that a body can use the grey values of a dataset.

    Raises:
        PlanError: They are normalised by a rule that it cannot use.
    """
    rule = "window" if isinstance(adapter.normalise, Window) else adapter.normalise
    allowed = body.needs.normalise
    if allowed is not None and rule not in allowed:
        option = command_line("--set", f"datasets.{adapter.name}.normalise={allowed[0]}")
        raise PlanError(
            f"body {body.name!r} needs grey values that are normalised by {' or '.join(allowed)}, "
            f"and the rule of {adapter.name!r} is {rule!r}: use `{option}`"
        )


def check_heads(plan: Plan, adapters: Mapping[str, DatasetAdapter]) -> None:
    """Check that all datasets of one head have the same task and as many classes.

    Their names may differ (the second of two is the positive one), but not their order.

    Raises:
        PlanError: Datasets with different classes use the same head.
    """
    first_dataset: dict[str, str] = {}
    for round in plan.rounds:
        for head, name in zip(round.heads, round.datasets, strict=True):
            first = first_dataset.setdefault(head, name)
            here, there = adapters[name], adapters[first]
            same = (here.task, len(here.classes)) == (there.task, len(there.classes))
            turned = sorted(here.classes) == sorted(there.classes)
            if not same or (turned and here.classes != there.classes):
                raise PlanError(
                    f"head {head!r} cannot be used for both {first!r} ({_labels(there)}) and "
                    f"{name!r} ({_labels(here)}): give each dataset a head of its own"
                    + (", or put the classes into one order" if turned else "")
                )


def _labels(adapter: DatasetAdapter) -> str:
    return f"{adapter.task}: {', '.join(adapter.classes)}"


def check_builds(
    plan: Plan, adapters: Mapping[str, DatasetAdapter], *, in_channels: int, plugins: Plugins
) -> None:
    """Build body and heads twice: tensors of other shapes could be trained, but not loaded again.

    Args:
        plan: Plan with the body and the heads.
        adapters: Adapters of the plan's datasets, by name.
        in_channels: Number of channels of the images.
        plugins: Plugins with the factories.

    Raises:
        PluginError: The shapes of a component differ between both builds, or it cannot be built.
        PlanError: The body takes another number of channels, or as `_check_regressions`.
    """
    allowed = plugins.get(BodyFactory, plan.body.name).needs.channels
    if allowed is not None and in_channels not in allowed:
        raise PlanError(
            f"body {plan.body.name!r} takes images with {' or '.join(map(str, allowed))} channels, "
            f"and the images of this plan have {in_channels}: choose another body, or other images"
        )
    first, second = (_shapes(plan, adapters, in_channels, plugins, seed=seed) for seed in (0, 1))
    for (kind, name, dataset), shapes in first.items():
        fault = shapes_fault(shapes, second[kind, name, dataset])
        if fault is None:
            continue
        source = plugins.source_of(kind, name)
        message = f"{'body' if kind is BodyFactory else 'head'} {name!r}: {fault}"
        raise source.fault(message) if source else PluginError(message)
    _check_regressions(plan, adapters, in_channels, plugins)


Shapes = dict[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> Shapes:
    """Shapes of the tensors of a module, by name."""
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def shapes_fault(first: Shapes, second: Shapes) -> str | None:
    """What is wrong with two builds of a component, by the shapes of their tensors; or None."""
    if first == second:
        return None
    where = next((key for key in first if first[key] != second.get(key)), None)
    where = where or next(key for key in second if key not in first)
    return (
        f"two builds with the same arguments differ in {where!r} ({_shape_text(first, where)} and "
        f"{_shape_text(second, where)}): the shapes of its tensors must depend only on the "
        "arguments of build"
    )


def _check_regressions(
    plan: Plan, adapters: Mapping[str, DatasetAdapter], in_channels: int, plugins: Plugins
) -> None:
    """Check the heads that are a regression or contain one, and the rounds that solve them.

    Raises:
        PlanError: A round solves a head exactly that is not one linear layer; a blended head is on
            a body without intensities; or a penalty is set where nothing uses it.
    """
    import torch

    from hydrakit.compute.modules import only_layer
    from hydrakit.models.blend import BlendedHead

    with torch.random.fork_rng(devices=[]):
        body = build_body(
            plan.body, in_channels=in_channels, datasets=tuple(adapters), plugins=plugins
        )
        heads = {
            name: build_head(
                plan.head_of(name),
                features=body.features,
                outputs=len(adapter.classes),
                plugins=plugins,
            )
            for name, adapter in adapters.items()
        }
    blended = {name for name, head in heads.items() if isinstance(head, BlendedHead)}
    regressions = {
        name
        for round in plan.rounds
        for name in round.datasets
        if round.hyperparameters.solver == "exact" or name in blended
    }
    if not regressions and any(round.hyperparameters.penalty for round in plan.rounds):
        raise PlanError(
            "'penalty' has no effect in this plan: it is for the solver 'exact' and for the head "
            "'blend'"
        )
    for round in plan.rounds:
        name, settings = round.dataset, round.hyperparameters
        kind = str(plan.head_of(name))
        if settings.solver == "exact" and only_layer(heads[name]) is None:
            raise PlanError(
                f"head {kind!r} of {name!r} is not one linear layer with a bias, and the solver "
                "'exact' needs that: use `--head linear`, or the solver 'steps'"
            )
        if blended & {*round.datasets} and not getattr(body, "intensities", 0):
            raise PlanError(
                f"head {kind!r} of {name!r} needs the intensities of the image among the features "
                f"of the body, and {str(plan.body.name)!r} has none: use "
                "`--body small --body-option intensities=true`, or `--head linear`"
            )


def _shapes(
    plan: Plan,
    adapters: Mapping[str, DatasetAdapter],
    in_channels: int,
    plugins: Plugins,
    *,
    seed: int,
) -> dict[tuple[type, str, str], Shapes]:
    """Shapes of all tensors of a new body and of new heads, by kind, component and dataset."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # a head may draw its shape
        body = build_body(
            plan.body, in_channels=in_channels, datasets=tuple(adapters), plugins=plugins
        )
        found: dict[tuple[type, str, str], Shapes] = {
            (BodyFactory, plan.body.name, ""): shapes_of(cast("nn.Module", body))
        }
        for name, adapter in adapters.items():
            head = plan.head_of(name)
            built = build_head(
                head, features=body.features, outputs=len(adapter.classes), plugins=plugins
            )
            found[HeadFactory, head.name, name] = shapes_of(built)
    return found


def _shape_text(shapes: Shapes, name: str) -> str:
    return "x".join(map(str, shapes[name])) or "a number" if name in shapes else "absent"
