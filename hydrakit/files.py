"""Writing files so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

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
