"""Checks of a plugin as a whole: a run with its components, which is stopped, and whose heads move.

The run is small: two epochs in each round, on one thread of the CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from hydrakit import weights
from hydrakit.engine import run
from hydrakit.errors import HydrakitError
from hydrakit.export.check import TestImages, answers
from hydrakit.hooks import (
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    NamedComponent,
    Normalise,
    SequenceStrategy,
    Settings,
    Window,
)
from hydrakit.plan.model import Plan
from hydrakit.plan.profiles import make_plan
from hydrakit.plan.results import EpochRecord
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round, RoundPosition, Train
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.model import find_model, load_networks
from hydrakit.runs.rundir import RunDir
from hydrakit.testing.properties import Property, PropertySkipped
from hydrakit.testing.synthetic import CLASSES, synthetic_dataset

VALUES: dict[str, Any] = {
    "profile": "recommended-0.1",
    "epochs": 2,
    "epoch_size": 16,
    "batch_size": 4,
    "patience": 0,
    "bootstrap": 1,
}
"""Values of a plan that is trained in seconds."""

SMALL = {"channels": (4,), "patch": 16}
"""Options of the body `small`, for plugins without a body."""

C = TypeVar("C", bound=NamedComponent)


def plain(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Body and head on the first dataset, then the head and both on the target."""
