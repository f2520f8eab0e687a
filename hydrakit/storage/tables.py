"""Reading of tables that people make: text with any separator and encoding, and ``.xlsx``.

Cells are text, as a spreadsheet program shows it. `hydrakit.storage.files.read_rows` reads the
tables that hydrakit writes.
"""

from __future__ import annotations

import codecs
import csv
import datetime
import io
import re
import unicodedata
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydrakit.errors import DataError, one_line
from hydrakit.hooks import Remark

SUFFIXES = (".csv", ".tsv", ".txt", ".xlsx")
OTHER_SUFFIXES = (".xls", ".xlsm", ".xlsb", ".ods", ".numbers")  # of tables that are not read
HIDDEN = (".", "~$")  # the names of hidden files and of an editor's lock files begin so
SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
HEADER_WITHIN = 20  # rows: a title may stand above the names of the columns
MAX_UNPACKED = 2**25  # bytes of the cells of an .xlsx: 100,000 rows of 8 columns, about 30 s
MAX_PARTS = 2**21  # bytes of its other parts: openpyxl needs 4 s and 150 MB for 1 MB of styles
MAX_COLUMNS, MAX_SHEET_ROWS = 1024, 2**20
MAX_MERGED = 1_000_000  # cells

Cells = tuple[str, ...]
NamedRow = tuple[str, Cells]
"""Place of a row, such as ``line 3``, and its cells."""

_MARKS = {
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF16_LE: "UTF-16-LE",
    codecs.BOM_UTF16_BE: "UTF-16-BE",
}
_BINARY = re.compile(r"[\0-\x08\x0e-\x1f]")
_STATED = re.compile(r"sep=([,;\t])\r?\n", re.I)
_WHOLE = re.compile(r"(-?\d+)(?:\.0+|,00?)")  # 1,000 may be a thousand
_ZEROS = re.compile(r"0{2,15}")

_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_CLEAR_COMMA = re.compile(r"[+-]?(0*,\d+|\d+,(\d{1,2}|\d{4,})|\d{4,},\d+)([eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?(\d+\.\d*|\.\d+)([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([.,' \u00a0\u2009\u202f]\d{3})+([.,]\d*)?")


class NotTextError(DataError):
    """A table in no encoding that is known."""


@dataclass(frozen=True, eq=False)
class Sheet:
    """Cells of one worksheet, or of a text file with one of the possible separators.

    Attributes:
        rows: Yields the rows in order, from the first on, without blank cells at the end of those
            of a worksheet; may be called several times.
        separator: Separator of a text file; None for a worksheet.
        name: Name of the worksheet; empty for a text file.
        hidden: Whether the worksheet is hidden.
        dates: Column of each date, from 0, and the place of the first one there.
        uncomputed: Place of the first formula without a stored value; empty if there is none.
    """

    rows: Callable[[], Iterator[NamedRow]]
    separator: str | None = None
    name: str = ""
    hidden: bool = False
    dates: dict[int, str] = field(default_factory=dict)
    uncomputed: str = ""


