"""``hydrakit job``."""

from __future__ import annotations

from pathlib import Path

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say
from hydrakit.compute.signals import describe_stop


@click.command(short_help="Run jobs that a launcher has written.")
@click.argument("files", nargs=-1, required=True, type=params.FOLDER, metavar="FILE...")
@click.pass_context
def job(ctx: click.Context, files: tuple[Path, ...]) -> None:
    """Run the jobs in these files, one after another, each in the folder that its file names.

    Launchers write the files and start this command on any machine that has the same folders. A
    job that was stopped continues from its last checkpoint; one that is done ends at once.
    """
    from hydrakit.jobs.job import read_job, run_job

    failed = False
    for each in [read_job(path) for path in files]:
        try:
            run_job(each)
        except KeyboardInterrupt as error:
            raise describe_stop(error, "run the same command again to resume") from None
        status = each.status()
        failed |= status != "done"
        if status == "done":
            say(f"{each.name}: done", err=True)
        else:
            say(f"hydrakit: {each.name}: failed: {status}", err=True)
    if failed:
        ctx.exit(1)
