"""Change single values of a plan, by paths: ``--set rounds.all.dropout=0.2``.

A path names a value as ``plan.json`` has it, its parts joined by dots:

* ``copies``, ``bootstrap``, ``body.channels``: a key, or a key of an object.
* ``datasets.NAME.split.train``: a dataset is addressed by its name.
* ``rounds.all.dropout``: every round. ``rounds.3.dropout``: the third round.
  ``rounds.train-head.dropout``: the rounds that train the head (``train-all``, ``train-norm`` and
  ``train-none`` likewise).
* ``heads.NAME`` and ``head.options.KEY`` may be new: a plan does not list options of heads where
  all are the defaults.
* ``hyperparameters``, and ``options`` that the plan lists, may be left out: ``rounds.3.dropout`` is
  ``rounds.3.hyperparameters.dropout``.

Where several changes concern the same value, a round's number takes precedence over what it trains,
and this over ``all``; the order in which changes are given has no influence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from hydrakit.errors import PlanError
from hydrakit.names import is_name
from hydrakit.plan.model import Plan
from hydrakit.rounds import Train
from hydrakit.schema import first_fault

ValueLocation = tuple[str | int, ...]

FIXED_PATHS = ("strategy", "target", "seed", "split_seed")
"""Values that a comparison or a search sets itself in each of its plans."""

FIXED_LISTS = ("datasets", "rounds")
"""Lists that may not be replaced as a whole there; values in them may be set."""

INNER = ("hyperparameters", "options")  # keys that a path may leave out
KIND = "train-"
MAX_SHOWN = 60


class _UnknownPathError(Exception):
    """A path names nothing in a plan."""


def edit_plan(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """The plan with some values changed.

    The model checks the values. Options of datasets, heads and bodies are checked when the plan is
    used, or at once where the changes are given to `make_plan`.

    Args:
        plan: Plan to begin with.
        changes: New values, by path: ``{"rounds.all.dropout": 0.2}``.

    Raises:
        PlanError: A path names nothing in the plan, or a value is impossible.
    """
    for path in paths_without_rounds(plan, changes):
        raise PlanError(no_such_round(plan, path))
    return edit_rounds_there_are(plan, changes)


def edit_rounds_there_are(plan: Plan, changes: Mapping[str, Any]) -> Plan:
    """As `edit_plan`, but a change of a round that the plan does not have is left out.

    So one set of changes serves plans with different rounds, as those of a comparison.
    """
    located = [
        (location, path)
        for path in sorted(changes, key=_precedence)
        for location in _locations(plan, path)
    ]
    _refuse_overlaps(located)
    content = _plain(plan)
    for location, path in located:
        _set(content, location, changes[path])
    try:
        return Plan.model_validate(content)
    except ValidationError as error:
        raise PlanError(_fault(error, located, changes)) from None


def paths_without_rounds(plan: Plan, paths: Iterable[str]) -> list[str]:
    """The paths of rounds that the plan does not have.

    Raises:
        PlanError: A path names nothing that any plan has.
    """
    return [path for path in paths if not _locations(plan, path)]


def no_such_round(plan: Plan, path: str) -> str:
    """The message for a path of rounds that the plan does not have."""
    selector = path.split(".")[1]
    if selector.startswith(KIND):
        kinds = sorted({round.train for round in plan.rounds})
        return (
            f"{path}: no round of this plan trains {selector.removeprefix(KIND)!r}: its rounds "
            f"train {', '.join(kinds)}"
        )
    return f"{path}: there is no such round: this plan has rounds 1 to {len(plan.rounds)}"


def refuse_fixed(changes: Iterable[str], fixed: Iterable[str], *, by: str) -> None:
    """Refuse changes of values that a comparison or a search sets itself.

    Args:
        changes: Paths to change.
        fixed: Paths of values that are not to be changed, with all below them.
        by: What sets them.

    Raises:
        PlanError: A path is one of those.
    """
    fixed = tuple(fixed)
    for path in changes:
        inside = any(path == each or path.startswith(f"{each}.") for each in fixed)
        if inside or path in FIXED_LISTS:
            raise PlanError(f"{path}: {by} sets this value itself: leave out `--set {path}`")


def leaf_paths(plan: Plan, selectors: Sequence[str] = ("all",)) -> list[str]:
    """The paths of all single values of a plan.

    Args:
        plan: Any plan.
        selectors: How rounds are addressed: ``all``, ``train-head``, ``3``.
    """
    return [".".join(parts) for parts in _leaves(plan, selectors)]


def _leaves(value: Any, selectors: Sequence[str]) -> Iterator[tuple[str, ...]]:
    if isinstance(value, BaseModel):
        inner = {name: getattr(value, name) for name in type(value).model_fields}
    elif isinstance(value, dict) and value:
        inner = value
    elif _is_list_of_models(value) and hasattr(value[0], "name"):
        inner = {each.name: each for each in value}
    elif _is_list_of_models(value) and hasattr(value[0], "train"):
        inner = dict.fromkeys(selectors, value[0])
    else:
        yield ()
        return
    for name, below in inner.items():
        for rest in _leaves(below, selectors):
            yield rest if name == "hyperparameters" else (name, *rest)


def _is_list_of_models(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], BaseModel)


def _locations(plan: Plan, path: str) -> list[ValueLocation]:
    """Where the values of a path are, as keys and indices from the top of the plan.

    Raises:
        PlanError: The path names nothing that any plan has.
    """
    try:
        return list(_resolve(plan, path.split(".")))
    except _UnknownPathError:
        raise PlanError(f"unknown path {path!r}: {_hint(path, plan)}") from None


def _resolve(value: Any, parts: Sequence[str]) -> Iterator[ValueLocation]:
    if not parts:
        yield ()
        return
    first, rest = parts[0], parts[1:]
    if _is_list_of_models(value):
        if not rest:
            raise _UnknownPathError
        for index in _select(value, first):
            for location in _resolve(value[index], rest):
                yield (index, *location)
        return
    inner = _children(value)
    if first in inner:
        for location in _resolve(inner[first], rest):
            yield (first, *location)
        return
    for name in INNER:
        if first in _children(inner.get(name)):
            for location in _resolve(inner[name], parts):
                yield (name, *location)
            return
    if isinstance(value, dict) and not rest and is_name(first):
        yield (first,)
        return
    raise _UnknownPathError


def _children(value: Any) -> Mapping[str, Any]:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return value if isinstance(value, dict) else {}


def _select(values: Sequence[Any], selector: str) -> list[int]:
    """Indices of the datasets or rounds that a part of a path addresses."""
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
    """Sorting key: a later change replaces an earlier one of the same value."""
    kind, _, rest = path.partition(".")
    selector = rest.partition(".")[0]
    if kind != "rounds" or selector == "all":
        return 0, path
    return (1 if selector.startswith(KIND) else 2), path


def _refuse_overlaps(located: Sequence[tuple[ValueLocation, str]]) -> None:
    """Refuse two changes that neither agree nor have an order.

    Raises:
        PlanError: Two paths name the same value in the same way, or one names a part of the other.
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
    """A model as objects and lists that can be changed."""
    if isinstance(value, BaseModel | dict):
        return {name: _plain(below) for name, below in _children(value).items()}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _set(content: Any, location: ValueLocation, value: Any) -> None:
    *way, last = location
    for part in way:
        content = content[part]
    if isinstance(content.get(last), list):
        value = _as_list(value)
    content[last] = value


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        return [parse_value(each.strip()) for each in value.split(",")]
    return [value] if isinstance(value, int | float) else value


