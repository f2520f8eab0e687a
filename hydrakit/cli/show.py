"""What is printed of results."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.evaluate import Evaluation
    from hydrakit.results import TestResult
    from hydrakit.rundir import RunDir


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


def test_lines(test: TestResult) -> list[str]:
    """The figures of a split, with what they rest on."""
    lines = []
    for area in test.classes:
        lines.append(
            f"{test.dataset} {test.split}: AUC {area.auc:.3f} for {area.class_name!r}, "
            f"{test.level:.0%} interval {area.low:.3f} to {area.high:.3f} "
            f"({area.positives} positive, {area.negatives} negative cases)"
        )
        if area.low <= 0.5 <= area.high:
            lines.append("  so few cases cannot tell this from chance (0.5)")
    if len(test.classes) > 1:
        lines.append(f"{test.dataset} {test.split}: macro average AUC {test.figures.auc:.3f}")
    if not test.classes:
        lines.append(
            f"{test.dataset} {test.split}: mean absolute error {test.figures.mae:.3f}, "
            f"R2 {test.figures.r2:.3f} ({test.cases} cases)"
        )
    return lines


def print_evaluation(evaluation: Evaluation, *, as_json: bool) -> None:
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
