"""Searches whose runs a launcher starts, several at a time, in place of this process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hydrakit.hooks import Launcher
from hydrakit.jobs.driver import JobDriver, build_launcher
from hydrakit.observers.trackers import trackers_of
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext

LOCAL = "local"


@dataclass(frozen=True)
class Launch:
    """What starts the runs of a search.

    Attributes:
        launcher: The launcher.
        processes: Number of runs at the same time.
        threads: Number of CPU threads of each run.
    """

    launcher: Launcher
    processes: int
    threads: int

    def driver(self, folder: Path, callback: RunCallback) -> JobDriver:
        """Driver of the jobs of a search.

        Args:
            folder: Folder of the search.
            callback: Called when a process was lost.
        """
        return JobDriver(
            self.launcher,
            folder / "jobs",
            self.processes,
            on_lost=lambda job, how: callback.noted(
                f"the process of {job.name} ended unexpectedly ({how})"
            ),
        )


def is_launched(context: RunContext) -> bool:
    """Whether runs are trained in other processes, because ``launcher`` or ``jobs`` says so."""
    return context.launcher != LOCAL or context.jobs is not None


def launch_of(context: RunContext, runs: int, plugins: Plugins) -> Launch | None:
    """What starts the runs of a search; None for this process, which runs one after another.

    Args:
        context: Where and how to compute.
        runs: Number of runs of the search that can run at the same time, whether they are done or
            not: it decides the number of CPU threads of each.
        plugins: Plugins of this process.

    Raises:
        PlanError: The launcher, the device or a tracker is wrong.
        PluginError: There is no such launcher or tracker.
    """
    if not is_launched(context):
        return None
    launcher = build_launcher(context.launcher, plugins)
    trackers_of(context, plugins)  # refuses here what each run would refuse
    threads = context.threads or launcher.threads(runs)
    return Launch(launcher, launcher.processes(context.changed(threads=threads), runs), threads)


def context_here(context: RunContext) -> RunContext:
    """Context of this process, which may lack the device of those that a launcher starts."""
    return context if context.launcher == LOCAL else context.changed(device="cpu")
