"""Figures sent to trackers are those of the run, and sending changes nothing."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from helpers import Runner, hydra_plan, refused, weights_of

from hydrakit.rundir import RunDir
from hydrakit.track import tracking
from hydrakit.watch import Watcher

PLAN = hydra_plan()


def expected(run: RunDir) -> dict[str, list[tuple[int, float]]]:
    """The validation AUC of each round by epoch."""
    return {
        f"{n:02d}-{r.dataset}-{r.train}/val auc": [(e.epoch, e.val.auc) for e in run.epochs(n, r)]
        for n, r in enumerate(PLAN.rounds, start=1)
    }


class Count(Watcher):
    """Counts epochs."""

    epochs = 0

    def epoch(self, *_: Any) -> None:
        self.epochs += 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_figures_of_every_epoch(runner: Runner) -> None:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="needs tensorboard"
    )
    shown = Count()
    with tracking(shown, "tensorboard") as watcher:
        run = runner(PLAN, watcher=watcher)
    events = accumulator.EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    for name, wanted in expected(run).items():
        found = [(each.step, each.value) for each in events.Scalars(name)]
        assert found == [(step, pytest.approx(value)) for step, value in wanted]
    assert shown.epochs == sum(len(each) for each in expected(run).values())
    assert weights_of(runner(PLAN, "plain").path) == weights_of(run.path)


def test_mlflow_gets_the_figures_of_every_epoch(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []
    fake: Any = ModuleType("mlflow")  # as mlflow's interface is documented
    fake.set_tracking_uri = lambda uri: calls.append(("uri", uri))
    fake.start_run = lambda run_name: calls.append(("start", run_name))
    fake.log_metric = lambda name, value, step: calls.append((name, (step, value)))
    fake.end_run = lambda: calls.append(("end", None))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    with tracking(Watcher(), "mlflow") as watcher:
        run = runner(PLAN, watcher=watcher)
    assert [calls[0][0], calls[1], calls[-1]] == ["uri", ("start", "run"), ("end", None)]
    for name, wanted in expected(run).items():
        assert [given for called, given in calls if called == name] == wanted


def test_a_missing_tracker_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)

    def track() -> None:
        with tracking(Watcher(), "mlflow"):
            raise AssertionError("not reached")

    refused(track, "mlflow is not installed", "pip install mlflow")


def test_without_a_tracker_the_watcher_is_the_same() -> None:
    watcher = Watcher()
    with tracking(watcher, None) as same:
        assert same is watcher
