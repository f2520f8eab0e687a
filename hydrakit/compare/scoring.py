"""Evaluation of a comparison: scores of its cells on findings that all strategies tested."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from hydrakit.compare.design import Cell, CompareDir, Design
from hydrakit.compare.looks import CellLooks
from hydrakit.compare.nested import tuned_cells
from hydrakit.data.origin import DataOrigin, refuse_changed
from hydrakit.data.prepared.index import Index
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, SequenceStrategy, Task
from hydrakit.jobs.candidates import Origins, data_key
from hydrakit.models.intensity import STATISTICS
from hydrakit.plan.results import Event
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.rundir import TRACE, RunDir
from hydrakit.stats.comparison import (
    ComparedPlan,
    Comparison,
    DroppedStrategy,
    EpochTrace,
    LeaveOut,
    Looks,
    PairLook,
    StrategyPair,
    StrategyResult,
    TakenLook,
)
from hydrakit.stats.findings import Findings, Subgroups
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.label_cells import has_label
from hydrakit.stats.metrics import auc, mean_absolute_error
from hydrakit.stats.paired import Measure, PairedDifference
from hydrakit.stats.score_table import Row, gather, gather_findings
from hydrakit.stats.scored import ClassScores, LabelScores, NumberScores, ScoredStrategies
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
        positive: Class treated as positive; None for several labels and for numbers.
        task: Task of the target.
        classes: Names of its classes or labels.
        finding: Finding of each case, by key of the case.
        patient: Patient of each case, by key of the case; patients who are joined by a group or by
            copies of an image are the same.
        subgroups: Subgroups of each finding, by name of the finding.
        origins: What the cells must be computed from, by dataset; splits are of the first cell.
        channels: Number of channels of the network's images.
        tuned: The same for tuned cells (`hydrakit.compare.nested.check_tuning`).
        notes: Sentences about findings that are not tested, where values are left out.
    """

    positive: str | None
    finding: Mapping[str, str]
    patient: Mapping[str, str]
    subgroups: Mapping[str, Subgroups]
    origins: Mapping[str, DataOrigin]
    channels: int = 1
    tuned: Origins = field(default_factory=dict)
    task: Task = "classification"
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def measure(self) -> Measure:
        """Figure that strategies are compared by."""
        if self.positive is not None:
            return "AUC"
        return "mae" if self.task == "regression" else "mean AUC"

    def origins_of(self, run: RunDir) -> Mapping[str, DataOrigin]:
        """What the run of a cell must be computed from, by dataset."""
        if not self.tuned or not run.plan_path.is_file():
            return self.origins
        return self.tuned.get(data_key(run.plan()), self.origins)


