"""The paper authors' conversion of a stored slice to 8 bits, bit for bit.

Derived from three of their published slices of ProstateX-0001 and that patient's DICOM images.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.dicom.pixels import read_stored
from hydrakit.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def authors_slice(path: Path) -> NDArray[np.uint8]:
    """Compute the authors' array for a file, ``(height, width)``, 0 to 255.

    The window formula (PS3.3 C.11.2.1.2.1) maps to 0 to 255, but the authors wrote its result into
    an integer array, which truncates fractions, and then scaled the maximum to 255. The values
    therefore depend on each slice's own window and maximum.

    Raises:
        DataError: The pixels cannot be read, or the file has no usable window.
    """
    image = read_stored(path)
    if image.window is None or image.window[1] <= 1:
        raise DataError(
            f"{path}: no usable WindowCenter and WindowWidth, which intensity=authors needs: use "
            "intensity=stored"
        )
    centre, width = image.window
    windowed = ((image.pixels - (centre - 0.5)) / (width - 1) + 0.5) * 255
    windowed = np.trunc(np.clip(windowed, 0, 255))
    largest = windowed.max()
    return (windowed / largest * 255 if largest > 0 else windowed).astype(np.uint8)
