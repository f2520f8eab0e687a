"""Comparisons of two strategies, against DeLong's covariance, SciPy, and sums by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import permutation_test
from scipy.stats import t as student

from hydrakit.errors import DataError
from hydrakit.stats.paired import DRAWS, compare, findings_needed, holm, sign_flip
from hydrakit.stats.score_table import Row, ScoreTable, gather, wins_of


def pair(
    seed: int, *, findings: int = 60, patients: int = 60, passes: int = 1, folds: int = 1
) -> tuple[ScoreTable, ScoreTable]:
    rng = np.random.default_rng(seed)
    owner = np.arange(findings) % patients
    labels = (rng.permutation(findings) < findings // 3).astype(np.intp)
    scores = rng.normal(size=(2, passes, findings)) + labels
    folded = np.array([(rng.permutation(patients) % folds)[owner] for _ in range(passes)])
    first, second = (
        ScoreTable(
            findings=tuple(f"{i:03}" for i in range(findings)),
            patients=owner,
            labels=labels,
            passes=tuple((k, 0) for k in range(passes)),
            scores=of_one,
            folds=folded,
            images=np.ones(findings, dtype=np.intp),
        )
        for of_one in scores
    )
    return first, second


@pytest.mark.parametrize("setting", [{}, {"patients": 9}, {"passes": 3, "folds": 4}])
def test_a_strategy_is_no_different_from_itself(setting: dict[str, int]) -> None:
    first, _ = pair(1, **setting)
    found = compare(first, first)
    assert (found.difference, found.low, found.high) == (0, 0, 0)
    assert found.p == 1
    assert found.needed == math.inf
    # Other numbers in the same order are the same strategy.
    found = compare(first, replace(first, scores=np.exp(3 * first.scores)))
    assert (found.p, found.low, found.high) == (1, 0, 0)


def test_swapping_the_strategies_turns_everything_round() -> None:
    first, second = pair(2, patients=25, passes=2, folds=3)
    one, two = compare(first, second), compare(second, first)
    assert (one.difference, one.low, one.high) == pytest.approx(
        (-two.difference, -two.high, -two.low)
    )
    assert one.p == two.p
    assert one.needed == pytest.approx(two.needed)


@pytest.mark.parametrize("seed", range(5))
def test_each_cells_scores_may_be_on_a_scale_of_their_own(seed: int) -> None:
    first, second = pair(seed, findings=30, patients=20, passes=2)
    other = replace(first, scores=np.exp(first.scores) * np.array([[3.0], [0.1]]) - 7)
    assert compare(other, second) == compare(first, second)


def test_the_error_is_delongs_with_one_finding_per_patient() -> None:
    first, second = pair(3, findings=90, patients=90)
    positive = first.positive
    tables = [wins_of(s.scores[0][positive], s.scores[0][~positive]) for s in (first, second)]
    ten = np.cov([table.mean(axis=1) for table in tables]) / positive.sum()
    one = np.cov([table.mean(axis=0) for table in tables]) / (~positive).sum()
    contrast = np.array([1, -1])
    found = compare(first, second)
    delong = contrast @ (ten + one) @ contrast
    assert found.error**2 == pytest.approx(delong)
    assert found.difference == pytest.approx(tables[0].mean() - tables[1].mean())
    parts = contrast @ ten @ contrast, contrast @ one @ contrast
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 29 + parts[1] ** 2 / 59)
    half = student.ppf(0.975, freedom) * math.sqrt(delong)
    assert found.high == pytest.approx(found.difference + half)


def test_two_perfect_strategies_of_few_findings_are_not_surely_equal() -> None:
    labels = np.array([1] * 4 + [0] * 15)
    rng = np.random.default_rng(4)
    rows = [
        [
            Row(finding=f"{i}", patient=f"{i}", label=int(y), score=10.0 * y + score)
            for i, (y, score) in enumerate(zip(labels, rng.normal(size=19), strict=True))
        ]
        for _ in range(2)
    ]
    found = compare(gather(rows[0]), gather(rows[1]))
    assert (found.difference, found.p) == (0, 1)
    assert found.low < -0.05
    assert found.high > 0.05


def test_bounds_stay_within_minus_1_and_1() -> None:
    rows = [
        [
            Row(finding=f"{i}", patient=f"{i}", label=int(i < 2), score=sign * (i < 2) + i / 10)
            for i in range(5)
        ]
        for sign in (9.0, -9.0)
    ]
    found = compare(gather(rows[0]), gather(rows[1]))
    assert found.difference == 1
    assert found.low < 0.8
    assert found.high == 1
    assert found.p == pytest.approx(2 / 2**5)


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_few_patients_are_flipped_in_all_ways(values: list[float]) -> None:
    parts = np.round(values, 2)
    found = sign_flip(parts)
    expected = permutation_test(
        (parts, np.zeros(len(parts))),
        lambda a, b, axis: np.abs((a - b).sum(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert found == pytest.approx(expected.pvalue)


def test_many_patients_are_flipped_at_random() -> None:
    rng = np.random.default_rng(7)
    parts = rng.normal(size=80) + 0.25
    found = sign_flip(parts)
    normal = 2 * NormalDist().cdf(-abs(parts.sum()) / math.sqrt((parts**2).sum()))
    assert found == pytest.approx(normal, abs=0.01)
    assert sign_flip(parts) == found
    # One certain difference: no random pattern reaches it, and still p is not 0.
    assert sign_flip(np.ones(60)) == pytest.approx(1 / (DRAWS + 1))


def test_random_and_exact_patterns_agree() -> None:
    parts = np.random.default_rng(8).normal(size=13) + 0.3
    sums = np.zeros(1)
    for part in parts:
        sums = np.concatenate([sums + part, sums - part])
    exact = np.mean(np.abs(sums) >= abs(parts.sum()) - 1e-12)
    assert sign_flip(parts) == pytest.approx(exact, abs=0.01)


def test_holms_correction_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.5: times 4, 3, 2, 1, and never below the one before.
    assert holm({"a": 0.03, "b": 0.01, "c": 0.5, "d": 0.02}) == pytest.approx(
        {"a": 0.06, "b": 0.04, "c": 0.5, "d": 0.06}
    )
    assert list(holm({"z": 0.9, "y": 0.6})) == ["z", "y"]
    assert holm({"z": 0.9, "y": 0.6}) == {"z": 1.0, "y": 1.0}
    assert holm({}) == {}
    with pytest.raises(ValueError, match=r"a p-value is between 0 and 1: got 1\.2"):
        holm({"a": 1.2})


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_sequential_rule_rejects(values: list[float]) -> None:
    adjusted = holm({str(i): p for i, p in enumerate(values)})
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for rank, i in enumerate(sorted(range(len(values)), key=lambda k: values[k])):
            if values[i] * (len(values) - rank) > level:
                break
            rejected.add(str(i))
        assert {name for name, p in adjusted.items() if p <= level} == rejected


def test_findings_needed_by_hand() -> None:
    # (1.95996 + 0.84162) * 0.05 / 0.1 = 1.40079, its square 1.96221.
    assert findings_needed(0.1, 0.05, 100) == pytest.approx(196.22, abs=0.01)
    assert findings_needed(-0.1, 0.05, 100) == findings_needed(0.1, 0.05, 100)
    assert findings_needed(0.0, 0.05, 100) == math.inf
    with pytest.raises(ValueError, match="a confidence level is between 0 and 1: got 95"):
        findings_needed(0.1, 0.05, 100, level=95)


def test_so_many_findings_do_detect_it() -> None:
    needed = math.ceil(findings_needed(0.2, 1 / math.sqrt(100), 100))
    rng = np.random.default_rng(9)
    means = rng.normal(0.2, 1 / math.sqrt(needed), size=20_000)
    assert np.mean(np.abs(means) * math.sqrt(needed) > 1.96) == pytest.approx(0.8, abs=0.01)


def test_strategies_that_were_tested_otherwise_are_refused() -> None:
    first, second = pair(10, patients=30, passes=2, folds=3)
    fewer = replace(
        second, passes=second.passes[:1], scores=second.scores[:1], folds=second.folds[:1]
    )
    renamed = replace(second, findings=("zzz", *second.findings[1:]))
    for other, message in (
        (fewer, "on the same seeds and repeats, but only one of them has '1, 0'"),
        (renamed, "on the same findings, but only one of them has '000'"),
        (replace(second, folds=second.folds[::-1]), "on the same folds"),
        (replace(second, labels=1 - second.labels), "on the same labels"),
        (replace(second, patients=second.patients[::-1]), "on the same patients"),
    ):
        with pytest.raises(DataError, match=message):
            compare(first, other)
