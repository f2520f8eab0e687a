"""The verdict on a comparison, from a fixed rule, in words: better, worse, or not to be told apart.

The rule: a strategy is *better* (or *worse*) than another where the p-value, adjusted for all
comparisons of the family, is at most 0.05 and the interval of the difference lies wholly on that
side of 0. Everything else is *cannot tell*: that is no proof that they are equal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from hydrakit.errors import DataError
from hydrakit.stats.intervals import newcombe_interval, quantile
from hydrakit.stats.paired import PairedDifference, findings_needed, holm

Kind = Literal["better", "worse", "cannot tell"]

LEVEL = 0.95
MOST_ALIKE = 0.8  # the highest correlation of two AUCs on the same cases that is plausible


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What may be said of one strategy beside another.

    Attributes:
        first: The one that is judged.
        second: The one beside it.
        kind: ``better``, ``worse`` or ``cannot tell``: the first, beside the second.
        difference: AUC of the first less that of the second.
        low: Lower end of the difference's interval.
        high: Upper end.
        p: Adjusted for the family; None where there is only a table.
        needed: About so many findings would be needed to tell a difference of that size: infinite
            where none was found, None where the two can be told apart.
        text: All that in words.
    """

    first: str
    second: str
    kind: Kind
    difference: float
    low: float
    high: float
    p: float | None
    needed: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A line of a published table.

    Attributes:
        name: Of the method.
        auc: That it had.
        positives: Number of positive findings of its test set.
        negatives: Number of negative findings.
    """

    name: str
    auc: float
    positives: int
    negatives: int


def verdicts(
    differences: Mapping[tuple[str, str], PairedDifference], *, level: float = LEVEL
) -> list[Verdict]:
    """The verdicts on a family of comparisons, with Holm's correction over all of them.

    Args:
        differences: By the names of the first and the second strategy.
        level: 1 less the level of the tests.

    Raises:
        ValueError: The level is outside its range.
    """
    quantile(level)
    names = {f"{number}": key for number, key in enumerate(differences)}
    adjusted = holm({number: differences[key].p for number, key in names.items()})
    return [
        _of_difference(key, differences[key], p=adjusted[number], family=len(names), level=level)
        for number, key in names.items()
    ]


def _of_difference(
    names: tuple[str, str], found: PairedDifference, *, p: float, family: int, level: float
) -> Verdict:
    first, second = names
    kind: Kind = "cannot tell"
    if p <= 1 - level + 1e-12 and (found.low > 0 or found.high < 0):
        kind = "better" if found.low > 0 else "worse"
    figures = (
        f"mean AUC {found.first:.2f} against {found.second:.2f}, difference "
        f"{_signed(found.difference)} ({_percent(found.level)} interval {_signed(found.low)} to "
        f"{_signed(found.high)}), p {_p(p)}"
        f"{f' after correction for {family} comparisons' if family > 1 else ''}"
    )
    cases = (
        f"{found.positives} positive and {found.negatives} negative findings of "
        f"{found.patients} patients"
    )
    if kind == "cannot tell":
        text = f"{_apart(first, second, [found.needed])} ({figures}; {cases})."
    else:
        text = f"{first} is {kind} than {second} on this data: {figures}; {cases}."
    if found.passes == 1:
        text += " Each was trained once: another random start may give another difference."
    return Verdict(
        first=first,
        second=second,
        kind=kind,
        difference=found.difference,
        low=found.low,
        high=found.high,
        p=p,
        needed=found.needed if kind == "cannot tell" else None,
        text=text,
    )


def verdict_of_table(rows: Sequence[TableRow], *, level: float = LEVEL) -> list[Verdict]:
    """What a published table alone allows to say, of each row beside each later one.

    A table does not tell how alike two methods' errors were. Each AUC has Newcombe's interval, and
    the two are joined by squares with a correlation (Newcombe's square-and-add, or MOVER) of 0, the
    cautious assumption, which decides; and of 0.8, the most favourable one that is plausible for
    two networks on the same cases. Levels are Bonferroni's for the number of comparisons; the
    favourable interval is at the plain level, so that "cannot tell" under it holds a fortiori.

    Args:
        rows: At least two, in the order in which they are to be told.
        level: Confidence of all intervals together.

    Raises:
        DataError: There are fewer than two rows, two have one name, or a row is impossible.
        ValueError: The level is outside its range.

    Source: Newcombe 2006, Statist. Med. 25:559-573; Zou and Donner 2008, Statist. Med.
    27:1693-1702.
    """
    quantile(level)
    for row in rows:
        _check(row)
    if len(rows) < 2:
        raise DataError("a verdict needs two rows or more: name, AUC, positives, negatives")
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise DataError("two rows of the table have the same name: give each its own")
    pairs = list(combinations(rows, 2))
    strict = 1 - (1 - level) / len(pairs)
    return [_of_rows(first, second, strict, level) for first, second in pairs]


def difference_interval(
    first: TableRow, second: TableRow, *, correlation: float, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the difference of two AUCs from their own intervals and a correlation.

    Raises:
        ValueError: The correlation is not in [0, 1), or as `newcombe_interval`.

    Source: Zou and Donner 2008, Statist. Med. 27:1693-1702.
    """
    if not 0 <= correlation < 1:
        raise ValueError(f"a correlation is 0 or more and below 1: got {correlation}")
    (low1, high1), (low2, high2) = (
        newcombe_interval(row.auc, row.positives, row.negatives, level=level)
        for row in (first, second)
    )
    difference = first.auc - second.auc
    below = _joined(first.auc - low1, high2 - second.auc, correlation)
    above = _joined(high1 - first.auc, second.auc - low2, correlation)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _joined(one: float, two: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + two**2 - 2 * correlation * one * two))


