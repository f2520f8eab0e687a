"""Checks of a launcher: it runs jobs that end at once, and cancels some."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hydrakit.errors import HydrakitError
from hydrakit.hooks import (
    DatasetAdapter,
    FieldOfView,
    Launcher,
    LauncherFactory,
    OptionValue,
    SequenceStrategy,
    Settings,
)
from hydrakit.plugins.options import parse_options
from hydrakit.plugins.registry import load_plugins
from hydrakit.testing.properties import (
    CheckedProperty,
    Property,
    PropertySkipped,
    check_properties,
    require,
)

if TYPE_CHECKING:
    from hydrakit.jobs.job import Job

SECONDS = 300.0
"""Seconds that each call of a launcher may take, and two jobs: a busy machine needs minutes."""

AFTER_CANCEL = 5.0  # seconds in which a job that was not cancelled would run
NOWHERE = "no-such-dataset"
Result = TypeVar("Result")


@dataclass(frozen=True)
class LauncherSubject:
    """A launcher to check.

    Attributes:
        factory: Its factory, unguarded.
        folder: Folder for its files.
        options: Its options, as a user would give them.
        timeout: Seconds that each call may take, and two jobs.
    """

    factory: LauncherFactory
    folder: Path
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    timeout: float = SECONDS

    def build(self) -> Launcher:
        """A new launcher.

        Raises:
            PropertySkipped: It cannot be used on this machine.
        """
        options = parse_options(self.factory, self.options)
        try:
            return self.factory.build(options)
        except HydrakitError as error:
            raise PropertySkipped(f"it cannot be used here: {error}") from error

    def call(self, name: str, function: Callable[[], Result]) -> Result:
        """Call a method of a launcher.

        Raises:
            AssertionError: It has not returned after the time limit.
            PropertySkipped: It cannot be used on this machine.
        """
        results: list[Result] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self.timeout)
        assert not thread.is_alive(), (
            f"{name} had not returned after {self.timeout:g} s: let it return at once, and `poll` "
            "after half a second"
        )
        if errors and isinstance(errors[0], HydrakitError):  # such as: no cluster here
            raise PropertySkipped(f"it cannot be used here: {errors[0]}") from errors[0]
        if errors:
            raise errors[0]
        return results[0]

    def jobs(self, *names: str) -> list[Job]:
        """Jobs that are refused as soon as they are run, since their dataset does not exist."""
        from hydrakit.jobs.job import Job
        from hydrakit.plan.profiles import make_plan
        from hydrakit.runs.context import RunContext

        plugins = load_plugins().including(_NOWHERE, _STRATEGY)
        plan = make_plan(_STRATEGY.name, [NOWHERE], plugins=plugins)
        context = RunContext(data=self.folder, cache=self.folder / "cache", device="cpu", jobs=2)
        return [
            Job(name=name, plan=plan, out=self.folder / "runs" / name, context=context)
            for name in names
        ]

    @cached_property
    def ended(self) -> dict[str, str]:
        """How two jobs ended, by name."""
        launcher, jobs = self.build(), self.jobs("one", "two")
        context = jobs[0].context
        count = self.call("processes", lambda: launcher.processes(context, 2))
        ended: dict[str, str] = {}
        try:
            self.call(
                "submit",
                lambda: launcher.submit([[job] for job in jobs], self.folder / "jobs",
                                        processes=count),
            )  # fmt: skip
            deadline = time.monotonic() + self.timeout
            while len(ended) < len(jobs):
                for job, how in _pairs(self.call("poll", launcher.poll)):
                    assert job.name in ("one", "two"), (
                        f"poll returned {job.name!r}, which was not submitted"
                    )
                    assert job.name not in ended, f"poll returned {job.name!r} twice"
                    ended[job.name] = how
                states = self.call("states", launcher.states)
                assert isinstance(states, Mapping) and all(
                    isinstance(text, str) for pair in states.items() for text in pair
                ), f"states returned {states!r}: a mapping of names to text is expected"
                waiting = sorted({job.name for job in jobs} - set(ended))
                assert not waiting or time.monotonic() < deadline, (
                    f"{waiting[0]!r} had not ended after {self.timeout:g} s: let poll return each "
                    "job whose process has ended"
                )
        finally:
            self.call("cancel", launcher.cancel)
        return ended


def _plan_nowhere(datasets: Sequence[str], settings: Settings) -> list[Any]:
    from hydrakit.rounds import Round

    values = settings.hyperparameters("all", "first")
    return [Round(dataset=NOWHERE, train="all", head=NOWHERE, hyperparameters=values)]


def _read_nowhere(root: Path, options: object) -> Any:
    raise AssertionError("it has no files")


_NOWHERE = DatasetAdapter(
    name=NOWHERE,
    summary="A dataset of no plugin",
    classes=("negative", "positive"),
    read=_read_nowhere,
    field_of_view=FieldOfView(share=1.0),
    version="1",
    layout="nothing",
    how_to_get="nowhere",
    citation="none",
    licence="none",
)
_STRATEGY = SequenceStrategy(name="one-round", summary="One round", plan=_plan_nowhere)


def _pairs(polled: object) -> list[tuple[Job, str]]:
    from hydrakit.jobs.job import Job

    pairs = list(polled) if isinstance(polled, Sequence) else None
    assert pairs is not None and all(
        isinstance(pair, tuple)
        and len(pair) == 2
        and isinstance(pair[0], Job)
        and isinstance(pair[1], str)
        for pair in pairs
    ), f"poll returned {polled!r}: a list of pairs of a job and how it ended is expected"
    return pairs


def _is_built(subject: LauncherSubject) -> str:
    built = subject.build()
    missing = [
        name
        for name in ("processes", "threads", "submit", "poll", "states", "cancel")
        if not callable(getattr(built, name, None))
    ]
    assert not missing, f"it has no method {missing[0]!r}: see hydrakit.hooks.Launcher"
    return ""


def _counts(subject: LauncherSubject) -> str:
    launcher = subject.build()
    context = subject.jobs("one")[0].context
    numbers = {
        "processes": subject.call("processes", lambda: launcher.processes(context, 2)),
        "threads": subject.call("threads", lambda: launcher.threads(2)),
    }
    for name, number in numbers.items():
        assert isinstance(number, int) and number >= 1, (
            f"{name} returned {number!r} for 2 groups of jobs: a whole number from 1 is expected"
        )
    return ", ".join(f"{number} {name}" for name, number in numbers.items())


def _runs_jobs(subject: LauncherSubject) -> str:
    ended = subject.ended
    for job in subject.jobs("one", "two"):
        assert job.failure_path.is_file(), (
            f"{job.name!r} ended ({ended[job.name]}), but was not run: run the command "
            "`hydrakit.jobs.job.job_command` with the file that `job.write` wrote"
        )
    return ""


def _cancels(subject: LauncherSubject) -> str:
    launcher, jobs = subject.build(), subject.jobs("three", "four")
    last = jobs[-1].failure_path
    subject.call("submit", lambda: launcher.submit([jobs], subject.folder / "jobs", processes=1))
    subject.call("poll", launcher.poll)
    if last.exists():
        raise PropertySkipped("its jobs ended before they could be cancelled")
    subject.call("cancel", launcher.cancel)
    deadline = time.monotonic() + AFTER_CANCEL
    while time.monotonic() < deadline:
        assert not last.exists(), (
            "a job that was waiting ran after cancel: stop what is running, and forget the rest"
        )
        time.sleep(0.1)
    return ""


LAUNCHER_PROPERTIES = (
    Property("is built, and has the methods of a launcher", _is_built),
    Property("asks for one process and one thread at least", _counts),
    Property("runs two jobs to their end", _runs_jobs),
    Property("cancels jobs that wait", _cancels),
)
"""Properties of a launcher."""


def check_launcher(
    factory: LauncherFactory,
    options: Mapping[str, OptionValue] | None = None,
    *,
    timeout: float = SECONDS,
) -> list[CheckedProperty]:
    """Check that a launcher runs jobs, says that they have ended, and cancels others.

    Its jobs train nothing: they are refused when they are run, since their dataset does not exist.

    Args:
        factory: Factory of the launcher.
        options: Options of the launcher, as a user would give them; None for the defaults.
        timeout: Seconds that each call may take, and two jobs.

    Returns:
        The properties that were checked.

    Raises:
        AssertionError: It has faults; the message has one line for each.
    """
    with tempfile.TemporaryDirectory(prefix="hydrakit-check-") as folder:
        subject = LauncherSubject(factory, Path(folder), options or {}, timeout)
        return require(check_properties(f"launcher {factory.name!r}", subject, LAUNCHER_PROPERTIES))
