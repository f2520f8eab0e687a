"""ZIP archives among the files of a dataset: they are not read, but messages say how to unpack."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hydrakit.errors import command_line


def unpack_hint(paths: Iterable[Path]) -> str:
    """Return how to unpack the ZIP archives among files, as an end of a message; or ""."""
    archives = [path for path in paths if path.suffix.lower() == ".zip"]
    if not archives:
        return ""
    first = command_line("python", "-m", "zipfile", "-e", archives[0], archives[0].with_suffix(""))
    if len(archives) == 1:
        return f"; unpack the ZIP archive: {first}"
    return f"; unpack the {len(archives)} ZIP archives, each as the first: {first}"
