"""Processes that run the cells of a comparison, several at once.

A process takes the cells of one (seed, repeat, fold), one after another, so that what they have in
common is trained once. Then it takes the next ones, and where there are none it helps with those of
another: to start a process costs seconds. When one is killed, the others do not notice, and another
takes its place.
"""

from __future__ import annotations

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
from hydrakit.compute.signals import StopRequested, stoppable
from hydrakit.errors import HydrakitError, one_line
from hydrakit.plan.model import Plan
from hydrakit.plugins.guard import PluginFault, describe_error
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import write_atomic

POLL = 0.5
"""Seconds between two looks at what is finished."""

# What a process that shares a GPU should have. One small network leaves most of a GPU idle: on an
# H100, six runs at once took as long as one.
GPU_MEMORY = 4 * 2**30  # bytes; a run with some thousand patches takes 1 or 2
GPU_THREADS = 2

ATTEMPTS = 2
"""How often a cell may take its process down with it."""


Job = tuple[Cell, Plan]


class Queue:
    """Which cell each of several processes runs next.

    Cells of one group lie with the process that began it. One that has nothing left takes a new
    group, or the last cell of the process that has most left, once that has trained a round: by
    then what the cells have in common is there, or soon is.
    """

    def __init__(self, groups: Sequence[Sequence[Job]], processes: int) -> None:
        """Of groups of cells that are not done."""
        self._groups = deque(groups)
        self._left: list[deque[Job]] = [deque() for _ in range(processes)]

    def next(self, process: int, ahead: Callable[[int], bool]) -> Job | None:
        """A cell for a process that is at none, or None where there is none yet.

        Args:
            process: Its number.
            ahead: Whether a process, by number, has trained a round of its group.
        """
        own = self._left[process]
        if not own and self._groups:
            own.extend(self._groups.popleft())
        if own:
            return own.popleft()
        most = max(range(len(self._left)), key=lambda number: len(self._left[number]))
        return self._left[most].pop() if self._left[most] and ahead(most) else None

    def again(self, process: int, job: Job) -> None:
        """A cell whose process was killed is the next one of the process in its place."""
        self._left[process].appendleft(job)

    def __len__(self) -> int:
        """How many cells wait."""
        return sum(len(cells) for cells in (*self._groups, *self._left))


