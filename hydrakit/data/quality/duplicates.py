"""Detection of duplicate images, and grouping of cases that must stay in one split.

Preparation computes three values for each image: a digest of its pixels, equal for exact copies; a
thumbnail, similar for copies that were resized, encoded again, brightened or flipped; and a
texture, which tells such copies from different images of one shape. This module works on these, on
labels and on names; it reads no files. ``docs/leaks.md`` explains how the thresholds were chosen on
real data, and which copies are not detected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

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

TEXTURE = 128  # side of a texture
TILE = 16  # side of the tiles of a texture that are compared
TILES = (TEXTURE // TILE) ** 2
LEVELS = 31  # largest value of a texture, so that products of textures are exact in float32
UNIT = 8  # value of a texture that stands for one standard deviation
MIN_POWER = TILE**2 * (UNIT // 2) ** 2  # sum of squares of a tile that has structure
MIN_AGREEMENT = 0.45
TEXTURES = 256  # textures in memory at a time, twice

Flip = Literal["none", "horizontal", "vertical", "both"]
FLIPS: tuple[Flip, ...] = get_args(Flip)
Float32Array = NDArray[np.float32]
Int8Array = NDArray[np.int8]


@dataclass(frozen=True, kw_only=True)
class Copy:
    """A pair of images that are copies of one another.

    Attributes:
        one: Index of the earlier image.
        other: Index of the later image.
        similarity: Similarity of the thumbnails, 1 for exact copies.
        agreement: Agreement of the textures (`agreement`), 1 for exact copies.
        kind: ``exact`` if all pixels are equal, otherwise ``near``.
        flip: Flip of one image that makes it most similar to the other.
    """

    one: int
    other: int
    similarity: float
    agreement: float
    kind: Literal["exact", "near"]
    flip: Flip = "none"


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """Cases of one dataset that show one image but have different labels.

    Attributes:
        one: Index of a case.
        other: Index of a case with another label.
        cases: Indices of all cases that show the image, ``one`` and ``other`` among them.
    """

    one: int
    other: int
    cases: tuple[int, ...]


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


def texture(image: Float32Array) -> Int8Array:
    """Compute the fine structure of an image, at the same strength everywhere.

    The mean of the channels is resized to 128 x 128 pixels and smoothed a little. The local mean is
    subtracted, and the result is divided by the local standard deviation, so that faint tissue
    counts as much as a bright outline. What is much weaker than most of the image, such as the
    noise of an empty background, is not amplified.

    Args:
        image: Whole image (not a crop), ``(channels, height, width)``.

    Returns:
        ``(128, 128)``, in eighths of a standard deviation, -31 to 31.
    """
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    def smooth(values: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, sigma, mode="nearest"))

    plane = Image.fromarray(np.ascontiguousarray(image.mean(axis=0, dtype=np.float32)))
    small = plane.resize((TEXTURE, TEXTURE), Image.Resampling.BILINEAR)
    fine = smooth(np.asarray(small, dtype=np.float64), 1)
    contrast = fine - smooth(fine, 3)
    deviation = np.sqrt(np.maximum(smooth(contrast**2, 3), 0))
    least = max(0.05 * np.percentile(deviation, 75), 1e-6 * np.abs(fine).max(), 1e-300)
    values = np.rint(UNIT * contrast / np.hypot(deviation, least))
    return np.asarray(np.clip(values, -LEVELS, LEVELS), dtype=np.int8)


def agreement(one: Int8Array, other: Int8Array) -> float:
    """Measure how well two textures agree: the correlation that 3/4 of their tiles reach.

    A tile is a square of 16 x 16 pixels. Tiles without structure in both textures do not count, and
    a tile with structure in one alone has no correlation. So a common outline does not make two
    textures agree.

    Args:
        one: Texture ``(128, 128)``.
        other: Texture ``(128, 128)``.

    Returns:
        -1 to 1; 0 if no tile has structure.
    """
    first, second = _tiles(one[np.newaxis]), _tiles(other[np.newaxis])
    counted = (first.structured | second.structured)[:, 0]
    if not counted.any():
        return 0.0
    products = (first.values * second.values).sum(axis=(1, 2), dtype=np.float64)[counted]
    lengths = (first.lengths * second.lengths)[counted, 0]
    correlations = np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0)
    return float(np.sort(correlations)[len(correlations) // 4])


@dataclass(frozen=True, eq=False)
class _Tiles:
    """Textures in tiles.

    Attributes:
        values: Pixels, ``(64, textures, 256)``; whole numbers whose products are exact in float32.
        lengths: Root of the sum of squares of each tile, ``(64, textures)``.
        structured: Whether each tile has structure, ``(64, textures)``.
    """

    values: Float32Array
    lengths: NDArray[np.float64]
    structured: NDArray[np.bool_]


def _tiles(textures: Int8Array) -> _Tiles:
    """Divide textures ``(textures, 128, 128)`` into tiles."""
    count, along = len(textures), TEXTURE // TILE
    squares = textures.reshape(count, along, TILE, along, TILE).transpose(1, 3, 0, 2, 4)
    values = squares.reshape(TILES, count, TILE**2).astype(np.float32)
    power = (values**2).sum(axis=2, dtype=np.float64)
    return _Tiles(values, np.sqrt(power), power >= MIN_POWER)


def _agreeing(ones: _Tiles, others: _Tiles) -> NDArray[np.bool_]:
    """Whether the `agreement` of every two textures is at least `MIN_AGREEMENT`."""
    counted = np.zeros((ones.values.shape[1], others.values.shape[1]), dtype=np.intp)
    agreeing = np.zeros_like(counted)
    for tile in range(TILES):
        products = ones.values[tile] @ others.values[tile].T
        lengths = np.outer(ones.lengths[tile], others.lengths[tile])
        either = ones.structured[tile][:, np.newaxis] | others.structured[tile]
        counted += either
        agreeing += either & (products > 0) & (products >= MIN_AGREEMENT * lengths)
    return np.asarray((counted > 0) & (4 * agreeing >= 3 * counted), dtype=np.bool_)


def _flipped(textures: Int8Array, flip: Flip) -> Int8Array:
    down = -1 if flip in {"vertical", "both"} else 1
    right = -1 if flip in {"horizontal", "both"} else 1
    return textures[:, ::down, ::right]


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
    textures: Callable[[Sequence[int]], Int8Array],
    *,
    units: Sequence[int] | None = None,
    threshold: float = THRESHOLD,
    min_detail: float = MIN_DETAIL,
) -> list[Copy]:
    """Find exact and near copies among images of one or several datasets.

    Near copies have similar thumbnails, and textures that agree. The result holds enough pairs to
    join all copies into their groups (`copy_groups`), the most similar pairs of each block first;
    it has fewer pairs than there are images.

    All pairs of images are compared by products of thumbnails: 20,000 images take 2 x 10^11
    multiplications and a few megabytes in addition to the thumbnails. Textures are compared only of
    pairs with similar thumbnails that would join two groups.

    Args:
        thumbnails: Thumbnails ``(images, 576)`` from `thumbnail`.
        digests: Digests from `content_digest`.
        textures: Returns the textures ``(n, 128, 128)`` (`texture`) of images, given by index.
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
        Copy(one=one, other=other, similarity=1.0, agreement=1.0, kind="exact")
        for one, other in forest.join(exact)
    ]
    rows = np.flatnonzero(detail(thumbnails) >= min_detail)
    for pairs, flips in _near_pairs(_by_parity(thumbnails[rows]), threshold):
        open_pairs = forest.separate(rows[pairs])
        chosen = np.flatnonzero(open_pairs)
        chosen = chosen[_with_agreeing_textures(rows[pairs[chosen]], flips[chosen], textures)]
        copies += [
            compare_images(pair, thumbnails[list(pair)], textures(pair))
            for pair in forest.join(rows[pairs[chosen]])
        ]
    return copies


