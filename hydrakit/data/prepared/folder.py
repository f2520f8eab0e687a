"""A folder of prepared data as a whole: where its images are, and when it was last used."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from hydrakit.storage.files import read_whole, write_atomic

SOURCE = "source.json"
"""Names the folder of the images; its modification time is that of the last use."""


def note_use(folder: Path, root: Path) -> None:
    """Note that prepared data is used now, and where its images are.

    Args:
        folder: Folder of the prepared data.
        root: Folder of the dataset.
    """
    path = folder / SOURCE
    with suppress(OSError):  # a cache that cannot be written is read all the same
        if path.is_file():
            os.utime(path)
        else:
            content = json.dumps({"root": os.path.realpath(root)})
            write_atomic(path, content.encode(), sync=False)


def source_of(folder: Path) -> Path | None:
    """The folder of the images of prepared data; None if an earlier version prepared it."""
    try:
        return Path(json.loads(read_whole(folder / SOURCE))["root"])
    except (OSError, ValueError, TypeError, KeyError):
        return None
