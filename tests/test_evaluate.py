"""Evaluating a finished run, or any body and head that fit each other."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import (
    ADAPTERS,
    BODY,
    TARGET,
    Runner,
    adapter,
    new_network,
    plan_of,
    plugins,
    prepared_dataset,
    refused,
    round_of,
    run_plan,
    write_dataset,
)
from pydantic import ValidationError
from sklearn.metrics import roc_auc_score

from hydrakit import engine, weights
from hydrakit.cli import main
from hydrakit.data.augment import TEST_SEED, Views, central_view
from hydrakit.file_rules import FileRules
from hydrakit.hooks import DatasetAdapter, FieldOfView, Normalise, Window
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_linear
from hydrakit.plan import BodySpec, Dataset, Fold, Split
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.results import TestResult
from hydrakit.plugins import Plugins
from hydrakit.report.provenance import label_readings
from hydrakit.runs.evaluate import (
    EvaluationResult,
    Predictions,
    evaluate_files,
    evaluate_run,
    file_rules_notes,
    refuse_other_images,
    score,
)
from hydrakit.runs.rundir import RunDir
from hydrakit.weights.folders import networks_in
from hydrakit.weights.format import HeadMetadata, read_body, read_head, read_tensors, write_tensors


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


def test_each_reading_is_recorded_with_the_weights_that_were_read(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
    other: RunDir,
    data: Path,
    tmp_path: Path,
) -> None:
    """Of single files too, in the run of the head, if they are cases of the run."""
    head = finished.head_path("alpha")
    digests = {"body": read_body(finished.body_path).digest, "head": read_head(head).digest}
    of_run()
    of_files(finished.body_path, head)
    of_files(other.body_path, head)
    of_files(finished.body_path, head, split="all")
    readings = [
        (each.event, each.split, [pair.model_dump() for pair in each.weights])
        for each in finished.events()
        if each.event in ("test read", "evaluated")
    ]
    foreign = digests | {"body": read_body(other.body_path).digest}
    assert readings == [
        ("test read", None, [digests]),
        ("evaluated", "test", [digests]),
        ("evaluated", "test", [digests]),
        ("evaluated", "test", [foreign]),
        ("evaluated", "all", [digests]),
    ]
    entries = label_readings(finished, "alpha").entries
    assert len(entries) == 5
    assert entries[3].endswith(f", body {foreign['body'][:12]} and head {digests['head'][:12]}")
    before = (finished.path / "events.jsonl").read_bytes()
    roots = {"alpha": changed_copy(data, tmp_path / "new", exchange_images)}
    of_files(finished.body_path, head, roots=roots, split="all")  # new data of the same name
    assert (finished.path / "events.jsonl").read_bytes() == before
    assert [each.event for each in other.events()].count("evaluated") == 0
    weights.swap(finished.body_path, head, tmp_path / "copy")
    copied = of_files(*networks_in(tmp_path / "copy")[0])
    assert copied.notes[-1].endswith("so no log records this use of the test labels")


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


def test_a_support_is_evaluated_with_its_own_head_on_the_body_of_that(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
) -> None:
    evaluation = of_run(dataset="beta", split="val")
    body, head = finished.weights(finished.plan(), "beta")
    assert body.parent.parent.name == "rounds"
    files = of_files(body, head, "beta", split="val")
    assert evaluation.result == files.result
    assert evaluation.result.dataset == "beta"
    (note,) = set(evaluation.notes) - set(files.notes)
    assert f"with the body of its last round, {body}" in note
    other = of_files(finished.body_path, head, "beta", split="val")
    assert any("another body" in note for note in other.notes)


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
    assert any("training used" in note and "too high" in note for note in evaluation.notes)
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


@pytest.mark.parametrize("rule", ["dataset", Window(window=(-0.5, 2.0))], ids=str)
def test_images_are_normalised_as_in_the_training_of_the_head(
    rule: Normalise,
    runner: Runner,
    of_files: Callable[..., EvaluationResult],
    data: Path,
    cache: Path,
) -> None:
    planned = Dataset(name="alpha", split=TARGET, normalise=rule)
    run = runner(plan_of(round_of("alpha"), datasets=(planned,)))
    results, head = run.results(), weights.read_metadata(run.head_path("alpha"))
    assert results is not None
    assert isinstance(head, weights.HeadMetadata)
    grey, words = head.preprocessing.grey_values, head.preprocessing.normalisation
    if rule == "dataset":
        with np.load(data / "alpha" / "cases.npz") as stored:
            inside = [run.splits()["alpha"][f"c{n:03d}"] == "train" for n in range(48)]
            training = stored["images"][inside].astype(float)
        assert grey.mean == pytest.approx((training.mean(),))
        assert grey.deviation == pytest.approx((training.std(),))
        assert words.startswith("z-score by mean ")
    else:
        assert (grey.normalise, words) == (rule, "window -0.5 to 2")
    shown = CliRunner().invoke(main, ["weights", "inspect", str(run.head_path("alpha"))])
    assert f"normalisation {words}" in shown.output
    places: dict[str, Any] = {"roots": {}, "device": "cpu", "cache": cache, "plugins": plugins()}
    evaluation = evaluate_run(run.path, **places)
    assert (evaluation.result, evaluation.notes) == (results.test, ())
    # The dataset itself has the rule patient, here and after its rule was changed.
    files = run.body_path, run.head_path("alpha")
    for own, name in (("patient", "z-score per patient"), ("none", "none (values as they are)")):
        changed = [replace(each, normalise=own) for each in ADAPTERS]
        found = of_files(*files, plugins=plugins().including(*changed))
        assert found.result == results.test
        (note,) = found.notes
        assert "'alpha' are normalised as in the head's training" in note
        assert f"({words})" in note
        assert name in note
    notes = of_files(*files, "beta", split="all").notes
    assert any("'beta' are normalised as in the head's training" in note for note in notes)


def test_another_normalisation_than_that_of_the_finished_rounds_is_refused(
    runner: Runner,
) -> None:
    plan = plan_of(round_of("alpha"))
    run = runner(plan)
    assert "normalise" not in (run.path / "data.json").read_text()  # as earlier versions wrote it
    changed = [replace(each, normalise="image") for each in ADAPTERS]
    refused(
        lambda: runner(plan, plugins=plugins().including(*changed)),
        "alpha: the data has changed since the run",
        "normalisation of its grey values was z-score per patient and is z-score per image",
        "another `--out`",
    )


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
        "the data has changed",
        "--split all",
    )


# --- the data is what the weights came from, or it is refused


def with_adapter(*changed: DatasetAdapter) -> Plugins:
    """The plugins of the tests, with some datasets replaced or added."""
    names = {each.name for each in changed}
    others = [each for each in ADAPTERS if each.name not in names]
    base = plugins()
    return replace(
        base,
        components={
            **base.components,
            "dataset": {each.name: each for each in (*others, *changed)},
        },
    )


def changed_copy(data: Path, folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of alpha's folder whose arrays were changed."""
    with np.load(data / "alpha" / "cases.npz") as stored:
        arrays = dict(stored)
    change(arrays)
    folder.mkdir()
    np.savez(folder / "cases.npz", **arrays)
    return folder


