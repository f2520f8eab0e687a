"""Slices of NIfTI, NRRD and MetaImage volumes, compared with nibabel, SimpleITK and DICOM."""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from contextlib import closing, suppress
from itertools import permutations, product
from pathlib import Path

import dicom_files
import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from declaring import BASE, CSV, declare, png, samples
from declaring import read as read_declared
from declaring import refused as refused_declared
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.declared.given import GivenReader, images_in_table
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.masks import Lesion
from hydrakit.data.declared.picture import Picture
from hydrakit.data.declared.schema import ImageRules
from hydrakit.data.dicom.geometry import OTHER_POSITION, alignment_fault
from hydrakit.data.read import LoadedSample, read_cases
from hydrakit.data.volumes.formats import open_volume
from hydrakit.data.volumes.voxels import Voxels, inflate
from hydrakit.hooks import NoOptions, Remark, Sample, Unusable

SHAPE = (2, 3, 4)
VALUES = np.arange(24, dtype=np.int16).reshape(SHAPE) * 100 - 900
SIZES = np.array([0.5, 1.25, 3.0])
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
ORIENTATIONS = [
    np.array([signs[axis] * np.eye(3)[order[axis]] for axis in range(3)]).T
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]


def read(path: Path, row: int | None = None, point=None, **rules) -> Picture:
    with closing(ImageReader(ImageRules(**rules))) as reader:
        return reader.read(path, row=row, point=point)


def refused(path: Path, words: str, *args, **rules) -> None:
    with pytest.raises(ImageError, match=words) as error:
        read(path, *args, **rules)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def by_nibabel(path: Path, values=VALUES, directions=None, origin=(10.0, -20.0, 5.0), **header):
    """Save a volume; the directions of its axes and the origin are in RAS, as nibabel has them."""
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * SIZES
    affine[:3, 3] = origin
    image = nib.Nifti1Image(values, affine)
    for name, value in header.items():
        image.header[name] = value
    nib.save(image, path)
    return path


def by_itk(path: Path, values=VALUES, directions=None, origin=(10.0, -20.0, 5.0), packed=False):
    """Save a volume; the directions of its axes and the origin are in LPS, as ITK has them."""
    image = sitk.GetImageFromArray(values.T)
    image.SetSpacing(SIZES[: values.ndim].tolist())
    if values.ndim == 3:
        image.SetDirection(np.ravel(np.eye(3) if directions is None else directions).tolist())
        image.SetOrigin(origin)
    sitk.WriteImage(image, str(path), packed)
    return path


def by_itk_shown(path: Path) -> dict[str, tuple[np.ndarray, tuple[float, float]]]:
    """The slices of each plane by SimpleITK: its axes are turned to lead to L, P and S."""
    image = sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")
    z_y_x = sitk.GetArrayFromImage(image)
    x, y, z = image.GetSpacing()
    return {
        "axial": (z_y_x, (y, x)),
        "coronal": (z_y_x[::-1].transpose(1, 0, 2), (z, x)),
        "sagittal": (z_y_x[::-1].transpose(2, 0, 1), (z, y)),
    }


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_orientation_is_shown_as_simpleitk_shows_it(tmp_path: Path, suffix: str) -> None:
    # All 48 for one format; the others have the same code but for their headers.
    for number, directions in enumerate(ORIENTATIONS[:: 1 if suffix == ".nii.gz" else 5]):
        path = by_itk(tmp_path / f"{number}{suffix}", directions=directions, packed=number % 2 == 1)
        volume = open_volume(path)
        across = {"sagittal": 0, "coronal": 1, "axial": 2}
        for plane, (slices, spacing) in by_itk_shown(path).items():
            axis = int(np.flatnonzero(directions[across[plane]])[0])
            rises = directions[across[plane], axis] > 0
            for index in range(SHAPE[axis]):
                shown = index if rises else SHAPE[axis] - 1 - index
                part = volume.read(plane=plane, index=index)
                np.testing.assert_array_equal(part.pixels[0], slices[shown])
                assert part.plane.spacing == pytest.approx(spacing)
        image = sitk.ReadImage(str(path))
        lead_to = sitk.DICOMOrientImageFilter_GetOrientationFromDirectionCosines
        assert volume.orientation == lead_to(image.GetDirection())
        assert volume.tilt == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("version", [1, 2])
def test_every_orientation_is_that_of_nibabel(tmp_path: Path, version: int) -> None:
    kind = {1: nib.Nifti1Image, 2: nib.Nifti2Image}[version]
    for directions in ORIENTATIONS:
        affine = np.eye(4)
        affine[:3, :3] = directions * SIZES
        image = kind(VALUES, affine)
        image.set_sform(affine, code=0)  # by its quaternion
        image.set_qform(affine, code=1)
        nib.save(image, tmp_path / "a.nii")
        loaded = nib.load(tmp_path / "a.nii")
        volume = open_volume(tmp_path / "a.nii")
        assert volume.orientation == "".join(nib.aff2axcodes(loaded.affine))
        np.testing.assert_allclose(volume.affine, TO_LPS @ loaded.affine, atol=1e-5)
        turned = nib.as_closest_canonical(loaded)  # RAS
        expected = np.asarray(turned.dataobj)[::-1, ::-1, :].T
        axis = int(np.flatnonzero(directions[2])[0])
        z = 1 if directions[2, axis] > 0 else SHAPE[axis] - 2
        np.testing.assert_array_equal(volume.read(index=z).pixels[0], expected[1])


