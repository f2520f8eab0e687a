"""DICOM images of several frames, each read alone, with its own geometry and values."""

from __future__ import annotations

import logging
import shutil
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import MR, enhanced, image, item, save
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.declared.given import GivenReader, images_in_files, images_in_folder
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.schema import ImageRules
from hydrakit.data.dicom import index_headers, read_header, read_pixels
from hydrakit.data.dicom.geometry import Location, patient_position
from hydrakit.data.dicom.pixels import DicomImage
from hydrakit.errors import DataError
from hydrakit.hooks import NoOptions

OWN_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
STACK = np.random.default_rng(0).integers(0, 4096, (5, 48, 64), dtype=np.uint16)
ORIENTATION = [0.8, 0.6, 0, 0, 0, -1]  # oblique; its normal is (-0.6, 0.8, 0)
NORMAL = np.cross(ORIENTATION[:3], ORIENTATION[3:])


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def position(frame: int) -> list[float]:
    return [round(float(x), 6) for x in np.array([10, -20, 30]) + 2.5 * frame * NORMAL]


def stack(**tags):
    """Five frames: for all orientation and spacing, for each position, values and b-value."""
    frames = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=position(i))],
            PixelValueTransformationSequence=[
                item(RescaleSlope=i + 1, RescaleIntercept=-i, RescaleType="US")
            ],
            FrameVOILUTSequence=[item(WindowCenter=1000 * (i + 1), WindowWidth=500)],
            MRDiffusionSequence=[item(DiffusionBValue=200.0 * i)],
        )
        for i in range(len(STACK))
    ]
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=ORIENTATION)],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.7], SliceThickness=2.5)],
    )
    return enhanced(STACK, shared=shared, frames=frames, **tags)


def pack(dataset, syntax, package):
    if package:
        pytest.importorskip(package, reason="needs hydrakit-imaging[codecs]")
    if syntax.is_compressed:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        dataset.file_meta.TransferSyntaxUID = syntax
    return dataset


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (ImplicitVRLittleEndian, None),
        (DeflatedExplicitVRLittleEndian, None),
        (RLELossless, None),
        (JPEG2000Lossless, "openjpeg"),
        (JPEGLSLossless, "jpeg_ls"),
    ],
)
def test_each_frame_has_its_own_pixels_and_elements(tmp_path, syntax, package):
    path = save(pack(stack(), syntax, package), tmp_path / "x")
    whole = dcmread(path).pixel_array
    np.testing.assert_array_equal(whole, STACK)
    with DicomImage(path) as file:
        for frame in (3, 0, 4, 1, 2):
            header = file.header(frame)
            assert (header.frames, header.rows, header.columns) == (5, 48, 64)
            assert header.position == tuple(position(frame))
            assert header.orientation == tuple(ORIENTATION)
            assert (header.spacing, header.thickness) == ((0.5, 0.7), 2.5)
            assert header.b_value == 200 * frame
            assert header.facts()["frames"] == 5
            np.testing.assert_array_equal(file.stored(frame).pixels, whole[frame])
            assert file.stored(frame).window == (1000 * (frame + 1), 500)
            grey = file.grey(frame, rescale=True)
            np.testing.assert_array_equal(grey.pixels, whole[frame] * (frame + 1.0) - frame)
            assert grey.tags == ("applied" if frame else "without effect")
            low = 1000 * (frame + 1) - 0.5 - 499 / 2
            expected = np.clip((grey.pixels.astype(np.float64) - low) / 499, 0, 1) * 255
            window = file.grey(frame, rescale=None, own_window=True).pixels
            np.testing.assert_allclose(window, expected, atol=1e-3)


