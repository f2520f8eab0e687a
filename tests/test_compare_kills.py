"""A comparison whose processes are killed, stopped and continued ends as one left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


MACHINE = """
import sys
from hydrakit.compare import join
from hydrakit.storage import claims

claims.BEAT, claims.LIMIT, claims.WAIT = 0.3, 15.0, 0.1
join.PAUSE, join.WAIT = 0.3, 0.1
from hydrakit.cli import main

main(sys.argv[1:])
"""


def machine(number: int, other: Killing) -> subprocess.Popen[str]:
    """A comparison's command on a machine of its own: its network, its name and its clock."""
    offset = (-1) ** number * number * 10_000  # seconds
    command = [
        *("unshare", "--net", "--uts", "--time", "--monotonic", str(offset), "--fork"),
        *("--kill-child=SIGKILL", "sh", "-c", f'hostname machine{number} && exec "$0" "$@"'),
        *(sys.executable, "-c", MACHINE, *other.arguments, "--out", str(other.out), "--join"),
    ]
    return subprocess.Popen(
        command,
        env=other.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def begun(out: Path) -> dict[str, int]:
    """How often each cell was begun or continued."""
    logs = sorted(out.glob("cells/*/events.jsonl"))
    return {path.parent.name: path.read_text().count('"event": "run"') for path in logs}


def wait_for(condition: Callable[[], object], *processes: subprocess.Popen[str]) -> None:
    while not condition():
        assert all(each.poll() is None for each in processes)
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.usefixtures("cell_processes")
def test_machines_join_die_and_leave(tmp_path: Path, data: Path) -> None:
    """Of three machines, one dies with its cells, one is stopped by Ctrl-C, and joins again."""
    try:
        subprocess.run(
            ["unshare", "--net", "--uts", "--time", "--monotonic", "1", "--fork", "true"],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces of network and time: {error}")
    arguments = [*ARGUMENTS, "--jobs", "2", "--seeds", "3"]
    whole = Killing(tmp_path / "whole", data, arguments, tmp_path / "cache")
    whole.folder.mkdir()
    whole.finish()
    other = Killing(tmp_path / "shared", data, arguments, tmp_path / "cache")
    other.folder.mkdir()
    cells, names = (
        other.out / "cells",
        sorted(each.name for each in (whole.out / "cells").iterdir()),
    )

    def done() -> int:
        return len(list(cells.glob("*/files.json")))

    first, second = machine(1, other), machine(2, other)
    wait_for(lambda: done() >= 1, first, second)
    # The cells of the first machine: their claims hold the id of its member.
    of_first = next(
        path.stem
        for path in (other.out / "claims" / "members").glob("*.member")
        if '"machine1"' in path.read_text()
    )
    wait_for(
        lambda: any(
            path.read_text() == of_first
            and (cells / path.stem / "events.jsonl").exists()
            and not (cells / path.stem / "results.json").exists()
            for path in (other.out / "claims").glob("*-*.0")
        ),
        first,
        second,
    )
    first.kill()
    first.communicate()
    third = machine(3, other)
    wait_for(lambda: done() >= 5, second, third)
    os.killpg(second.pid, signal.SIGINT)
    _, said = second.communicate(timeout=60)
    assert "run the same command again to resume" in said
    fourth = machine(2, other)
    for each in (third, fourth):
        _, said = each.communicate(timeout=600)
        assert each.returncode == 0, said
    assert sorted(each.name for each in cells.iterdir()) == names
    for name in names:
        assert weights_of(cells / name) == weights_of(whole.out / "cells" / name)
        assert (cells / name / "report.html").is_file()
    again = {name: number for name, number in begun(other.out).items() if number > 1}
    assert len(again) <= 4  # two of the dead machine, and two of the one that was stopped
    comparisons = [
        json.loads((folder / "comparison.json").read_text()) for folder in (whole.out, other.out)
    ]
    for each in comparisons:
        for strategy in each["strategies"]:
            del strategy["seconds"], strategy["shared"]
    assert comparisons[0] == comparisons[1]
    gone = {path.name: path.read_text() for path in other.out.glob("claims/members/*.gone")}
    assert sorted(gone.values()) == ["left", "left", "left", "silent"]
    of_others = [path.name for path in other.out.glob("claims/*-*.[1-9]")]
    assert of_others  # at least the cell within which the first machine died
    print(f"{len(names)} cells on 4 machines in turn, one killed; continued elsewhere: {again}")
    print(f"claims taken over or freed: {sorted(of_others)}")
