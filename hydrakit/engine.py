"""Runs a plan, estimates its cost, checks a dataset, or writes a report again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hydrakit.compute.devices import Compute, keep_large_blocks
from hydrakit.compute.signals import StopRequested
from hydrakit.data.origin import DataOrigin
from hydrakit.errors import DataError, HydrakitError, PlanError, one_line
from hydrakit.hooks import DatasetAdapter, OptionValue
from hydrakit.models.build import check_components
from hydrakit.observers.log import RunLog
from hydrakit.observers.reports import ReportWriter
from hydrakit.observers.trackers import trackers_of
from hydrakit.plan.model import BodySpec, Plan, Split
from hydrakit.plugins.guard import blame_networks
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.bfloat16 import notes_of_bfloat16
from hydrakit.runs.callbacks import Callbacks, RunCallback, closing
from hydrakit.runs.compiling import chooses_compiling
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import find_datasets, prepare_datasets
from hydrakit.runs.dry_run import DryRun, measure
from hydrakit.runs.earlier import naming_plugins_of_run, with_threads_of_run
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session
from hydrakit.runs.start import check_start
from hydrakit.storage.files import NO_ROOM, write_atomic
from hydrakit.storage.lock import check_lock
from hydrakit.storage.paths import using_cache
from hydrakit.storage.records import writable

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import Summary
    from hydrakit.plan.results import EpochRecord, RoundResult
    from hydrakit.report.figure import Figure
    from hydrakit.rounds import Round


def default_out(plan: Plan) -> Path:
    """Default folder of a plan's run; the same plan always has the same folder."""
    return Path("runs") / f"{plan.strategy}-{plan.target}-{plan.digest()[:8]}"


