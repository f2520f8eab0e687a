"""The command ``hydrakit doctor``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say, say_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hydrakit.maintenance.doctor import MachineCheck
    from hydrakit.runs.context import RunContext

WIDTH = 100  # characters of a line
INDENT = 21  # characters before the values


@click.command(short_help="Examine this machine, a folder for runs, the cache and the plugins.")
@click.option(
    "--out",
    type=params.FOLDER,
    default=Path("runs"),
    show_default=True,
    metavar="DIR",
    help="Folder for runs; locks and the like are tried there, and nothing stays.",
)
@params.cache_options
@params.as_json
@click.pass_context
def doctor(ctx: click.Context, /, *, out: Path, context: RunContext, as_json: bool) -> None:
    """Examine this machine: packages, GPU, threads, folder for runs, free space, cache, plugins.

    Where something is wrong, the next line says what to do. The exit status is 1 if a run would
    fail, which is marked by !!.
    """
    from hydrakit.maintenance.doctor import examine
    from hydrakit.storage.paths import cache_folder

    report = examine(out, context.cache or cache_folder())
    if as_json:
        say_json(report.model_dump_json(indent=2))
    else:
        for check in report.checks:
            for line in _lines(check):
                say(line)
        if not report.fit:
            say("a run would fail here: see the lines with !!")
    if not report.fit:
        ctx.exit(1)


def _lines(check: MachineCheck) -> Iterator[str]:
    """The value of a check in lines, and its remedy."""
    from textwrap import wrap

    begin = f"{'!! ' if check.stops_runs else ''}{check.name}"
    texts = [(f"{begin:{INDENT}}", check.value)]
    if check.remedy is not None:
        texts.append((f"{'':{INDENT}}-> ", check.remedy))
    for first, text in texts:
        yield from wrap(
            text,
            WIDTH,
            initial_indent=first,
            subsequent_indent=" " * len(first),
            break_long_words=False,
            break_on_hyphens=False,
        )
