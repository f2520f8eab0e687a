"""Checks of a tracker: what it records, it has when the run is resumed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit.errors import HydrakitError
from hydrakit.hooks import TrackedRun, TrackerFactory
from hydrakit.plugins.options import option_fields, parse_options
from hydrakit.testing.properties import Property, PropertySkipped

METRIC = "val loss"
STEPS = {1, 2}


@dataclass(frozen=True)
class TrackerSubject:
    """A tracker to check.

    Attributes:
        factory: Its factory, unguarded.
        folder: Folder for its records.
    """

    factory: TrackerFactory
    folder: Path

    def build(self) -> Any:
        """A new tracker, whose store is in the folder if it has the option ``to``.

        Raises:
            PropertySkipped: It cannot be used on this machine.
        """
        names = {each.name for each in option_fields(self.factory.options)}
        given = {"to": str(self.folder / "store")} if "to" in names else {}
        options = parse_options(self.factory, given)
        try:
            return self.factory.build(options)
        except HydrakitError as error:
            raise PropertySkipped(f"it cannot be used here: {error}") from error

    def opened(self) -> tuple[Any, Any]:
        """A new tracker that was opened for the same run, and what `open` returned."""
        tracker, run = self.build(), self.folder / "run"
        run.mkdir(exist_ok=True)
        if hasattr(tracker, "describe"):
            tracker.describe(
                TrackedRun(
                    key="0123456789abcdef",
                    name="run",
                    folder=run,
                    group=None,
                    parameters={"strategy": "hydra"},
                )
            )
        return tracker, tracker.open(run)


def _is_built(subject: TrackerSubject) -> str:
    built = subject.build()
    for name in ("open", "send", "flush", "close"):
        assert callable(getattr(built, name, None)), (
            f"it has no method {name!r}: see hydrakit.hooks.Tracker"
        )
    return ""


def _records(subject: TrackerSubject) -> str:
    tracker, before = subject.opened()
    _require_steps(before, METRIC, set())
    for step in sorted(STEPS):
        tracker.send(METRIC, 1.0 / step, step)
    tracker.flush()
    tracker.close(failed=True)
    again, recorded = subject.opened()
    try:
        _require_steps(recorded, METRIC, STEPS)
    finally:
        again.close(failed=False)
    return ""


def _require_steps(recorded: Any, metric: str, steps: set[int]) -> None:
    assert isinstance(recorded, dict) and all(
        isinstance(each, set | frozenset) for each in recorded.values()
    ), f"open returned {recorded!r}: the set of recorded steps of each metric is expected"
    assert recorded.get(metric, set()) == steps, (
        f"open returned the steps {sorted(recorded.get(metric, ()))} of a metric that was recorded "
        f"at {sorted(steps)}: a resumed run would send values twice, or leave some out"
    )


TRACKER_PROPERTIES = (
    Property("is built, and has the methods of a tracker", _is_built),
    Property("a run that is resumed finds what it recorded", _records),
)
"""Properties of a tracker."""
