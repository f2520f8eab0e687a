"""One dataset as tensors on a device, in its three splits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrakit.data.augment import Views, plain
from hydrakit.data.prepared.index import PreparedCase, PreparedDataset
from hydrakit.hooks import DatasetAdapter, Task
from hydrakit.stats.tasks import Scale, scale_of, targets_of, to_tensor


@dataclass(frozen=True)
class CaseSet:
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
    cases: tuple[PreparedCase, ...]
    task: Task
    scale: Scale | None


@dataclass(frozen=True)
class LoadedDataset:
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
    train: PatchStore
    train_labels: Tensor
    val: CaseSet
    task: Task
    scale: Scale | None
    splits: dict[str, str]

    @property
    def channels(self) -> int:
        """Of its images."""
        return self.train.channels


def select(
    prepared: PreparedDataset,
    keys: set[str],
    *,
    task: Task,
    scale: Scale | None,
    patch: int,
    device: torch.device,
) -> CaseSet:
    """The labelled cases of these keys, unaugmented, on a device."""
    chosen = [
        (row, case, case.label)
        for row, case in enumerate(prepared.index.cases)
        if case.key in keys and case.label is not None
    ]
    canvases = PatchStore(prepared, [row for row, _, _ in chosen], torch.device("cpu"))
    return CaseSet(
        dataset=prepared.index.dataset,
        patches=canvases.plain(patch).to(device),
        labels=targets_of([label for _, _, label in chosen], task),
        cases=tuple(case for _, case, _ in chosen),
        task=task,
        scale=scale,
    )


def load(
    prepared: PreparedDataset,
    adapter: DatasetAdapter,
    *,
    splits: dict[str, str],
    patch: int,
    device: torch.device,
) -> LoadedDataset:
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
    return LoadedDataset(
        name=adapter.name,
        classes=adapter.classes,
        patch=patch,
        train=PatchStore(prepared, rows, device),
        train_labels=to_tensor(targets, scale),
        val=select(prepared, val, task=adapter.task, scale=scale, patch=patch, device=device),
        task=adapter.task,
        scale=scale,
        splits=splits,
    )


LOADED_AT_ONCE = 256


class PatchStore:
    """Prepared patches of some cases; what is taken of them comes z-scored, on the device.

    On a CPU they stay mapped from disk and nothing is copied but what is taken; a GPU gets all of
    them at once. Z-scoring comes after the view is made, on a seventh of the pixels: the weights
    that each pixel of a view is the mean by sum to 1.
    """

    def __init__(
        self, prepared: PreparedDataset, rows: Sequence[int], device: torch.device
    ) -> None:
        """Of the cases with these indices into ``prepared.index.cases``."""
        index = prepared.index
        found = [index.patients[index.cases[row].patient] for row in rows]
        shape = (len(rows), index.channels, 1, 1)
        self.device = device
        mean = torch.tensor([each.mean for each in found], dtype=torch.float64)
        deviation = torch.tensor([each.deviation for each in found], dtype=torch.float64)
        self._mean = mean.float().view(shape).to(device)
        self._factor = (1 / deviation).float().view(shape).to(device)
        self._rows = torch.tensor([index.rows[row] for row in rows], dtype=torch.int64)
        self._canvases = prepared.mapped()
        if device.type != "cpu":
            mapped = self._canvases
            self._canvases = torch.empty((len(rows), *mapped.shape[1:]), device=device)
            for part in torch.arange(len(rows)).split(LOADED_AT_ONCE):
                self._canvases[part[0] : part[-1] + 1] = mapped[self._rows[part]].to(device)
            self._rows = torch.arange(len(rows), device=device)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self._rows)

    @property
    def channels(self) -> int:
        """Of the images."""
        return int(self._canvases.shape[1])

    def views(self, chosen: Tensor, views: Views | None, patch: int) -> Tensor:
        """Views of some cases.

        Args:
            chosen: Which cases ``(n,)``, on the device.
            views: One for each of them; None for the patches as they are.
            patch: Side of the views.

        Returns:
            ``(n, channels, patch, patch)``.
        """
        canvas = self._canvases.index_select(0, self._rows[chosen])
        images = plain(canvas, patch) if views is None else views.of(canvas, patch)
        return (images - self._mean[chosen]) * self._factor[chosen]

    def plain(self, patch: int) -> Tensor:
        """All cases as they are, ``(cases, channels, patch, patch)``."""
        every = torch.arange(len(self), device=self.device).split(LOADED_AT_ONCE)
        shown = [self.views(chosen, None, patch) for chosen in every]
        empty = torch.empty((0, self.channels, patch, patch), device=self.device)
        return torch.cat([empty, *shown])