def scored_cases(
    index: Index,
    units: Mapping[str, str],
    positive: str | None,
    origins: Mapping[str, DataOrigin],
    *,
    adapter: DatasetAdapter,
    channels: int = 1,
) -> ScoredCases:
    """The `ScoredCases` of a prepared dataset.

    Args:
        index: Index of the dataset.
        units: Name of what must stay in one split, by key of the case (`LeakageResult.units`).
        positive: Class treated as positive; None for several labels and for numbers.
        origins: All datasets as they are now, by name.
        adapter: Adapter of the dataset.
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
        task=adapter.task,
        classes=adapter.classes,
    )


def baseline_texts(design: Design, plugins: Plugins, cases: ScoredCases) -> dict[str, str]:
    """The strategies of a design that are baselines, each with a description for sentences.

    Args:
        design: Design of the comparison.
        plugins: Plugins with the strategies.
        cases: Cases of the target.
    """
    numbers = len(STATISTICS) * cases.channels
    kind = "ridge" if cases.task == "regression" else "logistic"
    texts = {
        "intensity": f"a {kind} regression on {'eleven' if cases.channels == 1 else numbers} "
        "intensities",
        "probe": f"a {kind} regression on the features of the body as it begins",
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
    looks: CellLooks | None = None,
) -> Comparison | None:
    """Compare the strategies by the cells that are done; None if no fold has all strategies.

    A (seed, repeat, fold) is used if all strategies have finished it, so that all strategies are
    compared on the same findings. With looks, the cells of the last look are used, and each pair is
    that of the last look at it; None if no look was taken.

    Args:
        compare_dir: Folder of the comparison.
        design: Design of the comparison.
        cases: Cases of the target.
        baselines: Strategies that are baselines, each with its description.
        plans: Strategies that are plans from files, each with what it is.
        under_way: Whether cells are still running.
        looks: Looks that were taken; None if only all cells together are tested.

    Raises:
        DataError: Cells contradict one another, or no fold has findings of both classes.
        PlanError: A file of a cell cannot be read.
    """
    cells = design.cells()
    status = {cell: compare_dir.status(cell) for cell in cells}
    missing = {cell.group for cell in cells if status[cell] != "done"}
    used = [cell for cell in cells if cell.group not in missing]
    if looks is not None:
        used = looks.used()
    if not used:
        return None
    refuse_other_data(compare_dir, used, cases)
    cells_of = {
        name: each
        for name in design.all_strategies
        if (each := [cell for cell in used if cell.strategy == name])
    }
    records = {
        name: [_read(compare_dir, cell, cases) for cell in each] for name, each in cells_of.items()
    }
    scored = _scored(records, cases, whole_patients=design.leave_out is None)
    first = scored.one
    pairs = (
        _pairs(scored.differences(), baselines, scored.second_differences())
        if looks is None
        else _pairs_of_looks(looks, baselines)
    )
    positives = int((first.labels == 1).sum()) if cases.measure == "AUC" else 0
    return Comparison(
        format=4 if looks else 3 if design.leave_out else 1 if cases.measure == "AUC" else 2,
        hydrakit=version(),
        digest=design.digest,
        datasets=design.datasets,
        target=design.target,
        measure=cases.measure,
        positive=cases.positive,
        seeds=design.seeds,
        repeats=design.repeats,
        folds=design.folds,
        level=LEVEL,
        positives=positives,
        negatives=len(first.findings) - positives if cases.measure == "AUC" else 0,
        patients=len(np.unique(first.patients)),
        strategies=tuple(
            _strategy_result(name, each, scored.figures(name)) for name, each in records.items()
        ),
        baselines=dict(baselines),
        pairs=pairs,
        verdict="\n".join(pair.text for pair in pairs) or "One strategy: nothing to compare with.",
        readings=sum(record.readings for each in records.values() for record in each)
        + sum(readings_of(RunDir(compare_dir.cell(cell))) for cell in {*cells} - {*used}),
        wanted=len(cells),
        done=sum(each == "done" for each in status.values()),
        under_way=under_way,
        failed={c.name: text for c, text in status.items() if text not in ("done", "waiting")},
        used=len(used),
        findings=first.findings,
        labels=() if cases.measure == "mean AUC" else tuple(first.labels.tolist()),
        patient_of=tuple(first.patients.tolist()),
        passes=first.passes,
        fold_of=tuple(tuple(f if f >= 0 else None for f in row) for row in first.folds.tolist()),
        images=int(first.images.sum()),
        tuned=tuned_cells(compare_dir, used) if design.tune else (),
        plans=dict(plans),
        traces=tuple(trace for name, each in records.items() if (trace := _trace(name, each))),
        subgroups=tuple(
            each for each in scored.subgroups(cases.subgroups) if each.name != design.leave_out
        ),
        label_aucs=scored.label_aucs(),
        leave_out=None
        if design.leave_out is None
        else LeaveOut(
            subgroup=design.leave_out,
            values=scored.by_fold(design.left_out_values),
            notes=cases.notes,
        ),
        looks=None if looks is None else _looks(compare_dir, looks, cases),
    )


def cell_looks(
    compare_dir: CompareDir, design: Design, cases: ScoredCases, *, stops: bool
) -> CellLooks:
    """The looks at a comparison of the AUC of a class.

    Args:
        compare_dir: Folder of the comparison.
        design: Design of the comparison.
        cases: Cases of the target.
        stops: Whether cells that can hardly change the verdict are left out.
    """

    def rows_of(cells: Sequence[Cell]) -> list[Row]:
        return _test_rows(compare_dir, cells, cases)

    return CellLooks(compare_dir, design, rows_of, stops=stops)


def _pairs_of_looks(looks: CellLooks, baselines: Mapping[str, str]) -> tuple[StrategyPair, ...]:
    """The pairs at the last look at each of them, with what the looks mean for them."""
    results = looks.results()
    differences = {
        (looks.first, name): replace(at.pair, p=at.p) for name, (_, at) in results.items()
    }
    pairs = _pairs(differences, baselines, {}, looks=len(looks.series.looks))
    return tuple(
        pair.model_copy(
            update={
                "level": at.pair.level,
                "p": at.pair.p,
                "text": f"{pair.text} {looks.sentence(pair.against, decided=pair.verdict)}",
            }
        )
        for pair in pairs
        for at in [results[pair.against][1]]
    )


def _looks(compare_dir: CompareDir, looks: CellLooks, cases: ScoredCases) -> Looks:
    """The looks as data."""
    series = looks.series
    planned = [
        TakenLook(
            cells=looks.text(number),
            time=look.time,
            level=level,
            pairs=tuple(
                PairLook(
                    against=name,
                    difference=each.pair.difference,
                    low=each.pair.low,
                    high=each.pair.high,
                    p=each.pair.p,
                    p_looks=each.p,
                    chance=each.chance,
                    ended=each.reason,
                )
                for at_look in series.taken[number - 1 : number]
                for name, each in at_look.items()
            ),
        )
        for number, (look, level) in enumerate(
            zip(series.looks, series.levels, strict=True), start=1
        )
    ]
    dropped = []
    for name, number in looks.dropped().items():
        cells = looks.cells(series.looks[number - 1], (name,)) if number else []
        figures: dict[str, float] = {}
        if cells:
            area = mean_auc(gather(_test_rows(compare_dir, cells, cases)), level=LEVEL)
            figures = {"auc": area.auc, "low": area.low, "high": area.high}
        dropped.append(
            DroppedStrategy(
                name=name,
                look=number,
                failed=name in looks.failed,
                cells=len(cells),
                seconds=sum(_read(compare_dir, cell, cases).seconds for cell in cells),
                **figures,
            )
        )
    return Looks(
        stops=looks.stops,
        planned=tuple(planned),
        needed=len(looks.needed()),
        dropped=tuple(dropped),
    )


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What the files of a finished cell say; each of them is read once.

    Attributes:
        rows: Scores of the test cases, by class or label; by None for numbers.
        validation: Validation figure of the final network: AUC, or mean absolute error.
        seconds: Training time.
        shared: Number of rounds that came from another cell.
        readings: Number of times that the test labels were read.
        trace: Number of an epoch, over all rounds, and the test figure after it.
    """

    rows: Mapping[str | None, list[Row]]
    validation: float
    seconds: float
    shared: int
    readings: int
    trace: Sequence[tuple[int, float]]


