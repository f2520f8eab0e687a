"""Index of a dataset's prepared data, and access to its patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hydrakit.hooks import Label
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


class ExcludedCase(Frozen):
    """A case without a usable image, and the reason."""

    key: str
    reason: str


class Intensity(Frozen):
    """Mean and standard deviation of each channel over a patient's images, without padding."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


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
        remarks: Remarks of the adapter.
    """

    format: Literal[4] = 4
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
    remarks: tuple[ReadingRemark, ...] = ()


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

    def rows(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """Return the z-scored patches of some cases, ``(n, channels, side, side)`` float32.

        Args:
            rows: Indices into ``index.cases``.
        """
        index = self.index
        patches = np.empty((len(rows), self.channels, index.side, index.side), dtype=np.float32)
        for patch, row in zip(patches, rows, strict=True):
            intensity = index.patients[index.cases[row].patient]
            mean, deviation = np.array([intensity.mean, intensity.deviation])[:, :, None, None]
            patch[...] = (self.stored([row])[0] - mean) / deviation
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
    if not len(index.rows) == len(index.patches) == len(index.cases):
        raise ValueError(
            f"{path.name}: {len(index.cases)} cases have {len(index.rows)} rows "
            f"and {len(index.patches)} patches"
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
