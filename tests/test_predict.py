"""Prediction: the command, its CSV, and the same from Python."""

from __future__ import annotations

import csv
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from declaring import declare
from helpers import adapter, plan_of, plugins, refused, round_of, run_plan
from killing import COMMAND
from PIL import Image
from sklearn.metrics import roc_auc_score

import hydrakit
from hydrakit import weights
from hydrakit.cli import main
from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.quality.foreign import foreign_values
from hydrakit.data.read import LoadedSample
from hydrakit.errors import DataError, HydrakitError
from hydrakit.export.model import export_model
from hydrakit.file_rules import FileRules
from hydrakit.hooks import DatasetAdapter, FieldOfView, NoOptions, Sample, Window
from hydrakit.plan.grey import GreyValues
from hydrakit.report.saliency import SaliencyPictures
from hydrakit.rounds import Transforms
from hydrakit.runs.context import RunContext
from hydrakit.runs.evaluate import evaluate_files, evaluate_run
from hydrakit.runs.model import Model, load_model
from hydrakit.runs.predict import (
    cases_in_files,
    cases_of_dataset,
    figures_of,
    predict_to_csv,
    read_labels,
)
from hydrakit.runs.predicted import Rule
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.decisions import calibrated, fit_decision, prediction_sets
from hydrakit.storage.files import read_rows
from hydrakit.storage.lock import locked
from hydrakit.weights.files import set_decision


def own_predictions(run: RunDir, data: Path, out: Path, **more: Any) -> list[dict[str, str]]:
    """What `predict` says about the target of a run."""
    model = load_model(run.path, plugins=more.get("plugins") or plugins())
    context = RunContext(data=data)
    name = run.plan().target
    source = cases_of_dataset(model, name, context, more.get("plugins") or plugins())
    predict_to_csv(model, source, out, rule=Rule.of(model.task, model.classes, None))
    return read_rows(out)


def equals_its_own(run: RunDir, data: Path, out: Path, **more: Any) -> None:
    """Probabilities and classes are those of the run's predictions.csv."""
    rows = {row["key"]: row for row in own_predictions(run, data, out, **more)}
    theirs = read_rows(run.path / "predictions.csv")
    assert theirs
    columns = [name for name in theirs[0] if name.startswith("p_")] or ["predicted"]
    for line in theirs:
        row = rows[line["key"]]
        assert row["reason"] == ""
        assert [float(row[c]) for c in columns] == pytest.approx(
            [float(line[c]) for c in columns], abs=1e-6
        )
        if "p_" in columns[0]:
            assert row["predicted"] == line["predicted"]


def test_a_run_predicts_its_own_split_as_it_did(
    hydra_run: RunDir, data: Path, tmp_path: Path
) -> None:
    equals_its_own(hydra_run, data, tmp_path / "out.csv")


def pictures(channels: int, *, task: str = "classification", millimetres: bool = False) -> Any:
    """A stand-in with positions, patients of several images, spacing and several channels."""

    def read(root: Path, options: Any) -> Iterator[Sample]:
        random = np.random.default_rng(3)
        for number in range(60):
            image = random.normal(20, 5, size=(channels, 30, 26)).astype(np.float32)
            image[:, 10:20, 8:18] += 6 * (number % 2)
            label: Any = {
                "multilabel": (number % 2, int(number % 3 == 0) if number % 5 else None),
                "regression": number * 1.5,
            }
            yield Sample(
                image=image,
                label=label.get(task, number % 2),
                patient=f"p{number // 3 * 2 + number % 2}",
                key=f"c{number}",
                centre=(14.0, 13.0) if number % 3 else None,
                spacing=(0.5, 0.6),
                finding=f"f{number // 2}" if number % 4 == 3 else None,
            )

    classes = {"multilabel": ("bright", "third"), "regression": ("size",)}
    view = FieldOfView(millimetres=9) if millimetres else FieldOfView(share=0.8)
    base = adapter("alpha", classes.get(task, ("benign", "malignant")))
    return replace(base, read=read, options=NoOptions, task=task, field_of_view=view)  # type: ignore[arg-type]


FILES = """
classes = ["benign", "malignant"]
field_of_view = { share = 0.8 }
normalise = "image"
cases = "cases.csv"
spacing = [0.5, 0.5]
[images]
plane = "coronal"
slices = 3
window = [40, 100]
axes = "RAS"
"""


def volumes(folder: Path) -> DatasetAdapter:
    """A declared dataset of coronal slices of NIfTI volumes, in a window of their values."""
    random = np.random.default_rng(3)
    lines = ["path,slice,label,patient"]
    for number in range(20):
        voxels = random.normal(40, 60, size=(26, 7, 30)).astype(np.int16)
        voxels[8:18, :, 10:20] += 60 * (number % 2)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 3.0, 1.5, 1.0])), folder / f"v{number}.nii")
        label = ("benign", "malignant")[number % 2]
        lines += [f"v{number}.nii,{each},{label},p{number}" for each in range(1, 6, 2)]
    keyed = [f"{line},c{at}" if at else f"{line},key" for at, line in enumerate(lines)]
    return load_declared(declare(folder, FILES, "\n".join(keyed)))