def _read(compare_dir: CompareDir, cell: Cell, cases: ScoredCases) -> _Record:
    """Read the files of a finished cell.

    Raises:
        DataError: A case is no longer in the data, or the validation cases give no figure.
        PlanError: A file cannot be read.
    """
    run = RunDir(compare_dir.cell(cell))
    results = run.results()
    assert results is not None
    predictions = _predictions(compare_dir, cell)
    test = [row for row in predictions if row["split"] == "test"]
    outputs: tuple[str | None, ...] = (cases.positive,)
    if cases.measure != "AUC":
        outputs = (None,) if cases.measure == "mae" else cases.classes
    events = _events(run)
    return _Record(
        rows={output: _rows(compare_dir, cell, test, cases, output) for output in outputs},
        validation=_validation(
            compare_dir, cell, [row for row in predictions if row["split"] == "val"], cases
        ),
        seconds=results.seconds,
        shared=sum(event.event == "round shared" for each in events for event in each),
        readings=_readings(events),
        trace=list(_trace_of(run)),
    )


def _test_rows(compare_dir: CompareDir, cells: Iterable[Cell], cases: ScoredCases) -> list[Row]:
    """Scores of the test cases of several cells for the positive class."""
    return [row for cell in cells for row in _read(compare_dir, cell, cases).rows[cases.positive]]


