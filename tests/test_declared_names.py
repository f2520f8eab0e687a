"""Declared datasets: names of columns and patients, masks, and files that are not used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from declaring import BASE, CSV, declare, png, refused, samples
from dicom_files import image, save
from PIL import Image

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.files import companions
from hydrakit.hooks import NoOptions, Remark


def remarks(folder: Path) -> list[Remark]:
    adapter = load_declared(folder)
    return [each for each in adapter.read(folder, NoOptions()) if isinstance(each, Remark)]


def table(folder: Path, header: str, *rows: str, more: str = "") -> Path:
    """A table of one image for each row, which follow the path a.png, b.png ..."""
    lines = [header, *(f"{chr(97 + n)}.png,{row}" for n, row in enumerate(rows))]
    declare(folder, more + CSV, "\n".join(lines))
    for n in range(len(rows)):
        png(folder / f"{chr(97 + n)}.png", n)
    return folder


@pytest.mark.parametrize(
    "header", ["Patient", "PATIENT", " patient ", "pa-tient", "Pa_tient", "patient."]
)
def test_a_header_may_differ_in_case_blanks_and_separators(tmp_path: Path, header: str) -> None:
    folder = table(tmp_path / "mine", f"Path,LABEL,{header},Split", "benign,P1,train", "benign,P2,")
    one, two = samples(folder)
    assert (one.patient, one.split, two.patient, two.split) == ("P1", "train", "P2", None)
    assert remarks(folder) == []


def test_an_exact_header_comes_first_and_two_alike_are_refused(tmp_path: Path) -> None:
    folder = table(tmp_path / "mine", "path,label,Patient,patient", "benign,X,P1", "benign,X,P2")
    assert [each.patient for each in samples(folder)] == ["P1", "P2"]
    assert [each.text for each in remarks(folder)] == [
        "cases.csv: columns that are not used: Patient"
    ]
    folder = table(tmp_path / "mine", "path,label,Patient,PATIENT", "benign,X,P1")
    refused(folder, "'Patient' and 'PATIENT'", "column 'patient'", "[columns]")


@pytest.mark.parametrize(
    "header",
    ["patient_id", "PatientID", "patientid", "subject", "Subject ID", "pid", "MRN", "prox_id"],
)
def test_a_column_that_resembles_the_patients_is_not_used_silently(
    tmp_path: Path, header: str
) -> None:
    folder = table(tmp_path / "mine", f"path,label,{header},age", "benign,P1,30", "benign,P1,30")
    warning, unused = remarks(folder)
    assert warning.warning
    assert f"patient = {header!r} under [columns] in dataset.toml" in warning.text
    assert (unused.text, unused.warning) == (
        f"cases.csv: columns that are not used: {header}, age",
        False,
    )
    declare(folder, CSV + f'[columns]\npatient = "{header}"\n')
    assert [each.text for each in remarks(folder)] == ["cases.csv: columns that are not used: age"]
    assert {each.patient for each in samples(folder)} == {"P1"}


@pytest.mark.parametrize("header", ["patient_age", "PatientSex", "patient birth date", "zone", ""])
def test_columns_that_name_nobody_are_only_listed(tmp_path: Path, header: str) -> None:
    folder = table(tmp_path / "mine", f"path,label,{header}", "benign,1", "benign,2")
    assert [each.warning for each in remarks(folder)] == [False] * (header != "")


@pytest.mark.parametrize(
    "blank", ["", " ", "\u00a0", "\u200b", "-", "NA", "nan", "unknown", "ANONYMOUS"]
)
def test_an_empty_patient_beside_names_is_refused_or_declared(tmp_path: Path, blank: str) -> None:
    rows = ["benign,P1", f"benign,{blank}", "malignant,P2", f"malignant,{blank}"]
    folder = table(tmp_path / "mine", "path,label,patient", *rows)
    words = ("line 3: the patient is empty", "in 2 of 4 cases", 'empty_patient = "own"', '"above"')
    refused(folder, "cases.csv", *words)
    table(folder, "path,label,patient", *rows, more='empty_patient = "own"\n')
    assert [each.patient for each in samples(folder)] == ["P1", "b.png", "P2", "d.png"]
    table(folder, "path,label,patient", *rows, more='empty_patient = "above"\n')
    above = blank.strip("\u200b ").strip() == ""
    expected = ["P1", "P1", "P2", "P2"] if above else ["P1", "b.png", "P2", "d.png"]
    assert [each.patient for each in samples(folder)] == expected
    table(folder, "path,label,patient", *rows, more="exact_names = true\n")
    if above:
        refused(folder, "line 3")
    else:
        assert [each.patient for each in samples(folder)] == ["P1", blank, "P2", blank]


def test_empty_patient_needs_a_column_of_patients(tmp_path: Path) -> None:
    folder = table(tmp_path / "mine", "path,label", "benign", more='empty_patient = "above"\n')
    refused(folder, "empty_patient", "no column of patients")
    declare(folder, 'empty_patient = "own"\n' + BASE + 'pattern = "{label}/*.png"\n')
    refused(folder, "dataset.toml", "empty_patient", "{patient}")


def test_groups_and_findings_that_name_nothing_are_empty(tmp_path: Path) -> None:
    header = "path,label,patient,group,finding"
    folder = table(tmp_path / "mine", header, "benign,P1,NA,-", "malignant,P1,unknown,n/a")
    assert [(each.group, each.finding) for each in samples(folder)] == [(None, None)] * 2


@pytest.mark.parametrize("stated", ["", "ANONYMOUS", " "])
def test_dicom_without_a_patient_is_grouped_by_study(tmp_path: Path, stated: str) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/*.dcm"\n')
    for n in range(4):
        tags = {"PatientID": stated if n < 3 else "P9", "StudyInstanceUID": f"1.2.{n // 2}"}
        save(image(**tags), folder / "benign" / f"{n}.dcm")
    assert [each.patient for each in samples(folder)] == ["1.2.0", "1.2.0", "1.2.1", "P9"]
    (remark,) = remarks(folder)
    assert remark.warning
    assert "the PatientID of 3 DICOM files is empty" in remark.text
    assert "benign/0.dcm" in remark.text


def test_an_animated_gif_is_used_by_its_first_frame_and_said(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/*.gif"\n')
    frames = [Image.fromarray(np.full((6, 6), value, np.uint8)) for value in (50, 200)]
    (folder / "benign").mkdir()
    frames[0].save(folder / "benign" / "x.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "benign" / "y.gif")
    (remark,) = remarks(folder)
    assert remark.warning
    assert "1 animated GIFs are used by their first frame (first benign/x.gif)" in remark.text
    declare(folder, BASE + 'pattern = "{label}/x.gif#[1]"\n')
    (case,) = samples(folder)
    assert case.image.max() == 200
    assert not any("GIF" in each.text for each in remarks(folder))


# --- masks, and files that a pattern leaves


def test_masks_of_a_pattern_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = declare(tmp_path / "busi", BASE + 'pattern = "{label}/*.png"\n')
    for label in ("benign", "malignant"):
        for name in ("x (1)", "x (1)_mask", "x (1)_mask_1", "y", "y-seg", "z_mask", "z2 (3)"):
            png(folder / label / f"{name}.png")
    keys = [each.key for each in samples(folder) if each.key.startswith("benign")]
    assert keys == [f"benign/{name}.png" for name in ("x (1)", "y", "z2 (3)", "z_mask")]
    (remark,) = remarks(folder)
    assert remark.warning
    assert "6 files are left out as masks of other images" in remark.text
    declare(folder, 'masks = "cases"\n' + BASE + 'pattern = "{label}/*.png"\n')
    assert len(samples(folder)) == 14
    table(folder, "path,label", "benign", more='masks = "cases"\n')
    refused(folder, "dataset.toml", "masks: only a pattern")


@pytest.mark.parametrize(
    "masks", ["masks", "Mask", "ManualMask/leftMask", "segmentations", "ground_truth"]
)
def test_folders_of_masks(masks: str) -> None:
    for above in ("set/", "segmentation/", ""):
        paths = [f"{above}{part}/{n}.png" for part in ("images", masks) for n in range(3)]
        found = companions(paths)
        assert found == {f"{above}{masks}/{n}.png": f"{above}images/{n}.png" for n in range(3)}


def test_faces_with_and_without_a_mask_are_no_masks() -> None:
    assert companions([f"{part}/{n}.png" for part in ("mask", "no_mask") for n in range(3)]) == {}
    assert companions(["with_mask/1.png", "without_mask/1.png", "masks/7.png", "a/8.png"]) == {}


def test_files_that_a_pattern_misses_are_counted(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "img/{label}/*.png"\n')
    for name in (
        "benign/1.png",
        "benign/2.PNG",
        "benign/deep/3.png",
        "Malignant/4.jpg",
        "malignant/5.png",
    ):
        png(folder / "img" / name)
    png(folder / "img" / "benign" / "6.png").rename(folder / "img" / "benign" / "6.jpg")
    png(folder / "other" / "7.png")
    (folder / "img" / "benign" / "8.nii.gz").write_bytes(b"")
    assert len(samples(folder)) == 2
    warning, other = remarks(folder)
    assert warning.warning
    assert "4 files are beside the cases or below them" in warning.text
    for words in ("1 .PNG", "1 .png", "1 .jpg", "1 .nii.gz", "2.PNG"):
        assert words in warning.text
    assert not other.warning
    assert other.text == "other files that are not used: 1 .jpg, 1 .png"


def test_a_pattern_without_a_case_names_what_is_there(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/*.png"\n')
    (folder / "a").mkdir()
    for name in ("1.bmp", "2.bmp", "3.zip"):
        (folder / "a" / name).write_bytes(b"")
    refused(folder, "yields no case", "there are 2 .bmp, 1 .zip")


def test_a_byte_order_mark_and_keys_below_a_wrong_table(tmp_path: Path) -> None:
    folder = table(tmp_path / "mine", "path,label", "benign")
    declare(folder, "\ufeff" + CSV)
    assert len(samples(folder)) == 1
    declare(folder, CSV + "[images]\nspacing = [1, 1]\n")
    refused(folder, "key 'images.spacing': move spacing to the top of the file")


@pytest.mark.parametrize("spacing", ["1.0", "[1]", "[[1, 1]]", "[1, 0]", "[1, true]", "[1, nan]"])
def test_a_spacing_that_is_no_pair_is_refused_with_what_to_write(
    tmp_path: Path, spacing: str
) -> None:
    folder = declare(tmp_path / "mine", f"spacing = {spacing}\n" + CSV, "path,label\n")
    refused(folder, "dataset.toml: spacing: ", "write spacing = [row, column], in millimetres")
