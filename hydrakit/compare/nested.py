"""Nested cross-validation: each cell of a comparison first tunes its plan on its training part.

The candidates of a cell are tested on inner folds of the cases outside its test fold
(`hydrakit.jobs.candidates`). The chosen plan is then trained and tested as the cell is without
tuning, so the test results include how good the way of choosing is, and no choice depends on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from hydrakit.compare.design import Cell, CompareDir, Description, Design, naming
from hydrakit.errors import PlanError
from hydrakit.hooks import SequenceStrategy
from hydrakit.jobs.candidates import (
    CandidateCheck,
    Origins,
    combinations_of,
    data_key,
    read_results,
    read_table,
    refuse_fixed_choices,
)
from hydrakit.jobs.job import Choice, Job
from hydrakit.plan.edit import no_such_round, paths_without_rounds
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.stats.comparison import TunedCell


def candidates_of(design: Design, plan: Plan, plugins: Plugins) -> list[dict[str, Any]]:
    """Candidates of the cells with a plan; none if they are not tuned.

    A strategy that lacks the rounds of a path, or replaces the body or head of a path by its own,
    skips the path. Baselines and named plans are not tuned.

    Raises:
        PlanError: A path exists in no plan.
    """
    if not design.tune or plan.strategy in design.named_plans:
        return []
    if plugins.get(SequenceStrategy, plan.strategy).baseline:
        return []
    own = design.changes_of(plan.strategy, design.tune, plugins)
    skipped = paths_without_rounds(plan, own)
    choices = {path: values for path, values in own.items() if path not in skipped}
    return combinations_of(choices) if choices else []


def check_tuning(
    design: Design,
    plans: Mapping[Cell, Plan],
    context: RunContext,
    plugins: Plugins,
    callback: RunCallback,
) -> Origins:
    """Check all candidates on all inner folds of all cells, and say how many runs there will be.

    Args:
        design: Design of the comparison.
        plans: Plan of each cell, without tuning.
        context: Where and how to compute; its cache must be active.
        plugins: Plugins of this process.
        callback: Called while cases are read.

    Returns:
        What tuned cells are computed from: by `data_key` of their plans, then by dataset.

    Raises:
        HydrakitError: A path, a value, or a split is impossible.
    """
    if not design.tune:
        return {}
    refuse_fixed_choices(design.target, design.tune, by="`compare`", option="--tune")
    for path in design.tune.keys() & design.settings.get("changes", {}).keys():
        raise PlanError(f"{path}: is both set and tuned: leave out one of the two")
    candidates = {
        cell: found
        for cell, plan in plans.items()
        if (found := candidates_of(design, plan, plugins))
    }
    for path in design.tune:
        if not any(path in found[0] for found in candidates.values()):
            raise PlanError(no_such_round(next(iter(plans.values())), path))
    check = CandidateCheck(context, plugins, callback)
    for cell in _first_seeds(candidates):
        with naming(cell.strategy):
            check.check(plans[cell], candidates[cell], design.inner_folds)
    runs = sum(len(found) for found in candidates.values()) * design.inner_folds
    most = max(len(found) for found in candidates.values())
    callback.noted(
        f"{len(candidates)} of {len(plans)} cells are tuned: up to {most} candidates on "
        f"{design.inner_folds} inner folds each, {runs} runs in addition to those of the cells"
    )
    return check.origins


def _first_seeds(cells: Iterable[Cell]) -> Iterable[Cell]:
    """A cell for each repeat, fold and strategy: the seed decides no split."""
    first: dict[tuple[int, int, str], Cell] = {}
    for cell in cells:
        first.setdefault((cell.repeat, cell.fold, cell.strategy), cell)
    return first.values()


def job_of(
    cell: Cell,
    plan: Plan,
    compare_dir: CompareDir,
    context: RunContext,
    *,
    description: Description,
    plugins: Plugins,
) -> Job:
    """The job that tunes a cell if the design says so, and then trains it.

    Args:
        cell: The cell.
        plan: Plan of the cell, without tuning.
        compare_dir: Folder of the comparison.
        context: Where and how to compute.
        description: Description of the comparison.
        plugins: Plugins of this process.
    """
    candidates = candidates_of(description.design, plan, plugins)
    choice = None
    if candidates:
        choice = Choice(
            candidates=tuple(candidates),
            folds=description.design.inner_folds,
            folder=compare_dir.tuning(cell),
            rounds=compare_dir.inner_rounds(cell),
            origins=description.tuned_data,
        )
    return Job(
        name=cell.name,
        plan=plan,
        out=compare_dir.cell(cell),
        context=context,
        expected=description.tuned_data.get(data_key(plan), description.data),
        group=compare_dir.path.name,
        choice=choice,
    )


def inner_runs_done(compare_dir: CompareDir, cell: Cell) -> int:
    """Number of finished runs on inner folds of a cell."""
    return len(read_results(compare_dir.tuning(cell)))


def tuned_cells(compare_dir: CompareDir, cells: Iterable[Cell]) -> tuple[TunedCell, ...]:
    """The chosen values of cells that were tuned.

    Raises:
        PlanError: A file cannot be read.
    """
    found = []
    for cell in cells:
        table = read_table(compare_dir.tuning(cell))
        if table is None or table.chosen is None:
            continue
        assert table.best.score is not None
        found.append(
            TunedCell(
                cell=cell.name,
                strategy=cell.strategy,
                values=table.best.values,
                score=table.best.score,
                candidates=len(table.tried),
                runs=len(table.tried) * table.folds,
            )
        )
    return tuple(found)
