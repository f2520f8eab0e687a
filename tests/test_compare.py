"""Comparing strategies: cells are ordinary runs, on the same splits, and go on after anything."""

from __future__ import annotations

import csv
import hashlib
import json
import multiprocessing
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import helpers
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import (
    StopError,
    another_process,
    install_standin,
    refused,
    run_plan,
    tree,
    weights_of,
)
from sklearn.metrics import roc_auc_score

from hydrakit.cli import main
from hydrakit.cli.printing import print_comparison
from hydrakit.compare import engine, join
from hydrakit.compare.design import BASELINES, Cell, CompareDir, Design, make_design
from hydrakit.compare.engine import CellTracker, CompareCallback, CompareResult, compare
from hydrakit.compare.nested import job_of
from hydrakit.compare.scoring import ScoredCases, compare_cells
from hydrakit.errors import DataError, PlanError
from hydrakit.jobs.driver import JobDriver
from hydrakit.jobs.job import Job, run_job
from hydrakit.jobs.pool import LocalPool
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.status import ComparisonStatus, status
from hydrakit.maintenance.verify import verify
from hydrakit.plan.edit import edit_plan
from hydrakit.plan.model import Plan, Split
from hydrakit.plan.profiles import make_plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison
from hydrakit.stats.metrics import auc
from hydrakit.stats.subgroups import ComparedSubgroup, SubgroupAuc
from hydrakit.storage import claims
from hydrakit.storage.lock import locked

SETTINGS = {"epochs": 1, "bootstrap": 2, "body_channels": [4, 8], "profile": "recommended-0.1"}


def design_of(*strategies: str, **changes: Any) -> Design:
    given = {"strategies": strategies, "datasets": ("alpha", "beta", "alpha"), "folds": 2}
    given |= {"baselines": ()}
    return make_design(**(given | {"settings": SETTINGS} | changes))


@pytest.fixture(scope="module", autouse=True)
def installed(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The stand-ins as installed plugins, which processes find by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        site = install_standin(tmp_path_factory.mktemp("site"))
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parent)]))
        patch.setenv("HYDRAKIT_DATA", str(data))
        patch.setenv("HYDRAKIT_CACHE", str(cache))
        load_plugins.cache_clear()
        yield
    load_plugins.cache_clear()


def run(design: Design, out: Path, **more: Any) -> CompareResult:
    return compare(design, out=out, **({"jobs": 1, "device": "cpu"} | more))


