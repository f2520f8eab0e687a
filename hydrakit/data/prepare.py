"""Preparing a dataset once: z-scored patches around each case's centre, in one memory-mapped file.

A prepared patch is larger than what the network sees, at twice its resolution, so that it can be
rotated and shifted without meeting its own border (`views`). Prepared data lies in a cache folder
and is found again by a digest of all that it was made from.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hydrakit.data.dicom import walk
from hydrakit.data.read import check_root, read_samples, resolve_options
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, OptionValue, Sample, Unusable
from hydrakit.plan import Frozen

FORMAT = 1
OVERSAMPLING = 2
MAX_ANGLE = 20.0
MAX_SHIFT = 1


def canvas_side(patch: int) -> int:
    """Side in pixels of a prepared patch: room for every view of a ``patch`` x ``patch`` image.

    A square turned by up to 20 degrees needs cos 20 + sin 20 times its side, and a shift one pixel
    more on each side.
    """
    angle = math.radians(MAX_ANGLE)
    return OVERSAMPLING * (math.ceil(patch * (math.cos(angle) + math.sin(angle))) + MAX_SHIFT)


class Case(Frozen):
    """What is kept of a sample besides its pixels."""

    key: str
    label: int | None
    patient: str
    group: str | None


class Excluded(Frozen):
    """A case without a usable image, and why."""

    key: str
    reason: str


class Index(Frozen):
    """What lies in a folder of prepared data (``index.json``).

    Attributes:
        format: Version of this description.
        dataset: Name of its adapter.
        content: SHA-256 of the patches and of the cases, in hexadecimal.
        channels: Of the images.
        side: Of the prepared patches, in pixels.
        cases: One for each row of the patches.
        excluded: Cases that have no row.
    """

    format: Literal[1] = 1
    dataset: str
    content: str = ""
    channels: int
    side: int
    cases: tuple[Case, ...]
    excluded: tuple[Excluded, ...]


@dataclass(frozen=True)
class Prepared:
    """A dataset's prepared patches.

    Attributes:
        index: What the rows are.
        patches: ``(cases, channels, side, side)`` float32, z-scored, memory-mapped and read-only.
    """

    index: Index
    patches: NDArray[np.float32]


def default_cache() -> Path:
    """``$HYDRAKIT_CACHE``, else ``~/.cache/hydrakit``."""
    given = os.environ.get("HYDRAKIT_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "hydrakit"


def prepare(
    adapter: DatasetAdapter,
    root: Path,
    *,
    options: Mapping[str, OptionValue],
    patch: int,
    cache: Path | None = None,
    on_case: Callable[[int], None] = lambda _: None,
) -> Prepared:
    """A dataset's prepared patches, from the cache or made now.

    Each patient's images are z-scored per channel by the mean and the standard deviation over all
    pixels of that patient's images (paper, Section II-B); a dataset without patients gives each
    image a patient of its own, and so is z-scored image by image.

    Args:
        adapter: Who reads.
        root: The dataset's folder.
        options: The adapter's options, as given.
        patch: Side in pixels of what the network will see.
        cache: Where prepared data is kept; None for `default_cache`.
        on_case: Called with the number of cases read so far.

    Raises:
        DataError: The dataset cannot be read, or has no usable case; or the cache is unusable.
    """
    check_root(adapter, root)
    digest = _digest(adapter, root, resolve_options(adapter, options), patch)
    folder = (cache or default_cache()) / f"{adapter.name}-{digest[:16]}"
    if not (folder / "index.json").is_file():
        part = _new_folder_beside(folder)
        try:
            _write(adapter, root, part, options=options, patch=patch, on_case=on_case)
            _rename(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return _open(folder)


def _digest(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue], patch: int
) -> str:
    """SHA-256 of everything that decides the prepared patches."""
    facts = [FORMAT, adapter.name, adapter.version, adapter.classes, patch]
    view = [adapter.field_of_view.millimetres, adapter.field_of_view.share]
    hasher = hashlib.sha256(json.dumps([facts, view, sorted(options.items())]).encode())
    for path in walk(root):
        stat = path.stat() if path.exists() else path.lstat()  # a link may lead nowhere
        entry = [os.fspath(path.relative_to(root)), stat.st_size, stat.st_mtime_ns]
        hasher.update(json.dumps(entry).encode())
    return hasher.hexdigest()


def _write(
    adapter: DatasetAdapter,
    root: Path,
    folder: Path,
    *,
    options: Mapping[str, OptionValue],
    patch: int,
    on_case: Callable[[int], None],
) -> None:
    """Read every case and write ``patches.f32`` and, last, ``index.json``."""
    side = canvas_side(patch)
    cases: list[Case] = []
    excluded: list[Excluded] = []
    statistics: dict[str, Statistics] = {}
    channels = 0
    with (folder / "patches.f32").open("wb") as file:
        for case in read_samples(adapter, root, options):
            if isinstance(case, Unusable):
                excluded.append(Excluded(key=case.key, reason=case.reason))
            elif _is_flat(case.image):
                excluded.append(Excluded(key=case.key, reason="the image has no contrast"))
            else:
                channels = len(case.image)
                crop(case, adapter.field_of_view, patch).tofile(file)
                statistics.setdefault(case.patient, Statistics(channels)).add(case.image)
                cases.append(_case(case))
            on_case(len(cases) + len(excluded))
        _sync(file)
    if not cases:
        raise DataError(
            f"{adapter.name}: no usable case in {root}"
            + (f": {len(excluded)} cases, the first: {excluded[0].reason}" if excluded else "")
            + f" (see `hydrakit datasets check {adapter.name}`)"
        )
    index = Index(
        dataset=adapter.name,
        channels=channels,
        side=side,
        cases=tuple(cases),
        excluded=tuple(excluded),
    )
    content = _normalise(folder / "patches.f32", index, statistics)
    index = index.model_copy(update={"content": content})
    with (folder / "index.json").open("wb") as file:
        file.write(index.model_dump_json().encode())
        _sync(file)


def _case(sample: Sample) -> Case:
    return Case(key=sample.key, label=sample.label, patient=sample.patient, group=sample.group)


def _is_flat(image: NDArray[np.float32]) -> bool:
    pixels = image.reshape(len(image), -1)
    return bool((pixels.min(axis=1) == pixels.max(axis=1)).any())


class Statistics:
    """Mean and standard deviation per channel over images of any size, in double precision."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = np.zeros(channels)
        self.squares = np.zeros(channels)

    def add(self, image: NDArray[np.float32]) -> None:
        """Take in an image ``(channels, height, width)`` (Chan et al. 1979, pairwise update)."""
        pixels = image.reshape(len(image), -1).astype(np.float64)
        count = pixels.shape[1]
        mean = pixels.mean(axis=1)
        delta = mean - self.mean
        total = self.count + count
        self.squares += ((pixels - mean[:, None]) ** 2).sum(axis=1)
        self.squares += delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def standard_deviation(self) -> NDArray[np.float64]:
        """Of the population, per channel."""
        return np.sqrt(self.squares / self.count)


