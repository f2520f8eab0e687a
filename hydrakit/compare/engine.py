"""Comparing strategies: every cell an ordinary run, several at once, and the result as data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydrakit.compare.design import Cell, CompareDir, Description, Design
from hydrakit.compare.scoring import ScoredCases, compare_cells, scored_cases
from hydrakit.data.quality.leakage import check_leakage
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, Launcher, LauncherFactory
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.report import write_comparison_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import find_datasets, prepare_datasets
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison
from hydrakit.storage.lock import locked
from hydrakit.storage.paths import using_cache
from hydrakit.storage.records import write_record
from hydrakit.version import version

SECONDS_BETWEEN_REPORTS = 30.0


class CompareCallback(RunCallback):
    """Told how a comparison goes. These methods do nothing: override the ones of interest."""

    def begun(self, out: Path, cells: int, rounds: int, at_once: int) -> None:
        """The data is ready: so many cells with so many rounds are to be there in the end."""

    def rounds_done(self, rounds: int) -> None:
        """So many rounds of all cells are there."""

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        """A cell is finished, in this or an earlier command."""

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell failed; the others go on."""

    def killed(self, cell: Cell, reason: str) -> None:
        """A process ended before its time, with this cell under way."""


@dataclass(frozen=True)
class CompareResult:
    """How a comparison ended.

    Attributes:
        path: Of its folder.
        comparison: What it found; None where no fold has all strategies.
        failed: Why cells failed, by name.
    """

    path: Path
    comparison: Comparison | None
    failed: dict[str, str]


def default_out(design: Design) -> Path:
    """Where a comparison lies unless told otherwise: strategies and seeds can be added there."""
    return Path("runs") / f"compare-{design.target}-{design.digest[:8]}"


def compare(
    design: Design,
    context: RunContext | None = None,
    *,
    positive: str | None = None,
    out: Path | None = None,
    callback: CompareCallback | None = None,
    **values: Any,
) -> CompareResult:
    """Run the cells of a comparison that are not there yet, and compare the strategies.

    Cells run in processes of their own, which load the plugins by themselves. A cell that fails
    does not stop the others.

    Args:
        design: What is compared.
        context: Where and how to compute; ``launcher`` and ``jobs`` say in which processes.
        positive: Class whose AUC is compared; None for the second of two.
        out: Folder of the comparison; None for `default_out`. One that holds cells of the same
            design is continued.
        callback: Called when something happens.
        values: Values of the context by name.

    Raises:
        HydrakitError: The design, the context or the data is impossible.
    """
    context, callback = context_of(context, values), callback or CompareCallback()
    if not context.test:
        raise PlanError("a comparison needs the results of its runs: leave out test=False")
    out = out or default_out(design)
    here = CompareDir(out.resolve())
    context = context.changed(round_cache=here.rounds)
    plugins = context.plugins()
    chosen = positive_class(plugins.get(DatasetAdapter, design.target), positive)
    plans = {cell: design.plan(cell, plugins) for cell in design.cells()}
    here.check(design)
    factory = plugins.get(LauncherFactory, context.launcher)
    launcher: Launcher = factory.build(factory.options())
    processes = launcher.processes(context, len({cell.group for cell in plans}))
    with using_cache(context.cache):
        cases = _prepare(next(iter(plans.values())), context, plugins, chosen, callback)
    tracker = CellTracker(here, plans, callback, design, cases, plugins)
    here.begin()
    with locked(here.path):
        here.check(design)  # another process may have begun here
        tracker.write()
        rounds = sum(len(plan.rounds) for plan in plans.values())
        callback.begun(out, len(plans), rounds, processes)
        tracker.run(launcher, context, processes)
        comparison = compare_cells(here, design, cases)
        tracker.publish(comparison)
    return CompareResult(out, comparison, tracker.failures)


