"""The prostatex adapter, on small files that the tests write and, if present, on real ones."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.dicom import SeriesFacts
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_prostatex import hydrakit_dataset_adapters
from hydrakit_prostatex.reading import NO_HIGH_B, NO_IMAGE, NO_INSTANCE, NOT_AS_LISTED, OUTSIDE
from hydrakit_prostatex.series import high_b_series
from hydrakit_prostatex.tables import FINDINGS, IMAGES, read_findings, read_listed_series

(ADAPTER,) = hydrakit_dataset_adapters()
ROWS, COLUMNS, SLICES = 12, 10, 5
STEP = 3.0  # millimetres between slices
DWI = ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "DIS2D"]


def write_series(
    folder: Path,
    description: str,
    number: int,
    *,
    patient: str = "ProstateX-0001",
    study: str = "1.2.1",
    z: float = 0.0,
    head_first: bool = False,
    image_type: list[str] | None = None,
    b_values: tuple[bytes | None, ...] = (b"1000",),
    value: int = 0,
) -> None:
    """A stack of axial slices; a pixel holds ``value`` + 10 * (slice from the feet) + b-index.

    The lowest slice is at ``z``; pixels are 2 mm wide and 1.5 mm high, the first at (-20, -10).
    """
    series = generate_uid()
    instance = 0
    for b_index, b_value in enumerate(b_values):
        order = range(SLICES)
        for k in reversed(order) if head_first else order:
            instance += 1
            dataset = Dataset()
            dataset.file_meta = FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = (
                "1.2.840.10008.5.1.4.1.1.4"
            )
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.PatientID, dataset.Modality = patient, "MR"
            dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
            dataset.SeriesNumber, dataset.SeriesDescription = number, description
            dataset.InstanceNumber = instance
            dataset.ImageType = DWI if image_type is None else image_type
            dataset.ImagePositionPatient = [-20, -10, z + STEP * k]
            dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            dataset.PixelSpacing = [1.5, 2]
            dataset.Rows, dataset.Columns = ROWS, COLUMNS
            dataset.BitsAllocated = dataset.BitsStored = 16
            dataset.HighBit, dataset.PixelRepresentation, dataset.SamplesPerPixel = 15, 0, 1
            dataset.PhotometricInterpretation = "MONOCHROME2"
            pixels = np.full((ROWS, COLUMNS), value + 10 * k + b_index, np.uint16)
            dataset.PixelData = pixels.tobytes()
            if b_value is not None:
                block = dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True)
                block.add_new(0x0C, "OB", b_value)
            folder.mkdir(parents=True, exist_ok=True)
            dataset.save_as(folder / f"{instance}.dcm", enforce_file_format=True)


Listed = tuple[str, int, str]  # description, number, ijk


def write_tables(folder: Path, *findings: tuple[str, str, list[Listed]]) -> None:
    """The two tables: for each finding its ``pos``, its ClinSig and its listed series."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FINDINGS).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ProxID", "fid", "pos", "zone", "ClinSig"])
        for pos, label, _ in findings:
            table.writerow(["ProstateX-0001", 1, pos, "PZ", label])
    with (folder / IMAGES).open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ProxID", "Name", "fid", "pos", "ijk", "DCMSerDescr", "DCMSerNum"])
        for pos, _, listed in findings:
            for description, number, ijk in listed:
                table.writerow(["ProstateX-0001", "x", 1, pos, ijk, description, number])


def read(root: Path, **options: str) -> list[Sample | Unusable]:
    return list(read_samples(ADAPTER, root, options))


def only_sample(root: Path, **options: str) -> Sample:
    (case,) = read(root, **options)
    assert isinstance(case, Sample)
    return case


def only_reason(root: Path, **options: str) -> str:
    (case,) = read(root, **options)
    assert isinstance(case, Unusable)
    return case.reason


CALC = "ep2d_diff_tra_DYNDISTCALC_BVAL"


@pytest.mark.parametrize("head_first", [False, True])
def test_the_slice_is_found_by_geometry_whatever_the_numbering(tmp_path, head_first):
    write_series(tmp_path / "a", CALC, 8, head_first=head_first)
    # 3.5 columns of 2 mm and 2 rows of 1.5 mm from the first pixel; 0.4 mm above slice 1.
    write_tables(tmp_path, (" -13 -7 3.4", "TRUE", [(CALC, 8, "3 2 1")]))
    sample = only_sample(tmp_path)
    assert np.all(sample.image == 10)
    assert sample.label == 1
    assert sample.centre == pytest.approx((2.0, 3.5))
    assert sample.spacing == (1.5, 2.0)
    assert sample.patient == "ProstateX-0001"
    assert sample.key == "ProstateX-0001/1/-13 -7 3.4"
    assert [path.name for path in sample.source] == ["4.dcm" if head_first else "2.dcm"]


