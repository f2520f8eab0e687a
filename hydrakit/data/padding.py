"""Padding: pixels outside of the scan, such as those beyond the circle that a CT reconstructs.

They are masked in an image (`numpy.ma`). They count in no statistics, and where a picture needs a
value for them, they have that of the nearest pixel of the scan, as pixels outside the image do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Float32Array = NDArray[np.float32]


def padding_mask(image: Float32Array) -> NDArray[np.bool_] | None:
    """Return where an image is padding, in the image's shape; None if no pixel is."""
    if not isinstance(image, np.ma.MaskedArray):
        return None
    mask = np.ma.getmaskarray(image)
    return mask if mask.any() else None


def fill_padding(image: Float32Array) -> Float32Array:
    """Return the image with every padding pixel replaced by the nearest other pixel of its plane.

    Args:
        image: Image ``(height, width)`` or ``(channels, height, width)``.

    Raises:
        DataError: A plane is nothing but padding.
    """
    mask = padding_mask(image)
    if mask is None:
        return np.asarray(image)
    from scipy.ndimage import distance_transform_edt

    filled = np.array(image)
    shape = (-1, *image.shape[-2:])
    for plane, is_padding in zip(filled.reshape(shape), mask.reshape(shape), strict=True):
        if is_padding.all():
            raise DataError("every pixel of the image is padding")
        rows, columns = distance_transform_edt(
            is_padding, return_distances=False, return_indices=True
        )
        plane[...] = plane[rows, columns]
    return filled


def concatenate(images: Sequence[Float32Array]) -> Float32Array:
    """Join images ``(channels, height, width)`` along their channels, together with their padding.

    `numpy.concatenate` would lose it.
    """
    if all(padding_mask(image) is None for image in images):
        return np.concatenate([np.asarray(image) for image in images])
    joined: Float32Array = np.ma.concatenate(images)  # type: ignore[no-untyped-call]
    return joined