@dataclass(frozen=True, eq=False)
class Table:
    """A table with the names of its columns.

    Attributes:
        path: Path of the file.
        header: Names of the columns, without blanks around them.
        place: Place of the header in the file.
        sheet: Its cells.
        remarks: What users must know about how the file was read.
    """

    path: Path
    header: Cells
    place: str
    sheet: Sheet
    remarks: tuple[Remark, ...]

    @property
    def commas(self) -> bool:
        """Whether a comma within a cell may be that of a number with decimals."""
        return self.sheet.separator != ","

    def refuse_doubled(self) -> None:
        """Refuse two columns of the same name, for tables whose columns are all used by name.

        Raises:
            DataError: There are two.
        """
        for name in self.header:
            if name and self.header.count(name) > 1:
                raise DataError(
                    f"{self.path}: two of its columns are named {name!r}: rename or remove one"
                )

    def rows(self) -> Iterator[NamedRow]:
        """Yield the rows below the header that are not blank, with one cell for each column.

        Raises:
            DataError: A row has another number of cells, or is no valid row of a table.
        """
        width = len(self.header)
        for place, cells in self.rows_as_they_are():
            absent = max(width - len(cells), 0) if self.sheet.separator is None else 0
            if len(cells) + absent != width:
                raise DataError(
                    f"{self.path}: {place}: has {len(cells)} cells where the header has {width}: "
                    f"{self._remedy()}"
                )
            yield place, cells + ("",) * absent

    def rows_as_they_are(self) -> Iterator[NamedRow]:
        """Yield the rows below the header that are not blank, with the cells that each has.

        Raises:
            DataError: A row is no valid row of a table.
        """
        below = False
        for place, cells in self.sheet.rows():
            if below and any(cell.strip() for cell in cells):
                yield place, cells
            below = below or place == self.place

    def _remedy(self) -> str:
        if self.sheet.separator is None:
            return "name each column, or empty the cells beside the table"
        return f'write cells with a {SEPARATORS[self.sheet.separator]} in "quotes"'

    def with_points(self, column: str) -> Callable[[str], str]:
        """Return what writes the numbers of a column with a decimal point.

        Raises:
            DataError: The column may have separators of thousands, or points beside commas.
        """
        if not self.commas or column not in self.header:
            return str
        at = self.header.index(column)
        cells = ((place, cells[at].strip()) for place, cells in self.rows())
        return decimal_points(cells, f"{self.path}: ", column)


def is_table(name: str) -> bool:
    """Whether a name of a file is that of a table."""
    return name.lower().endswith(SUFFIXES)


def label_form(text: str) -> str:
    """Return the form in which labels are compared that are not known as they are written.

    Case, blanks, the Unicode form and the decimals of whole numbers make no difference.
    """
    form = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    whole = _WHOLE.fullmatch(form)
    return whole[1] if whole else form


def decimal_points(
    cells: Iterable[tuple[str, str]], where: str, column: str
) -> Callable[[str], str]:
    """Return what writes the numbers of a column with a decimal point.

    Args:
        cells: Place and text of each cell.
        where: Beginning of messages.
        column: Name of the column.

    Raises:
        DataError: Its numbers may have separators of thousands, or points beside commas.
    """
    comma = point = clear = None
    for place, text in cells:
        if _COMMA.fullmatch(text):
            comma = comma or (place, text)
            clear = clear or _CLEAR_COMMA.fullmatch(text)
        elif _POINT.fullmatch(text):
            point = point or (place, text)
        elif _THOUSANDS.fullmatch(text):
            raise DataError(
                f"{where}{place}: {column} {text!r} has separators of thousands: write the number "
                "without them"
            )
    if comma is None:
        return str
    place, text = comma
    if point is not None:
        raise DataError(
            f"{where}{place}: {column} {text!r} has a comma, and {point[1]!r} in {point[0]} a "
            "point: write one decimal mark in all numbers of the column"
        )
    if clear is None:
        raise DataError(
            f"{where}{place}: {column} {text!r} may be {text.replace(',', '.')} or "
            f"{text.replace(',', '')}: write the numbers of the column with a decimal point, or "
            "without separators of thousands"
        )
    return lambda text: text.replace(",", ".") if _COMMA.fullmatch(text.strip()) else text


def find_table(
    path: Path,
    content: bytes,
    suits: Callable[[Cells], bool],
    *,
    max_unpacked: int = MAX_UNPACKED,
) -> Table | None:
    """Read a table by the columns that are needed: they show its separator or sheet, and header.

    Args:
        path: Path of the file, whose suffix tells the format.
        content: Content of the file.
        suits: Whether names of columns include those that are needed.
        max_unpacked: Bytes to which the cells of an ``.xlsx`` may unpack.

    Returns:
        The table, of an ``.xlsx`` in the first visible worksheet with these columns; None if the
        file has no such columns.

    Raises:
        DataError: The file is no table, or the packages for .xlsx are not installed.
    """
    heads, remarks = _heads(path, content, suits, max_unpacked)
    fitting = (head for head in heads if suits(head[2]) and not head[0].hidden)
    chosen = next(fitting, None)
    return None if chosen is None else _table(path, chosen, heads, remarks)


