"""From the nodule sheets and the DICOM images to one case for each nodule.

"Nodule Center Image" is taken as InstanceNumber (0020,0013) of the scan's only CT series. The
sheets call it an image, and their note counts from 1, as InstanceNumber does; the paper's authors
took it so too. Checked against the public index of the collection: each of the 83 numbers lies
between 1 and the number of images of its series. Where no image, or more than one, has that
number, the nodule is reported as unusable: no other slice is taken for it.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from hydrakit.data.dicom import Header, index_headers, read_pixels, walk
from hydrakit.errors import DataError
from hydrakit.hooks import OptionValue, Sample, Unusable
from hydrakit_lungx.sheets import SUSPICIOUS, Nodule, find_sheets

NO_IMAGE = "no image"
DROPPED = "label is suspicious, neither benign nor malignant"
SEVERAL_SERIES = "several CT series, and the sheet does not say which"
NO_INSTANCE = "no slice with the listed image number"
SEVERAL_SLICES = "several slices with the listed image number"
OUTSIDE = "nodule outside the image"
NO_SPACING = "image without pixel spacing"
UNREADABLE = "image file cannot be read"

_log = logging.getLogger(__name__)


def read(root: Path, options: Mapping[str, OptionValue]) -> Iterator[Sample | Unusable]:
    """Every nodule of the sheets, once: the calibration set, then the test set.

    Raises:
        DataError: There is no sheet, one is wrong, or the header of an image is broken.
    """
    sheets = find_sheets(walk(root), str(options["sheet"]), root)
    scans: defaultdict[str, list[Header]] = defaultdict(list)
    for header in index_headers(root):
        if header.modality == "CT" and "LOCALIZER" not in header.image_type:
            scans[header.patient_id.casefold()].append(header)
    suspicious = 1 if options["suspicious"] == "malignant" else None
    labels = {"benign": 0, "malignant": 1, SUSPICIOUS: suspicious}
    for sheet in sheets:
        for nodule in sheet.nodules.values():
            label = labels[nodule.label]
            if label is None:
                yield Unusable(key=nodule.key, reason=DROPPED)
            else:
                yield _case(nodule, scans.get(nodule.scan.casefold(), []), label)


def _case(nodule: Nodule, headers: Sequence[Header], label: int) -> Sample | Unusable:
    header = _slice(nodule, headers)
    if isinstance(header, str):
        return Unusable(key=nodule.key, reason=header)
    if nodule.row > header.rows or nodule.column > header.columns:
        return Unusable(key=nodule.key, reason=OUTSIDE)
    if header.spacing is None:
        return Unusable(key=nodule.key, reason=NO_SPACING)
    try:
        image = read_pixels(header.path, rescale=True)
    except DataError as error:
        _log.warning("lung: %s is left out: %s", nodule.key, error)
        return Unusable(key=nodule.key, reason=UNREADABLE)
    return Sample(
        image=image,
        label=label,
        patient=nodule.scan,
        key=nodule.key,
        centre=(nodule.row - 1.0, nodule.column - 1.0),
        spacing=header.spacing,
        source=(header.path,),
    )


def _slice(nodule: Nodule, headers: Sequence[Header]) -> Header | str:
    """The slice through a nodule's centre, or a reason why there is none."""
    if not headers:
        return NO_IMAGE
    if len({header.series_uid for header in headers}) > 1:
        return SEVERAL_SERIES
    found = [header for header in headers if header.instance_number == nodule.image]
    if len(found) == 1:
        return found[0]
    return SEVERAL_SLICES if found else NO_INSTANCE
