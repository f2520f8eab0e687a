"""The rules for series, on made facts and on every patient of the public index."""

from __future__ import annotations

import csv
from collections import defaultdict

import numpy as np
import pytest

from hydrakit.data.dicom import SeriesFacts
from hydrakit_prostatex.series import candidates, choose


def facts(description: str, **changes) -> SeriesFacts:
    values = {
        "patient_id": "P",
        "study_uid": "1",
        "series_uid": description,
        "number": 1,
        "description": description,
        "modality": "MR",
        "image_types": frozenset(),
        "b_values": (),
        "images": 20,
        "plane": "transverse",
    }
    return SeriesFacts(**{**values, **changes})


def names(sequence: str, *series: SeriesFacts) -> list[str]:
    return [candidate.series.description for candidate in candidates(sequence, series)]


EXAM = (
    facts("t2_localizer"),
    facts("t2_loc tra"),
    facts("t2_tse_sag", plane="sagittal"),
    facts("t2_tse_tra", number=4),
    facts("t2_tse_tra_exacte_copy_diffusie", number=55),
    facts("diff tra", number=6, b_values=(50.0, 800.0)),
    facts("diff tra high", number=9, b_values=(1400.0,)),
    facts("diffusie-3Scan", number=10),
    facts("diff tra_ADC", number=7, b_values=(800.0,)),
    facts("diff tra_FA", number=11, b_values=(800.0,)),
    facts("renamed", number=12, image_types=frozenset({"ADC"}), b_values=(800.0,)),
    facts("montage", number=13, image_types=frozenset({"MOSAIC"}), b_values=(2000.0,)),
    facts("diff traCALC_BVAL", number=8),
    facts("tfl_3d PD ref_tra"),
    facts("SEG diff tra", modality="SEG"),
)


def test_each_sequence_of_an_exam_the_better_first():
    assert names("dwi", *EXAM) == [
        "diff traCALC_BVAL",
        "diff tra high",
        "diff tra",
        "diffusie-3Scan",
    ]
    assert names("t2", *EXAM) == ["t2_tse_tra", "t2_tse_tra_exacte_copy_diffusie"]
    assert names("adc", *EXAM) == ["diff tra_ADC", "renamed"]
    assert [c.b_value for c in candidates("dwi", EXAM)] == [None, 1400.0, 800.0, None]


def test_a_t2_series_without_geometry_is_transverse_by_its_name():
    plain = [facts(name, plane=None) for name in ("t2_tse_tra_Grappa3", "t2_tse_cor")]
    assert names("t2", *plain) == ["t2_tse_tra_Grappa3"]


def test_rank_then_distance_then_order():
    found = candidates("dwi", EXAM)
    assert choose(found, {}) is None
    first = choose(found, {"diff tra": 0.0, "diff traCALC_BVAL": 1.4})
    assert first is not None
    assert first.series.description == "diff traCALC_BVAL"
    twins = candidates("t2", EXAM)
    for distances, number in (((1.0, 0.5), 55), ((0.504, 0.5), 4)):
        best = choose(
            twins, dict(zip((c.series.series_uid for c in twins), distances, strict=True))
        )
        assert best is not None
        assert best.series.number == number


# --- the public index of the collection, and the official table


@pytest.fixture(scope="module")
def index(shared_data) -> dict[str, list[SeriesFacts]]:
    """The diffusion series of all patients; the index tells no b-value and no ImageType."""
    found = defaultdict(list)
    with (shared_data / "idc" / "prostatex_diffusion_series.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["PatientID"]].append(
                facts(
                    row["SeriesDescription"],
                    patient_id=row["PatientID"],
                    study_uid=row["StudyInstanceUID"],
                    series_uid=row["SeriesInstanceUID"],
                    number=int(row["SeriesNumber"]),
                    modality=row["Modality"],
                    images=int(row["instanceCount"]),
                    plane=None,
                )
            )
    return dict(found)


@pytest.fixture(scope="module")
def official(shared_data) -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """The rows of the official table of series for each finding."""
    found = defaultdict(list)
    path = shared_data / "prostatex" / "ProstateX-Images-Train.csv"
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            found[row["ProxID"], row["fid"], row["pos"].strip()].append(row)
    return dict(found)


def distance(row: dict[str, str]) -> float | None:
    """Of ``pos`` from the nearest plane, by the table's own matrix; None outside the volume."""
    matrix = np.array(row["WorldMatrix"].split(","), float).reshape(4, 4)
    voxel = np.linalg.solve(matrix, np.append([float(v) for v in row["pos"].split()], 1))[:3]
    size = [int(side) for side in row["Dim"].split("x")[:3]]
    if not all(0 <= at <= count for at, count in zip(voxel, size, strict=True)):
        return None
    return abs(voxel[2] - 0.5 - round(voxel[2] - 0.5)) * float(np.linalg.norm(matrix[:3, 2]))


def test_every_training_finding_gets_the_series_that_the_official_table_names(index, official):
    assert len({patient for patient, _, _ in official}) == 204
    several = 0
    for (patient, _, _), rows in official.items():
        named = [row for row in rows if row["DCMSerDescr"].endswith("CALC_BVAL")]
        assert named
        listed = {(int(row["DCMSerNum"]), row["DCMSerDescr"]) for row in rows}
        there = [each for each in index[patient] if (each.number, each.description) in listed]
        found = candidates("dwi", there)
        # Two studies with a series of one number: the table lists the number twice.
        distances = {}
        for row in named:
            near = distance(row)
            for each in found:
                if near is not None and each.series.number == int(row["DCMSerNum"]):
                    distances[each.series.series_uid] = near
        best = choose(found, distances)
        assert best is not None
        assert best.b_value is None
        near = [
            (distance(row), row["DCMSerNum"], row["DCMSerDescr"])
            for row in named
            if distance(row) is not None
        ]
        least = min(at for at, _, _ in near)
        # The matrices of the table are rounded to six digits.
        as_near = [(number, name) for at, number, name in near if at <= least + 0.02]
        assert (str(best.series.number), best.series.description) in as_near
        several += len(named) > 1
        if len(named) == 1:
            assert [c.series.description for c in found if c.rank == float("inf")] == [
                named[0]["DCMSerDescr"]
            ]
    assert several == 10  # 0025 has five findings, 0031 and 0190 two each, 0191 one


def test_every_test_patient_gets_a_series(index):
    patients = [f"ProstateX-{number:04d}" for number in range(204, 346)]
    assert set(patients) <= set(index)
    for patient in patients:
        best = candidates("dwi", index[patient])[0].series
        if patient == "ProstateX-0227":
            assert (best.number, best.description) == (
                6, "ep2d_DIFF_tra_b50_500_800_1400_alle_spoelen",
            )  # fmt: skip
        else:
            assert best.description.endswith("CALC_BVAL")
    assert len(index) == 346


def test_every_patient_has_an_adc_series_beside_its_diffusion_series(index):
    for patient, series in index.items():
        adc = candidates("adc", series)
        assert adc, patient
        dwi = candidates("dwi", series)[0]
        assert dwi.series.study_uid in {candidate.series.study_uid for candidate in adc}


def test_every_training_finding_has_a_transverse_t2_series(official):
    for rows in official.values():
        series = [
            facts(row["DCMSerDescr"], number=int(row["DCMSerNum"]), plane=None) for row in rows
        ]
        found = candidates("t2", series)
        assert found
        assert all(c.series.description.startswith("t2_tse_tra") for c in found)
