"""The columns of a table of cases, guessed from their names and values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from hydrakit.data.declared.columns import WORDS, is_attribute, may_name, resembles
from hydrakit.data.declared.guess_text import (
    MAX_CLASSES,
    SAME_NAME_COLUMNS,
    GuessedCases,
    patient_line,
    quoted,
    split_lines,
)
from hydrakit.data.declared.labels import CODES
from hydrakit.data.declared.schema import ABSENT, MAX_CLASS, NONE, PRESENT
from hydrakit.stats.label_cells import SEPARATOR
from hydrakit.storage.tables import label_form


def from_columns(
    name: str, fixed: Mapping[str, str], columns: Mapping[str, Sequence[str]]
) -> GuessedCases | None:
    """Use a table of cases, if one of its columns looks like labels."""
    chosen = _match_columns(fixed, columns)
    answers = _answer_columns(columns, chosen)
    if answers:
        chosen.pop("label", None)
        task, labels = "multilabel", answers
    elif "label" in chosen:
        # Spellings that differ only in what `label_form` leaves out are one label.
        values = {label_form(value): value for value in sorted(columns[chosen["label"]]) if value}
        task, labels = _task(set(values.values()))
    else:
        return None
    chosen |= {field: field for field in SAME_NAME_COLUMNS if field in columns}
    renamed = [field for field, column in chosen.items() if field != column]
    tables = ["", "[columns]  # Check: the column of each field"] if renamed else []
    tables += [f"{field} = {quoted(chosen[field])}" for field in renamed]
    if answers:
        tables += _answer_lines([columns[name] for name in answers])
    elif labels and all(
        re.fullmatch(r"-?\d+(\.0)?|True|False", label, re.IGNORECASE) for label in labels
    ):
        lines = [f"{quoted(label)} = {quoted(f'class {label}')}" for label in labels]
        tables += ["", "[labels]  # Give the classes their names, here and above", *lines]
        if len({label[-1].isdigit() for label in labels}) > 1:
            tables.append(
                "# Check: the column mixes numbers with True and False. If 1 and True are one"
                "\n# class, give both its name, and remove the other class above."
            )
        labels = tuple(f"class {label}" for label in labels)
    tables += split_lines(columns.get("split", []))
    source = (f"cases = {quoted(name)}",)
    patients = ""
    if "patient" in chosen:
        patients = patient_line(f"the column {chosen['patient']}", columns[chosen["patient"]])
    return GuessedCases(
        source, tuple(tables), task, labels, patients, fixed.get("image"), frozenset(columns)
    )


def _match_columns(
    fixed: Mapping[str, str], columns: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Choose the column of each field by name; for the label, otherwise one with few values."""
    chosen = dict(fixed)
    for field in ("label", "patient", "finding", "group"):
        free = [column for column in columns if column not in chosen.values()]
        column = (
            _by_words(WORDS["label"], free) if field == "label" else _names(field, free, columns)
        )
        if column is not None:
            chosen[field] = column
    if "label" not in chosen:
        few = [
            column
            for column in sorted(columns.keys() - {*chosen.values(), *SAME_NAME_COLUMNS})
            if 2 <= len(set(columns[column]) - {""}) <= min(6, len(columns[column]) // 2)
            and not any(re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", text) for text in columns[column])
        ]
        # Text is a label rather than a number, and a number rather than the sex of a patient.
        if few:
            chosen["label"] = max(
                few,
                key=lambda each: (not is_attribute(each), not _are_numbers(columns[each]), each),
            )
    return chosen


def _answer_columns(
    columns: Mapping[str, Sequence[str]], chosen: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the columns of 1 and 0 (or empty, -1, nan), one for each label; none if one is alone.

    A column with the name of a label, or with other labels, is the only one.
    """
    label = chosen.get("label")
    others = {column for field, column in chosen.items() if field != "label"} | {*SAME_NAME_COLUMNS}
    answers = [
        name
        for name, values in columns.items()
        if PRESENT in (forms := {label_form(value) for value in values})
        and forms <= CODES
        and len(forms) > 1
        and name not in others
        and name.isprintable()
        and 0 < len(name) <= MAX_CLASS
        and SEPARATOR not in name
        and name.lower() != NONE
    ]
    if len(answers) < 2 or (label is not None and label not in answers):
        return ()
    return () if label is not None and label.lower() in WORDS["label"] else tuple(answers)


def _answer_lines(columns: Sequence[Sequence[str]]) -> list[str]:
    """Say what the texts of the columns of single labels mean."""
    forms = {label_form(value) for values in columns for value in values}
    lines = ["# Check: each class has a column of its name, with 1 (present) and 0 (absent)."]
    if unknown := sorted(forms & {"-1", "nan"}):
        lines.append(f"# {' and '.join(unknown)}: unknown, neither trained on nor tested.")
    if all(list(map(label_form, row)).count(PRESENT) == 1 for row in zip(*columns, strict=True)):
        lines += [
            "# Check: every case has exactly one of them. If they exclude one another, write a",
            "# column label with the class of each case, and remove task.",
        ]
    if "" in forms:
        lines += [
            "# Check: an empty cell means that the label is unknown; to make it absent, write",
            f'# "" = "{ABSENT}".',
            "[labels]",
            '"" = ""',
        ]
    return ["", *lines]


def _by_words(words: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column with the first of some words that one has."""
    whole = (c for word in words for c in columns if word in c.lower().split("_"))
    return next(whole, None) or next((c for w in words for c in columns if w in c.lower()), None)


def _names(field: str, free: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column that names the patient, finding or group: first one whose values repeat.

    A column such as ``case_id`` names the patient only if its values repeat.
    """
    alike = [column for column in free if resembles(column, field) and may_name(columns[column])]
    repeat = [column for column in alike if len(set(columns[column])) < len(columns[column])]
    others = [column for column in alike if "case" not in column.lower()]
    return next(iter(repeat + others), None)


def _task(values: set[str]) -> tuple[str, tuple[str, ...]]:
    """Guess the task and its classes from a column of labels."""
    if any(SEPARATOR in value for value in values):
        parts = {part.strip() for value in values for part in value.split(SEPARATOR)}
        return "multilabel", tuple(sorted(parts - {"", NONE}))
    if len(values) > MAX_CLASSES and all(_is_number(value) for value in values):
        return "regression", ()
    return "classification", tuple(sorted(values))


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_is_number(text) for text in texts if text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", text) is not None
