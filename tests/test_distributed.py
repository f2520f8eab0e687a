"""Several processes that train one plan give what a single one gives.

Run by torchrun, this file is what each process does in the tests that need real ones.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    BODY,
    StopError,
    another_process,
    load_dataset,
    new_network,
    plan_of,
    refused,
    round_of,
    run_plan,
    tree,
)
from test_checkpoint import Interrupter
from torch import nn
from torch.nn import functional

from hydrakit.compute.devices import Compute, choose_compute
from hydrakit.compute.distributed import ALONE, NEEDED, ProcessGroup, parallel, report_first_error
from hydrakit.errors import HydrakitError, PlanError
from hydrakit.models.body import Body, BodyWithHead, ParallelBodyWithHead, heads
from hydrakit.plan import Plan
from hydrakit.plan.results import Metrics
from hydrakit.runs.rundir import RunDir
from hydrakit.training.evaluation import Evaluator
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds

CPU = torch.device("cpu")
HERE = Path(__file__)
WITH_LAST_OF_ONE = 11  # rows of a batch: 28 rows leave 6 for the last one, 34 leave 1


def launch(*arguments: str | Path, **environment: str | Path) -> subprocess.CompletedProcess[str]:
    """Two processes, as torchrun starts them on the CPU."""
    launcher = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    python_path = os.pathsep.join([str(HERE.parent), *sys.path])
    given = {name: str(value) for name, value in environment.items()}
    with subprocess.Popen(
        [sys.executable, "-m", *launcher, *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": python_path} | given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            process.terminate()  # torchrun passes it on; killed, it would leave both behind
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


# What each of two processes does, when torchrun runs this file


def compare_updates() -> None:
    """Outputs, gradients and statistics of shared batches are those of whole ones."""
    team = ProcessGroup.here()
    updates = [(total, paper_head) for total in (1, 2, 5, 16)]
    updates += [(total, foreign_head) for total in (2, 5, 16)]  # its batch norm needs two rows
    with team.together(CPU):
        for update in updates:
            compare_update(team, *update)
    if team.is_main:
        print(f"compared {len(updates)} updates")


def paper_head() -> nn.Module:
    return heads.build_mlp(BODY.features, 2, 0.3)


def foreign_head() -> nn.Module:
    """A head with layers of its own that look at the whole batch, or draw numbers."""
    width = BODY.features
    return nn.Sequential(nn.BatchNorm1d(width), nn.Dropout(0.4), nn.Linear(width, 2))


def compare_update(team: ProcessGroup, total: int, build: Callable[[], nn.Module]) -> None:
    torch.manual_seed(total)
    body, head = Body(BODY, in_channels=1, dropout=0.2), build()
    images, labels = torch.randn(total, 1, BODY.patch, BODY.patch), torch.randint(2, (total,))
    single = BodyWithHead(deepcopy(body), deepcopy(head))
    torch.manual_seed(7)
    expected = single(images)
    functional.cross_entropy(expected, labels).backward()
    if team.rank == 1:  # all begin with the leader's weights, whatever theirs are
        for parameter in body.parameters():
            parameter.data += 1
    shared = ParallelBodyWithHead(body, head, team)
    part = team.part(total)
    torch.manual_seed(7)
    trained = parallel(shared, CPU)  # named, since what sums gradients goes with it
    found = trained(images if part is None else images[part.rows], total)
    functional.cross_entropy(found, labels).backward()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    largest = max(parameter.grad.abs().max() for parameter in single.parameters())
    wanted = dict(single.named_parameters())
    for name, parameter in shared.named_parameters():
        torch.testing.assert_close(
            parameter.grad, wanted[name].grad, rtol=1e-3, atol=1e-5 * float(largest), msg=name
        )
    for name, buffer in shared.named_buffers():
        torch.testing.assert_close(buffer, dict(single.named_buffers())[name], msg=name)


def disagree(data: Path, cache: Path) -> None:
    """What the second process thinks of an epoch decides nothing."""
    team = ProcessGroup.here()

    def evaluate(evaluation: Evaluator) -> tuple[Metrics, None]:
        evaluation.calls = getattr(evaluation, "calls", 0) + 1
        score = evaluation.calls / 9 if team.rank == 1 else 1 / evaluation.calls
        return Metrics(loss=1.0, auc=score, accuracy=0.5), None

    with team.together(CPU), pytest.MonkeyPatch.context() as patch:
        with team.main_process_first():
            loaded = load_dataset("alpha", data=data, cache=cache)
        patch.setattr(Evaluator, "__call__", evaluate)
        round, compute = round_of("alpha", epochs=4, patience=1), Compute(CPU, team=team)
        trained = train_round(round, *new_network(), loaded, seeds=Seeds(1, 1), compute=compute)
    assert [record.val.auc for record in trained.epochs] == [1.0, 0.5]
    assert trained.best.epoch == 1
    if team.is_main:
        print("agreed")


def fail_in_one() -> None:
    """The second process fails, while the first waits for it."""
    team = ProcessGroup.here()
    try:
        with report_first_error(), team.together(CPU):
            if team.rank == 1:
                raise HydrakitError("the disk is full: free some space")
            team.wait()
    except HydrakitError as error:
        print(f"hydrakit: {error}", file=sys.stderr)
        raise SystemExit(1) from None


# In real processes


@pytest.fixture(scope="module")
def worked(data: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """How it went when two processes did what is told above, the last of which fails."""
    return launch(HERE, data, cache)


def test_two_processes_make_the_update_of_one_and_agree(
    worked: subprocess.CompletedProcess[str],
) -> None:
    assert worked.stdout.splitlines() == ["compared 7 updates", "agreed"], worked.stderr
    assert "Warning" not in worked.stderr


@pytest.fixture(scope="module")
def small_plan() -> Plan:
    """Rounds of every kind, with dropout, an epoch's last batch of one row, and the authors' ways.

    The learning rate is low, since Adam turns even the rounding in a gradient that should be 0
    (that of a bias before batch norm) into a whole update.
    """
    changes: dict[str, Any] = {
        "batch_size": WITH_LAST_OF_ONE,
        "dropout": 0.3,
        "learning_rate": 1e-4,
        "epochs": 3,
        "schedule": "authors",
    }
    rounds = [("alpha", "all"), ("beta", "head"), ("beta", "all"), ("alpha", "all")]
    return plan_of(*(round_of(*each, **changes) for each in rounds), bootstrap=3)


@pytest.fixture(scope="module")
def alone(
    small_plan: Plan, data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    return run_plan(small_plan, tmp_path_factory.mktemp("alone") / "run", data=data, cache=cache)


def test_two_processes_train_the_plan_of_one(
    small_plan: Plan, alone: RunDir, standin: Path, tmp_path: Path
) -> None:
    (standin / "plan.json").write_text(small_plan.to_json())
    out, cache = standin / "two", tmp_path / "own-cache"
    command = ("run", "--plan", standin / "plan.json", "--out", out, "--device", "cpu")
    done = launch("-m", "hydrakit", *command, HYDRAKIT_CACHE=cache)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert done.stdout.count("report:") == 1
    assert done.stderr.count("round 4 of 4") == 1
    assert_close(RunDir(out), alone, small_plan)
    assert RunDir(out).environment()["processes"] == 2
    assert [e["event"] for e in events(out)] == [e["event"] for e in events(alone.path)]
    assert not list(out.rglob("*.part"))
    assert not (out / "lock.holder").exists()


def assert_close(found: RunDir, expected: RunDir, plan: Plan) -> None:
    """Figures of every epoch, and the probabilities in the end."""
    for number, round in enumerate(plan.rounds, start=1):
        pairs = zip(found.epochs(number, round), expected.epochs(number, round), strict=True)
        for one, other in pairs:
            assert one.learning_rate == other.learning_rate
            assert one.train.loss == pytest.approx(other.train.loss, abs=1e-4)
            assert one.val.loss == pytest.approx(other.val.loss, abs=1e-3)
        result, wanted = found.round_result(number, round), expected.round_result(number, round)
        assert result.best_epoch == wanted.best_epoch
        assert result.val.score == pytest.approx(wanted.val.score, abs=1e-3)
        assert result.bootstrap == wanted.bootstrap
    tables = [
        (each.path / "predictions.csv").read_text().splitlines() for each in (found, expected)
    ]
    for one, other in zip(*tables, strict=True):
        for left, right in zip(one.split(","), other.split(","), strict=True):
            if left != right:
                assert float(left) == pytest.approx(float(right), abs=1e-3)


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_processes_go_on_with_a_run(small_plan: Plan, alone: RunDir, standin: Path) -> None:
    out = standin / "begun"
    shutil.copytree(alone.path, out)
    (out / "results.json").unlink()
    shutil.rmtree(RunDir(out).round_path(4, small_plan.rounds[3]))
    done = launch("-m", "hydrakit", "run", "--resume", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("done before") == 3
    assert_close(RunDir(out), alone, small_plan)
    before = tree(out)
    again = launch("-m", "hydrakit", "run", "--resume", out, "--device", "cpu")
    assert again.returncode == 0, again.stderr
    assert tree(out) == before


@pytest.mark.slow
def test_two_processes_go_on_within_a_round(
    small_plan: Plan, alone: RunDir, standin: Path, data: Path, cache: Path
) -> None:
    out, in_the_last_round = standin / "begun", Interrupter(11)
    with pytest.raises(StopError):
        run_plan(small_plan, out, data=data, cache=cache, watcher=in_the_last_round)
    done = launch("-m", "hydrakit", "run", "--resume", out, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("round 4 of 4, alpha all: goes on after epoch 1") == 1
    assert_close(RunDir(out), alone, small_plan)


def test_an_error_in_the_leader_is_told_once(small_plan: Plan, standin: Path) -> None:
    out = standin / "taken"
    RunDir.begin(out, small_plan)
    with another_process(out) as other:
        done = launch("-m", "hydrakit", "run", "--resume", out, "--device", "cpu")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("hydrakit: ")]
    assert len(told) == 1
    assert str(other) in told[0]
    assert "RuntimeError" not in done.stderr
    assert done.stdout == ""


def test_an_error_in_another_process_is_told_once(
    worked: subprocess.CompletedProcess[str],
) -> None:
    assert worked.returncode == 1
    assert worked.stderr.count("hydrakit: the disk is full: free some space\n") == 1
    assert "RuntimeError" not in worked.stderr


# In one process that takes itself for one of several


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what torchrun sets, and how many GPUs there seem to be."""

    def torchrun(*, rank: int, size: int, local_size: int | None = None, gpus: int = 0) -> None:
        values = dict.fromkeys(NEEDED, "0") | {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(local_size or size),
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)

    return torchrun