def flip_labels(arrays: dict[str, Any]) -> None:
    arrays["labels"] = 1 - arrays["labels"]


def exchange_images(arrays: dict[str, Any]) -> None:
    arrays["images"] = arrays["images"][::-1]


def merge_patients(arrays: dict[str, Any]) -> None:
    arrays["patients"] = arrays["patients"] // 2


def drop_cases(arrays: dict[str, Any]) -> None:
    arrays.update({name: values[:-2] for name, values in arrays.items()})


TURNED = adapter("alpha", ("malignant", "benign"))
RENAMED = adapter("alpha", ("healthy", "melanoma"))
SMALLER_VIEW = replace(adapter("alpha"), field_of_view=FieldOfView(share=0.3))


def test_classes_in_another_order_are_matched_by_name(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
    data: Path,
    tmp_path: Path,
) -> None:
    results = finished.results()
    assert results is not None
    roots = {"alpha": changed_copy(data, tmp_path / "turned", flip_labels)}
    given: dict[str, Any] = {"roots": roots, "plugins": with_adapter(TURNED)}
    files = finished.body_path, finished.head_path("alpha")
    for evaluation in (of_run(**given), of_files(*files, **given), of_files(*files, None, **given)):
        assert evaluation.result == results.test
        (note,) = evaluation.notes
        assert "malignant, benign" in note
        assert "matched by name" in note
    # The same file of labels under the new order is another one.
    refused(lambda: of_run(plugins=with_adapter(TURNED)), "alpha: the data has changed", "--body")