def crop(sample: Sample, view: FieldOfView, patch: int) -> NDArray[np.float32]:
    """The square around a sample's centre, resampled to the prepared size.

    Outside the image its border pixels are repeated. Linear interpolation, with antialiasing where
    the image is finer than the patch.

    Returns:
        ``(channels, side, side)`` float32, in the image's own unit.
    """
    from PIL import Image

    side = canvas_side(patch)
    image = sample.image
    size = np.array(image.shape[1:], dtype=np.float64)
    if view.millimetres is not None:
        assert sample.spacing is not None  # read_samples has checked it
        seen = view.millimetres / np.array(sample.spacing)
    else:
        assert view.share is not None
        seen = view.share * size
    half = seen * side / (OVERSAMPLING * patch) / 2
    # Pillow counts from the image's upper left corner, samples from the middle of its first pixel.
    middle = size / 2 if sample.centre is None else np.array(sample.centre) + 0.5
    low, high = middle - half, middle + half
    reach = np.maximum(np.ceil((high - low) / side), 1)  # of the filter beyond the box, in pixels
    before = np.maximum(np.ceil(reach - low), 0).astype(int)
    after = np.maximum(np.ceil(high + reach - size), 0).astype(int)
    padded = np.pad(image, [(0, 0), *zip(before, after, strict=True)], mode="edge")
    box = (low[1] + before[1], low[0] + before[0], high[1] + before[1], high[0] + before[0])
    planes = [
        np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BILINEAR, box=box))
        for plane in padded
    ]
    return np.stack(planes)


def _normalise(path: Path, index: Index, statistics: Mapping[str, Statistics]) -> str:
    """Z-score the patches in place; gives the digest of what they and their cases now are."""
    patches = _map(path, index, mode="r+")
    hasher = hashlib.sha256()
    for row, case in enumerate(index.cases):
        of_patient = statistics[case.patient]
        mean = of_patient.mean[:, None, None]
        patches[row] = (patches[row] - mean) / of_patient.standard_deviation()[:, None, None]
        hasher.update(case.model_dump_json().encode())
        hasher.update(patches[row].tobytes())
    patches.flush()
    return hasher.hexdigest()


def _map(
    path: Path, index: Index, mode: Literal["r", "r+"]
) -> np.memmap[tuple[int, ...], np.dtype[np.float32]]:
    shape = (len(index.cases), index.channels, index.side, index.side)
    return np.memmap(path, dtype=np.float32, mode=mode, shape=shape)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _new_folder_beside(folder: Path) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        name = tempfile.mkdtemp(prefix=f"{folder.name}.", suffix=".part", dir=folder.parent)
    except OSError as error:
        raise DataError(
            f"{folder.parent}: prepared data cannot be kept there ({error.strerror}): choose "
            "another folder with `--cache` or $HYDRAKIT_CACHE"
        ) from None
    return Path(name)


def _rename(part: Path, folder: Path) -> None:
    """Give finished data its name; another process may have finished the same data first."""
    try:
        part.rename(folder)
    except OSError:
        if not (folder / "index.json").is_file():
            raise _broken(folder, "index.json is missing") from None


def _open(folder: Path) -> Prepared:
    try:
        index = Index.model_validate_json((folder / "index.json").read_bytes())
        patches = _map(folder / "patches.f32", index, mode="r")
    except (OSError, ValueError, ValidationError) as error:
        raise _broken(folder, str(error).splitlines()[0]) from None
    return Prepared(index=index, patches=patches)


def _broken(folder: Path, reason: str) -> DataError:
    return DataError(
        f"{folder}: prepared data cannot be read ({reason}): delete this folder to prepare anew"
    )
