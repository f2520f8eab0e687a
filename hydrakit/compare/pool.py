"""A pool of local processes that run the cells of a comparison, several at a time.

A process runs the cells of one group (seed, repeat, fold) one after another, so that rounds that
they share are trained once. Then it takes the next group, or a cell from another process: starting
a process takes seconds. A process that is killed is replaced; the others continue.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from hydrakit.compare.design import Cell, CompareDir
from hydrakit.compute.signals import SIGNALS, StopRequested, stoppable
from hydrakit.compute.streams import dependable
from hydrakit.errors import HydrakitError, one_line
from hydrakit.plan.model import Plan
from hydrakit.plugins.guard import PluginFault, describe_error
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import write_atomic

POLL = 0.5
"""Seconds between two calls of ``on_poll``."""

# Resources of each process that shares a GPU. One small network leaves most of a GPU idle: on an
# H100, six simultaneous runs took as long as one.
GPU_MEMORY = 4 * 2**30  # bytes; a run with some thousand patches takes 1 to 2 GiB
GPU_THREADS = 2

ATTEMPTS = 2
"""Number of processes that may end unexpectedly while running a cell, before it has failed."""

Job = tuple[Cell, Plan]


class Queue:
    """Distributes cells to processes.

    A process runs all cells of a group. If there is no group left, it takes the last cell of the
    process with most waiting cells, as soon as that process has trained a round: by then the rounds
    that the cells share are trained, or soon will be.

    Args:
        groups: Groups of cells that are not done.
        processes: Number of processes.
    """

    def __init__(self, groups: Sequence[Sequence[Job]], processes: int) -> None:
        self._groups = deque(groups)
        self._waiting: list[deque[Job]] = [deque() for _ in range(processes)]

    def next(self, process: int, has_trained: Callable[[int], bool]) -> Job | None:
        """The next cell of an idle process; None if there is none at present.

        Args:
            process: Number of the process.
            has_trained: Whether a process, by number, has trained a round of its cell.
        """
        own = self._waiting[process]
        if not own and self._groups:
            own.extend(self._groups.popleft())
        if own:
            return own.popleft()
        other = max(range(len(self._waiting)), key=lambda number: len(self._waiting[number]))
        return self._waiting[other].pop() if self._waiting[other] and has_trained(other) else None

    def put_back(self, process: int, job: Job) -> None:
        """Make a cell the next one of a process, after its process was killed."""
        self._waiting[process].appendleft(job)

    def __len__(self) -> int:
        """Number of waiting cells."""
        return sum(len(cells) for cells in (*self._groups, *self._waiting))


def default_threads(groups: int) -> int:
    """Number of CPU threads of each cell, if nothing else decides it.

    It depends on the machine and on the number of groups of cells, but not on the number of
    processes: that must not change results.
    """
    import torch

    processors = torch.get_num_threads()
    return max(1, processors // min(processors, groups))


class LocalPool:
    """A launcher for processes on this machine, which share its CPU threads or GPUs."""

    def processes(self, context: RunContext, groups: int) -> int:
        """One process per CPU thread, or several per GPU; see `Launcher.processes`."""
        return self.resources(context, groups)[0]

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
        workers = min(jobs or max(1, processors // threads), groups)
        return workers, devices, threads

    def run(
        self,
        groups: Sequence[Sequence[Job]],
        folder: Path,
        context: RunContext,
        *,
        processes: int,
        on_poll: Callable[[], None],
        on_killed: Callable[[Cell, str], None],
    ) -> None:
        """Run all cells; see `Launcher.run`.

        A process that is killed is replaced, and its cell is resumed. A cell has failed if its
        process ends unexpectedly for the second time.
        """
        _, devices, threads = self.resources(context, processes)
        contexts = [
            context.changed(device=devices[number % len(devices)], threads=threads)
            for number in range(processes)
        ]
        _run_groups(groups, CompareDir(folder), contexts, on_poll, on_killed)


def _run_groups(
    groups: Sequence[Sequence[Job]],
    compare_dir: CompareDir,
    contexts: Sequence[RunContext],
    on_poll: Callable[[], None],
    on_killed: Callable[[Cell, str], None],
) -> None:
    """Run all groups, with one process for each context."""
    queue = Queue(groups, len(contexts))
    crashes: Counter[Cell] = Counter()
    workers = [_Worker(compare_dir, context) for context in contexts]
    try:
        while queue or any(worker.job for worker in workers):
            for number, worker in enumerate(workers):
                if worker.job is None:
                    job = queue.next(
                        number, lambda other: _has_trained(workers[other], compare_dir)
                    )
                    if job is not None:
                        worker.give(job)
            wait([each for worker in workers if worker.job for each in worker.wait_handles], POLL)
            for number, worker in enumerate(workers):
                ended, exitcode = worker.ended()
                if ended is not None and _must_run_again(
                    ended[0], compare_dir, exitcode, crashes, on_killed
                ):
                    queue.put_back(number, ended)
            on_poll()
    finally:
        for worker in workers:  # first ask all, so that they write checkpoints in parallel
            worker.ask_to_stop()
        for worker in workers:
            worker.stop()


@dataclass
class _Worker:
    """A process that runs one cell after another; it is started with the first cell.

    Attributes:
        compare_dir: Folder of the comparison.
        context: Where and how to run cells.
        job: Cell that is running.
    """

    compare_dir: CompareDir
    context: RunContext
    job: Job | None = None
    _process: SpawnProcess | None = field(default=None, init=False)

    def give(self, job: Job) -> None:
        """Run a cell, in a new process if none is running."""
        self.job = job
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            arguments = (other, self.compare_dir.path, self.context.resolved().model_dump_json())
            self._process = context.Process(target=_work, args=arguments)
            self._process.start()
            other.close()
        with suppress(BrokenPipeError):  # the process was just killed: `ended` returns the cell
            self._pipe.send(job)

    @property
    def wait_handles(self) -> tuple[Connection, int]:
        """Handles that become ready when the cell or the process has ended."""
        assert self._process is not None
        return self._pipe, self._process.sentinel

    def ended(self) -> tuple[Job | None, int]:
        """The cell that has ended, and the exit code if its process has ended too."""
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
        """Ask the process to end, also in the middle of a cell."""
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


def _has_trained(worker: _Worker, compare_dir: CompareDir) -> bool:
    """Whether a worker has trained a round of its cell, or a run of the cell's tuning."""
    from hydrakit.compare.nested import inner_runs_done

    if worker.job is None:
        return False
    cell, plan = worker.job
    has_tuned = inner_runs_done(compare_dir, cell) > 0
    return has_tuned or RunDir(compare_dir.cell(cell)).finished(1, plan.rounds[0])


