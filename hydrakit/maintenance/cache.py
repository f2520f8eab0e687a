"""What the cache folder holds, and its removal. Everything there can be made again.

Only files that hydrakit itself writes there are listed and removed, recognised by their names; a
folder counts as prepared data if nothing else lies in it, and no link. Files that macOS and Windows
leave in any folder (`LITTER`) do not count. What a process prepares or reads is locked, and stays.
"""

from __future__ import annotations

import os
import re
import secrets
import sqlite3
import stat
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import AwareDatetime

from hydrakit.data.dicom.cache import FOLDER as HEADERS
from hydrakit.data.dicom.cache import file_name
from hydrakit.data.prepared.folder import SOURCE, source_of
from hydrakit.errors import PlanError, unknown
from hydrakit.schema import Frozen, PathText
from hydrakit.storage.files import TEMPORARY, delete, reason
from hydrakit.storage.lock import FILES, is_read

Kind = Literal["prepared data", "DICOM headers", "copies of images", "log", "names", "left behind"]

LEFT_SECONDS = 3600
"""Age of a temporary file that no process writes any more."""

LITTER = (".DS_Store", "Thumbs.db")
"""Names of files that programs for browsing folders leave there: they go with the folder."""

_PREPARED = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})-[0-9a-f]{16}")
_IN_PREPARED = re.compile(
    r"(?:crops|thumbnails|textures|journal)-\d+\.(?:f32|i8|jsonl)|index-[\w-]+\.json|manifest\.json|"
    rf"{re.escape(SOURCE)}|\.lock(?:\.soft)?|{TEMPORARY.pattern}"
)
_HEADERS = re.compile(r"[0-9a-f]{16}\.sqlite")
_BESIDE_HEADERS = ("-journal", "-wal", "-shm")  # of a process that was killed
_FILES: dict[Kind, re.Pattern[str]] = {
    "copies of images": re.compile(r"copies-[0-9a-f]{16}\.json"),
    "log": re.compile(r"log\.txt"),
    "names": re.compile(r"names-[0-9a-f]{8}\.json"),
}
_ALSO_ELSEWHERE = ("log",)  # a file of this kind does not show that a folder is a cache


class CacheItem(Frozen):
    """A file or a folder of the cache.

    Attributes:
        kind: What it holds: prepared images of a dataset, the headers of its DICOM files, which
            images of some datasets are copies of each other, tracebacks of plugins, names of
            components for shells, or what a process that was killed left behind.
        path: Path relative to the cache folder.
        dataset: Name of the dataset; None if it is not of one, or if that is unknown.
        source: Folder of the images; None if it is not of one dataset, or if that is unknown.
        source_exists: Whether that folder exists; None if it is unknown.
        size: Size in bytes.
        last_used: When it was last used; of what an earlier version wrote, when it was written.
    """

    kind: Kind
    path: PathText
    dataset: str | None = None
    source: PathText | None = None
    source_exists: bool | None = None
    size: int
    last_used: AwareDatetime


class CacheContents(Frozen):
    """What a cache folder holds.

    Attributes:
        folder: The cache folder.
        items: What hydrakit wrote there.
        others: Number of other files and folders there, such as those of plugins.
    """

    folder: PathText
    items: tuple[CacheItem, ...] = ()
    others: int = 0

    @property
    def size(self) -> int:
        """Total size of the items in bytes."""
        return sum(item.size for item in self.items)


class CacheRemoval(Frozen):
    """What was removed from a cache folder, and what could not be, because a process uses it."""

    removed: tuple[CacheItem, ...] = ()
    in_use: tuple[CacheItem, ...] = ()


