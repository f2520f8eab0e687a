"""The headers of all DICOM images below a folder, read once and kept.

Headers are read by worker processes (pydicom's switches are process-wide, and its work is done in
Python), and kept in a `HeaderCache`: the next look reads only files that are new or changed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from queue import SimpleQueue

from hydrakit.data.dicom.cache import CacheEntry, HeaderCache, from_json, to_json
from hydrakit.data.dicom.decode import start_worker
from hydrakit.data.dicom.header import Header, read_header
from hydrakit.errors import DataError

# A worker takes a third of a second to start, in which this process reads some 300 headers.
_SMALL = 1000  # files: below this, no workers
_BATCH = 100  # files that a worker is given at once
_MOST_WORKERS = 16
_KEPT_AT_ONCE = 2000  # headers: so many are lost at most where an index is interrupted

OnProgress = Callable[[int, int], None]
_progress: ContextVar[OnProgress | None] = ContextVar("progress", default=None)


@contextmanager
def watching_index(progress: OnProgress) -> Iterator[None]:
    """Within this block, `index_headers` calls ``progress(files known, files in all)``.

    A dataset's adapter calls `index_headers`, but does not know who watches; who reads a dataset
    sets this around the reading.
    """
    token = _progress.set(progress)
    try:
        yield
    finally:
        _progress.reset(token)


def walk(root: Path) -> Iterator[Path]:
    """Every file below a folder in the order of its path, through links, each folder once.

    Raises:
        DataError: ``root`` is no folder, or one below it cannot be listed.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder")

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: the folder cannot be listed: {error.strerror}")

    seen = {os.path.realpath(root)}
    for folder, folders, files in os.walk(root, followlinks=True, onerror=fail):
        fresh = []
        for name in sorted(folders):
            real = os.path.realpath(Path(folder, name))
            if real not in seen:
                seen.add(real)
                fresh.append(name)
        folders[:] = fresh
        yield from (Path(folder, name) for name in sorted(files))


def index_headers(root: Path, *, files: Sequence[Path] | None = None) -> list[Header]:
    """The headers of all DICOM images below a folder, in the order of their paths.

    What is no image is passed over: text and other files, DICOMDIR, segmentations (SEG), reports
    (SR), contours (RTSTRUCT). Of several files with one SOPInstanceUID the first is kept.

    Args:
        root: The folder.
        files: What `walk` gave for it, where that is known.

    Raises:
        DataError: ``root`` cannot be listed, or the header of an image is broken.
    """
    paths = list(walk(root)) if files is None else files
    progress = _progress.get() or (lambda _, __: None)
    with HeaderCache(root) as cache:
        prefix = len(os.fspath(root / "x")) - 1
        entries = [CacheEntry.of(path, prefix) for path in paths]
        found = cache.known(entries)
        new = [entry for entry in entries if entry.key not in found]
        progress(len(found), len(entries))
        broken: list[str] = []
        batch: list[tuple[CacheEntry, Header | None]] = []
        for done, (entry, outcome) in enumerate(_read(new), 1):
            if isinstance(outcome, DataError):
                broken.append(str(outcome))
            else:
                found[entry.key] = outcome
                batch.append((entry, outcome))
            if len(batch) >= _KEPT_AT_ONCE or done == len(new):
                cache.keep(batch)
                batch = []
            if done % _BATCH == 0 or done == len(new):
                progress(len(entries) - len(new) + done, len(entries))
        cache.forget_others(entries)
    if broken:
        more = f" (and {len(broken) - 1} more such files)" if len(broken) > 1 else ""
        raise DataError(broken[0] + more)
    headers: dict[str, Header] = {}
    for entry in entries:
        header = found[entry.key]
        if header is not None:
            headers.setdefault(header.sop_uid, header)
    return list(headers.values())


# Reading, here or in worker processes

HeaderResult = Header | None | DataError  # None: no image; an error: what is wrong with the file


def _read(entries: Sequence[CacheEntry]) -> Iterator[tuple[CacheEntry, HeaderResult]]:
    """The outcome for each file, in the order given."""
    workers = min(_cores(), _MOST_WORKERS)
    if len(entries) < _SMALL or workers == 1:
        yield from ((entry, _outcome(entry.path)) for entry in entries)
        return
    batches = [entries[at : at + _BATCH] for at in range(0, len(entries), _BATCH)]
    idle: SimpleQueue[Worker] = SimpleQueue()
    crew = [Worker() for _ in range(workers)]
    for worker in crew:
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
        for worker in crew:
            worker.stop()


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _outcome(path: Path) -> HeaderResult:
    try:
        return read_header(path)
    except DataError as error:
        return error


class Worker:
    """A process that reads headers; where it fails, this process reads them itself."""

    def __init__(self) -> None:
        self._process = start_worker("hydrakit.data.dicom.index")

    def read(self, paths: Sequence[Path]) -> list[HeaderResult]:
        """The outcome for each file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            question = json.dumps([str(path) for path in paths])
            self._process.stdin.write(question.encode() + b"\n")
            self._process.stdin.flush()
            answer: list[tuple[bool, str]] = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):  # it could not start, or has been killed
            return [_outcome(path) for path in paths]
        return [
            DataError(text) if broken else from_json(path, text)
            for path, (broken, text) in zip(paths, answer, strict=True)
        ]

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


def serve() -> None:
    """What a worker does: for each line of paths on standard input, a line of outcomes."""
    for line in sys.stdin:
        answer = []
        for path in json.loads(line):
            outcome = _outcome(Path(path))
            if isinstance(outcome, DataError):
                answer.append((True, str(outcome)))
            else:
                answer.append((False, to_json(outcome)))
        print(json.dumps(answer), flush=True)
