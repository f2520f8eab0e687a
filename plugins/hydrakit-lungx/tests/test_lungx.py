"""The lung adapter, on small files that the tests write and, where present, on the real sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lungx_files import (
    BENIGN,
    CALIBRATION_HEADER,
    TEST_HEADER,
    one_nodule,
    only_reason,
    read,
    write_csv,
    write_scan,
)
from pydicom import dcmread
from pydicom.uid import generate_uid

from hydrakit.errors import DataError
from hydrakit.hooks import Sample
from hydrakit_lungx.reading import (
    DROPPED,
    NO_IMAGE,
    NO_INSTANCE,
    NO_NEIGHBOURS,
    OUTSIDE,
    SEVERAL_SERIES,
    SEVERAL_SLICES,
    UNREADABLE,
)

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
    write_csv(tmp_path / "c.csv", CALIBRATION_HEADER, ("CT-Training-lc001", "8, 6", 3, "malignant"))
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
    for choice, label in (("malignant", 1), ("unlabelled", None)):
        (case,) = read(tmp_path, suspicious=choice)
        assert isinstance(case, Sample)
        assert case.label == label


def two_sets(root: Path) -> None:
    """Both sets; the test set's sheet has no diagnoses."""
    write_scan(root / "a", "CT-Training-LC001")
    write_scan(root / "b", "LUNGx-CT001")
    write_csv(root / "test.csv", TEST_HEADER[:-1], ("LUNGx-CT001", 1, "5, 3", 2))
    write_csv(root / "cal.csv", CALIBRATION_HEADER, ("CT-Training-lc001", "8, 6", 3, "malignant"))


def test_nodules_without_diagnosis_are_for_prediction(tmp_path, caplog):
    two_sets(tmp_path)
    labels = {case.key: case.label for case in read(tmp_path) if isinstance(case, Sample)}
    assert labels == {"CT-Training-LC001/1": 1, "LUNGx-CT001/1": None}
    assert "test.csv has no diagnoses" in caplog.text
    write_csv(tmp_path / "truth.csv", TEST_HEADER, BENIGN)
    labels = {case.key: case.label for case in read(tmp_path) if isinstance(case, Sample)}
    assert labels["LUNGx-CT001/1"] == 0


def test_one_set_alone(tmp_path):
    two_sets(tmp_path)
    for name, key in (("calibration", "CT-Training-LC001/1"), ("test", "LUNGx-CT001/1")):
        (case,) = read(tmp_path, set=name)
        assert case.key == key
    (tmp_path / "cal.csv").unlink()
    with pytest.raises(DataError, match="option set: no sheet with scans named CT-Training-"):
        read(tmp_path, set="calibration")


def set_pixels(path: Path, values: list[int]) -> None:
    """Hounsfield units in the first row of a slice."""
    dataset = dcmread(path)
    pixels = np.zeros((6, 8), np.int16)
    pixels[0, : len(values)] = np.array(values) + 1024
    dataset.PixelRepresentation = 1
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (None, [-1000, -1000, -600, 0, 200, 400]),
        ("nodule", [-1000, -1000, -600, 0, 200, 400]),
        ("lung", [-1350, -1000, -600, 0, 150, 150]),
        ("mediastinum", [-150, -150, -150, 0, 200, 250]),
        ("none", [-2000, -1000, -600, 0, 200, 3000]),
    ],
)
def test_windows(tmp_path, window, expected):
    one_nodule(tmp_path)
    write_scan(tmp_path / "a")
    set_pixels(tmp_path / "a" / "z1.dcm", [-2000, -1000, -600, 0, 200, 3000])
    (case,) = read(tmp_path, **({} if window is None else {"window": window}))
    assert isinstance(case, Sample)
    assert case.image.dtype == np.float32
    assert case.image[0, 0, :6].tolist() == expected


