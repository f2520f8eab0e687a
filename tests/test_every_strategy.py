"""Every strategy that is listed is planned, run and resumed by the command line, and searched."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import refused, weights_of

import hydrakit_strategies
from hydrakit.cli import main
from hydrakit.hooks import SequenceStrategy
from hydrakit.plan import Plan, load_plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.rundir import RunDir
from hydrakit.search import tune
from hydrakit.search.order import OrderPlanner

STRATEGIES = sorted(each.name for each in hydrakit_strategies.hydrakit_sequence_strategies())
DATASETS = ["alpha", "beta", "alpha"]
SMALL = [
    "--epochs",
    "1",
    "--bootstrap",
    "2",
    "--profile",
    "recommended-0.1",
    "--body-channels",
    "4",
    "--set",
    "body.patch=16",
]

every_strategy = pytest.mark.parametrize("strategy", STRATEGIES)


def call(*arguments: str | Path) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_these_are_all_that_are_listed(standin: Path) -> None:
    assert load_plugins().all(SequenceStrategy).keys() == {*STRATEGIES}


@every_strategy
def test_it_is_planned_run_and_resumed(standin: Path, tmp_path: Path, strategy: str) -> None:
    given = ["--strategy", strategy, "--datasets", ",".join(DATASETS), *SMALL]
    call("plan", *given, "--out", tmp_path / "plan.json")
    call("run", *given, "--device", "cpu", "--out", tmp_path / "run")
    run = RunDir(tmp_path / "run")
    assert run.plan() == load_plan(tmp_path / "plan.json")
    before = weights_of(run.path)
    shutil.rmtree(run.round_folders()[-1])
    for name in ("results.json", "files.json", "predictions.csv", "body.safetensors"):
        (run.path / name).unlink()
    call("run", "--resume", run.path, "--device", "cpu")
    assert weights_of(run.path) == before


@every_strategy
def test_its_plan_can_be_tuned(
    standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    class PlannedError(Exception):
        """The command has made its plan."""

    def stop(plan: Plan, *_: Any, **__: Any) -> None:
        assert {round.dataset for round in plan.rounds} <= {each.name for each in plan.datasets}
        raise PlannedError

    monkeypatch.setattr(tune, "tune", stop)
    given = ["--strategy", strategy, "--datasets", ",".join(DATASETS), *SMALL]
    result = CliRunner().invoke(main, ["tune", *given, "--out", str(tmp_path / "plan.json")])
    assert isinstance(result.exception, PlannedError), result.stderr


@every_strategy
def test_its_orders_can_be_planned(standin: Path, strategy: str) -> None:
    plan = OrderPlanner(strategy, "alpha", ("beta", "gamma"), 0, {}, load_plugins()).plan
    if strategy in ("classical", "classical-long", "head", "random", "intensity", "probe"):
        refused(lambda: plan(("gamma",), 0), strategy, "does not train on supports")
        return
    for order in ((), ("gamma",), ("gamma", "beta")):
        made = plan(order, 1)
        assert [each.name for each in made.datasets] == ["alpha", "beta", "gamma"]
        used = {name for round in made.rounds for name in round.datasets}
        assert used == {"alpha", *order}
