"""Reading and writing records: JSON files and JSON lines that a pydantic model describes.

One place turns what can go wrong with a file into a line for the user (`readable`, `writable`), and
refuses files that a later version wrote (`refuse_later`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.schema import first_fault
from hydrakit.storage.files import MAX_FILE, MAX_VALUES, read_json, read_whole, reason, write_atomic
from hydrakit.version import version

FORMAT = 1
"""Latest format number of the JSON files that have a ``format``."""

MAX_LINE = 2000  # bytes of a record in a file of JSON lines; an epoch needs 700

VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")

RecordType = TypeVar("RecordType", bound=BaseModel)
Value = TypeVar("Value")


@contextmanager
def readable(path: Path, remedy: str, *, error: type[HydrakitError] = PlanError) -> Iterator[None]:
    """Turn a failure to read a file, in a ``with`` block, into one line for the user.

    Args:
        path: The file.
        remedy: What the user can do.
        error: Type of the error that is raised.

    Raises:
        HydrakitError: The block raised OSError or ValueError (pydantic's, json's and csv's errors,
            and those for a file that is too large).
    """
    try:
        yield
    except (OSError, ValueError) as failure:
        why = first_fault(failure) if isinstance(failure, ValidationError) else reason(failure)
        raise error(f"{path}: cannot be read ({why}): {remedy}") from None


@contextmanager
def writable(path: Path, remedy: str, *, error: type[HydrakitError] = PlanError) -> Iterator[None]:
    """Turn a failure to write a file or folder, in a ``with`` block, into one line for the user.

    Raises:
        HydrakitError: The block raised OSError.
    """
    try:
        yield
    except OSError as failure:
        why = failure.strerror or failure
        raise error(f"{path}: cannot be written ({why}): {remedy}") from None


def read_record(
    path: Path,
    model: type[RecordType],
    *,
    remedy: str,
    most: int = MAX_FILE,
    values: int = MAX_VALUES,
) -> RecordType:
    """Read a record from a JSON file.

    Args:
        path: The file.
        model: Type of the record.
        remedy: What the user can do if the file cannot be read.
        most: Largest size in bytes.
        values: Largest number of values.

    Raises:
        PlanError: The file is absent, broken, too large, or of a later version.
    """
    with readable(path, remedy):
        content = read_json(path, most=most, values=values)
        refuse_later(path, content)
        return model.model_validate_json(content)


def read_value(path: Path, adapter: TypeAdapter[Value], *, remedy: str) -> Value:
    """Read a value that is no record of its own, such as a table of records by name.

    Raises:
        PlanError: As `read_record`.
    """
    with readable(path, remedy):
        return adapter.validate_json(read_json(path))


def read_lines(
    path: Path,
    model: type[RecordType],
    *,
    remedy: str,
    most: int = MAX_FILE,
    lines: int | None = None,
) -> list[RecordType]:
    """Read records from a file of JSON lines.

    Args:
        path: The file.
        model: Type of the records.
        remedy: What the user can do if the file cannot be read.
        most: Largest size in bytes.
        lines: Largest number of lines, of `MAX_LINE` bytes on average; None for no limit.

    Raises:
        PlanError: The file is absent, broken or too large.
    """
    with readable(path, remedy):
        content = read_whole(path, most=most if lines is None else min(most, lines * MAX_LINE))
        if lines is not None and content.count(b"\n") > lines:
            raise ValueError(f"it has more than {lines} lines")
        return [model.model_validate_json(line) for line in content.splitlines()]


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomic(path, record.model_dump_json(indent=2).encode())


def write_lines(path: Path, records: Sequence[BaseModel]) -> None:
    """Write records as JSON lines, whole or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomic(path, "".join(f"{record.model_dump_json()}\n" for record in records).encode())


def refuse_later(
    path: Path, content: bytes | str, *, error: type[HydrakitError] = PlanError
) -> None:
    """Raise if a file states a format that this version does not know.

    Whether the file is valid otherwise is for its reader to say. A plan does not name the version
    that wrote it; for a plan in a run's folder, the run's ``environment.json`` does.

    Args:
        path: The file.
        content: JSON, perhaps broken.
        error: Type of the error that is raised.
    """
    stated = _object(content)
    number = stated.get("format")
    if not isinstance(number, int) or number <= FORMAT:
        return
    writer = stated.get("hydrakit")
    if writer is None:
        with suppress(OSError, ValueError):  # then nobody knows the version
            writer = _object(read_json(path.with_name("environment.json"))).get("hydrakit")
    known = isinstance(writer, str) and VERSION.fullmatch(writer)
    who = f"hydrakit {writer}" if known else "a later hydrakit"
    use = "use that version" if known else "use the version that wrote it"
    raise error(
        f"{path}: was written by {who} in format {number}, and this is hydrakit "
        f"{version()}, which reads format {FORMAT}: {use}"
    )


def _object(content: bytes | str) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # its reader says what is wrong
        return {}
    return value if isinstance(value, dict) else {}
