"""Where datasets lie, and where prepared data is kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def default_data() -> Path:
    """``$HYDRAKIT_DATA``, else ``./data``: the folder with one folder per dataset."""
    return Path(os.environ.get("HYDRAKIT_DATA") or "data")


def root_of(name: str, data: Path | None, roots: Mapping[str, Path]) -> Path:
    """The folder of a dataset.

    Args:
        name: Of the dataset.
        data: Folder with one folder per dataset; None for `default_data`.
        roots: Folders of datasets that lie elsewhere, by name.
    """
    return (roots.get(name) or (data or default_data()) / name).resolve()


def default_cache() -> Path:
    """``$HYDRAKIT_CACHE``, else ``~/.cache/hydrakit``."""
    given = os.environ.get("HYDRAKIT_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "hydrakit"