def test_classes_with_other_names_are_refused_unless_the_user_says_which_is_which(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
) -> None:
    body, head = finished.body_path, finished.head_path("alpha")
    given: dict[str, Any] = {"plugins": with_adapter(RENAMED)}
    words = [str(head), "benign, malignant", "'alpha' has healthy, melanoma", "`--classes healthy,"]
    refused(lambda: of_run(**given), *words)
    refused(lambda: of_files(body, head, split="all", **given), *words)
    results = finished.results()
    assert results is not None
    named = of_run(classes=["healthy", "melanoma"], **given)
    assert named.result.figures == results.test.figures
    assert named.result.classes[0].class_name == "melanoma"
    assert any("are taken for the classes healthy, melanoma" in note for note in named.notes)
    # The other way round is other data for a run, and other metrics for weights.
    refused(lambda: of_run(classes=["melanoma", "healthy"], **given), "the data has changed")
    turned = of_files(body, head, split="all", classes=["melanoma", "healthy"], **given)
    straight = of_files(body, head, split="all", classes=["healthy", "melanoma"], **given)
    assert turned.result.figures.auc == pytest.approx(1 - straight.result.figures.auc)
    # Unchanged data stays unchanged data, whatever the outputs are taken for.
    for evaluate in (of_run, partial(of_files, body, head, split="all")):
        plain, exchanged = evaluate(), evaluate(classes=["malignant", "benign"])
        assert exchanged.result.figures.auc == pytest.approx(1 - plain.result.figures.auc)
    for wrong in (["healthy"], ["healthy", "healthy"], ["healthy", "malignant"]):
        refused(lambda wrong=wrong: of_run(classes=wrong, **given), "--classes", "each of them")


@pytest.mark.parametrize("change", [flip_labels, exchange_images, merge_patients, drop_cases])
def test_changed_data_is_refused(
    change: Callable[[dict[str, Any]], object],
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
    data: Path,
    tmp_path: Path,
) -> None:
    roots = {"alpha": changed_copy(data, tmp_path / "changed", change)}
    files = finished.body_path, finished.head_path("alpha")
    words = ["alpha: the data has changed since", "restore the data", "--split all"]
    before = (finished.path / "events.jsonl").read_bytes()
    refused(lambda: of_run(roots=roots), *words, str(finished.path))
    assert (finished.path / "events.jsonl").read_bytes() == before
    for split in ("train", "val", "test"):
        refused(lambda split=split: of_files(*files, split=split, roots=roots), *words)
    evaluation = of_files(*files, split="all", roots=roots)  # as new data
    assert any(re.search(r"training used \d+ of these", note) for note in evaluation.notes)


def test_a_head_keeps_the_field_of_view_of_its_training(
    of_run: Callable[..., EvaluationResult],
    of_files: Callable[..., EvaluationResult],
    finished: RunDir,
) -> None:
    given: dict[str, Any] = {"plugins": with_adapter(SMALLER_VIEW)}
    assert of_run(**given) == of_run()
    files = finished.body_path, finished.head_path("alpha")
    for split in ("test", "all"):
        assert of_files(*files, split=split, **given) == of_files(*files, split=split)
    beta = replace(adapter("beta"), field_of_view=FieldOfView(share=0.3))
    notes = of_files(*files, "beta", split="all", plugins=with_adapter(beta)).notes
    assert any("field of view of 'beta' is 0.3 of the image" in note for note in notes)


