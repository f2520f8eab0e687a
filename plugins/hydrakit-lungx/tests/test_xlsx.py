"""Broken and hostile .xlsx files, and the absence of the packages for them."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import openpyxl
import pytest

from hydrakit.data.dicom import walk
from hydrakit.errors import DataError
from hydrakit_lungx.sheets import find_sheets, read_sheet

HEADER = (
    "Scan Number",
    "Nodule Number",
    "Nodule Center x,y Position*",
    "Nodule Center Image",
    "Final Diagnosis",
)
NODULE = ("LUNGx-CT001", 1, "5, 3", 2, "Benign nodule")


def xlsx_with(path: Path, part: str, content: bytes) -> Path:
    """A good .xlsx of which one part is replaced."""
    good = io.BytesIO()
    book = openpyxl.Workbook()
    book.active.append(HEADER)
    book.active.append(NODULE)
    book.save(good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(path, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, content if name == part else source.read(name))
    return path


BOMB = b"""<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>
<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>
<row r="1"><c r="A1" t="inlineStr"><is><t>&b;</t></is></c></row></sheetData></worksheet>"""


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "no element found"),
        (b"<worksheet", "unclosed token"),
        (BOMB, "EntitiesForbidden"),
        (b"\0" * 50_000_000, "more than a table may have"),
    ],
)
def test_broken_and_hostile_xlsx_are_told_on_one_line(tmp_path, content, why):
    path = xlsx_with(tmp_path / "s.xlsx", "xl/worksheets/sheet1.xml", content)
    with pytest.raises(DataError) as caught:
        find_sheets(walk(tmp_path), "", tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_xlsx_cut_anywhere_is_told(tmp_path):
    path = xlsx_with(tmp_path / "s.xlsx", "none", b"")
    content = path.read_bytes()
    for size in range(0, len(content), 97):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"is not a readable \.xlsx file"):
            read_sheet(path)


def test_a_cell_far_out_is_not_padded(tmp_path):
    row = b'<row r="1048576"><c r="XFD1048576"><v>1</v></c></row></sheetData>'
    path = xlsx_with(tmp_path / "s.xlsx", "none", b"")
    with zipfile.ZipFile(path) as archive:
        sheet = archive.read("xl/worksheets/sheet1.xml").replace(b"</sheetData>", row)
    xlsx_with(path, "xl/worksheets/sheet1.xml", sheet)
    found = read_sheet(path)
    assert found is not None
    assert list(found.nodules) == ["LUNGx-CT001/1"]


@pytest.mark.parametrize("absent", ["openpyxl", "defusedxml"])
def test_without_the_packages_for_xlsx(tmp_path, monkeypatch, absent):
    xlsx_with(tmp_path / "s.xlsx", "none", b"")
    csv_text = "\n".join(";".join(map(str, row)) for row in (HEADER, NODULE))
    (tmp_path / "sheet.csv").write_text(csv_text)
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DataError, match=r"hydrakit-imaging\[xlsx\]"):
        find_sheets(walk(tmp_path), "", tmp_path)
    (sheet,) = find_sheets(walk(tmp_path), "sheet.csv", tmp_path)
    assert list(sheet.nodules) == ["LUNGx-CT001/1"]