def _scored(
    records: Mapping[str, Sequence[_Record]], cases: ScoredCases, *, whole_patients: bool
) -> ScoredStrategies:
    """Test scores of all strategies.

    Args:
        records: Finished cells of each strategy.
        cases: Cases of the target.
        whole_patients: Whether a pass tests all findings of a patient in one fold.

    Raises:
        DataError: Cells contradict one another, or the findings give no figure.
    """

    def rows_of(output: str | None) -> dict[str, list[Row]]:
        return {
            name: [row for record in each for row in record.rows[output]]
            for name, each in records.items()
        }

    if cases.measure == "AUC":
        of_class = rows_of(cases.positive)
        tables = {n: gather(rows, whole_patients=whole_patients) for n, rows in of_class.items()}
        return ClassScores(tables, LEVEL)
    if cases.measure == "mae":
        numbers = rows_of(None)
        tables = {
            name: gather_findings(rows, whole_patients=whole_patients)
            for name, rows in numbers.items()
        }
        return NumberScores(tables, LEVEL)
    return LabelScores(
        {
            label: {
                name: gather_findings(rows, whole_patients=whole_patients)
                for name, rows in rows_of(label).items()
            }
            for label in cases.classes
        },
        LEVEL,
    )


def _pairs(
    differences: Mapping[tuple[str, str], PairedDifference],
    baselines: Mapping[str, str],
    second: Mapping[tuple[str, str], Mapping[str, float]],
    *,
    looks: int = 1,
) -> tuple[StrategyPair, ...]:
    """The first strategy compared with every baseline, then with every other strategy."""
    ordered = dict(sorted(differences.items(), key=lambda item: item[0][1] not in baselines))
    return tuple(
        StrategyPair(
            strategy=verdict.first,
            against=verdict.second,
            difference=verdict.difference,
            low=verdict.low,
            high=verdict.high,
            p=ordered[verdict.first, verdict.second].p,
            p_holm=1.0 if verdict.p is None else verdict.p,
            verdict=verdict.kind,
            findings_needed=(
                None if verdict.needed is None or math.isinf(verdict.needed) else verdict.needed
            ),
            text=verdict.text,
            **second.get((verdict.first, verdict.second), {}),
        )
        for verdict in verdicts(ordered, baselines=baselines, looks=looks, level=LEVEL)
    )


def _strategy_result(
    name: str, records: Sequence[_Record], figures: Mapping[str, Any]
) -> StrategyResult:
    return StrategyResult(
        name=name,
        val=float(np.mean([each.validation for each in records])),
        seconds=sum(each.seconds for each in records),
        shared=sum(each.shared for each in records),
        **figures,
    )


def _trace_of(run: RunDir) -> Iterator[tuple[int, float]]:
    """Numbers of epochs over all rounds, and test figures after them; none without a trace."""
    if not any((folder / TRACE).is_file() for folder in run.round_folders()):
        return
    before = 0
    for number, round in enumerate(run.plan().rounds, start=1):
        for point in run.trace(number, round):
            yield before + point.epoch, point.test_auc
        before += len(run.epochs(number, round))


def _trace(strategy: str, records: Sequence[_Record]) -> EpochTrace | None:
    """Test figure after every epoch, over the cells of a strategy; None if none recorded it."""
    values: dict[int, list[float]] = {}
    for record in records:
        for epoch, figure in record.trace:
            values.setdefault(epoch, []).append(figure)
    if not values:
        return None
    epochs = sorted(values)
    return EpochTrace(
        strategy=strategy,
        epochs=tuple(epochs),
        means=tuple(float(np.mean(values[epoch])) for epoch in epochs),
        deviations=tuple(
            float(np.std(values[epoch], ddof=1)) if len(values[epoch]) > 1 else 0.0
            for epoch in epochs
        ),
        cells=tuple(len(values[epoch]) for epoch in epochs),
    )


def predictions_of(compare_dir: CompareDir, cell: Cell, split: str) -> list[dict[str, str]]:
    """Rows of a cell's ``predictions.csv`` for the cases of a split.

    Raises:
        DataError: The file cannot be read.
        PlanError: It was changed.
    """
    return [row for row in _predictions(compare_dir, cell) if row["split"] == split]


