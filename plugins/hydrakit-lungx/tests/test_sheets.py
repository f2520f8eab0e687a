"""The nodule sheets in their forms; and where present, the real ones."""

from __future__ import annotations

import csv
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lungx_files import (
    BENIGN,
    CALIBRATION_HEADER,
    CANCER,
    SECOND,
    SPLIT_HEADER,
    TEST_HEADER,
    one_nodule,
    only_reason,
    read,
    write_csv,
    write_scan,
    write_xlsx,
)

from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_lungx.reading import (
    DROPPED,
    NO_IMAGE,
)
from hydrakit_lungx.sheets import _position, read_sheet


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("135, 303", (135, 303)),
        ("120,325", (120, 325)),
        ("135 303", (135, 303)),
        ("(135, 303)", (135, 303)),
        (120325, (120, 325)),  # what a spreadsheet makes of 120,325
        (95328, (95, 328)),
        (120325.0, (120, 325)),
        (120.325, (120, 325)),  # no zero can be lost: a row has three digits at most
        ("97, 29", (97, 29)),
    ],
)
@pytest.mark.parametrize("form", ["csv;", "csv,", "xlsx"])
def test_position_cells(tmp_path, cell, expected, form):
    rows = (CALIBRATION_HEADER, ("CT-Training-be001", cell, 7, "benign"))
    if form == "xlsx":
        path = write_xlsx(tmp_path / "s.xlsx", *rows)
    else:
        path = write_csv(tmp_path / "s.csv", *rows, delimiter=form[-1], encoding="utf-8-sig")
    sheet = read_sheet(path)
    assert sheet is not None
    (nodule,) = sheet.nodules.values()
    assert (nodule.column, nodule.row) == expected
    assert (nodule.key, nodule.image, nodule.label) == ("CT-Training-BE001/1", 7, "benign")


@pytest.mark.parametrize("cell", [197.29, 197.3, "97.5", 120032, "5012"])
@pytest.mark.parametrize("form", ["csv;", "csv,", "xlsx"])
def test_a_number_that_may_have_lost_zeros_is_refused(tmp_path, cell, form):
    rows = (CALIBRATION_HEADER, ("CT-Training-be001", cell, 7, "benign"))
    if form == "xlsx":
        path = write_xlsx(tmp_path / "s.xlsx", *rows)
    else:
        path = write_csv(tmp_path / "s.csv", *rows, delimiter=form[-1])
    with pytest.raises(DataError) as caught:
        read_sheet(path)
    place = "sheet 'Sheet', row 2" if form == "xlsx" else "line 2"
    assert f"{path}, {place}: position is '{cell}': a spreadsheet may have" in str(caught.value)
    assert "write them with a blank" in str(caught.value)


@pytest.mark.parametrize("form", [";", "xlsx"])
def test_a_decimal_comma_in_a_csv_that_may_have_lost_zeros_is_a_warning(tmp_path, form, caplog):
    cells = ("197,29", "135,303", "97, 29")
    rows = [(f"CT-Training-be00{at}", cell, 7, "benign") for at, cell in enumerate(cells)]
    if form == "xlsx":
        path = write_xlsx(tmp_path / "s.xlsx", CALIBRATION_HEADER, *rows)
    else:
        path = write_csv(tmp_path / "s.csv", CALIBRATION_HEADER, *rows, delimiter=form)
    sheet = read_sheet(path)
    assert sheet is not None
    first, *_ = sheet.nodules.values()
    assert (first.column, first.row) == (197, 29)
    expected = [] if form == "xlsx" else [f"lung: {path}: 1 positions, the first '197,29', may be"]
    assert [
        record.getMessage()[: len(text)]
        for record, text in zip(caplog.records, expected, strict=True)
    ] == expected


@given(column=st.integers(1, 512), row=st.integers(1, 512))
def test_a_position_read_as_decimals_is_never_another_position(column, row):
    number = float(f"{column}.{row}")  # what a spreadsheet with decimal commas makes of it
    try:
        assert _position(str(number)) == (column, row)
    except ValueError:
        assert row < 100 or row % 10 == 0


