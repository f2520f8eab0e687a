"""The verdict on a comparison by a fixed rule: better, worse, or cannot tell; and its text.

The rule: a strategy is *better* (or *worse*) than another if the p-value, adjusted for all
comparisons of the family, is at most 0.05 and the whole interval of the difference lies on that
side of 0. Otherwise the data *cannot tell*, which does not prove that the two are equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Literal

from hydrakit.errors import DataError
from hydrakit.stats.intervals import newcombe_interval, normal_quantile
from hydrakit.stats.paired import Measure, PairedDifference, findings_needed, holm

VerdictKind = Literal["better", "worse", "cannot tell"]

LEVEL = 0.95
NOT_WORTH = "this network is not worth its cost here"
MEASURES: dict[Measure, str] = {
    "AUC": "mean AUC",
    "mean AUC": "mean AUC of the labels",
    "mae": "mean absolute error",
}
MAX_CORRELATION = 0.8  # highest plausible correlation of two AUCs on the same cases


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Conclusion about one strategy compared with another.

    Attributes:
        first: Name of the first strategy.
        second: Name of the second strategy.
        kind: ``better``, ``worse`` or ``cannot tell``: the first compared with the second.
        difference: AUC of the first minus that of the second.
        low: Lower bound of the difference's interval.
        high: Upper bound of the difference's interval.
        p: p-value, adjusted for all comparisons; None for a published table.
        needed: Approximate number of findings needed to detect a difference of this size: infinite
            where the difference is 0, None where the verdict is ``better`` or ``worse``.
        text: The conclusion as text.
    """

    first: str
    second: str
    kind: VerdictKind
    difference: float
    low: float
    high: float
    p: float | None
    needed: float | None
    text: str


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One row of a published table of AUCs.

    Attributes:
        name: Name of the method.
        auc: Reported AUC.
        positives: Number of positive findings in the test set.
        negatives: Number of negative findings in the test set.
    """

    name: str
    auc: float
    positives: int
    negatives: int


def verdicts(
    differences: Mapping[tuple[str, str], PairedDifference],
    *,
    baselines: Mapping[str, str] = MappingProxyType({}),
    networks: bool = True,
    looks: int = 1,
    level: float = LEVEL,
) -> list[Verdict]:
    """Verdicts on a family of comparisons, with Holm's correction over all of them.

    Args:
        differences: Differences by the names of the first and the second strategy.
        baselines: Names of strategies that are baselines, each with its description. The text says
            whether a network is worth its cost, compared with them.
        networks: Whether the scores are of networks, whose random start matters, and not of anyone.
        looks: Number of planned looks at the results, for which the p-values are corrected.
        level: Confidence level: 1 minus the level of the tests.

    Raises:
        ValueError: The level is outside its range.
    """
    normal_quantile(level)  # refuses a level outside (0, 1)
    names = {f"{number}": key for number, key in enumerate(differences)}
    adjusted = holm({number: differences[key].p for number, key in names.items()})
    return [
        _verdict_of_difference(
            key,
            differences[key],
            p=adjusted[number],
            family=len(names),
            baseline=None if key[0] in baselines else baselines.get(key[1]),
            networks=networks,
            looks=looks,
            level=level,
        )
        for number, key in names.items()
    ]


def _verdict_of_difference(
    names: tuple[str, str],
    pair: PairedDifference,
    *,
    p: float,
    family: int,
    baseline: str | None,
    networks: bool,
    looks: int,
    level: float,
) -> Verdict:
    first, second = names
    kind: VerdictKind = "cannot tell"
    low, high = pair.gain
    if p <= 1 - level + 1e-12 and (low > 0 or high < 0):
        kind = "better" if low > 0 else "worse"
    what, digits = MEASURES[pair.measure], ".3g" if pair.measure == "mae" else ".2f"
    if not networks:
        what = pair.measure
    corrected = [f"{looks} looks"] if looks > 1 else []
    corrected += [f"{family} comparisons"] if family > 1 else []
    correction = f" after correction for {' and '.join(corrected)}" if corrected else ""
    details = (
        f"{what} {pair.first:{digits}} against {pair.second:{digits}}, difference "
        f"{pair.difference:+{digits}} ({_percent(pair.level)} interval {pair.low:+{digits}} to "
        f"{pair.high:+{digits}}), p {_p(p)}"
        f"{correction}"
    )
    findings = (
        f"{pair.findings}"
        if pair.findings
        else f"{pair.positives} positive and {pair.negatives} negative"
    )
    cases = f"{findings} findings of {pair.patients} patients"
    if kind == "better":
        text = f"{first} is better than {baseline or second} on this data: {details}; {cases}."
    elif baseline is not None and kind == "worse":
        text = f"{_capital(baseline)} is better than {first}: {NOT_WORTH}: {details}; {cases}."
    elif kind == "worse":
        text = f"{first} is worse than {second} on this data: {details}; {cases}."
    elif baseline is not None:
        count = pair.findings or pair.positives + pair.negatives
        text = (
            f"{_capital(baseline)} is no worse than {first}, as far as {count} findings can show: "
            f"{NOT_WORTH} ({details}; {cases}; {_size([pair.needed])})."
        )
    else:
        text = f"{_cannot_tell(first, second, [pair.needed])} ({details}; {cases})."
    if networks and pair.passes == 1:
        text += " Each was trained once: another random start may give another difference."
    return Verdict(
        first=first,
        second=second,
        kind=kind,
        difference=pair.difference,
        low=pair.low,
        high=pair.high,
        p=p,
        needed=pair.needed if kind == "cannot tell" else None,
        text=text,
    )


def verdict_of_table(rows: Sequence[TableRow], *, level: float = LEVEL) -> list[Verdict]:
    """Verdicts that a published table alone allows, for each row compared with each later one.

    A table does not show how strongly the errors of two methods correlate. Each AUC gets Newcombe's
    interval, and the two intervals are combined (square-and-add method, MOVER) with two assumed
    correlations: 0, the cautious assumption, decides; 0.8 is the most favourable plausible one for
    two networks on the same cases. The deciding interval has Bonferroni's level for the number of
    comparisons. The favourable one has the plain level: where even it contains 0, nothing can be
    concluded.

    Args:
        rows: Rows of the table, at least two, in the order of the comparisons.
        level: Confidence level of all intervals together.

    Raises:
        DataError: There are fewer than two rows, two have one name, or a row is impossible.
        ValueError: The level is outside its range.

    Source: Newcombe 2006, Statist. Med. 25:559-573; Zou and Donner 2008, Statist. Med.
    27:1693-1702.
    """
    normal_quantile(level)  # refuses a level outside (0, 1)
    for row in rows:
        _check(row)
    if len(rows) < 2:
        raise DataError("a verdict needs at least two rows: name, AUC, positives, negatives")
    names = [row.name for row in rows]
    if len(set(names)) != len(names):
        raise DataError("two rows of the table have the same name: rename one of them")
    pairs = list(combinations(rows, 2))
    strict = 1 - (1 - level) / len(pairs)
    return [_verdict_of_rows(first, second, strict, level) for first, second in pairs]


def difference_interval(
    first: TableRow, second: TableRow, *, correlation: float, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of the difference of two AUCs, from the interval of each and a correlation.

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
    below = _combined(first.auc - low1, high2 - second.auc, correlation)
    above = _combined(high1 - first.auc, second.auc - low2, correlation)
    return max(-1.0, difference - below), min(1.0, difference + above)


def _combined(one: float, two: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + two**2 - 2 * correlation * one * two))


def _verdict_of_rows(first: TableRow, second: TableRow, strict: float, level: float) -> Verdict:
    same_cases = (first.positives, first.negatives) == (second.positives, second.negatives)
    difference = first.auc - second.auc
    low, high = difference_interval(first, second, correlation=0.0, level=strict)
    favourable = difference_interval(
        first, second, correlation=MAX_CORRELATION if same_cases else 0.0, level=level
    )
    kind: VerdictKind = "cannot tell"
    if low > 0 or high < 0:
        kind = "better" if low > 0 else "worse"
    needed = sorted(
        {
            _needed(first, second, r, level)
            for r in ((0.0, MAX_CORRELATION) if same_cases else (0.0,))
        }
    )
    favourable_excludes_0 = favourable[0] > 0 or favourable[1] < 0
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
            favourable_excludes_0=favourable_excludes_0,
            same_cases=same_cases,
        ),
    )


def _table_text(
    first: TableRow,
    second: TableRow,
    *,
    kind: VerdictKind,
    intervals: tuple[tuple[float, float], tuple[float, float]],
    levels: tuple[float, float],
    needed: Sequence[float],
    favourable_excludes_0: bool,
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
    details = (
        f"AUC {own} on {cases}; difference {_signed(first.auc - second.auc)}, its "
        f"{_percent(levels[0])} interval {_signed(low)} to {_signed(high)} if their errors are "
        f"independent"
    )
    if same_cases:
        details += (
            f", its {_percent(levels[1])} interval {_signed(lowest)} to {_signed(highest)} if "
            f"their errors are very similar (correlation {MAX_CORRELATION}); a table does not show "
            f"which"
        )
    if kind != "cannot tell":
        return f"{first.name} is {kind} than {second.name}, even by this table alone: {details}."
    if favourable_excludes_0:
        return (
            f"The table cannot tell {first.name} and {second.name} apart, but the predictions "
            f"might, if their errors are similar: compare them finding by finding ({details})."
        )
    return f"{_cannot_tell(first.name, second.name, needed)} ({details})."


def _cannot_tell(first: str, second: str, needed: Sequence[float]) -> str:
    return f"This data cannot tell {first} and {second} apart: {_size(needed)}"


def _size(needed: Sequence[float]) -> str:
    """Text of the numbers of findings that are needed."""
    if math.isinf(needed[-1]):
        return "no difference was found, so that no number of findings can be named"
    about = " to ".join(dict.fromkeys(_about(number) for number in needed))
    return f"about {about} findings would be needed to tell a difference of this size"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _needed(first: TableRow, second: TableRow, correlation: float, level: float) -> float:
    low, high = difference_interval(first, second, correlation=correlation, level=level)
    error = (high - low) / (2 * normal_quantile(level))
    findings = max(row.positives + row.negatives for row in (first, second))
    return findings_needed(first.auc - second.auc, error, findings, level=level)


_DECIMAL_COMMA = re.compile(r"(?:^|[\s;,\"])(0,\d+|1,0+)\s*(?=[;,\"]|$)")


def refuse_decimal_comma(line: str, *, where: str) -> None:
    """Refuse an AUC such as ``0,81``: commas separate the values of a table.

    Args:
        line: Row of a table, or several.
        where: Name of the table in the message.

    Raises:
        DataError: The line has a decimal comma.
    """
    found = _DECIMAL_COMMA.search(line)
    if found:
        point = found[1].replace(",", ".")
        zero = ", or 0.0 for an AUC of 0" if found[1].startswith("0") else ""
        raise DataError(
            f"{where}: {found[1][:40]!r} is read as two values, because commas separate values: "
            f"write {point[:40]} with a decimal point{zero}"
        )


def rows_of_table(text: str, *, where: str = "the table") -> list[TableRow]:
    """Read rows ``name, AUC, positives, negatives`` from lines, or parts between semicolons.

    An AUC is a number or a fraction such as ``48/60`` (pairs won of all pairs). Empty lines, lines
    that begin with ``#``, and a heading ``name,auc,positives,negatives`` are skipped.

    Args:
        text: Text of the table.
        where: Name of the table in messages, such as its file name.

    Raises:
        DataError: A row is not of that form, or impossible, or has a decimal comma.
    """
    rows = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.lstrip().startswith("#"):
            refuse_decimal_comma(line, where=f"{where}, row {number}")
    lines = [line.strip() for line in text.replace(";", "\n").splitlines()]
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split(",")]
        is_heading = [cell.lower() for cell in cells] == ["name", "auc", "positives", "negatives"]
        if not line or line.startswith("#") or is_heading:
            continue
        quoted = ascii(line[:60])
        if len(cells) != 4 or not cells[0]:
            raise DataError(
                f"{where}, row {number}: {quoted} is not `name, AUC, positives, negatives`"
            )
        if not all(cell.isascii() and cell.isdigit() and len(cell) < 10 for cell in cells[2:]):
            raise DataError(f"{where}, row {number}: {quoted}: counts are whole numbers")
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
            f"{where}: {cell[:40]!a} is no AUC: give a number or a fraction such as 48/60"
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
    return f"{value:+z.2f}"


def _percent(level: float) -> str:
    return f"{100 * level:.3g} %"


def p_value(value: float) -> str:
    """Text of a p-value, which is never 0."""
    return "below 0.001" if value < 0.001 else f"{value:.3f}"


def _p(value: float) -> str:
    return f"{'' if value < 0.001 else '= '}{p_value(value)}"


def _about(number: float) -> str:
    """Text of a number of findings, rounded up to two significant digits."""
    if number < 10:
        return str(math.ceil(number))
    unit = 10 ** (math.floor(math.log10(number)) - 1)
    return f"{math.ceil(number / unit) * unit:,}"