def _must_run_again(
    cell: Cell,
    compare_dir: CompareDir,
    exitcode: int,
    crashes: Counter[Cell],
    on_killed: Callable[[Cell, str], None],
) -> bool:
    """Whether a cell must be run again, because its process ended unexpectedly."""
    if compare_dir.status(cell) != "waiting":
        return False
    crashes[cell] += 1
    on_killed(cell, describe_exit(exitcode))
    if crashes[cell] < ATTEMPTS:
        return True
    _write_failure(
        compare_dir,
        cell,
        f"its process ended unexpectedly {ATTEMPTS} times ({describe_exit(exitcode)})",
    )
    return False


def describe_exit(exitcode: int) -> str:
    """Describe how a process ended."""
    if exitcode >= 0:
        return f"exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}: too little memory?" if name == "SIGKILL" else name


def _work(pipe: Connection, folder: Path, context_json: str) -> None:
    """Main function of a process: run one cell after another, until the pipe is closed."""
    for number in SIGNALS:  # the parent handles Ctrl-C and the end of its terminal
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    compare_dir, context = CompareDir(folder), RunContext.model_validate_json(context_json)
    logging.getLogger("hydrakit").setLevel(logging.ERROR)  # the parent has printed these warnings
    # SIGTERM is sent by `ask_to_stop`.
    with dependable(), suppress(StopRequested), stoppable([signal.SIGTERM]):
        while True:
            cell, plan = pipe.recv()
            _run_cell(cell, plan, compare_dir, context)
            pipe.send(None)


def _run_cell(cell: Cell, plan: Plan, compare_dir: CompareDir, context: RunContext) -> None:
    """Run a cell, and write a failure to its file."""
    from hydrakit.compare.nested import run_cell  # imports torch, after signals are set up

    try:
        run_cell(cell, plan, compare_dir, context)
    except PluginFault as error:
        where = f" (traceback: {compare_dir.failure_path(cell)})" if error.__cause__ else ""
        _write_failure(compare_dir, cell, f"{traceback.format_exc()}{one_line(str(error))}{where}")
    except HydrakitError as error:
        _write_failure(compare_dir, cell, one_line(str(error)))
    except Exception as error:  # a bug or out of memory
        _write_failure(compare_dir, cell, f"{traceback.format_exc()}{describe_error(error)}")


def _write_failure(compare_dir: CompareDir, cell: Cell, text: str) -> None:
    path = compare_dir.failure_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{text}\n".encode())


def _end_with_parent() -> None:
    """End this process when its parent process has ended for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