def test_each_process_takes_a_device_of_its_own(torchrun: Callable[..., None]) -> None:
    assert choose_compute("cpu").team == ALONE
    torchrun(rank=1, size=2)
    assert choose_compute("cpu").team == ProcessGroup(1, 2)
    assert choose_compute("auto").device == CPU
    torchrun(rank=1, size=2, gpus=2)
    for name in ("cuda", "auto"):
        assert choose_compute(name).device == torch.device("cuda", 1)
    torchrun(rank=0, size=1, gpus=2)
    assert choose_compute("cuda:1").device == torch.device("cuda", 1)


def test_what_processes_cannot_share_is_refused(torchrun: Callable[..., None]) -> None:
    torchrun(rank=0, size=2, gpus=1)
    refused(lambda: choose_compute("cuda"), "2 processes", "1 CUDA", "--nproc-per-node 1")
    refused(lambda: choose_compute("cuda:0"), "'cuda:0'", "2 processes", "--device cuda")
    refused(lambda: choose_compute("cpu", compiled=True), "--compile", "torchrun")
    torchrun(rank=0, size=4, local_size=2)
    refused(lambda: choose_compute("cpu"), "4 processes", "2 machines", "--nnodes 1")


def test_one_voice_leaves_errors_of_a_single_process_alone() -> None:
    with pytest.raises(PlanError, match="wrong"), report_first_error():
        raise PlanError("wrong")


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "hydrakit", "run", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("Usage: hydrakit run")


if __name__ == "__main__":
    compare_updates()
    disagree(Path(sys.argv[1]), Path(sys.argv[2]))
    fail_in_one()