def _predictions(compare_dir: CompareDir, cell: Cell) -> list[dict[str, str]]:
    """Rows of a cell's ``predictions.csv``."""
    path = RunDir(compare_dir.cell(cell)).file("predictions.csv")
    with readable(path, f"delete {path.parent} and run again", error=DataError):
        rows = read_rows(path)
        if not all("split" in row for row in rows):
            raise ValueError("it has no column 'split'")
    return rows


def _rows(
    compare_dir: CompareDir,
    cell: Cell,
    predictions: Sequence[Mapping[str, str]],
    cases: ScoredCases,
    output: str | None,
) -> list[Row]:
    """Scores of the test cases of a cell.

    The scores of a label alone lack the cases for which it is unknown. Beside other labels they are
    there, so that all labels have the same findings.

    Args:
        compare_dir: Folder of the comparison.
        cell: The cell.
        predictions: Rows of its test cases.
        cases: Cases of the target.
        output: Class or label of the scores; None for numbers.

    Raises:
        DataError: A case is no longer in the data.
    """
    rows, measure = [], cases.measure
    for row in predictions:
        key = row["key"]
        finding = cases.finding.get(key)  # not the text in the row: one for all cells
        if key not in cases.patient or finding is None or finding != row.get("finding"):
            change = ", which is no longer in the data"
            if key in cases.patient:
                change = (
                    f" of finding {row.get('finding')!r}, but its finding has changed in the data"
                )
            raise DataError(
                f"{compare_dir.cell(cell)}: tested {key!r}{change}: restore the data, or {ANOTHER}"
            )
        label = _label(row, output, cases)
        if label is None and measure == "AUC":
            continue
        rows.append(
            Row(
                finding=finding,
                patient=cases.patient[key],
                label=label,
                score=_score(row, output),
                seed=cell.seed,
                repeat=cell.repeat,
                fold=cell.fold,
            )
        )
    return rows


def _label(row: Mapping[str, str], output: str | None, cases: ScoredCases) -> float | None:
    """1 if a case has the class or the label, else 0, or its number; None if it is unknown."""
    if output is None:
        return float(row["label"])
    if cases.task == "multilabel":
        present = has_label(row["label"], output)
        return None if present is None else int(present)
    return int(output == row["label"])


def _score(row: Mapping[str, str], output: str | None) -> float:
    """Probability of a class or label, or the predicted number."""
    return float(row["predicted"] if output is None else row[f"p_{output}"])


def _validation(
    compare_dir: CompareDir, cell: Cell, rows: Sequence[Mapping[str, str]], cases: ScoredCases
) -> float:
    """Validation figure of the final network of a cell: AUC, or mean absolute error."""
    if cases.measure == "mae":
        predicted = [_score(row, None) for row in rows]
        return mean_absolute_error(predicted, [float(row["label"]) for row in rows])
    outputs = cases.classes if cases.positive is None else (cases.positive,)
    both = []
    for name in outputs:
        answers = [(_score(row, name), _label(row, name, cases)) for row in rows]
        known = [(score, label) for score, label in answers if label is not None]
        if len({label for _, label in known}) == 2:
            both.append(known)
    if not both:
        raise DataError(
            f"{compare_dir.cell(cell)}: its validation split has no label with and without cases"
        )
    return float(np.mean([auc(*zip(*known, strict=True)) for known in both]))


def readings_of(run: RunDir) -> int:
    """Number of times that the test labels of a run were read, by its ``events.jsonl``."""
    return _readings(_events(run))


def _events(run: RunDir) -> list[list[Event]]:
    """Events of each network of a run, those of the run itself first."""
    return [each.events() for each in (run, *run.begun_members())]


def _readings(events: Sequence[Sequence[Event]]) -> int:
    own, *others = events
    # The run reads the labels for all networks of an ensemble.
    read = [*own, *(each for member in others for each in member if each.by != "ensemble")]
    evaluations = [each for each in read if each.event == "evaluated"]
    tests = sum(each.event == "test read" for each in read)
    return tests + sum(each.split in ("test", "all") for each in evaluations)
