"""Stacks of slices on a grid, against SciPy's interpolation in voxels."""

from __future__ import annotations

import numpy as np
import pytest
from dicom_files import header
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from hydrakit.data.dicom.geometry import (
    ImageFrame,
    Location,
    frame_in,
    locate,
    resample,
    sorted_stack,
)


def stack(volume, *, turn=(0.0, 0.0, 0.0), spacing=(1.5, 2.0), step=3.0, origin=(5.0, -7.0, 11.0)):
    """Headers of the slices of a volume, and what reads them."""
    x, y, z = Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    headers = [
        header(
            sop_uid=str(k),
            instance_number=len(volume) - k,
            position=tuple(float(at) for at in np.asarray(origin) + k * step * z),
            orientation=tuple(map(float, (*x, *y))),
            spacing=spacing,
            rows=volume.shape[1],
            columns=volume.shape[2],
        )
        for k in range(len(volume))
    ]
    return headers, lambda each: volume[int(each.sop_uid)]


@settings(deadline=None, max_examples=50)
@given(
    turns=st.tuples(*[st.floats(-180, 180)] * 6),
    centre=st.tuples(*[st.floats(-20, 20)] * 3),
    pixel=st.floats(0.3, 4),
)
def test_as_trilinear_interpolation_between_voxels_with_the_nearest_beyond(turns, centre, pixel):
    volume = np.random.default_rng(1).normal(size=(5, 12, 10)).astype(np.float32)
    headers, read = stack(volume, turn=turns[:3])
    axes = Rotation.from_euler("xyz", turns[3:], degrees=True).as_matrix().T
    frame = ImageFrame(centre, tuple(map(float, (*axes[0], *axes[1]))), pixel, 7)
    points = frame.points()
    voxels = []
    for point in points.reshape(-1, 3):
        found = locate(headers[0], tuple(point))
        voxels.append((found.distance / 3.0, found.row, found.column))
    expected = map_coordinates(volume, np.transpose(voxels), order=1, mode="nearest")
    # A thousandth of a slice is rounded away.
    atol = 1.5e-3 * np.ptp(volume)
    np.testing.assert_allclose(resample(headers, frame, read), expected.reshape(7, 7), atol=atol)


def test_a_grid_on_the_pixels_of_a_slice_is_that_slice_and_reads_no_other():
    volume = np.random.default_rng(2).normal(size=(3, 8, 8)).astype(np.float32)
    headers, read = stack(volume, turn=(20.0, 5.0, 0.0), spacing=(2.0, 2.0))
    asked = []

    def reading(each):
        asked.append(each.sop_uid)
        return read(each)

    # An even side has its centre between four pixels.
    frame = frame_in(headers[1], Location(3.5, 4.5, 0.7), spacing=2.0, side=6)
    np.testing.assert_allclose(
        resample(headers, frame, reading), volume[1, 1:7, 2:8], rtol=1e-4, atol=1e-4
    )
    assert asked == ["1"]


def test_slices_in_order_are_parallel_and_each_plane_once():
    volume = np.zeros((4, 2, 2), np.float32)
    headers, _ = stack(volume)
    other, _ = stack(volume, turn=(90.0, 0.0, 0.0))
    again = header(sop_uid="again", instance_number=99, position=headers[2].position)
    unplaced = header(sop_uid="unplaced", position=None)
    found = sorted_stack([unplaced, again, *other, *reversed(headers)], headers[0])
    assert [each.sop_uid for each in found] == ["0", "1", "2", "3"]
    assert "again" in [each.sop_uid for each in sorted_stack([*headers, again], again)]


def test_a_grid_has_its_centre_in_its_middle():
    frame = ImageFrame((1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 0.0, -1.0), 0.5, 4)
    points = frame.points()
    assert points.shape == (4, 4, 3)
    np.testing.assert_allclose(points.mean(axis=(0, 1)), (1.0, 2.0, 3.0))
    np.testing.assert_allclose(points[0, 1] - points[0, 0], (0.5, 0.0, 0.0))
    np.testing.assert_allclose(points[1, 0] - points[0, 0], (0.0, 0.0, -0.5))
    assert points[0, 0] == pytest.approx((0.25, 2.0, 3.75))
