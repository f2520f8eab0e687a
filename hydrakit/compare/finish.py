"""The one model to use after a comparison: the networks of all its cells, or one trained on all."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_high
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hydrakit import engine
from hydrakit.compare.design import Cell, CompareDir, Description
from hydrakit.compare.nested import tuned_cells
from hydrakit.compare.scoring import predictions_of
from hydrakit.errors import PlanError, command_line, unknown
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan, Split
from hydrakit.plan.results import RoundResult
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext, context_of
from hydrakit.runs.model import ModelFiles, find_model, load_networks
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import FORMAT, Comparison
from hydrakit.stats.decisions import fit_decision
from hydrakit.stats.findings import Floats, mean_score
from hydrakit.storage.files import copy, patiently
from hydrakit.storage.records import read_record, writable
from hydrakit.version import version
from hydrakit.weights.description import ExpectedFigure, ModelDescription, read_model_description
from hydrakit.weights.files import set_decision
from hydrakit.weights.folders import BODY, HEADS, MEMBERS
from hydrakit.weights.format import HeadMetadata, read_head

How = Literal["ensemble", "retrain"]
NAMED = 5  # cells that a message names


@dataclass(frozen=True)
class StrategyCells:
    """The cells of one strategy of a comparison.

    Attributes:
        compare_dir: Folder of the comparison.
        description: What ``compare.json`` says.
        strategy: Name of the strategy.
        done: Cells that are finished; at least one.
        missing: All other cells.
    """

    compare_dir: CompareDir
    description: Description
    strategy: str
    done: tuple[Cell, ...]
    missing: tuple[Cell, ...]

    @property
    def target(self) -> str:
        """Dataset that the comparison tested on."""
        return self.description.design.target

    @property
    def runs(self) -> list[RunDir]:
        """Folders of the finished cells."""
        return [RunDir(self.compare_dir.cell(cell)) for cell in self.done]


def find_cells(comparison: Path, strategy: str, *, allow_missing: bool = False) -> StrategyCells:
    """Find the cells of a strategy of a comparison.

    Args:
        comparison: Folder of the comparison.
        strategy: Name of the strategy, or of a baseline.
        allow_missing: Whether cells may be unfinished.

    Raises:
        PlanError: The folder is not that of a comparison, it has no such strategy, a cell is not
            finished, or none is.
    """
    compare_dir = CompareDir(comparison)
    description = compare_dir.description()
    design = description.design
    if strategy not in design.all_strategies:
        raise PlanError(f"{comparison}: {unknown('strategy', strategy, design.all_strategies)}")
    cells = [cell for cell in design.cells() if cell.strategy == strategy]
    done = [cell for cell in cells if compare_dir.status(cell) == "done"]
    left_out = set(description.not_needed)
    missing = [cell for cell in cells if cell not in done and cell.name not in left_out]
    if missing and not (done and allow_missing):
        remedy = "continue the comparison with the `hydrakit compare` command that began it"
        if done:
            remedy += ", or leave them out with `--allow-missing`"
        raise PlanError(
            f"{comparison}: {len(missing)} of {len(cells)} cells of {strategy!r} are not finished "
            f"({_listed(missing)}): {remedy}"
        )
    return StrategyCells(compare_dir, description, strategy, tuple(done), tuple(missing))


def _listed(cells: Sequence[Cell]) -> str:
    more = f" and {len(cells) - NAMED} others" if len(cells) > NAMED else ""
    return ", ".join(cell.name for cell in cells[:NAMED]) + more


def finish(
    comparison: str | Path,
    strategy: str,
    context: RunContext | None = None,
    *,
    out: str | Path,
    how: How = "ensemble",
    allow_missing: bool = False,
    callbacks: Sequence[RunCallback] = (),
    plugins: Plugins | None = None,
    **values: Any,
) -> ModelDescription:
    """Make one model of a strategy of a comparison, for `load_model` and `hydrakit predict`.

    ``ensemble`` copies the networks of all cells, and the model averages their predictions.
    ``retrain`` trains the strategy's plan once more, on all labelled cases of the target; if it is
    stopped, the same call continues it.

    Args:
        comparison: Folder of the comparison.
        strategy: Name of the strategy, or of a baseline.
        context: Where and how to compute, for ``retrain``. Data folders that it does not give are
            those of the cells.
        out: New folder of the model: of weights (`hydrakit.weights.folders`) for ``ensemble``, of a
            run for ``retrain``.
        how: ``ensemble`` or ``retrain``.
        allow_missing: Whether cells may be unfinished; the model and its figures leave them out.
        callbacks: Callbacks for the events of the run of ``retrain``.
        plugins: Plugins of this process; None loads the installed ones.
        values: Values of the context by name.

    Returns:
        What ``model.json`` says about the model.

    Raises:
        DataError: The data has changed since the comparison, for ``retrain``.
        PlanError: The cells cannot be used (see `find_cells`) or have different plans; or the
            folder is not empty, or ``how`` is another word.
        WeightsError: A weight file of a cell is invalid.
    """
    comparison, out = Path(comparison), Path(out)
    context = context_of(context, values)
    cells = find_cells(comparison, strategy, allow_missing=allow_missing)
    if how == "ensemble":
        return _ensemble(cells, out, plugins or context.plugins())
    if how == "retrain":
        return _retrain(cells, out, context, callbacks, plugins)
    raise PlanError(f"{how!r}: is no way to finish: choose ensemble or retrain")


def _ensemble(cells: StrategyCells, out: Path, plugins: Plugins) -> ModelDescription:
    """Copy the networks of all cells into a new folder, which appears complete or not at all."""
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise PlanError(f"{out}: is not empty: name a new folder with `--out`")
    networks = tuple(pair for run in cells.runs for pair in find_model(run.path).networks)
    import torch

    load_networks(ModelFiles(networks), torch.device("cpu"), plugins=plugins)
    head = read_head(networks[0][1])
    description = ModelDescription(
        hydrakit=version(),
        made_by="ensemble",
        strategy=cells.strategy,
        target=cells.target,
        networks=len(networks),
        expected=_expected(cells, _reason_of_ensemble(len(networks), len(cells.done))),
        notes=_notes(cells),
    )
    new = out.with_name(f".{out.name}.new")
    with writable(out, "choose another folder with `--out`"):
        shutil.rmtree(new, ignore_errors=True)  # of a command that was stopped
        try:
            for number, (body, own) in enumerate(networks, start=1):
                folder = new if number == 1 else new / MEMBERS / str(number)
                (folder / HEADS).mkdir(parents=True)
                copy(body, folder / BODY)
                copy(own, _head_path(folder, head.dataset))
            if head.task == "classification":
                _write_decision(cells, _head_path(new, head.dataset), head, len(networks))
            description.write(new)
            if out.exists():
                out.rmdir()
            patiently(lambda: new.rename(out))
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return description


def _head_path(folder: Path, dataset: str) -> Path:
    return folder / HEADS / f"{dataset}.safetensors"


def _reason_of_ensemble(networks: int, cells: int) -> str:
    """Why the figure of a comparison is fair for the mean of its networks."""
    if cells == 1:
        return "It is the figure of this model on test cases that it had not seen."
    each = "network" if networks == cells else f"mean of {networks // cells} networks"
    return (
        f"Each {each} was scored on test cases that it had not seen. The model averages all "
        f"{networks} networks, and the mean of more networks is usually at least as good: the "
        "figure is fair or slightly too low."
    )


def _write_decision(cells: StrategyCells, path: Path, head: HeadMetadata, networks: int) -> None:
    """Write calibration and threshold, fitted to the test scores of the cells, into a head."""
    probabilities, labels = out_of_fold_scores(cells, head.classes)
    decision = fit_decision(probabilities, labels, networks=networks, source="out-of-fold")
    note = (
        "The scores are those of single cells, each on its own test cases, and this model averages "
        f"{networks} networks, which makes probabilities less extreme: calibration and threshold "
        "are approximate."
    )
    if networks > 1:
        decision = decision.model_copy(update={"notes": (*decision.notes, note)})
    set_decision(path, decision)


def out_of_fold_scores(
    cells: StrategyCells, classes: Sequence[str]
) -> tuple[Floats, NDArray[np.int64]]:
    """Test scores of a classification: each finding once, by networks that had not seen it.

    Images of a finding are averaged first, then the cells (repeats and seeds) that tested it.

    Args:
        cells: Cells of the strategy.
        classes: Names of the classes in the order of the outputs.

    Returns:
        Probabilities ``(findings, classes)``, and the class of each finding ``(findings,)``.

    Raises:
        DataError: A file of predictions cannot be read.
    """
    by_finding: dict[str, list[list[float]]] = {}
    labels: dict[str, int] = {}
    for cell in cells.done:
        images: dict[str, list[list[float]]] = {}
        for row in predictions_of(cells.compare_dir, cell, "test"):
            finding = row.get("finding", row["key"])
            labels[finding] = classes.index(row["label"])
            images.setdefault(finding, []).append([float(row[f"p_{name}"]) for name in classes])
        for finding, scores in images.items():
            by_finding.setdefault(finding, []).append(_means(scores))
    probabilities = np.array([_means(scores) for scores in by_finding.values()])
    return probabilities, np.array([labels[finding] for finding in by_finding])


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Mean of each column."""
    return [mean_score(column) for column in zip(*rows, strict=True)]