@settings(max_examples=30, deadline=None)
@given(
    turn=st.lists(st.floats(-1, 1), min_size=4, max_size=4),
    signs=st.sampled_from([1.0, -1.0]),
    spacing=st.lists(st.floats(0.1, 9), min_size=3, max_size=3),
    origin=st.lists(st.floats(-500, 500), min_size=3, max_size=3),
)
def test_any_affine_is_that_of_nibabel(tmp_path_factory, turn, signs, spacing, origin) -> None:
    turn = np.array(turn)
    if np.linalg.norm(turn) < 0.1:
        return
    rotation = nib.quaternions.quat2mat(turn / np.linalg.norm(turn))
    affine = np.eye(4)
    affine[:3, :3] = rotation * spacing * [1, 1, signs]
    affine[:3, 3] = origin
    image = nib.Nifti1Image(VALUES, None)
    image.set_sform(None, code=0)
    image.set_qform(affine, code=1)
    path = tmp_path_factory.mktemp("any") / "a.nii"
    nib.save(image, path)
    volume = open_volume(path)
    expected = TO_LPS @ nib.load(path).affine
    np.testing.assert_allclose(volume.affine, expected, rtol=1e-4, atol=1e-3)
    corner = volume.read(plane="axial", index=1).plane
    # The upper left pixel of a slice lies where the volume's own voxel of that value lies.
    value = volume.read(plane="axial", index=1).pixels[0, 0, 0]
    voxel = np.argwhere(value == VALUES)[0]
    np.testing.assert_allclose(corner.position, (expected @ [*voxel, 1])[:3], atol=1e-2)
    along = np.array(corner.orientation).reshape(2, 3)
    assert along[0] @ along[1] == pytest.approx(0, abs=1e-4)


TYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8"]


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_is_read_as_simpleitk_reads_it(tmp_path: Path, kind: str) -> None:
    values = (np.arange(24).reshape(SHAPE) * 5).astype(kind)
    for suffix, packed in product(SUFFIXES, (False, True)):
        path = by_itk(tmp_path / f"a{suffix}", values, packed=packed)
        slices, _ = by_itk_shown(path)["axial"]
        for index in range(4):
            expected = slices[index].astype(np.float32)
            picture = read(path, index)
            np.testing.assert_array_equal(picture.pixels[0], expected)
            assert picture.facts["bits"] == values.dtype.itemsize * 8
    nifti = nib.Nifti1Image(values, np.eye(4), dtype=values.dtype)
    swapped = nib.Nifti1Image(values, np.eye(4), nifti.header.as_byteswapped(), dtype=values.dtype)
    nib.save(swapped, tmp_path / "b.nii")
    np.testing.assert_array_equal(read(tmp_path / "b.nii", 1).pixels[0], values[::-1, ::-1, 1].T)


NRRD = """NRRD0005
# a comment: of no meaning
type: unsigned short
dimension: 3
space: {space}
sizes: 2 3 4
space directions: (0,-0.5,0) (0,0,1.25) (3,0,0)
kinds: domain domain domain
endian: {endian}
encoding: {encoding}
space origin: (10,-20,5)
key:=value: of no meaning

"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
{order} = {msb}
CompressedData = {packed}
CompressedDataSize = {size}
{matrix} = 0 -1 0 0 0 1 1 0 0
{offset} = 10 -20 5
ElementSpacing = 0.5 1.25 3
DimSize = 2 3 4
ElementType = MET_USHORT
ElementDataFile = LOCAL
"""


@pytest.mark.parametrize("endian", ["little", "big"])
@pytest.mark.parametrize("packed", [False, True])
def test_headers_by_hand_are_read_as_simpleitk_reads_them(
    tmp_path: Path, endian: str, packed: bool
) -> None:
    block = (VALUES + 1000).astype("<u2" if endian == "little" else ">u2").tobytes(order="F")
    spaces = ("left-posterior-superior", "right-anterior-superior", "left-anterior-superior")
    texts = {}
    for number, space in enumerate((*spaces, "RAS", "LAS", "LPS")):
        text = NRRD.format(space=space, endian=endian, encoding="gzip" if packed else "raw")
        texts[f"{number}.nrrd"] = text.encode() + (gzip.compress(block) if packed else block)
    names = [("BinaryDataByteOrderMSB", "TransformMatrix", "Offset")]
    names.append(("ElementByteOrderMSB", "Orientation", "Position"))
    for number, (order, matrix, offset) in enumerate(names):
        content = zlib.compress(block) if packed else block
        text = META.format(
            order=order,
            msb=endian == "big",
            packed=packed,
            size=len(content),
            matrix=matrix,
            offset=offset,
        )
        texts[f"{number}.mha"] = text.encode() + content
    for name, content in texts.items():
        path = tmp_path / name
        path.write_bytes(content)
        image = sitk.ReadImage(str(path))
        volume = open_volume(path)
        for voxel in ((0, 0, 0), (1, 2, 3)):
            point = image.TransformIndexToPhysicalPoint(voxel)
            np.testing.assert_allclose(volume.affine @ [*voxel, 1], [*point, 1], atol=1e-6)
        oriented = sitk.DICOMOrient(image, "LPS")
        for plane, (slices, spacing) in by_itk_shown(path).items():
            for index in range(len(slices)):
                x_y_z = [(side - 1) / 2 for side in oriented.GetSize()]
                x_y_z[{"sagittal": 0, "coronal": 1, "axial": 2}[plane]] = index
                point = oriented.TransformContinuousIndexToPhysicalPoint(x_y_z)
                picture = read(path, point=point, plane=plane)
                np.testing.assert_array_equal(picture.pixels[0], slices[index], f"{name} {plane}")
                assert picture.spacing == pytest.approx(spacing)


