"""The command ``hydrakit models``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say, say_json
from hydrakit.errors import command_line

if TYPE_CHECKING:
    from hydrakit.maintenance.models import ListedComparison, ListedModel

SHORT = 8  # characters of a digest that are printed


@click.command(short_help="List trained bodies and heads, how good they are, and what fits.")
@click.argument("folder", type=params.FOLDER, default=Path("runs"))
@click.option("--all", "cells", is_flag=True, help="Also list each cell of a comparison, as a run.")
@params.as_json
def models(folder: Path, cells: bool, as_json: bool) -> None:
    """List the models below FOLDER (default: runs): runs, comparisons, and folders with weights.

    A head gives sensible answers on the body that it was trained on. It can be combined with every
    body that takes the same patches and gives as many features (`hydrakit weights swap`).
    """
    from hydrakit.maintenance.models import list_models

    found = list_models(folder, cells=cells)
    if as_json:
        say_json(found.model_dump_json(indent=2))
    else:
        for model in found.models:
            for line in _model_lines(model):
                say(line)
        for comparison in found.comparisons:
            for line in _comparison_lines(comparison):
                say(line)
        if found.comparisons and not cells:
            command = command_line("hydrakit", "models", folder, "--all")
            say(f"the cells of comparisons: `{command}`")
        if not found.models and not found.comparisons:
            say(f"{folder}: holds no finished run, no comparison and no model")
        if found.unfinished:
            say(f"not listed: {found.unfinished} runs that are not finished")
    for problem in found.problems:
        say(f"Note: {problem}", err=True)


def _model_lines(model: ListedModel) -> Iterator[str]:
    from hydrakit.runs.expected import figure_text

    first, several = model.networks[0], len(model.networks) > 1
    facts = [model.kind, model.strategy, model.target and f"target {model.target}"]
    body = f"body {first.body.digest[:SHORT]} ({first.body.fits})"
    number = f"{len(model.networks)} networks, first " if several else ""
    yield f"{model.path}: {', '.join(each for each in facts if each)}, {number}{body}"
    for head in first.heads:
        figure = "no figure" if head.expected is None else figure_text(head.expected)
        if head.body == first.body.digest:
            fits = "fits its body"
        else:
            where = head.body_path or "which is not below this folder"
            inside = where.removeprefix(f"{model.path}/")
            fits = f"was trained on another body, {head.body[:SHORT]}: {inside}"
        yield f"  head {head.dataset} ({', '.join(head.classes)}): {figure}; {fits}"


def _comparison_lines(comparison: ListedComparison) -> Iterator[str]:
    from hydrakit.runs.expected import figure_text

    done = sum(each.cells for each in comparison.strategies)
    yield (
        f"{comparison.path}: comparison, target {comparison.target}, {done} of {comparison.cells} "
        "cells done"
    )
    for each in comparison.strategies:
        figure = "no figure yet" if each.expected is None else figure_text(each.expected)
        yield f"  {each.name}: {each.cells} cells, {figure}"
