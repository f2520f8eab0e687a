"""Writing files so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file whole: to a temporary one in the same folder, synced, then renamed.

    After a crash or a power cut the file is the old one or the new one. A failed write leaves no
    temporary file behind.

    Raises:
        OSError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
