"""Putting the report of a run together, and writing it: also while the run goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plan.results import DataFacts, Results, RoundResult, Transfer
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.report import figures, followed, ledger, repeat, scores, tables, transfer, words
from hydrakit.report.cases import cases_section
from hydrakit.report.epochs import TrainedRound
from hydrakit.report.figure import Counter, Figure
from hydrakit.report.levels import two_classes
from hydrakit.report.markup import REFRESH, Html, element, fill, section, together
from hydrakit.report.operating import operating_table
from hydrakit.report.roc import roc_curves
from hydrakit.report.subgroups import subgroups_table
from hydrakit.runs.rundir import TRACE, RunDir
from hydrakit.runs.transfer import NOT_KEPT, NOT_YET, transfers
from hydrakit.storage.files import write_atomic
from hydrakit.version import version

T = TypeVar("T")


def write_report(rundir: RunDir, *, plugins: Plugins | None = None) -> Path:
    """Write ``report.html`` into a run's folder.

    The file needs nothing else: no script, no font, no network. It names no case and no patient.
    The same folder gives the same file. Of a run that is not finished it tells what there is, and
    a browser reads it again every 30 seconds.

    Args:
        rundir: Of the run.
        plugins: As loaded, for what datasets say of themselves; None loads them.

    Returns:
        The report's path.

    Raises:
        PlanError: A file of the folder is absent or broken.
    """
    text, _ = build_report(rundir, plugins=plugins)
    write_atomic(rundir.report_path, text.encode())
    return rundir.report_path


def build_report(rundir: RunDir, *, plugins: Plugins | None = None) -> tuple[str, list[Figure]]:
    """The text of a run's report, and its figures in order; see `write_report`."""
    told = _gather(rundir, plugins or load_plugins())
    counter = Counter()
    results = told.results
    sections = [
        _first(told),
        section("Rounds", _rounds(told)),
        section("Training", together(counter.all(_training(told)), "\n")),
        section("Test", _test(told, results, counter)) if results else None,
        section("What the rounds did to one another", _transfer(told, counter)),
        section("Test cases", cases_section(rundir)) if results and results.test.images else None,
        section("Data", _data(told)),
        section(
            "How to repeat this run",
            repeat.repeat_section(
                told.plan, facts=told.facts, environment=told.environment, folder=rundir.path
            ),
        ),
    ]
    parts = {
        "refresh": Html("") if results else REFRESH,
        "title": together((f"{told.plan.strategy} on {told.plan.target}",)),
        "order": together((" → ".join(_order(told.plan)),)),
        "sections": together(sections, "\n"),
        "version": together((version(),)),
    }
    return fill("page.html", parts), counter.figures


@dataclass(frozen=True)
class _Told:
    """What a run's folder tells."""

    rundir: RunDir
    plan: Plan
    plugins: Plugins
    results: Results | None
    rounds: list[RoundResult]
    facts: dict[str, DataFacts]
    environment: dict[str, object]
    readings: ledger.Readings
    counts: tables.Counts = field(default_factory=dict)


def _gather(rundir: RunDir, plugins: Plugins) -> _Told:
    plan, results = rundir.plan(), rundir.results()
    facts = _read(rundir.path / "data.json", rundir.facts)
    if results is not None:
        _check(rundir, plan, results=results, facts=facts)
        rounds = list(results.rounds)
    else:
        rounds = []
        for number, round in enumerate(plan.rounds, start=1):
            if not rundir.finished(number, round):
                break
            rounds.append(rundir.round_result(number, round))
    counts = {
        name: two_classes(each, "val", plugins.all(DatasetAdapter).get(name))
        for name, each in (facts or {}).items()
    }
    environment = _read(rundir.path / "environment.json", rundir.environment)
    readings = ledger.readings(rundir, plan.target)
    return _Told(rundir, plan, plugins, results, rounds, facts or {}, environment, readings, counts)


def _first(told: _Told) -> Html:
    """The verdict; of a run under way how far it is."""
    if told.results is not None:
        verdict = words.verdict(told.results.test, told.facts[told.plan.target])
        return element("section", verdict)
    done, planned = len(told.rounds), len(told.plan.rounds)
    if done < planned:
        text = f"Under way: {done} of {planned} rounds are done."
    else:
        text = f"All {planned} rounds are done."
    read = told.readings.count
    test = (
        f" The test labels were read {read} times."
        if read
        else " The test split has not been read."
    )
    return element("section", element("p", element("b", text), test, class_="verdict"))


def _rounds(told: _Told) -> Html:
    table = tables.rounds_table(told.plan, told.rounds, told.counts)
    if not told.rounds:
        return table
    luck = ledger.luck_words(told.rounds[0], told.counts.get(told.rounds[0].dataset))
    return together((table, element("p", luck) if luck else None), "\n")


