"""On-disk store of a dataset's prepared images: append-only rows, and a journal that lists them.

A folder of prepared data holds::

    crops-0.f32        one crop after another, ``(channels, side, side)`` float32, not z-scored
    thumbnails-0.f32   one thumbnail after another, ``(576,)`` float32
    textures-0.i8      one texture after another, ``(128, 128)`` int8
    journal-0.jsonl    one line for each row: its source and its metadata

The journal is written last, after the rows are flushed to disk. Rows without a journal line do not
count and are overwritten, so that an interrupted preparation continues where its journal ends.
Unused rows stay until they are the majority; the used rows are then copied to files with the next
number, so that processes that have opened the old files are not affected.

Rows are read and not mapped into memory: a process that has mapped a file ends without a message
(SIGBUS) when another one shortens it, or when the disk cannot be read.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.prepared.crop import Statistics
from hydrakit.data.quality.duplicates import BANDS, TEXTURE
from hydrakit.errors import DataError
from hydrakit.schema import Frozen
from hydrakit.storage.files import open_in_place, write_atomic
from hydrakit.storage.lock import mark_read

THUMBNAIL = BANDS * BANDS
FLOAT = np.dtype("<f4")

# How often rows are flushed to disk: an interruption loses at most the rows since the last flush.
COMMIT_ROWS = 256
COMMIT_SECONDS = 1.0

_NAMES = ("crops-{}.f32", "thumbnails-{}.f32", "textures-{}.i8", "journal-{}.jsonl")
_NUMBERED = re.compile(r"(?:crops|thumbnails|textures|journal)-(\d+)\.(?:f32|i8|jsonl)")


Pixel = TypeVar("Pixel", np.float32, np.int8)


class RowFile(Generic[Pixel]):
    """A file of rows of numbers of one type, read row by row; safe to use from several threads."""

    def __init__(
        self, path: Path, rows: int, shape: tuple[int, ...], kind: np.dtype[Pixel]
    ) -> None:
        """Open a file.

        Args:
            path: Path of the file.
            rows: Number of rows that the file must have at least.
            shape: Shape of a row.
            kind: Type of the numbers.

        Raises:
            OSError: The file cannot be opened.
            ValueError: The file is missing, or has too few rows.
        """
        self._path, self._shape = path, shape
        self._kind: np.dtype[Pixel] = kind
        try:
            self._file = path.open("rb", buffering=0)
        except FileNotFoundError:
            raise ValueError(f"{path.name} is missing") from None
        weakref.finalize(self, self._file.close)
        mark_read(self._file.fileno())
        self._lock = threading.Lock()
        self._size = math.prod(shape) * kind.itemsize
        size = os.fstat(self._file.fileno()).st_size
        if size < rows * self._size:
            raise ValueError(f"{path.name} has {size} bytes of {rows * self._size}")

    def read(self, rows: Sequence[int]) -> NDArray[Pixel]:
        """Read some rows, ``(n, *shape)``.

        Raises:
            DataError: The file has become shorter, or cannot be read.
        """
        values = np.empty((len(rows), *self._shape), dtype=self._kind)
        for row, value in zip(rows, values, strict=True):
            remaining = memoryview(value).cast("B")
            try:
                with self._lock:
                    self._file.seek(row * self._size)
                    while remaining and (count := self._file.readinto(remaining)):
                        remaining = remaining[count:]
            except OSError as error:
                raise self._unreadable(error.strerror or str(error)) from None
            if remaining:
                raise self._unreadable("it has become shorter")
        return values.astype(self._kind.newbyteorder("="), copy=False)

    def _unreadable(self, reason: str) -> DataError:
        return DataError(
            f"{self._path}: prepared data cannot be read ({reason}): delete the folder of this "
            "file, then run the same command again"
        )


class StoreEntry(Frozen):
    """A line of the journal: the metadata of a prepared image.

    Attributes:
        row: Index of the image's row in the files of crops, thumbnails and textures.
        signature: SHA-256 of everything that determines the row; None if that is unknown.
        count: Number of pixels per channel of the whole image, without padding.
        mean: Mean of each channel of the whole image.
        squares: Sum of the squared differences from the mean, for each channel.
        content: `hydrakit.data.quality.duplicates.content_digest` of the whole image.
        crop: SHA-256 of the crop's bytes.
        facts: Facts of the image, from `hydrakit.data.quality.shortcuts.image_facts`.
    """

    row: int
    signature: str | None
    count: int
    mean: tuple[float, ...]
    squares: tuple[float, ...]
    content: str
    crop: str
    facts: dict[str, str | float]

    @property
    def statistics(self) -> Statistics:
        """Statistics of the whole image, for adding to those of the patient's other images."""
        mean, squares = np.array(self.mean), np.array(self.squares)
        return Statistics(count=self.count, mean=mean, squares=squares)


