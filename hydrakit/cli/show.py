"""What is printed of results."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.plan.results import Subgroup, TestResult
    from hydrakit.runs.dry_run import DryRun
    from hydrakit.runs.evaluate import EvaluationResult
    from hydrakit.runs.rundir import RunDir
    from hydrakit.stats.comparison import Comparison


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table: columns whose head begins with ``#`` are numbers, flush right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if title:
        click.echo(title)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        justify = "right" if column.startswith("#") else "left"
        table.add_column(column.removeprefix("#"), justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    # Off a terminal there is no width to keep to: a log or a pipe gets whole lines.
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def print_results(rundir: RunDir) -> None:
    """The table of rounds, the test, and where everything lies."""
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
    for line in test_lines(results.test):
        click.echo(line)
    click.echo("")
    click.echo(f"run:     {rundir.path}")
    click.echo(f"body:    {rundir.body_path}")
    for path in sorted((rundir.path / "heads").glob("*.safetensors")):
        click.echo(f"head:    {path}")
    click.echo(f"report:  {rundir.report_path}")


def print_dry_run(found: DryRun) -> None:
    """What a run would cost, and where it would be."""
    from hydrakit.observers.log import data_lines, duration
    from hydrakit.runs.dry_run import STEPS

    for name, facts in found.facts.items():
        for line in data_lines(name, facts):
            click.echo(line)
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
        for each in found.rounds
    ]
    columns = ["#round", "dataset", "trains", "#patches", "#val", "#epochs", "#batch", "#at most"]
    print_table(columns, rows)
    done = sum(each.done for each in found.rounds)
    how = "finished" if found.finished else f"{done} of {len(found.rounds)} rounds are done"
    click.echo(f"run:     {found.out}: {how if found.out.exists() else 'not there yet'}")
    if found.holder is not None and found.holder.alive() is not False:
        click.echo(f"         another process is running there ({found.holder})")
    click.echo(
        f"time:    at most {duration(found.seconds)} on {found.device}, by {STEPS} measured steps; "
        "rounds that stop early take less"
    )
    body, head = found.parameters
    click.echo(f"network: {body:,} parameters in the body, {head:,} in the target's head")
    if found.memory is not None:
        click.echo(f"memory:  {found.memory / 1e6:,.0f} MB in the measured steps")
    click.echo(f"disk:    at most {found.disk / 1e6:,.1f} MB of {found.free / 1e6:,.0f} MB free")
    click.echo("Nothing was trained, and no folder was made.")


def test_lines(test: TestResult) -> list[str]:
    """The figures of a split, with what they rest on."""
    lines = []
    images = f", {test.images} images" if test.images > test.findings else ""
    for area in test.classes:
        lines.append(
            f"{test.dataset} {test.split}: AUC {area.auc:.3f} for {area.class_name!r}, "
            f"{test.level:.0%} interval {area.low:.3f} to {area.high:.3f} "
            f"({area.positives} positive, {area.negatives} negative findings{images})"
        )
        if area.low <= 0.5 <= area.high:
            lines.append("  so few findings cannot tell this from chance (0.5)")
    if len(test.classes) > 1:
        lines.append(f"{test.dataset} {test.split}: macro average AUC {test.figures.auc:.3f}")
    if not test.classes:
        lines.append(
            f"{test.dataset} {test.split}: mean absolute error {test.figures.mae:.3f}, "
            f"R2 {test.figures.r2:.3f} ({test.findings} findings{images})"
        )
    lines += [f"  {_subgroup(each)}" for each in test.subgroups]
    return lines


def _subgroup(found: Subgroup) -> str:
    """A subgroup of the findings, on a line."""
    counts = f"{found.positives} positive, {found.negatives} negative findings"
    if found.auc is None or found.low is None or found.high is None:
        return f"{found.name} {found.value}: too few for an AUC ({counts})"
    return (
        f"{found.name} {found.value}: AUC {found.auc:.3f} for {found.class_name!r}, "
        f"{_range(found.low, found.high)} ({counts})"
    )


def print_evaluation(evaluation: EvaluationResult, *, as_json: bool) -> None:
    """An evaluation, with what must be known to read it."""
    if as_json:
        result = evaluation.result.model_dump(mode="json")
        click.echo(json.dumps({**result, "notes": list(evaluation.notes)}, indent=2))
        return
    for line in test_lines(evaluation.result):
        click.echo(line)
    figures = evaluation.result.figures
    accuracy = "" if figures.accuracy is None else f", accuracy {figures.accuracy:.3f}"
    click.echo(f"loss {figures.loss:.3f}{accuracy}")
    for note in evaluation.notes:
        click.echo(f"Note: {note}")


def print_comparison(found: Comparison) -> None:
    """Table II, every strategy beside the first, the verdict, and what it rests on."""
    from hydrakit.stats.verdict import p_value

    interval = f"{found.level:.0%} interval"
    rows = [
        (
            each.name,
            f"{each.val:.3f}",
            f"{each.auc:.3f}",
            _range(each.low, each.high),
            each.cells,
            f"{each.seconds:.1f}",
        )
        for each in found.strategies
    ]
    columns = ["strategy", "#val AUC", "#test AUC", interval, "#cells", "#seconds"]
    scheme = "one 8-1-1 split" if found.folds is None else f"{found.folds} folds"
    repeated = f", {found.repeats} repeats" if found.repeats > 1 else ""
    total = found.positives + found.negatives
    images = f" ({found.images} images)" if found.images > total else ""
    title = (
        f"target {found.target}, AUC for {found.positive!r}: {found.positives} positive and "
        f"{found.negatives} negative findings{images} of {found.patients} patients, {scheme}"
        f"{repeated}, {found.seeds} seed{'s' if found.seeds > 1 else ''}"
    )
    print_table(columns, rows, title=title)
    if found.pairs:
        pairs = [
            (
                pair.against,
                f"{pair.difference:+.3f}",
                _range(pair.low, pair.high),
                p_value(pair.p),
                p_value(pair.p_holm),
                pair.verdict,
            )
            for pair in found.pairs
        ]
        beside = f"{found.pairs[0].strategy} against"
        columns = [beside, "#difference", interval, "#p", "#p (Holm)", "verdict"]
        print_table(columns, pairs)
    if found.subgroups:
        _print_subgroups(found)
    click.echo(found.verdict)
    click.echo(
        f"Test labels were read {found.readings} times: once by each finished cell, to report it; "
        "nothing was chosen by them."
        if found.readings == found.wanted - len(found.failed)
        else f"Test labels were read {found.readings} times."
    )
    if found.used < found.wanted:
        click.echo(f"Of {found.wanted} cells {found.used} count: the others lack a strategy.")


def _print_subgroups(found: Comparison) -> None:
    """Test AUC of every strategy by subgroup, one below the other: there may be many."""
    rows: list[Sequence[object]] = []
    for each in found.subgroups:
        named = (f"{each.name} {each.value}", each.positives, each.negatives)
        aucs = [(s.strategy, f"{s.auc:.3f}", _range(s.low, s.high)) for s in each.strategies]
        first, *others = aucs or [("too few", "", "")]
        rows += [(*named, *first), *(("", "", "", *other) for other in others)]
    interval = f"{found.level:.0%} interval"
    columns = ["subgroup", "#positive", "#negative", "strategy", "#test AUC", interval]
    print_table(columns, rows, title="test AUC by subgroup, not tested against one another")


def _range(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}"
