"""Synthetic lesions for all organs, and the random fields of their backgrounds.

A lesion of the positive class has an irregular margin and a fine texture inside; one of the
negative class is rounder and smoothly shaded. Each cue follows a score that is normally distributed
in each class, so the difficulty determines how far the classes overlap. Everything else (area, mean
brightness, variance inside, contrast, position) is independent of the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

LOBES = np.arange(4, 9)  # waves around the margin
MAX_RAGGED = 0.22  # maximum root mean square of the radius's relative variation
TEXTURE_DEPTH = 0.4  # standard deviation inside, relative to the contrast


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesion:
    """One lesion, in the organ's own unit (millimetres, or a share of the image).

    Attributes:
        radius: Radius of the disc of the same area.
        contrast: Mean difference from the background, relative to the organ's usual contrast.
        ragged: Irregularity of the margin, from 0 to 1.
        fine: Share of the fine texture in the variance inside, from 0 to 1.
        waves: Complex amplitudes of the margin's waves, with a sum of squares of 1.
    """

    radius: float
    contrast: float
    ragged: float
    fine: float
    waves: NDArray[np.complex128]

    def opacity(self, down: Array, right: Array, *, blur: float, height: float = 0.0) -> Array:
        """Return the fraction of each pixel that the lesion covers, from 0 to 1.

        Args:
            down: Distance of each pixel below the lesion's centre, in the unit of the radius.
            right: Distance of each pixel to the right of the centre.
            blur: Half width of the soft edge.
            height: Distance of the plane from the centre, as a share of the lesion's half depth.
        """
        opacity = np.zeros_like(down + right)
        far = np.hypot(down, right)
        near = far < 2 * self.radius
        if height**2 >= 1 or not near.any():
            return opacity
        angle = np.arctan2(down, right)[near]
        waves = (np.exp(1j * np.outer(angle, LOBES)) @ self.waves).real
        depth = MAX_RAGGED * self.ragged
        # The area of r = R (1 + w) is that of the disc times 1 + mean(w^2).
        edge = self.radius * (1 + depth * np.sqrt(2) * waves) / np.sqrt(1 + depth**2)
        opacity[near] = soft_step(far[near] - edge * np.sqrt(1 - height**2), blur)
        return opacity

    def shade(self, rng: np.random.Generator, opacity: Array, *, pixel: float) -> Array:
        """Return the lesion's contribution to the image, in units of the organ's usual contrast.

        The texture changes only the grain inside, not the mean or variance.

        Args:
            rng: Random generator for the texture.
            opacity: Coverage of each pixel, from `opacity`.
            pixel: Side of a pixel in the unit of the radius.
        """
        coarse = smooth_noise(rng, opacity.shape, grain=self.radius / pixel)
        fine = smooth_noise(rng, opacity.shape, grain=self.radius / pixel / 5)
        texture = np.sqrt(1 - self.fine) * coarse + np.sqrt(self.fine) * fine
        weight = opacity / max(float(opacity.sum()), 1e-9)
        texture = texture - (weight * texture).sum()
        texture = texture / max(float(np.sqrt((weight * texture**2).sum())), 1e-9)
        result: Array = self.contrast * opacity * (1 + TEXTURE_DEPTH * texture)
        return result


def draw_lesion(
    rng: np.random.Generator,
    positive: bool,
    *,
    separation: float,
    radius: tuple[float, float],
) -> Lesion:
    """Draw a random lesion of a class; for equal generators, only the two cues differ by class.

    Args:
        rng: Random generator.
        positive: Whether the lesion belongs to the positive class.
        separation: Distance of the class means in standard deviations, both cues together.
        radius: Minimum and maximum radius.
    """
    # Two independent cues, each separated by d / sqrt(2), are separated by d together.
    mean = (1 if positive else -1) * separation / np.sqrt(8)
    margin, texture = rng.normal(size=2) + mean
    waves = rng.normal(size=LOBES.size) + 1j * rng.normal(size=LOBES.size)
    return Lesion(
        radius=float(rng.uniform(*radius)),
        contrast=float(rng.uniform(0.6, 1.4)),
        ragged=float(_squash(margin)),
        fine=float(_squash(texture)),
        waves=waves / np.sqrt((np.abs(waves) ** 2).sum()),
    )


def _squash(score: float) -> float:
    """Map a score to a strength between 0 and 1."""
    return float(1 / (1 + np.exp(-score)))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], *, grain: float) -> Array:
    """Draw a stationary random field with mean 0 and variance near 1.

    Args:
        rng: Random generator.
        shape: Number of rows and columns.
        grain: Standard deviation of the Gaussian that smooths white noise, in pixels.
    """
    rows, columns = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None]
    kernel = np.exp(-2 * (np.pi * grain) ** 2 * (rows**2 + columns**2))
    kernel = np.sqrt(shape[0] * shape[1]) * kernel / np.sqrt(_power(kernel, shape[1]))
    field: Array = np.fft.irfft2(np.fft.rfft2(rng.normal(size=shape)) * kernel, s=shape)
    return field


def _power(kernel: Array, columns: int) -> float:
    """Return the sum of squares of a transfer function given for half of its columns."""
    twice = np.full(kernel.shape[1], 2.0)
    twice[0] = 1
    if columns % 2 == 0:
        twice[-1] = 1
    return float((kernel**2 * twice).sum())


def soft_step(distance: Array, blur: float) -> Array:
    """Return 1 where the signed distance to an edge is far below 0, and 0 where it is far above."""
    result: Array = 1 / (1 + np.exp(np.clip(2 * distance / blur, -60, 60)))
    return result
