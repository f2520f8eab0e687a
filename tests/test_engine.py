"""Running plans: the rounds in order, going on after a stop, and what a result rests on."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    BODY,
    hydra_plan,
    install_standin,
    load_dataset,
    plan_of,
    plugins,
    round_of,
    run_plan,
    tree,
    weights_of,
    write_dataset,
)
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from hydrakit import weights
from hydrakit.engine import choose_device, default_out
from hydrakit.errors import DataError, HydrakitError, PlanError
from hydrakit.heads import build_mlp
from hydrakit.models import Body
from hydrakit.plan import Plan, Round
from hydrakit.planning import make_plan
from hydrakit.results import EpochRecord, RoundResult
from hydrakit.rundir import RunDir
from hydrakit.stats import newcombe_interval
from hydrakit.train import INITIALISATION, Seeds, outputs
from hydrakit.watch import Watcher

SEVEN = [
    "01-alpha-all",
    "02-beta-head",
    "03-beta-all",
    "04-gamma-head",
    "05-gamma-all",
    "06-alpha-head",
    "07-alpha-all",
]


@dataclass(frozen=True)
class Runner:
    """Runs plans on the stand-ins, each in a folder of its own."""

    folder: Path
    data: Path
    cache: Path

    def __call__(self, plan: Plan, name: str = "run", **more: Any) -> RunDir:
        places = {"data": self.data, "cache": self.cache}
        return run_plan(plan, self.folder / name, **(places | more))


@pytest.fixture
def runner(tmp_path: Path, data: Path, cache: Path) -> Runner:
    return Runner(tmp_path, data, cache)


def without_seconds(rundir: RunDir) -> dict[str, Any]:
    results = rundir.results()
    assert results is not None
    found = results.model_dump()
    for each in found["rounds"]:
        assert each.pop("seconds") > 0
    return found


def assert_equal_runs(one: RunDir, other: RunDir) -> None:
    assert weights_of(one.path).keys() == weights_of(other.path).keys()
    for name, content in weights_of(one.path).items():
        assert content == weights_of(other.path)[name], name
    assert without_seconds(one) == without_seconds(other)


def events(rundir: RunDir) -> list[dict[str, Any]]:
    lines = (rundir.path / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def predictions(rundir: RunDir, split: str) -> list[dict[str, str]]:
    with (rundir.path / "predictions.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


# --- the rounds and their folders


def test_hydra_runs_seven_rounds(hydra_run: RunDir) -> None:
    listed = make_plan("hydra", ["alpha", "beta", "gamma", "alpha"], plugins=plugins())
    assert [(r.dataset, r.train, r.head) for r in listed.rounds] == [
        (r.dataset, r.train, r.head) for r in hydra_plan().rounds
    ]
    assert sorted(path.name for path in (hydra_run.path / "rounds").iterdir()) == SEVEN


def test_a_finished_run_holds_these_files(hydra_run: RunDir) -> None:
    files = {
        str(path.relative_to(hydra_run.path))
        for path in hydra_run.path.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    inside = ("body.safetensors", "head.safetensors", "metrics.jsonl", "round.json")
    heads = {f"heads/{name}.safetensors" for name in ("alpha", "beta", "gamma")}
    whole = {"plan.json", "environment.json", "data.json", "events.jsonl", "body.safetensors"}
    whole |= {"results.json", "predictions.csv", "report.html"}
    assert files == whole | heads | {f"rounds/{name}/{file}" for name in SEVEN for file in inside}


def test_the_body_of_a_head_round_is_the_one_before_byte_for_byte(hydra_run: RunDir) -> None:
    rounds = hydra_run.path / "rounds"
    bodies = [(rounds / name / "body.safetensors").read_bytes() for name in SEVEN]
    for number, name in enumerate(SEVEN):
        if number > 0:
            assert (bodies[number] == bodies[number - 1]) is name.endswith("head"), name
    assert hydra_run.body_path.read_bytes() == bodies[-1]


def test_the_final_heads_are_those_of_their_last_rounds(hydra_run: RunDir) -> None:
    last = {"alpha": SEVEN[6], "beta": SEVEN[2], "gamma": SEVEN[4]}
    for name, folder in last.items():
        expected = hydra_run.path / "rounds" / folder / "head.safetensors"
        assert hydra_run.head_path(name).read_bytes() == expected.read_bytes()


def test_weight_files_tell_what_trained_them(hydra_run: RunDir) -> None:
    trained = []
    for name in SEVEN:
        folder = hydra_run.path / "rounds" / name
        body = weights.read_metadata(folder / "body.safetensors")
        head = weights.read_metadata(folder / "head.safetensors")
        assert isinstance(body, weights.BodyMetadata)
        assert isinstance(head, weights.HeadMetadata)
        assert weights.mismatch(body, head) is None
        assert head.dataset == name.split("-")[1]
        assert body.seed == head.seed == 0
        trained.append(body.trained_on)
    assert trained[0] == trained[1] == ("alpha",)
    assert trained[-1] == ("alpha", "beta", "gamma", "alpha")


def test_transfer_shares_one_head(runner: Runner) -> None:
    order = ["alpha", "beta", "alpha"]
    listed = make_plan(
        "transfer", order, plugins=plugins(), epochs=1, bootstrap=1, body_channels=[2, 2]
    )
    plan = listed.model_copy(update={"body": BODY})
    rundir = runner(plan)
    assert [path.name for path in (rundir.path / "heads").iterdir()] == ["shared.safetensors"]
    names = sorted(path.name for path in (rundir.path / "rounds").iterdir())
    assert names == ["01-alpha-all", "02-beta-all", "03-alpha-all"]
    last = rundir.path / "rounds" / "03-alpha-all" / "head.safetensors"
    assert rundir.head_path("shared").read_bytes() == last.read_bytes()


def test_classical_is_one_round_on_the_target(runner: Runner) -> None:
    listed = make_plan("classical", ["beta", "alpha"], plugins=plugins(), epochs=1, bootstrap=1)
    assert [dataset.name for dataset in listed.datasets] == ["alpha"]
    rundir = runner(listed.model_copy(update={"body": BODY}))
    assert [path.name for path in (rundir.path / "rounds").iterdir()] == ["01-alpha-all"]


def test_a_dataset_of_three_classes_trains_beside_those_of_two(runner: Runner) -> None:
    plan = plan_of(round_of("alpha"), round_of("delta", "head"), round_of("delta"))
    results = runner(plan).results()
    assert results is not None
    assert [area.class_name for area in results.test.classes] == ["none", "some", "much"]
    areas = [area.auc for area in results.test.classes]
    assert results.test.figures.auc == pytest.approx(np.mean(areas))


# --- stopping and going on


class StopError(Exception):
    """Someone pulls the plug."""


class Stopper(Watcher):
    """Stops a run once: in a round's first epoch, or after a round."""

    def __init__(self, round: int, *, after: bool) -> None:
        self.round = round
        self.after = after

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == self.round and not self.after:
            raise StopError

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        if number == self.round and self.after:
            raise StopError


