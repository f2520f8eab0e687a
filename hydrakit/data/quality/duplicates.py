"""Finding images that are copies of one another, and keeping them on one side of a split.

Each image, while it is read, gives two small things: a digest of its pixels, equal for exact
copies, and a thumbnail, alike for copies that were resized, encoded anew, made brighter or flipped.
Everything here works on those and on labels and names: it reads no file. How the limits were chosen
on real data, and what is not found, is told in ``docs/leaks.md``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.quality.components import connected_components
from hydrakit.errors import DataError
from hydrakit.hooks import Label

GRID = 32
BANDS = 24
THRESHOLD = 0.92
MIN_DETAIL = 48.0
BLOCK = 1024

Flip = Literal["none", "horizontal", "vertical", "both"]
Float32Array = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """Two images that are copies.

    Attributes:
        one: Index of the earlier image.
        other: Index of the later image.
        similarity: Of their thumbnails, 1 for exact copies.
        kind: ``exact`` if all pixels are equal, otherwise ``near``.
        flip: How one must be turned over to be most alike the other.
    """

    one: int
    other: int
    similarity: float
    kind: Literal["exact", "near"]
    flip: Flip = "none"


def content_digest(image: Float32Array) -> str:
    """SHA-256 of an image's shape and pixels, in hexadecimal; the file's format does not matter.

    Args:
        image: ``(channels, height, width)``.
    """
    hasher = hashlib.sha256(repr(image.shape).encode())
    hasher.update(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return hasher.hexdigest()


def thumbnail(image: Float32Array) -> Float32Array:
    """What is left of an image when size, encoding, brightness and contrast are taken away.

    The mean of the channels is averaged to 32 x 32 pixels. Of its cosine transform the 24 lowest
    frequencies of each axis are kept, each times its frequency: edges count, and the coarse shape,
    which all heads have in common, counts little. The whole is scaled to length 1.

    Args:
        image: ``(channels, height, width)``, the whole image and not a crop.

    Returns:
        ``(576,)``; the product of two is their similarity, from -1 to 1. All 0 for an image
        without contrast.
    """
    from PIL import Image

    plane = image.mean(axis=0, dtype=np.float32)
    small = np.zeros((GRID, GRID))
    # Pillow gives a pixel on the edge of two boxes to one of them: the mean over all flips, each
    # turned back, treats both sides alike, and a flipped copy gives the flipped thumbnail.
    for down, right in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        turned = Image.fromarray(np.ascontiguousarray(plane[::down, ::right]))
        shrunk = np.asarray(turned.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float64)
        small += shrunk[::down, ::right] / 4
    scale = float(np.abs(small).max())
    contrast = small - small.mean()
    if float(np.abs(contrast).max()) <= 1e-6 * scale:
        return np.zeros(BANDS * BANDS, dtype=np.float32)
    waves = _cosines(GRID)[:BANDS]
    frequency = np.hypot(*np.indices((BANDS, BANDS)))
    edges = (waves @ contrast @ waves.T) * frequency
    unit: Float32Array = (edges / np.linalg.norm(edges)).astype(np.float32).ravel()
    return unit


def _cosines(size: int) -> NDArray[np.float64]:
    """The orthonormal cosine transform (DCT-II) as a matrix, one frequency a row."""
    order = np.arange(size)
    waves = np.cos(np.pi / size * np.outer(order, order + 0.5)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float64)


def detail(thumbnails: Float32Array) -> NDArray[np.float64]:
    """How many places of each thumbnail its edges take up: 1 for one dot, 576 if even.

    Two unlike images with few edges are easily alike (one round nodule and another), so those below
    `MIN_DETAIL` are compared by digest alone.

    Args:
        thumbnails: ``(images, 576)``.

    Returns:
        ``(images,)``: the inverse participation ratio; 0 for an image without contrast.
    """
    waves = _cosines(BANDS)
    powers = np.empty(len(thumbnails))
    for start in range(0, len(thumbnails), BLOCK):
        edges = thumbnails[start : start + BLOCK].reshape(-1, BANDS, BANDS)
        powers[start : start + BLOCK] = ((waves.T @ edges @ waves) ** 4).sum(axis=(1, 2))
    return np.divide(1.0, powers, out=np.zeros_like(powers), where=powers > 0)


def find_duplicates(
    thumbnails: Float32Array,
    digests: Sequence[str],
    *,
    units: Sequence[int] | None = None,
    threshold: float = THRESHOLD,
    min_detail: float = MIN_DETAIL,
) -> list[Copy]:
    """Exact and near-copies among images, of one dataset or of several.

    The list holds enough pairs to join all copies into their groups (`copy_groups`), the most alike
    ones of each block first, and so is shorter than the images however many are alike. All pairs
    are compared, but as products of thumbnails: 20,000 images take 2 x 10^11 multiplications and a
    few megabytes beside the thumbnails.

    Args:
        thumbnails: ``(images, 576)``, of `thumbnail`.
        digests: Of `content_digest`.
        units: Number of each image's patient or group (`unit_of_each`): images
            of one unit may be alike, stay together anyway, and are not reported. None: each image
            is a unit of its own.
        threshold: Least similarity of near-copies.
        min_detail: Images with less `detail` have no near-copies.

    Returns:
        Exact copies first, then near ones.

    Raises:
        ValueError: The arguments are not of one length.
    """
    count = len(digests)
    of_unit = np.arange(count) if units is None else np.asarray(units)
    if thumbnails.shape != (count, BANDS * BANDS) or of_unit.shape != (count,):
        raise ValueError(
            f"{count} digests need as many thumbnails and units: got the shapes "
            f"{thumbnails.shape} and {of_unit.shape}"
        )
    forest = _Forest(of_unit)
    same: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        same.setdefault(digest, []).append(index)
    exact = np.array(
        [pair for alike in same.values() for pair in _exact_pairs(alike, of_unit)], dtype=np.intp
    ).reshape(-1, 2)
    copies = [
        Copy(one=one, other=other, similarity=1.0, kind="exact")
        for one, other in forest.join(exact)
    ]
    rows = np.flatnonzero(detail(thumbnails) >= min_detail)
    parts = _by_parity(thumbnails[rows])
    for pairs in _near_pairs(parts, threshold):
        for one, other in forest.join(rows[pairs]):
            flips = _similarities(parts, *np.searchsorted(rows, [one, other]))
            flip = max(flips, key=lambda name: flips[name])
            similarity = min(flips[flip], 1.0)
            copies.append(Copy(one=one, other=other, similarity=similarity, kind="near", flip=flip))
    return copies


def _exact_pairs(alike: Sequence[int], units: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Pairs that join all units of a set of equal images."""
    first = alike[0]
    elsewhere = next((index for index in alike if units[index] != units[first]), None)
    for index in alike[1:]:
        if units[index] != units[first]:
            yield first, index
        elif elsewhere is not None:
            yield min(index, elsewhere), max(index, elsewhere)