def run(
    plan: Plan,
    context: RunContext | None = None,
    *,
    out: Path | None = None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> RunDir:
    """Run a plan, or the unfinished part of it, and return its folder.

    Args:
        plan: Plan from `make_plan` or `load_plan`.
        context: Where and how to compute; None for the defaults.
        out: Folder of the run; None for `default_out`. If the folder contains part of the same
            plan, the run continues there, with the same result as a run without a stop.
        callbacks: Callbacks for the events of the run.
        plugins: Plugins of this process; None loads the installed ones (`RunContext.plugins`).
        values: Values of the context by name, for example ``device="cpu"``.

    Raises:
        HydrakitError: The disk is full.
        PluginError: No plugin offers a component that the plan names.
        PlanError: The plan, the context or the folder cannot be used.
        DataError: A dataset cannot be used.
    """
    context = context_of(context, values)
    return _run(plan, context, out=out, callbacks=callbacks, plugins=plugins, expected={})


def run_cell(
    plan: Plan,
    context: RunContext,
    *,
    out: Path,
    expected: Mapping[str, DataOrigin],
    group: str | None = None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
) -> RunDir:
    """Run a cell of a comparison, or a plan of a search, as `run` does.

    Args:
        plan: Plan of the cell.
        context: Where and how to compute.
        out: Folder of the cell.
        expected: What the comparison or the search began with, by dataset.
        group: Name of the comparison or the search, for trackers.
        callbacks: Callbacks for the events of the run.
        plugins: Plugins of this process; None loads the installed ones.

    Raises:
        HydrakitError: What `run` refuses; or a dataset has changed.
    """
    return _run(
        plan,
        context,
        out=out,
        callbacks=callbacks,
        plugins=plugins,
        expected=expected,
        group=group,
    )


def _run(
    plan: Plan,
    context: RunContext,
    *,
    out: Path | None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    expected: Mapping[str, DataOrigin],
    group: str | None = None,
) -> RunDir:
    _require_plan(plan)
    out = out or default_out(plan)
    context = with_threads_of_run(context, out)
    log = RunLog(out)
    with context.active() as compute:
        plugins = plugins or context.plugins()
        trackers = trackers_of(context, plugins, group=group)
        report = [ReportWriter(plugins)] if plan.inner is None else []  # a search has many runs
        all_callbacks = Callbacks([_LockGuard(out), log, *callbacks, *trackers, *report])
        session = _session(
            plan,
            context,
            compute,
            out=out,
            plugins=plugins,
            callbacks=all_callbacks,
            expected=expected,
        )
        RunDir.begin(out, plan)
        with (
            session.rundir.locked(),
            _logging_stops(session.rundir),
            closing(all_callbacks),
            log,
            blame_networks(),
        ):
            if not session.rundir.environment():  # later, other bits would follow
                for note in notes_of_bfloat16(session):
                    all_callbacks.noted(note)
            session.run()
    return session.rundir


class _LockGuard(RunCallback):
    """Ends a run whose folder another process has taken over, before it writes more there."""

    def __init__(self, out: Path) -> None:
        self._out = out

    def bootstrapping(self, done: int, of: int) -> None:
        """Check the lock of the folder, as the other events do."""
        check_lock(self._out)

    def skipped(self, number: int, round: Round) -> None:
        """Check the lock."""
        check_lock(self._out)

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Check the lock."""
        check_lock(self._out)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        """Check the lock."""
        check_lock(self._out)


def dry_run(
    plan: Plan,
    context: RunContext | None = None,
    *,
    out: Path | None = None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> DryRun:
    """Check everything that a run needs, and estimate its cost, without creating its folder.

    Data that is not prepared yet is prepared, and stays in the cache.

    Args:
        plan: Plan from `make_plan` or `load_plan`.
        context: Where and how to compute; None for the defaults.
        out: Folder that the run would have; None for `default_out`.
        callbacks: Callbacks that are called while cases are read.
        plugins: Plugins of this process; None loads the installed ones (`RunContext.plugins`).
        values: Values of the context by name, for example ``device="cpu"``.

    Raises:
        HydrakitError: What `run` refuses; or memory or disk space is too small.
    """
    context = context_of(context, values)
    _require_plan(plan)
    out = out or default_out(plan)
    context = with_threads_of_run(context, out)
    with context.active() as compute:
        plugins = plugins or context.plugins()
        all_callbacks = Callbacks(callbacks)
        return measure(
            _session(plan, context, compute, out=out, plugins=plugins, callbacks=all_callbacks)
        )


def check_run(
    plan: Plan,
    context: RunContext,
    *,
    out: Path,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
) -> None:
    """Check the plan, the folder and the data of a run that another machine shall compute.

    Its device may not exist here. Data that is not prepared yet is prepared. Arguments are those of
    `run`.

    Raises:
        HydrakitError: What `run` refuses.
    """
    _require_plan(plan)
    with context.changed(device="cpu").active() as compute:
        plugins = plugins or context.plugins()
        trackers_of(context, plugins)
        _session(plan, context, compute, out=out, plugins=plugins, callbacks=Callbacks(callbacks))


def check(
    name: str,
    context: RunContext | None = None,
    *,
    options: Mapping[str, OptionValue] | None = None,
    split: Split | None = None,
    seed: int = 0,
    fresh: bool = False,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> tuple[Summary, PreparedDataset | None]:
    """Check a dataset as a run would read it, for errors and for warnings.

    Args:
        name: Name of the dataset.
        context: Folders of the data; None for the defaults.
        options: Options of the adapter.
        split: Shares of the split; None for 8-1-1, the default of a target.
        seed: Seed of the split.
        fresh: Read every file again, whatever has been prepared.
        callbacks: Callbacks that are called while cases are read.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Returns:
        The summary, and the prepared patches (None if no case can be used).

    Raises:
        DataError: The dataset cannot be read.
        PlanError: An option is wrong.
    """
    from hydrakit.data.prepared.prepare import prepare
    from hydrakit.data.quality.check import excluded_if_none_usable, summarise, summarise_unusable

    context = context_of(context, values)
    adapter = (plugins or context.plugins()).get(DatasetAdapter, name)
    root, options = context.root_of(name), options or {}
    with using_cache(context.cache):
        try:
            prepared = prepare(
                adapter,
                root,
                options=options,
                patch=BodySpec().patch,
                fresh=fresh,
                on_case=partial(Callbacks(callbacks).preparing, name),
            )
        except DataError:
            unusable = excluded_if_none_usable(adapter, root, options, patch=BodySpec().patch)
            if unusable is None:
                raise
            return summarise_unusable(adapter, unusable), None
        return summarise(adapter, prepared, split=split, seed=seed), prepared


def report(
    folder: Path,
    context: RunContext | None = None,
    *,
    plugins: Plugins | None = None,
    **values: Any,
) -> Report:
    """Write ``report.html`` again, into the folder of a run or of a comparison.

    If a finished run has no example cases yet and its data exists, they are added.

    Args:
        folder: Folder of the run or the comparison.
        context: Folders of the run's data, if they have changed.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A file of the folder is missing or invalid, or the report cannot be written.
    """
    from hydrakit.report.comparison import build_comparison
    from hydrakit.report.page import build_report
    from hydrakit.runs.example_cases import add_example_cases

    context = context_of(context, values)
    path, no_examples = folder / "report.html", None
    with writable(path, "copy the folder to a place where you have permission to write"):
        if (folder / "comparison.json").is_file():
            text, figures = build_comparison(folder, plugins=plugins or context.plugins())
        else:
            rundir = RunDir(folder)
            if context.data is None:
                roots = {**rundir.environment().get("roots", {}), **context.roots}
                context = context.changed(roots=roots)
            plugins = plugins or context.plugins()
            with using_cache(context.cache):
                no_examples = add_example_cases(rundir, context, plugins)
                text, figures = build_report(rundir, plugins=plugins)
        write_atomic(path, text.encode())
    return Report(path, figures, no_examples)


@dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
        path: Path of the page.
        figures: Figures of the page, in order.
        no_examples: Why the page has no example cases, in one line; None if it has some, or if the
            run is not finished.
    """

    path: Path
    figures: Sequence[Figure]
    no_examples: str | None


def _require_plan(plan: Plan) -> None:
    """Refuse something else than a plan, such as the path of its file."""
    if not isinstance(plan, Plan):
        raise PlanError(
            f"plan: is {one_line(repr(plan), 60)}, and a Plan is expected: use `load_plan` for a "
            "file, or `make_plan`"
        )


def _session(
    plan: Plan,
    context: RunContext,
    compute: Compute,
    *,
    out: Path,
    plugins: Plugins,
    callbacks: RunCallback,
    expected: Mapping[str, DataOrigin] = MappingProxyType({}),
) -> Session:
    """Create a session with checked plan, folder and data; the context must be active."""
    rundir = RunDir.check(out, plan)
    if plan.final and context.trace_test:
        raise PlanError("the plan has no test split to trace: leave out trace_test (--trace-test)")
    with naming_plugins_of_run(rundir, plugins):
        datasets = find_datasets(plan, context, plugins)
        check_components(plan, datasets.adapters, plugins)
    check_start(plan, rundir)
    if compute.device.type == "cpu":
        keep_large_blocks()
    datasets = prepare_datasets(plan, datasets, callbacks)
    session = Session(plan, datasets, context, compute, plugins, rundir, callbacks, expected)
    session.check()
    compiled = chooses_compiling(plan, context, session.loaded, rundir, compute.device)
    for each in (session, *session.members):
        each.compute = replace(compute, compiled=compiled)
    return session


@contextmanager
def _logging_stops(rundir: RunDir) -> Iterator[None]:
    """Log that a run was stopped; turn an error of the disk into an error of one line."""
    try:
        yield
    except KeyboardInterrupt as error:
        with suppress(OSError):  # an error here must not replace the stop
            by = "Stopped" if isinstance(error, StopRequested) else type(error).__name__
            rundir.log("stopped", by=by)
        raise
    except OSError as error:
        file, why = error.filename or rundir.path, error.strerror or str(error)
        again = "then run the same command again: it continues from the finished work"
        if error.errno not in NO_ROOM:
            raise HydrakitError(
                f"{file}: cannot be read or written ({why}): check the disk or the connection to "
                f"it, {again}"
            ) from error
        with suppress(OSError):
            why += f"; {shutil.disk_usage(rundir.path).free:,} bytes are free"
        raise HydrakitError(
            f"{file}: cannot be written ({why}): free some space, {again}"
        ) from None
