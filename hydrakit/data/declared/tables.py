"""Tables in the folder of a dataset: the one of its cases, and those that are not used."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hydrakit.data.safe_paths import join_names, open_file
from hydrakit.errors import DataError, one_line
from hydrakit.hooks import Remark
from hydrakit.storage.tables import (
    HIDDEN,
    OTHER_SUFFIXES,
    SUFFIXES,
    Table,
    decimal_points,
    read_table,
)

MAX_TABLE_BYTES = 2**25
MAX_LISTED_BYTES = 2**20  # of a table that is not used, whose columns are listed


@dataclass(frozen=True, slots=True)
class TableFile:
    """Content of a table, its path for messages, and the split of its cases if its name tells."""

    path: Path
    content: bytes
    split: str | None = None

    @classmethod
    def read(cls, path: Path, *, split: str | None = None, most: int = MAX_TABLE_BYTES) -> Self:
        """Read a file of limited size.

        Args:
            path: The file.
            split: Split of its cases, if its name tells it.
            most: Bytes that it may have.

        Raises:
            OSError: It cannot be read.
            DataError: It has more than ``most`` bytes.
        """
        with open_file(path) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise DataError(f"{path}: is over {most >> 20} MiB: split it")
        return cls(path, content, split)


def may_be_table(name: str) -> bool:
    """Whether the name of a file is that of a table, even of a kind that is not read."""
    suffixes = (*SUFFIXES, *OTHER_SUFFIXES)
    return name.lower().endswith(suffixes) and not name.startswith(HIDDEN)


def read_columns(path: Path) -> dict[str, list[str]] | None:
    """Read the columns of a table; cells have no blanks around them, and numbers decimal points.

    Returns:
        The columns that have a name; None for a ``.txt`` that is no table.

    Raises:
        DataError: The file cannot be read, or is no table.
    """
    table = _open(path)
    if table is None:
        return None
    rows = list(table.rows())
    columns = {}
    for at, column in enumerate(table.header):
        if column in columns:
            raise DataError(f"{path}: the column {column!r} occurs twice: rename one")
        if column:
            cells = [(place, cells[at].strip()) for place, cells in rows]
            try:
                with_points = decimal_points(cells, "", column) if table.commas else str
            except DataError:  # told when the column is used for numbers
                with_points = str
            columns[column] = [with_points(text) for _, text in cells]
    return columns


def _open(path: Path) -> Table | None:
    """Open a table; return None for a ``.txt`` that is no table, such as notes.

    Raises:
        DataError: The file cannot be read, or is no table.
    """
    if path.suffix.lower() in OTHER_SUFFIXES:
        raise DataError(f"{path}: tables of this kind are not read: save it as .xlsx or CSV")
    try:
        file = TableFile.read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    if path.suffix.lower() != ".txt":
        return read_table(file.path, file.content)
    try:
        table = read_table(file.path, file.content)
        return table if len(table.header) > 1 and any(table.rows()) and all(table.rows()) else None
    except DataError:
        return None


def remarks_on_tables(
    folders: Collection[Path], used: Collection[Path], source: str
) -> Iterator[Remark]:
    """Yield a remark on the tables of a dataset that are not used.

    Args:
        folders: Resolved folders of its declaration and of its files.
        used: Resolved paths of the tables of the cases.
        source: What the cases are taken from.
    """
    texts = []
    for folder in dict.fromkeys(folders):
        try:
            paths = sorted(path for path in folder.iterdir() if may_be_table(path.name))
        except OSError:  # the cases of a table need no list of the folder
            continue
        texts += [text for path in paths if (text := _described(path, used))]
    if texts:
        yield Remark(
            text=f"tables that are not used, because the cases are those of {source}: "
            f"{join_names(texts)}"
        )


def _described(path: Path, used: Collection[Path]) -> str:
    """Name and columns of a table, or why it is none; empty if it is used, or no such file."""
    try:
        if not path.is_file() or path.resolve() in used:
            return ""
        if path.stat().st_size > MAX_LISTED_BYTES:
            return path.name
        table = _open(path)
    except (OSError, DataError) as error:
        return one_line(str(error).replace(str(path), path.name), 200)
    columns = ", ".join(filter(None, table.header if table else ()))
    return f"{path.name} (its columns: {one_line(columns, 200)})" if table else ""
