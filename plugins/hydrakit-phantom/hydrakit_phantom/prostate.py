"""Synthetic data in the format of PROSTATEx: two tables, and multi-series MR of each patient.

The series follow those of a Siemens Skyra: T2 (sagittal, transverse), acquired diffusion with three
b-values in one series, the apparent diffusion coefficient (ADC), and a computed high-b image.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
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

CLASSES = ("not significant", "significant")
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
RADIUS = (7.0, 11.0)  # millimetres
HALF_DEPTH = 4.0  # millimetres: a lesion is visible on its own slice and hardly on the next
B_VALUES = (50, 400, 800)
COMPUTED_B = 1000

# Names of the real series: (description of the acquired diffusion, its series number).
PROTOCOLS = (
    ("ep2d_diff_tra_DYNDIST", 6),
    ("ep2d_diff_tra_DYNDIST_MIX", 7),
    ("diff tra b 50 500 800 WIP511b alle spoelen", 6),
    ("diffusie-3Scan-4bval_fs", 7),
)

FINDINGS_HEADER = "ProxID,fid,pos,zone,ClinSig"
IMAGES_HEADER = (
    "ProxID,Name,fid,pos,WorldMatrix,ijk,TopLevel,SpacingBetweenSlices,VoxelSpacing,Dim,"
    "DCMSerDescr,DCMSerNum"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Finding:
    """A finding of a patient.

    Attributes:
        number: Number of the finding, column ``fid``.
        significant: Whether the finding is clinically significant.
        zone: Peripheral or transition zone, or anterior stroma; independent of the class.
        lesion: Lesion of the finding, in millimetres.
        position: Centre of the lesion in the patient's frame of reference.
    """

    number: int
    significant: bool
    zone: str
    lesion: Lesion
    position: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Patient:
    """A synthetic patient.

    Attributes:
        name: Pseudonym of the patient.
        study: Parts from which the study's identifiers are derived.
        head_first: Whether the transverse images are numbered from head to feet.
        stack: Planes of the diffusion images.
        findings: One finding, or two of different classes.
    """

    name: str
    study: tuple[object, ...]
    head_first: bool
    stack: Stack
    findings: tuple[Finding, ...]

    def local(self, points: Array) -> Array:
        """Convert points of the patient's frame to coordinates along the stack's axes."""
        result: Array = (points - self.stack.centre) @ self.stack.axes
        return result


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series of a patient.

    Attributes:
        number: Series Number.
        description: Series Description.
        stack: Planes of the images.
        image_type: Image Type.
        sequences: Sequence Name for each b-value, or for the one image per plane.
        b_values: Private element (0019,100C) for each b-value; empty without diffusion.
        draw: ``draw(slice, sequence)`` returns the pixels, ``(rows, columns)``.
    """

    number: int
    description: str
    stack: Stack
    image_type: tuple[str, ...]
    sequences: tuple[str, ...]
    b_values: tuple[int, ...] = ()
    draw: Callable[[int, int], Array]


def write_prostate(root: Path, settings: Settings) -> dict[str, int]:
    """Write a PROSTATEx-like dataset into a folder; return the number of findings per class."""
    findings, images = [FINDINGS_HEADER], [IMAGES_HEADER]
    cases = dict.fromkeys(CLASSES, 0)
    for index in range(settings.patients):
        rng = np.random.default_rng([settings.seed, 1, index])
        patient = make_patient(rng, index, settings)
        series = list(all_series(rng, patient, index))
        for one in series:
            write_series(root / "PROSTATEx" / patient.name / DATE_FOLDER, patient, one)
        for finding in patient.findings:
            cases[CLASSES[finding.significant]] += 1
            findings.append(_finding_row(patient, finding, index))
            images.extend(_image_rows(patient, finding, series, index))
    for name, rows in (("Findings", findings), ("Images", images)):
        text = "".join(row + "\r\n" for row in rows)
        (root / f"ProstateX-{name}-Train.csv").write_bytes(text.encode())
    return cases


def make_patient(rng: np.random.Generator, index: int, settings: Settings) -> Patient:
    """Draw a patient: every second one is positive, every sixth has a finding of each class."""
    tilt = rng.uniform(0, np.deg2rad(20))
    axes = np.array([[1, 0, 0], [0, np.cos(tilt), np.sin(tilt)], [0, -np.sin(tilt), np.cos(tilt)]])
    stack = Stack(
        centre=rng.uniform([-10, 0, -20], [10, 30, 20]),
        axes=axes,
        spacing=(2.0, 2.0, 3.0),
        size=(84, 128, 6),
    )
    classes = [bool(index % 2)]
    slices = [int(rng.integers(1, 5))]
    if index % 12 in (4, 9):
        classes.append(not classes[0])
        slices = [1, 4] if rng.random() < 0.5 else [4, 1]
    findings = []
    for number, (significant, slice_) in enumerate(zip(classes, slices, strict=True), start=1):
        lesion = draw_lesion(rng, significant, separation=settings.separation, radius=RADIUS)
        offset = np.append(rng.uniform([-14, -8], [14, 10]), (slice_ - 2.5) * 3)
        offset[2] += rng.uniform(-0.6, 0.6)  # a finding is rarely exactly in a slice's plane
        findings.append(
            Finding(
                number=number,
                significant=significant,
                zone=str(rng.choice(["PZ", "TZ", "AS"])),
                lesion=lesion,
                position=stack.centre + axes @ offset,
            )
        )
    return Patient(
        name=f"ProstateX-{9000 + index}",
        study=("prostatex", settings.seed, settings.difficulty, index),
        head_first=index % 3 == 0,
        stack=stack,
        findings=tuple(findings),
    )


