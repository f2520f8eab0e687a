"""``hydrakit verify``: every file of a run or of a comparison that was changed is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from helpers import Runner, StopError, forget_digests, plan_of, refused, round_of, tree

from hydrakit.cli import main
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.digests import read_digests

DIGESTED = (".json", ".jsonl", ".safetensors", ".csv")
NOT = {"environment.json", "events.jsonl"}
OTHERS = "not covered: environment.json, events.jsonl, log.txt, report.html"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def call(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, ["verify", *map(str, arguments)])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result


@pytest.fixture
def run(hydra_run: RunDir, tmp_path: Path) -> Path:
    shutil.copytree(hydra_run.path, tmp_path / "mine")
    return tmp_path / "mine"


def test_a_sound_run(run: Path) -> None:
    before = tree(run)
    # 7 rounds of 5 files, their lists, 7 files of the run, 3 heads
    told = call(run)
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout == f"52 files are unchanged\n{OTHERS}\n"
    found = json.loads(call(run, "--json").stdout)
    others = [str(run / name) for name in OTHERS.removeprefix("not covered: ").split(", ")]
    sound = {"folder": str(run), "files": 52, "damaged": [], "unknown": []}
    assert found == {**sound, "not_covered": others}
    assert tree(run) == before


def test_every_file_of_a_run_is_told_of_when_one_bit_of_it_flips(run: Path) -> None:
    paths = [p for p in sorted(run.rglob("*")) if p.suffix in DIGESTED and p.name not in NOT]
    assert len(paths) == 53
    for path in paths:
        before = path.read_bytes()
        flip(path)
        found = verify(run)
        assert str(path) in {each.path for each in found.damaged}, path
        assert "\n" not in "".join(map(str, found.damaged))
        path.write_bytes(before)
    assert verify(run).damaged == ()


def test_each_bad_file_has_its_line(run: Path) -> None:
    body, metrics = run / "body.safetensors", run / "rounds" / "02-beta-head" / "metrics.jsonl"
    flip(body)
    metrics.unlink()
    told = call(run)
    assert told.exit_code == 1
    *lines, last, others = told.stdout.splitlines()
    assert (last, others) == ("50 files are unchanged", OTHERS)
    assert [line.split(": ")[0] for line in lines] == [str(body), str(metrics)]
    assert "changed since it was written" in lines[0]
    assert ": is missing: " in lines[1]
    assert f"delete {metrics.parent}" in lines[1]
    found = json.loads(call(run, "--json").stdout)
    assert [each["path"] for each in found["damaged"]] == [str(body), str(metrics)]
    assert call(run, "--json").exit_code == 1


def test_a_changed_or_lost_plan_is_told_of_once(run: Path) -> None:
    path = run / "plan.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    assert [each.path for each in verify(run).damaged] == [str(path)]
    path.unlink()
    assert [each.path for each in verify(run).damaged] == [str(path)]


def test_a_list_that_is_gone_or_broken_is_told_of(run: Path) -> None:
    path = run / "rounds" / "02-beta-head" / "files.json"
    path.write_text("{")
    told = {each.path: str(each) for each in verify(run).damaged}
    assert list(told) == [str(path)]
    path.unlink()
    found = verify(run)
    assert [each.path for each in found.damaged] == [str(path)]
    assert found.unknown == (str(path.parent),)


def test_what_is_under_way_is_not_looked_at(runner: Runner) -> None:
    class Stop(RunCallback):
        def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
            if number == 2:
                raise StopError

    with pytest.raises(StopError):
        runner(plan_of(round_of("beta"), round_of("alpha")), callbacks=[Stop()])
    run = runner.folder / "run"
    for name in ("02-alpha-all.new", "02-alpha-all.part/best"):
        shutil.copytree(run / "rounds" / "01-beta-all", run / "rounds" / name)
        flip(run / "rounds" / name / "body.safetensors")
    told = call(run)
    assert told.stdout.splitlines()[0] == "5 files are unchanged"
    assert "body.safetensors (2)" in told.stdout.splitlines()[1]
    assert (told.exit_code, told.stderr) == (0, "")


def test_runs_of_older_versions_and_other_folders_cannot_be_verified(
    run: Path, tmp_path: Path
) -> None:
    forget_digests(run)
    refused(lambda: verify(run), str(run), "older version")
    (tmp_path / "empty").mkdir()
    refused(lambda: verify(tmp_path / "empty"), str(tmp_path / "empty"), "no finished round")
    refused(lambda: verify(tmp_path / "absent"), str(tmp_path / "absent"), "No such file")


def test_runs_below_a_folder_and_the_rounds_that_they_share(runner: Runner) -> None:
    folder = runner.folder / "compared"
    plan = plan_of(round_of("beta"), round_of("alpha"))
    for name in ("one", "two"):
        runner(plan, f"compared/cells/{name}", round_cache=folder / "rounds")
    # of each cell 10 of the rounds, 2 lists, 7 of the run and 2 heads; 10 that are shared
    assert verify(folder).files == 2 * 21 + 10
    bad = [next((folder / "rounds").iterdir()) / "body.safetensors"]
    bad.append(folder / "cells" / "two" / "heads" / "beta.safetensors")
    for path in bad:
        flip(path)
    told = call(folder)
    assert told.exit_code == 1
    assert {line.split(": ")[0] for line in told.stdout.splitlines()[:-2]} == set(map(str, bad))
    assert f"delete {bad[0].parent} and run again" in told.stdout
    (bad[0].parent / "files.json").unlink()
    assert verify(folder).unknown == (str(bad[0].parent),)
    assert "Note: " in call(folder).stderr


def test_a_result_without_a_digest_is_not_in_order(run: Path) -> None:
    """What is nowhere compared with anything cannot be called unchanged."""
    sound = verify(run)
    assert sound.sound
    assert not sound.unknown
    shutil.copy(run / "heads" / "beta.safetensors", run / "heads" / "new.safetensors")
    shutil.copytree(run / "rounds" / "02-beta-head", run / "rounds" / "08-beta-head")
    (run / "rounds" / "01-alpha-all" / "more.safetensors").write_text("x")
    told = call(run)
    assert told.exit_code == 1
    paths = [line.removeprefix("Note: ").split(": ")[0] for line in told.stderr.splitlines()]
    assert paths == [
        str(run / name)
        for name in (
            "heads/new.safetensors",
            "rounds/01-alpha-all/more.safetensors",
            "rounds/08-beta-head/files.json",
        )
    ]
    assert json.loads(call(run, "--json").stdout)["unknown"] == paths


def test_a_run_whose_list_was_deleted_is_not_in_order(run: Path) -> None:
    (run / "files.json").unlink()
    (run / "results.json").write_text((run / "results.json").read_text().replace("0.", "0.9"))
    told = call(run)
    assert (told.exit_code, told.stderr) == (
        1,
        f"Note: {run}: has no digest, so whether it was changed is unknown\n",
    )


def test_an_empty_list_covers_nothing(run: Path) -> None:
    path = run / "rounds" / "02-beta-head" / "files.json"
    found = read_digests(path.parent)
    assert found is not None
    path.write_text(found.model_copy(update={"files": {}}).with_own_digest().model_dump_json())
    assert str(path) in {each.path for each in verify(run).damaged}  # by the run's own list
    (run / "files.json").unlink()
    assert str(path.parent / "body.safetensors") not in verify(run).unknown  # the run is
    assert str(run) in verify(run).unknown
    (run / "results.json").unlink()  # not finished any more: only its rounds are results
    assert str(path.parent / "body.safetensors") in verify(run).unknown


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege there")
def test_files_behind_a_linked_folder_are_not_called_unchanged(run: Path, tmp_path: Path) -> None:
    (run / "rounds").rename(tmp_path / "elsewhere")
    (run / "rounds").symlink_to(tmp_path / "elsewhere")
    flip(tmp_path / "elsewhere" / "02-beta-head" / "body.safetensors")
    assert str(run / "rounds") in verify(run).unknown


def test_the_plan_of_an_unfinished_run_is_covered_by_its_rounds(run: Path) -> None:
    for name in ("files.json", "results.json", "body.safetensors"):
        (run / name).unlink()
    others = {Path(path).name for path in verify(run).not_covered}
    assert "plan.json" not in others
    assert {"data.json", "splits.json", "predictions.csv"} <= others
    (run / "plan.json").write_text("{}")
    assert [each.path for each in verify(run).damaged] == [str(run / "plan.json")]


def test_a_file_that_may_be_endless_is_not_read(run: Path) -> None:
    os.truncate(run / "body.safetensors", 2**40)
    told = {each.path: each.wrong for each in verify(run).damaged}
    assert "has 1099511627776 bytes, had" in told[str(run / "body.safetensors")]
