"""The prepared images of a dataset on disk: rows that are only ever added, and what they are.

A folder of prepared data holds::

    crops-0.f32        one crop after another, ``(channels, side, side)`` float32, not z-scored
    thumbnails-0.f32   one thumbnail after another, ``(576,)`` float32
    journal-0.jsonl    one line for each row: what it was made from, and what it is

The journal is written last, after the rows are safe on disk: rows without a line do not count, and
are written over. So a preparing that was killed goes on where its journal ends. Rows that are used
no more stay until they are the larger part; the others are then copied to files with the next
number, so that someone who has the old ones mapped sees no other bytes.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.prepared.crop import Statistics
from hydrakit.data.quality.duplicates import BANDS
from hydrakit.schema import Frozen
from hydrakit.storage.files import write_atomic

THUMBNAIL = BANDS * BANDS
FLOAT = np.dtype("<f4")

# Rows are made safe so often: what a killed preparing has to do again.
COMMIT_ROWS = 256
COMMIT_SECONDS = 1.0

_NAMES = ("crops-{}.f32", "thumbnails-{}.f32", "journal-{}.jsonl")
_NUMBERED = re.compile(r"(?:crops|thumbnails|journal)-(\d+)\.(?:f32|jsonl)")

Rows = np.memmap[tuple[int, ...], np.dtype[np.float32]]


class StoreEntry(Frozen):
    """A line of the journal: what is known of a prepared image.

    Attributes:
        row: In the two files of rows.
        signature: SHA-256 of all that decides the row; None where that is not known.
        count: Number of pixels of a channel of the whole image.
        mean: Of each channel of the whole image.
        squares: Sum of the squared differences from the mean, of each channel.
        content: `hydrakit.data.quality.duplicates.content_digest` of the whole image.
        crop: SHA-256 of the crop's bytes.
        facts: `hydrakit.data.quality.shortcuts.image_facts`.
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
        """Of the whole image, to be added up with those of the patient's others."""
        mean, squares = np.array(self.mean), np.array(self.squares)
        return Statistics(count=self.count, mean=mean, squares=squares)


@dataclass(frozen=True, kw_only=True, eq=False)
class NewEntry:
    """A newly prepared image.

    Attributes:
        signature: As in `StoreEntry`.
        crop: ``(channels, side, side)`` float32.
        thumbnail: ``(576,)`` float32.
        statistics: Of the whole image.
        content: As in `StoreEntry`.
        facts: As in `StoreEntry`.
        crop_digest: SHA-256 of the crop's bytes, as they are stored.
    """

    signature: str | None
    crop: NDArray[np.float32]
    thumbnail: NDArray[np.float32]
    statistics: Statistics
    content: str
    facts: dict[str, str | float]
    crop_digest: str = field(init=False)

    def __post_init__(self) -> None:
        """Take the digest here, in the thread that prepares, and not in the one that writes."""
        stored = np.ascontiguousarray(self.crop, dtype=FLOAT)
        object.__setattr__(self, "crop_digest", hashlib.sha256(stored.data).hexdigest())


