"""Detection of duplicate images, and grouping of cases that must stay in one split.

Preparation computes two values for each image: a digest of its pixels, equal for exact copies, and
a thumbnail, similar for copies that were resized, encoded again, brightened or flipped. This module
works on these, on labels and on names; it reads no files. ``docs/leaks.md`` explains how the
thresholds were chosen on real data, and which copies are not detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.quality.components import connected_components
from hydrakit.errors import DataError, command_line
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
    """A pair of images that are copies of one another.

    Attributes:
        one: Index of the earlier image.
        other: Index of the later image.
        similarity: Similarity of the thumbnails, 1 for exact copies.
        kind: ``exact`` if all pixels are equal, otherwise ``near``.
        flip: Flip of one image that makes it most similar to the other.
    """

    one: int
    other: int
    similarity: float
    kind: Literal["exact", "near"]
    flip: Flip = "none"


def content_digest(image: Float32Array) -> str:
    """Return the SHA-256 of an image's shape and pixels, independent of the file format.

    Args:
        image: Image ``(channels, height, width)``.
    """
    hasher = hashlib.sha256(repr(image.shape).encode())
    hasher.update(np.ascontiguousarray(image, dtype="<f4").tobytes())
    return hasher.hexdigest()


def thumbnail(image: Float32Array) -> Float32Array:
    """Compute a descriptor of an image that ignores size, encoding, brightness and contrast.

    The mean of the channels is averaged to 32 x 32 pixels. The descriptor consists of the 24 lowest
    frequencies per axis of its cosine transform, each multiplied by its frequency: this emphasises
    edges over the coarse shape, which all heads share. It is scaled to length 1.

    Args:
        image: Whole image (not a crop), ``(channels, height, width)``.

    Returns:
        Vector ``(576,)``; the dot product of two is their similarity, from -1 to 1. All zeros for
        an image without contrast.
    """
    from PIL import Image

    plane = image.mean(axis=0, dtype=np.float32)
    small = np.zeros((GRID, GRID))
    # Pillow assigns a pixel on the edge of two boxes to one of them. The mean over all flips, each
    # flipped back, is symmetric, so that a flipped copy gives the flipped thumbnail.
    for down, right in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        flipped = Image.fromarray(np.ascontiguousarray(plane[::down, ::right]))
        shrunk = np.asarray(flipped.resize((GRID, GRID), Image.Resampling.BOX), dtype=np.float64)
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
    """Return the orthonormal cosine transform (DCT-II) as a matrix, one frequency per row."""
    order = np.arange(size)
    waves = np.cos(np.pi / size * np.outer(order, order + 0.5)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return np.asarray(waves, dtype=np.float64)


def detail(thumbnails: Float32Array) -> NDArray[np.float64]:
    """Measure how many positions of each thumbnail have edges: 1 for a single dot, at most 576.

    Different images with few edges are easily similar (two round nodules, for example), so images
    below `MIN_DETAIL` are compared by digest alone.

    Args:
        thumbnails: Thumbnails ``(images, 576)``.

    Returns:
        Inverse participation ratio ``(images,)``; 0 for an image without contrast.
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
    """Find exact and near copies among images of one or several datasets.

    The result holds enough pairs to join all copies into their groups (`copy_groups`), the most
    similar pairs of each block first; it has fewer pairs than there are images. All pairs of images
    are compared by products of thumbnails: 20,000 images take 2 x 10^11 multiplications and a few
    megabytes in addition to the thumbnails.

    Args:
        thumbnails: Thumbnails ``(images, 576)`` from `thumbnail`.
        digests: Digests from `content_digest`.
        units: Number of each image's patient or group (`unit_numbers`). Copies within a unit are
            not reported, because its images stay together in any case. None: each image is its own
            unit.
        threshold: Minimum similarity of near copies.
        min_detail: Images with less `detail` have no near copies.

    Returns:
        Exact copies, then near copies.

    Raises:
        ValueError: The arguments differ in length.
    """
    count = len(digests)
    unit_of = np.arange(count) if units is None else np.asarray(units)
    if thumbnails.shape != (count, BANDS * BANDS) or unit_of.shape != (count,):
        raise ValueError(
            f"{count} digests need as many thumbnails and units: got the shapes "
            f"{thumbnails.shape} and {unit_of.shape}"
        )
    forest = _Forest(unit_of)
    by_digest: dict[str, list[int]] = {}
    for index, digest in enumerate(digests):
        by_digest.setdefault(digest, []).append(index)
    exact = np.array(
        [pair for equal in by_digest.values() for pair in _exact_pairs(equal, unit_of)],
        dtype=np.intp,
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


def _exact_pairs(equal: Sequence[int], units: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
    """Yield pairs that join all units of a set of equal images."""
    first = equal[0]
    other_unit = next((index for index in equal if units[index] != units[first]), None)
    for index in equal[1:]:
        if units[index] != units[first]:
            yield first, index
        elif other_unit is not None:
            yield min(index, other_unit), max(index, other_unit)


class _Forest:
    """Union-find over images that yields only the pairs that join two groups."""

    def __init__(self, units: NDArray[np.intp]) -> None:
        self.units = units
        self.group = np.arange(len(units))

    def join(self, pairs: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
        """Yield those of the pairs ``(pairs, 2)``, sorted best first, that join two groups.

        Pairs within a unit join nothing. Each iteration uses at most one pair for each later image
        and then drops all redundant pairs, so that a block with a million pairs of similar images
        takes a few iterations.
        """
        pairs = pairs[self.units[pairs[:, 0]] != self.units[pairs[:, 1]]]
        while len(pairs := pairs[self.group[pairs[:, 0]] != self.group[pairs[:, 1]]]):
            _, first_rows = np.unique(pairs[:, 1], return_index=True)
            for one, other in pairs[np.sort(first_rows)].tolist():
                if self.group[one] != self.group[other]:
                    self.group[self.group == self.group[other]] = self.group[one]
                    yield min(one, other), max(one, other)


def _by_parity(thumbnails: Float32Array) -> list[Float32Array]:
    """Divide thumbnails into four parts, by even and odd frequency of rows and of columns.

    A horizontal flip only changes the sign of the odd column frequencies, so the products of the
    four parts give the similarities under all four flips.
    """
    count = len(thumbnails)
    bands = thumbnails.reshape(count, BANDS, BANDS)
    return [
        bands[:, row::2, column::2].reshape(count, (BANDS // 2) ** 2)
        for row in (0, 1)
        for column in (0, 1)
    ]


def _similarities(parts: Sequence[Float32Array], one: int, other: int) -> dict[Flip, float]:
    """Return the similarity of two images under each flip."""
    a, b, c, d = (float(part[one] @ part[other]) for part in parts)
    return {
        "none": a + b + c + d,
        "horizontal": a - b + c - d,
        "vertical": a + b - c - d,
        "both": a - b - c + d,
    }


def _near_pairs(parts: Sequence[Float32Array], threshold: float) -> Iterator[NDArray[np.intp]]:
    """Yield pairs ``(pairs, 2)`` of rows that are similar under some flip, sorted in each block."""
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
    """Join the pairs into groups of two or more images, each sorted.

    Args:
        copies: Copies from `find_duplicates`.
        count: Number of images.
    """
    links = [(copy.one, copy.other) for copy in copies]
    return [group for group in connected_components(count, links) if len(group) > 1]


def find_conflicts(
    copies: Sequence[Copy],
    labels: Sequence[Label | None],
    *,
    units: Sequence[int],
    datasets: Sequence[str],
) -> list[tuple[int, int]]:
    """Find copies in one dataset with different labels: two images of each such group.

    Images of one unit do not conflict (two findings of one patient on one slice), nor do images of
    two datasets, whose labels have different meanings.

    Args:
        copies: Copies from `find_duplicates`.
        labels: Label of each image; None never conflicts.
        units: Unit of each image, as given to `find_duplicates`.
        datasets: Name of each image's dataset.
    """
    conflicts = []
    for group in copy_groups(copies, len(labels)):
        labelled = [index for index in group if labels[index] is not None]
        for dataset in sorted({datasets[index] for index in labelled}):
            within = [index for index in labelled if datasets[index] == dataset]
            conflicts += _conflicting_pair(within, labels, units)
    return conflicts


def _conflicting_pair(
    group: Sequence[int], labels: Sequence[Label | None], units: Sequence[int]
) -> list[tuple[int, int]]:
    """Return two images of the group that differ in both label and unit, if there are any."""
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
    conflicts: Sequence[tuple[int, int]],
    *,
    names: Sequence[str],
    labels: Sequence[object],
    dataset: str,
) -> DataError:
    """Return the error for copies with different labels; it names the files of the first pair.

    Args:
        conflicts: Conflicts from `find_conflicts`, at least one.
        names: File or key of each image.
        labels: Name of each image's class.
        dataset: Name of the dataset.
    """
    one, other = conflicts[0]
    more = f", and {len(conflicts) - 1} more such groups" if len(conflicts) > 1 else ""
    return DataError(
        f"{dataset}: {names[one]} ({labels[one]}) and {names[other]} ({labels[other]}) are copies "
        f"of one image with different labels{more}: correct the labels or remove the copies "
        f"(see `{command_line('hydrakit', 'datasets', 'check', dataset)}`)"
    )


def duplicates_to_drop(copies: Sequence[Copy], units: Sequence[int]) -> set[int]:
    """Return the images to drop so that no unit has a copy of another unit's image.

    In each group, the images of the first image's unit stay.
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
    identities: Sequence[str] | None = None,
) -> list[str]:
    """Return, for each case of one or several datasets, the name of the unit it must stay with.

    Cases that share a patient, a group or a copy, directly or through other cases, get the same
    name. Use it as their group in `hydrakit.data.quality.split.split_cases`.

    Args:
        datasets: Name of each case's dataset.
        patients: Patient of each case.
        groups: Group of each case, or None; unique within its dataset.
        copies: Copies from `find_duplicates` over these cases.
        people: Cohort of each dataset: in datasets of one cohort, equal patient identifiers mean
            the same patient. A dataset without an entry has its own patients.
        identities: Form in which each case's patient is also compared
            (`hydrakit.data.identity.patient_of`); None compares patients as they are written.

    Returns:
        For each case, ``DATASET/PATIENT`` of the first case of its unit.
    """
    sources = people or {}
    first: dict[tuple[str, ...], int] = {}
    links = [(copy.one, copy.other) for copy in copies]
    rows = zip(datasets, patients, identities or patients, groups, strict=True)
    for index, (dataset, patient, identity, group) in enumerate(rows):
        source = ("source", sources[dataset]) if dataset in sources else ("dataset", dataset)
        # As written too: datasets of one cohort may differ in `DatasetAdapter.exact_names`.
        for name in ((*source, patient), ("normal", *source, identity)):
            links.append((first.setdefault(name, index), index))
        if group is not None:
            links.append((first.setdefault(("group", dataset, group), index), index))
    names = [""] * len(datasets)
    for unit in connected_components(len(datasets), links):
        for index in unit:
            names[index] = f"{datasets[unit[0]]}/{patients[unit[0]]}"
    return names
