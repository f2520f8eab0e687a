"""Masks of lesions: which file holds that of an image, and where in the image the lesion lies."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self

import numpy as np

from hydrakit.data.declared.patterns import PLACE
from hydrakit.data.safe_paths import resolve_inside, same_form
from hydrakit.data.volumes.names import stem_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

JPEG_THRESHOLD = 127  # compression changes the values of a mask, so that 0 may become 3


def guess_template(masks: Mapping[str, str]) -> str | None:
    """Return a template that finds most of some masks, or None if none finds half of them.

    Args:
        masks: The image of each mask, as paths below one folder.
    """
    templates: Counter[str] = Counter()
    for mask, image in masks.items():
        path, name = PurePosixPath(image), PurePosixPath(mask).name
        stem, folder = stem_of(path.name), str(PurePosixPath(mask).parent)
        if not name.startswith(stem) or set(mask) & set("{}*"):
            continue
        end = re.sub(
            r"(?<=[A-Za-z])([ _.-]?\d+)?(?=(\.[A-Za-z]+)+$)", "*", name[len(stem) :], count=1
        )
        where = "{folder}" if folder == str(path.parent) else folder
        templates[f"{where}/{{stem}}{end}".removeprefix("./")] += 1
    (template, count) = next(iter(templates.most_common(1)), (None, 0))
    return template if 2 * count > len(masks) else None


class MaskFinder:
    """Finds the masks of images by the key ``mask`` of a ``dataset.toml``.

    Args:
        root: Folder of the dataset's files.
        template: Value of the key, which `check_template` accepts.
    """

    def __init__(self, root: Path, template: str) -> None:
        self._root, self._template = root, template
        self._names = cache(self._list)

    def find(self, image: str, parts: Mapping[str, str]) -> tuple[str, ...]:
        """Return the paths of an image's masks, sorted; none if there is no such file.

        Args:
            image: Path of the image, relative to the root.
            parts: Texts of the parts of the pattern.
        """
        path = PurePosixPath(image.partition("#")[0])
        texts = {**parts, "folder": str(path.parent), "stem": stem_of(path.name)}
        folder, _, name = self._template.rpartition("/")
        folder = PLACE.sub(lambda match: texts[match[1]], folder)
        expression, start, is_open = "", "", False  # what the names start with, before a `*`
        for part in re.split(r"(\{[^{}]*\}|\*)", name):
            text = same_form(texts[part[1:-1]] if part.startswith("{") else part)
            is_open = is_open or part == "*"
            start += "" if is_open else text
            expression += ".*" if part == "*" else re.escape(text)
        fits = re.compile(expression, re.DOTALL).fullmatch
        forms = self._names(folder)
        found = []
        for at in range(bisect_left(forms, (start, "")), len(forms)):
            form, name = forms[at]
            if not form.startswith(start):
                break
            mask = PurePosixPath(folder) / name
            if fits(form) and same_form(mask.as_posix()) != same_form(path.as_posix()):
                found.append(mask.as_posix())
        return tuple(found)

    def _list(self, folder: str) -> list[tuple[str, str]]:
        """The names in a folder, each with the form in which it is compared, sorted by that."""
        try:
            place = resolve_inside(self._root, folder, follow=True)
            return sorted((same_form(each.name), each.name) for each in place.iterdir())
        except OSError:  # no such folder: its images have no masks
            return []


@dataclass(frozen=True)
class Lesion:
    """Where a lesion lies in an image: the box around it.

    Attributes:
        centre: Middle of the box, ``(row, column)`` in pixels; (0, 0) is the centre of the upper
            left pixel.
        extent: Height and width of the box in pixels.
    """

    centre: tuple[float, float]
    extent: tuple[float, float]

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> Self | None:
        """Return the lesion in a mask ``(height, width)``; None if the mask is empty."""
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not len(rows):
            return None
        (top, bottom), (left, right) = (map(int, each[[0, -1]]) for each in (rows, columns))
        return cls(
            centre=((top + bottom) / 2, (left + right) / 2),
            extent=(float(bottom - top + 1), float(right - left + 1)),
        )

    @classmethod
    def around(cls, lesions: Sequence[Lesion]) -> Self:
        """Return the box around several."""
        low = [min(at.centre[axis] - at.extent[axis] / 2 for at in lesions) for axis in (0, 1)]
        high = [max(at.centre[axis] + at.extent[axis] / 2 for at in lesions) for axis in (0, 1)]
        return cls(
            centre=((low[0] + high[0]) / 2, (low[1] + high[1]) / 2),
            extent=(high[0] - low[0], high[1] - low[1]),
        )


def read_masks(
    paths: Sequence[Path], shape: tuple[int, int], *, fitting: bool = False
) -> NDArray[np.bool_]:
    """Read the masks of one image, and unite them.

    A mask is where a channel is not zero; in a JPEG, where it is over half of white.

    Args:
        paths: Files of the masks, each of one image.
        shape: Height and width of the image.
        fitting: Leave out those of another size than the image, if one has its size.

    Returns:
        ``(height, width)``.

    Raises:
        ImageError: A mask cannot be read, or has another size than the image.
    """
    from hydrakit.data.declared.arrays import ImageError
    from hydrakit.data.declared.images import ImageReader
    from hydrakit.data.declared.schema import ImageRules

    united = np.zeros(shape, dtype=np.bool_)
    others: list[ImageError] = []
    for path in paths:
        with closing(ImageReader(ImageRules(colour="luma"))) as reader:
            try:
                picture = reader.read(path)
            except ImageError as error:
                raise ImageError(path, f"its mask {error.reason}") from None
        if picture.slice_plane is not None:
            raise ImageError(
                path,
                "its mask is a volume and the image is none, so that left and right of the mask "
                "are not clear: save the mask as PNG, or the image as a volume",
            )
        if picture.pixels.shape[1:] != shape:
            height, width = picture.pixels.shape[1:]
            fault = ImageError(
                path,
                f"its mask has {height} x {width} pixels and its image {shape[0]} x {shape[1]}: "
                "they must be of the same size",
            )
            if not fitting:
                raise fault
            others.append(fault)
            continue
        least = JPEG_THRESHOLD if picture.facts["format"] in ("JPEG", "MPO") else 0
        united |= np.ma.getdata(picture.pixels > least).any(axis=0)
    if others and len(others) == len(paths):
        raise others[0]
    return united
