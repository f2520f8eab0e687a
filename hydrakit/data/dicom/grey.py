"""From the stored numbers of a DICOM image to its grey values.

DICOM defines the steps and their order (PS3.4 N.2): padding is found among the stored values; the
modality transform (a rescaling or a table) gives values in the unit of the modality; the VOI
transform (a window or a table) selects the range that is displayed; and the photometric
interpretation says at last whether low values are black or white.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hydrakit.data.dicom.header import lut_shape, numbers, text

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    FloatArray = NDArray[np.float64]

RescaleTags = Literal["none", "without effect", "applied"]


class ElementError(ValueError):
    """An element is missing or has an unusable value; the message does not name the file."""


RESCALE_TAGS = "rescale tags"  # name of the fact
WHITE = 255.0  # of the values that a window or a VOI table gives; black is 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModalityValues:
    """Values after the modality transform.

    Attributes:
        values: Values, ``(height, width)``.
        low: Lowest value that the image could hold.
        high: Highest value that the image could hold.
        tags: Whether the image has a transform, and whether it changed the values.
    """

    values: FloatArray
    low: float
    high: float
    tags: RescaleTags


def stored_range(dataset: Dataset) -> tuple[int, int]:
    """Return the lowest and the highest value that an image's bits can hold."""
    bits = int(dataset.BitsStored)
    if int(dataset.PixelRepresentation):
        return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    return 0, 2**bits - 1


def find_padding(
    pixels: NDArray[Any], words: NDArray[Any], dataset: Dataset
) -> NDArray[np.bool_] | None:
    """Return where an image is padding (PS3.3 C.7.5.1.1.2); None if nowhere.

    Args:
        pixels: Stored values.
        words: Stored values with their unused high bits: some scanners mark padding by a number
            that does not fit into BitsStored.
        dataset: Elements of the image.

    Raises:
        ElementError: The elements of the padding are not whole numbers.
    """
    value = _whole(dataset, "PixelPaddingValue")
    if value is None:
        return None
    limit = _whole(dataset, "PixelPaddingRangeLimit")
    ends = sorted(_in_words(each, dataset) for each in (value, value if limit is None else limit))
    low, high = stored_range(dataset)
    found = pixels if low <= ends[0] and ends[1] <= high else words
    mask: NDArray[np.bool_] = (found >= ends[0]) & (found <= ends[1])
    return mask if mask.any() else None


def _in_words(value: int, dataset: Dataset) -> int:
    """Read a number as the pixels are read: its element often has the other signedness."""
    bits = int(dataset.BitsAllocated)
    value %= 2**bits
    if int(dataset.PixelRepresentation) and value >= 2 ** (bits - 1):
        value -= 2**bits
    return value


