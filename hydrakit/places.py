"""Where datasets lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrakit.plugins import Plugins


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


def plugins_at(data: Path | None, roots: Mapping[str, Path]) -> Plugins:
    """What is installed, and the datasets that a ``dataset.toml`` at these places declares.

    Args:
        data: Folder with one folder per dataset; None for `default_data`.
        roots: Folders of datasets that lie elsewhere, by name.
    """
    from hydrakit.data.declared import with_declared
    from hydrakit.plugins import load_plugins

    return with_declared(load_plugins(), data, roots)
