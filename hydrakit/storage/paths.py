"""Folders of datasets and of the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from hydrakit.errors import PlanError, utf8

_cache: ContextVar[Path | None] = ContextVar("hydrakit_cache", default=None)


def check_utf8(path: Path) -> None:
    """Check that the absolute path of a file or folder is UTF-8, as JSON files and logs are.

    Raises:
        PlanError: It is not.
    """
    text = str(path.absolute())
    if utf8(text) != text:
        raise PlanError(f"{utf8(text)}: its name is not UTF-8: rename the file or folder")


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
    root = (roots.get(name) or (data or default_data()) / name).resolve()
    check_utf8(root)
    return root


def cache_folder() -> Path:
    """The cache folder: that of `using_cache`, else ``$HYDRAKIT_CACHE``, else ~/.cache/hydrakit.

    Raises:
        PlanError: The home folder is needed, and is unknown.
    """
    return _cache.get() or user_cache()


def user_cache() -> Path:
    """The cache folder of the user: ``$HYDRAKIT_CACHE``, else ~/.cache/hydrakit.

    Raises:
        PlanError: The home folder is needed, and is unknown.
    """
    chosen = os.environ.get("HYDRAKIT_CACHE")
    if chosen:
        return Path(chosen)
    try:
        return Path.home() / ".cache" / "hydrakit"
    except RuntimeError:
        raise PlanError(
            "the home folder is unknown (HOME is not set), and so is the cache: name its folder "
            "with `--cache` or $HYDRAKIT_CACHE"
        ) from None


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


SQLITE = "sqlite:///"
"""Begin of the URI of an SQLite file, followed by its path."""


def absolute_store(to: str) -> str:
    """The store of a tracker, independent of the working folder.

    Args:
        to: A folder, or a URI; of URIs, only those of SQLite files contain a path.
    """
    if to.startswith(SQLITE):
        return SQLITE + str(Path(to.removeprefix(SQLITE)).resolve())
    return to if "://" in to else str(Path(to).resolve())
