"""A launcher for hook API 1: one process after another, on this machine."""

import subprocess
import time
from dataclasses import dataclass

from hydrakit.hooks import LauncherFactory, hookimpl

HYDRAKIT_API = 1


@dataclass(frozen=True)
class Options:
    prefix: tuple[str, ...] = ()


class OneByOne:
    """Runs the jobs of a group in one process, and one group at a time."""

    def __init__(self, options):
        self.options = options
        self.waiting = []
        self.running = None

    def processes(self, context, groups):
        """One, whatever ``context.jobs`` asks for."""
        return 1

    def threads(self, groups):
        """One thread for each job."""
        return 1

    def submit(self, groups, folder, *, processes):
        """Write the files of the jobs."""
        from hydrakit.jobs.job import job_command

        for group in groups:
            command = job_command([job.write(folder) for job in group])
            self.waiting.append((list(group), [*self.options.prefix, *command]))

    def poll(self):
        """Start the next process, or wait for the one that runs."""
        if self.running is None:
            if not self.waiting:
                return []
            jobs, command = self.waiting.pop(0)
            self.running = jobs, subprocess.Popen(command)
        jobs, process = self.running
        try:
            status = process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            return []
        self.running = None
        return [(job, f"exit status {status}") for job in jobs]

    def states(self):
        """The jobs that wait or run, by name."""
        states = {job.name: "PENDING" for jobs, _ in self.waiting for job in jobs}
        if self.running is not None:
            states.update({job.name: "RUNNING" for job in self.running[0]})
        return states

    def cancel(self):
        """Stop the process, and forget what waits."""
        self.waiting.clear()
        if self.running is not None:
            self.running[1].terminate()
            while self.running[1].poll() is None:
                time.sleep(0.05)
            self.running = None

    def preview(self, context, groups, folder, *, processes):
        """What would be submitted, as text."""
        return f"{groups} groups of jobs in {folder}, {processes} at a time, on {context.device}"


@hookimpl
def hydrakit_launchers():
    yield LauncherFactory(
        name="golden-one-by-one",
        summary="One process after another",
        build=OneByOne,
        options=Options,
    )
