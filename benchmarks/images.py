"""Images for the measurements, made from seeds: noise, smooth ones, and files of them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

WAVES = 12  # of a smooth image
LONGEST, SHORTEST = 120.0, 24.0  # their lengths, in pixels


def noise(seed: int, channels: int, side: int) -> Floats:
    """Standard normal noise ``(channels, side, side)``, another one for every seed."""
    random = np.random.default_rng(seed)
    return random.standard_normal((channels, side, side), dtype=np.float32)


def smooth(count: int, side: int, *, seed: int) -> Floats:
    """Images ``(count, side, side)``: each a sum of waves of 24 to 120 pixels in all directions."""
    random = np.random.default_rng(seed)
    size = (count, WAVES, 1, 1)
    pace = 2 * np.pi / random.uniform(SHORTEST, LONGEST, size)
    turn, phase = random.uniform(0, 2 * np.pi, (2, *size))
    row, column = np.mgrid[:side, :side]
    waves = np.cos(pace * (np.cos(turn) * row + np.sin(turn) * column) + phase)
    summed: Floats = waves.sum(axis=1).astype(np.float32)
    return summed


def npy_folder(work: Path, name: str, *, count: int, seed: int, patch: int = 65) -> Path:
    """A folder of ``.npy`` files, one for each patch ``(1, patch, patch)``, its class in its name.

    Classes take turns. A folder that is there already is taken as it is.
    """

    def write(folder: Path) -> None:
        for number in range(count):
            np.save(folder / f"{number:05d}-{number % 2}.npy", noise(seed + number, 1, patch))

    return _once(work / f"{name}-{count}", write)


def png_folder(work: Path, *, count: int, side: int = 256) -> Path:
    """Grey images of ``side`` pixels, as PNG files in the folders ``no`` and ``yes``.

    They look smooth with some noise, as real ones do: so their size on disk is a real one too.
    """
    from PIL import Image

    def write(folder: Path) -> None:
        for label, name in enumerate(("no", "yes")):
            (folder / name).mkdir()
            for number in range(label, count, 2):
                image = smooth(1, side, seed=number)[0] * 20 + 4 * noise(number, 1, side)[0]
                grey = np.clip(image + 128, 0, 255).astype(np.uint8)
                Image.fromarray(grey).save(folder / name / f"{number:05d}.png")

    return _once(work / f"png-{count}", write)


def _once(folder: Path, write: Callable[[Path], None]) -> Path:
    """A folder, whole: as it is, or written now."""
    if not folder.exists():
        part = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            write(part)
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part)
            raise
    return folder
