"""What the folders say about jobs, without what trains them: `hydrakit status` reads it quickly."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from hydrakit.errors import one_line
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import MIB, read_whole
from hydrakit.storage.records import read_value

FAILED = ".failed"  # suffix of the file that says why a job failed
JOBS = ".jobs"  # suffix of the folder for files of the launcher of a single run
DIVERGED = "training diverged"  # first line of this file, if that is why
STATES = "states.json"  # states of queued and running jobs, as the launcher last reported them


def jobs_of_run(out: Path) -> Path:
    """Folder for the files of the job and of the launcher of a single run."""
    return out.with_name(f"{out.name}{JOBS}")


def failure_path(out: Path) -> Path:
    """Path of the file that says why the job with this run folder failed."""
    return out.with_name(f"{out.name}{FAILED}")


def status_of(out: Path) -> str:
    """Status of a job by the folder of its run: ``done``, ``waiting``, or why it failed.

    A run with results that lacks another file, because its process was stopped at the end, is
    waiting: when the job continues, the file is added.
    """
    if RunDir(out).whole:
        return "done"
    try:
        lines = failure_lines(out)
    except (OSError, ValueError):
        return f"{failure_path(out)}: cannot be read"
    if not lines:
        return "waiting"
    return next((one_line(line) for line in reversed(lines) if line.strip()), "unknown")


def failure_lines(out: Path) -> list[str]:
    """Lines of the file that says why a job failed; none if there is no such file.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is too long.
    """
    try:
        content = read_whole(failure_path(out), max_bytes=MIB)
    except FileNotFoundError:
        return []
    return content.decode("utf-8", "replace").split("\n")


def read_states(folder: Path) -> dict[str, str]:
    """States of queued and running jobs, by name, as the launcher last reported them.

    Raises:
        PlanError: The file cannot be read.
    """
    path = folder / STATES
    if not path.is_file():
        return {}
    remedy = "delete it: the command that runs the jobs writes it again"
    return read_value(path, TypeAdapter(dict[str, str]), remedy=remedy)
