"""Ensembles: several networks on the same splits, and the mean of their predictions."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import Runner, StopError, plan_of, plugins, refused, round_of, tree, weights_of

from hydrakit.cli import main
from hydrakit.engine import dry_run
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.status import RunStatus, status
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Plan, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.report.provenance import label_readings
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import read_rows
from hydrakit.weights.format import read_head


def ensemble_plan(count: int = 3, **changes: Any) -> Plan:
    rounds = round_of("beta", epochs=2), round_of("alpha", "head", epochs=2)
    return plan_of(*rounds, ensemble=count, seed=5, bootstrap=2, **changes)


@pytest.fixture(scope="module")
def finished(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of three networks: to be read, not to be changed."""
    return Runner(tmp_path_factory.mktemp("ensemble"), data, cache)(ensemble_plan())


@pytest.fixture
def own(finished: RunDir, tmp_path: Path) -> RunDir:
    """A copy of the finished run."""
    shutil.copytree(finished.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


def scores(run: RunDir) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Probabilities of the second class, from ``predictions.csv``."""
    rows = list(read_rows(run.path / "predictions.csv"))
    column = [name for name in rows[0] if name.startswith("p_")][1]
    return np.array([float(row[column]) for row in rows])


def assert_same(run: Path, other: Path) -> None:
    found, wanted = weights_of(run), weights_of(other)
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name
    figures = []
    for each in (run, other):
        results = RunDir(each).results()
        assert results is not None
        members = [(one.number, one.seed, one.figures) for one in results.members]
        figures.append((results.test, members))
    assert figures[0] == figures[1]


def test_the_prediction_is_the_mean_of_those_of_all_networks(
    finished: RunDir, runner: Runner
) -> None:
    plan = ensemble_plan()
    alone = [runner(plan.member(number), f"alone-{number}") for number in (1, 2, 3)]
    mean = np.mean([scores(run) for run in alone], axis=0)
    np.testing.assert_allclose(scores(finished), mean, rtol=1e-12)
    # Each network is a run of its own, bit for bit.
    for run, member in zip(alone[1:], finished.members(plan), strict=True):
        own, expected = weights_of(member.path), weights_of(run.path)
        del expected["shown.safetensors"]
        assert own == expected
    results = finished.results()
    assert results is not None
    assert results.format == 2
    assert [each.seed for each in results.members] == [each.plan().seed for each in alone]
    for run, member in zip(alone, results.members, strict=True):
        of_one = run.results()
        assert of_one is not None
        assert of_one.test.figures == member.figures
        assert (of_one.format, of_one.members) == (1, ())
        assert b"members" not in run.results_path.read_bytes()
    first = alone[0].results()
    assert first is not None
    assert [each.val for each in results.rounds] == [each.val for each in first.rounds]


def test_networks_have_the_same_splits_and_other_seeds() -> None:
    plans = [ensemble_plan(3).model_copy(update={"seed": seed}) for seed in (0, 1, 2)]
    members = [plan.member(number) for plan in plans for number in (1, 2, 3)]
    assert len({each.seed for each in members}) == 9
    assert {each.ensemble for each in members} == {1}
    for plan in plans:
        splits = {plan.member(number).effective_split_seed for number in (1, 2, 3)}
        assert splits == {plan.effective_split_seed}
    fixed = plans[0].model_copy(update={"split_seed": 7})
    assert [fixed.member(number).split_seed for number in (1, 2)] == [7, 7]
    assert '"ensemble"' not in members[1].to_json()


def test_the_test_labels_are_read_once_for_all_networks(finished: RunDir) -> None:
    readings = label_readings(finished, "alpha")
    assert (readings.count, readings.traced) == (1, 0)
    for member in finished.begun_members():
        events = [event.by for event in member.events() if event.event == "test read"]
        assert events == ["ensemble"]
        assert label_readings(member, "alpha").count == 1


def test_a_trace_counts_the_readings_of_all_networks(runner: Runner) -> None:
    run = runner(plan_of(round_of("alpha", epochs=2), ensemble=2), trace_test=True)
    readings = label_readings(run, "alpha")
    assert (readings.count, readings.traced) == (5, 4)


class Stops(RunCallback):
    """Stops a run at some events, counted over all of them."""

    def __init__(self, at: set[int]) -> None:
        self.at = at
        self.count = 0

    def count_event(self) -> None:
        self.count += 1
        if self.count in self.at:
            raise StopError

    def bootstrapping(self, done: int, of: int) -> None:
        self.count_event()

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        self.count_event()

    def member(self, number: int, rundir: RunDir) -> None:
        self.count_event()


@pytest.mark.parametrize("every", [0.0, 1e9])
def test_stopped_anywhere_an_ensemble_ends_as_in_one_go(
    finished: RunDir, runner: Runner, every: float
) -> None:
    stops = Stops(set(range(2, 60, 2)))
    stopped = 0
    while True:
        try:
            run = runner(ensemble_plan(), callbacks=[stops], checkpoint_interval=every)
            break
        except StopError:
            stopped += 1
            progress = status(runner.folder / "run")
            assert isinstance(progress, RunStatus)
            assert progress.state == "stopped"
            assert len(progress.members) == 2
    assert stopped > 5
    assert_same(run.path, finished.path)
    assert verify(run.path).sound


@pytest.mark.parametrize("name", ["to_csv", "write_record", "mean_prediction", "store_decisions"])
def test_stopped_while_results_are_written(
    finished: RunDir, runner: Runner, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from hydrakit.runs import session

    for at in (1, 2, 3):
        calls, real = [0], getattr(session, name)

        def stop(
            *given: Any, at: int = at, calls: list[int] = calls, real: Any = real, **named: Any
        ) -> Any:
            calls[0] += 1
            if calls[0] == at:
                raise StopError
            return real(*given, **named)

        with monkeypatch.context() as patch:
            patch.setattr(session, name, stop)
            try:
                runner(ensemble_plan())
            except StopError:
                continue
    run = runner(ensemble_plan())
    assert_same(run.path, finished.path)
    assert verify(run.path).sound


def test_a_network_whose_results_are_gone_gets_them_again(own: RunDir, runner: Runner) -> None:
    member = own.members(ensemble_plan())[0]
    before = member.results_path.read_bytes()
    member.results_path.unlink()
    (damaged,) = {each.path for each in verify(own.path).damaged} - {str(member.results_path)} or {
        str(member.results_path)
    }
    assert damaged == str(member.results_path)
    runner(ensemble_plan(), own.path.name)
    assert json.loads(member.results_path.read_text()) == json.loads(before)
    assert verify(own.path).sound


def test_evaluate_averages_all_networks(
    own: RunDir, data: Path, cache: Path, tmp_path: Path
) -> None:
    places = {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}
    results = own.results()
    assert results is not None
    moved = own.path.rename(tmp_path / "moved")
    found = evaluate_run(moved, **places).result
    assert found == results.test
    assert found.figures not in [each.figures for each in results.members]
    support = evaluate_run(moved, dataset="beta", split="val", **places).result
    singles = [
        evaluate_run(member.path, dataset="beta", split="val", **places).result.figures
        for member in RunDir(moved).begun_members()
    ]
    assert support.figures not in singles
    assert label_readings(RunDir(moved), "alpha").count == 2
    # A network that is missing is named, and not left out.
    shutil.rmtree(moved / "members" / "3" / "heads")
    refused(lambda: evaluate_run(moved, **places), str(moved / "members" / "3" / "heads"))
    assert not verify(moved).sound


def test_cleaning_leaves_what_evaluation_needs(own: RunDir, data: Path, cache: Path) -> None:
    removed = clean(own.path, lambda _: True)
    folders = {each.path.relative_to(own.path).parts[0] for each in removed}
    assert folders == {"rounds", "members"}
    assert not list(own.path.glob("members/*/rounds/*/body.safetensors"))
    assert verify(own.path).sound
    results = own.results()
    assert results is not None
    places = {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}
    assert evaluate_run(own.path, **places).result == results.test


def test_status_counts_the_rounds_of_each_network(finished: RunDir) -> None:
    found = status(finished.path)
    assert isinstance(found, RunStatus)
    assert found.state == "finished"
    assert [(each.number, each.done) for each in found.members] == [(2, 2), (3, 2)]
    shown = CliRunner().invoke(main, ["status", str(finished.path)]).stdout
    assert "finished, 6 of 6 rounds done, of 3 networks" in shown
    assert "network 3: 2 of 2 rounds done" in shown


def test_the_report_lists_each_network_and_says_of_which_the_examples_are(
    finished: RunDir,
) -> None:
    page = finished.report_path.read_text()
    assert "Networks of the ensemble" in page
    assert "Of the first of 3 networks" in page
    assert "The test labels were read once" in page
    results = finished.results()
    assert results is not None
    for member in results.members:
        assert f"{member.seed}" in page
        assert f"{member.figures.auc:.3f}" in page


def test_a_dry_run_adds_up_the_networks(runner: Runner, data: Path, cache: Path) -> None:
    places = {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}
    out = runner.folder / "run"
    estimate = dry_run(ensemble_plan(), out=out, **places)
    assert [each.networks for each in estimate.rounds] == [3, 3]
    assert estimate.ensemble == 3
    single = dry_run(ensemble_plan(1), out=out, **places)
    assert estimate.disk > 2 * (single.disk - 3_000_000)
    with pytest.raises(StopError):
        runner(ensemble_plan(), callbacks=[Stops({6})])  # in the head round of the first network
    estimate = dry_run(ensemble_plan(), out=out, **places)
    assert [each.networks for each in estimate.rounds] == [2, 3]
    assert not estimate.finished


def test_the_first_head_decides_for_the_mean_and_the_others_for_themselves(
    finished: RunDir, data: Path, cache: Path
) -> None:
    plan = ensemble_plan()
    decisions = [
        read_head(each.head_path(name)).decision
        for name in ("alpha", "beta")
        for each in finished.networks(plan)
    ]
    assert [each and each.networks for each in decisions] == [3, 1, 1, 3, 1, 1]
    first, results = decisions[0], finished.results()
    assert first is not None
    assert results is not None
    assert results.test.decision is not None
    assert results.test.decision.calibration == first.calibration
    # What the file holds are the mean probabilities of the validation findings.
    rows = list(read_rows(finished.path / "predictions.csv"))
    second = next(name for name in rows[0] if name.startswith("p_m"))
    val = [float(row[second]) for row in rows if row["split"] == "val"]
    assert first.held_out is not None
    assert [row[1] for row in first.held_out.probabilities] == pytest.approx(val, rel=1e-7)
    again = evaluate_run(finished.path, data=data, cache=cache, plugins=plugins(), device="cpu")
    assert again.result == results.test
    files = finished.body_path, finished.head_path("alpha")
    places: dict[str, Any] = {"data": data, "cache": cache, "device": "cpu"}
    alone = evaluate_files(*files, plugins=plugins(), **places)
    assert alone.result.decision is None
    assert "are for the mean of 3 networks, and 1 is evaluated" in " ".join(alone.notes)


def test_single_files_say_that_they_are_one_of_several(finished: RunDir) -> None:
    for file in (finished.body_path, finished.head_path("alpha")):
        done = CliRunner().invoke(main, ["weights", "inspect", str(file)])
        assert done.exit_code == 0
        assert "one of the 3 networks of an ensemble" in done.stderr


def test_networks_share_rounds_with_other_runs(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    first = runner(ensemble_plan(2), "one", round_cache=shared)
    before = tree(shared)
    other = ensemble_plan(2)
    rounds = (*other.rounds, round_of("alpha"))
    second = runner(other.model_copy(update={"rounds": rounds}), "other", round_cache=shared)
    assert len(list(shared.iterdir())) == len([p for p in before if Path(p).parent == shared]) + 2
    for run in (second, *second.begun_members()):
        assert [e.event for e in run.events()].count("round shared") == 2
    assert first.results() is not None


def test_numbers_are_averaged_too() -> None:
    from hydrakit.runs.evaluate import Predictions, mean_prediction
    from hydrakit.stats import tasks

    outputs = [np.array([[0.5], [-1.0]]), np.array([[1.5], [3.0]])]
    parts = [
        Predictions(
            dataset="size",
            split="test",
            classes=("size",),
            keys=("a", "b"),
            labels=np.zeros((2, 1)),
            outputs=each,
            task="regression",
            scale=(10.0, 2.0),
        )
        for each in outputs
    ]
    mean = mean_prediction(parts)
    found = tasks.predictions(mean.outputs, task="regression", scale=(10.0, 2.0))
    np.testing.assert_allclose(found, [[12.0], [12.0]])
    assert mean_prediction(parts[:1]).outputs is parts[0].outputs
    # Networks of different training splits standardise differently.
    other = replace(parts[1], scale=(20.0, 1.0))
    found = tasks.predictions(
        mean_prediction([parts[0], other]).outputs, task="regression", scale=(10.0, 2.0)
    )
    np.testing.assert_allclose(found, [[(11 + 21.5) / 2], [(8 + 23) / 2]])
