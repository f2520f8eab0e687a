"""Running plans: the rounds and their files, what is followed, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    BODY,
    Runner,
    StopError,
    hydra_plan,
    load_dataset,
    plan_of,
    plugins,
    refused,
    round_of,
)
from sklearn.metrics import roc_auc_score

from hydrakit import weights
from hydrakit.compute.devices import choose_device
from hydrakit.engine import default_out
from hydrakit.errors import PlanError
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_mlp
from hydrakit.plan import Plan, Round
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plan.results import EpochRecord, RoundResult
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.transfer import FILE
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.seeds import INITIALISATION, Seeds

SEVEN = [
    "01-alpha-all",
    "02-beta-head",
    "03-beta-all",
    "04-gamma-head",
    "05-gamma-all",
    "06-alpha-head",
    "07-alpha-all",
]


# --- the rounds and their folders


def test_hydra_runs_seven_rounds(hydra_run: RunDir) -> None:
    listed = make_plan(
        "hydra", ["alpha", "beta", "gamma", "alpha"], plugins=plugins(), profile="recommended-0.1"
    )
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
    inside = ("body.safetensors", "files.json", "head.safetensors", "metrics.jsonl", "round.json")
    inside = (*inside, FILE)
    heads = {f"heads/{name}.safetensors" for name in ("alpha", "beta", "gamma")}
    whole = {"plan.json", "environment.json", "data.json", "events.jsonl", "body.safetensors"}
    whole |= {"splits.json", "results.json", "predictions.csv", "report.html"}
    whole |= {"shown.safetensors", "files.json", "log.txt"}
    assert files == whole | heads | {f"rounds/{name}/{file}" for name in SEVEN for file in inside}


def same_weights(final: Path, of_round: Path) -> bool:
    """Whether a final file is that of a round; it has the digest of the plan besides."""
    metadata = weights.read_metadata(final)
    assert metadata.plan is not None
    return metadata.model_copy(update={"plan": None}) == weights.read_metadata(of_round)


def test_the_body_of_a_head_round_is_the_one_before_byte_for_byte(hydra_run: RunDir) -> None:
    rounds = hydra_run.path / "rounds"
    bodies = [(rounds / name / "body.safetensors").read_bytes() for name in SEVEN]
    for number, name in enumerate(SEVEN):
        if number > 0:
            assert (bodies[number] == bodies[number - 1]) is name.endswith("head"), name
    assert same_weights(hydra_run.body_path, rounds / SEVEN[-1] / "body.safetensors")


def test_the_final_heads_are_those_of_their_last_rounds(hydra_run: RunDir) -> None:
    last = {"alpha": SEVEN[6], "beta": SEVEN[2], "gamma": SEVEN[4]}
    for name, folder in last.items():
        expected = hydra_run.path / "rounds" / folder / "head.safetensors"
        assert same_weights(hydra_run.head_path(name), expected)


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
        "transfer",
        order,
        plugins=plugins(),
        epochs=1,
        bootstrap=1,
        profile="recommended-0.1",
        body_channels=[2, 2],
    )
    plan = listed.model_copy(update={"body": BODY})
    rundir = runner(plan)
    assert [path.name for path in (rundir.path / "heads").iterdir()] == ["shared.safetensors"]
    names = sorted(path.name for path in (rundir.path / "rounds").iterdir())
    assert names == ["01-alpha-all", "02-beta-all", "03-alpha-all"]
    last = rundir.path / "rounds" / "03-alpha-all" / "head.safetensors"
    assert same_weights(rundir.head_path("shared"), last)


def test_classical_is_one_round_on_the_target(runner: Runner) -> None:
    listed = make_plan(
        "classical",
        ["beta", "alpha"],
        plugins=plugins(),
        epochs=1,
        bootstrap=1,
        profile="recommended-0.1",
    )
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


# --- what is followed and chosen


def auc_of(body: Path, head: Path, cases: Any) -> float:
    model = weights.load_model(body, head, plugins=plugins())
    logits = forward_in_batches(model, cases.patches)
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
        round_of("alpha", epochs=12, learning_rate=0.03, carry_head="last"),
        round_of("beta", learning_rate=0.03),
        round_of("alpha", "head"),
    )
    rundir = runner(plan)
    first = rundir.path / "rounds" / "01-alpha-all"
    assert_reference(rundir, first / "last-head.safetensors", data=data, cache=cache)


@pytest.mark.parametrize("carried", ["best", "last"])
def test_a_head_goes_on_from_the_epoch_that_is_carried(runner: Runner, carried: str) -> None:
    plan = plan_of(
        round_of("alpha", epochs=12, learning_rate=0.03, carry_head=carried),
        round_of("alpha", "head", epochs=1, learning_rate=1e-30),  # moves no weight
    )
    rundir = runner(plan)
    assert rundir.round_result(1, plan.rounds[0]).best_epoch < 12, "the last must not be the best"
    first, second = (rundir.round_path(n, round) for n, round in enumerate(plan.rounds, start=1))
    file = "head.safetensors" if carried == "best" else "last-head.safetensors"
    begun = weights.load_head(first / file, plugins=plugins()).state_dict()
    went_on = weights.load_head(second / "head.safetensors", plugins=plugins()).state_dict()
    assert all(torch.equal(begun[name], went_on[name]) for name in begun)
    assert (first / "last-head.safetensors").exists() is (carried == "last")


def test_there_is_no_reference_where_the_target_is_not_first(runner: Runner) -> None:
    rundir = runner(plan_of(round_of("beta"), round_of("alpha")))
    results = rundir.results()
    assert results is not None
    assert [each.reference_auc for each in results.rounds] == [None, None]


def test_bootstrap_begins_with_the_start_that_does_best(
    runner: Runner, data: Path, cache: Path
) -> None:
    plan = plan_of(round_of("alpha", epochs=1, learning_rate=1e-30), bootstrap=6, seed=3)
    result = runner(plan).round_result(1, plan.rounds[0])
    assert result.bootstrap is not None
    val = load_dataset("alpha", data=data, cache=cache, seed=3).val
    aucs, starts = [], []
    for attempt in range(6):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(Seeds(3, 1).of(INITIALISATION, attempt))
            body = PaperBody(BODY, in_channels=1, dropout=0.0)
            head = build_mlp(BODY.features, 2)
        logits = forward_in_batches(head, forward_in_batches(body, val.patches))
        aucs.append(roc_auc_score(val.labels, (logits[:, 1] - logits[:, 0]).double().numpy()))
        starts.append((body, head))
    assert result.bootstrap.val_auc == pytest.approx(aucs)
    chosen = int(np.argmax(aucs))
    assert result.bootstrap.chosen == chosen
    assert 0 < chosen < 5, "choose a seed of which the first and the last start are not the best"
    # At that rate no weight moved, so the saved ones are those of the start.
    body, head = starts[chosen]
    saved = weights.load_body(runner.folder / "run" / "body.safetensors")
    assert torch.equal(saved.dense.weight, body.dense.weight)
    path = RunDir(runner.folder / "run").head_path("alpha")
    saved_head = weights.load_head(path, plugins=plugins())
    assert all(map(torch.equal, saved_head.parameters(), head.parameters()))


def test_a_watcher_is_told_everything_in_order(runner: Runner) -> None:
    told: list[str] = []

    class Listener(RunCallback):
        def preparing(self, dataset: str, cases: int) -> None:
            told.append(f"preparing {dataset} {cases}")

        def started(self, plan: Plan, rundir: RunDir, device: str) -> None:
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
        runner(plan, callbacks=[Listener()], cache=runner.folder / "cache")
    last = {name: f"preparing {name} 48" for name in ("beta", "alpha")}
    assert told.index("preparing beta 1") < told.index(last["beta"]) < told.index(last["alpha"])
    began = told.index("started on cpu")
    assert told[began + 1 :] == ["start 1/2", "start 2/2", "epoch 1.1", "epoch 1.2", "finished 1"]
    told.clear()
    runner(plan, callbacks=[Listener()], cache=runner.folder / "cache")
    assert told == ["started on cpu", "skipped 1", "epoch 2.1", "epoch 2.2", "finished 2"]


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


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of(round_of("alpha"), head="mpl"), ["unknown head 'mpl'", "'mlp'"]),
        (plan_of(round_of("alpah")), ["unknown dataset 'alpah'", "'alpha'"]),
        (
            plan_of(round_of("alpha", head="one"), round_of("delta", head="one")),
            ["head 'one'", "'alpha' (classification: ", "'delta' (", "of its own"],
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


def test_a_rule_that_no_images_of_these_channels_can_follow_is_refused(
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
    plan = edit_plan(plan, {"datasets.beta.channels": "grey"})
    refused(lambda: runner(plan, roots={"beta": mine}), "beta", "2 channels", "grey")
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
