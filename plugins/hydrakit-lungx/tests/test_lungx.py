"""The lung adapter, on small files that the tests write and, where present, on the real sheets."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_lungx import hydrakit_dataset_adapters
from hydrakit_lungx.reading import (
    DROPPED,
    NO_IMAGE,
    NO_INSTANCE,
    OUTSIDE,
    SEVERAL_SERIES,
    SEVERAL_SLICES,
    UNREADABLE,
)
from hydrakit_lungx.sheets import read_sheet

(ADAPTER,) = hydrakit_dataset_adapters()
TEST_HEADER = (
    "Scan Number",
    "Nodule Number",
    "Nodule Center x,y Position*",
    "Nodule Center Image",
    "Final Diagnosis",
)
CALIBRATION_HEADER = (*TEST_HEADER[:1], *TEST_HEADER[2:4], "Diagnosis")
SPLIT_HEADER = (
    "Scan Number",
    "Nodule Center x Position",
    "Nodule Center y Position*",
    "Nodule Center Image",
    "Diagnosis",
)
NOTE = "*specified in pixels, where position (1,1) corresponds to the upper-leftmost pixel, x first"
LAST_NOTE = "All images are in DICOM format with a matrix size of 512x512 pixels."


def write_csv(path: Path, *rows: tuple, delimiter: str = ";", encoding: str = "utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter).writerows([*rows, (), (NOTE,), (), (LAST_NOTE,)])
    return path


def write_xlsx(path: Path, *rows: tuple) -> Path:
    book = openpyxl.Workbook()
    book.create_sheet("other", 0)  # an empty sheet before the one that counts
    for row in [*rows, (), (NOTE,), (), (LAST_NOTE,)]:
        book["Sheet"].append(row)
    book.save(path)
    return path


def write_scan(
    folder: Path,
    patient: str = "LUNGx-CT001",
    *,
    instances: tuple[int, ...] = (1, 2, 3),
    modality: str = "CT",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
) -> None:
    """Slices of 6 rows and 8 columns whose pixels are 1000 + InstanceNumber; intercept -1024."""
    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid()
    for at, instance in enumerate(instances):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        dataset.SOPInstanceUID = generate_uid()
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.PatientID, dataset.Modality = patient, modality
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", series
        dataset.SeriesNumber, dataset.InstanceNumber = 4, instance
        dataset.ImageType = list(image_type)
        dataset.ImagePositionPatient = [0, 0, -at]
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.PixelSpacing = [0.7, 0.8]
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, -1024
        dataset.Rows, dataset.Columns = 6, 8
        dataset.BitsAllocated = dataset.BitsStored = 16
        dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
        dataset.PhotometricInterpretation = "MONOCHROME2"
        dataset.PixelData = np.full((6, 8), 1000 + instance, np.uint16).tobytes()
        dataset.save_as(folder / f"z{at}.dcm", enforce_file_format=True)


def read(root: Path, **options: str) -> list[Sample | Unusable]:
    return list(read_samples(ADAPTER, root, options))


def only_reason(root: Path, **options: str) -> str:
    (case,) = read(root, **options)
    assert isinstance(case, Unusable)
    return case.reason


def one_nodule(root: Path, position: str = "5, 3", image: int = 2) -> None:
    write_csv(root / "sheet.csv", TEST_HEADER, ("LUNGx-CT001", 1, position, image, "Benign nodule"))


# --- images


def test_slice_position_and_hounsfield_units(tmp_path):
    one_nodule(tmp_path)
    # Numbered from the feet: the files' order and heights must not matter.
    write_scan(tmp_path / "dicom" / "x", instances=(3, 2, 1))
    (case,) = read(tmp_path)
    assert isinstance(case, Sample)
    assert np.all(case.image == 1002 - 1024)
    assert case.image.dtype == np.float32
    assert case.centre == (2.0, 4.0)  # row 3, column 5, counted from 1
    assert case.spacing == (0.7, 0.8)
    assert (case.patient, case.key, case.label) == ("LUNGx-CT001", "LUNGx-CT001/1", 0)
    assert [path.name for path in case.source] == ["z1.dcm"]


def test_scans_are_matched_in_any_case_and_both_sets_are_read(tmp_path):
    write_scan(tmp_path / "a", "CT-Training-LC001")
    write_scan(tmp_path / "b", "LUNGx-CT001")
    write_csv(tmp_path / "t.csv", TEST_HEADER, ("lungx-ct001", 2, "1, 1", 1, "Benign nodule "))
    write_csv(tmp_path / "c.csv", CALIBRATION_HEADER, ("CT-Training-lc001", "8,6", 3, "malignant"))
    first, second = read(tmp_path)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (first.key, first.label, first.centre) == ("CT-Training-LC001/1", 1, (5.0, 7.0))
    assert (second.key, second.label, second.centre) == ("LUNGx-CT001/2", 0, (0.0, 0.0))


def test_segmentations_and_scouts_do_not_count(tmp_path):
    one_nodule(tmp_path)
    write_scan(tmp_path / "ct")
    write_scan(tmp_path / "scout", image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    write_scan(tmp_path / "other", modality="OT")
    (case,) = read(tmp_path)
    assert isinstance(case, Sample)
    assert case.source[0].parent.name == "ct"


def test_reasons(tmp_path):
    one_nodule(tmp_path)
    assert only_reason(tmp_path) == NO_IMAGE
    write_scan(tmp_path / "a", instances=(1, 3))
    assert only_reason(tmp_path) == NO_INSTANCE
    write_scan(tmp_path / "a", instances=(1, 2, 2))
    assert only_reason(tmp_path) == SEVERAL_SLICES
    write_scan(tmp_path / "a")
    one_nodule(tmp_path, position="9, 3")
    assert only_reason(tmp_path) == OUTSIDE
    write_scan(tmp_path / "b")
    assert only_reason(tmp_path) == SEVERAL_SERIES


def test_a_file_with_cut_off_pixels(tmp_path, caplog):
    one_nodule(tmp_path)
    write_scan(tmp_path / "a")
    path = tmp_path / "a" / "z1.dcm"
    path.write_bytes(path.read_bytes()[:-9])
    assert only_reason(tmp_path) == UNREADABLE
    assert str(path) in caplog.text


def test_suspicious_nodules(tmp_path):
    write_scan(tmp_path / "a")
    row = ("LUNGx-CT001", 1, "5, 3", 2, "Suspicious malignant nodule")
    write_csv(tmp_path / "s.csv", TEST_HEADER, row)
    assert only_reason(tmp_path) == DROPPED
    (case,) = read(tmp_path, suspicious="malignant")
    assert isinstance(case, Sample)
    assert case.label == 1


# --- sheets


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


BENIGN = ("LUNGx-CT001", 1, "5, 3", 2, "Benign nodule")
CANCER = (*BENIGN[:4], "Primary lung cancer")
SECOND = ("LUNGx-CT001", 2, "5, 4", 2, "Benign nodule")


def test_of_two_forms_the_official_one_is_read_and_differences_are_told(tmp_path, caplog):
    header = (*TEST_HEADER[:2], *SPLIT_HEADER[1:])
    write_xlsx(tmp_path / "a.xlsx", header, ("LUNGx-CT001", 1, 5, 4, 2, "Benign nodule"))
    write_csv(tmp_path / "z.csv", TEST_HEADER, BENIGN)
    write_scan(tmp_path / "ct")
    (case,) = read(tmp_path)
    assert isinstance(case, Sample)
    assert case.centre == (2.0, 4.0)
    assert "z.csv is read and not" in caplog.text
    assert "1 with another position" in caplog.text
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
    ],
)
def test_wrong_rows_are_told_on_one_line(tmp_path, row, message):
    good = ("LUNGx-CT009", 1, "5, 3", 2, "Benign nodule")
    path = write_csv(tmp_path / "s.csv", TEST_HEADER, good, row)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert f"{path}, row 3: " in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sheets_that_are_no_whole_set(tmp_path):
    with pytest.raises(DataError, match="no LUNGx nodule sheet"):
        read(tmp_path)
    write_csv(tmp_path / "s.csv", TEST_HEADER[:-1], BENIGN[:-1])
    with pytest.raises(DataError, match="no column for the diagnosis"):
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
    assert f"{CALIBRATION} is read and not" in caplog.text
    assert f"{TEST} is read and not" in caplog.text


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
