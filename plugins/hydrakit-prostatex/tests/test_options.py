"""The options of the prostatex adapter: sequences, sets, grade groups, intensities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from prostatex_files import (
    ADAPTER,
    CALC,
    COLUMNS,
    GRADES,
    IMAGES,
    ROWS,
    Listed,
    only_reason,
    only_sample,
    read,
    write_series,
    write_tables,
)
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import MPEG2MPML

from hydrakit.data.dicom import index_headers
from hydrakit.data.prepared.crop import OVERSAMPLING, canvas_side, crop
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import Sample
from hydrakit_prostatex.authors import authors_slice
from hydrakit_prostatex.reading import (
    GRID_SIDE,
    GRID_SPACING,
    MISSING_SLICE,
    NO_SERIES,
    UNREADABLE,
)
from hydrakit_prostatex.tables import (
    PROSTATEX,
    PROSTATEX2,
)

# --- several sequences


def write_exam(root: Path, *, study: str = "1.2.1", z: float = 0.0, value: int = 0) -> list[Listed]:
    """T2, ADC and computed high-b of one study, whose pixels differ by 1000."""
    t2, adc = "t2_tse_tra", "ep2d_diff_tra_DYNDIST_ADC"
    plain = {"study": study, "z": z}
    write_series(
        root / f"{study}t2", t2, 4, value=value, b_values=(None,), image_type=["M"], **plain
    )
    write_series(root / f"{study}adc", adc, 7, value=value + 1000, image_type=["ADC"], **plain)
    write_series(root / f"{study}dwi", CALC, 8, value=value + 2000, head_first=True, **plain)
    return [(t2, 4, "3 2 1"), (adc, 7, "3 2 1"), (CALC, 8, "3 2 1")]


def test_sequences_are_channels_in_the_given_order_on_one_grid(tmp_path):
    listed = write_exam(tmp_path)
    write_tables(tmp_path, ("-13 -7 3.4", "TRUE", listed))
    sample = only_sample(tmp_path, sequences="adc,dwi,t2")
    assert sample.image.shape == (3, 200, 200)
    # The grid lies in the plane of the first one's slice, and so in the others' too.
    assert [np.unique(plane).tolist() for plane in sample.image] == [[1010], [2010], [10]]
    assert sample.centre == (99.5, 99.5)
    assert sample.spacing == (0.5, 0.5)
    assert [path.name for path in sample.source] == ["2.dcm", "4.dcm", "2.dcm"]
    assert sample.facts["rows"] == ROWS
    assert np.all(only_sample(tmp_path, sequences="t2").image == 10)
    assert only_sample(tmp_path, sequences="adc").spacing == (1.5, 2.0)


def test_the_grid_is_around_the_lesion_in_millimetres(tmp_path):
    listed = write_exam(tmp_path)
    # The pixel in row 4, column 3 of the T2 slice through the lesion is bright: 2 mm x 1.5 mm.
    path = next((tmp_path / "1.2.1t2").glob("2.dcm"))
    dataset = dcmread(path)
    pixels = np.zeros((ROWS, COLUMNS), np.uint16)
    pixels[4, 3] = 100
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(path)
    write_tables(tmp_path, ("-14 -4 3", "TRUE", listed))
    t2 = only_sample(tmp_path, sequences="t2,dwi").image[0]
    row, column = (np.mgrid[:200, :200] - 99.5) * 0.5  # millimetres from the lesion
    tent = np.clip(1 - abs(row) / 1.5, 0, None) * np.clip(1 - abs(column) / 2, 0, None)
    np.testing.assert_allclose(t2, 100 * tent, atol=1e-3)


def test_the_grid_covers_what_the_engine_prepares():
    for patch in range(33, 200):
        prepared = ADAPTER.field_of_view.millimetres * canvas_side(patch) / (OVERSAMPLING * patch)
        assert prepared + 2 * GRID_SPACING < GRID_SPACING * GRID_SIDE
    assert ADAPTER.field_of_view.millimetres / (OVERSAMPLING * 65) == GRID_SPACING
    grid = np.random.default_rng(0).normal(size=(1, GRID_SIDE, GRID_SIDE)).astype(np.float32)
    middle = (GRID_SIDE - 1) / 2
    made = Sample(
        image=grid, label=0, patient="p", key="k", centre=(middle,) * 2, spacing=(GRID_SPACING,) * 2
    )
    side = canvas_side(65)
    low = (GRID_SIDE - side) // 2
    expected = grid[:, low : low + side, low : low + side]
    np.testing.assert_array_equal(crop(made, ADAPTER.field_of_view, 65), expected)


def test_all_channels_are_of_the_study_that_shows_the_lesion(tmp_path):
    first = write_exam(tmp_path, study="1.2.1", z=0.9)
    second = write_exam(tmp_path, study="1.2.2", z=0.0, value=100)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [*first, *second]))
    image = only_sample(tmp_path, sequences="t2,dwi,adc").image
    assert [plane.min() for plane in image] == [110, 2110, 1110]
    for path in (tmp_path / "1.2.2adc").glob("*.dcm"):
        path.unlink()
    assert only_reason(tmp_path, sequences="t2,dwi,adc") == NO_SERIES["adc"]


def test_sequences_of_other_frames_of_reference_are_not_stacked(tmp_path):
    listed = write_exam(tmp_path)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", listed))
    for folder, uid in (("1.2.1dwi", "1.5"), ("1.2.1t2", "1.5"), ("1.2.1adc", "1.6")):
        for path in (tmp_path / folder).glob("*.dcm"):
            dataset = dcmread(path)
            dataset.FrameOfReferenceUID = uid
            dataset.save_as(path)
    assert only_sample(tmp_path, sequences="dwi,t2").image.shape == (2, GRID_SIDE, GRID_SIDE)
    reason = only_reason(tmp_path, sequences="dwi,adc")
    assert reason == "its channels have different frames of reference"


def test_sequences_are_not_interpolated_across_a_missing_slice(tmp_path):
    write_series(tmp_path / "dwi", CALC, 8)
    write_series(tmp_path / "t2", "t2_tse_tra", 4, z=-1.4, b_values=(None,), image_type=["M"])
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "3 2 1"), ("t2_tse_tra", 4, "3 2 1")]))
    image = only_sample(tmp_path, sequences="dwi,t2").image
    np.testing.assert_allclose(image[1], 10 + 10 * 1.4 / 3, atol=0.01)  # between 1.6 and 4.6 mm
    (tmp_path / "t2" / "3.dcm").unlink()  # 4.6 mm
    assert only_reason(tmp_path, sequences="dwi,t2") == MISSING_SLICE
    assert np.all(only_sample(tmp_path, sequences="t2").image == 10)


def test_sequences_by_instance_number(tmp_path):
    listed = write_exam(tmp_path)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", listed))
    image = only_sample(tmp_path, sequences="t2,dwi", slice="instance").image
    assert [np.unique(plane).tolist() for plane in image] == [[10], [2030]]  # dwi from the head


def test_an_unknown_list_of_sequences(tmp_path):
    for wrong in ("t1", "t2,t2", "dwi,", ""):
        with pytest.raises(PlanError, match=r"prostatex\.sequences"):
            read(tmp_path, sequences=wrong)


# --- sets and grades


def test_the_test_set_has_no_labels(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    listed = [(CALC, 8, "4 2 1")]
    with pytest.raises(DataError, match=r"no ProstateX-Findings-Test\.csv below it"):
        read(tmp_path, set="test")
    write_tables(tmp_path, ("-13 -7 3", "", listed), tables=PROSTATEX["test"])
    assert only_sample(tmp_path, set="test").label is None
    write_tables(tmp_path, ("-13 -7 6", "TRUE", listed))
    assert [case.label for case in read(tmp_path, set="all") if isinstance(case, Sample)] == [
        1,
        None,
    ]
    assert only_sample(tmp_path).label == 1


def test_grade_groups(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    listed = [(CALC, 8, "4 2 1")]
    findings = [(f"-13 -7 {z}", str(grade), listed) for z, grade in ((3, 1), (6, 5))]
    write_tables(tmp_path, *findings, tables=PROSTATEX2["train"])
    cases = list(read_samples(GRADES, tmp_path, {}))
    assert [case.label for case in cases if isinstance(case, Sample)] == [0, 4]
    assert GRADES.classes[4] == "grade group 5"
    write_tables(tmp_path, ("-13 -7 3", "0", listed), tables=PROSTATEX2["train"])
    with pytest.raises(DataError, match="ggg is '0': must be one of 1, 2, 3, 4, 5"):
        list(read_samples(GRADES, tmp_path, {}))


def test_tables_that_write_one_position_in_two_ways_are_joined(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1")]))
    path = tmp_path / IMAGES
    path.write_text(path.read_text().replace("-13 -7 3", "-13.0001 -7.00 3.0"))
    assert only_sample(tmp_path).label == 1


# --- intensities


def test_authors_intensities(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1")]))
    path = tmp_path / "a" / "2.dcm"
    dataset = dcmread(path)
    values = np.zeros((ROWS, COLUMNS), np.uint16)
    values[0, :6] = (0, 100, 101, 150, 198, 4000)
    dataset.PixelData = values.tobytes()
    dataset.save_as(path)
    assert only_reason(tmp_path, intensity="authors") == UNREADABLE  # it has no window
    # (x - 149.5) / 99 + 0.5 times 255, cut off: 0, 0, 2, 128, 252, 255
    dataset.WindowCenter, dataset.WindowWidth = 150, 100
    dataset.save_as(path)
    image = only_sample(tmp_path, intensity="authors").image
    assert image.dtype == np.float32
    assert image[0, 0, :6].tolist() == [0, 0, 2, 128, 252, 255]
    # Where nothing reaches the window's end, the largest becomes 255: 128 does, 2 becomes 3.
    values[0, 4:6] = 0
    dataset.PixelData = values.tobytes()
    dataset.save_as(path)
    assert authors_slice(path)[0, :6].tolist() == [0, 0, 3, 255, 0, 0]
    dataset.PixelData = bytes(values.nbytes)
    dataset.save_as(path)
    assert not authors_slice(path).any()


def test_rescaled_intensities(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1")]))
    stored = only_sample(tmp_path).image
    np.testing.assert_array_equal(only_sample(tmp_path, intensity="rescaled").image, stored)
    for path in (tmp_path / "a").iterdir():
        dataset = dcmread(path)
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.5", "-3"
        dataset.save_as(path)
    np.testing.assert_array_equal(only_sample(tmp_path).image, stored)
    rescaled = only_sample(tmp_path, intensity="rescaled").image
    np.testing.assert_array_equal(rescaled, stored * 0.5 - 3)


def test_a_missing_codec_stops_the_dataset(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1")]))
    path = tmp_path / "a" / "2.dcm"
    dataset = dcmread(path)
    dataset.file_meta.TransferSyntaxUID = MPEG2MPML
    dataset.PixelData = encapsulate([b"film"])
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    with pytest.raises(DataError, match="store the images uncompressed"):
        read(tmp_path)


# --- real data


def test_the_authors_slices_bit_for_bit(shared_data):
    golden = {
        int(path.name.split("_mri-")[1].split("-")[0]): np.load(path)
        for path in (shared_data / "reference" / "golden_slices").glob("*.npy")
    }
    assert set(golden) == {6, 7, 8}
    for header in index_headers(shared_data / "prostatex"):
        if header.patient_id == "ProstateX-0001" and header.instance_number == 11:
            expected = golden.pop(header.series_number, None)
            if expected is not None:
                made = authors_slice(header.path)
                assert made.dtype == expected.dtype
                np.testing.assert_array_equal(made, expected)
    assert golden == {}


@pytest.mark.parametrize(("sequence", "series"), [("t2", 6), ("adc", 8)])
def test_the_options_give_the_authors_slices(shared_data, sequence, series):
    options = {"sequences": sequence, "slice": "instance", "intensity": "authors"}
    cases = read(shared_data / "prostatex", **options)
    (sample,) = (c for c in cases if isinstance(c, Sample) and c.patient == "ProstateX-0001")
    (path,) = (shared_data / "reference" / "golden_slices").glob(f"*_mri-{series}-*.npy")
    np.testing.assert_array_equal(sample.image[0], np.load(path))
    # The authors' file name holds the voxel: pos-COLUMN-ROW-SLICE.
    column, row = map(int, path.name.split("_pos-")[1].split("-")[:2])
    assert sample.centre == (row, column)


def test_real_sequences_show_one_and_the_same_place(shared_data):
    cases = read(shared_data / "prostatex", sequences="t2,dwi,adc")
    samples = [case for case in cases if isinstance(case, Sample)]
    assert [sample.image.shape for sample in samples] == [(3, 200, 200)] * 2
    for sample in samples:
        _, dwi, adc = sample.image
        # Both maps are nothing where there is air or bone, and so go together.
        assert (
            np.corrcoef((dwi > np.median(dwi)).ravel(), (adc > np.median(adc)).ravel())[0, 1] > 0.4
        )
    assert samples[1].facts["scanner"] == "Skyra"
    assert samples[1].subgroups["scanner"] == "Skyra"
