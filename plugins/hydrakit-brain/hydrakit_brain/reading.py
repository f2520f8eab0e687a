"""From the folders ``yes`` and ``no`` to samples.

What the real files need (each was seen in the 253 images, or in how the archive unpacks):

* PNGs are named .jpg, so the content decides the format.
* Modes differ, and RGBA and palette occur in ``no`` alone: every image becomes grey by one rule
  that keeps no trace of its mode. Format, mode and the like are given as facts, for the check of
  what else tells the label.
* ``Y92.jpg`` and ``Y92.png`` are different images, so a key holds the whole file name.
* The dataset names no patients, and many images are copies: hydrakit finds these itself.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
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
DEEP = {"1": 1.0, "I": 16.0, "I;16": 16.0, "I;16B": 16.0}  # bits of a pixel's value; others 8


def read(root: Path) -> Iterator[Sample | Unusable]:
    """Every image file of the dataset, by label and name.

    Images are grey, ``(height, width)``, 0 to 255; each is a patient of its own, since the dataset
    names none.

    Raises:
        DataError: No folder with images of both kinds.
    """
    for key, (label, path) in _files(root).items():
        try:
            facts = read_facts(path)
        except DataError as error:
            yield Unusable(key=key, reason=str(error))
            continue
        image = partial(load_grey, path)
        yield Sample(image=image, label=label, patient=key, key=key, facts=facts, source=(path,))


def read_facts(path: Path) -> dict[str, str | float]:
    """What a file's header tells and should not tell the label.

    The format is that of the content, not of the suffix.

    Raises:
        DataError: It is no JPEG or PNG file; the message is a reason for `Unusable`.
    """
    with _opened(path) as image:
        return {
            "format": str(image.format),
            "suffix": path.suffix,
            "mode": image.mode,
            "bit depth": DEEP.get(image.mode, 8.0),
            "width": float(image.width),
            "height": float(image.height),
        }


def load_grey(path: Path) -> NDArray[np.float32]:
    """An image as grey values from 0 to 255, ``(height, width)``.

    Colour becomes luma (ITU-R BT.601). Transparency is dropped: the colours below it are what the
    other files hold, while to blend them would darken the files that have it.

    Raises:
        DataError: It is no whole JPEG or PNG file; the message is a reason for `Unusable`.
    """
    with _opened(path) as image:
        return _grey(image)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES:
        raise DataError("is not a .jpg, .jpeg or .png file: convert it, or move it elsewhere")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("JPEG", "PNG"))
        with image:
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise DataError(f"has more than {Image.MAX_IMAGE_PIXELS} pixels: scale it down") from None
    except (OSError, EOFError, SyntaxError, ValueError, zlib.error, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DataError(f"cannot be opened ({error.strerror})") from None
        raise DataError("is not a whole JPEG or PNG image: download it again") from None


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
