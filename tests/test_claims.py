"""Claims on a shared folder: one owner at a time, whatever clocks, killed processes and NFS do."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.storage import claims
from hydrakit.storage.claims import FREE, Observer, Participant, create_once, refuse_members

NAMES = ("a", "b")


def test_a_name_is_created_once(tmp_path: Path) -> None:
    assert create_once(tmp_path / "name", "first")
    assert not create_once(tmp_path / "name", "second")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("name", "first")]


def test_of_many_threads_one_creates_a_name(tmp_path: Path) -> None:
    won: list[int] = []

    def work() -> None:
        won.extend(number for number in range(40) if create_once(tmp_path / f"{number}", "x"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert sorted(won) == list(range(40))


@pytest.mark.parametrize("error", [FileExistsError(errno.EEXIST, "exists"), OSError(5, "lost")])
def test_a_link_whose_answer_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """NFS asks again after a lost answer, and is told that the name exists: link(2), open(2)."""
    link = os.link

    def lossy(source: Path, target: Path) -> None:
        link(source, target)
        raise error

    monkeypatch.setattr(os, "link", lossy)
    assert create_once(tmp_path / "name", "mine")
    assert not create_once(tmp_path / "name", "another's")


def test_a_file_system_without_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(PlanError, match="without hard links"):
        create_once(tmp_path / "name", "x")
    assert not list(tmp_path.iterdir())


def member(folder: Path, clock: Callable[[], float]) -> Participant:
    made = Participant(folder, beat=10, limit=60, clock=clock)
    made.join()
    return made


def test_a_claim_has_one_owner_and_can_be_freed(tmp_path: Path) -> None:
    first, second = (member(tmp_path, lambda: 0.0) for _ in range(2))
    assert first.take("a")
    assert first.take("a")
    assert not second.take("a")
    assert second.owner("a") == first.id
    first.release("a")
    assert second.owner("a") is None
    assert second.take("a")
    assert not first.take("a")
    second.finish("a")
    second.leave()
    assert not first.take("a")  # it is done
    assert first.take("a", again=True)


def test_a_member_that_leaves_frees_what_is_not_finished(tmp_path: Path) -> None:
    first, second = (member(tmp_path, lambda: 0.0) for _ in range(2))
    assert first.take("a")
    assert first.take("b")
    first.finish("a")
    first.leave()
    assert second.present() == [second.id]
    assert not second.take("a")
    assert second.take("b")
    assert second.taken_over("b")
    assert sorted(path.name for path in second.claims.glob("*.*")) == ["a.0", "b.0", "b.1", "b.2"]
    assert (second.claims / "b.1").read_text() == FREE


def test_files_that_lost_their_content_stop_nobody(tmp_path: Path) -> None:
    """A file server that lost power can have the names without the content."""
    first, second = (member(tmp_path, lambda: 0.0) for _ in range(2))
    assert first.take("a")
    assert first.take("b")
    (first.claims / "a.0").write_text("")
    assert second.take("a")
    for broken in (b"", b"\xff", b"x" * 10**5):
        (first.members / f"{first.id}.gone").write_bytes(broken)
        assert second.state(first.id) == claims.SILENT
    assert second.take("b")
    (first.members / f"{first.id}.member").write_bytes(b"x" * 10**5)
    assert second.describe(first.id) == "unknown"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_member_whose_thread_ends_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Participant, **_: object) -> list[str]:
        raise SystemExit

    monkeypatch.setattr(Participant, "observe", fail)
    with Participant(tmp_path, beat=0.01) as one:
        one._thread.join()
        with pytest.raises(HydrakitError):
            one.check()


def test_a_silent_member_is_replaced_and_stops(tmp_path: Path) -> None:
    """The clocks differ by decades, and one goes twice as fast."""
    now = 0.0
    first = member(tmp_path, lambda: now + 1e9)
    second = member(tmp_path, lambda: 2 * now - 1e9)
    assert first.take("a")
    for _ in range(4):  # 80 seconds of its clock, but at most 20 are counted at a time
        second.heartbeat()
        assert not second.take("a")
        now += 20
    first.heartbeat()  # it lives
    for _ in range(4):
        second.heartbeat()
        assert not second.take("a")
        now += 20
    second.heartbeat()
    assert second.take("a")
    assert second.taken_over("a")
    first.check()  # it does not know yet
    first.heartbeat()
    for act in (first.check, lambda: first.take("b")):
        with pytest.raises(HydrakitError, match="was suspended"):
            act()
    first.leave()
    assert second.owner("a") == second.id


def test_time_that_nobody_observed_is_no_silence(tmp_path: Path) -> None:
    """A machine that slept with all its processes does not declare the others dead."""
    now = 0.0
    first, second = (member(tmp_path, lambda: now) for _ in range(2))
    assert first.take("a")
    second.heartbeat()
    now += 1e6
    second.heartbeat()
    assert not second.take("a")
    first.heartbeat()
    first.check()


def test_a_member_that_cannot_write_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    first = member(tmp_path, lambda: now)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(claims, "write_atomic", refuse)
    for _ in range(7):
        first.heartbeat()
        first.check()
        now += 10
    first.heartbeat()
    with pytest.raises(HydrakitError, match="could not reach"):
        first.check()


Step = tuple[str, int, str]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "take", "release", "finish", "leave", "sleep", "tick", "tick"]),
        st.integers(0, 2),
        st.sampled_from(NAMES),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(STEPS, st.lists(st.sampled_from([0.5, 1.0, 1.9]), min_size=3, max_size=3))
def test_no_claim_has_two_owners_and_none_is_lost(steps: list[Step], rates: list[float]) -> None:
    """Members take, free, finish, leave, and fall asleep at any time; each has its own clock."""
    now = 0.0
    with TemporaryDirectory() as folder:

        def new(number: int) -> Participant:
            rate = rates[number]
            return member(Path(folder), lambda: now * rate + number * 1e6)

        def tick(count: int) -> None:
            nonlocal now
            for _ in range(count):
                now += 10
                for number, each in enumerate(members):
                    if number not in asleep:
                        each.heartbeat()

        members, asleep = [new(number) for number in range(3)], set[int]()
        finished: dict[str, Participant] = {}
        for what, number, name in steps:
            one = members[number]
            if number in asleep:
                if what == "leave":  # killed, and started again
                    asleep.remove(number)
                    members[number] = new(number)
                elif what == "sleep":  # wakes up
                    asleep.remove(number)
                    one.heartbeat()
                    if one._lost:
                        members[number] = new(number)
            elif what == "take":
                if one.take(name) and name in finished:
                    assert one.state(finished.pop(name).id) == claims.SILENT
            elif what == "sleep":
                asleep.add(number)
            elif what == "tick":
                tick(1 + 4 * number)
            elif what == "leave":
                one.leave()
                members[number] = new(number)
            elif name in one.held:
                getattr(one, what)(name)
                if what == "finish":
                    finished[name] = one
            awake = [each for index, each in enumerate(members) if index not in asleep]
            assert not any(each._lost for each in awake)
            assert all(sum(name in each.held for each in awake) <= 1 for name in NAMES)
        for number in set(range(3)) - asleep:
            members[number].leave()
        members, asleep = [member(Path(folder), lambda: now)], set()
        tick(10)
        for name in NAMES:
            assert name in finished or members[0].take(name)


CELLS = 30


def take_all(folder: Path, offset: float, slow: float) -> None:
    """Take claims as a machine does whose clock is wrong; a file for each is its work."""
    with Participant(folder, beat=0.05, limit=1.5, clock=lambda: time.monotonic() + offset) as one:
        left = {f"cell{number}" for number in range(CELLS)}
        while left:
            for name in sorted(left, key=lambda each: hash((each, offset))):
                done = folder / f"{name}.done"
                if not done.exists() and one.take(name):
                    if not done.exists():  # of a member that was killed after its work
                        with (folder / f"{name}.{one.id}").open("x"):
                            time.sleep(slow)
                        done.touch()
                    one.finish(name)
            left = {name for name in left if not (folder / f"{name}.done").exists()}
            time.sleep(0.01)


def race(folder: Path, *, machines: int, kill: bool, slow: float) -> Counter[str]:
    """Number of times that each cell was begun, by processes of which one is killed in between."""
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=take_all, args=(folder, number * 1e7, slow))
        for number in range(machines)
    ]
    for each in processes:
        each.start()
    if kill:
        while len(list(folder.glob("*.done"))) < CELLS // 3:
            time.sleep(0.002)
        assert processes[0].pid is not None
        os.kill(processes[0].pid, signal.SIGKILL)
    for each in processes:
        each.join()
    assert [each.exitcode for each in processes] == [-9 if kill else 0] + [0] * (machines - 1)
    assert len(list(folder.glob("*.done"))) == CELLS
    return Counter(path.stem for path in folder.glob("cell*.*") if path.suffix != ".done")


@pytest.mark.skipif(os.name == "nt", reason="processes are not forked there")
@pytest.mark.parametrize("kill", [False, True])
def test_processes_share_cells(tmp_path: Path, kill: bool) -> None:
    begun = race(tmp_path, machines=3, kill=kill, slow=0.002)
    assert len(begun) == CELLS
    assert sum(begun.values()) - CELLS <= kill  # the cell of the killed process is begun again


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="processes are not forked there")
def test_a_hundred_races(tmp_path: Path) -> None:
    again = 0
    for number in range(100):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        begun = race(folder, machines=4, kill=number % 2 == 0, slow=0.002)
        assert len(begun) == CELLS
        assert sum(begun.values()) - CELLS <= (number % 2 == 0)
        again += sum(begun.values()) - CELLS
    print(f"100 races of 4 processes for {CELLS} cells, 50 with a kill: {again} cells begun again")


def test_other_commands_refuse_a_folder_with_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    monkeypatch.setattr(claims, "LIMIT", 0.2)
    refuse_members(tmp_path)
    with Participant(tmp_path, beat=0.01, limit=10) as one:
        assert one.present() == [one.id]
        with pytest.raises(HydrakitError, match=rf"pid {os.getpid()} on .* shares work here"):
            refuse_members(tmp_path)
    caplog.clear()
    refuse_members(tmp_path)
    assert not caplog.messages
    killed = member(tmp_path, time.monotonic)
    refuse_members(tmp_path)  # after a wait
    assert "waiting for a sign of life" in caplog.text
    assert killed.state(killed.id) == claims.SILENT


def test_a_member_without_a_readable_file_is_observed(tmp_path: Path) -> None:
    one = Observer(tmp_path)
    assert one.observe() == []
    one.members.mkdir(parents=True)
    (one.members / "x.member").write_text("no record")
    assert one.observe() == ["x"]
    assert one.describe("x") == "unknown"
