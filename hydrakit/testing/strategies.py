"""Checks of a training sequence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from hydrakit.errors import HydrakitError
from hydrakit.hooks import DatasetAdapter, FieldOfView, SequenceStrategy, Settings
from hydrakit.plugins.guard import describe_error
from hydrakit.plugins.process_state import SEEDS, restored
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.testing.opened import opened_files
from hydrakit.testing.properties import (
    CheckedProperty,
    Property,
    PropertySkipped,
    check_properties,
    require,
)

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.rounds import Round

NAMES = ("first", "second", "third", "fourth", "fifth")
COUNTS = (1, 2, 3, 5)


class _RefusedError(Exception):
    """A strategy refused a list of datasets with an explanation for users."""


@dataclass(frozen=True)
class StrategySubject:
    """A strategy to check.

    Attributes:
        strategy: The strategy, unguarded.
        plugins: Plugins with the heads and bodies of its plans.
    """

    strategy: SequenceStrategy
    plugins: Plugins

    def plan(self, names: Sequence[str]) -> Plan:
        """The plan for some datasets, with all checks of a real one.

        Raises:
            _RefusedError: The strategy refuses these datasets.
            AssertionError: It lists no valid rounds.
        """
        from hydrakit.plan.profiles import make_plan

        adapters = [_adapter(name) for name in dict.fromkeys(names)]
        asked = replace(self.strategy, plan=self._rounds)
        plugins = self.plugins.including(asked, *adapters)
        try:
            return make_plan(self.strategy.name, list(names), plugins=plugins)
        except (_RefusedError, AssertionError):
            raise
        except Exception as error:
            why = str(error) if isinstance(error, HydrakitError) else describe_error(error)
            raise AssertionError(f"datasets {', '.join(names)}: {why}") from error

    def _rounds(self, datasets: Sequence[str], settings: Settings) -> list[Round]:
        from hydrakit.rounds import Round

        given = list(datasets)
        try:
            rounds = list(self.strategy.plan(given, settings))
        except HydrakitError as error:
            raise _RefusedError(str(error)) from error
        assert given == list(datasets), "it changes the list of datasets: work on a copy"
        for each in rounds:
            assert isinstance(each, Round), (
                f"it returned a {type(each).__name__}: a list of hydrakit.plan.Round is expected"
            )
        target = datasets[-1]
        assert any(each.dataset == target for each in rounds), (
            f"no round trains on {target!r}, the last of {', '.join(datasets)}, which is the target"
        )
        return rounds

    @cached_property
    def accepted(self) -> tuple[str, ...]:
        """Names of three datasets, or of the most that it accepts.

        Raises:
            PropertySkipped: It has no plan for any number of datasets.
        """
        for count in (3, 2, 5, 1):
            try:
                self.plan(NAMES[:count])
            except (_RefusedError, AssertionError):
                continue
            return NAMES[:count]
        raise PropertySkipped("it lists no rounds")


def _adapter(name: str) -> DatasetAdapter:
    def read(root: object, options: object) -> None:
        raise AssertionError("a strategy must not read data")

    return DatasetAdapter(
        name=name,
        summary="A dataset without files",
        classes=("negative", "positive"),
        read=read,  # type: ignore[arg-type]
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="nothing",
        how_to_get="nowhere",
        citation="none",
        licence="none",
    )


def _plans(subject: StrategySubject) -> str:
    rounds, refused = [], []
    for count in COUNTS:
        try:
            plan = subject.plan(NAMES[:count])
        except _RefusedError as error:
            refused.append(f"{count} refused: {error}")
        else:
            rounds.append(str(len(plan.rounds)))
    assert rounds, f"it refuses every number of datasets: {refused[0]}"
    return "; ".join((f"{', '.join(rounds)} rounds", *refused))


def _repeats(subject: StrategySubject) -> str:
    names = (*NAMES[:2], NAMES[0])
    try:
        plan = subject.plan(names)
    except _RefusedError as error:
        return f"refused: {error}"
    return f"{len(plan.rounds)} rounds for {', '.join(names)}"


def _is_the_same_again(subject: StrategySubject) -> str:
    names = subject.accepted
    one, other = (subject.plan(names).rounds for _ in range(2))
    assert len(one) == len(other), (
        f"it listed {len(one)} rounds, then {len(other)} for the same datasets: let them depend on "
        "its arguments alone"
    )
    for number, (before, after) in enumerate(zip(one, other, strict=True), start=1):
        fields = [name for name in type(before).model_fields
                  if getattr(before, name) != getattr(after, name)]  # fmt: skip
        assert not fields, (
            f"round {number} has another {' and '.join(fields)} when it is asked again: let rounds "
            "depend on its arguments alone"
        )
    return ""


def _only_describes(subject: StrategySubject) -> str:
    names = subject.accepted
    subject.plan(names)  # whatever it imports is imported now
    changed: list[str] = []
    with restored(changed.extend, seeds=True), opened_files() as opened:
        subject.plan(names)
    assert not opened, f"it opens {opened[0]}: a plan must depend on its arguments alone"
    drawn = {part.name for part in SEEDS}.intersection(changed)
    assert not drawn, "it draws random numbers: a plan must depend on its arguments alone"
    assert not changed, (
        f"it changes {', '.join(changed)}: a plan must depend on its arguments alone"
    )
    return ""


def _needs_no_torch(subject: StrategySubject) -> str:
    if "torch" in sys.modules:
        raise PropertySkipped("torch is already imported here")
    assert subject.accepted
    assert "torch" not in sys.modules, (
        "it imports torch: `hydrakit plan` would wait for seconds; describe rounds without it"
    )
    return ""


STRATEGY_PROPERTIES = (
    Property("lists rounds without torch", _needs_no_torch),
    Property("lists valid rounds for 1, 2, 3 and 5 datasets", _plans),
    Property("a dataset may be named again", _repeats),
    Property("lists the same rounds again", _is_the_same_again),
    Property("reads no file and draws no random number", _only_describes),
)
"""Properties of a strategy."""


def check_strategy(strategy: SequenceStrategy) -> list[CheckedProperty]:
    """Check that a strategy lists valid rounds, and does nothing else.

    It is asked for the rounds of 1, 2, 3 and 5 datasets, and of a dataset that is named twice. The
    heads and bodies that it names must be installed. It may refuse a number of datasets with a
    `HydrakitError`, unless it refuses all.

    Returns:
        The properties that were checked.

    Raises:
        AssertionError: It has faults; the message has one line for each.
    """
    subject = StrategySubject(strategy, load_plugins())
    return require(check_properties(f"strategy {strategy.name!r}", subject, STRATEGY_PROPERTIES))
