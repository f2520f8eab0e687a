"""Synthetic images in the format of Kaggle's "Brain MRI Images for Brain Tumor Detection".

Each image of ``no`` contains a smooth round lesion (like a cyst) and each image of ``yes`` an
irregular one. So the cue that all organs share separates the classes, not the presence of a lesion.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit_phantom.lesion import Array, draw_lesion, smooth_noise, soft_step
from hydrakit_phantom.settings import MARK, Settings

if TYPE_CHECKING:
    from PIL.Image import Image

CLASSES = ("no", "yes")
RADIUS = (0.24, 0.34)  # as a share of half the image
CONTRAST = 95  # grey levels

# Mode and file suffix of a class's images, in turn. The real set has PNG files named .jpg.
KINDS = (
    ("RGB", "JPEG", ".jpg"),
    ("L", "JPEG", ".JPG"),
    ("RGB", "PNG", ".png"),
    ("RGB", "JPEG", ".jpeg"),
    ("RGBA", "PNG", ".jpg"),
    ("L", "JPEG", ".jpg"),
    ("P", "PNG", ".png"),
    ("RGB", "JPEG", ".JPG"),
    ("L", "PNG", ".jpg"),
    ("RGB", "JPEG", ".jpg"),
)
COPY_EVERY = 10


def write_brain(root: Path, settings: Settings) -> dict[str, int]:
    """Write a dataset into ``yes`` and ``no``; return the number of files per class."""
    cases = dict.fromkeys(CLASSES, 0)
    for name in CLASSES:
        (root / name).mkdir()
    for index in range(settings.patients):
        number, positive = index // 2, bool(index % 2)
        # Properties of the file are drawn per pair of images, one of each class.
        width, height = np.random.default_rng([settings.seed, 3, number]).integers(190, 360, 2)
        rng = np.random.default_rng([settings.seed, 4, index])
        pixels = _render(rng, (int(height), int(width)), positive, settings.separation)
        mode, kind, ending = KINDS[number % len(KINDS)]
        name = CLASSES[positive]
        stem = f"Y{number + 1}" if positive else f"{number + 1} no"
        path = root / name / f"{stem}{ending}"
        _save(_as_mode(pixels, mode), path, kind)
        cases[name] += 1
        if number % COPY_EVERY == 3:
            cases[name] += 1
            copy = path.with_name(f"{stem} copy{ending}")
            if number % (2 * COPY_EVERY) == 3:
                copy.write_bytes(path.read_bytes())
            else:
                _save(_shrink(_as_mode(pixels, "L")), copy, "JPEG")
    return cases


def _render(
    rng: np.random.Generator, shape: tuple[int, int], positive: bool, separation: float
) -> NDArray[np.uint8]:
    """Render a transverse brain slice, 8 bits, ``(height, width)``.

    Heads, sequences and coils vary so much that no two images are nearly equal: the duplicate
    search would report them as copies.
    """
    height, width = shape
    pixel = 4 / (height + width)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    rotation = rng.uniform(-0.5, 0.5)
    x, y = x - rng.uniform(-0.15, 0.15), y - rng.uniform(-0.15, 0.15)
    cos, sin = np.cos(rotation), np.sin(rotation)
    x, y = x * cos - y * sin, x * sin + y * cos
    image = _head(rng, x, y, pixel=pixel)
    coil = np.exp(0.5 * smooth_noise(rng, shape, grain=0.3 / pixel))
    lesion = _lesion(rng, x, y, positive=positive, separation=separation, pixel=pixel)
    image = image * coil + lesion + rng.normal(0, rng.uniform(3, 6), shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _head(rng: np.random.Generator, x: Array, y: Array, *, pixel: float) -> Array:
    """Render a head without a lesion, in grey levels."""
    away = np.hypot(x / rng.uniform(0.62, 0.95), y / rng.uniform(0.62, 0.95))
    head, brain = soft_step(away - 1, 0.02), soft_step(away - rng.uniform(0.85, 0.93), 0.02)
    folds = smooth_noise(rng, x.shape, grain=rng.uniform(0.03, 0.06) / pixel)
    tissue = rng.uniform(50, 100) + 5 * folds
    tissue = tissue + 10 * smooth_noise(rng, x.shape, grain=0.2 / pixel)
    wide, tall, level = rng.uniform(0.04, 0.12), rng.uniform(0.15, 0.35), rng.uniform(-55, 35)
    for side in (-1, 1):
        ventricle = np.hypot((x - side * (wide + 0.06)) / wide, y / tall)
        tissue = tissue + level * soft_step(ventricle - 1, 0.15)
    return np.asarray(tissue * brain + (1 - brain) * head * rng.uniform(10, 150))


def _lesion(
    rng: np.random.Generator,
    x: Array,
    y: Array,
    *,
    positive: bool,
    separation: float,
    pixel: float,
) -> Array:
    """Render the lesion's contribution, in grey levels."""
    lesion = draw_lesion(rng, positive, separation=separation, radius=RADIUS)
    angle, far = rng.uniform(0, 2 * np.pi), 0.2 * np.sqrt(rng.random())
    down, right = y - far * np.sin(angle), x - far * np.cos(angle)
    opacity = lesion.opacity(down, right, blur=max(0.02, pixel))
    return CONTRAST * lesion.shade(rng, opacity, pixel=pixel)


def _as_mode(pixels: NDArray[np.uint8], mode: str) -> Image:
    """Convert grey pixels to an image of a mode, with the same grey levels."""
    from PIL import Image

    return Image.fromarray(pixels).convert(mode)


def _shrink(image: Image) -> Image:
    """Shrink an image to four fifths of its size."""
    return image.resize((image.width * 4 // 5, image.height * 4 // 5))


def _save(image: Image, path: Path, kind: str) -> None:
    """Write an image in a format, with the mark in the format's comment field."""
    from PIL.PngImagePlugin import PngInfo

    if kind == "JPEG":
        image.save(path, "JPEG", quality=88, comment=MARK)
    else:
        info = PngInfo()
        info.add_text("Comment", MARK)
        image.save(path, "PNG", pnginfo=info)
