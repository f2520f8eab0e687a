"""Parts of a drafted ``dataset.toml``: its cases, and text as TOML."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hydrakit.data.declared.columns import POINT, WORDS
from hydrakit.data.identity import names_nobody, normal_name
from hydrakit.errors import DataError

MAX_CLASSES = 20  # of a draft: more labels are numbers, and more folders no classes
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
SAME_NAME_COLUMNS = ("row", "column", "row_mm", "column_mm", "slice", *POINT, "split", "key")


@dataclass(frozen=True)
class GuessedCases:
    """Source of the cases, as lines of TOML, and their classes.

    Attributes:
        lines: Lines of the file's top level.
        tables: Lines of the file's tables, which come last.
        task: Task of the dataset.
        labels: Labels of the cases, sorted.
        patients: What the source says of the patients, with their number; empty if nothing.
        member: Name of the array of images in an NPZ with one case per row; None otherwise.
        columns: Columns of the table of cases; none if there is no table.
        above: Whether paths begin with the name of the folder, as if from the one above it.
    """

    lines: tuple[str, ...]
    tables: tuple[str, ...]
    task: str
    labels: tuple[str, ...]
    patients: str
    member: str | None = None
    columns: frozenset[str] = frozenset()
    above: bool = False


def patient_line(source: str, names: Sequence[str]) -> str:
    """Say where the patients come from, and how many there are."""
    named = [normal_name(name) for name in names if not names_nobody(name)]
    line = f"# Check: {comment(source)} gives {len(set(named))} patients of {len(names)} images."
    if not named or len(named) == len(names):
        return line
    return (
        f"{line}\n# {len(names) - len(named)} of the images name no patient: complete the names, "
        'or uncomment what this means:\n# empty_patient = "above"  # the patient of the row above, '
        'as in merged cells\n# empty_patient = "own"  # each is a patient of its own'
    )


def are_patients(names: Iterable[str]) -> bool:
    """Whether folders are patients by their names: ``patient00001``, ``sub-01``, ``Case 7``."""
    parts = [re.fullmatch(r"([^\W\d_]+)[ _-]?\d+", name) for name in names]
    return all(part and part[1].lower() in ("sub", *WORDS["patient"]) for part in parts)


def quoted(text: str) -> str:
    """Quote text as a TOML basic string: as in JSON, but TOML also escapes the DEL character.

    Raises:
        DataError: The text comes from a file name and is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name {text!r} is not UTF-8: rename the file or folder") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def comment(text: str) -> str:
    """Text for a comment of TOML: printable, in one line."""
    return "".join(c if c.isprintable() else "?" for c in text)


def split_lines(names: Sequence[str]) -> list[str]:
    """Write the table that maps the data's words for splits."""
    words = sorted(
        {name for name in names if name.lower() in SPLIT_WORDS} - set(SPLIT_WORDS.values())
    )
    lines = [f"{quoted(name)} = {quoted(SPLIT_WORDS[name.lower()])}" for name in words]
    return ["", "[splits]  # Check: the data's words for its splits", *lines] if lines else []
