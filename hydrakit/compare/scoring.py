"""Judging the cells of a comparison: their scores put together, on the findings that all tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.compare.design import Cell, CompareDir, Design
from hydrakit.data.prepared.index import Index
from hydrakit.errors import DataError
from hydrakit.plan.results import Results
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison, StrategyPair, StrategyResult
from hydrakit.stats.findings import Findings, Subgroups
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.metrics import auc
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.stats.subgroups import subgroups_of
from hydrakit.stats.verdict import verdicts
from hydrakit.storage.files import read_rows
from hydrakit.storage.records import readable
from hydrakit.version import version

LEVEL = 0.95


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """The target's cases.

    Attributes:
        positive: The class that counts as positive.
        finding: Of each case, by key: what it is an image of.
        patient: Of each case, by key: those that groups or copies join are one.
        subgroups: Of each finding, by name: what subgroups it is in.
    """

    positive: str
    finding: Mapping[str, str]
    patient: Mapping[str, str]
    subgroups: Mapping[str, Subgroups]


def scored_cases(index: Index, units: Mapping[str, str], positive: str) -> ScoredCases:
    """The cases of a prepared dataset.

    Args:
        index: Of the dataset.
        units: By key, what must stay on one side of a split (`LeakageResult.units`).
        positive: The class that counts as positive.
    """
    names = [case.finding for case in index.cases]
    found = Findings.of(names)
    told = found.subgroups([case.subgroups for case in index.cases])
    return ScoredCases(
        positive=positive,
        finding={case.key: case.finding for case in index.cases},
        patient=dict(units),
        subgroups=dict(zip((names[first] for first in found.firsts), told, strict=True)),
    )


def compare_cells(
    here: CompareDir, design: Design, cases: ScoredCases, *, under_way: bool = False
) -> Comparison | None:
    """The comparison of the cells that are done, or None where no fold has all strategies.

    A (seed, repeat, fold) counts where every strategy finished it, so that all are judged by the
    same findings.

    Args:
        here: The comparison's folder.
        design: Its cells.
        cases: Of the target.
        under_way: Whether cells are being run.

    Raises:
        DataError: Cells contradict one another, or no fold tested both classes.
        PlanError: A file of a cell cannot be read.
    """
    cells = design.cells()
    status = {cell: here.status(cell) for cell in cells}
    missing = {cell.group for cell in cells if status[cell] != "done"}
    used = [cell for cell in cells if cell.group not in missing]
    if not used:
        return None
    tested = {
        name: gather(_rows(here, [cell for cell in used if cell.strategy == name], cases))
        for name in design.strategies
    }
    one = tested[design.strategies[0]]
    pairs = _pairs(tested)
    found = mean_auc(one, level=LEVEL)
    return Comparison(
        hydrakit=version(),
        digest=design.digest,
        datasets=design.datasets,
        target=design.target,
        positive=cases.positive,
        seeds=design.seeds,
        repeats=design.repeats,
        folds=design.folds,
        level=LEVEL,
        positives=found.positives,
        negatives=found.negatives,
        patients=found.patients,
        strategies=tuple(
            _figures(
                here,
                name,
                tested[name],
                [cell for cell in used if cell.strategy == name],
                cases.positive,
            )
            for name in design.strategies
        ),
        pairs=pairs,
        verdict="\n".join(pair.text for pair in pairs) or "One strategy: nothing to compare with.",
        readings=sum(readings_of(RunDir(here.cell(cell))) for cell in cells),
        wanted=len(cells),
        done=sum(each == "done" for each in status.values()),
        under_way=under_way,
        failed={c.name: said for c, said in status.items() if said not in ("done", "waiting")},
        used=len(used),
        findings=one.findings,
        labels=tuple(one.labels.tolist()),
        patient_of=tuple(one.patients.tolist()),
        passes=one.passes,
        fold_of=tuple(tuple(f if f >= 0 else None for f in row) for row in one.folds.tolist()),
        images=int(one.images.sum()),
        subgroups=subgroups_of(tested, cases.subgroups, level=LEVEL),
    )


def _pairs(tested: Mapping[str, ScoreTable]) -> tuple[StrategyPair, ...]:
    first, *others = tested
    differences = {
        (first, other): compare(tested[first], tested[other], level=LEVEL) for other in others
    }
    return tuple(
        StrategyPair(
            strategy=verdict.first,
            against=verdict.second,
            difference=verdict.difference,
            low=verdict.low,
            high=verdict.high,
            p=differences[verdict.first, verdict.second].p,
            p_holm=1.0 if verdict.p is None else verdict.p,
            verdict=verdict.kind,
            findings_needed=(
                None if verdict.needed is None or math.isinf(verdict.needed) else verdict.needed
            ),
            text=verdict.text,
        )
        for verdict in verdicts(differences, level=LEVEL)
    )


def _figures(
    here: CompareDir, name: str, tested: ScoreTable, cells: Sequence[Cell], positive: str
) -> StrategyResult:
    found = mean_auc(tested, level=LEVEL)
    results = [_results(here, cell) for cell in cells]
    vals = [_validation(here, cell, positive) for cell in cells]
    return StrategyResult(
        name=name,
        val=float(np.mean(vals)),
        auc=found.auc,
        low=found.low,
        high=found.high,
        cells=found.cells,
        left_out=found.left_out,
        seconds=sum(round.seconds for result in results for round in result.rounds),
        shared=sum(_shared(RunDir(here.cell(cell))) for cell in cells),
        scores=tuple(
            tuple(None if math.isnan(score) else score for score in row)
            for row in tested.scores.tolist()
        ),
        mean_scores=tuple(np.nanmean(tested.scores, axis=0).tolist()),
    )


def _results(here: CompareDir, cell: Cell) -> Results:
    results = RunDir(here.cell(cell)).results()
    assert results is not None
    return results


def _predictions(here: CompareDir, cell: Cell, split: str) -> list[dict[str, str]]:
    path = RunDir(here.cell(cell)).file("predictions.csv")
    with readable(path, f"delete {path.parent} and run again", error=DataError):
        rows = read_rows(path)
        if not all("split" in row for row in rows):
            raise ValueError("it has no column 'split'")
        return [row for row in rows if row["split"] == split]


def _rows(here: CompareDir, cells: Sequence[Cell], cases: ScoredCases) -> list[Row]:
    """The scores of all tested cases of some cells.

    Raises:
        DataError: A case is not in the data any more.
    """
    rows = []
    for cell in cells:
        for row in _predictions(here, cell, "test"):
            key, finding = row["key"], row.get("finding")
            if key not in cases.patient or cases.finding[key] != finding:
                what = ", which the data has no more"
                if key in cases.patient:
                    what = f" as an image of {finding!r}, which the data now tells otherwise"
                raise DataError(
                    f"{here.cell(cell)}: tested {key!r}{what}: restore the data, or begin anew "
                    "with another `--out`"
                )
            rows.append(
                Row(
                    finding=finding,
                    patient=cases.patient[key],
                    label=_label(row, cases.positive),
                    score=float(row[f"p_{cases.positive}"]),
                    seed=cell.seed,
                    repeat=cell.repeat,
                    fold=cell.fold,
                )
            )
    return rows


def _label(row: Mapping[str, str], positive: str) -> int:
    """Whether a case has the class; the labels of one with several are joined by ``;``."""
    return int(positive in (row["label"], *row["label"].split(";")))


def _validation(here: CompareDir, cell: Cell, positive: str) -> float:
    """Validation AUC of the network that a cell ended with."""
    rows = _predictions(here, cell, "val")
    scores = [float(row[f"p_{positive}"]) for row in rows]
    return auc(scores, [_label(row, positive) for row in rows])


def readings_of(run: RunDir) -> int:
    """How often the test labels of a run were read, by its ledger (``events.jsonl``)."""
    events = run.events()
    later = [each for each in events if each.event == "evaluated"]
    at_end = [each for each in events if each.event == "test read"]
    return len(at_end) + len([each for each in later if each.split in ("test", "all")])


def _shared(run: RunDir) -> int:
    return sum(each.event == "round shared" for each in run.events())
