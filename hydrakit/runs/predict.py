"""Predictions for many images, as a CSV that is written while they are read.

Images are read, predicted and written in batches. What is written so far lies in the folder
``OUT.part``, so that a stopped command goes on after the last whole batch. For a z-score per
patient, all images are read twice: first the statistics of each patient are computed.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field, FiniteFloat

from hydrakit.data.declared.given import (
    NO_SPACING,
    SPACING,
    GivenReader,
    images_in_files,
    images_in_folder,
    images_in_table,
    location_of,
)
from hydrakit.data.declared.labels import label_of, label_of_answers
from hydrakit.data.declared.schema import NONE
from hydrakit.data.identity import is_identified
from hydrakit.data.origin import in_class_order
from hydrakit.data.prepared.crop import Statistics
from hydrakit.data.read import class_names, load_image, read_cases
from hydrakit.errors import DataError, PlanError, one_line
from hydrakit.file_rules import FileRules, rules_text
from hydrakit.hooks import (
    DatasetAdapter,
    FieldOfView,
    Label,
    OptionValue,
    Remark,
    Sample,
    Unusable,
)
from hydrakit.plugins.options import resolve_options
from hydrakit.runs.evaluate import EvaluationResult, Predictions, file_rules_notes, score
from hydrakit.runs.model import BATCH, Batch, Model, RowColumn
from hydrakit.runs.predicted import InputCase, PredictedCase, Rule
from hydrakit.schema import Frozen, Text
from hydrakit.stats.label_cells import label_cell
from hydrakit.stats.tasks import outputs_of, targets_of
from hydrakit.storage.files import (
    MAX_WEIGHTS,
    csv_text,
    open_in_place,
    original_cell,
    read_whole,
)
from hydrakit.storage.lock import locked
from hydrakit.storage.records import read_record, readable, writable, write_record
from hydrakit.storage.tables import SUFFIXES, is_table, read_table
from hydrakit.version import version
from hydrakit.weights.format import Sha256Text

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins
    from hydrakit.runs.context import RunContext

PART = ".part"
ROWS, STATE = "rows.csv", "state.json"
REMEDY = "name a file in another folder with `--out`"

Noted = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class CaseSource:
    """Cases to predict.

    Attributes:
        where: What they are, for messages and results.
        cases: Yields them in order, from the first on, and passes remarks to its argument; may be
            called several times.
        digest: SHA-256 of what determines the cases, as far as it is known without reading images.
        count: Number of cases; None if unknown.
        patients: Whether cases may name patients.
        exact: Whether names of patients are compared as they are.
        given: Whether the user named images, of which nothing but the file need be known.
        labels: Whether labels of the cases are those of the model.
        notes: What users must know about the input.
        close: Closes files that reading left open.
    """

    where: str
    cases: Callable[[Noted], Iterator[InputCase]]
    digest: str
    count: int | None = None
    patients: bool = True
    exact: bool = False
    given: bool = False
    labels: bool = True
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None


def cases_of_dataset(
    model: Model,
    name: str,
    context: RunContext,
    plugins: Plugins,
    *,
    options: Mapping[str, OptionValue] | None = None,
) -> CaseSource:
    """Cases of a dataset, with or without labels, as its adapter reads them.

    Args:
        model: The model.
        name: Name of the dataset.
        context: Folders of the data.
        plugins: Plugins of this process.
        options: Options of the adapter that replace those from the training of the head.

    Raises:
        PluginError: There is no such dataset.
        PlanError: An option is wrong.
    """
    adapter = plugins.get(DatasetAdapter, name)
    return cases_of_adapter(model, adapter, context.root_of(name), options=options)


def cases_of_adapter(
    model: Model,
    adapter: DatasetAdapter,
    root: Path,
    *,
    options: Mapping[str, OptionValue] | None = None,
) -> CaseSource:
    """As `cases_of_dataset`, for any adapter and folder."""
    name = adapter.name
    own = model.head.options if name == model.head.dataset else {}
    used = resolve_options(adapter, {**own, **(options or {})})
    same_task = adapter.task == model.task
    labels = same_task and sorted(adapter.classes) == sorted(model.classes)
    if labels:
        adapter = in_class_order(adapter, model.classes)
    # The field of view is that of the head: cases need not have what the adapter's own needs.
    adapter = replace(adapter, field_of_view=FieldOfView(share=1.0))

    def cases(noted: Noted) -> Iterator[InputCase]:
        for case in read_cases(adapter, root, used):
            if isinstance(case, Remark):
                if case.warning:
                    noted(f"{name}: {case.text}")
            elif isinstance(case, Unusable):
                yield InputCase(case.key, partial(_same, case))
            else:
                yield _input_case(adapter, case, labels=labels)

    place = [name, adapter.version, os.path.realpath(root), sorted(used.items())]
    return CaseSource(
        where=name,
        cases=cases,
        digest=hashlib.sha256(json.dumps(place).encode()).hexdigest(),
        exact=adapter.exact_names,
        labels=labels,
        notes=tuple(file_rules_notes(model.head, adapter)),
    )


def _same(case: Unusable) -> Unusable:
    return case


def _input_case(adapter: DatasetAdapter, sample: Sample, *, labels: bool) -> InputCase:
    return InputCase(
        key=sample.key,
        load=partial(load_image, adapter, sample, warn=False),
        finding=sample.finding,
        patient=sample.patient if is_identified(sample) else None,
        label=sample.label if labels else None,
    )


def cases_in_files(
    model: Model,
    paths: Sequence[Path],
    *,
    pattern: str | None = None,
    images: Path | None = None,
    spacing: RowColumn | None = None,
    labels: bool = True,
) -> CaseSource:
    """Images that a user names: a folder, a table (``.csv``, ``.xlsx`` ...), or single files.

    Args:
        model: The model.
        paths: The folder, the table, or the files.
        pattern: Pattern of the files in the folder, as in ``dataset.toml``.
        images: Folder that the paths in the table are relative to; None for that of the table.
        spacing: Pixel spacing of files that do not state it.
        labels: Whether the labels in the table or in the pattern are read.

    Raises:
        DataError: They cannot be read, or a row of the table is wrong.
        PlanError: An argument is for another kind of input.
    """
    reader = GivenReader(
        model.classes,
        model.task,
        colour=model.reads_colour,
        rules=model.file_rules,
        spacing=spacing,
        masks=model.view.mask is not None,
        labels=labels,
    )
    first, single = paths[0], len(paths) == 1
    from_table = single and is_table(first.name) and not first.is_dir()
    if pattern is not None and not (single and first.is_dir()):
        raise PlanError("--pattern: only the files of a single folder are selected by it")
    if images is not None and not from_table:
        raise PlanError(f"--images: only a table ({', '.join(SUFFIXES)}) has paths relative to it")
    if single and first.is_dir():
        given = images_in_folder(first, reader, pattern=pattern)
    elif from_table:
        given = images_in_table(first, reader, root=images)
    else:
        absent = next((each for each in paths if not Path(location_of(each).file).exists()), None)
        if absent is not None and single:
            raise DataError(
                f"{absent}: there is no such file or folder, and no dataset of this name: see "
                "`hydrakit datasets list`"
            )
        given = images_in_files(paths, reader)

    def cases(_: Noted) -> Iterator[InputCase]:
        for each in given.cases():
            yield InputCase(
                key=each.case.key,
                load=partial(reader.read, each),
                finding=each.case.finding,
                patient=each.case.patient,
                label=each.case.label,
            )

    return CaseSource(
        where=given.where,
        cases=cases,
        digest=given.digest,
        count=given.count,
        patients=given.patients,
        given=True,
        labels=given.labelled,
        notes=(*given.notes, *_reading_notes(model.file_rules)),
        close=reader.close,
    )


def _reading_notes(rules: FileRules) -> Iterator[str]:
    """Yield how images that users name are read, if it is not the default."""
    if rules != FileRules():
        yield f"files are read as those of the training: {rules_text(rules)}"


class _PartState(Frozen):
    """What ``state.json`` says about predictions that are not finished.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote it.
        work: Digest of the model, the input and the options.
        patients: Number of pixels, means and sums of squares of each patient; None before they are
            computed, or if they are not needed.
    """

    format: Literal[1] = 1
    hydrakit: Text
    work: Sha256Text
    patients: (
        dict[
            str,
            tuple[Annotated[int, Field(gt=0)], tuple[FiniteFloat, ...], tuple[FiniteFloat, ...]],
        ]
        | None
    ) = None


class PredictionSummary(Frozen):
    """Summary of a file of predictions.

    Attributes:
        out: The file.
        cases: Number of cases.
        predicted: Number of cases with a prediction.
        by_class: Number of cases of each predicted class or label; empty for a regression.
        seen_in_training: Number of cases whose image training used.
        reasons: Number of cases without a prediction, by reason.
        notes: What users must know, one sentence each.
    """

    out: str
    cases: int
    predicted: int
    by_class: dict[str, int]
    seen_in_training: int
    reasons: dict[str, int]
    notes: tuple[str, ...]


def predict_to_csv(
    model: Model,
    source: CaseSource,
    out: Path,
    *,
    rule: Rule | None = None,
    spacing: RowColumn | None = None,
    labels: Mapping[str, Label] | Literal["own"] | None = None,
    explain: Callable[[Batch, int], None] | None = None,
    noted: Noted = lambda _: None,
    on_case: Callable[[str, int, int | None], None] = lambda *_: None,
) -> PredictionSummary:
    """Predict cases, and write one line for each; a stopped call goes on when it is repeated.

    Args:
        model: The model.
        source: The cases.
        out: File to write; it appears when it is complete.
        rule: How probabilities become decisions; None for that in the head's file.
        spacing: Pixel spacing of images that do not state it.
        labels: Labels by key, or ``own`` for those of the cases, for a column ``label``.
        explain: Called with each batch and the number of its first case, from 1.
        noted: Called with each sentence that users must know, as soon as it is known.
        on_case: Called with what is done, the number of cases so far, and that of all if known.

    Raises:
        PlanError: The file exists, or what is in ``OUT.part`` is of another model or input.
        DataError: The input cannot be read, or lacks what the model needs.
    """
    _refuse_existing(out)
    part = out.with_name(out.name + PART)
    rule = rule or Rule.of(model.task, model.classes, model.decision)
    notes: list[str] = []

    def note(text: str) -> None:
        if text not in notes:
            notes.append(text)
            noted(text)

    for text in (*model.notes(), *source.notes):
        note(text)
    if labels == "own" and not source.labels:
        if source.given:
            raise PlanError(
                f"{source.where}: gives no label: give a file with `--labels`, or a table with a "
                "column label"
            )
        raise PlanError(
            f"{source.where}: its labels are not the classes of the model "
            f"({', '.join(model.classes)}): give a file with `--labels`"
        )
    if isinstance(labels, Mapping) and source.given:
        _check_keys(labels, source, note)
    work = _work_digest(model, source, rule, spacing, labels, explained=explain is not None)
    with writable(part, REMEDY):
        part.mkdir(exist_ok=True)
    try:
        with locked(part):
            try:
                _refuse_existing(out)  # another process may just have finished it
                writing = _Writing(
                    model, source, part, rule, spacing, labels, explain, note, on_case
                )
                writing.run(work)
                with writable(out, REMEDY):
                    (part / ROWS).replace(out)
            except BaseException:
                if not any((part / name).exists() for name in (ROWS, STATE)):
                    shutil.rmtree(part, ignore_errors=True)
                raise
    finally:
        source.close()
    shutil.rmtree(part, ignore_errors=True)
    return _summary(out, model, tuple(notes))


def _check_keys(labels: Mapping[str, Label], source: CaseSource, note: Noted) -> None:
    """Note labels that belong to no case.

    Raises:
        DataError: None belongs to one.
    """
    keys = {case.key for case in source.cases(note)}
    others = [key for key in labels if key not in keys]
    examples = f"{next(iter(others), '')!r}, and a case of it is {next(iter(keys), '')!r}"
    if labels and len(others) == len(labels):
        raise DataError(
            f"{source.where}: no label belongs to a case (the first is for {examples}): write the "
            "keys of the cases into the column 'key' of the labels"
        )
    if others:
        note(
            f"{len(others)} of {len(labels)} labels belong to no case of {source.where} and are "
            f"not used (the first is for {examples})"
        )


def _refuse_existing(out: Path) -> None:
    if os.path.lexists(out):
        raise PlanError(f"{out}: exists already: name another file with `--out`, or delete it")


def _work_digest(
    model: Model,
    source: CaseSource,
    rule: Rule,
    spacing: RowColumn | None,
    labels: Mapping[str, Label] | str | None,
    *,
    explained: bool,
) -> str:
    given = sorted(labels.items()) if isinstance(labels, Mapping) else labels
    records = [each and each.model_dump(mode="json") for each in (rule.decision, rule.threshold)]
    work = [
        [
            [each.model_dump(mode="json") for each in (network.body, network.head)]
            for network in model.networks
        ],
        [source.digest, spacing, given, rule.coverage, records, explained],
    ]
    return hashlib.sha256(json.dumps(work).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class _Writing:
    """Writing of the rows of a source into the folder ``OUT.part``."""

    model: Model
    source: CaseSource
    part: Path
    rule: Rule
    spacing: RowColumn | None
    labels: Mapping[str, Label] | str | None
    explain: Callable[[Batch, int], None] | None
    note: Noted
    on_case: Callable[[str, int, int | None], None]

    def run(self, work: str) -> None:
        """Write all rows that are not written yet.

        Raises:
            PlanError: What is in the folder is of another model or input.
            DataError: The input lacks what the model needs.
        """
        state = self._state(work)
        rows = self.part / ROWS
        done, last = _whole_batches(rows) if state is not None else (0, None)
        totals = self._totals(state, work)
        cases = self.source.cases(self.note)
        before = deque(islice(cases, done), maxlen=1)
        if done and (not before or _cell(before[0].key) != last):
            raise self._other("the cases are others than when it was begun")
        batches = self.model.stream(
            cases, self.rule, totals=totals, spacing=self.spacing, exact=self.source.exact
        )
        number, foreign = done, None
        for batch in batches:
            if foreign is None:
                foreign = self.model.foreign_values(batch)
                if foreign is not None:
                    self.note(f"{self.source.where}: {foreign}")
            self._tell(batch, first=number == 0)
            if number == 0:
                with writable(self.part, REMEDY):
                    write_record(self.part / STATE, self._new_state(work, totals))
                    _append(rows, csv_text([header(self.model, self.rule, self.labels)]), new=True)
            if self.explain is not None:
                self.explain(batch, number + 1)
            lines = csv_text(self._row(case) for case in batch.cases)
            with writable(self.part, REMEDY):
                _append(rows, lines)
            number += len(batch.cases)
            self.on_case("predicting", number, self.source.count)
        if number == 0:
            raise DataError(f"{self.source.where}: has no case")

    def _state(self, work: str) -> _PartState | None:
        path = self.part / STATE
        if not path.exists():
            return None
        remedy = f"delete {self.part} to begin again"
        state = read_record(path, _PartState, remedy=remedy, max_bytes=MAX_WEIGHTS, values=2**31)
        if state.work != work:
            raise self._other("they are of another model or input, or of other options")
        return state

    def _other(self, why: str) -> PlanError:
        return PlanError(
            f"{self.part}: holds the beginning of other predictions ({why}): delete it, or name "
            "another file with `--out`"
        )

    def _totals(self, state: _PartState | None, work: str) -> dict[str, Statistics]:
        """Statistics of each patient if the model needs them, also those of an earlier call."""
        if not (self.model.needs_patient and self.source.patients):
            return {}
        if state is not None and state.patients is not None:
            return {
                name: Statistics(count=count, mean=np.array(mean), squares=np.array(squares))
                for name, (count, mean, squares) in state.patients.items()
            }
        totals = self.model.patient_statistics(
            self.source.cases(self.note),
            spacing=self.spacing,
            exact=self.source.exact,
            on_case=lambda number: self.on_case(
                "reading the images of each patient", number, self.source.count
            ),
        )
        if totals:
            with writable(self.part, REMEDY):
                write_record(self.part / STATE, self._new_state(work, totals))
        return totals

    @staticmethod
    def _new_state(work: str, totals: Mapping[str, Statistics]) -> _PartState:
        patients = {
            name: (each.count, tuple(each.mean.tolist()), tuple(each.squares.tolist()))
            for name, each in totals.items()
        }
        return _PartState(hydrakit=version(), work=work, patients=patients or None)

    def _tell(self, batch: Batch, *, first: bool) -> None:
        """Note the fallbacks of a batch; refuse an input whose first image lacks its spacing."""
        read = [image for image in batch.images if not isinstance(image, str)]
        for case, image in zip(batch.cases, batch.images, strict=True):
            if image == NO_SPACING and first and not read:
                mm = self.model.view.millimetres
                need = f"the model sees {mm:g} mm" if mm else "its position is in millimetres"
                columns = f" or the columns {' and '.join(SPACING)} of a table"
                raise DataError(
                    f"{self.source.where}: {case.key!r} {NO_SPACING}, and {need}: give "
                    f"`--spacing ROW,COLUMN` in millimetres{columns if self.source.given else ''}"
                )
        if not self.source.given:
            return
        if self.model.sees_a_part and any(image.centred for image in read):
            self.note(
                f"{self.source.where}: images have no position, and the model sees a part of them: "
                "the part is taken from the centre; a table gives positions in the columns row and "
                "column, or row_mm and column_mm"
            )
        if self.model.needs_patient and any(image.patient is None for image in read):
            self.note(
                f"{self.source.where}: images name no patient, and the model z-scores all images "
                "of a patient together: each of these is z-scored by itself; name patients in the "
                "column patient of a table, or with `--pattern '{patient}/*.png'`"
            )

    def _row(self, case: PredictedCase) -> list[object]:
        """Cells of a case, as in `header`."""
        task, classes = self.model.task, self.model.classes
        row: list[object] = [case.key, case.finding or "", case.patient or ""]
        if self.labels is not None:
            label = self.labels.get(case.key) if isinstance(self.labels, Mapping) else case.label
            row.append(label_text(self.model, label))
        if task != "regression":
            row += [case.probabilities.get(name, "") for name in classes]
        predicted = case.predicted
        if isinstance(predicted, tuple):
            predicted = ";".join(predicted) or NONE
        row.append("" if predicted is None else predicted)
        if self.rule.coverage is not None:
            row.append(";".join(case.possible or ()))
        seen = {True: "yes", False: "no", None: "unknown"}[case.seen_in_training]
        return [*row, case.views, seen, one_line(case.reason or "", 300)]


def header(model: Model, rule: Rule, labels: object) -> list[str]:
    """Names of the columns of a file of predictions."""
    classes = [] if model.task == "regression" else [f"p_{one_line(n)}" for n in model.classes]
    return [
        *("key", "finding", "patient"),
        *(["label"] if labels is not None else []),
        *classes,
        "predicted",
        *(["possible"] if rule.coverage is not None else []),
        *("views", "seen_in_training", "reason"),
    ]


def label_text(model: Model, label: Label | None) -> object:
    """A label as a cell: a class, several labels (`label_cell`), a number; empty if unknown."""
    if label is None:
        return ""
    if model.task == "regression":
        return label
    if isinstance(label, tuple):
        return label_cell(label, model.classes) or NONE
    return ";".join(class_names(label, model.task, model.classes))


def read_labels(path: Path, model: Model) -> dict[str, Label]:
    """Read the labels of cases from a table with the columns ``key`` and ``label``.

    Several labels may have a column each in place of ``label``, named as the class.

    Raises:
        DataError: The file cannot be read, or a label is none of the model's.
    """
    declaration = GivenReader(model.classes, model.task, colour=False).declaration
    wanted: list[tuple[str, ...]] = [("label",)]
    wanted += [model.classes] if model.task == "multilabel" else []

    def columns_of(header: Sequence[str]) -> tuple[str, ...] | None:
        return next((each for each in wanted if {"key", *each} <= set(header)), None)

    with readable(path, "give a table with the columns key and label", error=DataError):
        table = read_table(path, read_whole(path), lambda header: columns_of(header) is not None)
        used = columns_of(table.header)
        if used is None:
            more = ", nor one for each class" if len(wanted) > 1 else ""
            raise ValueError(f"it has no columns key and label{more}")
    table.refuse_doubled()
    at = {column: table.header.index(column) for column in ("key", *used)}
    with_point = table.with_points("label") if model.task == "regression" else str
    labels: dict[str, Label] = {}
    for place, cells in table.rows():
        key = original_cell(cells[at["key"]]).strip()
        texts = [original_cell(cells[at[column]]).strip() for column in used]
        try:
            label: Label | None
            if used == ("label",):
                label = label_of(declaration, with_point(texts[0]))
            else:
                label = label_of_answers(declaration, dict(zip(used, texts, strict=True)))
        except ValueError:
            text = ", ".join(texts)
            raise DataError(
                f"{path}: {place}: label {text!r} is none of the model's "
                f"({', '.join(model.classes)}): correct it"
            ) from None
        if key in labels:
            raise DataError(f"{path}: {place}: the key {key!r} occurs twice")
        if label is not None:
            labels[key] = label
    return labels


def _append(path: Path, text: str, *, new: bool = False) -> None:
    """Append text to a file that is only written here, and sync it."""
    descriptor = open_in_place(
        path, os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if new else os.O_APPEND)
    )
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())


def _whole_batches(path: Path) -> tuple[int, str | None]:
    """Cut a file of rows after its last whole batch; return its rows, and the key of the last."""
    if not path.exists():
        return 0, None
    descriptor = open_in_place(path, os.O_RDWR)
    with os.fdopen(descriptor, "r+b") as file:
        size = end = rows = 0
        last = kept = b""
        for line in file:  # no cell holds a line end
            if not line.endswith(b"\n"):
                break
            size, last, rows = size + len(line), line, rows + 1
            if (rows - 1) % BATCH == 0:  # the header is a row, too
                end, kept = size, last
        file.truncate(end)
    done = (rows - 1) // BATCH * BATCH if rows else 0
    return done, next(csv.reader([kept.decode()]))[0] if done else None


def _cell(text: str) -> str:
    """A text as `csv_text` writes it, without quotes."""
    return next(csv.reader([csv_text([[text, ""]])]))[0]


def rows_of(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a file of predictions, one by one."""
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            yield {name: original_cell(cell) for name, cell in row.items()}


