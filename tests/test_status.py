"""``hydrakit status``: how far a run or a comparison is, while it goes on and afterwards."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import (
    Runner,
    StopError,
    another_process,
    plan_of,
    plugins,
    refused,
    round_of,
    tree,
)

from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Description, make_design
from hydrakit.maintenance.status import ComparisonStatus, RunStatus, status
from hydrakit.plan import Plan, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import CHECKPOINT, RunDir

PLAN = plan_of(round_of("beta"), round_of("alpha", "head"), round_of("alpha", epochs=4))


def of_run(folder: Path) -> RunStatus:
    """What is told, in which nothing may be changed."""
    before = tree(folder)
    found = status(folder)
    assert tree(folder) == before
    assert isinstance(found, RunStatus)
    return found


def call(*arguments: str | Path) -> tuple[str, str]:
    result = CliRunner().invoke(main, ["status", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


class Look(RunCallback):
    """Looks at a run from within, and stops it in an epoch of the last round."""

    def __init__(self, stop: int) -> None:
        self.stop = stop
        self.seen: list[RunStatus] = []
        self.folder = Path()

    def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
        self.folder = rundir.path

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        self.seen.append(of_run(self.folder))
        if (number, record.epoch) == (3, self.stop):
            raise StopError


@pytest.fixture
def looked(runner: Runner) -> tuple[RunDir, list[RunStatus]]:
    look = Look(stop=3)
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[look], checkpoint_interval=0)
    return RunDir(runner.folder / "run"), look.seen


def test_a_run_is_seen_while_it_goes_on(looked: tuple[RunDir, list[RunStatus]]) -> None:
    _, seen = looked
    assert len(seen) == 2 + 2 + 3
    states = [tuple(each.state for each in found.rounds) for found in seen]
    assert states == [
        *[("begun", "waiting", "waiting")] * 2,
        *[("done", "begun", "waiting")] * 2,
        *[("done", "done", "begun")] * 3,
    ]
    for found in seen:
        assert found.state == "running"
        assert found.holder is not None
        assert found.holder.alive is True
        assert (found.strategy, found.target) == ("custom", "alpha")
        assert found.last is not None
    # A watcher is told of an epoch before its progress is written.
    assert [found.rounds[2].epoch for found in seen[4:]] == [0, 1, 2]
    assert seen[-1].rounds[2].epochs == 4


def test_a_stopped_run_tells_what_is_left(looked: tuple[RunDir, list[RunStatus]]) -> None:
    run, _ = looked
    found = of_run(run.path)
    assert (found.state, found.done, found.holder) == ("stopped", 2, None)
    first, last = found.rounds[0], found.rounds[2]
    result = run.round_result(1, PLAN.rounds[0])
    assert (first.best_epoch, first.score) == (result.best_epoch, result.val.score)
    assert first.seconds == result.seconds
    assert (last.state, last.epoch, last.epochs) == ("begun", 2, 4)
    text, _ = call(run.path)
    assert f"{run.path}: custom, target alpha: stopped, 2 of 3 rounds done" in text
    assert re.search(r"^ *3 +alpha +all +begun +2/4 ", text, re.MULTILINE)
    assert f"hydrakit run --resume {run.path}" in text
    assert RunStatus.model_validate_json(call(run.path, "--json")[0]) == found


def test_a_finished_run(hydra_run: RunDir) -> None:
    found = of_run(hydra_run.path)
    assert (found.state, found.done, len(found.rounds)) == ("finished", 7, 7)
    text, _ = call(hydra_run.path)
    assert "finished, 7 of 7 rounds done" in text
    assert "--resume" not in text


def test_damaged_progress_is_told(looked: tuple[RunDir, list[RunStatus]]) -> None:
    run, _ = looked
    path = run.state_path(3, PLAN.rounds[2]) / CHECKPOINT
    path.write_bytes(path.read_bytes()[:20])
    assert of_run(run.path).rounds[2].problem == (
        f"{path}: is damaged: delete it to start the round again"
    )
    assert str(path) in call(run.path)[1]


def test_progress_that_a_later_version_wrote_is_told_as_such(
    looked: tuple[RunDir, list[RunStatus]],
) -> None:
    run, _ = looked
    path = run.state_path(3, PLAN.rounds[2]) / CHECKPOINT
    content = path.read_bytes()
    later = content.replace(b'\\"format\\":1', b'\\"format\\":9')
    assert later != content
    path.write_bytes(later)
    problem = of_run(run.path).rounds[2].problem
    assert problem is not None
    assert problem.startswith(f"{path}: was written by hydrakit ")
    assert "in format 9" in problem


def test_who_is_at_it(looked: tuple[RunDir, list[RunStatus]]) -> None:
    run, _ = looked
    with another_process(run.path) as pid:
        assert of_run(run.path).state == "running"
        assert re.search(
            rf"^process {pid} on \S+, in this folder since \S+, is running$",
            call(run.path)[0],
            re.M,
        )
    found = of_run(run.path)  # it was killed
    assert found.state == "stopped"
    assert found.holder is not None
    assert (found.holder.pid, found.holder.alive) == (pid, False)
    assert "is no longer running: it was killed" in call(run.path)[0]
    holder = run.path / "lock.holder"
    holder.write_text(holder.read_text().replace(" on ", " on far."))
    found = of_run(run.path)
    assert (found.state, found.holder and found.holder.alive) == ("running", None)
    assert "whether it is running is unknown" in call(run.path)[0]


def test_torch_is_not_loaded(hydra_run: RunDir) -> None:
    code = f"""
