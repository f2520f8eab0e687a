"""Whether a run compiles its training steps, if the user does not say."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib.util import find_spec

import torch

from hydrakit.data.load import LoadedDataset
from hydrakit.plan.model import BodySpec, Plan
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.seeds import Seeds

SAVED_SECONDS = 1.9e-5
"""Seconds that compiling saves for each image of 65 x 65 pixels of a training step on a GPU.

On an H100, a step of 128 images keeps the GPU busy for 4.5 ms, compiled for 2.1 ms.
"""

COMPILING_SECONDS = 60.0
"""Seconds that compiling must save: three times what it took there, since rounds may end early."""


def chooses_compiling(
    plan: Plan,
    context: RunContext,
    loaded: Mapping[str, LoadedDataset],
    rundir: RunDir,
    device: torch.device,
) -> bool:
    """Whether the training steps of a run are compiled.

    What the user says holds; else what the run began with, since compiling changes the last digits;
    else whether the saved time is worth it, on a GPU with the paper's body. Runs that share rounds
    (cells of a comparison, trials of a search) must compute alike, so they do not choose.

    Args:
        plan: Plan of the run.
        context: Where and how the run is computed.
        loaded: Datasets of the plan, by name.
        rundir: Folder of the run.
        device: Device of the run.
    """
    if context.compiled is not None:
        return context.compiled
    if context.round_cache is not None:
        return False
    began_with = rundir.environment().get("compiled") if rundir.plan_path.is_file() else None
    if began_with is not None:
        return bool(began_with)
    if device.type != "cuda" or not isinstance(plan.body, BodySpec) or not _can_compile(device):
        return False
    return saved_seconds(plan, loaded) > COMPILING_SECONDS


def saved_seconds(plan: Plan, loaded: Mapping[str, LoadedDataset]) -> float:
    """Seconds that compiling would save in all epochs of a plan's rounds on a GPU."""
    images = 0
    for round in plan.rounds:
        if round.trains_body and not round.others:  # steps on several datasets are not compiled
            settings = round.hyperparameters
            examples = TrainingExamples(loaded[round.dataset], settings, Seeds(0, 1), fixed=False)
            images += settings.epochs * len(examples)
    return SAVED_SECONDS * plan.ensemble * images * (plan.patch / 65) ** 2


def _can_compile(device: torch.device) -> bool:
    """Whether this machine has what `torch.compile` needs for a GPU."""
    compilers = [shutil.which(name) for name in ("cc", "gcc", "clang")]
    return (
        find_spec("triton") is not None
        and any(compilers)
        and torch.cuda.get_device_capability(device) >= (7, 0)
    )
