"""A single run that a launcher starts, in place of this process."""

from __future__ import annotations

from pathlib import Path

from hydrakit import engine
from hydrakit.errors import HydrakitError
from hydrakit.jobs.driver import JobDriver, build_launcher, preview
from hydrakit.jobs.job import Job
from hydrakit.jobs.states import jobs_of_run
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.earlier import with_threads_of_run
from hydrakit.runs.rundir import RunDir


def submit_run(
    plan: Plan,
    context: RunContext,
    *,
    out: Path,
    callback: RunCallback,
    plugins: Plugins | None = None,
) -> RunDir:
    """Run a plan through the launcher of the context, and wait for its end.

    Plan and data are checked here first. The folder ``NAME.jobs`` beside the run's gets the files
    of the job and of the launcher.

    Args:
        plan: Plan to train.
        context: Where and how to compute, with the launcher.
        out: Folder of the run.
        callback: Called as by `hydrakit.engine.run`, for finished rounds and not for epochs.
        plugins: Plugins of this process; None loads the installed ones.

    Raises:
        HydrakitError: What `hydrakit.engine.run` refuses; or the job failed.
    """
    plugins = plugins or context.plugins()
    launcher = build_launcher(context.launcher, plugins)
    engine.check_run(plan, context, out=out, callbacks=[callback], plugins=plugins)
    context = with_threads_of_run(context, out)
    if context.threads is None:
        context = context.changed(threads=launcher.threads(1))
    job = Job(name=out.name, plan=plan, out=out, context=context)
    rounds = _FinishedRounds(job, callback)
    callback.started(plan, RunDir(out), context.launcher)
    if job.status() != "done":
        processes = launcher.processes(context, 1)
        with JobDriver(
            launcher,
            jobs_of_run(out),
            processes,
            on_poll=rounds.report,
            on_lost=lambda job, how: callback.noted(
                f"the process of {job.name} ended unexpectedly ({how})"
            ),
        ) as driver:
            driver.run([[job]])
    rounds.report()
    if (status := job.status()) != "done":
        raise HydrakitError(f"{out}: the job failed: {status}")
    run = RunDir(out)
    callback.completed(run)
    callback.closed(failed=False)
    return run


def preview_run(context: RunContext, *, out: Path) -> str | None:
    """What `submit_run` would submit; None if the launcher says nothing about it.

    Raises:
        HydrakitError: The launcher cannot be used here.
    """
    launcher = build_launcher(context.launcher, context.plugins())
    context = with_threads_of_run(context, out)
    if context.threads is None:
        context = context.changed(threads=launcher.threads(1))
    return preview(launcher, context, 1, jobs_of_run(out), launcher.processes(context, 1))


class _FinishedRounds:
    """Reports the rounds that a job finishes, by its folder."""

    def __init__(self, job: Job, callback: RunCallback) -> None:
        self._job = job
        self._callback = callback
        self._done = 0

    def report(self) -> None:
        """Report the rounds of the first network that are finished since the last call."""
        run, rounds = RunDir(self._job.out), self._job.plan.rounds
        while self._done < len(rounds) and run.finished(self._done + 1, rounds[self._done]):
            self._done += 1
            round = rounds[self._done - 1]
            self._callback.finished(self._done, round, run.round_result(self._done, round))
