"""Preparing that is killed, that meets a full disk, and that two processes do at once."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock
from preparing import Files, start_process, told

from hydrakit.data.prepared import store
from hydrakit.data.quality.duplicates import TEXTURE
from hydrakit.errors import DataError

COUNT = 24


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "thing", tmp_path / "cache", count=COUNT)


@pytest.fixture
def whole(files: Files, tmp_path: Path) -> dict[str, object]:
    """What an uninterrupted preparing gives."""
    return told(Files(files.root, tmp_path / "whole", count=0).prepare())


def kill_after(files: Files, done: int) -> None:
    """Prepare in another process, and kill it when so many cases are done."""
    assert files.cache is not None
    with start_process(files.root, files.cache, slow=0.02, commit=0) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < done:
            pass
        process.kill()
        process.wait()
        assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("done", [1, 9, COUNT - 1, COUNT])
def test_killed_at_any_case_it_goes_on(done: int, files: Files, whole: dict[str, object]) -> None:
    kill_after(files, done)
    assert told(files.prepare()) == whole
    assert len(files.loads) <= COUNT - done


def test_killed_again_and_again_it_goes_on(files: Files, whole: dict[str, object]) -> None:
    for done in (4, 9, 15):
        kill_after(files, done)
    assert files.cache is not None
    assert not list(files.cache.rglob("index-*"))
    assert told(files.prepare()) == whole
    assert len(files.loads) <= COUNT - 15


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(20))
def test_killed_at_any_moment_it_goes_on(turn: int, files: Files, whole: dict[str, object]) -> None:
    assert files.cache is not None
    with start_process(files.root, files.cache, slow=0.01, commit=turn % 5 / 50) as process:
        assert process.stdout is not None
        process.stdout.readline()  # the first case is done
        time.sleep(turn * 0.01)
        process.kill()
    assert told(files.prepare()) == whole


def test_stopped_by_the_user_it_keeps_what_is_done(files: Files, whole: dict[str, object]) -> None:
    def on_case(done: int) -> None:
        if done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.prepare(threads=1, on_case=on_case)
    files.loads.clear()
    assert told(files.prepare()) == whole
    assert sorted(map(int, files.loads)) == sorted(map(int, sorted(map(str, range(COUNT)))[10:]))


@pytest.mark.parametrize("moment", ["copied", "journal", "index"])
def test_killed_while_old_rows_are_cleared_it_goes_on(
    moment: str, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.prepare()
    for number in range(COUNT):
        files.write(str(number), 100 + number, mtime=1)
    files.prepare()
    for number in range(COUNT):
        files.write(str(number), 200 + number, mtime=2)

    def stop(path: Path, data: bytes) -> None:
        is_last = path.name.startswith("index-")
        if moment == "copied" or is_last:
            raise KeyboardInterrupt
        write_atomic(path, data)
        if moment == "journal":
            raise KeyboardInterrupt

    write_atomic = store.write_atomic
    with monkeypatch.context() as patched:
        patched.setattr("hydrakit.data.prepared.store.write_atomic", stop)
        patched.setattr("hydrakit.data.prepared.prepare.write_atomic", stop)
        with pytest.raises(KeyboardInterrupt):
            files.prepare()
    files.loads.clear()
    prepared = files.prepare()
    assert files.loads == []
    assert told(prepared) == told(Files(files.root, tmp_path / "whole", count=0).prepare())
    numbers = {path.name.split("-")[1].split(".")[0] for path in prepared.folder.glob("crops-*")}
    assert numbers == {str(prepared.index.number)}


def test_a_full_disk_is_told_and_what_was_done_is_kept(
    files: Files, whole: dict[str, object]
) -> None:
    assert files.cache is not None
    room = 10 * TEXTURE * TEXTURE + 100  # for ten of the longest rows, and a part of another
    with start_process(files.root, files.cache, limit=room) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said == (
        f"hydrakit: {files.cache}: prepared data cannot be stored (File too large): choose "
        "another folder with `--cache` or $HYDRAKIT_CACHE\n"
    )
    assert told(files.prepare()) == whole
    assert len(files.loads) == COUNT - 10


def test_what_killed_writers_left_is_cleared_away(files: Files) -> None:
    folder = files.prepare().folder
    for name in (".index-0.json.0123456789abcdef", ".manifest.json.0123456789abcdef"):
        (folder / name).write_text("half")
    (folder / "crops-7.f32").write_text("half")
    files.write("1", 77, mtime=1)
    files.prepare()
    assert sorted(path.name.split("-")[0] for path in folder.iterdir()) == [
        *(".lock", "crops", "index", "journal", "manifest.json", "source.json"),
        *("textures", "thumbnails"),
    ]


# Two at once


def test_two_that_prepare_the_same_wait_for_one_another(
    files: Files, whole: dict[str, object]
) -> None:
    assert files.cache is not None
    processes = [start_process(files.root, files.cache, slow=0.02) for _ in range(3)]
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], ended
    found = [json.loads(out.splitlines()[-1]) for out, _ in ended]
    assert {each["content"] for each in found} == {whole["content"]}
    assert sorted(each["readings"] for each in found) == [0, 0, 1]
    assert told(files.prepare()) == whole
    assert files.readings == 0


def test_who_waits_for_another_says_so(files: Files) -> None:
    folder = files.prepare().folder
    files.write("1", 77, mtime=1)
    with FileLock(folder / ".lock"):
        waiting = start_process(files.root, files.cache)
        assert waiting.stderr is not None
        assert any("waiting for it" in line for line in waiting.stderr)
    out, said = waiting.communicate(timeout=60)
    assert waiting.returncode == 0, said
    assert json.loads(out.splitlines()[-1])["readings"] == 1


def test_the_lock_of_a_dead_process_holds_nobody_up(files: Files) -> None:
    folder = files.prepare().folder
    code = (
        "import sys, filelock; filelock.FileLock(sys.argv[1]).acquire(); "
        "print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert files.prepare().folder == folder  # what is prepared needs no lock
        holder.kill()
    files.write("1", 77, mtime=1)
    assert len(files.prepare().index.cases) == COUNT


def test_a_lock_that_cannot_be_had_is_told(files: Files) -> None:
    folder = files.prepare().folder
    shutil.rmtree(folder)
    folder.write_text("in the way")
    with pytest.raises(DataError, match="prepared data cannot be stored"):
        files.prepare()


def test_the_lock_is_given_back(files: Files) -> None:
    folder = files.prepare().folder
    with FileLock(folder / ".lock", timeout=0):
        pass
