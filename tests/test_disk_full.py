"""A disk that is full, at any write: one line, what was done stays, and with room it goes on."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from helpers import Runner, hydra_plan, plan_of, round_of
from test_checkpoint import assert_same

from hydrakit.errors import HydrakitError
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import append_line, write_atomic

PLAN = plan_of(
    round_of("alpha", epochs=2),
    round_of("beta", "head", epochs=2),
    round_of("beta", epochs=2),
    round_of("alpha", "head", epochs=2),
    round_of("alpha", epochs=2),
    bootstrap=3,
)


@pytest.fixture(scope="module")
def whole(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return Runner(tmp_path_factory.mktemp("whole"), data, cache)(PLAN)


def size_of(run: Path) -> int:
    return sum(path.stat().st_size for path in run.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "turn", [pytest.param(turn, marks=[pytest.mark.slow] * (turn % 5 > 0)) for turn in range(20)]
)
def test_a_full_disk_is_told_in_one_line_and_with_room_the_run_goes_on(
    turn: int, small_disk: Path, data: Path, cache: Path, whole: RunDir
) -> None:
    runner = Runner(small_disk, data, cache)
    free = shutil.disk_usage(small_disk).free
    needed = min(size_of(whole.path), free)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(free - needed * turn // 20))
    with pytest.raises(HydrakitError) as caught:
        runner(PLAN, checkpoint_interval=0.0)
    said = str(caught.value)
    assert "\n" not in said
    assert str(small_disk / "run") in said
    assert "No space left on device" in said
    run = RunDir(small_disk / "run")
    for number, round in enumerate(PLAN.rounds, start=1):
        if run.finished(number, round):
            run.round_result(number, round)
    ballast.unlink()
    runner(PLAN)
    assert_same(small_disk / "run", whole.path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE, errno.EROFS])
def test_every_write_of_a_run_can_fail_and_be_done_again(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Each file in turn cannot be written: the run ends with its name, and goes on."""
    plan = plan_of(round_of("beta", epochs=2), round_of("alpha", epochs=2), bootstrap=2)
    whole = runner(plan, "whole", checkpoint_interval=0.0)
    usual, left = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(number, os.strerror(number))
        usual(descriptor)

    failures: list[str] = []
    monkeypatch.setattr("os.fsync", fsync)
    for turn in range(1, 500):
        left[0] = turn
        try:
            runner(plan, "run", checkpoint_interval=0.0)
            break
        except HydrakitError as error:
            failures.append(str(error))
    assert len(failures) > 10
    run = str(runner.folder / "run")
    for said in failures:
        assert run in said
        assert "written (" in said
        assert os.strerror(number) in said
        assert "\n" not in said
    assert_same(runner.folder / "run", whole.path)


def test_a_failed_write_leaves_the_old_file_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="Disk quota exceeded, 1,234 bytes are needed") as caught:
        write_atomic(path, bytes(1234))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("before", [b"", b"one\n", b"one\ntw", b"tw", b"one\n" * 40000 + b"x"])
def test_an_added_line_is_a_line_of_its_own_and_nothing_is_removed(
    before: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "lines"
    path.write_bytes(before)
    append_line(path, "new")
    torn = before != b"" and not before.endswith(b"\n")
    assert path.read_bytes() == before + b"\n" * torn + b"new\n"


def test_a_full_disk_on_the_command_line(
    standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from click.testing import CliRunner

    from hydrakit.cli import main

    def full(_: Path, __: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device, 9 bytes are needed", "somewhere")

    (standin / "plan.json").write_text(hydra_plan().to_json())
    monkeypatch.setattr("hydrakit.runs.rundir.write_atomic", full)
    result = CliRunner().invoke(main, ["run", "--plan", "plan.json", "--out", "run"])
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if "hydrakit: " in line] == [
        "hydrakit: run: cannot be written (No space left on device, 9 bytes are needed): choose "
        "another folder with `--out`"
    ]