KINDS: dict[str, dict[str, Any]] = {
    "patient": {},
    "image": {"normalise": "image"},
    "dataset": {"normalise": "dataset"},
    "none": {"normalise": "none"},
    "window": {"normalise": Window(window=(5, 28))},
    "millimetres": {"millimetres": True},
    "grey": {"channels": 3, "rule": "grey"},
    "colour": {"channels": 3},
    "stem": {"channels": 2, "rule": "stem", "beside": 1},
    "repeat": {"rule": "repeat", "beside": 3},
    "ensemble of views": {"ensemble": 2, "views": True},
    "multilabel": {"task": "multilabel"},
    "regression": {"task": "regression", "ensemble": 2},
    "files": {"files": True},
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[RunDir, Path, Any]]:
    """Runs of each kind of preprocessing, made when they are first needed."""
    folder = tmp_path_factory.mktemp("kinds")

    @functools.cache
    def make(kind: str) -> tuple[RunDir, Path, Any]:
        given = KINDS[kind]
        data = folder / kind / "data"
        for name in ("alpha", "beta"):
            (data / name).mkdir(parents=True)
        if given.get("files"):
            own = volumes(data / "alpha")
        else:
            own = pictures(
                given.get("channels", 1),
                task=given.get("task", "classification"),
                millimetres=given.get("millimetres", False),
            )
        beside = replace(pictures(given.get("beside", 1)), name="beta")
        known = plugins().including(own, beside)
        table = Transforms(flips=("horizontal",), rotation=10.0) if given.get("views") else None
        values = {"epochs": 1, **({"transforms": table} if table else {})}
        rounds = [round_of("beta", **values), round_of("alpha", **values)]
        plan = plan_of(
            *(rounds if "beside" in given else rounds[1:]),
            ensemble=given.get("ensemble", 1),
            strangers=True,
        )
        changes = {"normalise": given.get("normalise"), "channels": given.get("rule")}
        datasets = tuple(
            each.model_copy(update=changes) if each.name == "alpha" else each
            for each in plan.datasets
        )
        plan = plan.model_copy(
            update={"datasets": datasets, "test_views": 4 if given.get("views") else 1}
        )
        places = {"data": data, "cache": folder / kind / "cache"}
        return run_plan(plan, folder / kind / "run", plugins=known, **places), data, known

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_preprocessing_gives_the_predictions_of_the_run(
    kind: str, kinds: Any, tmp_path: Path
) -> None:
    run, data, known = kinds(kind)
    equals_its_own(run, data, tmp_path / "out.csv", plugins=known)


def test_files_are_read_as_those_of_the_training(kinds: Any, tmp_path: Path) -> None:
    """By path, by table and from Python, without the dataset.toml of the training."""
    run, data, known = kinds("files")
    model = load_model(run.path, plugins=known)
    expected = {row["key"]: row for row in read_rows(run.path / "predictions.csv")}
    table = read_rows(data / "alpha" / "cases.csv")
    moved = tmp_path / "moved"
    shutil.copytree(data / "alpha", moved, ignore=shutil.ignore_patterns("dataset.toml", "*.csv"))
    paths = {
        str(moved / f"{row['path']}#[{row['slice']}]"): row["key"]
        for row in table
        if row["key"] in expected
    }

    def predicted(given: Path | Sequence[Path], name: str) -> list[dict[str, str]]:
        source = cases_in_files(model, [given] if isinstance(given, Path) else given)
        summary = predict_to_csv(model, source, tmp_path / name, rule=plain)
        assert any(READING in note for note in summary.notes)
        return read_rows(tmp_path / name)

    plain = Rule.of(model.task, model.classes, None)
    rows = predicted([Path(path) for path in paths], "out.csv")
    records = model.predict(list(paths), calibrate=False)
    assert len(rows) == len(records) == len(paths) > 3
    for row, record in zip(rows, records, strict=True):
        theirs = float(expected[paths[row["key"]]]["p_malignant"])
        assert row["reason"] == ""
        assert float(row["p_malignant"]) == pytest.approx(theirs, abs=1e-6)
        assert record.probabilities["malignant"] == pytest.approx(theirs, abs=1e-6)

    # The same place by voxels and by millimetres in the axes of the training: the affine has sizes
    # 2, 3 and 1.5; a coronal slice shows the head above and the patient's right on the left.
    (moved / "voxels.csv").write_text("path,slice,row,column\nv0.nii,4,20,15\n")
    (moved / "mm.csv").write_text("path,x_mm,y_mm,z_mm\nv0.nii,20,12,13.5\n")
    voxels, millimetres = (predicted(moved / f"{each}.csv", each) for each in ("voxels", "mm"))
    assert voxels[0]["reason"] == ""
    assert voxels[0]["p_benign"] == millimetres[0]["p_benign"] != rows[0]["p_benign"]

    # A published folder has the rules, and its card and `weights inspect` say them.
    export_model(run.path, "hub", tmp_path / "hub", plugins=known)
    published = load_model(tmp_path / "hub", plugins=known)
    assert published.predict(list(paths), calibrate=False) == records
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "1. Take 3 neighbouring slices of the volume in the coronal plane as channels" in card
    assert "2. Map the window of centre 40 and width 100 to grey values from 0 to 255" in card
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert '"window": [40.0, 100.0]' in json.dumps(config)
    printed = CliRunner().invoke(main, ["weights", "inspect", str(run.head_path("alpha"))])
    assert f"file_rules {READING.partition(': ')[2]}" in printed.stdout

    # An older head, and that of a plugin, says nothing: the default reads other pixels.
    head = model.head.preprocessing
    assert "file_rules" not in head.model_copy(update={"file_rules": None}).model_dump()
    assert head.model_dump(mode="json")["file_rules"] == {
        **{"plane": "coronal", "slices": 3, "axes": "RAS"},
        **{"window": [40.0, 100.0], "spacing": [0.5, 0.5]},
    }
    network = model.networks[0]
    old = network.head.model_copy(
        update={"preprocessing": head.model_copy(update={"file_rules": None})}
    )
    before = replace(model, networks=(replace(network, head=old),))
    assert before.file_rules == FileRules()
    mixed = replace(model, networks=(replace(network, head=old), network))
    assert mixed.file_rules == model.file_rules
    with pytest.raises(DataError, match=r"line 2: 20, 12, 13\.5 mm: the model does not say where"):
        cases_in_files(before, [moved / "mm.csv"])
    assert before.predict([next(iter(paths))])[0].reason == "has 1 channels, and the model needs 3"


