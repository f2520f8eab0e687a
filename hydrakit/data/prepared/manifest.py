"""The files that prepared data was made from: which of them changed since.

A listing tells by sizes and times whether anything changed at all. A manifest holds the SHA-256 of
every file that an image came from; a file is read again only where its size or time differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path

from hydrakit.data.dicom import walk
from hydrakit.errors import DataError
from hydrakit.storage.files import write_atomic

NAME = "manifest.json"


def listing_digest(root: Path, elsewhere: Iterable[Path], *, ignore: Path) -> str:
    """SHA-256 of the paths, sizes and times of all files of a dataset; none of them is opened.

    Args:
        root: The dataset's folder; paths count from it.
        elsewhere: Further folders of the dataset.
        ignore: A folder whose files do not count, where it lies in one of these (the cache).

    Raises:
        DataError: A folder is missing or cannot be listed.
    """
    hasher = hashlib.sha256()
    base = os.fspath(root)
    for path in _files([root, *elsewhere], ignore=ignore):
        try:
            status = os.stat(path)  # noqa: PTH116 - a third faster, 300,000 times
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # a link that leads nowhere, or a file that has just gone
            facts = ""
        hasher.update(f"{_name(path, base)!r} {facts}\n".encode())
    return hasher.hexdigest()


def _files(folders: Iterable[Path], *, ignore: Path) -> Iterator[str]:
    for folder in folders:
        # Of a folder that lies elsewhere this begins with "..", as no path of `walk` does.
        below = os.path.join(folder, os.path.relpath(ignore, folder), "")  # noqa: PTH118
        yield from (path for path in map(os.fspath, walk(folder)) if not path.startswith(below))


def _name(path: str, root: str) -> str:
    """A file's path as seen from the root: equal for equal data elsewhere."""
    if path.startswith(root) and path[len(root) :][:1] == os.sep:
        return path[len(root) + 1 :]
    return os.path.relpath(path, root)


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """A file as it was when it was prepared.

    Attributes:
        size: In bytes.
        mtime_ns: Time of the last change, in nanoseconds.
        sha256: Of its bytes, in hexadecimal.
    """

    size: int
    mtime_ns: int
    sha256: str


class Manifest:
    """The source files of prepared data; several threads may ask it at once.

    Attributes:
        changed: Paths, from the root, of the files that are other than they were.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        """Take up what an earlier preparing left in ``folder``.

        Raises:
            OSError: The manifest cannot be read.
            ValueError: It is broken.
        """
        self.changed: set[str] = set()
        self._path, self._root = folder / NAME, os.fspath(root)
        self._before = _read(self._path)
        self._now: dict[str, Future[SourceFile]] = {}
        self._lock = threading.Lock()

    def digest(self, path: Path) -> str:
        """SHA-256 of a file, from the manifest where it is as it was.

        Raises:
            OSError: The file cannot be read.
        """
        name = _name(os.fspath(path), self._root)
        with self._lock:
            future = self._now.get(name)
            is_first = future is None
            if future is None:
                future = self._now[name] = Future()
        if is_first:
            try:
                future.set_result(self._look(path, name))
            except BaseException as error:
                future.set_exception(error)
        return future.result().sha256

    def _look(self, path: Path, name: str) -> SourceFile:
        before = self._before.get(name)
        status = path.stat()
        size, mtime = status.st_size, status.st_mtime_ns
        if before is not None and (before.size, before.mtime_ns) == (size, mtime):
            return before
        with path.open("rb") as file:
            sha = hashlib.file_digest(file, "sha256").hexdigest()
        if before is not None and before.sha256 != sha:
            self.changed.add(name)
        return SourceFile(size=size, mtime_ns=mtime, sha256=sha)

    def check_still(self, path: Path) -> None:
        """Make sure that a file, after its image was read, is the one that `digest` saw.

        Raises:
            DataError: It changed in between (it is still being downloaded, say).
        """
        seen = self._now[_name(os.fspath(path), self._root)].result()
        try:
            status = path.stat()
            same = (status.st_size, status.st_mtime_ns) == (seen.size, seen.mtime_ns)
        except OSError:
            same = False
        if not same:
            raise DataError(
                f"{path}: changed while it was prepared: wait until it is complete, then run again"
            )

    def save(self) -> None:
        """Write the files that were asked for, in place of those of before.

        Raises:
            OSError: It cannot be written.
        """
        seen = {name: self._now[name] for name in sorted(self._now)}
        files = [
            {"path": name} | asdict(future.result())
            for name, future in seen.items()
            if future.exception() is None
        ]
        lines = ",\n".join(json.dumps(file) for file in files)
        write_atomic(self._path, f'{{"files": [\n{lines}\n]}}\n'.encode())


def _read(path: Path) -> dict[str, SourceFile]:
    """The files of a manifest by path; none where there is no manifest yet."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        return {
            str(file["path"]): SourceFile(
                size=int(file["size"]),
                mtime_ns=int(file["mtime_ns"]),
                sha256=str(file["sha256"]),
            )
            for file in json.loads(content)["files"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path.name} is broken: {error}") from None