@given(column=st.integers(1, 512), row=st.integers(100, 512))
def test_a_position_survives_becoming_a_number(tmp_path_factory, column, row):
    path = tmp_path_factory.getbasetemp() / "number.csv"
    write_csv(path, CALIBRATION_HEADER, ("CT-Training-be001", f"{column}{row}", 7, "benign"))
    sheet = read_sheet(path)
    assert sheet is not None
    (nodule,) = sheet.nodules.values()
    assert (nodule.column, nodule.row) == (column, row)


def test_split_position_and_the_authors_columns(tmp_path):
    split = read_sheet(
        write_xlsx(
            tmp_path / "s.xlsx", SPLIT_HEADER, ("CT-Training-LC001", 120, 325, 135, "benign")
        )
    )
    header = ("Scan number", "Nodule Number", "Nodule Center Position", "Nodule Center Image")
    authors = read_sheet(
        write_csv(
            tmp_path / "a.csv",
            (*header, "Diagnosis"),
            ("CT-Training-LC001", 1, "120 325", 135, "benign"),
            delimiter=",",
        )
    )
    assert split is not None
    assert authors is not None
    assert split.nodules == authors.nodules
    assert (split.one_cell, authors.one_cell) == (False, True)


def test_other_tables_and_lock_files_are_passed_over(tmp_path):
    one_nodule(tmp_path)
    write_csv(tmp_path / "metadata.csv", ("Series UID", "Subject ID"), ("1.2", "LUNGx-CT001"))
    (tmp_path / "~$sheet.xlsx").write_bytes(b"lock")
    (tmp_path / "._sheet.csv").write_bytes(b"\0\5\x16\7")
    assert only_reason(tmp_path) == NO_IMAGE


def test_of_two_forms_the_official_one_is_read_and_differences_are_told(tmp_path, caplog):
    header = (*TEST_HEADER[:2], *SPLIT_HEADER[1:])
    write_xlsx(tmp_path / "a.xlsx", header, ("LUNGx-CT001", 1, 5, 4, 2, "Benign nodule"))
    write_csv(tmp_path / "z.csv", TEST_HEADER, BENIGN)
    write_scan(tmp_path / "ct")
    (case,) = read(tmp_path)
    assert isinstance(case, Sample)
    assert case.centre == (2.0, 4.0)
    assert "z.csv is used instead of" in caplog.text
    assert "LUNGx-CT001/1 is at 5, 4 in image 2 there and not at 5, 3 in image 2" in caplog.text
    (case,) = read(tmp_path, sheet="a.xlsx")
    assert isinstance(case, Sample)
    assert case.centre == (3.0, 4.0)


def test_of_two_official_forms_the_longer_one_then_the_csv(tmp_path, caplog):
    write_csv(tmp_path / "a.csv", TEST_HEADER, BENIGN)
    write_xlsx(tmp_path / "b.xlsx", TEST_HEADER, BENIGN)
    assert len(read(tmp_path)) == 1
    assert not caplog.text  # they agree
    write_xlsx(tmp_path / "b.xlsx", TEST_HEADER, BENIGN, SECOND)
    assert len(read(tmp_path)) == 2


