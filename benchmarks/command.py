"""Processor time of commands: bare Python, and ``hydrakit --help``."""

from __future__ import annotations

import resource
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Answer
from benchmarks.settings import Settings


def processor_seconds(command: Sequence[str]) -> float:
    """User and system time of a command and its children, in seconds.

    Raises:
        CalledProcessError: It fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


class Bare:
    """``python -c pass``."""

    command: tuple[str, ...] = (sys.executable, "-c", "pass")

    def __init__(self, settings: Settings) -> None:
        pass

    def __call__(self, repeat: int) -> Answer:
        """Call it once."""
        return Answer(processor_seconds(self.command))


class Help(Bare):
    """``hydrakit --help``, as installed beside this Python."""

    command = (str(Path(sysconfig.get_path("scripts")) / "hydrakit"), "--help")
