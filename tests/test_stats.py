"""Newcombe's interval against its own equation, built here from Hanley and McNeil's variance.

The variance formula agrees with two implementations outside: the R package auRoc
(`auc.nonpara.mw`, method "newcombe") and StatsDirect (theta of its Mann-Whitney test).
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from hydrakit.stats.intervals import newcombe_interval
from hydrakit.stats.metrics import auc

COUNTS = st.integers(1, 400)


def hanley_mcneil_variance(theta: float, positives: int, negatives: int) -> float:
    """Radiology 1982, 143:29-36, equation 1, with Q1 and Q2 of exponential scores."""
    q1, q2 = theta / (2 - theta), 2 * theta**2 / (1 + theta)
    spread = theta * (1 - theta)
    spread += (positives - 1) * (q1 - theta**2) + (negatives - 1) * (q2 - theta**2)
    return spread / (positives * negatives)


def reference(value: float, m: int, n: int, level: float) -> tuple[float, float]:
    """Solve (theta - value)^2 = z^2 V(theta), V being the mean over the two roles of m and n."""
    z = norm.ppf((1 + level) / 2)

    def gap(theta: float) -> float:
        variance = hanley_mcneil_variance(theta, m, n) + hanley_mcneil_variance(theta, n, m)
        return (theta - value) ** 2 - z**2 * variance / 2

    tiny = 1e-9  # 0 and 1 solve the equation themselves where they are the value
    low = 0.0 if value == 0 else brentq(gap, 0, min(value, 1 - tiny), xtol=1e-13)
    high = 1.0 if value == 1 else brentq(gap, max(value, tiny), 1, xtol=1e-13)
    return low, high


@given(st.data(), COUNTS, COUNTS, st.sampled_from([0.8, 0.95, 0.99]))
def test_the_interval_solves_newcombes_equation(
    data: st.DataObject, m: int, n: int, level: float
) -> None:
    value = data.draw(st.integers(0, 2 * m * n)) / (2 * m * n)
    assert newcombe_interval(value, m, n, level=level) == pytest.approx(
        reference(value, m, n, level), abs=1e-8
    )


@given(st.floats(0, 1), COUNTS, COUNTS, st.floats(0.01, 0.999))
def test_the_interval_lies_in_0_to_1_and_holds_the_estimate(
    value: float, m: int, n: int, level: float
) -> None:
    low, high = newcombe_interval(value, m, n, level=level)
    assert 0 <= low <= value <= high <= 1
    assert low < high


@given(st.floats(0, 1), COUNTS, COUNTS)
def test_the_interval_is_mirrored_with_the_auc(value: float, m: int, n: int) -> None:
    low, high = newcombe_interval(value, m, n)
    mirrored = newcombe_interval(1 - value, m, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-7)
    assert newcombe_interval(value, n, m) == (low, high)


@given(st.floats(0.01, 0.99), st.integers(2, 200), st.integers(2, 200))
def test_more_cases_or_less_confidence_make_it_narrower(value: float, m: int, n: int) -> None:
    low, high = newcombe_interval(value, m, n)
    for narrower in (
        newcombe_interval(value, 2 * m, 2 * n),
        newcombe_interval(value, m, n, level=0.9),
    ):
        assert low < narrower[0] < narrower[1] < high


def test_one_case_of_each_class_gives_wilsons_interval_of_one_trial() -> None:
    # With m = n = 1 the variance is theta (1 - theta): the score interval of a proportion.
    z2 = norm.ppf(0.975) ** 2
    low, high = newcombe_interval(1.0, 1, 1)
    assert (low, high) == (pytest.approx(1 / (1 + z2)), 1.0)
    assert newcombe_interval(0.0, 1, 1) == (0.0, pytest.approx(z2 / (1 + z2)))


def test_a_perfect_auc_of_few_cases_is_not_certain() -> None:
    low, high = newcombe_interval(1.0, 4, 15)
    assert high == 1.0
    assert 0.70 < low < 0.72


def test_the_papers_test_set_says_little() -> None:
    # 48 of 60 pairs, 4 positive and 15 negative findings.
    low, high = newcombe_interval(48 / 60, 4, 15)
    assert (round(low, 3), round(high, 3)) == (0.474, 0.941)


@pytest.mark.parametrize(("positives", "negatives", "theta"), [(10, 30, 0.8), (25, 25, 0.9)])
def test_it_covers_the_true_auc_about_as_often_as_it_says(
    positives: int, negatives: int, theta: float
) -> None:
    generator = np.random.default_rng(5)
    shift = math.sqrt(2) * norm.ppf(theta)  # of normal scores of unit variance
    labels = np.repeat([1, 0], [positives, negatives])
    trials = 1500
    covered = 0
    for _ in range(trials):
        low, high = newcombe_interval(
            auc(generator.normal(size=len(labels)) + shift * labels, labels), positives, negatives
        )
        covered += low <= theta <= high
    assert 0.93 <= covered / trials <= 0.98


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.2, 3, 3, 0.95), "between 0 and 1: got 1.2"),
        ((float("nan"), 3, 3, 0.95), "between 0 and 1: got nan"),
        ((0.5, 0, 3, 0.95), "got 0 positive and 3 negative"),
        ((0.5, 3, 0, 0.95), "got 3 positive and 0 negative"),
        ((0.5, 3, 3, 95), "confidence level is between 0 and 1: got 95"),
    ],
)
def test_impossible_arguments_are_refused(
    arguments: tuple[float, int, int, float], message: str
) -> None:
    value, m, n, level = arguments
    with pytest.raises(ValueError, match=message):
        newcombe_interval(value, m, n, level=level)
