"""An augmented view computed by SciPy, slowly: what the quick ones are held to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def view(
    canvas: NDArray[np.float32], *, angle: float, mirrored: bool, shift: float, patch: int = 65
) -> NDArray[np.float64]:
    """Cubic interpolation at every pixel of the doubled view, then the mean of 2 x 2 pixels.

    Args:
        canvas: ``(side, side)``.
        angle: Counter-clockwise, in degrees.
        mirrored: Left to right, after the turn.
        shift: To the right, in pixels of the canvas, after that.
        patch: Side of the view.

    Returns:
        ``(patch, patch)``.
    """
    from scipy import ndimage

    at = np.arange(2 * patch) - patch + 0.5  # from the middle
    down, right = np.meshgrid(at, at, indexing="ij")
    right = (right - shift) * (-1 if mirrored else 1)
    turn = np.deg2rad(angle)
    column = np.cos(turn) * right - np.sin(turn) * down
    row = np.sin(turn) * right + np.cos(turn) * down
    middle = (canvas.shape[0] - 1) / 2
    places = np.stack([row + middle, column + middle])
    doubled = ndimage.map_coordinates(canvas.astype(np.float64), places, order=3, mode="nearest")
    halved: NDArray[np.float64] = doubled.reshape(patch, 2, patch, 2).mean(axis=(1, 3))
    return halved