def read_table(
    path: Path, content: bytes, suits: Callable[[Cells], bool] = lambda _: False
) -> Table:
    """Read a table as `find_table` does, and also one without the columns that are needed.

    The header is then the first row with text in several cells, if there is one. The separator is
    the one that divides it, and all rows into as many cells; of an ``.xlsx``, it is the first
    visible worksheet that is not empty.

    Args:
        path: Path of the file, whose suffix tells the format.
        content: Content of the file.
        suits: Whether names of columns include those that are needed.

    Raises:
        DataError: The file is no table, its separator is not clear, or the packages for .xlsx are
            not installed.
    """
    heads, remarks = _heads(path, content, suits, MAX_UNPACKED)
    visible = [head for head in heads if not head[0].hidden]
    chosen = next((head for head in visible if suits(head[2])), None)
    if chosen is None and any(sheet.separator for sheet, _, _ in heads):
        chosen = _by_rows(path, heads)
    elif chosen is None:
        empty: _Head = Sheet(lambda: iter(())), "row 1", ()
        chosen = next((head for head in visible if head[2]), empty)
    if not chosen[2]:
        list(chosen[0].rows())  # an error, if that is why there is no header
    return _table(path, chosen, heads, remarks)


_Head = tuple[Sheet, str, Cells]  # with the place of its header, and the header


def _heads(
    path: Path, content: bytes, suits: Callable[[Cells], bool], max_unpacked: int
) -> tuple[list[_Head], list[Remark]]:
    """Each possible reading of a file, with its header, and remarks."""
    remarks: list[Remark] = []
    if path.suffix.lower() == ".xlsx":
        sheets = _worksheets(path, content, max_unpacked)
    else:
        text, remarks = _decode(path, content)
        stated = _STATED.match(text)
        start = stated.end() if stated else 0
        marks = stated[1] if stated else SEPARATORS
        sheets = [Sheet(_text_rows(path, text, mark, start), mark) for mark in marks]
    return [(sheet, *_head(sheet, suits)) for sheet in sheets], remarks


def _table(path: Path, chosen: _Head, heads: Sequence[_Head], remarks: Sequence[Remark]) -> Table:
    sheet, place, header = chosen
    if sheet.uncomputed:
        raise DataError(
            f"{path}: {sheet.uncomputed}: holds a formula without its value: open the file in a "
            "spreadsheet program, and save it"
        )
    if sheet.separator is None:
        others = [each for each, _, cells in heads if each is not sheet and cells]
        remarks = [*remarks, *_remarks_on_sheets(path, sheet, others)]
    return Table(path, header, place, sheet, tuple(remarks))


def _head(sheet: Sheet, suits: Callable[[Cells], bool]) -> NamedRow:
    """The first row that suits as a header, or else has text in several cells, or in one."""
    first: NamedRow | None = None
    several: NamedRow | None = None
    try:
        for number, (place, cells) in enumerate(sheet.rows()):
            header = tuple(cell.strip() for cell in cells)
            if any(header):
                first = first or (place, header)
                if sum(map(bool, header)) > 1:
                    several = several or (place, header)
                if suits(header):
                    return place, header
            if number >= HEADER_WITHIN:
                break
    except DataError:  # no row for this separator; reading the rows tells it
        pass
    return several or first or ("row 1" if sheet.separator is None else "line 1", ())


def _by_rows(path: Path, heads: Sequence[_Head]) -> _Head:
    """The separator that divides the header, and all rows into as many cells."""
    dividing = [head for head in heads if len(head[2]) > 1]
    if len(dividing) > 1:
        dividing = [head for head in dividing if _is_regular(head[0])] or dividing[:1]
    if len(dividing) > 1:
        marks = [sheet.separator or "" for sheet, _, _ in dividing]
        names = " or ".join(f"{SEPARATORS[mark]}s" for mark in marks)
        lines = " or ".join(f"sep={mark}" for mark in marks)
        raise DataError(
            f"{path}: its cells may be separated by {names}: write the line {lines} before the "
            "first one"
        )
    return dividing[0] if dividing else heads[0]


def _is_regular(sheet: Sheet) -> bool:
    """Whether all rows that are not blank have the same number of cells."""
    try:
        return len({len(cells) for _, cells in sheet.rows() if any(map(str.strip, cells))}) == 1
    except DataError:
        return False


