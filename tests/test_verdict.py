"""The verdict's rule and words: the paper's own table, and comparisons made up by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrakit.errors import DataError
from hydrakit.stats.intervals import newcombe_interval
from hydrakit.stats.paired import PairedDifference
from hydrakit.stats.verdict import (
    TableRow,
    difference_interval,
    rows_of_table,
    verdict_of_table,
    verdicts,
)

PAPER = "Hydra, 48/60, 4, 15; transfer, 43/60, 4, 15; classical, 41/60, 4, 15"


def made_up(
    difference: float, low: float, high: float, p: float, passes: int = 5
) -> PairedDifference:
    return PairedDifference(
        first=0.8,
        second=0.8 - difference,
        difference=difference,
        low=low,
        high=high,
        level=0.95,
        p=p,
        positives=76,
        negatives=254,
        patients=204,
        passes=passes,
        error=(high - low) / 3.92,
        needed=1234.5 if difference else math.inf,
    )


def row(auc: float, m: int = 40, n: int = 60, name: str = "x") -> TableRow:
    return TableRow(name=name, auc=auc, positives=m, negatives=n)


@pytest.mark.parametrize(
    ("pair", "kind", "begins"),
    [
        (
            made_up(0.1, 0.05, 0.15, 0.001),
            "better",
            "hydra is better than a logistic regression on eleven intensities on this data: mean",
        ),
        (
            made_up(-0.1, -0.15, -0.05, 0.001),
            "worse",
            "A logistic regression on eleven intensities is better than hydra: this network is not "
            "worth its cost here: mean AUC 0.80 against 0.90",
        ),
        (
            made_up(0.02, -0.05, 0.09, 0.6),
            "cannot tell",
            "A logistic regression on eleven intensities is no worse than hydra, as far as 330 "
            "findings can show: this network is not worth its cost here (mean AUC 0.80",
        ),
    ],
)
def test_a_baseline_decides_whether_a_network_is_worth_its_cost(
    pair: PairedDifference, kind: str, begins: str
) -> None:
    text = "a logistic regression on eleven intensities"
    differences = {("hydra", "intensity"): pair, ("hydra", "transfer"): pair}
    first, second = verdicts(differences, baselines={"intensity": text})
    assert first.kind == second.kind == kind
    assert first.text.startswith(begins)
    assert "after correction for 2 comparisons" in first.text
    assert "worth" not in second.text
    assert second == verdicts(differences)[1]


def test_the_papers_own_table_cannot_tell_its_methods_apart() -> None:
    found = verdict_of_table(rows_of_table(PAPER))
    assert [(v.first, v.second) for v in found] == [
        ("Hydra", "transfer"),
        ("Hydra", "classical"),
        ("transfer", "classical"),
    ]
    for verdict in found:
        assert verdict.kind == "cannot tell"
        assert verdict.low < 0 < verdict.high
        assert verdict.text.startswith(
            f"This data cannot tell {verdict.first} and {verdict.second} apart: about"
        )
        assert "4 positive and 15 negative findings" in verdict.text
        assert "correlation 0.8" in verdict.text
        assert verdict.needed is not None
        assert verdict.needed > 19
    assert "AUC 0.80 (0.47 to 0.94) and 0.72" in found[0].text


def test_no_plausible_correlation_tells_hydra_from_the_others() -> None:
    hydra, *others = rows_of_table(PAPER)
    assert len(others) == 2
    for other in others:
        for correlation in (0.0, 0.3, 0.5, 0.8, 0.9, 0.95):
            low, high = difference_interval(hydra, other, correlation=correlation)
            assert low < 0 < high


def test_a_large_difference_is_told_from_a_table_alone() -> None:
    better, worse = (
        verdict_of_table([row(a, 400, 600, "one"), row(b, 400, 600, "two")])[0]
        for a, b in ((0.9, 0.7), (0.7, 0.9))
    )
    assert (better.kind, worse.kind) == ("better", "worse")
    assert better.text.startswith("one is better than two, even by this table alone: AUC 0.90")
    assert better.needed is None
    assert (better.low, better.high) == pytest.approx((-worse.high, -worse.low))


def test_where_likeness_decides_the_predictions_are_asked_for() -> None:
    found = verdict_of_table([row(0.85, name="one"), row(0.74, name="two")])[0]
    assert found.kind == "cannot tell"
    assert "but the predictions might" in found.text


def test_other_test_sets_are_independent() -> None:
    found = verdict_of_table([row(0.85, 40, 60, "one"), row(0.78, 30, 70, "two")])[0]
    assert "correlation" not in found.text
    assert "40 positive and 60 negative findings and 30 positive and 70 negative" in found.text


def test_no_difference_names_no_number() -> None:
    found = verdict_of_table([row(0.8, name="one"), row(0.8, name="two")])[0]
    assert found.needed == math.inf
    assert "no number of findings can be named" in found.text


def test_more_rows_widen_the_deciding_interval() -> None:
    two = verdict_of_table([row(0.8, name="a"), row(0.7, name="b")])[0]
    three = verdict_of_table([row(0.8, name="a"), row(0.7, name="b"), row(0.6, name="c")])[0]
    assert three.low < two.low < two.high < three.high


@given(st.integers(0, 600), st.integers(0, 600))
def test_the_interval_of_a_difference_holds_it_and_stays_in_bounds(a: int, b: int) -> None:
    one, two = row(a / 600, 20, 30), row(b / 600, 20, 30)
    widths = []
    for correlation in (0.0, 0.4, 0.8):
        low, high = difference_interval(one, two, correlation=correlation)
        assert -1 <= low <= one.auc - two.auc <= high <= 1
        widths.append(high - low)
    assert all(first >= second - 1e-12 for first, second in pairwise(widths))


def test_independent_intervals_are_joined_by_squares() -> None:
    one, two = row(0.8), row(0.7)
    (l1, u1), (l2, u2) = (newcombe_interval(r.auc, 40, 60) for r in (one, two))
    low, high = difference_interval(one, two, correlation=0)
    assert low == pytest.approx(0.1 - math.hypot(0.8 - l1, u2 - 0.7))
    assert high == pytest.approx(0.1 + math.hypot(u1 - 0.8, 0.7 - l2))


def test_the_rule_for_comparisons() -> None:
    found = verdicts(
        {
            ("a", "b"): made_up(0.1, 0.04, 0.16, 0.001),
            ("b", "a"): made_up(-0.1, -0.16, -0.04, 0.002),
            ("a", "c"): made_up(0.05, 0.001, 0.1, 0.04),  # p 0.08 after Holm
            ("a", "d"): made_up(0.05, -0.001, 0.1, 0.001),  # the interval holds 0
            ("a", "e"): made_up(0.0, 0.0, 0.0, 1.0),
        }
    )
    assert [v.kind for v in found] == ["better", "worse", *["cannot tell"] * 3]
    assert [v.p for v in found] == pytest.approx([0.005, 0.006, 0.08, 0.005, 1.0])
    assert [v.needed for v in found] == [None, None, 1234.5, 1234.5, math.inf]
    assert found[0].text == (
        "a is better than b on this data: mean AUC 0.80 against 0.70, difference +0.10 "
        "(95 % interval +0.04 to +0.16), p = 0.005 after correction for 5 comparisons; "
        "76 positive and 254 negative findings of 204 patients."
    )
    assert found[2].text.startswith(
        "This data cannot tell a and c apart: about 1,300 findings would be needed to tell a "
        "difference of this size (mean AUC 0.80 against 0.75"
    )


def test_one_training_of_each_is_said() -> None:
    found = verdicts({("a", "b"): made_up(0.1, 0.04, 0.16, 0.0005, passes=1)})[0]
    assert found.text.endswith("another random start may give another difference.")
    assert "p below 0.001;" in found.text


def test_a_table_is_read_from_lines_or_parts() -> None:
    text = "name,AUC,positives,negatives\n# from the paper\n\nHydra, 0.8, 4, 15\nother,41/60,4,15\n"
    assert rows_of_table(text) == [
        TableRow(name="Hydra", auc=0.8, positives=4, negatives=15),
        TableRow(name="other", auc=41 / 60, positives=4, negatives=15),
    ]
    assert rows_of_table("") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a, 0.8, 4", r"table\.csv, row 1: 'a, 0\.8, 4' is not `name, AUC, positives, negatives`"),
        ("a,0.8,4,15\n,0.8,4,15", r"table\.csv, row 2"),
        ("a, 0.8, 4, x", "counts are whole numbers"),
        ("a, 0.8, -4, 15", "counts are whole numbers"),
        ("a, 48/0, 4, 15", "'48/0' is no AUC: give a number or a fraction such as 48/60"),
        ("a, good, 4, 15", "'good' is no AUC"),
        ("a, nan, 4, 15", "an AUC is between 0 and 1, not nan"),
        ("a, 80, 4, 15", r"row 1: 'a': an AUC is between 0 and 1, not 80\.0"),
        ("a, 0.8, 0, 15", "findings of both classes, not 0 positive and 15 negative"),
    ],
)
def test_a_broken_table_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of_table(text, where="table.csv")


def test_impossible_tables_are_refused() -> None:
    for rows, message in (
        ([row(0.8)], "at least two rows"),
        ([row(0.8), row(0.7)], "the same name"),
        ([row(0.8), row(1.7, name="y")], r"'y': an AUC is between 0 and 1, not 1\.7"),
    ):
        with pytest.raises(DataError, match=message):
            verdict_of_table(rows)
    with pytest.raises(ValueError, match="below 1: got 1"):
        difference_interval(row(0.8), row(0.7), correlation=1)