@dataclass(frozen=True, kw_only=True, eq=False)
class NewEntry:
    """A newly prepared image.

    Attributes:
        signature: SHA-256 of everything that determines the row; None if that is unknown.
        crop: Crop of the image, ``(channels, side, side)`` float32.
        thumbnail: Thumbnail of the image, ``(576,)`` float32.
        texture: Texture of the image, ``(128, 128)`` int8.
        statistics: Statistics of the whole image.
        content: Content digest of the whole image.
        facts: Facts of the image.
        crop_digest: SHA-256 of the stored bytes of the crop.
    """

    signature: str | None
    crop: NDArray[np.float32]
    thumbnail: NDArray[np.float32]
    texture: NDArray[np.int8]
    statistics: Statistics
    content: str
    facts: dict[str, str | float]
    crop_digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the crop's digest in the preparing thread, not in the writing thread."""
        stored = np.ascontiguousarray(self.crop, dtype=FLOAT)
        object.__setattr__(self, "crop_digest", hashlib.sha256(stored.data).hexdigest())


class Store:
    """The rows of a folder, open for appending by one process; a context manager.

    Attributes:
        folder: Folder of the files.
        number: Number in the names of the files.
        entries: Journal entries of the rows.
    """

    def __init__(self, folder: Path, *, side: int) -> None:
        """Read the journal, and remove files without a journal.

        Raises:
            OSError: The folder cannot be read or written.
            ValueError: The journal is broken, or rows are missing.
        """
        self.folder = folder
        self._side = side
        self._pending: list[bytes] = []
        self._journal_size = 0
        self._committed = time.monotonic()
        self._files: tuple[BinaryIO, ...] | None = None
        numbers = _numbers(folder)
        journals = [number for number in numbers if _paths(folder, number)[-1].exists()]
        self.number = max(journals, default=max(numbers, default=-1) + 1)
        self.entries: list[StoreEntry] = _read_journal(_paths(folder, self.number)[-1])
        self._check_rows()
        self.remove_other_numbers()

    def __enter__(self) -> Self:
        """Return the store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush the added rows to disk, also after an error, and close the files."""
        try:
            if error is None:
                self.commit()
            else:
                with suppress(OSError):  # for example a full disk; report the first error instead
                    self.commit()
        finally:
            self._close()

    @property
    def channels(self) -> int | None:
        """Number of channels of the rows; None while there are none."""
        return len(self.entries[0].mean) if self.entries else None

    def append(self, new: NewEntry) -> StoreEntry:
        """Add a row.

        All rows of a store have the same number of channels. If the new row has another number, no
        old row is usable any more, and the store starts again with the next file number.

        Raises:
            OSError: The row cannot be written, for example because the disk is full.
        """
        if self.channels not in (None, len(new.crop)):
            self._begin(self.number + 1, [])
        files = self._files = self._files or self._open()
        rows = (
            np.ascontiguousarray(new.crop, dtype=FLOAT).tobytes(),
            np.ascontiguousarray(new.thumbnail, dtype=FLOAT).tobytes(),
            np.ascontiguousarray(new.texture, dtype=np.int8).tobytes(),
        )
        entry = StoreEntry(
            row=len(self.entries),
            signature=new.signature,
            count=new.statistics.count,
            mean=tuple(new.statistics.mean.tolist()),
            squares=tuple(new.statistics.squares.tolist()),
            content=new.content,
            crop=new.crop_digest,
            facts=new.facts,
        )
        for file, data in zip(files[:-1], rows, strict=True):
            _write_at(file, entry.row * len(data), data)
        self.entries.append(entry)
        self._pending.append(entry.model_dump_json().encode() + b"\n")
        late = time.monotonic() - self._committed > COMMIT_SECONDS
        if late or len(self._pending) >= COMMIT_ROWS:
            self.commit()
        return entry

    def commit(self) -> None:
        """Flush the added rows to disk; from now on they count.

        Raises:
            OSError: The rows cannot be written, for example because the disk is full.
        """
        if self._pending and self._files is not None:
            *rows, journal = self._files
            for file in rows:
                os.fsync(file.fileno())
            lines = b"".join(self._pending)
            # Not at the end of the file: an interrupted write may have left a partial line there.
            _write_at(journal, self._journal_size, lines)
            os.fsync(journal.fileno())
            self._journal_size += len(lines)
            self._pending = []
        self._committed = time.monotonic()

    def compact(self, used: Sequence[StoreEntry]) -> list[StoreEntry]:
        """Copy the used rows, in the given order, to files with the next number.

        Returns:
            The entries with their new rows.

        Raises:
            OSError: The rows cannot be written, for example because the disk is full.
        """
        self.commit()
        files: tuple[RowFile[Any], ...] = open_rows(
            self.folder,
            self.number,
            rows=len(self.entries),
            channels=self.channels or 0,
            side=self._side,
        )
        copied = [entry.model_copy(update={"row": row}) for row, entry in enumerate(used)]
        paths = _paths(self.folder, self.number + 1)
        for path, old in zip(paths[:-1], files, strict=True):
            descriptor = open_in_place(path, os.O_WRONLY | os.O_CREAT)
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                file.truncate(0)
                for new, entry in zip(copied, used, strict=True):
                    data = old.read([entry.row]).tobytes()
                    _write_at(file, new.row * len(data), data)
                os.fsync(file.fileno())
        lines = "".join(entry.model_dump_json() + "\n" for entry in copied)
        write_atomic(paths[-1], lines.encode())
        self._begin(self.number + 1, copied)
        return copied

    def remove_other_numbers(self) -> None:
        """Remove the files whose number is not this store's."""
        for number in _numbers(self.folder) - {self.number}:
            for path in _paths(self.folder, number):
                with suppress(OSError):  # Windows does not remove open files; next time it does
                    path.unlink(missing_ok=True)

    def _begin(self, number: int, entries: list[StoreEntry]) -> None:
        self._close()
        self.number, self.entries, self._pending = number, entries, []

    def _open(self) -> tuple[BinaryIO, ...]:
        paths = _paths(self.folder, self.number)
        files = tuple(
            os.fdopen(open_in_place(path, os.O_RDWR | os.O_CREAT), "r+b", buffering=0)
            for path in paths
        )
        self._journal_size = files[-1].seek(0, os.SEEK_END)
        return files

    def _close(self) -> None:
        for file in self._files or ():
            file.close()
        self._files = None

    def _check_rows(self) -> None:
        """Raise ValueError if a row of the journal is missing."""
        if self.entries:
            open_rows(
                self.folder,
                self.number,
                rows=len(self.entries),
                channels=self.channels or 0,
                side=self._side,
            )


