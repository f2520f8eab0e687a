"""One dataset as tensors on a device, in its three splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrakit.data.canvases import Canvases
from hydrakit.data.prepare import Case, Prepared
from hydrakit.hooks import DatasetAdapter, Task
from hydrakit.tasks import Scale, scale_of, targets_of, to_tensor


@dataclass(frozen=True)
class Cases:
    """Cases that are looked at as they are: a validation or a test split.

    Attributes:
        dataset: Its name.
        patches: ``(cases, channels, patch, patch)`` on the device.
        labels: As `tasks.targets_of` gives them.
        cases: Who they are.
        task: What a label is.
        scale: Of a number, over the training split.
    """

    dataset: str
    patches: Tensor
    labels: NDArray[np.int64] | NDArray[np.float64]
    cases: tuple[Case, ...]
    task: Task
    scale: Scale | None


@dataclass(frozen=True)
class Loaded:
    """A dataset ready for training.

    Attributes:
        name: Of its adapter.
        classes: Names of the classes.
        patch: Side of the network's patches.
        train: The prepared training patches.
        train_labels: As `tasks.targets_of` gives them, on the CPU; a number is standardised.
        val: The validation split.
        task: What a label is.
        scale: Of a number, over the training split.
        splits: The split of every labelled case, by key.
    """

    name: str
    classes: tuple[str, ...]
    patch: int
    train: Canvases
    train_labels: Tensor
    val: Cases
    task: Task
    scale: Scale | None
    splits: dict[str, str]

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.train.channels


def select(
    prepared: Prepared,
    keys: set[str],
    *,
    task: Task,
    scale: Scale | None,
    patch: int,
    device: torch.device,
) -> Cases:
    """The labelled cases of these keys, unaugmented, on a device."""
    chosen = [
        (row, case, case.label)
        for row, case in enumerate(prepared.index.cases)
        if case.key in keys and case.label is not None
    ]
    canvases = Canvases(prepared, [row for row, _, _ in chosen], torch.device("cpu"))
    return Cases(
        dataset=prepared.index.dataset,
        patches=canvases.plain(patch).to(device),
        labels=targets_of([label for _, _, label in chosen], task),
        cases=tuple(case for _, case, _ in chosen),
        task=task,
        scale=scale,
    )


def load(
    prepared: Prepared,
    adapter: DatasetAdapter,
    *,
    splits: dict[str, str],
    patch: int,
    device: torch.device,
) -> Loaded:
    """Put the training and validation splits of a prepared dataset onto a device.

    The test split stays on disk: nothing that trains or selects can be handed it.

    Args:
        prepared: The dataset's patches.
        adapter: The dataset.
        splits: The split of every labelled case, by key (`gate.pass_gate`).
        patch: Side of the network's patches.
        device: Where to.
    """
    cases = prepared.index.cases
    rows = [row for row, case in enumerate(cases) if splits.get(case.key) == "train"]
    labels = [label for row in rows if (label := cases[row].label) is not None]
    targets = targets_of(labels, adapter.task)
    scale = scale_of(targets, adapter.task)
    val = {key for key, name in splits.items() if name == "val"}
    return Loaded(
        name=adapter.name,
        classes=adapter.classes,
        patch=patch,
        train=Canvases(prepared, rows, device),
        train_labels=to_tensor(targets, scale),
        val=select(prepared, val, task=adapter.task, scale=scale, patch=patch, device=device),
        task=adapter.task,
        scale=scale,
        splits=splits,
    )
