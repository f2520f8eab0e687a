"""Many processes that store and load shared rounds in one folder at the same time (slow)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import plan_of, round_of

from hydrakit.runs.rundir import RunDir
from hydrakit.storage.digests import damaged_files

PROCESSES, KILLED, ROUNDS, TURNS = 64, 20, 12, 8

# A parent without torch, so that its children are forks that start at once.
SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path

from hydrakit.plan.model import load_plan
from hydrakit.runs import round_cache
from hydrakit.runs.rundir import RunDir

folder, processes, killed, rounds, turns = Path(sys.argv[1]), *map(int, sys.argv[2:])
plan = load_plan(folder / "plan.json")
(round,) = plan.rounds
record = (folder / "round.json").read_bytes()


def work(number: int) -> None:
    for turn in range(turns):
        which = (7 * number + turn) % rounds
        key = f"{which:064x}"
        run = RunDir(folder / "runs" / f"{number}-{turn}")
        if not round_cache.load(folder / "shared", key, run, 1, round):
            with run.writing_round(1, round) as new:
                (new / "body.safetensors").write_bytes(bytes([which]) * 50_000)
                (new / "round.json").write_bytes(record)
            round_cache.store(folder / "shared", key, run, 1, plan)


children = []
for number in range(processes):
    child = os.fork()
    if not child:
        work(number)
        os._exit(0)
    children.append(child)
random.seed(0)
for child in children[:killed]:
    time.sleep(random.random() / 20)
    os.kill(child, signal.SIGKILL)
ends = [os.waitpid(child, 0)[1] for child in children]
assert all(end == 0 for end in ends[killed:]), ends
assert "torch" not in sys.modules
print(sum(end != 0 for end in ends))
"""

RESULT = """{"round": 1, "dataset": "alpha", "train": "all", "head": "alpha", "learning_rate": 0.1,
"dropout": 0.0, "best_epoch": 1, "epochs": 1, "val": {"loss": 0.5, "auc": 0.5, "accuracy": 0.5},
"reference_auc": null, "seconds": 1.0}"""


@pytest.mark.slow
def test_no_shared_round_is_lost_or_damaged(tmp_path: Path) -> None:
    plan = plan_of(round_of("alpha"))
    (tmp_path / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    (tmp_path / "round.json").write_text(RESULT, encoding="utf-8")
    numbers = [str(each) for each in (PROCESSES, KILLED, ROUNDS, TURNS)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *numbers],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0  # some were killed at work
    stored = {path.name: path for path in (tmp_path / "shared").iterdir()}
    whole = {name for name in stored if not name.endswith(".part")}
    assert whole == {f"{which:064x}" for which in range(ROUNDS)}
    assert len(stored) - len(whole) <= KILLED  # what a killed process leaves; `clean` removes it
    for name in whole:
        assert not [*damaged_files(stored[name])]
        assert (stored[name] / "body.safetensors").read_bytes() == bytes([int(name, 16)]) * 50_000
    for number in range(KILLED, PROCESSES):
        for turn in range(TURNS):
            run = RunDir(tmp_path / "runs" / f"{number}-{turn}")
            folder = run.round_path(1, plan.rounds[0])
            body = (folder / "body.safetensors").read_bytes()
            assert body == bytes([(7 * number + turn) % ROUNDS]) * 50_000
            assert not [*damaged_files(folder)]
            assert run.round_result(1, plan.rounds[0]).head == "alpha"
