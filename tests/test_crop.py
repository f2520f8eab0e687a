from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from hydrakit.data.augment import central_view
from hydrakit.data.prepared.crop import (
    MAX_ANGLE,
    OVERSAMPLING,
    Statistics,
    canvas_side,
    crop,
    crop_fault,
    is_flat,
)
from hydrakit.hooks import FieldOfView, Sample

PATCH = 9
SIDE = canvas_side(PATCH)


def sample(image: NDArray[Any], **changes: Any) -> Sample:
    pixels = np.asarray(image, dtype=np.float32)
    return Sample(image=pixels, label=0, patient="p", key="one", **changes)


def noise(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(3, 1, shape).astype(np.float32)


def ramp(height: int, width: int) -> NDArray[np.float32]:
    """An image whose pixels tell their own row and column; linear interpolation keeps it exact."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns]).astype(np.float32)


def coordinates(middle: float, step: float) -> NDArray[Any]:
    """Where the pixels of a canvas lie, in image pixels: ``step`` apart, about ``middle``."""
    points: NDArray[Any] = middle + (np.arange(SIDE) - (SIDE - 1) / 2) * step
    return points


def assert_samples(canvas: NDArray[np.float32], rows: Any, columns: Any) -> None:
    expected = np.stack(np.meshgrid(rows, columns, indexing="ij"))
    np.testing.assert_allclose(canvas, expected, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(st.floats(18, 42), st.floats(18, 62)),
    spacing=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)),
    millimetres=st.floats(2, 9),
)
def test_a_crop_in_millimetres_samples_the_right_points(
    centre: tuple[float, float], spacing: tuple[float, float], millimetres: float
) -> None:
    case = sample(ramp(61, 81), centre=centre, spacing=spacing)
    canvas = crop(case, FieldOfView(millimetres=millimetres), PATCH)
    assert canvas.shape == (2, SIDE, SIDE)
    assert canvas.dtype == np.float32
    steps = [millimetres / (OVERSAMPLING * PATCH) / size for size in spacing]
    assert_samples(canvas, *(coordinates(c, s) for c, s in zip(centre, steps, strict=True)))


def test_a_share_of_the_image_is_taken_of_height_and_width() -> None:
    case = sample(ramp(24, 30))
    canvas = crop(case, FieldOfView(share=0.5), PATCH)
    seen = OVERSAMPLING * PATCH
    assert_samples(canvas, coordinates(11.5, 12 / seen), coordinates(14.5, 15 / seen))


def test_the_middle_pixel_of_the_view_is_the_lesion() -> None:
    case = sample(ramp(50, 60), centre=(20.25, 31.5), spacing=(0.5, 0.8))
    for patch in (9, 33, 65):
        canvas = crop(case, FieldOfView(millimetres=6), patch)
        view = central_view(torch.from_numpy(canvas[np.newaxis]), patch)[0]
        middle = view[:, patch // 2, patch // 2]
        np.testing.assert_allclose(middle, [20.25, 31.5], atol=1e-5)
        # And from one pixel of the view to the next it is 6 mm / patch.
        step = view[:, patch // 2 + 1, patch // 2 + 1] - middle
        np.testing.assert_allclose(step, [6 / patch / 0.5, 6 / patch / 0.8], rtol=1e-3)


def test_a_whole_image_at_its_own_resolution_stays_as_it_is() -> None:
    image = noise(1, 2, 2 * PATCH, 2 * PATCH)
    canvas = crop(sample(image), FieldOfView(share=1.0), PATCH)
    margin = (SIDE - 2 * PATCH) // 2
    np.testing.assert_allclose(canvas[:, margin:-margin, margin:-margin], image, rtol=1e-6)
    np.testing.assert_allclose(
        canvas, np.pad(image, [(0, 0), (margin, margin), (margin, margin)], "edge"), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("spacing", "pixels"),
    [
        ((0.5, 0.5), None),
        ((4.0, 4.0), None),  # coarse, as of PET
        ((0.02, 0.02), None),  # 3250 pixels, of a microscope
        ((0.0005, 0.0005), "1.3e+05 x 1.3e+05"),  # metres in place of millimetres
        ((1e-9, 1e-9), "6.5e+10 x 6.5e+10"),
        ((0.5, 1e-9), "130 x 6.5e+10"),
        ((1e-320, 1e-320), "inf x inf"),
        ((500.0, 500.0), "0.13 x 0.13"),  # micrometres
        ((0.5, 1e300), "130 x 6.5e-299"),
    ],
)
def test_a_field_of_view_of_no_sensible_size_is_not_cropped(
    spacing: tuple[float, float], pixels: str | None
) -> None:
    one = sample(noise(3, 1, 128, 84), spacing=spacing, centre=(127.5, 0.0))
    fault = crop_fault(one, FieldOfView(millimetres=65.0), 65)
    if pixels is None:
        assert fault is None
        assert crop(one, FieldOfView(millimetres=65.0), 65).shape == (1, 170, 170)
    else:
        assert fault == (
            f"its pixel spacing is {spacing[0]:g} x {spacing[1]:g} mm, so that a field of view of "
            f"65 mm has {pixels} pixels: correct one of the two"
        )
    assert crop_fault(one, FieldOfView(share=1.0), 65) is None


@pytest.mark.parametrize("millimetres", [6.0, 18.0, 75.0], ids=["finer", "same", "coarser"])
@pytest.mark.parametrize(
    ("centre", "size"),
    [
        ((-0.5, 12.0), (20, 30)),
        ((0.0, 0.0), (20, 30)),
        ((19.5, 29.5), (20, 30)),
        ((10.0, 28.3), (20, 30)),
        ((54.0, 75.5), (110, 130)),  # 75 mm end where the image ends
    ],
)
def test_beyond_its_border_an_image_goes_on_with_its_border_pixels(
    centre: tuple[float, float], size: tuple[int, int], millimetres: float
) -> None:
    image = noise(2, 1, *size)
    view = FieldOfView(millimetres=millimetres)
    canvas = crop(sample(image, centre=centre, spacing=(1.0, 1.0)), view, PATCH)
    far = 120
    wide = np.pad(image, [(0, 0), (far, far), (far, far)], "edge")
    moved = (centre[0] + far, centre[1] + far)
    expected = crop(sample(wide, centre=moved, spacing=(1.0, 1.0)), view, PATCH)
    np.testing.assert_allclose(canvas, expected, atol=1e-4)  # Pillow takes float32 coordinates


@pytest.mark.parametrize("step", [2, 4])
def test_a_finer_image_is_smoothed_by_a_triangle_before_it_is_sampled(step: int) -> None:
    image = noise(3, 1, 301, 301)
    centre = (150.0 + step / 2, 149.0 + step / 2)
    case = sample(image, centre=centre, spacing=(1.0, 1.0))
    view = FieldOfView(millimetres=float(step * OVERSAMPLING * PATCH))
    triangle = 1 - np.abs(np.arange(1 - step, step)) / step
    smooth = image[0].astype(np.float64)
    for axis in (0, 1):
        smooth = ndimage.correlate1d(smooth, triangle / triangle.sum(), axis=axis)
    rows, columns = (coordinates(c, step) for c in centre)
    expected = smooth[np.ix_(rows.astype(int), columns.astype(int))]
    np.testing.assert_array_equal(rows, rows.astype(int))
    np.testing.assert_allclose(crop(case, view, PATCH)[0], expected, atol=1e-5)


def test_a_fine_chequerboard_becomes_grey() -> None:
    board = (np.indices((900, 700)).sum(axis=0) % 2).astype(np.float32)[np.newaxis]
    canvas = crop(sample(board), FieldOfView(share=0.5), PATCH)
    np.testing.assert_allclose(canvas, 0.5, atol=0.01)


@given(st.integers(1, 300))
def test_a_canvas_has_room_for_every_turn_and_splits_evenly(patch: int) -> None:
    angle = np.deg2rad(MAX_ANGLE)
    # Corner of the doubled view, turned, one pixel aside, and half a pixel for interpolation.
    reach = (OVERSAMPLING * patch / 2 - 0.5) * (np.cos(angle) + np.sin(angle)) + 1
    assert reach <= (canvas_side(patch) - 1) / 2
    assert (canvas_side(patch) - OVERSAMPLING * patch) % 2 == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        arrays(
            np.float32,
            st.tuples(st.just(2), st.integers(1, 6), st.integers(1, 6)),
            elements=st.floats(-3000, 3000, width=32),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_statistics_over_images_are_those_over_their_pixels(
    images: list[NDArray[np.float32]],
) -> None:
    statistics = reduce(add, map(Statistics.of, images))
    pixels = np.concatenate([image.reshape(2, -1) for image in images], axis=1).astype(np.float64)
    assert statistics.count == pixels.shape[1]
    np.testing.assert_allclose(statistics.mean, pixels.mean(axis=1), atol=1e-9)
    np.testing.assert_allclose(statistics.standard_deviation(), pixels.std(axis=1), atol=1e-6)


def test_an_image_with_one_flat_channel_is_flat() -> None:
    image = noise(4, 2, 5, 6)
    assert not is_flat(image)
    image[1] = 7
    assert is_flat(image)
    assert is_flat(np.zeros((1, 1, 1), dtype=np.float32))


@pytest.mark.parametrize("patch", [8, 9])
@pytest.mark.parametrize("centred", [True, False])
def test_an_image_of_the_patchs_own_pixels_is_not_blurred(patch: int, centred: bool) -> None:
    image = noise(1, 2, patch, patch)
    view = FieldOfView(share=1.0)
    if not centred:  # a window of these pixels inside a larger image
        image = noise(1, 2, 40, 40)
        view = FieldOfView(millimetres=patch)
    centre = None if centred else (10 + (patch - 1) / 2, 20 + (patch - 1) / 2)
    case = sample(image, centre=centre, spacing=(1.0, 1.0))
    seen = central_view(torch.from_numpy(crop(case, view, patch))[None], patch)[0]
    inside = image if centred else image[:, 10 : 10 + patch, 20 : 20 + patch]
    np.testing.assert_allclose(seen.numpy(), inside, rtol=1e-6)
