"""Choosing learning rate and dropout of every round by cross-validation on training data.

As the paper did: round by round, in order. Each round is tuned from the body that the rounds before
it give, trained with what was chosen for them. Only training splits are cross-validated; the
validation split selects the epoch of the rounds that are trained, as in any run; nothing here can
be handed a test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hydrakit.compute.devices import Precision, choose_compute, deterministic_algorithms
from hydrakit.data.declared.adapter import plugins_at
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.read import check_root
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.build import check_components
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.search.proposals import proposals
from hydrakit.search.tuning import Files, RoundTuning, Tuning
from hydrakit.storage.files import write_atomic
from hydrakit.storage.paths import root_of

LEARNING_RATES = (1e-4, 3e-4, 1e-3)
DROPOUTS = (0.0, 0.1, 0.3)


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
    *,
    learning_rates: Sequence[float] = LEARNING_RATES,
    dropouts: Sequence[float] = DROPOUTS,
    folds: int = 3,
    search: str = "grid",
    trials: int | None = None,
    data: Path | None = None,
    roots: Mapping[str, Path] | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
    cache: Path | None = None,
    plugins: Plugins | None = None,
    watcher: RunCallback | None = None,
    on_trial: Callable[[int, int, int], None] = lambda *_: None,
    on_round: Callable[[RoundTuning], None] = lambda _: None,
) -> TuneResult:
    """Choose learning rate and dropout of each round of a plan, and write the plan that has them.

    Beside it, ``NAME.tuning.jsonl`` gets a line for every trial, and the folder ``NAME.tuning`` the
    rounds that were trained on the way. The same call goes on where a stopped one left off; one
    with further values tries only these.

    Args:
        plan: As a strategy makes it.
        out: File of the plan to write.
        learning_rates: To try.
        dropouts: To try.
        folds: Of the cross-validation within a round's training split.
        search: ``grid``, or ``optuna`` for proposals between the lowest and the highest values.
        trials: Of ``optuna``, how many settings in each round.
        data: As for `hydrakit.run`, like all below but the last two.
        roots: Folders of datasets that lie elsewhere, by name.
        device: Where to compute.
        precision: Of training steps.
        deterministic: The same bits from the same seed on CUDA too.
        compiled: Put training steps through `torch.compile`.
        cache: Where prepared data is kept.
        plugins: As loaded.
        watcher: Told how the rounds go that are trained with what was chosen.
        on_trial: Called with the round's number, and how many of how many trials are done.
        on_round: Called when a round's setting is chosen.

    Raises:
        PlanError: A value is impossible, ``out`` is something else, or no setting can be trained.
        PluginError: The plan names something that no plugin offers.
        DataError: A dataset cannot be used, or is too small for so many folds.
    """
    tried = proposals(learning_rates, dropouts, search=search, trials=trials, seed=plan.seed)
    files = Files.check(out)
    if folds < 2:
        raise PlanError(f"{folds} folds: there must be at least two (`--folds`)")
    plugins = plugins or plugins_at(data, roots or {})
    compute = choose_compute(
        device, precision=precision, deterministic=deterministic, compiled=compiled
    )
    adapters = {
        dataset.name: plugins.get(DatasetAdapter, dataset.name) for dataset in plan.datasets
    }
    check_components(plan, adapters, plugins)
    places = {name: root_of(name, data, roots or {}) for name in adapters}
    for name, adapter in adapters.items():
        check_root(adapter, places[name])
    watcher = watcher or RunCallback()
    prepared = {
        dataset.name: prepare(
            adapters[dataset.name],
            places[dataset.name],
            options=dataset.options,
            patch=plan.patch,
            cache=cache,
            on_case=partial(watcher.preparing, dataset.name),
        )
        for dataset in plan.datasets
    }
    tuning = Tuning(
        plan=plan,
        adapters=adapters,
        prepared=prepared,
        compute=compute,
        plugins=plugins,
        rundir=files.begin(),
        watcher=watcher,
        cache=cache,
        test=False,
        shared=files.kept,
        proposals=tried,
        folds=folds,
        files=files,
        on_trial=on_trial,
        on_round=on_round,
    )
    with deterministic_algorithms(compute), files.rundir.locked():
        rounds = tuning.tune()
    write_atomic(out, tuning.plan.to_json().encode())
    return TuneResult(tuning.plan, tuple(rounds), out, files.trials)