def _remarks_on_sheets(path: Path, chosen: Sheet, others: Sequence[Sheet]) -> Iterator[Remark]:
    if others:
        names = ", ".join(f"{sheet.name!r}{' (hidden)' * sheet.hidden}" for sheet in others)
        yield Remark(
            text=f"{path.name}: the sheet {chosen.name!r} is used; not used: {one_line(names, 200)}"
        )


# Text


def _decode(path: Path, content: bytes) -> tuple[str, list[Remark]]:
    """Decode text by its byte order mark, or as UTF-8, or else as Windows-1252."""
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    remarks = []
    encoding = _MARKS.get(mark, "UTF-8")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError:
        if mark:
            raise NotTextError(
                f"{path}: begins as {encoding} text and is damaged: save it again as UTF-8"
            ) from None
        text = _last_resort(path, content)
        remarks.append(
            Remark(
                text=f"{path.name}: is not UTF-8 and is read as Windows-1252 (Latin-1): if letters "
                "such as ä, é or ß are wrong, save it as UTF-8"
            )
        )
    if "\0" in text.partition("\n")[0]:
        raise NotTextError(
            f"{path}: is neither UTF-8 text nor UTF-16 with a byte order mark: save it as UTF-8"
        )
    return text, remarks


def _last_resort(path: Path, content: bytes) -> str:
    try:
        text = content.decode("cp1252")
        if _BINARY.search(text) is None:
            return text
    except UnicodeDecodeError:
        pass
    raise NotTextError(
        f"{path}: is not UTF-8, UTF-16 or Windows-1252 (Latin-1) text: save it as UTF-8"
    )


def _text_rows(
    path: Path, text: str, separator: str, start: int
) -> Callable[[], Iterator[NamedRow]]:
    def rows() -> Iterator[NamedRow]:
        stream = io.StringIO(text, newline="")
        stream.seek(start)
        reader = csv.reader(stream, delimiter=separator, strict=True)
        above = 1 if start else 0
        try:
            for cells in reader:
                yield f"line {reader.line_num + above}", tuple(cells)
        except csv.Error as error:
            line = reader.line_num + above
            raise DataError(f"{path}: line {line}: {error}: correct the line") from None

    return rows


# Worksheets


def _worksheets(path: Path, content: bytes, max_unpacked: int) -> list[Sheet]:
    try:
        import defusedxml  # noqa: F401 - openpyxl uses it for parsing if it is installed
        import openpyxl

        safe = openpyxl.DEFUSEDXML
    except ImportError:
        safe = False
    if not safe:
        raise DataError(
            f"{path}: reading .xlsx needs openpyxl and defusedxml: install "
            "'hydrakit-imaging[xlsx]', or save the sheet as CSV and use that"
        )
    _check_sizes(path, content, max_unpacked)
    try:
        with warnings.catch_warnings():
            # Warnings about drawings, styles and other parts that are not read.
            warnings.simplefilter("ignore", UserWarning)
            book = openpyxl.load_workbook(
                io.BytesIO(content), read_only=True, data_only=True, keep_links=False
            )
            with closing(book):
                return [_worksheet(path, sheet) for sheet in book.worksheets]
    except DataError:
        raise
    except Exception as error:
        # openpyxl raises almost any kind of exception for a damaged file.
        raise _broken(path, error) from error


def _check_sizes(path: Path, content: bytes, max_unpacked: int) -> None:
    """Refuse an archive that would unpack to far more data than a table has."""
    cells = others = 0
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for part in archive.infolist():
                if part.filename.startswith(("xl/worksheets/", "xl/sharedStrings")):
                    cells += part.file_size
                elif part.filename.endswith((".xml", ".rels")):
                    others += part.file_size
    except Exception as error:
        raise _broken(path, error) from error
    if cells > max_unpacked or others > MAX_PARTS:
        raise DataError(
            f"{path}: unpacks to {cells + others:,} bytes, more than a table may have: save the "
            "sheet as CSV and use that"
        )


def _broken(path: Path, error: Exception) -> DataError:
    error = cause if isinstance(cause := error.__cause__, Exception) else error  # openpyxl wraps it
    reason = one_line((str(error).splitlines() or [""])[0], 200) or type(error).__name__
    return DataError(
        f"{path}: is not a readable .xlsx file ({reason}): fetch it again, or save the sheet as "
        "CSV and use that"
    )


