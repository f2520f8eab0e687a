"""``hydrakit clean``: what nobody needs goes, and everything else works as before."""

from __future__ import annotations

import resource
import shutil
from contextlib import ExitStack
from itertools import count
from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import (
    Runner,
    StopError,
    another_process,
    forget_digests,
    hydra_plan,
    plan_of,
    plugins,
    refused,
    round_of,
    tree,
    weights_of,
)

from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Description, make_design
from hydrakit.maintenance.clean import LEFT, SHARED, WEIGHTS, RemovableFiles, clean
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Round
from hydrakit.plan.results import EpochRecord
from hydrakit.report import build_report
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.evaluate import evaluate_run
from hydrakit.runs.rundir import CHECKPOINT, RunDir

GARBAGE = ".round.json.0123456789abcdef"
KEEPING = ("03-beta", "05-gamma")  # rounds with the bodies of heads


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("left")
    return path


def cleaned(folder: Path) -> list[RemovableFiles]:
    return clean(folder, lambda _: True)


@pytest.fixture
def run(hydra_run: RunDir, tmp_path: Path) -> RunDir:
    shutil.copytree(hydra_run.path, tmp_path / "mine")
    return RunDir(tmp_path / "mine")


def test_a_finished_run_keeps_what_it_is_used_for(run: RunDir, runner: Runner) -> None:
    left = [
        put(run.path / GARBAGE),
        put(run.path / "heads" / GARBAGE),
        put(run.path / "rounds" / "02-beta-head" / GARBAGE),
        put(run.path / "rounds" / "07-alpha-all.part" / CHECKPOINT).parent,
        put(run.path / "rounds" / "07-alpha-all.new" / "round.json").parent,
    ]
    kept = [put(run.path / ".mine"), put(run.path / ".notes.txt.1234")]
    weights = [
        each / f"{name}.safetensors" for each in run.round_folders() for name in ("body", "head")
    ]
    # The heads of beta and gamma belong to the bodies of their last rounds.
    bodies = [run.path / "rounds" / f"{each}-all" / "body.safetensors" for each in KEEPING]
    weights = [path for path in weights if path not in bodies]
    before, report = tree(run.path), build_report(run, plugins=plugins())
    size = sum(path.stat().st_size for path in weights)
    found = cleaned(run.path)
    assert {each.path for each in found if each.reason == LEFT} == set(left)
    assert [each.path for each in found if each.reason == WEIGHTS] == weights
    assert len(weights) == 12
    assert sum(each.size for each in found) > size

    gone = before.keys() - tree(run.path).keys()
    inside = {left[3] / CHECKPOINT, left[4] / "round.json"}
    assert gone == {str(path) for path in (*left, *weights, *inside)}
    changed = {path for path, content in tree(run.path).items() if before.get(path) != content}
    lists = {str(run.path / "files.json")}
    lists |= {str(folder / "files.json") for folder in run.round_folders()}
    assert changed == lists | {str(run.path / ".lock")} - before.keys()
    assert all(path.exists() for path in kept)

    assert verify(run.path).damaged == ()
    assert verify(run.path).files == 52 - 12
    assert build_report(run, plugins=plugins()) == report
    roots = {"alpha": runner.data / "alpha"}
    evaluate_run(run.path, roots=roots, device="cpu", cache=runner.cache, plugins=plugins())
    runner(hydra_plan(), "mine")  # which is told that it is done
    assert cleaned(run.path) == []


def test_a_cleaned_run_can_still_be_trained_again(run: RunDir, runner: Runner) -> None:
    before = weights_of(run.path)
    cleaned(run.path)
    run.results_path.unlink()
    with pytest.raises(Exception, match=r"01-alpha-all.body\.safetensors"):
        runner(hydra_plan(), "mine")
    for folder in run.round_folders():
        shutil.rmtree(folder)
    runner(hydra_plan(), "mine")
    assert weights_of(run.path) == before
    assert verify(run.path).damaged == ()


@pytest.mark.parametrize("older", [False, True])
def test_a_damaged_run_keeps_what_it_can_be_made_from(run: RunDir, older: bool) -> None:
    if older:
        forget_digests(run.path)
        run.head_path("beta").unlink()
    else:
        content = run.body_path.read_bytes()
        run.body_path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = tree(run.path)
    name = "beta.safetensors" if older else "body.safetensors"
    refused(lambda: cleaned(run.path), name, "Nothing was deleted", "run again")
    assert tree(run.path) == before


class Stop(RunCallback):
    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == 2:
            raise StopError


def test_an_unfinished_run_keeps_what_it_goes_on_from(runner: Runner) -> None:
    plan = plan_of(round_of("beta", carry_head="last"), round_of("alpha", epochs=3))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Stop()], checkpoint_interval=0)
    run = RunDir(runner.folder / "run")
    before = tree(run.path)
    left = [
        put(run.path / "rounds" / "01-beta-all.part" / CHECKPOINT).parent,
        put(run.path / "rounds" / "02-alpha-all.new" / "round.json").parent,
        put(run.path / GARBAGE),
    ]
    assert {each.path for each in cleaned(run.path)} == set(left)
    assert tree(run.path) == before
    assert (run.path / "rounds" / "02-alpha-all.part").is_dir()
    assert weights_of(runner(plan).path) == weights_of(runner(plan, "whole").path)


