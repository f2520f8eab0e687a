"""What is taken of one image: the square around its centre, and its mean and deviation.

The square is larger than what the network sees, at twice its resolution, so that it can be rotated
and shifted without meeting its own border (`views`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.read import LoadedSample
from hydrakit.hooks import FieldOfView

OVERSAMPLING = 2
MAX_ANGLE = 20.0
MAX_SHIFT = 1


def canvas_side(patch: int) -> int:
    """Side in pixels of a prepared patch: room for every view of a ``patch`` x ``patch`` image.

    A square turned by up to 20 degrees needs cos 20 + sin 20 times its side, and a shift one pixel
    more on each side.
    """
    angle = math.radians(MAX_ANGLE)
    return OVERSAMPLING * (math.ceil(patch * (math.cos(angle) + math.sin(angle))) + MAX_SHIFT)


def crop(sample: LoadedSample, view: FieldOfView, patch: int) -> NDArray[np.float32]:
    """The square around a sample's centre, resampled to the prepared size.

    Outside the image its border pixels are repeated. Linear interpolation, with antialiasing where
    the image is finer than the patch.

    Returns:
        ``(channels, side, side)`` float32, in the image's own unit.
    """
    from PIL import Image

    side = canvas_side(patch)
    image = sample.image
    size = np.array(image.shape[1:], dtype=np.float64)
    if view.millimetres is not None:
        assert sample.spacing is not None  # read_cases has checked it
        seen = view.millimetres / np.array(sample.spacing)
    else:
        assert view.share is not None
        seen = view.share * size
    half = seen * side / (OVERSAMPLING * patch) / 2
    # Pillow counts from the image's upper left corner, samples from the middle of its first pixel.
    middle = size / 2 if sample.centre is None else np.array(sample.centre) + 0.5
    low, high = middle - half, middle + half
    reach = np.maximum(np.ceil((high - low) / side), 1)  # of the filter beyond the box, in pixels
    before = np.maximum(np.ceil(reach - low), 0).astype(int)
    after = np.maximum(np.ceil(high + reach - size), 0).astype(int)
    padded = np.pad(image, [(0, 0), *zip(before, after, strict=True)], mode="edge")
    box = (low[1] + before[1], low[0] + before[0], high[1] + before[1], high[0] + before[0])
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR, box=box))
        for plane in padded
    ]
    return np.stack(planes)


def is_flat(image: NDArray[np.float32]) -> bool:
    """Whether a channel of an image ``(channels, height, width)`` has one value everywhere."""
    pixels = image.reshape(len(image), -1)
    return bool((pixels.min(axis=1) == pixels.max(axis=1)).any())


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Mean and standard deviation per channel over images of any size, in double precision.

    The sum of two is that of the images of both.

    Attributes:
        count: Number of pixels of a channel.
        mean: ``(channels,)``.
        squares: ``(channels,)`` sum of the squared differences from the mean.
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, image: NDArray[np.float32]) -> Self:
        """Those of one image ``(channels, height, width)``."""
        pixels = image.reshape(len(image), -1).astype(np.float64)
        mean = pixels.mean(axis=1)
        pixels -= mean[:, None]
        pixels *= pixels
        return cls(count=pixels.shape[1], mean=mean, squares=pixels.sum(axis=1))

    def __add__(self, other: Self) -> Self:
        """Those of the images of both (Chan et al. 1979, pairwise update)."""
        count = self.count + other.count
        delta = other.mean - self.mean
        return type(self)(
            count=count,
            mean=self.mean + delta * other.count / count,
            squares=self.squares + other.squares + delta**2 * self.count * other.count / count,
        )

    def standard_deviation(self) -> NDArray[np.float64]:
        """Of the population, per channel."""
        return np.sqrt(self.squares / self.count)
