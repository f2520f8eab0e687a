"""Figures sent to trackers are those of the run, each once, and sending changes nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import Runner, StopError, hydra_plan, refused, weights_of

from hydrakit.observers.trackers import TRACKERS, Tracked, tracking
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord, RoundResult
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir

PLAN = hydra_plan()
Sent = list[tuple[int, float]]


class Memory:
    """A tracker that keeps what it is sent, over several runs."""

    def __init__(self) -> None:
        self.kept: dict[str, Sent] = {}
        self.waiting: list[tuple[str, float, int]] = []
        self.opened: list[Path] = []
        self.ends: list[bool] = []

    def open(self, folder: Path) -> dict[str, set[int]]:
        self.opened.append(folder)
        self.waiting = []
        return {name: {step for step, _ in points} for name, points in self.kept.items()}

    def send(self, name: str, value: float, step: int) -> None:
        self.waiting.append((name, value, step))

    def flush(self) -> None:
        for name, value, step in self.waiting:
            self.kept.setdefault(name, []).append((step, value))
        self.waiting = []

    def close(self, *, failed: bool) -> None:
        self.ends.append(failed)


class Stop(RunCallback):
    """Counts epochs, and stops at the second epoch of a round, or after it."""

    def __init__(self, round: int = 0, *, after: bool = False) -> None:
        self.round, self.after, self.epochs = round, after, 0

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        self.epochs += 1
        if number == self.round and record.epoch == 2 and not self.after:
            raise StopError

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        if number == self.round and self.after:
            raise StopError


def expected(run: RunDir) -> dict[str, Sent]:
    """What a tracker has of a whole run: validation AUCs by round, and the reference's."""
    found: dict[str, Sent] = {"reference AUC": []}
    before = 0
    for number, round in enumerate(PLAN.rounds, start=1):
        epochs = run.epochs(number, round)
        name = f"{number:02d}-{round.dataset}-{round.train}/val auc"
        found[name] = [(each.epoch, each.val.auc) for each in epochs]
        found["reference AUC"] += [
            (before + each.epoch, each.reference_auc)
            for each in epochs
            if each.reference_auc is not None
        ]
        before += len(epochs)
    return found


def in_tensorboard(run: Path) -> Callable[[str], Sent]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return lambda name: [(each.step, each.value) for each in events.Scalars(name)]


def in_mlflow(run: Path) -> Callable[[str], Sent]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hydrakit")
    (only,) = client.search_runs([experiment.experiment_id])
    assert (only.info.run_name, only.info.status) == ("run", "FINISHED")
    return lambda name: [
        (each.step, each.value) for each in client.get_metric_history(only.info.run_id, name)
    ]


def stopped_at(runner: Runner, round: int, *, after: bool, kind: str) -> None:
    with pytest.raises(StopError), tracking(Stop(round, after=after), kind) as watcher:
        runner(PLAN, callbacks=[watcher])


@pytest.mark.filterwarnings("ignore")  # of other people's packages
@pytest.mark.parametrize(
    ("kind", "package", "read"),
    [("tensorboard", "tensorboard", in_tensorboard), ("mlflow", "mlflow", in_mlflow)],
)
def test_a_real_tracker_has_every_figure_once_after_two_stops(
    runner: Runner, kind: str, package: str, read: Callable[[Path], Callable[[str], Sent]]
) -> None:
    pytest.importorskip(package, reason=f"needs {package}")
    stopped_at(runner, 3, after=False, kind=kind)
    stopped_at(runner, 5, after=True, kind=kind)
    with tracking(RunCallback(), kind) as watcher:
        run = runner(PLAN, callbacks=[watcher])
    found = read(run.path)
    for name, wanted in expected(run).items():
        assert found(name) == [(step, pytest.approx(value)) for step, value in wanted]
    assert weights_of(runner(PLAN, "plain").path) == weights_of(run.path)
    assert not Path("mlruns").exists()


def test_a_tracker_gets_every_figure_once_and_in_order(runner: Runner) -> None:
    memory, shown = Memory(), Stop()
    run = runner(PLAN, callbacks=[Tracked(shown, memory)])
    for name, wanted in expected(run).items():
        assert memory.kept[name] == wanted
    assert shown.epochs == sum(result.epochs for result in run.results().rounds)
    assert weights_of(runner(PLAN, "plain").path) == weights_of(run.path)


def test_a_run_that_goes_on_sends_only_what_is_new(runner: Runner) -> None:
    memory = Memory()
    for stop in (Stop(1), Stop(3), Stop(3, after=True), Stop(6)):
        with pytest.raises(StopError):
            runner(PLAN, callbacks=[Tracked(stop, memory)])
    run = runner(PLAN, callbacks=[Tracked](RunCallback(), memory))
    for name, wanted in expected(run).items():
        assert memory.kept[name] == wanted
    assert memory.opened == [run.path] * 5


def test_rounds_that_ran_without_the_tracker_are_sent_too(runner: Runner) -> None:
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop(4)])
    memory = Memory()
    run = runner(PLAN, callbacks=[Tracked](RunCallback(), memory))
    for name, wanted in expected(run).items():
        assert sorted(memory.kept[name]) == wanted


def test_how_a_run_ended_is_told(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory()
    monkeypatch.setitem(TRACKERS, "mlflow", lambda: memory)
    stopped_at(runner, 1, after=False, kind="mlflow")
    with tracking(RunCallback(), "mlflow") as watcher:
        runner(PLAN, callbacks=[watcher])
    with tracking(RunCallback(), "mlflow") as watcher:
        runner(PLAN, callbacks=[watcher])  # it is finished already: nothing is begun
    assert memory.ends == [True, False]


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_tracker_is_told_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)

    def track() -> None:
        with tracking(RunCallback(), kind):
            raise AssertionError("not reached")

    refused(track, f"{kind} is not installed", f"pip install 'hydrakit-imaging[{kind}]'")


def test_without_a_tracker_the_watcher_is_the_same() -> None:
    watcher = RunCallback()
    with tracking(watcher, None) as same:
        assert same is watcher


def test_every_tracker_is_offered_and_is_an_extra() -> None:
    import tomllib

    from hydrakit.cli import main

    (option,) = (each for each in main.commands["run"].params if each.name == "track")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert set(option.type.choices) == set(TRACKERS)
    assert set(TRACKERS) <= set(project["project"]["optional-dependencies"])
