"""Printing of results as tables and lines of text."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from hydrakit.compute.streams import printing_for
from hydrakit.errors import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.plan.results import Baseline, DecisionTest, Estimate, Subgroup, TestResult
    from hydrakit.runs.dry_run import DryRun
    from hydrakit.runs.evaluate import EvaluationResult
    from hydrakit.runs.rundir import RunDir
    from hydrakit.stats.comparison import Comparison, LeaveOut, Looks


NARROWEST = 40  # characters of a line; a smaller value of $COLUMNS is a mistake
USUAL_WIDTH = 80


def say(text: object = "", *, err: bool = False) -> None:
    """Print a line, in which no character acts (`printable`); all commands print through this.

    Args:
        text: The line.
        err: Print on standard error.
    """
    click.echo(printable(str(text)), err=err)


def say_lines(text: str, *, err: bool = False) -> None:
    """Print a text of several lines."""
    for line in text.removesuffix("\n").split("\n"):
        say(line, err=err)


def say_json(text: str) -> None:
    """Print JSON in ASCII: it is valid in every encoding, and no character acts on a terminal."""
    click.echo(
        "".join(
            each
            if each.isascii() and each != "\x7f"
            else json.dumps(each)[1:-1].replace("\x7f", "\\u007f")
            for each in text.removesuffix("\n")
        )
    )


@contextmanager
def printing_warnings() -> Iterator[None]:
    """Print the warnings that hydrakit logs as lines on standard error, for a ``with`` block."""
    import logging  # here: `hydrakit --help` imports this module

    class Printer(logging.Handler):
        def filter(self, record: logging.LogRecord) -> bool:
            # Lines of a run's own log are printed by what shows the progress.
            return record.name != "hydrakit" and bool(super().filter(record))

        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage(), err=True)

    logger, printer = logging.getLogger("hydrakit"), Printer(logging.WARNING)
    logger.addHandler(printer)
    try:
        yield
    finally:
        logger.removeHandler(printer)


@contextmanager
def printing_plugin_warnings() -> Iterator[None]:
    """Print a warning of plugin code as one line with its plugin, once, for a ``with`` block."""
    import warnings

    show, printed = warnings.showwarning, set()

    def show_one_line(message: Any, category: Any, *where: Any, **more: Any) -> None:
        plugin = printing_for.get()
        if plugin is None:
            show(message, category, *where, **more)
            return
        text = f"hydrakit: {plugin}: warning: {one_line(str(message))}"
        if text not in printed:
            printed.add(text)
            say(text, err=True)

    warnings.showwarning = show_one_line
    try:
        yield
    finally:
        warnings.showwarning = show


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table; columns with a header that begins with ``#`` are aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        say(title)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify = "right" if column.startswith("#") else "left"
        table.add_column(column.removeprefix("#"), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    # Without a terminal, as in a log or a pipe, lines are not broken.
    width = Console().width if sys.stdout.isatty() else 200
    Console(width=width if width >= NARROWEST else USUAL_WIDTH).print(table)


def print_results(rundir: RunDir) -> None:
    """Print the table of rounds, the test results, and the paths of the files."""
    results = rundir.results()
    assert results is not None
    rows = [
        [
            each.round,
            each.dataset,
            each.train,
            f"{each.best_epoch}/{each.epochs}",
            f"{each.val.loss:.3f}",
            f"R2 {each.val.r2:.3f}" if each.val.auc is None else f"{each.val.auc:.3f}",
            "" if each.val.accuracy is None else f"{each.val.accuracy:.3f}",
            "" if each.reference_auc is None else f"{each.reference_auc:.3f}",
            f"{each.seconds:.1f}",
        ]
        for each in results.rounds
    ]
    columns = [
        "#round",
        "dataset",
        "trains",
        "#best epoch",
        "#val loss",
        "#val AUC",
        "#val accuracy",
        "#reference AUC",
        "#seconds",
    ]
    print_table(columns, rows, title=f"{results.strategy}, target {results.target}")
    for line in _untested_lines(rundir) if results.test is None else test_lines(results.test):
        say(line)
    if results.members:
        figures = [f"{each.figures.score:.3f}" for each in results.members if each.figures]
        alone = ""
        if results.test is not None:
            kind = "R2" if results.test.figures.auc is None else "AUC"
            alone = f", which alone have test {kind} {', '.join(figures)}"
        count = len(results.members)
        say(f"mean of {count} networks{alone}; the table above is of the first")
    if results.baseline is not None and results.test is not None:
        say(_baseline_line(results.baseline, results.test))
    say("")
    say(f"run:     {rundir.path}")
    say(f"body:    {rundir.body_path}")
    for path in sorted((rundir.path / "heads").glob("*.safetensors")):
        say(f"head:    {path}")
    say(f"report:  {rundir.report_path}")


def print_dry_run(estimate: DryRun) -> None:
    """Print the estimated time, memory and disk space of a run, and its folder."""
    from hydrakit.observers.log import data_lines, duration
    from hydrakit.runs.dry_run import STEPS

    for name, facts in estimate.facts.items():
        for line in data_lines(name, facts):
            say(line)
    rows = [
        [
            each.number,
            ", ".join(each.round.datasets),
            each.round.train,
            each.examples,
            each.val,
            each.round.hyperparameters.epochs,
            each.round.hyperparameters.batch_size,
            "done" if each.done else duration(each.seconds),
        ]
        for each in estimate.rounds
    ]
    columns = ["#round", "dataset", "trains", "#patches", "#val", "#epochs", "#batch", "#at most"]
    print_table(columns, rows)
    done = sum(each.done for each in estimate.rounds)
    if estimate.ensemble > 1:
        say(f"ensemble: {estimate.ensemble} networks, whose times are added up")
    state = "finished" if estimate.finished else f"{done} of {len(estimate.rounds)} rounds are done"
    say(f"run:     {estimate.out}: {state if estimate.out.exists() else 'not started'}")
    if estimate.holder is not None and estimate.holder.alive() is not False:
        say(f"         another process is running there ({estimate.holder})")
    say(
        f"time:    at most {duration(estimate.seconds)} on {estimate.device}, from {STEPS} "
        "measured steps; rounds that stop early take less"
    )
    body, head = estimate.parameters
    say(f"network: {body:,} parameters in the body, {head:,} in the target's head")
    if estimate.memory is not None:
        say(f"memory:  {estimate.memory / 1e6:,.0f} MB in the measured steps")
    disk, free = estimate.disk / 1e6, estimate.free / 1e6
    say(f"disk:    at most {disk:,.1f} MB of {free:,.0f} MB free")
    say("Nothing was trained, and no folder was created.")


def _untested_lines(rundir: RunDir) -> list[str]:
    """What is known of a model without a test split."""
    from hydrakit.weights.description import read_model_description

    lines = ["no test split: all cases of the target train and validate"]
    description = read_model_description(rundir.path)
    expected = description.expected if description else {}
    for dataset, figure in expected.items():
        lines += [f"{dataset}: expected {figure}", f"  {figure.reason}"]
    return lines


def _baseline_line(baseline: Baseline, test: TestResult) -> str:
    """A line with the baseline's figure on the same test split."""
    kind = "ridge" if test.task == "regression" else "logistic"
    name = f"baseline: a {kind} regression on {baseline.numbers} intensities"
    if baseline.test is None:
        return f"{name} could not be tested: {baseline.reason}"
    figures = baseline.test.figures
    if figures.auc is None:
        return f"{name}: R2 {figures.r2:.3f}"
    return f"{name}: AUC {figures.auc:.3f}"


