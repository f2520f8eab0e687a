"""The report of a run, written after every round and at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plan.results import DataFacts, Metrics, Results, RoundResult, Transfer
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.report import figures, provenance, scores, transfer
from hydrakit.report.cases import examples_section
from hydrakit.report.decisions import decision_tables
from hydrakit.report.figure import Figure, FigureCounter
from hydrakit.report.markup import REFRESH, Html, element, join, render, section
from hydrakit.report.roc import roc_curves
from hydrakit.report.rounds import ClassCounts, rounds_table, two_classes
from hydrakit.report.tables import ABSENT, count_of, number, table
from hydrakit.report.verdict import untested, verdict
from hydrakit.runs.rundir import TRACE, RunDir
from hydrakit.runs.transfer import NOT_STORED, NOT_YET, transfers
from hydrakit.storage.files import write_atomic
from hydrakit.version import version
from hydrakit.weights.description import read_model_description

T = TypeVar("T")


def write_report(rundir: RunDir, *, plugins: Plugins | None = None) -> Path:
    """Write ``report.html`` into the folder of a run.

    The file is self-contained: no script, no font, no network access. It names no case and no
    patient. The same folder gives the same file. While the run is in progress, the report contains
    the finished rounds, and a browser reloads it every 30 seconds.

    Args:
        rundir: Folder of the run.
        plugins: Loaded plugins, for descriptions of the datasets; None loads them.

    Returns:
        Path of the report.

    Raises:
        PlanError: A file of the folder is absent or broken.
    """
    text, _ = build_report(rundir, plugins=plugins)
    write_atomic(rundir.report_path, text.encode())
    return rundir.report_path


def build_report(rundir: RunDir, *, plugins: Plugins | None = None) -> tuple[str, list[Figure]]:
    """Text of a run's report, and its figures in order; see `write_report`."""
    content = _read_run(rundir, plugins or load_plugins())
    counter = FigureCounter()
    plan, results = content.plan, content.results
    sections = [
        element("section", _summary(content)),
        section("Rounds", _of_first(plan, rounds_table(plan, content.rounds, content.counts))),
        section("Training", join(counter.all(_training_figures(content)), "\n")),
        section("Test results", _test(content, results, counter)) if results else None,
        section("Networks of the ensemble", _members(results))
        if results and results.test and results.members
        else None,
        section("Transfer between rounds", _transfer(content, counter)),
        section("Example test cases", _of_first(plan, examples_section(rundir)))
        if results and results.test and results.test.images
        else None,
        section("Data", _data(content)),
        section(
            "Reproduce this run",
            provenance.reproduction_section(
                plan,
                facts=content.facts,
                environment=content.environment,
                folder=rundir.path,
                start=results.start if results else None,
            ),
        ),
    ]
    parts = {
        "refresh": Html("") if results else REFRESH,
        "title": join((f"{plan.strategy} on {plan.target}",)),
        "subtitle": join((" → ".join(_training_order(plan)),)),
        "sections": join(sections, "\n"),
        "version": join((version(),)),
    }
    return render("page.html", parts), counter.figures


@dataclass(frozen=True)
class RunContent:
    """Content of a run's folder.

    Attributes:
        rundir: The folder.
        plan: Plan of the run.
        plugins: Loaded plugins.
        results: Results; None while the run is in progress.
        rounds: Results of the finished rounds.
        facts: Facts of each dataset, as far as the run has read it.
        environment: Versions and device.
        readings: How often the test labels were read.
        counts: Validation findings of both classes by dataset.
    """

    rundir: RunDir
    plan: Plan
    plugins: Plugins
    results: Results | None
    rounds: list[RoundResult]
    facts: dict[str, DataFacts]
    environment: dict[str, object]
    readings: provenance.LabelReadings
    counts: ClassCounts = field(default_factory=dict)


def _read_run(rundir: RunDir, plugins: Plugins) -> RunContent:
    plan, results = rundir.plan(), rundir.results()
    facts = _read(rundir.path / "data.json", rundir.facts)
    if results is not None:
        _check_consistent(rundir, plan, results=results, facts=facts)
        rounds = list(results.rounds)
    else:
        rounds = []
        for number, round in enumerate(plan.rounds, start=1):
            if not rundir.finished(number, round):
                break
            rounds.append(rundir.round_result(number, round))
    return RunContent(
        rundir=rundir,
        plan=plan,
        plugins=plugins,
        results=results,
        rounds=rounds,
        facts=facts or {},
        environment=_read(rundir.path / "environment.json", rundir.environment),
        readings=provenance.label_readings(rundir, plan.target),
        counts={
            name: two_classes(each, "val", plugins.all(DatasetAdapter).get(name))
            for name, each in (facts or {}).items()
        },
    )


