"""Contenders in processes of their own, which work in turns.

Threads, the allocator and what torch keeps belong to a process, so contenders must not share one.
The speed of a machine drifts by tens of percent within minutes, so each works a little, in turns,
and only ratios of neighbours are compared.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.settings import Settings

READY = "ready"
PROJECT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Answer:
    """What a contender tells of a unit of its work.

    Attributes:
        seconds: For one item: an epoch, a step, an image.
        facts: What else it found.
    """

    seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Spread:
    """The median of some values, and their quartiles."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """That of some values, at least one."""
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return cls(median, low, high)


@dataclass(frozen=True)
class Samples:
    """The answers of contenders that worked in turns.

    Attributes:
        warm: Of the warm-up, by contender.
        answers: Of each repeat, by contender.
    """

    warm: Mapping[str, Answer]
    answers: Mapping[str, Sequence[Answer]]

    def seconds(self, name: str) -> list[float]:
        """Of a contender, one for each repeat."""
        return [answer.seconds for answer in self.answers[name]]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return Spread.of(self.seconds(name)).median

    def ratio(self, slow: str, fast: str) -> Spread:
        """How many times the seconds of one are those of the other, repeat by repeat."""
        pairs = zip(self.seconds(slow), self.seconds(fast), strict=True)
        return Spread.of([one / other for one, other in pairs])


class Worker:
    """A contender in a process of its own; for a ``with`` block."""

    def __init__(self, name: str, command: Sequence[str], *, threads: int) -> None:
        self.name = name
        counts = {key: str(threads) for key in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=PROJECT,
            env={**os.environ, **counts},
        )

    def __enter__(self) -> Self:
        """The worker, ready to work."""
        if self._line() != READY:
            raise RuntimeError(f"{self.name}: its process does not speak as a worker does")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process."""
        if error is not None:
            self._process.kill()
        self._process.communicate()

    def unit(self, repeat: int) -> Answer:
        """Have it do a unit of work.

        Args:
            repeat: Its number; 0 is the warm-up.

        Raises:
            RuntimeError: The process ended instead; what it said is on the standard error.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{repeat}\n")
        self._process.stdin.flush()
        told = json.loads(self._line())
        return Answer(told["seconds"], told["facts"])

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name}: its process ended with {self._process.wait()}")
        return line.rstrip("\n")


def worker_command(contender: str, settings: Settings) -> list[str]:
    """The command of a process for a contender, ``module.Class`` within this package."""
    return [sys.executable, "-m", "benchmarks.worker", contender, json.dumps(asdict(settings))]


def once(contender: str, settings: Settings) -> Answer:
    """The answer to a single unit, without a warm-up, of a process that then ends."""
    command = worker_command(contender, settings)
    with Worker(contender, command, threads=settings.threads) as worker:
        return worker.unit(1)


def in_turns(commands: Mapping[str, Sequence[str]], *, repeats: int, threads: int) -> Samples:
    """Have contenders work in turns: each once to warm up, then all of them in every repeat.

    Args:
        commands: Of each contender's process.
        repeats: How often.
        threads: Of each process.
    """
    with ExitStack() as stack:
        workers = {
            # One after the other: no two of them work at a time, at their start neither.
            name: stack.enter_context(Worker(name, command, threads=threads))
            for name, command in commands.items()
        }
        warm = {name: worker.unit(0) for name, worker in workers.items()}
        answers: dict[str, list[Answer]] = {name: [] for name in workers}
        for repeat in range(1, repeats + 1):
            for name, worker in workers.items():
                answers[name].append(worker.unit(repeat))
    return Samples(warm, answers)
