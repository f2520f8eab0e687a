"""The index of a tree: what is kept, what is read anew, and by whom."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from dicom_files import image, save

from hydrakit.data.dicom import cache as dicom_cache
from hydrakit.data.dicom import index as dicom_index
from hydrakit.data.dicom import index_headers, report_index_progress
from hydrakit.data.dicom.cache import from_json, to_json
from hydrakit.data.dicom.header import read_header
from hydrakit.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of the test's own; the folder of the index."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dicom"


@pytest.fixture
def reads(monkeypatch):
    """The names of the files whose headers were read, in order."""
    names: list[str] = []

    def read(path: Path):
        names.append(path.name)
        return read_header(path)

    monkeypatch.setattr(dicom_index, "read_header", read)
    return names


@pytest.fixture
def tree(tmp_path):
    """Three images and a text."""
    root = tmp_path / "root"
    for name in ("a/1", "a/2", "b/1"):
        full = {"PixelSpacing": [0.5, 2], "ImageType": ["ORIGINAL", "PRIMARY"]}
        place = {"ImagePositionPatient": [1.5, 2, 3], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        save(image(PatientID=name, **full, **place), root / f"{name}.dcm")
    (root / "LICENSE").write_text("text")
    return root


def test_the_second_look_reads_nothing(tree, reads, cache):
    first = index_headers(tree)
    assert reads == ["LICENSE", "1.dcm", "2.dcm", "1.dcm"]
    assert index_headers(tree) == first
    assert len(reads) == 4
    assert [header.patient_id for header in first] == ["a/1", "a/2", "b/1"]
    assert len(list(cache.iterdir())) == 1


def test_only_what_changed_is_read_anew(tree, reads):
    index_headers(tree)
    reads.clear()
    changed, touched = tree / "a" / "1.dcm", tree / "b" / "1.dcm"
    save(image(PatientID="other"), changed)
    os.utime(touched, ns=(1, 1))
    (tree / "a" / "2.dcm").unlink()
    save(image(PatientID="new"), tree / "c.dcm")
    assert [header.patient_id for header in index_headers(tree)] == ["new", "other", "b/1"]
    assert reads == ["c.dcm", "1.dcm", "1.dcm"]
    reads.clear()
    index_headers(tree)
    assert reads == []


def test_the_same_tree_by_another_path_is_known(tree, reads, monkeypatch):
    index_headers(tree)
    reads.clear()
    monkeypatch.chdir(tree)
    assert index_headers(Path())[0].path == Path("a/1.dcm")
    assert reads == []


def test_what_is_kept_is_what_was_read(tree, shared_data):
    some = [*tree.rglob("*.dcm"), *sorted((shared_data / "prostatex").rglob("*.dcm"))[::40]]
    for path in some:
        header = read_header(path)
        assert header is not None
        assert from_json(path, to_json(header)) == header
    assert from_json(path, to_json(None)) is None


def test_broken_headers_are_not_kept(tree, reads):
    path = tree / "a" / "1.dcm"
    path.write_bytes(path.read_bytes()[:300])
    for _ in range(2):
        with pytest.raises(DataError, match="broken DICOM header"):
            index_headers(tree)
    assert reads == ["LICENSE", "1.dcm", "2.dcm", "1.dcm", "1.dcm"]


@pytest.mark.parametrize("damage", ["not a database", "half", "rows", "version"])
def test_a_damaged_cache_is_made_anew(tree, reads, cache, damage, caplog):
    first = index_headers(tree)
    (file,) = cache.iterdir()
    if damage == "not a database":
        file.write_bytes(b"x" * 5000)
    elif damage == "half":
        file.write_bytes(file.read_bytes()[:2000])
    else:
        with sqlite3.connect(file) as connection:
            change = (
                "UPDATE headers SET header = '[1]'"
                if damage == "rows"
                else "PRAGMA user_version = 99"
            )
            connection.execute(change)
        connection.close()
    reads.clear()
    for _ in range(2):
        assert index_headers(tree) == first
    assert len(reads) >= 4 if damage == "half" else len(reads) == 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_the_right_to_write(tree, tmp_path, caplog):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert len(index_headers(tree)) == 3
    assert "cannot be cached" in caplog.text


def test_a_cache_that_cannot_be_there_stops_nobody(tree, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    assert len(index_headers(tree)) == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(tmp_path / "cache") in caplog.text


def test_a_locked_or_read_only_cache_stops_nobody(tree, monkeypatch, caplog, reads):
    index_headers(tree)
    plain = sqlite3.connect
    monkeypatch.setattr(
        dicom_cache.sqlite3,
        "connect",
        lambda path, **more: plain(f"file:{path}?mode=ro", uri=True, **more),
    )
    save(image(PatientID="new"), tree / "c.dcm")
    reads.clear()
    assert len(index_headers(tree)) == 4
    assert reads == ["c.dcm"]
    assert "readonly" in caplog.text


def test_an_interrupted_index_goes_on(tree, reads, monkeypatch):
    monkeypatch.setattr(dicom_index, "_STORE_BATCH", 1)
    plain = dicom_index.read_header

    def pull_the_plug(path: Path):
        if path.parent.name == "b":
            raise KeyboardInterrupt
        return plain(path)

    monkeypatch.setattr(dicom_index, "read_header", pull_the_plug)
    with pytest.raises(KeyboardInterrupt):
        index_headers(tree)
    monkeypatch.setattr(dicom_index, "read_header", plain)
    reads.clear()
    assert len(index_headers(tree)) == 3
    assert reads == ["1.dcm"]


def many(root: Path, count: int) -> None:
    """Copies of one image with UIDs of their own, a text and a broken image."""
    first = save(image(SOPInstanceUID="1.2.3.10000000"), root / "0.dcm")
    content = first.read_bytes()
    for number in range(1, count):
        uid = f"1.2.3.{10000000 + number}".encode()
        (root / f"{number}.dcm").write_bytes(content.replace(b"1.2.3.10000000", uid))
    (root / "text \udcff.txt").write_text("text")


def test_workers_give_what_one_process_gives(tmp_path, monkeypatch):
    root = tmp_path / "root"
    many(root, 250)
    alone = index_headers(root)
    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setattr(dicom_index, "_MIN_FILES", 1)
    monkeypatch.setattr(dicom_index, "processors", lambda: 2)
    monkeypatch.setattr(dicom_index, "read_header", None)  # this process must read nothing
    seen: list[tuple[int, int]] = []
    with report_index_progress(lambda known, of: seen.append((known, of))):
        assert index_headers(root) == alone
    assert len(alone) == 250
    assert seen == [(0, 251), (100, 251), (200, 251), (251, 251)]
    (root / "broken.dcm").write_bytes((root / "0.dcm").read_bytes()[:300])
    with pytest.raises(DataError, match=r"broken\.dcm: broken DICOM header"):
        index_headers(root)


def test_without_workers_this_process_reads(tmp_path, monkeypatch):
    root = tmp_path / "root"
    many(root, 120)
    monkeypatch.setattr(dicom_index, "_MIN_FILES", 1)
    monkeypatch.setattr(dicom_index, "processors", lambda: 2)
    monkeypatch.setattr(dicom_index.sys, "executable", shutil.which("true"))
    assert len(index_headers(root)) == 120


def test_the_watcher_is_told_of_what_is_known_already(tree):
    index_headers(tree)
    seen: list[tuple[int, int]] = []
    with report_index_progress(lambda known, of: seen.append((known, of))):
        index_headers(tree)
    index_headers(tree)
    assert seen == [(4, 4)]


def test_a_tree_of_archives_or_of_files_without_a_preamble_says_so(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    content = save(image(), tmp_path / "x.dcm").read_bytes()
    (root / "bare.dcm").write_bytes(content[132:])
    with pytest.raises(DataError, match=r"no DICOM image below it; .*bare.dcm looks like DICOM"):
        index_headers(root)
    for name in ("a 1.zip", "b.ZIP"):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr("x.dcm", content)
    with pytest.raises(DataError) as caught:
        index_headers(root)
    command = f"python -m zipfile -e '{root}/a 1.zip' '{root}/a 1'"
    end = f"no DICOM image below it; unpack the 2 ZIP archives, each as the first: {command}"
    assert str(caught.value) == f"{root}: {end}"
    subprocess.run(["sh", "-c", command.replace("python", sys.executable, 1)], check=True)
    (header,) = index_headers(root)
    assert header.path == root / "a 1" / "x.dcm"
    (tmp_path / "empty").mkdir()
    assert index_headers(tmp_path / "empty") == []
