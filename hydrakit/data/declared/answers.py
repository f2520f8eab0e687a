"""Labels of a multi-label case in columns of their own: one answer for each class."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from hydrakit.data.declared.schema import ABSENT, FILE, PRESENT, UNKNOWN, Declaration
from hydrakit.data.safe_paths import quote
from hydrakit.errors import DataError
from hydrakit.storage.tables import label_form

ANSWER = "answers."  # prefix of a class among the fields of a case

_MEANINGS = {
    **dict.fromkeys((PRESENT, "true", "yes"), 1),
    **dict.fromkeys((ABSENT, "false", "no"), 0),
    **dict.fromkeys(("-1", "nan", "na", "n/a", "unclear", "uncertain", "unknown"), None),
}
CODES = frozenset(("", "-1", "nan", PRESENT, ABSENT))  # texts that suggest such a column


def find_answers(
    declaration: Declaration, named: Callable[[str], str | None], where: str
) -> dict[str, str]:
    """Return the column of each class, by field; none if they are not declared and not there.

    Args:
        declaration: Declaration of a multi-label dataset.
        named: Returns the column of a name, or None.
        where: Place of the header, for messages.

    Raises:
        DataError: ``label_columns`` is declared, and a class has no column.
    """
    given = declaration.label_columns
    columns = {name: given.get(name) or named(name) for name in declaration.classes}
    found = {f"{ANSWER}{name}": column for name, column in columns.items() if column is not None}
    if len(found) == len(columns):
        return _of_different_columns(found, where)
    if given:
        missing = next(name for name, column in columns.items() if column is None)
        raise DataError(
            f"{where}: no column for the class {quote(missing)}: add it, or name it under "
            f"[label_columns] in {FILE}"
        )
    return {}


def _of_different_columns(found: dict[str, str], where: str) -> dict[str, str]:
    for field, column in found.items():
        others = [other for other in found if other != field and found[other] == column]
        if others:
            classes = " and ".join(quote(each.removeprefix(ANSWER)) for each in (field, others[0]))
            raise DataError(
                f"{where}: the column {quote(column)} is that of the classes {classes}: name "
                f"another one under [label_columns] in {FILE}"
            )
    return found


def label_of_answers(
    declaration: Declaration, answers: Mapping[str, str]
) -> tuple[int | None, ...] | None:
    """Convert the texts of all classes to a label; None if none of them is known.

    Args:
        declaration: Declaration of a multi-label dataset.
        answers: Text of each class, by its name, without blanks around it.

    Raises:
        ValueError: A text is no answer, or it is not declared what an empty one means.
    """
    if not any(answers.values()) and "" not in declaration.labels:
        return None
    label = []
    for name in declaration.classes:
        try:
            label.append(answer_of(declaration, answers[name]))
        except ValueError as error:
            raise ValueError(f"label {quote(name)}: {error}") from None
    return None if all(answer is None for answer in label) else tuple(label)


def answer_of(declaration: Declaration, text: str) -> int | None:
    """Convert the text for one class: 1 (present), 0 (absent), or None (unknown).

    Raises:
        ValueError: It is no answer, or empty while it is not declared what that means.
    """
    form = label_form(text)
    declared = declaration.labels.get(text)
    if declared is None and len(targets := declaration.label_forms.get(form, ())) == 1:
        declared = next(iter(targets))
    if declared is not None:
        text = form = declared
        if declared == UNKNOWN:
            return None
    elif not text:
        raise ValueError(
            f"is empty, and other labels of the case are not: write into {FILE} what an empty cell "
            f'means, under [labels]: "" = "" (unknown) or "" = "{ABSENT}" (absent)'
        )
    if form not in _MEANINGS:
        raise ValueError(
            f"{quote(text)} is neither {PRESENT} (present), {ABSENT} (absent) nor -1, nan or "
            f'unclear (unknown): correct it, or map it to {PRESENT}, {ABSENT} or "" (unknown) '
            f"under [labels] in {FILE}"
        )
    return _MEANINGS[form]