def test_the_place_of_each_pixel_is_that_of_simpleitk(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    path = save(stack(), tmp_path / "x.dcm")
    volume = sitk.ReadImage(str(path))
    assert volume.GetSize() == (64, 48, 5)
    with DicomImage(path) as file:
        for frame, row, column in ((0, 0, 0), (4, 47, 63), (2, 3, 9)):
            header = file.header(frame)
            ours = patient_position(header, Location(row, column, 0.0))
            theirs = volume.TransformIndexToPhysicalPoint((column, row, frame))
            np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_groups_of_a_frame_precede_those_of_all_and_the_images_own(tmp_path):
    dataset = stack(PixelSpacing=[9, 9], ImagePositionPatient=[9, 9, 9], WindowCenter=9)
    each = dataset.PerFrameFunctionalGroupsSequence
    each[1].PixelMeasuresSequence = [item(PixelSpacing=[0.25, 0.25])]
    del each[2].PlanePositionSequence
    path = save(dataset, tmp_path / "x")
    with DicomImage(path) as file:
        assert [file.header(i).spacing[0] for i in range(3)] == [0.5, 0.25, 0.5]
        assert file.header(1).position == tuple(position(1))
        assert file.header(2).position is None  # the image's own is that of no frame
        assert file.stored(0).window == (1000, 500)


def test_a_cine_loop_without_functional_groups(tmp_path):
    dataset = image(NumberOfFrames=4, Rows=6, Columns=8, Modality="US", BitsAllocated=8)
    dataset.BitsStored, dataset.HighBit = 8, 7
    loop = np.random.default_rng(1).integers(0, 256, (4, 6, 8), dtype=np.uint8)
    dataset.PixelData = loop.tobytes()
    path = save(dataset, tmp_path / "x")
    with DicomImage(path) as file:
        for frame in range(4):
            np.testing.assert_array_equal(file.grey(frame, rescale=None).pixels, loop[frame])
            assert file.header(frame).position is None


def test_only_the_frame_that_is_asked_for_is_read(tmp_path, monkeypatch):
    """The whole image is over the limit, one frame is not."""
    path = save(stack(), tmp_path / "x")
    monkeypatch.setattr("hydrakit.data.dicom.pixels.MAX_PIXELS", 48 * 64)
    with DicomImage(path) as file:
        np.testing.assert_array_equal(file.stored(4).pixels, STACK[4])
        start = file._start
        assert file._file.tell() <= start + 12  # where the pixels begin, and not behind them
    monkeypatch.setattr("hydrakit.data.dicom.pixels.MAX_PIXELS", 48 * 64 - 1)
    with DicomImage(path) as file, pytest.raises(DataError, match="48 x 64 pixels: too many"):
        file.stored(4)


def test_a_frame_must_be_named_and_exist(tmp_path):
    path = save(stack(), tmp_path / "x")
    single = save(image(), tmp_path / "y")
    with closing(ImageReader(ImageRules())) as reader:
        for place, row, reason in (
            (path, None, "has 5 frames: name one as FILE#[0] to FILE#[4]"),
            (path, 5, "has no frame 5: it has 5, counted from 0"),
            (single, 1, "has no frame 1: it has 1, counted from 0"),
        ):
            with pytest.raises(ImageError) as caught:
                reader.read(place, row=row)
            assert caught.value.reason == reason
        picture = reader.read(path, row=3)
        np.testing.assert_array_equal(picture.pixels[0], STACK[3] * 4.0 - 3)
        assert picture.spacing == (0.5, 0.7)
        assert picture.header.position == tuple(position(3))
        assert reader.read(single, row=0).pixels.shape == (1, 3, 4)
    with pytest.raises(DataError, match="has 5 frames"):
        read_pixels(path)


def test_groups_of_too_few_frames(tmp_path):
    dataset = stack()
    del dataset.PerFrameFunctionalGroupsSequence[3:]
    path = save(dataset, tmp_path / "x")
    with DicomImage(path) as file:
        assert file.header(2).b_value == 400
        with pytest.raises(DataError, match="functional groups of 3 frames, and none of frame 3"):
            file.header(3)


def test_an_enhanced_image_of_one_frame_needs_no_index(tmp_path):
    dataset = stack()
    dataset.NumberOfFrames = 1
    del dataset.PerFrameFunctionalGroupsSequence[1:]
    dataset.PixelData = STACK[0].tobytes()
    header = read_header(save(dataset, tmp_path / "x"))
    assert (header.position, header.spacing, header.b_value) == (tuple(position(0)), (0.5, 0.7), 0)
    assert "frames" not in header.facts()
    (indexed,) = index_headers(tmp_path)
    assert indexed == header


def test_images_of_several_frames_are_left_out_of_an_index_with_a_warning(tmp_path, caplog):
    several = save(stack(), tmp_path / "a")
    save(image(), tmp_path / "b")
    for _ in range(2):  # read, and then from the cache
        with caplog.at_level(logging.WARNING):
            (header,) = index_headers(tmp_path)
        assert header.path.name == "b"
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{several}: has 5 frames; of 2 files, 1 with several frames are left out: convert each to "
        "files of one frame (for example by emf2sf of dcm4che)"
    )