def _training(told: _Told) -> Iterator[Figure]:
    trained = _trained(told)
    if trained:
        twice = any(r.hyperparameters.loss == "softmax-cross-entropy" for r in told.plan.rounds)
        yield figures.auc_figure(trained)
        yield from _followed(told, trained)
        yield figures.loss_figure(trained, softmax_twice=twice)


def _followed(told: _Told, trained: Sequence[TrainedRound]) -> Iterator[Figure]:
    """The target's AUC over all rounds: of the first round's head, and on the test split."""
    target = told.plan.target
    counts = None
    if target in told.facts:
        adapter = told.plugins.all(DatasetAdapter).get(target)
        counts = two_classes(told.facts[target], "test", adapter)
    found = (
        followed.reference_figure(trained, target),
        followed.trace_figure(trained, target, counts=counts, readings=told.readings.traced),
    )
    yield from (each for each in found if each is not None)


def _test(told: _Told, results: Results, counter: Counter) -> Html:
    test = results.test
    readings = ledger.readings_section(told.readings)
    if not test.classes:
        nothing = element("p", "A number has no ROC curve: predictions.csv has every case.")
        return together((nothing, readings), "\n")
    curves = roc_curves(told.rundir, test)
    patients = told.facts[told.plan.target].patients.get(test.split, test.findings)
    parts = [
        counter.html(
            scores.roc_figure(curves, test.dataset, patients=min(1.0, patients / test.findings))
        ),
        counter.html(scores.calibration_figure(curves)),
        scores.calibration_table(curves),
        operating_table(curves),
        subgroups_table(test),
        element("h3", "Readings of the test labels"),
        readings,
    ]
    return together(parts, "\n")


def _transfer(told: _Told, counter: Counter) -> Html:
    parts = [
        counter.html(transfer.matrix_figure(told.plan.rounds, told.rounds)),
        transfer.transfer_table(_heads(told), told.counts),
        counter.html(transfer.moved_figure(told.rounds)),
    ]
    if not any(parts):
        return element(
            "p",
            "The folder does not tell: it takes two rounds or more, of a hydrakit that notes them.",
        )
    return together(parts, "\n")


def _heads(told: _Told) -> Sequence[Transfer]:
    """What became of every head; without intervals where there are no results that tell them."""
    if told.results is not None and told.results.transfer:
        return told.results.transfer
    return transfers(told.plan.rounds, told.rounds, NOT_KEPT if told.results else NOT_YET)


def _data(told: _Told) -> Html:
    names = [told.plan.target, *(d.name for d in told.plan.datasets)]
    known = [name for name in dict.fromkeys(names) if name in told.facts]
    if not known:
        return element("p", "The data has not been read yet.")
    return together(
        (
            tables.data_section(
                told.plan,
                name,
                facts=told.facts[name],
                adapter=told.plugins.all(DatasetAdapter).get(name),
            )
            for name in known
        ),
        "\n",
    )


def _order(plan: Plan) -> list[str]:
    """The datasets in the order of training; rounds in a row on one dataset count once."""
    names = [round.dataset for round in plan.rounds]
    return [name for place, name in enumerate(names) if place == 0 or names[place - 1] != name]


def _trained(told: _Told) -> list[TrainedRound]:
    """The finished rounds with their epochs."""
    trained = []
    for result in told.rounds:
        number, round = result.round, told.plan.rounds[result.round - 1]
        path = told.rundir.round_path(number, round) / "metrics.jsonl"
        epochs = _read(path, lambda n=number, r=round: told.rundir.epochs(n, r))  # type: ignore[misc]
        counted = list(range(1, result.epochs + 1)) or [0]  # 0: how it is that is not trained
        if [epoch.epoch for epoch in epochs] != counted or result.best_epoch not in counted:
            raise PlanError(
                f"{path}: does not hold the {result.epochs} epochs that "
                f"{'results.json' if told.results else 'round.json'} tells of: "
                "restore it, or run the plan again in another folder"
            )
        trace = told.rundir.trace(number, round)
        if not {point.epoch for point in trace} <= set(counted):
            raise PlanError(
                f"{path.with_name(TRACE)}: is of other epochs than metrics.jsonl beside it: "
                "restore it, or delete it"
            )
        trained.append(TrainedRound(result, epochs, told.counts.get(result.dataset), trace))
    return trained


def _check(
    rundir: RunDir, plan: Plan, *, results: Results, facts: dict[str, DataFacts] | None
) -> None:
    """See that the files of the folder are of one run."""
    planned = [(n, r.dataset, r.train, r.head) for n, r in enumerate(plan.rounds, start=1)]
    if planned != [(r.round, r.dataset, r.train, r.head) for r in results.rounds]:
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
