"""``hydrakit verify``, ``status`` and ``clean``: what is in the folder of a run or a comparison."""

from __future__ import annotations

from pathlib import Path

import click

from hydrakit.cli import params


@click.command(short_help="Check that no file of a run or a comparison was changed.")
@click.argument("folder", type=params.FOLDER, metavar="RUN_OR_COMPARISON")
@params.as_json
@click.pass_context
def verify(ctx: click.Context, /, *, folder: Path, as_json: bool) -> None:
    """Check by digests that the files of a run, or of all runs of a comparison, are unchanged.

    One line for each file that is not, with what to do; exit status 1 if there is one.
    """
    from hydrakit.verify import verify as engine

    found = engine(folder)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    else:
        for each in found.damaged:
            click.echo(each)
        click.echo(f"{found.files} files are as they were written")
    for path in found.unknown:
        click.echo(f"Note: {path}: has no digests, so its files cannot be checked", err=True)
    if found.damaged:
        ctx.exit(1)
