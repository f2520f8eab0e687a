"""`hydrakit datasets check`: what it prints and writes, and when it ends with status 1."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from checked import usual, write
from click.testing import CliRunner, Result
from dicom_files import image
from dicom_files import save as save_dicom

from hydrakit.cli import check as command
from hydrakit.cli import main
from hydrakit.data.quality.issues import PROBLEMS, WARNINGS

Check = Callable[..., Result]
Cases = dict[str, tuple[np.ndarray, str, str, str]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Calls the command on ``tmp_path/lesions`` and expects a status."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HYDRAKIT_DATA", str(tmp_path))

    def call(*arguments: str | Path, status: int = 0) -> Result:
        given = ["datasets", "check", "lesions", *map(str, arguments)]
        result = CliRunner().invoke(main, given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == status, result.output
        return result

    return call


def lines(result: Result, word: str) -> list[str]:
    return [line for line in result.stdout.splitlines() if line.startswith(word)]


def test_a_dataset_in_order_is_one_screen(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(40))
    result = check()
    text = " ".join(result.stdout.split())
    for words in (
        "class train val test all patients",
        "benign 16 2 2 20 20",
        "malignant 16 2 2 20 20",
        "all 32 4 4 40 40",
        "patients 32 4 4 40",
        "split: 8-1-1, seed 0",
        "width 64, height 64",
        "copies: none found",
        "No problem was found that would make results invalid.",
    ):
        assert words in text
    assert lines(result, "PROBLEM") == lines(result, "WARNING") == []
    assert result.stderr == ""


def test_columns_that_are_not_used_are_listed_once(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(40))
    table = tmp_path / "lesions" / "cases.csv"
    table.write_text(table.read_text().replace("path,label,patient", "path,label,patient_id"))
    result = check()
    text = " ".join(result.stdout.split())
    assert "columns that are not used: patient_id" in text
    assert "patient = 'patient_id' under [columns]" in text
    assert len(lines(result, "WARNING")) == 2
    told = json.loads(check("--json").stdout)
    assert told["remarks"] == ["cases.csv: columns that are not used: patient_id"]
    assert [issue["kind"] for issue in told["warnings"]] == ["reading", "patients"]


def test_the_screen_is_narrow_and_short(check: Check, tmp_path: Path) -> None:
    cases = usual(60)
    for number in range(0, 20, 2):
        cases[f"{number + 20:02d}.png"] = (
            cases[f"{number:02d}.png"][0],
            *cases[f"{number + 20:02d}.png"][1:],
        )
    write(tmp_path / "lesions", cases, broken=[f"{number}.png" for number in range(41, 60)])
    shown = check().stdout.splitlines()[1:]  # the first names the folder
    assert max(map(len, shown)) <= 80
    assert len(shown) <= 40


def test_problems_end_with_status_1(check: Check, tmp_path: Path) -> None:
    cases = usual(24)
    cases["05.png"] = (cases["04.png"][0], *cases["05.png"][1:])
    write(tmp_path / "lesions", cases, broken=["09.png"])
    result = check(status=1)
    (problem,) = lines(result, "PROBLEM: ")
    assert "04.png" in problem
    assert {line.split()[0] for line in lines(result, "WARNING")} == {"WARNING:"}
    assert len(lines(result, "WARNING")) == 2
    assert "No problem was found" not in result.stdout
    assert result.stderr.splitlines()[:-1] == []  # at most one line, of the file that is left out


def test_nothing_usable_is_a_problem_with_reasons(check: Check, tmp_path: Path) -> None:
    cases = usual(3)
    write(tmp_path / "lesions", cases, broken=list(cases))
    page = tmp_path / "page.html"
    result = check("--html", page, status=1)
    assert lines(result, "PROBLEM") == ["PROBLEM: no case can be used (of 3)"]
    assert "3 cases cannot be used: " in " ".join(result.stdout.split())
    assert "00.png" in result.stdout
    assert "no case can be used (of 3)" in page.read_text()
    told = json.loads(check("--json", status=1).stdout)
    assert [each["key"] for each in told["unusable"]] == told["warnings"][0]["keys"]


def test_another_fault_is_still_one_line(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(4), more="colour = 3")
    result = check(status=1)
    assert result.stdout == ""
    assert result.stderr.startswith("hydrakit: ")
    assert "colour" in result.stderr


def test_unusable_keys_are_few_on_the_screen_and_all_elsewhere(
    check: Check, tmp_path: Path
) -> None:
    broken = [f"{number:02d}.png" for number in range(12)]
    write(tmp_path / "lesions", usual(40), broken=broken)
    page = tmp_path / "page.html"
    few, every = check().stdout, check("--cases", "--html", page).stdout
    shown = [name for name in broken if name in few]
    assert shown == broken[: command.KEYS_SHOWN]
    assert "and 7 more (--cases lists them)" in " ".join(few.split())
    told = json.loads(check("--json").stdout)["unusable"]
    for name in broken:
        assert name in every
        assert name in page.read_text()
    assert [each["key"].rpartition("/")[2] for each in told] == broken


def test_every_case_is_listed(check: Check, tmp_path: Path) -> None:
    cases = usual(30)
    cases["06.png"] = (cases["04.png"][0], *cases["06.png"][1:])
    cases["29.png"] = (cases["29.png"][0], "", *cases["29.png"][2:])
    write(tmp_path / "lesions", cases, more="")
    result = check("--cases")
    told = json.loads(check("--json").stdout)
    for case in told["usable"]:
        label = ", ".join(case["classes"]) or "(no label)"
        line = f"{case['key']}: {label}, {case['split'] or '(no split)'}"
        assert line in result.stdout.splitlines()
    assert len(told["usable"]) == 30
    assert "without a label: 1" in result.stdout
    (pair,) = lines(result, "copies: 04.png = 06.png")
    assert pair.endswith("exact 1.000, texture 1.00")


def test_json_holds_everything(check: Check, tmp_path: Path) -> None:
    cases = usual(40)
    cases["06.png"] = (cases["04.png"][0], *cases["06.png"][1:])
    write(tmp_path / "lesions", cases, broken=["09.png"])
    told = json.loads(check("--json").stdout)
    assert told["counts"]["all"] == {
        "train": 31, "val": 4, "test": 4, "all": 39, "findings": 39, "patients": 39
    }  # fmt: skip
    assert told["split"] == {"train": 8.0, "val": 1.0, "test": 1.0, "fold": None}
    assert told["groups"] == [["04.png", "06.png"]]
    assert told["copies"][0]["kind"] == "exact"
    assert {each["kind"] for each in told["warnings"]} == {"copies", "unusable"}
    assert told["problems"] == []
    assert {each["fact"] for each in told["ranges"]} >= {"width", "height", "border value"}


def brightness(patients: int, seed: int) -> Cases:
    """Noise on a grey whose brightness tells most of the classes; a tenth are for tests."""
    random = np.random.default_rng(seed)
    cases = usual(patients)
    for number, (name, (_, label, patient, _)) in enumerate(cases.items()):
        noise = random.normal(100 + 15 * (number % 2) + 10 * random.normal(), 3, (64, 64))
        split = ("train", "val", "test")[max(0, number * 10 // patients - 7)]
        cases[name] = noise.astype(np.uint8), label, patient, split
    return cases


def test_the_normalisations_are_compared_on_the_training_split(
    check: Check, tmp_path: Path
) -> None:
    cases = brightness(60, 0)
    write(tmp_path / "lesions", cases)
    told = json.loads(check("--json", "--html", tmp_path / "page.html").stdout)["grey_values"]
    assert (told["present"], told["recommended"]) == ("patient", "dataset")
    areas = {each["rule"]: each["classes"][0] for each in told["choices"]}
    assert areas["dataset"]["auc"] > 0.75
    assert areas["patient"] == areas["image"]  # one image each: both remove the brightness
    assert areas["patient"]["auc"] < 0.65
    assert areas["dataset"]["positives"] == areas["dataset"]["negatives"] == 24
    assert "Grey values" in (tmp_path / "page.html").read_text()
    text = " ".join(check().stdout.split())
    assert "cross-validated by patient on 48 training images:" in text
    assert 'use z-score over the training split (normalise = "dataset"): the AUC for' in text
    # Other test images change nothing.
    shutil.rmtree(tmp_path / "lesions")
    others = {
        name: (255 - each[0], *each[1:]) if each[3] == "test" else each
        for name, each in cases.items()
    }
    write(tmp_path / "lesions", others)
    assert json.loads(check("--json").stdout)["grey_values"] == told


def test_the_present_normalisation_stays_where_nothing_is_better(
    check: Check, tmp_path: Path
) -> None:
    write(tmp_path / "lesions", brightness(60, 1), more="normalise = { window = [50, 150] }")
    told = json.loads(check("--json").stdout)["grey_values"]
    assert told["recommended"] == told["present"] == {"window": [50.0, 150.0]}
    assert len(told["choices"]) == 4
    assert "keep window 50 to 150: no other choice" in told["text"]


def test_too_few_patients_compare_no_normalisations(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(20))
    text = " ".join(check().stdout.split())
    assert "not compared: 'benign' has 8 patients in the training split, and 10 are" in text


def test_shares_and_seed_change_the_split(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(40))

    def splits(*arguments: str) -> list[str]:
        return [case["split"] for case in json.loads(check("--json", *arguments).stdout)["usable"]]

    assert set(splits("--split", "lesions=9-1")) == {"train", "val"}
    assert splits("--split", "lesions=2-1-1").count("test") == 10
    assert splits() == splits("--seed", "0") != splits("--seed", "1")


def test_what_is_given_for_another_dataset_is_refused(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(4))
    for given in (["--split", "brain=8-1-1"], ["--option", "brain.size=3"]):
        assert "'brain' is not the dataset to check" in check(*given, status=2).stderr


def test_a_page_that_cannot_be_written_is_one_line(check: Check, tmp_path: Path) -> None:
    write(tmp_path / "lesions", usual(20))
    result = check("--html", tmp_path / "no" / "page.html", status=1)
    assert result.stdout == ""
    assert "page.html: cannot be written" in result.stderr


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024)])
def test_dicom_files_without_the_rescale_tags_of_others(
    check: Check,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    slope: float,
    intercept: float,
) -> None:
    folder = write(tmp_path / "lesions", {})
    lines_of_table = ["path,label"]
    for number, (path, (pixels, label, *_)) in enumerate(usual(20).items()):
        tags = {"RescaleSlope": slope, "RescaleIntercept": intercept} if number >= 5 else {}
        size = {"Rows": 64, "Columns": 64, "PixelData": pixels.astype(np.uint16).tobytes()}
        save_dicom(image(**tags, **size, PatientID=f"P{number}"), folder / path)
        lines_of_table.append(f"{path},{label}")
    (folder / "cases.csv").write_text("\n".join(lines_of_table) + "\n")
    result = check()
    warned = "WARNING: 5 cases have no RescaleSlope and RescaleIntercept" in result.stdout
    assert warned == (intercept != 0)
    assert warned == ("5 cases have no RescaleSlope" in caplog.text)
    assert "rescale tags: " in result.stdout
    toml = folder / "dataset.toml"
    toml.write_text(toml.read_text() + "[images]\nrescale = false\n")
    assert "RescaleSlope" not in check().output


def test_the_help_names_every_problem_and_warning(check: Check) -> None:
    text = " ".join(check("--help").stdout.split())
    for said in (*PROBLEMS.values(), *WARNINGS.values()):
        assert said in text
    assert "exit status 1" in text


def test_long_reading_is_told(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    write(tmp_path / "lesions", usual(6))
    assert "preparing lesions: 6 cases read" in check("--split", "lesions=9-1").stderr


def test_a_second_look_reads_no_image(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.cli.progress.SECONDS_BETWEEN_LINES", 0.0)
    write(tmp_path / "lesions", usual(20))
    first = check()
    second = check()
    lines = second.stdout.splitlines()
    (line,) = [line for line in lines if line.startswith("prepared data of ")]
    assert line.endswith("(--fresh reads all files again)")
    assert first.stdout.splitlines() == [other for other in lines if other != line]
    assert check("--fresh").stdout == first.stdout
    assert "cases read" in first.stderr
    assert second.stderr == ""
