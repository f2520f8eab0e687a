"""``compare --until-told``: which cells it needs, where it stops, and that it says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from compared import make_comparison
from helpers import refused

from hydrakit.cli import main
from hydrakit.cli.printing import print_comparison
from hydrakit.compare.design import Cell, CompareDir, Description, Design, make_design
from hydrakit.compare.looks import CellLooks, refuse_design, refuse_other_looks
from hydrakit.compare.scoring import _pairs_of_looks
from hydrakit.maintenance.status import ComparisonStatus, status
from hydrakit.report import write_comparison_report
from hydrakit.stats.comparison import Comparison
from hydrakit.stats.score_table import Row
from hydrakit.version import version


def design_of(*strategies: str, **changes: Any) -> Design:
    given = {"strategies": strategies, "datasets": ("alpha",), "folds": 5, "seeds": 3}
    return make_design(**(given | {"baselines": ()} | changes))


class Cells(CompareDir):
    """A folder whose cells are done as soon as they are asked for; some fail."""

    def __init__(self, path: Path, *, failing: Sequence[str] = ()) -> None:
        super().__init__(path)
        self.ended: set[Cell] = set()
        self.failing = failing

    def status(self, cell: Cell) -> str:
        if cell not in self.ended:
            return "waiting"
        return "it diverged" if cell.name in self.failing else "done"


def rows_of(gains: dict[str, float]) -> Callable[[Sequence[Cell]], list[Row]]:
    """Scores of 60 findings; a strategy adds its gain to those of the positive ones."""

    def rows(cells: Sequence[Cell]) -> list[Row]:
        found = []
        for cell in cells:
            for number in range(60):
                if number // 3 % 5 != cell.fold:
                    continue
                common = np.random.default_rng(number).normal()
                own = np.random.default_rng((number, cell.seed, len(cell.strategy))).normal()
                found.append(
                    Row(
                        finding=f"f{number:02}", patient=f"p{number:02}",
                        label=int(number % 3 == 0),
                        score=common + 0.5 * own + gains[cell.strategy] * (number % 3 == 0),
                        seed=cell.seed, repeat=cell.repeat, fold=cell.fold,
                    )
                )  # fmt: skip
        return found

    return rows


GAINS = {"hydra": 3.5, "transfer": 3.2, "classical": 0.0}


def run(looks: CellLooks, cells: Cells, *, processes: int = 1, backwards: bool = False) -> int:
    """Run all cells that the looks need; the number of stages."""
    stages = 0
    while waiting := looks.waiting(processes):
        stages += 1
        for cell in reversed(waiting) if backwards else waiting:
            cells.ended.add(cell)
            if backwards:
                looks.advance()
        looks.advance()
    return stages


def followed(
    tmp_path: Path,
    *,
    failing: Sequence[str] = (),
    done: Sequence[Cell] = (),
    stops: bool = True,
    **how: Any,
) -> tuple[CellLooks, Cells, int]:
    cells = Cells(tmp_path, failing=failing)
    cells.ended.update(done)
    looks = CellLooks(cells, design_of(*GAINS), rows_of(GAINS), stops=stops)
    looks.advance()
    return looks, cells, run(looks, cells, **how)


def test_a_strategy_that_is_decided_is_not_trained_any_more(tmp_path: Path) -> None:
    looks, cells, _ = followed(tmp_path)
    results = looks.results()
    assert results["classical"][1].reason == "decided"
    assert results["classical"][0] < results["transfer"][0]
    assert looks.over
    folds = {name: {c.fold for c in cells.ended if c.strategy == name} for name in GAINS}
    assert len(folds["classical"]) < len(folds["hydra"])
    assert folds["transfer"] == folds["hydra"]
    needed = {cell.name for cell in cells.ended}
    assert {c.name for c in design_of(*GAINS).cells()} - needed == {
        cell.name for cell in looks.not_needed()
    }
    assert looks.dropped() == {"classical": results["classical"][0]}


def test_looks_do_not_depend_on_the_order_or_the_number_of_processes(tmp_path: Path) -> None:
    one, cells, stages = followed(tmp_path)
    many, more, fewer = followed(tmp_path, processes=20)
    odd, _, _ = followed(tmp_path, backwards=True)
    resumed, _, _ = followed(tmp_path, done=[cell for cell in more.ended if cell.fold != 1])
    full, _, once = followed(tmp_path, done=design_of(*GAINS).cells())
    assert one.series.taken == many.series.taken == odd.series.taken == resumed.series.taken
    assert one.series.taken == full.series.taken
    assert fewer < stages
    assert once == 0
    assert len(cells.ended) <= len(more.ended)


def test_a_failed_cell_ends_the_looks_at_its_strategy_only(tmp_path: Path) -> None:
    failing = ["transfer-seed1-repeat0-fold2"]
    looks, _, _ = followed(tmp_path, failing=failing)
    assert set(looks.failed) == {"transfer"}
    assert looks.results()["classical"][1].reason == "decided"
    assert "failed" in looks.sentence("transfer", decided="cannot tell")
    looks, cells, _ = followed(tmp_path, failing=["hydra-seed0-repeat0-fold0"])
    assert looks.results() == {}
    assert looks.over
    assert {cell.fold for cell in cells.ended} == {0, 1}
    assert looks.used() == []


def test_without_stops_all_cells_are_trained_and_all_looks_count(tmp_path: Path) -> None:
    looks, cells, stages = followed(tmp_path, stops=False)
    assert stages == 1
    assert cells.ended == set(design_of(*GAINS).cells())
    assert len(looks.series.taken) == len(looks.series.looks)
    assert looks.not_needed() == []
    pairs = {pair.against: pair for pair in _pairs_of_looks(looks, {})}
    assert pairs["classical"].verdict == "better"
    assert "after correction for 4 looks and 2 comparisons" in pairs["classical"].text
    assert "All cells are trained" in pairs["transfer"].text


def test_the_verdict_says_where_it_stopped(tmp_path: Path) -> None:
    looks, _, _ = followed(tmp_path)
    pairs = {pair.against: pair for pair in _pairs_of_looks(looks, {})}
    number, at_look = looks.results()["classical"]
    where = f"look {number} of 4 ({number + 1} of 5 folds in 3 of 3 passes)"
    assert pairs["classical"].verdict == "better"
    assert f"Stopped early at {where}" in pairs["classical"].text
    assert pairs["classical"].level == 1 - looks.series.levels[number - 1]
    assert pairs["classical"].p == at_look.pair.p < pairs["classical"].p_holm
    assert pairs["transfer"].verdict == "cannot tell"
    assert "with a probability of" in pairs["transfer"].text


@pytest.mark.parametrize(
    ("changes", "positive", "task", "word"),
    [
        ({}, None, "multilabel", "--positive"),
        ({}, None, "regression", "numbers"),
        ({"strategies": ("hydra",)}, "b", "classification", "two strategies"),
        ({"folds": None, "leave_out": "scanner"}, "b", "classification", "'scanner'"),
        ({"folds": None, "seeds": 2}, "b", "classification", "add --seeds"),
        ({"folds": 2, "seeds": 1}, "b", "classification", "add --seeds"),
    ],
)
def test_what_cannot_stop_early_is_refused(
    changes: dict[str, Any], positive: str | None, task: Any, word: str
) -> None:
    design = design_of(*changes.pop("strategies", GAINS), **changes)
    refused(lambda: refuse_design(design, positive, task), "--until-told", word)


def describe(folder: Path, design: Design, **more: Any) -> None:
    made = Description(
        format=4, hydrakit=version(), digest=design.digest, design=design, positive="b",
        status={}, looks=True, **more,
    )  # fmt: skip
    CompareDir(folder).write(made)


def test_looks_that_were_planned_stay_the_same(tmp_path: Path) -> None:
    describe(tmp_path, design_of(*GAINS))
    refuse_other_looks(CompareDir(tmp_path), design_of("hydra", "other"))
    more = design_of(*GAINS, seeds=4)
    refused(lambda: refuse_other_looks(CompareDir(tmp_path), more), "--seeds 3", str(tmp_path))


def test_the_status_tells_cells_that_are_not_needed(tmp_path: Path) -> None:
    design = design_of("hydra", "transfer", seeds=1)
    (tmp_path / "comparison.json").write_text("{}")
    describe(tmp_path, design, not_needed=[cell.name for cell in design.cells()])
    found = status(tmp_path)
    assert isinstance(found, ComparisonStatus)
    assert found.state == "finished"
    assert {each.state for each in found.cells} == {"not needed"}
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert "10 not needed" in result.output


LOOKS: dict[str, Any] = {
    "stops": True,
    "needed": 20,
    "planned": [
        {
            "cells": "2 of 4 folds in 2 of 2 passes", "time": 0.5, "level": 0.003,
            "pairs": [
                {
                    "against": name, "difference": 0.1, "low": -0.1, "high": 0.3, "p": 0.2,
                    "p_looks": 0.5, "chance": None if ended == "decided" else 0.3, "ended": ended,
                }
                for name, ended in (("transfer", None), ("classical", None), ("probe", "decided"))
            ],
        },
        {
            "cells": "3 of 4 folds in 2 of 2 passes", "time": 0.75, "level": 0.02,
            "pairs": [
                {
                    "against": name, "difference": 0.1, "low": -0.1, "high": 0.3, "p": 0.2,
                    "p_looks": 0.5, "chance": 0.04, "ended": "no change expected",
                }
                for name in ("transfer", "classical")
            ],
        },
        {"cells": "4 of 4 folds in 2 of 2 passes", "time": 1, "level": 0.043},
    ],
    "dropped": [
        {"name": "probe", "look": 1, "auc": 0.7, "low": 0.6, "high": 0.8, "cells": 4, "seconds": 3}
    ],
}  # fmt: skip


def test_report_and_terminal_show_the_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_comparison(tmp_path, format=4, looks=LOOKS, baselines={"probe": "a regression"})
    page = write_comparison_report(tmp_path).read_text(encoding="utf-8")
    for text in (
        "Stopped early: 3 looks at the results were planned, and look 2 was the last one",
        "20 of 24 cells were needed",
        "not taken",
        "no change expected",
        "look 1 of 3",
        "--until-told",
        "--baselines probe",
    ):
        assert text in page, text
    assert "Incomplete" not in page
    print_comparison(made)
    printed = capsys.readouterr().out
    assert "Stopped early: 3 looks" in printed
    assert "ended before the others" in printed
    assert Comparison.model_validate_json(made.model_dump_json()) == made
