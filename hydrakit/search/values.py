"""Search over any values of a plan, by cross-validation within its training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrakit import engine
from hydrakit.data.origin import DataOrigin
from hydrakit.errors import PlanError
from hydrakit.jobs.candidates import (
    FILE,
    FOLDS,
    CandidateCheck,
    CandidateSearch,
    CandidateTable,
    combinations_of,
    refuse_fixed_choices,
    with_values,
)
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import Callbacks, RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.earlier import with_threads
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import write_atomic
from hydrakit.storage.records import writable


@dataclass(frozen=True)
class ValuesResult:
    """Result of `tune_values`.

    Attributes:
        plan: Plan with the chosen values.
        table: All candidates with their scores, and the choice.
        path: Path of the plan's file.
        table_path: Path of ``candidates.json``.
    """

    plan: Plan
    table: CandidateTable
    path: Path
    table_path: Path


class ValuesCallback(RunCallback):
    """Called when something happens while values of a plan are searched."""

    def inner_run(self, done: int, of: int) -> None:
        """Some runs on inner folds are finished."""


def tune_values(
    plan: Plan,
    choices: Mapping[str, Sequence[Any]],
    out: Path,
    context: RunContext | None = None,
    *,
    folds: int = FOLDS,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> ValuesResult:
    """Choose values of a plan by cross-validation outside its test split, and write the plan.

    All combinations of the values are tried. The folder ``NAME.tuning`` gets the table of all
    candidates and their runs. After a stop, the same call continues; with more values, it trains
    only the new candidates.

    Args:
        plan: Plan whose values are searched.
        choices: Values to try, by path (`hydrakit.plan.edit`).
        out: Path of the plan with the chosen values.
        context: Where and how to compute; None for the defaults.
        folds: Number of inner folds.
        callbacks: Called for the events of all runs. A `ValuesCallback` is also called after each.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is invalid, ``out`` is another file, or training diverges with all
            candidates.
        PluginError: A value names a component that no plugin offers.
        DataError: A dataset cannot be used, or is too small for this number of folds.
    """
    context = context_of(context, values)
    if context.trace_test or not context.test:
        raise PlanError(
            "a search tests inner folds, and never the test split: remove trace_test or test"
        )
    folder = out.with_name(f"{out.stem}.tuning")
    if out.exists() and not (out.is_file() and (folder / FILE).is_file()):
        raise PlanError(f"{out}: exists already: name another file")
    plugins = plugins or context.plugins()
    if not choices:
        raise PlanError("no value to choose: name a path and its values, as in PATH=V1,V2")
    refuse_fixed_choices(plan.target, choices, by="`tune`", option="--try")
    candidates = combinations_of(choices)
    followers = Callbacks(callbacks)
    check = CandidateCheck(context, plugins, followers)
    runs = (RunDir(path).environment().get("threads") for path in sorted(folder.glob("runs/*")))
    context = with_threads(context, next((each for each in runs if each), None))
    with context.active():
        check.check(plan, candidates, folds)
    context = context.changed(round_cache=(folder / "kept").resolve())
    rounds = len(plan.rounds)
    followers.noted(
        f"{len(candidates)} candidates on {folds} inner folds: {len(candidates) * folds} runs of "
        f"{rounds} round{'s' if rounds > 1 else ''}; the test split is not used"
    )

    def train(plan: Plan, path: Path, origins: Mapping[str, DataOrigin]) -> RunDir:
        return engine.run_cell(
            plan,
            context,
            out=path,
            expected=origins,
            group=folder.name,
            callbacks=callbacks,
            plugins=plugins,
        )

    def on_run(done: int, of: int) -> None:
        for each in callbacks:
            if isinstance(each, ValuesCallback):
                each.inner_run(done, of)

    table = CandidateSearch(
        folder, plan, candidates, folds, plugins, check.origins, train, on_run
    ).run()
    chosen = with_values(plan, table.best.values, plugins)
    with writable(out, "name a file in another folder"):
        write_atomic(out, chosen.to_json().encode())
    return ValuesResult(chosen, table, out, folder / FILE)
