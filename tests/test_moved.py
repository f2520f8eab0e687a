"""A run's folder, its data and the cache at another place; and a folder that cannot be written."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from helpers import StopError, plan_of, round_of, run_plan, tree, weights_of

from hydrakit.cli import main
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import CHECKPOINT, RunDir

PLAN = plan_of(
    round_of("alpha"), round_of("beta", "head"), round_of("beta", epochs=4), round_of("alpha")
)


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


def refused(*arguments: str | Path) -> str:
    result = call(*arguments)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    return line


class StopWithin(RunCallback):
    """Stops a run in the third epoch of its third round."""

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if (number, record.epoch) == (3, 3):
            raise StopError


@pytest.fixture
def mine(standin: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data, for a run and a cache; nothing else tells where data is."""
    monkeypatch.delenv("HYDRAKIT_DATA")
    shutil.copytree(data, standin / "here" / "data")
    monkeypatch.setenv("HYDRAKIT_CACHE", str(standin / "here" / "cache"))
    return standin / "here"


def run_in(folder: Path, **more: Any) -> RunDir:
    return run_plan(PLAN, folder / "run", data=folder / "data", cache=folder / "cache", **more)


def moved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of it at another place."""
    there = folder.with_name("there")
    folder.rename(there)
    (there / "data").rename(there / "sets")
    monkeypatch.setenv("HYDRAKIT_CACHE", str(there / "cache"))
    return there


def by_data(folder: Path) -> list[str]:
    return ["--data", str(folder / "sets")]


def by_root(folder: Path) -> list[str]:
    named = (f"{name}={folder / 'sets' / name}" for name in ("alpha", "beta"))
    return [part for each in named for part in ("--root", each)]


@pytest.mark.parametrize("where", [by_data, by_root])
def test_a_run_that_was_moved_goes_on_within_its_plan(
    mine: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[[Path], list[str]]
) -> None:
    whole = weights_of(run_in(mine).path)
    shutil.rmtree(mine / "run")
    with pytest.raises(StopError):
        run_in(mine, callbacks=[StopWithin()], checkpoint_interval=0)
    there = moved(mine, monkeypatch)
    run = there / "run"
    assert (run / "rounds" / "03-beta-all.part" / CHECKPOINT).is_file()
    before = tree(run)
    said = refused("run", "--resume", run, "--device", "cpu")
    assert f"alpha: no folder {mine / 'data' / 'alpha'}" in said
    assert "`--data`" in said
    assert "`--root alpha=PATH`" in said
    assert tree(run) == before

    done = call("run", "--resume", run, "--device", "cpu", *where(there))
    assert done.exit_code == 0, done.output
    assert "round 3 of 4, beta all: resumed after epoch 2" in done.stderr
    assert weights_of(run) == whole
    assert RunDir(run).environment()["roots"]["alpha"] == str(there / "sets" / "alpha")
    assert verify(run).damaged == ()


@pytest.mark.parametrize("where", [by_data, by_root])
def test_a_finished_run_that_was_moved_is_evaluated(
    mine: Path, monkeypatch: pytest.MonkeyPatch, where: Callable[[Path], list[str]]
) -> None:
    results = run_in(mine).results()
    assert results is not None
    there = moved(mine, monkeypatch)
    run = there / "run"
    said = refused("evaluate", run, "--device", "cpu")
    assert f"alpha: no folder {mine / 'data' / 'alpha'}" in said
    assert "`--root alpha=PATH`" in said
    shutil.rmtree(there / "cache")
    done = call("evaluate", run, "--device", "cpu", "--json", *where(there))
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == results.test.model_dump(mode="json") | {"notes": []}
    again = call("run", "--resume", run, "--device", "cpu", *where(there))
    assert again.exit_code == 0, again.output
    for command in ("verify", "status", "report"):
        assert call(command, run).exit_code == 0


@pytest.fixture
def read_only(mine: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in a folder that cannot be written, whoever tries."""
    run = run_in(mine).path
    opened, made = Path.open, Path.mkdir

    def refuse(path: Path) -> None:
        if path.absolute().is_relative_to(run):
            raise OSError(errno.EROFS, "Read-only file system", str(path))

    def open_to_read(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if set(mode) & set("wax+"):
            refuse(path)
        return opened(path, mode, *more, **named)

    def mkdir(path: Path, *more: Any, **named: Any) -> None:
        refuse(path)
        made(path, *more, **named)

    os_open = os.open

    def open_low(path: Any, flags: int, *more: Any, **named: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            refuse(Path(os.fsdecode(path)))
        return os_open(path, flags, *more, **named)

    monkeypatch.setattr(Path, "open", open_to_read)
    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(os, "open", open_low)
    return run


def test_a_run_that_cannot_be_written_is_evaluated_with_a_note(read_only: Path, mine: Path) -> None:
    before = tree(read_only)
    done = call("evaluate", read_only, "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert (
        f"Note: {read_only / 'events.jsonl'}: cannot be written (Read-only file system), so this "
        "use of the labels is not recorded there\n"
    ) in done.stdout
    for command in ("verify", "status"):
        assert call(command, read_only).exit_code == 0
    assert tree(read_only) == before


def test_what_must_write_there_says_so_in_one_line(read_only: Path) -> None:
    before = tree(read_only)
    report = read_only / "report.html"
    assert f"{report}: cannot be written (Read-only file system): copy" in refused(
        "report", read_only
    )
    for command in (["clean"], ["run", "--device", "cpu", "--resume"]):
        said = refused(*command, read_only)
        assert f"{read_only}: cannot be written" in said
        assert "Read-only file system" in said
    assert tree(read_only) == before
