"""Slices of NIfTI, NRRD and MetaImage volumes, compared with nibabel, SimpleITK and DICOM."""

from __future__ import annotations

import gzip
import struct
from contextlib import closing
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.declared.images import ImageReader, Picture
from hydrakit.data.declared.schema import ImageRules
from hydrakit.data.volumes import open_volume

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
    image.SetSpacing(SIZES.tolist())
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
    for number, directions in enumerate(ORIENTATIONS):
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


@settings(max_examples=60, deadline=None)
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
