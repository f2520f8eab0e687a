"""Cache of DICOM headers: one SQLite file for each folder of images.

The file lies in the cache folder, under ``dicom/``. It stores the fields of `Header`; the only one
about the patient is the pseudonymous PatientID. The file can be deleted at any time. If the cache
cannot be read or written, the headers are read from the images again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sqlite3
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hydrakit.data.dicom.header import Header
from hydrakit.data.safe_paths import file_state

# Increase whenever `read_header` returns another header for the same file.
VERSION = 3

FOLDER = "dicom"
"""Folder of these files in the cache folder."""

_log = logging.getLogger(__name__)
_FIELDS = tuple(field.name for field in fields(Header) if field.name != "path")
# Equal in all images of a series: one copy in memory is enough.
_SHARED = (
    *("sop_class", "patient_id", "study_uid", "series_uid", "series_description", "modality"),
    *("model", "frame_uid", "photometric", "lut_shape"),
)
_TUPLES = ("image_type", "position", "orientation", "spacing")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A file on disk, with its state, which shows whether it has changed.

    Attributes:
        path: Path of the file.
        key: Path of the file relative to the root, encoded for the file system.
        state: `file_state` as text; empty if it cannot be read.
    """

    path: Path
    key: bytes
    state: str

    @classmethod
    def of(cls, path: Path, prefix: int) -> CacheEntry:
        """Return the entry of a file; the root takes up ``prefix`` characters of its path."""
        key = os.fsencode(os.fspath(path)[prefix:])
        try:
            state = " ".join(map(str, file_state(os.stat(path))))  # noqa: PTH116 - faster
        except OSError:
            state = ""
        return cls(path, key, state)


def to_json(header: Header | None) -> str:
    """Serialise a header as JSON, without its path; ``null`` for a file that is not an image."""
    if header is None:
        return "null"
    return json.dumps([getattr(header, name) for name in _FIELDS])


def from_json(path: Path, text: str) -> Header | None:
    """Parse a header that `to_json` wrote.

    Raises:
        ValueError: The text is not a serialised header.
    """
    if text == "null":
        return None
    values: dict[str, Any] = dict(zip(_FIELDS, json.loads(text), strict=True))
    for name in _SHARED:
        values[name] = sys.intern(values[name])
    for name in _TUPLES:
        if values[name] is not None:
            values[name] = tuple(values[name])
    return Header(path=path, **values)


def file_name(root: Path) -> str:
    """Name of the cache file of a folder of images."""
    return f"{hashlib.sha256(os.fsencode(os.path.realpath(root))).hexdigest()[:16]}.sqlite"


class HeaderCache:
    """Cached headers of the files below a root folder; a context manager."""

    def __init__(self, root: Path) -> None:
        # Here, since `prepare` imports the index.
        from hydrakit.storage.paths import cache_folder

        self.path = cache_folder() / FOLDER / file_name(root)
        self._connection: sqlite3.Connection | None = None

    def __enter__(self) -> Self:
        """Open the cache file; replace it if it is broken or has another version."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = self._open()
            except sqlite3.OperationalError:  # no write permission, locked, disk full
                raise
            except sqlite3.DatabaseError:  # not a database, or a damaged one
                self.path.unlink()
                self._connection = self._open()
            with suppress(OSError):  # the file of another user
                os.utime(self.path)  # the time of the last use, for `hydrakit cache`
        except (OSError, sqlite3.Error) as error:
            self._disable(error)
        return self

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=10, check_same_thread=False)
        try:
            with connection:
                if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                    connection.execute("DROP TABLE IF EXISTS headers")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS headers"
                    " (key BLOB PRIMARY KEY, state TEXT, header TEXT)"
                )
        except BaseException:
            connection.close()
            raise
        return connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the cache file."""
        if self._connection is not None:
            self._connection.close()

    def _disable(self, error: Exception) -> None:
        """Continue without a cache, and log one warning."""
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None
        _log.warning("%s: DICOM headers cannot be cached and are read again: %s", self.path, error)

    def load(self, entries: Iterable[CacheEntry]) -> dict[bytes, Header | None]:
        """Return the cached headers of the files that have not changed, by key."""
        if self._connection is None:
            return {}
        try:
            rows = self._connection.execute("SELECT key, state, header FROM headers")
            cached = {key: (state, header) for key, state, header in rows}
        except sqlite3.Error as error:
            self._disable(error)
            return {}
        headers: dict[bytes, Header | None] = {}
        for entry in entries:
            match cached.get(entry.key):
                case (entry.state, str(header)):
                    with suppress(ValueError, TypeError):  # a damaged row
                        headers[entry.key] = from_json(entry.path, header)
        return headers

    def store(self, headers: Collection[tuple[CacheEntry, Header | None]]) -> None:
        """Store headers; they replace older headers of the same files."""
        rows = [(entry.key, entry.state, to_json(header)) for entry, header in headers]
        self._write("INSERT OR REPLACE INTO headers VALUES (?, ?, ?)", rows)

    def remove_others(self, entries: Iterable[CacheEntry]) -> None:
        """Remove the headers of all files except these: the others no longer exist."""
        if self._connection is None:
            return
        try:
            keys = {key for (key,) in self._connection.execute("SELECT key FROM headers")}
        except sqlite3.Error as error:
            self._disable(error)
            return
        removed = keys - {entry.key for entry in entries}
        self._write("DELETE FROM headers WHERE key = ?", [(key,) for key in removed])

    def _write(self, statement: str, rows: Collection[tuple[object, ...]]) -> None:
        if self._connection is None or not rows:
            return
        try:
            with self._connection:
                self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            self._disable(error)