def test_slope_and_intercept_by_rule(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 24).reshape(SHAPE)
    image = nib.Nifti1Image(values, np.eye(4), dtype=np.int16)
    image.set_data_dtype(np.int16)
    nib.save(image, tmp_path / "a.nii.gz")
    loaded = nib.load(tmp_path / "a.nii.gz")
    assert loaded.dataobj.slope != 1
    shown = np.asarray(loaded.dataobj)[::-1, ::-1, 2].T
    np.testing.assert_allclose(read(tmp_path / "a.nii.gz", 2).pixels[0], shown, rtol=1e-6)
    np.testing.assert_allclose(shown, values[::-1, ::-1, 2].T, atol=1e-4)
    stored = read(tmp_path / "a.nii.gz", 2, rescale=False).pixels[0]
    np.testing.assert_array_equal(stored, loaded.dataobj.get_unscaled()[::-1, ::-1, 2].T)
    assert read(tmp_path / "a.nii.gz", 2, rescale=True).pixels[0] == pytest.approx(shown)
    plain = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    plain[112:116] = struct.pack("<f", 0)  # no scaling
    (tmp_path / "b.nii").write_bytes(plain)
    np.testing.assert_array_equal(read(tmp_path / "b.nii", 2).pixels[0], stored)
    refused(
        tmp_path / "b.nii", "no slope and intercept, which rescale = true needs", 2, rescale=True
    )


def test_a_slice_is_the_dicom_image_of_the_same_place(tmp_path: Path) -> None:
    """A stack of DICOM slices, and the NIfTI file that SimpleITK makes of it."""
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 900, (4, 3, 5)).astype(np.uint16)
    oblique = np.array([[0.96, 0.28, 0.0], [-0.28, 0.96, 0.0]])  # turned around z by 16 degrees
    for number, pixels in enumerate(volume):
        dataset = dicom_files.image(
            Rows=3,
            Columns=5,
            PixelData=pixels.tobytes(),
            PixelSpacing=[0.5, 0.75],
            ImageOrientationPatient=oblique.ravel().tolist(),
            ImagePositionPatient=[-10, -20, 30 + 2.5 * number],
            InstanceNumber=number + 1,
        )
        dicom_files.save(dataset, tmp_path / f"{number}.dcm")
    image = sitk.ReadImage([str(tmp_path / f"{number}.dcm") for number in range(4)])
    for suffix in SUFFIXES:
        sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
        for number in range(4):
            slice_, header = read(tmp_path / f"a{suffix}", number), read(tmp_path / f"{number}.dcm")
            np.testing.assert_array_equal(slice_.pixels, header.pixels)
            assert slice_.spacing == pytest.approx(header.spacing)
            assert alignment_fault([slice_.plane, header.plane]) is None
            np.testing.assert_allclose(slice_.plane.position, header.plane.position, atol=1e-3)
        other = read(tmp_path / f"a{suffix}", 0).plane
        assert alignment_fault([other, header.plane]) == OTHER_POSITION


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize("suffix", [".nii.gz", ".mha"])
def test_a_position_in_the_patient_gives_slice_row_and_column(
    tmp_path: Path, plane: str, suffix: str
) -> None:
    for directions in ORIENTATIONS[::5]:
        path = by_itk(tmp_path / f"a{suffix}", directions=directions)
        image = sitk.ReadImage(str(path))
        for voxel in ((0, 0, 0), (1, 2, 3), (1, 0, 2)):
            point = image.TransformIndexToPhysicalPoint(voxel)
            picture = read(path, point=point, plane=plane)
            row, column = picture.centre
            value = picture.pixels[0, round(row), round(column)]
            assert value == VALUES[voxel] == image.GetPixel(voxel)
            assert (row, column) == pytest.approx((round(row), round(column)), abs=1e-3)
        outside = image.TransformContinuousIndexToPhysicalPoint((0, 0, 3.6))
        refused(path, "its position lies outside", point=outside)
        # Half a voxel beyond the middle of the last one is its edge.
        edge = image.TransformContinuousIndexToPhysicalPoint((0, 0, 3.49))
        assert read(path, point=edge, plane=plane).pixels.size
    unknown = by_itk(tmp_path / "flat.mha", VALUES[..., 0])
    refused(unknown, "does not say where it lies in the patient", point=(0, 0, 0))


def test_neighbouring_slices_are_channels_towards_the_head(tmp_path: Path) -> None:
    for directions in (np.eye(3), np.diag([1, 1, -1])):
        path = by_itk(tmp_path / "a.nrrd", directions=directions)
        for index in range(4):
            up = directions[2, 2] > 0
            wanted = np.clip([index - 1, index, index + 1], 0, 3)[:: 1 if up else -1]
            picture = read(path, index, slices=3)
            single = np.concatenate([read(path, int(each)).pixels for each in wanted])
            np.testing.assert_array_equal(picture.pixels, single)
            assert picture.plane == read(path, index).plane
    np.testing.assert_array_equal(
        read(path, 0, slices=9).pixels[4:], read(path, 0).pixels.repeat(5, 0)
    )
    image = tmp_path / "a.npy"
    np.save(image, np.zeros((4, 4)))
    refused(image, "is no volume: it has neither neighbouring slices", slices=3)
    refused(image, "nor a position in the patient", point=(0, 0, 0))


