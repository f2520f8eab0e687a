"""Label of a case, from the text of one cell or from an answer for each class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping

from hydrakit.data.declared.schema import ABSENT, FILE, NONE, PRESENT, UNKNOWN, Declaration, number
from hydrakit.data.safe_paths import join_names, quote
from hydrakit.errors import DataError
from hydrakit.hooks import Label, Remark
from hydrakit.stats.label_cells import SEPARATOR, UNSURE
from hydrakit.storage.tables import label_form

# How else a declared dataset can name a class; images that are given without one cannot.
MAP_LABELS = f', or map it to a class under [labels] in {FILE} ("" if it is unknown)'
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


def remarks_on_labels(declaration: Declaration, texts: Iterable[str]) -> Iterator[Remark]:
    """Yield the labels that are matched in another spelling, with their numbers."""
    respelt = Counter(pair for text in texts for pair in _respelt(declaration, text))
    if respelt:
        pairs = [
            f"{quote(text)} is {quote(label)} ({count})"
            for (text, label), count in respelt.most_common()
        ]
        yield Remark(
            text="labels that differ from a class, or from a key under [labels], only in case, "
            f"blanks or decimals: {join_names(pairs)}"
        )


def case_label(
    declaration: Declaration, fields: Mapping[str, str], filled: Mapping[str, str]
) -> Label | None:
    """The label of a case, from one field or from a field for each class."""
    answers = [field for field in fields if field.startswith(ANSWER)]
    if not answers:
        return label_of(declaration, filled.get("label", ""))
    texts = {field.removeprefix(ANSWER): filled.get(field, "") for field in answers}
    return label_of_answers(declaration, texts)


def label_of(declaration: Declaration, text: str) -> Label | None:
    """Convert the text of a label; None if it is unknown.

    Raises:
        ValueError: It is no label of the dataset.
    """
    mapped = _target(declaration, text)
    if mapped == UNKNOWN:
        return None
    if declaration.task == "regression":
        return number(mapped, "label")
    if declaration.task == "classification":
        return _class(declaration, mapped)
    if mapped == NONE:
        return (0,) * len(declaration.classes)
    names = [_target(declaration, part.strip()) for part in mapped.split(SEPARATOR)]
    unsure = {name for name in names if name.endswith(UNSURE) and name not in declaration.classes}
    unknown = {_class(declaration, name.removesuffix(UNSURE)) for name in unsure}
    present = {_class(declaration, name) for name in names if name not in {NONE, *unsure}}
    answers = [
        None if index in unknown - present else int(index in present)
        for index in range(len(declaration.classes))
    ]
    return tuple(answers) if any(answer is not None for answer in answers) else None


def _target(declaration: Declaration, text: str) -> str:
    """What a label means: by [labels], or itself; if neither knows it, in another spelling."""
    exact = declaration.labels.get(text, text)
    if exact != text or exact in declaration.classes:
        return exact
    targets = declaration.label_forms.get(label_form(text), ())
    return next(iter(targets)) if len(targets) == 1 else text


def _respelt(declaration: Declaration, text: str) -> list[tuple[str, str]]:
    """Labels of a cell that are matched in another spelling, each with what it means."""
    parts = text.split(SEPARATOR) if declaration.task == "multilabel" else [text]
    return [
        (part, target)
        for part in map(str.strip, parts)
        if part not in declaration.labels and (target := _target(declaration, part)) != part
    ]


def _class(declaration: Declaration, name: str) -> int:
    if name not in declaration.classes:
        raise ValueError(
            f"label {quote(name)} is none of the classes {join_names(declaration.classes)}: "
            f"correct it{MAP_LABELS}"
        )
    return declaration.classes.index(name)