def positive_class(adapter: DatasetAdapter, wanted: str | None) -> str:
    """The class whose AUC is compared.

    Raises:
        DataError: The dataset has none of that name, or several that it could be.
    """
    names = ", ".join(adapter.classes)
    if adapter.task == "regression":
        raise DataError(
            f"{adapter.name}: its label is a number, and AUCs are compared: name another target"
        )
    if wanted is None and len(adapter.classes) == 2 and adapter.task == "classification":
        return adapter.classes[1]
    if wanted is None:
        raise DataError(f"{adapter.name}: has the classes {names}: name one with `--positive`")
    if wanted not in adapter.classes:
        raise DataError(f"--positive {wanted!r}: is not a class of {adapter.name!r} ({names})")
    return wanted


def _prepare(
    plan: Plan,
    context: RunContext,
    plugins: Plugins,
    positive: str,
    callback: CompareCallback,
) -> ScoredCases:
    """Prepare every dataset once, so that no process waits for another, and check the splits."""
    datasets = prepare_datasets(plan, find_datasets(plan, context, plugins), callback)
    leakage = check_leakage(datasets.prepared, datasets.adapters, plan)
    return scored_cases(datasets.prepared[plan.target].index, leakage.units[plan.target], positive)


@dataclass
class CellTracker:
    """What has become of the cells, as their folders tell it."""

    here: CompareDir
    plans: Mapping[Cell, Plan]
    callback: CompareCallback
    design: Design
    cases: ScoredCases
    plugins: Plugins
    told: set[Cell] = field(default_factory=set)
    published: int = 0  # cells that had ended when a report was last written
    next_look: float = 0.0  # in the clock's seconds, no report before

    @property
    def failures(self) -> dict[str, str]:
        """Why cells failed, by name."""
        found = {cell.name: self.here.status(cell) for cell in self.plans}
        return {name: said for name, said in found.items() if said not in ("done", "waiting")}

    def run(self, launcher: Launcher, context: RunContext, processes: int) -> None:
        """Run what is not done."""
        for cell in self.plans:
            self.here.failure_path(cell).unlink(missing_ok=True)  # it gets another chance
        self._look(before=True)
        groups: dict[tuple[int, int, int], list[tuple[Cell, Plan]]] = {}
        for cell, plan in self.plans.items():
            if cell not in self.told:
                groups.setdefault(cell.group, []).append((cell, plan))
        try:
            launcher.run(
                list(groups.values()),
                self.here.path,
                context,
                processes=processes,
                on_poll=self._poll,
                on_killed=self.callback.killed,
            )
        finally:
            self.write()

    def write(self) -> None:
        """Write ``compare.json``."""
        description = Description(
            hydrakit=version(),
            digest=self.design.digest,
            design=self.design,
            positive=self.cases.positive,
            status={cell.name: self.here.status(cell) for cell in self.plans},
        )
        self.here.write(description)

    def publish(self, comparison: Comparison | None) -> None:
        """Write ``comparison.json`` and ``report.html``, where a fold has all strategies."""
        if comparison is not None:
            write_record(self.here.comparison_path, comparison)
            write_comparison_report(self.here.path, plugins=self.plugins)

    def _poll(self) -> None:
        """Tell what is new, and publish what is found so far now and then."""
        self._look()
        ended = len(self.told)
        if ended in (self.published, len(self.plans)) or time.monotonic() < self.next_look:
            return
        self.published = ended
        with suppress(DataError):  # too few cells to have an AUC, perhaps: at the end it is said
            found = compare_cells(self.here, self.design, self.cases, under_way=True)
            self.publish(found)
            if found is not None:
                self.next_look = time.monotonic() + SECONDS_BETWEEN_REPORTS

    def _look(self, before: bool = False) -> None:
        """Tell what is new."""
        for cell in [cell for cell in self.plans if cell not in self.told]:
            status = self.here.status(cell)
            if status == "done":
                self.callback.done(cell, RunDir(self.here.cell(cell)), before)
            elif status != "waiting":
                self.callback.failed(cell, status)
            if status != "waiting":
                self.told.add(cell)
        self.callback.rounds_done(sum(self._rounds(cell) for cell in self.plans))

    def _rounds(self, cell: Cell) -> int:
        """How many rounds of a cell are there."""
        run, rounds = RunDir(self.here.cell(cell)), self.plans[cell].rounds
        if cell in self.told:
            return len(rounds)
        return sum(run.finished(number, round) for number, round in enumerate(rounds, start=1))