def test_a_single_slice_needs_no_choice(tmp_path: Path) -> None:
    by_itk(tmp_path / "flat.nii.gz", VALUES[..., 0])  # two dimensions
    by_itk(tmp_path / "flat.nrrd", VALUES[..., 0])
    by_itk(tmp_path / "flat.mhd", VALUES[..., 0])
    for suffix in (".nii.gz", ".nrrd", ".mhd"):
        picture = read(tmp_path / f"flat{suffix}")
        assert picture.spacing == pytest.approx((1.25, 0.5))
        assert sorted(picture.pixels.ravel()) == sorted(VALUES[..., 0].ravel())
    coronal = by_nibabel(tmp_path / "coronal.nii", VALUES[:, 1:2])
    assert read(coronal).pixels.shape == (1, 4, 2)  # although the plane is axial
    assert read(coronal, plane="sagittal").spacing == (3.0, 0.5)
    refused(coronal, "has no slice 1: its coronal slices are 0 to 0", 1)
    volume = by_nibabel(tmp_path / "volume.nii")
    refused(volume, r"no slice is chosen: add #\[N\] to its path")
    refused(volume, "has no slice 4: its axial slices are 0 to 3", 4)


def test_what_is_no_volume_of_grey_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 5), np.int16), np.eye(4)), path)
    refused(path, "4 dimensions.: save each volume as a file of its own", 0)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4, 1), np.int16), np.eye(4)), path)
    assert read(path, 0).pixels.shape == (1, 3, 2)
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.complex64), np.eye(4)), path)
    refused(path, "colours, vectors or complex numbers", 0)
    colour = np.zeros((2, 3, 4), np.dtype([(name, "u1") for name in "RGB"]))
    nib.save(nib.Nifti1Image(colour, np.eye(4)), path)
    refused(path, "colours, vectors or complex numbers", 0)
    nib.save(nib.AnalyzeImage(VALUES, np.eye(4)), tmp_path / "old.img")
    refused(tmp_path / "old.hdr", "ANALYZE", 0)
    values = VALUES.astype(np.float32)
    values[0, 0, 1] = np.nan
    by_nibabel(path, values)
    refused(path, "not finite", 1)
    assert read(path, 2).pixels.size
    vectors = sitk.GetImageFromArray(np.zeros((4, 3, 2, 3), np.uint8), isVector=True)
    four = sitk.JoinSeries([sitk.GetImageFromArray(VALUES)] * 2)
    for suffix in (".nrrd", ".mha"):
        sitk.WriteImage(vectors, str(tmp_path / f"v{suffix}"))
        refused(tmp_path / f"v{suffix}", "colours, vectors or complex numbers", 0)
        sitk.WriteImage(four, str(tmp_path / f"4{suffix}"))
        refused(tmp_path / f"4{suffix}", "4 dimensions", 0)


def test_a_file_without_a_usable_affine_is_shown_as_stored(tmp_path: Path) -> None:
    image = nib.Nifti1Image(VALUES, None)
    image.header.set_zooms(SIZES)
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    picture = read(tmp_path / "a.nii", 2)
    np.testing.assert_array_equal(picture.pixels[0], VALUES[..., 2].T)
    assert picture.facts["orientation"] == "unknown"
    assert picture.spacing == (1.25, 0.5)
    assert picture.plane.position is None
    lines = ["NRRD0004", "type: short", "dimension: 3", "sizes: 2 3 4", "endian: little"]
    head = "\n".join([*lines, "encoding: raw", "", ""]).encode()
    (tmp_path / "a.nrrd").write_bytes(head + VALUES.tobytes(order="F"))
    picture = read(tmp_path / "a.nrrd", 2)
    np.testing.assert_array_equal(picture.pixels[0], VALUES[..., 2].T)
    assert picture.spacing is None
    for affine in (np.full((4, 4), np.inf), np.ones((4, 4))):
        broken = bytearray((tmp_path / "a.nii").read_bytes())
        broken[254:256] = (1).to_bytes(2, "little")  # sform_code
        broken[280:328] = affine[:3].astype("<f4").tobytes()
        (tmp_path / "broken.nii").write_bytes(broken)
        refused(tmp_path / "broken.nii", "has an affine", 2)


def test_units_other_than_millimetres(tmp_path: Path) -> None:
    for code, factor in ((1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)):
        path = by_nibabel(tmp_path / "a.nii", xyzt_units=code)
        assert read(path, 0).spacing == pytest.approx((1.25 * factor, 0.5 * factor))
    path = by_itk(tmp_path / "a.nrrd")
    content = path.read_bytes().replace(b"\nspace:", b'\nspace units: "m" "m" "m"\nspace:')
    path.write_bytes(content)
    refused(path, "another unit than millimetres", 0)


