"""Index of a dataset's prepared data, and access to its patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hydrakit.hooks import Label, Normalise, Window
from hydrakit.plan.grey import PER_PATIENT, GreyValues
from hydrakit.schema import Frozen
from hydrakit.storage.files import MAX_WEIGHTS, read_whole

if TYPE_CHECKING:
    from hydrakit.data.prepared.store import RowFile


class PreparedCase(Frozen):
    """Metadata of a prepared case: everything but its pixels.

    Attributes:
        key: Identity of the case, unique in its dataset.
        label: Label as in `hydrakit.hooks.Sample`; None if it is unknown.
        patient: Pseudonymous patient identifier.
        group: Name of the group of cases that must stay together, if any.
        finding: Key of the first case of the finding: equal for all cases of one finding, and
            unique to it in the dataset.
        split: Split that the dataset declares for the case, if any.
        subgroups: Subgroups of the case and their values.
        facts: Facts of the image (`image_facts`) and of the sample; numbers are finite.
        content: `hydrakit.data.quality.duplicates.content_digest` of the whole image.
        named: As in `hydrakit.hooks.Sample`.
    """

    key: str
    label: Label | None
    patient: str
    group: str | None
    finding: str
    split: Literal["train", "val", "test"] | None = None
    subgroups: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, str | float] = Field(default_factory=dict)
    content: str = ""
    named: bool = False


class ExcludedCase(Frozen):
    """A case without a usable image, and the reason."""

    key: str
    reason: str


class Intensity(Frozen):
    """Mean and standard deviation of each channel over a patient's images, without padding."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class ImageIntensity(Intensity):
    """Mean and standard deviation of each channel of one whole image, without padding.

    Attributes:
        pixels: Number of pixels per channel.
    """

    pixels: int


class ReadingRemark(Frozen):
    """A `hydrakit.hooks.Remark` of the adapter."""

    text: str
    warning: bool


