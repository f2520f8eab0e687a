from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from hydrakit.data.augment import Views, balanced, central_view
from hydrakit.data.prepared.crop import MAX_ANGLE, MAX_SHIFT, OVERSAMPLING, canvas_side

PATCH = 21
SIDE = canvas_side(PATCH)
MARGIN = (SIDE - OVERSAMPLING * PATCH) // 2


def one(angle: float = 0.0, flip: float = 1.0, shift: float = 0.0) -> Views:
    return Views(*(torch.tensor([value]) for value in (angle, flip, shift)))


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
    views = Views(torch.zeros(2), torch.ones(2), torch.zeros(2))
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
    flips = Counter(views.flip.tolist())
    assert set(flips) == {1.0, -1.0}
    assert min(flips.values()) > 1350  # 1500 expected, standard deviation 27
    shifts = Counter(views.shift.tolist())
    assert set(shifts) == {-1.0, 0.0, 1.0}
    assert min(shifts.values()) > 870  # 1000 expected, standard deviation 26
    pairs = np.corrcoef(torch.stack([views.angle, views.flip, views.shift]).numpy())
    assert np.abs(pairs - np.eye(3)).max() < 0.07  # standard error 0.018


def test_draws_are_the_generators() -> None:
    first, again, other = (Views.draw(8, torch.Generator().manual_seed(seed)) for seed in (4, 4, 5))
    for name in ("angle", "flip", "shift"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.angle, other.angle)
    state = torch.random.get_rng_state()
    Views.draw(8, torch.Generator().manual_seed(4))
    assert torch.equal(state, torch.random.get_rng_state())


def test_some_views_are_those_of_the_rows_asked_for() -> None:
    views = Views.draw(6, torch.Generator().manual_seed(2))
    rows = torch.tensor([5, 0, 0])
    some = views[rows]
    assert some.angle.tolist() == [views.angle[5], views.angle[0], views.angle[0]]
    assert some.flip.tolist() == [views.flip[5], views.flip[0], views.flip[0]]
    assert some.shift.tolist() == [views.shift[5], views.shift[0], views.shift[0]]


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