def _summary(out: Path, model: Model, notes: tuple[str, ...]) -> PredictionSummary:
    reasons, classes = Counter[str](), Counter[str]()
    seen = cases = 0
    for row in rows_of(out):
        cases += 1
        seen += row["seen_in_training"] == "yes"
        if row["reason"]:
            reasons[row["reason"]] += 1
        elif model.task != "regression":
            classes.update(
                row["predicted"].split(";") if model.task == "multilabel" else [row["predicted"]]
            )
    return PredictionSummary(
        out=str(out),
        cases=cases,
        predicted=cases - reasons.total(),
        by_class={name: classes[name] for name in model.classes}
        if model.task != "regression"
        else {},
        seen_in_training=seen,
        reasons=dict(reasons.most_common(20)),
        notes=notes,
    )


def figures_of(out: Path, model: Model, source: CaseSource) -> EvaluationResult:
    """Compute the figures of a file of predictions with labels, as ``hydrakit evaluate`` does.

    Images of one finding of a patient count once, with the mean of their probabilities.

    Args:
        out: The file.
        model: The model that wrote it.
        source: Its cases.

    Raises:
        DataError: A class has no case with a label and a prediction.
    """
    declaration = GivenReader(model.classes, model.task, colour=False).declaration
    keys, findings, labels, values = [], [], [], []
    without = seen = 0
    for row in rows_of(out):
        label = label_of(declaration, row["label"]) if row["label"] else None
        if label is None:
            continue
        if row["reason"]:
            without += 1
            continue
        seen += row["seen_in_training"] == "yes"
        keys.append(row["key"])
        named = row["finding"] and json.dumps([row["patient"], row["finding"]])
        findings.append(named or json.dumps(row["key"]))
        labels.append(label)
        columns = (
            ["predicted"]
            if model.task == "regression"
            else [f"p_{one_line(n)}" for n in model.classes]
        )
        values.append([float(row[column]) for column in columns])
    if not keys:
        raise DataError(
            f"{out}: is written, but no case has both a label and a prediction: check the keys "
            "of the labels"
        )
    predictions = Predictions(
        dataset=model.head.dataset if source.given else source.where,
        split="all",
        classes=model.classes,
        keys=tuple(keys),
        labels=targets_of(labels, model.task),
        outputs=outputs_of(np.array(values), task=model.task, scale=model.head.scale),
        task=model.task,
        scale=model.head.scale,
        findings=tuple(findings),
    )
    notes = []
    if without:
        notes.append(f"{without} cases with a label have no prediction, and do not count")
    if seen:
        notes.append(
            f"training used {seen} of these {len(keys)} cases, or copies of their images: metrics "
            "are too high"
        )
    return EvaluationResult(result=score(predictions), notes=tuple(notes))
