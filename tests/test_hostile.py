"""Files and folders of strangers, case by case: what is refused, and what is not written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import hydra_plan, refused, tree

from hydrakit.cli import main
from hydrakit.errors import PlanError, one_line
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.status import RunStatus, status
from hydrakit.plan import BodySpec, load_plan
from hydrakit.plan.model import MAX_WEIGHTS
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import read_json, read_rows, read_whole, refuse_link, refuse_links


@pytest.fixture
def run(tmp_path: Path, hydra_run: RunDir) -> RunDir:
    """A finished run, to be changed, and beside it ``outside`` with a file."""
    shutil.copytree(hydra_run.path, tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("private")
    return RunDir(tmp_path / "run")


@pytest.fixture
def unsealed(run: RunDir) -> RunDir:
    """The same without digests, so that its readers see what was changed."""
    for path in run.path.rglob("files.json"):
        path.unlink()
    return run


def enter(run: RunDir) -> None:
    with run.locked():
        raise AssertionError("it is entered")


@pytest.mark.parametrize("name", ["rounds", "heads", "events.jsonl", "lock.holder", ".lock", "new"])
@pytest.mark.parametrize("to", ["outside", "outside/file", "outside/none"])
def test_a_run_with_a_link_in_it_is_not_entered(run: RunDir, name: str, to: str) -> None:
    path = run.path / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(run.path.parent / to)
    before = tree(run.path.parent)
    refused(lambda: enter(run), str(path), "is a link")
    assert tree(run.path.parent) == before
    assert not (run.path.parent / "outside" / "none").exists()


def test_a_run_may_be_reached_through_a_link(run: RunDir, tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(run.path)
    with RunDir(tmp_path / "linked").locked():
        assert (run.path / "lock.holder").is_file()


def test_a_second_name_of_a_file_that_is_added_to_is_refused(run: RunDir, tmp_path: Path) -> None:
    (run.path / "events.jsonl").unlink()
    (run.path / "events.jsonl").hardlink_to(tmp_path / "outside" / "file")
    refused(lambda: enter(run), "events.jsonl", "is a link")
    refused(lambda: run.log("evaluated"), "events.jsonl", "is a link")
    assert (tmp_path / "outside" / "file").read_text() == "private"


def test_a_pipe_is_not_waited_for(run: RunDir) -> None:
    for name in ("events.jsonl", "results.json", "rounds/01-alpha-all/metrics.jsonl"):
        (run.path / name).unlink()
        os.mkfifo(run.path / name)
    number, round = 1, run.plan().rounds[0]
    refused(lambda: run.epochs(number, round), "metrics.jsonl", "no regular file")
    refused(lambda: enter(run), "is a link, or neither a file nor a folder")
    refused(lambda: run.log("evaluated"), "events.jsonl")
    with pytest.raises(ValueError, match="no regular file"):
        read_whole(run.path / "results.json")
    with pytest.raises(ValueError, match="no regular file"):
        read_whole(Path("/dev/zero"))


def test_what_is_written_takes_the_place_of_a_link(run: RunDir, tmp_path: Path) -> None:
    run.report_path.unlink()
    run.report_path.symlink_to(tmp_path / "outside" / "file")
    result = CliRunner().invoke(main, ["report", str(run.path)])
    assert result.exit_code == 0, result.output
    assert not run.report_path.is_symlink()
    assert (tmp_path / "outside" / "file").read_text() == "private"


def test_files_that_are_too_large_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 2**40)
    for read in (read_whole, read_json, read_rows):
        with pytest.raises(ValueError, match=r"\d+ bytes, and \d+ are allowed"):
            read(path)
    path.write_text("[" + "0," * 1_000_000 + "0]")
    with pytest.raises(ValueError, match="holds more than 1000000 values"):
        read_json(path)
    path.write_text("a,b\n" + "1,2\n" * 200_001)
    with pytest.raises(ValueError, match="more than 200000 rows"):
        read_rows(path)
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(ValueError, match="line 3 has 1 cells, the first has 2"):
        read_rows(path)
    path.write_text("a,b\n1,2\n")
    assert read_rows(path) == [{"a": "1", "b": "2"}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"body": {"channels": [16384] * 3}}, ["exceeds the limit", "fewer channels"]),
        ({"body": {"channels": [10**6]}}, ["body.channels.0", "16384"]),
        ({"body": {"patch": 10**6}}, ["body.patch", "1024"]),
        ({"body": {"patch": 1024, "channels": [64], "features": 2048}}, ["exceeds the limit"]),
        ({"bootstrap": 10**9}, ["bootstrap", "1048576"]),
        ({"target": "../../etc"}, ["target"]),
        ({"strategy": "/etc/passwd"}, ["strategy"]),
        ({"head": "a\x1b[31m"}, ["head"]),
        ({"rounds": [json.loads(hydra_plan().to_json())["rounds"][0]] * 1001}, ["rounds", "1000"]),
        ({"seed": 10**400}, ["seed"]),
    ],
)
def test_plans_that_ask_for_too_much(
    tmp_path: Path, change: dict[str, object], words: list[str]
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(json.loads(hydra_plan().to_json()) | change))
    refused(lambda: load_plan(path), str(path), *words)


def test_a_body_may_be_forty_times_the_papers() -> None:
    assert BodySpec()._weight_count() * 40 < MAX_WEIGHTS
    BodySpec(channels=(64, 128, 256, 512), features=512, patch=129)


@pytest.mark.parametrize("name", ["data", "splits", "environment", "results", "plan", "events"])
def test_deep_json_is_refused(run: RunDir, name: str) -> None:
    readers: dict[str, Callable[[], object]] = {
        "data": run.facts,
        "splits": run.splits,
        "environment": run.environment,
        "results": run.results,
        "plan": run.plan,
        "events": run.events,
    }
    path = run.path / (f"{name}.jsonl" if name == "events" else f"{name}.json")
    for text in ("[" * 300_000, '{"a":' * 300_000, "{" + '"a":[' * 5000 + "]" * 5000 + "}"):
        path.write_text(text + "\n")
        refused(readers[name], str(path))


def test_a_round_of_another_number_is_refused(unsealed: RunDir) -> None:
    path = unsealed.path / "rounds" / "02-beta-head" / "round.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"round": 3}))
    refused(
        lambda: unsealed.round_result(2, unsealed.plan().rounds[1]),
        str(path),
        "describes another round",
    )


def test_more_epochs_than_planned_are_refused(unsealed: RunDir) -> None:
    path = unsealed.path / "rounds" / "01-alpha-all" / "metrics.jsonl"
    path.write_text(path.read_text() * 3)
    refused(lambda: unsealed.epochs(1, unsealed.plan().rounds[0]), str(path), "more than 2 lines")


def test_only_what_is_below_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").touch()
    refuse_links(tmp_path / "a")
    refuse_link(tmp_path / "absent")
    (tmp_path / "a" / "b" / "link").symlink_to("file")
    with pytest.raises(PlanError, match="b/link: is a link"):
        refuse_links(tmp_path / "a")


def test_a_line_obeys_nobody() -> None:
    assert one_line("a\n b\t\x1b[31m\u202e") == r"a b \x1b[31m\u202e"
    assert len(one_line("x" * 10_000)) == 2003


def test_what_the_system_says_of_a_file_is_one_line(run: RunDir) -> None:
    run.report_path.unlink()
    run.report_path.mkdir()
    result = CliRunner().invoke(main, ["report", str(run.path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"hydrakit: {run.report_path}: cannot be written (")
    assert "Is a directory" in result.stderr
    assert result.stderr.count("\n") == 1


def test_clean_changes_nothing_behind_links(run: RunDir, tmp_path: Path) -> None:
    """It overwrote what `lock.holder` led to, and deleted weights behind linked folders."""
    private = tmp_path / "outside" / "file"
    (run.path / "lock.holder").symlink_to(private)
    refused(lambda: clean(run.path, lambda _: True), "lock.holder", "is a link")
    (run.path / "lock.holder").unlink()
    for name in ("rounds", "rounds/02-beta-head", "rounds/02-beta-head/body.safetensors", "heads"):
        path, moved = run.path / name, tmp_path / "outside" / "moved"
        path.rename(moved)
        path.symlink_to(moved)
        before = tree(tmp_path / "outside")
        refused(lambda: clean(run.path, lambda _: True), str(path), "is a link")
        assert tree(tmp_path / "outside") == before
        path.unlink()
        moved.rename(path)
    assert private.read_text() == "private"
    assert clean(run.path, lambda _: True)


def test_a_link_that_appears_after_the_question_is_not_followed(
    run: RunDir, tmp_path: Path
) -> None:
    moved = tmp_path / "outside" / "moved"

    def exchange(_: object) -> bool:
        (run.path / "rounds").rename(moved)
        (run.path / "rounds").symlink_to(moved)
        return True

    before = {path.name for path in (run.path / "rounds").rglob("*.safetensors")}
    refused(lambda: clean(run.path, exchange), "rounds", "cannot be deleted")
    assert {path.name for path in moved.rglob("*.safetensors")} == before


@pytest.mark.parametrize("command", [["status"], ["status", "--json"], ["verify"]])
def test_names_of_folders_do_not_control_a_terminal(
    run: RunDir, tmp_path: Path, command: list[str]
) -> None:
    for name in (b"a\nb", b"a\x1b[31mb", b"b\xff"):
        path = tmp_path / os.fsdecode(name)
        run.path.rename(path)
        result = CliRunner().invoke(main, [command[0], str(path), *command[1:]])
        assert result.exit_code == 0, result.output
        assert "\x1b" not in result.output
        if command[-1] == "--json":
            json.loads(result.stdout)
        path.rename(run.path)


def test_status_reads_what_else_it_finds(run: RunDir) -> None:
    """A torn line, times that no calendar has, and another process's odd number."""
    events = run.path / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True)
    odd = '{"time": "0001-01-01T00:00:00+00:00", "event": "round", "round": [1]}\n'
    events.write_text(lines[0] + '{"time": "20\n' + odd + "".join(lines[1:]))
    found = status(run.path)
    assert found.state == "finished"
    assert isinstance(found, RunStatus)
    assert found.last is not None
    assert len(run.events()) == len(lines) + 1
    (run.path / "lock.holder").write_text(f"pid {10**18} on x since 2026-01-01T00:00:00+00:00\n")
    assert status(run.path).holder is None