def open_rows(
    folder: Path, number: int, *, rows: int, channels: int, side: int
) -> tuple[RowFile[np.float32], RowFile[np.float32], RowFile[np.int8]]:
    """Open crops, thumbnails and textures.

    Their rows are ``(channels, side, side)``, ``(576,)`` and ``(128, 128)``.

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is missing, or has too few rows.
    """
    crops, thumbnails, textures, _ = _paths(folder, number)
    return (
        RowFile(crops, rows, (channels, side, side), FLOAT),
        RowFile(thumbnails, rows, (THUMBNAIL,), FLOAT),
        RowFile(textures, rows, (TEXTURE, TEXTURE), np.dtype(np.int8)),
    )


def _paths(folder: Path, number: int) -> tuple[Path, Path, Path, Path]:
    """Return the files of crops, thumbnails and textures, and the journal."""
    crops, thumbnails, textures, journal = (folder / name.format(number) for name in _NAMES)
    return crops, thumbnails, textures, journal


def _numbers(folder: Path) -> set[int]:
    matches = (_NUMBERED.fullmatch(path.name) for path in folder.iterdir())
    return {int(match[1]) for match in matches if match}


def _read_journal(path: Path) -> list[StoreEntry]:
    """Read the entries of a journal; truncate an incomplete last line."""
    if not path.exists():
        return []
    with path.open("r+b") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            file.truncate(complete)
    entries: list[StoreEntry] = []
    for row, line in enumerate(content[:complete].splitlines()):
        try:
            entry = StoreEntry.model_validate_json(line)
        except ValueError:
            raise ValueError(f"{path.name}: line {row + 1} is broken") from None
        if entry.row != row or len(entry.mean) != len((entries or [entry])[0].mean):
            raise ValueError(f"{path.name}: line {row + 1} does not follow the one before")
        entries.append(entry)
    return entries


def _write_at(file: BinaryIO, position: int, data: bytes) -> None:
    """Write all of the data; an unbuffered file may write only a part if the disk fills up."""
    file.seek(position)
    remaining = memoryview(data)
    while remaining:
        remaining = remaining[file.write(remaining) :]
