from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hydrakit.data.quality import duplicates as module
from hydrakit.data.quality.duplicates import (
    MIN_AGREEMENT,
    MIN_DETAIL,
    TEXTURE,
    THRESHOLD,
    Conflict,
    Copy,
    agreement,
    assign_groups,
    compare_images,
    conflict_error,
    content_digest,
    copy_groups,
    detail,
    duplicates_to_drop,
    find_conflicts,
    find_duplicates,
    texture,
    thumbnail,
)
from hydrakit.data.quality.split import unit_numbers
from hydrakit.data.read import LoadedSample, read_samples
from hydrakit.errors import DataError
from hydrakit_brain import hydrakit_dataset_adapters


def picture(seed: int, height: int = 160, width: int = 120) -> np.ndarray:
    """Grey values 0 to 255 that look like nothing, smooth enough to be resized."""
    small = np.random.default_rng(seed).integers(20, 200, (20, 15), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def as_image(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(pixels, dtype=np.float32)[np.newaxis]


def as_jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def find(images: list[np.ndarray], **options: object) -> list[Copy]:
    thumbnails = np.stack([thumbnail(image) for image in images])
    digests = [content_digest(image) for image in images]
    return find_duplicates(thumbnails, digests, textures_of(images), **options)


def textures_of(images: Sequence[np.ndarray]) -> Callable[[Sequence[int]], np.ndarray]:
    return lambda chosen: np.stack([texture(images[index]) for index in chosen])


def alike(chosen: Sequence[int]) -> np.ndarray:
    """Textures that agree, however they are flipped, for thumbnails without images."""
    return np.full((len(chosen), 128, 128), 8, dtype=np.int8)


def vectors(count: int, seed: int) -> np.ndarray:
    """Thumbnails of images that look like nothing."""
    rows = np.random.default_rng(seed).normal(size=(count, 576)).astype(np.float32)
    rows[:, 0] = 0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# Thumbnails and digests


def test_a_thumbnail_is_the_cosine_transform_weighted_by_frequency() -> None:
    pixels = np.random.default_rng(0).normal(size=(1, 64, 96)).astype(np.float32)
    means = pixels[0].astype(np.float64).reshape(32, 2, 32, 3).mean(axis=(1, 3))
    bands = scipy.fft.dctn(means, norm="ortho")[:24, :24]
    weighted = bands * np.hypot(np.arange(24)[:, None], np.arange(24))
    expected = weighted / np.linalg.norm(weighted)
    np.testing.assert_allclose(thumbnail(pixels), expected.ravel(), atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, -1024.0, 3e8])
def test_an_image_without_contrast_resembles_nothing(value: float) -> None:
    flat = np.full((1, 30, 41), value, dtype=np.float32)
    assert not thumbnail(flat).any()
    assert detail(thumbnail(flat)[np.newaxis])[0] == 0
    assert find([flat, flat + 1000, as_image(picture(0))]) == []


@given(st.floats(0.01, 1000), st.floats(-1e4, 1e4))
def test_a_thumbnail_knows_no_brightness_and_no_contrast(scale: float, offset: float) -> None:
    image = as_image(picture(3))
    changed = (image * scale + offset).astype(np.float32)
    assert float(thumbnail(image) @ thumbnail(changed)) > 0.9


def test_channels_count_as_their_mean() -> None:
    grey = as_image(picture(4))
    np.testing.assert_allclose(
        thumbnail(np.repeat(grey, 3, axis=0)), thumbnail(grey), rtol=0, atol=1e-5
    )


def test_a_digest_is_that_of_the_pixels_and_the_shape(tmp_path: Path) -> None:
    pixels = picture(5)
    digests = set()
    for name in ("a.png", "b.tif", "c.bmp"):
        Image.fromarray(pixels).save(tmp_path / name)
        with Image.open(tmp_path / name) as file:
            digests.add(content_digest(as_image(np.asarray(file))))
    assert len(digests) == 1
    image = as_image(pixels)
    changed = image.copy()
    changed[0, 0, 0] += 1
    digests |= {content_digest(changed), content_digest(image.reshape(1, 120, 160))}
    assert len(digests) == 3
    assert content_digest(image[:, ::-1][:, ::-1]) in digests  # memory order does not matter


def test_detail_counts_the_places_of_edges() -> None:
    rows, columns = np.indices((64, 64))
    dots = np.zeros((2, 1, 64, 64), dtype=np.float32)
    dots[0, 0, 20:22, 30:32] = 1
    dots[1, 0, 20:22, 30:32] = 1
    dots[1, 0, 50:52, 8:10] = 1
    one, two = detail(np.stack([thumbnail(dot) for dot in dots]))
    assert two == pytest.approx(2 * one, rel=0.1)
    noise = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    disc = (np.hypot(rows - 32, columns - 32) < 8).astype(np.float32)[np.newaxis]
    low, high = detail(np.stack([thumbnail(disc), thumbnail(noise)]))
    assert one < low < MIN_DETAIL < high


# Finding copies


@pytest.mark.parametrize(
    ("change", "flip"),
    [
        (lambda pixels: resized(pixels, 60, 80), "none"),
        (lambda pixels: resized(pixels, 300, 300), "none"),
        (lambda pixels: as_jpeg(pixels, 40), "none"),
        (lambda pixels: np.clip(pixels * 1.2 + 10, 0, 255), "none"),
        (lambda pixels: 255 * (pixels / 255) ** 0.7, "none"),
        (lambda pixels: resized(pixels, 90, 120)[:, ::-1], "horizontal"),
        (lambda pixels: as_jpeg(pixels, 60)[::-1], "vertical"),
        (lambda pixels: pixels[::-1, ::-1] * 0.5, "both"),
    ],
)
def test_a_changed_copy_is_found_among_others(change: object, flip: str) -> None:
    images = [as_image(picture(seed)) for seed in range(12)]
    images.append(as_image(change(picture(7))))  # type: ignore[operator]
    (copy,) = find(images)
    assert (copy.one, copy.other, copy.kind, copy.flip) == (7, 12, "near", flip)
    assert THRESHOLD <= copy.similarity <= 1


def test_equal_pixels_are_exact_copies_even_of_a_dot() -> None:
    dot = np.zeros((1, 40, 40), dtype=np.float32)
    dot[0, 9:12, 9:12] = 5
    assert find([dot, as_image(picture(0)), dot.copy()]) == [
        Copy(one=0, other=2, similarity=1.0, agreement=1.0, kind="exact")
    ]


def test_small_round_things_are_no_copies_of_one_another() -> None:
    rows, columns = np.indices((64, 64))
    distance = np.hypot(rows - 31, columns - 31)
    discs = [as_image(100 * np.exp(-((distance / radius) ** 4))) for radius in (6.0, 6.1, 6.2)]
    thumbnails = np.stack([thumbnail(disc) for disc in discs])
    assert (thumbnails @ thumbnails.T).min() > THRESHOLD
    assert find(discs) == []
    assert len(find(discs, min_detail=0)) == 2


def test_images_of_one_unit_may_be_alike() -> None:
    image = as_image(picture(1))
    images = [image, image.copy(), image * 2, as_image(picture(2))]
    assert find(images, units=[5, 5, 5, 5]) == []
    assert copy_groups(find(images, units=[5, 5, 6, 6]), 4) == [[0, 1, 2]]
    assert copy_groups(find([image, image, image], units=[5, 6, 5]), 3) == [[0, 1, 2]]


def test_arguments_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="2 digests need as many"):
        find_duplicates(vectors(3, 0), ["a", "b"], alike)
    with pytest.raises(ValueError, match="2 digests need as many"):
        find_duplicates(vectors(2, 0), ["a", "b"], alike, units=[1])


