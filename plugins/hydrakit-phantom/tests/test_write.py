"""The folder as a whole: same bytes, all or nothing, marks, the command."""

from __future__ import annotations

import json
import shutil
from copy import copy

import click
import pytest
from click.testing import CliRunner
from PIL import Image
from pydicom import dcmread

from hydrakit.errors import DataError, HydrakitError
from hydrakit_phantom import hydrakit_commands, write
from hydrakit_phantom.settings import MARK
from hydrakit_phantom.write import write_phantom


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_same_arguments_give_the_same_bytes(phantom, tmp_path):
    write_phantom(tmp_path / "again", patients=12, seed=3)
    assert contents(tmp_path / "again") == contents(phantom)


def test_another_seed_gives_other_images(phantom, tmp_path):
    write_phantom(tmp_path / "other", patients=12, seed=4, datasets=["brain"])
    here, there = contents(tmp_path / "other" / "brain"), contents(phantom / "brain")
    images = [name for name in here if name.split("/")[0] in ("yes", "no")]
    assert len(images) >= 12
    assert all(here[name] != there[name] for name in images)


def test_a_patient_does_not_depend_on_how_many_there_are(phantom, tmp_path):
    write_phantom(tmp_path / "more", patients=14, seed=3, datasets=["brain"])
    more, fewer = contents(tmp_path / "more" / "brain"), contents(phantom / "brain")
    assert fewer.items() < more.items()


def test_every_file_says_that_it_is_synthetic(phantom):
    dicom = list(phantom.rglob("*.dcm"))
    assert dicom
    for path in dicom:
        image = dcmread(path, stop_before_pixels=True)
        assert image.PatientName == "PHANTOM^SYNTHETIC"
        assert image.ImageComments == MARK
        assert "SYNTHETIC" in image.Manufacturer
        assert (image.PatientIdentityRemoved, image.QualityControlSubject) == ("YES", "YES")
        assert image.SOPInstanceUID.startswith("2.25.")
    images = [path for name in ("yes", "no") for path in (phantom / "brain" / name).iterdir()]
    assert images
    for path in images:
        with Image.open(path) as image:
            comment = image.info.get("comment", image.info.get("Comment"))
            assert comment in (MARK, MARK.encode())
    for name in ("prostatex", "brain", "lung"):
        assert MARK in (phantom / name / "README.txt").read_text()
    assert json.loads((phantom / "phantom.json").read_text())["what"] == MARK


def test_every_image_has_an_identifier_of_its_own(phantom):
    uids = [
        dcmread(path, stop_before_pixels=True).SOPInstanceUID for path in phantom.rglob("*.dcm")
    ]
    assert len(set(uids)) == len(uids)


def test_there_are_enough_patients_of_each_class(phantom):
    cases = json.loads((phantom / "phantom.json").read_text())["cases"]
    assert cases.keys() == {"prostatex", "brain", "lung"}
    for counts in cases.values():
        sizes = [count for label, count in counts.items() if label != "suspicious"]
        assert len(sizes) == 2
        assert min(sizes) >= 5
        assert sizes[0] == sizes[1]


@pytest.fixture
def small(tmp_path):
    """A folder with a phantom of one dataset."""
    out = tmp_path / "small"
    write_phantom(out, patients=12, seed=1, datasets=["brain"])
    return out


def test_the_same_phantom_again_writes_nothing(small):
    before = {path: path.stat().st_mtime_ns for path in small.rglob("*")}
    written = write_phantom(small, patients=12, seed=1, datasets=["brain"])
    assert written.existed
    assert set(written.cases) == {"brain"}
    assert before == {path: path.stat().st_mtime_ns for path in small.rglob("*")}


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"seed": 2}, "seed"), ({"patients": 14}, "patients"), ({"difficulty": 0.1}, "difficulty")],
)
def test_another_phantom_is_not_overwritten(small, changes, named):
    before = contents(small)
    with pytest.raises(DataError, match=f"small: holds a phantom of other {named};"):
        write_phantom(small, **{"patients": 12, "seed": 1, "datasets": ["brain"], **changes})
    assert contents(small) == before


def test_an_incomplete_phantom_is_told(small):
    shutil.rmtree(small / "brain" / "no")
    with pytest.raises(DataError, match="lost or gained files"):
        write_phantom(small, patients=12, seed=1, datasets=["brain"])


@pytest.mark.parametrize(
    "record", [None, "", "[]", "{}", "3", '{"arguments": 1, "cases": {}, "files": {}}', "\udcff"]
)
def test_other_files_are_refused(tmp_path, record):
    (tmp_path / "notes.txt").write_text("mine")
    if record is not None:
        (tmp_path / "phantom.json").write_bytes(record.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match="choose another folder, or remove it"):
        write_phantom(tmp_path, patients=12)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        write_phantom(tmp_path / "file")
    with pytest.raises(DataError, match="cannot be written"):
        write_phantom(tmp_path / "file" / "below")


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    assert not write_phantom(tmp_path / "out", patients=12, datasets=["brain"]).existed
    assert (tmp_path / "out" / "brain" / "yes").is_dir()


def test_an_interruption_leaves_nothing(tmp_path, monkeypatch):
    def stop(root, settings):
        (root / "half").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(write.WRITERS, "brain", stop)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "out", patients=12, datasets=["brain"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patients": 11}, "patients is 11: must be from 12 to 900"),
        ({"patients": 901}, "patients is 901"),
        ({"seed": -1}, "seed is -1"),
        ({"difficulty": 1.5}, "difficulty is 1.5: must be from 0 to 1"),
        ({"difficulty": float("nan")}, "difficulty is nan"),
        ({"datasets": []}, "no dataset is named"),
        ({"datasets": ["brian"]}, "did you mean 'brain'"),
        ({"datasets": ["brain", "brain"]}, "named twice"),
    ],
)
def test_impossible_arguments_are_one_line(tmp_path, arguments, message):
    with pytest.raises(HydrakitError) as caught:
        write_phantom(tmp_path / "out", **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def command() -> click.Command:
    (phantom,) = hydrakit_commands()
    assert phantom.name == "phantom"
    return copy(phantom)  # click keeps the help option of whoever calls a command first


def test_the_command_says_what_it_wrote_and_what_comes_next(tmp_path):
    out = tmp_path / "out"
    arguments = [str(out), "--patients", "12", "--datasets", "brain"]
    first = CliRunner().invoke(command(), arguments, catch_exceptions=False)
    assert first.exit_code == 0
    assert f"brain: 7 no, 7 yes in {out / 'brain'}" in first.output
    assert f"next: hydrakit run --strategy classical --datasets brain --data {out}" in first.output
    again = CliRunner().invoke(command(), arguments, catch_exceptions=False)
    assert "already holds this phantom" in again.output


def test_the_command_proposes_hydra_for_several_datasets(phantom):
    arguments = [str(phantom), "--patients", "12", "--seed", "3"]
    output = CliRunner().invoke(command(), arguments, catch_exceptions=False).output
    assert "--strategy hydra --datasets prostatex,brain,lung,prostatex" in output
