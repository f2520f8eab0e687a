"""The prostatex adapter, on small files that the tests write and, if present, on real ones."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prostatex_files import (
    CALC,
    DWI,
    FINDINGS,
    IMAGES,
    SLICES,
    TRAIN,
    Listed,
    only_reason,
    only_sample,
    read,
    write_series,
    write_tables,
)
from pydicom import dcmread
from pydicom.uid import generate_uid

from hydrakit.data.identity import normal_name, patient_of
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable
from hydrakit_prostatex.reading import (
    MISSING_SERIES,
    MISSING_SLICE,
    NO_B_VALUE,
    NO_IMAGE,
    NO_INSTANCE,
    NO_SERIES,
    NOT_AS_LISTED,
    OUTSIDE,
)
from hydrakit_prostatex.tables import (
    read_findings,
    read_listed_series,
)


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


def test_patients_are_joined_in_any_spelling_as_they_are_split(tmp_path):
    write_series(tmp_path / "a", CALC, 8, patient="PROSTATEX_1 ")
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [(CALC, 8, "3 2 1")]))
    images = tmp_path / IMAGES
    images.write_text(images.read_text().replace("ProstateX-0001", "Prostatex-01"))
    sample = only_sample(tmp_path)
    assert sample.patient == "ProstateX-0001"
    assert patient_of(sample) == normal_name("PROSTATEX_1 ")


def test_two_lesions_of_one_slice_are_two_findings_with_zones(tmp_path):
    write_series(tmp_path / "a", CALC, 8)
    listed = [(CALC, 8, "3 2 1")]
    write_tables(tmp_path, ("-13 -7 3", "TRUE", listed), ("-11 -7 3", "TRUE", listed))
    one, two = read(tmp_path)
    assert one.source == two.source
    assert one.finding != two.finding
    assert one.subgroups == two.subgroups == {"zone": "PZ"}  # no scanner is told here
    table = tmp_path / FINDINGS
    table.write_text(table.read_text().replace(",PZ,", ",,"))
    assert read(tmp_path)[0].subgroups == {}
    table.write_text(table.read_text().replace(",zone,", ",area,"))
    assert read(tmp_path)[0].subgroups == {}
    table.write_text(table.read_text().replace(",area,", ",zone,").replace(",,", f",{'x' * 61},"))
    with pytest.raises(DataError, match=r"line 2: zone is .*: must be a short name, or empty"):
        read(tmp_path)


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


def write_two(root: Path, position: str, **more: str) -> None:
    """A computed series of values from 100 and the acquired one, of b = 800 and values from 900."""
    write_series(root / "calc", CALC, 8, value=100)
    write_series(root / "acq", "diff tra", 6, b_values=(b"800",), value=900)
    write_tables(root, (position, "TRUE", [(CALC, 8, "4 2 1"), ("diff tra", 6, "4 2 1")]), **more)


@pytest.mark.parametrize("position", ["-13 -7 3", "-13 -7 4.4", "-13 -7 1.6"])
def test_no_other_series_takes_the_place_of_a_missing_slice(tmp_path, position):
    write_two(tmp_path, position)
    assert np.all(only_sample(tmp_path).image == 110)
    (tmp_path / "calc" / "2.dcm").unlink()  # z = 3
    assert only_reason(tmp_path) == MISSING_SLICE


@pytest.mark.parametrize(("slices", "reason"), [(5, MISSING_SLICE), (4, None), ("", None)])
def test_a_slice_that_is_missing_at_the_end_is_noticed_by_the_table(tmp_path, slices, reason):
    write_two(tmp_path, "-13 -7 12", dim=f"10x12x{slices}x1")
    (tmp_path / "calc" / "5.dcm").unlink()  # z = 12, the last of 5
    if reason:
        assert only_reason(tmp_path) == reason
    else:  # a shorter volume, of which nothing is missing
        assert np.all(only_sample(tmp_path).image == 940)


def test_slices_that_are_missing_elsewhere_change_nothing(tmp_path):
    write_two(tmp_path, "-13 -7 3")
    (tmp_path / "calc" / "5.dcm").unlink()
    (tmp_path / "calc" / "4.dcm").unlink()
    assert np.all(only_sample(tmp_path).image == 110)


def test_a_listed_computed_series_that_is_missing_is_not_replaced(tmp_path):
    write_two(tmp_path, "-13 -7 3")
    shutil.rmtree(tmp_path / "calc")
    assert only_reason(tmp_path) == MISSING_SERIES


def test_two_images_in_the_plane_of_the_lesion(tmp_path):
    write_two(tmp_path, "-13 -7 3")
    twin = dcmread(tmp_path / "calc" / "2.dcm")
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    twin.save_as(tmp_path / "calc" / "twin.dcm")
    assert only_reason(tmp_path) == "several images of its series in one plane"


def test_without_any_diffusion_series(tmp_path):
    write_tables(tmp_path, ("-13 -7 3", "TRUE", write_decoys(tmp_path)))
    assert only_reason(tmp_path) == NO_SERIES["dwi"]


def test_acquired_images_that_do_not_tell_their_b_value(tmp_path):
    write_series(tmp_path / "acq", "diff tra", 6, b_values=(None,))
    write_tables(tmp_path, ("-13 -7 3", "TRUE", [("diff tra", 6, "4 2 1")]))
    assert only_reason(tmp_path) == NO_B_VALUE


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
        (FINDINGS, "TRUE", "maybe", "line 2: ClinSig is 'maybe': must be one of FALSE, TRUE"),
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
    with pytest.raises(DataError, match="UTF-16-LE text and is damaged"):
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
    findings = read_findings(shared_data / "prostatex" / FINDINGS, TRAIN)
    listed = read_listed_series(shared_data / "prostatex" / IMAGES)
    assert len(findings) == 330
    assert Counter(finding.label for finding in findings) == {0: 254, 1: 76}
    assert len({finding.patient for finding in findings}) == 204
    assert sum(map(len, listed.values())) == 3869
    for finding in findings:
        assert any(s.description.endswith("CALC_BVAL") for s in listed[finding.key])
