"""A comparison whose processes are killed, stopped and continued ends as one left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import weights_of
from killing import Killing

from hydrakit.maintenance.verify import verify

TURNS = 15

ARGUMENTS = [
    *(
        "compare",
        "--no-baselines",
        "--strategies",
        "hydra,transfer",
        "--datasets",
        "alpha,beta,alpha",
    ),
    *("--seeds", "2", "--folds", "2", "--epochs", "3", "--bootstrap", "2", "--device", "cpu"),
    *("--profile", "recommended-0.1", "--body-channels", "4,8"),
]


def children(pid: int) -> list[int]:
    """Processes that a process started, and that are still there."""
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def signalled(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def disturb(process: subprocess.Popen[str], chance: random.Random) -> None:
    """Kill or stop the comparison or one of its processes, or let one of them pause."""
    everyone = [process.pid, *children(process.pid)]
    what = chance.choice(["kill", "stop", "kill one", "kill one", "pause one"])
    if what == "kill":
        process.kill()
    elif what == "stop":
        process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
    elif what == "kill one":
        signalled(chance.choice(everyone), signal.SIGKILL)
    else:
        paused = chance.choice(everyone)
        signalled(paused, signal.SIGSTOP)
        time.sleep(0.5)
        signalled(paused, signal.SIGCONT)


def has_ended(group: int) -> bool:
    """Whether no process of a session is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("cell_processes")
def test_it_ends_as_if_nothing_had_happened(tmp_path: Path, data: Path) -> None:
    chance = random.Random(0)
    whole = Killing(tmp_path / "whole", data, [*ARGUMENTS, "--jobs", "2"], tmp_path / "cache")
    whole.folder.mkdir()
    whole.finish()
    other = Killing(tmp_path / "killed", data, [*ARGUMENTS, "--jobs", "2"], tmp_path / "cache")
    other.folder.mkdir()
    for _ in range(TURNS):
        with other.start() as process:
            began = time.monotonic()
            while not children(process.pid) and process.poll() is None:
                time.sleep(0.01)
            time.sleep(3 + 4 * chance.random())  # a process imports torch before it trains
            while process.poll() is None and time.monotonic() < began + 60:
                disturb(process, chance)
                time.sleep(chance.random())
            process.kill()
            process.communicate()
        while not has_ended(process.pid):  # the processes of a killed comparison end with it
            time.sleep(0.05)
        if len(list(other.out.glob("cells/*/files.json"))) == 8:
            break
    other.finish()
    assert verify(other.out).damaged == verify(other.out).unknown == ()
    cells = sorted(path.name for path in (whole.out / "cells").iterdir())
    assert cells == sorted(path.name for path in (other.out / "cells").iterdir())
    for name in cells:
        assert weights_of(other.out / "cells" / name) == weights_of(whole.out / "cells" / name)
        assert (other.out / "cells" / name / "report.html").is_file()
