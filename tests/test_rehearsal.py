"""``hydrakit run --dry-run``: everything is checked, the cost is told, and nothing is trained."""

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
from hydrakit.runs import dry_run as rehearsal
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.dry_run import DryRun
from hydrakit.runs.rundir import RunDir
from hydrakit.training.batches import TrainingExamples

PLAN = plan_of(
    round_of("alpha", epochs=3), round_of("beta", "head"), round_of("beta"), round_of("alpha"),
    bootstrap=2,
)  # fmt: skip


@pytest.fixture
def rehearse(runner: Runner) -> Any:
    def rehearse(plan: Plan = PLAN, name: str = "run", **more: Any) -> DryRun:
        places: dict[str, Any] = {"data": runner.data, "cache": runner.cache, "device": "cpu"}
        out = runner.folder / name
        return engine.dry_run(plan, out=out, plugins=plugins(), **(places | more))

    return rehearse


def test_nothing_is_made_and_all_is_told(rehearse: Any, runner: Runner) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    found = rehearse()
    assert torch.equal(torch.get_rng_state(), state)
    assert list(runner.folder.iterdir()) == []
    assert (found.out, found.device) == (runner.folder / "run", "cpu")
    assert (found.finished, found.holder) == (False, None)
    assert found.facts["alpha"].cases == {"train": 28, "val": 10, "test": 10}
    assert [(each.number, each.examples, each.val) for each in found.rounds] == [
        (1, 28, 10), (2, 34, 14), (3, 34, 14), (4, 28, 10),
    ]  # fmt: skip
    assert all(each.seconds > 0 and not each.done for each in found.rounds)
    assert found.seconds == sum(each.seconds for each in found.rounds)
    assert found.memory is None or found.memory > 2**20
    assert 0 < found.disk < found.free


def test_what_it_says_of_a_run_is_so(rehearse: Any, runner: Runner) -> None:
    found = rehearse()
    run = runner(PLAN)
    assert run.facts() == found.facts
    used = sum(path.stat().st_size for path in run.path.rglob("*") if path.is_file())
    assert used < found.disk


@pytest.mark.parametrize("train", ["all", "head"])
def test_time_is_measured_steps_times_the_plan(
    rehearse: Any, monkeypatch: pytest.MonkeyPatch, train: str
) -> None:
    monkeypatch.setattr(rehearsal, "_median", lambda action, _: (action(), 1.0)[1])
    look = 1 / 10  # of a case, measured on the 10 validation cases of the first round
    plan = plan_of(round_of("alpha", epochs=5), round_of("alpha", train, epochs=7))
    found = rehearse(plan)
    first = 5 * (2 + 10 * look) + 10 * look + 10 * look  # 2 batches; validation; bootstrap
    assert found.rounds[0].seconds == pytest.approx(first)
    end = (10 + 10 + rehearsal.SHOWN) * look + 10 * look
    second = 7 * (2 + 20 * look) if train == "all" else 7 * 2 + (28 + 20) * look
    assert found.rounds[1].seconds == pytest.approx(second + end)
    traced = rehearse(plan, trace_test=True)
    for before, after, epochs in zip(found.rounds, traced.rounds, (5, 7), strict=True):
        assert after.seconds - before.seconds == pytest.approx(epochs * 10 * look)  # test cases


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
def test_every_kind_of_round(rehearse: Any, round: Round) -> None:
    found = rehearse(plan_of(round))
    assert found.rounds[0].examples == (28 + 34 if round.others else 28)
    assert found.seconds > 0


def test_what_is_done_is_told(rehearse: Any, runner: Runner) -> None:
    class Stop(RunCallback):
        def finished(self, number: int, round: Round, result: RoundResult) -> None:
            if number == 2:
                raise StopError

    whole = rehearse()
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop()])
    before = tree(runner.folder / "run")
    found = rehearse()
    assert tree(runner.folder / "run") == before
    assert [each.done for each in found.rounds] == [True, True, False, False]
    assert [each.seconds > 0 for each in found.rounds] == [False, False, True, True]
    assert 0 < found.disk < whole.disk
    with another_process(runner.folder / "run") as pid:
        holder = rehearse().holder
        assert holder is not None
        assert holder.pid == pid
    runner(PLAN)
    found = rehearse()
    assert (found.finished, found.disk, found.seconds) == (True, 0, 0)


def test_what_would_stop_a_run_stops_a_rehearsal(
    rehearse: Any, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(lambda: rehearse(roots={"beta": Path("/nowhere")}), "beta", "/nowhere")
    refused(lambda: rehearse(device="cuda:77"), "cuda:77")
    runner(plan_of(round_of("alpha")))
    refused(rehearse, "another plan", "--out")
    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        refused(lambda: rehearse(name="new"), "bytes are needed", "1,000 are free")

    def no_file(**_: object) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.TemporaryFile", no_file)
        refused(lambda: rehearse(name="new"), "new: cannot be written (Read-only file system)")
    assert not (runner.folder / "new").exists()


def test_too_little_memory_is_told_with_what_fits(
    rehearse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = TrainingExamples.batches

    def too_large(self: TrainingExamples, *arguments: Any) -> Any:
        if self.settings.batch_size > 4:
            raise MemoryError
        return batches(self, *arguments)

    monkeypatch.setattr(TrainingExamples, "batches", too_large)
    monkeypatch.setattr(rehearsal, "largest_fitting_batch", lambda *_: 4)
    refused(rehearse, "alpha all", "batches of 16", "`--batch-size 4`")


def test_the_command_prints_it(standin: Path, hydra_run: RunDir) -> None:
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
    assert re.search(r"^time:    at most \d.* on cpu, by 3 measured steps; ", text, re.MULTILINE)
    assert re.search(r"^memory:  [\d,]+ MB", text, re.MULTILINE)
    assert re.search(r"^disk:    at most \d+\.\d MB of [\d,]+ MB free$", text, re.MULTILINE)
    arguments = ["run", "--resume", str(hydra_run.path), "--dry-run", "--device", "cpu"]
    text = CliRunner().invoke(main, arguments).stdout
    assert f"run:     {hydra_run.path}: finished" in text