@pytest.mark.parametrize("seed", range(8))
def test_groups_are_the_components_of_all_pairs(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all pairs under all flips, by SciPy; blocks are small so that groups cross them."""
    monkeypatch.setattr(module, "BLOCK", 7)
    rng = np.random.default_rng(seed)
    origin = rng.integers(0, 25, 60)
    rows = vectors(25, seed)[origin] + rng.normal(0, 0.008, (60, 576)).astype(np.float32)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).reshape(60, 24, 24)
    sign = np.where(np.arange(24) % 2, -1, 1).astype(np.float32)
    for row in range(60):
        if rng.random() < 0.3:
            rows[row] *= sign
        if rng.random() < 0.3:
            rows[row] *= sign[:, np.newaxis]
    units = rng.integers(0, 40, 60)
    links = np.zeros((60, 60), dtype=bool)
    for flip in (1, sign, sign[:, np.newaxis], sign * sign[:, np.newaxis]):
        links |= rows.reshape(60, -1) @ (rows * flip).reshape(60, -1).T >= THRESHOLD
    links &= units[:, np.newaxis] != units
    _, expected = connected_components(coo_array(links))
    found = find_duplicates(
        rows.reshape(60, -1), [str(row) for row in range(60)], alike, units=units.tolist()
    )
    assert all(links[copy.one, copy.other] for copy in found)
    assert all(copy.one < copy.other for copy in found)
    number = np.arange(60)
    for group in copy_groups(found, 60):
        number[group] = group[0]
    np.testing.assert_array_equal(
        number[:, np.newaxis] == number, expected[:, np.newaxis] == expected
    )
    assert len(found) == 60 - len(set(expected.tolist()))
    assert {copy.flip for copy in found} > {"none"}


@pytest.mark.slow
def test_two_pairs_among_twenty_thousand() -> None:
    rows = vectors(20_000, 0)
    rows[5_000], rows[19_999] = rows[3], rows[7]
    found = find_duplicates(rows, [str(row) for row in range(20_000)], alike)
    assert [(copy.one, copy.other) for copy in found] == [(3, 5_000), (7, 19_999)]


# The second comparison: textures


def noise(seed: int, height: int, width: int, slope: float) -> np.ndarray:
    """Texture with more of the low frequencies the larger the slope; standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, np.newaxis], np.fft.fftfreq(width))
    frequency[0, 0] = np.inf
    white = np.fft.fft2(np.random.default_rng(seed).normal(size=(height, width)))
    filtered = np.fft.ifft2(white * frequency**-slope).real
    return filtered / filtered.std()