def modality_values(
    pixels: NDArray[Any], dataset: Dataset, *, rescale: bool | None
) -> ModalityValues:
    """Apply the modality transform (PS3.3 C.11.1).

    Args:
        pixels: Stored values.
        dataset: Elements of the image.
        rescale: False: do not apply it. None: apply it if the image has one. True: an image without
            one is refused.

    Raises:
        ElementError: The image lacks the transform, or states it wrongly.
    """
    low, high = stored_range(dataset)
    if rescale is False:
        return ModalityValues(values=pixels.astype(np.float64), low=low, high=high, tags="none")
    if dataset.get("ModalityLUTSequence"):
        values, bits = _look_up(pixels, dataset.ModalityLUTSequence[0], low=low)
        return ModalityValues(values=values, low=0, high=2**bits - 1, tags="applied")
    slope, intercept = _number(dataset, "RescaleSlope"), _number(dataset, "RescaleIntercept")
    if slope is None and intercept is None:
        if rescale:
            raise ElementError(
                "no usable RescaleSlope and RescaleIntercept for Hounsfield units: use CT images "
                "with these tags"
            )
        return ModalityValues(values=pixels.astype(np.float64), low=low, high=high, tags="none")
    if slope is None or intercept is None:
        raise ElementError(
            "only one of RescaleSlope and RescaleIntercept, so its unit is unknown: use images "
            "with both, or stored values (rescale = false)"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        values = pixels * slope
        values += intercept  # in place: large images take much memory
    if not np.isfinite(values.astype(np.float32)).all():
        raise ElementError(
            f"RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give values that are not "
            "finite: fetch the file again"
        )
    ends = sorted((low * slope + intercept, high * slope + intercept))
    tags: RescaleTags = "without effect" if (slope, intercept) == (1, 0) else "applied"
    return ModalityValues(values=values, low=ends[0], high=ends[1], tags=tags)


def display_values(image: ModalityValues, dataset: Dataset) -> FloatArray:
    """Apply the file's own window or VOI table (PS3.3 C.11.2), the first if there are several.

    Returns:
        Values from 0 (lowest) to 255 (highest).

    Raises:
        ElementError: The image has neither, or states it wrongly.
    """
    if dataset.get("VOILUTSequence"):
        values, bits = _look_up(image.values, dataset.VOILUTSequence[0], low=image.low)
        scaled: FloatArray = values / (2**bits - 1) * WHITE
        return scaled
    window = first_window(dataset)
    if window is None:
        raise ElementError(
            "neither WindowCenter and WindowWidth nor a VOI LUT: give window = [centre, width], or "
            "leave the window out"
        )
    return apply_window(image.values, *window, str(dataset.get("VOILUTFunction") or "LINEAR"))


def first_window(dataset: Dataset) -> tuple[float, float] | None:
    """Return the first WindowCenter and WindowWidth; None if either is absent."""
    centre, width = (
        next(iter(numbers(dataset.get(keyword))), None)
        for keyword in ("WindowCenter", "WindowWidth")
    )
    return None if centre is None or width is None else (centre, width)


def apply_window(
    values: NDArray[Any], centre: float, width: float, function: str = "LINEAR"
) -> FloatArray:
    """Map a window of values to 0 to 255 (PS3.3 C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: Grey values of any kind.
        centre: Centre of the window, in the unit of the values.
        width: Width of the window, in the same unit.
        function: ``LINEAR``, ``LINEAR_EXACT`` or ``SIGMOID``.

    Raises:
        ElementError: The function is unknown, or the width too small for it.
    """
    function = function.strip().upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ElementError("its VOILUTFunction is unknown: give window = [centre, width]")
    if width <= 0 or (width < 1 and function == "LINEAR"):
        raise ElementError(f"a window of width {width:g}: give window = [centre, width]")
    values = values.astype(np.float64)
    if function == "SIGMOID":
        with np.errstate(over="ignore"):
            sigmoid: FloatArray = WHITE / (1 + np.exp(-4 * (values - centre) / width))
        return sigmoid
    if function == "LINEAR":
        centre, width = centre - 0.5, width - 1
    low = centre - width / 2
    if width == 0:
        return np.where(values > low, WHITE, 0.0)
    linear: FloatArray = np.clip((values - low) / width, 0, 1) * WHITE
    return linear


def is_inverse(dataset: Dataset) -> bool:
    """Whether low values are white (PS3.3 C.7.6.3.1.2 and C.11.6.1.2).

    PresentationLUTShape decides if it is there: in a valid file it says the same as
    PhotometricInterpretation. Hounsfield units are a physical scale, which is low for air whatever
    the polarity of the display, so they are never inverted.
    """
    if _is_hounsfield(dataset):
        return False
    shape = lut_shape(dataset)
    if shape:
        return shape == "INVERSE"
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def _is_hounsfield(dataset: Dataset) -> bool:
    if dataset.get("RescaleSlope") is None:
        return False
    unit = str(dataset.get("RescaleType") or "").strip().upper()
    return unit == "HU" or (not unit and text(dataset, "Modality") == "CT")


def _look_up(values: NDArray[Any], table: Dataset, *, low: float) -> tuple[FloatArray, int]:
    """Apply a lookup table (PS3.3 C.11.1.1); return its values and their number of bits."""
    is_big = table.original_encoding[1] is False
    return look_up(values, table.LUTDescriptor, table.LUTData, low=low, is_big=is_big)


def look_up(
    values: NDArray[Any], descriptor: Sequence[int], data: Any, *, low: float, is_big: bool
) -> tuple[FloatArray, int]:
    """Apply a lookup table; return its values and their number of bits.

    Args:
        values: Values to look up.
        descriptor: Number of entries, first value that has one, and number of bits.
        data: Entries, as bytes or numbers.
        low: Lowest value that could be looked up.
        is_big: Whether bytes are big endian.

    Raises:
        ElementError: There are fewer entries than the descriptor says.
    """
    entries, first, bits = (int(number) for number in descriptor)
    entries = entries or 2**16
    if low < 0 and first >= 2**15:  # an element of the other signedness
        first -= 2**16
    if isinstance(data, bytes):
        wide = len(data) >= 2 * entries
        entry_values = np.frombuffer(data, dtype=f"{'>' if is_big else '<'}u2" if wide else "u1")
    else:
        entry_values = np.atleast_1d(np.asarray(data))
    if len(entry_values) < entries:
        raise ElementError(f"a lookup table of {len(entry_values)} entries, not {entries}")
    at = np.clip(np.floor(values).astype(np.int64) - first, 0, entries - 1)
    return entry_values[at].astype(np.float64), bits


def _number(dataset: Dataset, keyword: str) -> float | None:
    """Return an element's only number; None if the element is absent or empty.

    Raises:
        ElementError: The element is something else.
    """
    value = dataset.get(keyword)
    if value is None or value in ("", b""):
        return None
    parsed = numbers(value)
    if len(parsed) != 1:
        raise ElementError(f"a {keyword} that is not a finite number: fetch the file again")
    return parsed[0]


def _whole(dataset: Dataset, keyword: str) -> int | None:
    value = dataset.get(keyword)
    if isinstance(value, bytes) and len(value) == 2:  # an element of unknown type
        is_big = dataset.original_encoding[1] is False
        return int.from_bytes(value, "big" if is_big else "little")
    number = _number(dataset, keyword)
    if number is not None and not number.is_integer():
        raise ElementError(f"a {keyword} that is not a whole number: fetch the file again")
    return None if number is None else int(number)