def stop_everywhere(runner: Runner, plan: Plan, **more: Any) -> RunDir:
    """Run a plan that is stopped in and after every round, and go on each time."""
    for number in range(1, len(plan.rounds) + 1):
        for after in (False, True):
            with pytest.raises(StopError):
                runner(plan, watcher=Stopper(number, after=after), **more)
            done = [p for p in (runner.folder / "run" / "rounds").glob("*") if p.suffix != ".part"]
            assert len(done) == number - (not after)
    return runner(plan, **more)


def test_a_run_stopped_in_and_after_every_round_ends_like_one_in_one_go(
    runner: Runner, hydra_run: RunDir
) -> None:
    assert_equal_runs(stop_everywhere(runner, hydra_plan()), hydra_run)


def test_so_does_one_whose_rounds_go_on_with_their_last_head(runner: Runner, device: str) -> None:
    habits: dict[str, Any] = {"carry_head": "last", "select": "authors", "schedule": "authors"}
    plan = plan_of(
        round_of("alpha", epochs=5, learning_rate=0.03, **habits),
        round_of("beta", "head", feature_dropout=True, carry_head="last"),
        round_of("beta", carry_head="last"),
        round_of("alpha", "head", epochs=5, learning_rate=0.03, carry_head="last"),
        bootstrap=3,
    )
    whole = runner(plan, "whole", device=device)
    first = whole.path / "rounds" / "01-alpha-all"
    best, last = ((first / f"{name}.safetensors").read_bytes() for name in ("head", "last-head"))
    assert best != last, "choose a rate at which the last epoch is not the best"
    assert_equal_runs(stop_everywhere(runner, plan, device=device), whole)


