"""Loading of a prepared dataset as tensors on a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hydrakit.data.augment import Views, central_view
from hydrakit.stats.tasks import Scale, scale_of, targets_of, to_tensor

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedCase, PreparedDataset
    from hydrakit.hooks import DatasetAdapter, Task
    from hydrakit.plan.grey import GreyValues
    from hydrakit.rounds import FlipAxis


@dataclass(frozen=True)
class CaseSet:
    """Cases without augmentation, as tensors: a validation or a test split.

    Attributes:
        dataset: Name of the dataset.
        patches: Patches on the device, ``(cases, channels, patch, patch)``.
        labels: Targets, as `tasks.targets_of` returns them.
        cases: Metadata of the cases.
        task: Task of the dataset.
        scale: Regression: mean and deviation of the training targets; None otherwise.
        store: Prepared patches of the cases, for other views; None if there are none.
    """

    dataset: str
    patches: Tensor
    labels: NDArray[np.int64] | NDArray[np.float64]
    cases: tuple[PreparedCase, ...]
    task: Task
    scale: Scale | None
    store: PatchStore | None = field(default=None, repr=False, compare=False)

    def seen(self, view: Views) -> Tensor:
        """Patches of all cases in the same view, as in ``patches``."""
        assert self.store is not None
        return self.store.seen(view, self.patches.shape[-1]).to(self.patches.device)


@dataclass(frozen=True)
class LoadedDataset:
    """A dataset ready for training.

    Attributes:
        name: Name of the dataset.
        classes: Names of the classes.
        patch: Side of the network's patches, in pixels.
        flips: Axes along which images may be mirrored; None: all.
        train: Prepared patches of the training split.
        train_labels: Training targets on the CPU (`tasks.targets_of`); numbers are standardised.
        train_patients: Patient of each training case.
        val: Validation split.
        task: Task of the dataset.
        scale: Regression: mean and deviation of the training targets; None otherwise.
        grey: How grey values are normalised, with the numbers of the training split.
        splits: Split of every labelled case, by key.
        content: Content digest of the prepared dataset.
        used: Content digests of the images of the training and validation splits.
    """

    name: str
    classes: tuple[str, ...]
    patch: int
    flips: tuple[FlipAxis, ...] | None
    train: PatchStore
    train_labels: Tensor
    train_patients: tuple[str, ...]
    val: CaseSet
    task: Task
    scale: Scale | None
    grey: GreyValues
    splits: dict[str, str]
    content: str
    used: tuple[str, ...]

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return self.train.channels


def select(
    prepared: PreparedDataset,
    keys: set[str],
    *,
    task: Task,
    scale: Scale | None,
    grey: GreyValues,
    patch: int,
    device: torch.device,
) -> CaseSet:
    """Load the labelled cases with the given keys, without augmentation, onto a device."""
    selected = [
        (row, case, case.label)
        for row, case in enumerate(prepared.index.cases)
        if case.key in keys and case.label is not None
    ]
    store = PatchStore(prepared, [row for row, _, _ in selected], torch.device("cpu"), grey)
    return CaseSet(
        dataset=prepared.index.dataset,
        patches=store.unaugmented(patch).to(device),
        labels=targets_of([label for _, _, label in selected], task),
        cases=tuple(case for _, case, _ in selected),
        task=task,
        scale=scale,
        store=store,
    )


def load(
    prepared: PreparedDataset,
    adapter: DatasetAdapter,
    *,
    splits: dict[str, str],
    patch: int,
    device: torch.device,
) -> LoadedDataset:
    """Load the training and validation splits of a prepared dataset onto a device.

    The test split stays on disk, so that training and selection have no access to it.

    Args:
        prepared: Prepared patches of the dataset.
        adapter: Adapter of the dataset.
        splits: Split of every labelled case, by key (`leakage.check_leakage`).
        patch: Side of the network's patches, in pixels.
        device: Device to load onto.
    """
    cases = prepared.index.cases
    rows = [row for row, case in enumerate(cases) if splits.get(case.key) == "train"]
    labels = [label for row in rows if (label := cases[row].label) is not None]
    targets = targets_of(labels, adapter.task)
    scale = scale_of(targets, adapter.task)
    val = {key for key, name in splits.items() if name == "val"}
    grey = prepared.index.grey_values(adapter.normalise, splits)
    return LoadedDataset(
        name=adapter.name,
        classes=adapter.classes,
        patch=patch,
        flips=adapter.flips,
        train=PatchStore(prepared, rows, device, grey),
        train_labels=to_tensor(targets, scale),
        train_patients=tuple(cases[row].patient for row in rows),
        val=select(
            prepared,
            val,
            task=adapter.task,
            scale=scale,
            grey=grey,
            patch=patch,
            device=device,
        ),
        task=adapter.task,
        scale=scale,
        grey=grey,
        splits=splits,
        content=prepared.index.content,
        used=tuple(case.content for case in cases if splits.get(case.key) in {"train", "val"}),
    )


CHUNK_CASES = 256
PAPER_SIDE = 65  # pixels
GPU_SHARE = 0.5  # of the free memory of a GPU that the patches of a dataset may take


def cases_at_once(most: int, patch: int) -> int:
    """Number of cases that are computed together, so that memory does not grow with their patches.

    Args:
        most: Number of cases with patches of the paper's size, or of a smaller size.
        patch: Side of the patches in pixels.
    """
    return max(1, min(most, most * PAPER_SIDE**2 // patch**2))


class PatchStore:
    """Prepared patches of some cases, which returns normalised views on the device.

    For a CPU, only requested patches are read from disk, each time (the system keeps them in its
    cache); for a GPU, all patches are copied at once if half of its free memory has room for them,
    and else as for a CPU. Views are normalised after resampling, on a seventh of the pixels. For a
    z-score this is equivalent, because the interpolation weights of each pixel sum to 1.

    Attributes:
        device: Device of the views.
        patch_bytes: Bytes of a prepared patch.
    """

    def __init__(
        self,
        prepared: PreparedDataset,
        rows: Sequence[int],
        device: torch.device,
        grey: GreyValues,
    ) -> None:
        """Use the cases with these indices into ``prepared.index.cases``."""
        index = prepared.index
        shape = (len(rows), index.channels, 1, 1)
        self.device = device
        shift, scale = map(torch.from_numpy, index.shift_and_scale(rows, grey))
        self._shift = shift.float().view(shape).to(device)
        self._factor = (1 / scale).float().view(shape).to(device)
        self._clip = grey.clip
        self._prepared, self._rows = prepared, list(rows)
        self._canvases: Tensor | None = None
        side = index.side
        self.patch_bytes = 4 * index.channels * side**2
        if device.type not in ("cpu", "mps") and self._fits_on_device():
            self._canvases = torch.empty((len(rows), index.channels, side, side), device=device)
            for part in torch.arange(len(rows)).split(CHUNK_CASES):
                self._canvases[part[0] : part[-1] + 1] = self._read(part).to(device)

    def __len__(self) -> int:
        """Number of cases."""
        return len(self._rows)

    def _fits_on_device(self) -> bool:
        free, _ = torch.cuda.mem_get_info(self.device)
        return self.patch_bytes * len(self) <= GPU_SHARE * free

    @property
    def channels(self) -> int:
        """Number of channels of the views."""
        return self._prepared.channels

    def _read(self, chosen: Tensor) -> Tensor:
        rows = self._prepared.stored([self._rows[case] for case in chosen.tolist()])
        return torch.from_numpy(rows)

    def views(self, chosen: Tensor, views: Views | None, patch: int) -> Tensor:
        """Return views of some cases.

        Args:
            chosen: Indices of the cases ``(n,)``, on the device.
            views: One view for each of them; None for no augmentation.
            patch: Side of the views, in pixels.

        Returns:
            ``(n, channels, patch, patch)``.
        """
        in_memory = self._canvases
        if in_memory is None:
            canvas = self._read(chosen).to(self.device)
        else:
            canvas = in_memory.index_select(0, chosen)
        images = central_view(canvas, patch) if views is None else views.of(canvas, patch)
        images = (images - self._shift[chosen]) * self._factor[chosen]
        images = self._clip(images if views is None else views.adjusted(images))
        return images.expand(-1, self.channels, -1, -1)

    def unaugmented(self, patch: int) -> Tensor:
        """Return all cases without augmentation, ``(cases, channels, patch, patch)``."""
        return self.seen(None, patch)

    def seen(self, view: Views | None, patch: int) -> Tensor:
        """Return all cases, each in the same view.

        Args:
            view: The view; None for no augmentation.
            patch: Side of the view, in pixels.

        Returns:
            ``(cases, channels, patch, patch)``.
        """
        count = cases_at_once(CHUNK_CASES, patch)
        chunks = torch.arange(len(self), device=self.device).split(count)
        patches = [
            self.views(chosen, view and view[torch.zeros_like(chosen)], patch) for chosen in chunks
        ]
        empty = torch.empty((0, self.channels, patch, patch), device=self.device)
        return torch.cat([empty, *patches])
