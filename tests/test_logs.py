"""A run's ``log.txt``: what was told, and where failures arose, without what data may have said."""

from __future__ import annotations

import logging
import math
import re
import warnings
from pathlib import Path
from typing import IO

import pytest
from helpers import Runner, StopError, another_process, plan_of, refused, round_of

from hydrakit.errors import DataError, HydrakitError, PlanError
from hydrakit.observers import log as logs
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir

PLAN = plan_of(round_of("beta"), round_of("alpha"), bootstrap=2)
LOG = logging.getLogger("hydrakit")
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} "


def lines_of(run: Path) -> list[str]:
    """Without the times."""
    lines = (run / "log.txt").read_text(encoding="utf-8").splitlines()
    frames = [line for line in lines if line.startswith("  ") or line.endswith("Error at")]
    assert all(re.match(STAMP, line) for line in lines if line not in frames)
    return [re.sub(STAMP, "", line) for line in lines]


class Raise(RunCallback):
    """Does something in the epochs of the second round, from the given one on."""

    def __init__(self, action: object, *, start: int = 1) -> None:
        self.action = action
        self.start = start

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == 2 and record.epoch >= self.start:
            self.action()  # type: ignore[operator]


def test_a_run_is_told_in_its_folder(runner: Runner) -> None:
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Raise(stop)], checkpoint_interval=math.inf)
    runner(PLAN)
    lines = lines_of(runner.folder / "run")
    assert re.fullmatch(
        r"INFO hydrakit \S+, process \d+: custom, target alpha, 2 rounds on cpu", lines[0]
    )
    assert lines[1:3] == ["INFO beta: 34 train, 14 val", "INFO alpha: 28 train, 10 val, 10 test"]
    assert lines[3] == "INFO bootstrap: 2 random starts"
    assert re.match(r"INFO round 1 of 2, beta all: epoch 1, loss \d", lines[4])
    assert re.match(r"INFO round 1 of 2, beta all: val AUC .* \(best of 2 random starts", lines[6])
    assert lines[8] == "ERROR failed: StopError (message left out)"
    assert "INFO round 1 of 2, beta all: done before" in lines
    epochs = [line.partition(", loss")[0] for line in lines if "alpha all: epoch" in line]
    assert epochs == [f"INFO round 2 of 2, alpha all: epoch {number}" for number in (1, 1, 2)]
    assert re.match(r"INFO round 2 of 2, alpha all: val AUC ", lines[-1])


def test_a_round_that_goes_on_says_so(runner: Runner) -> None:
    with pytest.raises(StopError):
        runner(PLAN, callbacks=[Raise(stop, start=2)], checkpoint_interval=0)
    runner(PLAN)
    lines = [line for line in lines_of(runner.folder / "run") if "round 2 of 2" in line]
    starts = ["epoch 1, ", "epoch 2, ", "goes on after epoch 1", "epoch 2, ", "val AUC "]
    for line, start in zip(lines, starts, strict=True):
        assert line.startswith(f"INFO round 2 of 2, alpha all: {start}")


def stop() -> None:
    raise StopError("case c001 of patient p007")


def test_a_run_of_which_nothing_is_left_writes_nothing(runner: Runner) -> None:
    log = runner(PLAN).path / "log.txt"
    before = log.read_bytes()
    runner(PLAN)
    assert log.read_bytes() == before
    log.unlink()
    runner(PLAN)
    assert not log.exists()


def test_logging_is_as_before_in_the_end(runner: Runner) -> None:
    def state() -> object:
        return list(LOG.handlers), LOG.level, warnings.showwarning

    before = state()
    runner(PLAN)
    assert state() == before
    with pytest.raises(StopError):
        runner(PLAN, "other", callbacks=[Raise(stop)])
    assert state() == before


def divide() -> None:
    try:
        _ = 1 // 0
    except ZeroDivisionError as error:
        raise ValueError("case c001 of patient p007") from error