def parse_value(text: str) -> Any:
    """A value from text: JSON where it is, else the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _hint(path: str, plan: Plan) -> str:
    """The end of the message for an unknown path: the nearest valid one, or the keys there are."""
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
    endings = {each[-1]: each for each in reversed(known)}
    if depth == 0 and parts[-1] in endings:
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
    """The ways to address rounds that a hint may name: the given one where it is valid."""
    selector = parts[1] if parts[0] == "rounds" and len(parts) > 1 else ""
    kinds = {KIND + kind for kind in get_args(Train)}
    if selector == "all" or selector in kinds or selector.isdecimal():
        return [selector]
    return ["all", *sorted({KIND + round.train for round in plan.rounds})]


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Number of parts that two paths have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _fault(
    error: ValidationError, located: Sequence[tuple[ValueLocation, str]], changes: Mapping[str, Any]
) -> str:
    """The first fault, on one line, with the path and the value that caused it."""
    fault = error.errors(include_url=False)[0]
    where = fault["loc"]
    for location, path in reversed(located):
        length = min(len(location), len(where))
        if where and location[:length] == where[:length]:
            message = fault["msg"].removeprefix("Value error, ")
            return f"{path}={shown_value(changes[path])}: {message}"
    return f"{first_fault(error)} (with {', '.join(changes)} changed)"


def shown_value(value: Any) -> str:
    """A value as text for a message."""
    text = json.dumps(value, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
