"""Synthetic data in the format of LUNGx: two sheets, and a short CT series of each patient.

The real images are 512x512 and cover both lungs. Here each image covers one lung, 256x256 at
0.7 mm: the resolution is the same, and a file takes a quarter of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hydrakit_phantom.dicom import (
    DATE_FOLDER,
    Stack,
    decimals,
    fixed_uid,
    new_image,
    save,
    set_pixels,
    set_plane,
)
from hydrakit_phantom.lesion import Array, Lesion, draw_lesion, smooth_noise, soft_step
from hydrakit_phantom.settings import Settings

CLASSES = ("benign", "malignant")
SUSPICIOUS = "Suspicious malignant nodule"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SIDE = 256
PIXEL = 0.7  # millimetres
SLICE = 2.5
SLICES = 5
RADIUS = (6.0, 9.5)  # millimetres
LUNG = (72.0, 82.0)  # half axes, millimetres
INTERCEPT = -1024

TEST_SHEET = "TestSet_NoduleData_PublicRelease_wTruth.csv"
CALIBRATION_SHEET = "calibration.csv"
TEST_HEADER = (
    "Scan Number;Nodule Number;Nodule Center x,y Position*;Nodule Center Image;Final Diagnosis"
)
CALIBRATION_HEADER = "Scan Number;Nodule Center x,y Position*;Nodule Center Image;Diagnosis"
FOOTNOTE = (
    '"*specified in pixels, where position (1,1) corresponds to the upper-leftmost pixel in an '
    'image; x increases with column to the right, and y increases with row going down"'
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Nodule:
    """A nodule of a scan.

    Attributes:
        malignant: Whether the nodule is malignant.
        lesion: Lesion of the nodule, in millimetres.
        column: Column of the centre, from 0.
        row: Row of the centre, from 0.
        slice_: Slice of the centre, from 0.
        suspicious: Whether the sheet calls the nodule suspicious, without a diagnosis.
    """

    malignant: bool
    lesion: Lesion
    column: int
    row: int
    slice_: int
    suspicious: bool = False


def write_lung(root: Path, settings: Settings) -> dict[str, int]:
    """Write a LUNGx-like dataset into a folder; return the number of nodules per class."""
    test, calibration = [TEST_HEADER], [CALIBRATION_HEADER]
    cases = dict.fromkeys((*CLASSES, "suspicious"), 0)
    for index in range(settings.patients):
        rng = np.random.default_rng([settings.seed, 2, index])
        nodules = make_nodules(rng, index, settings)
        name = scan_name(index)
        _write_scan(
            root,
            name,
            nodules=nodules,
            rng=rng,
            study=("lung", settings.seed, settings.difficulty, index),
            flip=bool(index % 4 > 1),
        )
        for number, nodule in enumerate(nodules, start=1):
            kind = "suspicious" if nodule.suspicious else CLASSES[nodule.malignant]
            cases[kind] += 1
            if _is_calibration(index):
                calibration.append(_calibration_row(name, nodule))
            else:
                test.append(_test_row(name, nodule, number=number, index=index))
    for sheet, rows in ((TEST_SHEET, test), (CALIBRATION_SHEET, calibration)):
        empty = ";" * rows[0].count(";")
        size = f"All images are in DICOM format with a matrix size of {SIDE}x{SIDE} pixels."
        rows += [empty, FOOTNOTE + empty, empty, size + empty]
        (root / sheet).write_bytes("".join(row + "\n" for row in rows).encode())
    return cases


def _is_calibration(index: int) -> bool:
    """Whether a scan belongs to the calibration set: two of every twelve, one of each class."""
    return index % 12 in (0, 1)


def scan_name(index: int) -> str:
    """Return the Patient ID of a scan, with a number that the real sets do not reach."""
    if _is_calibration(index):
        return f"CT-Training-{'LC' if index % 2 else 'BE'}{901 + index // 12:03d}"
    return f"LUNGx-CT{9001 + index}"


def make_nodules(rng: np.random.Generator, index: int, settings: Settings) -> list[Nodule]:
    """Draw the nodules of a scan: every second scan is positive.

    Some test scans have a second nodule of the other class, and some have a second nodule that the
    sheet calls suspicious.
    """
    kinds = [(bool(index % 2), False)]
    if index % 12 in (4, 9):
        kinds.append((not index % 2, False))
    if index % 24 in (6, 11):
        kinds.append((True, True))
    slices = [1, 3] if rng.random() < 0.5 else [3, 1]
    nodules: list[Nodule] = []
    for (malignant, suspicious), slice_ in zip(kinds, slices, strict=False):
        lesion = draw_lesion(rng, malignant, separation=settings.separation, radius=RADIUS)
        column, row = _draw_position(rng, nodules)
        nodules.append(
            Nodule(
                malignant=malignant,
                lesion=lesion,
                column=column,
                row=row,
                slice_=slice_,
                suspicious=suspicious,
            )
        )
    return nodules


def _draw_position(rng: np.random.Generator, others: list[Nodule]) -> tuple[int, int]:
    """Draw column and row in the lung, far enough from its wall and from other nodules."""
    while True:
        across, down = rng.uniform(-1, 1, 2)
        if np.hypot(across, down) > 1:
            continue
        column, row = (
            round(SIDE / 2 + 0.72 * share * half / PIXEL)
            for share, half in zip((across, down), LUNG, strict=True)
        )
        gaps = [np.hypot(column - other.column, row - other.row) for other in others]
        if all(gap * PIXEL > 50 for gap in gaps):
            return column, row


def _write_scan(
    root: Path,
    name: str,
    *,
    nodules: list[Nodule],
    rng: np.random.Generator,
    study: tuple[object, ...],
    flip: bool,
) -> None:
    """Write the CT series of a scan; ``flip`` draws the other lung."""
    uid = fixed_uid(*study)
    folder = root / "SPIE-AAPM Lung CT Challenge" / name
    folder = folder / f"{DATE_FOLDER}-CT CHEST-{uid[-5:]}" / f"4.000000-HIGH RES-{uid[-9:-5]}"
    folder.mkdir(parents=True)
    stack = Stack(
        centre=np.array([-75.0 if flip else 75.0, 0.0, 0.0]),
        axes=np.diag([1.0, 1, -1]),  # from head to feet
        spacing=(PIXEL, PIXEL, SLICE),
        size=(SIDE, SIDE, SLICES),
    )
    vessels = _draw_vessels(rng, flip)
    for slice_ in range(SLICES):
        image = new_image(name, study=study, series=4, instance=slice_ + 1)
        image.SOPClassUID = CT_IMAGE
        image.Modality = "CT"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.SeriesDescription = "HIGH RES"
        image.BodyPartExamined = "CHEST"
        image.PatientPosition = "FFS"
        image.KVP = "120"
        image.SpacingBetweenSlices = decimals([SLICE])[0]
        set_plane(image, stack, slice_)
        set_pixels(image, _hounsfield(rng, vessels, nodules, slice_, flip) - INTERCEPT)
        image.RescaleIntercept, image.RescaleSlope, image.RescaleType = str(INTERCEPT), "1", "HU"
        image.WindowCenter, image.WindowWidth = "-600", "1600"
        save(image, folder / f"1-{slice_ + 1}.dcm")


def _draw_vessels(rng: np.random.Generator, flip: bool) -> Array:
    """Draw vessels as rows of start x, y, end x, y and width, in mm from the centre."""
    count = 16
    hilum = np.array([45.0 if flip else -45.0, 5.0])
    start = hilum + rng.normal(0, [18, 25], (count, 2))
    angle = rng.uniform(0, 2 * np.pi, count)
    length = rng.uniform(15, 70, count)[:, None]
    end = start + length * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.column_stack([start, end, rng.uniform(0.5, 1.5, count)])


def _hounsfield(
    rng: np.random.Generator, vessels: Array, nodules: list[Nodule], slice_: int, flip: bool
) -> Array:
    """Render a slice in Hounsfield units, ``(rows, columns)``."""
    steps = (np.arange(SIDE) - SIDE / 2) * PIXEL
    y, x = np.meshgrid(steps, steps, indexing="ij")
    lung = soft_step(np.hypot(x / LUNG[0], y / LUNG[1]) - 1, 0.015)
    wall = 30 + 25 * smooth_noise(rng, x.shape, grain=3)
    ribs = np.hypot(x / (LUNG[0] + 9), y / (LUNG[1] + 9))
    angle = np.arctan2(y, x if not flip else -x)
    bone = soft_step(np.abs(ribs - 1) - 0.04, 0.01) * (np.cos(7 * angle + slice_) > 0.3)
    air = (
        -860 + 35 * smooth_noise(rng, x.shape, grain=6) + 25 * smooth_noise(rng, x.shape, grain=1.5)
    )
    for left, top, right, bottom, width in vessels:
        drift = 1.5 * slice_  # a vessel moves a little from slice to slice
        cover = _segment(x, y, (left, top + drift, right, bottom - drift), width)
        air = np.maximum(air, -860 + 800 * cover)
    for nodule in nodules:
        height = (slice_ - nodule.slice_) * SLICE / nodule.lesion.radius
        column, row = nodule.column - SIDE / 2, nodule.row - SIDE / 2
        opacity = nodule.lesion.opacity(
            y - row * PIXEL, x - column * PIXEL, blur=PIXEL, height=height
        )
        if opacity.any():
            shade = nodule.lesion.shade(rng, opacity, pixel=PIXEL)
            air = air * (1 - opacity) - 860 * opacity + 650 * shade
    pixels = lung * air + (1 - lung) * (wall + 500 * bone)
    return np.asarray(pixels + rng.normal(0, 20, x.shape))


def _segment(x: Array, y: Array, ends: tuple[float, float, float, float], width: float) -> Array:
    """Return a Gaussian profile around a straight vessel."""
    left, top, right, bottom = ends
    along = np.array([right - left, bottom - top])
    share = ((x - left) * along[0] + (y - top) * along[1]) / (along @ along)
    share = np.clip(share, 0, 1)
    away = np.hypot(x - left - share * along[0], y - top - share * along[1])
    result: Array = np.exp(-((away / width) ** 2) / 2)
    return result


def _test_row(name: str, nodule: Nodule, *, number: int, index: int) -> str:
    """Return a row of the test sheet; as in the real one, some labels end in a blank."""
    label = "Primary lung cancer" if nodule.malignant else "Benign nodule"
    if nodule.suspicious:
        label = SUSPICIOUS
    elif index % 5 == 3:
        label += " "
    position = f"{nodule.column + 1}, {nodule.row + 1}"
    return f"{name};{number};{position};{nodule.slice_ + 1};{label}"


def _calibration_row(name: str, nodule: Nodule) -> str:
    """Return a row of the calibration sheet, which writes the scan's name in lower case."""
    name = name.replace("LC", "lc").replace("BE", "be")
    position = f"{nodule.column + 1}, {nodule.row + 1}"
    return f"{name};{position};{nodule.slice_ + 1};{CLASSES[nodule.malignant]}"