READING = (
    "files are read as those of the training: window 40/100 (centre/width), coronal plane, 3 "
    "slices, positions in RAS, spacing 0.5 x 0.5 mm if a file states none"
)


# --- the command


def command(*arguments: object, status: int = 0) -> Any:
    """Call `hydrakit predict`."""
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def images(data: Path, tmp_path: Path) -> Path:
    """Images of alpha as files, with one that is broken, one without contrast and a text."""
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    with np.load(data / "alpha" / "cases.npz") as stored:
        arrays = stored["images"]
    for number in range(6):
        np.save(folder / "deep" / f"{number}.npy", arrays[number])
    (folder / "broken.png").write_bytes(b"no image")
    np.save(folder / "flat.npy", np.zeros((9, 9), np.float32))
    (folder / "notes.txt").write_text("no image")
    return folder


def test_a_folder_a_table_files_and_arrays_give_the_same(
    hydra_run: RunDir, images: Path, standin: Path
) -> None:
    printed = command(hydra_run.path, images, "--out", "folder.csv")
    assert "8 cases, 2 of them without a prediction" in printed.stdout
    assert "1 case: the image has no contrast" in printed.stdout
    notes = [line for line in printed.stderr.splitlines() if line.startswith("Note: ")]
    assert len(notes) == 2  # on the text file, and on patients
    assert "notes.txt" not in printed.stderr  # names may identify someone
    rows = {row["key"]: row for row in read_rows(Path("folder.csv"))}
    assert list(rows)[:3] == ["broken.png", "flat.npy", "deep/0.npy"]
    assert rows["broken.png"]["reason"] == "is no image in a format that hydrakit reads"
    assert rows["broken.png"]["predicted"] == rows["broken.png"]["p_benign"] == ""
    assert rows["broken.png"]["seen_in_training"] == "unknown"

    lines = [f"deep/{number}.npy,p{number},k{number}" for number in range(6)]
    (images / "table.csv").write_text("\n".join(["path,patient,key", *lines]), encoding="utf-8")
    command(hydra_run.path, images / "table.csv", "--out", "table.csv")
    files = [images / "deep" / f"{number}.npy" for number in range(6)]
    command(hydra_run.path, *files, "--out", "files.csv")
    command(hydra_run.path, images, "--pattern", "deep/{patient}.npy", "--out", "pattern.csv")
    stack = np.stack([np.load(file).squeeze().T for file in files], axis=-1)
    nib.save(nib.Nifti1Image(stack, np.diag([-1.0, -1.0, 1.0, 1.0])), "stack.nii.gz")
    slices = [f"stack.nii.gz#[{number}]" for number in range(6)]
    command(hydra_run.path, *slices, "--out", "slices.csv")
    table, listed, matched, sliced = (
        read_rows(Path(f"{name}.csv")) for name in ("table", "files", "pattern", "slices")
    )
    assert [row["patient"] for row in table] == [f"p{number}" for number in range(6)]
    assert [row["patient"] for row in matched] == [str(number) for number in range(6)]
    model = hydrakit.load_model(str(hydra_run.path))
    records = model.predict([files[0], slices[1], *(np.load(file) for file in files[2:])])
    for number, record in enumerate(records):
        expected = rows[f"deep/{number}.npy"]
        for row in (table[number], listed[number], matched[number], sliced[number]):
            for name in ("p_benign", "p_malignant", "predicted", "seen_in_training", "views"):
                assert row[name] == expected[name]
        assert record.predicted == expected["predicted"]
        assert record.probabilities["malignant"] == pytest.approx(
            float(expected["p_malignant"]), abs=1e-6
        )
        seen = {True: "yes", False: "no"}[bool(record.seen_in_training)]
        assert seen == expected["seen_in_training"]
    assert {row["seen_in_training"] for row in table} == {"yes", "no"}