def test_other_rules_for_files_than_those_of_the_training_are_noted(finished: RunDir) -> None:
    head = read_head(finished.head_path("alpha"))

    def trained(rules: FileRules | None) -> HeadMetadata:
        needed = head.preprocessing.model_copy(update={"file_rules": rules})
        text = head.model_copy(update={"preprocessing": needed}).model_dump_json()
        again = HeadMetadata.model_validate_json(text)
        assert again.preprocessing.file_rules == rules
        return again

    def notes(before: FileRules | None, now: FileRules | None) -> list[str]:
        return list(file_rules_notes(trained(before), replace(adapter("beta"), file_rules=now)))

    window = FileRules(window=(40, 400), plane="coronal", spacing=(0.5, 0.5))
    assert notes(window, replace(window, spacing=None, axes="RAS", masks="cases")) == []
    assert notes(None, window) == notes(window, None) == []
    (note,) = notes(FileRules(), window)
    assert "'beta' are read by its own rules (window 40/400 (centre/width), coronal plane)" in note
    assert "by others (by default)" in note
    paths = [Path("first"), Path("second")]
    for other in (None, window):  # an older head does not say its rules
        refuse_other_images(paths, [trained(other), trained(window)])
    heads = [trained(window), trained(FileRules(window="file", rescale=True))]
    words = "second: its rules for files (window of the file, rescaled) is another than"
    refused(lambda: refuse_other_images(paths, heads), words)
    for wrong in (
        '{"slices": 2}',
        '{"window": [40, 0]}',
        '{"colour": "luma"}',
        '{"spacing": [0, 1]}',
    ):
        text = (
            trained(FileRules())
            .model_dump_json()
            .replace('"file_rules":{}', f'"file_rules":{wrong}')
        )
        with pytest.raises(ValidationError, match="file_rules"):
            HeadMetadata.model_validate_json(text)


def test_a_field_of_view_of_the_plan_is_that_of_its_heads(
    runner: Runner, of_files: Callable[..., EvaluationResult], finished: RunDir
) -> None:
    plan = plan_of(round_of("beta", epochs=1), round_of("alpha", epochs=1))
    half = {f"datasets.{name}.field_of_view.share": 0.5 for name in ("alpha", "beta")}
    run = runner(edit_plan(plan, half), "half")
    whole = runner(plan, "whole")
    results, facts = run.results(), run.facts()
    assert results is not None
    assert facts is not None
    assert facts["alpha"].field_of_view == facts["beta"].field_of_view == FieldOfView(share=0.5)
    assert facts["alpha"].digest != (whole.facts() or {})["alpha"].digest
    assert run.splits() == whole.splits()
    files = run.body_path, run.head_path("alpha")
    places: dict[str, Any] = {"roots": {}, "device": "cpu", "cache": runner.cache}
    of_run = evaluate_run(run.path, plugins=plugins(), **places)
    assert of_run.result == of_files(*files).result == results.test
    assert of_run.notes == of_files(*files).notes == ()
    beta = evaluate_run(run.path, dataset="beta", split="val", plugins=plugins(), **places)
    pair = run.weights(run.plan(), "beta")
    assert beta.result == of_files(*pair, "beta", split="val").result
    # On a body that saw whole images, the head still gets the middle of its images.
    swapped = of_files(finished.body_path, run.head_path("alpha"))
    assert swapped.result.images == results.test.images
    assert any("trained on another body" in note for note in swapped.notes)
    # Images of another dataset are seen as that dataset says.
    (note,) = (n for n in of_files(*files, "gamma", split="all").notes if "field of view" in n)
    assert "'gamma' is 1 of the image, and that of the head's training was 0.5" in note
    (run.path / "shown.safetensors").unlink()
    report = engine.report(run.path, data=runner.data, cache=runner.cache, plugins=plugins())
    assert report.no_examples is None
    assert runner(run.plan(), "half").path == run.path  # a finished run goes on as it is


