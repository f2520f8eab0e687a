"""Evaluation of a comparison: scores of its cells on findings that all strategies tested."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from hydrakit.compare.design import Cell, CompareDir, Design
from hydrakit.compare.nested import tuned_cells
from hydrakit.data.origin import DataOrigin, refuse_changed
from hydrakit.data.prepared.index import Index
from hydrakit.errors import DataError
from hydrakit.hooks import SequenceStrategy
from hydrakit.models.intensity import STATISTICS
from hydrakit.plan.results import Results
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.rundir import RunDir
from hydrakit.search.candidates import Origins, data_key
from hydrakit.stats.comparison import ComparedPlan, Comparison, StrategyPair, StrategyResult
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
ANOTHER = "start a new comparison with another `--out`"


@dataclass(frozen=True, kw_only=True)
class ScoredCases:
    """Cases of the target, as needed to evaluate their scores.

    Attributes:
        positive: Class treated as positive.
        finding: Finding of each case, by key of the case.
        patient: Patient of each case, by key of the case; patients who are joined by a group or by
            copies of an image are the same.
        subgroups: Subgroups of each finding, by name of the finding.
        origins: What the cells must be computed from, by dataset; splits are of the first cell.
        channels: Number of channels of the network's images.
        tuned: The same for tuned cells (`hydrakit.compare.nested.check_tuning`).
    """

    positive: str
    finding: Mapping[str, str]
    patient: Mapping[str, str]
    subgroups: Mapping[str, Subgroups]
    origins: Mapping[str, DataOrigin]
    channels: int = 1
    tuned: Origins = field(default_factory=dict)

    def origins_of(self, run: RunDir) -> Mapping[str, DataOrigin]:
        """What the run of a cell must be computed from, by dataset."""
        if not self.tuned or not run.plan_path.is_file():
            return self.origins
        return self.tuned.get(data_key(run.plan()), self.origins)


def scored_cases(
    index: Index,
    units: Mapping[str, str],
    positive: str,
    origins: Mapping[str, DataOrigin],
    *,
    channels: int = 1,
) -> ScoredCases:
    """The `ScoredCases` of a prepared dataset.

    Args:
        index: Index of the dataset.
        units: Name of what must stay in one split, by key of the case (`LeakageResult.units`).
        positive: Class treated as positive.
        origins: All datasets as they are now, by name.
        channels: Number of channels of the network's images.
    """
    names = [case.finding for case in index.cases]
    findings = Findings.of(names)
    subgroups = findings.subgroups([case.subgroups for case in index.cases])
    return ScoredCases(
        positive=positive,
        finding={case.key: case.finding for case in index.cases},
        patient=dict(units),
        subgroups=dict(zip((names[first] for first in findings.firsts), subgroups, strict=True)),
        origins=origins,
        channels=channels,
    )


def baseline_texts(design: Design, plugins: Plugins, channels: int) -> dict[str, str]:
    """The strategies of a design that are baselines, each with a description for sentences.

    Args:
        design: Design of the comparison.
        plugins: Plugins with the strategies.
        channels: Number of channels of the network's images.
    """
    numbers = len(STATISTICS) * channels
    texts = {
        "intensity": f"a logistic regression on {'eleven' if channels == 1 else numbers} "
        "intensities",
        "probe": "a logistic regression on the features of the body as it begins",
    }
    return {
        name: texts.get(name, f"the baseline {name}")
        for name in design.all_strategies
        if name not in design.named_plans
        and (name in design.baselines or plugins.get(SequenceStrategy, name).baseline)
    }


def refuse_other_data(compare_dir: CompareDir, cells: Sequence[Cell], cases: ScoredCases) -> None:
    """Refuse cells that were computed from other data than the datasets as they are now.

    Raises:
        DataError: A dataset has changed since a cell began.
    """
    for cell in cells:
        run = RunDir(compare_dir.cell(cell))
        earlier = run.origins()
        for name, now in cases.origins_of(run).items():
            refuse_changed(
                name,
                earlier.get(name, DataOrigin()),
                now,
                since=f"{run.path} was computed",
                remedy=ANOTHER,
            )


def compare_cells(
    compare_dir: CompareDir,
    design: Design,
    cases: ScoredCases,
    baselines: Mapping[str, str] = MappingProxyType({}),
    plans: Mapping[str, ComparedPlan] = MappingProxyType({}),
    *,
    under_way: bool = False,
) -> Comparison | None:
    """Compare the strategies by the cells that are done; None if no fold has all strategies.

    A (seed, repeat, fold) is used if all strategies have finished it, so that all strategies are
    compared on the same findings.

    Args:
        compare_dir: Folder of the comparison.
        design: Design of the comparison.
        cases: Cases of the target.
        baselines: Strategies that are baselines, each with its description.
        plans: Strategies that are plans from files, each with what it is.
        under_way: Whether cells are still running.

    Raises:
        DataError: Cells contradict one another, or no fold has findings of both classes.
        PlanError: A file of a cell cannot be read.
    """
    cells = design.cells()
    status = {cell: compare_dir.status(cell) for cell in cells}
    missing = {cell.group for cell in cells if status[cell] != "done"}
    used = [cell for cell in cells if cell.group not in missing]
    if not used:
        return None
    refuse_other_data(compare_dir, used, cases)
    tables = {
        name: gather(_rows(compare_dir, [cell for cell in used if cell.strategy == name], cases))
        for name in design.all_strategies
    }
    first = tables[design.all_strategies[0]]
    pairs = _pairs(tables, baselines)
    area = mean_auc(first, level=LEVEL)
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
        positives=area.positives,
        negatives=area.negatives,
        patients=area.patients,
        strategies=tuple(
            _strategy_result(
                compare_dir,
                name,
                tables[name],
                [cell for cell in used if cell.strategy == name],
                cases.positive,
            )
            for name in design.all_strategies
        ),
        baselines=dict(baselines),
        pairs=pairs,
        verdict="\n".join(pair.text for pair in pairs) or "One strategy: nothing to compare with.",
        readings=sum(readings_of(RunDir(compare_dir.cell(cell))) for cell in cells),
        wanted=len(cells),
        done=sum(each == "done" for each in status.values()),
        under_way=under_way,
        failed={c.name: text for c, text in status.items() if text not in ("done", "waiting")},
        used=len(used),
        findings=first.findings,
        labels=tuple(first.labels.tolist()),
        patient_of=tuple(first.patients.tolist()),
        passes=first.passes,
        fold_of=tuple(tuple(f if f >= 0 else None for f in row) for row in first.folds.tolist()),
        images=int(first.images.sum()),
        tuned=tuned_cells(compare_dir, used) if design.tune else (),
        plans=dict(plans),
        subgroups=subgroups_of(tables, cases.subgroups, level=LEVEL),
    )


def _pairs(
    tables: Mapping[str, ScoreTable], baselines: Mapping[str, str]
) -> tuple[StrategyPair, ...]:
    """The first strategy compared with every baseline, then with every other strategy."""
    first, *others = tables
    others.sort(key=lambda name: name not in baselines)
    differences = {
        (first, other): compare(tables[first], tables[other], level=LEVEL) for other in others
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
        for verdict in verdicts(differences, baselines=baselines, level=LEVEL)
    )


def _strategy_result(
    compare_dir: CompareDir, name: str, table: ScoreTable, cells: Sequence[Cell], positive: str
) -> StrategyResult:
    area = mean_auc(table, level=LEVEL)
    results = [_results(compare_dir, cell) for cell in cells]
    vals = [_validation(compare_dir, cell, positive) for cell in cells]
    return StrategyResult(
        name=name,
        val=float(np.mean(vals)),
        auc=area.auc,
        low=area.low,
        high=area.high,
        cells=area.cells,
        left_out=area.left_out,
        seconds=sum(result.seconds for result in results),
        shared=sum(_shared(RunDir(compare_dir.cell(cell))) for cell in cells),
        scores=tuple(
            tuple(None if math.isnan(score) else score for score in row)
            for row in table.scores.tolist()
        ),
        mean_scores=tuple(np.nanmean(table.scores, axis=0).tolist()),
    )


def _results(compare_dir: CompareDir, cell: Cell) -> Results:
    results = RunDir(compare_dir.cell(cell)).results()
    assert results is not None
    return results


def _predictions(compare_dir: CompareDir, cell: Cell, split: str) -> list[dict[str, str]]:
    path = RunDir(compare_dir.cell(cell)).file("predictions.csv")
    with readable(path, f"delete {path.parent} and run again", error=DataError):
        rows = read_rows(path)
        if not all("split" in row for row in rows):
            raise ValueError("it has no column 'split'")
        return [row for row in rows if row["split"] == split]


def _rows(compare_dir: CompareDir, cells: Sequence[Cell], cases: ScoredCases) -> list[Row]:
    """Scores of the test cases of several cells.

    Raises:
        DataError: A case is no longer in the data.
    """
    rows = []
    for cell in cells:
        for row in _predictions(compare_dir, cell, "test"):
            key, finding = row["key"], row.get("finding")
            if key not in cases.patient or cases.finding[key] != finding:
                change = ", which is no longer in the data"
                if key in cases.patient:
                    change = f" of finding {finding!r}, but its finding has changed in the data"
                raise DataError(
                    f"{compare_dir.cell(cell)}: tested {key!r}{change}: restore the data, or "
                    f"{ANOTHER}"
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
    """1 if a case has the class, else 0; several labels of a case are separated by ``;``."""
    return int(positive in (row["label"], *row["label"].split(";")))


def _validation(compare_dir: CompareDir, cell: Cell, positive: str) -> float:
    """Validation AUC of the final network of a cell."""
    rows = _predictions(compare_dir, cell, "val")
    scores = [float(row[f"p_{positive}"]) for row in rows]
    return auc(scores, [_label(row, positive) for row in rows])


def readings_of(run: RunDir) -> int:
    """Number of times that the test labels of a run were read, by its ``events.jsonl``."""
    events = run.events()
    for member in run.begun_members():  # the run reads the labels for all networks of an ensemble
        events += [each for each in member.events() if each.by != "ensemble"]
    evaluations = [each for each in events if each.event == "evaluated"]
    tests = sum(each.event == "test read" for each in events)
    return tests + sum(each.split in ("test", "all") for each in evaluations)


def _shared(run: RunDir) -> int:
    networks = [run, *run.begun_members()]
    return sum(event.event == "round shared" for each in networks for event in each.events())
