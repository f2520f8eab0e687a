"""Which files the code of a ``with`` block reads."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_paths: list[str] | None = None
_installed = False


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or _paths is None or not isinstance(arguments[0], str | bytes):
        return
    if not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        _paths.append(os.path.abspath(os.fsdecode(arguments[0])))  # noqa: PTH100 - text is enough


@contextmanager
def opened_files() -> Iterator[list[str]]:
    """Collect the absolute paths of files that Python code opens to be read in a ``with`` block.

    Libraries in C and C++ that open files by themselves are not seen. The block can be entered
    again after it has ended, not within itself.
    """
    global _paths, _installed  # noqa: PLW0603 - a hook is that of the process, and stays
    if not _installed:
        sys.addaudithook(_hook)
        _installed = True
    paths: list[str] = []
    _paths = paths
    try:
        yield paths
    finally:
        _paths = None