def compare_images(
    pair: tuple[int, int], thumbnails: Float32Array, textures: Int8Array, *, exact: bool = False
) -> Copy:
    """Return a pair of images as a `Copy`, whether or not they are copies.

    Args:
        pair: Indices of the images.
        thumbnails: Their thumbnails ``(2, 576)``.
        textures: Their textures ``(2, 128, 128)``.
        exact: Whether their pixels are equal.
    """
    one, other = pair
    if exact:
        return Copy(one=one, other=other, similarity=1.0, agreement=1.0, kind="exact")
    similarities = _similarities(_by_parity(thumbnails))
    flip = max(FLIPS, key=lambda name: similarities[name])
    return Copy(
        one=one,
        other=other,
        similarity=min(similarities[flip], 1.0),
        agreement=agreement(textures[0], _flipped(textures[1:], flip)[0]),
        kind="near",
        flip=flip,
    )


def _with_agreeing_textures(
    pairs: NDArray[np.intp],
    flips: NDArray[np.intp],
    textures: Callable[[Sequence[int]], Int8Array],
) -> NDArray[np.bool_]:
    """Whether the textures of each pair ``(pairs, 2)`` agree, the later one flipped."""
    result = np.zeros(len(pairs), dtype=np.bool_)
    for number, flip in enumerate(FLIPS):
        of_flip = np.flatnonzero(flips == number)
        ones, one_of = np.unique(pairs[of_flip, 0], return_inverse=True)
        others, other_of = np.unique(pairs[of_flip, 1], return_inverse=True)
        for top in range(0, len(ones), TEXTURES):
            first = _tiles(textures(ones[top : top + TEXTURES].tolist()))
            for left in range(0, len(others), TEXTURES):
                here = (one_of // TEXTURES == top // TEXTURES) & (
                    other_of // TEXTURES == left // TEXTURES
                )
                if here.any():
                    chosen = others[left : left + TEXTURES].tolist()
                    agree = _agreeing(first, _tiles(_flipped(textures(chosen), flip)))
                    result[of_flip[here]] = agree[one_of[here] - top, other_of[here] - left]
    return result


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
        self.group: NDArray[np.intp] = np.arange(len(units))

    def separate(self, pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Whether each of the pairs ``(pairs, 2)`` joins two groups, and is not within a unit."""
        one, other = pairs.T
        apart: NDArray[np.bool_] = (self.group[one] != self.group[other]) & (
            self.units[one] != self.units[other]
        )
        return apart

    def join(self, pairs: NDArray[np.intp]) -> Iterator[tuple[int, int]]:
        """Yield those of the pairs ``(pairs, 2)``, sorted best first, that join two groups.

        Pairs within a unit join nothing. Each iteration uses at most one pair for each later image
        and then drops all redundant pairs, so that a block with a million pairs of similar images
        takes a few iterations.
        """
        while len(pairs := pairs[self.separate(pairs)]):
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


def _similarities(parts: Sequence[Float32Array]) -> dict[Flip, float]:
    """Return the similarity of two images under each flip, from the parts of their thumbnails."""
    a, b, c, d = (float(part[0] @ part[1]) for part in parts)
    return {
        "none": a + b + c + d,
        "horizontal": a - b + c - d,
        "vertical": a + b - c - d,
        "both": a - b - c + d,
    }


def _near_pairs(
    parts: Sequence[Float32Array], threshold: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Yield pairs ``(pairs, 2)`` of rows that are similar under some flip, sorted in each block.

    The second value is the index of this flip in `FLIPS`, for each pair.
    """
    count = len(parts[0])
    for top in range(0, count, BLOCK):
        for left in range(top, count, BLOCK):
            a, b, c, d = (part[top : top + BLOCK] @ part[left : left + BLOCK].T for part in parts)
            # The larger of x + y and x - y is x + |y|.
            same, turned = a + c + np.abs(b + d), a - c + np.abs(b - d)
            best = np.maximum(same, turned)
            if left == top:
                best[np.tril_indices_from(best)] = -1
            rows, columns = np.nonzero(best >= threshold)
            order = np.argsort(-best[rows, columns], kind="stable")
            rows, columns = rows[order], columns[order]
            vertical = (turned > same)[rows, columns]
            horizontal = np.where(vertical, (b - d)[rows, columns], (b + d)[rows, columns]) < 0
            flips = 2 * vertical.astype(np.intp) + horizontal
            yield np.stack([rows + top, columns + left], axis=1), flips


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
    patches: Sequence[str | None],
) -> list[Conflict]:
    """Find cases of one dataset that show one image but have different labels.

    Two cases of different units conflict if their images are copies. Any two cases of a dataset
    conflict if their patches are equal: the network sees one picture with both labels. Two findings
    of one image have patches around different positions, so they do not conflict, nor do cases of
    two datasets, whose labels have different meanings.

    Args:
        copies: Copies from `find_duplicates`.
        labels: Label of each case; None never conflicts, nor does an unknown part of a label.
        units: Unit of each case, as given to `find_duplicates`.
        datasets: Name of each case's dataset.
        patches: Digest of each case's patch, equal for equal patches; None for a patch that shows
            nothing.
    """
    first: dict[tuple[str, str], int] = {}
    links = [(copy.one, copy.other) for copy in copies]
    links += [
        (first.setdefault((dataset, patch), index), index)
        for index, (dataset, patch) in enumerate(zip(datasets, patches, strict=True))
        if patch is not None and labels[index] is not None
    ]
    conflicts = []
    for group in connected_components(len(labels), links):
        labelled = [index for index in group if labels[index] is not None]
        for dataset in sorted({datasets[index] for index in labelled}):
            cases = [index for index in labelled if datasets[index] == dataset]
            for one, other in _conflicting_pairs(cases, labels, units, patches)[:1]:
                conflicts.append(Conflict(one=one, other=other, cases=tuple(cases)))
    return conflicts


