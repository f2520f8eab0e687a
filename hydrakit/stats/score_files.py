"""Paired comparison of score files: any scores of the same findings, as tables.

A score file may be hydrakit's ``predictions.csv``, the output of another program, or the scores of
a reader. docs/statistics.md lists its columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from hydrakit.errors import DataError, one_line
from hydrakit.stats.intervals import MeanAuc, mean_auc
from hydrakit.stats.label_cells import UNSURE, has_label
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, gather
from hydrakit.stats.verdict import Verdict, refuse_decimal_comma, verdicts
from hydrakit.storage.files import original_cell, read_whole
from hydrakit.storage.records import readable
from hydrakit.storage.tables import decimal_points, label_form, read_table

MAX_PAIRS = 10_000_000  # of a positive and a negative finding
_MATCHED = {"finding", "key"}  # columns by which rows are matched
PREFIX = "p_"  # of a column with the probability of a class
REMEDY = "give a table: CSV, text with semicolons or tabs, or .xlsx"


@dataclass(frozen=True, kw_only=True)
class FileScore:
    """AUC of one score file on the compared findings.

    Attributes:
        name: Name of the file in the verdicts.
        path: Path of the file.
        column: Column of the scores.
        auc: AUC.
        low: Lower end of its 95 % interval.
        high: Upper end.
        alone: Number of findings with a score that another file lacks, or that have no label.
    """

    name: str
    path: str
    column: str
    auc: float
    low: float
    high: float
    alone: int


@dataclass(frozen=True, kw_only=True)
class FileComparison:
    """Comparison of score files.

    Attributes:
        positive: Class that counts as positive.
        positives: Number of positive findings that all files score.
        negatives: Number of negative findings that all files score.
        patients: Number of patients; the number of findings if patients are unknown.
        files: The files, in order.
        verdicts: Verdict for each file compared with each later one.
        notes: What the user must know, one sentence each.
    """

    positive: str
    positives: int
    negatives: int
    patients: int
    files: tuple[FileScore, ...]
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Scores:
    """The rows of a table that are used, each with its place."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[str, dict[str, str]], ...]
    commas: bool
    notes: tuple[str, ...]

    def values(self, column: str) -> Iterator[tuple[str, dict[str, str], str]]:
        """Place, row and value of each row that has a value in a column."""
        if column in self.columns:
            for place, row in self.rows:
                if row[column]:
                    yield f"{self.path}, {place}", row, row[column]

    @property
    def classes(self) -> list[str]:
        """Classes with a column of probabilities."""
        return [name.removeprefix(PREFIX) for name in self.columns if name.startswith(PREFIX)]


def compare_files(
    paths: Sequence[Path],
    *,
    labels: Path | None = None,
    positive: str | None = None,
    split: str = "test",
) -> FileComparison:
    """Compare score files on the findings that all of them score.

    Patients are the units if a file has a column ``patient``, else findings are. With more than two
    files, Holm's correction covers all pairs.

    Args:
        paths: Score files, at least two.
        labels: File with the labels, and perhaps patients; None if the score files have labels.
        positive: Class that counts as positive; None for the second of two.
        split: Rows that are used of files with a column ``split``, or ``all``.

    Raises:
        DataError: A file cannot be read or lacks a column, files contradict one another, or no
            finding, or findings of one class only, can be compared.
    """
    if len(paths) < 2:
        raise DataError("a comparison needs at least two score files")
    names = _names(paths)
    scored = [_read(path, split) for path in paths]
    tables = [*scored, *([] if labels is None else [_read(labels, "all")])]
    findings = _findings_of_keys(tables)
    positive = positive or _default_positive(tables)
    columns = [_score_column(table, positive) for table in scored]
    label_of = _labels(tables, findings, positive)
    patient_of = _one_value(tables, "patient", findings)
    scores = [
        _scores(table, column, findings) for table, column in zip(scored, columns, strict=True)
    ]
    common = set(label_of).intersection(*scores)
    _check_common(common, scores, label_of, paths, positive)
    measured = []
    for of_file in scores:
        rows = [
            Row(
                finding=finding,
                patient=patient_of.get(finding, ("", f"finding {finding}"))[1],
                label=label_of[finding],
                score=score,
            )
            for finding in sorted(common)
            for score in of_file[finding]
        ]
        table = gather(rows)
        measured.append((table, mean_auc(table)))
    differences = {
        (names[one], names[two]): compare(measured[one][0], measured[two][0])
        for one, two in combinations(range(len(names)), 2)
    }
    first = measured[0][1]
    files = tuple(
        _file_score(name, path, column, area, alone=len(set(of_file) - common))
        for name, path, column, (_, area), of_file in zip(
            names, paths, columns, measured, scores, strict=True
        )
    )
    return FileComparison(
        positive=positive,
        positives=first.positives,
        negatives=first.negatives,
        patients=first.patients,
        files=files,
        verdicts=tuple(verdicts(differences, networks=False)),
        notes=(
            *(note for table in tables for note in table.notes),
            *_notes(files, common, set(patient_of)),
            *_repeated(scored, scores),
            *_seen(scored, findings, common),
        ),
    )


