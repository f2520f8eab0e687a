"""Text and paths from other people's files: only what is inside a dataset's own folder is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

from hydrakit.errors import DataError


def shown(value: object) -> str:
    """A value for a message: quoted, on one line, and not too long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def listed(names: Sequence[str]) -> str:
    """The first names, for a message."""
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(names[:10]) + more


def path_fault(text: str) -> str | None:
    """Why a relative path with ``/`` is not acceptable, or None; the disk is not looked at."""
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


def inside(root: Path, relative: str) -> Path:
    """The real path of a file inside a folder.

    Args:
        root: The folder, resolved.
        relative: A path below it that has no `path_fault`.

    Raises:
        DataError: A link on the way leads out of the folder.
        OSError: There is no such file.
    """
    try:
        path = (root / relative).resolve(strict=True)
    except RuntimeError as error:  # a loop of links, before Python 3.13
        raise OSError(str(error)) from None
    if not path.is_relative_to(root):
        raise DataError(
            f"{root}: {relative!r} leads out of this folder by a link: set root in dataset.toml to "
            "the folder that holds the files themselves"
        )
    return path