def test_nothing_is_removed_while_a_process_is_at_work(run: RunDir) -> None:
    with another_process(run.path) as pid:
        before = tree(run.path)
        refused(lambda: cleaned(run.path), f"pid {pid} on ", str(run.path))
        assert tree(run.path) == before


def test_it_asks(run: RunDir) -> None:
    before = tree(run.path)
    command = ["clean", str(run.path)]
    for answer in ("n\n", "\n", ""):
        result = CliRunner().invoke(main, command, input=answer)
        assert result.exit_code == (0 if answer else 1)
        assert tree(run.path) == before
    assert result.stdout.startswith("12 items, 0.1 MB: weights of single rounds of finished runs")
    assert f"  {run.path / 'rounds' / '01-alpha-all' / 'body.safetensors'}\n" in result.stdout
    assert "  and 2 more\n" in result.stdout
    result = CliRunner().invoke(main, command, input="y\n")
    assert result.exit_code == 0
    assert " deleted\n" in result.stdout
    assert CliRunner().invoke(main, [*command, "--yes"]).stdout == "nothing was deleted\n"


def test_yes_does_not_ask(run: RunDir) -> None:
    result = CliRunner().invoke(main, ["clean", str(run.path), "--yes"])
    assert result.exit_code == 0
    assert "Delete them?" not in result.stdout
    kept = {path.parent.name for path in run.path.glob("rounds/*/body.safetensors")}
    assert kept == {f"{each}-all" for each in KEEPING}


def test_what_cannot_be_removed_is_said(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(name: str, **_: object) -> None:
        raise PermissionError(13, "Permission denied", name)

    with monkeypatch.context() as patch:
        patch.setattr("os.unlink", denied)
        patch.setattr("hydrakit.maintenance.clean.locked", lambda _: pytest.MonkeyPatch.context())
        refused(lambda: cleaned(run.path), "rounds", "cannot be deleted (Permission denied)")
    assert verify(run.path).damaged == ()
    assert len(cleaned(run.path)) == 12


def test_other_folders_are_refused(tmp_path: Path) -> None:
    refused(lambda: cleaned(tmp_path), str(tmp_path), "not the folder of a run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("finished", [False, True])
def test_a_comparison(runner: Runner, finished: bool) -> None:
    here = CompareDir(runner.folder / "compared")
    design = make_design(
        baselines=(), strategies=("classical",), datasets=("beta", "alpha"), folds=2, settings={}
    )
    here.begin()
    first, second = design.cells()
    plan = plan_of(round_of("beta"), round_of("alpha"))
    runner(plan, f"compared/cells/{first.name}", round_cache=here.rounds)
    if finished:
        runner(plan, f"compared/cells/{second.name}", round_cache=here.rounds)
    here.write(Description(hydrakit="0", digest="", design=design, positive="malignant", status={}))
    here.comparison_path.write_text("{}")
    left = [put(here.path / GARBAGE), put(here.rounds / "ab-01.part" / "round.json").parent]
    kept = weights_of(here.rounds)
    found = cleaned(here.path)
    assert {each.path for each in found if each.reason == LEFT} == set(left)
    assert len([each for each in found if each.reason == SHARED]) == 2 * finished
    assert len([each for each in found if each.reason == WEIGHTS]) == 3 * (1 + finished)
    if finished:
        assert not list(here.rounds.rglob("*.safetensors"))
    else:
        assert weights_of(here.rounds) == kept
    assert verify(here.path).damaged == ()
    assert cleaned(here.path) == []


def test_a_large_comparison_needs_few_open_files(runner: Runner) -> None:
    here = CompareDir(runner.folder / "compared")
    design = make_design(
        baselines=(),
        strategies=("classical",),
        datasets=("alpha",),
        folds=None,
        seeds=60,
        settings={},
    )
    here.begin()
    plan = plan_of(round_of("alpha"))
    for cell in design.cells():
        put(here.cell(cell) / "plan.json").write_text(plan.to_json())
        put(here.cell(cell) / GARBAGE)
    here.write(Description(hydrakit="0", digest="", design=design, positive="malignant", status={}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = {int(path.name) for path in Path("/dev/fd").iterdir()}
    limit = next(n for n in count() if n - sum(each < n for each in opened) == 20)  # 20 are free
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        assert len(cleaned(here.path)) == 60
        assert cleaned(here.path) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_cell_that_is_running_is_left_alone(runner: Runner) -> None:
    """Also if its process starts after the files were listed."""
    here = CompareDir(runner.folder / "compared")
    design = make_design(
        baselines=(), strategies=("classical",), datasets=("alpha",), folds=2, settings={}
    )
    here.begin()
    first, second = (here.cell(cell) for cell in design.cells())
    for path in (first, second):
        put(path / "plan.json").write_text(plan_of(round_of("alpha")).to_json())
        put(path / GARBAGE)
    here.write(Description(hydrakit="0", digest="", design=design, positive="malignant", status={}))
    with another_process(second) as pid:
        refused(lambda: cleaned(here.path), f"pid {pid} on ", str(second))
        assert (first / GARBAGE).is_file()
    processes = ExitStack()

    def start(_: object) -> bool:
        processes.enter_context(another_process(second))
        return True

    with processes:
        refused(lambda: clean(here.path, start), str(second))
        assert (second / GARBAGE).is_file()
