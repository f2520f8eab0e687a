"""Comparing strategies: every cell an ordinary run, several at once, and the result as data."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.compare.design import Cell, CompareDir, Description, Design
from hydrakit.compare.launchers import Place, ending, run_groups
from hydrakit.compare.scoring import ScoredCases, compare_cells, scored_cases
from hydrakit.compute.signals import CHECKPOINT_SECONDS
from hydrakit.data.declared.adapter import plugins_at
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.leakage import check_leakage
from hydrakit.data.read import check_root
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.report import write_comparison_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison
from hydrakit.storage.files import write_atomic
from hydrakit.storage.lock import locked
from hydrakit.storage.paths import root_of
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.compute.devices import Precision


SECONDS_BETWEEN_REPORTS = 30.0

# What a process that shares a GPU should find. One small network leaves most of a GPU idle: on an
# H100, six runs at once took as long as one.
GPU_MEMORY = 4 * 2**30  # bytes; a run with some thousand patches takes 1 or 2
GPU_THREADS = 2


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
    *,
    positive: str | None = None,
    out: Path | None = None,
    data: Path | None = None,
    roots: Mapping[str, Path] | None = None,
    jobs: int | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
    cache: Path | None = None,
    watcher: CompareCallback | None = None,
    checkpoint_every: float = CHECKPOINT_SECONDS,
) -> CompareResult:
    """Run the cells of a comparison that are not there yet, and compare the strategies.

    Cells run in processes of their own, which find the plugins by themselves. A cell that fails
    does not stop the others.

    Args:
        design: What is compared.
        positive: The class whose AUC is compared; None for the second of two.
        out: The folder; None for `default_out`. One that holds cells of the same design goes on.
        data: As for `hydrakit.engine.run`, like the other places.
        roots: Folders of datasets that lie elsewhere, by name.
        jobs: Number of processes; None for one per CPU thread of torch, or one per GPU. They
            divide the threads, or the GPUs, among them.
        device: As for `hydrakit.engine.run`, like the three below.
        precision: Of training steps.
        deterministic: The same bits from the same seed on CUDA too.
        compiled: Put training steps through `torch.compile`.
        cache: Where prepared data is kept.
        watcher: Told how it goes.
        checkpoint_every: Seconds between two writings of a round's progress.

    Raises:
        HydrakitError: The design, the device, the folder or the data is impossible.
    """
    roots, watcher = roots or {}, watcher or CompareCallback()
    plugins = plugins_at(data, roots)
    adapter = plugins.get(DatasetAdapter, design.target)
    chosen = positive_class(adapter, positive)
    plans = {cell: design.plan(cell, plugins) for cell in design.cells()}
    here = CompareDir(out or default_out(design))
    here.check(design)
    workers, devices, threads = divided(jobs, device, len({cell.group for cell in plans}))
    place = Place(
        out=here.path.resolve(),
        data=data,
        roots=dict(roots),
        devices=devices,
        threads=threads,
        precision=precision,
        deterministic=deterministic,
        compiled=compiled,
        cache=cache,
        checkpoint_every=checkpoint_every,
    )
    cases = _prepare(plans, plugins, place, chosen, watcher)
    board = CellTracker(CompareDir(place.out), plans, watcher, design, cases, plugins)
    board.here.begin()
    with locked(place.out):
        board.here.check(design)  # another process may have begun here
        board.write()
        watcher.begun(here.path, len(plans), sum(len(p.rounds) for p in plans.values()), workers)
        board.run(place, workers)
        comparison = compare_cells(board.here, design, cases)
        board.publish(comparison)
    return CompareResult(here.path, comparison, board.failures)


def divided(jobs: int | None, device: str, groups: int) -> tuple[int, tuple[str, ...], int]:
    """How many processes run at once, the devices that they take in turn, and threads of each.

    Args:
        jobs: As asked for.
        device: As for `hydrakit.compute.devices.choose_device`.
        groups: More processes than these have nothing to do.

    Raises:
        PlanError: There is no such device here.
    """
    import torch

    from hydrakit.compute.devices import choose_device

    where = choose_device(device)
    threads = torch.get_num_threads()
    devices: tuple[str, ...] = (str(where),)
    if where.type == "cuda" and where.index is None:
        devices = tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    if jobs is None and where.type == "cuda":
        memory = min(torch.cuda.get_device_properties(each).total_memory for each in devices)
        sharing = min(memory // GPU_MEMORY, threads // (GPU_THREADS * len(devices)))
        jobs = len(devices) * max(1, sharing)
    workers = min(jobs or threads, groups)
    return workers, devices, max(1, threads // workers)


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
    plans: Mapping[Cell, Plan],
    plugins: Plugins,
    place: Place,
    positive: str,
    watcher: CompareCallback,
) -> ScoredCases:
    """Prepare every dataset once, so that no process waits for another, and see that it splits."""
    plan = next(iter(plans.values()))
    adapters = {
        dataset.name: plugins.get(DatasetAdapter, dataset.name) for dataset in plan.datasets
    }
    where = {name: root_of(name, place.data, place.roots) for name in adapters}
    for name, adapter in adapters.items():
        check_root(adapter, where[name])
    prepared: dict[str, PreparedDataset] = {}
    for dataset in plan.datasets:
        name = dataset.name
        prepared[name] = prepare(
            adapters[name],
            where[name],
            options=dataset.options,
            patch=plan.patch,
            cache=place.cache,
            on_case=lambda cases, name=name: watcher.preparing(name, cases),  # type: ignore[misc]
        )
    gate = check_leakage(prepared, adapters, plan, cache=place.cache)
    return scored_cases(prepared[plan.target].index, gate.units[plan.target], positive)


@dataclass
class CellTracker:
    """What has become of the cells, as their folders tell it."""

    here: CompareDir
    plans: Mapping[Cell, Plan]
    watcher: CompareCallback
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

    def run(self, place: Place, workers: int) -> None:
        """Run what is not done."""
        for cell in self.plans:
            self.here.failure_path(cell).unlink(missing_ok=True)  # it gets another chance
        self._look(before=True)
        groups: dict[tuple[int, int, int], list[tuple[Cell, Plan]]] = {}
        for cell, plan in self.plans.items():
            if cell not in self.told:
                groups.setdefault(cell.group, []).append((cell, plan))
        try:
            run_groups(
                list(groups.values()),
                place,
                at_once=workers,
                watch=self._watch,
                killed=lambda cell, code: self.watcher.killed(cell, ending(code)),
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
            text = comparison.model_dump_json(indent=2)
            write_atomic(self.here.comparison_path, text.encode())
            write_comparison_report(self.here.path, plugins=self.plugins)

    def _watch(self) -> None:
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
                self.watcher.done(cell, RunDir(self.here.cell(cell)), before)
            elif status != "waiting":
                self.watcher.failed(cell, status)
            if status != "waiting":
                self.told.add(cell)
        self.watcher.rounds_done(sum(self._rounds(cell) for cell in self.plans))

    def _rounds(self, cell: Cell) -> int:
        """How many rounds of a cell are there."""
        run, rounds = RunDir(self.here.cell(cell)), self.plans[cell].rounds
        if cell in self.told:
            return len(rounds)
        return sum(run.finished(number, round) for number, round in enumerate(rounds, start=1))