def test_neighbouring_slices_are_channels_by_their_planes(tmp_path):
    # The first file lies highest; numbers say nothing about neighbours.
    write_scan(tmp_path / "a", instances=(5, 1, 2, 9, 4))
    one_nodule(tmp_path)

    def numbers(slices: int, image: int = 2) -> list[float]:
        one_nodule(tmp_path, image=image)
        (case,) = read(tmp_path, slices=slices)
        assert isinstance(case, Sample)
        assert case.image.shape == (slices, 6, 8)
        return [float(plane[0, 0]) - 1000 + 1024 for plane in case.image]

    assert numbers(1) == [2]
    assert numbers(3) == [9, 2, 1]
    assert numbers(5) == [4, 9, 2, 1, 5]
    assert numbers(7) == [4, 4, 9, 2, 1, 5, 5]
    assert numbers(5, image=5) == [2, 1, 5, 5, 5]
    (case,) = read(tmp_path, slices=5)
    assert isinstance(case, Sample)
    assert [path.name for path in case.source] == ["z2.dcm", "z1.dcm", "z0.dcm"]


def test_a_missing_or_double_neighbour_is_not_replaced(tmp_path):
    write_scan(tmp_path / "a", instances=(7, 6, 5, 4, 3, 2, 1))
    one_nodule(tmp_path, image=4)
    assert isinstance(read(tmp_path, slices=5)[0], Sample)
    gap = tmp_path / "a" / "z1.dcm"  # image 6
    whole = gap.read_bytes()
    gap.unlink()
    assert isinstance(read(tmp_path, slices=3)[0], Sample)
    assert only_reason(tmp_path, slices=5) == "a slice of its series is missing"
    gap.write_bytes(whole)
    double = dcmread(gap)
    double.InstanceNumber, double.SOPInstanceUID = 60, generate_uid()
    double.file_meta.MediaStorageSOPInstanceUID = double.SOPInstanceUID
    double.save_as(tmp_path / "a" / "double.dcm")
    assert isinstance(read(tmp_path, slices=3)[0], Sample)
    assert only_reason(tmp_path, slices=5) == "several images of its series in one plane"


def test_neighbours_that_cannot_be_used(tmp_path):
    one_nodule(tmp_path)
    write_scan(tmp_path / "a")
    path = tmp_path / "a" / "z2.dcm"
    dataset = dcmread(path)
    dataset.Rows, dataset.PixelData = 3, bytes(3 * 8 * 2)
    dataset.save_as(path)
    assert only_reason(tmp_path, slices="3") == NO_NEIGHBOURS
    assert isinstance(read(tmp_path)[0], Sample)


def test_facts_are_of_the_scanner_and_the_file(tmp_path):
    one_nodule(tmp_path)
    write_scan(tmp_path / "a")
    (case,) = read(tmp_path)
    assert isinstance(case, Sample)
    spacing = {"row spacing (mm)": 0.7, "column spacing (mm)": 0.8}
    display = {"photometric interpretation": "MONOCHROME2"}
    assert case.facts == {"rows": 6, "columns": 8, **spacing, "bits stored": 16, **display}
    assert (case.finding, case.subgroups) == ("1", {})
    for path in (tmp_path / "a").iterdir():
        image = dcmread(path)
        image.ManufacturerModelName = "Brilliance64"
        image.save_as(path)
    (case,) = read(tmp_path)
    assert case.subgroups == {"scanner": "Brilliance64"}


@pytest.mark.parametrize("slices", [1, 3])
def test_padding_is_masked_and_continues_the_scan(tmp_path, slices):
    one_nodule(tmp_path)
    write_scan(tmp_path / "a")
    for path in (tmp_path / "a").iterdir():
        scan = dcmread(path)
        pixels = scan.pixel_array.astype(np.int16)
        pixels[:, 5] = 1500
        pixels[:, 6:] = -2000
        scan.PixelRepresentation, scan.PixelPaddingValue = 1, -2000
        scan["PixelPaddingValue"].VR = "SS"
        scan.PixelData = pixels.tobytes()
        scan.save_as(path)
    (case,) = read(tmp_path, window="none", slices=slices)
    assert case.image.shape == (slices, 6, 8)
    assert (case.image[:, :, 6:] == 1500 - 1024).all()
    assert case.padding.shape == case.image.shape
    assert case.padding[:, :, 6:].all()
    assert not case.padding[:, :, :6].any()
