"""Downloading of series from the store of the Imaging Data Commons with s5cmd.

A series lies in ``PATIENT/SERIES_UID/`` of the dataset's folder. Each file is downloaded under a
name that ends in ``.part``, checked by size and digest, and renamed: what bears its final name is
whole. s5cmd itself retries, and downloads many files at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hydrakit.errors import DataError, PlanError, command_line, one_line
from hydrakit.sources import IndexedSeries
from hydrakit.storage.files import patiently

ENDPOINT = "https://s3.amazonaws.com"
ENDPOINT_VARIABLE = "S3_ENDPOINT_URL"  # s5cmd's own; for a mirror
RETRIES = 5  # of s5cmd, for each request
MAX_FAILURES = 20  # one after the other, without a success between them: then it gives up
PART = ".part"

_LEFT_BEHIND = re.compile(r"\.part[0-9]*")  # s5cmd appends digits while it writes
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # it becomes a path, and an argument of a command
_MD5 = re.compile(r"[0-9a-f]{32}")  # an ETag of another form is no digest of the content
_NO_CONNECTION = re.compile(
    "no such host|connection refused|connection reset|network is unreachable|no route to host|"
    "timeout|TLS handshake|proxyconnect|x509|server misbehaving|name resolution"
)
_NO_ROOM = re.compile("no space left|quota exceeded|not enough space|file too large")

OnBytes = Callable[[int], None]


@dataclass(frozen=True)
class StoredFile:
    """A file in the store.

    Attributes:
        url: Its address, ``s3://BUCKET/FOLDER/NAME``.
        size: Its size in bytes.
        md5: MD5 of its content in hexadecimal; None if the store does not state it.
        path: Where it belongs, relative to the dataset's folder.
    """

    url: str
    size: int
    md5: str | None
    path: Path

    def fault(self, path: Path) -> str | None:
        """What is wrong with a downloaded file, or None."""
        size = path.stat().st_size
        if size != self.size:
            return f"has {size:,} bytes instead of {self.size:,}"
        if self.md5 is None:
            return None
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return None if digest.hexdigest() == self.md5 else "has not the digest of the store"


def folder_of(series: IndexedSeries) -> Path:
    """The folder of a series, relative to the dataset's."""
    patient = re.sub(r"[^A-Za-z0-9._=-]", "_", series.patient)
    return Path("_" if patient.strip(".") == "" else patient, series.series_uid)


def missing_series(series: Sequence[IndexedSeries], folder: Path) -> list[IndexedSeries]:
    """The series that are not complete below a folder, by number and sizes of their files.

    A series is recognised in any folder whose name is its UID, or ends in ``_`` and its UID, as
    those of the client of the Imaging Data Commons do.
    """
    wanted = {each.series_uid: each for each in series}
    complete = set()
    for place, _, names in os.walk(folder):
        path = Path(place)
        uid = path.name.rpartition("_")[2]
        if uid in wanted:
            files = [name for name in names if not _LEFT_BEHIND.search(name)]
            sizes = [(path / name).stat().st_size for name in files]
            if (len(sizes), sum(sizes)) == (wanted[uid].images, wanted[uid].size):
                complete.add(uid)
    return [each for each in series if each.series_uid not in complete]


def manifest(series: Iterable[IndexedSeries], command: str) -> str:
    """A manifest for s5cmd, which `idc download-from-manifest` reads too.

    Files that are there in their size are not downloaded again.

    Args:
        series: The series to download.
        command: The command that reads it.
    """
    lines = [f"# Run this in the folder of the dataset, on a machine with a network: {command}"]
    lines += [f"cp --if-size-differ {each.url} {folder_of(each).as_posix()}/" for each in series]
    return "\n".join(lines) + "\n"


def manifest_command(file: Path) -> str:
    """The command that downloads what a manifest lists, into the current folder."""
    return command_line("s5cmd", "--no-sign-request", "--endpoint-url", endpoint(), "run", file)


def endpoint() -> str:
    """Address of the store."""
    return os.environ.get(ENDPOINT_VARIABLE) or ENDPOINT


def download(series: Sequence[IndexedSeries], folder: Path, progress: OnBytes) -> None:
    """Download series; files that are there already are checked, and not downloaded again.

    Args:
        series: The series.
        folder: Folder of the dataset, which is created if needed.
        progress: Called with the bytes of each file that is there.

    Raises:
        DataError: s5cmd is not installed, the store cannot be reached, a file could not be
            downloaded or differs from the store's, or the disk is full. Whole files stay.
        OSError: The folder cannot be written.
    """
    failures: list[str] = []
    waiting: dict[str, StoredFile] = {}
    listed = _list(series, folder, failures)
    folder.mkdir(parents=True, exist_ok=True)
    for file in listed:
        path, part = folder / file.path, folder / f"{file.path}{PART}"
        if path.is_file() and file.fault(path) is None:
            progress(file.size)
        elif part.is_file() and file.fault(part) is None:  # of a process that was stopped
            part.replace(path)
            progress(file.size)
        else:
            waiting[file.url] = file
    for place in {(folder / file.path).parent for file in waiting.values()}:
        for path in place.iterdir() if place.is_dir() else ():
            if _LEFT_BEHIND.search(path.name):
                path.unlink()
    commands = [
        f"cp {shlex.quote(file.url)} {shlex.quote(f'{file.path.as_posix()}{PART}')}"
        for file in waiting.values()
    ]
    with closing(_answers(commands, folder, failures)) as answers:
        for answer in answers:
            file = waiting[answer["source"]]
            part = folder / f"{file.path}{PART}"
            fault = file.fault(part)
            if fault is None:
                patiently(partial(part.replace, folder / file.path))
                progress(file.size)
            else:
                part.unlink()
                failures.append(f"{file.url}: what was downloaded {fault}")
    if failures:
        raise _error(failures, folder)


