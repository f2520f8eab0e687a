"""Reading and writing files safely: atomic writes, bounded reads, and refusal of links.

The folder of a run may come from an untrusted source: only regular files of bounded size are read
from it (`open_regular`), and no file behind a link is changed or deleted (docs/security.md). A file
gets its content by a rename (`write_atomic`) or by lines at its end (`append_line`), and is removed
by `delete`; a command that continues or cleans a folder first calls `refuse_links`, by
`hydrakit.storage.lock.locked`.
"""

from __future__ import annotations

import csv
import errno
import io
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

from hydrakit.errors import PlanError, one_line

MIB = 2**20
MAX_FILE = 64 * MIB  # size of all files except weights; a full table of epochs has 50 MiB
MAX_VALUES = 1_000_000  # values in a JSON file; each takes about 150 bytes of memory
MAX_ROWS = 200_000  # rows of predictions.csv
MAX_WEIGHTS = 2**32  # size of a file of weights; the largest body of a plan needs 2**27
MAX_DEPTH = 50  # folders within one another; a comparison needs 5, and trackers some more

IN_PLACE = (".lock", "lock.holder", "events.jsonl", "log.txt")
"""Names of files that are changed in place; all others are written under a temporary name."""

TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}")
"""Names of temporary files that a stopped `write_atomic` leaves behind."""

# Do not wait for the writer of a pipe; do not translate line ends on Windows.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)  # absent on Windows

PATIENCE = 2.0
"""Seconds for which a rename is tried again on Windows."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors for a full disk, an exceeded quota and a file that is too large."""


def write_atomic(path: Path, data: bytes, *, sync: bool = True) -> None:
    """Write a file completely or not at all: to a temporary file, which is synced and renamed.

    After a crash or a power failure, the file is either the old or the new one. A failed write
    leaves no temporary file behind. A link at the path is replaced, and not followed.

    Args:
        path: Path of the file.
        data: Content of the file.
        sync: False for a file that nobody needs after a power failure.

    Raises:
        OSError: The file cannot be written; the error names the file and, if there is no room, the
            bytes it needs.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        patiently(lambda: temporary.replace(path))
        if sync:
            sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        text = error.strerror or str(error)
        if error.errno in NO_ROOM:
            text = f"{text}, {len(data):,} bytes are needed"
        raise OSError(error.errno, text, str(path)) from None


def patiently(rename: Callable[[], object]) -> None:
    """Rename a file or folder; on Windows, which refuses while another process reads it, by and by.

    Args:
        rename: Renames it.

    Raises:
        OSError: It cannot be renamed, on Windows not even within `PATIENCE` seconds.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            rename()
        except PermissionError:
            if sys.platform != "win32" or time.monotonic() > until:
                raise
            time.sleep(0.02)
        else:
            return


