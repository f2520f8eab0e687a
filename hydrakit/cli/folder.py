"""``hydrakit verify``, ``status`` and ``clean``: what is in the folder of a run or a comparison."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.maintenance.clean import RemovableFiles
    from hydrakit.maintenance.status import ComparisonStatus, HolderStatus, RunStatus

FEW = 10  # paths that are named of each kind


@click.command(short_help="Check that no file of a run or a comparison was changed.")
@click.argument("folder", type=params.FOLDER, metavar="RUN_OR_COMPARISON")
@params.as_json
@click.pass_context
def verify(ctx: click.Context, /, *, folder: Path, as_json: bool) -> None:
    """Check by digests that the files of a run, or of all runs of a comparison, are unchanged.

    One line for each file that is not, with what to do; exit status 1 if there is one.
    """
    from hydrakit.maintenance.verify import verify as engine

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


@click.command(short_help="Tell how far a run or a comparison is.")
@click.argument("folder", type=params.FOLDER, metavar="RUN_OR_COMPARISON")
@params.as_json
def status(folder: Path, as_json: bool) -> None:
    """Tell what of a run or a comparison is done, what is left, and which process is at it.

    Takes no lock and writes nothing: also from another terminal, while the run goes on.
    """
    from hydrakit.maintenance.status import RunStatus
    from hydrakit.maintenance.status import status as engine

    found = engine(folder)
    if as_json:
        click.echo(found.model_dump_json(indent=2))
    elif isinstance(found, RunStatus):
        _print_run(found)
    else:
        _print_comparison(found)


def _print_run(found: RunStatus) -> None:
    from hydrakit.cli.show import print_table

    click.echo(
        f"{found.path}: {found.strategy}, target {found.target}: {found.state}, {found.done} of "
        f"{len(found.rounds)} rounds done"
    )
    _print_holder(found.holder)
    if found.last is not None:
        click.echo(f"last event: {found.last.astimezone().isoformat(timespec='seconds')}")
    rows = [
        [
            each.round,
            each.dataset,
            each.train,
            each.state,
            "" if each.state == "waiting" else f"{each.epoch}/{each.epochs}",
            "" if each.score is None else f"{each.score:.3f}",
            "" if each.seconds is None else f"{each.seconds:.1f}",
            "" if each.since is None else each.since.astimezone().isoformat(timespec="seconds"),
        ]
        for each in found.rounds
    ]
    columns = [
        *("#round", "dataset", "trains", "state"),
        *("#epochs", "#val AUC or R2", "#seconds", "since"),
    ]
    print_table(columns, rows)
    for each in found.rounds:
        if each.problem:
            click.echo(f"Note: {each.problem}", err=True)
    if found.state == "stopped":
        click.echo(f"`hydrakit run --resume {found.path}` goes on")


def _print_comparison(found: ComparisonStatus) -> None:
    from collections import Counter

    counts = Counter(each.state for each in found.cells)
    said = ", ".join(f"{counts[state]} {state}" for state in ("done", "begun", "failed", "waiting"))
    click.echo(f"{found.path}: {found.state}: {said} of {len(found.cells)} cells")
    _print_holder(found.holder)
    for each in found.cells:
        if each.state == "begun":
            how = "under way" if each.running else "stopped"
            click.echo(f"{each.name}: {how}, {each.rounds} rounds done")
        elif each.state == "failed":
            click.echo(f"{each.name}: failed: {each.reason}")
    if found.state == "stopped":
        click.echo("the same `hydrakit compare` goes on")


def _print_holder(holder: HolderStatus | None) -> None:
    if holder is None:
        return
    alive = {
        True: "is running",
        False: "is gone: it was killed",
        None: "is on another machine, so that it cannot be told whether it is running",
    }[holder.alive]
    since = holder.since.isoformat(timespec="seconds")
    click.echo(f"process {holder.pid} on {holder.host}, here since {since}, {alive}")


@click.command(short_help="Remove what nobody needs from a run or a comparison.")
@click.argument("folder", type=params.FOLDER, metavar="RUN_OR_COMPARISON")
@click.option("--yes", is_flag=True, help="Do not ask.")
def clean(folder: Path, yes: bool) -> None:
    """Remove what killed processes left, and of finished runs the weights of their rounds.

    Body, heads, results and reports stay, and so does all that an unfinished run needs to go on.
    """
    from hydrakit.maintenance.clean import clean as engine

    def agree(found: Sequence[RemovableFiles]) -> bool:
        for line in _told(found):
            click.echo(line)
        return yes or click.confirm("Remove them?")

    removed = engine(folder, agree)
    if removed:
        click.echo(f"{_size(sum(each.size for each in removed))} removed")
    else:
        click.echo("nothing was removed")


def _told(found: Sequence[RemovableFiles]) -> list[str]:
    """What can be removed, kind by kind; single paths where there are few."""
    lines = []
    for why in dict.fromkeys(each.why for each in found):
        these = [each for each in found if each.why == why]
        lines.append(f"{len(these)} items, {_size(sum(each.size for each in these))}: {why}")
        lines += [f"  {each.path}" for each in these[:FEW]]
        if len(these) > FEW:
            lines.append(f"  and {len(these) - FEW} more")
    return lines


def _size(count: int) -> str:
    """Bytes in words."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