def _comparison(cells: StrategyCells) -> Comparison | None:
    """The joint results of the comparison; None if there are none of this design."""
    path = cells.compare_dir.comparison_path
    if not path.is_file():
        return None
    remedy = "run the `hydrakit compare` command again"
    comparison = read_record(path, Comparison, remedy=remedy, latest=FORMAT)
    return comparison if comparison.digest == cells.description.digest else None


def _expected(cells: StrategyCells, reason: str) -> dict[str, ExpectedFigure]:
    """The figure of the strategy in the comparison; empty if it has none."""
    comparison = _comparison(cells)
    if comparison is None:
        return {}
    for each in comparison.strategies:
        if each.name == cells.strategy and each.quality is not None:
            metric, value, low, high = each.quality
            figure = ExpectedFigure(
                metric=metric,
                value=value,
                low=low,
                high=high,
                findings=len(comparison.findings),
                source="folds",
                reason=reason,
            )
            return {cells.target: figure}
    return {}


def _notes(cells: StrategyCells) -> tuple[str, ...]:
    """What users must know of the cells and of the figure."""
    notes = []
    if cells.missing:
        count = len(cells.missing)
        notes.append(f"{count} unfinished cells are left out: {_listed(cells.missing)}.")
    comparison = _comparison(cells)
    results = comparison.strategies if comparison else ()
    own = next((each for each in results if each.name == cells.strategy), None)
    looks = comparison.looks if comparison else None
    if looks and any(each.name == cells.strategy for each in looks.dropped):
        notes.append(
            "No expected figure: the comparison with the strategy ended before that with others, "
            "so that not all of its cells were trained."
        )
    elif own is None:
        notes.append(
            "No expected figure: the comparison has no joint results of the strategy, since no "
            "fold is finished by all strategies."
        )
    elif own.cells + own.left_out != len(cells.done):
        notes.append(
            f"The expected figure is of {own.cells} of the {len(cells.done)} finished cells: those "
            "of folds that all strategies of the comparison have finished."
        )
    return tuple(notes)


