"""Untrusted text, numbers and paths of dataset files: only files inside its folder are read."""

from __future__ import annotations

import errno
import io
import os
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from hydrakit.errors import DataError

# Means and squares of labels must neither overflow nor vanish.
MIN_NUMBER, MAX_NUMBER = 1e-30, 1e30
ORDINARY = f"0 or between {MIN_NUMBER:g} and {MAX_NUMBER:g} in size"

NO_FILE = "it is a pipe, a socket or a device"


def quote(value: object) -> str:
    """Quote a value for a message, on one line and at most 60 characters long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_ordinary(number: float) -> bool:
    """Whether a number is finite, and of a size that can be squared without loss."""
    return number == 0 or MIN_NUMBER <= abs(number) <= MAX_NUMBER


def join_names(names: Sequence[str]) -> str:
    """Join at most ten names for a message, with the number of the others."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def path_fault(text: str) -> str | None:
    """Return why a relative path with ``/`` is invalid, or None; the disk is not read."""
    if not text.strip():
        return "is empty: give a path"
    if not text.isprintable():
        return "holds control characters: rename the file"
    if "\\" in text:
        return "holds a backslash: write paths with /"
    if PurePosixPath(text).is_absolute() or PureWindowsPath(text).anchor:
        return "is absolute: give it relative to the dataset's root"
    if ".." in PurePosixPath(text).parts:
        return "leads out of the dataset's root: set root to the folder that holds all files"
    return None


def same_form(name: str) -> str:
    """Return the form in which names of files are compared: NFC.

    macOS writes ``ä`` as two characters where other systems write one.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def forms_of(name: str) -> tuple[str, ...]:
    """Return a name as it is, in NFC and in NFD, each form once."""
    return tuple(dict.fromkeys((name, same_form(name), unicodedata.normalize("NFD", name))))


def resolve_inside(root: Path, relative: str, *, follow: bool = False) -> Path:
    """Resolve the path of a file inside a folder.

    A name that does not exist as it is written is also looked for in its other Unicode form.

    Args:
        root: Resolved path of the folder.
        relative: Path relative to the folder, without a `path_fault`.
        follow: Whether links may lead out of the folder.

    Raises:
        DataError: A symbolic link leads out of the folder.
        OSError: The file does not exist.
    """
    try:
        path = (root / _existing(root, relative)).resolve(strict=True)
    except RuntimeError as error:  # a loop of symbolic links, before Python 3.13
        raise OSError(str(error)) from None
    if not (follow or path.is_relative_to(root)):
        raise DataError(
            f"{root}: {relative!r} leads out of this folder by a link: set root in dataset.toml to "
            "the folder that holds the files themselves, or follow_links = true to allow this"
        )
    return path


def _existing(root: Path, relative: str) -> str:
    """Return a path in the Unicode form, name by name, in which it exists; else as it is."""
    if relative.isascii() or os.path.lexists(root / relative):
        return relative
    folder = ""
    for name in PurePosixPath(relative).parts:
        here = (f"{folder}{form}" for form in forms_of(name))
        found = next((path for path in here if os.path.lexists(root / path)), None)
        if found is None:
            return relative
        folder = f"{found}/"
    return folder.removesuffix("/")


def file_state(status: os.stat_result) -> tuple[int, int, int, int]:
    """Return size, modification time, change time and inode of a file.

    A file that is replaced, even by one of equal size and modification time, has another change
    time or inode. Windows has a creation time in place of the change time.
    """
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def open_file(path: Path) -> io.BufferedReader:
    """Open a file of a dataset for reading; never a pipe or a device, which could wait for ever.

    Raises:
        OSError: The file cannot be opened, or is no regular file.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # `open` refuses a folder
        raise OSError(errno.EINVAL, NO_FILE, str(path))
    return path.open("rb")