def _names(paths: Sequence[Path]) -> list[str]:
    """Names of the files without their ending; their paths if two would be equal."""
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise DataError(f"{max(names, key=names.count)}: is given twice: give each file once")
    return names


def _read(path: Path, split: str) -> _Scores:
    """Read a table; of one with a column ``split``, only the rows of that split."""
    with readable(path, REMEDY, error=DataError):
        content = read_whole(path)
    table = read_table(path, content, lambda header: bool(_MATCHED & set(header)))
    table.refuse_doubled()
    columns = table.header
    if not _MATCHED & set(columns):
        raise DataError(
            f"{path}: has neither a column 'finding' nor 'key' to match its rows by, only "
            f"{one_line(', '.join(columns), 100)}: name one of them so, or {REMEDY}"
        )
    rows = [
        (place, dict(zip(columns, (original_cell(cell).strip() for cell in cells), strict=True)))
        for place, cells in table.rows()
    ]
    if not rows:
        raise DataError(f"{path}: holds no row below the names of its columns: {REMEDY}")
    used = [row for row in rows if split == "all" or row[1].get("split", split) == split]
    if not used:
        raise DataError(f"{path}: has no row of split {split!r}: name another with `--split`")
    for place, row in used:
        if not (row.get("finding") or row.get("key")):
            raise DataError(f"{path}, {place}: has no name in 'finding' or 'key': add it")
    _refuse_repeated_keys(path, used)
    notes = tuple(remark.text for remark in table.remarks)
    return _Scores(path, columns, tuple(used), table.commas, notes)


def _refuse_repeated_keys(path: Path, rows: Sequence[tuple[str, dict[str, str]]]) -> None:
    first: dict[tuple[str, ...], str] = {}
    for place, row in rows:
        key = tuple(row.get(name, "") for name in ("key", "finding", "dataset", "split"))
        before = first.setdefault(key, place)
        if key[0] and before != place:
            raise DataError(
                f"{path}, {place}: the key {key[0]!r} is also that of {before}: remove one of them"
            )


def _findings_of_keys(tables: Sequence[_Scores]) -> dict[str, str]:
    """Finding of each key, from the files that have both columns."""
    found: dict[str, tuple[str, str]] = {}
    for table in tables:
        for where, row, finding in table.values("finding"):
            if row.get("key"):
                _add(found, row["key"], finding, where, what="key {0!r} has the findings")
    return {key: finding for key, (_, finding) in found.items()}


def _add(
    found: dict[str, tuple[str, str]], name: str, value: str, where: str, *, what: str
) -> None:
    """Add a value with its place; refuse one that contradicts the value of another row."""
    place, before = found.setdefault(name, (where, value))
    if before != value:
        raise DataError(
            f"{where}: {what.format(name)} {value!r} here and {before!r} in {place}: correct one, "
            "or remove that column from one file"
        )


def _finding(row: dict[str, str], findings: dict[str, str]) -> str:
    """Finding of a row: as it says, or as another file says of its key, or its key."""
    return row.get("finding") or findings.get(row["key"], row["key"])


def _one_value(
    tables: Sequence[_Scores], column: str, findings: dict[str, str]
) -> dict[str, tuple[str, str]]:
    """Place and value of a column for each finding, of which each must have one value only."""
    found: dict[str, tuple[str, str]] = {}
    for table in tables:
        for where, row, value in table.values(column):
            what = f"finding {{0!r}} has the {column}s"
            _add(found, _finding(row, findings), value, where, what=what)
    return found


def _default_positive(tables: Sequence[_Scores]) -> str:
    """The second of two classes, or 1 where labels are 0 and 1."""
    for table in tables:
        if len(table.classes) == 2:
            return "1" if set(table.classes) == {"0", "1"} else table.classes[1]
    classes = sorted({name for table in tables for name in table.classes})
    values = sorted({value for table in tables for _, _, value in table.values("label")})
    if {label_form(value) for value in values} <= {"0", "1"} and not classes:
        return "1"
    known = one_line(", ".join(classes or values), 100)
    raise DataError(f"which class is positive is not clear: name one of {known} with `--positive`")


def _score_column(table: _Scores, positive: str) -> str:
    """The column with the scores of a file."""
    for column in (f"{PREFIX}{positive}", "score"):
        if column in table.columns:
            return column
    raise DataError(
        f"{table.path}: has neither a column '{PREFIX}{positive}' nor 'score', only "
        f"{one_line(', '.join(table.columns), 100)}: add one, or name another class with "
        "`--positive`"
    )