class _Forest:
    """Joins images into groups, and keeps only those pairs that join two groups."""

    def __init__(self, units: NDArray[np.intp]) -> None:
        self.units = units
        self.group = np.arange(len(units))

    def join(self, pairs: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
        """Those of the pairs ``(pairs, 2)``, the best ones first, that join groups.

        Pairs within a unit join nothing. Each turn takes at most one pair for each later image and
        then drops all pairs that have become superfluous, so that a block of a million pairs of
        alike images takes a few turns.
        """
        pairs = pairs[self.units[pairs[:, 0]] != self.units[pairs[:, 1]]]
        while len(pairs := pairs[self.group[pairs[:, 0]] != self.group[pairs[:, 1]]]):
            _, firsts = np.unique(pairs[:, 1], return_index=True)
            for one, other in pairs[np.sort(firsts)].tolist():
                if self.group[one] != self.group[other]:
                    self.group[self.group == self.group[other]] = self.group[one]
                    yield min(one, other), max(one, other)


def _by_parity(thumbnails: Float32Array) -> list[Float32Array]:
    """Thumbnails in four parts, by even and odd frequency of rows and of columns.

    To flip an image horizontally changes the sign of its odd column frequencies and nothing else,
    so the products of the four parts give the similarities under all four flips.
    """
    count = len(thumbnails)
    bands = thumbnails.reshape(count, BANDS, BANDS)
    return [
        bands[:, row::2, column::2].reshape(count, (BANDS // 2) ** 2)
        for row in (0, 1)
        for column in (0, 1)
    ]


def _similarities(parts: Sequence[Float32Array], one: int, other: int) -> dict[Flip, float]:
    """Of two images, under each flip."""
    a, b, c, d = (float(part[one] @ part[other]) for part in parts)
    return {
        "none": a + b + c + d,
        "horizontal": a - b + c - d,
        "vertical": a + b - c - d,
        "both": a - b - c + d,
    }


def _near_pairs(parts: Sequence[Float32Array], threshold: float) -> Iterator[NDArray[np.intp]]:
    """Pairs ``(pairs, 2)`` of rows alike under some flip, block by block, the most alike first."""
    count = len(parts[0])
    for top in range(0, count, BLOCK):
        for left in range(top, count, BLOCK):
            a, b, c, d = (part[top : top + BLOCK] @ part[left : left + BLOCK].T for part in parts)
            # The larger of x + y and x - y is x + |y|.
            best = np.maximum(a + c + np.abs(b + d), a - c + np.abs(b - d))
            if left == top:
                best[np.tril_indices_from(best)] = -1
            rows, columns = np.nonzero(best >= threshold)
            order = np.argsort(-best[rows, columns], kind="stable")
            yield np.stack([rows[order] + top, columns[order] + left], axis=1)


def copy_groups(copies: Sequence[Copy], count: int) -> list[list[int]]:
    """The groups of two or more images that the pairs join, each in order.

    Args:
        copies: Of `find_duplicates`.
        count: Number of images.
    """
    links = [(copy.one, copy.other) for copy in copies]
    return [group for group in connected_components(count, links) if len(group) > 1]


def conflicts(
    copies: Sequence[Copy],
    labels: Sequence[Label | None],
    *,
    units: Sequence[int],
    datasets: Sequence[str],
) -> list[tuple[int, int]]:
    """Copies of one dataset that have different labels: two images of each such group.

    Images of one unit do not conflict (two findings of one patient on one slice), nor do those of
    two datasets, whose labels mean different things.

    Args:
        copies: Of `find_duplicates`.
        labels: Of each image; None conflicts with nothing.
        units: As `find_duplicates` had them.
        datasets: Name of each image's dataset.
    """
    found = []
    for group in copy_groups(copies, len(labels)):
        labelled = [index for index in group if labels[index] is not None]
        for dataset in sorted({datasets[index] for index in labelled}):
            within = [index for index in labelled if datasets[index] == dataset]
            found += _disagreeing(within, labels, units)
    return found


def _disagreeing(
    group: Sequence[int], labels: Sequence[Label | None], units: Sequence[int]
) -> list[tuple[int, int]]:
    """Two images of the group that differ in both label and unit, if there are any."""
    first = group[0]
    other_label = next((index for index in group if labels[index] != labels[first]), first)
    other_unit = next((index for index in group if units[index] != units[first]), first)
    # If there are two labels and two units, one of these three pairs differs in both.
    pairs = [(first, other_label), (first, other_unit), (other_label, other_unit)]
    return [
        (min(pair), max(pair))
        for pair in pairs
        if labels[pair[0]] != labels[pair[1]] and units[pair[0]] != units[pair[1]]
    ][:1]


def conflict_error(
    found: Sequence[tuple[int, int]],
    *,
    names: Sequence[str],
    labels: Sequence[object],
    dataset: str,
) -> DataError:
    """The error for copies with different labels; it names the files of the first pair.

    Args:
        found: Of `conflicts`, at least one.
        names: File or key of each image.
        labels: Name of each image's class.
        dataset: Its name.
    """
    one, other = found[0]
    more = f", and {len(found) - 1} more such groups" if len(found) > 1 else ""
    return DataError(
        f"{dataset}: {names[one]} ({labels[one]}) and {names[other]} ({labels[other]}) are copies "
        f"of one image with different labels{more}: correct the labels or remove the copies "
        f"(see `hydrakit datasets check {dataset}`)"
    )


def duplicates_to_drop(copies: Sequence[Copy], units: Sequence[int]) -> set[int]:
    """The images to leave out so that no copy of another unit's image is left.

    Of each group the images of its first image's unit stay.
    """
    return {
        index
        for group in copy_groups(copies, len(units))
        for index in group
        if units[index] != units[group[0]]
    }


def assign_groups(
    datasets: Sequence[str],
    patients: Sequence[str],
    groups: Sequence[str | None],
    copies: Sequence[Copy],
    *,
    people: Mapping[str, str] | None = None,
) -> list[str]:
    """Give each case of one or several datasets the name of what it must stay together with.

    Cases that share a patient, a group or a copy, directly or through other cases, have one name,
    to be given to `hydrakit.data.quality.split.split_cases` as their group.

    Args:
        datasets: Name of each case's dataset.
        patients: Patient of each case.
        groups: Group of each case, or None; it counts within its dataset.
        copies: Of `find_duplicates` over these cases.
        people: Whose patients a dataset has: datasets of the same value here share patients, and
            equal identifiers in them are one patient. A dataset that is not named has its own.

    Returns:
        For each case ``DATASET/PATIENT`` of the first case of its unit.
    """
    sources = people or {}
    first: dict[tuple[str, str, str], int] = {}
    links = [(copy.one, copy.other) for copy in copies]
    for index, (dataset, patient, group) in enumerate(zip(datasets, patients, groups, strict=True)):
        source = ("source", sources[dataset]) if dataset in sources else ("dataset", dataset)
        links.append((first.setdefault((*source, patient), index), index))
        if group is not None:
            links.append((first.setdefault(("group", dataset, group), index), index))
    names = [""] * len(datasets)
    for unit in connected_components(len(datasets), links):
        for index in unit:
            names[index] = f"{datasets[unit[0]]}/{patients[unit[0]]}"
    return names