def test_predictions_are_averaged_over_views_as_the_plan_says(
    runner: Runner, of_files: Callable[..., EvaluationResult]
) -> None:
    plan = plan_of(round_of("beta", epochs=1), round_of("alpha", epochs=1))
    plan = edit_plan(plan, {"rounds.all.transforms.rotation": 90, "rounds.all.transforms.noise": 1})
    alone = runner(plan, "alone")
    several = runner(edit_plan(plan, {"test_views": 4, "datasets.alpha.flips": ""}), "several")
    results = several.results()
    assert results is not None
    head = read_head(several.head_path("alpha"))
    table = plan.rounds[-1].hyperparameters.transforms.model_copy(update={"flips": ()})
    assert head.views == weights.AveragedViews(count=4, table=table)
    assert read_head(alone.head_path("alpha")).views is None
    # By hand: the mean of the probabilities for the patch and three views of it.
    cases = prepared_dataset("alpha", data=runner.data, cache=runner.cache)
    with (several.path / "predictions.csv").open(newline="") as file:
        rows = {row["key"]: float(row["p_malignant"]) for row in csv.DictReader(file)}
    places = [n for n, case in enumerate(cases.index.cases) if case.key in rows]
    canvas = torch.from_numpy(cases.rows(places))
    model = weights.load_model(several.body_path, several.head_path("alpha"), plugins=plugins())
    generator = torch.Generator().manual_seed(TEST_SEED)
    drawn = Views.draw(3, generator, table.model_copy(update={"noise": 0.0}))
    seen = [central_view(canvas, BODY.patch)]
    seen += [drawn[torch.full((len(canvas),), n)].of(canvas, BODY.patch) for n in range(3)]
    with torch.no_grad():
        mean = torch.stack([model(each).softmax(dim=1)[:, 1] for each in seen]).mean(dim=0)
    expected = [rows[cases.index.cases[place].key] for place in places]
    assert mean.tolist() == pytest.approx(expected, abs=1e-5)
    # Both ways of evaluation do the same, and training and the rounds do not know of it.
    given: dict[str, Any] = {"roots": {}, "device": "cpu", "cache": runner.cache}
    again = evaluate_run(several.path, plugins=plugins(), **given)
    assert again.result == results.test
    assert of_files(several.body_path, several.head_path("alpha")).result == results.test
    reads = [json.loads(line) for line in (several.path / "events.jsonl").read_text().splitlines()]
    assert [each["by"] for each in reads if each["event"] == "test read"] == ["results"]


