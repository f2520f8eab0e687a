"""From the folders ``yes`` and ``no`` to samples.

What the real files need (each was seen in the 253 images, or in how the archive unpacks):

* PNGs are named .jpg, so the content decides the format.
* Modes differ, and RGBA and palette occur in ``no`` alone: every image becomes grey by one rule
  that keeps no trace of its mode.
* ``Y92.jpg`` and ``Y92.png`` are different images, so a key holds the whole file name.
* Many images show one head twice: 25 are byte-for-byte copies of another, 18 are resized or encoded
  anew, and a few are its next slice or another sequence. Such images share a group, so that they
  cannot lie on both sides of a split. The dataset itself names no patients.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable

if TYPE_CHECKING:
    from PIL import Image

FOLDERS = ("no", "yes")  # by label
SUFFIXES = (".jpg", ".jpeg", ".png")
LITTER = ("thumbs.db", "desktop.ini")  # left by file managers; those of macOS begin with a dot

THUMBNAIL = 32
SAME_HEAD = 0.90
"""Images whose thumbnails correlate so well show one head.

Of the 31,878 pairs of the real images, 59 are above 0.995 (the copies) and 14 between 0.90 and
0.985: each of these was looked at, and shows one head in the same or the next slice. Pairs of
unlike heads begin at 0.895.
"""


def read(root: Path) -> Iterator[Sample | Unusable]:
    """Every image file of the dataset, by label and name.

    Images are grey, ``(height, width)``, 0 to 255; each is a patient of its own, since the dataset
    names none. Images of one head have the same group.

    Raises:
        DataError: No folder with images of both kinds.
    """
    files = _files(root)
    groups = _groups(files)
    for key, (label, path) in files.items():
        image = load_grey(path)
        if isinstance(image, str):
            yield Unusable(key=key, reason=image)
        else:
            yield Sample(
                image=image,
                label=label,
                patient=key,
                key=key,
                group=groups[key],
                source=(path,),
            )


def load_grey(path: Path) -> NDArray[np.float32] | str:
    """An image as grey values from 0 to 255, ``(height, width)``; or why it cannot be read.

    Colour becomes luma (ITU-R BT.601). Transparency is dropped: the colours below it are what the
    other files hold, while to blend them would darken the files that have it.
    """
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES:
        return "is not a .jpg, .jpeg or .png file: convert it, or move it elsewhere"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("JPEG", "PNG")) as image:
                return _grey(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return f"has more than {Image.MAX_IMAGE_PIXELS} pixels: scale it down"
    except (OSError, EOFError, SyntaxError, ValueError, zlib.error, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            return f"cannot be opened ({error.strerror})"
        return "is not a whole JPEG or PNG image: download it again"


def _grey(image: Image.Image) -> NDArray[np.float32]:
    image.load()
    image.info.pop("transparency", None)
    if image.mode.startswith("I"):  # 16-bit grey, whatever its byte order
        return np.asarray(image, dtype=np.float32) / np.float32(257)
    # By way of RGB, so that palettes and pairs of grey and alpha take the same path as all others;
    # grey values come out of it unchanged.
    return np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)


def _files(root: Path) -> dict[str, tuple[int, Path]]:
    """Label and path of each file by its key, ``yes/NAME`` or ``no/NAME``."""
    base = _base(root)
    files: dict[str, tuple[int, Path]] = {}
    for label, name in enumerate(FOLDERS):
        folder = _class_folder(base, name)
        if folder is None:
            raise DataError(f"brain: no folder {name}/ beside the other one in {base}")
        inside = sorted(path for path in folder.iterdir() if not (path.is_dir() or _litter(path)))
        if not any(path.suffix.lower() in SUFFIXES for path in inside):
            raise DataError(f"brain: no {', '.join(SUFFIXES)} file in {folder}: unpack it again")
        files |= {f"{name}/{path.name}": (label, path) for path in inside}
    return files


def _base(root: Path) -> Path:
    """The folder that holds ``yes`` and ``no``: the root or, failing that, one right below it.

    Kaggle's archive holds every image twice, in the root and in ``brain_tumor_dataset``.
    """
    if _has_class_folder(root):
        return root
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and _has_class_folder(path)]
    if not below:
        raise DataError(f"brain: neither {root} nor a folder right below it holds yes/ and no/")
    if len(below) > 1:
        names = ", ".join(path.name for path in below)
        raise DataError(f"brain: {root} holds yes/ and no/ in more than one folder: {names}")
    return below[0]


def _has_class_folder(base: Path) -> bool:
    return any(_class_folder(base, name) is not None for name in FOLDERS)


def _class_folder(base: Path, name: str) -> Path | None:
    named = [path for path in sorted(base.iterdir()) if path.name.lower() == name and path.is_dir()]
    if len(named) > 1:
        names = ", ".join(path.name for path in named)
        raise DataError(f"brain: {base} holds {name}/ more than once: {names}. Keep one")
    return named[0] if named else None


def _litter(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in LITTER


def _groups(files: dict[str, tuple[int, Path]]) -> dict[str, str]:
    """For each readable image the key of the first one that shows the same head, or its own."""
    thumbnails = {}
    for key, (_, path) in files.items():
        image = load_grey(path)
        if not isinstance(image, str):
            thumbnails[key] = _thumbnail(image)
    keys = list(thumbnails)
    if not keys:
        return {}
    stacked = np.stack(list(thumbnails.values()))
    alike = np.tril(stacked @ stacked.T >= SAME_HEAD, -1)
    first = np.arange(len(keys))
    for one, other in np.argwhere(alike):
        low, high = sorted((first[one], first[other]))
        first[first == high] = low
    return {key: keys[index] for key, index in zip(keys, first, strict=True)}


def _thumbnail(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """A small version with mean 0 and length 1: products of two are their correlation."""
    from PIL import Image

    size = (THUMBNAIL, THUMBNAIL)
    small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
    flat: NDArray[np.float32] = np.asarray(small, dtype=np.float32).ravel()
    flat = flat - np.float32(flat.mean())
    length = float(np.linalg.norm(flat))
    if length < 1e-3:  # one even grey: such images are alike, and unlike all others
        return np.full(flat.shape, 1 / THUMBNAIL, dtype=np.float32)
    return flat / np.float32(length)
