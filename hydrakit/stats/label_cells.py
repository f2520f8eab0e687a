"""The labels of a multi-label case in one cell of a table: ``edema;fracture?``.

The labels that are present are joined by ``;``. A label whose answer is unknown is there with a
``?`` behind its name. All others are absent.
"""

from __future__ import annotations

from collections.abc import Sequence

SEPARATOR = ";"
UNSURE = "?"


def label_parts(label: Sequence[float | None], classes: Sequence[str]) -> list[str]:
    """The parts of a cell: labels that are present, and with a ``?`` those that are unknown.

    Args:
        label: 1, 0, or None or NaN for an unknown answer, for each of the classes.
        classes: Names of the classes.
    """
    pairs = zip(classes, label, strict=True)
    return [name if answer == 1 else f"{name}{UNSURE}" for name, answer in pairs if answer != 0]


def label_cell(label: Sequence[float | None], classes: Sequence[str]) -> str:
    """The cell of a label (see `label_parts`); empty if all labels are absent."""
    return SEPARATOR.join(label_parts(label, classes))


def has_label(cell: str, name: str) -> bool | None:
    """Whether a cell has a label; None if that is unknown."""
    parts = cell.split(SEPARATOR)
    return None if f"{name}{UNSURE}" in parts and name not in parts else name in parts