def test_seen_in_training_is_what_the_splits_say(
    hydra_run: RunDir, data: Path, tmp_path: Path
) -> None:
    splits = hydra_run.splits()["alpha"]
    for row in own_predictions(hydra_run, data, tmp_path / "out.csv"):
        assert row["seen_in_training"] == ("no" if splits[row["key"]] == "test" else "yes")


def test_labels_give_the_figures_of_evaluate(
    hydra_run: RunDir, standin: Path, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(hydra_run.path), "--split", "all", "--json"])
    expected = json.loads(result.stdout)
    printed = command(hydra_run.path, "alpha", "--labels", "own", "--uncalibrated", "--json")
    summary = json.loads(printed.stdout)
    assert summary["figures"]["classes"] == [
        {
            name: pytest.approx(value) if isinstance(value, float) else value
            for name, value in each.items()
        }
        for each in expected["classes"]
    ]
    assert summary["figures"]["images"] == expected["images"] == summary["cases"]
    assert any("training used" in note for note in summary["notes"])
    given = hydra_run.path, "alpha", "--labels", "own", "--out", tmp_path / "second.csv"
    assert command(*given).stdout.count("training used") == 1
    events = [event for event in hydra_run.events() if event.event == "evaluated"]
    assert events[-1].dataset == "alpha"
    labels = [
        "key,label",
        *(f"{row['key']},{row['label']}" for row in read_rows(Path("predictions.csv"))),
    ]
    Path("labels.csv").write_text("\n".join(labels))
    printed = command(
        *(hydra_run.path, "alpha", "--labels", "labels.csv", "--out", "again.csv"),
        *("--uncalibrated", "--json"),
    )
    assert json.loads(printed.stdout)["figures"] == summary["figures"]
    assert Path("again.csv").read_bytes() == Path("predictions.csv").read_bytes()


def test_unknown_labels_count_in_no_figure(kinds: Any, tmp_path: Path) -> None:
    """From training to the figures of `predict --labels`; against scikit-learn on the known."""
    run, data, known = kinds("multilabel")
    results, facts = run.results(), run.facts()
    assert results is not None
    assert facts is not None
    rows = read_rows(run.path / "predictions.csv")
    tests = [row for row in rows if row["split"] == "test"]
    assert [row["key"] for row in rows if "third?" in row["label"]] == [
        row["key"] for row in rows if int(row["key"][1:]) % 5 == 0
    ]
    for area in results.test.classes:
        used = [row for row in tests if f"{area.class_name}?" not in row["label"].split(";")]
        present = [area.class_name in row["label"].split(";") for row in used]
        scores = [float(row[f"p_{area.class_name}"]) for row in used]
        assert area.auc == pytest.approx(roc_auc_score(present, scores))
        assert area.positives + area.negatives == len(used)
    assert len(used) < len(tests)
    assert sum(counts.get("third", 0) for counts in facts["alpha"].unknown.values()) == 12
    report = run.report_path.read_text()
    assert "Cases of alpha for which a label is unknown" in report

    model = load_model(run.path, plugins=known)
    source = cases_of_dataset(model, "alpha", RunContext(data=data), known)
    predict_to_csv(model, source, tmp_path / "own.csv", labels="own")
    expected = evaluate_run(run.path, RunContext(data=data), split="all", plugins=known)
    found = figures_of(tmp_path / "own.csv", model, source).result
    assert [area.auc for area in found.classes] == pytest.approx(
        [area.auc for area in expected.result.classes]
    )
    assert [(area.positives, area.negatives) for area in found.classes] == [(30, 30), (16, 32)]

    lines = [f"c{n},{n % 2},{'' if n % 5 == 0 else int(n % 3 == 0)}" for n in range(60)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["key,bright,third", *lines]))
    labels = read_labels(table, model)
    assert labels["c0"] == (0, None)
    assert labels == read_labels(tmp_path / "own.csv", model)
    table.write_text("key,bright\nc0,1\n")
    with pytest.raises(DataError, match="no columns key and label, nor one for each class"):
        read_labels(table, model)
    table.write_text("key,bright,third\nc0,1,2\n")
    with pytest.raises(DataError, match="line 2: label '1, 2' is none of the model's"):
        read_labels(table, model)


