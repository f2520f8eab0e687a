"""Prediction: the command, its CSV, and the same from Python."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import (
    ADAPTERS,
    SUPPORT,
    TARGET,
    Runner,
    hydra_plan,
    hyperparameters,
    plan_of,
    plugins,
    refused,
    round_of,
)

import hydrakit
from hydrakit.cli import main
from hydrakit.plan import Dataset
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
