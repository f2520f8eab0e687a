"""Runs in processes of their own that are stopped at any moment, and go on by the same command."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import install_standin, plan_of, round_of

from hydrakit.cli import main
from hydrakit.plan import Plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.rundir import RunDir

COMMAND = [sys.executable, "-c", "from hydrakit.cli import main; main()"]


def longer_plan(divisor: int = 1) -> Plan:
    """Every kind of round, and random starts, each long enough to be hit."""
    short, long = 12 // divisor, 40 // divisor
    return plan_of(
        round_of("alpha", epochs=short, batch_size=4),
        round_of("beta", "head", epochs=long, batch_size=4),
        round_of("beta", epochs=short, batch_size=4, select="averaged", window=3),
        round_of("alpha", "norm", epochs=8 // divisor, batch_size=4),
        round_of("alpha", "head", epochs=long, batch_size=4),
        round_of("alpha", epochs=short, batch_size=4, schedule="authors", select="authors"),
        bootstrap=60 // divisor,
    )


@dataclass
class Killing:
    """A run that is stopped again and again.

    Attributes:
        folder: For its files.
        data: Of the stand-ins.
        arguments: Of the command, without the run's folder.
        cache: Where data is prepared; each campaign may have one of its own.
        stops: What each process was at when it was stopped: its last line.
    """

    folder: Path
    data: Path
    arguments: Sequence[str]
    cache: Path
    stops: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "run"

    @property
    def environment(self) -> dict[str, str]:
        site = self.folder / "site"
        if not site.is_dir():
            install_standin(site)
        known = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
        paths = os.pathsep.join([str(site), str(Path(__file__).parent), *known])
        places = {"HYDRAKIT_DATA": str(self.data), "HYDRAKIT_CACHE": str(self.cache)}
        return {**os.environ, **places, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *self.arguments, "--out", str(self.out)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def stop_after(self, seconds: float, number: int) -> subprocess.CompletedProcess[str]:
        """Begin or go on, and send a signal when the rounds have been under way so long."""
        with self.start() as process:
            self._wait_for_work(process)
            time.sleep(seconds)
            if process.poll() is None:
                process.send_signal(number)
            out, said = process.communicate(timeout=120)
        self.stops.append(self.place)
        return subprocess.CompletedProcess(process.args, process.returncode, out, said)

    def _wait_for_work(self, process: subprocess.Popen[str]) -> None:
        """Until the process has written something, or has ended: importing torch takes long."""
        before = self._events()
        while process.poll() is None and self._events() == before:
            time.sleep(0.005)

    def _events(self) -> int:
        path = self.out / "events.jsonl"
        prepared = len(list(self.cache.rglob("journal-*"))) if self.cache.is_dir() else 0
        return prepared + (path.stat().st_size if path.is_file() else 0)

    @property
    def place(self) -> str:
        """How far the run is: its newest folder of a round."""
        rounds = sorted(path.name for path in (self.out / "rounds").glob("*"))
        return rounds[-1] if rounds else "before the rounds"

    def kill_until_done(self, random: random.Random, *, at_most: float) -> int:
        """Kill it at random moments until it is done; how often it was."""
        for turn in range(200):
            ended = self.stop_after(random.random() * at_most, signal.SIGKILL)
            if ended.returncode == 0:
                return turn
            assert ended.returncode == -signal.SIGKILL, ended.stderr
        raise AssertionError("it does not get on")

    def finish(self) -> RunDir:
        """Go on to the end in this process, which has imported torch."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment.items():
                if name.startswith("HYDRAKIT_"):
                    patch.setenv(name, value)
            patch.syspath_prepend(str(self.folder / "site"))
            load_plugins.cache_clear()
            result = CliRunner().invoke(main, [*self.arguments, "--out", str(self.out)])
            load_plugins.cache_clear()
        assert result.exit_code == 0, result.output
        return RunDir(self.out)