def test_a_head_without_augmentation_predicts_from_the_patch_alone(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", epochs=1, augmentation="none"))
    runs = [runner(edit_plan(plan, {"test_views": n}), f"views-{n}") for n in (1, 3)]
    first, second = ((run.path / "predictions.csv").read_bytes() for run in runs)
    assert first == second


def test_a_report_shows_no_patches_of_other_data(
    finished: RunDir, data: Path, cache: Path, tmp_path: Path
) -> None:
    (finished.path / "shown.safetensors").unlink()
    roots = {"alpha": changed_copy(data, tmp_path / "changed", exchange_images)}
    given: dict[str, Any] = {"cache": cache, "plugins": plugins()}
    written = engine.report(finished.path, roots=roots, **given)
    assert written.no_examples is not None
    assert "alpha: the data has changed since the run" in written.no_examples
    assert not (finished.path / "shown.safetensors").exists()
    assert "</html>" in written.path.read_text(encoding="utf-8")
    assert engine.report(finished.path, **given).no_examples is None
    shown = (finished.path / "shown.safetensors").read_bytes()
    # Classes in another order do not matter: the pictures are the same.
    (finished.path / "shown.safetensors").unlink()
    given["plugins"] = with_adapter(TURNED)
    roots = {"alpha": changed_copy(data, tmp_path / "turned", flip_labels)}
    assert engine.report(finished.path, roots=roots, **given).no_examples is None
    assert (finished.path / "shown.safetensors").read_bytes() == shown


# --- cases that training used are recognised by their images and their cohort


def test_a_renamed_dataset_is_recognised_by_its_images(
    of_files: Callable[..., EvaluationResult], finished: RunDir, data: Path, tmp_path: Path
) -> None:
    files = finished.body_path, finished.head_path("alpha")
    splits = Counter(finished.splits()["alpha"].values())
    used = splits["train"] + splits["val"]
    given: dict[str, Any] = {"split": "all", "plugins": with_adapter(adapter("renamed"))}
    notes = of_files(*files, "renamed", roots={"renamed": data / "alpha"}, **given).notes
    assert any(f"training used {used} of these 48 cases" in note for note in notes)
    # New images under the name of a dataset of the training were not used.
    write_dataset(tmp_path / "new", seed=50)
    notes = of_files(*files, "renamed", roots={"renamed": tmp_path / "new"}, **given).notes
    assert not any("training used" in note for note in notes)
    assert of_files(*files, split="all", roots={"alpha": tmp_path / "new"}).notes == ()


def test_another_dataset_of_the_cohort_is_recognised(
    runner: Runner, of_files: Callable[..., EvaluationResult], data: Path
) -> None:
    ward = with_adapter(
        *(replace(adapter(name), cohort="Ward 7") for name in ("alpha", "beta")), adapter("gamma")
    )
    run = runner(plan_of(round_of("alpha", epochs=1)), plugins=ward)
    files = run.body_path, run.head_path("alpha")
    assert b"Ward 7" not in files[0].read_bytes() + files[1].read_bytes()
    notes = of_files(*files, "beta", split="all", plugins=ward).notes
    assert any("training used 'alpha', of the same cohort 'Ward 7'" in note for note in notes)
    notes = of_files(*files, "gamma", split="all", plugins=ward).notes
    assert not any("training used" in note for note in notes)
    assert of_files(*files, plugins=ward).notes == ()
    # Other images under the same name may be of the same patients.
    notes = of_files(*files, split="all", plugins=ward, roots={"alpha": data / "beta"}).notes
    assert any("of the same cohort 'Ward 7'" in note for note in notes)


def test_files_without_the_cases_of_training_are_judged_by_name(
    of_files: Callable[..., EvaluationResult], finished: RunDir, tmp_path: Path
) -> None:
    files = []
    for path in (finished.body_path, finished.head_path("alpha")):
        metadata = weights.read_metadata(path)
        old = metadata.model_copy(update={"cases": None, "content": None})
        files.append(tmp_path / path.name)
        write_tensors(files[-1], read_tensors(path, metadata.digest), old)
    (note,) = of_files(*files, split="all").notes
    assert "training used cases of 'alpha'" in note
    assert "by the names of the datasets" in note
    (note,) = of_files(*files).notes
    assert "no log records this use" in note
    write_dataset(tmp_path / "other", seed=50)
    given: dict[str, Any] = {"data": tmp_path, "plugins": with_adapter(adapter("other"))}
    notes = of_files(*files, "other", split="all", **given).notes
    assert any("training did not use these cases (by the names" in note for note in notes)


# --- folders of weights, and bodies with statistics for each dataset


def test_the_folder_of_swap_is_evaluated(
    finished: RunDir, standin: Path, data: Path, cache: Path
) -> None:
    weights.swap(finished.body_path, finished.head_path("alpha"), standin / "swapped")
    result = CliRunner().invoke(main, ["evaluate", "swapped", "--json", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    results = finished.results()
    assert results is not None
    assert (
        TestResult.model_validate(
            {k: v for k, v in json.loads(result.stdout).items() if k != "notes"}
        )
        == results.test
    )
    both = ["evaluate", "swapped", "--body", "swapped/body.safetensors"]
    assert CliRunner().invoke(main, both).exit_code == 2


def test_a_body_without_statistics_of_a_dataset_is_refused(
    runner: Runner, of_files: Callable[..., EvaluationResult], finished: RunDir, tmp_path: Path
) -> None:
    separate = BODY.model_copy(update={"norm": "dataset"})
    plan = plan_of(round_of("beta", epochs=1), round_of("alpha", epochs=1), body=separate)
    run = runner(plan, "separate")
    words = [str(run.body_path), "statistics for beta, alpha", "none for 'gamma'"]
    gamma = finished.head_path("gamma")
    refused(lambda: weights.load_model(run.body_path, gamma, plugins=plugins()), *words)
    refused(lambda: weights.swap(run.body_path, gamma, tmp_path / "swapped"), *words)
    refused(lambda: of_files(run.body_path, gamma, "gamma", split="all"), *words)
    alpha = run.head_path("alpha")
    refused(lambda: of_files(run.body_path, alpha, "gamma", split="all"), *words)
    # The images decide which statistics are used, not the head.
    model = weights.load_model(run.body_path, alpha, dataset="beta", plugins=plugins())
    own = weights.load_model(run.body_path, alpha, plugins=plugins())
    images = torch.randn(4, 1, BODY.patch, BODY.patch, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(model(images), own(images))
    expected = weights.load_body(run.body_path, plugins=plugins())
    expected.use("beta")
    head = weights.load_head(alpha, plugins=plugins())
    assert torch.equal(model(images), head(expected(images)))