def test_lines(test: TestResult) -> list[str]:
    """Lines with the metrics of a split and the number of findings behind them."""
    lines = []
    images = f", {test.images} images" if test.images > test.findings else ""
    for area in test.classes:
        lines.append(
            f"{test.dataset} {test.split}: AUC {area.auc:.3f} for {area.class_name!r}, "
            f"{test.level:.0%} interval {area.low:.3f} to {area.high:.3f} "
            f"({area.positives} positive, {area.negatives} negative findings{images})"
        )
        if area.low <= 0.5 <= area.high:
            lines.append("  too few findings to distinguish this from chance (0.5)")
    if len(test.classes) > 1:
        lines.append(f"{test.dataset} {test.split}: macro average AUC {test.figures.auc:.3f}")
    if not test.classes:
        lines.append(
            f"{test.dataset} {test.split}: mean absolute error {test.figures.mae:.3f}, "
            f"R2 {test.figures.r2:.3f} ({test.findings} findings{images})"
        )
    lines += [f"  {_subgroup(each)}" for each in test.subgroups]
    return lines + (_decision_lines(test.decision) if test.decision else [])


def _decision_lines(judged: DecisionTest) -> list[str]:
    """Lines with the head's stored decision, and its figures on the evaluated findings."""
    lines = [f"decision: {judged.decision}"]
    figures = {"before calibration": judged.before, "after calibration": judged.after}
    for name, each in figures.items():
        if each is not None:
            lines.append(
                f"  {name}: log loss {_estimate(each.log_loss)}, Brier score "
                f"{_estimate(each.brier)}, calibration error {each.error:.3f} (by chance up to "
                f"{each.error_by_chance:.3f})"
            )
    if judged.sensitivity is not None and judged.specificity is not None:
        lines.append(
            f"  sensitivity {_estimate(judged.sensitivity)}, specificity "
            f"{_estimate(judged.specificity)}"
        )
    for name, counts in zip(judged.classes, judged.confusion, strict=True):
        predicted = zip(judged.classes, counts, strict=True)
        counted = ", ".join(f"{count} predicted {other}" for other, count in predicted)
        lines.append(f"  {name}: {counted}")
    return lines


