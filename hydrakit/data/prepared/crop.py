"""Cropping of one image around its centre, and its mean and standard deviation.

The crop is larger than the network's patch and has twice its resolution, so that augmentation can
rotate and shift it without reaching its border (`hydrakit.data.augment`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from hydrakit.data.read import LoadedSample
    from hydrakit.hooks import FieldOfView

OVERSAMPLING = 2
MAX_ANGLE = 20.0
MAX_SHIFT = 1
MAX_VALUES = 2**26  # of a padded image, if it has more than four times the image's own
MIN_PIXELS = 2  # sides of a field of view in millimetres or by a mask

Pair = NDArray[np.float64]


def canvas_side(patch: int) -> int:
    """Return the side of a prepared patch in pixels: enough for every view of side ``patch``.

    A square rotated by up to 20 degrees needs cos 20 + sin 20 times its side; a shift adds one
    pixel on each side.
    """
    angle = math.radians(MAX_ANGLE)
    return OVERSAMPLING * (math.ceil(patch * (math.cos(angle) + math.sin(angle))) + MAX_SHIFT)


@dataclass(frozen=True)
class _Box:
    """The part of an image that a crop needs, as pairs (row, column) in pixels.

    Attributes:
        extent: Size of the field of view.
        low: Upper left corner of the crop; the image's upper left corner is (0, 0).
        high: Lower right corner of the crop.
        before: Rows and columns to add before the image.
        after: Rows and columns to add after it.
    """

    extent: Pair
    low: Pair
    high: Pair
    before: Pair
    after: Pair


def _box(sample: LoadedSample, view: FieldOfView, patch: int) -> _Box:
    side = canvas_side(patch)
    size = np.array(sample.image.shape[1:], dtype=np.float64)
    if view.millimetres is not None:
        assert sample.spacing is not None  # read_cases has checked it
        with np.errstate(over="ignore"):
            extent = view.millimetres / np.array(sample.spacing)
    elif view.mask is not None:
        assert sample.extent is not None  # read_cases has checked it
        pixel = np.array(sample.spacing or (1.0, 1.0))
        extent = view.mask * (np.array(sample.extent) * pixel).max() / pixel
    else:
        assert view.share is not None
        extent = view.share * size
    half = extent * side / (OVERSAMPLING * patch) / 2
    # Pillow's origin is the image's upper left corner; a sample's is the centre of its first pixel.
    middle = size / 2 if sample.centre is None else np.array(sample.centre) + 0.5
    low, high = middle - half, middle + half
    with np.errstate(invalid="ignore"):  # infinite sizes, which `crop_fault` refuses
        reach = np.maximum(np.ceil((high - low) / side), 1)  # filter support beyond the box
        before = np.maximum(np.ceil(reach - low), 0)
        after = np.maximum(np.ceil(high + reach - size), 0)
    return _Box(extent, low, high, before, after)


def crop_fault(sample: LoadedSample, view: FieldOfView, patch: int) -> str | None:
    """Return why the field of view has no sensible size in an image's pixels, or None.

    This bounds the memory that `crop` takes, whatever pixel spacing a file states.
    """
    box = _box(sample, view, patch)
    padded = np.prod(box.before + sample.image.shape[1:] + box.after) * len(sample.image)
    too_large = not padded <= max(MAX_VALUES, 4 * sample.image.size)  # also if it is not a number
    if view.share is not None or not (too_large or box.extent.min() < MIN_PIXELS):
        return None
    height, width = box.extent
    if view.millimetres is None:
        return (
            f"a field of view of {view.mask:g} times the lesion in its mask has {height:.3g} x "
            f"{width:.3g} pixels: correct the mask or the field of view"
        )
    row, column = sample.spacing or (0, 0)
    return (
        f"its pixel spacing is {row:g} x {column:g} mm, so that a field of view of "
        f"{view.millimetres:g} mm has {height:.3g} x {width:.3g} pixels: correct one of the two"
    )


def crop(sample: LoadedSample, view: FieldOfView, patch: int) -> NDArray[np.float32]:
    """Crop the square around a sample's centre and resample it to the prepared size.

    The image has no `crop_fault`. Border pixels are repeated outside the image. Interpolation is
    linear, with antialiasing if the image is finer than the patch. If pixels of the image are just
    the pixels of the patch, they are repeated instead, so that the network sees them unchanged:
    interpolation would blur an image that already is a patch.

    Returns:
        ``(channels, side, side)`` float32, in the image's unit.
    """
    from PIL import Image

    side, part = canvas_side(patch), _box(sample, view, patch)
    before, after = part.before.astype(int), part.after.astype(int)
    padded = np.pad(sample.image, [(0, 0), *zip(before, after, strict=True)], mode="edge")
    low, high = part.low + before, part.high + before
    box = (low[1], low[0], high[1], high[0])
    corner = (part.low + part.high - part.extent) / 2
    same_pixels = bool((part.extent == patch).all() and (corner == np.round(corner)).all())
    method = Image.Resampling.NEAREST if same_pixels else Image.Resampling.BILINEAR
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), method, box=box)) for plane in padded
    ]
    return np.stack(planes)


def is_flat(image: NDArray[np.float32]) -> bool:
    """Whether a channel of an image ``(channels, height, width)`` is constant."""
    pixels = image.reshape(len(image), -1)
    return bool((pixels.min(axis=1) == pixels.max(axis=1)).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Mean and standard deviation per channel over images of any size, in double precision.

    Adding two objects gives the statistics of all their images together.

    Attributes:
        count: Number of pixels per channel.
        mean: Mean of each channel, ``(channels,)``.
        squares: Sum of the squared differences from the mean, ``(channels,)``.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, image: NDArray[np.float32], padding: NDArray[np.bool_] | None = None) -> Self:
        """Compute the statistics of one image ``(channels, height, width)``.

        A pixel that is padding in any channel, if ``padding`` is given, does not count.
        """
        pixels = image.reshape(len(image), -1).astype(np.float64)
        if padding is not None:
            pixels = pixels[:, ~padding.reshape(len(image), -1).any(axis=0)]
        mean = pixels.mean(axis=1)
        pixels -= mean[:, None]
        pixels *= pixels
        return cls(count=pixels.shape[1], mean=mean, squares=pixels.sum(axis=1))

    def __add__(self, other: Self) -> Self:
        """Combine the statistics of two sets of images (pairwise update, Chan et al. 1979)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * other.count / count,
            squares=self.squares + other.squares + delta**2 * self.count * other.count / count,
        )

    def standard_deviation(self) -> NDArray[np.float64]:
        """Return the population standard deviation of each channel."""
        return np.sqrt(self.squares / self.count)
