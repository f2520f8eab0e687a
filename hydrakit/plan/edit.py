"""Changes of single values of a plan: ``--set rounds.all.dropout=0.2``.

The path before ``=`` consists of the keys of a value in ``plan.json``, joined by dots:

* ``copies``, ``bootstrap``, ``body.channels``: a key, or a key of an object.
* ``datasets.NAME.split.train``: the dataset with that name.
* ``rounds.all.dropout``: every round. ``rounds.3.dropout``: the third round.
  ``rounds.train-head.dropout``: the rounds that train the head (also ``train-all``, ``train-norm``
  and ``train-none``).
* ``heads.NAME`` and ``head.options.KEY``, even if the plan does not list them yet.
* ``datasets.NAME.field_of_view.share``: a key of a value that may be an object, even if the plan
  does not list it yet. The size of a field of view in the other unit is removed.
* ``rounds.3.dropout`` is short for ``rounds.3.hyperparameters.dropout``: the key
  ``hyperparameters`` may be left out, and ``options`` too if the plan lists the option.

If several changes concern the same value, the number of a round takes precedence over
``train-...``, and this over ``all``. The order of the changes does not matter.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from hydrakit.errors import PlanError, command_line
from hydrakit.hooks import FieldOfView
from hydrakit.names import is_name
from hydrakit.plan.model import Plan
from hydrakit.rounds import Train
from hydrakit.schema import first_fault, main_fault, plain_words

ValueLocation = tuple[str | int, ...]
Children = Mapping[str, tuple[Any, Any]]
"""Values below another by their keys, each with its declared type (None if there is none)."""

FIXED_PATHS = ("strategy", "target", "seed", "split_seed")
"""Values that a comparison or a search sets in its plans, and that users cannot change."""

FIXED_LISTS = ("datasets", "rounds")
"""Lists of these plans of which users can change single values, but not the whole list."""

OMISSIBLE_KEYS = ("hyperparameters", "options")
KIND = "train-"
MAX_VALUE = 60  # characters of a value in a message


class _UnknownPathError(Exception):
    """A path does not exist in a plan."""


def edit_plan(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Return a copy of a plan with some values changed.

    The new values are checked, except for the options of datasets, heads and bodies:
    `hydrakit.plan.profiles.complete_options` checks them.

    Args:
        plan: Plan to copy.
        changes: New values by path: ``{"rounds.all.dropout": 0.2}``.

    Raises:
        PlanError: A path does not exist in the plan, or a value is invalid.
    """
    for path in paths_without_rounds(plan, changes):
        raise PlanError(no_such_round(plan, path))
    return edit_existing_rounds(plan, changes)