def list_cache(folder: Path) -> CacheContents:
    """List what a cache folder holds; one that does not exist holds nothing.

    Raises:
        PlanError: It cannot be listed, or is not a cache of hydrakit.
    """
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name not in LITTER)
    except FileNotFoundError:
        return CacheContents(folder=str(folder))
    except OSError as error:
        raise PlanError(
            f"{folder}: cannot be listed ({reason(error)}): give the cache folder with `--cache`"
        ) from None
    items: list[CacheItem] = []
    others = 0
    for name in names:
        if name == HEADERS and not (folder / name).is_symlink():
            continue
        item = _item(folder, name)
        if item is None:
            others += not _is_young(folder / name)
        else:
            items.append(item)
    headers, more = _headers(folder, items)
    items += headers
    others += more
    if others and all(item.kind in _ALSO_ELSEWHERE for item in items):
        raise PlanError(
            f"{folder}: holds nothing that hydrakit stores in its cache, but other files: give the "
            "cache folder with `--cache`"
        )
    return CacheContents(folder=str(folder), items=tuple(items), others=others)


def clean_cache(
    folder: Path,
    datasets: Collection[str] = (),
    *,
    days: float | None = None,
    everything: bool = False,
    confirm: Callable[[Sequence[CacheItem]], bool],
) -> CacheRemoval:
    """Remove items from a cache folder.

    Without any choice, these are the items whose folder of images does not exist any more, and what
    killed processes left behind.

    Args:
        folder: The cache folder.
        datasets: Remove only items of these datasets, whether or not their images exist.
        days: Remove only items that were last used more than so many days ago, of all datasets or
            of ``datasets``.
        everything: Remove all items.
        confirm: Called with the items to remove, if there are any; if it returns False, nothing is
            removed.

    Raises:
        PlanError: It is not a cache, it has no item of one of the datasets, or something there
            cannot be removed.
    """
    items = list_cache(folder).items
    known = {item.dataset for item in items if item.dataset is not None}
    for name in datasets:
        if name not in known:
            raise PlanError(f"{folder}: {unknown('dataset in the cache', name, known)}")
    chosen = [item for item in items if not datasets or item.dataset in datasets]
    if days is not None:
        limit = time.time() - days * 86_400
        chosen = [item for item in chosen if item.last_used.timestamp() < limit]
    elif not (datasets or everything):
        chosen = [
            item for item in chosen if item.source_exists is False or item.kind == "left behind"
        ]
    if not (chosen and confirm(chosen)):
        return CacheRemoval()
    removed: list[CacheItem] = []
    in_use: list[CacheItem] = []
    for item in chosen:
        try:
            (removed if _remove(folder, item) else in_use).append(item)
        except OSError as error:
            raise PlanError(
                f"{error.filename or folder / item.path}: cannot be removed ({reason(error)}): "
                "change its permissions, and run the same command again"
            ) from None
    return CacheRemoval(removed=tuple(removed), in_use=tuple(in_use))


def _item(folder: Path, name: str) -> CacheItem | None:
    """The item of a name in the cache folder; None if it is nothing of hydrakit's."""
    path = folder / name
    try:
        mode = path.lstat().st_mode
        files = [path] if stat.S_ISREG(mode) else _files(path) if stat.S_ISDIR(mode) else None
        if files is None:
            return None
        if TEMPORARY.fullmatch(name):
            return None if _is_young(path) else _of_files("left behind", name, files)
        if stat.S_ISREG(mode):
            kind = next((kind for kind, form in _FILES.items() if form.fullmatch(name)), None)
            return None if kind is None else _of_files(kind, name, files)
        match = _PREPARED.fullmatch(name)
        if match is None or not all(_IN_PREPARED.fullmatch(file.name) for file in files):
            return None
        used = path / SOURCE
        source = source_of(path)
        return _of_files(
            "prepared data",
            name,
            files,
            used=[used] if used in files else [file for file in files if file.name not in FILES],
            dataset=match[1],
            source=source,
        )
    except OSError:  # another process has just removed it, or it cannot be read
        return None


