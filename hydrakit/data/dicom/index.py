"""Index of the headers of all DICOM images below a folder.

Worker processes read the headers (pydicom's settings are process-wide, and its parser is pure
Python). A `HeaderCache` stores them, so that later calls read only new or changed files.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue
from typing import Literal

from hydrakit.compute.processors import processors
from hydrakit.data.archives import unpack_hint
from hydrakit.data.dicom.cache import CacheEntry, HeaderCache, from_json, to_json
from hydrakit.data.dicom.decode import start_worker
from hydrakit.data.dicom.header import BARE, Header, is_bare, read_header
from hydrakit.data.safe_paths import NO_FILE, open_file
from hydrakit.errors import DataError

_log = logging.getLogger(__name__)
# A worker takes a third of a second to start; this process reads about 300 headers in that time.
_MIN_FILES = 1000  # with fewer files, no workers are started
_BATCH = 100  # files per request to a worker
_MAX_WORKERS = 16
_FEW = 100  # files that are examined where none is an image
_STORE_BATCH = 2000  # headers per write to the cache: an interruption loses at most these

OnProgress = Callable[[int, int], None]
_progress: ContextVar[OnProgress | None] = ContextVar("progress", default=None)


@contextmanager
def report_index_progress(progress: OnProgress) -> Iterator[None]:
    """Within this block, `index_headers` calls ``progress(indexed files, all files)``.

    A dataset's adapter calls `index_headers` and has no progress callback; its caller sets one with
    this context manager.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def walk(root: Path) -> Iterator[Path]:
    """Yield every file below a folder, sorted by path; follow links, and visit each folder once.

    Pipes, sockets and devices are left out, with a warning.

    Raises:
        DataError: ``root`` is not a folder, or a folder below it cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder: correct the path")
    visited = {os.path.realpath(root)}
    waiting = [os.fspath(root)]
    while waiting:  # not `os.walk`, which calls itself for each level
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise DataError(f"{folder}: the folder cannot be listed: {error.strerror}") from None
        below = []
        for entry in listed:
            kind = _kind(entry)
            if kind == "file":
                yield Path(entry.path)
            elif kind == "other":
                _warn_once(f"{entry.path}: {NO_FILE}: it is left out")
            elif (real := os.path.realpath(entry.path)) not in visited:
                visited.add(real)
                below.append(entry.path)
        waiting += reversed(below)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file", "other"]:
    """Return what a path leads to; a broken link counts as a file, which cannot be read."""
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() or not Path(entry).exists() else "other"
    except OSError:  # a loop of links
        return "file"


@functools.cache
def _warn_once(message: str) -> None:
    """Log a warning once, although a folder is listed several times."""
    _log.warning("%s", message)


def index_headers(root: Path, *, files: Sequence[Path] | None = None) -> list[Header]:
    """Return the headers of all DICOM images below a folder, sorted by path.

    Files that are not images are skipped: text and other files, DICOMDIR, segmentations (SEG),
    reports (SR), contours (RTSTRUCT). Images of several frames are left out, with a warning. Of
    several files with one SOPInstanceUID only the first counts.

    Args:
        root: Folder of the images.
        files: Files below ``root``, as `walk` lists them; None to list them here.

    Raises:
        DataError: ``root`` cannot be listed, the header of an image is broken, or there are ZIP
            archives, or files that should be DICOM, and no image.
    """
    paths = list(walk(root)) if files is None else files
    progress = _progress.get() or (lambda _, __: None)
    with HeaderCache(root) as cache:
        prefix = len(os.fspath(root / "x")) - 1
        entries = [CacheEntry.of(path, prefix) for path in paths]
        indexed = cache.load(entries)
        new = [entry for entry in entries if entry.key not in indexed]
        progress(len(indexed), len(entries))
        broken: list[str] = []
        batch: list[tuple[CacheEntry, Header | None]] = []
        for done, (entry, outcome) in enumerate(_read(new), 1):
            if isinstance(outcome, DataError):
                broken.append(str(outcome))
            else:
                indexed[entry.key] = outcome
                batch.append((entry, outcome))
            if len(batch) >= _STORE_BATCH or done == len(new):
                cache.store(batch)
                batch = []
            if done % _BATCH == 0 or done == len(new):
                progress(len(entries) - len(new) + done, len(entries))
        cache.remove_others(entries)
    if broken:
        more = f" (and {len(broken) - 1} more such files)" if len(broken) > 1 else ""
        raise DataError(broken[0] + more)
    headers: dict[str, Header] = {}
    several: list[Header] = []
    for entry in entries:
        header = indexed[entry.key]
        if header is not None and header.frames > 1:
            several.append(header)
        elif header is not None:
            headers.setdefault(header.sop_uid, header)
    if several:
        _warn_once(
            f"{several[0].path}: has {several[0].frames} frames; of {len(entries)} files, "
            f"{len(several)} with several frames are left out: convert each to files of one frame "
            "(for example by emf2sf of dcm4che)"
        )
    if not headers and not several:
        hint = unpack_hint(paths) or _bare_hint(paths)
        if hint:
            raise DataError(f"{root}: no DICOM image below it{hint}")
    return list(headers.values())


def _bare_hint(paths: Sequence[Path]) -> str:
    """Return that files look like DICOM, but begin wrongly, as an end of a message; or ""."""
    for path in paths[:_FEW]:
        try:
            with open_file(path) as file:
                if is_bare(file.read(132)):
                    return f"; {path} {BARE}"
        except OSError:  # reported where it is read
            continue
    return ""


# Reading of headers, in this process or in worker processes

HeaderResult = Header | None | DataError  # None: not an image; an error: the file's fault


def _read(entries: Sequence[CacheEntry]) -> Iterator[tuple[CacheEntry, HeaderResult]]:
    """Yield the outcome for each file, in the given order."""
    workers = min(processors(), _MAX_WORKERS)
    if len(entries) < _MIN_FILES or workers == 1:
        yield from ((entry, _outcome(entry.path)) for entry in entries)
        return
    batches = [entries[at : at + _BATCH] for at in range(0, len(entries), _BATCH)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    started = [Worker() for _ in range(workers)]
    for worker in started:
        idle.put(worker)

    def read(batch: Sequence[CacheEntry]) -> list[HeaderResult]:
        worker = idle.get()
        try:
            return worker.read([entry.path for entry in batch])
        finally:
            idle.put(worker)

    # The threads only wait for the workers' answers.
    pool = ThreadPoolExecutor(workers)
    try:
        for batch, outcomes in zip(batches, pool.map(read, batches), strict=True):
            yield from zip(batch, outcomes, strict=True)
    finally:
        pool.shutdown(cancel_futures=True)
        for worker in started:
            worker.stop()


def _outcome(path: Path) -> HeaderResult:
    try:
        return read_header(path)
    except DataError as error:
        return error


class Worker:
    """A worker process that reads headers; if it fails, the calling process reads them itself."""

    def __init__(self) -> None:
        self._process = start_worker("hydrakit.data.dicom.index")

    def read(self, paths: Sequence[Path]) -> list[HeaderResult]:
        """Return the outcome for each file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            request = json.dumps([str(path) for path in paths])
            self._process.stdin.write(request.encode() + b"\n")
            self._process.stdin.flush()
            answer: list[tuple[bool, str]] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):  # the worker could not start, or was killed
            return [_outcome(path) for path in paths]
        return [
            DataError(text) if broken else from_json(path, text)
            for path, (broken, text) in zip(paths, answer, strict=True)
        ]

    def stop(self) -> None:
        """End the worker process."""
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """Worker loop: for each line of paths on stdin, print a line with their outcomes."""
    for line in sys.stdin:
        answer = []
        for path in json.loads(line):
            outcome = _outcome(Path(path))
            if isinstance(outcome, DataError):
                answer.append((True, str(outcome)))
            else:
                answer.append((False, to_json(outcome)))
        print(json.dumps(answer), flush=True)
