"""Comparison of strategies: training all cells, several at a time, and comparing their results."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydrakit.compare import nested
from hydrakit.compare.design import BASE, Cell, CompareDir, Description, Design, naming
from hydrakit.compare.join import REPORT, START, SharedCells, refuse_different, run_shared
from hydrakit.compare.looks import CellLooks, refuse_design, refuse_other_looks
from hydrakit.compare.scoring import (
    ANOTHER,
    ScoredCases,
    baseline_texts,
    cell_looks,
    compare_cells,
    refuse_other_data,
    scored_cases,
)
from hydrakit.data.origin import DataOrigin, refuse_changed
from hydrakit.data.quality.leakage import LeakageResult, check_leakage
from hydrakit.data.quality.left_out import notes_on_cases, values_to_leave_out
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, Launcher, Task
from hydrakit.jobs.candidates import data_key
from hydrakit.jobs.driver import JobDriver, build_launcher, preview
from hydrakit.jobs.job import Job
from hydrakit.models.build import check_builds, check_components, check_heads
from hydrakit.observers.trackers import trackers_of
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.report import write_comparison_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import PlanDatasets, find_datasets, prepare_datasets
from hydrakit.runs.earlier import with_threads
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import ComparedPlan, Comparison
from hydrakit.storage.claims import Participant
from hydrakit.storage.lock import joined, locked
from hydrakit.storage.paths import using_cache
from hydrakit.storage.records import write_record
from hydrakit.version import version

SECONDS_BETWEEN_REPORTS = 30.0

PAUSE = 10
"""Least time between two reports, as a multiple of the time that the last one took."""


class CompareCallback(RunCallback):
    """Called when something happens in a comparison; override the methods of interest."""

    def begun(self, out: Path, cells: int, rounds: int, processes: int) -> None:
        """The data is ready; numbers of all cells, of their rounds, and of processes."""

    def rounds_done(self, rounds: int) -> None:
        """Number of rounds of all cells that are done."""

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        """A cell is finished, in this command or ``before``."""

    def failed(self, cell: Cell, reason: str) -> None:
        """A cell failed; the others continue."""

    def killed(self, cell: Cell, reason: str) -> None:
        """A process ended unexpectedly while it ran this cell."""


@dataclass(frozen=True)
class PlannedComparison:
    """What a dry run of `compare` would do.

    Attributes:
        cells: Number of cells.
        done: Number of cells that are done already.
        rounds: Number of rounds of all cells, with those of their tuning.
        processes: Number of jobs that run at the same time.
        threads: Number of CPU threads of each.
        preview: What the launcher would submit; None if it says nothing about it.
    """

    cells: int
    done: int
    rounds: int
    processes: int
    threads: int
    preview: str | None


@dataclass(frozen=True)
class CompareResult:
    """Result of `compare`.

    Attributes:
        path: Path of the comparison's folder.
        comparison: Results; None if no fold has all strategies.
        failed: Reasons why cells failed, by name of the cell.
        planned: What would be done, after a dry run.
    """

    path: Path
    comparison: Comparison | None
    failed: dict[str, str]
    planned: PlannedComparison | None = None


def default_out(design: Design) -> Path:
    """The default folder of a comparison, the same when strategies, plans or seeds are added."""
    return Path("runs") / f"compare-{design.target}-{design.digest[:8]}"


def compare(
    design: Design,
    context: RunContext | None = None,
    *,
    positive: str | None = None,
    out: Path | None = None,
    join: bool = False,
    dry_run: bool = False,
    until_told: bool = False,
    callback: CompareCallback | None = None,
    **values: Any,
) -> CompareResult:
    """Run the cells of a comparison that are not done yet, and compare the strategies.

    Cells run in separate processes, which load the plugins themselves. A cell that fails does not
    stop the others.

    With ``join``, the same call in other processes, on any machine that sees the folder, shares the
    cells; each of them returns the results of all.

    Args:
        design: Strategies to compare, and how.
        context: Where and how to compute; ``launcher`` and ``jobs`` choose the processes.
        positive: Class treated as positive in the AUC; None for the second of two, or for the mean
            of all labels. A regression has none.
        out: Folder of the comparison; None for `default_out`. A comparison of the same design
            is resumed.
        join: Whether other processes may share the comparison (`hydrakit.compare.join`).
        dry_run: Whether to stop before the first cell, with nothing written but the cache.
        until_told: Whether cells are left out that can hardly change the verdict any more
            (`hydrakit.compare.looks`).
        callback: Called when something happens.
        values: Values of the context by name.

    Raises:
        HydrakitError: The design, the context or the data is invalid; or processes work in the
            folder that do not share the comparison, or share another.
    """
    context, callback = context_of(context, values), callback or CompareCallback()
    if not context.test:
        raise PlanError("a comparison needs the results of its runs: leave out test=False")
    out = out or default_out(design)
    compare_dir = CompareDir(out.resolve())
    context = context.changed(round_cache=compare_dir.rounds)
    plugins = context.plugins()
    trackers_of(context, plugins)  # refuses here what each cell would refuse
    launcher = build_launcher(context.launcher, plugins)
    adapter = plugins.get(DatasetAdapter, design.target)
    chosen = positive_class(adapter, positive)
    _refuse_looks(compare_dir, design, chosen, adapter.task, join=join, until_told=until_told)
    notes: tuple[str, ...] = ()
    if design.leave_out is not None:
        compare_dir.check(design)
        with using_cache(context.cache):
            design, notes = _with_values(design, design.leave_out, context, plugins, callback)
    plans = design.plans(plugins)
    compare_dir.check(design)
    refuse_other_looks(compare_dir, design)
    groups = len({cell.group for cell in plans})
    asked = context.threads
    context = _with_threads_of_cells(
        compare_dir, plans, context, launcher.threads(groups), callback
    )
    processes = launcher.processes(context, groups)
    cases = _checked_cases(
        design, plans, context, plugins, positive=chosen, notes=notes, callback=callback
    )
    assert context.threads is not None
    tracker = CellTracker(
        compare_dir,
        plans,
        callback,
        design,
        cases,
        plugins,
        context.threads,
        baselines=baseline_texts(design, plugins, cases),
        named_plans=design.described_plans(plugins),
    )
    if until_told or (compare_dir.begun and compare_dir.description().looks):
        tracker.looks = cell_looks(compare_dir, design, cases, stops=until_told)
    _check_data(compare_dir, plans, cases)
    if dry_run:
        planned = tracker.planned(launcher, context, processes)
        return CompareResult(out, None, {}, planned)
    compare_dir.begin()
    working: AbstractContextManager[Participant | None] = (
        joined(compare_dir.path) if join else locked(compare_dir.path)
    )
    with working as member:
        with member.holding(START) if member else nullcontext():
            compare_dir.check(design)  # again, now that no other process begins there
            _check_data(compare_dir, plans, cases)
            if member:
                refuse_different(tracker.description(), member, compare_dir)
                context = _with_threads_of_cells(
                    compare_dir, plans, context.changed(threads=asked), context.threads, callback
                )
                tracker.share(member, context.threads)
            compare_dir.write_plans(design)
            tracker.write()
        callback.begun(out, len(plans), tracker.rounds, processes)
        tracker.run(launcher, context, processes)
        comparison = tracker.compared()
        tracker.publish(comparison)
    return CompareResult(out, comparison, tracker.failures)


def _refuse_looks(
    compare_dir: CompareDir,
    design: Design,
    positive: str | None,
    task: Task,
    *,
    join: bool,
    until_told: bool,
) -> None:
    """Refuse to stop early where that is not possible.

    Raises:
        PlanError: The comparison has no order of looks, or is shared by several processes.
    """
    if until_told:
        refuse_design(design, positive, task)
    if join and until_told:
        raise PlanError(
            "--until-told cannot be shared by several machines: leave out --join or --until-told"
        )
    if join and compare_dir.begun and compare_dir.description().looks:
        raise PlanError(
            f"{compare_dir.path}: was begun with --until-told, which machines cannot share: "
            "leave out --join, or choose another folder with `--out`"
        )


def _checked_cases(
    design: Design,
    plans: Mapping[Cell, Plan],
    context: RunContext,
    plugins: Plugins,
    *,
    positive: str | None,
    notes: tuple[str, ...],
    callback: CompareCallback,
) -> ScoredCases:
    """Prepare the data, check all plans and candidates with it, and give notes to the callback.

    Raises:
        HydrakitError: As in `_prepare` and `nested.check_tuning`.
    """
    with using_cache(context.cache):
        cases = _prepare(design, plans, context, plugins, positive=positive, callback=callback)
        cases = replace(cases, notes=(*notes, *cases.notes))
        for text in cases.notes:
            callback.noted(text)
        tuned = nested.check_tuning(design, plans, context, plugins, callback)
    return replace(cases, tuned={**cases.tuned, **tuned})


def _with_values(
    design: Design,
    subgroup: str,
    context: RunContext,
    plugins: Plugins,
    callback: CompareCallback,
) -> tuple[Design, tuple[str, ...]]:
    """The design with the values of its subgroup that are tested, and notes on all others.

    Raises:
        HydrakitError: The data cannot be read, or has no such subgroup, or too few values.
    """
    datasets, _ = _prepare_for({BASE: design.base(plugins)}, context, plugins, callback)
    index = datasets.prepared[design.target].index
    values, notes = values_to_leave_out(
        [case for case in index.cases if case.label is not None],
        subgroup,
        datasets.adapters[design.target],
    )
    return design.with_values(values), notes


def positive_class(adapter: DatasetAdapter, requested: str | None) -> str | None:
    """The class treated as positive in the AUC: the requested one, or the second of two.

    It is None for numbers, and for several labels of which none is requested.

    Raises:
        DataError: The dataset has no such class, or none was requested and it has not two.
    """
    names = ", ".join(adapter.classes)
    if requested is None:
        if adapter.task != "classification":
            return None
        if len(adapter.classes) == 2:
            return adapter.classes[1]
        raise DataError(f"{adapter.name}: has the classes {names}: name one with `--positive`")
    if adapter.task == "regression":
        raise DataError(
            f"--positive {requested!r}: the labels of {adapter.name!r} are numbers, which have no "
            "classes: leave it out"
        )
    if requested not in adapter.classes:
        raise DataError(f"--positive {requested!r}: is not a class of {adapter.name!r} ({names})")
    return requested


def _prepare(
    design: Design,
    plans: Mapping[Cell, Plan],
    context: RunContext,
    plugins: Plugins,
    *,
    positive: str | None,
    callback: CompareCallback,
) -> ScoredCases:
    """Prepare all datasets, so that no process waits for another, and check all plans with them.

    What cannot be trained is refused here, before the cells of other strategies are trained.

    Raises:
        HydrakitError: A component, a head or a split of a plan is impossible.
    """
    base = design.base(plugins)
    by_strategy = {cell.strategy: plan for cell, plan in plans.items()}
    own_data = {  # by plans whose images are not those of the strategies
        name: plan
        for name, plan in by_strategy.items()
        if name in design.named_plans and data_key(plan) != data_key(base)
    }
    common = {name: plan for name, plan in by_strategy.items() if name not in own_data}
    datasets, channels = _prepare_for(common or {BASE: base}, context, plugins, callback)
    leakage = check_leakage(datasets.prepared, datasets.adapters, base)
    origins = {
        name: DataOrigin.of(each.index, datasets.adapters[name], leakage.splits[name])
        for name, each in datasets.prepared.items()
    }
    tested = {(0, 0): _tested(leakage, design.target)}
    for cell in plans:
        if (at := (cell.repeat, cell.fold)) not in tested:
            found = check_leakage(
                datasets.prepared, datasets.adapters, design.base(plugins, *at), warn=False
            )
            tested[at] = _tested(found, design.target)
    of_plans: dict[str, Mapping[str, DataOrigin]] = {}
    for name in design.named_plans:
        theirs = datasets
        if name in own_data:
            theirs, _ = _prepare_for({name: own_data[name]}, context, plugins, callback)
            of_plans[data_key(own_data[name])] = {
                each: DataOrigin.of(prepared.index, theirs.adapters[each])
                for each, prepared in theirs.prepared.items()
            }
        cells = {(cell.repeat, cell.fold): plans[cell] for cell in plans if cell.strategy == name}
        for at, plan in cells.items():
            with naming(name):
                found = check_leakage(theirs.prepared, theirs.adapters, plan, warn=False)
                if _tested(found, design.target) != tested[at]:
                    raise PlanError(
                        "the plan tests other cases than the strategies do, so that nothing can be "
                        "compared: leave the test split, the dataset's options and what drops "
                        "cases as they are"
                    )
    cases = scored_cases(
        datasets.prepared[design.target].index,
        leakage.units[design.target],
        positive,
        origins,
        adapter=datasets.adapters[design.target],
        channels=channels,
    )
    if design.leave_out is not None:
        labelled = [
            case for case in datasets.prepared[design.target].index.cases if case.label is not None
        ]
        notes = notes_on_cases(
            labelled, leakage.units[design.target], design.leave_out, design.left_out_values
        )
        cases = replace(cases, notes=notes)
    return replace(cases, tuned=of_plans)


def _tested(leakage: LeakageResult, target: str) -> frozenset[str]:
    """Keys of the test cases of a target."""
    return frozenset(key for key, split in leakage.splits[target].items() if split == "test")


def _prepare_for(
    plans: Mapping[str, Plan], context: RunContext, plugins: Plugins, callback: CompareCallback
) -> tuple[PlanDatasets, int]:
    """Datasets of plans with the same data, and the number of channels that the last one takes.

    Raises:
        HydrakitError: A component or a head of a plan is impossible.
    """
    any_plan = next(iter(plans.values()))
    datasets = find_datasets(any_plan, context, plugins)
    for name, plan in plans.items():
        with naming(name):
            check_components(plan, datasets.adapters, plugins)
            check_heads(plan, datasets.adapters)
    datasets = prepare_datasets(any_plan, datasets, callback, others=plans.values())
    for name, plan in plans.items():
        channels = datasets.fitted_to(plan).channels
        with naming(name):
            check_builds(plan, datasets.adapters, in_channels=channels, plugins=plugins)
    return datasets, channels


def _check_data(compare_dir: CompareDir, cells: Iterable[Cell], cases: ScoredCases) -> None:
    """Refuse to continue a comparison with other data, before anything is trained."""
    description = compare_dir.description() if compare_dir.begun else None
    pairs = [(description.data if description else {}, cases.origins)]
    for key, origins in cases.tuned.items():
        pairs.append((description.tuned_data.get(key, {}) if description else {}, origins))
    for earlier, origins in pairs:
        for name, now in origins.items():
            refuse_changed(
                name,
                earlier.get(name, DataOrigin()),
                now,
                since=f"the comparison in {compare_dir.path} began",
                remedy=ANOTHER,
            )
    refuse_other_data(compare_dir, list(cells), cases)


def _with_threads_of_cells(
    compare_dir: CompareDir,
    cells: Iterable[Cell],
    context: RunContext,
    default: int,
    callback: RunCallback,
) -> RunContext:
    """Context with the number of CPU threads of each cell: that of the earlier cells, if any."""
    threads = compare_dir.description().threads if compare_dir.begun else None
    runs = [RunDir(compare_dir.cell(cell)) for cell in cells]
    known = (run.environment().get("threads") for run in runs)
    threads = threads or next((each for each in known if each), None)
    context = with_threads(context, threads)
    if context.threads is None:
        context = context.changed(threads=default)
    if threads not in (None, context.threads):
        callback.noted(
            f"{compare_dir.path}: cells trained so far used {threads} CPU threads each, and the "
            f"others use {context.threads}: their last digits differ"
        )
    return context


def _rounds_of_networks(plan: Plan) -> int:
    """Number of rounds of a plan, over all networks of an ensemble."""
    return len(plan.rounds) * plan.ensemble


@dataclass
class CellTracker:
    """Tracks the status of all cells by their folders, and publishes results.

    Attributes:
        compare_dir: Folder of the comparison.
        plans: Plan of each cell.
        callback: Called when the status of a cell changes.
        design: Design of the comparison.
        cases: Cases of the target.
        plugins: Plugins of this process.
        threads: Number of CPU threads of each cell.
        member: This process among those that share the comparison; None if it is alone.
        baselines: Strategies that are baselines, each with its description (`baseline_texts`).
        named_plans: Strategies that are plans from files, each with what it is.
        looks: Looks at the results; None if only all cells together are tested.
        ended: Cells that are done or failed.
        published: Number of ended cells when the report was last written.
        next_report: Time before which no other report is written.
    """

    compare_dir: CompareDir
    plans: Mapping[Cell, Plan]
    callback: CompareCallback
    design: Design
    cases: ScoredCases
    plugins: Plugins
    threads: int
    member: Participant | None = None
    baselines: Mapping[str, str] = field(default_factory=dict)
    named_plans: Mapping[str, ComparedPlan] = field(default_factory=dict)
    looks: CellLooks | None = None
    ended: set[Cell] = field(default_factory=set)
    published: int = 0
    next_report: float = 0.0

    def __post_init__(self) -> None:
        """Index the cells that have not ended, since listing them all takes long."""
        self._open = {cell.name: cell for cell in self.plans}
        self._rounds_of_ended = 0
        self._group_left = Counter(cell.group for cell in self.plans)
        self._inner_runs = {
            cell: self.design.inner_folds
            * len(nested.candidates_of(self.design, plan, self.plugins))
            for cell, plan in self.plans.items()
        }

    @property
    def rounds(self) -> int:
        """Number of rounds of all cells, with those of their tuning."""
        return sum(self._rounds_of(cell) for cell in self.plans)

    def _rounds_of(self, cell: Cell) -> int:
        return _rounds_of_networks(self.plans[cell]) * (1 + self._inner_runs[cell])

    @property
    def failures(self) -> dict[str, str]:
        """Reasons why cells failed, by name of the cell."""
        states = self._states()
        return {name: text for name, text in states.items() if text not in ("done", "waiting")}

    def share(self, member: Participant, threads: int | None) -> None:
        """Share the comparison with other processes, whose cells have this number of threads."""
        assert threads is not None
        self.member, self.threads = member, threads
        for each in member.others():
            self.callback.noted(f"{each} shares this comparison")
        self._shared = SharedCells(member, self.compare_dir, self.plans)
        self._shared.free_unfinished()

    def planned(self, launcher: Launcher, context: RunContext, processes: int) -> PlannedComparison:
        """What `run` would do."""
        open = [cell for cell, text in self._states().items() if text != "done"]
        groups = len({cell.group for cell in self.plans if cell.name in open})
        return PlannedComparison(
            cells=len(self.plans),
            done=len(self.plans) - len(open),
            rounds=self.rounds,
            processes=processes,
            threads=self.threads,
            preview=preview(launcher, context, groups, self.compare_dir.jobs, processes),
        )

    def run(self, launcher: Launcher, context: RunContext, processes: int) -> None:
        """Run all cells that are not done."""
        if self.member is None:
            for cell in self.plans:  # failed cells are tried again
                self.compare_dir.failure_path(cell).unlink(missing_ok=True)
        self._update(before=True)
        named = {cell.name: cell for cell in self.plans}
        description = self.compare_dir.description()

        def job_of(cell: Cell) -> Job:
            return nested.job_of(
                cell,
                self.plans[cell],
                self.compare_dir,
                context,
                description=description,
                plugins=self.plugins,
            )

        driver = JobDriver(
            launcher,
            self.compare_dir.jobs / (self.member.id if self.member else ""),
            processes,
            on_poll=self._poll,
            on_lost=lambda job, how: self.callback.killed(named[job.name], how),
        )
        try:
            with driver:
                if self.member is None:
                    for cells in self._stages(processes):
                        groups: dict[tuple[int, int, int], list[Job]] = {}
                        for cell in cells:
                            groups.setdefault(cell.group, []).append(job_of(cell))
                        driver.run(list(groups.values()))
                else:
                    run_shared(
                        self.member,
                        driver,
                        self._shared,
                        processes=processes,
                        waiting=self._open,
                        job_of=job_of,
                    )
        finally:
            self.write()

    def _stages(self, processes: int) -> Iterator[list[Cell]]:
        """Cells to run together: all that have not ended, or those that the next looks need."""
        if self.looks is None:
            yield [cell for cell in self.plans if cell not in self.ended]
            return
        self.looks.advance()
        while cells := [c for c in self.looks.waiting(processes) if c not in self.ended]:
            yield cells
            self._update()
            if self.looks.advance() and not self.looks.over:
                self.write()
                self.publish(self.compared(under_way=True))

    def compared(self, *, under_way: bool = False) -> Comparison | None:
        """Results so far; None if there are none."""
        return compare_cells(
            self.compare_dir,
            self.design,
            self.cases,
            self.baselines,
            self.named_plans,
            under_way=under_way,
            looks=self.looks,
        )

    def write(self) -> None:
        """Write ``compare.json``."""
        self.compare_dir.write(self.description())

    def description(self) -> Description:
        """The comparison, with the present status of its cells."""
        return Description(
            format=4
            if self.looks
            else 3
            if self.design.leave_out
            else 2
            if self.cases.positive is None
            else 1,
            hydrakit=version(),
            digest=self.design.digest,
            design=self.design,
            positive=self.cases.positive,
            status=self._states(),
            data=dict(self.cases.origins),
            tuned_data={key: dict(origins) for key, origins in self.cases.tuned.items()},
            threads=self.threads,
            looks=self.looks is not None,
            not_needed=tuple(cell.name for cell in self.looks.not_needed()) if self.looks else (),
        )

    def publish(self, comparison: Comparison | None) -> None:
        """Write ``comparison.json`` and ``report.html``, if there are results."""
        if comparison is not None:
            write_record(self.compare_dir.comparison_path, comparison)
            write_comparison_report(self.compare_dir.path, plugins=self.plugins)

    def _poll(self) -> None:
        """Update the status of cells, and from time to time publish the results so far."""
        self._update()
        if self.looks is not None:  # results are published at looks alone
            return
        ended = len(self.ended)
        if ended in (self.published, len(self.plans)) or time.monotonic() < self.next_report:
            return
        if self.member is not None and not self.member.take(REPORT):
            self.next_report = time.monotonic() + SECONDS_BETWEEN_REPORTS  # another publishes them
            return
        self.published = ended
        began = time.monotonic()
        with suppress(DataError):  # perhaps too few cells for an AUC; the last comparison raises it
            comparison = self.compared(under_way=True)
            self.publish(comparison)
            if comparison is not None:
                now = time.monotonic()
                pause = max(SECONDS_BETWEEN_REPORTS, PAUSE * (now - began))
                self.next_report = now + pause

    def _states(self) -> dict[str, str]:
        """Status of each cell, by name."""
        return {cell.name: self.compare_dir.status(cell) for cell in self.plans}

    def _update(self, before: bool = False) -> None:
        """Report newly ended cells and the number of finished rounds to the callback.

        Only cells that have begun are looked up in the folder, which is listed once.
        """
        rounds = 0
        started = self.compare_dir.started()
        for name in [each for each in self._open if each in started]:
            cell = self._open[name]
            run, plan = RunDir(self.compare_dir.cell(cell)), self.plans[cell]
            status = self.compare_dir.status(cell)
            if status == "waiting":
                rounds += run.rounds_done(plan)
                if self._inner_runs[cell]:
                    done = nested.inner_runs_done(self.compare_dir, cell)
                    rounds += done * _rounds_of_networks(plan)
                continue
            if status == "done":
                self.callback.done(cell, run, before)
            else:
                self.callback.failed(cell, status)
            self.ended.add(cell)
            self._rounds_of_ended += self._rounds_of(cell)
            del self._open[name]
            self._group_left[cell.group] -= 1
            if self.design.tune and not self._group_left[cell.group]:
                shutil.rmtree(self.compare_dir.inner_rounds(cell).parent, ignore_errors=True)
        self.callback.rounds_done(self._rounds_of_ended + rounds)