def test_a_pattern_selects_the_first_frame_of_each_file(tmp_path):
    for name in ("a/1.dcm", "b/2.dcm"):
        save(stack(), tmp_path / "data" / name)
    (tmp_path / "data" / "dataset.toml").write_text(
        'classes = ["a", "b"]\npattern = "{label}/*.dcm#[0]"\nfield_of_view = { share = 1.0 }\n'
    )
    adapter = load_declared(tmp_path / "data")
    samples = list(adapter.read(tmp_path / "data", NoOptions()))
    assert [each.key for each in samples] == ["a/1.dcm#[0]", "b/2.dcm#[0]"]
    np.testing.assert_array_equal(samples[0].image[0], STACK[0])


def test_files_that_hold_no_dicom_image_are_named(tmp_path):
    content = save(image(), tmp_path / "x").read_bytes()
    (tmp_path / "bare.dcm").write_bytes(content[132:])
    (tmp_path / "bare group 8.dcm").write_bytes(content[content.index(b"\x08\0\x16\0") :])
    shutil.copy(OWN_FILES / "dicomdirtests" / "DICOMDIR", tmp_path / "index.png")
    odd = content.replace(MR.encode(), b"1.2.840.10008.5.1.4.1.\xe9.4")
    (tmp_path / "odd.dcm").write_bytes(odd)
    with zipfile.ZipFile(tmp_path / "a.dcm", "w") as archive:
        archive.writestr("x.dcm", content)
    with closing(ImageReader(ImageRules())) as reader:
        for name, reason in (
            ("bare.dcm", 'looks like DICOM, but does not begin with a preamble and "DICM"'),
            ("bare group 8.dcm", "looks like DICOM, but does not begin"),
            ("index.png", r"is DICOM without an image \(Media Storage Directory Storage\)"),
            ("odd.dcm", r"is DICOM without an image \(of an unknown kind\): leave it out"),
            ("a.dcm", "is a ZIP archive without arrays: unpack it by `python -m zipfile -e"),
        ):
            with pytest.raises(ImageError, match=reason):
                reader.read(tmp_path / name)
        (tmp_path / "named.png").write_bytes(content)
        assert reader.read(tmp_path / "named.png").facts["format"] == "DICOM"


def test_a_folder_or_file_of_archives_says_how_to_unpack(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.dcm", save(image(), tmp_path / "x").read_bytes())
    (tmp_path / "x").unlink()
    command = f"unpack the ZIP archive: python -m zipfile -e {tmp_path}/a.zip {tmp_path}/a"
    given = GivenReader(("a", "b"), "classification", colour=False)
    with pytest.raises(DataError, match="holds no image") as caught:
        images_in_folder(tmp_path, given, pattern=None)
    assert command in str(caught.value)
    with pytest.raises(DataError, match="holds no image that hydrakit reads") as caught:
        guess_declaration(tmp_path)
    assert command in str(caught.value)
    (tmp_path / "dataset.toml").write_text(
        'classes = ["a", "b"]\npattern = "*.dcm"\nfield_of_view = { share = 1.0 }\n'
    )
    with pytest.raises(DataError, match="yields no case") as caught:
        list(load_declared(tmp_path).read(tmp_path, NoOptions()))
    assert command in str(caught.value)
    (case,) = images_in_files([tmp_path / "a.zip"], given).cases()
    assert "unpack it by `python -m zipfile -e FILE.zip FOLDER`" in given.read(case).reason
