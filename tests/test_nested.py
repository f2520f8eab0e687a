"""Nested comparisons: cells choose values as tuning them by hand does, and never by test cases."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import StopError, install_standin, plugins, refused, run_plan, tree, weights_of
from killing import Killing
from lesions import write_lesions

from hydrakit.cli import main
from hydrakit.compare import nested
from hydrakit.compare.design import Cell, CompareDir, Design, make_design
from hydrakit.compare.engine import CompareCallback, compare
from hydrakit.compare.finish import final_plan, find_cells, finish
from hydrakit.compare.nested import candidates_of
from hydrakit.jobs.candidates import CandidateTable, read_results, read_table
from hydrakit.jobs.job import train_job
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.status import ComparisonStatus, status
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.search.values import tune_values
from hydrakit.stats.comparison import Comparison
from hydrakit.storage.lock import holder_of

VIEW = "datasets.alpha.field_of_view.share"
SETTINGS = {
    "epochs": 2,
    "profile": "paper",
    "bootstrap": 1,
    "body_channels": [4, 8],
    "learning_rate": 0.003,
    "changes": {"body.patch": 16, "body.features": 8},
}
TUNE: dict[str, Sequence[Any]] = {VIEW: (1.0, 0.5)}


def design_of(*strategies: str, **changes: Any) -> Design:
    given = {"strategies": strategies, "datasets": ("beta", "alpha"), "folds": 2}
    given |= {"settings": SETTINGS, "tune": TUNE, "inner_folds": 2, "baselines": ()}
    return make_design(**(given | changes))


@pytest.fixture(scope="module")
def lesions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lesions")
    write_lesions(folder / "alpha", patients=40)
    write_lesions(folder / "beta", patients=30, seed=1)
    return folder


@pytest.fixture(scope="module")
def places(lesions: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"data": lesions, "cache": tmp_path_factory.mktemp("cache"), "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def installed(places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stand-ins as installed plugins, which processes find by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        site = install_standin(tmp_path_factory.mktemp("site"))
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
        load_plugins.cache_clear()
        yield
    load_plugins.cache_clear()


class Notes(CompareCallback):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def noted(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def finished(
    installed: None, places: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A tuned comparison: to be read, not to be changed."""
    out, notes = tmp_path_factory.mktemp("comparison") / "out", Notes()
    design = design_of("transfer", "classical")
    assert compare(design, out=out, jobs=2, callback=notes, **places).failed == {}
    assert notes.texts == [
        "4 of 4 cells are tuned: up to 2 candidates on 2 inner folds each, 16 runs in addition to "
        "those of the cells"
    ]
    return out


def cell(strategy: str, fold: int) -> Cell:
    return Cell(strategy=strategy, seed=0, repeat=0, fold=fold)


@pytest.mark.parametrize("strategy", ["transfer", "classical"])
def test_a_cell_chooses_what_tuning_by_hand_chooses(
    finished: Path, places: dict[str, Any], tmp_path: Path, strategy: str
) -> None:
    chosen, compare_dir = cell(strategy, 1), CompareDir(finished)
    plan = design_of("transfer", "classical").plan(chosen, load_plugins())
    by_hand = tune_values(plan, TUNE, tmp_path / "plan.json", folds=2, threads=1, **places)
    table = read_table(compare_dir.tuning(chosen))
    assert table is not None
    assert [each.scores for each in table.tried] == [each.scores for each in by_hand.table.tried]
    assert table.best.values == by_hand.table.best.values
    run = RunDir(compare_dir.cell(chosen))
    assert run.plan() == by_hand.plan
    alone = run_plan(by_hand.plan, tmp_path / "run", plugins=load_plugins(), threads=1, **places)
    assert weights_of(alone.path) == weights_of(run.path)


