"""The same seed gives the same bits, run after run, in one process and in many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import Runner, hydra_plan, install_standin, weights_of

from hydrakit.compute.devices import thread_count


def test_the_same_plan_gives_the_same_bits_again(runner: Runner) -> None:
    plan = hydra_plan(bootstrap=3)
    with thread_count(2):
        found = [weights_of(runner(plan, f"run{n}").path) for n in range(3)]
    assert found[0]
    assert found[0] == found[1] == found[2]
    other = runner(plan.model_copy(update={"seed": 1}), "other")
    assert weights_of(other.path)["body.safetensors"] != found[0]["body.safetensors"]


@pytest.mark.slow
def test_twenty_processes_give_the_same_bits(tmp_path: Path, data: Path, cache: Path) -> None:
    site = install_standin(tmp_path / "site")
    environment = {
        **os.environ,
        "HYDRAKIT_DATA": str(data),
        "HYDRAKIT_CACHE": str(cache),
        "PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parent)]),
        "OMP_NUM_THREADS": "2",
    }
    (tmp_path / "plan.json").write_text(hydra_plan(bootstrap=3).to_json())
    found = []
    for number in range(20):
        out = tmp_path / f"run{number}"
        arguments = ["run", "--plan", str(tmp_path / "plan.json"), "--out", str(out)]
        subprocess.run(
            [sys.executable, "-c", "from hydrakit.cli import main; main()", *arguments],
            env=environment,
            check=True,
            capture_output=True,
        )
        found.append(weights_of(out))
    assert all(each == found[0] for each in found)
