"""How much memory this process and those that it started have held."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from pathlib import Path


def _processes() -> list[Path]:
    """This process and those that it started (a decoder), where the system tells of them."""
    own = Path("/proc") / str(os.getpid())
    numbers = ""
    for thread in own.glob("task/*"):
        with suppress(OSError):  # it has ended
            numbers += (thread / "children").read_text(encoding="ascii")
    return [own, *(Path("/proc") / number for number in numbers.split())]


def forget_peak() -> int:
    """Let `peak_memory` begin anew, where the system can; gives where it begins, in MiB."""
    for process in _processes():
        with suppress(OSError):
            (process / "clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    """The most memory that one of the processes has held, in MiB."""
    peaks = []
    for process in _processes():
        with suppress(OSError):  # not getrusage: on Linux, that begins with the parent's
            status = (process / "status").read_text(encoding="ascii", errors="replace")
            peaks += [int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line]
    return max(peaks, default=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) >> 10
