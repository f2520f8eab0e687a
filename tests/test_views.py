from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from hydrakit.data.augment import Views, allowed, balanced, central_view, evaluation_views
from hydrakit.data.prepared.crop import MAX_ANGLE, MAX_SHIFT, OVERSAMPLING, canvas_side
from hydrakit.rounds import Transforms

PATCH = 21
SIDE = canvas_side(PATCH)
MARGIN = (SIDE - OVERSAMPLING * PATCH) // 2


def one(
    angle: float = 0.0,
    flip: float = 1.0,
    shift: float = 0.0,
    *,
    scale: float = 1.0,
    down: float = 0.0,
    upside: float = 1.0,
) -> Views:
    return replace(
        Views.unchanged(1),
        angle=torch.tensor([angle]),
        flip=torch.tensor([[upside, flip]]),
        shift=torch.tensor([[down, shift]]),
        scale=torch.tensor([scale]),
    )


def noise(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def smooth(seed: int, side: int = SIDE) -> NDArray[np.float32]:
    random = np.random.default_rng(seed).normal(size=(side, side))
    image = ndimage.gaussian_filter(random, 3)
    scaled: NDArray[np.float32] = (image / image.std()).astype(np.float32)
    return scaled


def centre_of(canvas: NDArray[np.float32], patch: int = PATCH) -> NDArray[np.float32]:
    """The middle of one canvas, each 2 x 2 pixels averaged, by NumPy alone."""
    margin = (len(canvas) - OVERSAMPLING * patch) // 2
    middle = canvas[margin : len(canvas) - margin, margin : len(canvas) - margin]
    means: NDArray[np.float32] = middle.reshape(patch, 2, patch, 2).mean(axis=(1, 3))
    return means


def test_plain_is_the_middle_halved() -> None:
    canvas = noise(1, 3, 2, SIDE, SIDE)
    seen = central_view(canvas, PATCH)
    assert seen.shape == (3, 2, PATCH, PATCH)
    for row in range(3):
        for channel in range(2):
            expected = centre_of(canvas[row, channel].numpy())
            np.testing.assert_allclose(seen[row, channel], expected, atol=1e-6)


@pytest.mark.parametrize("patch", [1, 9, 21, 64, 65])
def test_a_view_that_changes_nothing_is_plain(patch: int) -> None:
    canvas = noise(2, 2, 3, canvas_side(patch), canvas_side(patch))
    views = Views.unchanged(2)
    torch.testing.assert_close(
        views.of(canvas, patch), central_view(canvas, patch), atol=1e-4, rtol=0
    )
    even = torch.from_numpy(smooth(2, canvas_side(patch)))[None, None]
    torch.testing.assert_close(one().of(even, patch), central_view(even, patch), atol=1e-5, rtol=0)


def test_a_flip_mirrors_left_to_right() -> None:
    canvas = noise(3, 1, 2, SIDE, SIDE)
    mirrored = central_view(canvas, PATCH).flip(-1)
    torch.testing.assert_close(one(flip=-1).of(canvas, PATCH), mirrored, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [-1, 0, 1])
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_shift_moves_right_by_pixels_of_the_canvas(shift: int, flip: float) -> None:
    canvas = noise(4, 1, 1, SIDE, SIDE)
    turned = canvas.flip(-1) if flip < 0 else canvas
    expected = central_view(turned.roll(shift, dims=-1), PATCH)
    seen = one(flip=flip, shift=shift).of(canvas, PATCH)
    torch.testing.assert_close(seen, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("flip", [1.0, -1.0])
@pytest.mark.parametrize("angle", [-20.0, -7.5, 3.0, 20.0])
def test_views_are_scipys_rotation_then_flip_then_shift(
    angle: float, flip: float, shift: float
) -> None:
    canvas = smooth(5)
    expected = ndimage.rotate(canvas, angle, reshape=False, order=1)
    expected = expected[:, ::-1] if flip < 0 else expected
    expected = np.roll(expected, int(shift), axis=1)
    seen = one(angle, flip, shift).of(torch.from_numpy(canvas)[None, None], PATCH)
    np.testing.assert_allclose(seen[0, 0], centre_of(expected), atol=1e-4)


def test_a_positive_angle_turns_counter_clockwise() -> None:
    canvas = torch.zeros(1, 1, SIDE, SIDE)
    canvas[0, 0, SIDE // 2 - 1 : SIDE // 2 + 1, SIDE // 2 + 15 : SIDE // 2 + 17] = 1.0
    row, column = ndimage.center_of_mass(one(angle=20.0).of(canvas, PATCH)[0, 0].numpy())
    distance = 16 / OVERSAMPLING  # of the dot from the middle, to the right
    turn = np.deg2rad(20.0)
    assert row == pytest.approx(PATCH // 2 - distance * np.sin(turn), abs=0.1)
    assert column == pytest.approx(PATCH // 2 + distance * np.cos(turn), abs=0.1)


def test_every_patch_has_its_own_view_and_all_its_channels_the_same() -> None:
    canvas = noise(6, 1, 1, SIDE, SIDE).expand(5, 2, SIDE, SIDE)
    views = Views.draw(5, torch.Generator().manual_seed(1))
    seen = views.of(canvas, PATCH)
    assert seen.shape == (5, 2, PATCH, PATCH)
    torch.testing.assert_close(seen[:, 0], seen[:, 1], atol=0, rtol=0)
    assert len(torch.unique(seen[:, 0, 0, 0])) == 5
    for row in range(5):
        alone = views[torch.tensor([row])].of(canvas[:1], PATCH)
        torch.testing.assert_close(alone[0], seen[row], atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    patch=st.integers(1, 70),
    angle=st.floats(-MAX_ANGLE, MAX_ANGLE) | st.sampled_from([-MAX_ANGLE, MAX_ANGLE]),
    flip=st.sampled_from([1.0, -1.0]),
    shift=st.integers(-MAX_SHIFT, MAX_SHIFT),
)
def test_no_view_looks_beyond_the_canvas(patch: int, angle: float, flip: float, shift: int) -> None:
    side = canvas_side(patch)
    canvas = noise(7, 1, 1, side, side)
    outside = torch.full((1, 1, side + 20, side + 20), 1e9)
    outside[..., 10:-10, 10:-10] = canvas
    view = one(angle, flip, float(shift))
    torch.testing.assert_close(view.of(outside, patch), view.of(canvas, patch), atol=1e-2, rtol=0)


def test_draws_cover_the_papers_range_and_nothing_else() -> None:
    views = Views.draw(3000, torch.Generator().manual_seed(0))
    assert views.angle.abs().max() <= MAX_ANGLE == 20.0
    assert views.angle.min() < -19.9
    assert views.angle.max() > 19.9
    assert abs(views.angle.mean()) < 1.0
    flips = Counter(views.flip[:, 1].tolist())
    assert set(flips) == {1.0, -1.0}
    assert min(flips.values()) > 1350  # 1500 expected, standard deviation 27
    shifts = Counter(views.shift[:, 1].tolist())
    assert set(shifts) == {-1.0, 0.0, 1.0}
    assert min(shifts.values()) > 870  # 1000 expected, standard deviation 26
    assert (views.flip[:, 0] == 1).all()
    assert (views.shift[:, 0] == 0).all()
    drawn = [views.angle, views.flip[:, 1], views.shift[:, 1]]
    pairs = np.corrcoef(torch.stack(drawn).numpy())
    assert np.abs(pairs - np.eye(3)).max() < 0.07  # standard error 0.018


def first_version(canvas: torch.Tensor, patch: int, generator: torch.Generator) -> torch.Tensor:
    """Views as version 0.1 drew and computed them."""
    count, side = len(canvas), canvas.shape[-1]
    angle = (torch.rand(count, generator=generator) * 2 - 1) * MAX_ANGLE
    flip = torch.randint(2, (count,), generator=generator) * 2.0 - 1.0
    shift = torch.randint(-MAX_SHIFT, MAX_SHIFT + 1, (count,), generator=generator).float()
    extent = OVERSAMPLING * patch
    rotation = torch.polar(torch.ones_like(angle), torch.deg2rad(angle))
    across = rotation * flip
    steps = torch.arange(1 - extent, extent, 2) / side
    row = across[:, None] * (steps - 2 * shift[:, None] / side)
    column = 1j * rotation[:, None] * steps
    sampled = torch.nn.functional.grid_sample(
        canvas,
        torch.view_as_real(row[:, None, :] + column[:, :, None]),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return torch.nn.functional.interpolate(
        sampled, [patch, patch], mode="bilinear", align_corners=False
    )


@pytest.mark.parametrize("patch", [9, 32, 65])
@pytest.mark.parametrize("count", [1, 7, 16])
def test_the_default_table_gives_the_bits_of_version_0_1(patch: int, count: int) -> None:
    canvas = noise(8, count, 2, canvas_side(patch), canvas_side(patch))
    before, now = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    views = Views.draw(count, now, Transforms())
    seen = views.adjusted(views.of(canvas, patch))
    assert torch.equal(seen, first_version(canvas, patch, before))
    assert torch.equal(now.get_state(), before.get_state())


@settings(max_examples=60, deadline=None)
@given(
    angle=st.floats(-180, 180),
    scale=st.floats(0.5, 2),
    flips=st.tuples(*[st.sampled_from([1.0, -1.0])] * 2),
    shift=st.tuples(*[st.integers(-8, 8)] * 2),
)
def test_any_view_is_scipys_affine_transform(
    angle: float, scale: float, flips: tuple[float, float], shift: tuple[int, int]
) -> None:
    canvas, extent = smooth(9), OVERSAMPLING * PATCH
    turn = np.deg2rad(angle)
    # The point of the view at (row, column) from its middle shows the canvas at matrix @ point.
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    matrix = rotation @ np.diag(flips) / scale
    middle = (extent - 1) / 2 + np.array(shift)
    expected = ndimage.affine_transform(
        canvas,
        matrix,
        (SIDE - 1) / 2 - matrix @ middle,
        output_shape=(extent, extent),
        order=1,
        mode="nearest",  # border pixels are repeated
    )
    means = expected.reshape(PATCH, 2, PATCH, 2).mean(axis=(1, 3))
    view = one(angle, flips[1], shift[1], scale=scale, down=shift[0], upside=flips[0])
    seen = view.of(torch.from_numpy(canvas)[None, None], PATCH)[0, 0]
    np.testing.assert_allclose(seen, means, atol=2e-4)


WILD = Transforms(
    rotation=180,
    flips=("vertical", "horizontal"),
    shift=(4, 2),
    scale=0.5,
    intensity=0.3,
    noise=0.2,
)
PARAMETERS = ("angle", "flip", "shift", "scale", "contrast", "brightness", "noise")


def assert_same(one: Views, other: Views) -> None:
    assert one.table == other.table
    for name in PARAMETERS:
        assert torch.equal(getattr(one, name), getattr(other, name))


def test_draws_cover_a_table_and_nothing_else() -> None:
    views = Views.draw(4000, torch.Generator().manual_seed(0), WILD)
    for name, low, high in (
        ("angle", -180, 180),
        ("scale", 1 / 1.5, 1.5),
        ("contrast", 0.7, 1.3),
        ("brightness", -0.3, 0.3),
    ):
        drawn = getattr(views, name)
        assert low <= drawn.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < drawn.max() <= high
    assert abs(views.scale.log().mean()) < 0.02  # enlarged as often as shrunk
    for column, most in enumerate(WILD.shift):
        assert set(views.shift[:, column].tolist()) == set(range(-most, most + 1))
        assert set(views.flip[:, column].tolist()) == {1.0, -1.0}
    assert len(views.noise.unique()) == 4000
    numbers = [views.flip, views.shift, *(each[:, None] for each in (views.angle, views.scale))]
    numbers += [views.contrast[:, None], views.brightness[:, None]]
    pairs = np.corrcoef(torch.cat(numbers, dim=1).numpy().T)
    assert np.abs(pairs - np.eye(len(pairs))).max() < 0.07  # standard error 0.016


def test_a_table_that_changes_nothing_gives_the_patch() -> None:
    still = Transforms(rotation=0, flips=(), shift=(0, 0))
    assert_same(Views.draw(5, torch.Generator().manual_seed(0), still), Views.unchanged(5, still))


def test_contrast_brightness_and_noise_act_on_normalised_pixels() -> None:
    images = noise(10, 6, 2, 40, 40)
    views = Views.draw(6, torch.Generator().manual_seed(1), WILD)
    seen = views.adjusted(images)
    assert torch.equal(seen, views.adjusted(images))  # the noise of a view is always the same
    some = torch.tensor([4, 1])
    assert torch.equal(views[some].adjusted(images[some]), seen[some])
    added = seen - images * views.contrast.view(-1, 1, 1, 1) - views.brightness.view(-1, 1, 1, 1)
    np.testing.assert_allclose(added.std(dim=(1, 2, 3)), 0.2, rtol=0.05)
    np.testing.assert_allclose(added.mean(dim=(1, 2, 3)), 0, atol=0.02)
    across = np.corrcoef(added.flatten(1).numpy())
    assert np.abs(across - np.eye(6)).max() < 0.1  # each patch has noise of its own


@pytest.mark.parametrize(
    ("flips", "expected"),
    [
        (None, ("vertical", "horizontal")),
        ((), ()),
        (("horizontal",), ("horizontal",)),
        (("horizontal", "vertical"), ("vertical", "horizontal")),
    ],
)
def test_a_flip_needs_the_table_and_the_dataset(
    flips: tuple[Any, ...] | None, expected: tuple[str, ...]
) -> None:
    table = allowed(WILD, flips)
    assert table == WILD.model_copy(update={"flips": expected})
    assert allowed(Transforms(flips=()), flips).flips == ()
    views = Views.draw(50, torch.Generator().manual_seed(0), table)
    mirrored = (views.flip < 0).any(dim=0).tolist()
    assert mirrored == ["vertical" in expected, "horizontal" in expected]


def test_the_views_of_an_evaluation_begin_with_the_patch_and_are_always_the_same() -> None:
    first, *others = evaluation_views(WILD, 5)
    assert first is None
    assert len(others) == 4
    again = evaluation_views(WILD, 5)
    for one_view, other in zip(others, again[1:], strict=True):
        assert one_view is not None
        assert other is not None
        assert_same(one_view, other)
        images = noise(11, 1, 1, 8, 8)
        assert torch.equal(one_view.adjusted(images), images)  # neither intensity nor noise
    assert evaluation_views(WILD, 1) == [None]


def test_the_mirror_images_are_the_first_views_of_an_evaluation() -> None:
    canvas = torch.rand(3, 1, canvas_side(9), canvas_side(9))
    flips = Transforms(flips=("horizontal", "vertical"))
    rows = torch.zeros(3, dtype=torch.int64)
    mirrored = [view[rows].of(canvas, 9) for view in evaluation_views(flips, 4) if view is not None]
    whole = central_view(canvas, 9)
    for view, axes in zip(mirrored, [(3,), (2,), (2, 3)], strict=True):
        torch.testing.assert_close(view, whole.flip(axes), rtol=1e-4, atol=1e-5)
    (only,) = [view for view in evaluation_views(Transforms(), 2) if view is not None]
    torch.testing.assert_close(only[rows].of(canvas, 9), whole.flip(3), rtol=1e-4, atol=1e-5)


def test_draws_are_the_generators() -> None:
    first, again, other = (Views.draw(8, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    assert_same(first, again)
    assert not torch.equal(first.angle, other.angle)
    state = torch.random.get_rng_state()
    Views.draw(8, torch.Generator().manual_seed(4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_some_views_are_those_of_the_rows_asked_for() -> None:
    views = Views.draw(6, torch.Generator().manual_seed(2))
    rows = torch.tensor([5, 0, 0])
    some = views[rows]
    for name in PARAMETERS:
        whole = getattr(views, name)
        assert torch.equal(getattr(some, name), torch.stack([whole[5], whole[0], whole[0]]))


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=40),
    views=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
def test_balanced_takes_every_class_equally_often_and_every_patch(
    labels: list[int], views: int, seed: int
) -> None:
    rows = balanced(torch.tensor(labels), views, torch.Generator().manual_seed(seed)).tolist()
    members = Counter(labels)
    total = max(members.values()) * views
    assert Counter(labels[row] for row in rows) == dict.fromkeys(members, total)
    times = Counter(rows)
    for row, label in enumerate(labels):
        least, remainder = divmod(total, members[label])
        assert times[row] in ({least, least + 1} if remainder else {least})
    if len(labels) > 1:
        assert rows == sorted(rows, key=lambda row: labels[row])
    again = balanced(torch.tensor(labels), views, torch.Generator().manual_seed(seed))
    assert again.tolist() == rows


def test_the_remainder_goes_to_patches_drawn_at_random() -> None:
    labels = torch.tensor([0] * 7 + [1] * 5)
    chosen: Counter[int] = Counter()
    for seed in range(400):
        times = Counter(balanced(labels, 1, torch.Generator().manual_seed(seed)).tolist())
        assert all(times[row] == 1 for row in range(7))
        chosen.update(row for row in range(7, 12) if times[row] == 2)
    assert sum(chosen.values()) == 800
    assert min(chosen[row] for row in range(7, 12)) > 110  # 160 each, standard deviation 10


@given(
    counts=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    views=st.integers(1, 4),
    limit=st.integers(1, 200),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None)
def test_a_limit_draws_a_part_of_each_class_with_all_of_its_views(
    counts: list[int], views: int, limit: int, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(seed)
    rows = balanced(labels, views, generator, limit)
    per_class = min(max(counts), -(-limit // len(counts)))
    assert len(rows) == per_class * views * len(counts)
    for label, count in enumerate(counts):
        seen = Counter(row for row in rows.tolist() if labels[row] == label)
        assert sum(seen.values()) == per_class * views
        assert len(seen) == min(count, per_class)
        assert max(seen.values()) - min(seen.values()) <= 1
    whole = balanced(labels, views, torch.Generator().manual_seed(seed))
    every = balanced(labels, views, torch.Generator().manual_seed(seed), 10_000)
    assert torch.equal(whole, every)


def test_a_limit_draws_numbers_too() -> None:
    labels = torch.randn(20, 1)
    generator = torch.Generator().manual_seed(0)
    rows = balanced(labels, 3, generator, 5)
    assert sorted(Counter(rows.tolist()).values()) == [3] * 5
    assert len(balanced(labels, 3, generator, 50)) == 60
