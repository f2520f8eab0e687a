"""Checks and parses the options of components.

Options are a dataclass with a few simple types of field. So values from the command line, a plan
file and Python code are parsed by the same rules, and plugins need not import pydantic.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydrakit.errors import PlanError, command_line, one_line, unknown
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
        type: Declared type.
        default: Value if the user gives none.
        help: Help text; may be empty.
    """

    name: str
    type: Any
    default: Any
    help: str

    @property
    def choices(self) -> tuple[OptionValue, ...]:
        """The allowed values of a ``Literal``; empty for other types."""
        return get_args(self.type) if get_origin(self.type) is Literal else ()

    @property
    def values(self) -> tuple[OptionValue, ...]:
        """The values of a ``Literal`` or a ``bool``, and None if allowed; empty for other types."""
        inner = _without_none(self.type)
        kind = self.type if inner is None else inner
        listed: tuple[OptionValue, ...] = (False, True) if kind is bool else ()
        if get_origin(kind) is Literal:
            listed = get_args(kind)
        return listed if inner is None else (*listed, None)

    @property
    def expected(self) -> str:
        """The allowed values, in words."""
        return _expected(self.type)


def option_fields(options: type) -> tuple[OptionField, ...]:
    """The fields of an options dataclass, in order.

    Raises:
        NameError: The module of the dataclass does not define the type of a field.
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
    """What is wrong with the ``options`` of a component, or None."""
    if not isinstance(options, type) or not dataclasses.is_dataclass(options):
        return "has options that are not a dataclass"
    if not options.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return "has options that are not frozen: write @dataclass(frozen=True)"
    try:
        fields = option_fields(options)
    except NameError as error:
        return f"has options whose types cannot be read: {error}"
    for each in fields:
        if each.default is MISSING:
            return f"has an option {each.name!r} without a default"
        if not _is_supported(each.type):
            return (
                f"has an option {each.name!r} of an unsupported type: use str, int, float, bool, a "
                "Literal, a tuple[..., ...] of them, or one of these | None"
            )
        if each.choices and each.default not in each.choices:
            return f"has an option {each.name!r} with a default that its Literal does not allow"
    return None


def split_component(text: str, *, option: str) -> tuple[str, dict[str, str]]:
    """Name and options of ``NAME`` or ``NAME:option=value,...``.

    A value may hold commas and colons; a comma that a name and ``=`` follow begins the next option.

    Args:
        text: The text.
        option: Option of the command line, for the message.

    Raises:
        PlanError: The text has another form, or names an option twice.
    """
    name, colon, rest = text.partition(":")
    options: dict[str, str] = {}
    for part in re.split(r",(?=[a-z_]+=)", rest) if colon else []:
        key, equals, value = part.partition("=")
        if not (name and equals and re.fullmatch("[a-z_]+", key)):
            raise PlanError(
                f"{option} {one_line(text, 60)}: is not of the form NAME or "
                "NAME:option=value,option=value"
            )
        if key in options:
            raise PlanError(f"{option} {one_line(text, 60)}: {key} is given twice")
        options[key] = value
    return name, options


def parse_options(factory: Factory, given: Mapping[str, OptionValue]) -> Any:
    """Check the values of some options; return all options, the others with their defaults.

    Args:
        factory: Component with the options.
        given: Values by name: as text, as a plan stores them, or of the declared type.

    Raises:
        PlanError: An option is unknown, or its value is not allowed.
    """
    known = {each.name: each for each in option_fields(factory.options)}
    for name in given:
        if name not in known:
            where = "datasets" if isinstance(factory, DatasetAdapter) else "plugins"
            raise PlanError(
                f"{unknown(f'option of {factory.name!r}', name, known)} "
                f"(see `{command_line('hydrakit', where, 'info', factory.name)}`)"
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
    """All options of a component by name, as a plan stores them; checked as in `parse_options`.

    Raises:
        PlanError: An option is unknown, or its value is not allowed.
    """
    options = parse_options(factory, given)
    return {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}


def _without_none(kind: Any) -> Any:
    """``X`` for the type ``X | None``; None for any other type."""
    if get_origin(kind) in (Union, types.UnionType):
        others = [each for each in get_args(kind) if each is not type(None)]
        if len(others) == 1 and len(get_args(kind)) == 2:
            return others[0]
    return None


def _element(kind: Any) -> Any:
    """``X`` for the type ``tuple[X, ...]``; None for any other type."""
    arguments = get_args(kind)
    if get_origin(kind) is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        return arguments[0]
    return None


def _is_supported(kind: Any) -> bool:
    kind = _without_none(kind) or kind
    kind = _element(kind) or kind
    return kind in SCALARS or get_origin(kind) is Literal


def _expected(kind: Any) -> str:
    if (other := _without_none(kind)) is not None:
        return f"{_expected(other)}, or none"
    if (element := _element(kind)) is not None:
        return f"a list separated by commas, each {_expected(element)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return SCALARS[kind]


def option_text(value: OptionValue) -> str:
    """A value as users write it on the command line."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ",".join(map(option_text, value))
    return str(value)


def _parse(kind: Any, text: str) -> Any:
    """Parse text as a value of a type.

    Raises:
        ValueError: The text is not a value of that type.
    """
    if (other := _without_none(kind)) is not None:
        return None if text.lower() == "none" else _parse(other, text)
    if (element := _element(kind)) is not None:
        parts = text.split(",") if text else []
        return tuple(_parse(element, part.strip()) for part in parts)
    if get_origin(kind) is Literal:
        choices = {str(each): each for each in get_args(kind)}
    elif kind is bool:
        text, choices = text.lower(), TRUTH
    elif kind is str:
        return text
    else:
        return parse_number(kind, text)
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def parse_number(kind: type[int] | type[float], text: str) -> int | float:
    """Parse a number that is written as in JSON: no ``1_0``, no digits of other scripts, no NaN.

    Raises:
        ValueError: The text is not a finite number of that type.
    """
    if "_" in text or not text.isascii():
        raise ValueError(text)
    number = kind(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
