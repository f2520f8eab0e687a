"""Choosing learning rate and dropout of every round by cross-validation on training data.

As the paper did: round by round, in order. Each round is tuned from the body that the rounds before
it give, trained with what was chosen for them. Only training splits are cross-validated; the
validation split selects the epoch of the rounds that are trained, as in any run; nothing here can
be handed a test split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydrakit.errors import PlanError
from hydrakit.models.build import check_components
from hydrakit.observers.trackers import trackers_of
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import Callbacks, RunCallback, closing
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.datasets import find_datasets, prepare_datasets
from hydrakit.search.proposals import proposals
from hydrakit.search.tuning import Files, RoundTuning, TuneCallback, Tuning
from hydrakit.storage.files import write_atomic

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
DROPOUTS = (0.0, 0.1, 0.3)


@dataclass(frozen=True)
class TuningSearch:
    """What tuning tries for each round.

    Attributes:
        learning_rates: Learning rates.
        dropouts: Dropout probabilities.
        folds: Folds of the cross-validation within a round's training split.
        method: ``grid`` for all pairs, or ``optuna`` for proposals between the lowest and the
            highest values.
        trials: With ``optuna``, the number of settings in each round; None for 20.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    dropouts: Sequence[float] = DROPOUTS
    folds: int = 3
    method: str = "grid"
    trials: int | None = None


@dataclass(frozen=True)
class TuneResult:
    """A plan whose rounds have been tuned.

    Attributes:
        plan: To run.
        rounds: What was tried for each.
        path: Of the plan's file.
        trials_path: Of the file with every trial.
    """

    plan: Plan
    rounds: tuple[RoundTuning, ...]
    path: Path
    trials_path: Path


def tune(
    plan: Plan,
    out: Path,
    context: RunContext | None = None,
    *,
    search: TuningSearch | None = None,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> TuneResult:
    """Choose learning rate and dropout of each round of a plan, and write the plan that has them.

    Beside it, ``NAME.tuning.jsonl`` gets a line for every trial, and the folder ``NAME.tuning`` the
    rounds that were trained on the way. The same call continues after a stop; one with further
    values tries only these.

    Args:
        plan: As a strategy makes it.
        out: File of the plan to write.
        context: Where and how to compute; None for the defaults.
        search: What is tried; None for the defaults.
        callbacks: Called while rounds are trained with what was chosen; `completed` is not, since
            nothing is tested. A `TuneCallback` is also called for each trial and each choice.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Raises:
        PlanError: A value is impossible, ``out`` is something else, or no setting can be trained.
        PluginError: The plan names something that no plugin offers.
        DataError: A dataset cannot be used, or is too small for so many folds.
    """
    context, search = context_of(context, values), search or TuningSearch()
    tried = proposals(
        search.learning_rates,
        search.dropouts,
        search=search.method,
        trials=search.trials,
        seed=plan.seed,
    )
    files = Files.check(out)
    if search.folds < 2:
        raise PlanError(f"{search.folds} folds: there must be at least two (`--folds`)")
    plugins = plugins or context.plugins()
    context = context.for_search(files.kept)
    trackers = trackers_of(context, plugins, folder=files.trackers(_digest(plan, search)))
    followers = Callbacks([*callbacks, *trackers])
    with context.active() as compute:
        datasets = find_datasets(plan, context, plugins)
        check_components(plan, datasets.adapters, plugins)
        tuning = Tuning(
            plan=plan,
            datasets=prepare_datasets(plan, datasets, followers),
            context=context,
            compute=compute,
            plugins=plugins,
            rundir=files.begin(),
            callbacks=followers,
            proposals=tried,
            folds=search.folds,
            files=files,
            followers=[each for each in callbacks if isinstance(each, TuneCallback)],
        )
        with files.rundir.locked(), closing(followers):
            followers.started(plan, files.rundir, str(compute.device))
            rounds = tuning.tune()
    write_atomic(out, tuning.plan.to_json().encode())
    return TuneResult(tuning.plan, tuple(rounds), out, files.trials)


def _digest(plan: Plan, search: TuningSearch) -> str:
    """SHA-256 of what decides the choices."""
    return hashlib.sha256(json.dumps([plan.digest(), asdict(search)]).encode()).hexdigest()
