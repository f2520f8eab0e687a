"""A comparison of 45 cells on a real Slurm cluster of one node, with jobs that are disturbed."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cluster import MissingError, cluster, install

from hydrakit.cli import main
from hydrakit.maintenance.verify import verify

PATIENTS = 24
STRATEGIES = ("classical", "intensity", "probe")
COMPARE = [
    *("compare", "--strategies", "classical", "--datasets", "brain", "--device", "cpu"),
    *("--seeds", "1", "--folds", "5", "--repeats", "3", "--epochs", "25", "--threads", "1"),
    *("--profile", "recommended-0.1", "--body-channels", "4,8", "--bootstrap", "2"),
    *("--checkpoint-every", "0"),
]
OPTIONS = "slurm:time=30,memory=500M,grace=60"
CELLS = 45


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Environment variables of a running cluster."""
    try:
        install()
        with cluster(tmp_path_factory.mktemp("slurm") / "cluster") as variables:
            yield variables
    except MissingError as error:
        pytest.skip(str(error))


def start(out: Path, launcher: str, variables: Mapping[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hydrakit", *COMPARE, "--out", str(out)]
    command += ["--data", str(out.parent / "data"), "--launcher", launcher, "--jobs", "2"]
    return subprocess.Popen(
        command,
        env=os.environ | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def squeue(variables: Mapping[str, str], *arguments: str) -> list[str]:
    done = subprocess.run(
        ["squeue", "--noheader", "--array", *arguments],
        env=os.environ | dict(variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def until(condition: Callable[[], Any], process: subprocess.Popen[str]) -> Any:
    """Wait for something, while a command runs; return it."""
    limit = time.monotonic() + 600
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.05)
    return value


def training(out: Path) -> list[str]:
    """Names of cells that have a checkpoint within a round."""
    paths = out.glob("cells/classical-*/rounds/*/checkpoint*")
    return sorted({path.relative_to(out / "cells").parts[0] for path in paths})


def process_of(name: str) -> int:
    """Id of the process that runs a job by its file."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[1:4] == ["-m", "hydrakit", "job"] and f"{name}.json" in {
            Path(word).name for word in words[4:]
        }:
            return int(path.parent.name)
    raise AssertionError(f"no process runs {name}")


def job_of(pid: int) -> str:
    """Id of the job of Slurm that a process belongs to."""
    variables = dict(
        each.partition("=")[::2] for each in Path(f"/proc/{pid}/environ").read_text().split("\0")
    )
    return f"{variables['SLURM_ARRAY_JOB_ID']}_{variables['SLURM_ARRAY_TASK_ID']}"


def digests(out: Path) -> dict[str, str]:
    """Digest of each file with weights or scores of the cells, by its path."""
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((out / "cells").rglob("*"))
        if path.suffix == ".safetensors" or path.name == "predictions.csv"
    }


def results(out: Path) -> dict[str, Any]:
    """Content of ``comparison.json`` without times."""

    def without_times(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without_times(each) for key, each in value.items() if key != "seconds"}
        return [without_times(each) for each in value] if isinstance(value, list) else value

    content: dict[str, Any] = without_times(json.loads((out / "comparison.json").read_text()))
    return content


@pytest.mark.slow
def test_a_disturbed_comparison_on_slurm_is_the_local_one(
    tmp_path: Path, slurm: Mapping[str, str]
) -> None:
    made = CliRunner().invoke(
        main, ["phantom", str(tmp_path / "data"), "--patients", str(PATIENTS)]
    )
    assert made.exit_code == 0, made.output
    out, local, log = tmp_path / "slurm", tmp_path / "local", []
    with start(out, OPTIONS, slurm) as process:
        # One job is killed as if its node had run out of memory: its cells are submitted again.
        name = until(lambda: training(out), process)[0]
        killed = job_of(pid := process_of(name))
        os.kill(pid, signal.SIGKILL)
        log.append(f"killed {killed} in {name}")
        # One is pre-empted: it writes a checkpoint, and Slurm runs it again.
        name = until(lambda: [each for each in training(out) if each != name], process)[0]
        requeued = job_of(process_of(name))
        command = ["scancel", "--signal=USR2", requeued]
        with subprocess.Popen(command, env=os.environ | dict(slurm)) as sender:
            until(lambda: f"{requeued} PENDING" in squeue(slurm, "--format=%i %T"), process)
            sender.kill()  # it asks again while the job is put back
        log.append(f"signalled {requeued} in {name}")
        shown = CliRunner().invoke(main, ["status", str(out)]).output
        log.append(shown)
        now = ["scontrol", "update", f"JobId={requeued}", "StartTime=now"]  # else in two minutes
        subprocess.run(now, env=os.environ | dict(slurm), check=True)
        printed, errors = process.communicate(timeout=3000)
    log += [printed, errors]
    if folder := os.environ.get("HYDRAKIT_SLURM_LOG"):
        Path(folder).write_text("\n".join(log))
    assert process.returncode == 0, log
    assert "PENDING" in shown
    assert "(FAILED" in errors
    with start(local, "local", {}) as process:
        printed, errors = process.communicate(timeout=3000)
    assert process.returncode == 0, errors
    assert len(list((out / "cells").glob("*/predictions.csv"))) == CELLS
    assert digests(out) == digests(local)
    assert results(out) == results(local)
    found = verify(out)
    assert found.damaged == found.unknown == ()
    assert squeue(slurm) == []
