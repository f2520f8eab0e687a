"""Figures sent to trackers are those of the run, each once, and sending changes nothing."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from helpers import (
    Runner,
    StopError,
    hydra_plan,
    plan_of,
    plugins,
    refused,
    round_of,
    weights_of,
)

from hydrakit.hooks import TrackedRun, TrackerFactory
from hydrakit.observers.trackers import (
    MLflow,
    MLflowOptions,
    TrackerCallback,
    hydrakit_trackers,
    parameters_of,
    trackers_of,
)
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord, RoundResult
from hydrakit.plugins import load_plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.search.tune import TuningSearch, tune

PLAN = hydra_plan()
PLUGINS = plugins().including(*hydrakit_trackers())
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


class Describing(Memory):
    """A tracker that is also told about the run, and gets its report."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[TrackedRun] = []
        self.files: list[tuple[Path, bool]] = []

    def describe(self, run: TrackedRun) -> None:
        assert len(self.opened) == len(self.runs), "it comes before `open`"
        self.runs.append(run)

    def attach(self, path: Path) -> None:
        closed = len(self.ends) == len(self.opened)
        self.files.append((path, closed))


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

    (folder,) = (run.parent / "store").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    return lambda name: [(each.step, each.value) for each in events.Scalars(name)]


def in_mlflow(run: Path) -> Callable[[str], Sent]:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run.parent / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("hydrakit")
    (only,) = client.search_runs([experiment.experiment_id])
    assert (only.info.run_name, only.info.status) == ("run", "FINISHED")
    return lambda name: [
        (each.step, each.value) for each in client.get_metric_history(only.info.run_id, name)
    ]


def stopped_at(runner: Runner, round: int, *, after: bool, kind: str) -> None:
    with pytest.raises(StopError):
        runner(
            PLAN,
            callbacks=[Stop(round, after=after)],
            trackers=[kind],
            track_to=str(runner.folder / "store"),
            plugins=PLUGINS,
        )


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
    store = str(runner.folder / "store")
    run = runner(PLAN, trackers=[kind], track_to=store, plugins=PLUGINS)
    found = read(run.path)
    for name, wanted in expected(run).items():
        assert found(name) == [(step, pytest.approx(value)) for step, value in wanted]
    assert weights_of(runner(PLAN, "plain").path) == weights_of(run.path)
    assert not Path("mlruns").exists()


def test_a_tracker_gets_every_figure_once_and_in_order(runner: Runner) -> None:
    memory, shown = Memory(), Stop()
    run = runner(PLAN, callbacks=[shown, TrackerCallback(memory)])
    for name, wanted in expected(run).items():
        assert memory.kept[name] == wanted
    assert shown.epochs == sum(result.epochs for result in run.results().rounds)
    assert weights_of(runner(PLAN, "plain").path) == weights_of(run.path)


def test_the_test_figures_are_sent_once_at_the_end(runner: Runner) -> None:
    memory = Memory()
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[TrackerCallback(memory), Stop(6)])
    assert not any(name.startswith("test ") for name in memory.kept)
    for _ in range(2):
        run = runner(PLAN, callbacks=[TrackerCallback(memory)])
    results = run.results()
    assert results is not None
    figures = results.test.figures
    assert memory.kept["test auc"] == [(0, figures.auc)]
    assert memory.kept["test loss"] == [(0, figures.loss)]
    assert memory.kept["test accuracy"] == [(0, figures.accuracy)]


def test_a_run_that_goes_on_sends_only_what_is_new(runner: Runner) -> None:
    memory = Memory()
    for stop in (Stop(1), Stop(3), Stop(3, after=True), Stop(6)):
        with pytest.raises(StopError):
            runner(PLAN, callbacks=[stop, TrackerCallback(memory)])
    run = runner(PLAN, callbacks=[TrackerCallback(memory)])
    for name, wanted in expected(run).items():
        assert memory.kept[name] == wanted
    assert memory.opened == [run.path] * 5


