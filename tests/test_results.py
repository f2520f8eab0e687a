"""The result of a run, and what it rests on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import (
    Runner,
    hydra_plan,
    load_dataset,
    weights_of,
)
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from hydrakit.runs.rundir import RunDir
from hydrakit.stats.intervals import newcombe_interval
from hydrakit.weights.format import read_body, read_head


def events(rundir: RunDir) -> list[dict[str, Any]]:
    lines = (rundir.path / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def predictions(rundir: RunDir, split: str) -> list[dict[str, str]]:
    with (rundir.path / "predictions.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == split]


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
    # Other tests evaluate this run, which its log records.
    names = [event["event"] for event in events(hydra_run) if event["event"] != "evaluated"]
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
    other_files = {name for name in here if here[name] != there[name]}
    bodies = {name for name in other_files if name.endswith("body.safetensors")}
    heads = {name for name in other_files - bodies if "head" in name}
    assert other_files - heads - bodies == {"predictions.csv", "shown.safetensors"}
    for name in bodies:
        first, second = (read_body(run.path / name) for run in (hydra_run, other))
        assert first.data["alpha"] != second.data["alpha"]
        assert first == second.model_copy(update={"data": first.data})
    for name in heads:  # they name the dataset by the digest of all its cases
        one, two = (read_head(run.path / name) for run in (hydra_run, other))
        assert one.content != two.content
        assert one == two.model_copy(update={"content": one.content})
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
