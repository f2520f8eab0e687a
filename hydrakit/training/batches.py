"""What a round trains on, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from hydrakit.compute import signals
from hydrakit.data.augment import Views, balanced
from hydrakit.data.load import LoadedDataset
from hydrakit.rounds import Hyperparameters
from hydrakit.training.evaluation import EVALUATION_BATCH, forward_in_batches
from hydrakit.training.seeds import EPOCH, VIEWS, Seeds


class TrainingExamples:
    """What a round trains on: inputs with labels, in batches, in a new order every epoch.

    Views are made when a batch is taken, so that none are kept in memory. The features of a frozen
    body are kept: they are constants.

    Attributes:
        data: The round's dataset.
        labels: Class of each example of the epoch last begun, on the device.
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
        """Choose which patches come, and a view of each; drawn on the CPU, alike for any device."""
        rows = balanced(self.data.train_labels, views, generator, self.settings.epoch_size)
        self.rows = rows.to(self.device)
        self.labels = self.data.train_labels[rows].to(self.device)
        self.views = None
        if self.settings.augmentation != "none":
            self.views = Views.draw(len(rows), generator).to(self.device)

    def _images(self, chosen: Tensor) -> Tensor:
        views = None if self.views is None else self.views[chosen]
        return self.data.train.views(self.rows[chosen], views, self.data.patch)

    def precompute_features(self, body: nn.Module, device: torch.device) -> None:
        """Put the fixed views through a frozen body, once.

        Args:
            body: On the device of the data.
            device: Of the features, which are the examples from here on, and of their labels.
        """
        every = torch.arange(len(self.rows), device=self.device).split(EVALUATION_BATCH)
        features = torch.cat([forward_in_batches(body, self._images(chosen)) for chosen in every])
        self.device = device
        self.features, self.labels = features.to(device), self.labels.to(device)

    def __len__(self) -> int:
        """Examples of an epoch."""
        if self.fixed:
            return len(self.rows)
        limit = self.settings.epoch_size
        return len(balanced(self.data.train_labels, 1, torch.Generator(), limit))

    def batches(self, epoch: int, steps: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the inputs and labels of an epoch, batch by batch.

        Args:
            epoch: Its number.
            steps: In so many batches of equal size, up to one; None for the batch size.
        """
        generator = self.seeds.generator(EPOCH, epoch, 0)
        if not self.fixed:
            self._draw(1, generator)
        order = torch.randperm(len(self.rows), generator=generator).to(self.device)
        size = self.settings.batch_size
        for chosen in order.split(size) if steps is None else order.tensor_split(steps):
            signals.check()
            inputs = self._images(chosen) if self.features is None else self.features[chosen]
            yield inputs, self.labels[chosen]
