"""Makes inputs of a target and reads them, in a process whose time and memory are watched.

Input ``number`` of a target is always the same bytes; input 0 is the sound one. To look at one::

    cd tests && python -m fuzzing.watch FOLDER NUMBER NUMBER TARGET --keep
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import os
import resource
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from random import Random
from types import FrameType
from typing import TypedDict

from fuzzing.datasets import Files, check_line
from fuzzing.memory import forget_peak, peak_memory
from fuzzing.mutators import mutate
from fuzzing.targets import TARGETS, Target
from hydrakit.errors import HydrakitError

CPU_SECONDS = 20  # for one input: on a busy machine, far above what the slowest needs
SECONDS = 300  # for one input, where it waits instead of working
ADDRESSES = 6 * 2**30  # bytes: so that a bomb stops this process and not the machine


class Report(TypedDict):
    """What became of a target's inputs.

    Attributes:
        counts: How many were ``read``, ``unusable``, ``refused`` or a ``fault``.
        faults: By the input's number.
        seconds: The most processor time of one, and its number.
        memory: The most memory at one, in MiB, and its number.
    """

    counts: dict[str, int]
    faults: dict[int, str]
    seconds: tuple[float, int]
    memory: tuple[int, int]


class TooLong(BaseException):
    """An input took too long: not an `Exception`, so that no reader takes it for a broken file."""


def _out_of_time(number: int, frame: FrameType | None) -> None:
    raise TooLong


def _memory_error(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, is of memory that was asked for in vain."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def outcome(target: Target, folder: Path) -> str:
    """Read one input: ``read``, ``unusable``, ``refused``, or ``fault: ...``."""
    try:
        return target.read(folder)
    except HydrakitError as error:
        if _memory_error(error):
            return "fault: asks for too much memory"
        try:
            check_line(str(error), folder)
        except AssertionError as fault:
            return f"fault: {fault}"
        return "refused"
    except TooLong:
        return f"fault: takes over {CPU_SECONDS} seconds"
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = (
            f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else "?"
        )
        return f"fault: {type(error).__name__} in {where}: {str(error)[:300]}"


def make(files: Files, name: str, number: int) -> tuple[Path, bytes]:
    """The file that an input changes, and what to."""
    random = Random(f"{name}/{number}")
    path = random.choice(sorted(files))
    data = path.read_bytes()
    return path, data if number == 0 else mutate(data, files[path], random)


class Lines(logging.Handler):
    """Notes what is logged that a message must not be."""

    def __init__(self) -> None:
        super().__init__()
        self.odd: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        try:
            check_line(record.getMessage())
        except AssertionError as fault:
            self.odd.append(f"logs {fault}")


def _read(target: Target, folder: Path, lines: Lines) -> str:
    """The outcome of one input, within its time."""
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        found = outcome(target, folder)
    except TooLong:  # it came while a fault was being told
        found = f"fault: takes over {CPU_SECONDS} seconds"
    signal.setitimer(signal.ITIMER_PROF, 0)
    faulthandler.cancel_dump_traceback_later()
    if lines.odd:
        found = f"fault: {lines.odd[0]}"
        lines.odd.clear()
    return found


def watch(name: str, numbers: Sequence[int], folder: Path, *, keep: bool = False) -> Report:
    """Make and read inputs of a target, whose sound files are written into a new folder."""
    target = TARGETS[name]
    folder.mkdir(parents=True)
    files = target.build(folder.resolve())
    report = Report(counts={}, faults={}, seconds=(0.0, 0), memory=(0, 0))
    logging.getLogger().addHandler(lines := Lines())
    for number in numbers:
        print(name, number, file=sys.stderr, flush=True)  # where this process died, if it does
        path, changed = make(files, name, number)
        sound = path.read_bytes()
        path.write_bytes(changed)
        os.utime(path, ns=(0, 10**9 * (number + 1)))  # kept headers are known by it
        del changed
        forget_peak()
        start = time.process_time()
        found = _read(target, folder.resolve(), lines)
        report["seconds"] = max(report["seconds"], (time.process_time() - start, number))
        report["memory"] = max(report["memory"], (peak_memory(), number))
        kind = found.partition(":")[0]
        report["counts"][kind] = report["counts"].get(kind, 0) + 1
        if kind == "fault":
            report["faults"][number] = found
        if not keep:
            path.write_bytes(sound)
            os.utime(path, ns=(0, 0))
    logging.getLogger().removeHandler(lines)
    return report


def main() -> None:
    """Watch inputs FIRST to LAST of some targets, each in a new folder below FOLDER."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int)
    parser.add_argument("targets", nargs="+", choices=TARGETS, metavar="TARGET")
    parser.add_argument("--keep", action="store_true", help="leave the last input as it was made")
    given = parser.parse_args()
    os.environ["HYDRAKIT_CACHE"] = str(given.folder / "cache")
    warnings.simplefilter("error")
    signal.signal(signal.SIGPROF, _out_of_time)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    numbers = range(given.first, given.last + 1)
    reports = {
        name: watch(name, numbers, given.folder / name, keep=given.keep) for name in given.targets
    }
    print(json.dumps(reports))


if __name__ == "__main__":
    main()
