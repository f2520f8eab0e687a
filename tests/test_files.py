from __future__ import annotations

import csv
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from helpers import refused
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import create_model

from hydrakit.schema import Frozen
from hydrakit.storage import files
from hydrakit.storage.files import (
    MAX_DEPTH,
    append_line,
    copy,
    csv_text,
    delete,
    read_rows,
    refuse_links,
    sync_folder,
    walk,
    write_atomic,
)
from hydrakit.storage.records import read_appended


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


def test_no_line_of_several_processes_is_lost(tmp_path: Path) -> None:
    """Readings of a test split are counted by these lines."""
    path = tmp_path / "events.jsonl"
    path.write_text('{"number": -1}\n{"number": -')  # a process was killed
    code = (
        "import sys\nfrom pathlib import Path\nfrom hydrakit.storage.files import append_line\n"
        "for number in range(50): append_line(Path(sys.argv[1]), "
        """f'{{"number": {int(sys.argv[2]) * 50 + number}, "text": "{"x" * 5000}"}}')"""
    )
    arguments = [sys.executable, "-c", code, str(path)]
    processes = [subprocess.Popen([*arguments, str(number)]) for number in range(4)]
    assert [process.wait() for process in processes] == [0] * 4

    class Line(Frozen):
        number: int
        text: str = ""

    lines = read_appended(path, Line, remedy="")
    assert sorted(line.number for line in lines) == list(range(-1, 200))


@pytest.mark.parametrize("torn", ["{", '{"a', '{"a": ', '{"a": "b\\u12', '{"a": [1, {"b": 2}'])
def test_an_incomplete_line_is_left_out_wherever_it_is(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "lines"
    path.write_text(f'{{"a": 1}}\n{torn}\n\n{{"a": 2}}\n{torn}')
    model = create_model("Line", a=(int, ...))
    assert [line.model_dump() for line in read_appended(path, model, remedy="")] == [
        {"a": 1},
        {"a": 2},
    ]


@pytest.mark.parametrize("bad", ["x", '{"a": "b"}', '{"a" 1}', "[" * 300_000, '{"a": 1}}'])
def test_a_line_with_something_else_is_an_error(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "lines"
    path.write_text(f'{{"a": 1}}\n{bad}\n')
    model = create_model("Line", a=(int, ...))
    refused(lambda: read_appended(path, model, remedy="restore it"), f"{path}: line 2", "restore")


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_what_is_opened_in_place_is_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, path = tmp_path / "outside", tmp_path / "path"
    outside.write_text("private")
    path.symlink_to(outside)
    refused(lambda: append_line(path, "x"), str(path), "is a link")
    monkeypatch.setattr(files, "refuse_link", lambda _: None)  # it was exchanged after the check
    with pytest.raises(OSError, match=r".") as caught:
        append_line(path, "x")
    assert caught.value.errno == errno.ELOOP
    path.unlink()
    path.hardlink_to(outside)
    refused(lambda: append_line(path, "x"), str(path), "is a link")
    assert outside.read_text() == "private"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_nothing_behind_a_link_is_deleted(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    (outside / "inner").mkdir(parents=True)
    (outside / "inner" / "file").write_text("private")
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").touch()
    (folder / "link").symlink_to(outside)
    for name in ("link/inner", "link/inner/file"):
        with pytest.raises(OSError, match=r"."):
            delete(folder, folder / name)
    delete(folder, folder / "link")
    assert (outside / "inner" / "file").read_text() == "private"
    delete(folder, folder / "a" / "b" / "file")
    (folder / "a" / "b" / "link").symlink_to(outside)
    delete(folder, folder / "a")
    assert list(folder.iterdir()) == []
    assert (outside / "inner" / "file").read_text() == "private"


def test_folders_are_walked_without_links_and_to_a_limit(tmp_path: Path) -> None:
    deep = tmp_path.joinpath("a", *["b"] * MAX_DEPTH)
    deep.mkdir(parents=True)
    assert len(list(walk(tmp_path / "a"))) == MAX_DEPTH
    (deep / "b").mkdir()
    refused(lambda: list(walk(tmp_path / "a")), str(tmp_path), "nested over")
    refused(lambda: refuse_links(tmp_path / "a"), str(tmp_path), "nested over")


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
