"""Views of prepared patches: what the network sees of them, as they are or augmented.

Augmentation as in the paper (Section II-C): rotation by -20 to 20 degrees, horizontal flip with
p = 0.5, horizontal shift by -1, 0 or 1 pixel of the doubled resolution, then halving.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from hydrakit.data.prepare import MAX_ANGLE, MAX_SHIFT, OVERSAMPLING


@dataclass(frozen=True)
class Views:
    """One random view for each of several patches.

    Attributes:
        angle: ``(n,)`` counter-clockwise rotation in degrees.
        flip: ``(n,)`` 1.0, or -1.0 where the view is mirrored left to right.
        shift: ``(n,)`` shift to the right, in pixels of the prepared patch.
    """

    angle: Tensor
    flip: Tensor
    shift: Tensor

    @classmethod
    def draw(cls, count: int, generator: torch.Generator) -> Views:
        """Random views; ``generator`` is one of the CPU, so that every device sees the same."""
        angle = (torch.rand(count, generator=generator) * 2 - 1) * MAX_ANGLE
        flip = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
        shift = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (count,), generator=generator)
        return cls(angle, flip, shift.float())

    def __getitem__(self, rows: Tensor) -> Views:
        """The views of some of the patches."""
        return Views(self.angle[rows], self.flip[rows], self.shift[rows])

    def of(self, canvas: Tensor, patch: int) -> Tensor:
        """Views of prepared patches.

        Args:
            canvas: Prepared patches ``(n, channels, side, side)``.
            patch: Side of the views.

        Returns:
            ``(n, channels, patch, patch)``.
        """
        seen = OVERSAMPLING * patch
        side = canvas.shape[-1]
        turn = torch.deg2rad(self.angle)
        cos, sin = torch.cos(turn), torch.sin(turn)
        # Where each pixel of the view comes from: undo the shift, then the flip, then the turn.
        # Both axes of grid_sample run from -1 to 1, x to the right and y down.
        left = -2 * self.shift / side
        scale = seen / side
        theta = torch.stack(
            [
                torch.stack([cos * self.flip * scale, -sin * scale, cos * self.flip * left], -1),
                torch.stack([sin * self.flip * scale, cos * scale, sin * self.flip * left], -1),
            ],
            dim=1,
        )
        size = [len(canvas), canvas.shape[1], seen, seen]
        grid = functional.affine_grid(theta.to(canvas.device), size, align_corners=False)
        warped = functional.grid_sample(
            canvas, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return functional.avg_pool2d(warped, OVERSAMPLING)


def plain(canvas: Tensor, patch: int) -> Tensor:
    """The middle of prepared patches as they are: ``(n, channels, patch, patch)``."""
    margin = (canvas.shape[-1] - OVERSAMPLING * patch) // 2
    middle = canvas[..., margin : canvas.shape[-1] - margin, margin : canvas.shape[-1] - margin]
    return functional.avg_pool2d(middle, OVERSAMPLING)


def balanced(labels: Tensor, views: int, generator: torch.Generator) -> Tensor:
    """Which patches an epoch trains on, so that every class comes equally often.

    The largest class comes with ``views`` views of each patch; the others with as many in all,
    spread evenly over their patches, the remainder over patches drawn at random.

    Where labels are no classes (``(n, outputs)`` numbers), every patch comes with ``views`` views.

    Args:
        labels: ``(n,)`` class of each patch, or ``(n, outputs)``.
        views: Views of each patch of the largest class.
        generator: For the remainder.

    Returns:
        Row numbers, one for each view, class by class.
    """
    if labels.ndim > 1:
        return torch.arange(len(labels)).repeat(views)
    counts = torch.bincount(labels)
    total = int(counts.max()) * views
    rows = []
    for label in torch.nonzero(counts).flatten():
        members = torch.nonzero(labels == label).flatten()
        shuffled = members[torch.randperm(len(members), generator=generator)]
        rows.append(shuffled.repeat(math.ceil(total / len(members)))[:total])
    return torch.cat(rows)
