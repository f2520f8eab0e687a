"""Reading of the folders ``yes`` and ``no`` as samples.

The real files need special treatment (each point occurs in the 253 images or their archive):

* Some PNG files are named .jpg, so the content decides the format.
* Modes differ, and RGBA and palette images occur only in ``no``: one rule converts every image to
  grey, without a trace of its mode. Format, mode and similar properties are facts, for the
  shortcut check.
* ``Y92.jpg`` and ``Y92.png`` are different images, so a key contains the whole file name.
* The dataset names no patients, and many images are copies: hydrakit detects these itself.
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

from hydrakit.data.safe_paths import open_file
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable

if TYPE_CHECKING:
    from PIL import Image

FOLDERS = ("no", "yes")  # by label
SUFFIXES = (".jpg", ".jpeg", ".png")
SYSTEM_FILES = ("thumbs.db", "desktop.ini")  # of file managers; those of macOS begin with a dot
MODE_BITS = {"1": 1.0, "I": 16.0, "I;16": 16.0, "I;16B": 16.0}  # bits per value; other modes 8


def read(root: Path) -> Iterator[Sample | Unusable]:
    """Yield every image file of the dataset, sorted by label and name.

    Images are grey, ``(height, width)``, 0 to 255. Each image is its own patient, because the
    dataset names no patients.

    Raises:
        DataError: There is no folder with images of both classes.
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
    """Read facts from a file's header, which should not predict the label.

    The format is that of the content, not of the suffix.

    Raises:
        DataError: The file is not JPEG or PNG; the message is a reason for `Unusable`.
    """
    with _open_image(path) as image:
        return {
            "format": str(image.format),
            "suffix": path.suffix,
            "mode": image.mode,
            "bit depth": MODE_BITS.get(image.mode, 8.0),
            "width": float(image.width),
            "height": float(image.height),
        }


def load_grey(path: Path) -> NDArray[np.float32]:
    """Load an image as grey values from 0 to 255, ``(height, width)``.

    Colour is converted to luma (ITU-R BT.601). Transparency is dropped: the colours below it are
    comparable to other files, while blending would darken the files that have it.

    Raises:
        DataError: The file is not a complete JPEG or PNG; the message is a reason for `Unusable`.
    """
    with _open_image(path) as image:
        return _grey(image)


@contextmanager
def _open_image(path: Path) -> Iterator[Image.Image]:
    from PIL import Image

    if path.suffix.lower() not in SUFFIXES:
        raise DataError("is not a .jpg, .jpeg or .png file: convert it, or move it elsewhere")
    try:
        with open_file(path) as file:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                image = Image.open(file, formats=("JPEG", "PNG"))
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
    # Convert through RGB, so that palettes and grey with alpha are treated like all other modes;
    # grey values stay unchanged.
    return np.asarray(image.convert("RGB").convert("L"), dtype=np.float32)


def _files(root: Path) -> dict[str, tuple[int, Path]]:
    """Return label and path of each file by its key, ``yes/NAME`` or ``no/NAME``."""
    base = _base(root)
    files: dict[str, tuple[int, Path]] = {}
    for label, name in enumerate(FOLDERS):
        folder = _class_folder(base, name)
        if folder is None:
            raise DataError(
                f"brain: no folder {name}/ beside the other one in {base}: unpack again"
            )
        paths = sorted(
            path for path in folder.iterdir() if not (path.is_dir() or _is_system_file(path))
        )
        if not any(path.suffix.lower() in SUFFIXES for path in paths):
            raise DataError(f"brain: no {', '.join(SUFFIXES)} file in {folder}: unpack it again")
        files |= {f"{name}/{path.name}": (label, path) for path in paths}
    return files


def _base(root: Path) -> Path:
    """Return the folder that holds ``yes`` and ``no``: the root or a folder directly below it.

    Kaggle's archive holds every image twice, in the root and in ``brain_tumor_dataset``.
    """
    if _has_class_folder(root):
        return root
    below = [path for path in sorted(root.iterdir()) if path.is_dir() and _has_class_folder(path)]
    if not below:
        raise DataError(
            f"brain: neither {root} nor a folder directly below it holds yes/ and no/: unpack the "
            "archive there"
        )
    if len(below) > 1:
        names = ", ".join(path.name for path in below)
        raise DataError(
            f"brain: {root} holds yes/ and no/ in more than one folder: {names}: keep one"
        )
    return below[0]


def _has_class_folder(base: Path) -> bool:
    return any(_class_folder(base, name) is not None for name in FOLDERS)


def _class_folder(base: Path, name: str) -> Path | None:
    named = [path for path in sorted(base.iterdir()) if path.name.lower() == name and path.is_dir()]
    if len(named) > 1:
        names = ", ".join(path.name for path in named)
        raise DataError(f"brain: {base} holds {name}/ more than once: {names}: keep one")
    return named[0] if named else None


def _is_system_file(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in SYSTEM_FILES