def _summary(content: RunContent) -> Html:
    """The test result, or the progress of the run."""
    if content.results is not None:
        results, facts = content.results, content.facts[content.plan.target]
        if results.test is None:
            expected = read_model_description(content.rundir.path)
            return untested(content.plan.target, facts, expected)
        return verdict(results.test, facts, results.baseline)
    plan = content.plan
    done, planned = content.rundir.rounds_done(plan), len(plan.rounds) * plan.ensemble
    if done < planned:
        text = f"In progress: {done} of {planned} rounds are finished."
    else:
        text = f"All {planned} rounds are finished."
    read = content.readings.count
    if plan.final:
        test = " There is no test split: all cases train and validate."
    elif read:
        test = f" The test labels were read {count_of(read, 'time')}."
    else:
        test = " The test split has not been read yet."
    return element("p", element("b", text), test, class_="verdict")


def _training_figures(content: RunContent) -> Iterator[Figure]:
    rounds = list(_round_curves(content))
    if not rounds:
        return
    plan, counts = content.plan, None
    if plan.target in content.facts:
        adapter = content.plugins.all(DatasetAdapter).get(plan.target)
        counts = two_classes(content.facts[plan.target], "test", adapter)
    readings = content.readings.traced
    optional = (
        figures.reference_figure(rounds, plan.target),
        figures.trace_figure(rounds, plan.target, counts=counts, readings=readings),
    )
    yield figures.auc_figure(rounds)
    yield from (figure for figure in optional if figure is not None)
    twice = any(r.hyperparameters.loss == "softmax-cross-entropy" for r in plan.rounds)
    yield figures.loss_figure(rounds, softmax_twice=twice)


def _test(content: RunContent, results: Results, counter: FigureCounter) -> Html:
    test = results.test
    if test is None:
        return element("p", "There is no test split: all cases train and validate.")
    readings = provenance.readings_list(content.readings)
    if (inner := content.plan.inner) is not None:
        text = (
            "This is a run of a search. “Test” means inner fold "
            f"{inner.index + 1} of {inner.count} of the cases outside the test split; the cases of "
            "the test split itself are not used."
        )
        readings = join((element("p", text), readings), "\n")
    if not test.classes:
        note = element("p", "Regression has no ROC curve: predictions.csv lists every case.")
        return join((note, readings), "\n")
    curves = roc_curves(content.rundir, test)
    patients = content.facts[content.plan.target].patients.get(test.split, test.findings)
    drawings = (
        scores.roc_figure(curves, test.dataset, patients=min(1.0, patients / test.findings)),
        scores.calibration_figure(curves),
    )
    judged = test.decision
    parts = [
        element("div", *counter.all(drawings), class_="panels"),
        scores.calibration_table(curves),
        scores.sensitivity_table(curves) if judged is None or judged.threshold is None else None,
        scores.subgroups_table(test),
        element("h3", "Calibration and threshold") if judged else None,
        decision_tables(judged) if judged else None,
        element("h3", "Use of the test labels"),
        readings,
    ]
    return join(parts, "\n")


def _of_first(plan: Plan, part: Html) -> Html:
    """A part of the page; in an ensemble, with a note that it shows the first network."""
    if plan.ensemble == 1:
        return part
    note = f"Of the first of {plan.ensemble} networks; the other ones have their own folders."
    return join((element("p", note), part), "\n")


def _members(results: Results) -> Html:
    """Test metrics of each network alone, and of the mean prediction."""
    test = results.tested
    figures = [(str(each.number), each.seed, each.figures) for each in results.members]
    rows = [
        (name, seed, *map(number, _values(metrics)))
        for name, seed, metrics in [*figures, ("mean", ABSENT, test.figures)]
        if metrics is not None
    ]
    names = ("R2", "MAE") if test.task == "regression" else ("AUC", "Accuracy")
    note = (
        "The test result of this run is that of the mean prediction. The metrics of the single "
        "networks show how much depends on the seed; choosing the best of them would be optimistic."
    )
    title = "Test metrics of each network and of the mean of their predictions"
    columns = ("Network", "Seed", "Loss", *names)
    return join((element("p", note), table(title, columns, rows)), "\n")


