"""Files of runs: written so that a reader never sees a part, and read as those of a stranger.

A run's folder may come from anywhere. What is read of it is a regular file of bounded size, and
what is written into it goes through no link (docs/security.md).
"""

from __future__ import annotations

import csv
import errno
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from hydrakit.errors import PlanError, one_line

MIB = 2**20
MAX_FILE = 64 * MIB  # of any file of a run's folder but weights; a full table of epochs has 50 MiB
MAX_VALUES = 1_000_000  # of a JSON file; in memory one takes some 150 bytes
MAX_ROWS = 200_000  # of predictions.csv


# Without waiting for who writes a pipe; on Windows, bytes as they are.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk is full, a quota is used up, or a file may not be larger."""

LONGEST_LINE = 2**16
"""Bytes: where `append_line` looks for the end of the last whole line."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole: to a temporary one in the same folder, synced, then renamed.

    After a crash or a power cut the file is the old one or the new one. A failed write leaves no
    temporary file behind.

    Raises:
        OSError: The file cannot be written; it names the file, and how much room it needs.
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
    """Add a line to a file; one that a stop or a full disk cut off before is taken away.

    Raises:
        OSError: It cannot be written; it names the file.
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
    """Make the names in a folder durable: a rename is only safe once its folder is synced."""
    if os.name == "nt":  # Windows cannot open a folder, and keeps the order of renames itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> None:
    """Copy a file's bytes, whole or not at all; as `write_atomic`."""
    write_atomic(target, source.read_bytes())


def read_whole(path: Path, *, most: int = MAX_FILE) -> bytes:
    """The bytes of a regular file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file (a pipe would be waited for), or has more than ``most``
            bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise ValueError(f"it has {size} bytes, and {most} are allowed")
        return file.read(most)


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """A file for reading, which is no pipe or device: one would be waited for, or has no end.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file.
    """
    descriptor = os.open(path, _FLAGS)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        yield file


def read_json(path: Path, *, most: int = MAX_FILE, values: int = MAX_VALUES) -> bytes:
    """The bytes of a JSON file that takes no more memory than it should once it is parsed.

    Raises:
        OSError: It cannot be read.
        ValueError: As `read_whole`; or it holds too many values.
    """
    content = read_whole(path, most=most)
    if content.count(b",") >= values:
        raise ValueError(f"it holds more than {values} values")
    return content


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file with a line of names, each with a cell for every name.

    Raises:
        OSError: It cannot be read.
        ValueError: As `read_whole`; or it is no such table, or has too many rows.
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
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def reason(error: OSError | ValueError) -> str:
    """Why a file could not be read, on one line."""
    return getattr(error, "strerror", None) or one_line(str(error), 200)


def refuse_links(folder: Path) -> None:
    """See that nothing below a folder leads out of it, before anything is written there.

    The folder itself may be reached through a link.

    Raises:
        PlanError: A link, or something that is neither a file nor a folder.
        OSError: A folder cannot be listed.
    """
    for entry in _entries(folder):
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise _no_file(entry.path)


def refuse_link(path: Path) -> None:
    """See that a file which is written in its place, if it is there, is nowhere else too.

    Raises:
        PlanError: It is a link, or no file, or has a second name (a hard link).
    """
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise _no_file(path)


def _no_file(path: Path | str) -> PlanError:
    return PlanError(
        f"{path}: is a link, or neither a file nor a folder, and what is written there would be "
        "elsewhere: put a copy of the file or folder in its place"
    )


def _entries(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path)
