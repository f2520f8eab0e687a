"""Which files may be nodule sheets, and their reading as tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hydrakit.errors import DataError
from hydrakit.storage.tables import HIDDEN, NotTextError, Table, find_table

# The official sheets have less than 0.1 MB; a far larger file is not a nodule sheet.
_MAX_BYTES = 20_000_000
_MAX_UNPACKED = 2_000_000
_SUFFIXES = (".csv", ".xlsx")
_REMEDY = "or name other files with the option 'sheet'"


def is_table(path: Path) -> bool:
    """Whether the name is that of a table, and not of an editor's lock or hidden file."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith(HIDDEN)


def read_if(path: Path, suits: Callable[[tuple[str, ...]], bool]) -> Table | None:
    """Read a file if it is a table with suitable names of columns.

    Raises:
        DataError: The file cannot be read, or is a broken or huge .xlsx; or the packages for
            .xlsx are not installed.
    """
    try:
        if path.stat().st_size > _MAX_BYTES:
            if path.suffix.lower() == ".xlsx":
                raise DataError(f"{path}: is far larger than a nodule sheet: remove it, {_REMEDY}")
            return None
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return find_table(path, content, suits, max_unpacked=_MAX_UNPACKED)
    except NotTextError:
        return None
    except DataError as error:
        raise DataError(f"{error}, {_REMEDY}") from None
