"""What prepared data is, and its patches: the index of a folder that `prepare` fills."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hydrakit.data.prepared.store import Rows, map_rows
from hydrakit.hooks import Label
from hydrakit.schema import Frozen

if TYPE_CHECKING:
    from torch import Tensor


class PreparedCase(Frozen):
    """What is kept of a sample besides its pixels.

    Attributes:
        key: As in `Sample`.
        label: As in `Sample`.
        patient: As in `Sample`.
        group: As in `Sample`.
        finding: Key of the first case of its finding: cases of one finding have one name here,
            which no other finding of the dataset has.
        split: As in `Sample`.
        subgroups: As in `Sample`.
        facts: Of the image (`image_facts`) and of the sample; numbers are finite.
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
    """A case without a usable image, and why."""

    key: str
    reason: str


class Intensity(Frozen):
    """Mean and standard deviation of each channel over all pixels of a patient's images."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


class Index(Frozen):
    """What prepared data is.

    Attributes:
        format: Version of this description.
        dataset: Name of its adapter.
        content: SHA-256 of the patches and of the cases, in hexadecimal: equal for equal data,
            wherever it lies.
        channels: Of the images.
        side: Of the prepared patches, in pixels.
        cases: In the order in which the adapter gave them.
        excluded: Cases that have no patch.
        number: In the names of the files that hold the rows.
        rows: Where in them each case lies.
        patients: What each patient's images are z-scored by.
    """

    format: Literal[3] = 3
    dataset: str
    content: str
    channels: int
    side: int
    cases: tuple[PreparedCase, ...]
    excluded: tuple[ExcludedCase, ...]
    number: int
    rows: tuple[int, ...]
    patients: dict[str, Intensity]


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """A dataset's prepared patches, mapped from disk: nothing is read before it is asked for.

    Attributes:
        index: What there is.
        folder: Where it lies.
    """

    index: Index
    folder: Path
    _crops: Rows = field(repr=False)
    _thumbnails: Rows = field(repr=False)

    def rows(self, rows: Sequence[int]) -> NDArray[np.float32]:
        """The patches of some cases, z-scored, ``(n, channels, side, side)`` float32.

        Args:
            rows: Indices into ``index.cases``.
        """
        index = self.index
        patches = np.empty((len(rows), index.channels, index.side, index.side), dtype=np.float32)
        for patch, row in zip(patches, rows, strict=True):
            intensity = index.patients[index.cases[row].patient]
            mean, deviation = np.array([intensity.mean, intensity.deviation])[:, :, None, None]
            patch[...] = (self._crops[index.rows[row]] - mean) / deviation
        return patches

    def mapped(self) -> Tensor:
        """All rows on disk as they are, ``(rows, channels, side, side)``, mapped: none is read yet.

        Where in it a case lies, ``index.rows`` tells.
        """
        import torch

        return torch.from_numpy(self._crops)

    def thumbnails(self) -> NDArray[np.float32]:
        """The `thumbnail` of each case's whole image, ``(cases, 576)``."""
        return np.asarray(self._thumbnails[list(self.index.rows)])


def open_prepared(path: Path) -> PreparedDataset:
    """The prepared data of an index.

    Raises:
        OSError: The index or its rows are absent.
        ValueError: They are broken.
    """
    index = Index.model_validate_json(path.read_bytes())
    if len(index.rows) != len(index.cases):
        raise ValueError(f"{path.name}: {len(index.cases)} cases have {len(index.rows)} rows")
    crops, thumbnails = map_rows(
        path.parent,
        index.number,
        rows=max(index.rows) + 1,
        channels=index.channels,
        side=index.side,
    )
    return PreparedDataset(index, path.parent, crops, thumbnails)