def _list(series: Sequence[IndexedSeries], folder: Path, failures: list[str]) -> list[StoredFile]:
    """The files of series, as the store lists them; another size than the index's is a failure."""
    places = {each.url.removesuffix("*"): each for each in series}
    listed: dict[str, list[StoredFile]] = {place: [] for place in places}
    commands = [f"ls --etag {shlex.quote(each.url)}" for each in series]
    with closing(_answers(commands, folder, failures, inside=False)) as answers:
        for answer in answers:
            url, etag = answer["key"], answer.get("etag", "")
            place, slash, name = url.rpartition("/")
            each = places.get(f"{place}{slash}")
            if each is None or not name:
                continue
            if not _NAME.fullmatch(name):
                failures.append(f"{url!r}: its name is not that of an image")
            else:
                md5 = etag if _MD5.fullmatch(etag) else None
                file = StoredFile(url, answer["size"], md5, folder_of(each) / name)
                listed[f"{place}{slash}"].append(file)
    if failures and not any(listed.values()):
        raise _error(failures, folder)
    for place, files in listed.items():
        each, size = places[place], sum(file.size for file in files)
        if files and (len(files), size) != (each.images, each.size):
            failures.append(
                f"{each.url}: the store lists {len(files)} files of {size:,} bytes, the index "
                f"{each.images} of {each.size:,}"
            )
    return [file for files in listed.values() for file in files]


def _answers(
    commands: Sequence[str], folder: Path, failures: list[str], *, inside: bool = True
) -> Generator[dict[str, Any]]:
    """Run commands of s5cmd; yield its answers, and add its errors to ``failures``.

    Args:
        commands: The commands.
        folder: Folder of the dataset.
        failures: List to which errors are added.
        inside: Whether the commands have paths relative to the folder.
    """
    if not commands:
        return
    program = [_program(), "--no-sign-request", "--endpoint-url", endpoint(), "--json"]
    with tempfile.TemporaryFile() as file:
        file.write("".join(f"{each}\n" for each in commands).encode())
        file.seek(0)
        process = subprocess.Popen(
            [*program, "--retry-count", str(RETRIES), "run"],
            cwd=folder if inside else None,
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    assert process.stdout is not None
    in_a_row, remark = 0, ""
    try:
        with closing(process.stdout):
            for line in process.stdout:
                answer = _parse(line)
                if "error" not in answer:
                    in_a_row = 0
                    yield answer
                    continue
                if "command" not in answer:  # not about a file, which may succeed all the same
                    remark = f": {one_line(answer['error'], 200)}"
                    continue
                in_a_row += 1
                failures.append(f"{answer['command']}: {answer['error']}")
                if _NO_ROOM.search(answer["error"]) or in_a_row >= MAX_FAILURES:
                    raise _error(failures, folder)
            status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()  # it removes what it is writing
            process.wait()
    if status and not failures:
        raise DataError(f"s5cmd ended with status {status}{remark}: run the same command again")


def _parse(line: str) -> dict[str, Any]:
    """An answer of s5cmd; a line that is none is an error."""
    try:
        answer = json.loads(line)
    except ValueError:
        return {"error": one_line(line, 200)}
    return answer if isinstance(answer, dict) else {"error": one_line(line, 200)}


def _error(failures: Sequence[str], folder: Path) -> DataError:
    """The error for failures, of which the first counts."""
    again = "the same command goes on, and fetches only what is missing"
    if any(_NO_ROOM.search(each) for each in failures):
        return DataError(f"{folder}: the disk is full: make room; {again}")
    lost = next((each for each in failures if _NO_CONNECTION.search(each)), None)
    if lost is not None:
        reason = one_line(lost.rpartition(": ")[2])
        return DataError(
            f"no connection to {endpoint()} ({reason}): check the network ($HTTPS_PROXY names a "
            "proxy), or take a manifest to a machine that has one (--manifest FILE); "
            f"{again}"
        )
    more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
    return DataError(f"not everything was fetched: {one_line(failures[0], 300)}{more}; {again}")


def _program() -> str:
    """Path of s5cmd: that of its package, which is found also where PATH lacks its folder."""
    from importlib.metadata import PackageNotFoundError, distribution

    from hydrakit.data.fetch.idc import INSTALL

    try:
        files = distribution("s5cmd").files or ()
    except PackageNotFoundError:
        files = ()
    for file in files:
        if str(file).replace("\\", "/").startswith("s5cmd/bin/s5cmd"):
            return str(file.locate())
    raise PlanError(f"s5cmd, which downloads the files, is not installed: {INSTALL}")