def test_where_a_failure_arose_is_kept_and_not_what_it_says(runner: Runner) -> None:
    with pytest.raises(ValueError, match="p007"):
        runner(PLAN, callbacks=[Raise(divide)])
    text = (runner.folder / "run" / "log.txt").read_text()
    assert "ERROR failed: ValueError (message left out)\nValueError at\n" in text
    assert re.search(r"  \S+session\.py:\d+ in _train_and_write\n", text)
    assert re.search(r"  \S+test_logs\.py:\d+ in divide\nZeroDivisionError at\n", text)
    for secret in ("p007", "c001", "division"):
        assert secret not in text


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (PlanError("try lower learning rates"), True),
        (HydrakitError("the disk is full"), True),
        (DataError("p007: the disk is full"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_what_hydrakit_says_of_plans_is_kept(
    runner: Runner, error: BaseException, kept: bool
) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)):
        runner(PLAN, callbacks=[Raise(fail)])
    text = (runner.folder / "run" / "log.txt").read_text()
    assert (f"ERROR failed: {type(error).__name__}: {error}" in text) is kept
    assert "p007" not in text
    if isinstance(error, KeyboardInterrupt):
        assert text.endswith("INFO stopped\n")


def test_what_others_log_of_exceptions_is_cut_before_their_message(runner: Runner) -> None:
    def log() -> None:
        error = ValueError("case c001 of  patient p007 in the file 1-001.dcm" + "x" * 300)
        for level in (logging.ERROR, logging.WARNING):
            said = f"plugin mine (mine-dist 1.0): read raised ValueError: {str(error)[:200]}..."
            LOG.log(level, said.replace("  ", " "), exc_info=error)
        LOG.warning("a line of %s", "its own")
        logging.getLogger("hydrakit.data.prepared.prepare").warning("1-001.dcm changed")
        LOG.error("nothing", exc_info=ValueError())

    lines = lines_of(runner(PLAN, callbacks=[Raise(log)]).path)
    said = "plugin mine (mine-dist 1.0): read raised ValueError: (message left out)"
    assert f"ERROR {said}" in lines
    assert f"WARNING {said}" in lines
    assert "WARNING a line of its own" in lines
    assert "ERROR nothing" in lines
    assert not [line for line in lines if "001" in line]


def test_warnings_are_told_by_kind_and_place(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *_: shown.append(str(message)))

    def warn() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning("patient p007", RuntimeWarning, "reader.py", 7)

    run = runner(PLAN, callbacks=[Raise(warn)])
    assert "WARNING RuntimeWarning at reader.py:7 (message left out)" in lines_of(run.path)
    assert shown == ["patient p007"] * 2


def test_old_lines_go(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "SIZE", 2000)

    def much() -> None:
        for number in range(300):
            LOG.info("line %d %s", number, "x" * 50)

    run = runner(PLAN, callbacks=[Raise(much)]).path
    files = sorted(run.glob("log.txt*"))
    assert [path.name for path in files] == ["log.txt", "log.txt.1", "log.txt.2"]
    assert all(path.stat().st_size <= 2000 for path in files)
    assert "val AUC" in files[0].read_text()


def test_a_log_that_cannot_be_written_is_said_once_and_the_run_goes_on(
    runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(logs, "open_in_place", full)
    run = runner(PLAN)
    assert run.results() is not None
    path = run.path / "log.txt"
    assert capsys.readouterr().err == f"{path}: cannot be written: No space left on device\n"


def test_a_log_on_a_full_disk_does_not_stop_the_run(
    runner: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flush fails, also that of closing the file."""

    def full(_: logging.FileHandler) -> IO[str]:
        return Path("/dev/full").open("w", encoding="utf-8")

    monkeypatch.setattr(logs._Handler, "_open", full)
    run = runner(PLAN)
    assert run.results() is not None
    path = run.path / "log.txt"
    assert capsys.readouterr().err == f"{path}: cannot be written: No space left on device\n"


def test_who_is_refused_writes_nothing(runner: Runner) -> None:
    folder = runner.folder / "run"
    RunDir.begin(folder, PLAN)
    with another_process(folder):
        refused(lambda: runner(PLAN), "another process")
    assert not (folder / "log.txt").exists()