def test_rounds_that_ran_without_the_tracker_are_sent_too(runner: Runner) -> None:
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop(4)])
    memory = Memory()
    run = runner(PLAN, callbacks=[TrackerCallback(memory)])
    for name, wanted in expected(run).items():
        assert sorted(memory.kept[name]) == wanted


def test_a_tracker_gets_parameters_and_the_finished_report(runner: Runner) -> None:
    tracker = Describing()
    mine = TrackerFactory(name="mine", summary="", build=lambda _: tracker)
    given = {"trackers": ["mine"], "plugins": plugins().including(mine)}
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop(1)], **given)
    assert not tracker.files
    run = runner(PLAN, **given)
    assert tracker.files == [(run.report_path, False)]
    assert "Test" in run.report_path.read_text()
    first, resumed = tracker.runs
    assert first == resumed
    assert (first.name, first.folder, first.group) == ("run", run.path.resolve(), None)
    rates = [round.hyperparameters.learning_rate for round in PLAN.rounds]
    expected = str(rates[0]) if len(set(rates)) == 1 else ", ".join(map(str, rates))
    assert first.parameters["learning rate"] == expected
    assert first.parameters["target"] == PLAN.target
    assert first.parameters["plan"] == PLAN.digest()
    runner(PLAN, **given)  # finished already: it is not opened, and nothing is attached
    assert len(tracker.files) == len(tracker.opened) - 1 == 1
    shutil.rmtree(run.path)
    runner(PLAN, **given)
    assert tracker.runs[-1].key != first.key, "a new run in the folder of a deleted one"


def test_parameters_are_short_and_name_what_differs_between_rounds() -> None:
    rounds = [round_of("alpha", learning_rate=1e-3), round_of("alpha", "head", learning_rate=0.5)]
    values = parameters_of(plan_of(*rounds))
    assert values["learning rate"] == "0.001, 0.5"
    assert values["rounds"] == "2"
    many = parameters_of(plan_of(*rounds * 300))
    assert len(many["learning rate"]) == 500
    assert many.keys() == values.keys()


@dataclass(frozen=True)
class To:
    to: str = ""


