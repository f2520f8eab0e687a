"""A comparison that several machines share: each takes cells by claims, and runs them its own way.

All of them give the same command for one folder. A cell is run by the process that holds its claim
(`hydrakit.storage.claims`); a process takes a cell when it has a place for it, so that one that
joins later finds work. Each ends when no cell is left, and writes the results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping

from hydrakit.compare.design import Cell, CompareDir, Description
from hydrakit.errors import HydrakitError
from hydrakit.jobs.driver import JobDriver
from hydrakit.jobs.job import Job
from hydrakit.plan.model import Plan
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.claims import WAIT, Participant
from hydrakit.storage.lock import break_locks

PAUSE = 2.0
"""Seconds until a process that got no cell tries again."""

START, REPORT = "start", "report"
"""Claims of the process that begins, and of the one that writes results while others run."""


def refuse_different(ours: Description, member: Participant, compare_dir: CompareDir) -> None:
    """Refuse to share a comparison with processes that run another one.

    Raises:
        HydrakitError: The design, the positive class or the version of hydrakit differs.
    """
    others = member.others()
    if not others or not compare_dir.begun:
        return
    theirs = compare_dir.description()
    for what, text in (
        ("hydrakit", f"hydrakit {theirs.hydrakit}"),
        ("design", "other strategies, plans, baselines, seeds or repeats"),
        ("positive", f"--positive {theirs.positive}"),
    ):
        if getattr(ours, what) != getattr(theirs, what):
            raise HydrakitError(
                f"{compare_dir.path}: {', '.join(others)} shares a comparison here with {text}: "
                "give the same command, or wait for its end"
            )


class SharedCells:
    """The cells of a comparison, of which this process takes those that nobody has.

    Args:
        member: This process among those that share the comparison.
        compare_dir: Folder of the comparison.
        plans: Plan of each cell.
    """

    def __init__(
        self, member: Participant, compare_dir: CompareDir, plans: Mapping[Cell, Plan]
    ) -> None:
        self._member = member
        self._dir = compare_dir
        self._plans = plans
        self._groups: dict[tuple[int, int, int], list[Cell]] = {}
        for cell in plans:
            self._groups.setdefault(cell.group, []).append(cell)
        self._own: set[tuple[int, int, int]] = set()  # groups of which this process ran cells

    def free_unfinished(self) -> None:
        """Free cells that failed or lack files, unless a process that is present had them.

        A process calls it once, when it joins: so failed cells are tried again, as without `join`.
        """
        claimed = {entry.name.rpartition(".")[0] for entry in os.scandir(self._member.claims)}
        for cell in self._plans:
            status = self._dir.status(cell)
            if status == "done" or (status == "waiting" and cell.name not in claimed):
                continue
            if self._member.take(cell.name, again=True):
                self._dir.failure_path(cell).unlink(missing_ok=True)
                self._member.release(cell.name)

    def take(self, waiting: Mapping[str, Cell]) -> Cell | None:
        """Take a cell; None if there is none to take at present.

        Args:
            waiting: Cells that are neither done nor failed, by name.

        Raises:
            HydrakitError: Others take over the work of this process.
        """
        refused: set[tuple[int, int, int]] = set()
        for cell, alone in self._in_order(waiting):
            if cell.group in refused:
                continue
            if not self._member.take(cell.name):
                if alone:  # someone begins this group at this moment
                    refused.add(cell.group)
                continue
            if self._member.taken_over(cell.name):
                for folder in (self._dir.cell(cell), self._dir.tuning(cell)):
                    break_locks(folder)
            if self._dir.status(cell) == "waiting":
                self._own.add(cell.group)
                return cell
            self._member.finish(cell.name)  # its owner became silent after its work
        return None

    def _in_order(self, waiting: Mapping[str, Cell]) -> Iterator[tuple[Cell, bool]]:
        """Cells to try: those that were stopped, then by group; whether one begins its group.

        The cells of a group share rounds. So a second cell of a group is begun only when the first
        one has trained a round, and cells of groups that this process knows come first.
        """
        started, held = self._dir.started(), self._member.held
        open_cells = [cell for cell in waiting.values() if cell.name not in held]
        yield from ((cell, False) for cell in open_cells if cell.name in started)
        ready, new = list[Cell](), list[Cell]()
        for group, cells in self._groups.items():
            rest = [
                cell
                for cell in cells
                if cell.name in waiting and cell.name not in started and cell.name not in held
            ]
            if not rest:
                continue
            if all(cell.name not in started and cell.name not in held for cell in cells):
                new += rest
            elif any(self._has_trained(cell, waiting) for cell in cells if cell.name in started):
                busy = any(cell.name in held for cell in cells)
                if group in self._own and not busy:
                    yield from ((cell, False) for cell in rest)
                else:
                    ready += rest
        yield from ((cell, True) for cell in new)
        yield from ((cell, False) for cell in ready)

    def _has_trained(self, cell: Cell, waiting: Mapping[str, Cell]) -> bool:
        """Whether a cell has ended or trained a round, that of its tuning included."""
        if cell.name not in waiting or any(self._dir.inner_rounds(cell).glob("*")):
            return True
        return RunDir(self._dir.cell(cell)).finished(1, self._plans[cell].rounds[0])


def run_shared(
    member: Participant,
    driver: JobDriver,
    cells: SharedCells,
    *,
    processes: int,
    waiting: Mapping[str, Cell],
    job_of: Callable[[Cell], Job],
) -> None:
    """Run cells until none is left in any process.

    Args:
        member: This process among those that share the comparison.
        driver: Runs the jobs of cells.
        cells: The cells.
        processes: Number of cells to run at the same time.
        waiting: Cells that are neither done nor failed, by name; ``driver`` updates it.
        job_of: Returns the job of a cell.

    Raises:
        HydrakitError: Others take over the work of this process.
    """
    running: set[str] = set()
    next_try = 0.0
    while waiting or running:  # a job that is done may still write its report
        member.check()
        while len(running) < processes and time.monotonic() >= next_try:
            try:
                cell = cells.take(waiting)
            except OSError:  # the folder cannot be reached at present: the heartbeat decides
                cell = None
            if cell is None:
                next_try = time.monotonic() + PAUSE
                break
            running.add(cell.name)
            driver.submit([[job_of(cell)]])
        for job in driver.poll():
            running.discard(job.name)
            member.finish(job.name)
            next_try = 0.0
        if not running:
            time.sleep(WAIT)