def mammogram(
    seed: int, *, contrast: float = 12, height: int = 400, width: int = 300
) -> np.ndarray:
    """Breast of one outline and one shade from skin to chest wall, with a tissue of its own."""
    rows, columns = np.indices((height, width))
    inside = 1 - (columns / (0.85 * width)) ** 2 - ((rows - height / 2) / (0.42 * height)) ** 2
    tissue = 110 + 60 * np.sqrt(np.clip(inside, 0, 1)) + contrast * noise(seed, height, width, 1.5)
    pixels = np.where(inside > 0, tissue, 8)
    pixels[20:60, width - 60 : width - 20] = 230  # the letters in the corner
    return np.clip(pixels, 0, 255).astype(np.uint8)


def ultrasound(seed: int, *, moved: float = 0, speckle: float = 0) -> np.ndarray:
    """A fan with tissue and speckle; the tissue moved by pixels, a share of the speckle renewed."""
    rows, columns = np.indices((420, 560))
    angle, depth = np.arctan2(columns - 280, rows + 60), np.hypot(columns - 280, rows + 60)
    fan = (np.abs(angle) < 0.65) & (depth > 120) & (depth < 460)
    tissue = 25 * noise(seed, 420, 560, 2) - 60 * np.exp(
        -((rows - 210) ** 2 + (columns - 280) ** 2) / 3200
    )
    old, new = noise(seed + 1000, 420, 560, 0.8), noise(seed + 2000, 420, 560, 0.8)
    speckled = np.sqrt(1 - speckle) * old + np.sqrt(speckle) * new
    content = scipy.ndimage.shift(80 + tissue + 22 * speckled, moved, order=1, mode="wrap")
    return np.clip(np.where(fan, content, 0), 0, 255).astype(np.uint8)