class Index(Frozen):
    """Description of a dataset's prepared data.

    Attributes:
        format: Version of the index format.
        dataset: Name of the dataset.
        content: SHA-256 of the patches and cases, in hexadecimal: equal for equal data, wherever
            it is stored.
        channels: Number of channels of the images.
        side: Side of the prepared patches, in pixels.
        cases: Prepared cases, in the adapter's order.
        excluded: Cases without a patch.
        number: Number in the names of the files that hold the rows.
        rows: Row of each case in these files.
        patches: SHA-256 of each case's patch before z-scoring: equal for equal patches.
        patients: Mean and deviation for z-scoring, by patient.
        images: Mean and deviation of each case's whole image.
        remarks: Remarks of the adapter.
    """

    format: Literal[5] = 5
    dataset: str
    content: str
    channels: int
    side: int
    cases: tuple[PreparedCase, ...]
    excluded: tuple[ExcludedCase, ...]
    number: int
    rows: tuple[int, ...]
    patches: tuple[str, ...]
    patients: dict[str, Intensity]
    images: tuple[ImageIntensity, ...]
    remarks: tuple[ReadingRemark, ...] = ()

    def grey_values(self, rule: Normalise, splits: Mapping[str, str]) -> GreyValues:
        """A rule with its numbers for this dataset.

        Args:
            rule: The rule.
            splits: Split of the cases, by key; ``dataset`` uses the images of ``train`` alone, each
                as often as a case has it.
        """
        if rule != "dataset":
            return GreyValues(normalise=rule)
        pairs = zip(self.cases, self.images, strict=True)
        images = [image for case, image in pairs if splits.get(case.key) == "train"]
        mean, deviation = _arrays(images)
        share = np.array([image.pixels for image in images], dtype=np.float64)[:, None]
        share /= share.sum()
        whole = (share * mean).sum(axis=0)
        squares = (share * (deviation**2 + (mean - whole) ** 2)).sum(axis=0)
        return GreyValues(
            normalise=rule, mean=tuple(whole.tolist()), deviation=tuple(np.sqrt(squares).tolist())
        )

    def shift_and_scale(
        self, rows: Sequence[int], grey: GreyValues
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return what is subtracted from the images of some cases, and what they are divided by.

        Args:
            rows: Indices into ``cases``.
            grey: The rule and its numbers.

        Returns:
            Two arrays ``(n, channels)``.
        """
        shift, scale = _arrays([self._intensity(row, grey) for row in rows])
        shape = (len(rows), self.channels)
        # A channel that is constant wherever it is not padding becomes 0.
        return shift.reshape(shape), np.where(scale > 0, scale, 1.0).reshape(shape)

    def _intensity(self, row: int, grey: GreyValues) -> Intensity:
        rule, channels = grey.normalise, self.channels
        if rule == "patient":
            return self.patients[self.cases[row].patient]
        if rule == "image":
            return self.images[row]
        if grey.mean is not None and grey.deviation is not None:
            return Intensity(mean=grey.mean, deviation=grey.deviation)
        low, high = rule.window if isinstance(rule, Window) else (-1.0, 1.0)
        middle, half = (low + high) / 2, (high - low) / 2
        return Intensity(mean=(middle,) * channels, deviation=(half,) * channels)


def _arrays(each: Sequence[Intensity]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and deviations as arrays ``(n, channels)``."""
    mean = np.array([one.mean for one in each], dtype=np.float64)
    return mean, np.array([one.deviation for one in each], dtype=np.float64)


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A dataset's prepared patches, read from disk only on access.

    Attributes:
        index: Description of the prepared data.
        folder: Folder of the prepared data.
        reused_since: When the data was prepared, in seconds since 1970, if it was reused without
            reading the dataset; None if the dataset has just been read.
        repeat: How often the single channel of a patch is repeated in what is read from here.
    """

    index: Index
    folder: Path
    _crops: RowFile[np.float32] = field(repr=False)
    _thumbnails: RowFile[np.float32] = field(repr=False)
    _textures: RowFile[np.int8] = field(repr=False)
    reused_since: float | None = None
    repeat: int = 1

    @property
    def channels(self) -> int:
        """Number of channels of the patches that the network gets."""
        return self.index.channels * self.repeat

    def rows(self, rows: Sequence[int], grey: GreyValues = PER_PATIENT) -> NDArray[np.float32]:
        """Return the normalised patches of some cases, ``(n, channels, side, side)`` float32.

        Args:
            rows: Indices into ``index.cases``.
            grey: How their values are normalised. A window is not clipped yet, because this follows
                the resampling (`GreyValues.clip`).
        """
        index = self.index
        patches = np.empty((len(rows), self.channels, index.side, index.side), dtype=np.float32)
        shift, scale = index.shift_and_scale(rows, grey)
        for patch, row, mean, deviation in zip(patches, rows, shift, scale, strict=True):
            stored = self.stored([row])[0]
            patch[...] = (stored - mean[:, None, None]) / deviation[:, None, None]
        return patches

    def stored(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the patches of some cases as stored, not z-scored.

        Args:
            rows: Indices into ``index.cases``.

        Returns:
            ``(n, channels, side, side)`` float32.

        Raises:
            DataError: The files have become shorter, or cannot be read.
        """
        return self._crops.read([self.index.rows[row] for row in rows])

    def thumbnails(self) -> NDArray[np.float32]:
        """Return the `thumbnail` of each case's whole image, ``(cases, 576)``."""
        return self._thumbnails.read(self.index.rows)

    def textures(self, rows: Sequence[int]) -> NDArray[np.int8]:
        """Return the `texture` of some cases' whole images, ``(n, 128, 128)``.

        Args:
            rows: Indices into ``index.cases``.
        """
        return self._textures.read([self.index.rows[row] for row in rows])


def open_prepared(path: Path, *, reused: bool = False) -> PreparedDataset:
    """Open the prepared data that an index file describes.

    Args:
        path: Path of the index file.
        reused: Whether the data was prepared before; gives ``reused_since``.

    Raises:
        OSError: The index or its rows are missing.
        ValueError: The index or its rows are broken.
    """
    index = Index.model_validate_json(read_whole(path, max_bytes=MAX_WEIGHTS))
    if not len(index.rows) == len(index.patches) == len(index.images) == len(index.cases):
        raise ValueError(
            f"{path.name}: {len(index.cases)} cases have {len(index.rows)} rows, "
            f"{len(index.patches)} patches and {len(index.images)} images"
        )
    from hydrakit.data.prepared.store import open_rows

    files = open_rows(
        path.parent,
        index.number,
        rows=max(index.rows) + 1,
        channels=index.channels,
        side=index.side,
    )
    since = path.stat().st_mtime if reused else None
    return PreparedDataset(index, path.parent, *files, since)
