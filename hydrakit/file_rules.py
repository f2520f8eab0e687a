"""Rules by which image files are read: those of a dataset, which its head stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["FileRules", "Plane"]

Plane = Literal["axial", "sagittal", "coronal"]
"""Plane of the slices of a volume."""


@dataclass(frozen=True, kw_only=True)
class FileRules:
    """How hydrakit reads image files that users name, with the keys of ``dataset.toml``.

    `hydrakit predict` reads files by the rules of the dataset that trained its head.
    docs/dataset-toml.md explains the keys.

    Attributes:
        channels: Arrays: which of three dimensions holds the channels. None: it is guessed.
        rescale: Whether the file's slope and intercept are applied. None: where it has them.
        window: Centre and width of the grey values that become 0 to 255, or ``file`` for the
            window of a DICOM file. None: no window.
        plane: Volumes: plane of the slices.
        slices: Volumes: number of neighbouring slices that become channels; odd.
        axes: Volumes: where positions in the patient rise to.
        spacing: Pixel spacing (row, column) in millimetres, for files that do not state it.
        no_mask: ``whole``: an image without a mask of its lesion is used whole. None: not used.
        masks: ``cases``: masks beside images are images, too. None: they are left out.
    """

    channels: Literal["first", "last"] | None = None
    rescale: bool | None = None
    window: tuple[float, float] | Literal["file"] | None = None
    plane: Plane = "axial"
    slices: int = 1
    axes: Literal["LPS", "RAS"] | None = None
    spacing: tuple[float, float] | None = None
    no_mask: Literal["whole"] | None = None
    masks: Literal["cases"] | None = None

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - pydantic's name, in a head's record

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: One is impossible.
        """
        endless = float("inf")
        if self.slices < 1 or self.slices % 2 == 0:
            raise ValueError(f"slices is {self.slices}: an odd number is expected")
        if isinstance(self.window, tuple):
            centre, width = self.window
            if not (-endless < centre < endless and 1 <= width < endless):
                raise ValueError("window is a centre and a width of at least 1, or file")
        if self.spacing is not None and not all(0 < each < endless for each in self.spacing):
            raise ValueError("spacing is two positive numbers of millimetres")


def rules_text(rules: FileRules) -> str:
    """Rules in words, such as ``window 40/400 (centre/width), coronal plane, 3 slices``."""
    return ", ".join(_words(rules)) or "by default"


def _words(rules: FileRules) -> Iterator[str]:
    if isinstance(rules.window, tuple):
        yield f"window {rules.window[0]:g}/{rules.window[1]:g} (centre/width)"
    elif rules.window is not None:
        yield "window of the file"
    if rules.rescale is not None:
        yield "rescaled" if rules.rescale else "not rescaled"
    if rules.plane != "axial":
        yield f"{rules.plane} plane"
    if rules.slices > 1:
        yield f"{rules.slices} slices"
    if rules.channels is not None:
        yield f"channels {rules.channels}"
    if rules.axes is not None:
        yield f"positions in {rules.axes}"
    if rules.spacing is not None:
        row, column = rules.spacing
        yield f"spacing {row:g} x {column:g} mm if a file states none"
    if rules.no_mask is not None:
        yield "images without a mask whole"
    if rules.masks is not None:
        yield "masks as images"


def pixel_rules(rules: FileRules) -> FileRules:
    """The rules that decide the pixels of a file, whatever dataset it is of."""
    return replace(rules, channels=None, axes=None, spacing=None, no_mask=None, masks=None)
