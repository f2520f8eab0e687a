"""Prepared patches as training takes them: some rows at a time, from disk or from the GPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hydrakit.data.index import Prepared
from hydrakit.data.views import Views, plain

LOADED_AT_ONCE = 256


class Canvases:
    """Prepared patches of some cases; what is taken of them comes z-scored, on the device.

    On a CPU they stay mapped from disk and nothing is copied but what is taken; a GPU gets all of
    them at once. Z-scoring comes after the view is made, on a seventh of the pixels: the weights
    that each pixel of a view is the mean by sum to 1.
    """

    def __init__(self, prepared: Prepared, rows: Sequence[int], device: torch.device) -> None:
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
