"""Files of a dataset that users have to download by hand."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hydrakit.sources import ManualFile


def missing_files(files: Sequence[ManualFile], folder: Path) -> list[ManualFile]:
    """The files of which no file below a folder has a name."""
    if not files:
        return []
    names = {name.lower() for _, _, below in os.walk(folder) for name in below}
    return [
        file
        for file in files
        if not any(
            fnmatchcase(name, each.lower()) for each in (file.name, *file.also) for name in names
        )
    ]