@pytest.fixture(scope="module")
def finished(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of two strategies on two folds: to be read, not to be changed."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert run(design_of("hydra", "transfer"), out).failed == {}
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


def cell(strategy: str, fold: int) -> Cell:
    return Cell(strategy=strategy, seed=0, repeat=0, fold=fold)


def load(out: Path) -> Comparison:
    return Comparison.model_validate_json((out / "comparison.json").read_bytes())


def predictions(out: Path, each: Cell) -> list[dict[str, str]]:
    with (CompareDir(out).cell(each) / "predictions.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def count(out: Path, event: str) -> dict[str, int]:
    found = {}
    for path in sorted(out.glob("cells/*/events.jsonl")):
        events = [json.loads(line)["event"] for line in path.read_text().splitlines()]
        found[path.parent.name] = events.count(event)
    return found


def test_a_cell_is_an_ordinary_run(finished: Path, tmp_path: Path, data: Path, cache: Path) -> None:
    chosen = cell("transfer", 1)
    path = CompareDir(finished).cell(chosen)
    plan = design_of("hydra", "transfer").plan(chosen, load_plugins())
    assert RunDir(path).plan() == plan
    alone = run_plan(plan, tmp_path / "run", data=data, cache=cache, plugins=load_plugins())
    assert weights_of(alone.path) == weights_of(path)


def test_what_strategies_have_in_common_is_trained_once(finished: Path) -> None:
    assert count(finished, "round shared") == {
        "hydra-seed0-repeat0-fold0": 0,
        "hydra-seed0-repeat0-fold1": 0,
        "transfer-seed0-repeat0-fold0": 1,
        "transfer-seed0-repeat0-fold1": 1,
    }


def test_every_finding_is_tested_once_by_each_strategy(finished: Path) -> None:
    tested = {}
    for strategy in ("hydra", "transfer"):
        rows = [[row["key"] for row in predictions(finished, cell(strategy, f))] for f in (0, 1)]
        assert len(rows[0] + rows[1]) == len({*rows[0], *rows[1]}) == 48
        tested[strategy] = rows
    assert tested["hydra"] == tested["transfer"]
    splits = [RunDir(path).splits() for path in sorted(finished.glob("cells/*fold0"))]
    assert splits[0] == splits[1]


def test_scores_give_the_same_auc_as_the_results_of_a_cell(finished: Path) -> None:
    comparison = load(finished)
    labels = np.array(comparison.labels)
    for strategy in comparison.strategies:
        for fold in (0, 1):
            members = np.array(comparison.fold_of[0]) == fold
            scores = np.array(strategy.scores[0], dtype=np.float64)[members]
            rows = predictions(finished, cell(strategy.name, fold))
            assert {float(row["p_malignant"]) for row in rows} == set(scores)
            results = RunDir(CompareDir(finished).cell(cell(strategy.name, fold))).results()
            assert results is not None
            (area,) = results.test.classes
            assert area.class_name == "malignant"
            assert auc(scores, labels[members]) == area.auc


def test_the_figures_are_those_of_the_predictions(finished: Path) -> None:
    found = load(finished)
    for figures in found.strategies:
        aucs = []
        for fold in (0, 1):
            rows = predictions(finished, cell(figures.name, fold))
            labels = [row["label"] == "malignant" for row in rows]
            aucs.append(roc_auc_score(labels, [float(row["p_malignant"]) for row in rows]))
        assert figures.auc == pytest.approx(sum(aucs) / 2)
        assert figures.low < figures.auc < figures.high
        assert figures.cells == 2
        vals = [
            RunDir(CompareDir(finished).cell(cell(figures.name, fold))).results() for fold in (0, 1)
        ]
        last = [each.rounds[-1].val.auc for each in vals if each is not None]
        assert figures.val == pytest.approx(sum(a for a in last if a is not None) / 2, abs=1e-3)
    (pair,) = found.pairs
    assert (pair.strategy, pair.against) == ("hydra", "transfer")
    assert pair.difference == pytest.approx(found.strategies[0].auc - found.strategies[1].auc)
    assert pair.p_holm == pair.p
    assert (found.positives, found.negatives, found.patients) == (24, 24, 40)
    assert found.readings == found.wanted == found.used == 4
    assert found.verdict == pair.text
    scores = dict(zip(found.findings, found.strategies[0].scores[0], strict=True))
    for fold in (0, 1):
        for row in predictions(finished, cell("hydra", fold)):
            assert scores[row["key"]] == pytest.approx(float(row["p_malignant"]), rel=1e-5)
            assert found.fold_of[0][found.findings.index(row["key"])] == fold


def test_baselines_are_added_to_a_comparison_that_began_without(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree(copied / "cells")
    found = run(design_of("hydra", "transfer", baselines=BASELINES), copied)
    after = tree(copied / "cells")
    assert {path: after[path] for path in before} == before
    new = {Path(path).relative_to(copied / "cells").parts[0] for path in after.keys() - before}
    assert {name.partition("-")[0] for name in new} == {"intensity", "probe"}
    comparison = found.comparison
    assert comparison is not None
    assert [each.name for each in comparison.strategies] == [
        "hydra",
        "transfer",
        "intensity",
        "probe",
    ]
    assert comparison.baselines == {
        "intensity": "a logistic regression on eleven intensities",
        "probe": "a logistic regression on the features of the body as it begins",
    }
    assert [each.against for each in comparison.pairs] == ["intensity", "probe", "transfer"]
    assert "ogistic regression on eleven intensities" in comparison.verdict.splitlines()[0]
    assert all("after correction for 3" in line for line in comparison.verdict.splitlines())
    print_comparison(comparison)
    assert set(comparison.verdict.splitlines()) <= set(capsys.readouterr().out.splitlines())
    for name in BASELINES:
        results = RunDir(CompareDir(copied).cell(cell(name, 0))).results()
        assert results is not None
        assert results.baseline is None
        assert [each.penalty is not None for each in results.rounds] == [True]
    hydra = RunDir(CompareDir(copied).cell(cell("hydra", 0))).results()
    intensity = RunDir(CompareDir(copied).cell(cell("intensity", 0))).results()
    assert hydra is not None
    assert intensity is not None
    assert hydra.baseline is not None
    assert hydra.baseline.test is not None
    assert hydra.baseline.test.figures.auc == pytest.approx(intensity.test.figures.auc)


def test_changes_of_a_body_reach_only_strategies_that_use_it() -> None:
    changes = {"body.features": 8, "body.patch": 33, "bootstrap": 3, "rounds.all.dropout": 0.25}
    settings = {**SETTINGS, "head": "mlp", "changes": {**changes, "head.options.hidden": "8"}}
    design = design_of("hydra", baselines=BASELINES, settings=settings, folds=None)
    plans = {each.strategy: plan for each, plan in design.plans(load_plugins()).items()}
    hydra, intensity, probe = plans["hydra"], plans["intensity"], plans["probe"]
    assert {plan.patch for plan in plans.values()} == {33}
    assert (hydra.body.features, probe.body.features) == (8, 8)  # type: ignore[union-attr]
    assert (intensity.body.name, intensity.body.options) == ("intensity", {"patch": 33})
    assert [plan.head.name for plan in plans.values()] == ["mlp", "linear", "linear"]
    assert [plan.bootstrap for plan in plans.values()] == [3, 1, 1]
    assert design.digest == design_of("hydra", settings=settings, folds=None).digest


def test_a_baseline_that_is_a_strategy_too_is_trained_once() -> None:
    design = design_of("hydra", "intensity", baselines=BASELINES)
    assert design.all_strategies == ("hydra", "intensity", "probe")
    assert make_design(strategies=("hydra",), datasets=("alpha",)).baselines == BASELINES


def test_a_new_strategy_runs_only_what_is_new(copied: Path) -> None:
    before = tree(copied / "cells")
    found = run(design_of("hydra", "transfer", "classical"), copied)
    after = tree(copied / "cells")
    assert {path: after[path] for path in before} == before
    new = {Path(path).relative_to(copied / "cells").parts[0] for path in after.keys() - before}
    assert new == {"classical-seed0-repeat0-fold0", "classical-seed0-repeat0-fold1"}
    events = count(copied, "round"), count(copied, "round shared")
    assert [each["classical-seed0-repeat0-fold0"] for each in events] == [0, 1]
    assert found.comparison is not None
    assert len(found.comparison.pairs) == 2
    assert all(pair.p_holm >= pair.p for pair in found.comparison.pairs)
    assert set(CompareDir(copied).description().status.values()) == {"done"}


def arguments(*strategies: str, out: Path) -> list[str]:
    """Of the command that is `design_of`."""
    return [
        *(
            "compare",
            "--no-baselines",
            "--strategies",
            ",".join(strategies),
            "--datasets",
            "alpha,beta,alpha",
        ),
        *("--seeds", "1", "--folds", "2", "--epochs", "1", "--bootstrap", "2"),
        *(
            "--profile",
            "recommended-0.1",
            "--body-channels",
            "4,8",
            "--out",
            str(out),
            "--jobs",
            "1",
            "--device",
            "cpu",
        ),
    ]


@pytest.mark.slow
def test_after_a_kill_the_same_command_goes_on(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "hydrakit", *arguments("transfer", out=out)]
    first = CompareDir(out).cell(cell("transfer", 0))
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not list(first.glob("rounds/01-alpha-all")) and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not (first / "results.json").is_file()
    inode = (first / "rounds/01-alpha-all").stat().st_ino
    while (first / "lock.holder").is_file() and _alive(first):  # its worker ends with it
        time.sleep(0.05)

    assert run(design_of("transfer"), out).failed == {}
    assert (first / "rounds/01-alpha-all").stat().st_ino == inode
    for fold in (0, 1):
        paths = [CompareDir(each).cell(cell("transfer", fold)) for each in (out, finished)]
        assert weights_of(paths[0]) == weights_of(paths[1])


def test_eight_strategies_and_their_subgroups_fit_the_table(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load(finished)
    first = found.strategies[0]
    names = [f"strategy-number-{number}" for number in range(8)]
    auc = {"auc": 0.625, "low": 0.5, "high": 0.75, "cells": 2, "left_out": 0}
    zone = ComparedSubgroup(
        name="zone",
        value="transition",
        positives=7,
        negatives=9,
        patients=16,
        strategies=tuple(SubgroupAuc(strategy=name, **auc) for name in names),
    )
    few = zone.model_copy(update={"value": "stroma", "strategies": ()})
    more = {
        "strategies": tuple(first.model_copy(update={"name": name}) for name in names),
        "pairs": tuple(found.pairs[0].model_copy(update={"p": 0.00004}) for _ in names[1:]),
        "subgroups": (zone, few),
    }
    print_comparison(found.model_copy(update=more))
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert printed.count("below 0.001") >= 7
    rows = [line.split() for line in printed.splitlines()]
    told = names[0], "0.625", "0.500", "to", "0.750"
    assert ["zone", "transition", "7", "9", *told] in rows
    assert [names[7], *told[1:]] in rows
    assert ["zone", "stroma", "7", "9", "too", "few"] in rows


def test_what_is_finished_is_only_told(copied: Path) -> None:
    before = tree(copied / "cells", copied / "rounds")
    result = CliRunner().invoke(main, arguments("hydra", "transfer", out=copied))
    assert result.exit_code == 0, result.output
    assert tree(copied / "cells", copied / "rounds") == before
    found = load(copied)
    assert found.verdict in result.stdout
    assert f"{found.strategies[1].auc:.3f}" in result.stdout
    assert "24 positive and 24 negative findings of 40 patients, 2 folds, 1 seed" in result.stdout
    assert "Test labels were read 4 times" in result.stdout
    told = result.stderr.splitlines()
    assert told[0].endswith("out: 4 cells, 16 rounds, 1 at a time")
    assert told[1].startswith("hydra, seed 0, repeat 0, fold 0: test AUC 0.")
    assert told[4].endswith(", done before (4 of 4)")
    shown = CliRunner().invoke(main, [*arguments("hydra", "transfer", out=copied), "--json"])
    assert Comparison.model_validate_json(shown.stdout) == found


@pytest.mark.parametrize(
    "lacking",
    [
        ["files.json"],
        ["files.json", "report.html"],
        ["files.json", "report.html", "shown.safetensors"],
    ],
    ids=len,
)
def test_a_cell_that_was_stopped_at_its_end_is_completed(copied: Path, lacking: list[str]) -> None:
    """Whatever the stopped process had not yet written, with another number of threads."""
    here, chosen = CompareDir(copied), cell("hydra", 1)
    run_dir = here.cell(chosen)
    before = tree(run_dir)
    for name in lacking:
        (run_dir / name).unlink()
    assert here.status(chosen) == "waiting"
    assert (copied / "compare.json").is_file()
    found = status(copied)
    assert isinstance(found, ComparisonStatus)
    assert [each.state for each in found.cells].count("done") == 3
    assert run(design_of("hydra", "transfer"), copied, threads=3).failed == {}
    assert here.status(chosen) == "done"
    after = tree(run_dir)
    assert after.keys() == before.keys()
    log = str(run_dir / "events.jsonl"), str(run_dir / "report.html")
    assert {path: after[path] for path in before if path not in log} == {
        path: content for path, content in before.items() if path not in log
    }
    assert count(copied, "test read")[chosen.name] == 1  # its results are those of before
    assert verify(copied).damaged == verify(copied).unknown == ()
    (run_dir / "predictions.csv").write_text("changed")
    assert [Path(each.path) for each in verify(copied).damaged] == [run_dir / "predictions.csv"]


def _alive(run: Path) -> bool:
    """Whether the process that holds a run's folder is there."""
    number = int((run / "lock.holder").read_text().split()[1])
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    return True


def test_cells_are_trained_until_the_verdict_is_known(copied: Path) -> None:
    design = design_of("hydra", "transfer", seeds=2)
    told = run(design, copied, until_told=True)
    assert told.failed == {}
    assert told.comparison is not None
    looks = told.comparison.looks
    assert looks is not None
    assert [each.cells for each in looks.planned] == [
        "1 of 2 folds in 2 of 2 passes",
        "2 of 2 folds in 2 of 2 passes",
    ]
    assert looks.taken in (1, 2)
    assert looks.needed == 4 * looks.taken
    with pytest.raises(PlanError, match="leave out --join or --until-told"):
        run(design, copied, until_told=True, join=True)
    with pytest.raises(PlanError, match="was begun with --until-told, which machines"):
        run(design, copied, join=True)
    again = run(design, copied, until_told=True, callback=NothingNew())
    assert again.comparison is not None
    assert again.comparison.looks == looks
    refused(lambda: run(design_of("hydra", "transfer", seeds=3), copied), "--until-told")
    # Without the option, all cells are trained, and the looks still count.
    full = run(design, copied)
    assert full.comparison is not None
    assert full.comparison.looks is not None
    assert not full.comparison.looks.stops
    assert full.comparison.looks.needed == full.comparison.done == 8
    assert full.comparison.pairs[0].level == 1 - full.comparison.looks.planned[1].level
    first, _ = full.comparison.looks.planned
    assert first.pairs[0].p == looks.planned[0].pairs[0].p


class NothingNew(CompareCallback):
    """Fails if a cell is trained."""

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        assert before


def test_a_failed_cell_is_named_and_others_go_on(copied: Path) -> None:
    here = CompareDir(copied)
    for strategy in ("hydra", "transfer"):
        shutil.rmtree(here.cell(cell(strategy, 1)))
    spoilt = here.cell(cell("hydra", 1))
    spoilt.mkdir()
    (spoilt / "thesis.txt").write_text("not a run")
    result = CliRunner().invoke(main, arguments("hydra", "transfer", out=copied))
    assert result.exit_code == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("hydrakit: cell hydra-seed0-repeat0-fold1 failed: ")
    assert "is not empty, and not the folder of a run" in last
    status = here.description().status
    assert status.pop("hydra-seed0-repeat0-fold1") in last
    assert set(status.values()) == {"done"}
    assert "2 of 4 cells are compared" in result.stdout
    assert load(copied).used == 2
    assert load(copied).strategies[1].cells == 1  # of the fold that both finished


class Reader(CompareCallback):
    """Reads what is published, a few times a second, as somebody with a browser would."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.seen: dict[tuple[int | None, int, bool], str] = {}

    def rounds_done(self, rounds: int) -> None:
        if (self.out / "comparison.json").is_file():
            found = load(self.out)
            page = (self.out / "report.html").read_text()
            self.seen.setdefault((found.done, found.used, found.under_way), page)


def test_what_is_found_so_far_is_published(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.compare.engine.SECONDS_BETWEEN_REPORTS", 0.0)
    reader = Reader(tmp_path / "out")
    run(design_of("hydra", "transfer"), reader.out, callback=reader)
    # Nothing before a fold has both strategies; a third cell changes no figure, but is told.
    assert list(reader.seen) in ([(2, 2, True), (3, 2, True)], [(2, 2, True)], [(3, 2, True)])
    page = next(iter(reader.seen.values()))
    assert "of 4 cells are finished." in page
    assert (
        "The results include 2 cells: those of seeds and folds that every strategy finished."
        in page
    )
    assert 'http-equiv="refresh"' in page
    # In the end it is what it would be without.
    assert load(reader.out).strategies[0].scores == load(finished).strategies[0].scores
    assert (load(reader.out).done, load(reader.out).under_way) == (4, False)
    assert "In progress" not in (reader.out / "report.html").read_text()
    assert 'http-equiv="refresh"' not in (reader.out / "report.html").read_text()


def test_what_is_found_is_published_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.compare.engine.SECONDS_BETWEEN_REPORTS", 1e9)
    reader = Reader(tmp_path / "out")
    run(design_of("classical", "probe"), reader.out, callback=reader)
    assert len(reader.seen) == 1  # as soon as there is something, and then not for long


class Killer(CompareCallback):
    """Kills the process that is under way, so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.lines: list[str] = []

    def rounds_done(self, rounds: int) -> None:
        for process in multiprocessing.active_children():
            if self.times:
                self.times -= 1
                process.kill()
                process.join()

    def killed(self, cell: Cell, reason: str) -> None:
        self.lines.append(f"{cell.name}: {reason}")


@pytest.mark.usefixtures("cell_processes")
def test_a_killed_process_is_told_and_replaced(copied: Path, finished: Path) -> None:
    here = CompareDir(copied)
    for strategy in ("hydra", "transfer"):
        shutil.rmtree(here.cell(cell(strategy, 1)))
    killer = Killer(times=2)
    found = run(design_of("hydra", "transfer"), copied, callback=killer)
    assert killer.lines == ["hydra-seed0-repeat0-fold1: SIGKILL: too little memory?"] * 2
    assert list(found.failed) == ["hydra-seed0-repeat0-fold1"]
    assert "ended unexpectedly 2 times (SIGKILL" in found.failed["hydra-seed0-repeat0-fold1"]
    other = here.cell(cell("transfer", 1))
    assert weights_of(other) == weights_of(CompareDir(finished).cell(cell("transfer", 1)))


@pytest.mark.slow
@pytest.mark.usefixtures("cell_processes")
def test_a_process_that_has_nothing_left_helps_another(copied: Path, finished: Path) -> None:
    here = CompareDir(copied)
    shutil.rmtree(here.rounds)
    for each in (cell("transfer", 0), cell("hydra", 1), cell("transfer", 1)):
        shutil.rmtree(here.cell(each))
    assert run(design_of("hydra", "transfer", "classical"), copied, jobs=2).failed == {}
    assert set(here.description().status.values()) == {"done"}
    assert set(count(copied, "run").values()) == {1}  # each was begun once
    for strategy in ("hydra", "transfer"):
        for fold in (0, 1):
            there = CompareDir(finished).cell(cell(strategy, fold))
            assert weights_of(here.cell(cell(strategy, fold))) == weights_of(there)


def test_one_split_and_more_classes(tmp_path: Path) -> None:
    """The paper's single split; a target of three classes compares one against the others."""
    design = make_design(
        baselines=(), strategies=("classical",), datasets=("delta",), folds=None, settings=SETTINGS
    )
    refused(lambda: run(design, tmp_path), "delta", "none, some, much", "--positive")
    refused(lambda: run(design, tmp_path, positive="many"), "many", "none, some, much")
    found = run(design, tmp_path / "out", positive="much").comparison
    assert found is not None
    rows = predictions(tmp_path / "out", cell("classical", 0))
    labels = [row["label"] == "much" for row in rows]
    (figures,) = found.strategies
    assert figures.auc == pytest.approx(
        roc_auc_score(labels, [float(row["p_much"]) for row in rows])
    )
    assert (found.positives, found.folds, found.pairs) == (sum(labels), None, ())


def test_seeds_change_training_and_repeats_change_splits() -> None:
    design = design_of("hydra", "classical", seeds=2, repeats=3)
    cells = design.cells()
    assert len(cells) == len({each.name for each in cells}) == 2 * 2 * 3 * 2
    plans = [design.plan(each, load_plugins()) for each in cells]
    for each, plan in zip(cells, plans, strict=True):
        assert (plan.seed, plan.effective_split_seed) == (each.seed, each.repeat)
        fold = plan.dataset("alpha").split.fold
        assert fold is not None
        assert (fold.index, fold.count) == (each.fold, 2)
        assert [dataset.name for dataset in plan.datasets] == ["alpha", "beta"]
    assert len({plan.digest() for plan in plans}) == len(plans)


def test_what_is_added_keeps_the_digest_and_what_is_changed_does_not() -> None:
    one = design_of("hydra")
    assert one.digest == design_of("norm", "hydra", seeds=5, repeats=2).digest
    for changes in ({"folds": 3}, {"settings": SETTINGS | {"epochs": 2}}, {"datasets": ("alpha",)}):
        assert one.digest != design_of("hydra", **changes).digest
    defaults = {"body": "paper", "head": "mlp", "dropout": None, "options": {}}
    assert one.digest == design_of("hydra", settings=SETTINGS | defaults).digest


def test_another_comparison_is_refused(copied: Path, tmp_path: Path) -> None:
    before = tree(copied)
    refused(lambda: run(design_of("hydra", folds=3), copied), str(copied), "folds", "--out")
    other = design_of("hydra", settings=SETTINGS | {"epochs": 2, "copies": "drop"})
    refused(lambda: run(other, copied), "epochs", "copies")
    assert tree(copied) == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("1")
    refused(lambda: run(design_of("hydra"), tmp_path / "mine"), "nor the folder of a comparison")
    (copied / "compare.json").write_text("{}")
    refused(lambda: run(design_of("hydra"), copied), "compare.json", "is missing")


def test_the_plans_of_all_cells_are_those_of_each() -> None:
    changes = {"datasets.alpha.split.val": 3, "rounds.3.dropout": 0.3}
    settings = SETTINGS | {"changes": changes}
    design = design_of("hydra", "norm", seeds=2, repeats=2, settings=settings)
    plans = design.plans(load_plugins())
    assert list(plans) == design.cells()
    for each, plan in plans.items():
        assert plan == design.plan(each, load_plugins())
        assert plan.digest() == design.plan(each, load_plugins()).digest()


@pytest.mark.parametrize("order", [("hydra", "transfer"), ("transfer", "hydra")])
def test_a_strategy_that_cannot_work_is_refused_before_any_is_trained(
    tmp_path: Path, order: tuple[str, str]
) -> None:
    """Transfer has one head, and the datasets have two and three classes."""
    design = design_of(*order, datasets=("delta", "alpha"))
    refused(
        lambda: run(design, tmp_path / "out"),
        "strategy 'transfer': head 'shared' cannot be used for both 'delta' (",
        "and 'alpha' (",
    )
    heads = SETTINGS | {"heads": {"beta": "linear"}}
    refused(
        lambda: run(design_of(*order, settings=heads), tmp_path / "out"),
        "strategy 'transfer': ",
        "different kinds of head",
    )
    assert not (tmp_path / "out").exists()


def test_the_splits_of_all_folds_and_repeats_are_checked_before_any_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrakit.data.quality.leakage import check_leakage

    def fails_late(*given: Any, **named: Any) -> Any:
        plan = given[-1]
        fold = plan.dataset("alpha").split.fold
        if (plan.split_seed, fold.index) == (2, 1):
            raise DataError("alpha: too few")
        return check_leakage(*given, **named)

    monkeypatch.setattr("hydrakit.compare.engine.check_leakage", fails_late)
    refused(lambda: run(design_of("hydra", repeats=3), tmp_path / "out"), "alpha: too few")
    assert not (tmp_path / "out").exists()


def changed_data(data: Path, folder: Path) -> Path:
    """A copy of the data, in which two images of beta have changed places."""
    shutil.copytree(data, folder)
    with np.load(data / "beta" / "cases.npz") as stored:
        arrays = dict(stored)
    arrays["images"][[0, 2]] = arrays["images"][[2, 0]]
    np.savez(folder / "beta" / "cases.npz", **arrays)
    return folder


def test_a_comparison_does_not_go_on_with_other_data(
    copied: Path, data: Path, tmp_path: Path
) -> None:
    mine = changed_data(data, tmp_path / "mine")
    more = design_of("hydra", "transfer", "classical", seeds=2)
    before = tree(copied)
    words = ["beta: the data has changed since the comparison in", str(copied), "--out"]
    refused(lambda: run(more, copied, data=mine), *words)
    # Other units, as after a cohort was declared, give the same cases other splits.
    path = copied / "compare.json"
    content = path.read_bytes()
    path.write_bytes(re.sub(rb'"splits": "[0-9a-f]{64}"', b'"splits": "%s"' % (b"0" * 64), content))
    refused(lambda: run(more, copied), "alpha: the data has changed", "in other splits")
    path.write_bytes(content)
    # A comparison of version 0.1 does not say what it is from, but its cells do.
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in ("data", "threads")}
    path.write_text(json.dumps(old))
    for facts in copied.glob("cells/*/data.json"):
        facts.with_name("files.json").unlink()
        content = json.loads(facts.read_text())
        for each in content.values():
            for name in ("classes", "task", "field_of_view"):
                del each[name]
        facts.write_text(json.dumps(content))
    words = ["beta: the data has changed since", "cells/hydra-seed0", "--out"]
    refused(lambda: run(more, copied, data=mine), *words)
    assert tree(copied).keys() <= before.keys()


def test_a_process_does_not_train_a_cell_on_other_data(
    copied: Path, data: Path, tmp_path: Path
) -> None:
    """The data changes after the comparison has begun."""
    context = RunContext(data=changed_data(data, tmp_path / "mine"), device="cpu")
    new = cell("classical", 0)
    compare_dir, design = CompareDir(copied), design_of("hydra", "transfer", "classical")
    plugins, description = load_plugins(), compare_dir.description()
    plan = design.plan(new, plugins)
    run_job(job_of(new, plan, compare_dir, context, description=description, plugins=plugins))
    assert "beta: the data has changed since the comparison began" in compare_dir.status(new)
    assert not compare_dir.cell(new).exists()


def test_cells_of_other_data_get_no_verdict(copied: Path) -> None:
    origins = dict(CompareDir(copied).description().data)
    origins["beta"] = origins["beta"].model_copy(update={"content": "0" * 64})
    cases = ScoredCases(positive="malignant", finding={}, patient={}, subgroups={}, origins=origins)
    refused(
        lambda: compare_cells(CompareDir(copied), design_of("hydra", "transfer"), cases),
        "beta: the data has changed since",
        "cells/hydra-seed0-repeat0-fold0",
    )


def test_a_large_comparison_takes_little_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One plan for each strategy and fold, and one look at each cell that has begun."""
    calls: dict[str, int] = {"plan": 0, "status": 0}

    def counted(name: str, function: Any) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return function(*given, **named)

        return call

    monkeypatch.setattr(
        "hydrakit.compare.design.make_plan",
        counted("plan", make_plan),
    )
    monkeypatch.setattr(CompareDir, "status", counted("status", CompareDir.status))
    design = design_of("hydra", "transfer", seeds=250)
    plans = design.plans(load_plugins())
    assert (len(plans), calls["plan"]) == (1000, 4)
    here, cells = CompareDir(tmp_path), design.cells()
    for each in cells[:3]:
        here.cell(each).mkdir(parents=True)
    here.failure_path(cells[3]).write_text("no")
    done: list[int] = []

    class Rounds(CompareCallback):
        def rounds_done(self, rounds: int) -> None:
            done.append(rounds)

    cases = ScoredCases(positive="malignant", finding={}, patient={}, subgroups={}, origins={})
    tracker = CellTracker(here, plans, Rounds(), design, cases, load_plugins(), 1)
    for _ in range(5):
        tracker._update()
    assert calls["status"] == 4 + 4 * 3
    assert tracker.ended == {cells[3]}
    assert done == [len(plans[cells[3]].rounds)] * 5


def test_what_is_impossible_is_refused_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(lambda: design_of("hydra", "hydra"), "twice")
    refused(lambda: design_of("hydra", folds=None, repeats=2), "single split")
    refused(lambda: design_of("hydra", settings={"epoch": 1}), "epoch", "did you mean")
    refused(lambda: design_of("hydra", settings={"seed": 1}), "seed")
    refused(lambda: run(design_of("hydra", "hidra"), out), "hidra", "hydra")
    refused(lambda: run(design_of("hydra", datasets=("alpha", "beto")), out), "beto", "beta")
    refused(lambda: run(design_of("hydra"), out, device="tpu"), "tpu")
    refused(lambda: run(design_of("hydra"), out, trackers=("mlflo",)), "mlflo", "mlflow")
    refused(lambda: run(design_of("hydra"), out, track_to="all"), "--track-to all", "--track")
    refused(lambda: run(design_of("hydra", folds=30), out), "alpha", "too few")
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (["--datasets", "alpha"], "--strategies"),
        (["--strategies", "hydra"], "--datasets"),
        (
            ["--strategies", "hydra", "--datasets", "alpha", "--holdout", "--folds", "3"],
            "--holdout",
        ),
    ],
)
def test_usage_is_told(given: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["compare", "--no-baselines", *given])
    assert result.exit_code == 2
    assert word in result.stderr.splitlines()[-1]


def test_threads_are_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    def resources(
        jobs: int | None, device: str, groups: int, threads: int | None = None
    ) -> tuple[int, tuple[str, ...], int]:
        context = RunContext(jobs=jobs, device=device, threads=threads)
        assert LocalPool().processes(context, groups) == LocalPool().resources(context, groups)[0]
        return LocalPool().resources(context, groups)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    assert resources(None, "cpu", 100) == (8, ("cpu",), 1)
    assert resources(3, "cpu", 100) == (3, ("cpu",), 1)
    assert resources(None, "cpu", 2) == (2, ("cpu",), 4)
    assert resources(20, "cpu", 100) == (20, ("cpu",), 1)
    assert resources(1, "cpu", 2) == (1, ("cpu",), 4)  # as with two processes
    assert resources(None, "cpu", 100, threads=3) == (2, ("cpu",), 3)
    assert resources(None, "cpu", 100, threads=9) == (1, ("cpu",), 9)
    assert resources(2, "cpu", 100, threads=6) == (2, ("cpu",), 6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = {"cuda:0": 80, "cuda:1": 80}
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda name: SimpleNamespace(total_memory=gpus[str(name)] * 2**30),
    )
    assert resources(None, "auto", 100) == (4, ("cuda:0", "cuda:1"), 1)
    assert resources(None, "auto", 3) == (3, ("cuda:0", "cuda:1"), 2)
    assert resources(2, "cuda", 100) == (2, ("cuda:0", "cuda:1"), 1)
    assert resources(None, "cuda:1", 100) == (4, ("cuda:1",), 1)
    gpus["cuda:1"] = 6  # GB: the smaller GPU tells, for processes take them in turn
    assert resources(None, "auto", 100) == (2, ("cuda:0", "cuda:1"), 1)
    assert resources(None, "cuda:1", 100) == (1, ("cuda:1",), 1)
    assert resources(None, "cuda:0", 100) == (4, ("cuda:0",), 1)


def test_cells_can_be_ensembles_and_share_the_rounds_of_each_network(tmp_path: Path) -> None:
    design = design_of("hydra", "transfer", settings=SETTINGS | {"ensemble": 2}, folds=None)
    assert design.digest != design_of("hydra", "transfer", folds=None).digest
    totals: list[int] = []
    done: list[int] = []

    class Rounds(CompareCallback):
        def begun(self, out: Path, cells: int, rounds: int, processes: int) -> None:
            totals.append(rounds)

        def rounds_done(self, rounds: int) -> None:
            done.append(rounds)

    out = tmp_path / "out"
    found = run(design, out, callback=Rounds())
    assert found.failed == {}
    plans = design.plans(load_plugins())
    assert totals == [sum(2 * len(plan.rounds) for plan in plans.values())]
    assert done[-1] == totals[0]
    for each, plan in plans.items():
        assert plan.ensemble == 2
        results = RunDir(CompareDir(out).cell(each)).results()
        assert results is not None
        assert [member.number for member in results.members] == [1, 2]
    comparison = load(out)
    # hydra and transfer have the first round in common, for each network.
    assert [each.shared for each in comparison.strategies] == [0, 2]
    assert comparison.readings == len(plans)


def plan_of(strategy: str = "hydra") -> Plan:
    """A plan with the values of `SETTINGS`, as `hydrakit plan` writes it."""
    return make_plan(strategy, ["alpha", "beta", "alpha"], plugins=load_plugins(), **SETTINGS)


def test_the_trace_has_all_strategies_on_one_axis(tmp_path: Path, finished: Path) -> None:
    design = design_of("hydra", "classical", settings=SETTINGS | {"epochs": 2})
    found = run(design, tmp_path / "out", trace_test=True).comparison
    assert found is not None
    assert [each.strategy for each in found.traces] == ["hydra", "classical"]
    hydra, classical = found.traces
    assert classical.epochs == (1, 2)
    assert hydra.epochs[-1] == 2 * len(RunDir(CompareDir(tmp_path / "out").cell(cell("hydra", 0)))
                                       .plan().rounds)  # fmt: skip
    for position, epoch in enumerate(classical.epochs):
        aucs = []
        for fold in (0, 1):
            one = RunDir(CompareDir(tmp_path / "out").cell(cell("classical", fold)))
            (point,) = [p for p in one.trace(1, one.plan().rounds[0]) if p.epoch == epoch]
            aucs.append(point.test_auc)
        assert classical.means[position] == pytest.approx(np.mean(aucs))
        assert classical.deviations[position] == pytest.approx(np.std(aucs, ddof=1))
        assert classical.cells[position] == 2
    assert found.readings > found.wanted
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Test AUC of alpha after every epoch" in page
    assert not load(finished).traces


def write_plan(path: Path, plan: Plan) -> Path:
    path.write_text(plan.to_json())
    return path


def test_a_plan_is_compared_like_a_strategy(copied: Path, tmp_path: Path) -> None:
    """Equal to hydra in all but the dropout, it is added later; its file is not needed again."""
    file = write_plan(tmp_path / "mine.json", edit_plan(plan_of(), {"rounds.3.dropout": 0.3}))
    given = [*arguments("hydra", "transfer", out=copied), "--plan", f"mine={file}"]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    found = load(copied)
    assert [each.name for each in found.strategies] == ["hydra", "transfer", "mine"]
    assert [pair.against for pair in found.pairs] == ["transfer", "mine"]
    here = CompareDir(copied)
    for fold in (0, 1):
        mine, hydra = (RunDir(here.cell(cell(name, fold))).plan() for name in ("mine", "hydra"))
        assert mine.strategy == "mine"
        assert mine.datasets == hydra.datasets
        assert edit_plan(hydra, {"rounds.3.dropout": 0.3}).rounds == mine.rounds
        mine_keys, hydra_keys = (
            [row["key"] for row in predictions(copied, cell(name, fold))]
            for name in ("mine", "hydra")
        )
        assert mine_keys == hydra_keys
    shared = count(copied, "round shared")
    assert shared["mine-seed0-repeat0-fold0"] == 2  # the two rounds before that with the change
    about = found.plans["mine"]
    stored = (copied / "plans" / "mine.json").read_bytes()
    assert about.sha256 == hashlib.sha256(stored).hexdigest()
    assert about.differences == ("rounds.3.dropout=0.3 (there 0.1)",)
    page = (copied / "report.html").read_text()
    assert about.sha256 in page
    assert "rounds.3.dropout=0.3" in page
    assert f"--plan mine={copied / 'plans' / 'mine.json'}" in page.replace("\n", " ")
    before = tree(copied / "cells")
    file.unlink()
    for text in ("mine", f"mine={file}"):
        again = [*arguments("mine", "hydra", out=copied), "--plan", text]
        assert CliRunner().invoke(main, again).exit_code == 0
        assert [pair.against for pair in load(copied).pairs] == ["hydra"]
        assert load(copied).pairs[0].strategy == "mine"
    assert tree(copied / "cells") == before
    assert status(copied).cells is not None
    write_plan(file, edit_plan(plan_of(), {"rounds.3.dropout": 0.4}))
    again = CliRunner().invoke(main, given)
    assert again.exit_code == 1
    assert "--plan mine: is another plan than the one of this name" in again.output
    none = CliRunner().invoke(main, [*arguments("hydra", out=copied), "--plan", "other"])
    assert "has no plan of this name" in none.output


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"target": "beta"}, ["target of the plan is 'beta'", "'alpha'"]),
        ({"copies": "drop"}, ["copies 'drop'", "--copies drop"]),
        ({"conflicts": "keep"}, ["conflicts 'keep'"]),
    ],
)
def test_a_plan_that_contradicts_is_refused_before_training(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    plan = plan_of()
    if "target" in changes:
        plan = make_plan("hydra", ["alpha", "beta"], plugins=load_plugins(), **SETTINGS)
        changes = {}
    plan = plan.model_copy(update=changes)
    design = design_of("hydra", named_plans={"mine": plan})
    refused(lambda: run(design, tmp_path / "out"), "'mine'", *words)
    assert not (tmp_path / "out").exists()


def test_what_a_plan_may_change_and_what_not(tmp_path: Path) -> None:
    """Its images may be others, but it must test the same cases."""
    whole = plan_of("classical")
    offered = load_plugins()
    other = edit_plan(whole, {"datasets.alpha.normalise": "image", "datasets.alpha.split.val": 2})
    design = design_of("hydra", named_plans={"mine": other})
    plan = design.plan(cell("mine", 1), offered)
    fold = design.plan(cell("hydra", 1), offered).dataset("alpha").split.fold
    assert plan.dataset("alpha").split == Split(train=8, val=2, fold=fold)
    assert [each.name for each in plan.datasets] == ["alpha", "beta"]
    refused(
        lambda: design_of(named_plans={"hydra": other}, strategies=()).plans(offered),
        "--plan hydra: is the name of a strategy",
    )
    refused(lambda: design_of().plans(offered), "no strategy and no plan")
    extra = make_plan("hydra", ["gamma", "alpha"], plugins=offered, **SETTINGS)
    refused(
        lambda: design_of("hydra", named_plans={"mine": extra}).plans(offered),
        "strategy 'mine': the plan has the dataset 'gamma'",
        "--datasets",
    )
    single = edit_plan(whole, {"datasets.alpha.split.test": 2})
    refused(
        lambda: run(design_of("classical", folds=None, named_plans={"mine": single}), tmp_path),
        "strategy 'mine': the plan tests other cases",
    )
    result = run(design_of("classical", named_plans={"mine": other}), tmp_path / "out")
    assert result.failed == {}
    assert result.comparison is not None
    assert result.comparison.plans["mine"].differences is not None
    assert any("normalise" in each for each in result.comparison.plans["mine"].differences)
    assert run(design_of("classical", named_plans={"mine": other}), tmp_path / "out").failed == {}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, finished: Path) -> Iterator[Counter[str]]:
    """Short heartbeats, no reports, and cells that were trained before; how often each was run."""
    for name, value in {"BEAT": 0.05, "LIMIT": 1.0, "WAIT": 0.01}.items():
        monkeypatch.setattr(claims, name, value)
    monkeypatch.setattr(join, "WAIT", 0.01)
    monkeypatch.setattr(join, "PAUSE", 0.05)
    monkeypatch.setattr(engine, "write_comparison_report", lambda *_, **__: None)
    ran: Counter[str] = Counter()

    def run_job(job: Job) -> None:
        ran[job.name] += 1
        job.out.mkdir(exist_ok=True)
        with locked(job.out):
            shutil.copytree(
                finished / "cells" / job.name,
                job.out,
                dirs_exist_ok=True,
                ignore=shutil.ignore_patterns(".lock"),
            )

    monkeypatch.setattr(helpers, "run_job", run_job)
    return ran


class Shared(CompareCallback):
    """Lets others act after a number of cells."""

    def __init__(self, after: int, act: Callable[[], None]) -> None:
        self.after, self.act = after, act
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def done(self, cell: Cell, run: RunDir, before: bool) -> None:
        self.after -= 1
        if self.after == 0:
            self.act()


def stop() -> None:
    raise StopError


def test_processes_that_join_share_the_cells(
    tmp_path: Path, finished: Path, quick: Counter[str]
) -> None:
    """One joins after a cell and leaves after another, and nobody runs a cell again."""
    design, out = design_of("hydra", "transfer"), tmp_path / "out"
    second = Shared(2, stop)

    def others() -> None:
        with pytest.raises(StopError):
            run(design, out, join=True, callback=second)
        assert len(quick) == 2
        now = status(out)
        assert isinstance(now, ComparisonStatus)
        assert now.state == "running"
        assert now.members == (f"pid {os.getpid()} on {platform.node()}",)
        refused(
            lambda: run(design_of("hydra", "transfer", seeds=2), out, join=True),
            "shares a comparison here with other strategies, plans, baselines, seeds or repeats",
        )
        refused(lambda: run(design, out), "shares work here (--join)", "--join too")

    shared = run(design, out, join=True, callback=Shared(1, others))
    assert shared.failed == {}
    assert second.notes == [f"pid {os.getpid()} on {platform.node()} shares this comparison"]
    assert quick == Counter(path.name for path in (finished / "cells").iterdir())
    assert load(out) == load(finished) == shared.comparison
    assert {path.stem for path in (out / "claims").glob("*-*.0")} == set(quick)
    assert run(design, out).comparison == load(finished)  # alone
    assert sum(quick.values()) == 4
    assert "claims" in [each.path.name for each in clean(out, lambda _: True)]
    assert status(out).state == "finished"


def test_cells_of_a_dead_machine_are_taken_over_with_their_locks(
    tmp_path: Path, finished: Path, quick: Counter[str]
) -> None:
    out, name = tmp_path / "out", cell("transfer", 1).name
    dead = claims.Participant(out)
    dead.join()
    assert dead.take(name)
    folder = out / "cells" / name
    folder.mkdir(parents=True)
    with another_process(folder):  # its lock, which the server still keeps
        assert run(design_of("hydra", "transfer"), out, join=True).failed == {}
    assert (out / "claims" / f"{name}.1").is_file()
    assert dead.state(dead.id) == claims.SILENT
    assert load(out) == load(finished)


def test_who_joins_tries_failed_and_deleted_cells_again(
    copied: Path, finished: Path, quick: Counter[str]
) -> None:
    """Also those whose owner finished them before it left."""
    design = design_of("hydra", "transfer")
    failed, deleted = (copied / "cells" / cell("hydra", fold).name for fold in (0, 1))
    with claims.Participant(copied) as before:
        for path in (failed, deleted):
            assert before.take(path.name)
            before.finish(path.name)
            shutil.rmtree(path)
    failed.with_name(f"{failed.name}.failed").write_text("it failed\n")
    assert run(design, copied, join=True).failed == {}
    assert quick == {failed.name: 1, deleted.name: 1}
    assert load(copied) == load(finished)


@pytest.mark.usefixtures("quick")
def test_who_joins_refuses_a_process_that_is_alone(copied: Path) -> None:
    design = design_of("hydra", "transfer")
    with locked(copied):
        refused(lambda: run(design, copied, join=True), "does not share its work")


def test_a_process_that_was_suspended_stops_its_cells(
    tmp_path: Path, finished: Path, quick: Counter[str]
) -> None:
    """Others have declared it gone; what it has done counts, and it can join again."""
    design, out = design_of("hydra", "transfer"), tmp_path / "out"

    def declare_gone() -> None:
        observer = claims.Observer(out)
        (member,) = observer.present()
        claims.create_once(observer.members / f"{member}.gone", claims.SILENT)
        time.sleep(0.3)  # six heartbeats

    refused(lambda: run(design, out, join=True, callback=Shared(3, declare_gone)), "was suspended")
    assert len(quick) == 3
    assert run(design, out, join=True).failed == {}
    assert sum(quick.values()) == 4
    assert load(out) == load(finished)


@pytest.mark.usefixtures("quick")
def test_a_shared_cell_that_is_done_may_still_write_its_report(copied: Path) -> None:
    """Its files say that it is done before its process has ended."""
    each = cell("hydra", 0)
    waiting, ended = {each.name: each}, list[list[str]]([[each.name], []])
    shutil.rmtree(copied / "cells" / each.name)

    class Driver:
        def submit(self, groups: object) -> None:
            pass

        def poll(self) -> list[SimpleNamespace]:
            waiting.clear()
            return [SimpleNamespace(name=name) for name in ended.pop()]

    with claims.Participant(copied) as member:
        cells = join.SharedCells(member, CompareDir(copied), {each: cast("Plan", None)})
        join.run_shared(
            member,
            cast("JobDriver", Driver()),
            cells,
            processes=1,
            waiting=waiting,
            job_of=lambda _: cast("Job", None),
        )
        assert ended == []
        assert member.held == {}
