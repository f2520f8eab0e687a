"""The commands ``hydrakit verify``, ``status`` and ``clean``, for runs and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say, say_json
from hydrakit.errors import command_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.maintenance.clean import RemovableFiles
    from hydrakit.maintenance.status import ComparisonStatus, HolderStatus, RunStatus

MAX_PATHS = 10  # paths that are printed for each reason


@click.command(short_help="Check that no file of a run or a comparison was changed.")
@params.run_or_comparison
@params.as_json
@click.pass_context
def verify(ctx: click.Context, /, *, folder: Path, as_json: bool) -> None:
    """Check by digests that the files of a run, or of all runs of a comparison, are unchanged.

    Prints one line for each changed file, with the remedy; the exit status is then 1. It is also 1
    if a result has no digest, so that nothing is known about it. Logs, reports and other files that
    have no digests are listed as not covered.
    """
    from collections import Counter

    from hydrakit.maintenance.verify import verify as verify_folder

    result = verify_folder(folder)
    if as_json:
        say_json(result.model_dump_json(indent=2))
    else:
        for each in result.damaged:
            say(str(each))
        say(f"{result.files} files are unchanged")
        names = Counter(Path(path).name for path in result.not_covered)
        if names:
            counted = [name if count == 1 else f"{name} ({count})" for name, count in names.items()]
            shortened = [*counted[:MAX_PATHS], *(["..."] if len(counted) > MAX_PATHS else [])]
            say(f"not covered: {', '.join(shortened)}")
    for path in result.unknown:
        say(f"Note: {path}: has no digest, so whether it was changed is unknown", err=True)
    if not result.sound:
        ctx.exit(1)


@click.command(short_help="Print the progress of a run or a comparison.")
@params.run_or_comparison
@params.as_json
def status(folder: Path, as_json: bool) -> None:
    """Print which rounds or cells are done, which are left, and which process is running them.

    Takes no lock and writes nothing, so that it can be used while the run goes on.
    """
    from hydrakit.maintenance.status import RunStatus
    from hydrakit.maintenance.status import status as read_status

    progress = read_status(folder)
    if as_json:
        say_json(progress.model_dump_json(indent=2))
    elif isinstance(progress, RunStatus):
        _print_run(progress)
    else:
        _print_comparison(progress)


def _print_run(run: RunStatus) -> None:
    from hydrakit.cli.printing import print_table

    done = run.done + sum(member.done for member in run.members)
    rounds = len(run.rounds) + sum(len(member.rounds) for member in run.members)
    say(
        f"{run.path}: {run.strategy}, target {run.target}: {run.state}, {done} of {rounds} rounds "
        f"done{f', of {len(run.members) + 1} networks' if run.members else ''}"
    )
    _print_holder(run.holder)
    if run.queue is not None:
        say(f"in the queue: {run.queue}")
    if run.last is not None:
        say(f"last event: {run.last.astimezone().isoformat(timespec='seconds')}")
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
        for each in run.rounds
    ]
    columns = [
        *("#round", "dataset", "trains", "state"),
        *("#epochs", "#val AUC or R2", "#seconds", "since"),
    ]
    print_table(columns, rows, title="network 1" if run.members else "")
    for member in run.members:
        begun = [each for each in member.rounds if each.state == "begun"]
        now = (
            f", round {begun[0].round} at epoch {begun[0].epoch}/{begun[0].epochs}" if begun else ""
        )
        say(f"network {member.number}: {member.done} of {len(member.rounds)} rounds done{now}")
    for each in [*run.rounds, *(round for member in run.members for round in member.rounds)]:
        if each.problem:
            say(f"Note: {each.problem}", err=True)
    if run.state == "stopped":
        say(f"resume it with `{command_line('hydrakit', 'run', '--resume', run.path)}`")


MOST_STATES = 6  # of jobs in a queue that are listed


def _print_comparison(comparison: ComparisonStatus) -> None:
    from collections import Counter

    counts = Counter(each.state for each in comparison.cells)
    states = ", ".join(
        f"{counts[state]} {state}"
        for state in ("done", "begun", "failed", "waiting", "not needed")
        if counts[state] or state != "not needed"
    )
    say(f"{comparison.path}: {comparison.state}: {states} of {len(comparison.cells)} cells")
    _print_holder(comparison.holder)
    for member in comparison.members:
        say(f"{member} shares it, unless it was killed a moment ago")
    for each in comparison.cells:
        if each.state == "begun":
            state = "running" if each.running else "stopped"
            queue = f" ({each.queue})" if each.queue else ""
            say(f"{each.name}: {state}, {each.rounds} rounds done{queue}")
        elif each.state == "failed":
            say(f"{each.name}: failed: {each.reason}")
    queued = Counter(each.queue for each in comparison.cells if each.queue)
    if queued:
        listed = ", ".join(f"{count} {state}" for state, count in queued.most_common(MOST_STATES))
        more = ", ..." if len(queued) > MOST_STATES else ""
        say(f"in the queue: {listed}{more}")
    if comparison.state == "stopped":
        say("run the same `hydrakit compare` command again to resume")


def _print_holder(holder: HolderStatus | None) -> None:
    if holder is None:
        return
    alive = {
        True: "is running",
        False: "is no longer running: it was killed",
        None: "is on another machine: whether it is running is unknown",
    }[holder.alive]
    since = holder.since.isoformat(timespec="seconds")
    say(f"process {holder.pid} on {holder.host}, in this folder since {since}, {alive}")


@click.command(short_help="Delete files of a run or a comparison that are no longer needed.")
@params.run_or_comparison
@click.option("--yes", is_flag=True, help="Delete without asking for confirmation.")
def clean(folder: Path, yes: bool) -> None:
    """Delete files left by killed processes, and the weights of single rounds of finished runs.

    Final body, heads, results and reports are kept, and so are all files that an unfinished run
    needs to resume.
    """
    from hydrakit.maintenance.clean import clean as clean_folder

    def confirm(removable: Sequence[RemovableFiles]) -> bool:
        for line in _summary(removable):
            say(line)
        return yes or click.confirm("Delete them?")

    deleted = clean_folder(folder, confirm)
    if deleted:
        say(f"{_size(sum(each.size for each in deleted))} deleted")
    else:
        say("nothing was deleted")


def _summary(removable: Sequence[RemovableFiles]) -> list[str]:
    """Lines with the number and size of files for each reason, and the first of their paths."""
    lines = []
    for reason in dict.fromkeys(each.reason for each in removable):
        files = [each for each in removable if each.reason == reason]
        lines.append(f"{len(files)} items, {_size(sum(each.size for each in files))}: {reason}")
        lines += [f"  {each.path}" for each in files[:MAX_PATHS]]
        if len(files) > MAX_PATHS:
            lines.append(f"  and {len(files) - MAX_PATHS} more")
    return lines


def _size(count: int) -> str:
    """A number of bytes as text."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count:,} bytes"
