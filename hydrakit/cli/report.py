"""``hydrakit report``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.hooks import DatasetAdapter

if TYPE_CHECKING:
    from hydrakit.report.figure import Figure
    from hydrakit.runs.rundir import RunDir


@click.command(short_help="Write the report of a run or a comparison again.")
@click.argument("folder", type=params.FOLDER, metavar="RUN_OR_COMPARISON")
@click.option(
    "--figures",
    type=params.FOLDER,
    metavar="DIR",
    help="Also write each figure there: SVG and CSV, and with the extra `figures` PDF and PNG.",
)
@params.places
@params.cache
def report(
    folder: Path,
    figures: Path | None,
    data: Path | None,
    roots: dict[str, Path],
    cache: Path | None,
) -> None:
    """Write report.html again into the folder of a run, finished or not, or of a comparison.

    Patches of test cases are added to a run that has none kept, where its data is at hand.
    """
    from hydrakit.errors import PlanError
    from hydrakit.report import build_comparison, build_report
    from hydrakit.runs.rundir import RunDir
    from hydrakit.storage.files import write_atomic

    path = folder / "report.html"
    try:
        if (folder / "comparison.json").is_file():
            text, drawn = build_comparison(folder)
        else:
            rundir = RunDir(folder)
            _keep_patches(rundir, data, roots, cache)
            text, drawn = build_report(rundir)
        write_atomic(path, text.encode())
    except OSError as error:
        raise PlanError(
            f"{path}: cannot be written ({error.strerror}): copy the folder to where you may write"
        ) from None
    click.echo(path)
    if figures is not None:
        _write_figures(drawn, figures)


def _write_figures(drawn: list[Figure], folder: Path) -> None:
    from hydrakit.report.export import write_figures

    paths, install = write_figures(drawn, folder)
    for path in paths:
        click.echo(path)
    if install:
        click.echo(f"Note: {install}", err=True)


def _keep_patches(
    rundir: RunDir, data: Path | None, roots: dict[str, Path], cache: Path | None
) -> None:
    """Add the patches of a finished run that has none, where the data is where it was."""
    from hydrakit.report.cases import save_shown_cases
    from hydrakit.runs.rundir import SHOWN

    if rundir.results() is None or (rundir.path / SHOWN).is_file():
        return
    from hydrakit.data.declared.adapter import plugins_at
    from hydrakit.data.prepared.prepare import prepare
    from hydrakit.storage.paths import root_of

    plan = rundir.plan()
    known = {name: Path(path) for name, path in rundir.environment().get("roots", {}).items()}
    root = root_of(plan.target, data, roots if data else {**known, **roots})
    if not root.is_dir():
        click.echo(
            f"Note: {root}: is not there, so that the report shows no patches: name the data's "
            "folder with `--data` or `--root`",
            err=True,
        )
        return
    plugins = plugins_at(data, {plan.target: root})
    options = plan.dataset(plan.target).options
    adapter = plugins.get(DatasetAdapter, plan.target)
    prepared = prepare(adapter, root, options=options, patch=plan.patch, cache=cache)
    save_shown_cases(rundir, prepared, plugins=plugins)
