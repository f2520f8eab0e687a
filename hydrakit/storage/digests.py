"""What a folder's files were when they were written (``files.json``): a changed one is not used.

A file is looked at once by a process, and again where its size or time is another. Folders of older
versions have no such list: their files are taken as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import NonNegativeInt, StringConstraints, ValidationError

from hydrakit.errors import PlanError
from hydrakit.schema import Frozen, first_fault
from hydrakit.storage.files import open_regular, read_json, reason, write_atomic
from hydrakit.storage.records import refuse_later
from hydrakit.version import version

FILE = "files.json"


Inside = Annotated[str, StringConstraints(pattern=r"^([0-9A-Za-z_-][0-9A-Za-z_.-]*/?)+$")]
"""A path within a folder: no part of it begins with a dot."""


class FileDigest(Frozen):
    """A file's SHA-256 in hexadecimal, and its size in bytes."""

    sha256: str
    size: NonNegativeInt


class Digests(Frozen):
    """What ``files.json`` holds.

    Attributes:
        format: Version of this format.
        hydrakit: Version that wrote it.
        plan: SHA-256 of the run's ``plan.json``, of a round that was trained by it; None elsewhere.
        files: By path within the folder, parts joined by ``/``.
        own: SHA-256 of all the above.
    """

    format: Literal[1] = 1
    hydrakit: str
    plan: str | None = None
    files: dict[Inside, FileDigest]
    own: str = ""

    def sealed(self) -> Digests:
        """The same with its own digest."""
        text = self.model_dump_json(exclude={"own"})
        return self.model_copy(update={"own": hashlib.sha256(text.encode()).hexdigest()})


def write_digests(folder: Path, names: Iterable[str], *, plan: str | None = None) -> None:
    """Write down what files of a folder are now.

    Args:
        folder: Their folder.
        names: Of the files, within the folder.
        plan: As in `Digests`.

    Raises:
        OSError: A file cannot be read, or the list cannot be written.
    """
    files = {name: digest_of(folder / name) for name in sorted(names)}
    _write(folder, Digests(hydrakit=version(), plan=plan, files=files))


def update_digests(
    folder: Path, *, renewed: Iterable[str] = (), without: Iterable[str] = (), **changes: str | None
) -> None:
    """Tell of files that were written anew or are gone; of the others stays what it was.

    Args:
        folder: Where nothing is done if it has no digests.
        renewed: Files that are now as they should be.
        without: Files of which nothing is told any more.
        changes: Of other attributes of `Digests`.

    Raises:
        PlanError: The list is broken.
        OSError: A file cannot be read, or the list cannot be written.
    """
    before = read_digests(folder)
    if before is None:
        return
    gone = set(without)
    files = {name: digest for name, digest in before.files.items() if name not in gone}
    files |= {name: digest_of(folder / name) for name in renewed}
    ordered = {name: files[name] for name in sorted(files)}
    _write(folder, before.model_copy(update={"files": ordered, **changes}))


def read_digests(folder: Path) -> Digests | None:
    """The digests of a folder; None where it has none.

    Raises:
        PlanError: The list is broken.
    """
    path = folder / FILE
    try:
        content = read_json(path)
        refuse_later(path, content)
        found = Digests.model_validate_json(content)
        if found == found.sealed():
            return found
        wrong = "it was changed since it was written"
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValidationError as error:
        wrong = first_fault(error)
    except (OSError, ValueError) as error:
        wrong = reason(error)
    raise PlanError(
        f"{path}: cannot be used ({wrong}): restore it from a copy, or delete it to use the "
        "files beside it as they are"
    )


def digest_of(path: Path) -> FileDigest:
    """Of a file as it is now.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file.
    """
    with open_regular(path) as file:
        found = hashlib.sha256()
        while part := file.read(2**20):
            found.update(part)
        return FileDigest(sha256=found.hexdigest(), size=file.tell())


def damaged_files(folder: Path) -> Iterator[tuple[str, str]]:
    """The files of a folder that are not as they were written, each with what is wrong with it.

    Raises:
        PlanError: The list of digests is broken.
    """
    digests = read_digests(folder)
    for name, written in digests.files.items() if digests else ():
        wrong = _fault(folder / name, written)
        if wrong is not None:
            yield name, wrong


def known_digest(path: Path) -> FileDigest:
    """As `digest_of`, which looks at a file once as long as it stays as it is.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no regular file.
    """
    status = path.stat()
    return _looked_at(path.absolute(), status.st_size, status.st_mtime_ns, status.st_ino)


@lru_cache(maxsize=10_000)
def _looked_at(path: Path, size: int, mtime_ns: int, inode: int) -> FileDigest:
    return digest_of(path)


def look_again() -> None:
    """Forget what files were found to be."""
    _looked_at.cache_clear()


def check_file(folder: Path, name: str, *, remedy: str) -> Path:
    """The path of a file in a folder, which is as it was written if the folder tells of it.

    Whether it is there at all is left to whoever opens it.

    Args:
        folder: Its folder.
        name: Within the folder.
        remedy: What to do if it is not.

    Raises:
        PlanError: It is not, or it or the list of digests cannot be read.
    """
    path, digests = folder / name, read_digests(folder)
    written = digests.files.get(name) if digests else None
    wrong = _fault(path, written) if written and path.exists() else None
    if wrong is not None:
        raise PlanError(f"{path}: {wrong}: {remedy}")
    return path


def _fault(path: Path, written: FileDigest) -> str | None:
    """What is wrong with a file that is not as it was written."""
    try:
        found = known_digest(path)
    except FileNotFoundError:
        return "is missing"
    except (OSError, ValueError) as error:
        return f"cannot be read ({reason(error)})"
    if found.size != written.size:
        return f"was changed since it was written (has {found.size} bytes, had {written.size})"
    if found.sha256 != written.sha256:
        return "was changed since it was written (its SHA-256 is another)"
    return None


def _write(folder: Path, digests: Digests) -> None:
    text = digests.sealed().model_dump_json(indent=1) + "\n"
    write_atomic(folder / FILE, text.encode())
