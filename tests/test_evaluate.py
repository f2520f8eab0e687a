"""Evaluating a finished run, or any body and head that fit each other."""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    Runner,
    new_network,
    plan_of,
    plugins,
    refused,
    round_of,
    run_plan,
    write_dataset,
)
from sklearn.metrics import roc_auc_score

from hydrakit import weights
from hydrakit.hooks import FieldOfView
from hydrakit.models.heads import build_linear
from hydrakit.plan import BodySpec, Dataset, Fold, Split
from hydrakit.runs.evaluate import (
    EvaluationResult,
    Predictions,
    evaluate_files,
    evaluate_run,
    score,
)
from hydrakit.runs.rundir import RunDir


@pytest.fixture
def finished(tmp_path: Path, hydra_run: RunDir) -> RunDir:
    """A copy of the finished run, which evaluating may write to."""
    shutil.copytree(hydra_run.path, tmp_path / "run")
    return RunDir(tmp_path / "run")


@pytest.fixture
def other(tmp_path: Path, data: Path, cache: Path) -> RunDir:
    """A run with another seed, so with other splits and another body."""
    plan = plan_of(round_of("beta"), round_of("alpha"), seed=5)
    return run_plan(plan, tmp_path / "other", data=data, cache=cache)


@pytest.fixture
def of_run(finished: RunDir, cache: Path) -> Callable[..., EvaluationResult]:
    def of_run(**given: Any) -> EvaluationResult:
        more = {"roots": {}, "device": "cpu", "cache": cache, "plugins": plugins()}
        return evaluate_run(finished.path, **(more | given))

    return of_run


@pytest.fixture
def of_files(data: Path, cache: Path) -> Callable[..., EvaluationResult]:
    def of_files(body: Path, head: Path, dataset: str = "alpha", **given: Any) -> EvaluationResult:
        more = {"device": "cpu", "cache": cache, "plugins": plugins(), "dataset": dataset}
        return evaluate_files(body, head, **({"data": data} | more | given))

    return of_files


