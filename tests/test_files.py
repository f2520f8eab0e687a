from __future__ import annotations

import csv
import os
import stat
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hydrakit.storage.files import copy, csv_text, read_rows, sync_folder, write_atomic


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"first")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_file_gets_the_usual_permissions(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail(_: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(os.name == "nt", reason="folders are not synced there")
def test_file_and_folder_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def renamed(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_atomic(tmp_path / "a", b"x")
    assert events == ["file", "rename", "folder"]


def test_an_absent_folder_cannot_be_synced(tmp_path: Path) -> None:
    if os.name == "nt":
        pytest.skip("folders are not synced there")
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "absent")


def test_a_copy_has_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\x00\xff\n")
    copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"\x00\xff\n"


FORMULA = "=+-@\t\r\n"
ENCODABLE = st.characters(codec="utf-8", exclude_characters="\0")


@given(st.lists(st.text(ENCODABLE) | st.text(f"'{FORMULA}1.e", max_size=4), min_size=1))
@example(["=1+1", "+1+1", "-1+1", "@A1", "\t=1", "\r=1", "'=1", "''=1", "-1", "-1.5e-3", "'-1"])
def test_no_cell_is_a_formula_and_every_text_is_read_back(texts: list[str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(csv_text([["a", "b"], *([text, "x"] for text in texts)]).encode())
        with path.open(encoding="utf-8", newline="") as file:
            cells = [row[0] for row in csv.reader(file)][1:]
        assert [row["a"] for row in read_rows(path)] == texts
    for cell in cells:
        if cell.startswith(tuple(FORMULA)):
            float(cell)


def test_numbers_and_ordinary_text_stay_as_they_are() -> None:
    rows = [["key", "p_a"], ["it's", -0.5], ["'quoted'", 1e-09], ["-3", None], ["a=b", "+2.5"]]
    expected = "key,p_a\nit's,-0.5\n'quoted',1e-09\n-3,\na=b,+2.5\n"
    assert csv_text(rows) == expected
