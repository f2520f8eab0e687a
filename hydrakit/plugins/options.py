"""Options of components: text and stored values become the dataclass that a component declares.

A closed set of types is understood, so that a value of the command line, of a plan file and of
Python code is read by the same rules, and modules with hooks need not import pydantic.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydrakit.errors import PlanError, one_line, unknown
from hydrakit.hooks import DatasetAdapter, Factory, OptionValue

TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
SCALARS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


@dataclass(frozen=True, kw_only=True)
class OptionField:
    """One option of a component.

    Attributes:
        name: Name of the field.
        type: Its declared type.
        default: Its value where the user gives none.
        help: What it does; empty where its author does not say.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[OptionValue, ...]:
        """The values of a ``Literal``; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def expected(self) -> str:
        """The values that it takes, in words."""
        return _expected(self.type)


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The fields of an options dataclass, in order.

    Raises:
        NameError: A type is named that its module does not know.
    """
    hints = get_type_hints(options)
    return tuple(
        OptionField(
            name=each.name,
            type=hints[each.name],
            default=each.default if each.default_factory is MISSING else each.default_factory(),
            help=each.metadata.get("help", ""),
        )
        for each in dataclasses.fields(options)
    )


def options_fault(options: Any) -> str | None:
    """What is wrong with the options that a component declares, or None."""
    if not isinstance(options, type) or not dataclasses.is_dataclass(options):
        return "has options that are no dataclass"
    if not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "has options that can be changed: make their dataclass frozen"
    try:
        fields = option_fields(options)
    except NameError as error:
        return f"has options whose types cannot be read: {error}"
    for each in fields:
        if each.default is MISSING:
            return f"has an option {each.name!r} without a default"
        if not _understood(each.type):
            return (
                f"has an option {each.name!r} of a type that cannot be given as text: use str, "
                "int, float, bool, a Literal, a tuple[..., ...] of them, or one of these | None"
            )
        if each.choices and each.default not in each.choices:
            return f"has an option {each.name!r} whose default is not among its choices"
    return None


def parse_options(factory: Factory, given: Mapping[str, OptionValue]) -> Any:
    """The options of a component: the given values, checked, and the others' defaults.

    Args:
        factory: The component.
        given: Values by name: as text, as stored in a plan, or of the right type.

    Raises:
        PlanError: An option is unknown, or its value is not allowed.
    """
    known = {each.name: each for each in option_fields(factory.options)}
    for name in given:
        if name not in known:
            where = "datasets" if isinstance(factory, DatasetAdapter) else "plugins"
            raise PlanError(
                f"{unknown(f'option of {factory.name!r}', name, known)} "
                f"(see `hydrakit {where} info {factory.name}`)"
            )
    values = {}
    for name, value in given.items():
        try:
            values[name] = _parse(known[name].type, option_text(value))
        except ValueError:
            raise PlanError(
                f"option {factory.name}.{name}={one_line(option_text(value), 60)}: must be "
                f"{known[name].expected}"
            ) from None
    try:
        return factory.options(**values)
    except ValueError as error:
        raise PlanError(f"options of {factory.name!r}: {one_line(str(error))}") from None


def resolve_options(factory: Factory, given: Mapping[str, OptionValue]) -> dict[str, OptionValue]:
    """All options of a component by name, as a plan stores them.

    Raises:
        PlanError: As `parse_options`.
    """
    options = parse_options(factory, given)
    return {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}


def _optional(kind: Any) -> Any:
    """The type beside ``None`` of a union of two; None for any other type."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [each for each in get_args(kind) if each is not type(None)]
        if len(others) == 1 and len(get_args(kind)) == 2:
            return others[0]
    return None


def _element(kind: Any) -> Any:
    """The type of a tuple's elements; None for any other type."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return None


def _understood(kind: Any) -> bool:
    kind = _optional(kind) or kind
    kind = _element(kind) or kind
    return kind in SCALARS or get_origin(kind) is Literal


def _expected(kind: Any) -> str:
    if (other := _optional(kind)) is not None:
        return f"{_expected(other)}, or none"
    if (element := _element(kind)) is not None:
        return f"a list with commas, each {_expected(element)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return SCALARS[kind]


def option_text(value: OptionValue) -> str:
    """A value as it would be given on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(option_text, value))
    return str(value)


def _parse(kind: Any, text: str) -> Any:
    """The value that a text stands for.

    Raises:
        ValueError: It stands for none of that type.
    """
    if (other := _optional(kind)) is not None:
        return None if text.lower() == "none" else _parse(other, text)
    if (element := _element(kind)) is not None:
        parts = text.split(",") if text else []
        return tuple(_parse(element, part.strip()) for part in parts)
    if get_origin(kind) is Literal:
        choices = {str(each): each for each in get_args(kind)}
    elif kind is bool:
        text, choices = text.lower(), TRUTH
    else:
        return kind(text)
    if text not in choices:
        raise ValueError(text)
    return choices[text]
