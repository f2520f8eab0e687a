"""A file of a run that was changed by hand or by the disk is found before it is used, and named."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    Runner,
    StopError,
    forget_digests,
    plan_of,
    plugins,
    refused,
    round_of,
    weights_of,
)

import hydrakit.runs.round_cache
from hydrakit.compare.design import Cell, CompareDir
from hydrakit.compare.scoring import predictions_of
from hydrakit.plan import Plan, Round
from hydrakit.plan.results import RoundResult
from hydrakit.report import write_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.evaluate import evaluate_run
from hydrakit.runs.rundir import SEALED, START, RunDir
from hydrakit.storage import digests
from hydrakit.storage.files import copy

OTHERS = {"environment.json", "events.jsonl", "report.html", ".lock", "files.json", "log.txt"}


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.fixture
def run(hydra_run: RunDir, tmp_path: Path) -> RunDir:
    """A finished run, to be harmed."""
    shutil.copytree(hydra_run.path, tmp_path / "mine")
    return RunDir(tmp_path / "mine")


def test_a_folder_tells_of_its_files(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    assert digests.read_digests(tmp_path) is None
    digests.update_digests(tmp_path, renewed=["a"])
    assert digests.read_digests(tmp_path) is None, "nothing is told of older folders"
    digests.write_digests(tmp_path, ["b", "a"], plan="ab")
    found = digests.read_digests(tmp_path)
    assert found is not None
    assert list(found.files) == ["a", "b"]
    assert found.files["a"].sha256[:8] == "ca978112"  # of "a", FIPS 180-4
    assert (found.files["a"].size, found.plan, found.format) == (1, "ab", 1)
    assert list(digests.damaged_files(tmp_path)) == []

    (tmp_path / "a").write_text("A")
    (tmp_path / "b").unlink()
    (tmp_path / "c").write_text("C")
    wrong = dict(digests.damaged_files(tmp_path))
    assert list(wrong) == ["a", "b"]
    assert "SHA-256" in wrong["a"]
    assert wrong["b"] == "is missing"
    (tmp_path / "a").write_text("AA")
    assert "(has 2 bytes, had 1)" in dict(digests.damaged_files(tmp_path))["a"]
    refused(
        lambda: digests.check_file(tmp_path, "a", remedy=lambda: "weep"),
        str(tmp_path / "a"),
        ": weep",
    )
    for name in ("b", "c"):  # who opens it tells of the one, nothing is known of the other
        assert digests.check_file(tmp_path, name, remedy=lambda: "") == tmp_path / name

    digests.update_digests(tmp_path, renewed=["a", "c"], without=["b"], plan=None)
    found = digests.read_digests(tmp_path)
    assert found is not None
    assert (list(found.files), found.plan) == (["a", "c"], None)
    assert list(digests.damaged_files(tmp_path)) == []


def test_a_file_is_read_once_unless_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    digest_of = digests.digest_of
    monkeypatch.setattr(digests, "digest_of", lambda path: (read.append(path), digest_of(path))[1])
    (tmp_path / "a").write_text("a")
    digests.write_digests(tmp_path, ["a"])
    read.clear()
    for _ in range(3):
        digests.check_file(tmp_path, "a", remedy=lambda: "")
    assert len(read) == 1
    (tmp_path / "a").write_text("b")
    os.utime(tmp_path / "a", ns=(1, 1))
    refused(lambda: digests.check_file(tmp_path, "a", remedy=lambda: "x"), "changed", "SHA-256")
    assert len(read) == 2
    (tmp_path / "a").write_text("aa")  # another size tells enough
    refused(
        lambda: digests.check_file(tmp_path, "a", remedy=lambda: "x"), "changed", "2 bytes, had 1"
    )
    assert len(read) == 2


@pytest.mark.parametrize("text", ["{", '{"format": 1, "hydrakit": "9", "files": {}}', "\xff"])
def test_broken_digests_are_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "files.json").write_text(text, encoding="latin-1")
    refused(lambda: digests.read_digests(tmp_path), str(tmp_path / "files.json"), "delete")


def test_a_finished_run_tells_of_every_file_that_stays_as_it_is(hydra_run: RunDir) -> None:
    told = set()
    for path in hydra_run.path.rglob("files.json"):
        found = digests.read_digests(path.parent)
        assert found is not None
        told |= {path.parent / name for name in found.files}
        assert list(digests.damaged_files(path.parent)) == []
    there = {path for path in hydra_run.path.rglob("*") if path.is_file()}
    assert {path.name for path in there - told} <= OTHERS
    assert told <= there
    always = set(SEALED) - {START, "model.json"}
    assert {hydra_run.path / name for name in always} <= told


def use(run: RunDir, place: str, runner: Runner) -> Any:
    """Do what reads a file of a finished run."""
    if place == "evaluate":
        roots = {"alpha": runner.data / "alpha"}
        places: dict[str, Any] = {"roots": roots, "cache": runner.cache, "plugins": plugins()}
        return evaluate_run(run.path, device="cpu", **places)
    if place == "report":
        return write_report(run)
    cell = Cell(strategy="hydra", seed=0, repeat=0, fold=0)
    here = CompareDir(run.path.parent / "compared")
    (here.path / "cells").mkdir(parents=True)
    run.path.rename(here.cell(cell))
    return predictions_of(here, cell, "test")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("body.safetensors", "evaluate"),
        ("heads/alpha.safetensors", "evaluate"),
        ("splits.json", "evaluate"),
        ("results.json", "evaluate"),
        ("plan.json", "evaluate"),
        ("data.json", "report"),
        ("predictions.csv", "report"),
        ("predictions.csv", "compare"),
        ("shown.safetensors", "report"),
        ("rounds/03-beta-all/metrics.jsonl", "report"),
    ],
)
def test_a_flipped_bit_is_found_before_a_finished_run_is_used(
    run: RunDir, runner: Runner, name: str, place: str
) -> None:
    use(run, place, runner) if place != "compare" else None
    before = (run.path / name).read_bytes()
    flip(run.path / name)
    refused(lambda: use(run, place, runner), name.rsplit("/", maxsplit=1)[-1], "was changed", ": ")
    if place != "compare":
        (run.path / name).write_bytes(before)
        use(run, place, runner)


def test_what_is_to_be_done_makes_the_files_again(run: RunDir, runner: Runner) -> None:
    plan, before = run.plan(), weights_of(run.path)
    flip(run.body_path)
    with pytest.raises(Exception, match="was changed") as caught:
        run.file("body.safetensors")
    for name in re.findall(r"delete it and (\S+) and run again", str(caught.value)):
        Path(name).unlink()
    run.body_path.unlink()
    runner(plan, "mine")
    assert weights_of(run.path) == before
    assert list(digests.damaged_files(run.path)) == []


def test_a_run_made_by_an_older_version_is_used_as_it_is(run: RunDir, runner: Runner) -> None:
    forget_digests(run.path)
    use(run, "report", runner)
    use(run, "evaluate", runner)
    assert not list(run.path.rglob("files.json"))


class StopAfter(RunCallback):
    """Stops a run after a round."""

    def __init__(self, round: int) -> None:
        self.round = round

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        if number == self.round:
            raise StopError


PLAN = plan_of(
    round_of("alpha", carry_head="last"), round_of("beta", "head"), round_of("beta"),
    round_of("alpha"),
)  # fmt: skip


def stopped(runner: Runner, plan: Plan, after: int) -> RunDir:
    with pytest.raises(StopError):
        runner(plan, callbacks=[StopAfter(after)])
    return RunDir(runner.folder / "run")


@pytest.mark.parametrize(
    "name", ["last-head.safetensors", "body.safetensors", "round.json", "metrics.jsonl"]
)
def test_a_flipped_bit_is_found_before_a_run_goes_on(runner: Runner, name: str) -> None:
    run = stopped(runner, PLAN, 3)
    folder = run.round_path(1, PLAN.rounds[0])
    later = run.round_path(3, PLAN.rounds[2])
    times = {path: path.stat().st_mtime_ns for path in later.iterdir()}
    flip(folder / name)
    with pytest.raises(Exception, match=rf"{folder / name}: was changed") as caught:
        runner(PLAN)
    assert "\n" not in str(caught.value)
    (again,) = re.findall(r"delete (\S+) and run again", str(caught.value))
    shutil.rmtree(again)
    assert Path(again) == folder
    whole, mended = runner(PLAN, "whole"), runner(PLAN)
    assert weights_of(mended.path) == weights_of(whole.path)
    for path, time in times.items():
        assert path.stat().st_mtime_ns == time, "later rounds are kept"


@pytest.mark.parametrize("change", [{"seed": 1}, {"profile": "mine"}], ids=str)
def test_a_plan_changed_under_finished_rounds_is_found(
    runner: Runner, change: dict[str, Any]
) -> None:
    run = stopped(runner, PLAN, 2)
    changed = PLAN.model_copy(update=change)
    run.plan_path.write_text(changed.to_json())
    for plan in (PLAN, changed):
        refused(lambda plan=plan: runner(plan), str(run.plan_path), "01-alpha-all", "--plan")  # type: ignore[misc]
    run.plan_path.write_text(PLAN.to_json())
    assert weights_of(runner(PLAN).path) == weights_of(runner(PLAN, "whole").path)


# --- rounds that runs share


def test_shared_rounds_keep_the_digests_of_what_was_trained(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "kept"
    named = plan_of(*(round_of(name, head="one") for name in ("alpha", "beta", "alpha")))
    own = plan_of(round_of("alpha", head="mine"), round_of("beta"), round_of("alpha", head="mine"))
    first, second = (
        runner(named, "named", round_cache=shared),
        runner(own, "own", round_cache=shared),
    )
    kept = [digests.read_digests(folder) for folder in shared.iterdir()]
    assert len(kept) == 5
    assert [each.plan for each in kept if each] == [None] * 5
    for folder in (*shared.iterdir(), *first.round_folders(), *second.round_folders()):
        assert list(digests.damaged_files(folder)) == []
        found = digests.read_digests(folder)
        assert found is not None
        assert {*found.files, "files.json"} == {path.name for path in folder.iterdir()}
    for run, plan in ((first, named), (second, own)):
        assert run.plan() == plan
        run.plan_path.write_text(plan.model_copy(update={"seed": 9}).to_json())
        refused(run.plan, str(run.plan_path), "01-alpha-all")


def test_a_shared_round_that_was_changed_is_not_taken(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "kept"
    plan = plan_of(round_of("alpha"))
    one = runner(plan, "one", round_cache=shared)
    (folder,) = shared.iterdir()
    flip(folder / "body.safetensors")
    with pytest.raises(Exception, match=r"body\.safetensors: was changed") as caught:
        runner(plan, "two", round_cache=shared)
    (again,) = re.findall(r"delete (\S+) and run again", str(caught.value))
    shutil.rmtree(again)
    assert weights_of(runner(plan, "two", round_cache=shared).path) == weights_of(one.path)


def test_a_round_that_goes_bad_while_it_is_kept_is_not_made_right_by_keeping_it(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def badly(source: Path, target: Path) -> None:
        copy(source, target)
        if target.name == "body.safetensors":
            flip(target)

    plan, shared = plan_of(round_of("alpha")), tmp_path / "kept"
    with monkeypatch.context() as patch:
        patch.setattr(hydrakit.runs.round_cache, "copy", badly)
        runner(plan, "one", round_cache=shared)
    (folder,) = shared.iterdir()
    assert [name for name, _ in digests.damaged_files(folder)] == ["body.safetensors"]