class Store:
    """The rows of a folder, for the one process that adds to them; for a ``with`` block.

    Attributes:
        number: In the names of the files.
        entries: Of each row.
    """

    def __init__(self, folder: Path, *, side: int) -> None:
        """Read the journal, and clear away what no journal speaks of.

        Raises:
            OSError: The folder cannot be read or written.
            ValueError: The journal is broken, or rows are missing.
        """
        self.folder = folder
        self._side = side
        self._pending: list[bytes] = []
        self._journal_size = 0
        self._committed = time.monotonic()
        self._files: tuple[BinaryIO, BinaryIO, BinaryIO] | None = None
        numbers = _numbers(folder)
        journals = [number for number in numbers if _paths(folder, number)[2].exists()]
        self.number = max(journals, default=max(numbers, default=-1) + 1)
        self.entries: list[StoreEntry] = _read_journal(_paths(folder, self.number)[2])
        self._check_rows()
        self.remove_others()

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Make safe what was added, whatever stopped the adding, and close the files."""
        try:
            if error is None:
                self.commit()
            else:
                with suppress(OSError):  # the disk is full, say: then this is the error to tell
                    self.commit()
        finally:
            self._close()

    @property
    def channels(self) -> int | None:
        """Of the rows; None while there are none."""
        return len(self.entries[0].mean) if self.entries else None

    def append(self, made: NewEntry) -> StoreEntry:
        """Add a row.

        Rows of one store have the same number of channels. If that has changed, no old row can be
        used any more, and the store begins anew with the next number.

        Raises:
            OSError: The disk is full, say.
        """
        if self.channels not in (None, len(made.crop)):
            self._begin(self.number + 1, [])
        files = self._files = self._files or self._open()
        crop = np.ascontiguousarray(made.crop, dtype=FLOAT).tobytes()
        thumbnail = np.ascontiguousarray(made.thumbnail, dtype=FLOAT).tobytes()
        entry = StoreEntry(
            row=len(self.entries),
            signature=made.signature,
            count=made.statistics.count,
            mean=tuple(made.statistics.mean.tolist()),
            squares=tuple(made.statistics.squares.tolist()),
            content=made.content,
            crop=made.crop_digest,
            facts=made.facts,
        )
        for file, data in zip(files[:2], (crop, thumbnail), strict=True):
            _write_at(file, entry.row * len(data), data)
        self.entries.append(entry)
        self._pending.append(entry.model_dump_json().encode() + b"\n")
        late = time.monotonic() - self._committed > COMMIT_SECONDS
        if late or len(self._pending) >= COMMIT_ROWS:
            self.commit()
        return entry

    def commit(self) -> None:
        """Make the added rows safe: they count from now on.

        Raises:
            OSError: The disk is full, say.
        """
        if self._pending and self._files is not None:
            *rows, journal = self._files
            for file in rows:
                os.fsync(file.fileno())
            lines = b"".join(self._pending)
            # Not simply at the end: a write that was interrupted may have left a part there.
            _write_at(journal, self._journal_size, lines)
            os.fsync(journal.fileno())
            self._journal_size += len(lines)
            self._pending = []
        self._committed = time.monotonic()

    def compact(self, used: Sequence[StoreEntry]) -> list[StoreEntry]:
        """Copy the used rows, in this order, to files with the next number.

        Returns:
            The entries with their new rows.

        Raises:
            OSError: The disk is full, say.
        """
        self.commit()
        crops, thumbnails = map_rows(
            self.folder,
            self.number,
            rows=len(self.entries),
            channels=self.channels or 0,
            side=self._side,
        )
        moved = [entry.model_copy(update={"row": row}) for row, entry in enumerate(used)]
        paths = _paths(self.folder, self.number + 1)
        for path, old in zip(paths[:2], (crops, thumbnails), strict=True):
            with path.open("wb", buffering=0) as file:
                for new, entry in zip(moved, used, strict=True):
                    data = old[entry.row].tobytes()
                    _write_at(file, new.row * len(data), data)
                os.fsync(file.fileno())
        lines = "".join(entry.model_dump_json() + "\n" for entry in moved)
        write_atomic(paths[2], lines.encode())
        self._begin(self.number + 1, moved)
        return moved

    def remove_others(self) -> None:
        """Remove files with other numbers than this store's."""
        for number in _numbers(self.folder) - {self.number}:
            for path in _paths(self.folder, number):
                with suppress(OSError):  # Windows keeps what is mapped: it goes the next time
                    path.unlink(missing_ok=True)

    def _begin(self, number: int, entries: list[StoreEntry]) -> None:
        self._close()
        self.number, self.entries, self._pending = number, entries, []

    def _open(self) -> tuple[BinaryIO, BinaryIO, BinaryIO]:
        paths = _paths(self.folder, self.number)
        for path in paths:
            path.touch()
        crops, thumbnails, journal = (path.open("r+b", buffering=0) for path in paths)
        self._journal_size = journal.seek(0, os.SEEK_END)
        return crops, thumbnails, journal

    def _close(self) -> None:
        for file in self._files or ():
            file.close()
        self._files = None

    def _check_rows(self) -> None:
        """Raise ValueError if a row that the journal tells of is not there."""
        if self.entries:
            map_rows(
                self.folder,
                self.number,
                rows=len(self.entries),
                channels=self.channels or 0,
                side=self._side,
            )


def map_rows(
    folder: Path, number: int, *, rows: int, channels: int, side: int
) -> tuple[Rows, Rows]:
    """The crops ``(rows, channels, side, side)`` and thumbnails ``(rows, 576)``.

    Writing to them changes a copy in memory and not the files. (Torch takes no read-only array.)

    Raises:
        OSError: A file cannot be read.
        ValueError: A file is missing, or has fewer rows.
    """
    crops, thumbnails, _ = _paths(folder, number)
    return _map(crops, (rows, channels, side, side)), _map(thumbnails, (rows, THUMBNAIL))


def _map(path: Path, shape: tuple[int, ...]) -> Rows:
    try:
        return np.memmap(path, dtype=FLOAT, mode="c", shape=shape)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is missing") from None
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _paths(folder: Path, number: int) -> tuple[Path, Path, Path]:
    crops, thumbnails, journal = (folder / name.format(number) for name in _NAMES)
    return crops, thumbnails, journal


def _numbers(folder: Path) -> set[int]:
    found = (_NUMBERED.fullmatch(path.name) for path in folder.iterdir())
    return {int(match[1]) for match in found if match}


def _read_journal(path: Path) -> list[StoreEntry]:
    """The entries of a journal; a last line that was not written to its end is taken off it."""
    if not path.exists():
        return []
    with path.open("r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            file.truncate(whole)
    entries: list[StoreEntry] = []
    for row, line in enumerate(content[:whole].splitlines()):
        try:
            entry = StoreEntry.model_validate_json(line)
        except ValueError:
            raise ValueError(f"{path.name}: line {row + 1} is broken") from None
        if entry.row != row or len(entry.mean) != len((entries or [entry])[0].mean):
            raise ValueError(f"{path.name}: line {row + 1} does not follow the one before")
        entries.append(entry)
    return entries


def _write_at(file: BinaryIO, position: int, data: bytes) -> None:
    """Write all of the data: an unbuffered file may take a part of it when the disk fills up."""
    file.seek(position)
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]
