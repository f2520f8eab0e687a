"""A pool of local processes that run jobs, several at a time.

A process runs the jobs of one group one after another, so that rounds that they share are trained
once. Then it takes the next group, or a job from another process: starting a process takes seconds.
A process that is killed is replaced; the others continue.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from hydrakit.compute.signals import SIGNALS, StopRequested, stoppable
from hydrakit.compute.streams import dependable
from hydrakit.jobs.candidates import read_results
from hydrakit.jobs.job import Job, run_job
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.lock import TakenOverError

POLL = 0.5
"""Seconds that a poll waits at most."""

# Resources of each process that shares a GPU. One small network leaves most of a GPU idle: on an
# H100, six simultaneous runs took as long as one.
GPU_MEMORY = 4 * 2**30  # bytes; a run with some thousand patches takes 1 to 2 GiB
GPU_THREADS = 2


class Queue:
    """Distributes jobs to processes.

    A process runs all jobs of a group. If there is no group left, it takes the last job of the
    process with most waiting jobs, as soon as that process has trained a round: by then the rounds
    that the jobs share are trained, or soon will be.

    Args:
        processes: Number of processes.
    """

    def __init__(self, processes: int) -> None:
        self._groups: deque[Sequence[Job]] = deque()
        self._waiting: list[deque[Job]] = [deque() for _ in range(processes)]

    def add(self, groups: Sequence[Sequence[Job]]) -> None:
        """Add groups of jobs."""
        self._groups.extend(groups)

    def next(self, process: int, has_trained: Callable[[int], bool]) -> Job | None:
        """The next job of an idle process; None if there is none at present.

        Args:
            process: Number of the process.
            has_trained: Whether a process, by number, has trained a round of its job.
        """
        own = self._waiting[process]
        if not own and self._groups:
            own.extend(self._groups.popleft())
        if own:
            return own.popleft()
        other = max(range(len(self._waiting)), key=lambda number: len(self._waiting[number]))
        return self._waiting[other].pop() if self._waiting[other] and has_trained(other) else None

    def put_back(self, process: int, job: Job) -> None:
        """Make a job the next one of a process, after its process was killed."""
        self._waiting[process].appendleft(job)

    def __len__(self) -> int:
        """Number of waiting jobs."""
        return sum(len(jobs) for jobs in (*self._groups, *self._waiting))


def default_threads(groups: int) -> int:
    """Number of CPU threads of each job, if nothing else decides it.

    It depends on the machine and on the number of groups of jobs, but not on the number of
    processes: that must not change results.
    """
    import torch

    processors = torch.get_num_threads()
    return max(1, processors // min(processors, groups))


class LocalPool:
    """A launcher for processes on this machine, which share its CPU threads or GPUs."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []
        self._queue = Queue(0)
        self._ran: dict[str, int] = {}  # number of the process of each job that has ended

    def processes(self, context: RunContext, groups: int) -> int:
        """One process per CPU thread, or several per GPU; see `Launcher.processes`."""
        return self.resources(context, groups)[0]

    def threads(self, groups: int) -> int:
        """The CPU threads of this machine, divided; see `Launcher.threads`."""
        return default_threads(groups)

    def resources(self, context: RunContext, groups: int) -> tuple[int, tuple[str, ...], int]:
        """Number of processes, devices that they use in turn, and threads of each process."""
        import torch

        from hydrakit.compute.devices import choose_device

        device, jobs = choose_device(context.device), context.jobs
        processors = torch.get_num_threads()
        threads = context.threads or default_threads(groups)
        devices: tuple[str, ...] = (str(device),)
        if device.type == "cuda" and device.index is None:
            devices = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        if jobs is None and device.type == "cuda":
            memory = min(torch.cuda.get_device_properties(each).total_memory for each in devices)
            sharing = min(memory // GPU_MEMORY, processors // (GPU_THREADS * len(devices)))
            jobs = len(devices) * max(1, sharing)
        if jobs is None and device.type == "mps":
            jobs = 1
        workers = min(jobs or max(1, processors // threads), groups)
        return workers, devices, threads

    def submit(self, groups: Sequence[Sequence[Job]], folder: Path, *, processes: int) -> None:
        """Queue jobs; see `Launcher.submit`. A job whose process was killed is the next one."""
        if not self._workers:
            context = groups[0][0].context
            _, devices, threads = self.resources(context, processes)
            self._queue = Queue(processes)
            self._workers = [
                _Worker(devices[number % len(devices)], threads) for number in range(processes)
            ]
        new = []
        for group in groups:
            for job in group:
                if job.name in self._ran:
                    self._queue.put_back(self._ran[job.name], job)
            if rest := [job for job in group if job.name not in self._ran]:
                new.append(rest)
        self._queue.add(new)

    def poll(self) -> list[tuple[Job, str]]:
        """Give jobs to idle processes, and wait; see `Launcher.poll`."""
        for number, worker in enumerate(self._workers):
            if worker.job is None:
                job = self._queue.next(number, lambda other: _has_trained(self._workers[other]))
                if job is not None:
                    worker.give(job)
        wait([each for worker in self._workers if worker.job for each in worker.wait_handles], POLL)
        ended = []
        for number, worker in enumerate(self._workers):
            job, exitcode = worker.ended()
            if job is not None:
                self._ran[job.name] = number
                ended.append((job, describe_exit(exitcode)))
        return ended

    def states(self) -> dict[str, str]:
        """Nothing: the folders of the runs say which ones are running."""
        return {}

    def cancel(self) -> None:
        """End all processes; see `Launcher.cancel`."""
        for worker in self._workers:  # first ask all, so that they write checkpoints in parallel
            worker.ask_to_stop()
        for worker in self._workers:
            worker.stop()
        self._workers = []


@dataclass
class _Worker:
    """A process that runs one job after another; it is started with the first job.

    Attributes:
        device: Device of the jobs.
        threads: Number of CPU threads.
        job: Job that is running.
    """

    device: str
    threads: int
    job: Job | None = None
    _process: SpawnProcess | None = field(default=None, init=False)

    def give(self, job: Job) -> None:
        """Run a job, in a new process if none is running."""
        self.job = job
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_work, args=(other,))
            self._process.start()
            other.close()
        sent = job.resolved()
        here = sent.context.changed(device=self.device, threads=self.threads)
        with suppress(BrokenPipeError):  # the process was just killed: `ended` returns the job
            self._pipe.send(sent.model_copy(update={"context": here}).model_dump_json())

    @property
    def wait_handles(self) -> tuple[Connection, int]:
        """Handles that become ready when the job or the process has ended."""
        assert self._process is not None
        return self._pipe, self._process.sentinel

    def ended(self) -> tuple[Job | None, int]:
        """The job that has ended, and the exit code if its process has ended too."""
        job, process = self.job, self._process
        if job is None or process is None:
            return None, 0
        if process.is_alive():
            if not self._pipe.poll():
                return None, 0
            with suppress(EOFError, ConnectionResetError):
                self._pipe.recv()
                self.job = None
                return job, 0
            process.join()
        self.job = None
        return job, process.exitcode or 0

    def ask_to_stop(self) -> None:
        """Ask the process to end, also in the middle of a job."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """Wait for the end of the process; after a time limit, kill it."""
        if self._process is None:
            return
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _has_trained(worker: _Worker) -> bool:
    """Whether a worker has trained a round of its job, or a run of the job's choice."""
    job = worker.job
    if job is None:
        return False
    if job.choice is not None and read_results(job.choice.folder):
        return True
    return RunDir(job.out).finished(1, job.plan.rounds[0])


def describe_exit(exitcode: int) -> str:
    """Describe how a process ended."""
    if exitcode >= 0:
        return f"exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}: too little memory?" if name == "SIGKILL" else name


def _work(pipe: Connection) -> None:
    """Main function of a process: run one job after another, until the pipe is closed."""
    for number in SIGNALS:  # the parent handles Ctrl-C and the end of its terminal
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("hydrakit").setLevel(logging.ERROR)  # the parent has printed these warnings
    # SIGTERM is sent by `ask_to_stop`.
    with dependable(), suppress(StopRequested, TakenOverError), stoppable([signal.SIGTERM]):
        while True:
            run_job(Job.model_validate_json(pipe.recv()))
            pipe.send(None)


def _end_with_parent() -> None:
    """End this process when its parent process has ended for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