def _files(folder: Path) -> list[Path] | None:
    """The files of a folder but `LITTER`; None if it holds anything else, as a link or a folder."""
    with os.scandir(folder) as found:
        entries = list(found)
    if not all(entry.is_file(follow_symlinks=False) for entry in entries):
        return None
    return [Path(entry.path) for entry in entries if entry.name not in LITTER]


def _of_files(
    kind: Kind,
    path: str,
    files: Sequence[Path],
    *,
    used: Sequence[Path] | None = None,
    dataset: str | None = None,
    source: Path | None = None,
) -> CacheItem:
    """An item of some files; it was last used when the last of ``used`` was written."""
    times = [file.lstat().st_mtime for file in (files if used is None else used)]
    return CacheItem(
        kind=kind,
        path=path,
        dataset=dataset,
        source=None if source is None else str(source),
        source_exists=None if source is None else source.is_dir(),
        size=sum(file.lstat().st_size for file in files),
        last_used=datetime.fromtimestamp(max(times, default=0)).astimezone(),
    )


def _headers(folder: Path, items: Sequence[CacheItem]) -> tuple[list[CacheItem], int]:
    """The caches of DICOM headers, and the number of other files beside them."""
    place = folder / HEADERS
    if place.is_symlink() or not place.is_dir():
        return [], 0
    try:
        files = _files(place)
    except OSError:
        return [], 1
    if files is None:
        return [], 1
    datasets = {
        file_name(Path(item.source)): item for item in items if item.source and item.dataset
    }
    headers = [_header_item(file, datasets) for file in sorted(files) if _is_header(file)]
    beside = [file for file in files if file.name.endswith(_BESIDE_HEADERS)]
    return headers, len(files) - len(headers) - len(beside)


def _is_header(file: Path) -> bool:
    return _HEADERS.fullmatch(file.name) is not None


def _header_item(file: Path, datasets: dict[str, CacheItem]) -> CacheItem:
    of = datasets.get(file.name)
    return _of_files(
        "DICOM headers",
        f"{HEADERS}/{file.name}",
        [file],
        dataset=None if of is None else of.dataset,
        source=Path(of.source) if of and of.source else None,
    )


def _is_young(path: Path) -> bool:
    """Whether something has the name of a temporary file, and a process may be writing it."""
    with suppress(OSError):
        age = time.time() - path.lstat().st_mtime
        return TEMPORARY.fullmatch(path.name) is not None and age < LEFT_SECONDS
    return False


def _remove(folder: Path, item: CacheItem) -> bool:
    """Remove an item; return whether it was not used by a process, and not since it was listed."""
    path = folder / item.path
    if item.kind == "DICOM headers":
        if path.is_file() and not _is_unused_database(path):
            return False
        for name in _with_beside(path):
            if os.path.lexists(name):
                delete(folder, name)
        return True
    if item.kind != "prepared data":
        delete(folder, path)
        return True
    lock = FileLock(path / FILES[0])
    try:
        lock.acquire(timeout=0)
    except (Timeout, NotImplementedError):
        return False
    try:
        if _item(folder, item.path) != item or _is_read(path):
            return False
        # At once: a process that prepares this data now does so in a new folder.
        gone = folder / f".{item.path}.{secrets.token_hex(8)}"
        if os.name == "nt":  # which renames no folder with an open file
            lock.release()
        path.rename(gone)
    finally:
        lock.release()
    delete(folder, gone)
    return True


def _is_read(prepared: Path) -> bool:
    return (prepared / f"{FILES[0]}.soft").exists() or any(
        is_read(file) for file in prepared.glob("crops-*.f32")
    )


def _with_beside(database: Path) -> Iterator[Path]:
    yield database
    for suffix in _BESIDE_HEADERS:
        yield database.with_name(f"{database.name}{suffix}")


def _is_unused_database(path: Path) -> bool:
    """Whether no process reads or writes an SQLite file now; a damaged one counts as unused."""
    try:
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("ROLLBACK")
    except sqlite3.OperationalError:  # locked
        return False
    except sqlite3.DatabaseError:
        return True
    return True
