"""Cells of a spreadsheet, from .csv in its dialects and from .xlsx."""

from __future__ import annotations

import csv
import io
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hydrakit.errors import DataError

Row = tuple[str, ...]

# The official sheets hold less than 0.1 MB; what claims to be far more is no nodule sheet.
_LARGEST = 20_000_000
_LARGEST_BOOK = 2_000_000  # unpacked; for a million bytes of styles openpyxl takes 4 s and 150 MB
_ROWS, _COLUMNS = 10_000, 50  # one cell far out makes a worksheet of a thousand million cells
_SUFFIXES = (".csv", ".xlsx")


def is_table(path: Path) -> bool:
    """Whether the name is that of a table, and not of an editor's lock or shadow file."""
    return path.suffix.lower() in _SUFFIXES and not path.name.startswith((".", "~$"))


def read_tables(path: Path) -> Iterator[list[Row]]:
    """Each table of a file: the rows in order, each cell as text without outer blanks.

    A .csv is one table for each of the delimiters that it could have; an .xlsx has one for each
    worksheet. Which of them is meant shows in its header.

    Raises:
        DataError: The file cannot be read, or is a broken or huge .xlsx; or the packages for
            .xlsx are not installed.
    """
    is_xlsx = path.suffix.lower() == ".xlsx"
    try:
        if path.stat().st_size > _LARGEST:
            if is_xlsx:
                raise DataError(_too_large(path, path.stat().st_size))
            return iter(())  # some other table
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    return _xlsx(path, content) if is_xlsx else _csv(path, content)


def _too_large(path: Path, size: int) -> str:
    return (
        f"{path}: holds {size:,} bytes, far more than a nodule sheet: remove it, or name the "
        "right files with the option 'sheet'"
    )


def _csv(path: Path, content: bytes) -> Iterator[list[Row]]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # how spreadsheets on Windows export
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
        import defusedxml  # noqa: F401 - openpyxl parses with it where it is installed
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
            # About drawings, styles and other parts that are not read.
            warnings.simplefilter("ignore", UserWarning)
            book = openpyxl.load_workbook(io.BytesIO(content), read_only=True, data_only=True)
            for sheet in book.worksheets:
                rows = sheet.iter_rows(values_only=True, max_row=_ROWS, max_col=_COLUMNS)
                tables.append([tuple(_cell(value) for value in row) for row in rows])
    except Exception as error:
        # openpyxl meets a damaged file with almost any kind of exception.
        raise _broken(path, error) from error
    yield from tables


def _check_sizes(path: Path, content: bytes) -> None:
    """Refuse an archive that would unpack to far more than a sheet can hold."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(part.file_size for part in archive.infolist())
    except Exception as error:
        raise _broken(path, error) from error
    if size > _LARGEST_BOOK:
        raise DataError(_too_large(path, size))


def _broken(path: Path, error: Exception) -> DataError:
    error = cause if isinstance(cause := error.__cause__, Exception) else error  # openpyxl wraps
    why = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
    return DataError(
        f"{path}: not a readable .xlsx file ({why}): fetch it again, save it anew, or name other "
        "files with the option 'sheet'"
    )


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()