def test_the_authors_slice_is_another_one_where_numbers_run_from_the_head(tmp_path):
    write_series(tmp_path / "a", CALC, 8, head_first=True)
    write_tables(tmp_path, ("-13 -7 3", "FALSE", [(CALC, 8, "4 2 1")]))
    sample = only_sample(tmp_path, slice="instance")
    assert [path.name for path in sample.source] == ["2.dcm"]
    assert np.all(sample.image == 30)
    assert sample.centre == (2.0, 4.0)
    assert sample.label == 0


def test_no_slice_of_the_authors_number(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "FALSE", [(CALC, 8, f"4 2 {SLICES}")]))
    assert only_reason(tmp_path, slice="instance") == NO_INSTANCE


def write_decoys(root: Path) -> list[Listed]:
    """Other series of the same exam, all listed for the finding, under misleading folder names."""
    t2 = "t2_tse_tra_exacte_copy_diffusie"
    write_series(root / "8-CALC_BVAL", t2, 4, image_type=["ORIGINAL", "M"], b_values=(None,))
    write_series(root / "ep2d", "ep2d_diff_ADC", 7, image_type=[*DWI, "ADC"], b_values=(b"800 ",))
    write_series(root / "mosaic", "diff 9", 9, image_type=[*DWI, "MOSAIC"], b_values=(b"2000",))
    return [(t2, 4, "4 2 1"), ("ep2d_diff_ADC", 7, "4 2 1"), ("diff 9", 9, "4 2 1")]


def test_the_computed_series_comes_before_all_others(tmp_path):
    listed = write_decoys(tmp_path)
    write_series(tmp_path / "t2", "diff traCALC_BVAL", 8, value=500)
    write_series(tmp_path / "acq", "diff tra", 6, b_values=(b"50", b"1400"), value=900)
    listed += [("diff traCALC_BVAL", 8, "4 2 1"), ("diff tra", 6, "4 2 1")]
    write_tables(tmp_path, ("-13 -7 3", "TRUE", listed))
    assert np.all(only_sample(tmp_path).image == 510)


def test_without_a_computed_series_the_highest_acquired_b_value(tmp_path):
    listed = write_decoys(tmp_path)
    name = "diffusie-3Scan-4bval_fs"
    write_series(tmp_path / "acq", name, 6, b_values=(b"50", b"800 ", b"400\0"), value=100)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [*listed, (name, 6, "4 2 1")]))
    assert np.all(only_sample(tmp_path).image == 111)  # the second b-value


def test_without_any_diffusion_series(tmp_path):
    write_tables(tmp_path, ("-13 -7 3", "TRUE", write_decoys(tmp_path)))
    assert only_reason(tmp_path) == NO_HIGH_B


def test_two_studies_the_volume_that_contains_the_position(tmp_path):
    write_series(tmp_path / "1", CALC, 8, study="1.2.1", z=0, value=100)
    write_series(tmp_path / "2", CALC, 8, study="1.2.2", z=60, value=200)
    listed = [(CALC, 8, "4 2 -19"), (CALC, 8, "3 2 1")]
    write_tables(
        tmp_path,
        ("-13 -7 63", "TRUE", listed),
        ("-13 -7 3", "FALSE", [(CALC, 8, "3 2 1"), (CALC, 8, "4 2 21")]),
        ("-13 -7 30", "FALSE", listed),
    )
    first, second, third = read(tmp_path)
    assert isinstance(first, Sample)
    assert isinstance(second, Sample)
    assert (first.image[0, 0, 0], first.label) == (210, 1)
    assert (second.image[0, 0, 0], second.label) == (110, 0)
    assert isinstance(third, Unusable)
    assert third.reason == OUTSIDE


def test_the_listed_voxel_is_that_of_the_right_study(tmp_path):
    write_series(tmp_path / "1", CALC, 8, study="1.2.1", z=0, value=100)
    write_series(tmp_path / "2", CALC, 8, study="1.2.2", z=60, value=200)
    listed = [(CALC, 8, "9 9 4"), (CALC, 8, "4 2 1")]
    write_tables(tmp_path, ("-13 -7 63", "TRUE", listed))
    sample = only_sample(tmp_path, slice="instance")
    assert (sample.image[0, 0, 0], sample.centre) == (210, (2.0, 4.0))


def test_a_repeated_scan_the_one_with_the_position_in_its_plane(tmp_path):
    write_series(tmp_path / "1", CALC, 8, z=0.9, value=100)
    write_series(tmp_path / "2", CALC, 12, z=0.0, value=200)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1"), (CALC, 12, "4 2 1")]))
    assert np.all(only_sample(tmp_path).image == 210)


def test_the_description_must_be_the_listed_one(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [("something elseCALC_BVAL", 8, "4 2 1")]))
    assert only_reason(tmp_path) == NOT_AS_LISTED


