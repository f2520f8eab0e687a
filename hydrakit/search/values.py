"""Search over any values of a plan, by cross-validation within its training data."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydrakit import engine
from hydrakit.errors import HydrakitError, PlanError
from hydrakit.jobs.candidates import (
    FILE,
    FOLDS,
    CandidateCheck,
    CandidateSearch,
    CandidateTable,
    InnerRun,
    combinations_of,
    in_turn,
    refuse_fixed_choices,
    values_text,
    with_values,
)
from hydrakit.jobs.job import Job
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import Callbacks, RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.earlier import with_threads
from hydrakit.runs.rundir import RunDir
from hydrakit.search.launched import Launch, context_here, launch_of
from hydrakit.storage.files import write_atomic
from hydrakit.storage.records import writable


@dataclass(frozen=True)
class ValuesResult:
    """Result of `tune_values`.

    Attributes:
        plan: Plan with the chosen values.
        table: All candidates with their scores, and the choice.
        path: Path of the plan's file.
        table_path: Path of ``candidates.json``.
    """

    plan: Plan
    table: CandidateTable
    path: Path
    table_path: Path


class ValuesCallback(RunCallback):
    """Called when something happens while values of a plan are searched."""

    def inner_run(self, done: int, of: int) -> None:
        """Some runs on inner folds are finished."""


def tune_values(
    plan: Plan,
    choices: Mapping[str, Sequence[Any]],
    out: Path,
    context: RunContext | None = None,
    *,
    folds: int = FOLDS,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> ValuesResult:
    """Choose values of a plan by cross-validation outside its test split, and write the plan.

    All combinations of the values are tried. The folder ``NAME.tuning`` gets the table of all
    candidates and their runs. After a stop, the same call continues; with more values, it trains
    only the new candidates. If the context names ``jobs`` or a launcher, several runs are trained
    at the same time in processes of their own, which load the plugins themselves.

    Args:
        plan: Plan whose values are searched.
        choices: Values to try, by path (`hydrakit.plan.edit`).
        out: Path of the plan with the chosen values.
        context: Where and how to compute; None for the defaults.
        folds: Number of inner folds.
        callbacks: Called for the events of all runs in this process. A `ValuesCallback` is also
            called after each run.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is invalid, ``out`` is another file, or training diverges with all
            candidates.
        PluginError: A value names a component that no plugin offers.
        DataError: A dataset cannot be used, or is too small for this number of folds.
        HydrakitError: Runs in other processes failed.
    """
    context = context_of(context, values)
    if context.trace_test or not context.test:
        raise PlanError(
            "a search tests inner folds, and never the test split: remove trace_test or test"
        )
    folder = out.with_name(f"{out.stem}.tuning")
    if out.exists() and not (out.is_file() and (folder / FILE).is_file()):
        raise PlanError(f"{out}: exists already: name another file")
    plugins = plugins or context.plugins()
    if not choices:
        raise PlanError("no value to choose: name a path and its values, as in PATH=V1,V2")
    refuse_fixed_choices(plan.target, choices, by="`tune`", option="--try")
    candidates = combinations_of(choices)
    followers = Callbacks(callbacks)
    check = CandidateCheck(context, plugins, followers)
    runs = (RunDir(path).environment().get("threads") for path in sorted(folder.glob("runs/*")))
    context = with_threads(context, next((each for each in runs if each), None))
    launch = launch_of(context, len(candidates) * folds, plugins)
    with context_here(context).active():
        check.check(plan, candidates, folds)
    threads = launch.threads if launch else context.threads
    context = context.changed(round_cache=(folder / "kept").resolve(), threads=threads)
    rounds = len(plan.rounds)
    followers.noted(
        f"{len(candidates)} candidates on {folds} inner folds: {len(candidates) * folds} runs of "
        f"{rounds} round{'s' if rounds > 1 else ''}; the test split is not used"
    )

    def train(run: InnerRun) -> None:
        engine.run_cell(
            run.plan,
            context,
            out=run.out,
            expected=run.origins,
            group=folder.name,
            callbacks=callbacks,
            plugins=plugins,
        )

    def on_run(done: int, of: int) -> None:
        for each in callbacks:
            if isinstance(each, ValuesCallback):
                each.inner_run(done, of)

    search = CandidateSearch(
        folder, plan, candidates, folds, plugins, check.origins, in_turn(train), on_run
    )
    if launch is not None:
        search = replace(search, train=_Launched(launch, context, folder, followers))
    table = search.run()
    chosen = with_values(plan, table.best.values, plugins)
    with writable(out, "name a file in another folder"):
        write_atomic(out, chosen.to_json().encode())
    return ValuesResult(chosen, table, out, folder / FILE)


@dataclass(frozen=True)
class _Launched:
    """Trains runs through a launcher, several at a time.

    Attributes:
        launch: What starts the runs.
        context: Where and how the runs compute.
        folder: Folder of the search.
        callback: Called when a process was lost.
    """

    launch: Launch
    context: RunContext
    folder: Path
    callback: RunCallback

    def __call__(self, runs: Sequence[InnerRun]) -> Generator[tuple[InnerRun, bool]]:
        """Yield each run when it has ended, and whether training diverged.

        Runs that share rounds are a group. If some fail, the others are trained nevertheless.

        Raises:
            HydrakitError: Runs failed.
        """
        left = {run.out.name: run for run in runs}
        jobs = {name: self._job(run) for name, run in left.items()}
        failures: dict[str, str] = {}
        groups: dict[str, list[Job]] = {}
        for name, job in jobs.items():
            if not _has_result(job):
                groups.setdefault(left[name].beginning, []).append(job)
        with self.launch.driver(self.folder, self.callback) as driver:
            ended = [job for job in jobs.values() if _has_result(job)]
            driver.submit(list(groups.values()))
            while left:
                for job in ended:
                    run = left.pop(job.name)
                    if _has_result(job):
                        yield run, job.diverged
                        job.failure_path.unlink(missing_ok=True)
                    else:
                        where = f"{values_text(run.values)}, inner fold {run.fold + 1}"
                        failures[job.name] = f"{where}: {job.status()}"
                ended = driver.poll() if left else []
        if failures:
            first = next(failures[name] for name in jobs if name in failures)
            more = f"; other runs that failed: {len(failures) - 1}" if len(failures) > 1 else ""
            raise HydrakitError(f"{first}{more}")

    def _job(self, run: InnerRun) -> Job:
        return Job(
            name=run.out.name,
            plan=run.plan,
            out=run.out,
            context=self.context,
            expected=dict(run.origins),
            group=self.folder.name,
        )


def _has_result(job: Job) -> bool:
    """Whether a run has ended with a result, which it also has if training diverged."""
    return job.status() == "done" or job.diverged
