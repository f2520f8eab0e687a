"""Training batches of one dataset, in a new order in every epoch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hydrakit.compute import signals
from hydrakit.data.augment import Views, allowed, balanced
from hydrakit.data.load import LoadedDataset, cases_at_once
from hydrakit.rounds import Hyperparameters
from hydrakit.training.evaluation import EVALUATION_BATCH, forward_in_batches
from hydrakit.training.seeds import EPOCH, VIEWS, Seeds

AHEAD_BYTES = 2**26  # of prepared patches whose views a GPU computes at once


class TrainingExamples:
    """Inputs and labels that a round trains on.

    An augmented view is computed when its batch is requested, so that memory holds one batch of
    views; on a GPU, where starting the computation takes longer than the views of a batch, a few
    batches. Features of a frozen body are constant and stay in memory.

    Args:
        data: Dataset to train on.
        settings: Training values of the round.
        seeds: Seeds of the round.
        fixed: Whether all epochs use the same views; without augmentation they always do.

    Attributes:
        labels: Class of each example of the current epoch, on the device.
    """

    def __init__(
        self,
        data: LoadedDataset,
        settings: Hyperparameters,
        seeds: Seeds,
        *,
        fixed: bool,
    ) -> None:
        self.data = data
        self.settings = settings
        self.seeds = seeds
        self.device = data.train.device
        self.fixed = fixed or settings.augmentation != "fresh"
        self.features: Tensor | None = None
        self.labels = torch.empty(0)
        if self.fixed:
            count = 1 if settings.augmentation == "none" else settings.views
            self._draw(count, seeds.generator(VIEWS))

    def _draw(self, views: int, generator: torch.Generator) -> None:
        """Draw patches and their views, on the CPU so that every device gets the same numbers."""
        rows = balanced(self.data.train_labels, views, generator, self.settings.epoch_size)
        self.rows = rows.to(self.device)
        self.labels = self.data.train_labels[rows].to(self.device)
        self.views = None
        if self.settings.augmentation != "none":
            table = allowed(self.settings.transforms, self.data.flips)
            self.views = Views.draw(len(rows), generator, table).to(self.device)

    def _images(self, indices: Tensor) -> Tensor:
        views = None if self.views is None else self.views[indices]
        return self.data.train.views(self.rows[indices], views, self.data.patch)

    def precompute_features(self, body: nn.Module, device: torch.device) -> None:
        """Replace the fixed views by their features.

        Args:
            body: Frozen body, on the device of the data.
            device: Device of the features and labels.
        """
        count = cases_at_once(EVALUATION_BATCH, self.data.patch)
        indices = torch.arange(len(self.rows), device=self.device).split(count)
        features = torch.cat([forward_in_batches(body, self._images(batch)) for batch in indices])
        self.device = device
        self.features, self.labels = features.to(device), self.labels.to(device)

    def __len__(self) -> int:
        """Number of examples in an epoch."""
        if self.fixed:
            return len(self.rows)
        limit = self.settings.epoch_size
        views = self._views_per_epoch()
        return len(balanced(self.data.train_labels, views, torch.Generator(), limit))

    def _views_per_epoch(self) -> int:
        """Number of fresh views of each patch of the largest class in an epoch."""
        settings = self.settings
        if not settings.fill_epochs or settings.epoch_size is None:
            return 1
        once = len(balanced(self.data.train_labels, 1, torch.Generator()))
        return max(1, round(settings.epoch_size / once))

    def _batches_ahead(self) -> int:
        """Number of batches whose images are computed at once."""
        if self.device.type == "cpu":
            return 1
        return max(1, AHEAD_BYTES // (self.data.train.patch_bytes * self.settings.batch_size))

    def batches(self, epoch: int, steps: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield inputs and labels of an epoch, batch by batch.

        Args:
            epoch: Number of the epoch, from 1.
            steps: Number of batches, with sizes that differ by at most one; None for batches of the
                round's batch size.
        """
        generator = self.seeds.generator(EPOCH, epoch, 0)
        if not self.fixed:
            self._draw(self._views_per_epoch(), generator)
        order = torch.randperm(len(self.rows), generator=generator).to(self.device)
        size = self.settings.batch_size
        parts = order.split(size) if steps is None else order.tensor_split(steps)
        ahead = self._batches_ahead()
        for first in range(0, len(parts), ahead):
            group = parts[first : first + ahead]
            rows = group[0] if len(group) == 1 else torch.cat(group)
            inputs = self._images(rows) if self.features is None else self.features[rows]
            sizes = [len(indices) for indices in group]
            for images, labels in zip(
                inputs.split(sizes), self.labels[rows].split(sizes), strict=True
            ):
                signals.check()
                yield images, labels