def append_line(path: Path, line: str) -> None:
    """Append a line to a file in one write, so that lines of several processes stay whole.

    An incomplete last line, which a killed process left, is ended and stays a line of its own.

    Raises:
        PlanError: The path is a link, or no file.
        OSError: The file cannot be written; the error names the file.
    """
    data = line.encode() + b"\n"
    descriptor = open_in_place(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        if os.fstat(descriptor).st_size:
            os.lseek(descriptor, -1, os.SEEK_END)
            data = data if os.read(descriptor, 1) == b"\n" else b"\n" + data
        while data:  # more than once only if the disk is full, which raises
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def open_in_place(path: Path | str, flags: int) -> int:
    """Open a file that is changed in place; return its descriptor.

    Args:
        path: Path of the file.
        flags: Flags of `os.open`.

    Raises:
        PlanError: The path is a symbolic or hard link, or no file.
        OSError: The file cannot be opened.
    """
    refuse_link(path)
    descriptor = os.open(path, flags | _FLAGS | _NO_FOLLOW, 0o666)
    if _is_link(os.fstat(descriptor)):  # it was exchanged in the meantime
        os.close(descriptor)
        raise _link_error(path)
    return descriptor


def delete(folder: Path, path: Path) -> None:
    """Delete a file or a folder below a folder, without following a link below that folder.

    Raises:
        OSError: It cannot be deleted, or a part of its path is a link.
    """
    *parents, name = path.relative_to(folder).parts
    if os.unlink not in os.supports_dir_fd:  # Windows
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for part in parents:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        if stat.S_ISDIR(os.lstat(name, dir_fd=descriptor).st_mode):
            shutil.rmtree(name, dir_fd=descriptor)
        else:
            os.unlink(name, dir_fd=descriptor)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that files renamed in it survive a power failure.

    Some network file systems cannot sync folders, which is no error.
    """
    if os.name == "nt":  # Windows cannot open folders, and keeps renames in order
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def copy(source: Path, target: Path) -> None:
    """Copy a file completely or not at all, as `write_atomic` does.

    Raises:
        OSError: The file cannot be copied.
        ValueError: It is no regular file, or larger than any file of hydrakit.
    """
    write_atomic(target, read_whole(source, max_bytes=MAX_WEIGHTS))


def read_whole(path: Path, *, max_bytes: int = MAX_FILE) -> bytes:
    """Read a regular file of limited size.

    Raises:
        OSError: The file cannot be read; the error names the file.
        ValueError: It is no regular file, or has more than ``max_bytes`` bytes.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise ValueError(f"it has {size} bytes, and {max_bytes} are allowed")
        try:
            return file.read(size)  # a file of /proc has size 0, and may be endless
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None


@contextmanager
def open_regular(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading; pipes and devices, which might never end, are refused.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | _FLAGS)
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


def original_cell(cell: str) -> str:
    """The text of a cell that `csv_text` wrote."""
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
    quoted = b"'" in content  # else no cell is another text than it was
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"two of its columns are named {one_line(twice, 100)!r}")
    for number, cells in enumerate(lines[1:], start=2):
        if not cells:  # a blank line
            continue
        if len(cells) != len(names):
            raise ValueError(f"line {number} has {len(cells)} cells, the first has {len(names)}")
        texts = map(original_cell, cells) if quoted else cells
        rows.append(dict(zip(names, texts, strict=True)))
    return rows


def reason(error: OSError | ValueError) -> str:
    """The reason why a file could not be read, on one line."""
    return getattr(error, "strerror", None) or one_line(str(error), 200)


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which a link is found, before anything is written or deleted there.

    The path of the folder itself may contain links. Hard links are refused for files that are
    changed in place (`IN_PLACE`); all others are replaced by a rename.

    Raises:
        PlanError: The folder holds a link, or something that is neither a file nor a folder.
        OSError: A folder cannot be listed.
    """
    for entry in walk(folder):
        plain = not entry.is_symlink() and (entry.is_file() or entry.is_dir())
        if not plain and os.path.lexists(entry.path):  # else another process has just deleted it
            raise _link_error(entry.path)
        if entry.name in IN_PLACE:
            refuse_link(entry.path)


def refuse_link(path: Path | str) -> None:
    """Refuse to write to a path that is a link to another file.

    Raises:
        PlanError: The path is a symbolic or hard link, or no file.
    """
    with suppress(FileNotFoundError):
        if _is_link(os.lstat(path)):
            raise _link_error(path)


def _is_link(status: os.stat_result) -> bool:
    return not stat.S_ISREG(status.st_mode) or status.st_nlink > 1


def _link_error(path: Path | str) -> PlanError:
    return PlanError(
        f"{path}: is a link, or neither a file nor a folder; writing there could change files "
        "elsewhere: replace it with a copy of the file or folder"
    )


def size_text(count: int) -> str:
    """A number of bytes as text."""
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield all entries below a folder; links are not followed.

    Raises:
        PlanError: Folders are nested deeper than `MAX_DEPTH`.
        OSError: A folder cannot be listed.
    """
    waiting: list[tuple[Path | str, int]] = [(folder, 0)]
    while waiting:
        here, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise PlanError(
                f"{folder}: holds folders nested over {MAX_DEPTH} deep, which hydrakit does not "
                "write: delete them"
            )
        try:
            with os.scandir(here) as found:
                entries = list(found)
        except FileNotFoundError:
            if depth == 0:
                raise
            continue  # another process has just renamed or deleted it
        for entry in entries:
            yield entry
            if entry.is_dir(follow_symlinks=False):
                waiting.append((entry.path, depth + 1))