def _of_rows(first: TableRow, second: TableRow, strict: float, level: float) -> Verdict:
    same_cases = (first.positives, first.negatives) == (second.positives, second.negatives)
    difference = first.auc - second.auc
    low, high = difference_interval(first, second, correlation=0.0, level=strict)
    favourable = difference_interval(
        first, second, correlation=MOST_ALIKE if same_cases else 0.0, level=level
    )
    kind: Kind = "cannot tell"
    if low > 0 or high < 0:
        kind = "better" if low > 0 else "worse"
    needed = sorted(
        {_needed(first, second, r, level) for r in ((0.0, MOST_ALIKE) if same_cases else (0.0,))}
    )
    apart = favourable[0] > 0 or favourable[1] < 0
    return Verdict(
        first=first.name,
        second=second.name,
        kind=kind,
        difference=difference,
        low=low,
        high=high,
        p=None,
        needed=needed[-1] if kind == "cannot tell" else None,
        text=_table_text(
            first,
            second,
            kind=kind,
            intervals=((low, high), favourable),
            levels=(strict, level),
            needed=needed,
            apart=apart,
            same_cases=same_cases,
        ),
    )


def _table_text(
    first: TableRow,
    second: TableRow,
    *,
    kind: Kind,
    intervals: tuple[tuple[float, float], tuple[float, float]],
    levels: tuple[float, float],
    needed: Sequence[float],
    apart: bool,
    same_cases: bool,
) -> str:
    own = " and ".join(
        f"{row.auc:.2f} ({low:.2f} to {high:.2f})"
        for row in (first, second)
        for low, high in [newcombe_interval(row.auc, row.positives, row.negatives)]
    )
    cases = " and ".join(
        f"{row.positives} positive and {row.negatives} negative findings"
        for row in ((first,) if same_cases else (first, second))
    )
    (low, high), (lowest, highest) = intervals
    figures = (
        f"AUC {own} on {cases}; difference {_signed(first.auc - second.auc)}, its "
        f"{_percent(levels[0])} interval {_signed(low)} to {_signed(high)} if the two err "
        f"independently"
    )
    if same_cases:
        figures += (
            f", its {_percent(levels[1])} interval {_signed(lowest)} to {_signed(highest)} if they "
            f"err very much alike (correlation {MOST_ALIKE}); a table does not tell which"
        )
    if kind != "cannot tell":
        return f"{first.name} is {kind} than {second.name}, even by this table alone: {figures}."
    if apart:
        return (
            f"The table cannot tell {first.name} and {second.name} apart, but the predictions "
            f"might, if they are alike: compare these finding by finding ({figures})."
        )
    return f"{_apart(first.name, second.name, needed)} ({figures})."


