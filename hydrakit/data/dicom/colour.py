"""From the pixels of a DICOM image in colour to red, green and blue of 8 bits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hydrakit.data.dicom.grey import ElementError, look_up, stored_range
from hydrakit.data.dicom.header import text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

PALETTE = "PALETTE COLOR"
_DECODED = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")  # pydicom converts them to RGB


def is_colour(dataset: Dataset) -> bool:
    """Whether an image states that its pixels are colours (PS3.3 C.7.6.3.1.2)."""
    return not text(dataset, "PhotometricInterpretation").startswith("MONOCHROME")


def to_rgb(pixels: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    """Return colours ``(height, width, 3)`` of 8 bits; of more bits, the highest 8 are kept.

    Args:
        pixels: Pixels as pydicom decodes them: RGB, or the indices of a palette.
        dataset: Elements of the image.

    Raises:
        ElementError: The image has another kind of colours, or an incomplete palette.
    """
    kind = text(dataset, "PhotometricInterpretation")
    if kind == PALETTE and pixels.ndim == 2:
        return _from_palette(pixels, dataset)
    if kind not in _DECODED or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ElementError(
            f"{kind or 'unnamed'} pixels of shape {pixels.shape}, which are not read: save the "
            "image as RGB or MONOCHROME2"
        )
    if pixels.dtype.kind != "u":
        raise ElementError("signed numbers as colours (PixelRepresentation 1): save it as RGB")
    return (pixels >> max(int(dataset.BitsStored) - 8, 0)).astype(np.uint8)


def _from_palette(indices: NDArray[Any], dataset: Dataset) -> NDArray[np.uint8]:
    channels = []
    for name in ("Red", "Green", "Blue"):
        descriptor = dataset.get(f"{name}PaletteColorLookupTableDescriptor")
        data = dataset.get(f"{name}PaletteColorLookupTableData")
        if descriptor is None or data is None:
            raise ElementError("no palette, or a segmented one: save the image as RGB")
        values, bits = look_up(
            indices,
            descriptor,
            data,
            low=stored_range(dataset)[0],
            is_big=dataset.original_encoding[1] is False,
        )
        if bits not in (8, 16) or values.max() >= 2**bits:
            raise ElementError(f"a palette whose entries are not of {bits} bits: save it as RGB")
        channels.append((values.astype(np.int64) >> (bits - 8)).astype(np.uint8))
    return np.stack(channels, axis=-1)