def all_series(rng: np.random.Generator, patient: Patient, index: int) -> Iterator[Series]:
    """Yield the series of a patient, in the order of their numbers."""
    name, number = PROTOCOLS[index % len(PROTOCOLS)]
    fine = replace(patient.stack, spacing=(1.5, 1.5, 3.0), size=(128, 128, 6))
    side = Stack(
        centre=patient.stack.centre,
        axes=np.array([[0.0, 0, -1], [1, 0, 0], [0, -1, 0]]),
        spacing=(1.5, 1.5, 3.6),
        size=(128, 128, 3),
    )
    plain = ("ORIGINAL", "PRIMARY", "M", "NORM", "DIS2D")
    turbo = ("*tse2d1_25",)
    t2 = [("t2_tse_sag", side, number - 3), ("t2_tse_tra", fine, number - 2)]
    if index % 20 == 5:  # one real patient's T2 series has "diffusie" in its description
        t2.append(("t2_tse_tra_exacte_copy_diffusie", fine, 55))
    for description, stack, series_number in t2:
        yield Series(
            number=series_number,
            description=description,
            stack=stack,
            image_type=plain,
            sequences=turbo,
            draw=_t2(rng, patient, stack),
        )
    yield from _diffusion(rng, patient, name, number)


def _diffusion(
    rng: np.random.Generator, patient: Patient, name: str, number: int
) -> Iterator[Series]:
    """Yield the acquired series, the ADC map and the computed image, consistent with each other."""
    maps = [_maps(rng, patient, slice_) for slice_ in range(patient.stack.size[2])]

    def signal(b: float) -> Callable[[int], Array]:
        def at(slice_: int) -> Array:
            high, adc = maps[slice_]
            # Mono-exponential decay (mm^2/s times s/mm^2).
            clean = high * np.exp((COMPUTED_B - b) * adc * 1e-6)
            return clean + rng.normal(0, 2.0, clean.shape)

        return at

    derived = ("DERIVED", "PRIMARY", "DIFFUSION")
    yield Series(
        number=number,
        description=name,
        stack=patient.stack,
        image_type=(*derived, "TRACEW", "DIS2D"),
        sequences=tuple(f"*ep_b{b}t" for b in B_VALUES),
        b_values=B_VALUES,
        draw=lambda slice_, which: signal(B_VALUES[which])(slice_),
    )
    yield Series(
        number=number + 1,
        description=f"{name}_ADC",
        stack=patient.stack,
        image_type=(*derived, "ADC", "DIS2D"),
        sequences=("*ep_b50_800",),
        b_values=(800,),
        draw=lambda slice_, _: maps[slice_][1] + rng.normal(0, 30, maps[slice_][1].shape),
    )
    yield Series(
        number=number + 2,
        description=f"{name}CALC_BVAL",
        stack=patient.stack,
        image_type=(*derived, "TRACEW", "DIS2D"),
        sequences=("*ep_b50_800",),
        b_values=(COMPUTED_B,),
        draw=lambda slice_, _: signal(COMPUTED_B)(slice_),
    )


def _maps(rng: np.random.Generator, patient: Patient, slice_: int) -> tuple[Array, Array]:
    """Render the high-b image and the ADC map (in 1e-6 mm^2/s) of a slice."""
    x, y, z = np.moveaxis(patient.local(patient.stack.plane(slice_)), -1, 0)
    body, gland = _tissue(x, y, z)
    grain = smooth_noise(rng, x.shape, grain=3.0)
    high = 14 * body * (1 + 0.25 * grain) + gland * (30 + 5 * smooth_noise(rng, x.shape, grain=2.0))
    adc = body * (900 + 120 * grain) + gland * 500
    lesions = _lesions(rng, patient, (x, y, z), 2.0)
    gain = 1 + 0.04 * (slice_ - 2.5)  # the coil sees the upper slices better
    return gain * np.maximum(high + 32 * lesions, 0), np.maximum(adc - 400 * lesions, 100)


def _t2(rng: np.random.Generator, patient: Patient, stack: Stack) -> Callable[[int, int], Array]:
    """Return the function that draws the T2 images: a bright gland with dark lesions."""

    def at(slice_: int, _: int) -> Array:
        x, y, z = np.moveaxis(patient.local(stack.plane(slice_)), -1, 0)
        body, gland = _tissue(x, y, z)
        lesions = _lesions(rng, patient, (x, y, z), stack.spacing[0])
        clean = body * (220 + 40 * smooth_noise(rng, x.shape, grain=4.0)) + gland * 200
        return np.asarray(clean - 150 * lesions + rng.normal(0, 12, x.shape))

    return at