def both_looks(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    images = [as_image(one), as_image(other)]
    thumbnails = np.stack([thumbnail(image) for image in images])
    pair = compare_images((0, 1), thumbnails, textures_of(images)([0, 1]))
    return pair.similarity, pair.agreement


def test_mammograms_of_one_outline_are_no_copies_of_one_another() -> None:
    pictures = [mammogram(seed) for seed in range(8)]
    similar = [both_looks(pictures[0], other)[0] for other in pictures[1:]]
    assert min(similar) > THRESHOLD  # thumbnails alone would join them all
    assert max(both_looks(pictures[0], other)[1] for other in pictures[1:]) < 0.25
    assert find([as_image(each) for each in pictures], min_detail=0) == []
    copies = [resized(as_jpeg(each, 75), 224, 224)[:, ::-1] for each in pictures]
    found = find([as_image(each) for each in (*pictures, *copies)], min_detail=0)
    assert [(each.one, each.other, each.flip) for each in sorted(found, key=lambda c: c.one)] == [
        (index, index + 8, "horizontal") for index in range(8)
    ]


@pytest.mark.parametrize(("moved", "speckle"), [(0, 0.3), (1, 0.1), (2, 0.3), (0, 0.6), (4, 0.3)])
def test_frames_of_one_ultrasound_clip_are_near_copies(moved: float, speckle: float) -> None:
    one, other = ultrasound(5), ultrasound(5, moved=moved, speckle=speckle)
    found = find([as_image(one), as_image(other), as_image(ultrasound(6))])
    assert [(copy.one, copy.other) for copy in found] == [(0, 1)]
    assert found[0].agreement >= MIN_AGREEMENT


@given(
    st.integers(0, 2**31),
    st.floats(0.5, 2),
    st.sampled_from(["mammogram", "ultrasound"]),
    st.tuples(st.integers(40, 640), st.integers(100, 640), st.integers(100, 640)),
)
@settings(max_examples=25, deadline=None)
def test_an_image_and_its_re_encoding_are_copies_and_two_textures_in_one_mask_are_not(
    seed: int, slope: float, kind: str, change: tuple[int, int, int]
) -> None:
    rows, columns = np.indices((300, 400))
    if kind == "mammogram":
        mask = (columns / 380) ** 2 + ((rows - 150) / 130) ** 2 < 1
    else:
        mask = (np.abs(np.arctan2(columns - 200, rows + 40)) < 0.7) & (rows < 280)
    one, other = (
        np.clip(np.where(mask, 120 + 25 * noise(seed + n, 300, 400, slope), 5), 0, 255)
        for n in (0, 1)
    )
    quality, width, height = change
    again = resized(as_jpeg(one.astype(np.uint8), 40 + quality % 60), width, height)
    assert both_looks(one, again)[1] >= MIN_AGREEMENT
    assert both_looks(one, other)[1] < MIN_AGREEMENT


def test_images_that_share_a_constant_frame_are_no_copies() -> None:
    """A circle outside of the scan, far below the values within, as padding of a CT slice is."""
    rows, columns = np.indices((256, 256))
    outside = np.hypot(rows - 127.5, columns - 127.5) > 128
    slices = [np.where(outside, -2000, 20 * noise(seed, 256, 256, 1)) for seed in range(6)]
    assert min(both_looks(slices[0], other)[0] for other in slices[1:]) > THRESHOLD
    assert max(both_looks(slices[0], other)[1] for other in slices[1:]) < 0.25
    assert find([as_image(each) for each in slices], min_detail=0) == []


def test_a_texture_is_the_local_z_score() -> None:
    image = as_image(mammogram(1))
    small = Image.fromarray(image[0]).resize((TEXTURE, TEXTURE), Image.Resampling.BILINEAR)
    fine = scipy.ndimage.gaussian_filter(np.asarray(small, dtype=float), 1, mode="nearest")
    contrast = fine - scipy.ndimage.gaussian_filter(fine, 3, mode="nearest")
    deviation = np.sqrt(scipy.ndimage.gaussian_filter(contrast**2, 3, mode="nearest"))
    strong = deviation > np.percentile(deviation, 75)
    expected = 8 * contrast[strong] / deviation[strong]
    assert np.abs(texture(image)[strong] - expected).max() < 0.6
    np.testing.assert_array_equal(texture(3 * image + 7), texture(image))
    assert texture(image).dtype == np.int8
    for flat in (np.zeros((1, 30, 41)), np.full((1, 9, 9), 3e8)):
        assert not texture(flat.astype(np.float32)).any()


@given(st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_an_agreement_is_the_correlation_that_three_quarters_of_the_tiles_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(-31, 32, (2, 128, 128)).astype(np.int8)
    blank = rng.random((8, 8)) < 0.3
    shared = rng.random((8, 8)) < rng.random()
    for row, column in np.ndindex(8, 8):
        tile = np.s_[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        if shared[row, column]:
            other[tile] = one[tile] // 2
        if blank[row, column]:
            one[tile] = other[tile] = 0
    correlations = sorted(
        float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
        for row, column in np.ndindex(8, 8)
        if not blank[row, column]
        for tile in [np.s_[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]]
        for a, b in [(one[tile].astype(float), other[tile].astype(float))]
    )
    expected = correlations[len(correlations) // 4]
    assert agreement(one, other) == pytest.approx(expected)
    assert agreement(one, other) == agreement(other, one)
    tiles = module._tiles(np.stack([one, other]))
    decided = module._agreeing(tiles, tiles)
    assert decided[0, 1] == decided[1, 0] == (expected >= MIN_AGREEMENT)
    assert decided.diagonal().all()
    assert agreement(np.zeros_like(one), np.zeros_like(one)) == 0


# What follows from copies


def link(one: int, other: int) -> Copy:
    return Copy(one=one, other=other, similarity=1.0, agreement=1.0, kind="exact")


def conflicts(
    copies: list[Copy],
    labels: Sequence[object],
    *,
    units: Sequence[int],
    datasets: Sequence[str] | None = None,
    patches: Sequence[str | None] | None = None,
) -> list[tuple[int, int, tuple[int, ...]]]:
    count = len(labels)
    found = find_conflicts(
        copies,
        labels,
        units=units,
        datasets=datasets or ["a"] * count,
        patches=patches or [None] * count,
    )
    return [(each.one, each.other, each.cases) for each in found]


def test_copies_with_different_labels_conflict_within_a_dataset_and_across_units() -> None:
    pair = [link(0, 1)]
    assert conflicts(pair, [0, 1], units=[0, 1]) == [(0, 1, (0, 1))]
    assert conflicts(pair, [1, 1], units=[0, 1]) == []
    assert conflicts(pair, [None, 1], units=[0, 1]) == []
    assert conflicts(pair, [0, 1], units=[0, 1], datasets=["a", "b"]) == []
    assert conflicts([], [0, 1], units=[0, 1]) == []


def test_unknown_parts_of_labels_conflict_with_nothing() -> None:
    three = [link(0, 1), link(1, 2)]
    units = [0, 1, 2]
    assert conflicts(three, [(1, 0), (1, None), (None, 0)], units=units) == []
    # The first and the last know the second label; the one between them agrees with both.
    assert conflicts(three, [(1, 0), (1, None), (None, 1)], units=units) == [(0, 2, (0, 1, 2))]
    assert conflicts(three, [(None, 0), (1, None), (0, None)], units=units) == [(1, 2, (0, 1, 2))]
    assert conflicts(three, [(1, 0), None, (0, 0)], units=units) == [(0, 2, (0, 2))]
    assert conflicts(three, [(1, 0), (1, None), (None, 1)], units=[0, 0, 0]) == []
    same = {"patches": ["p", "p", "p"], "units": [0, 0, 0]}
    assert conflicts([], [(1, 0), (1, None), (None, 1)], **same) == [(0, 2, (0, 1, 2))]


def test_equal_patches_with_different_labels_conflict_also_within_a_patient() -> None:
    equal = {"patches": ["p", "p", "q"], "units": [0, 0, 0]}
    assert conflicts([], [0, 1, 1], **equal) == [(0, 1, (0, 1))]
    assert conflicts([], [0, 0, 1], **equal) == []  # two findings: other positions, other patches
    assert conflicts([], [None, 1, 1], **equal) == []
    assert conflicts([], [0, 1, 1], **equal, datasets=["a", "b", "a"]) == []
    assert conflicts([], [0, 1], units=[0, 0], patches=[None, None]) == []
    assert conflicts([], [0, 1], units=[0, 1], patches=["p", "p"]) == [(0, 1, (0, 1))]
    # A copy of both under another name, with a label of its own, makes one conflict of all three.
    three = conflicts([link(0, 2), link(1, 2)], [0, 1, 0], units=[0, 0, 1], patches=["p"] * 3)
    assert three == [(0, 1, (0, 1, 2))]


def test_a_conflict_is_seen_through_another_dataset_and_beside_a_patients_own_slices() -> None:
    through = [link(0, 1), link(1, 2)]
    found = conflicts(through, [0, 5, 1], units=[0, 1, 2], datasets=["a", "b", "a"])
    assert found == [(0, 2, (0, 2))]
    beside = [link(0, 2), link(1, 2)]  # 0 and 1 are two findings on one slice
    assert conflicts(beside, [0, 1, 0], units=[0, 0, 1]) == [(1, 2, (0, 1, 2))]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=7))
def test_a_conflict_is_found_if_any_two_images_of_a_group_differ_in_both(
    members: list[tuple[int, int]],
) -> None:
    units = [unit for unit, _ in members]
    labels = [label for _, label in members]
    chain = [link(index, index + 1) for index in range(len(members) - 1)]
    found = conflicts(chain, labels, units=units)
    exists = any(u != v and k != m for u, k in members for v, m in members)
    assert len(found) == exists
    for one, other, _ in found:
        assert units[one] != units[other]
        assert labels[one] != labels[other]


def test_the_error_names_both_files() -> None:
    found = [Conflict(one=0, other=1, cases=(0, 1)), Conflict(one=2, other=3, cases=(2, 3))]
    names = ["yes/a.png", "no/b.jpg", "c", "d"]
    labels = ["tumour", "healthy", "x", "y"]
    error = conflict_error(found, names=names, labels=labels, dataset="brain")
    assert isinstance(error, DataError)
    assert str(error) == (
        "brain: yes/a.png (tumour) and no/b.jpg (healthy) are copies of one image with different "
        "labels, and 1 more such groups: correct the labels, or leave all of them out with "
        "`--conflicts drop` (see `hydrakit datasets check brain`)"
    )


def test_leaving_out_copies_keeps_the_first_images_unit_whole() -> None:
    # 0 and 1 are one patient's, and alike; 2 is a copy of both; 3 and 4 are copies.
    found = [link(0, 2), link(1, 2), link(3, 4)]
    assert duplicates_to_drop(found, [0, 0, 1, 2, 3]) == {2, 4}
    assert duplicates_to_drop([], [0, 1]) == set()


def test_groups_join_patients_groups_and_copies_within_their_dataset() -> None:
    names = assign_groups(
        ["a", "a", "a", "a", "b", "b"],
        ["p1", "p1", "p2", "p3", "p1", "p9"],
        [None, "exam", "exam", None, None, "exam"],
        [link(3, 5)],
    )
    assert names == ["a/p1", "a/p1", "a/p1", "a/p3", "b/p1", "a/p3"]


def test_datasets_of_the_same_people_share_patients() -> None:
    names = assign_groups(
        ["patches", "dicom", "other"],
        ["p1", "p1", "p1"],
        [None, None, None],
        [],
        people={"patches": "prostatex", "dicom": "prostatex"},
    )
    assert names == ["patches/p1", "patches/p1", "other/p1"]


# Real data


def test_brain_has_33_groups_of_copies_and_none_across_the_labels(shared_data: Path) -> None:
    (adapter,) = hydrakit_dataset_adapters()
    samples = [
        case
        for case in read_samples(adapter, shared_data / "brain", {})
        if isinstance(case, LoadedSample)
    ]
    found = find([sample.image for sample in samples])
    groups = copy_groups(found, len(samples))
    assert Counter(map(len, groups)) == {2: 26, 3: 4, 4: 2, 5: 1}
    assert Counter(copy.kind for copy in found) == {"exact": 25, "near": 19}
    labels = [sample.label for sample in samples]
    units = list(range(len(samples)))
    assert conflicts(found, labels, units=units) == []
    # The gap: a bound anywhere from 0.88 to 0.94 gives the same groups.
    thumbnails = np.stack([thumbnail(sample.image) for sample in samples])
    digests = [content_digest(sample.image) for sample in samples]
    textures = textures_of([sample.image for sample in samples])
    for bound in (0.88, 0.94):
        again = find_duplicates(thumbnails, digests, textures, threshold=bound)
        assert copy_groups(again, 253) == groups


def test_lidc_and_prostatex_patches_have_no_copies_across_patients(shared_data: Path) -> None:
    folder = shared_data / "lidc" / "images"
    paths = sorted(folder.glob("*/*/*/*.png"))
    assert len(paths) == 5043
    slices = [as_image(np.asarray(Image.open(path).convert("L"))) for path in paths]
    exams = [path.relative_to(folder).parts[1] for path in paths]
    assert find(slices, units=unit_numbers(exams, [None] * len(exams))) == []
    with np.load(shared_data / "prostatex-patches" / "bval_patches32.npz") as archive:
        patches = [as_image(patch) for patch in archive["patch"]]
        patients = [str(name) for name in archive["prox_id"]]
    assert find(patches, units=unit_numbers(patients, [None] * len(patients))) == []
