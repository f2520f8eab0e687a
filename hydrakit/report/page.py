"""Putting the report of a finished run together, and writing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hydrakit.errors import PlanError
from hydrakit.files import write_atomic
from hydrakit.plan import Plan
from hydrakit.plugins import Plugins, load_plugins
from hydrakit.report import figures, tables, words
from hydrakit.report.markup import Html, element, fill, together
from hydrakit.report.roc import roc_curves
from hydrakit.results import DataFacts, Results
from hydrakit.rundir import RunDir

T = TypeVar("T")


def write_report(rundir: RunDir, *, plugins: Plugins | None = None) -> Path:
    """Write ``report.html`` into the folder of a finished run.

    The file needs nothing else: no script, no font, no picture, no network. It names no case and
    no patient. The same folder gives the same file.

    Args:
        rundir: Of a finished run.
        plugins: As loaded, for what datasets say of themselves; None loads them.

    Returns:
        The report's path.

    Raises:
        PlanError: The run is not finished, or a file of its folder is absent or broken.
    """
    plan, results = rundir.plan(), rundir.results()
    if results is None:
        raise PlanError(
            f"{rundir.path}: is not finished: `hydrakit run --resume {rundir.path}` goes on"
        )
    facts = _read(rundir.path / "data.json", rundir.facts)
    _check(rundir, plan, results=results, facts=facts)
    assert facts is not None
    page = _page(rundir, plan, results=results, facts=facts, plugins=plugins or load_plugins())
    write_atomic(rundir.report_path, page.encode())
    return rundir.report_path


def _page(
    rundir: RunDir,
    plan: Plan,
    *,
    results: Results,
    facts: dict[str, DataFacts],
    plugins: Plugins,
) -> str:
    """The text of the report."""
    environment = _read(rundir.path / "environment.json", rundir.environment)
    rounds = _rounds(rundir, plan, results=results)
    softmax_twice = any(r.hyperparameters.loss == "softmax-cross-entropy" for r in plan.rounds)
    data = (
        tables.data_section(plan, name, facts=facts[name], adapter=plugins.datasets.get(name))
        for name in [plan.target, *(d.name for d in plan.datasets if d.name != plan.target)]
    )
    parts: dict[str, Html] = {
        "title": together((f"{results.strategy} on {results.target}",)),
        "order": together((" → ".join(_order(plan)),)),
        "verdict": words.verdict(results.test, facts[plan.target]),
        "rounds": tables.rounds_table(plan, results),
        "auc": figures.auc_figure(rounds, results.target),
        "loss": figures.loss_figure(rounds, softmax_twice=softmax_twice),
        "roc": figures.roc_figure(roc_curves(rundir, results.test), results.target)
        if results.test.classes
        else element("p", "A number has no ROC curve: predictions.csv has every case."),
        "data": together(data, "\n"),
        "repeat": tables.repeat_section(
            plan, results, facts=facts, environment=environment, folder=rundir.path
        ),
        "version": together((results.hydrakit,)),
    }
    return fill("page.html", parts)


def _order(plan: Plan) -> list[str]:
    """The datasets in the order of training; rounds in a row on one dataset count once."""
    names = [round.dataset for round in plan.rounds]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def _rounds(rundir: RunDir, plan: Plan, *, results: Results) -> list[figures.Trained]:
    trained = []
    for number, (round, result) in enumerate(zip(plan.rounds, results.rounds, strict=True), 1):
        path = rundir.round_path(number, round) / "metrics.jsonl"
        epochs = _read(path, lambda n=number, r=round: rundir.epochs(n, r))  # type: ignore[misc]
        counted = list(range(1, result.epochs + 1))
        if [epoch.epoch for epoch in epochs] != counted or result.best_epoch not in counted:
            raise PlanError(
                f"{path}: does not hold the {result.epochs} epochs that results.json tells of: "
                "restore it, or run the plan again in another folder"
            )
        trained.append(figures.Trained(result, epochs))
    return trained


def _check(
    rundir: RunDir, plan: Plan, *, results: Results, facts: dict[str, DataFacts] | None
) -> None:
    """See that the files of the folder are of one run."""
    planned = [(round.dataset, round.train, round.head) for round in plan.rounds]
    if planned != [(round.dataset, round.train, round.head) for round in results.rounds]:
        raise PlanError(
            f"{rundir.results_path}: has other rounds than plan.json: restore the plan that was run"
        )
    if facts is None or any(dataset.name not in facts for dataset in plan.datasets):
        raise PlanError(
            f"{rundir.path / 'data.json'}: does not tell of every dataset of the plan: restore "
            "it, or run the plan again in another folder"
        )


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError) as error:  # pydantic's and json's errors are ValueErrors
        reason = str(error).splitlines()[0]
        raise PlanError(
            f"{path}: cannot be read ({reason}): restore it, or run the plan again in another "
            "folder"
        ) from None