def _estimate(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} ({_range(estimate.low, estimate.high)})"


def _subgroup(group: Subgroup) -> str:
    """A line with the AUC of a subgroup of the findings."""
    counts = f"{group.positives} positive, {group.negatives} negative findings"
    if group.auc is None or group.low is None or group.high is None:
        return f"{group.name} {group.value}: too few for an AUC ({counts})"
    return (
        f"{group.name} {group.value}: AUC {group.auc:.3f} for {group.class_name!r}, "
        f"{_range(group.low, group.high)} ({counts})"
    )


def print_evaluation(evaluation: EvaluationResult, *, as_json: bool) -> None:
    """Print an evaluation, with notes on how to interpret it."""
    if as_json:
        result = evaluation.result.model_dump(mode="json")
        say_json(json.dumps({**result, "notes": list(evaluation.notes)}, indent=2))
        return
    for line in test_lines(evaluation.result):
        say(line)
    figures = evaluation.result.figures
    accuracy = "" if figures.accuracy is None else f", accuracy {figures.accuracy:.3f}"
    say(f"loss {figures.loss:.3f}{accuracy}")
    for note in evaluation.notes:
        say(f"Note: {note}")


def print_comparison(comparison: Comparison) -> None:
    """Print the AUC of every strategy, the differences to the first, and the verdict."""
    from hydrakit.stats.verdict import p_value

    interval = f"{comparison.level:.0%} interval"
    errors = comparison.measure == "mae"
    digits, figure = (".3g", "MAE") if errors else (".3f", "AUC")
    rows = [
        (
            comparison.label(each.name),
            f"{each.val:{digits}}",
            f"{each.value:{digits}}",
            f"{each.low:{digits}} to {each.high:{digits}}",
            *(("" if each.r2 is None else f"{each.r2:.3f}",) if errors else ()),
            each.cells,
            f"{each.seconds:.1f}",
        )
        for each in comparison.strategies
    ]
    columns = ["strategy", f"#val {figure}", f"#test {figure}", interval]
    columns += [*(["#R2"] if errors else []), "#cells", "#seconds"]
    scheme = "one 8-1-1 split" if comparison.folds is None else f"{comparison.folds} folds"
    if comparison.leave_out is not None:
        scheme = comparison.scheme
    repeats = f", {comparison.repeats} repeats" if comparison.repeats > 1 else ""
    seeds = f"{comparison.seeds} seed{'s' if comparison.seeds > 1 else ''}"
    what = comparison.figure
    if comparison.measure == "AUC":
        what = f"AUC for {comparison.positive!r}"
    title = f"target {comparison.target}, {what}: {comparison.counts()}, {scheme}{repeats}, {seeds}"
    print_table(columns, rows, title=title)
    if comparison.pairs:
        pairs = [
            (
                comparison.label(pair.against),
                f"{pair.difference:+{digits}}",
                f"{pair.low:{digits}} to {pair.high:{digits}}"
                f"{'' if pair.level is None else f' ({100 * pair.level:.4g} %)'}",
                p_value(pair.p),
                p_value(pair.p_holm),
                pair.verdict,
            )
            for pair in comparison.pairs
        ]
        against = f"{comparison.pairs[0].strategy} against"
        of_pairs = "interval" if comparison.looks else interval
        columns = [against, "#difference", of_pairs, "#p", "#p (Holm)", "verdict"]
        print_table(columns, pairs)
    if comparison.looks is not None:
        _print_looks(comparison, comparison.looks)
    if comparison.leave_out is not None:
        _print_left_out(comparison, comparison.leave_out)
    if comparison.subgroups:
        _print_subgroups(comparison)
    if comparison.label_aucs:
        _print_labels(comparison)
    if comparison.tuned:
        from hydrakit.report.tuned import chosen_rows, tuning_text

        columns = ["strategy", "value of the plan", "chosen", "cells"]
        print_table(columns, chosen_rows(comparison), title=tuning_text(comparison))
    say_lines(comparison.verdict)
    say(
        f"Test labels were read {comparison.readings} times, once by each finished cell for its "
        "test result; no choice depends on them."
        if comparison.readings == comparison.wanted - len(comparison.failed)
        else f"Test labels were read {comparison.readings} times."
    )
    if comparison.looks is not None:
        from hydrakit.report.looks import looks_text

        say(looks_text(comparison, comparison.looks))
    elif comparison.used < comparison.wanted:
        say(
            f"{comparison.used} of {comparison.wanted} cells are compared: the folds of the others "
            "lack a strategy."
        )


