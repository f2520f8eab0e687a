"""Two processes in one folder: one wins, and the other says who holds it."""

from __future__ import annotations

import datetime
import errno
import multiprocessing
import os
import platform
import re
import shutil
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path
from queue import Queue

import pytest
from filelock import SoftFileLock, Timeout
from helpers import another_process, of_the_dead, plan_of, refused, round_of, tree

from hydrakit.errors import HydrakitError
from hydrakit.runs.rundir import RunDir
from hydrakit.storage import lock
from hydrakit.storage.lock import (
    Holder,
    TakenOverError,
    break_locks,
    cache_lock,
    check_lock,
    holder_of,
    joined,
    locked,
)

PLAN = plan_of(round_of("alpha"))


def holder(**changes: object) -> Holder:
    now = datetime.datetime.now().astimezone()
    return Holder.model_validate(
        {"pid": os.getpid(), "host": platform.node(), "since": now} | changes
    )


def write(folder: Path, who: Holder) -> None:
    (folder / "lock.holder").write_text(f"{who}\n")


def test_a_holder_is_written_and_read(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None
    assert holder_of(tmp_path / "absent") is None
    with locked(tmp_path):
        found = holder_of(tmp_path)
        assert found is not None
        assert (found.pid, found.host) == (os.getpid(), platform.node())
        assert found.alive() is True
        text = (tmp_path / "lock.holder").read_text()
        assert re.fullmatch(
            r"pid \d+ on \S+ since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:\d\d\n", text
        )
    assert holder_of(tmp_path) is None


SINCE = "since 2026-01-01T00:00:00+00:00\n"


@pytest.mark.parametrize(
    "text",
    [
        *("", "pid 1", "pid 1 on here since", "pid 1 on here since 9\n", "\xff"),
        *(
            f"pid {number} on here {SINCE}"
            for number in ("0", "-1", "9" * 20, "9" * 5000, "\u0661")
        ),
        *(f"pid 1 on {host} {SINCE}" for host in ("a\x1b[31mb", "a\u202eb", "x" * 1001)),
        *(f"pid 1 on here since {time}\n" for time in ("0001-01-01", "2026-01-01T00:00:00")),
        "x" * 10**6,
    ],
)
def test_other_content_names_no_holder(tmp_path: Path, text: str) -> None:
    """Also a number that no process has, and text that would control a terminal."""
    (tmp_path / "lock.holder").write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    assert holder_of(tmp_path) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
def test_a_holder_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock.holder"
    os.mkfifo(path)
    assert holder_of(tmp_path) is None
    path.unlink()
    path.symlink_to("/dev/zero")
    assert holder_of(tmp_path) is None
    path.unlink()
    path.mkdir()
    assert holder_of(tmp_path) is None


@pytest.mark.skipif(os.name == "nt", reason="processes of Windows cannot be asked")
def test_who_is_alive() -> None:
    assert holder().alive() is True
    assert holder(pid=os.getppid()).alive() is True
    assert holder(pid=of_the_dead()).alive() is False
    assert holder(host="another.machine").alive() is None


@pytest.mark.skipif(not Path("/proc/stat").is_file(), reason="no /proc here")
def test_a_process_that_is_younger_than_the_lock_does_not_hold_it() -> None:
    long_ago = datetime.datetime.now().astimezone() - datetime.timedelta(days=900)
    assert holder(since=long_ago).alive() is False


def held(folder: Path) -> str:
    """What is said of a folder that another process has locked."""
    with pytest.raises(HydrakitError) as caught, locked(folder):
        raise AssertionError("both hold the lock")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_holder_that_is_dead_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with another_process(tmp_path) as pid:
        assert f"(pid {pid} on {platform.node()} since 20" in held(tmp_path)
        # In the moment between taking the lock and saying so.
        for who in (None, holder(pid=of_the_dead())):
            (tmp_path / "lock.holder").unlink(missing_ok=True)
            if who is not None:
                write(tmp_path, who)
            assert "(unknown)" in held(tmp_path)


def test_who_cannot_be_asked_is_named_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "PATIENCE", 0.1)
    with another_process(tmp_path):
        write(tmp_path, holder(pid=77, host="another.machine"))
        assert "(pid 77 on another.machine since 20" in held(tmp_path)


