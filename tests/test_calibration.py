"""Calibration and sensitivity, against scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss, roc_curve

from hydrakit.stats.calibration import (
    brier_score,
    calibration_error,
    reliability_curve,
    sensitivity_at,
)
from hydrakit.stats.score_table import Row, ScoreTable, gather

FINDINGS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=60)


def calibrated(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    said = rng.beta(1.5, 3, count)
    return said, (rng.random(count) < said).astype(int)


def cases_of(seed: int, *, findings: int = 80, patients: int = 80, passes: int = 1) -> ScoreTable:
    rng = np.random.default_rng(seed)
    return gather(
        Row(
            finding=f"{i:03}",
            patient=f"{i % patients:03}",
            label=int(i % 4 == 0),
            score=round(float(rng.normal() + (i % 4 == 0)), 1),
            seed=number,
            fold=(i % patients) // 4 % 2 if passes > 1 else 0,
        )
        for number in range(passes)
        for i in range(findings)
    )


@given(FINDINGS)
def test_the_brier_score_is_scikit_learns(pairs: list[tuple[float, int]]) -> None:
    said, labels = (np.array(part) for part in zip(*pairs, strict=True))
    found = brier_score(said, labels)
    assert found.score == pytest.approx(brier_score_loss(labels, said, pos_label=1))
    always = np.full(len(said), labels.mean())
    assert found.uncertainty == pytest.approx(brier_score_loss(labels, always, pos_label=1))
    if found.uncertainty:
        assert found.skill == pytest.approx(1 - found.score / found.uncertainty)
    else:
        assert math.isnan(found.skill)


def test_the_curve_is_scikit_learns() -> None:
    said, labels = calibrated(1, 230)
    observed, predicted = calibration_curve(labels, said, n_bins=8, strategy="quantile")
    found = reliability_curve(said, labels, bins=8)
    assert [part.observed for part in found] == pytest.approx(observed)
    assert [part.predicted for part in found] == pytest.approx(predicted)
    assert sum(part.count for part in found) == 230
    for part in found:
        expected = binomtest(round(part.observed * part.count), part.count).proportion_ci(
            method="wilson"
        )
        assert (part.low, part.high) == pytest.approx((expected.low, expected.high))


def test_the_error_is_that_of_the_curve() -> None:
    said, labels = calibrated(2, 150)
    curve = reliability_curve(said, labels)
    by_hand = sum(part.count * abs(part.observed - part.predicted) for part in curve) / 150
    assert calibration_error(said, labels).error == pytest.approx(by_hand)


def test_luck_alone_is_told_apart_from_a_fault() -> None:
    found = [calibration_error(*calibrated(seed, 80), draws=500) for seed in range(150)]
    # The same network with new labels: its mean error is what luck explains.
    assert np.mean([f.error for f in found]) == pytest.approx(
        np.mean([f.by_chance for f in found]), rel=0.06
    )
    assert 0.01 <= np.mean([f.p <= 0.05 for f in found]) <= 0.1
    assert np.mean([f.by_chance for f in found]) > 0.07  # however well calibrated
    said, labels = calibrated(3, 80)
    wrong = calibration_error(np.sqrt(said), labels)
    assert wrong.error > wrong.by_chance_high
    assert wrong.p < 0.01


@pytest.mark.parametrize("specificity", [0.5, 0.8, 0.95, 1.0])
def test_the_sensitivity_is_that_of_the_roc_curve(specificity: float) -> None:
    cases = cases_of(4)
    false, true, _ = roc_curve(cases.labels, cases.scores[0], drop_intermediate=False)
    expected = true[false <= 1 - specificity + 1e-9].max()
    found = sensitivity_at(cases, specificity, draws=200)
    assert found.sensitivity == pytest.approx(expected)
    assert found.specificity >= specificity
    assert 0 <= found.low <= found.sensitivity <= found.high <= 1
    assert found.low < found.high


def test_the_sensitivity_of_folds_is_the_mean_of_the_cells() -> None:
    cases = cases_of(5, passes=3)
    each = []
    for index, inside in cases.cells:
        false, true, _ = roc_curve(
            cases.labels[inside], cases.scores[index, inside], drop_intermediate=False
        )
        each.append(true[false <= 0.2 + 1e-9].max())
    assert len(each) == 6
    assert sensitivity_at(cases, 0.8, draws=50).sensitivity == pytest.approx(np.mean(each))


def test_findings_of_one_patient_count_less() -> None:
    alone, together = cases_of(6, patients=80), cases_of(6, patients=16)
    one, other = sensitivity_at(alone, 0.8), sensitivity_at(together, 0.8)
    assert one.sensitivity == other.sensitivity
    assert other.high - other.low > one.high - one.low


def test_all_found_is_not_certain() -> None:
    rows = [
        Row(finding=f"{i}", patient=f"{i}", label=int(i < 4), score=-float(i)) for i in range(19)
    ]
    found = sensitivity_at(gather(rows), 0.9)
    expected = binomtest(4, 4).proportion_ci(method="wilson")
    assert (found.sensitivity, found.low) == (1, pytest.approx(expected.low))


def test_impossible_arguments_are_refused() -> None:
    for call, message in (
        (lambda: brier_score([0.5], [0, 1]), r"got the shapes \(1,\) and \(2,\)"),
        (lambda: brier_score([], []), "one probability and one label per finding"),
        (lambda: brier_score([1.2], [1]), "a probability is outside 0 to 1"),
        (lambda: brier_score([math.nan], [1]), "a probability is outside 0 to 1"),
        (lambda: brier_score([0.5], [2]), "a label is neither 0 nor 1"),
        (lambda: reliability_curve([0.5], [1], bins=0), "at least 1 bin is needed: got 0"),
        (lambda: sensitivity_at(cases_of(1), 90), "at most 1: got 90"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