def test_a_stopped_command_goes_on_and_gives_the_same_file(
    kinds: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data, known = kinds("patient")
    monkeypatch.setattr("hydrakit.runs.model.BATCH", 7)
    monkeypatch.setattr("hydrakit.runs.predict.BATCH", 7)
    model = load_model(run.path, plugins=known)
    source = cases_of_dataset(model, "alpha", RunContext(data=data), known)
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    predict_to_csv(model, source, whole)
    rows = out.with_name("out.csv.part") / "rows.csv"
    read: list[str] = []

    def stop_after(number: int) -> Callable[..., None]:
        def on_case(what: str, done: int, of: int | None) -> None:
            read.append(what)
            if what == "predicting" and done >= number:
                raise KeyboardInterrupt

        return on_case

    for number in (7, 21, 60):
        with pytest.raises(KeyboardInterrupt):
            predict_to_csv(model, source, out, on_case=stop_after(number))
        assert not out.exists()
        with rows.open(
            "ab"
        ) as file:  # a line that was being written, of a batch that was not whole
            file.write(b"c99,,\nc98,'")
    assert read.count("reading the images of each patient") == 60  # once
    other = cases_of_dataset(model, "alpha", RunContext(data=data), known)
    refused(
        lambda: predict_to_csv(model, replace(other, digest="0" * 64), out),
        "out.csv.part",
        "of another model or input",
        "delete it",
    )
    summary = predict_to_csv(model, source, out)
    assert summary.cases == 60
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv", "whole.csv"]
    refused(lambda: predict_to_csv(model, source, out), "out.csv: exists already")


def test_other_images_of_the_same_names_do_not_continue_a_stopped_command(
    hydra_run: RunDir, images: Path, tmp_path: Path
) -> None:
    model, out = load_model(hydra_run.path, plugins=plugins()), tmp_path / "out.csv"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    def begin(folder: Path, **more: Any) -> None:
        predict_to_csv(model, cases_in_files(model, [folder]), out, **more)

    with pytest.raises(KeyboardInterrupt):
        begin(images, on_case=stop)
    other = shutil.copytree(images, tmp_path / "other")
    refused(lambda: begin(other), "out.csv.part", "of another model or input")
    refused(lambda: begin(images, explain=lambda *_: None), "of other options")
    image = next(images.glob("deep/*.npy"))
    np.save(image, np.load(image) + 1)
    refused(lambda: begin(images), "of another model or input")


def test_a_second_command_leaves_the_work_of_the_first(
    hydra_run: RunDir, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = load_model(hydra_run.path, plugins=plugins()), tmp_path / "out.csv"
    source = cases_in_files(model, [images])
    part = tmp_path / "out.csv.part"
    monkeypatch.setattr("hydrakit.storage.lock.PATIENCE", 0)
    part.mkdir()
    with locked(part):
        refused(lambda: predict_to_csv(model, source, out), "another process is running here")
        assert part.is_dir()
    assert predict_to_csv(model, source, out).cases == 8


def test_a_patients_name_may_be_the_number_of_an_image(kinds: Any) -> None:
    run, _, known = kinds("patient")
    model = load_model(run.path, plugins=known)
    given = list(np.random.default_rng(0).normal(20, 5, size=(3, 30, 26)).astype(np.float32))
    named, numbered = (model.predict(given, patient=[name] * 3) for name in ("P", "1"))
    assert [each.probabilities for each in named] == [each.probabilities for each in numbered]
    refused(lambda: model.predict("image.png"), "a list of images is expected")


def test_a_folder_of_programs_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "alpha.onnx").touch()
    refused(lambda: load_model(tmp_path), "are for other programs", "`hydrakit export`")


def test_grey_values_in_another_unit_are_said_to_be(
    kinds: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, data, known = kinds("dataset")
    model = load_model(run.path, plugins=known)
    given = [np.random.default_rng(0).normal(20, 5, size=(30, 26)).astype(np.float32)]
    caplog.clear()
    model.predict(given)
    assert caplog.messages == []
    model.predict([given[0] / 255])
    assert "and those of training were" in caplog.text
    wide = 10 * given[0]
    np.save(tmp_path / "wide.npy", wide)
    source = cases_in_files(model, [tmp_path / "wide.npy"])
    summary = predict_to_csv(model, source, tmp_path / "out.csv")
    assert len([note for note in summary.notes if "in another unit" in note]) == 1

    own = known.get(DatasetAdapter, "alpha")

    def read(root: Path, options: Any) -> Iterator[Any]:
        for case in own.read(root, options):
            yield replace(case, image=case.image * 100, label=int(case.key[1:]) % 2)

    for each, foreign in ((own, False), (replace(own, read=read, version="other"), True)):
        result = evaluate_files(
            *(run.body_path, run.head_path("alpha")),
            RunContext(data=data, cache=tmp_path / "cache"),
            split="all",
            plugins=plugins().including(each),
        )
        assert any("in another unit" in note for note in result.notes) is foreign


def test_what_shows_another_unit() -> None:
    ones = np.ones((3, 1))
    patches = np.array([0.2, 0.4, 0.9], np.float32).reshape(3, 1, 1, 1)

    def said(grey: GreyValues, mean: float, deviation: float) -> bool:
        unit = mean / 0.5
        return foreign_values(grey, mean * ones, deviation * ones, patches * unit) is not None

    whole = GreyValues(normalise="dataset", mean=(0.5,), deviation=(0.25,))
    assert not any(said(whole, *each) for each in ((0.5, 0.25), (2.9, 0.01), (-1.9, 9)))
    assert all(said(whole, *each) for each in ((120, 50), (-3, 0.2), (0.5, 0.001)))
    window = GreyValues(normalise=Window(window=(0, 1)))
    assert not said(window, 0.5, 0.2)
    assert said(window, 120, 50)
    for rule in ("patient", "image", "none"):
        assert not said(GreyValues(normalise=rule), 120, 50)  # type: ignore[arg-type]


def test_labels_of_no_case_are_not_used_silently(
    hydra_run: RunDir, images: Path, standin: Path
) -> None:
    rows = ["deep/0.npy,benign", " deep/1.npy,malignant", "deep/9.npy,benign"]
    Path("labels.csv").write_text("\n".join(["\ufeffkey,label", *rows]), encoding="utf-8")
    printed = command(hydra_run.path, images, "--labels", "labels.csv")
    assert "1 of 3 labels belong to no case" in printed.stderr
    assert "(1 positive, 1 negative findings)" in printed.stdout
    Path("labels.csv").write_text("key,label\n0.npy,benign\n")
    where = ("--labels", "labels.csv", "--out", "other.csv")
    printed = command(hydra_run.path, images, *where, status=1)
    assert "no label belongs to a case" in printed.stderr
    assert not Path("other.csv").exists()
    Path("labels.csv").write_text("key,label\ndeep/0.npy,benign\n")
    printed = command(hydra_run.path, images, *where, status=1)
    assert "other.csv: 8 cases" in printed.stdout  # what is written is reported
    assert "no case of class 'malignant'" in printed.stderr


def test_what_the_model_needs_and_the_input_lacks_is_asked_for_in_one_line(
    kinds: Any, tmp_path: Path, standin: Path
) -> None:
    run, _, known = kinds("millimetres")
    model = load_model(run.path, plugins=known)
    random = np.random.default_rng(1)
    image = random.normal(20, 5, size=(30, 26)).astype(np.float32)
    for number in range(2):
        np.save(tmp_path / f"{number}.npy", image[: 30 - number])
    table = tmp_path / "table.csv"

    def rows(text: str, **more: Any) -> list[dict[str, str]]:
        table.write_text(text, encoding="utf-8")
        source = cases_in_files(model, [table], **more)
        more.pop("labels", None)
        predict_to_csv(model, source, tmp_path / "out.csv", **more)
        found = read_rows(tmp_path / "out.csv")
        (tmp_path / "out.csv").unlink()
        return found

    refused(
        lambda: rows("path\n0.npy\n"),
        "table.csv: '0.npy' does not state its pixel spacing",
        "the model sees 9 mm",
        "`--spacing ROW,COLUMN`",
    )
    assert not list(tmp_path.glob("out.csv*"))
    spaced = "path,row,column,row_spacing,column_spacing\n0.npy,14,13,0.5,0.6\n"
    (one,) = rows(spaced)
    (record,) = model.predict([image], spacing=(0.5, 0.6), centre=(14.0, 13.0))
    assert float(one["p_malignant"]) == pytest.approx(record.probabilities["malignant"], abs=1e-6)
    in_mm = "path,row_mm,column_mm\n0.npy,7,7.8\n"
    refused(lambda: rows(in_mm), "does not state its pixel spacing", "`--spacing ROW,COLUMN`")
    (two,) = rows(in_mm, spacing=(0.5, 0.6))
    assert two["p_malignant"] == one["p_malignant"]
    # After an image that says it, one that does not is a row with a reason.
    lacking = rows(spaced + "1.npy,,,,\n")[1]
    assert lacking["reason"] == "does not state its pixel spacing"
    outside = rows(spaced + "1.npy,99,1,0.5,0.5\n")[1]
    assert outside["reason"] == "its position lies outside its image"
    for text, words in (
        ("image\nx.npy\n", "no column 'path'"),
        ("path,row\n0.npy,3\n", "line 2: only one of row and column"),
        ("path,row_spacing\n0.npy,3\n", "line 2: only one of row_spacing and column_spacing"),
        ("path\n../0.npy\n", "leads out"),
        ("path\n0.npy\n0.npy\n", "line 3: the key '0.npy' also belongs to line 2"),
        ('path,key\n0.npy,"a\nb"\n', "holds control characters"),
    ):
        refused(lambda text=text: rows(text), "table.csv", words)  # type: ignore[misc]
    # Labels are read only if they are asked for, and a table has no [labels] to map them in.
    table.write_text(f"{spaced.replace('path,', 'path,label,').replace('npy,', 'npy,odd,')}")
    with pytest.raises(HydrakitError, match=r"none of the classes benign, malignant: correct it$"):
        cases_in_files(model, [table])
    (unlabelled,) = rows(table.read_text(), labels=False)
    assert unlabelled["p_malignant"] == one["p_malignant"]
    table.write_text(spaced)
    refused(
        lambda: predict_to_csv(
            model, cases_in_files(model, [table]), tmp_path / "out.csv", labels="own"
        ),
        "table.csv: gives no label: give a file with `--labels`",
    )
    assert not list(tmp_path.glob("out.csv*"))
    images = [image, image]
    refused(lambda: model.predict(images, patient=["one"]), "patient: has 1 values for 2 images")


def test_hostile_names_and_links_become_harmless_rows(
    hydra_run: RunDir, images: Path, standin: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.npy"
    shutil.copy(images / "deep" / "0.npy", secret)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    (hostile / "link.npy").symlink_to(secret)
    (hostile / "loop.npy").symlink_to("loop.npy")
    os.mkfifo(hostile / "pipe.npy")
    for name in ("=cmd()\n.npy", "@sum,1.npy", "\x1b[31m.npy"):
        shutil.copy(images / "deep" / "1.npy", hostile / name)
    printed = command(hydra_run.path, hostile, "--out", "out.csv", "--explain", "maps")
    assert "\x1b" not in printed.output
    rows = {row["key"]: row for row in read_rows(Path("out.csv"))}
    assert rows["link.npy"]["reason"] == "leads out of its folder by a link"
    assert all(rows[name]["reason"] for name in ("loop.npy", "pipe.npy"))
    assert {key for key, row in rows.items() if not row["reason"]} == {
        "=cmd()\\n.npy",
        "@sum,1.npy",
        "\\x1b[31m.npy",
    }
    with Path("out.csv").open(newline="") as file:
        assert not any(line[0][:1] in "=+-@" for line in csv.reader(file))
    assert len(list(Path("maps").iterdir())) == 3
    only = tmp_path / "only"
    only.mkdir()
    (only / "broken.png").write_bytes(b"")
    command(hydra_run.path, only, "--out", "none.csv", status=1)
    assert len(read_rows(Path("none.csv"))) == 1
    Path("link.csv").symlink_to(secret)
    command(hydra_run.path, images, "--out", "link.csv", status=1)


@pytest.mark.parametrize("kind", ["ensemble of views", "repeat", "stem", "regression"])
def test_saliency_maps_are_pictures_of_the_patch(kind: str, kinds: Any, tmp_path: Path) -> None:
    run, data, known = kinds(kind)
    model = load_model(run.path, plugins=known)
    source = cases_of_dataset(model, "alpha", RunContext(data=data), known)
    draw = SaliencyPictures(model, tmp_path / "maps")
    predict_to_csv(model, source, tmp_path / "out.csv", explain=draw)
    files = sorted((tmp_path / "maps").iterdir())
    assert [file.name for file in files[:2]] == ["000001-c0.png", "000002-c1.png"]
    assert len(files) == 60
    channels = model.head.preprocessing.channels
    with Image.open(files[0]) as picture:
        assert picture.size == (4 * 16 * 2 * channels, 4 * 16)


def test_decisions_in_the_heads_file_are_used(
    hydra_run: RunDir, data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    weights.swap(hydra_run.body_path, hydra_run.head_path("alpha"), folder)
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    second = (0.3 + 0.3 * labels + random.uniform(-0.3, 0.3, 200)).clip(0.01, 0.99)
    decision = fit_decision(
        np.column_stack([1 - second, second]), labels, networks=1, source="out-of-fold"
    )
    set_decision(folder / "heads" / "alpha.safetensors", decision)
    model = load_model(folder, plugins=plugins())
    context = RunContext(data=data)
    source = cases_of_dataset(model, "alpha", context, plugins())

    def rows(name: str, rule: Rule) -> list[dict[str, str]]:
        predict_to_csv(model, source, tmp_path / name, rule=rule)
        return read_rows(tmp_path / name)

    names = model.task, model.classes
    plain = rows("plain.csv", Rule.of(*names, None))
    raw = np.array([[float(row[f"p_{name}"]) for name in model.classes] for row in plain])
    assert model.decision == decision
    both = rows("calibrated.csv", Rule.of(*names, model.decision, coverage=0.8))
    ours = np.array([[float(row[f"p_{name}"]) for name in model.classes] for row in both])
    np.testing.assert_allclose(ours, calibrated(raw, decision.calibration), atol=1e-12)
    assert decision.threshold is not None
    malignant = ours[:, 1] >= decision.threshold.value
    assert [row["predicted"] == "malignant" for row in both] == malignant.tolist()
    sets = prediction_sets(raw, decision, 0.8)
    assert [row["possible"].split(";") if row["possible"] else [] for row in both] == [
        [name for name, inside in zip(model.classes, each, strict=True) if inside] for each in sets
    ]
    other = Rule.of(*names, model.decision, aim="specificity", wished=0.95)
    assert other.threshold is not None
    assert other.threshold.value > decision.threshold.value
    record = model.predict([np.random.default_rng(3).normal(size=(20, 20))])[0]
    assert sum(record.probabilities.values()) == pytest.approx(1)
    refused(
        lambda: Rule.of(*names, None, aim="sensitivity"), "--sensitivity needs scores of held-out"
    )
    refused(lambda: Rule.of(*names, None, coverage=0.9), "--conformal needs scores of held-out")
    set_decision(
        folder / "heads" / "alpha.safetensors", decision.model_copy(update={"networks": 3})
    )
    model = load_model(folder, plugins=plugins())
    assert model.decision is None
    assert any("are for 3 networks, and these are 1" in note for note in model.notes())


def test_the_example_of_the_documentation_works(
    hydra_run: RunDir, images: Path, standin: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Path(__file__).parent.parent / "docs" / "predict.md"
    code = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    Path("RUN").symlink_to(hydra_run.path)
    shutil.copy(images / "deep" / "0.npy", "scan.npy")
    exec(compile(code, str(page), "exec"), {})
    one, two, shape = capsys.readouterr().out.splitlines()
    assert one.startswith("0 ")
    assert one.endswith(" False")
    assert two.startswith("scan.npy ")
    assert shape == "(1, 16, 16)"


def test_a_folder_with_a_declaration_is_a_dataset(
    hydra_run: RunDir, images: Path, standin: Path
) -> None:
    lines = [f"deep/{number}.npy,{('benign', 'malignant')[number % 2]}" for number in range(6)]
    declare(
        images,
        'name = "mine"\nclasses = ["malignant", "benign"]\nfield_of_view = { share = 1.0 }\n'
        'cases = "cases.csv"\n',
        "\n".join(["path,label", *lines]),
    )
    command(hydra_run.path, images, "--labels", "own")
    rows = read_rows(Path("predictions.csv"))
    assert [row["label"] for row in rows] == ["benign", "malignant"] * 3
    model = hydrakit.load_model(hydra_run.path)
    record = model.predict([images / "deep" / "0.npy"])[0]
    assert float(rows[0]["p_benign"]) == pytest.approx(record.probabilities["benign"], abs=1e-6)


def test_a_killed_process_goes_on(hydra_run: RunDir, images: Path, standin: Path) -> None:
    many = images / "many"
    many.mkdir()
    for number in range(700):
        shutil.copy(images / "deep" / f"{number % 6}.npy", many / f"{number:03d}.npy")
    words = ["predict", str(hydra_run.path), str(many), "--device", "cpu", "--out"]
    command(*words[1:], "whole.csv")
    site = standin.parent / "site"
    path = os.pathsep.join([str(site), *sys.path])
    process = subprocess.Popen(
        [*COMMAND, *words, "out.csv"], env={**os.environ, "PYTHONPATH": path}
    )
    rows = Path("out.csv.part") / "rows.csv"
    while process.poll() is None and not (rows.exists() and rows.stat().st_size > 10_000):
        time.sleep(0.005)
    process.kill()
    process.wait()
    if process.returncode < 0:  # it was killed before its end
        assert not Path("out.csv").exists()
        command(*words[1:], "out.csv")
    assert Path("out.csv").read_bytes() == Path("whole.csv").read_bytes()
    assert not rows.parent.exists()


def test_a_model_that_sees_the_lesion_in_a_mask_needs_one(
    hydra_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Model, "view", FieldOfView(mask=2.0))
    model = hydrakit.load_model(hydra_run.path)
    pixels = np.random.default_rng(3).integers(0, 255, (40, 40), np.uint8)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 8:13] = 1
    folder = tmp_path / "new"
    folder.mkdir()
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(mask).save(folder / "a_mask.png")
    Image.fromarray(pixels).save(folder / "b.png")
    (folder / "cases.csv").write_text("path,mask\na.png,a_mask.png\nb.png,\n", encoding="utf-8")
    rows = [
        [model.image_input(case) for case in cases_in_files(model, [path]).cases(print)]
        for path in (folder, folder / "cases.csv")
    ]
    around = {"centre": (14.5, 10.0), "extent": (10.0, 5.0)}
    image = pixels.astype(np.float32)
    expected = model.preprocess(image, **around)
    for case in (rows[0][0], rows[1][0]):
        assert not isinstance(case, str)
        mean, deviation = case.statistics.mean, case.statistics.standard_deviation()
        seen = model.patches(case.canvas[None], mean[None], deviation[None])[0]
        assert torch.equal(seen, expected)
    assert rows[0][1] == "has no mask, and the model sees 2 times the lesion in its mask"
    assert rows[1][1] == rows[0][1]
    by_array, without = model.predict([image, image], centre=(14.5, 10.0), extent=[(10, 5), None])
    assert by_array.reason is None
    assert without.reason == rows[0][1]

    # By the rules of its training: an image without a mask is used whole, a mask is an image.
    rules = FileRules(no_mask="whole", masks="cases", spacing=(0.5, 0.5))
    monkeypatch.setattr(Model, "file_rules", rules)
    (folder / "cases.csv").write_text("path,mask\na.png,a_mask.png\nb.png,\n", encoding="utf-8")
    sources = [cases_in_files(model, [path]) for path in (folder, folder / "cases.csv")]
    assert [source.count for source in sources] == [3, 2]
    for source in sources:
        *_, last = source.cases(print)
        sample = last.load()
        assert isinstance(sample, LoadedSample)
        assert sample.spacing == (0.5, 0.5)
        assert not isinstance(model.image_input(last), str)
    by_file, whole = model.predict([folder / "b.png", image], spacing=[None, (0.5, 0.5)])
    assert by_file.reason is None
    assert by_file.probabilities == whole.probabilities
    monkeypatch.setattr(Model, "view", FieldOfView(share=1.0))
    assert model.predict([image])[0].probabilities == pytest.approx(whole.probabilities, abs=1e-6)
