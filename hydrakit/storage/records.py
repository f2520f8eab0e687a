"""Reading and writing records: JSON files and JSON lines with a pydantic model.

`readable` and `writable` turn errors of files into one line for the user; `refuse_later` refuses
files that a later version wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.schema import first_fault
from hydrakit.storage.files import MAX_FILE, MAX_VALUES, read_json, read_whole, reason, write_atomic
from hydrakit.version import version

FORMAT = 1
"""Latest known value of ``format`` in JSON files."""

MAX_LINE = 2000  # mean bytes of a record in JSON lines; an epoch needs 700

VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")

RecordType = TypeVar("RecordType", bound=BaseModel)
Value = TypeVar("Value")


@contextmanager
def readable(path: Path, remedy: str, *, error: type[HydrakitError] = PlanError) -> Iterator[None]:
    """Turn an error of reading a file in a ``with`` block into one line for the user.

    Args:
        path: Path of the file.
        remedy: What the user can do.
        error: Type of the error to raise.

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
    """Turn an error of writing a file or folder in a ``with`` block into one line for the user.

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
    max_bytes: int = MAX_FILE,
    values: int = MAX_VALUES,
    latest: int = FORMAT,
) -> RecordType:
    """Read a record from a JSON file.

    Args:
        path: Path of the file.
        model: Type of the record.
        remedy: What the user can do if the file cannot be read.
        max_bytes: Largest size in bytes.
        values: Largest number of values.
        latest: Latest format of the file that this version reads.

    Raises:
        PlanError: The file is absent, broken, too large, or of a later version.
    """
    with readable(path, remedy):
        content = read_json(path, max_bytes=max_bytes, values=values)
        refuse_later(path, content, latest=latest)
        return model.model_validate_json(content)


def read_value(path: Path, adapter: TypeAdapter[Value], *, remedy: str) -> Value:
    """Read a value other than a record, such as a dictionary of records.

    Raises:
        PlanError: The file is absent, broken, too large, or of a later version.
    """
    with readable(path, remedy):
        content = read_json(path)
        refuse_later(path, content)
        return adapter.validate_json(content)


def read_lines(
    path: Path,
    model: type[RecordType],
    *,
    remedy: str,
    max_bytes: int = MAX_FILE,
    lines: int | None = None,
) -> list[RecordType]:
    """Read records from a file of JSON lines.

    Args:
        path: Path of the file.
        model: Type of the records.
        remedy: What the user can do if the file cannot be read.
        max_bytes: Largest size in bytes.
        lines: Largest number of lines, of `MAX_LINE` bytes on average; None for no limit.

    Raises:
        PlanError: The file is absent, broken, too large, or of a later version.
    """
    with readable(path, remedy):
        if lines is not None:
            max_bytes = min(max_bytes, lines * MAX_LINE)
        content = read_whole(path, max_bytes=max_bytes)
        if lines is not None and content.count(b"\n") > lines:
            raise ValueError(f"it has more than {lines} lines")
        return [_read_line(path, line, model) for line in content.splitlines()]


def read_appended(path: Path, model: type[RecordType], *, remedy: str) -> list[RecordType]:
    """Read records that `append_line` wrote, without lines that a killed process left incomplete.

    Args:
        path: Path of the file.
        model: Type of the records.
        remedy: What the user can do if the file cannot be read.

    Raises:
        PlanError: The file is absent, too large, of a later version, or a line is no record.
    """
    with readable(path, remedy):
        lines = read_json(path).split(b"\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records += [_read_line(path, line, model)] if line.strip() else []
        except ValidationError as error:
            if not _is_incomplete(line):
                raise PlanError(
                    f"{path}: line {number} cannot be read ({first_fault(error)}): {remedy}, or "
                    "remove the line"
                ) from None
    return records


def _read_line(path: Path, line: bytes, model: type[RecordType]) -> RecordType:
    try:
        return model.model_validate_json(line)
    except ValidationError:
        refuse_later(path, line)
        raise


def _is_incomplete(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON value, without its end."""
    try:
        from_json(line)
    except ValueError as error:
        return str(error).startswith("EOF while parsing")
    return False


def write_record(path: Path, record: BaseModel) -> None:
    """Write a record as indented JSON, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomic(path, record.model_dump_json(indent=2).encode())


def write_lines(path: Path, records: Sequence[BaseModel]) -> None:
    """Write records as JSON lines, completely or not at all.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomic(path, "".join(f"{record.model_dump_json()}\n" for record in records).encode())


def refuse_later(
    path: Path,
    content: bytes | str,
    *,
    error: type[HydrakitError] = PlanError,
    latest: int = FORMAT,
) -> None:
    """Refuse a file with a later ``format`` than this version knows.

    Other faults of the file are left to its reader. A plan does not name the version that wrote it;
    for a plan in the folder of a run, it is read from ``environment.json``.

    Args:
        path: Path of the file.
        content: Content of the file, which may be invalid JSON.
        error: Type of the error to raise.
        latest: Latest format that this version reads.
    """
    stated = _object(content)
    number = stated.get("format")
    if not isinstance(number, int) or number <= latest:
        return
    writer = stated.get("hydrakit")
    if writer is None:
        with suppress(OSError, ValueError):  # then the version is unknown
            writer = _object(read_json(path.with_name("environment.json"))).get("hydrakit")
    known = isinstance(writer, str) and VERSION.fullmatch(writer)
    who = f"hydrakit {writer}" if known else "a later hydrakit"
    use = "use that version" if known else "use the version that wrote it"
    raise error(
        f"{path}: was written by {who} in format {number}, and this is hydrakit "
        f"{version()}, which reads format {latest}: {use}"
    )


def _object(content: bytes | str) -> dict[str, object]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):  # left to its reader
        return {}
    return value if isinstance(value, dict) else {}