def test_who_says_so_a_moment_later_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with another_process(tmp_path) as pid:
        text = (tmp_path / "lock.holder").read_text()
        (tmp_path / "lock.holder").unlink()
        monkeypatch.setattr(
            time, "sleep", lambda _: (tmp_path / "lock.holder").write_text(text) and None
        )
        assert f"(pid {pid} on " in held(tmp_path)


def test_a_lock_left_by_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with another_process(tmp_path):
        pass  # which is killed
    left = holder_of(tmp_path)
    assert left is not None
    assert left.alive() in (False, None)
    with locked(tmp_path):
        now = holder_of(tmp_path)
        assert now is not None
        assert now.pid == os.getpid()
    assert holder_of(tmp_path) is None


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def acquire(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(lock.FileLock, "acquire", acquire)
    refused(lambda: locked(tmp_path).__enter__(), str(tmp_path), "flock", "--out")


REFUSALS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def refusing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the file system refuse locks, as some network file systems do."""
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.filterwarnings("ignore:flock not supported")  # by filelock
def test_a_run_is_refused_where_locks_are(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes in one folder would spoil the run, and nothing would keep them apart."""
    refusing(monkeypatch, number)
    for _ in range(2):
        refused(
            lambda: locked(tmp_path).__enter__(),
            f"{tmp_path}: is on a file system without locks ({os.strerror(number)})",
            "--out",
        )
    assert not (tmp_path / "lock.holder").exists()


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_below_a_folder_with_claims_no_lock_is_needed(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, number)
    cell = tmp_path / "cells" / "a"
    cell.mkdir(parents=True)
    with joined(tmp_path) as member:
        assert member.take("a")
        with locked(cell):
            assert holder_of(cell) is not None
            check_lock(cell)
        assert holder_of(cell) is None
        refused(lambda: locked(tmp_path).__enter__(), "without locks")


def test_locks_of_the_dead_are_removed(tmp_path: Path) -> None:
    cell = tmp_path / "a"
    (cell / "members" / "2").mkdir(parents=True)
    with another_process(cell), another_process(cell / "members" / "2"):
        assert "is running here" in held(cell)
        break_locks(cell)
        for folder in (cell, cell / "members" / "2"):
            with locked(folder):
                assert holder_of(folder) is not None
    break_locks(tmp_path / "absent")


def test_a_process_whose_lock_was_broken_notices_and_leaves_the_new_one(tmp_path: Path) -> None:
    with locked(tmp_path):
        check_lock(tmp_path)
        break_locks(tmp_path)
        refused(lambda: check_lock(tmp_path), f"{tmp_path}: another process has taken over")
        new = f"pid 1 on elsewhere since {datetime.datetime.now().astimezone().isoformat()}\n"
        (tmp_path / "lock.holder").write_text(new)
        with pytest.raises(TakenOverError):
            check_lock(tmp_path)
    assert (tmp_path / "lock.holder").read_text() == new


@pytest.mark.parametrize("number", REFUSALS)
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_the_cache_is_locked_by_a_file_where_locks_are_refused(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing(monkeypatch, number)
    said: list[str] = []
    with cache_lock(tmp_path, say=said.append):
        held = [path.name for path in tmp_path.glob(".lock*")]
        assert held
        with pytest.raises(Timeout):
            SoftFileLock(tmp_path / max(held)).acquire(timeout=0)
    assert [line.partition(": ")[0] for line in said] in ([], [str(tmp_path.parent)])
    assert "--cache" in "".join(said) or number == errno.ENOSYS
    with cache_lock(tmp_path, say=said.append):
        pass  # it was released


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
@pytest.mark.parametrize("kind", ["soft", "hard"])
@pytest.mark.parametrize("name", [".lock", "lock.holder", "events.jsonl", "cells/a/log.txt"])
def test_a_folder_with_links_is_not_locked(tmp_path: Path, name: str, kind: str) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    outside.write_text("private")
    (folder / name).parent.mkdir(parents=True)
    if kind == "soft":
        (folder / name).symlink_to(outside)
    else:
        (folder / name).hardlink_to(outside)
    refused(lambda: locked(folder).__enter__(), str(folder / name), "is a link")
    assert outside.read_text() == "private"


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_a_holder_that_becomes_a_link_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody is faster than the check: what is written does not follow the link."""
    outside = tmp_path / "outside"
    outside.write_text("private")
    (tmp_path / "run").mkdir()
    acquire = lock._acquire

    def exchange(*given: object) -> None:
        acquire(*given)  # type: ignore[arg-type]
        (tmp_path / "run" / "lock.holder").symlink_to(outside)

    monkeypatch.setattr(lock, "_acquire", exchange)
    with locked(tmp_path / "run"):
        assert holder_of(tmp_path / "run") is not None
    assert outside.read_text() == "private"


def test_a_locked_folder_may_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        shutil.rmtree(tmp_path / "run")


def test_another_plan_that_began_meanwhile_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PLAN.model_copy(update={"seed": 1})
    mkdir = Path.mkdir

    def late(path: Path, **more: object) -> None:
        monkeypatch.setattr(Path, "mkdir", mkdir)
        RunDir.begin(path, other)

    monkeypatch.setattr(Path, "mkdir", late)
    refused(lambda: RunDir.begin(tmp_path / "run", PLAN), "another plan", "--out")
    assert RunDir(tmp_path / "run").plan() == other


def test_a_folder_in_which_a_run_was_stopped_as_it_began_can_be_used(tmp_path: Path) -> None:
    for name in (".lock", "lock.holder", ".plan.json.0123456789abcdef"):
        (tmp_path / name).write_text("")
    assert RunDir.begin(tmp_path, PLAN).plan() == PLAN


# --- races


def race(barrier: Barrier, said: Queue[tuple[int, int, str]], folder: str, races: int) -> None:
    """Begin a run and lock it, at the same moment as another process, again and again."""
    for number in range(races):
        barrier.wait(60)
        path = Path(folder) / str(number)
        try:
            with RunDir.begin(path, PLAN).locked():
                said.put((number, os.getpid(), "won"))
                barrier.wait(60)  # the other one has been refused
        except HydrakitError as error:
            said.put((number, os.getpid(), str(error)))
            barrier.wait(60)


@pytest.mark.parametrize("races", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_of_two_processes_one_wins_and_the_other_says_who(tmp_path: Path, races: int) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, said = context.Barrier(2), context.Queue()
    arguments = (barrier, said, str(tmp_path), races)
    both = [context.Process(target=race, args=arguments) for _ in range(2)]
    for each in both:
        each.start()
    pids = {each.pid for each in both}
    found: dict[int, dict[int, str]] = {number: {} for number in range(races)}
    for _ in range(2 * races):  # a queue may mix the words of one race with those of the next
        number, pid, words = said.get(timeout=60)
        found[number][pid] = words
    for number, results in found.items():
        assert results.keys() == pids
        (winner,) = [pid for pid, words in results.items() if words == "won"]
        (words,) = [words for words in results.values() if words != "won"]
        pattern = rf"{tmp_path / str(number)}: another process is running here \(pid {winner} on "
        assert re.match(rf"{pattern}\S+ since 20\S+\): wait for it", words), words
    for each in both:
        each.join(60)
        assert each.exitcode == 0
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", "plan.json"}
    assert len(tree(tmp_path)) == 3 * races
