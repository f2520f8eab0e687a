from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from hydrakit.stats.metrics import (
    accuracy,
    auc,
    auc_from_logits,
    auc_from_probabilities,
    cross_entropy,
    softmax,
)

Cases = tuple[np.ndarray, np.ndarray]


@st.composite
def binary_cases(draw: st.DrawFn) -> Cases:
    """Scores from few values, so that there are ties, and labels of both classes."""
    size = draw(st.integers(2, 30))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, 1)))
    assume(0 < labels.sum() < size)
    return draw(arrays(np.float64, size, elements=st.integers(-4, 4))), labels


@st.composite
def logit_cases(draw: st.DrawFn) -> Cases:
    classes, size = draw(st.integers(2, 5)), draw(st.integers(2, 25))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, classes - 1)))
    assume(set(labels) == set(range(classes)))
    logits = draw(arrays(np.float64, (size, classes), elements=st.integers(-6, 6)))
    return logits, labels


def test_auc_of_four_cases_by_hand() -> None:
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1, and 2 = 2 counts a half.
    assert auc([1, 2, 2, 3], [0, 0, 1, 1]) == 3.5 / 4


@given(binary_cases())
def test_auc_equals_scikit_learns(cases: Cases) -> None:
    scores, labels = cases
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


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
        ([1.0, 2.0], [0, 2], "labels 0 and 1"),
        ([1.0, 2.0], [0], "as many scores as labels"),
        ([[1.0], [2.0]], [0, 1], "one row"),
    ],
)
def test_auc_says_what_is_wrong(scores: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        auc(scores, labels)


@given(logit_cases())
def test_auc_of_a_table_equals_scikit_learns(cases: Cases) -> None:
    logits, labels = cases
    probabilities = softmax(logits)
    if logits.shape[1] == 2:
        expected = roc_auc_score(labels, probabilities[:, 1])
    else:
        expected = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert auc_from_probabilities(probabilities, labels) == pytest.approx(expected, abs=1e-12)
    assert auc_from_logits(logits, labels) == pytest.approx(expected, abs=1e-12)


def test_auc_of_a_table_names_the_missing_class() -> None:
    with pytest.raises(ValueError, match="none of the 2 labels is 1"):
        auc_from_logits(np.zeros((2, 3)), [0, 2])
    with pytest.raises(ValueError, match="two classes or more"):
        auc_from_logits(np.zeros((2, 1)), [0, 0])


@given(logit_cases())
def test_cross_entropy_and_accuracy_equal_scikit_learns(cases: Cases) -> None:
    logits, labels = cases
    classes = list(range(logits.shape[1]))
    expected = log_loss(labels, softmax(logits), labels=classes)
    assert cross_entropy(logits, labels) == pytest.approx(expected, abs=1e-9)
    assert accuracy(logits, labels) == accuracy_score(labels, logits.argmax(axis=1))


@given(logit_cases(), st.floats(-500, 500))
def test_softmax_is_a_distribution_and_ignores_a_common_shift(cases: Cases, shift: float) -> None:
    logits, labels = cases
    probabilities = softmax(logits)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(softmax(logits + shift), probabilities, rtol=1e-9)
    assert cross_entropy(logits + shift, labels) == pytest.approx(cross_entropy(logits, labels))


def test_softmax_and_cross_entropy_by_hand() -> None:
    np.testing.assert_allclose(softmax([[0.0, np.log(3.0)]]), [[0.25, 0.75]])
    assert cross_entropy([[0.0, np.log(3.0)]], [0]) == pytest.approx(np.log(4))


def test_large_logits_do_not_overflow() -> None:
    logits = [[1e5, -1e5], [-1e5, 1e5]]
    np.testing.assert_array_equal(softmax(logits), [[1, 0], [0, 1]])
    assert cross_entropy(logits, [0, 1]) == 0
    assert cross_entropy(logits, [1, 0]) == pytest.approx(2e5)


def test_cross_entropy_equals_pytorchs() -> None:
    import torch

    logits = np.random.default_rng(4).normal(size=(9, 3))
    labels = np.arange(9) % 3
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels))
    assert cross_entropy(logits, labels) == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "no cases"),
        (np.zeros((2, 2)), [0, 2], "label 2 is no class"),
        (np.zeros((2, 2)), [0, -1], "label -1 is no class"),
        (np.zeros((2, 2)), [0.0, 1.0], "whole numbers"),
        (np.zeros((2, 2)), [0, 1, 1], "2 labels"),
        (np.zeros(2), [0, 1], r"a table \(cases, classes\)"),
        ([[np.nan, 0.0]], [0], "not a number"),
    ],
)
@pytest.mark.parametrize("metric", [accuracy, cross_entropy, auc_from_logits])
def test_bad_tables_are_refused(metric, scores, labels, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)


def test_infinite_logits_are_refused() -> None:
    with pytest.raises(ValueError, match="infinite"):
        softmax([[np.inf, 0.0]])
