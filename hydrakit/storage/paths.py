"""Folders of datasets and of the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_cache: ContextVar[Path | None] = ContextVar("hydrakit_cache", default=None)


def check_utf8(path: Path) -> None:
    """Check that the absolute path of a file or folder is UTF-8, as JSON files and logs are.

    Raises:
        ValueError: It is not; the message names it and the remedy.
    """
    text = str(path.absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{text}: its name is not UTF-8: rename the file or folder") from None


def default_data() -> Path:
    """The folder with one folder per dataset: ``$HYDRAKIT_DATA``, else ``./data``."""
    return Path(os.environ.get("HYDRAKIT_DATA") or "data")


def root_of(name: str, data: Path | None, roots: Mapping[str, Path]) -> Path:
    """The folder of a dataset.

    Args:
        name: Name of the dataset.
        data: Folder with one folder per dataset; None for `default_data`.
        roots: Folders of datasets outside of ``data``, by name.
    """
    return (roots.get(name) or (data or default_data()) / name).resolve()


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