def _worksheet(path: Path, sheet: Any) -> Sheet:
    """Read the cells of a worksheet of openpyxl; every merged cell has the text of the whole."""
    name = one_line(str(sheet.title), 40)
    width, merged, uncomputed = _structure(sheet)
    rows: list[list[str]] = []
    dates: dict[int, str] = {}
    blank: object = None
    sheet.reset_dimensions()  # what a file states of them may be wrong
    # With a width of 0, openpyxl would take that of each row.
    for cells in sheet.iter_rows(max_row=MAX_SHEET_ROWS, max_col=max(width, 1)):
        # openpyxl yields one and the same row for all that are absent from the file.
        rows.append([] if cells is blank else [_cell_text(cell) for cell in cells])
        if not any(rows[-1]):
            blank = cells
            continue
        for column, cell in enumerate(cells):
            if isinstance(cell.value, datetime.date):
                dates.setdefault(column, _place(name, len(rows)))
    _fill(path, rows, merged, width)
    while rows and not any(rows[-1]):
        rows.pop()
    trimmed = [(_place(name, number), _trimmed(texts)) for number, texts in enumerate(rows, 1)]
    return Sheet(
        lambda: iter(trimmed),
        name=name,
        hidden=sheet.sheet_state != "visible",
        dates=dates,
        uncomputed=uncomputed and f"sheet {name!r}, cell {uncomputed}",
    )


def _place(sheet: str, row: int) -> str:
    return f"sheet {sheet!r}, row {row}"


def _trimmed(texts: list[str]) -> Cells:
    while texts and not texts[-1]:
        texts.pop()
    return tuple(texts)


def _structure(sheet: Any) -> tuple[int, list[str], str]:
    """What openpyxl does not give for a worksheet that it reads row by row.

    Returns:
        Number of the last column with a value, at most `MAX_COLUMNS`; the merged ranges; and the
        first cell with a formula whose value is not stored, if any.
    """
    from defusedxml.ElementTree import iterparse
    from openpyxl.utils.cell import coordinate_to_tuple

    width = column = 0
    merged: list[str] = []
    uncomputed = ""
    with sheet._get_source() as source:
        for _, element in iterparse(source):
            tag = element.tag.rpartition("}")[2]
            if tag == "c":
                place = element.get("r")
                column = coordinate_to_tuple(place)[1] if place else column + 1
                parts = {child.tag.rpartition("}")[2]: child.text for child in element}
                # The value of a formula may be empty text; without a type it is one that is absent.
                if "f" in parts and not parts.get("v") and element.get("t") != "str":
                    uncomputed = uncomputed or one_line(place or "without a name", 20)
                elif "v" in parts or "is" in parts:
                    width = max(width, min(column, MAX_COLUMNS))
            elif tag == "row":
                column = 0
                element.clear()
            elif tag == "mergeCell":
                merged.append(element.get("ref"))
    return width, merged, uncomputed


def _fill(path: Path, rows: list[list[str]], merged: Sequence[str], width: int) -> None:
    """Write the text of merged cells, which is that of their upper left one, into all of them."""
    from openpyxl.utils.cell import range_boundaries

    filled = 0
    for each in merged:
        # Of whole columns or rows, the others are None.
        left, top, right, bottom = range_boundaries(each)
        columns = range((left or 1) - 1, min(right or width, width))
        lines = range((top or 1) - 1, min(bottom or len(rows), len(rows)))
        filled += len(columns) * len(lines)
        if filled > MAX_MERGED:
            raise DataError(f"{path}: has over {MAX_MERGED:,} merged cells: split them")
        if columns and lines and rows[lines[0]] and (text := rows[lines[0]][columns[0]]):
            for line in lines:
                rows[line] = rows[line] or [""] * width
                for column in columns:
                    rows[line][column] = text


def _cell_text(cell: Any) -> str:
    """The value of a cell as a spreadsheet program shows it, and a date as ``2024-01-31``."""
    value = cell.value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, datetime.datetime):
        return value.date().isoformat() if value.time() == datetime.time() else str(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    if isinstance(value, int) and value >= 0 and _ZEROS.fullmatch(cell.number_format):
        return str(value).zfill(len(cell.number_format))  # 007, of which the file has 7
    return str(value)