def test_two_sheets_that_disagree_on_a_label(tmp_path):
    write_csv(tmp_path / "a.csv", TEST_HEADER, BENIGN)
    write_xlsx(tmp_path / "b.xlsx", TEST_HEADER, CANCER)
    with pytest.raises(DataError, match="nodule LUNGx-CT001/1 is benign in one and malignant"):
        read(tmp_path)
    write_scan(tmp_path / "ct")
    (case,) = read(tmp_path, sheet="b.xlsx")
    assert isinstance(case, Sample)
    assert case.label == 1
    with pytest.raises(DataError, match=r"no file 'c\.csv'"):
        read(tmp_path, sheet="b.xlsx, c.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("LUNGx-CT001", 1, "5, 3", 2, "unclear"), "diagnosis is 'unclear'"),
        (("LUNGx-CT001", 1, "five", 2, "benign"), "position is 'five'"),
        (("LUNGx-CT001", 1, "0, 3", 2, "benign"), "position is '0, 3'"),
        (("LUNGx-CT001", 1, "5, 3", 0, "benign"), "center image is '0'"),
        (("LUNGx-CT001", "x", "5, 3", 2, "benign"), "nodule number is 'x'"),
        (("Subject 7", 1, "5, 3", 2, "benign"), "scan is 'Subject 7'"),
        (("LUNGx-CT001",), "diagnosis is ''"),
        (("LUNGx-CT009", 1, "5, 3", 2, "benign"), "listed twice"),
        (("LUNGx-CT001", 1, "5, 3", "1.000", "benign"), "center image is '1.000'"),
    ],
)
def test_wrong_rows_are_told_on_one_line(tmp_path, row, message):
    good = ("LUNGx-CT009", 1, "5, 3", 2, "Benign nodule")
    path = write_csv(tmp_path / "s.csv", TEST_HEADER, good, row)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert f"{path}, line 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sheets_that_are_no_whole_set(tmp_path):
    with pytest.raises(DataError, match="no LUNGx nodule sheet"):
        read(tmp_path)
    write_csv(tmp_path / "s.csv", (*TEST_HEADER[:2], *TEST_HEADER[3:]), BENIGN[:2] + BENIGN[3:])
    with pytest.raises(DataError, match="no column for the position"):
        read(tmp_path)
    write_csv(tmp_path / "s.csv", TEST_HEADER)
    with pytest.raises(DataError, match="holds no nodule"):
        read(tmp_path)
    write_csv(tmp_path / "s.csv", TEST_HEADER, BENIGN, ("CT-Training-LC001", *BENIGN[1:]))
    with pytest.raises(DataError, match="holds both sets"):
        read(tmp_path)


# --- real sheets

CALIBRATION = "calibration.csv"
TEST = "TestSet_NoduleData_PublicRelease_wTruth.csv"


def test_real_sheets(shared_data):
    root = shared_data / "lung"
    calibration, test = read_sheet(root / CALIBRATION), read_sheet(root / TEST)
    assert calibration is not None
    assert test is not None
    labels = Counter(nodule.label for nodule in calibration.nodules.values())
    assert labels == {"benign": 5, "malignant": 5}
    labels = Counter(nodule.label for nodule in test.nodules.values())
    assert labels == {"benign": 37, "malignant": 34, "suspicious": 2}
    assert len({nodule.scan for nodule in test.nodules.values()}) == 60
    assert (calibration.kind, test.kind) == ("CT-Training-", "LUNGx-CT")
    assert calibration.nodules["CT-Training-LC001/1"].column == 120
    assert test.nodules["LUNGx-CT002/2"].row == 212


def test_real_sheets_are_chosen_and_every_nodule_comes_out(shared_data, caplog):
    cases = read(shared_data / "lung")
    assert len(cases) == 83
    reasons = Counter(case.reason for case in cases if isinstance(case, Unusable))
    assert reasons == {NO_IMAGE: 81, DROPPED: 2}
    assert f"{CALIBRATION} is used instead of" in caplog.text
    assert f"{TEST} is used instead of" in caplog.text
    assert "CT-Training-BE001/1 is at 405, 259 in image 169 there" in caplog.text
    assert "not there: LUNGx-CT002/2, LUNGx-CT004/2" in caplog.text
    assert len(caplog.records) == 2
    read(shared_data / "lung")
    assert len(caplog.records) == 2  # each is said once


def test_real_image_numbers_lie_within_their_series(shared_data):
    with (shared_data / "idc" / "spie_aapm_lung_ct_challenge_series.csv").open() as file:
        images = {
            row["PatientID"]: int(row["instanceCount"])
            for row in csv.DictReader(file)
            if row["Modality"] == "CT"
        }
    assert len(images) == 70
    for name in (CALIBRATION, TEST):
        sheet = read_sheet(shared_data / "lung" / name)
        assert sheet is not None
        for nodule in sheet.nodules.values():
            assert nodule.image <= images[nodule.scan]
