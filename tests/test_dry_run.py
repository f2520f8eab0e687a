"""``hydrakit run --dry-run``: checks everything and estimates the cost, without training."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers import (
    Runner,
    StopError,
    another_process,
    hydra_plan,
    plan_of,
    plugins,
    refused,
    round_of,
    tree,
)

from hydrakit import engine
from hydrakit.cli import main
from hydrakit.plan import Other, Plan, Round
from hydrakit.plan.results import RoundResult
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.dry_run import DryRun
from hydrakit.runs.rundir import RunDir
from hydrakit.training.batches import TrainingExamples

PLAN = plan_of(
    round_of("alpha", epochs=3), round_of("beta", "head"), round_of("beta"), round_of("alpha"),
    bootstrap=2,
)  # fmt: skip


@pytest.fixture
def dry_run(runner: Runner) -> Any:
    def dry_run(plan: Plan = PLAN, name: str = "run", **more: Any) -> DryRun:
        places: dict[str, Any] = {"data": runner.data, "cache": runner.cache, "device": "cpu"}
        out = runner.folder / name
        return engine.dry_run(plan, out=out, plugins=plugins(), **(places | more))

    return dry_run


def test_a_dry_run_writes_nothing(dry_run: Any, runner: Runner) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    result = dry_run()
    assert torch.equal(torch.get_rng_state(), state)
    assert list(runner.folder.iterdir()) == []
    assert (result.out, result.device) == (runner.folder / "run", "cpu")
    assert (result.finished, result.holder) == (False, None)
    assert result.facts["alpha"].cases == {"train": 28, "val": 10, "test": 10}
    assert [(each.number, each.examples, each.val) for each in result.rounds] == [
        (1, 28, 10), (2, 34, 14), (3, 34, 14), (4, 28, 10),
    ]  # fmt: skip
    assert all(each.seconds > 0 and not each.done for each in result.rounds)
    assert result.seconds == sum(each.seconds for each in result.rounds)
    assert result.memory is None or result.memory > 2**20
    assert 0 < result.disk < result.free
    assert all(count > 100 for count in result.parameters)


def test_data_and_disk_space_are_those_of_the_run(dry_run: Any, runner: Runner) -> None:
    result = dry_run()
    run = runner(PLAN)
    assert run.facts() == result.facts
    used = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert used < result.disk


@pytest.mark.parametrize("train", ["all", "head"])
def test_time_is_epochs_times_steps_times_seconds(
    dry_run: Any, monkeypatch: pytest.MonkeyPatch, train: str
) -> None:
    monkeypatch.setattr("hydrakit.runs.dry_run._time", lambda action, _: (action(), 1.0)[1])
    case = 1 / 10  # measured on the 10 validation cases of the first round
    first, second, _ = dry_run(
        plan_of(round_of("alpha", epochs=5), round_of("beta", train, epochs=7), round_of("alpha"))
    ).rounds
    assert first.seconds == pytest.approx(5 * 2 + (5 * 10 + 10) * case)  # 2 steps; bootstrap
    cases = 7 * (10 + 14) if train == "all" else 10 + 14 + 34  # reference head, own head
    assert second.seconds == pytest.approx(7 * 3 + cases * case)


def test_each_kind_of_round_is_measured_once(dry_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    actions: list[object] = []
    monkeypatch.setattr(
        "hydrakit.runs.dry_run._time", lambda action, _: (actions.append(action), 1.0)[1]
    )
    dry_run(PLAN)
    assert len(actions) == 4  # evaluation; alpha, beta head, beta


@pytest.mark.parametrize(
    "round",
    [
        round_of("alpha", "norm"),
        round_of("alpha", "none"),
        round_of("alpha", augmentation="none"),
        round_of("alpha").model_copy(update={"others": (Other(dataset="beta", head="b"),)}),
    ],
    ids=["norm", "none", "fixed", "several"],
)
def test_every_kind_of_round(dry_run: Any, round: Round) -> None:
    result = dry_run(plan_of(round))
    assert result.rounds[0].examples == (28 + 34 if round.others else 28)
    assert result.seconds > 0


def test_finished_rounds_cost_nothing(dry_run: Any, runner: Runner) -> None:
    class Stop(RunCallback):
        def finished(self, number: int, round: Round, result: RoundResult) -> None:
            if number == 2:
                raise StopError

    whole = dry_run()
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop()])
    before = tree(runner.folder / "run")
    result = dry_run()
    assert tree(runner.folder / "run") == before
    assert [each.done for each in result.rounds] == [True, True, False, False]
    assert [each.seconds > 0 for each in result.rounds] == [False, False, True, True]
    assert 0 < result.disk < whole.disk
    with another_process(runner.folder / "run") as pid:
        holder = dry_run().holder
        assert holder is not None
        assert holder.pid == pid
    runner(PLAN)
    result = dry_run()
    assert (result.finished, result.disk, result.seconds) == (True, 0, 0)


def test_an_impossible_run_is_refused(
    dry_run: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(lambda: dry_run(roots={"beta": Path("/nowhere")}), "beta", "/nowhere")
    refused(lambda: dry_run(device="cuda:77"), "cuda:77")
    runner(plan_of(round_of("alpha")))
    refused(dry_run, "another plan", "--out")
    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        refused(lambda: dry_run(name="new"), "bytes are needed", "1,000 are free")

    def no_file(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", no_file)
        refused(lambda: dry_run(name="new"), "new: cannot be written (Read-only file system)")
    assert not (runner.folder / "new").exists()


def test_too_little_memory_names_the_batch_size_that_fits(
    dry_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = TrainingExamples.batches

    def too_large(self: TrainingExamples, *arguments: Any) -> Any:
        if self.settings.batch_size > 4:
            raise MemoryError
        return batches(self, *arguments)

    monkeypatch.setattr(TrainingExamples, "batches", too_large)
    monkeypatch.setattr("hydrakit.training.diagnostics.largest_fitting_batch", lambda *_: 4)
    refused(dry_run, "alpha all", "batches of 16", "`--batch-size 4`")


def test_the_command_prints_the_estimate(standin: Path, hydra_run: RunDir) -> None:
    Path("plan.json").write_text(hydra_plan().to_json())
    result = CliRunner().invoke(
        main, ["run", "--plan", "plan.json", "--dry-run", "--device", "cpu"]
    )
    assert result.exit_code == 0, result.output
    assert not Path("runs").exists()
    text = result.stdout
    assert "alpha: 28 train, 10 val, 10 test\n" in text
    assert re.search(r"^ *2 +beta +head +34 +14 +2 +16 +\d+\.\d s *$", text, re.MULTILINE)
    assert re.search(r"^run:     runs/hydra-alpha-\w+: not started$", text, re.MULTILINE)
    assert re.search(r"^time:    at most \d.* on cpu, from 3 measured steps; ", text, re.MULTILINE)
    assert re.search(r"^network: [\d,]+ parameters in the body, [\d,]+ in ", text, re.MULTILINE)
    assert re.search(r"^memory:  [\d,]+ MB", text, re.MULTILINE)
    assert re.search(r"^disk:    at most \d+\.\d MB of [\d,]+ MB free$", text, re.MULTILINE)
    arguments = ["run", "--resume", str(hydra_run.path), "--dry-run", "--device", "cpu"]
    text = CliRunner().invoke(main, arguments).stdout
    assert f"run:     {hydra_run.path}: finished" in text


def test_a_comparison_prints_what_would_be_trained_and_submitted(
    standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sbatch", "squeue", "scancel", "srun"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    arguments = ["compare", "--strategies", "classical", "--datasets", "alpha"]
    arguments += ["--no-baselines", "--folds", "2", "--seeds", "2", "--epochs", "1", "--dry-run"]
    arguments += ["--body-channels", "4,8", "--profile", "recommended-0.1", "--out", "compared"]
    command = [*arguments, "--launcher", "slurm:partition=gpu,time=2:00:00,cpus=3"]
    monkeypatch.setenv("PATH", "")
    result = CliRunner().invoke(main, command)
    assert "this machine has no program sbatch" in result.stderr
    monkeypatch.setenv("PATH", str(programs))
    result = CliRunner().invoke(main, [*command, "--jobs", "3"])
    assert result.exit_code == 0, result.output
    head, *lines = result.stdout.splitlines()
    assert head == "comparison: compared"
    assert lines[:2] == [
        "cells:      4, of which 0 are done; 4 rounds",
        "jobs:       3 at a time, CPU threads of each: 3",
    ]
    for line in ("array=0-3%3", "partition=gpu", "time=120", "cpus-per-task=3"):
        assert f"#SBATCH --{line}" in lines
    assert lines[-2].endswith("# tasks: 4; each runs: hydrakit job FILE...")
    assert list(standin.iterdir()) == []
    result = CliRunner().invoke(main, [*arguments, "--jobs", "1"])
    assert result.stdout.splitlines()[2].startswith("jobs:       1 at a time")
    assert "#SBATCH" not in result.stdout