def edit_existing_rounds(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """Edit a plan as `edit_plan` does, but skip changes of rounds that the plan does not have.

    So the plans of a comparison, which have different rounds, can use the same changes.
    """
    resolved = [
        (location, kind, path)
        for path in sorted(changes, key=_precedence)
        for location, kind in _locations(plan, path)
    ]
    located = [(location, path) for location, _, path in resolved]
    _refuse_overlaps(located)
    content = _plain(plan)
    for location, path in located:
        if changes[path] is not None:
            _unset_other_unit(content, location)
    for location, kind, path in resolved:
        _set(content, location, _as_list(changes[path]) if _is_list(kind) else changes[path])
    try:
        edited = Plan.model_validate(content)
    except ValidationError as error:
        raise PlanError(_fault(error, resolved, changes)) from None
    _refuse_converted(edited, content, located)
    return edited


def paths_without_rounds(plan: Plan, paths: Iterable[str]) -> list[str]:
    """The paths of rounds that the plan does not have.

    Raises:
        PlanError: A path exists in no plan.
    """
    return [path for path in paths if not _locations(plan, path)]


def no_such_round(plan: Plan, path: str) -> str:
    """The error message for a path of rounds that the plan does not have."""
    selector = path.split(".")[1]
    if selector.startswith(KIND):
        kinds = sorted({round.train for round in plan.rounds})
        return (
            f"{path}: no round of this plan trains {selector.removeprefix(KIND)!r}: its rounds "
            f"train {', '.join(kinds)}"
        )
    return f"{path}: there is no such round: this plan has rounds 1 to {len(plan.rounds)}"


def refuse_fixed(
    changes: Iterable[str], fixed: Iterable[str], *, by: str, option: str = "--set"
) -> None:
    """Refuse changes of values that a comparison or a search sets itself.

    Args:
        changes: Paths of the changes.
        fixed: Paths of values and objects that must not be changed.
        by: Command that sets these values.
        option: Option that gave the changes.

    Raises:
        PlanError: A change concerns such a value.
    """
    fixed = tuple(fixed)
    for path in changes:
        inside = any(path == each or path.startswith(f"{each}.") for each in fixed)
        if inside or path in FIXED_LISTS:
            given = command_line(option, path)
            raise PlanError(f"{path}: {by} sets this value itself: leave out `{given}`")


def leaf_paths(plan: Plan, selectors: Sequence[str] = ("all",)) -> list[str]:
    """The paths of all single values of a plan.

    Args:
        plan: Plan with the values.
        selectors: Selectors of rounds in these paths, such as ``all``, ``train-head`` or ``3``.
    """
    return [".".join(parts) for parts in _leaves(plan, selectors)]


def _leaves(value: Any, selectors: Sequence[str], kind: Any = None) -> Iterator[tuple[str, ...]]:
    if _is_list_of_models(value) and hasattr(value[0], "name"):
        inner: Children = {each.name: (each, None) for each in value}
    elif _is_list_of_models(value) and hasattr(value[0], "train"):
        inner = dict.fromkeys(selectors, (value[0], None))
    else:
        inner = _children(value, kind)
    if not inner or not _is_table(value):
        yield ()
    for name, (below, kind_below) in inner.items():
        for rest in _leaves(below, selectors, kind_below):
            yield rest if name == "hyperparameters" else (name, *rest)


def _is_list_of_models(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)


def _locations(plan: Plan, path: str) -> list[tuple[ValueLocation, Any]]:
    """The locations that a path addresses, as keys and indices in the plan, and their types.

    Raises:
        PlanError: The path exists in no plan.
    """
    try:
        return list(_resolve(plan, None, path.split(".")))
    except _UnknownPathError:
        raise PlanError(f"unknown path {path!r}: {_hint(path, plan)}") from None


def _resolve(value: Any, kind: Any, parts: Sequence[str]) -> Iterator[tuple[ValueLocation, Any]]:
    if not parts:
        yield (), kind
        return
    first, rest = parts[0], parts[1:]
    if _is_list_of_models(value):
        if not rest:
            raise _UnknownPathError
        for index in _select(value, first):
            for location, found in _resolve(value[index], None, rest):
                yield (index, *location), found
        return
    inner = _children(value, kind)
    if first in inner:
        for location, found in _resolve(*inner[first], rest):
            yield (first, *location), found
        return
    for name in OMISSIBLE_KEYS:
        if name in inner and first in _children(*inner[name]):
            for location, found in _resolve(*inner[name], parts):
                yield (name, *location), found
            return
    if isinstance(value, dict) and not rest and is_name(first):
        yield (first,), None
        return
    raise _UnknownPathError


def _children(value: Any, kind: Any = None) -> Children:
    """The values below a value; None for those of an object that it may be but is not."""
    if isinstance(value, dict):
        return {name: (below, type(below)) for name, below in value.items()}
    if _is_table(value):
        return {name: (getattr(value, name), each) for name, each in _fields(type(value)).items()}
    tables = [each for each in _members(kind) if _is_record(each)]
    return {name: (None, each) for table in tables for name, each in _fields(table).items()}


def _is_record(kind: Any) -> bool:
    """Whether a type is a model or a dataclass."""
    return isinstance(kind, type) and (
        issubclass(kind, BaseModel) or dataclasses.is_dataclass(kind)
    )


def _is_table(value: Any) -> bool:
    """Whether a value has values below it, with keys."""
    return isinstance(value, dict) or _is_record(type(value))


def _fields(kind: Any) -> Mapping[str, Any]:
    """The types of the fields of a model or a dataclass."""
    if issubclass(kind, BaseModel):
        return {name: field.annotation for name, field in kind.model_fields.items()}
    return get_type_hints(kind)


def _members(kind: Any) -> list[Any]:
    """The types that a declared type consists of."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for each in get_args(kind) for member in _members(each)]
    return [kind]


def _is_list(kind: Any) -> bool:
    return any(tuple in (each, get_origin(each)) for each in _members(kind))


def _select(values: Sequence[Any], selector: str) -> list[int]:
    """Indices of the datasets or rounds that a part of a path selects."""
    if hasattr(values[0], "name"):
        indices = [index for index, each in enumerate(values) if each.name == selector]
        if not indices:
            raise _UnknownPathError
        return indices
    if selector == "all":
        return list(range(len(values)))
    if selector.isdecimal() and selector.isascii() and len(selector) < 10:
        index = int(selector) - 1
        return [index] if 0 <= index < len(values) else []
    kind = selector.removeprefix(KIND)
    if selector.startswith(KIND) and kind in get_args(Train) and hasattr(values[0], "train"):
        return [index for index, each in enumerate(values) if each.train == kind]
    raise _UnknownPathError


def _precedence(path: str) -> tuple[int, str]:
    """Sorting key of changes: a later one replaces earlier ones of the same value."""
    kind, _, rest = path.partition(".")
    selector = rest.partition(".")[0]
    if kind != "rounds" or selector == "all":
        return 0, path
    return (1 if selector.startswith(KIND) else 2), path


def _refuse_overlaps(located: Sequence[tuple[ValueLocation, str]]) -> None:
    """Refuse changes that contradict each other.

    Raises:
        PlanError: Two paths of equal precedence name the same value, or one names a part of the
            other.
    """
    by_location: dict[ValueLocation, list[str]] = {}
    for location, path in located:
        by_location.setdefault(location, []).append(path)
    for paths in by_location.values():
        for one, other in combinations(paths, 2):
            if _precedence(one)[0] == _precedence(other)[0]:
                raise PlanError(f"{one} and {other} are the same value: set it once")
    for location, (path, *_) in by_location.items():
        for length in range(len(location)):
            for whole in by_location.get(location[:length], ()):
                raise PlanError(f"{path} is a part of {whole}, which is set too: set one of them")


def _plain(value: Any) -> Any:
    """Return a model as dictionaries and lists, which can be changed."""
    if _is_table(value):
        return {name: _plain(below) for name, (below, _) in _children(value).items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _unset_other_unit(content: Any, location: ValueLocation) -> None:
    """Remove the size of a field of view before one of its two keys is set."""
    if location[-2:-1] == ("field_of_view",) and location[-1] in _fields(FieldOfView):
        _set(content, location[:-1], None)


def _set(content: Any, location: ValueLocation, value: Any) -> None:
    *parents, last = location
    for part in parents:
        if isinstance(content, dict) and not isinstance(content[part], dict | list):
            content[part] = {}
        content = content[part]
    content[last] = value


def _refuse_converted(
    edited: Plan, content: Any, located: Sequence[tuple[ValueLocation, str]]
) -> None:
    """Refuse text such as ``1_0`` that pydantic has converted to a number.

    Raises:
        PlanError: There is such a text.
    """
    for location, path in located:
        before, after = content, _plain(edited)
        for part in location:
            before, after = before[part], after[part]
        pairs = zip(before, after, strict=True) if isinstance(before, list) else [(before, after)]
        for text, value in pairs:
            if isinstance(text, str) and type(value) in (int, float):
                raise PlanError(f"{path}={text}: must be a number, written as {value}")


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [] if not value.strip() else [parse_value(each.strip()) for each in value.split(",")]
    return [value] if isinstance(value, int | float) else value


def parse_value(text: str) -> Any:
    """Parse text as JSON; text that is not JSON is returned unchanged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _hint(path: str, plan: Plan) -> str:
    """The hint in the message for an unknown path: the nearest valid path, or the valid keys."""
    parts = [part for part in path.split(".") if part != "hyperparameters"]
    known = [tuple(each.split(".")) for each in leaf_paths(plan, _selectors(parts, plan))]
    depth = max(_common(parts, each) for each in known)
    below = [each for each in known if _common(parts, each) == depth and len(each) > depth]
    keys = list(dict.fromkeys(each[depth] for each in below))
    where = ".".join(parts[:depth]) or "a plan"
    if not keys:
        return f"{where} has no keys: set it as a whole"
    if depth == len(parts):
        return f"add one of its keys: {', '.join(keys)}"
    endings = {each[-1]: each for each in reversed(below)}
    if parts[-1] in endings and (depth == 0 or len(parts) == depth + 1):
        return _did_you_mean(endings[parts[-1]])
    if KIND + parts[depth] in keys:
        return _did_you_mean((*parts[:depth], KIND + parts[depth], *parts[depth + 1 :]))
    near = difflib.get_close_matches(parts[depth], keys, n=1)
    if near:
        return _did_you_mean((*parts[:depth], near[0], *parts[depth + 1 :]))
    near = difflib.get_close_matches(parts[-1], endings, n=1) if depth == 0 else []
    if near:
        return _did_you_mean(endings[near[0]])
    if "options" in keys and depth:
        return _did_you_mean((*parts[:depth], "options", *parts[depth:]))
    return f"the keys of {where} are {', '.join(keys)}"


def _did_you_mean(parts: Sequence[str]) -> str:
    return f"did you mean {'.'.join(parts)!r}?"


def _selectors(parts: Sequence[str], plan: Plan) -> list[str]:
    """The selectors of rounds that a hint may name: that of the path if it is valid, or all."""
    selector = parts[1] if parts[:1] == ["rounds"] and len(parts) > 1 else ""
    kinds = {KIND + kind for kind in get_args(Train)}
    if selector == "all" or selector in kinds or selector.isdecimal():
        return [selector]
    return ["all", *sorted({KIND + round.train for round in plan.rounds})]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of equal parts at the beginning of two paths."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _fault(
    error: ValidationError,
    resolved: Sequence[tuple[ValueLocation, Any, str]],
    changes: Mapping[str, Any],
) -> str:
    """The first validation error, on one line, with the path and the value that caused it."""
    fault = main_fault(error)
    missing = fault["type"] == "missing"
    where = fault["loc"][:-1] if missing else fault["loc"]
    for location, kind, path in reversed(resolved):
        length = min(len(location), len(where))
        if where and location[:length] == where[:length]:
            message = plain_words(fault["msg"])
            if missing and _is_list(kind):
                message = f"must be {len(get_args(kind))} values, separated by commas"
            elif missing:
                message = f"its table needs {fault['loc'][-1]!r} too"
            elif fault["type"] == "dataclass_type":
                message += (
                    f": set one of {', '.join(f'{path}.{key}' for key in _children(None, kind))}"
                )
            value = json.dumps(changes[path], default=str)
            value = value if len(value) <= MAX_VALUE else f"{value[:MAX_VALUE]}..."
            return f"{path}={value}: {message}"
    return f"{first_fault(error)} (with {', '.join(changes)} changed)"
