"""Images whose grey values are in another unit than those of training."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hydrakit.hooks import Window
from hydrakit.plan.grey import GreyValues

MANY = 256
"""Number of images that are enough to judge."""

# Limits that images of other scanners, sequences or lesions do not reach, and another unit does.
FAR = 10.0  # distance of the median from the mean of training, in deviations of training
FLAT = 1 / 100  # contrast, in deviations of training
OUTSIDE = 0.95  # share of the pixels outside of a window


def foreign_values(
    grey: GreyValues,
    mean: NDArray[np.float64],
    deviation: NDArray[np.float64],
    patches: NDArray[np.float32],
) -> str | None:
    """Return how the grey values of images show that their unit is not that of training, or None.

    A z-score per patient or per image makes all units equal, and no numbers of training are known
    for values as they are: for these rules it is None.

    Args:
        grey: Rule of a head, with the numbers of its training.
        mean: Mean of each image's pixels, ``(images, channels)``.
        deviation: Their standard deviation, ``(images, channels)``.
        patches: What the network sees of them, as stored, ``(images, channels, side, side)``.
    """
    if not len(mean):
        return None
    if isinstance(grey.normalise, Window):
        low, high = grey.normalise.window
        share = float(np.mean((patches < low) | (patches > high)))
        if share <= OUTSIDE:
            return None
        text = (
            f"{share:.0%} of what the network sees lies outside of its window {low:g} to {high:g}"
        )
        return _with_remedy(
            f"the grey values of the images are around {np.median(mean):.3g}; {text}"
        )
    if grey.mean is None or grey.deviation is None:
        return None
    of_mean, of_deviation = np.array(grey.mean), np.array(grey.deviation)
    middle, contrast = (  # a single channel may be repeated
        np.broadcast_to(np.median(each, axis=0), of_mean.shape) for each in (mean, deviation)
    )
    far = np.abs(middle - of_mean) > FAR * of_deviation
    foreign = (far | (contrast < FLAT * of_deviation)) & (of_deviation > 0)
    if not foreign.any():
        return None
    at = int(np.argmax(foreign))
    which = f" of channel {at + 1}" if len(of_mean) > 1 else ""
    return _with_remedy(
        f"the grey values{which} of the images are {middle[at]:.3g} with a deviation of "
        f"{contrast[at]:.3g}, and those of training were {of_mean[at]:.3g} with a deviation of "
        f"{of_deviation[at]:.3g}"
    )


def _with_remedy(text: str) -> str:
    return (
        f"{text}: they are probably in another unit, and predictions for them mean nothing: give "
        "images in the unit of training"
    )
