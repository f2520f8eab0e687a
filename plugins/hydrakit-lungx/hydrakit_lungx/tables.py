"""Reading of spreadsheet cells from .csv, with any delimiter, and from .xlsx."""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hydrakit.errors import DataError

Row = tuple[str, ...]

# The official sheets have less than 0.1 MB; a far larger file is not a nodule sheet.
_MAX_BYTES = 20_000_000
_MAX_UNPACKED = 2_000_000  # bytes; for 1 MB of styles openpyxl takes 4 s and 150 MB
_ROWS, _COLUMNS = 10_000, 50  # limits: a single distant cell can make a sheet of 10^9 cells
_SUFFIXES = (".csv", ".xlsx")


def is_table(path: Path) -> bool:
    """Whether the name is that of a table, and not of an editor's lock or hidden file."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith((".", "~$"))


def read_tables(path: Path) -> Iterator[list[Row]]:
    """Yield each table of a file: its rows, with cells as text without surrounding blanks.

    A .csv yields one table for each possible delimiter, an .xlsx one for each worksheet. The caller
    chooses the right one by its header.

    Raises:
        DataError: The file cannot be read, or is a broken or huge .xlsx; or the packages for
            .xlsx are not installed.
    """
    is_xlsx = path.suffix.lower() == ".xlsx"
    try:
        if path.stat().st_size > _MAX_BYTES:
            if is_xlsx:
                raise DataError(_too_large(path, path.stat().st_size))
            return iter(())  # not a nodule sheet
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return _xlsx(path, content) if is_xlsx else _csv(path, content)


def _too_large(path: Path, size: int) -> str:
    return (
        f"{path}: has {size:,} bytes, far more than a nodule sheet: remove it, or name the "
        "right files with the option 'sheet'"
    )


def _csv(path: Path, content: bytes) -> Iterator[list[Row]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # export of spreadsheets on Windows
    for delimiter in ";,\t":
        try:
            lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            yield [tuple(cell.strip() for cell in line) for line in lines]
        except csv.Error as error:
            raise DataError(
                f"{path}: cannot be read as a table ({error}): remove it, or name the right files "
                "with the option 'sheet'"
            ) from None


def _xlsx(path: Path, content: bytes) -> Iterator[list[Row]]:
    try:
        import defusedxml  # noqa: F401 - openpyxl uses it for parsing if it is installed
        import openpyxl

        safe = openpyxl.DEFUSEDXML
    except ImportError:
        safe = False
    if not safe:
        raise DataError(
            f"{path}: reading .xlsx needs openpyxl and defusedxml: install "
            "'hydrakit-imaging[xlsx]', or save the sheet as .csv and name that with the option "
            "'sheet'"
        )
    _check_sizes(path, content)
    tables: list[list[Row]] = []
    try:
        with warnings.catch_warnings():
            # Warnings about drawings, styles and other parts that are not read.
            warnings.simplefilter("ignore", UserWarning)
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            for sheet in book.worksheets:
                rows = sheet.iter_rows(values_only=True, max_row=_ROWS, max_col=_COLUMNS)
                tables.append([tuple(_cell(value) for value in row) for row in rows])
    except Exception as error:
        # openpyxl raises almost any kind of exception for a damaged file.
        raise _broken(path, error) from error
    yield from tables


def _check_sizes(path: Path, content: bytes) -> None:
    """Refuse an archive that would unpack to far more data than a sheet has."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except Exception as error:
        raise _broken(path, error) from error
    if size > _MAX_UNPACKED:
        raise DataError(_too_large(path, size))


def _broken(path: Path, error: Exception) -> DataError:
    error = cause if isinstance(cause := error.__cause__, Exception) else error  # openpyxl wraps it
    reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return DataError(
        f"{path}: not a readable .xlsx file ({reason}): fetch it again, or name other files "
        "with the option 'sheet'"
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