def test_trackers_get_the_comparison_that_a_run_is_a_part_of(
    finished: Path, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups: list[str | None] = []

    def run_cell(plan: Plan, context: RunContext, *, group: str | None, **_: Any) -> None:
        groups.append(group)
        raise StopError

    monkeypatch.setattr("hydrakit.engine.run_cell", run_cell)
    copied = CompareDir(shutil.copytree(finished, tmp_path / "mine"))
    chosen, context = cell("classical", 1), RunContext(**places)
    plugins, description = load_plugins(), copied.description()
    plan = design_of("transfer", "classical").plan(chosen, plugins)
    job = nested.job_of(chosen, plan, copied, context, description=description, plugins=plugins)
    for _ in range(2):
        with pytest.raises(StopError):
            train_job(job)
        shutil.rmtree(copied.tuning(chosen), ignore_errors=True)
    assert groups == ["mine", "mine.tuning"]


def test_choices_are_reported_and_inner_readings_do_not_count(finished: Path) -> None:
    comparison = Comparison.model_validate_json((finished / "comparison.json").read_bytes())
    assert comparison.readings == comparison.wanted == 4
    assert {each.cell for each in comparison.tuned} == {
        cell(strategy, fold).name for strategy in ("transfer", "classical") for fold in (0, 1)
    }
    runs = {each.strategy: (each.candidates, each.runs) for each in comparison.tuned}
    assert runs == {"transfer": (2, 4), "classical": (2, 4)}
    for each in comparison.tuned:
        plan = RunDir(finished / "cells" / each.cell).plan()
        view = plan.dataset("alpha").field_of_view
        assert view is not None
        assert view.share == each.values[VIEW]
    report = (finished / "report.html").read_text()
    assert "4 cells chose values on the training part alone" in report
    assert "16 runs on inner folds" in report
    assert f"--tune {VIEW}=1.0,0.5 --inner-folds 2" in report


def test_the_folder_is_sound_and_has_no_rounds_of_the_tuning(
    finished: Path, tmp_path: Path
) -> None:
    assert not list((finished / "tuning").glob("*"))
    assert verify(finished).sound
    found = status(finished)
    assert isinstance(found, ComparisonStatus)
    assert found.state == "finished"
    copied = tmp_path / "copy"
    shutil.copytree(finished, copied)
    clean(copied, lambda _: True)
    assert verify(copied).sound
    shutil.rmtree(copied / "cells" / cell("transfer", 0).name)
    found = status(copied)
    assert isinstance(found, ComparisonStatus)
    assert {each.name: each.state for each in found.cells}[cell("transfer", 0).name] == "begun"


def test_another_strategy_is_added_and_other_values_are_refused(
    finished: Path, places: dict[str, Any], tmp_path: Path
) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(finished, copied)
    before = tree(copied / "cells")
    design = design_of("classical", "transfer", tune={VIEW: (1.0, 0.5, 0.7)})
    refused(lambda: compare(design, out=copied, **places), "a comparison with other tune")
    design = design_of("classical", "transfer", inner_folds=3)
    refused(lambda: compare(design, out=copied, **places), "a comparison with other inner-folds")
    result = compare(design_of("classical", "transfer"), out=copied, **places)
    assert result.failed == {}
    assert tree(copied / "cells") == before
    assert result.comparison is not None
    assert len(result.comparison.tuned) == 4


def test_other_test_cases_change_no_choice(
    finished: Path, places: dict[str, Any], tmp_path: Path
) -> None:
    """The images of the test cases of one fold show the other class."""
    chosen = cell("classical", 0)
    splits = RunDir(CompareDir(finished).cell(chosen)).splits()["alpha"]
    tested = [int(key[1:]) for key, split in splits.items() if split == "test"]
    write_lesions(tmp_path / "data/alpha", patients=40, mirrored=tested)
    shutil.copytree(places["data"] / "beta", tmp_path / "data/beta")
    plan = design_of("transfer", "classical").plan(chosen, load_plugins())
    poisoned = tune_values(
        plan,
        {VIEW: TUNE[VIEW]},
        tmp_path / "plan.json",
        folds=2,
        threads=1,
        **(places | {"data": tmp_path / "data"}),
    )
    table = read_table(CompareDir(finished).tuning(chosen))
    assert table is not None
    assert [each.scores for each in table.tried] == [each.scores for each in poisoned.table.tried]


@pytest.mark.slow
def test_a_killed_comparison_goes_on_with_the_same_choices(
    finished: Path, places: dict[str, Any], lesions: Path, tmp_path: Path
) -> None:
    given = [
        *("compare", "--strategies", "classical", "--datasets", "beta,alpha", "--no-baselines"),
        *("--seeds", "1", "--folds", "2", "--inner-folds", "2", "--jobs", "1", "--device", "cpu"),
        *("--profile", "paper", "--epochs", "2", "--bootstrap", "1", "--body-channels", "4,8"),
        *("--learning-rate", "0.003", "--set", "body.patch=16", "--set", "body.features=8"),
        *("--tune", f"{VIEW}=1.0,0.5", "--threads", "1"),
    ]
    killing = Killing(tmp_path / "killed", lesions, given, places["cache"])
    killing.folder.mkdir()
    tuning = CompareDir(killing.out).tuning(cell("classical", 0))
    with killing.start() as process:
        while len(read_results(tuning)) < 2 and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
    while (holder := holder_of(tuning)) is not None and holder.alive():
        time.sleep(0.02)  # a killed process takes a moment to end on a busy machine
    assert 2 <= len(read_results(tuning)) < 4
    killing.finish()
    for fold in (0, 1):
        places_of = [CompareDir(out) for out in (finished, killing.out)]
        tables = [read_table(each.tuning(cell("classical", fold))) for each in places_of]
        one, other = (
            [(each.values, each.scores) for each in table.tried] for table in tables if table
        )
        assert one == other
        one, other = (weights_of(each.cell(cell("classical", fold))) for each in places_of)
        assert one == other


def test_tuned_cells_are_finished_as_an_ensemble_or_with_values_that_all_chose(
    finished: Path, tmp_path: Path, places: dict[str, Any]
) -> None:
    cells = find_cells(finished, "classical")
    (share,) = {table.best.values[VIEW] for table in map(read_tuning, cells.runs)}
    view = final_plan(cells).dataset("alpha").field_of_view
    assert view is not None
    assert view.share == share
    assert finish(finished, "classical", out=tmp_path / "model").networks == 2
    copied, other = tmp_path / "copy", cell("classical", 1)
    shutil.copytree(finished, copied)
    out = CompareDir(copied).cell(other)
    shutil.rmtree(out)
    untuned = design_of("classical").plan(other, load_plugins())
    run_plan(untuned, out, plugins=load_plugins(), threads=1, **places)
    refused(
        lambda: final_plan(find_cells(copied, "classical")),
        "`--how ensemble`",
        f"hydrakit tune --strategy classical --datasets beta,alpha --try {VIEW}=1.0,0.5",
    )
    refused(lambda: finish(copied, "classical", out=tmp_path / "other"), "its field of view")


def read_tuning(run: RunDir) -> CandidateTable:
    table = read_table(run.path.with_name(f"{run.path.name}.tuning"))
    assert table is not None
    return table


def test_a_design_without_tuning_has_the_digest_of_before() -> None:
    design = make_design(strategies=["transfer"], datasets=["alpha"], inner_folds=7)
    assert design.digest == make_design(strategies=["transfer"], datasets=["alpha"]).digest
    tuned = make_design(strategies=["transfer"], datasets=["alpha"], tune={"bootstrap": [1, 2]})
    assert tuned.digest != design.digest


def test_baselines_are_not_tuned() -> None:
    design = design_of("classical", baselines=("intensity", "probe"))
    for name, count in (("intensity", 0), ("probe", 0), ("classical", 2)):
        plan = design.plan(cell(name, 0), plugins())
        assert len(candidates_of(design, plan, plugins())) == count


def test_a_strategy_skips_the_paths_of_rounds_that_it_lacks() -> None:
    offered, tune = plugins(), {VIEW: (1.0, 0.5), "rounds.train-head.dropout": (0.0, 0.1, 0.2)}
    design = design_of("hydra", "classical", tune=tune)
    for name, count in (("hydra", 6), ("classical", 2)):
        plan = design.plan(cell(name, 0), offered)
        assert len(candidates_of(design, plan, offered)) == count
    design = design_of("classical", tune={"rounds.train-head.dropout": (0.0, 0.1)})
    assert candidates_of(design, design.plan(cell("classical", 0), offered), offered) == []


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"seed": (1, 2)}, "seed: `compare` sets this value itself: leave out `--tune seed`"),
        ({"body.patch": (16, 20)}, "body.patch: is both set and tuned"),
        ({"rounds.9.epochs": (1, 2)}, "rounds.9.epochs: there is no such round"),
        ({"rounds.all.dropout": (0.1, 7)}, "rounds.all.dropout=7"),
        ({"datasets.alpha.split.used": (0.5, 1)}, "tests other cases than"),
    ],
)
def test_what_cannot_be_tuned_is_refused_before_training(
    places: dict[str, Any], tmp_path: Path, tune: dict[str, Any], message: str
) -> None:
    design = design_of("hydra", "classical", tune=tune)
    refused(lambda: compare(design, out=tmp_path / "out", **places), message)
    assert not (tmp_path / "out").exists()


def test_inner_folds_need_values_to_try() -> None:
    given = ["compare", "--strategies", "transfer", "--datasets", "alpha", "--inner-folds", "2"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 2
    assert "--inner-folds is for --tune" in result.stderr
