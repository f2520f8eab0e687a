"""Reading and writing files safely: atomic writes, bounded reads, and refusal of links.

The folder of a run may come from an untrusted source: only regular files of bounded size are read
from it, and nothing is written into it through a link (docs/security.md).
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

from hydrakit.errors import PlanError, one_line

MIB = 2**20
MAX_FILE = 64 * MIB  # size of all files except weights; a full table of epochs has 50 MiB
MAX_VALUES = 1_000_000  # values in a JSON file; each takes about 150 bytes of memory
MAX_ROWS = 200_000  # rows of predictions.csv

# Do not wait for the writer of a pipe; do not translate line ends on Windows.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors for a full disk, an exceeded quota and a file that is too large."""

LONGEST_LINE = 2**16
"""Bytes at the end of a file in which `append_line` searches for the last line end."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file completely or not at all: to a temporary file, which is synced and renamed.

    After a crash or a power failure, the file is either the old or the new one. A failed write
    leaves no temporary file behind.

    Raises:
        OSError: The file cannot be written; the error names the file and the bytes it needs.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in NO_ROOM:
            text = f"{error.strerror}, {len(data):,} bytes are needed"
            raise OSError(error.errno, text, str(path)) from None
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Append a line to a file, after removing an incomplete last line.

    Raises:
        OSError: The file cannot be written; the error names the file.
    """
    data = line.encode() + b"\n"
    with path.open("a+b") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(max(0, end - LONGEST_LINE))
            tail = file.read()
            end -= len(tail) - (tail.rfind(b"\n") + 1)
        try:
            file.truncate(end)
            file.write(data)
            file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that files renamed in it survive a power failure."""
    if os.name == "nt":  # Windows cannot open folders, and keeps renames in order
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> None:
    """Copy a file completely or not at all, as `write_atomic` does."""
    write_atomic(target, source.read_bytes())


def read_whole(path: Path, *, max_bytes: int = MAX_FILE) -> bytes:
    """Read a regular file of limited size.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, or has more than ``max_bytes`` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"it has {size} bytes, and {max_bytes} are allowed")
        return file.read(max_bytes)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; pipes and devices, which might never end, are refused.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no regular file.
    """
    descriptor = os.open(path, _FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        yield file


def read_json(path: Path, *, max_bytes: int = MAX_FILE, values: int = MAX_VALUES) -> bytes:
    """Read a JSON file of limited size and a limited number of values.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, too large, or holds too many values.
    """
    content = read_whole(path, max_bytes=max_bytes)
    if content.count(b",") >= values:
        raise ValueError(f"it holds more than {values} values")
    return content


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Text of a CSV file whose cells no spreadsheet runs as a formula; `read_rows` reads it.

    Text that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end gets an apostrophe before
    it, unless it is a number. So does text with apostrophes before such a character, so that
    `read_rows` gives back every text unchanged.

    Source: OWASP, CSV Injection.
    """
    lines: list[str] = []
    # With the default "\r\n" after each line, csv also quotes a cell with "\r" alone.
    writer = csv.writer(SimpleNamespace(write=lines.append))
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return "".join(f"{line[:-2]}\n" for line in lines)


_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")


def _harmless(cell: object) -> object:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _original(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_rows(path: Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as `csv_text` writes it, by the column names of its first line.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, too large, no such table, or has too many rows.
    """
    content = read_whole(path)
    if content.count(b"\n") > MAX_ROWS:
        raise ValueError(f"it has more than {MAX_ROWS} rows")
    try:
        lines = list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))
    except csv.Error as error:
        raise ValueError(f"it is no CSV ({error})") from None
    names, rows = (lines[0] if lines else []), []
    for number, cells in enumerate(lines[1:], start=2):
        if len(cells) != len(names):
            raise ValueError(f"line {number} has {len(cells)} cells, the first has {len(names)}")
        rows.append(dict(zip(names, map(_original, cells), strict=True)))
    return rows


def reason(error: OSError | ValueError) -> str:
    """The reason why a file could not be read, on one line."""
    return getattr(error, "strerror", None) or one_line(str(error), 200)


def refuse_links(folder: Path) -> None:
    """Refuse a folder that holds links, before anything is written there.

    The path of the folder itself may contain links.

    Raises:
        PlanError: The folder holds a link, or something that is neither a file nor a folder.
        OSError: A folder cannot be listed.
    """
    for entry in _entries(folder):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise _link_error(entry.path)


def refuse_link(path: Path) -> None:
    """Refuse to write to a path that is a link to another file.

    Raises:
        PlanError: The path is a symbolic or hard link, or no file.
    """
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise _link_error(path)


def _link_error(path: Path | str) -> PlanError:
    return PlanError(
        f"{path}: is a link, or neither a file nor a folder; writing there could change files "
        "elsewhere: replace it with a copy of the file or folder"
    )


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
