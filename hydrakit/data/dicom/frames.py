"""Frames of a DICOM image: how many it has, and the elements of one of them.

An enhanced image (PS3.3 C.7.6.16) states what may differ between its frames in functional groups:
one for all frames, and one for each frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_MACROS = (
    "PixelMeasuresSequence",
    "PlanePositionSequence",
    "PlaneOrientationSequence",
    "PixelValueTransformationSequence",
    "FrameVOILUTSequence",
    "MRDiffusionSequence",
)


class FrameError(ValueError):
    """A frame must be chosen, or there is no such frame; the message does not name the file."""


def frame_count(dataset: Dataset) -> int:
    """Return the number of frames of an image.

    Raises:
        ValueError: The number is not a whole one.
    """
    value = dataset.get("NumberOfFrames")
    count = 1 if value in (None, "", 0, "0") else int(value)
    if count < 1:
        raise ValueError(f"a NumberOfFrames of {count}")
    return count


def choose_frame(frames: int, frame: int | None) -> int:
    """Return the index of the frame to read, from 0; an image of one frame needs none.

    Raises:
        FrameError: There are several frames and none is given, or fewer than the given one needs.
    """
    if frame is None and frames > 1:
        raise FrameError(f"has {frames} frames: name one as FILE#[0] to FILE#[{frames - 1}]")
    if frame is not None and frame >= frames:
        raise FrameError(f"has no frame {frame}: it has {frames}, counted from 0")
    return frame or 0


def frame_elements(dataset: Dataset, frame: int) -> Dataset:
    """Return the elements of an image together with those of one frame.

    The elements of a frame's functional groups take precedence over those of the groups of all
    frames, and these over the image's own.

    Args:
        dataset: Elements of the image.
        frame: Index of the frame, from 0.

    Raises:
        ValueError: The image has functional groups, but none for this frame.
    """
    from pydicom.dataset import Dataset
    from pydicom.tag import Tag

    frames = frame_count(dataset)
    if frames == 1 and not any(dataset.get(group) for group in GROUPS):
        return dataset
    merged = Dataset()
    left_out = {Tag(group) for group in GROUPS}
    merged.update({tag: value for tag, value in dataset.items() if tag not in left_out})
    is_implicit, is_little = dataset.original_encoding
    merged.set_original_encoding(is_implicit, is_little, dataset.original_character_set)
    if frames > 1:  # the image's own position is that of no frame in particular
        merged.pop("ImagePositionPatient", None)
    for element in _group_elements(dataset, frame):
        merged[element.tag] = element
    return merged


def _group_elements(dataset: Dataset, frame: int) -> Iterator[Any]:
    shared, each = (list(dataset.get(group) or ()) for group in GROUPS)
    if each and frame >= len(each):
        raise ValueError(f"functional groups of {len(each)} frames, and none of frame {frame}")
    for groups in (*shared[:1], *each[frame : frame + 1]):
        for macro in _MACROS:
            for item in (groups.get(macro) or ())[:1]:
                yield from item