def test_the_file_of_the_voxels_lies_beside_its_header(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    nib.save(nib.Nifti1Pair(VALUES, np.diag([-1.0, -1, 1, 1])), folder / "pair.img")
    nib.save(nib.Nifti1Pair(VALUES, np.diag([-1.0, -1, 1, 1])), folder / "packed.img.gz")
    for header, data in (("pair.hdr", "pair.img"), ("packed.hdr.gz", "packed.img.gz")):
        picture = read(folder / header, 1)
        np.testing.assert_array_equal(picture.pixels[0], VALUES[..., 1].T)
        assert picture.files == (folder / data,)
    by_itk(folder / "a.mhd")
    by_itk(folder / "a.nhdr")
    assert read(folder / "a.nhdr", 0).files == (folder / "a.raw",)
    text = (folder / "a.mhd").read_text()
    secret = tmp_path / "secret.raw"
    secret.write_bytes((folder / "a.raw").read_bytes())
    (folder / "link.raw").symlink_to(secret)
    for name, words in (
        ("../secret.raw", "names a file of voxels that leads out of the dataset's root"),
        (str(secret), "names a file of voxels that is absolute"),
        ("link.raw", "leads out of its folder by a link"),
        ("none.raw", "its file of voxels is missing beside it"),
        ("LIST", "has its voxels in several files"),
        ("a%02d.raw 1 4 1", "has its voxels in several files"),
    ):
        (folder / "b.mhd").write_text(text.replace("a.raw", name))
        refused(folder / "b.mhd", words, 0)
        nrrd = (folder / "a.nhdr").read_text().replace("a.raw", name)
        (folder / "b.nhdr").write_text(nrrd)
        refused(folder / "b.nhdr", words, 0)


def test_a_block_at_the_end_of_its_file(tmp_path: Path) -> None:
    by_itk(tmp_path / "a.mhd")
    by_itk(tmp_path / "a.nhdr")
    raw = (tmp_path / "a.raw").read_bytes()
    for head, skip in ((b"x" * 7, "7"), (b"x" * 7, "-1")):
        (tmp_path / "a.raw").write_bytes(head + raw)
        text = (tmp_path / "a.mhd").read_text().replace("NDims", f"HeaderSize = {skip}\nNDims")
        (tmp_path / "b.mhd").write_text(text)
        text = (
            (tmp_path / "a.nhdr").read_text().replace("data file", f"byte skip: {skip}\ndata file")
        )
        (tmp_path / "b.nhdr").write_text(text)
        for name in ("b.mhd", "b.nhdr"):
            np.testing.assert_array_equal(read(tmp_path / name, 3).pixels[0], VALUES[..., 3].T)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_damaged_volume_is_refused_in_one_line(tmp_path: Path, suffix: str) -> None:
    """Flipped bits and lost ends: read, or refused; never another exception or a warning."""
    rng = np.random.default_rng(1)
    for packed in (False, True):
        path = by_itk(tmp_path / f"a{suffix}", packed=packed)
        for changed in sorted({path, *open_volume(path).files}):
            content = changed.read_bytes()
            texts = [content[: rng.integers(len(content))] for _ in range(10)]
            for _ in range(60):
                text = bytearray(content)
                for at in rng.integers(0, min(len(content), 420), rng.integers(1, 4)):
                    text[at] = rng.integers(256)
                texts.append(bytes(text))
            for text in texts:
                changed.write_bytes(text)
                with suppress(ImageError):
                    picture = read(path, 1, slices=3)
                    assert np.isfinite(picture.pixels).all()
            changed.write_bytes(content)
        changed.write_bytes(content[:-30])
        refused(path, f"is not a whole {picture.facts['format']} volume: fetch it again", 3)


def test_a_header_that_asks_for_too_much_is_refused_first(tmp_path: Path) -> None:
    path = by_nibabel(tmp_path / "a.nii")
    header = bytearray(path.read_bytes()[:352])
    header[40:56] = np.array([3, 32767, 32767, 32767, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(header)
    refused(path, "slices of over|not a whole", 0)
    header[40:56] = np.array([3, 1024, 1024, 1024, 1, 1, 1, 1], "<i2").tobytes()
    path.write_bytes(header)
    refused(path, "is not a whole NIfTI volume", 0)
    bomb = tmp_path / "bomb.nii.gz"
    bomb.write_bytes(gzip.compress(header + bytes(2**22)))
    refused(bomb, "is packed and has over 512 MiB of voxels: save it unpacked", 0)
    header[40:56] = np.array([3, 512, 512, 512, 1, 1, 1, 1], "<i2").tobytes()
    bomb.write_bytes(gzip.compress(header + bytes(2**10)))
    refused(bomb, "is not a whole NIfTI volume", 0)  # no file of its size unpacks to so much
    other = tmp_path / "other.nii.gz"
    other.write_bytes(gzip.compress(b"text" * 1000))
    refused(other, "is packed with gzip, but no NIfTI volume: unpack it")


def test_gzip_of_several_members_and_with_padding(tmp_path: Path) -> None:
    path = by_nibabel(tmp_path / "a.nii", directions=np.diag([-1, -1, 1]))
    content = path.read_bytes()
    parts = (
        gzip.compress(content[:100])
        + gzip.compress(content[100:380])
        + gzip.compress(content[380:])
    )
    (tmp_path / "b.nii.gz").write_bytes(parts + bytes(64))
    np.testing.assert_array_equal(read(tmp_path / "b.nii.gz", 3).pixels[0], VALUES[..., 3].T)
    broken = bytearray(gzip.compress(content))
    broken[-5] ^= 1  # the checksum
    (tmp_path / "c.nii.gz").write_bytes(broken)
    refused(tmp_path / "c.nii.gz", "is not a whole NIfTI volume", 3)


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=300).map(lambda part: part * 3),
    cut=st.integers(0, 900),
    size=st.integers(0, 1000),
    piece=st.sampled_from([1, 2, 3, 50, 2**20]),
)
def test_unpacking_in_pieces(data: bytes, cut: int, size: int, piece: int) -> None:
    members = gzip.compress(data[:cut]) + gzip.compress(data[cut:])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hydrakit.data.volumes.voxels._PIECE", piece)
        assert inflate(io.BytesIO(members), size) == data[:size]
        assert inflate(io.BytesIO(zlib.compress(data)), size) == data[:size]


def test_a_volume_is_unpacked_once_and_a_slice_reads_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unpacked, parts = [], []
    unpack, part = Voxels.unpack, Voxels.read
    monkeypatch.setattr(Voxels, "unpack", lambda self: unpacked.append(1) or unpack(self))
    monkeypatch.setattr(Voxels, "read", lambda *given: parts.append(given[1:]) or part(*given))
    paths = [by_nibabel(tmp_path / f"{name}.nii.gz") for name in "ab"]
    paths.append(by_nibabel(tmp_path / "c.nii"))
    with closing(ImageReader(ImageRules())) as reader:
        for row in range(4):
            for path in paths:
                reader.read(path, row=row)
    assert len(unpacked) == 2
    assert parts == [(2, row, row) for row in range(4)]
    monkeypatch.setattr("hydrakit.data.declared.images.MAX_UNPACKED", 50)
    with closing(ImageReader(ImageRules())) as reader:
        for path in (paths[0], paths[1], paths[0]):
            reader.read(path, row=0)
    assert len(unpacked) == 5


def test_the_slice_of_a_mask_with_the_largest_area(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for directions in ORIENTATIONS[::7]:
        inside = (rng.random(SHAPE) < 0.4).astype(np.uint8)
        image = open_volume(by_itk(tmp_path / "image.nii.gz", directions=directions))
        mask = open_volume(by_itk(tmp_path / "mask.nii", inside * 3, directions=directions))
        for plane in ("axial", "coronal", "sagittal"):
            index, area = image.mask_slice([mask], plane=plane)
            assert (area == (mask.read(plane=plane, index=index).pixels[0] > 0)).all()
            axis = image._axes(plane).across
            areas = inside.sum(axis=tuple({0, 1, 2} - {axis}))
            assert index == areas.argmax()
            assert area.sum() == areas.max()
            one = image.mask_slice([mask], plane=plane, index=1)
            assert (one[1].sum() if one else 0) == areas[1]
    empty = open_volume(
        by_itk(tmp_path / "empty.nii", np.zeros(SHAPE, np.uint8), directions=directions)
    )
    assert image.mask_slice([empty]) is None
    assert image.mask_slice([empty, mask])[0] == image.mask_slice([mask])[0]
    smaller = open_volume(by_itk(tmp_path / "smaller.nii", inside[:, :2], directions=directions))
    with pytest.raises(ImageError, match=r"the shape \(2, 2, 4\), and the image \(2, 3, 4\)"):
        image.mask_slice([smaller])
    moved = by_itk(tmp_path / "moved.nii", inside, directions=directions, origin=(10, -20, 5.5))
    with pytest.raises(ImageError, match="lies elsewhere in the patient"):
        image.mask_slice([open_volume(moved)])


def test_a_mask_is_where_its_values_are_numbers_other_than_zero(tmp_path: Path) -> None:
    inside = np.zeros((4, 5, 3), np.float32)
    inside[1:3, 2:4, 1] = 1
    unknown = inside.copy()
    unknown[0, 0] = np.nan
    image = nib.Nifti1Image(inside, np.eye(4))
    nib.save(image, tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(unknown, np.eye(4)), tmp_path / "unknown.nii")
    nib.save(nib.Nifti1Image((inside + 1024).astype(np.int16), np.eye(4)), tmp_path / "shifted.nii")
    data = bytearray((tmp_path / "shifted.nii").read_bytes())
    data[112:120] = struct.pack("<2f", 1, -1024)  # slope and intercept
    (tmp_path / "shifted.nii").write_bytes(data)
    assert set(nib.load(tmp_path / "shifted.nii").get_fdata().ravel()) == {0, 1}
    volume = open_volume(tmp_path / "image.nii")
    expected = volume.mask_slice([volume])
    assert expected is not None
    for name in ("unknown", "shifted"):
        found = volume.mask_slice([open_volume(tmp_path / f"{name}.nii")])
        assert found is not None
        assert found[0] == expected[0] == 1
        np.testing.assert_array_equal(found[1], expected[1])


# Declared datasets


def test_a_table_chooses_slices_by_index_and_by_position(tmp_path: Path) -> None:
    folder = declare(
        tmp_path / "mine",
        CSV,
        "key,path,label,slice\na,v.nii.gz,benign,1\nb,v.nii.gz,malignant,3.0\n"
        "c,v.nii.gz#[2],benign,\nd,v.nii.gz,benign,\ne,v.nii.gz,benign,9\n",
    )
    by_nibabel(folder / "v.nii.gz", directions=np.diag([-1, -1, 1]))
    *chosen, none, beyond = read_declared(folder)
    for sample, index in zip(chosen, (1, 3, 2), strict=True):
        np.testing.assert_array_equal(sample.image[0], VALUES[..., index].T)
        assert sample.spacing == (1.25, 0.5)
        assert sample.centre is None
    assert none.reason.startswith("is a volume, and no slice is chosen")
    assert beyond.reason == "has no slice 9: its axial slices are 0 to 3"

    image = sitk.ReadImage(str(folder / "v.nii.gz"))
    x, y, z = image.TransformIndexToPhysicalPoint((1, 2, 3))
    for axes, sign in (("LPS", 1), ("RAS", -1)):
        other = tmp_path / axes.lower()
        rows = f"path,label,x_mm,y_mm,z_mm\nv.nii.gz,benign,{sign * x},{sign * y},{z}\n"
        toml = f'{CSV}[images]\naxes = "{axes}"\nslices = 3\nplane = "coronal"\n'
        declare(other, toml, rows)
        (other / "v.nii.gz").write_bytes((folder / "v.nii.gz").read_bytes())
        (sample,) = samples(other)
        row, column = sample.centre
        assert sample.image.shape == (3, 4, 2)
        assert sample.image[1, round(row), round(column)] == VALUES[1, 2, 3]
        assert load_declared(other).channels == "stem"


def test_slices_of_one_volume_are_of_one_patient(tmp_path: Path) -> None:
    names = ("v.nii", "w.nii")
    rows = [
        f"{name}#[{at}],{label}"
        for name in names
        for at, label in enumerate(["benign", "malignant"])
    ]
    folder = declare(tmp_path / "mine", CSV, "\n".join(["path,label", *rows, "x.nii#[0],benign"]))
    for name in (*names, "x.nii"):
        by_nibabel(folder / name)
    cases = list(read_cases(load_declared(folder), folder, {}))
    found = [case for case in cases if isinstance(case, Sample)]
    assert [case.patient for case in found] == ["v.nii"] * 2 + ["w.nii"] * 2 + ["x.nii#[0]"]
    assert [case.named for case in found] == [True] * 4 + [False]
    (remark,) = [case for case in cases if isinstance(case, Remark)]
    assert remark.text.startswith("4 slices, frames or pages name no patient (first v.nii#[0])")
    # So they are in a prediction, where z-scores per patient are to be those of the training.
    reader = GivenReader(["benign", "malignant"], "classification", colour=False)
    table = images_in_table(folder / "cases.csv", reader)
    predicted = [reader.read(each) for each in table.cases()]
    assert table.patients
    assert [each.patient for each in predicted if isinstance(each, LoadedSample)] == [
        case.patient for case in found
    ]


@pytest.mark.parametrize(
    ("columns", "cells", "words"),
    [
        ("slice", "-1", "slice '-1' is not the index of a slice"),
        ("slice", "1.5", "slice '1.5' is not the index of a slice"),
        ("slice", "first", "slice: 'first' is not a finite number"),
        ("slice,x_mm,y_mm,z_mm", "1,0,0,0", "the slice is given twice"),
        ("x_mm,y_mm,z_mm", "1,2,", "z_mm is empty or missing"),
        ("x_mm,y_mm", "1,2", "z_mm is empty or missing"),
        ("x_mm,y_mm,z_mm", "1,2,3", '1, 2, 3 mm: write axes = "LPS"'),
        ("x_mm,y_mm,z_mm,row,column", "1,2,3,0,0", "in the patient and in the image: give one"),
    ],
)
def test_a_wrong_choice_of_a_slice_is_refused(
    tmp_path: Path, columns: str, cells: str, words: str
) -> None:
    folder = declare(tmp_path / "mine", CSV, f"path,label,{columns}\nv.nii,benign,{cells}\n")
    refused_declared(folder, "cases.csv: line 2: ", words)
    folder = declare(tmp_path / "other", CSV, "path,label,slice\nv.nii#[1],benign,1\n")
    refused_declared(folder, "the slice is given twice")


def test_volumes_that_a_table_names_without_suffix(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV, "path,label,slice\nv1,benign,2\np1,benign,left\n")
    by_itk(folder / "deep.nii.gz")
    (folder / "deep.nii.gz").rename(folder / "v1.nii.gz")
    png(folder / "p1.png")
    volume, picture = samples(folder)
    np.testing.assert_array_equal(volume.image[0], VALUES[..., 2].T)
    assert picture.source == (folder / "p1.png",)


def test_axes_without_a_table_are_refused(tmp_path: Path) -> None:
    toml = BASE + 'pattern = "{label}/*.nii#[1]"\n[images]\naxes = "RAS"\n'
    refused_declared(declare(tmp_path / "mine", toml), "images.axes: only a table of cases")


@pytest.mark.parametrize("slices", [2, 0, -1, 65])
def test_neighbouring_slices_have_a_middle(tmp_path: Path, slices: int) -> None:
    folder = declare(tmp_path / "mine", f"{CSV}[images]\nslices = {slices}\n", "path,label\n")
    refused_declared(folder, "images.slices: ")


def test_a_column_named_slice_of_other_images_is_not_used(tmp_path: Path) -> None:
    table = "path,label,slice,x_mm\na.png,benign,7,left\n"
    folder = declare(tmp_path / "mine", CSV, table)
    png(folder / "a.png")
    remark, sample = load_declared(folder).read(folder, NoOptions())
    assert isinstance(sample, Sample)
    assert remark.text.endswith("not used, because no image is a volume: slice, x_mm")
    declare(folder, CSV + '[columns]\nslice = "slice"\n')
    (case,) = read_declared(folder)
    assert "has no page 7" in case.reason


def test_channels_of_several_volumes_lie_in_one_place(tmp_path: Path) -> None:
    folder = declare(
        tmp_path / "mine",
        CSV,
        "path,label,slice\na.nii;b.mha,benign,2\na.nii;moved.mha,benign,2\n",
    )
    by_itk(folder / "a.nii")
    by_itk(folder / "b.mha", VALUES * 2)
    by_itk(folder / "moved.mha", origin=(10.0, -20.0, 8.0))
    same, moved = read_declared(folder)
    np.testing.assert_array_equal(same.image, np.stack([VALUES[..., 2].T, VALUES[..., 2].T * 2]))
    assert moved.reason == OTHER_POSITION


def test_tilted_volumes_are_told_and_a_file_of_voxels_is_a_source(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV, "path,label,slice\na.mhd,benign,2\nb.mhd,benign,2\n")
    for name, degrees in (("a", 25), ("b", 15)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        by_itk(folder / f"{name}.mhd", directions=np.array([[1, 0, 0], [0, c, -s], [0, s, c]]))
    cases = list(load_declared(folder).read(folder, NoOptions()))
    tilted, level = (case for case in cases if isinstance(case, Sample))
    assert (tilted.facts["tilt (degrees)"], level.facts["tilt (degrees)"]) == (25, 15)
    assert tilted.source == (folder / "a.mhd", folder / "a.raw")
    (remark,) = (case for case in cases if isinstance(case, Remark))
    assert remark.text.startswith("the volumes of 1 images are tilted by over 20 degrees (first a.")


def test_a_draft_for_class_folders_of_volumes(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for number in range(4):
        label = folder / ("benign", "malignant")[number % 2]
        label.mkdir(parents=True, exist_ok=True)
        by_nibabel(label / f"{number}.nii.gz")
        if number == 0:
            by_nibabel(label / "0_seg.nii.gz")
    text = guess_declaration(folder)
    assert 'pattern = "{label}/*.nii.gz"' in text
    assert "pixel spacing: 1.25 x 0.5 mm" in text
    assert "These are volumes of 4 axial slices" in text
    assert "Masks of other images, which are no cases: 1" in text
    assert "a case is unusable until its slice is chosen" in text
    (folder / "dataset.toml").write_text(text)
    assert all("no slice is chosen" in case.reason for case in read_declared(folder))
    (folder / "dataset.toml").write_text(text.replace("/*.nii.gz", "/*.nii.gz#[1]"))
    assert len(samples(folder)) == 4

    points = ",".join(("x_mm", "y_mm", "z_mm"))
    lines = [f"path,label,{points}"] + [
        f"{label}/{number}.nii.gz,{label},-10,20,5"
        for number in range(4)
        for label in [("benign", "malignant")[number % 2]]
    ]
    (folder / "cases.csv").write_text("\n".join(lines))
    (folder / "dataset.toml").unlink()
    text = guess_declaration(folder)
    assert 'axes = "LPS"' in text
    (folder / "dataset.toml").write_text(text)
    assert len(samples(folder)) == 4


def test_masks_of_a_dataset_choose_the_slice_and_the_position(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    toml = (
        'classes = ["a", "b"]\nfield_of_view = { mask = 2.0 }\npattern = "{label}/*.nii.gz"\n'
        'mask = "{folder}/{stem}_seg.nii.gz"\n'
    )
    declare(folder, toml)
    (folder / "a").mkdir()
    rng = np.random.default_rng(1)
    values = rng.integers(0, 1000, (9, 8, 5)).astype(np.int16)
    inside = np.zeros(values.shape, np.uint8)
    inside[2:5, 3:7, 3] = 1
    inside[2:4, 3:5, 1] = 1
    for name, voxels in (("x", values), ("x_seg", inside), ("y", values)):
        by_nibabel(folder / "a" / f"{name}.nii.gz", voxels)
    by_nibabel(folder / "a" / "z.nii.gz", values)
    by_nibabel(folder / "a" / "z_seg.nii.gz", inside * 0)
    first, second, third = read_declared(folder)
    assert isinstance(first, Sample)
    chosen = read(folder / "a" / "x.nii.gz", 3)
    np.testing.assert_array_equal(first.image, chosen.pixels)
    seen = read(folder / "a" / "x_seg.nii.gz", 3).pixels[0] != 0
    assert (first.centre, first.extent) == (Lesion.of(seen).centre, Lesion.of(seen).extent)
    assert {path.name for path in first.source} == {"x.nii.gz", "x_seg.nii.gz"}
    assert isinstance(second, Unusable)
    assert isinstance(third, Unusable)
    assert third.reason == "its mask is empty, so that it chooses no slice"
    # A slice that is chosen keeps its place, and has the mask of that slice.
    declare(folder, toml.replace("*.nii.gz", "x.nii.gz#[1]"))
    (case,) = read_declared(folder)
    assert (case.extent, case.image.shape) == ((2, 2), first.image.shape)