def final_plan(cells: StrategyCells) -> Plan:
    """The plan that trains a strategy on all labelled cases of the target.

    It is that of the cells, but the target has no test split, only the shares of the cells for
    training and validation; and a round has as many epochs as the rounds of the cells ended with
    (the median), without early stopping.

    Raises:
        PlanError: The cells have different plans, since each was tuned; or a file of a cell is
            invalid.
    """
    runs = cells.runs
    plans = [run.plan() for run in runs]
    without_fold = [_on_all_cases(plan) for plan in plans]
    if len({plan.digest() for plan in without_fold}) > 1:
        _refuse_tuned(cells)
    plan = without_fold[0]
    results: list[list[RoundResult]] = [[] for _ in plan.rounds]
    for run, own in zip(runs, plans, strict=True):
        for network in run.networks(own):
            for number, round in enumerate(own.rounds, start=1):
                results[number - 1].append(network.round_result(number, round))
    rounds = tuple(
        _with_epochs(round, own) for round, own in zip(plan.rounds, results, strict=True)
    )
    seeds = {"seed": plans[0].seed, "split_seed": plans[0].split_seed}
    return plan.model_copy(update={"rounds": rounds, **seeds})


def _on_all_cases(plan: Plan) -> Plan:
    """The plan of a cell without its seeds and fold, with all cases of its target."""
    datasets = tuple(
        each.model_copy(
            update={"split": Split(train=each.split.train, val=each.split.val, final=True)}
        )
        if each.name == plan.target
        else each
        for each in plan.datasets
    )
    return plan.model_copy(update={"datasets": datasets, "seed": 0, "split_seed": None})


