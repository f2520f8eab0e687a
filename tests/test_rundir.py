"""A run's folder: who may use it, how a round appears in it, and what broken files say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import another_process, plan_of, refused, round_of, tree

from hydrakit.errors import PlanError
from hydrakit.runs.rundir import RunDir

PLAN = plan_of(round_of("alpha"))
ROUND = PLAN.rounds[0]


def test_a_run_begins_in_a_new_or_empty_folder_and_goes_on_in_its_own(tmp_path: Path) -> None:
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        if folder.name == "empty":
            folder.mkdir()
        rundir = RunDir.begin(folder, PLAN)
        assert rundir.plan() == PLAN
        before = tree(folder)
        assert RunDir.begin(folder, PLAN).path == folder
        assert tree(folder) == before
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "plan.json"]


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("four years")
    before = tree(tmp_path)
    refused(lambda: RunDir.begin(tmp_path, PLAN), str(tmp_path), "not empty", "--out")
    refused(lambda: RunDir.begin(tmp_path / "thesis.txt", PLAN), "thesis.txt", "--out")
    refused(lambda: RunDir.begin(tmp_path / "thesis.txt" / "run", PLAN), "cannot be written")
    assert tree(tmp_path) == before


def test_a_folder_with_another_plan_is_left_alone(tmp_path: Path) -> None:
    RunDir.begin(tmp_path, PLAN)
    before = tree(tmp_path)
    other = PLAN.model_copy(update={"seed": 1})
    refused(lambda: RunDir.begin(tmp_path, other), str(tmp_path), "another plan", "--out")
    assert tree(tmp_path) == before


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    refused(lambda: RunDir(tmp_path).plan(), str(tmp_path), "plan.json")


def test_one_process_at_a_time(tmp_path: Path) -> None:
    rundir = RunDir.begin(tmp_path, PLAN)
    with another_process(tmp_path) as pid:
        before = tree(tmp_path)

        def lock() -> None:
            with rundir.locked():
                raise AssertionError("both hold the lock")

        refused(lock, str(tmp_path), f"pid {pid} on ", "wait", "--out")
        assert tree(tmp_path) == before
    with rundir.locked():
        assert "pid" in (tmp_path / "lock.holder").read_text()
    assert not (tmp_path / "lock.holder").exists()


def test_a_failure_gives_the_lock_back(tmp_path: Path) -> None:
    rundir = RunDir.begin(tmp_path, PLAN)
    with pytest.raises(PlanError, match="diverged"), rundir.locked():
        raise PlanError("diverged")
    assert not (tmp_path / "lock.holder").exists()
    with rundir.locked():
        pass


def test_a_folder_that_cannot_be_locked_says_so(tmp_path: Path) -> None:
    rundir = RunDir.begin(tmp_path, PLAN)
    (tmp_path / ".lock").unlink()
    (tmp_path / ".lock").mkdir()
    with pytest.raises(PlanError, match="lock: is a link, or neither a file"), rundir.locked():
        pass


def test_a_round_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    final = tmp_path / "rounds" / "03-alpha-all"

    def stop_while_writing() -> None:
        with rundir.writing_round(3, ROUND) as folder:
            (folder / "left").write_text("over")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop_while_writing()
    assert not rundir.finished(3, ROUND)
    assert [path.name for path in final.parent.iterdir()] == ["03-alpha-all.new"]
    with rundir.writing_round(3, ROUND) as folder:
        assert list(folder.iterdir()) == []
        (folder / "body").write_text("whole")
        assert not rundir.finished(3, ROUND)
    assert rundir.finished(3, ROUND)
    assert {path.name for path in final.iterdir()} == {"body", "files.json"}
    assert (final / "body").read_text() == "whole"


def test_events_are_lines_with_their_time(tmp_path: Path) -> None:
    RunDir(tmp_path).log("round", round=1)
    RunDir(tmp_path).log("done")
    lines = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["round", "done"]
    assert lines[0]["round"] == 1
    assert all(line["time"].endswith("+00:00") for line in lines)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("results.json", lambda rundir: rundir.results()),
        ("data.json", lambda rundir: rundir.facts()),
        ("environment.json", lambda rundir: rundir.environment()),
        ("rounds/01-alpha-all/round.json", lambda rundir: rundir.round_result(1, ROUND)),
        ("rounds/01-alpha-all/metrics.jsonl", lambda rundir: rundir.epochs(1, ROUND)),
        ("plan.json", lambda rundir: rundir.plan()),
    ],
)
@pytest.mark.parametrize("text", ["{", '{"a": 1}', "\xff"])
def test_a_broken_file_is_named_with_a_remedy(
    tmp_path: Path, name: str, read: Callable[[RunDir], object], text: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="latin-1")
    if name == "environment.json" and text == '{"a": 1}':
        assert read(RunDir(tmp_path)) == {"a": 1}  # it holds whatever it holds
        return
    refused(lambda: read(RunDir(tmp_path)), str(path), ": ")


@pytest.mark.parametrize("name", ["round.json", "metrics.jsonl"])
def test_a_missing_file_of_a_round_is_named(tmp_path: Path, name: str) -> None:
    rundir = RunDir(tmp_path)
    read = {"round.json": rundir.round_result, "metrics.jsonl": rundir.epochs}[name]
    refused(lambda: read(1, ROUND), name, "No such file", "run")


def test_what_is_not_there_yet_is_none(tmp_path: Path) -> None:
    rundir = RunDir(tmp_path)
    assert rundir.results() is None
    assert rundir.facts() is None
    assert rundir.environment() == {}
