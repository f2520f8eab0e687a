"""Folders of datasets and of the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hydrakit.errors import PlanError, utf8

_cache: ContextVar[Path | None] = ContextVar("hydrakit_cache", default=None)


def refuse_undecodable(path: Path) -> Path:
    """Return a path, if it is text: libraries and JSON files cannot name another.

    Raises:
        PlanError: It has bytes that are not UTF-8.
    """
    if utf8(str(path)) != str(path):
        raise PlanError(
            f"{utf8(str(path))}: this name is not UTF-8: rename the folder, or choose another"
        )
    return path


def default_data() -> Path:
    """The folder with one folder per dataset: ``$HYDRAKIT_DATA``, else ``./data``."""
    return Path(os.environ.get("HYDRAKIT_DATA") or "data")


def root_of(name: str, data: Path | None, roots: Mapping[str, Path]) -> Path:
    """The folder of a dataset.

    Args:
        name: Name of the dataset.
        data: Folder with one folder per dataset; None for `default_data`.
        roots: Folders of datasets outside of ``data``, by name.

    Raises:
        PlanError: The path is not UTF-8.
    """
    return refuse_undecodable((roots.get(name) or (data or default_data()) / name).resolve())


def cache_folder() -> Path:
    """The cache folder: that of `using_cache`, else ``$HYDRAKIT_CACHE``, else ~/.cache/hydrakit."""
    chosen = _cache.get() or os.environ.get("HYDRAKIT_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "hydrakit"


@contextmanager
def using_cache(folder: Path | None) -> Iterator[None]:
    """Use another cache folder within a ``with`` block; None changes nothing.

    Functions without a cache argument, such as a plugin's ``read``, get it from `cache_folder`.
    Threads that are started in the block see the change only in a copied context.
    """
    token = _cache.set(folder or _cache.get())
    try:
        yield
    finally:
        _cache.reset(token)
