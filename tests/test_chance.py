"""What luck alone gives, against every order of the scores, and SciPy."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from hydrakit.stats.chance import EXACT_PAIRS, best_of_chance, chance_aucs
from hydrakit.stats.metrics import auc


def all_aucs(m: int, n: int) -> list[float]:
    """The AUC of every set of places that the positive cases can have."""
    found = []
    for places in combinations(range(m + n), m):
        labels = np.zeros(m + n, dtype=int)
        labels[list(places)] = 1
        found.append(auc(np.arange(m + n), labels))
    return found


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (3, 4), (4, 4), (1, 6)])
def test_the_distribution_is_that_of_every_order(m: int, n: int) -> None:
    values = np.array(all_aucs(m, n))
    found = chance_aucs(m, n)
    expected = [(values <= value + 1e-9).mean() for value in found.aucs]
    assert found.below == pytest.approx(expected)


@pytest.mark.parametrize(("m", "n"), [(4, 15), (7, 9)])
def test_the_distribution_is_scipys(m: int, n: int) -> None:
    found = chance_aucs(m, n)
    rng = np.random.default_rng(0)
    for _ in range(5):
        scores = rng.normal(size=m + n)
        test = mannwhitneyu(scores[:m], scores[m:], alternative="less", method="exact")
        assert found.below[round(test.statistic)] == pytest.approx(test.pvalue)


@pytest.mark.parametrize("models", [1, 2, 3])
def test_the_best_of_few_is_that_of_all_combinations(models: int) -> None:
    best = np.sort([max(chosen) for chosen in product(all_aucs(2, 3), repeat=models)])
    found = best_of_chance(2, 3, models)
    assert found.expected == pytest.approx(best.mean())
    for share, value in ((0.025, found.low), (0.975, found.high)):
        assert value == pytest.approx(best[int(np.ceil(share * len(best) - 1e-9)) - 1])


def test_the_best_of_a_thousand_on_the_papers_numbers() -> None:
    rng = np.random.default_rng(1)
    order = rng.random((300, 1000, 19)).argsort(axis=2).argsort(axis=2) + 1
    aucs = (order[..., :4].sum(axis=2) - 10) / 60
    best = aucs.max(axis=1)
    found = best_of_chance(4, 15, 1000)
    assert found.expected == pytest.approx(best.mean(), abs=0.005)
    assert found.low <= found.expected <= found.high
    assert found.expected > 0.95


def test_beyond_the_exact_the_normal_distribution_goes_on() -> None:
    assert 80 * 250 <= EXACT_PAIRS < 81 * 250
    exact, normal = best_of_chance(80, 250, 200), best_of_chance(81, 250, 200)
    assert normal.expected == pytest.approx(exact.expected, abs=0.002)
    assert normal.high == pytest.approx(exact.high, abs=0.003)


def test_one_network_is_a_coin() -> None:
    assert best_of_chance(5, 8, 1).expected == pytest.approx(0.5)
    assert best_of_chance(90, 250, 1).expected == pytest.approx(0.5, abs=1e-6)


def test_impossible_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="got 0 positive and 5 negative"):
        chance_aucs(0, 5)
    with pytest.raises(ValueError, match="needs at least 1: got 0"):
        best_of_chance(3, 5, 0)
