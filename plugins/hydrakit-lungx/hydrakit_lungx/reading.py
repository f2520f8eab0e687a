"""Reading of the nodule sheets and DICOM images: one case for each nodule.

"Nodule Center Image" is interpreted as InstanceNumber (0020,0013) in the scan's only CT series. The
sheets call it an image, and their note counts from 1, as InstanceNumber does; the paper's authors
interpreted it in the same way. In the public index of the collection, each of the 83 numbers lies
between 1 and the number of images of its series. If no image, or more than one, has that number,
the nodule is unusable: no other slice is used in its place. Neighbouring slices are selected by
their planes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.dicom import Header, MissingCodecError, index_headers, read_pixels, walk
from hydrakit.data.dicom.geometry import has_plane, sorted_stack, stack_fault
from hydrakit.data.identity import normal_name
from hydrakit.data.padding import concatenate
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_lungx.sheets import SETS, SUSPICIOUS, UNLABELLED, Nodule, find_sheets

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit_lungx import LungOptions

NO_IMAGE = "no image"
DROPPED = "label is suspicious, neither benign nor malignant"
SEVERAL_SERIES = "several CT series, and the sheet does not say which"
NO_INSTANCE = "no slice with the listed image number"
SEVERAL_SLICES = "several slices with the listed image number"
OUTSIDE = "nodule outside the image"
NO_SPACING = "image without pixel spacing"
NO_NEIGHBOURS = "neighbouring slices without position in the patient, or of another size or spacing"
UNREADABLE = "image file cannot be read"

# Hounsfield units. ``nodule`` ranges from air to bone: values below -1000 occur only outside the
# field of reconstruction and depend on the scanner model; values above 400 are bone and metal,
# which would dominate the patient's standard deviation. Soft tissue, fat in a nodule and
# calcification (from about 200) keep their contrast. The other two are the usual settings of a
# viewer: -600 +- 750 and 50 +- 200.
WINDOWS = {
    "nodule": (-1000.0, 400.0),
    "lung": (-1350.0, 150.0),
    "mediastinum": (-150.0, 250.0),
    "none": (-np.inf, np.inf),
}


@dataclass(frozen=True, slots=True)
class _Options:
    """Parsed options of the adapter."""

    labels: Mapping[str, int | None]
    window: tuple[float, float]
    slices: int


def read(root: Path, options: LungOptions) -> Iterator[Sample | Unusable]:
    """Yield every nodule of the sheets once: the calibration set, then the test set.

    Raises:
        DataError: There is no sheet, a sheet is invalid, or the header of an image is broken.
    """
    files = list(walk(root))
    kind = None if options.set == "all" else SETS[options.set]
    sheets = find_sheets(files, options.sheet, root, kind=kind)
    scans: defaultdict[str, list[Header]] = defaultdict(list)
    for header in index_headers(root, files=files):
        if header.modality == "CT" and "LOCALIZER" not in header.image_type:
            scans[normal_name(header.patient_id)].append(header)
    settings = _Options(
        labels={
            "benign": 0,
            "malignant": 1,
            UNLABELLED: None,
            SUSPICIOUS: 1 if options.suspicious == "malignant" else None,
        },
        window=WINDOWS[options.window],
        slices=options.slices,
    )
    for sheet in sheets:
        for nodule in sheet.nodules.values():
            if nodule.label == SUSPICIOUS and options.suspicious == "drop":
                yield Unusable(key=nodule.key, reason=DROPPED)
            else:
                yield _case(nodule, scans.get(normal_name(nodule.scan), []), settings)


def _case(nodule: Nodule, headers: Sequence[Header], settings: _Options) -> Sample | Unusable:
    header = _slice(nodule, headers)
    if isinstance(header, str):
        return Unusable(key=nodule.key, reason=header)
    if nodule.row > header.rows or nodule.column > header.columns:
        return Unusable(key=nodule.key, reason=OUTSIDE)
    if header.spacing is None:
        return Unusable(key=nodule.key, reason=NO_SPACING)
    channels = _neighbours(header, headers, settings.slices)
    if isinstance(channels, str):
        return Unusable(key=nodule.key, reason=channels)
    return Sample(
        image=partial(_image, channels, settings.window),
        label=settings.labels[nodule.label],
        patient=nodule.scan,
        finding=str(nodule.number),
        key=nodule.key,
        centre=(nodule.row - 1.0, nodule.column - 1.0),
        spacing=header.spacing,
        facts=header.facts(),
        subgroups=header.subgroups(),
        source=tuple(dict.fromkeys(channel.path for channel in channels)),
    )


def _image(channels: Sequence[Header], window: tuple[float, float]) -> NDArray[np.float32]:
    """Read pixels (see `_pixels`), with one reason for all files that cannot be read."""
    try:
        return _pixels(channels, window)
    except MissingCodecError:
        raise
    except DataError as error:
        raise DataError(UNREADABLE) from error


def _pixels(channels: Sequence[Header], window: tuple[float, float]) -> NDArray[np.float32]:
    """Read slices in Hounsfield units, clipped to the window, ``(channels, height, width)``.

    Pixels outside of the reconstruction (PixelPaddingValue) are masked.
    """
    slices = {header.path: read_pixels(header.path, rescale=True) for header in channels}
    image = concatenate([slices[header.path][np.newaxis] for header in channels])
    return image.clip(*window)


def _neighbours(header: Header, headers: Sequence[Header], count: int) -> list[Header] | str:
    """Return ``count`` consecutive slices along the slice's normal, with the slice in the middle.

    Beyond the ends of the scan, the first or last slice is repeated. If the slices lack planes,
    differ in size or pixel spacing, or if one is missing or double, the result is the reason.
    """
    if count == 1:
        return [header]
    if not has_plane(header):
        return NO_NEIGHBOURS
    stack = sorted_stack(headers, header)
    middle = stack.index(header)
    positions = range(middle - count // 2, middle + count // 2 + 1)
    channels = [stack[min(max(at, 0), len(stack) - 1)] for at in positions]
    if len({(channel.rows, channel.columns, channel.spacing) for channel in channels}) > 1:
        return NO_NEIGHBOURS
    return stack_fault(channels, headers) or channels


def _slice(nodule: Nodule, headers: Sequence[Header]) -> Header | str:
    """Return the slice through a nodule's centre, or the reason why there is none."""
    if not headers:
        return NO_IMAGE
    if len({header.series_uid for header in headers}) > 1:
        return SEVERAL_SERIES
    slices = [header for header in headers if header.instance_number == nodule.image]
    if len(slices) == 1:
        return slices[0]
    return SEVERAL_SLICES if slices else NO_INSTANCE