def _print_looks(comparison: Comparison, looks: Looks) -> None:
    """Print the looks that were taken, and the strategies that ended before others."""
    from hydrakit.report.looks import HEADERS, dropped_rows, look_rows

    headers = [
        each if each in ("Cells", "Against", "CI", "Then") else f"#{each}" for each in HEADERS
    ]
    rows = [row for row in look_rows(looks) if row[4] != "not taken"]
    print_table(
        [each.lower() for each in headers], rows, title=f"looks, of {len(looks.planned)} planned"
    )
    if looks.dropped:
        level = f"{comparison.level:.0%} interval"
        columns = ["ended before the others", "at", "#test AUC", level, "#cells", "#seconds"]
        print_table(columns, dropped_rows(looks))


def _print_left_out(comparison: Comparison, leave_out: LeaveOut) -> None:
    """Print the figure of every strategy on each value that was left out of training."""
    digits, figure = (".3g", "MAE") if comparison.measure == "mae" else (".3f", "AUC")
    rows: list[Sequence[object]] = []
    for each in leave_out.values:
        counts = (f"{leave_out.subgroup} {each.value}", each.findings, each.patients)
        figures = [
            (
                comparison.label(one.strategy),
                f"{one.value:{digits}}",
                f"{one.low:{digits}} to {one.high:{digits}}",
            )
            for one in each.strategies
        ]
        first, *others = figures or [("not finished", "", "")]
        rows += [(*counts, *first), *(("", "", "", *other) for other in others)]
    interval = f"{comparison.level:.0%} interval"
    columns = ["left out", "#findings", "#patients", "strategy", f"#test {figure}", interval]
    print_table(columns, rows, title=f"test {figure} of each value that was left out of training")
    for note in leave_out.notes:
        say(f"Note: {note}")


def _print_subgroups(comparison: Comparison) -> None:
    """Print the test AUC of every strategy by subgroup, one strategy per row."""
    rows: list[Sequence[object]] = []
    for each in comparison.subgroups:
        group = (f"{each.name} {each.value}", each.positives, each.negatives)
        aucs = [(s.strategy, f"{s.auc:.3f}", _range(s.low, s.high)) for s in each.strategies]
        first, *others = aucs or [("too few", "", "")]
        rows += [(*group, *first), *(("", "", "", *other) for other in others)]
    interval = f"{comparison.level:.0%} interval"
    columns = ["subgroup", "#positive", "#negative", "strategy", "#test AUC", interval]
    print_table(
        columns, rows, title="test AUC by subgroup (differences between subgroups are not tested)"
    )


def _print_labels(comparison: Comparison) -> None:
    """Print the test AUC of every strategy for each label."""
    rows = [
        (
            each.name,
            each.positives,
            each.negatives,
            *(
                [f"{one.auc:.3f}" for one in each.strategies]
                or ["none"] * len(comparison.strategies)
            ),
        )
        for each in comparison.label_aucs
    ]
    names = [f"#{comparison.label(each.name)}" for each in comparison.strategies]
    columns = ["label", "#with it", "#without it", *names]
    print_table(columns, rows, title="test AUC by label (the mean decides)")


def _range(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
