"""Columns of a table of cases: which are used, and what the others may mean."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from hydrakit.data.declared.labels import ANSWER, find_answers
from hydrakit.data.declared.schema import FILE, Columns, Declaration
from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError, unknown
from hydrakit.hooks import Remark

POINT = ("x_mm", "y_mm", "z_mm")
SUBGROUP = "subgroups."  # prefix of a subgroup's name among the fields of a case

# Words in the column names of published tables.
WORDS = {
    "label": (
        *("label", "class", "diagnosis", "target", "dx", "category", "clinsig", "finding"),
        *("diagnose", "diagnostic", "klasse", "befund"),
    ),
    "patient": (
        *("patient", "subject", "participant", "person", "individual", "proband", "case"),
        *("pid", "pat", "mrn", "prox"),
    ),
    "finding": ("lesion", "nodule", "finding"),
    "group": ("group", "exam", "study"),
    "split": ("split", "partition", "subset", "fold"),
}
_MEANINGS = {
    "patient": "the patients",
    "finding": "the findings (lesions)",
    "split": "the split of each case",
    "group": "what must stay in one split",
}
# What such a column states of a patient (or lesion, exam ...) if it does not name one.
_ATTRIBUTES = frozenset(
    (
        *("age", "ages", "sex", "gender", "race", "ethnicity", "birth", "dob", "weight", "height"),
        *("size", "length", "width", "diameter", "volume", "position", "orientation", "location"),
        *("date", "time", "year", "status", "history", "type", "description", "comment"),
        *("comments", "count", "counts", "side", "smoker", "consent", "group"),
    )
)
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SEPARATORS = re.compile(r"[\s_.\-]+")
_NO_NAMES = (  # values that name nobody: dates, years of age, numbers with decimals
    re.compile(
        r"\d{4}([-/.])\d{1,2}\1\d{1,2}([ T].*)?|\d{1,2}([-/.])\d{1,2}\3(\d{2}|\d{4})([ T].*)?"
    ),
    re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])([0-2]\d|3[01])"),
    re.compile(r"\d{1,3} ?[YMWDymwd](ears?)?"),
    re.compile(r"[+-]?\d*\.\d*[1-9]\d*"),
)


def find_columns(
    declaration: Declaration,
    header: Sequence[str],
    where: str,
    *,
    more: Sequence[str] | None = None,
) -> dict[str, str]:
    """Return the table's column for each field.

    A column is used for the field of its name, but for case, blanks and separators. A column that
    the declaration assigns to one field is not used for a field of the same name. A column of masks
    must be assigned: it would move every case.

    Args:
        declaration: Declaration of the dataset.
        header: Names of the columns.
        where: Place of the header, for messages.
        more: For a table that no file declares: fields besides those of `Columns`; it needs no
            labels.

    Raises:
        DataError: A column is missing, occurs twice, or several may be meant.
    """
    for column in header:
        if column and header.count(column) > 1:
            raise DataError(f"{where}: the column {quote(column)} occurs twice: rename one")
    printable = [column for column in header if column.isprintable() and len(column) <= 60][:20]
    assigned = declaration.columns.model_dump(exclude_none=True)
    requested = {f"columns.{field}": (field, column) for field, column in assigned.items()}
    for name, column in declaration.label_columns.items():
        requested[f"label_columns.{name}"] = f"{ANSWER}{name}", column
    for name, column in declaration.subgroups.items():
        requested[f"{SUBGROUP}{name}"] = f"{SUBGROUP}{name}", column
    for key, (_, column) in requested.items():
        if column not in header:
            raise DataError(f"{where}: {unknown('column', column, printable)} ({key} in {FILE})")
    free = [column for column in header if column not in assigned.values()]
    same_name = {
        field: _column(field, free, where, declared=more is None)
        for field in (*Columns.model_fields, *(more or ()))
        if field not in assigned and not (field == "mask" and more is None)
    }
    columns = {field: column for field, column in same_name.items() if column is not None}
    columns |= dict(requested.values())
    images, other = ("path", "image") if declaration.has_table else ("image", "path")
    columns.pop(other, None)
    answers: dict[str, str] = {}
    if declaration.task == "multilabel" and (declaration.label_columns or "label" not in columns):
        named = partial(_column, header=free, where=where, declared=more is None)
        answers = find_answers(declaration, named, where)
        for field in (
            "label",
            *(each for each in same_name if columns.get(each) in answers.values()),
        ):
            columns.pop(field, None)
        columns |= answers
    for field in (images, *(["label"] if more is None and not answers else [])):
        if field not in columns:
            naming = f", or name it under [columns] in {FILE}" if more is None else ""
            several = field == "label" and declaration.task == "multilabel"
            raise DataError(
                f"{where}: no column {field!r}{', nor one for each class' if several else ''}: add "
                f"it{naming} "
                f"(there are {', '.join(printable) or 'none'})"
            )
    return columns


def has_columns(
    declaration: Declaration, header: Sequence[str], *, more: Sequence[str] | None = None
) -> bool:
    """Whether a header has all columns that `find_columns` needs."""
    try:
        find_columns(declaration, header, "", more=more)
    except DataError:
        return False
    return True


def _column(field: str, header: Sequence[str], where: str, *, declared: bool) -> str | None:
    """Return the column of a field's name; None if there is none."""
    if field in header:
        return field
    alike = [column for column in header if _plain(column) == _plain(field)]
    if len(alike) > 1:
        remedy = f"name one under [columns] in {FILE}" if declared else "rename one"
        raise DataError(
            f"{where}: {' and '.join(map(quote, alike))} may both be the column {field!r}: {remedy}"
        )
    return alike[0] if alike else None


def _plain(name: str) -> str:
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", name).casefold())


def remarks_on_columns(
    table: str, header: Sequence[str], columns: Mapping[str, str]
) -> Iterator[Remark]:
    """Yield what users must know about the columns that are not used.

    Args:
        table: Name of the table's file.
        header: Names of all columns.
        columns: Column of each field and subgroup (`find_columns`).
    """
    unused = [column for column in header if column and column not in columns.values()]
    for field, meaning in _MEANINGS.items():
        alike = [column for column in unused if resembles(column, field)]
        if alike and field not in columns and not (field == "group" and "patient" in columns):
            yield Remark(
                text=f"{table}: the column {quote(alike[0])} is not used: if it names {meaning}, "
                f"write {field} = {quote(alike[0])} under [columns] in {FILE}",
                warning=True,
            )
    if unused:
        names = ", ".join(name if name.isprintable() else repr(name) for name in unused)
        yield Remark(text=f"{table}: columns that are not used: {names}")


def resembles(column: str, field: str) -> bool:
    """Whether the name of a column suggests that it holds a field: ``PatientID`` for patient."""
    tokens = [token.lower() for token in _TOKEN.findall(column)]
    others = _ATTRIBUTES - {field}
    return not others & set(tokens) and any(
        token == word or (len(word) > 4 and token.startswith(word))
        for token in tokens
        for word in WORDS[field]
    )


def is_attribute(column: str) -> bool:
    """Whether the name of a column is that of an attribute of a patient: ``Sex``, ``AgeYears``."""
    return any(token.lower() in _ATTRIBUTES for token in _TOKEN.findall(column))


def may_name(values: Sequence[str]) -> bool:
    """Whether values may be names of patients, findings or groups, by what they look like.

    There are several, and they are not all dates, ages or numbers with decimals.
    """
    filled = {value for value in values if value}
    return len(filled) > 2 and not any(all(map(pattern.fullmatch, filled)) for pattern in _NO_NAMES)