def _tissue(x: Array, y: Array, z: Array) -> tuple[Array, Array]:
    """Return the coverage by the body and by the gland at points of the stack's frame."""
    body = soft_step(np.hypot(x / 78, y / 105) - 1, 0.03)
    gland = soft_step(np.sqrt((x / 27) ** 2 + (y / 20) ** 2 + (z / 40) ** 2) - 1, 0.08)
    return body, gland


def _lesions(
    rng: np.random.Generator, patient: Patient, points: tuple[Array, Array, Array], pixel: float
) -> Array:
    """Return the contribution of the patient's lesions, in units of the usual contrast.

    A plane that intersects the stack's slices (sagittal images) is drawn as if it lay in the slice
    of its centre: these series only have to exist.
    """
    x, y, z = points
    total = np.zeros_like(x)
    for finding in patient.findings:
        column, row, height = patient.local(finding.position)
        away = (float(z[z.shape[0] // 2, z.shape[1] // 2]) - height) / HALF_DEPTH
        opacity = finding.lesion.opacity(y - row, x - column, blur=0.6 * pixel, height=away)
        if opacity.any():
            total += finding.lesion.shade(rng, opacity, pixel=pixel)
    return total


def write_series(study: Path, patient: Patient, series: Series) -> None:
    """Write a series into a folder named as in the real download."""
    short = re.sub(r"[^A-Za-z0-9. -]", "", series.description)
    uid = fixed_uid(*patient.study, series.number)
    folder = study / f"{series.number}.000000-{short}-{uid[-5:]}"
    folder.mkdir(parents=True)
    slices = list(range(series.stack.size[2]))
    if patient.head_first:
        slices.reverse()
    planes = [(which, slice_) for which in range(len(series.sequences)) for slice_ in slices]
    digits = len(str(len(planes)))
    for instance, (which, slice_) in enumerate(planes, start=1):
        _write_image(
            folder / f"1-{instance:0{digits}d}.dcm",
            patient,
            series=series,
            instance=instance,
            which=which,
            slice_=slice_,
        )


def _write_image(
    path: Path, patient: Patient, *, series: Series, instance: int, which: int, slice_: int
) -> None:
    image = new_image(patient.name, study=patient.study, series=series.number, instance=instance)
    image.SOPClassUID = MR_IMAGE
    image.Modality = "MR"
    image.ImageType = list(series.image_type)
    image.SeriesDescription = series.description
    image.BodyPartExamined = "PROSTATE"
    image.PatientPosition = "FFS"
    image.ScanningSequence = "EP" if series.b_values else "SE"
    image.SequenceVariant = ["SK", "SP", "OSP"]
    image.ScanOptions = ""
    image.MRAcquisitionType = "2D"
    image.SequenceName = series.sequences[which]
    image.EchoTime, image.RepetitionTime, image.EchoTrainLength = "63", "2700", 48
    image.MagneticFieldStrength = "3"
    image.SpacingBetweenSlices = decimals([series.stack.spacing[2]])[0]
    set_plane(image, series.stack, slice_)
    stored = set_pixels(image, series.draw(slice_, which))
    # As on the real scanner, each slice has its own window.
    low, high = np.percentile(stored, [5, 99])
    image.WindowCenter = str(int((low + high) / 2))
    image.WindowWidth = str(max(1, int(1.5 * (high - low))))
    if series.b_values:
        text = str(series.b_values[which]).encode()
        block = image.private_block(0x0019, "SIEMENS MR HEADER", create=True)
        block.add_new(0x0C, "OB", text + b" " * (len(text) % 2))
    save(image, path)


def _position(finding: Finding, index: int) -> str:
    """Return the ``pos`` cell; as in the real tables, a few begin with a space."""
    return (" " if index % 8 == 7 else "") + " ".join(f"{value:.6g}" for value in finding.position)


def _finding_row(patient: Patient, finding: Finding, index: int) -> str:
    cells = (patient.name, str(finding.number), _position(finding, index), finding.zone)
    return ",".join((*cells, str(finding.significant).upper()))


def _image_rows(
    patient: Patient, finding: Finding, series: list[Series], index: int
) -> Iterator[str]:
    """Yield rows of the images table: one for each image volume of each series."""
    for one in sorted(series, key=lambda one: one.description):
        matrix = one.stack.matrix()
        voxel = np.linalg.solve(matrix, np.append(finding.position, 1))[:3]
        name = re.sub(r"\W", "_", one.description)
        for volume in range(len(one.sequences)):
            yield ",".join(
                (
                    patient.name,
                    f"{name}{volume}",
                    str(finding.number),
                    _position(finding, index),
                    '"' + ",".join(f"{value + 0.0:.6g}" for value in matrix.ravel()) + '"',
                    " ".join(str(round(value)) for value in voxel),
                    "NA" if index % 2 else "1",
                    f"{one.stack.spacing[2]:g}",
                    '"' + ",".join(f"{value:g}" for value in one.stack.spacing) + '"',
                    "x".join(map(str, (*one.stack.size, 1))),
                    one.description,
                    str(one.number),
                )
            )
