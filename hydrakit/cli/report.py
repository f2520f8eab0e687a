"""The command ``hydrakit report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say

if TYPE_CHECKING:
    from hydrakit.report.figure import Figure
    from hydrakit.runs.context import RunContext


@click.command(short_help="Write the report of a run or a comparison again.")
@params.run_or_comparison
@click.option(
    "--figures",
    type=params.FOLDER,
    metavar="DIR",
    help="Also write each figure into this folder: SVG and CSV, and with the extra `figures` PDF "
    "and PNG.",
)
@params.data_options
def report(folder: Path, figures: Path | None, context: RunContext) -> None:
    """Write report.html again into the folder of a run, finished or not, or of a comparison.

    If the run's folder has no patches of test cases, they are read from its data, if available.
    """
    from hydrakit import engine

    written = engine.report(folder, context)
    if written.no_examples is not None:
        say(f"Note: {written.no_examples}", err=True)
    say(written.path)
    if figures is not None:
        _write_figures(written.figures, figures)


def _write_figures(figures: Sequence[Figure], folder: Path) -> None:
    from hydrakit.report.export import write_figures

    paths, install = write_figures(figures, folder)
    for path in paths:
        say(path)
    if install:
        say(f"Note: {install}", err=True)
