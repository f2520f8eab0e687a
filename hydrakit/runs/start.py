"""Weights that the body of a run begins with: from their file, or from the run's folder."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.errors import PlanError
from hydrakit.models.build import build_body
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import START, RunDir
from hydrakit.training.seeds import seeded
from hydrakit.weights.format import seen_in_training
from hydrakit.weights.start import (
    StartTensors,
    check_file,
    describe,
    match_start,
    read_start,
    write_start,
)


def check_start(plan: Plan, rundir: RunDir) -> None:
    """Check that a run can have its start weights, before data is read.

    Raises:
        PlanError: Neither the run's folder nor their file has them.
    """
    if plan.body_weights is not None and not (rundir.path / START).is_file():
        check_file(plan.body_weights)


def find_start(
    plan: Plan, rundir: RunDir, *, in_channels: int, plugins: Plugins
) -> StartTensors | None:
    """Read the start weights of a run from its folder or, at its beginning, from their file.

    Returns:
        Tensors that the body begins with; None if they are random.

    Raises:
        PlanError: Their file is missing or was changed.
        WeightsError: The file cannot be read, or does not match the body.
    """
    planned = plan.body_weights
    if planned is None:
        return None
    datasets = tuple(dataset.name for dataset in plan.datasets)
    with seeded(plan.seed, torch.device("cpu")):
        body = build_body(plan.body, in_channels=in_channels, datasets=datasets, plugins=plugins)
    if (rundir.path / START).is_file():
        return read_start(rundir.file(START), planned, body)
    return match_start(planned, body)


def refuse_seen_images(
    start: StartTensors | None, name: str, prepared: PreparedDataset, splits: Mapping[str, str]
) -> None:
    """Refuse start weights that were trained on images of a test split.

    Args:
        start: Start weights.
        name: Name of the target.
        prepared: Prepared dataset of the target.
        splits: Split of every case of the target, by key.

    Raises:
        PlanError: They were.
    """
    if start is None or start.cases is None:
        return
    cases = prepared.index.cases
    tests = [case.content for case in cases if splits.get(case.key) == "test"]
    seen = sum(seen_in_training(tests, start.cases))
    if seen:
        raise PlanError(
            f"{start.match.file}: its weights were trained on {seen} of the {len(tests)} test "
            f"images of {name!r}: the test result would be too good: give weights of a run with "
            "the same splits (`--split-seed`), or of other data"
        )


def store_start(start: StartTensors | None, rundir: RunDir, callbacks: RunCallback) -> None:
    """Store start weights in the run's folder, once, and say how they match the body."""
    if start is None:
        return
    if not (rundir.path / START).is_file():
        write_start(rundir.path / START, start)
    for line in describe(start.match):
        callbacks.noted(line)
