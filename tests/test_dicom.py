"""The DICOM index, geometry and pixels, on small files that the tests write."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from dicom_files import MR, PIXELS, header, image, save
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from hydrakit.data.dicom import index_headers, read_header, read_pixels, series_facts
from hydrakit.data.dicom.geometry import (
    OTHER_FRAME,
    OTHER_ORIENTATION,
    OTHER_PATIENT,
    OTHER_POSITION,
    OTHER_SPACING,
    Location,
    alignment_fault,
    in_volume,
    locate,
    nearest_slice,
    patient_position,
    slice_distance,
)
from hydrakit.data.dicom.pixels import DicomImage
from hydrakit.errors import DataError


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Headers are kept in a folder of the test's own."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


# --- index


def test_header_holds_what_the_file_says(tmp_path):
    path = save(
        image(
            SeriesNumber=7,
            SeriesDescription=" high b ",
            ImageType=["DERIVED", "PRIMARY", "ADC"],
            InstanceNumber=3,
            ImagePositionPatient=[1.5, -2, 3],
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            PixelSpacing=[0.5, 2],
            SliceThickness=3,
        ),
        tmp_path / "x",
    )
    read = read_header(path)
    assert read is not None
    assert (read.path, read.sop_class, read.patient_id, read.modality) == (path, MR, "P1", "MR")
    assert (read.series_number, read.series_description, read.instance_number) == (7, "high b", 3)
    assert read.image_type == ("DERIVED", "PRIMARY", "ADC")
    assert read.position == (1.5, -2.0, 3.0)
    assert read.orientation == (1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
    assert read.spacing == (0.5, 2.0)
    assert (read.thickness, read.rows, read.columns, read.b_value) == (3.0, 3, 4, None)


def test_facts_are_of_the_scanner_and_the_file_and_not_of_the_patient(tmp_path):
    tags = {"ManufacturerModelName": "Skyra ", "MagneticFieldStrength": 3, "BitsStored": 12}
    told = image(**tags, HighBit=11, PixelSpacing=[0.5, 2], PatientSex="F", PatientAge="061Y")
    read = read_header(save(told, tmp_path / "x"))
    assert read is not None
    assert read.facts() == {
        "scanner": "Skyra",
        "field strength (T)": 3.0,
        "rows": 3,
        "columns": 4,
        "row spacing (mm)": 0.5,
        "column spacing (mm)": 2.0,
        "bits stored": 12,
        "photometric interpretation": "MONOCHROME2",
    }
    assert header(tube_voltage=120.0, spacing=None).facts() == {
        "tube voltage (kV)": 120.0,
        "rows": 10,
        "columns": 10,
        "bits stored": 16,
    }


def test_unusable_values_are_absent_not_errors(tmp_path):
    strange = image(
        ImagePositionPatient=[1, 2],
        ImageOrientationPatient=[1, 0, 0, 1, 0, 0],  # both along x
        PixelSpacing=[0, 1],
        SeriesNumber=None,
        SliceThickness="",
    )
    read = read_header(save(strange, tmp_path / "x"))
    assert read is not None
    assert read.position is read.orientation is read.spacing is read.thickness is None
    assert read.series_number is None
    with pytest.raises(DataError, match="no usable ImagePositionPatient"):
        locate(read, (0.0, 0.0, 0.0))


def private_b_value(value: bytes | None, creator: str = "SIEMENS MR HEADER", **tags) -> Dataset:
    dataset = image(**tags)
    block = dataset.private_block(0x0019, creator, create=True)
    if value is not None:
        block.add_new(0x0C, "OB", value)
    return dataset


def vendor(group: int, creator: str, number: int, vr: str, value: object) -> Dataset:
    """An image with one private element; another block of the group comes first."""
    dataset = image()
    dataset.private_block(group, "SOMETHING ELSE", create=True).add_new(number, "LO", "7")
    dataset.private_block(group, creator, create=True).add_new(number, vr, value)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (private_b_value(b"800 "), 800.0),
        (private_b_value(b"50\0 "), 50.0),
        (private_b_value(b"1000", SequenceName="*ep_b50_800"), 1000.0),
        (private_b_value(b"junk", SequenceName="*ep_b800t"), 800.0),
        (private_b_value(b"7", creator="GEMS_ACQU_01"), None),
        (image(SequenceName="*ep_b400#2"), 400.0),
        (image(SequenceName="*ep_b50_800"), None),  # the range of a map
        (image(SequenceName="*tse2d1_25"), None),
        (image(DiffusionBValue=1400.0), 1400.0),
        (vendor(0x2001, "Philips Imaging DD 001", 0x03, "FL", 600.0), 600.0),
        (vendor(0x2001, "Philips Imaging DD 001", 0x03, "UN", struct.pack("<f", 600)), 600.0),
        (vendor(0x2001, "Philips Imaging DD 002", 0x03, "FL", 600.0), None),
        (vendor(0x0043, "GEMS_PARM_01", 0x39, "IS", [800, 8, 0, 0]), 800.0),
        (vendor(0x0043, "GEMS_PARM_01", 0x39, "IS", [1000001500, 8, 0, 0]), 1500.0),
        (vendor(0x0043, "GEMS_PARM_01", 0x39, "UN", b"1000000750\\8\\0\\0 "), 750.0),
        (vendor(0x0043, "GEMS_PARM_01", 0x39, "IS", 0), 0.0),
        (vendor(0x0043, "GEMS_PARM_01", 0x39, "UN", b"\xff\xfe junk"), None),
        (vendor(0x0043, "OTHER", 0x39, "IS", [800, 8, 0, 0]), None),
        (vendor(0x0065, "Image Private Header", 0x09, "FD", 50.0), 50.0),
        (vendor(0x0065, "Image Private Header", 0x09, "UN", struct.pack("<d", 50)), 50.0),
        (vendor(0x0065, "Image Private Header", 0x09, "UN", b"50"), 50.0),
        (vendor(0x2001, "Philips Imaging DD 001", 0x03, "FL", float("nan")), None),
        (vendor(0x2001, "Philips Imaging DD 001", 0x03, "FL", -1.0), None),
        (image(), None),
    ],
)
def test_b_value(tmp_path, dataset, expected):
    read = read_header(save(dataset, tmp_path / "x"))
    assert read is not None
    assert read.b_value == expected


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0x2001, "Philips Imaging DD 001", 0x03, "FL"), 600.0),
        ((0x0043, "GEMS_PARM_01", 0x39, "IS"), [1000000600, 8, 0, 0]),
        ((0x0065, "Image Private Header", 0x09, "FD"), 600.0),
    ],
)
def test_b_values_of_other_vendors_in_implicit_vr(tmp_path, place, value):
    dataset = vendor(*place, value)
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    path = save(dataset, tmp_path / "x")
    assert read_header(path).b_value == 600
    with DicomImage(path) as file:
        assert file.header().b_value == 600


def test_private_b_value_in_implicit_vr(tmp_path):
    dataset = private_b_value(None)
    dataset.private_block(0x0019, "SIEMENS MR HEADER").add_new(0x0C, "IS", "800")
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    read = read_header(save(dataset, tmp_path / "x"))
    assert read is not None
    assert read.b_value == 800.0


def test_index_passes_over_what_is_no_image(tmp_path):
    save(image(), tmp_path / "b" / "no_suffix")
    save(image(SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG"), tmp_path / "seg.dcm")
    for name in ("1.2.840.10008.5.1.4.1.1.88.33", "1.2.840.10008.5.1.4.1.1.481.3"):  # SR, RTSTRUCT
        plain = image(SOPClassUID=name)
        del plain.PixelData, plain.Rows, plain.Columns
        save(plain, tmp_path / f"{name}.dcm")
    directory = image(SOPClassUID="1.2.840.10008.1.3.10")
    del directory.PixelData, directory.Rows
    save(directory, tmp_path / "DICOMDIR")
    (tmp_path / "LICENSE").write_text("text")
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "._1.dcm").write_bytes(b"\0" * 4096)
    assert [found.path.name for found in index_headers(tmp_path)] == ["no_suffix"]


def test_index_is_sorted_and_keeps_one_of_two_copies(tmp_path):
    first = save(image(), tmp_path / "b" / "1.dcm")
    other = save(image(), tmp_path / "c" / "1.dcm")
    copy = tmp_path / "a" / "1.dcm"
    copy.parent.mkdir()
    shutil.copy(first, copy)
    assert [found.path for found in index_headers(tmp_path)] == [copy, other]


def test_index_follows_links_once(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(image(), elsewhere / "1.dcm")
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(elsewhere)
    (elsewhere / "loop").symlink_to(root)
    assert [found.path for found in index_headers(root)] == [root / "link" / "1.dcm"]


def test_no_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        index_headers(tmp_path / "absent")


def fault(path: Path) -> str | None:
    try:
        read_header(path)
    except DataError as error:
        return str(error)
    return None


def test_a_header_cut_anywhere_is_told_or_whole(tmp_path):
    path = save(
        image(ImagePositionPatient=[0, 0, 1], PixelSpacing=[1, 1], SequenceName="*ep_b800t"),
        tmp_path / "whole",
    )
    whole = read_header(path)
    assert whole is not None
    content = path.read_bytes()
    cut = tmp_path / "cut"
    told = 0
    for size in range(len(content)):
        cut.write_bytes(content[:size])
        if size < 132:
            assert read_header(cut) is None
            continue
        message = fault(cut)
        if message is None:
            assert read_header(cut) == replace(whole, path=cut)
            with pytest.raises(DataError, match="pixels cannot be read"):
                read_pixels(cut)
        else:
            assert message.startswith(f"{cut}: broken DICOM header")
            assert "\n" not in message
            told += 1
    assert told > 500


def test_broken_headers_are_counted(tmp_path):
    for name in "abc":
        path = save(image(), tmp_path / name)
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(DataError, match=r"a: broken DICOM header .*\(and 2 more such files\)$"):
        index_headers(tmp_path)


def test_the_scanner_is_a_subgroup():
    assert header(model="Skyra").subgroups() == {"scanner": "Skyra"}
    assert header(model="x" * 99).subgroups() == {"scanner": "x" * 64}  # as long as DICOM allows
    assert header(model="").subgroups() == {}


def test_series_facts():
    headers = [
        header(b_value=800.0, image_type=("DERIVED", "TRACEW")),
        header(b_value=50.0, image_type=("DERIVED",)),
        header(series_uid="other", series_number=2, series_description="T2"),
        header(b_value=800.0),
    ]
    first, second = series_facts(headers)
    assert (first.series_uid, first.number, first.images) == ("1.2.3.4", 1, 3)
    assert first.b_values == (50.0, 800.0)
    assert first.image_types == {"DERIVED", "TRACEW"}
    assert (first.plane, second.plane) == ("transverse", "transverse")
    assert (second.series_uid, second.description, second.b_values) == ("other", "T2", ())


def test_the_plane_of_a_series_is_the_nearest_one():
    tilted = (0.0, 0.94, -0.34, 0.0, -0.34, -0.94)
    for orientation, plane in (
        ((1.0, 0.0, 0.0, 0.0, 0.0, -1.0), "coronal"),
        (tilted, "sagittal"),
        (None, None),
    ):
        (facts,) = series_facts([header(orientation=orientation)])
        assert facts.plane == plane
    (mixed,) = series_facts([header(), header(orientation=tilted)])
    assert mixed.plane is None


# --- geometry


def test_rows_and_columns_of_a_pixel_that_is_not_square():
    # Rows run along x (so columns count along x), 2 mm between columns and 0.5 mm between rows.
    plane = header(position=(-10.0, 20.0, 5.0), spacing=(0.5, 2.0))
    assert locate(plane, (-4.0, 21.0, 6.5)) == Location(row=2.0, column=3.0, distance=1.5)


@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
    spacing=st.tuples(st.floats(0.1, 5), st.floats(0.1, 5)),
    row=st.floats(-50, 500),
    column=st.floats(-50, 500),
    distance=st.floats(-100, 100),
)
def test_geometry_agrees_with_the_affine_of_the_standard(
    turn, origin, spacing, row, column, distance
):
    x, y, z = Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    plane = header(position=origin, orientation=(*x, *y), spacing=spacing)
    # PS3.3 equation C.7.6.2.1-1, with the normal as the third direction.
    matrix = np.eye(4)
    matrix[:3] = np.column_stack([x * spacing[1], y * spacing[0], z, origin])
    point = (matrix @ [column, row, distance, 1])[:3]
    assert patient_position(plane, Location(row, column, distance)) == pytest.approx(
        tuple(point), abs=1e-6
    )
    found = locate(plane, tuple(point))
    assert (found.row, found.column, found.distance) == pytest.approx(
        (row, column, distance), abs=1e-6
    )


def test_nearest_slice_does_not_follow_the_numbers():
    stack = [header(instance_number=n, position=(0.0, 0.0, 30.0 - 3 * n)) for n in range(1, 8)]
    unplaced = header(instance_number=99, position=None)
    found = nearest_slice([unplaced, *stack], (4.0, 5.0, 18.4))
    assert found is not None
    assert found[0].instance_number == 4  # z = 18
    assert found[1] == Location(5.0, 4.0, pytest.approx(0.4))
    assert nearest_slice([unplaced], (4.0, 5.0, 18.4)) is None


def test_volume_ends_half_a_slice_after_the_last_one_and_where_slices_are_missing():
    stack = [header(instance_number=z, position=(0.0, 0.0, 3.0 * z)) for z in (0, 1, 2, 3, 6, 7)]

    def inside(*point: float) -> bool:
        found = nearest_slice(stack, point)
        assert found is not None
        return in_volume(stack, *found)

    assert slice_distance(stack, stack[0]) == 3.0
    assert inside(0.0, 0.0, -1.5)
    assert not inside(0.0, 0.0, -1.6)
    assert inside(9.4, -0.5, 4.0)
    assert not inside(9.6, 0.0, 4.0)
    assert not inside(0.0, -0.6, 4.0)
    assert not inside(0.0, 0.0, 12.0)  # slices 4 and 5 are missing


def test_a_single_slice_is_as_thick_as_it_says():
    assert slice_distance([header(thickness=4.0)], header(thickness=4.0)) == 4.0
    thin = header()
    assert in_volume([thin], thin, Location(0.0, 0.0, 0.0))
    assert not in_volume([thin], thin, Location(0.0, 0.0, 0.01))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({}, None),
        ({"patient_id": "P2"}, OTHER_PATIENT),
        ({"frame_uid": "1.9"}, OTHER_FRAME),
        ({"frame_uid": ""}, None),  # what only one of them states is not compared
        ({"patient_id": "", "spacing": None, "orientation": None, "position": None}, None),
        ({"spacing": (2.0, 2.0)}, OTHER_SPACING),
        ({"spacing": (0.5, 0.502)}, OTHER_SPACING),  # 0.4 mm at the end of a row of 200 pixels
        ({"spacing": (0.5, 0.5005)}, None),
        ({"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)}, OTHER_ORIENTATION),
        ({"orientation": (0.0, 1.0, 0.0, 1.0, 0.0, 0.0)}, OTHER_ORIENTATION),  # transposed
        ({"orientation": (1.0, 1e-3, 0.0, -1e-3, 1.0, 0.0)}, None),  # 0.1 mm
        ({"orientation": (1.0, 5e-3, 0.0, -5e-3, 1.0, 0.0)}, OTHER_ORIENTATION),
        ({"position": (10.0, 0.0, 23.0)}, OTHER_POSITION),  # the next slice
        ({"position": (10.3, 0.0, 20.0)}, OTHER_POSITION),
        ({"position": (10.2, 0.0, 20.1)}, None),
        ({"patient_id": "P2", "spacing": (2.0, 2.0)}, OTHER_PATIENT),
    ],
)
def test_channels_of_one_image_show_the_same_place(changes, fault):
    given = {"spacing": (0.5, 0.5), "position": (10.0, 0.0, 20.0), "frame_uid": "1.5"}
    one = header(rows=200, columns=200, **given)
    other = header(rows=200, columns=200, **{**given, **changes})
    assert alignment_fault([one]) is None
    assert alignment_fault([one, one, other]) == fault
    assert alignment_fault([other, one]) == fault


# --- pixels


def test_pixels_are_the_stored_values_or_rescaled(tmp_path):
    path = save(image(RescaleSlope=2, RescaleIntercept=-1024), tmp_path / "x")
    stored = read_pixels(path)
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, PIXELS)
    rescaled = read_pixels(path, rescale=True)
    assert rescaled.dtype == np.float32
    np.testing.assert_array_equal(rescaled, PIXELS * 2.0 - 1024)


def test_signed_pixels(tmp_path):
    values = np.array([[-5, 7]], dtype=np.int16)
    path = save(
        image(Rows=1, Columns=2, PixelRepresentation=1, PixelData=values.tobytes()), tmp_path / "x"
    )
    np.testing.assert_array_equal(read_pixels(path), values)


def test_pixels_that_cannot_be_used(tmp_path):
    with pytest.raises(DataError, match="no usable RescaleSlope"):
        read_pixels(save(image(), tmp_path / "plain"), rescale=True)
    colour = image(
        SamplesPerPixel=3,
        PhotometricInterpretation="RGB",
        PlanarConfiguration=0,
        PixelData=PIXELS.tobytes() * 3,
    )
    with pytest.raises(DataError, match="a greyscale image is required"):
        read_pixels(save(colour, tmp_path / "colour"))


def test_real_images(shared_data):
    headers = index_headers(shared_data / "prostatex")
    assert len(headers) == 376
    assert {found.patient_id for found in headers} == {"ProstateX-0000", "ProstateX-0001"}
    facts = {(f.patient_id[-4:], f.number): f for f in series_facts(headers)}
    assert facts["0000", 6].b_values == (50.0, 400.0, 800.0)
    assert facts["0001", 9].b_values == (1000.0,)
    assert "ADC" in facts["0000", 7].image_types
    assert read_pixels(headers[0].path).shape == (headers[0].rows, headers[0].columns)