def _apart(first: str, second: str, needed: Sequence[float]) -> str:
    if math.isinf(needed[-1]):
        size = "no difference was found, so that no number of findings can be named"
    else:
        shown = list(dict.fromkeys(_about(number) for number in needed))
        size = (
            f"about {' to '.join(shown)} findings would be needed to tell a difference of this size"
        )
    return f"This data cannot tell {first} and {second} apart: {size}"


def _needed(first: TableRow, second: TableRow, correlation: float, level: float) -> float:
    low, high = difference_interval(first, second, correlation=correlation, level=level)
    error = (high - low) / (2 * quantile(level))
    findings = max(row.positives + row.negatives for row in (first, second))
    return findings_needed(first.auc - second.auc, error, findings, level=level)


def rows_of_table(text: str, *, where: str = "the table") -> list[TableRow]:
    """Read rows ``name, AUC, positives, negatives`` from lines, or parts between semicolons.

    An AUC is a number or a fraction as ``48/60`` (pairs won of all pairs). Empty lines, lines that
    begin with ``#``, and a first line ``name,auc,positives,negatives`` are passed over.

    Args:
        text: Of the table.
        where: What to call it in messages: a file's name.

    Raises:
        DataError: A row is not of that form, or impossible.
    """
    rows = []
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split(",")]
        is_heading = [cell.lower() for cell in cells] == ["name", "auc", "positives", "negatives"]
        if not line or line.startswith("#") or is_heading:
            continue
        shown = ascii(line[:60])
        if len(cells) != 4 or not cells[0]:
            raise DataError(
                f"{where}, row {number}: {shown} is not `name, AUC, positives, negatives`"
            )
        if not all(cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells[2:]):
            raise DataError(f"{where}, row {number}: {shown}: counts are whole numbers")
        row = TableRow(
            name=cells[0],
            auc=_auc(cells[1], f"{where}, row {number}"),
            positives=int(cells[2]),
            negatives=int(cells[3]),
        )
        _check(row, f"{where}, row {number}: ")
        rows.append(row)
    return rows


def _auc(cell: str, where: str) -> float:
    above, slash, below = cell.partition("/")
    try:
        value = float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        raise DataError(
            f"{where}: {cell[:40]!a} is no AUC: give a number or a fraction as 48/60"
        ) from None
    return value


def _check(row: TableRow, where: str = "") -> None:
    name = ascii(row.name[:40])
    if not 0 <= row.auc <= 1:
        raise DataError(f"{where}{name}: an AUC is between 0 and 1, not {row.auc}")
    if row.positives < 1 or row.negatives < 1:
        raise DataError(
            f"{where}{name}: a test set has findings of both classes, not {row.positives} positive "
            f"and {row.negatives} negative"
        )


def _signed(value: float) -> str:
    return f"{value:+.2f}"


def _percent(level: float) -> str:
    return f"{100 * level:.3g} %"


def p_value(value: float) -> str:
    """A p-value as it is shown: never as 0."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _p(value: float) -> str:
    return f"{'' if value < 0.001 else '= '}{p_value(value)}"


def _about(number: float) -> str:
    """A number of findings, rounded up to two figures."""
    if number < 10:
        return str(math.ceil(number))
    unit = 10 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:,}"
