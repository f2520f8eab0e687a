"""The AUC and mid-ranks against scikit-learn, SciPy and counts of pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from hydrakit.stats.metrics import auc, mid_ranks

Cases = tuple[np.ndarray, np.ndarray]


@st.composite
def binary_cases(draw: st.DrawFn) -> Cases:
    """Scores from few values, so that there are ties, and labels of both classes."""
    size = draw(st.integers(2, 30))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < size)
    return draw(arrays(np.float64, size, elements=st.integers(-4, 4))), labels


def test_auc_of_four_cases_by_hand() -> None:
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1, and 2 = 2 counts a half.
    assert auc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4


@given(binary_cases())
def test_auc_equals_scikit_learns(cases: Cases) -> None:
    scores, labels = cases
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert auc(scores, labels == 1) == auc(scores, labels)


@given(binary_cases())
def test_auc_equals_the_count_of_pairs(cases: Cases) -> None:
    scores, labels = cases
    wins = np.sign(scores[labels == 1][:, None] - scores[labels == 0][None, :])
    assert auc(scores, labels) == pytest.approx(np.mean((wins + 1) / 2), abs=1e-12)


@given(binary_cases(), st.randoms(use_true_random=False))
def test_auc_depends_on_the_order_of_scores_alone(cases: Cases, random: object) -> None:
    scores, labels = cases
    value = auc(scores, labels)
    assert auc(np.exp(scores), labels) == value
    assert auc(1000 * scores - 5, labels) == value
    assert auc(-scores, labels) == pytest.approx(1 - value, abs=1e-12)
    assert auc(scores, 1 - labels) == pytest.approx(1 - value, abs=1e-12)
    order = np.arange(len(scores))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert auc(scores[order], labels[order]) == value


def test_auc_takes_infinite_scores() -> None:
    assert auc([-np.inf, 0.0, np.inf], [0, 1, 1]) == 1.0


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "got 2 positive and 0 negative"),
        ([1.0, 2.0], [0, 0], "got 0 positive and 2 negative"),
        ([], [], "got 0 positive and 0 negative"),
        ([1.0, np.nan], [0, 1], "not a number"),
        ([1.0, 2.0], [0, 2], "labels that are 0 or 1"),
        ([1.0, 2.0], [0], "one score and one label per case"),
        ([[1.0], [2.0]], [[0], [1]], "one score and one label per case"),
    ],
)
def test_auc_says_what_is_wrong(scores: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(scores, labels)


@given(st.lists(st.integers(-4, 4), max_size=30))
def test_mid_ranks_are_scipys(scores: list[int]) -> None:
    values = np.array(scores, dtype=np.float64)
    np.testing.assert_array_equal(mid_ranks(values), rankdata(values))
