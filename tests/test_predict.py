"""Prediction: the command, its CSV, and the same from Python."""

from __future__ import annotations

import csv
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import adapter, plan_of, plugins, refused, round_of, run_plan

import hydrakit
from hydrakit.cli import main
from hydrakit.hooks import FieldOfView, NoOptions, Sample, Window
from hydrakit.rounds import Transforms
from hydrakit.runs.context import RunContext
from hydrakit.runs.model import load_model
from hydrakit.runs.predict import cases_of_dataset, predict_to_csv
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import read_rows


def own_predictions(run: RunDir, data: Path, out: Path, **more: Any) -> list[dict[str, str]]:
    """What `predict` says about the target of a run."""
    model = load_model(run.path, plugins=more.get("plugins") or plugins())
    context = RunContext(data=data)
    name = run.plan().target
    source = cases_of_dataset(model, name, context, more.get("plugins") or plugins())
    predict_to_csv(model, source, out)
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


def test_a_run_predicts_its_own_split_as_it_did(hydra_run: RunDir, data: Path, tmp_path: Path) -> None:
    equals_its_own(hydra_run, data, tmp_path / "out.csv")


def pictures(channels: int, *, task: str = "classification", millimetres: bool = False) -> Any:
    """A stand-in with positions, patients of several images, spacing and several channels."""

    def read(root: Path, options: Any) -> Iterator[Sample]:
        random = np.random.default_rng(3)
        for number in range(60):
            image = random.normal(20, 5, size=(channels, 30, 26)).astype(np.float32)
            image[:, 10:20, 8:18] += 6 * (number % 2)
            label: Any = {"multilabel": (number % 2, int(number % 3 == 0)), "regression": number * 1.5}
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
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[RunDir, Path, Any]]:
    """Runs of each kind of preprocessing, made when they are first needed."""
    folder = tmp_path_factory.mktemp("kinds")

    @functools.cache
    def make(kind: str) -> tuple[RunDir, Path, Any]:
        given = KINDS[kind]
        own = pictures(
            given.get("channels", 1),
            task=given.get("task", "classification"),
            millimetres=given.get("millimetres", False),
        )
        beside = replace(pictures(given.get("beside", 1)), name="beta")
        known = plugins().including(own, beside)
        data = folder / kind / "data"
        for name in ("alpha", "beta"):
            (data / name).mkdir(parents=True)
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