def test_a_file_with_cut_off_pixels_spoils_its_own_case_only(tmp_path, caplog):
    write_series(tmp_path / "a", CALC, 8)
    listed = [(CALC, 8, "4 2 1")]
    write_tables(tmp_path, ("-13 -7 3", "TRUE", listed), ("-13 -7 6", "TRUE", listed))
    broken = tmp_path / "a" / "2.dcm"
    broken.write_bytes(broken.read_bytes()[:-20])
    first, second = read(tmp_path)
    assert isinstance(first, Unusable)
    assert first.reason == "image file cannot be read"
    assert str(broken) in caplog.text
    assert isinstance(second, Sample)


def test_tables_in_other_folders_and_case(tmp_path):
    write_tables(tmp_path / "ProstateX-TrainingLesionInformationv2" / "x", ("-13 -7 3", "TRUE", []))
    for path in list(tmp_path.rglob("*.csv")):
        path.rename(path.with_name(path.name.lower()))
    assert only_reason(tmp_path) == NO_IMAGE
    copy = tmp_path / "copy" / FINDINGS
    copy.parent.mkdir()
    copy.write_bytes(next(tmp_path.rglob(FINDINGS.lower())).read_bytes())
    assert only_reason(tmp_path) == NO_IMAGE
    copy.write_text("ProxID\n")
    with pytest.raises(DataError, match="differs from"):
        read(tmp_path)


@pytest.mark.parametrize("missing", [FINDINGS, IMAGES])
def test_a_missing_table(tmp_path, missing):
    write_tables(tmp_path, ("-13 -7 3", "TRUE", []))
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"no {missing} below it"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (FINDINGS, "ClinSig", "Clin", "no column 'ClinSig'"),
        (IMAGES, "DCMSerNum", "Number", "no column 'DCMSerNum'"),
        (FINDINGS, "TRUE", "maybe", "line 2: ClinSig is 'maybe': must be TRUE or FALSE"),
        (FINDINGS, "-13 -7 3", "-13 -7", "line 2: pos is '-13 -7': must be three numbers"),
        (FINDINGS, "-13 -7 3", "1 2 nan", "line 2: pos is '1 2 nan'"),
        (IMAGES, "4 2 1", "4 2", "line 2: ijk is '4 2'"),
    ],
)
def test_wrong_tables_are_told_on_one_line(tmp_path, name, old, new, message):
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "4 2 1")]))
    path = tmp_path / name
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_finding_listed_twice_and_a_table_that_is_no_text(tmp_path):
    write_tables(tmp_path, ("1 2 3", "TRUE", []), (" 1 2 3", "FALSE", []))
    with pytest.raises(DataError, match=r"line 3: .* listed twice"):
        read(tmp_path)
    (tmp_path / FINDINGS).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a table"):
        read(tmp_path)


# --- real data


def test_real_findings(shared_data):
    root = shared_data / "prostatex"
    cases = read(root)
    assert len(cases) == 330
    samples = [case for case in cases if isinstance(case, Sample)]
    reasons = Counter(case.reason for case in cases if isinstance(case, Unusable))
    assert reasons == {NO_IMAGE: 328}
    assert [(s.patient, s.label) for s in samples] == [("ProstateX-0000", 1), ("ProstateX-0001", 0)]
    second = samples[1]
    assert second.source[0].name == "1-10.dcm"
    assert "CALCBVAL" in second.source[0].parent.name
    assert second.centre == pytest.approx((62.379, 33.209), abs=1e-3)
    assert second.spacing == (2.0, 2.0)
    assert second.image.shape == (1, 128, 84)

    authors = [case for case in read(root, slice="instance") if isinstance(case, Sample)]
    assert authors[1].source[0].name == "1-11.dcm"
    assert authors[1].centre == (63.0, 34.0)


def test_real_tables(shared_data):
    findings = read_findings(shared_data / "prostatex" / FINDINGS)
    listed = read_listed_series(shared_data / "prostatex" / IMAGES)
    assert len(findings) == 330
    assert sum(finding.significant for finding in findings) == 76
    assert len({finding.key[0] for finding in findings}) == 204
    assert sum(map(len, listed.values())) == 3869
    for finding in findings:
        assert any(s.description.endswith("CALC_BVAL") for s in listed[finding.key])


def test_real_series_of_the_public_index(shared_data):
    by_patient: dict[str, list[SeriesFacts]] = {}
    with (shared_data / "idc" / "prostatex_diffusion_series.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            facts = SeriesFacts(
                patient_id=row["PatientID"],
                study_uid=row["StudyInstanceUID"],
                series_uid=row["SeriesInstanceUID"],
                number=int(row["SeriesNumber"]),
                description=row["SeriesDescription"],
                modality=row["Modality"],
                image_types=frozenset(),
                b_values=(),
                images=int(row["instanceCount"]),
            )
            by_patient.setdefault(facts.patient_id, []).append(facts)
    found = {patient: high_b_series(series) for patient, series in by_patient.items()}
    counts = {patient: len(high) for patient, high in found.items() if len(high) != 1}
    assert counts == {
        "ProstateX-0227": 0,
        "ProstateX-0025": 2,
        "ProstateX-0031": 2,
        "ProstateX-0190": 2,
        "ProstateX-0318": 2,
        "ProstateX-0191": 3,
    }
