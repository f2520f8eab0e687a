"""Tables as people have them: separators, encodings, .xlsx, decimal commas, labels and names."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import openpyxl
import pytest
from declaring import BASE, CSV, declare, png, refused, samples
from hypothesis import given
from hypothesis import strategies as st

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.given import GivenReader, images_in_table
from hydrakit.data.declared.labels import label_of
from hydrakit.data.declared.schema import Declaration, View
from hydrakit.errors import DataError
from hydrakit.hooks import NoOptions, Remark, Sample
from hydrakit.runs.predict import read_labels
from hydrakit.stats.score_files import compare_files
from hydrakit.storage.tables import Table, _fill, read_table

HEADER = ("path", "label")


def suits(header: Sequence[str]) -> bool:
    return set(HEADER) <= set(header)


def text_table(text: str, encoding: str = "utf-8", name: str = "a.csv") -> Table:
    return read_table(Path(name), text.encode(encoding), suits)


def xlsx(*rows: Sequence[Any], merged: str = "", title: str = "Cases") -> openpyxl.Workbook:
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    if merged:
        book.active.merge_cells(merged)
    return book


def content(book: openpyxl.Workbook) -> bytes:
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def cells(table: Table) -> list[tuple[str, ...]]:
    return [cells for _, cells in table.rows()]


def remarks(folder: Path) -> list[str]:
    found = load_declared(folder).read(folder.resolve(), NoOptions())
    return [each.text for each in found if isinstance(each, Remark)]


# --- text

CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n\t;,\"' é"))


@given(
    rows=st.lists(st.tuples(CELL, CELL), max_size=4),
    name=CELL.filter(lambda text: text.strip() not in ("", "x", *HEADER)),
    mark=st.sampled_from(",;\t"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "cp1252"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_a_table_written_in_any_way_has_the_same_cells(
    rows: list[tuple[str, str]], name: str, mark: str, encoding: str, quoting: Any, end: str
) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=mark, quoting=quoting, lineterminator=end)
    written = [("x", *row) for row in rows]
    writer.writerows([("path", name, "label"), *written])
    text = stream.getvalue()
    if encoding == "cp1252":  # a letter that makes it no UTF-8
        text = text.encode("ascii", "replace").decode() + f"x{mark}é,{mark}"
        written = [*([cell.encode("ascii", "replace").decode() for cell in row] for row in written)]
        written.append(["x", "é," if mark != "," else "é", ""])
        text = text if mark != "," else text.removesuffix("é,,") + "é,"
    mark_of_order = "\ufeff" if encoding == "utf-16-be" else ""
    table = text_table(mark_of_order + text, encoding)
    assert [table.header[0], table.header[-1]] == ["path", "label"]
    assert cells(table) == [tuple(row) for row in written]
    assert (table.remarks != ()) == (encoding == "cp1252")


@pytest.mark.parametrize(
    ("text", "header", "rows"),
    [
        ("path,label\na;b.png,x\n", HEADER, [("a;b.png", "x")]),
        ('path;label\n"a;b.png";1,5\n', HEADER, [("a;b.png", "1,5")]),
        ("path;label;a,b\na.png;x;1,2\n", (*HEADER, "a,b"), [("a.png", "x", "1,2")]),
        ("My study\n\npath\tlabel\na.png\tx\n", HEADER, [("a.png", "x")]),
        ("sep=;\na;b,c\n1;2,3\n", ("a", "b,c"), [("1", "2,3")]),
        ("a;b,c\n1;2\n", ("a", "b,c"), [("1", "2")]),  # all rows have two cells with semicolons
        ("a;b\n1;2,3\n", ("a", "b"), [("1", "2,3")]),
        ("My study\n\na;b\n1;2\n", ("a", "b"), [("1", "2")]),
        ("alone\n1\n", ("alone",), [("1",)]),
        ("", (), []),
    ],
)
def test_the_header_and_the_rows_show_the_separator(
    text: str, header: tuple[str, ...], rows: list[tuple[str, ...]]
) -> None:
    table = text_table(text)
    assert (table.header, cells(table)) == (header, rows)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a;b,c\n1;2,3\n", "separated by commas or semicolons: write the line sep=, or sep=;"),
        (
            b"path;label\na.png\n",
            "line 2: has 1 cells where the header has 2: write cells with a s",
        ),
        (b'"path,label\n', "line 1: unexpected end of data"),
        ("path,label\n".encode("utf-16-le"), "UTF-16 with a byte order mark"),
        (b"path,label\n\x81\x8d,x\n", "is not UTF-8, UTF-16 or Windows-1252"),
        (b"\xff\xfep\0\0", "begins as UTF-16-LE text and is damaged"),
    ],
)
def test_what_is_no_table_is_refused_in_one_line(text: bytes, words: str) -> None:
    with pytest.raises(DataError) as caught:
        list(read_table(Path("a.csv"), text, suits).rows())
    assert str(caught.value).startswith("a.csv: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- .xlsx


def test_cells_of_a_worksheet_are_those_that_people_see() -> None:
    book = xlsx(
        ["The study of Ann"],
        [],
        [*HEADER, "value", "day"],
        ["a.png", True, 2.0, datetime.datetime(2024, 1, 31)],
        ["b.png", False, 2.5, datetime.datetime(2024, 1, 31, 12, 30)],
        ["c.png", None, 7, "41,5"],
        [],
        ["d.png", "x", 0.3, "=1+1"],
        merged="B5:B6",
    )
    book.active["C6"].number_format = "000"
    book.create_sheet("Notes").append(["nothing"])
    book.create_sheet("Empty")
    book.active["D8"] = 2
    table = read_table(Path("a.xlsx"), content(book), suits)
    assert table.place == "sheet 'Cases', row 3"
    assert list(table.rows()) == [
        ("sheet 'Cases', row 4", ("a.png", "TRUE", "2", "2024-01-31")),
        ("sheet 'Cases', row 5", ("b.png", "FALSE", "2.5", "2024-01-31 12:30:00")),
        ("sheet 'Cases', row 6", ("c.png", "FALSE", "007", "41,5")),
        ("sheet 'Cases', row 8", ("d.png", "x", "0.3", "2")),
    ]
    assert [remark.text for remark in table.remarks] == [
        "a.xlsx: the sheet 'Cases' is used; not used: 'Notes'"
    ]


def test_numbers_of_a_worksheet_are_those_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    values = [0.1, 1e-7, 123456789012, -3, 1e300, 2**60, 0.0]
    data = content(xlsx(("path", "label"), *(("a", value) for value in values)))
    read = pandas.read_excel(io.BytesIO(data))["label"].tolist()
    found = [float(cells[1]) for _, cells in read_table(Path("a.xlsx"), data, suits).rows()]
    assert found == [float(value) for value in read] == [float(value) for value in values]


def test_the_first_visible_sheet_with_the_columns_is_used() -> None:
    book = xlsx(["a", "b"], title="Other")
    for name in ("Hidden", "First", "Second"):
        book.create_sheet(name).append([*HEADER, name])
    book["Hidden"].sheet_state = "hidden"
    table = read_table(Path("a.xlsx"), content(book), suits)
    assert table.header[2] == "First"
    (remark,) = table.remarks
    assert remark.text.endswith("not used: 'Other', 'Hidden' (hidden), 'Second'")
    assert read_table(Path("a.xlsx"), content(xlsx()), suits).header == ()


def test_what_would_be_read_wrongly_in_a_worksheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sheet 'Cases', cell B2: holds a formula without its val"):
        read_table(Path("a.xlsx"), content(xlsx(HEADER, ["a.png", "=1+1"])), suits)
    with pytest.raises(DataError, match=r"row 2: has 3 cells where the header has 2: name each"):
        list(read_table(Path("a.xlsx"), content(xlsx(HEADER, ["a", "x", 1])), suits).rows())
    many = [["a"] for _ in range(1001)]
    with pytest.raises(DataError, match=r"over 1,000,000 merged cells"):
        _fill(Path("a.xlsx"), many, ["A1:XFD1048576"], 1024)
    folder = declare(tmp_path / "mine", BASE + 'cases = "cases.xlsx"\n')
    day = datetime.datetime(2024, 2, 1)
    rows = [("path", "label", "patient"), ("a.png", "benign", "P1"), ("b.png", "benign", day)]
    xlsx(*rows).save(folder / "cases.xlsx")
    refused(folder, "sheet 'Cases', row 3: patient is a date", "as text")


# --- numbers


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["41,5", "3", "-0,25"], ["41.5", "3", "-0.25"]),
        (["120,325", "1,5"], ["120.325", "1.5"]),
        (["0,325"], ["0.325"]),
        (["1234,567"], ["1234.567"]),
        (["41.5", "1.234", "x,y"], ["41.5", "1.234", "x,y"]),
        (["1,234", "7"], "may be 1.234 or 1234"),
        (["1,5", "2.5"], "'1,5' has a comma, and '2.5' in line 3 a point"),
        (["1.234,5"], "has separators of thousands"),
        (["1,234,567"], "has separators of thousands"),
        (["1 234"], "has separators of thousands"),
        (["1'234.5"], "has separators of thousands"),
    ],
)
def test_decimal_commas(texts: list[str], expected: list[str] | str) -> None:
    rows = "\n".join(f"a;x;{text}" for text in texts)
    table = text_table(f"path;label;n\n{rows}\n")
    if isinstance(expected, list):
        with_points = table.with_points("n")
        assert [with_points(text) for text in texts] == expected
        return
    with pytest.raises(DataError, match=r"a\.csv: line 2: n ") as caught:
        table.with_points("n")
    assert expected in str(caught.value)


# --- cases


def test_a_table_of_a_spreadsheet_gives_the_cases_of_a_csv(tmp_path: Path) -> None:
    rows = [
        ("path", "label", "patient", "row", "column", "key"),
        ("a.png;b.png", "malignant", "Müller", "2.5", "3", "k1"),
        ("b.png;a.png", "benign", "Möller", "0.5", "1.25", "k2"),
    ]
    folder = tmp_path / "mine"
    for value, name in enumerate("ab"):
        png(folder / f"{name}.png", value)

    def read(name: str, data: bytes) -> list[Any]:
        (folder / name).write_bytes(data)
        declare(folder, CSV.replace("cases.csv", name))
        found = samples(folder)
        (folder / name).unlink()
        return [(s.key, s.label, s.patient, s.centre, s.image.tolist(), s.source) for s in found]

    def text(mark: str, point: str = ".") -> str:
        stream = io.StringIO()
        changed = [[*row[:3], *(cell.replace(".", point) for cell in row[3:])] for row in rows]
        csv.writer(stream, delimiter=mark).writerows(changed)
        return stream.getvalue()

    expected = read("cases.csv", text(",").encode())
    assert expected[0][:4] == ("k1", 1, "Müller", (2.5, 3.0))
    assert read("cases.csv", text(";", ",").encode("cp1252")) == expected
    assert read("cases.tsv", text("\t", ",").encode("utf-16")) == expected
    assert read("cases.txt", text(";").encode("utf-8-sig")) == expected
    numbers = [
        rows[0],
        *((*row[:3], float(row[3]), float(row[4]), row[5]) for row in rows[1:]),
    ]
    assert read("cases.xlsx", content(xlsx(*numbers))) == expected
    assert read("cases.xlsx", content(xlsx(*rows))) == expected


def test_the_last_resort_of_encodings_is_told(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV)
    png(folder / "a.png")
    (folder / "cases.csv").write_bytes("path,label,patient\na.png,benign,Müller\n".encode("cp1252"))
    assert remarks(folder) == [
        "cases.csv: is not UTF-8 and is read as Windows-1252 (Latin-1): if letters such as ä, é or "
        "ß are wrong, save it as UTF-8"
    ]


def test_names_without_folder_or_suffix_are_matched(tmp_path: Path) -> None:
    stored, named = normalize("NFD", "ä1"), normalize("NFC", "ä1")
    rows = [named, "1.2.840", "P2/x", "c.png", "d.png", "absent", "P1/absent.png"]
    folder = declare(
        tmp_path / "mine", CSV, "\n".join(["path,label", *(f"{r},benign" for r in rows)])
    )
    files = [f"im/{stored}.png", "im/1.2.840.png", "P1/x.png", "P2/x.png", "deep/c.png", "d.png"]
    for file in (*files, "masks/1.2.840.png", "masks/x.png"):
        png(folder / file)
    found = list(load_declared(folder).read(folder.resolve(), NoOptions()))
    cases = [case for case in found if not isinstance(case, Remark)]
    assert [case.key for case in cases] == rows
    paths = [case.source[0] for case in cases if isinstance(case, Sample)]
    expected = [files[0], files[1], files[3], files[4], files[5]]
    assert paths == [folder / file for file in expected]
    assert [getattr(case, "reason", None) for case in cases[5:]] == ["its file is missing"] * 2
    assert remarks(folder) == [
        "path: 4 names without a folder or a suffix are matched to files of that name "
        f"(first {named!r}: {files[0]!r})"
    ]
    declare(folder, CSV, "path,label\nx,benign\n")
    refused(folder, "line 2: path 'x' may be 'P1/x.png' or 'P2/x.png': write the paths with")


def test_zeros_that_a_spreadsheet_removed_are_not_guessed(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV, "path,label\n7,benign\n12,benign\n")
    png(folder / "im" / "007.png")
    png(folder / "im" / "012.png")
    refused(folder, "line 2: path '7': there is no such file, but 'im/007.png'", "as text")
    declare(folder, CSV, "path,label\n007,benign\n012,benign\n12,benign\n")
    assert len(remarks(folder)) == 1  # 12 is another image, which is missing


def declaration(**values: Any) -> Declaration:
    whole = {"classes": ("benign", "malignant"), "task": "classification", "cases": "a.csv"}
    return Declaration.model_construct(**{**whole, **values}, field_of_view=View(share=1.0))


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        ({}, "Benign", 0),
        ({}, "MALIGNANT", 1),
        ({"classes": ("no finding", "finding")}, "No\u00a0 Finding", 0),
        ({"labels": {"1": "malignant", "0": "benign"}}, "1.0", 1),
        ({"labels": {"1.0": "malignant", "0.0": "benign"}}, "0", 0),
        ({"labels": {"True": "malignant", "False": "benign"}}, "TRUE", 1),
        ({"labels": {"true": "malignant", "False": "benign", "Unclear": ""}}, "unclear", None),
        ({"classes": ("a", "A")}, "a", 0),
        ({"classes": ("a", "A")}, "A", 1),
        ({"task": "multilabel"}, "Malignant; benign", (1, 1)),
        ({"task": "multilabel"}, "None", (0, 0)),
        ({"task": "regression", "labels": {"NA": ""}}, "na", None),
        ({"labels": {"1": "malignant", "1.0": "benign"}}, "1.00", ValueError),
        ({"classes": ("Ab", "aB")}, "ab", ValueError),
        ({}, "1", ValueError),
        ({}, "mal", ValueError),
    ],
)
def test_labels_in_another_spelling(values: dict[str, Any], text: str, expected: Any) -> None:
    if expected is ValueError:
        with pytest.raises(ValueError, match="is none of the classes"):
            label_of(declaration(**values), text)
    else:
        assert label_of(declaration(**values), text) == expected


def test_respelt_labels_and_tables_that_are_not_used_are_told(tmp_path: Path) -> None:
    toml = CSV + '[labels]\n1 = "malignant"\n'
    rows = ["path,label", "a.png,Benign", "b.png,1.0", "c.png,1.0", "d.png,benign"]
    folder = declare(tmp_path / "mine", toml, "\n".join(rows))
    for name in "abcd":
        png(folder / f"{name}.png")
    (folder / "ages.tsv").write_text("id\tage\n1\t2\n")
    (folder / "~$ages.xlsx").write_bytes(b"lock")
    (folder / "broken.xlsx").write_bytes(b"PK")
    (folder / "LICENCE.txt").write_text("Free, for all.\n")
    assert [sample.label for sample in samples(folder)] == [0, 1, 1, 0]
    labels, tables = remarks(folder)
    assert labels.endswith("blanks or decimals: '1.0' is 'malignant' (2), 'Benign' is 'benign' (1)")
    assert tables.startswith(
        "tables that are not used, because the cases are those of cases.csv: "
        "ages.tsv (its columns: id, age), broken.xlsx: is not a readable .xlsx file"
    )


# --- other commands


def test_prediction_reads_the_same_tables(tmp_path: Path) -> None:
    rows = [("path", "row", "column", "row_spacing", "column_spacing"), ("a", "1,5", 2, "0,5", 1)]
    png(tmp_path / "deep" / "a.png")
    table = tmp_path / "t.xlsx"
    xlsx(*rows).save(table)
    with closing(GivenReader(("benign", "malignant"), "classification", colour=False)) as reader:
        given = images_in_table(table, reader)
        (case,) = given.cases()
        read = reader.read(case)
        assert not hasattr(read, "reason")
    assert (case.case.key, case.case.position, case.spacing) == ("a", (1.5, 2.0), (0.5, 1.0))
    assert given.notes[-1].startswith("path: 1 names without a folder or a suffix are matched")
    model: Any = SimpleNamespace(classes=("benign", "malignant"), task="classification")
    (tmp_path / "labels.csv").write_text("key;label\n'=a;Malignant\nb;benign \n", encoding="utf-16")
    assert read_labels(tmp_path / "labels.csv", model) == {"=a": 1, "b": 0}


def test_score_files_in_any_form_give_the_same(tmp_path: Path) -> None:
    labels = [1, 1, 1, 0, 0, 0]
    one, two = [0.9, 0.4, 0.7, 0.5, 0.25, 0.125], [0.6, 0.7, 0.2, 0.5, 0.3, 0.1]
    rows = list(enumerate(zip(labels, one, two, strict=True)))
    plain = [tmp_path / "one.csv", tmp_path / "two.csv"]
    plain[0].write_text(
        "finding,label,score\n" + "".join(f"f{i},{y},{a}\n" for i, (y, a, _) in rows)
    )
    plain[1].write_text("finding,score\n" + "".join(f"f{i},{b}\n" for i, (_, _, b) in rows))
    (tmp_path / "other").mkdir()
    others = [tmp_path / "other" / "one.tsv", tmp_path / "other" / "two.xlsx"]
    text = "".join(f"f{i}\t{y}.0\t{str(a).replace('.', ',')}\n" for i, (y, a, _) in rows)
    others[0].write_text("finding\tlabel\tscore\n" + text, encoding="utf-16")
    book = xlsx(("finding", "score"), *((f"f{i}", b) for i, (_, _, b) in rows))
    book.save(others[1])
    expected, found = compare_files(plain), compare_files(others)
    assert [each.auc for each in found.files] == [each.auc for each in expected.files]
    assert found.verdicts == expected.verdicts
