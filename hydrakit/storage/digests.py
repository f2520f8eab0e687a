"""Digests of a folder's files (``files.json``), by which changed files are detected and refused.

A process computes the digest of a file once, and again if its size or time changes. Folders of
older versions have no digests: their files are not checked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, StringConstraints, ValidationError

from hydrakit.errors import PlanError
from hydrakit.schema import Frozen, first_fault
from hydrakit.storage.files import MAX_WEIGHTS, open_regular, read_json, reason, write_atomic
from hydrakit.storage.records import refuse_later
from hydrakit.version import version

FILE = "files.json"

RelativePath = Annotated[str, StringConstraints(pattern=r"^([0-9A-Za-z_-][0-9A-Za-z_.-]*/?)+$")]
"""A path within a folder, without parts that begin with a dot."""


class FileDigest(Frozen):
    """A file's SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: Annotated[NonNegativeInt, Field(le=MAX_WEIGHTS)]


class Digests(Frozen):
    """Content of ``files.json``.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        plan: SHA-256 of the ``plan.json`` that a round was trained with; None in other folders.
        files: Digests by path within the folder, with ``/`` as separator.
        own: SHA-256 of all values above.
    """

    format: Literal[1] = 1
    hydrakit: str
    plan: str | None = None
    files: dict[RelativePath, FileDigest]
    own: str = ""

    def with_own_digest(self) -> Digests:
        """A copy with the digest of its own values."""
        text = self.model_dump_json(exclude={"own"})
        return self.model_copy(update={"own": hashlib.sha256(text.encode()).hexdigest()})


def write_digests(folder: Path, names: Iterable[str], *, plan: str | None = None) -> None:
    """Compute and write the digests of files in a folder.

    Args:
        folder: Folder of the files.
        names: Paths of the files within the folder.
        plan: Digest of the plan, as in `Digests`.

    Raises:
        OSError: A file cannot be read, or the list cannot be written.
    """
    files = {name: digest_of(folder / name) for name in sorted(names)}
    _write(folder, Digests(hydrakit=version(), plan=plan, files=files))


def update_digests(
    folder: Path, *, renewed: Iterable[str] = (), without: Iterable[str] = (), **changes: str | None
) -> None:
    """Compute the digests of changed files and remove those of deleted files.

    Args:
        folder: Folder of the files; nothing is done if it has no digests.
        renewed: Files whose digests are computed again, or added.
        without: Files whose digests are removed.
        changes: New values of other attributes of `Digests`.

    Raises:
        PlanError: ``files.json`` is broken.
        OSError: A file cannot be read, or ``files.json`` cannot be written.
    """
    digests = read_digests(folder)
    if digests is None:
        return
    deleted = set(without)
    files = {name: digest for name, digest in digests.files.items() if name not in deleted}
    files |= {name: digest_of(folder / name) for name in renewed}
    ordered = {name: files[name] for name in sorted(files)}
    _write(folder, digests.model_copy(update={"files": ordered, **changes}))


def read_digests(folder: Path) -> Digests | None:
    """Read the digests of a folder; None if it has none.

    Raises:
        PlanError: ``files.json`` is broken.
    """
    path = folder / FILE
    try:
        digests = _digests_in(path, read_json(path))
        if digests is not None:
            return digests
        fault = "it was changed since it was written"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        fault = first_fault(error)
    except (OSError, ValueError) as error:
        fault = reason(error)
    raise PlanError(
        f"{path}: cannot be used ({fault}): restore it from a copy, or delete it to use the "
        "files of its folder unchecked"
    )


@lru_cache(maxsize=64)  # of a folder whose files are read one after another
def _digests_in(path: Path, content: bytes) -> Digests | None:
    """The digests in the content of a ``files.json``; None if it was changed."""
    refuse_later(path, content)
    digests = Digests.model_validate_json(content)
    return digests if digests == digests.with_own_digest() else None


def digest_of(path: Path) -> FileDigest:
    """Compute the digest of a file.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file, or larger than any file of hydrakit.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > MAX_WEIGHTS:
            raise ValueError(f"it has {size} bytes, and {MAX_WEIGHTS} are allowed")
        digest = hashlib.sha256()
        while part := file.read(2**20):
            digest.update(part)
        return FileDigest(sha256=digest.hexdigest(), size=file.tell())


def damaged_files(folder: Path) -> Iterator[tuple[str, str]]:
    """Find the files of a folder that were changed or are missing.

    Yields:
        Path within the folder, and a description of the fault.

    Raises:
        PlanError: ``files.json`` is broken.
    """
    digests = read_digests(folder)
    for name, digest in digests.files.items() if digests else ():
        fault = _fault(folder / name, digest)
        if fault is not None:
            yield name, fault


def cached_digest(path: Path) -> FileDigest:
    """Like `digest_of`, but computed once as long as the file's size and time stay the same.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is no regular file.
    """
    status = path.stat()
    return _digest_by_status(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=10_000)
def _digest_by_status(path: Path, size: int, mtime_ns: int, inode: int) -> FileDigest:
    return digest_of(path)


def forget_digests() -> None:
    """Clear the digests that `cached_digest` stores."""
    _digest_by_status.cache_clear()


def check_file(folder: Path, name: str, *, remedy: Callable[[], str]) -> Path:
    """The path of a file in a folder, after comparing the file with its digest, if it has one.

    A missing file is no error here, but for the code that opens it.

    Args:
        folder: Folder of the file.
        name: Path of the file within the folder.
        remedy: Returns what the user can do if the file was changed.

    Raises:
        PlanError: The file was changed, or it or ``files.json`` cannot be read.
    """
    path, digests = folder / name, read_digests(folder)
    digest = digests.files.get(name) if digests else None
    fault = _fault(path, digest) if digest and path.exists() else None
    if fault is not None:
        raise PlanError(f"{path}: {fault}: {remedy()}")
    return path


def _fault(path: Path, expected: FileDigest) -> str | None:
    """Describe how a file differs from its digest; None if it does not."""
    try:
        size = path.stat().st_size
        # Such a file is not read: it may be endless.
        if path.is_file() and size != expected.size:
            return f"was changed since it was written (has {size} bytes, had {expected.size})"
        digest = cached_digest(path)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({reason(error)})"
    if digest.sha256 != expected.sha256:
        return "was changed since it was written (its SHA-256 differs)"
    return None


def _write(folder: Path, digests: Digests) -> None:
    text = digests.with_own_digest().model_dump_json(indent=1) + "\n"
    write_atomic(folder / FILE, text.encode())