def _with_epochs(round: Round, results: Sequence[RoundResult]) -> Round:
    """A round that trains as many epochs as those of the cells ended with, to the last.

    A rule that chooses an epoch on validation gives the median of the chosen epochs, whose weights
    the round then ends with. With a learning rate that falls over all epochs, there are as many
    epochs as before, and the rule stays: fewer epochs would be another schedule.
    """
    given = round.hyperparameters
    if round.train == "none" or given.solver == "exact":
        return round
    changes: dict[str, Any] = {"patience": None}
    chooses = given.select in ("best", "smoothed", "authors")
    if given.schedule != "cosine":
        ends = [each.best_epoch if chooses else each.epochs for each in results]
        changes["epochs"] = max(1, median_high(ends))
        if chooses:
            changes["select"] = "last"
    hyperparameters = given.model_copy(update=changes)
    return round.model_copy(update={"hyperparameters": hyperparameters})


def _refuse_tuned(cells: StrategyCells) -> None:
    """Refuse to train one model with the values of cells that chose different ones.

    Raises:
        PlanError: Always.
    """
    chosen = Counter(
        ", ".join(f"{path}={_text(value)}" for path, value in each.values.items())
        for each in tuned_cells(cells.compare_dir, cells.done)
    )
    values = "; ".join(f"{text} in {count}" for text, count in chosen.most_common(3))
    design = cells.description.design
    words = ["hydrakit", "tune", "--strategy", cells.strategy]
    words += ["--datasets", ",".join(design.datasets)]
    for path, choices in design.tune.items():
        words += ["--try", f"{path}={','.join(map(_text, choices))}"]
    raise PlanError(
        f"{cells.compare_dir.path}: the cells of {cells.strategy!r} have different plans, since "
        f"each chose its own values ({values}), and no single plan has the comparison's figure: "
        f"use `--how ensemble`, or choose one plan with `{command_line(*words)}`, compare it, and "
        "finish that comparison"
    )


def _text(value: Any) -> str:
    """A tuned value as in an option: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


class _Describing(RunCallback):
    """Writes ``model.json`` when the run begins, so that the report can quote it."""

    def __init__(self, description: ModelDescription) -> None:
        self.description = description

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        """Write the file."""
        self.description.write(rundir.path)


def _refuse_unknown_datasets(
    plan: Plan, context: RunContext, plugins: Plugins, roots: Mapping[str, str]
) -> None:
    """Refuse data folders in which no ``dataset.toml`` declares a dataset of the comparison.

    Args:
        plan: The plan to train.
        context: Its data folders.
        plugins: The datasets that are known there.
        roots: Folders of the datasets in the comparison, by name.
    """
    for name in (each.name for each in plan.datasets):
        if name in plugins.all(DatasetAdapter):
            continue
        root = f" in {roots[name]}" if name in roots else ""
        option = command_line("--root", f"{name}=PATH")
        raise PlanError(
            f"{context.root_of(name)}: does not declare the dataset {name!r}, which the comparison "
            f"had{root}: give the right folder with `--data` or `{option}`"
        )


def _retrain(
    cells: StrategyCells,
    out: Path,
    context: RunContext,
    callbacks: Sequence[RunCallback],
    plugins: Plugins | None,
) -> ModelDescription:
    """Train the plan of the cells on all cases of the target."""
    plan, first = final_plan(cells), cells.runs[0]
    if context.data is None:
        roots = {name: Path(path) for name, path in first.environment().get("roots", {}).items()}
        context = context.changed(roots={**roots, **context.roots})
    plugins = plugins or context.plugins()
    _refuse_unknown_datasets(plan, context, plugins, first.environment().get("roots", {}))
    design = cells.description.design
    part = f"{design.folds - 1} of {design.folds} folds" if design.folds else "a part"
    part += " of the cases"
    if design.leave_out is not None:
        part = f"the cases of all values of {design.leave_out} but one"
    reason = (
        f"An estimate by cross-validation: the same plan was trained on {part} and "
        "tested on the others. This model was trained on all cases, which is usually at least as "
        "good, and no test case is left to measure it."
    )
    description = ModelDescription(
        hydrakit=version(),
        made_by="retrain",
        strategy=cells.strategy,
        target=cells.target,
        networks=plan.ensemble,
        expected=_expected(cells, reason),
        notes=_notes(cells),
    )
    engine.run_cell(
        plan,
        context,
        out=out,
        expected=first.origins(),
        callbacks=[_Describing(description), *callbacks],
        plugins=plugins,
    )
    return read_model_description(out) or description  # of an earlier call if it was finished