def _labels(tables: Sequence[_Scores], findings: dict[str, str], positive: str) -> dict[str, int]:
    """Label of each finding: 1 for positive, 0 for negative; without those that are unknown."""
    found: dict[str, tuple[str, str]] = {}
    for table in tables:
        if "label" not in table.columns:
            continue
        # In a predictions.csv of hydrakit, a case with none of several labels has an empty one.
        own = "split" in table.columns
        used = [
            (place, row)
            for place, row in table.rows
            if (own or row["label"]) and not _is_unknown(row["label"], positive, table.classes)
        ]
        values = {row["label"] for _, row in used}
        has = _has if any(_has(value, positive) for value in values) else _has_form
        coded = {label_form(value) for value in values} <= {"0", "1"} and has is _has_form
        if not coded and not any(has(value, positive) for value in values):
            raise DataError(
                f"{table.path}: no row has the label {positive!r}, only "
                f"{one_line(', '.join(sorted(values)), 100)}: name the positive class with "
                "`--positive`, or write labels as 0 and 1"
            )
        for place, row in used:
            label = has(row["label"], "1" if coded else positive)
            text = positive if label else f"not {positive}"
            where = f"{table.path}, {place}"
            _add(found, _finding(row, findings), text, where, what="finding {0!r} has the labels")
    if not found:
        raise DataError("no file has a column 'label': name a file that has one with `--labels`")
    return {finding: int(text == positive) for finding, (_, text) in found.items()}


def _is_unknown(label: str, positive: str, classes: Sequence[str]) -> bool:
    """Whether a cell of several labels leaves open if the case has the positive one."""
    return f"{positive}{UNSURE}" not in classes and has_label(label, positive) is None


def _has(label: str, positive: str) -> bool:
    """Whether a label is the positive class, or several labels contain it."""
    return positive in (label, *label.split(";"))


def _has_form(label: str, positive: str) -> bool:
    """As `_has`, whatever the spelling of the labels."""
    return label_form(positive) in map(label_form, (label, *label.split(";")))


def _scores(table: _Scores, column: str, findings: dict[str, str]) -> dict[str, list[float]]:
    """Scores of each finding's images, without rows that have none."""
    scores: dict[str, list[float]] = {}
    with_point: Callable[[str], str] = str
    if table.commas:
        cells = [(place, row[column]) for place, row in table.rows]
        with_point = decimal_points(cells, f"{table.path}, ", column)
    for where, row, text in table.values(column):
        try:
            value = float(with_point(text))
        except ValueError:
            refuse_decimal_comma(text, where=where)
            value = math.nan
        if not math.isfinite(value):
            raise DataError(f"{where}: the {column} {one_line(text, 40)!r} is not a finite number")
        scores.setdefault(_finding(row, findings), []).append(value)
    return scores


def _check_common(
    common: set[str],
    scores: Sequence[dict[str, list[float]]],
    label_of: dict[str, int],
    paths: Sequence[Path],
    positive: str,
) -> None:
    if not common:
        counts = ", ".join(
            f"{path} has {len(each)}, such as {next(iter(each), 'none')!r}"
            for path, each in zip(paths, scores, strict=True)
        )
        raise DataError(
            f"no finding has a label and a score in each file ({counts}; {len(label_of)} have "
            "labels): write the same names into the columns 'finding' or 'key'"
        )
    positives = sum(label_of[finding] for finding in common)
    if positives in (0, len(common)):
        kind = "" if positives else "not "
        raise DataError(
            f"all {len(common)} findings that each file scores are {kind}{positive!r}: there is no "
            "AUC: give files with findings of both classes"
        )
    if positives * (len(common) - positives) > MAX_PAIRS:
        raise DataError(
            f"{positives} positive and {len(common) - positives} negative findings are more than "
            f"{MAX_PAIRS:,} pairs: compare fewer of them"
        )


def _file_score(name: str, path: Path, column: str, area: MeanAuc, *, alone: int) -> FileScore:
    return FileScore(
        name=name,
        path=str(path),
        column=column,
        auc=area.auc,
        low=area.low,
        high=area.high,
        alone=alone,
    )


def _repeated(tables: Sequence[_Scores], scores: Sequence[dict[str, list[float]]]) -> Iterator[str]:
    """Notes on findings with several scores in a file that does not name images."""
    for table, of_file in zip(tables, scores, strict=True):
        several = [finding for finding, values in of_file.items() if len(values) > 1]
        if several and "key" not in table.columns:
            yield (
                f"{table.path}: {len(several)} findings have several rows, first {several[0]!r}: "
                "the mean of their scores counts"
            )


def _seen(tables: Sequence[_Scores], findings: dict[str, str], common: set[str]) -> Iterator[str]:
    """Notes on files of `hydrakit predict` whose model was trained on compared images."""
    for table in tables:
        rows = [row for _, row in table.rows if _finding(row, findings) in common]
        seen = sum(row.get("seen_in_training", "").casefold() == "yes" for row in rows)
        if seen:
            yield (
                f"{table.path}: training used {seen} of its {len(rows)} images (column "
                "seen_in_training): its figure is too good, and so is its place in the comparison"
            )


def _notes(files: Sequence[FileScore], common: set[str], owned: set[str]) -> Iterator[str]:
    for file in files:
        if file.alone:
            yield (
                f"{file.path}: {file.alone} of its findings are not compared, because they have no "
                "label, or no score in another file"
            )
    unknown = len(common - owned)
    if unknown:
        many = "no finding has" if unknown == len(common) else f"{unknown} findings do not have"
        yield (
            f"{many} a patient, so each of them counts as a patient of its own; if patients have "
            "several findings, the interval is too narrow: add a column 'patient' to a file"
        )