def test_the_test_split_gives_the_run_s_own_result(
    of_run: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    results = finished.results()
    assert results is not None
    evaluation = of_run()
    assert evaluation.result == results.test
    assert evaluation.notes == ()
    last = json.loads((finished.path / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["dataset"], last["split"]) == ("evaluated", "alpha", "test")


@pytest.mark.parametrize("split", ["train", "val", "test", "all"])
def test_the_files_alone_give_what_the_run_gives(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
    split: str,
) -> None:
    body, head = finished.body_path, finished.head_path("alpha")
    assert of_files(body, head, split=split) == of_run(split=split)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_the_files_of_a_fold_that_used_half_give_what_its_run_gives(
    split: str, runner: Runner, of_files: Callable[..., EvaluationResult]
) -> None:
    half = Split(train=3, val=1, fold=Fold(index=1, count=3), used=0.5)
    plan = plan_of(round_of("alpha"), datasets=(Dataset(name="alpha", split=half),))
    run = runner(plan)
    facts = run.facts()
    assert facts is not None
    assert facts["alpha"].unused == Counter(run.splits()["alpha"].values())["unused"] > 0
    places: dict[str, Any] = {"roots": {}, "device": "cpu", "cache": runner.cache}
    of_run = evaluate_run(run.path, split=split, plugins=plugins(), **places)
    assert of_files(run.body_path, run.head_path("alpha"), split=split) == of_run


def test_the_val_split_is_the_one_of_training(
    of_run: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    evaluation = of_run(split="val")
    with (finished.path / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    labels = [row["label"] == "malignant" for row in rows]
    scores = [float(row["p_malignant"]) for row in rows]
    assert evaluation.result.figures.auc == pytest.approx(roc_auc_score(labels, scores))
    assert evaluation.result.classes[0].positives == sum(labels)
    assert any("val split was used in training" in note for note in evaluation.notes)


def test_all_cases_are_all_cases_and_flatter(of_run: Callable[..., EvaluationResult]) -> None:
    evaluation = of_run(split="all")
    (area,) = evaluation.result.classes
    assert area.positives + area.negatives == 48
    assert any("too high" in note for note in evaluation.notes)


def test_a_support_is_evaluated_with_its_own_head_on_the_last_body(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
) -> None:
    evaluation = of_run(dataset="beta", split="val")
    files = of_files(finished.body_path, finished.head_path("beta"), "beta", split="val")
    assert evaluation == files
    assert evaluation.result.dataset == "beta"
    assert any("another body" in note for note in evaluation.notes)


def test_a_support_has_no_test_split(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
) -> None:
    remedy = ["beta: had no test split", "--split val", "--split all"]
    refused(lambda: of_run(dataset="beta"), *remedy)
    refused(lambda: of_files(finished.body_path, finished.head_path("beta"), "beta"), *remedy)


def test_a_head_of_one_run_on_the_body_of_another_works_and_is_said(
    of_files: Callable[..., EvaluationResult], finished: RunDir, other: RunDir
) -> None:
    evaluation = of_files(other.body_path, finished.head_path("alpha"))
    assert any("trained on another body" in note for note in evaluation.notes)
    assert any("with another split" in note for note in evaluation.notes)
    own = of_files(finished.body_path, finished.head_path("alpha"))
    assert own.notes == ()
    # Which cases: those of the head's run. What they get: from the two together.
    assert own.result.classes[0].positives == evaluation.result.classes[0].positives
    assert own.result.figures.loss != evaluation.result.figures.loss


def test_a_head_on_another_dataset_reads_its_classes_in_order(
    of_files: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    body, head = finished.body_path, finished.head_path("alpha")
    evaluation = of_files(body, head, "beta", split="all")
    assert evaluation.result.dataset == "beta"
    assert any("head was trained on 'alpha'" in note for note in evaluation.notes)
    refused(lambda: of_files(body, head, "beta"), str(head), "'beta'", "--split all")


def test_new_data_of_a_dataset_that_nothing_was_trained_on(
    of_files: Callable[..., EvaluationResult], finished: RunDir, tmp_path: Path
) -> None:
    write_dataset(tmp_path / "new", seed=50)
    body, head = finished.body_path, finished.head_path("gamma")
    new = of_files(body, head, "gamma", split="all", roots={"gamma": tmp_path / "new"})
    old = of_files(body, head, "gamma", split="all")
    assert new.result.figures != old.result.figures


def test_a_head_of_other_classes_is_refused(
    of_files: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    head = finished.head_path("alpha")
    words = [str(head), "2 classes", "'delta' has 3", "choose"]
    refused(lambda: of_files(finished.body_path, head, "delta", split="all"), *words)


def test_a_head_of_other_features_is_refused(
    of_files: Callable[..., EvaluationResult], finished: RunDir, tmp_path: Path
) -> None:
    body, _ = new_network()
    path = tmp_path / "head.safetensors"
    weights.save_head(
        path,
        build_linear(9, 2),
        body=weights.body_digest(body),
        features=9,
        dataset="alpha",
        classes=("benign", "malignant"),
        factory="linear",
        preprocessing=weights.Preprocessing(
            patch=16,
            channels=1,
            field_of_view=FieldOfView(share=1.0),
            normalisation="z-score per patient",
        ),
    )
    words = [str(path), str(finished.body_path), "9 features", "8", "choose another"]
    refused(lambda: of_files(finished.body_path, path, split="all"), *words)
    # Nor does it tell how its dataset was split.
    refused(lambda: of_files(finished.body_path, path), str(path), "'alpha'", "--split all")


def test_images_of_other_channels_are_refused(
    of_files: Callable[..., EvaluationResult], finished: RunDir, data: Path, tmp_path: Path
) -> None:
    with np.load(data / "alpha" / "cases.npz") as stored:
        arrays = dict(stored)
    arrays["images"] = np.stack([arrays["images"]] * 3, axis=1)
    np.savez(tmp_path / "cases.npz", **arrays)
    body, head = finished.body_path, finished.head_path("alpha")
    words = [str(body), "1 channels", "'alpha' have 3"]
    refused(lambda: of_files(body, head, roots={"alpha": tmp_path}), *words)


def test_unknown_datasets_and_unfinished_runs_are_refused(
    of_run: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    refused(lambda: of_run(dataset="bata"), str(finished.path), "unknown dataset 'bata'", "'beta'")
    finished.results_path.unlink()
    refused(of_run, str(finished.path), "not finished", "--resume")


def test_a_run_whose_data_has_moved_is_told_where(
    of_run: Callable[..., EvaluationResult], finished: RunDir, data: Path, tmp_path: Path
) -> None:
    path = finished.path / "environment.json"
    environment = json.loads(path.read_text())
    environment["roots"]["alpha"] = str(tmp_path / "gone")
    path.write_text(json.dumps(environment))
    refused(of_run, "alpha: no folder", str(tmp_path / "gone"))
    results = finished.results()
    assert results is not None
    assert of_run(roots={"alpha": data / "alpha"}).result == results.test
    path.unlink()
    refused(of_run, "alpha: no folder")


def test_options_are_those_of_training_unless_given(
    of_files: Callable[..., EvaluationResult], data: Path, cache: Path, tmp_path: Path
) -> None:
    plan = plan_of(round_of("alpha"))
    dataset = plan.datasets[0].model_copy(update={"options": {"gain": 2.0}})
    plan = plan.model_copy(update={"datasets": (dataset,)})
    rundir = run_plan(plan, tmp_path / "gained", data=data, cache=cache)
    head = weights.read_metadata(rundir.head_path("alpha"))
    assert isinstance(head, weights.HeadMetadata)
    assert head.options == {"gain": 2.0}
    results = rundir.results()
    assert results is not None
    files = rundir.body_path, rundir.head_path("alpha")
    assert of_files(*files).result == results.test
    # z-scores take a positive factor back; a negative one turns the images over.
    turned = of_files(*files, options={"gain": -1.0})
    assert turned.result.figures != results.test.figures


def test_a_class_without_a_case_has_no_auc() -> None:
    none = Predictions(
        dataset="alpha",
        split="test",
        classes=("benign", "malignant"),
        keys=("a", "b"),
        labels=np.array([0, 0]),
        outputs=np.zeros((2, 2)),
    )
    refused(lambda: score(none), "alpha", "'malignant'", "'test'")


def test_a_body_of_another_patch_does_not_take_the_head(
    of_files: Callable[..., EvaluationResult], finished: RunDir, tmp_path: Path
) -> None:
    from hydrakit.models.body import PaperBody

    body = PaperBody(BodySpec(channels=(4, 8), features=8, patch=17), in_channels=1, dropout=0.0)
    weights.save_body(tmp_path / "body.safetensors", body)
    head = finished.head_path("alpha")
    words = [str(head), "16 pixels", "17"]
    refused(lambda: of_files(tmp_path / "body.safetensors", head), *words)


def test_a_run_leaves_out_contradictory_cases_and_its_files_alone_give_its_split(
    runner: Runner, tmp_path: Path
) -> None:
    data = tmp_path / "copied"
    write_dataset(data / "alpha", seed=9)
    with np.load(data / "alpha" / "cases.npz") as stored:
        whole = dict(stored)
    twins = slice(0, 24, 4)  # the same images under other patients, with the other label
    stored = {name: np.concatenate([values, values[twins]]) for name, values in whole.items()}
    stored["patients"][len(whole["patients"]) :] += 500
    stored["labels"][len(whole["patients"]) :] ^= 1
    np.savez(data / "alpha" / "cases.npz", **stored)
    refused(lambda: runner(plan_of(round_of("alpha")), data=data), "--conflicts drop")
    rundir = runner(plan_of(round_of("alpha"), conflicts="drop"), "dropped", data=data)
    facts = rundir.facts()
    assert facts is not None
    keys = [key for key, split in rundir.splits()["alpha"].items() if split == "conflicting"]
    assert sorted(facts["alpha"].conflicting) == sorted(keys)
    assert len(keys) == 12
    assert sum(facts["alpha"].cases.values()) == len(whole["patients"]) - 6
    page = rundir.report_path.read_text()
    assert "Contradictory labels" in page
    assert all(f"<li>{key}</li>" in page for key in keys)
    assert "12 cases have a copy with another label" in (rundir.path / "log.txt").read_text()
    head = rundir.head_path("alpha")
    again = evaluate_files(
        rundir.body_path, head, device="cpu", cache=runner.cache, plugins=plugins(), data=data
    )
    results = rundir.results()
    assert results is not None
    assert again.result == results.test


@pytest.mark.parametrize("copies", ["group", "drop", "report"])
def test_files_alone_give_the_split_of_the_run_or_are_refused(
    copies: str, runner: Runner, tmp_path: Path
) -> None:
    data = tmp_path / "copied"
    write_dataset(data / "alpha", seed=9)
    with np.load(data / "alpha" / "cases.npz") as stored:
        whole = dict(stored)
    twins = slice(0, 48, 4)  # the same images under other patients
    stored = {name: np.concatenate([values, values[twins]]) for name, values in whole.items()}
    stored["patients"][len(whole["patients"]) :] += 500
    np.savez(data / "alpha" / "cases.npz", **stored)
    rundir = runner(plan_of(round_of("alpha"), copies=copies), data=data)
    results = rundir.results()
    assert results is not None
    head = rundir.head_path("alpha")
    places: dict[str, Any] = {"device": "cpu", "cache": runner.cache, "plugins": plugins()}
    again = evaluate_files(rundir.body_path, head, data=data, **places)
    assert again.result == results.test
    np.savez(data / "alpha" / "cases.npz", **whole)
    refused(
        lambda: evaluate_files(rundir.body_path, head, data=data, **places),
        str(head),
        "cannot be reconstructed",
        "--split all",
    )