import sys
from pathlib import Path
from hydrakit.maintenance.status import status
status(Path({str(hydra_run.path)!r}))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.fixture
def compared(tmp_path: Path) -> CompareDir:
    """A comparison of four cells: done, failed, begun, and waiting."""
    design = make_design(
        baselines=(),
        strategies=("hydra", "classical"),
        datasets=("beta", "alpha"),
        folds=2,
        settings={"profile": "recommended-0.1"},
    )
    here = CompareDir(tmp_path / "compared")
    here.begin()
    cells = design.cells()
    for cell in (cells[0], cells[2]):
        run = RunDir.begin(here.cell(cell), design.plan(cell, plugins()))
        with run.writing_round(1, run.plan().rounds[0]) as folder:
            (folder / "round.json").write_text("{}")
    (here.cell(cells[0]) / "results.json").write_text("{}")
    RunDir(here.cell(cells[0])).seal()
    here.failure_path(cells[1]).write_text("Traceback\nValueError: no\n")
    about: dict[str, Any] = {"hydrakit": "0.1.0", "digest": design.digest, "positive": "malignant"}
    here.write(Description(design=design, status={}, **about))
    return here


def test_a_comparison(compared: CompareDir) -> None:
    found = status(compared.path)
    assert isinstance(found, ComparisonStatus)
    assert [each.state for each in found.cells] == ["done", "failed", "begun", "waiting"]
    assert [each.rounds for each in found.cells] == [1, 0, 1, 0]
    assert found.cells[1].reason == "ValueError: no"
    assert (found.state, found.holder) == ("stopped", None)
    text, _ = call(compared.path)
    head, *lines = text.splitlines()
    assert head == (f"{compared.path}: stopped: 1 done, 1 begun, 1 failed, 1 waiting of 4 cells")
    assert lines == [
        "classical-seed0-repeat0-fold0: failed: ValueError: no",
        "hydra-seed0-repeat0-fold1: stopped, 1 rounds done",
        "run the same `hydrakit compare` command again to resume",
    ]
    told = json.loads(call(compared.path, "--json")[0])
    assert (told["kind"], len(told["cells"])) == ("comparison", 4)
    with (
        another_process(compared.path),
        another_process(compared.path / "cells" / found.cells[2].name),
    ):
        found = status(compared.path)
        assert found.state == "running"
        assert "hydra-seed0-repeat0-fold1: running, 1 rounds done\n" in call(compared.path)[0]
        states = {each.name: "PENDING (Priority)" for each in found.cells}
        states["hydra-seed0-repeat0-fold1"] = "RUNNING node7"
        compared.jobs.mkdir()
        (compared.jobs / "states.json").write_text(json.dumps(states))
        text = call(compared.path)[0]
        assert "hydra-seed0-repeat0-fold1: running, 1 rounds done (RUNNING node7)\n" in text
        assert "in the queue: 1 RUNNING node7, 1 PENDING (Priority)\n" in text
    assert "queue" not in call(compared.path)[0]  # the command that submitted the jobs has ended


def test_a_folder_of_several_runs_is_refused_with_the_name_of_one(tmp_path: Path) -> None:
    """Such as that of `hydrakit order` or `tune --try`, which is no comparison."""
    refused(lambda: status(tmp_path), str(tmp_path), "neither a run nor a comparison", "compare")
    for name in ("b", "a"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text("{}")
    refused(lambda: status(tmp_path), "2 of them", str(tmp_path / "runs" / "a"))
