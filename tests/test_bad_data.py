"""Data that is absent, broken or too little: one line that says what to change, nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from helpers import write_dataset

from hydrakit.cli import main
from hydrakit_phantom.write import write_phantom

Refused = Callable[..., str]

CLASSICAL = ["run", "--strategy", "classical", "--device", "cpu", "--datasets"]
HYDRA = ["run", "--strategy", "hydra", "--device", "cpu", "--datasets"]


def test_no_data_at_all(command_refused: Refused) -> None:
    line = command_refused(
        *HYDRA, "prostatex,brain", "--data", "nodata", words=["prostatex: no folder"]
    )
    for words in ("nodata", "ProstateX-Findings-Train.csv", "10.7937/K9TCIA", "hydrakit phantom"):
        assert words in line
    command_refused(
        "datasets", "check", "brain", "--data", "nodata", words=["kaggle.com", "phantom"]
    )


def test_one_folder_is_missing(command_refused: Refused, data: Path) -> None:
    shutil.copytree(data / "alpha", "data/alpha")
    words = ["beta: no folder", str(Path("data/beta").resolve()), "cases.npz"]
    command_refused(*HYDRA, "alpha,beta", "--data", "data", words=words)


def test_an_empty_class(command_refused: Refused) -> None:
    write_dataset(Path("data/alpha"), seed=0, classes=1)
    words = ["alpha: class 'malignant' has no usable case", "datasets check alpha"]
    command_refused(*CLASSICAL, "alpha", "--data", "data", words=words)


def test_too_few_patients(command_refused: Refused) -> None:
    write_dataset(Path("data/alpha"), seed=0, patients=4)
    words = ["alpha: 2 patients with class", "3 splits", "add cases", "--split alpha=9-1"]
    command_refused(*CLASSICAL, "alpha", "--data", "data", words=words)


def test_no_labels(command_refused: Refused) -> None:
    write_dataset(Path("data/alpha"), seed=0)
    with np.load("data/alpha/cases.npz") as stored:
        arrays = dict(stored)
    np.savez("data/alpha/cases.npz", **{**arrays, "labels": np.full(48, -1)})
    command_refused(*CLASSICAL, "alpha", "--data", "data", words=["alpha: no case has a label"])


def test_a_case_that_breaks_the_rules(command_refused: Refused) -> None:
    write_dataset(Path("data/alpha"), seed=0)
    with np.load("data/alpha/cases.npz") as stored:
        arrays = dict(stored)
    arrays["images"][7, 3, 3] = np.nan
    np.savez("data/alpha/cases.npz", **arrays)
    words = ["alpha: case 'c007'", "not finite", "cases.npz"]
    command_refused(*CLASSICAL, "alpha", "--data", "data", words=words)
    command_refused("datasets", "check", "alpha", "--data", "data", words=words)


def test_a_cache_that_is_a_file(command_refused: Refused) -> None:
    Path("file").write_text("")
    command_refused(*CLASSICAL, "alpha", "--cache", "file", words=["file", "--cache"])


# --- the shipped datasets, on synthetic data in the real formats


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    write_phantom(folder, patients=12, seed=0, datasets=("lung", "brain"), difficulty=0.5)
    return folder


def test_a_prostatex_table_without_a_column(command_refused: Refused) -> None:
    folder = Path("data/prostatex")
    folder.mkdir(parents=True)
    (folder / "ProstateX-Findings-Train.csv").write_text("ProxID,fid,pos,zone\n")
    (folder / "ProstateX-Images-Train.csv").write_text("ProxID,fid\n")
    words = ["ProstateX-Findings-Train.csv", "no column 'ClinSig'", "official"]
    command_refused(*CLASSICAL, "prostatex", "--data", "data", words=words)


def test_a_lung_sheet_without_a_column(command_refused: Refused) -> None:
    folder = Path("data/lung")
    folder.mkdir(parents=True)
    header = "Scan Number;Nodule Number;Nodule Center Image;Final Diagnosis"
    (folder / "sheet.csv").write_text(f"{header}\nLUNGx-CT001;1;3;Benign nodule\n")
    words = ["sheet.csv", "no column for the position", "official sheet"]
    command_refused(*CLASSICAL, "lung", "--data", "data", words=words)


def test_a_truncated_xlsx(command_refused: Refused) -> None:
    pytest.importorskip("openpyxl")
    folder = Path("data/lung")
    folder.mkdir(parents=True)
    (folder / "sheet.xlsx").write_bytes(b"PK\3\4" + bytes(200))
    words = ["sheet.xlsx", "not a readable .xlsx", "fetch it again"]
    command_refused(*CLASSICAL, "lung", "--data", "data", words=words)


def test_a_dicom_header_that_is_cut_off(command_refused: Refused, phantoms: Path) -> None:
    shutil.copytree(phantoms / "lung", "data/lung")
    cut = sorted(Path("data").rglob("*.dcm"))[3].resolve()
    cut.write_bytes(cut.read_bytes()[:500])
    words = [str(cut), "broken DICOM header", "fetch the file again"]
    command_refused(*CLASSICAL, "lung", "--data", "data", words=words)


def test_dicom_pixels_that_are_cut_off(
    command_refused: Refused, phantoms: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(phantoms / "lung", "data/lung")
    for path in Path("data").rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:-10_000])
    words = ["lung: no usable case in", "16 cases", "cannot be read", "datasets check lung"]
    command_refused(*CLASSICAL, "lung", "--data", "data", words=words)
    result = CliRunner().invoke(main, ["datasets", "check", "lung", "--data", "data"])
    assert result.exit_code == 1
    assert "WARNING: 14 cases cannot be used: image file cannot be read\n" in result.stdout
    assert "PROBLEM: no case can be used (of 16)\n" in result.stdout


def test_images_that_are_cut_off(command_refused: Refused, phantoms: Path) -> None:
    shutil.copytree(phantoms / "brain", "data/brain")
    images = sorted(path for path in Path("data").rglob("*") if path.is_file())
    images = [path for path in images if path.parent.name in ("yes", "no")]
    images[0].write_bytes(images[0].read_bytes()[:400])
    result = CliRunner().invoke(main, ["datasets", "check", "brain", "--data", "data"])
    assert result.exit_code == 0
    told = " ".join(result.stdout.split())
    assert "WARNING: 1 case cannot be used: " in told
    assert f"download it again no/{images[0].name} " in told
    for path in images:
        path.write_bytes(path.read_bytes()[:400])
    words = ["brain: no usable case", f"{len(images)} cases", "download it again"]
    command_refused(*CLASSICAL, "brain", "--data", "data", words=words)


def test_an_empty_folder_of_images(command_refused: Refused, phantoms: Path) -> None:
    shutil.copytree(phantoms / "brain", "data/brain")
    shutil.rmtree("data/brain/no")
    command_refused(*CLASSICAL, "brain", "--data", "data", words=["brain", "no/"])
    Path("data/brain/no").mkdir()
    words = ["brain: no .jpg", str(Path("data/brain/no").resolve()), "unpack it again"]
    command_refused(*CLASSICAL, "brain", "--data", "data", words=words)