def test_the_store_is_passed_to_the_trackers_that_take_one(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    stores: list[str] = []

    def build(options: To) -> Memory:
        stores.append(options.to)
        return Memory()

    taking = TrackerFactory(name="taking", summary="", build=build, options=To)
    plain = TrackerFactory(name="plain", summary="", build=lambda _: Memory())
    offered = plugins().including(taking, plain)
    for to in (None, "here", "http://host:1"):
        trackers_of(RunContext(trackers=("plain", "taking"), track_to=to), offered)
    assert stores == ["", str(tmp_path / "here"), "http://host:1"]
    for trackers, why in (((), "add --track NAME"), (("plain",), "plain has no option 'to'")):
        context = RunContext(trackers=trackers, track_to="here")
        refused(lambda context=context: trackers_of(context, offered), "--track-to here: ", why)


class MlflowStandIn:
    """The few functions of MLflow that the tracker uses, with a store in memory."""

    def __init__(self) -> None:
        self.experiments: dict[str, str | None] = {}
        self.runs: list[SimpleNamespace] = []
        self.entities = SimpleNamespace(Metric=tuple_of, Param=tuple_of)
        self.exceptions = SimpleNamespace(MlflowException=StopError)
        self.uris: list[str] = []
        self.before_create: Callable[[str], object] = lambda _: None

    def is_tracking_uri_set(self) -> bool:
        return False

    def MlflowClient(self, tracking_uri: str) -> MlflowStandIn:
        self.uris.append(tracking_uri)
        return self

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(experiment_id=name) if name in self.experiments else None

    def create_experiment(self, name: str, files: str | None) -> str:
        self.before_create(name)
        if name in self.experiments:
            raise StopError
        self.experiments[name] = files
        return name

    def search_runs(self, experiments: list[str], text: str) -> list[SimpleNamespace]:
        return [
            each
            for each in self.runs
            if each.info.experiment in experiments
            and text == f"tags.`hydrakit.run` = '{each.tags['hydrakit.run']}'"
        ]

    def create_run(self, experiment: str, run_name: str, tags: dict[str, str]) -> SimpleNamespace:
        info = SimpleNamespace(run_id=str(len(self.runs)), experiment=experiment, name=run_name)
        data = SimpleNamespace(params={}, metrics={})
        self.runs.append(SimpleNamespace(info=info, data=data, tags=tags, files=[]))
        return self.runs[-1]

    def update_run(self, number: str, status: str) -> None:
        self.runs[int(number)].info.status = status

    set_terminated = update_run

    def log_batch(self, number: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(metrics) <= 1000
        data = self.runs[int(number)].data
        for name, value, _, step in metrics:
            data.metrics.setdefault(name, []).append(SimpleNamespace(step=step, value=value))
        for name, value in params:
            assert name not in data.params
            data.params[name] = value

    def get_metric_history(self, number: str, name: str) -> list[SimpleNamespace]:
        return list(self.runs[int(number)].data.metrics[name])

    def log_artifact(self, number: str, path: str) -> None:
        self.runs[int(number)].files.append(Path(path).name)


def tuple_of(*values: object) -> tuple[object, ...]:
    return values


def test_mlflow_has_each_run_once_in_one_store(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = MlflowStandIn()
    monkeypatch.setitem(sys.modules, "mlflow", store)  # type: ignore[arg-type]
    stopped_at(runner, 3, after=False, kind="mlflow")
    given = {"trackers": ["mlflow"], "track_to": str(runner.folder / "store"), "plugins": PLUGINS}
    run = runner(PLAN, **given)
    runner(plan_of(round_of("alpha")), "other", **given)
    assert set(store.uris) == {f"sqlite:///{runner.folder / 'store' / 'mlflow.db'}"}
    first, other = store.runs
    assert [each.info.name for each in store.runs] == ["run", "other"]
    assert first.info.status == "FINISHED"
    assert first.tags["hydrakit.folder"] == str(run.path.resolve())
    assert first.files == other.files == ["report.html"]
    assert first.data.params["strategy"] == PLAN.strategy
    for name, wanted in expected(run).items():
        assert [(each.step, each.value) for each in first.data.metrics[name]] == wanted
    files = (runner.folder / "store" / "mlartifacts" / "hydrakit").as_uri()
    assert store.experiments == {"hydrakit": files}


def test_mlflow_sends_many_values_in_parts_and_shares_an_experiment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    store = MlflowStandIn()
    monkeypatch.setitem(sys.modules, "mlflow", store)  # type: ignore[arg-type]
    store.before_create = lambda name: store.experiments.update({name: None})  # another process
    tracker = MLflow(MLflowOptions())
    run = TrackedRun(key="1", name="cell", folder=tmp_path, group="all", parameters={})
    tracker.describe(run)
    assert tracker.open(tmp_path) == {}
    for step in range(2500):
        tracker.send("auc", 0.5, step)
    tracker.flush()
    (only,) = store.runs
    assert [each.step for each in only.data.metrics["auc"]] == list(range(2500))
    assert only.info.experiment == "all"
    assert store.uris == [f"sqlite:///{tmp_path / 'mlflow.db'}"]
    file = tmp_path / "file"
    file.touch()
    refused(lambda: MLflow(MLflowOptions(str(file))), "is not a folder", "sqlite:///FILE")


@pytest.mark.parametrize("method", ["open", "send", "flush", "close"])
def test_a_tracker_that_fails_does_not_stop_the_run(
    runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    memory = Memory()
    monkeypatch.setattr(memory, method, fail)
    run = runner(PLAN, callbacks=[TrackerCallback(memory, name="memory")])
    assert run.results() is not None
    assert capsys.readouterr().err == (
        "hydrakit: tracker 'memory' failed, and the run went on without it: OSError: [Errno 5] "
        "Input/output error\n"
    )
    log = (run.path / "log.txt").read_text()
    said = "tracker 'memory' failed: the run goes on without it"
    assert log.count(said) == (0 if method == "close" else 1)
    if method != "close":
        assert memory.ends == ([] if method == "open" else [False])
        healthy = Memory()
        runner(PLAN, "again", callbacks=[TrackerCallback(healthy)])
        assert weights_of(runner.folder / "again") == weights_of(run.path)


def test_how_a_run_ended_is_told(runner: Runner) -> None:
    memory = Memory()
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Stop(1), TrackerCallback(memory)])
    runner(PLAN, callbacks=[TrackerCallback(memory)])
    runner(PLAN, callbacks=[TrackerCallback(memory)])  # it is finished already: nothing is begun
    assert memory.ends == [True, False]


def test_tuning_sends_the_rounds_that_it_trains(data: Path, cache: Path, tmp_path: Path) -> None:
    stores: dict[Path, Memory] = {}

    class Stores(Memory):
        """Has a store in each folder, as the real trackers do."""

        def open(self, folder: Path) -> dict[str, set[int]]:
            self.kept = stores.setdefault(folder, Memory()).kept
            return super().open(folder)

    tracker = Stores()
    mine = TrackerFactory(name="mine", summary="", build=lambda _: tracker)
    plan = plan_of(round_of("beta"), round_of("alpha"))
    offered = plugins().including(mine)
    places = {"data": data, "cache": cache, "device": "cpu", "plugins": offered}
    for rates in ((1e-9,), (1e-9, 3e-2), (1e-9, 3e-2)):  # the second search chooses another rate
        search = TuningSearch(learning_rates=rates, dropouts=(0.0,), folds=2)
        found = tune(plan, tmp_path / "plan.json", search=search, trackers=["mine"], **places)
        assert found.plan.rounds[0].hyperparameters.learning_rate == rates[-1]
        epochs = RunDir(tmp_path / "plan.tuning").epochs(1, plan.rounds[0])
        sent = [(each.epoch, each.val.auc) for each in epochs]
        assert stores[tracker.opened[-1]].kept["01-beta-all/val auc"] == sent
    assert len(stores) == 2
    assert tracker.ends == [False] * 3


@pytest.mark.parametrize("kind", ["tensorboard", "mlflow"])
def test_a_missing_tracker_is_told_before_anything_is_trained(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    install = f"pip install 'hydrakit-imaging[{kind}]'"
    refused(lambda: runner(PLAN, trackers=[kind], plugins=PLUGINS), "is not installed", install)
    context = RunContext(trackers=(kind,))
    refused(lambda: trackers_of(context, load_plugins()), f"--track {kind}: ", install)
    refused(lambda: runner(PLAN, trackers=[f"{kind}s"], plugins=PLUGINS), "did you mean", kind)
    assert not (runner.folder / "run").exists()


def test_every_shipped_tracker_is_an_extra_and_is_named_in_the_help() -> None:
    import tomllib

    from hydrakit.cli import main

    (option,) = (each for each in main.commands["run"].params if "--track" in each.opts)
    assert isinstance(option, click.Option)
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    for each in hydrakit_trackers():
        assert each.name in project["project"]["optional-dependencies"]
        assert each.name in str(option.help)


def test_each_network_of_an_ensemble_has_its_own_names(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=2), round_of("alpha", "head", epochs=2), ensemble=2)
    memory = Memory()

    class StopInSecond(RunCallback):
        network = 1

        def member(self, number: int, rundir: RunDir) -> None:
            self.network = number

        def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
            if (self.network, number, record.epoch) == (2, 2, 2):
                raise StopError

    with pytest.raises(StopError):
        runner(plan, callbacks=[TrackerCallback(memory), StopInSecond()])
    run = runner(plan, callbacks=[TrackerCallback(memory)])
    for prefix, folder in (("", run), ("network-2/", run.begun_members()[0])):
        for number, round in enumerate(plan.rounds, start=1):
            epochs = folder.epochs(number, round)
            name = f"{prefix}{number:02d}-alpha-{round.train}/val loss"
            assert memory.kept[name] == [(epoch.epoch, epoch.val.loss) for epoch in epochs]
        steps = [step for step, _ in memory.kept[f"{prefix}reference AUC"]]
        assert steps == [3, 4]
    log = (run.path / "log.txt").read_text()
    assert "network 2 of 2, round 1 of 2, alpha all" in log
