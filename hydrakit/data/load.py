"""One dataset as tensors on a device, in its three splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrakit.data import views
from hydrakit.data.prepare import Case, Prepared
from hydrakit.data.split import split_cases
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan import Split


@dataclass(frozen=True)
class Cases:
    """Cases that are looked at as they are: a validation or a test split.

    Attributes:
        patches: ``(cases, channels, patch, patch)`` on the device.
        labels: ``(cases,)`` class indices; -1 where unknown.
        cases: Who they are.
    """

    patches: Tensor
    labels: NDArray[np.int64]
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Loaded:
    """A dataset ready for training.

    Attributes:
        name: Of its adapter.
        classes: Names of the classes.
        patch: Side of the network's patches.
        train: ``(cases, channels, side, side)`` prepared training patches on the device.
        train_labels: ``(cases,)`` int64, on the CPU.
        val: The validation split.
        splits: The split of every labelled case, by key.
    """

    name: str
    classes: tuple[str, ...]
    patch: int
    train: Tensor
    train_labels: Tensor
    val: Cases
    splits: dict[str, str]

    @property
    def channels(self) -> int:
        """Of its images."""
        return int(self.train.shape[1])


def share_out(
    prepared: Prepared, adapter: DatasetAdapter, *, split: Split, seed: int
) -> dict[str, str]:
    """The split of every labelled case, by key; see `split_cases`."""
    cases = [case for case in prepared.index.cases if case.label is not None]
    if not cases:
        raise DataError(f"{adapter.name}: no case has a label: nothing can be trained on it")
    dealt = split_cases(
        [case.label for case in cases if case.label is not None],
        [case.patient for case in cases],
        [case.group for case in cases],
        split=split,
        seed=seed,
        classes=adapter.classes,
        dataset=adapter.name,
    )
    return {case.key: name for case, name in zip(cases, dealt, strict=True)}


def select(prepared: Prepared, keys: set[str], *, patch: int, device: torch.device) -> Cases:
    """The cases of these keys, unaugmented, on a device."""
    rows = [row for row, case in enumerate(prepared.index.cases) if case.key in keys]
    cases = tuple(prepared.index.cases[row] for row in rows)
    canvas = torch.from_numpy(prepared.patches[rows])
    return Cases(
        patches=views.plain(canvas, patch).to(device),
        labels=np.array([-1 if c.label is None else c.label for c in cases], dtype=np.int64),
        cases=cases,
    )


def load(
    prepared: Prepared,
    adapter: DatasetAdapter,
    *,
    split: Split,
    seed: int,
    patch: int,
    device: torch.device,
) -> Loaded:
    """Split a prepared dataset and put its training and validation splits onto a device.

    The test split stays on disk: nothing that trains or selects can be handed it.

    Raises:
        DataError: Too few cases for the splits, or no labels.
    """
    splits = share_out(prepared, adapter, split=split, seed=seed)
    cases = prepared.index.cases
    rows = [row for row, case in enumerate(cases) if splits.get(case.key) == "train"]
    val = {key for key, name in splits.items() if name == "val"}
    return Loaded(
        name=adapter.name,
        classes=adapter.classes,
        patch=patch,
        train=torch.from_numpy(prepared.patches[rows]).to(device),
        train_labels=torch.tensor([cases[row].label for row in rows]),
        val=select(prepared, val, patch=patch, device=device),
        splits=splits,
    )