def contradict(one: Label | None, other: Label | None) -> bool:
    """Whether two labels differ; for labels of several parts, in one that both know."""
    both = isinstance(one, tuple) and isinstance(other, tuple)
    pairs = zip(one, other, strict=True) if both else [(one, other)]  # type: ignore[arg-type]
    return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def _conflicting_pairs(
    group: Sequence[int],
    labels: Sequence[Label | None],
    units: Sequence[int],
    patches: Sequence[str | None],
) -> list[tuple[int, int]]:
    """Return pairs of the group with contradictory labels, and different units or equal patches.

    Where parts of labels are unknown, each part is compared among the cases that know it.
    """
    parts = {index: label for index in group if isinstance(label := labels[index], tuple)}
    if not any(None in label for label in parts.values()):
        return _conflicting_pair(group, labels, units, patches)
    pairs = []
    for part in range(len(parts[group[0]])):
        answers = {index: label[part] for index, label in parts.items() if label[part] is not None}
        pairs += _conflicting_pair(list(answers), answers, units, patches) if answers else []
    return pairs


def _conflicting_pair(
    group: Sequence[int],
    labels: Sequence[Label | None] | Mapping[int, Label | None],
    units: Sequence[int],
    patches: Sequence[str | None],
) -> list[tuple[int, int]]:
    """Return two cases of the group with different labels, and different units or equal patches."""
    first = group[0]
    other_label = next((index for index in group if labels[index] != labels[first]), first)
    if other_label == first:
        return []
    other_unit = next((index for index in group if units[index] != units[first]), first)
    # If there are two labels and two units, one of these three pairs differs in both.
    pairs = [(first, other_label), (first, other_unit), (other_label, other_unit)]
    seen: dict[str, int] = {}
    equal = [
        (seen.setdefault(patch, index), index)
        for index in group
        if (patch := patches[index]) is not None
    ]
    return [
        (min(pair), max(pair))
        for pair in (*pairs, *equal)
        if labels[pair[0]] != labels[pair[1]]
        and (units[pair[0]] != units[pair[1]] or pair in equal)
    ][:1]


def conflict_error(
    conflicts: Sequence[Conflict],
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
    one, other = conflicts[0].one, conflicts[0].other
    more = f", and {len(conflicts) - 1} more such groups" if len(conflicts) > 1 else ""
    return DataError(
        f"{dataset}: {names[one]} ({labels[one]}) and {names[other]} ({labels[other]}) are copies "
        f"of one image with different labels{more}: correct the labels, or leave all of them out "
        "with `--conflicts drop` "
        f"(see `{command_line('hydrakit', 'datasets', 'check', dataset)}`)"
    )


def duplicates_to_drop(
    copies: Sequence[Copy], units: Sequence[int], *, unused: Collection[int] = ()
) -> set[int]:
    """Return the images to drop so that no unit has a copy of another unit's image.

    In each group, the images of the first image's unit stay.

    Args:
        copies: Copies from `find_duplicates`.
        units: Unit of each image, as given to `find_duplicates`.
        unused: Images that are not used in any case; none of them is in the result.
    """
    dropped: set[int] = set()
    for group in copy_groups(copies, len(units)):
        used = [index for index in group if index not in unused]
        dropped.update(index for index in used if units[index] != units[used[0]])
    return dropped


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