class LocalPool:
    """Processes of this machine, which divide its threads or GPUs among them."""

    def processes(self, context: RunContext, groups: int) -> int:
        """One process per CPU thread, or as many as share the GPUs; see `Launcher.processes`."""
        return self.divided(context, groups)[0]

    def divided(self, context: RunContext, groups: int) -> tuple[int, tuple[str, ...], int]:
        """Number of processes, the devices that they take in turn, and the threads of each."""
        import torch

        from hydrakit.compute.devices import choose_device

        where, jobs = choose_device(context.device), context.jobs
        threads = context.threads or torch.get_num_threads()
        devices: tuple[str, ...] = (str(where),)
        if where.type == "cuda" and where.index is None:
            devices = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
        if jobs is None and where.type == "cuda":
            memory = min(torch.cuda.get_device_properties(each).total_memory for each in devices)
            sharing = min(memory // GPU_MEMORY, threads // (GPU_THREADS * len(devices)))
            jobs = len(devices) * max(1, sharing)
        workers = min(jobs or threads, groups)
        return workers, devices, max(1, threads // workers)

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

        A process that is killed is replaced by another, which goes on with the same cell; a cell
        that was under way when its process ended for the second time counts as failed.
        """
        _, devices, threads = self.divided(context, processes)
        contexts = [
            context.changed(device=devices[number % len(devices)], threads=threads)
            for number in range(processes)
        ]
        _run_groups(groups, CompareDir(folder), contexts, on_poll, on_killed)


def _run_groups(
    groups: Sequence[Sequence[Job]],
    here: CompareDir,
    contexts: Sequence[RunContext],
    on_poll: Callable[[], None],
    on_killed: Callable[[Cell, str], None],
) -> None:
    """Run all groups in as many processes as there are contexts."""
    queue = Queue(groups, len(contexts))
    falls: Counter[Cell] = Counter()
    workers = [_Worker(here, context) for context in contexts]
    try:
        while queue or any(worker.job for worker in workers):
            for number, worker in enumerate(workers):
                if worker.job is None:
                    job = queue.next(number, lambda other: _ahead(workers[other], here))
                    if job is not None:
                        worker.give(job)
            wait([each for worker in workers if worker.job for each in worker.told_by], POLL)
            for number, worker in enumerate(workers):
                ended, exitcode = worker.ended()
                if ended is not None and _fell(ended[0], here, exitcode, falls, on_killed):
                    queue.again(number, ended)
            on_poll()
    finally:
        for worker in workers:  # all at once: each writes down what it has
            worker.ask_to_stop()
        for worker in workers:
            worker.stop()


@dataclass
class _Worker:
    """A process for one cell after another, or for none yet.

    Attributes:
        here: The comparison's folder.
        context: Where and how cells run.
        job: The cell under way.
    """

    here: CompareDir
    context: RunContext
    job: Job | None = None
    _process: SpawnProcess | None = field(default=None, init=False)

    def give(self, job: Job) -> None:
        """Have it begin with a cell."""
        self.job = job
        if self._process is None or not self._process.is_alive():
            context = multiprocessing.get_context("spawn")
            self._pipe, other = context.Pipe()
            arguments = (other, self.here.path, self.context.resolved().model_dump_json())
            self._process = context.Process(target=_work, args=arguments)
            self._process.start()
            other.close()
        with suppress(BrokenPipeError):  # killed this very moment: `ended` sees it
            self._pipe.send(job)

    @property
    def told_by(self) -> tuple[Connection, int]:
        """What becomes ready when it has done its cell, or is gone."""
        assert self._process is not None
        return self._pipe, self._process.sentinel

    def ended(self) -> tuple[Job | None, int]:
        """The cell that it is no longer at, and its exit code, if it is gone."""
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
        """Have it end, wherever it is."""
        if self._process is not None:
            self._process.terminate()

    def stop(self) -> None:
        """See it end: what it has not finished is begun again the next time."""
        if self._process is None:
            return
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()


def _ahead(worker: _Worker, here: CompareDir) -> bool:
    """Whether a worker has trained a round of the cell that it is at."""
    if worker.job is None:
        return False
    cell, plan = worker.job
    return RunDir(here.cell(cell)).finished(1, plan.rounds[0])


def _fell(
    cell: Cell,
    here: CompareDir,
    exitcode: int,
    falls: Counter[Cell],
    on_killed: Callable[[Cell, str], None],
) -> bool:
    """Whether a cell must be run again, since its process ended before it did."""
    if here.status(cell) != "waiting":
        return False
    falls[cell] += 1
    on_killed(cell, ending(exitcode))
    if falls[cell] < ATTEMPTS:
        return True
    _write_failure(here, cell, f"its process ended {ATTEMPTS} times ({ending(exitcode)})")
    return False


def ending(exitcode: int) -> str:
    """How a process ended, in words."""
    if exitcode >= 0:
        return f"exit status {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"{name}: too little memory?" if name == "SIGKILL" else name


def _work(pipe: Connection, folder: Path, context_json: str) -> None:
    """What a process does: run cell after cell, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all: the parent sees to it
    threading.Thread(target=_end_with_parent, daemon=True).start()
    here, context = CompareDir(folder), RunContext.model_validate_json(context_json)
    with suppress(StopRequested), stoppable([signal.SIGTERM]):  # the parent's `stop`
        while True:
            cell, plan = pipe.recv()
            _run_cell(cell, plan, here, context)
            pipe.send(None)


def _run_cell(cell: Cell, plan: Plan, here: CompareDir, context: RunContext) -> None:
    """Run a cell; a failure is written down, and others go on."""
    from hydrakit import engine

    try:
        engine.run(plan, context, out=here.cell(cell))
    except PluginFault as error:
        where = f" (traceback: {here.failure_path(cell)})" if error.__cause__ else ""
        _write_failure(here, cell, f"{traceback.format_exc()}{one_line(str(error))}{where}")
    except HydrakitError as error:
        _write_failure(here, cell, one_line(str(error)))
    except Exception as error:  # a bug, or no memory: its traceback stands in the file
        _write_failure(here, cell, f"{traceback.format_exc()}{describe_error(error)}")


def _write_failure(here: CompareDir, cell: Cell, text: str) -> None:
    path = here.failure_path(cell)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, f"{text}\n".encode())


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