@pytest.fixture
def environment(tmp_path: Path, data: Path, cache: Path) -> dict[str, str]:
    """For a process of its own that finds the stand-ins."""
    site = install_standin(tmp_path / "site")
    places = {"HYDRAKIT_DATA": str(data), "HYDRAKIT_CACHE": str(cache)}
    paths = os.pathsep.join([str(site), str(Path(__file__).parent)])
    return {**os.environ, **places, "PYTHONPATH": paths}


def test_a_killed_run_goes_on_to_the_same_weights(
    runner: Runner, tmp_path: Path, environment: dict[str, str]
) -> None:
    rounds = hydra_plan().rounds
    longer = [r.hyperparameters.model_copy(update={"epochs": 12}) for r in rounds]
    plan = hydra_plan(
        rounds=tuple(
            r.model_copy(update={"hyperparameters": h}) for r, h in zip(rounds, longer, strict=True)
        )
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    out = tmp_path / "run"
    arguments = ["run", "--plan", str(tmp_path / "plan.json"), "--out", str(out), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", "from hydrakit.cli import main; main()", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("round 1 "):
                break
        else:
            raise AssertionError("the first round did not end")
        time.sleep(random.random() * 0.5)
        process.kill()
    assert RunDir(out).results() is None, "killed too late"
    assert RunDir(out).finished(1, plan.rounds[0])
    assert_equal_runs(runner(plan), runner(plan, "whole"))


def test_a_finished_run_is_left_alone(runner: Runner, hydra_run: RunDir) -> None:
    copy = runner.folder / "copy"
    shutil.copytree(hydra_run.path, copy)
    before = tree(copy)
    again = runner(hydra_plan(), "copy", watcher=Stopper(1, after=False))
    after = tree(copy)
    assert after.pop(str(copy / "environment.json"))  # says where the data lies now
    del before[str(copy / "environment.json")]
    assert after == before
    assert without_seconds(again) == without_seconds(hydra_run)


def test_a_report_that_was_not_written_any_more_is_written(
    runner: Runner, hydra_run: RunDir
) -> None:
    copy = runner.folder / "copy"
    shutil.copytree(hydra_run.path, copy)
    (copy / "report.html").unlink()
    again = runner(hydra_plan(), "copy")
    assert "</html>" in again.report_path.read_text()


def test_data_that_changed_stops_a_run_that_goes_on(
    tmp_path: Path, data: Path, cache: Path
) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    runner = Runner(tmp_path, mine, cache)
    plan = plan_of(round_of("beta"), round_of("alpha"))
    with pytest.raises(StopError):
        runner(plan, watcher=Stopper(1, after=True))
    shutil.rmtree(mine / "beta")
    write_dataset(mine / "beta", seed=99)
    before = tree(tmp_path / "run")
    with pytest.raises(DataError, match=r"beta: its data is not what .*run began with.*--out"):
        runner(plan)
    assert tree(tmp_path / "run") == before


# --- the same again, and nothing else touched


def test_two_runs_of_one_plan_are_equal_and_another_seed_is_not(
    runner: Runner, device: str
) -> None:
    plan = plan_of(round_of("beta"), round_of("alpha", "head"), round_of("alpha"), bootstrap=2)
    one, two = (runner(plan, name, device=device) for name in ("one", "two"))
    assert_equal_runs(one, two)
    other = runner(plan.model_copy(update={"seed": 1}), "other", device=device)
    for name in ("body.safetensors", "heads/alpha.safetensors", "predictions.csv"):
        assert (one.path / name).read_bytes() != (other.path / name).read_bytes()


def test_a_run_leaves_all_random_state_as_it_was(runner: Runner, device: str) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002 - the state that must not be touched
    torch.manual_seed(3)
    states = [random.getstate(), torch.get_rng_state()]
    legacy = np.random.get_state()  # noqa: NPY002
    assert isinstance(legacy, tuple)
    on_device = torch.cuda.get_rng_state() if device == "cuda" else None
    plan = plan_of(round_of("beta", dropout=0.5), round_of("alpha", "head"), bootstrap=2)
    runner(plan, device=device)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    now = np.random.get_state()  # noqa: NPY002
    assert isinstance(now, tuple)
    assert np.array_equal(now[1], legacy[1])
    assert now[2:] == legacy[2:]
    if on_device is not None:
        assert torch.equal(torch.cuda.get_rng_state(), on_device)


def test_the_state_before_a_run_does_not_matter(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", dropout=0.5))
    one = runner(plan, "one")
    torch.manual_seed(77)
    torch.rand(5)
    assert_equal_runs(one, runner(plan, "two"))


# --- what is followed and chosen


def auc_of(body: Path, head: Path, cases: Any) -> float:
    model = weights.load_model(body, head, plugins=plugins())
    logits = outputs(model, cases.patches)
    return float(roc_auc_score(cases.labels, (logits[:, 1] - logits[:, 0]).double().numpy()))


def assert_reference(rundir: RunDir, head: Path, *, data: Path, cache: Path) -> None:
    val = load_dataset("alpha", data=data, cache=cache).val
    plan = rundir.plan()
    for number, round in enumerate(plan.rounds, start=1):
        epochs = rundir.epochs(number, round)
        best = rundir.round_result(number, round).reference_auc
        if number == 1:
            assert best is None
            assert [epoch.reference_auc for epoch in epochs] == [None] * len(epochs)
            continue
        body = rundir.round_path(number, round) / "body.safetensors"
        assert best == pytest.approx(auc_of(body, head, val))
        if round.train == "head":
            assert {epoch.reference_auc for epoch in epochs} == {best}


def test_the_reference_is_the_first_head_on_each_body(
    hydra_run: RunDir, data: Path, cache: Path
) -> None:
    head = hydra_run.path / "rounds" / SEVEN[0] / "head.safetensors"
    assert_reference(hydra_run, head, data=data, cache=cache)
    curves = [
        epoch.reference_auc
        for number, round in enumerate(hydra_run.plan().rounds[1:], start=2)
        for epoch in hydra_run.epochs(number, round)
    ]
    assert len(set(curves)) > 1, "a reference that never moves shows nothing"


def test_the_authors_reference_is_the_last_head(runner: Runner, data: Path, cache: Path) -> None:
    plan = plan_of(
        round_of("alpha", epochs=8, learning_rate=0.03, carry_head="last"),
        round_of("beta", learning_rate=0.03),
        round_of("alpha", "head"),
    )
    rundir = runner(plan)
    first = rundir.path / "rounds" / "01-alpha-all"
    assert_reference(rundir, first / "last-head.safetensors", data=data, cache=cache)


def test_there_is_no_reference_where_the_target_is_not_first(runner: Runner) -> None:
    rundir = runner(plan_of(round_of("beta"), round_of("alpha")))
    results = rundir.results()
    assert results is not None
    assert [each.reference_auc for each in results.rounds] == [None, None]


def test_bootstrap_begins_with_the_start_that_does_best(
    runner: Runner, data: Path, cache: Path
) -> None:
    plan = plan_of(round_of("alpha", epochs=1, learning_rate=1e-30), bootstrap=6)
    result = runner(plan).round_result(1, plan.rounds[0])
    assert result.bootstrap is not None
    val = load_dataset("alpha", data=data, cache=cache).val
    aucs, starts = [], []
    for attempt in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Seeds(0, 1).of(INITIALISATION, attempt))
            body = Body(BODY, in_channels=1, dropout=0.0)
            head = build_mlp(BODY.features, 2, 0.0)
        logits = outputs(head, outputs(body, val.patches))
        aucs.append(roc_auc_score(val.labels, (logits[:, 1] - logits[:, 0]).double().numpy()))
        starts.append((body, head))
    assert result.bootstrap.val_auc == pytest.approx(aucs)
    assert len(set(aucs)) > 2
    assert result.bootstrap.chosen == int(np.argmax(aucs))
    # At that rate no weight moved, so the saved ones are those of the start.
    body, head = starts[int(np.argmax(aucs))]
    saved = weights.load_body(runner.folder / "run" / "body.safetensors")
    assert torch.equal(saved.dense.weight, body.dense.weight)
    path = RunDir(runner.folder / "run").head_path("alpha")
    saved_head = weights.load_head(path, plugins=plugins())
    assert all(map(torch.equal, saved_head.parameters(), head.parameters()))


def test_a_watcher_is_told_everything_in_order(runner: Runner) -> None:
    told: list[str] = []

    class Listener(Watcher):
        def preparing(self, dataset: str, cases: int) -> None:
            told.append(f"preparing {dataset} {cases}")

        def started(self, rundir: RunDir, device: str) -> None:
            told.append(f"started on {device}")

        def bootstrapping(self, done: int, of: int) -> None:
            told.append(f"start {done}/{of}")

        def skipped(self, number: int, round: Round) -> None:
            told.append(f"skipped {number}")

        def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
            told.append(f"epoch {number}.{record.epoch}")

        def finished(self, number: int, round: Round, result: RoundResult) -> None:
            told.append(f"finished {number}")
            if told.count("finished 1") == 1 and number == 1:
                raise StopError

    plan = plan_of(round_of("beta"), round_of("alpha", "head"), bootstrap=2)
    with pytest.raises(StopError):
        runner(plan, watcher=Listener(), cache=runner.folder / "cache")
    last = {name: f"preparing {name} 48" for name in ("beta", "alpha")}
    assert told.index("preparing beta 1") < told.index(last["beta"]) < told.index(last["alpha"])
    began = told.index("started on cpu")
    assert told[began + 1 :] == ["start 1/2", "start 2/2", "epoch 1.1", "epoch 1.2", "finished 1"]
    told.clear()
    runner(plan, watcher=Listener(), cache=runner.folder / "cache")
    assert told == ["started on cpu", "skipped 1", "epoch 2.1", "epoch 2.2", "finished 2"]


# --- the result, and what it rests on


def test_the_result_is_recomputed_from_the_predictions(hydra_run: RunDir) -> None:
    results = hydra_run.results()
    assert results is not None
    rows = predictions(hydra_run, "test")
    labels = np.array([["benign", "malignant"].index(row["label"]) for row in rows])
    shares = np.array(
        [[float(row[f"p_{name}"]) for name in ("benign", "malignant")] for row in rows]
    )
    assert shares.sum(axis=1) == pytest.approx(1)
    (area,) = results.test.classes
    assert area.class_name == "malignant"
    assert area.auc == pytest.approx(roc_auc_score(labels, shares[:, 1]))
    assert (area.positives, area.negatives) == (labels.sum(), (1 - labels).sum())
    interval = newcombe_interval(area.auc, area.positives, area.negatives)
    assert (area.low, area.high) == interval
    assert results.test.level == 0.95
    assert results.test.figures.auc == area.auc
    assert results.test.figures.loss == pytest.approx(log_loss(labels, shares))
    assert results.test.figures.accuracy == accuracy_score(labels, shares.argmax(axis=1))
    said = [["benign", "malignant"].index(row["predicted"]) for row in rows]
    assert said == shares.argmax(axis=1).tolist()
    assert results.plan == hydra_run.plan().digest()


def test_the_predictions_of_val_are_those_of_the_last_round(hydra_run: RunDir) -> None:
    results = hydra_run.results()
    assert results is not None
    rows = predictions(hydra_run, "val")
    labels = [row["label"] == "malignant" for row in rows]
    scores = [float(row["p_malignant"]) for row in rows]
    assert results.rounds[-1].val.auc == pytest.approx(roc_auc_score(labels, scores))


def test_the_test_split_is_read_once_after_all_rounds(hydra_run: RunDir) -> None:
    names = [event["event"] for event in events(hydra_run)]
    assert names == ["run", *["round", "round done"] * 7, "test read", "done"]
    (read,) = (event for event in events(hydra_run) if event["event"] == "test read")
    assert read["dataset"] == "alpha"
    assert read["cases"] == len(predictions(hydra_run, "test"))


def test_no_patient_is_on_two_sides(hydra_run: RunDir, data: Path, cache: Path) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    with np.load(data / "alpha" / "cases.npz") as stored:
        owner = {f"c{row:03d}": int(who) for row, who in enumerate(stored["patients"])}
    sides = {
        split: {owner[key] for key, name in loaded.splits.items() if name == split}
        for split in ("train", "val", "test")
    }
    assert sum(map(len, sides.values())) == len(set(owner.values())) == 40
    for split in ("val", "test"):
        listed = {row["key"] for row in predictions(hydra_run, split)}
        assert listed == {key for key, name in loaded.splits.items() if name == split}


def test_the_test_cases_change_nothing_but_the_test(
    tmp_path: Path, data: Path, cache: Path, hydra_run: RunDir
) -> None:
    tested = {row["key"] for row in predictions(hydra_run, "test")}
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    with np.load(data / "alpha" / "cases.npz") as stored:
        arrays = dict(stored)
    for row in range(len(arrays["images"])):
        if f"c{row:03d}" in tested:
            arrays["images"][row] = np.random.default_rng(row).exponential(size=(20, 20))
    np.savez(mine / "alpha" / "cases.npz", **arrays)
    other = Runner(tmp_path, mine, cache)(hydra_plan())
    here, there = weights_of(hydra_run.path), weights_of(other.path)
    assert {name for name in here if here[name] != there[name]} == {"predictions.csv"}
    assert predictions(other, "val") == predictions(hydra_run, "val")
    shares = [[row["p_malignant"] for row in predictions(r, "test")] for r in (other, hydra_run)]
    assert not set(shares[0]) & set(shares[1])


def test_the_data_file_tells_what_went_where(hydra_run: RunDir) -> None:
    facts = hydra_run.facts()
    assert facts is not None
    assert set(facts) == {"alpha", "beta", "gamma"}
    alpha = facts["alpha"]
    assert sum(sum(counts.values()) for counts in alpha.counts.values()) == 48
    assert sum(alpha.patients.values()) == 40
    assert alpha.channels == 1
    assert alpha.counts["test"] == {
        name: sum(row["label"] == name for row in predictions(hydra_run, "test"))
        for name in ("benign", "malignant")
    }
    assert set(facts["beta"].counts) == {"train", "val"}


# --- what cannot be run


def test_a_loss_that_explodes_stops_the_run_and_keeps_its_rounds(runner: Runner) -> None:
    plan = plan_of(round_of("beta"), round_of("alpha", "head", learning_rate=1e30))
    with pytest.raises(PlanError, match=r"round alpha head.*epoch 1.*lower.*1e\+30") as caught:
        runner(plan)
    assert "\n" not in str(caught.value)
    rundir = RunDir(runner.folder / "run")
    assert [rundir.finished(number, r) for number, r in enumerate(plan.rounds, 1)] == [True, False]
    assert rundir.round_result(1, plan.rounds[0]).dataset == "beta"
    assert rundir.results() is None


def refused(action: Callable[[], object], *words: str) -> None:
    with pytest.raises(HydrakitError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of(round_of("alpha"), head="mpl"), ["unknown head 'mpl'", "'mlp'"]),
        (plan_of(round_of("alpah")), ["unknown dataset 'alpah'", "'alpha'"]),
        (
            plan_of(round_of("alpha", head="one"), round_of("delta", head="one")),
            ["head 'one'", "'alpha'", "2 classes", "'delta'", "of its own"],
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_before_anything_is_written(
    runner: Runner, plan: Plan, words: list[str]
) -> None:
    refused(lambda: runner(plan), *words)
    assert list(runner.folder.iterdir()) == []


def test_every_folder_is_looked_for_before_the_first_is_read(tmp_path: Path, data: Path) -> None:
    runner = Runner(tmp_path, data, tmp_path / "cache")
    plan = plan_of(round_of("beta"), round_of("alpha"))
    refused(lambda: runner(plan, roots={"alpha": tmp_path / "no"}), "alpha: no folder", "phantom")
    assert list(tmp_path.iterdir()) == []


def test_datasets_of_unlike_channels_do_not_share_a_body(
    tmp_path: Path, data: Path, cache: Path
) -> None:
    mine = tmp_path / "two"
    mine.mkdir()
    with np.load(data / "beta" / "cases.npz") as stored:
        arrays = dict(stored)
    arrays["images"] = np.stack([arrays["images"]] * 2, axis=1)
    np.savez(mine / "cases.npz", **arrays)
    runner = Runner(tmp_path, data, cache)
    plan = plan_of(round_of("alpha"), round_of("beta"))
    refused(lambda: runner(plan, roots={"beta": mine}), "beta", "2 channels", "alpha")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["foo", "meta", "cpu:1", "cuda:-1", ""])
def test_an_unknown_device_is_refused(name: str) -> None:
    refused(lambda: choose_device(name), f"device {name!r}", "cuda:N")


def test_a_gpu_that_is_not_there_is_refused() -> None:
    refused(lambda: choose_device("cuda:99"), "'cuda:99'", "--device cpu")
    if not torch.cuda.is_available():
        refused(lambda: choose_device("cuda"), "'cuda'", "0 CUDA devices", "--device cpu")
        assert choose_device("auto") == torch.device("cpu")


def test_a_plan_has_a_folder_of_its_own() -> None:
    plan = hydra_plan()
    assert default_out(plan) == default_out(Plan.model_validate_json(plan.to_json()))
    assert default_out(plan) != default_out(plan.model_copy(update={"seed": 1}))
    assert default_out(plan).parent == Path("runs")
    assert default_out(plan).name.startswith("hydra-alpha-")