def _values(metrics: Metrics) -> tuple[float | None, ...]:
    if metrics.auc is None:
        return metrics.loss, metrics.r2, metrics.mae
    return metrics.loss, metrics.auc, metrics.accuracy


def _transfer(content: RunContent, counter: FigureCounter) -> Html:
    parts = [
        counter.html(transfer.matrix_figure(content.plan.rounds, content.rounds)),
        transfer.transfer_table(_heads(content), content.counts),
        counter.html(transfer.weight_change_figure(content.rounds)),
    ]
    if not any(parts):
        return element(
            "p", "Not available: requires at least two rounds, recorded by a recent hydrakit."
        )
    return join(parts, "\n")


def _heads(content: RunContent) -> tuple[Transfer, ...]:
    """Transfer of every head; without confidence intervals if the results have none."""
    if content.results is not None and content.results.transfer:
        return content.results.transfer
    reason = NOT_STORED if content.results else NOT_YET
    rounds = content.rounds[: content.plan.strategy_rounds]
    return transfers(content.plan.rounds, rounds, reason)


def _data(content: RunContent) -> Html:
    plan = content.plan
    names = dict.fromkeys((plan.target, *(dataset.name for dataset in plan.datasets)))
    known = [name for name in names if name in content.facts]
    if not known:
        return element("p", "The data has not been read yet.")
    return join(
        (
            provenance.data_section(
                plan,
                name,
                facts=content.facts[name],
                adapter=content.plugins.all(DatasetAdapter).get(name),
            )
            for name in known
        ),
        "\n",
    )


def _training_order(plan: Plan) -> list[str]:
    """Datasets in training order; consecutive rounds on one dataset count once.

    The rounds at the end that only fit heads to the final body do not count.
    """
    names = [round.dataset for round in plan.rounds[: plan.strategy_rounds]]
    return [name for index, name in enumerate(names) if index == 0 or names[index - 1] != name]


def _round_curves(content: RunContent) -> Iterator[figures.RoundCurves]:
    """The finished rounds with their epochs."""
    for result in content.rounds:
        number, round = result.round, content.plan.rounds[result.round - 1]
        path = content.rundir.round_path(number, round) / "metrics.jsonl"
        epochs = _read(path, lambda n=number, r=round: content.rundir.epochs(n, r))  # type: ignore[misc]
        expected = list(range(1, result.epochs + 1)) or [0]  # 0: a round that trains nothing
        if [epoch.epoch for epoch in epochs] != expected or result.best_epoch not in expected:
            source = "results.json" if content.results else "round.json"
            raise PlanError(
                f"{path}: does not have the {result.epochs} epochs that {source} lists: restore "
                "it, or run the plan again in another folder"
            )
        trace = content.rundir.trace(number, round)
        if not {point.epoch for point in trace} <= set(expected):
            raise PlanError(
                f"{path.with_name(TRACE)}: has other epochs than metrics.jsonl in the same "
                "folder: restore it, or delete it"
            )
        yield figures.RoundCurves(result, epochs, content.counts.get(result.dataset), trace)


def _check_consistent(
    rundir: RunDir, plan: Plan, *, results: Results, facts: dict[str, DataFacts] | None
) -> None:
    """Check that plan, results and data facts belong to one run."""
    planned = [(n, r.dataset, r.train, r.head) for n, r in enumerate(plan.rounds, start=1)]
    if planned != [(r.round, r.dataset, r.train, r.head) for r in results.rounds]:
        raise PlanError(
            f"{rundir.results_path}: has other rounds than plan.json: restore the plan that was run"
        )
    if facts is None or any(dataset.name not in facts for dataset in plan.datasets):
        raise PlanError(
            f"{rundir.path / 'data.json'}: does not list every dataset of the plan: restore it, "
            "or run the plan again in another folder"
        )


def _read(path: Path, read: Callable[[], T]) -> T:
    try:
        return read()
    except (OSError, ValueError) as error:  # pydantic and json raise ValueErrors
        reason = str(error).splitlines()[0]
        raise PlanError(
            f"{path}: cannot be read ({reason}): restore it, or run the plan again in another "
            "folder"
        ) from None
