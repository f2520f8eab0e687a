"""A comparison that stops early: which cells each look needs, and what the looks say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from hydrakit.compare.design import Cell, CompareDir, Design
from hydrakit.errors import PlanError
from hydrakit.hooks import Task
from hydrakit.stats.paired import PairedDifference, compare
from hydrakit.stats.score_table import Row, gather
from hydrakit.stats.sequential import Look, LookSeries, PairAtLook, planned_looks

OPTION = "--until-told"
Group = tuple[int, int, int]


def refuse_design(design: Design, positive: str | None, task: Task) -> None:
    """Refuse a design that cannot be stopped early by the rule.

    Args:
        design: The design, before values of a subgroup are known.
        positive: Class treated as positive; None for several labels and for numbers.
        task: Task of the target.

    Raises:
        PlanError: It cannot.
    """
    cells, leave_out = _passes(design) * _folds(design), f"leave out {OPTION}"
    reason = ""
    if positive is None:
        what, remedy = "several labels", f"name one with `--positive`, or {leave_out}"
        if task == "regression":
            what, remedy = "numbers to predict", leave_out
        reason = f"is for the AUC of one class, and {design.target!r} has {what}: {remedy}"
    elif len(design.all_strategies) < 2:
        reason = f"needs two strategies, plans or baselines to tell apart: {leave_out}"
    elif design.leave_out is not None:
        reason = (
            f"needs folds of random patients: values of {design.leave_out!r} that were left out "
            f"first say nothing about the others: {leave_out}"
        )
    elif len(_looks_of(design)) < 2:
        reason = (
            f"needs more cells than {cells} for each strategy, so that it can stop before the last "
            "one: add --seeds or --folds"
        )
    if reason:
        raise PlanError(f"{OPTION} {reason}")


def refuse_other_looks(compare_dir: CompareDir, design: Design) -> None:
    """Refuse to continue a comparison whose looks were planned for other seeds or repeats.

    Raises:
        PlanError: They were, or ``compare.json`` cannot be read.
    """
    if not compare_dir.begun:
        return
    before = compare_dir.description()
    planned = before.design.seeds, before.design.repeats
    if before.looks and planned != (design.seeds, design.repeats):
        raise PlanError(
            f"{compare_dir.path}: its looks ({OPTION}) were planned for --seeds {planned[0]} "
            f"--repeats {planned[1]}, and more of them now would find differences by chance: keep "
            "these numbers, or choose another folder with `--out`"
        )


def _passes(design: Design) -> int:
    return design.seeds * design.repeats


def _folds(design: Design) -> int:
    return design.folds or 1


def _looks_of(design: Design) -> tuple[Look, ...]:
    return planned_looks(_passes(design), _folds(design))


class CellLooks:
    """The looks at the cells of a comparison, in order.

    A look is taken when all of its cells are done, whichever ended first, so that a comparison that
    was stopped and resumed, or ran in more processes, has the same looks.

    Args:
        compare_dir: Folder of the comparison.
        design: Its design.
        rows_of: Gives the scores of the test cases of some cells.
        stops: Whether cells that can hardly change the verdict are left out.
    """

    def __init__(
        self,
        compare_dir: CompareDir,
        design: Design,
        rows_of: Callable[[Sequence[Cell]], list[Row]],
        *,
        stops: bool,
    ) -> None:
        self.first, *self.others = design.all_strategies
        self.stops = stops
        self.series = LookSeries(self.others, _looks_of(design), stops=stops)
        self.failed: dict[str, int] = {}
        self._compare_dir, self._rows_of = compare_dir, rows_of
        self._cells = {(cell.strategy, cell.group): cell for cell in design.cells()}
        self._passes = list(dict.fromkeys(group[:2] for _, group in self._cells))
        self._folds = _folds(design)

    def groups(self, look: Look) -> list[Group]:
        """Seed, repeat and fold of the cells of a look."""
        return [
            (seed, repeat, fold)
            for fold in range(look.folds)
            for seed, repeat in self._passes[: look.passes]
        ]

    def cells(self, look: Look, strategies: Sequence[str]) -> list[Cell]:
        """Cells of some strategies at a look; those of one group follow one another."""
        return [self._cells[name, group] for group in self.groups(look) for name in strategies]

    @property
    def over(self) -> bool:
        """Whether no other cell is needed."""
        return self.series.next is None or self.first in self.failed

    def waiting(self, processes: int) -> list[Cell]:
        """Cells to run next: those of the next look, and of further ones to occupy processes.

        They are all cells where no cell is left out.
        """
        if self.over:
            return []
        found: list[Cell] = []
        for look in self.series.looks[len(self.series.taken) :]:
            cells = self.cells(look, (self.first, *self.series.active))
            found = [cell for cell in cells if self._compare_dir.status(cell) == "waiting"]
            if self.stops and len(found) >= processes:
                break
        return found

    def advance(self) -> bool:
        """Take the looks whose cells have ended; whether there were any.

        A strategy with a failed cell takes no part in further looks.
        """
        before = len(self.series.taken)
        while (look := self.series.next) is not None and self.first not in self.failed:
            states = {
                cell: self._compare_dir.status(cell)
                for cell in self.cells(look, (self.first, *self.series.active))
            }
            if "waiting" in states.values():
                break
            for name in {cell.strategy for cell, state in states.items() if state != "done"}:
                self.failed[name] = len(self.series.taken)
                self.series.drop(name)
            if self.series.active and self.first not in self.failed:
                self.series.take(self._compared(look))
        return len(self.series.taken) > before

    def _compared(self, look: Look) -> dict[str, PairedDifference]:
        tables = {
            name: gather(self._rows_of(self.cells(look, (name,))))
            for name in (self.first, *self.series.active)
        }
        return {
            name: compare(
                tables[self.first], tables[name], level=self.series.confidence, cells_vary=True
            )
            for name in self.series.active
        }

    def results(self) -> dict[str, tuple[int, PairAtLook]]:
        """The last look at each strategy, with its number from 1."""
        return self.series.latest()

    def used(self) -> list[Cell]:
        """Cells of the last look: those of the first strategy, and of those still compared then."""
        if not self.series.taken:
            return []
        look = self.series.looks[len(self.series.taken) - 1]
        return self.cells(look, (self.first, *self.series.taken[-1]))

    def dropped(self) -> dict[str, int]:
        """Strategies without a place in the last look, with the number of the last one at each."""
        results, count = self.results(), len(self.series.taken)
        numbers = {name: results[name][0] if name in results else 0 for name in self.others}
        return {name: number for name, number in numbers.items() if number < count}

    def needed(self) -> set[Cell]:
        """Cells of the looks that were taken."""
        found = set[Cell]()
        for name, (number, _) in self.results().items():
            found.update(self.cells(self.series.looks[number - 1], (self.first, name)))
        return found

    def not_needed(self) -> list[Cell]:
        """Cells that no look needs any more."""
        if not self.stops or self.first in self.failed:
            return []
        needed = self.needed()
        for name in (*self.series.active, *self.failed):
            needed.update(self.cells(self.series.looks[-1], (self.first, name)))
        return [cell for cell in self._cells.values() if cell not in needed]

    def sentence(self, name: str, *, decided: str) -> str:
        """What the looks mean for the verdict on a strategy."""
        number, at_look = self.results()[name]
        where = f"look {number} of {len(self.series.looks)} ({self.text(number)})"
        level = f"{100 * self.series.levels[number - 1]:.2g} %"
        if name in self.failed:
            return f"The comparison ended after {where}, because a cell of {name} failed."
        if at_look.reason is None:
            return f"So far: {where}, tested at the level of {level}."
        if at_look.reason == "all cells":
            return f"All cells are trained; this {where} is tested at the level of {level}."
        if decided != "cannot tell":
            return (
                f"Stopped early at {where}, tested at the level of {level}: differences that are "
                "detected early tend to look larger than they are."
            )
        assert at_look.chance is not None
        chance = max(1, math.ceil(100 * at_look.chance))
        return (
            f"Stopped early at {where}: all cells would show a difference with a probability of "
            f"{'about' if chance > 1 else 'at most'} {chance} %."
        )

    def text(self, number: int) -> str:
        """What a look covers, in words: ``3 of 5 folds in 3 of 9 passes``."""
        look = self.series.looks[number - 1]
        passes = f"{look.passes} of {len(self._passes)} passes"
        return passes if self._folds == 1 else f"{look.folds} of {self._folds} folds in {passes}"
