"""Augmentation: views of prepared patches at the network's resolution.

A table of a round (`hydrakit.rounds.Transforms`) says how much views differ from the patch. The
default is the paper's (Section III): rotation by -20 to 20 degrees, horizontal flip with p = 0.5,
horizontal shift by -1, 0 or 1 pixel of the doubled resolution, then downsampling by 2.

All numbers are drawn on the CPU, so that every device gets the same views. A prepared patch has the
pixels that the paper's views need (`hydrakit.data.prepared.crop.canvas_side`). A view that reaches
beyond repeats border pixels of the prepared patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from hydrakit.data.prepared.crop import OVERSAMPLING
from hydrakit.rounds import FlipAxis, Transforms

PAPER = Transforms()
TEST_SEED = 0  # of the views of evaluations, which are the same in all runs


@dataclass(frozen=True)
class Views:
    """Parameters of one view for each of several patches.

    Attributes:
        table: Table that the views were drawn from.
        angle: Counter-clockwise rotation in degrees, ``(n,)``.
        flip: -1.0 for a view mirrored (top to bottom, left to right), otherwise 1.0, ``(n, 2)``.
        shift: Shift (down, right) in pixels of the prepared patch, ``(n, 2)``.
        scale: Magnification, ``(n,)``.
        contrast: Factor of the normalised pixels, ``(n,)``.
        brightness: Number that is added to them, ``(n,)``.
        noise: Seed of the noise that is added to them, ``(n,)``.
    """

    table: Transforms
    angle: Tensor
    flip: Tensor
    shift: Tensor
    scale: Tensor
    contrast: Tensor
    brightness: Tensor
    noise: Tensor

    @classmethod
    def unchanged(cls, count: int, table: Transforms = PAPER) -> Views:
        """Views that equal `central_view` but for rounding."""
        return cls(
            table=table,
            angle=torch.zeros(count),
            flip=torch.ones(count, 2),
            shift=torch.zeros(count, 2),
            scale=torch.ones(count),
            contrast=torch.ones(count),
            brightness=torch.zeros(count),
            noise=torch.zeros(count, dtype=torch.int64),
        )

    @classmethod
    def draw(cls, count: int, generator: torch.Generator, table: Transforms = PAPER) -> Views:
        """Draw random views from a table; a CPU ``generator`` gives the same for all devices.

        Angles come first, then horizontal flips and shifts; what the table leaves as it is draws no
        number. So the paper's table draws the same numbers as the versions that knew no other.
        """
        views = cls.unchanged(count, table)

        def uniform() -> Tensor:
            return torch.rand(count, generator=generator) * 2 - 1

        views.angle.copy_(uniform() * table.rotation)
        for axis, column in (("horizontal", 1), ("vertical", 0)):
            if axis in table.flips:
                sides = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
                views.flip[:, column] = sides
            if most := table.shift[column]:
                steps = torch.randint(-most, most + 1, (count,), generator=generator)
                views.shift[:, column] = steps.float()
        if table.scale:
            views.scale.copy_((1 + table.scale) ** uniform())
        if table.intensity:
            views.contrast.copy_(1 + uniform() * table.intensity)
            views.brightness.copy_(uniform() * table.intensity)
        if table.noise:
            views.noise.copy_(torch.randint(2**62, (count,), generator=generator))
        return views

    def to(self, device: torch.device) -> Views:
        """Move the views to a device."""
        return self._each(lambda tensor: tensor.to(device))

    def __getitem__(self, rows: Tensor) -> Views:
        """Return the views of some of the patches."""
        return self._each(lambda tensor: tensor[rows])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Views:
        table, *tensors = (getattr(self, each.name) for each in fields(self))
        return Views(table, *map(change, tensors))

    def of(self, canvas: Tensor, patch: int) -> Tensor:
        """Compute the views of prepared patches, up to `adjusted`.

        Args:
            canvas: Prepared patches ``(n, channels, side, side)``.
            patch: Side of the views, in pixels.

        Returns:
            ``(n, channels, patch, patch)``.
        """
        extent = OVERSAMPLING * patch
        side = canvas.shape[-1]
        # Source of each pixel of the view: undo the shift, then the flips, then rotation and scale.
        # A point is the complex number x + iy; both axes of grid_sample run from -1 to 1, x to the
        # right and y down. Adding a row of points to a column gives the grid 30 times faster than
        # torch's affine_grid on a CPU, which took half of the time.
        rotation = torch.polar(1 / self.scale, torch.deg2rad(self.angle))[:, None] * self.flip
        steps = torch.arange(1 - extent, extent, 2, device=rotation.device) / side
        down, right = (steps - 2 * shift[:, None] / side for shift in self.shift.unbind(1))
        row = rotation[:, 1:] * right
        column = 1j * rotation[:, :1] * down
        sampled = functional.grid_sample(
            canvas,
            torch.view_as_real(row[:, None, :] + column[:, :, None]),
            mode="bilinear",
            padding_mode="border",
            align_corners=False,
        )
        return _downsample(sampled)

    def adjusted(self, images: Tensor) -> Tensor:
        """Change contrast and brightness of normalised views, and add noise.

        Args:
            images: Normalised views ``(n, channels, height, width)``.
        """
        if self.table.intensity:
            contrast, brightness = self.contrast[:, None, None, None], self.brightness
            images = images * contrast + brightness[:, None, None, None]
        if self.table.noise:
            generator = torch.Generator()
            drawn = [
                torch.randn(images.shape[1:], generator=generator.manual_seed(seed))
                for seed in self.noise.tolist()
            ]
            images = images + self.table.noise * torch.stack(drawn).to(images.device)
        return images


def allowed(table: Transforms, flips: Collection[FlipAxis] | None) -> Transforms:
    """The table without the flips that a dataset does not allow; None allows all."""
    if flips is None:
        return table
    return table.model_copy(update={"flips": tuple(axis for axis in table.flips if axis in flips)})


def evaluation_views(table: Transforms, count: int) -> list[Views | None]:
    """The views of each case whose predictions are averaged: first None, the unaugmented patch.

    Its mirror images come next, because they are as sharp as the patch, and then random views. All
    cases have the same views, so that the prediction of a case depends on no other case.

    Args:
        table: Table for rotation, flips, shift and scale.
        count: Number of views.
    """
    geometry = table.model_copy(update={"intensity": 0.0, "noise": 0.0})
    views: list[Views | None] = [None]
    sides = [(1, -1) if axis in table.flips else (1,) for axis in ("vertical", "horizontal")]
    for flip in list(product(*sides))[1:]:
        mirrored = Views.unchanged(1, geometry)
        mirrored.flip.copy_(torch.tensor([flip]))
        views.append(mirrored)
    drawn = Views.draw(
        max(0, count - len(views)), torch.Generator().manual_seed(TEST_SEED), geometry
    )
    views += [drawn[torch.tensor([row])] for row in range(len(drawn.angle))]
    return views[:count]


def central_view(canvas: Tensor, patch: int) -> Tensor:
    """Compute the unaugmented views of prepared patches: ``(n, channels, patch, patch)``."""
    margin = (canvas.shape[-1] - OVERSAMPLING * patch) // 2
    end = canvas.shape[-1] - margin
    return _downsample(canvas[..., margin:end, margin:end])


def _downsample(images: Tensor) -> Tensor:
    """Average each block of 2x2 pixels; on a CPU 4 times faster than average pooling."""
    size = [side // OVERSAMPLING for side in images.shape[-2:]]
    return functional.interpolate(images, size, mode="bilinear", align_corners=False)


def balanced(
    labels: Tensor, views: int, generator: torch.Generator, limit: int | None = None
) -> Tensor:
    """Choose the patches of an epoch so that all classes are equally frequent.

    Each patch of the largest class gets ``views`` views. Every other class gets the same total
    number of views, spread evenly over its patches; the remainder goes to random patches.

    If labels are not classes (``(n, outputs)`` numbers), every patch gets ``views`` views.

    Args:
        labels: Class of each patch ``(n,)``, or targets ``(n, outputs)``.
        views: Number of views of each patch of the largest class.
        generator: Source of randomness for the remainder, and for the limit.
        limit: Maximum number of patches, each with all of its views; of more patches, a random
            part is used. None for no limit.

    Returns:
        Row numbers, one for each view, class by class.
    """
    if labels.ndim > 1:
        chosen = torch.randperm(len(labels), generator=generator)[:limit].sort().values
        return chosen.repeat(views)
    counts = torch.bincount(labels)
    largest = int(counts.max())
    if limit is not None:
        largest = min(largest, math.ceil(limit / int((counts > 0).sum())))
    total = largest * views
    rows = []
    for label in torch.nonzero(counts).flatten():
        members = torch.nonzero(labels == label).flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        shuffled = shuffled[:largest]
        rows.append(shuffled.repeat(math.ceil(total / len(shuffled)))[:total])
    return torch.cat(rows)
