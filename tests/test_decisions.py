"""Calibration, thresholds and prediction sets, against scikit-learn, SciPy and counting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit, softmax
from scipy.stats import binomtest, norm, ttest_1samp
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, confusion_matrix, log_loss
from torch import nn

from hydrakit import weights
from hydrakit.errors import DataError, WeightsError
from hydrakit.plan.decision import MAX_HELD_OUT, Calibration, Decision, HeldOut, Threshold
from hydrakit.stats.decision_test import clustered_mean, judge
from hydrakit.stats.decisions import (
    calibrated,
    decide,
    fit_calibration,
    fit_decision,
    prediction_sets,
    threshold_for,
)

CASES = st.lists(
    st.tuples(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), st.booleans()),
    min_size=2,
    max_size=40,
)


PREPROCESSING = weights.Preprocessing(
    patch=4, channels=1, field_of_view=None, normalisation="as the patient's"
)


def two(second: np.ndarray | list[float]) -> np.ndarray:
    second = np.asarray(second, dtype=np.float64)
    return np.column_stack([1 - second, second])


def cases(seed: int, count: int, *, slope: float = 1.0, shift: float = 0.0):
    """Probabilities whose logits are ``slope`` times the calibrated ones plus ``shift``."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.7, count)
    labels = (rng.random(count) < expit(logits)).astype(np.int64)
    return two(expit(slope * logits + shift)), labels


def held_out(second: list[float], labels: list[int]) -> HeldOut:
    return HeldOut(labels=tuple(labels), probabilities=tuple(map(tuple, two(second).tolist())))


def test_platt_scaling_without_penalty_is_a_logistic_regression_on_the_logit():
    probabilities, labels = cases(1, 300, slope=2.0, shift=0.7)
    found = fit_calibration(probabilities, labels, slope_spread=np.inf, intercept_spread=np.inf)
    logits = logit(probabilities[:, [1]])
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits, labels)
    assert found.method == "platt"
    assert found.slope == pytest.approx(fitted.coef_[0, 0], rel=1e-4)
    assert found.intercept == pytest.approx(fitted.intercept_[0], rel=1e-4)
    assert calibrated(probabilities, found) == pytest.approx(fitted.predict_proba(logits), abs=1e-5)


def test_a_temperature_without_penalty_has_the_lowest_log_loss():
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 2, (400, 3))
    labels = np.array([rng.choice(3, p=row) for row in softmax(logits, axis=1)])
    probabilities = softmax(3 * logits, axis=1)
    found = fit_calibration(probabilities, labels, slope_spread=np.inf)
    best = minimize_scalar(
        lambda slope: log_loss(labels, softmax(slope * 3 * logits, axis=1)),
        bounds=(0.05, 5),
        method="bounded",
        options={"xatol": 1e-8},
    )
    assert found.method == "temperature"
    assert found.slope == pytest.approx(best.x, rel=1e-4)
    assert found.slope == pytest.approx(1 / 3, rel=0.2)


def test_the_penalty_is_that_of_normal_distributions_around_no_change():
    probabilities, labels = cases(3, 40, slope=2.5, shift=1.0)

    def objective(slope: float, intercept: float) -> float:
        given = expit(slope * logit(probabilities[:, 1]) + intercept)
        penalty = (np.log(slope) ** 2 + intercept**2) / (2 * 0.5**2)
        return float(log_loss(labels, given, normalize=False)) + penalty

    found = fit_calibration(probabilities, labels)
    least = objective(found.slope, found.intercept)
    for slope, intercept in ((1.02, 0), (0.98, 0), (1, 0.02), (1, -0.02)):
        assert objective(found.slope * slope, found.intercept + intercept) > least
    free = fit_calibration(probabilities, labels, slope_spread=np.inf, intercept_spread=np.inf)
    assert free.slope < found.slope < 1


@settings(deadline=None)  # the machine may be busy
@given(CASES)
def test_calibration_keeps_the_order_and_never_raises_the_log_loss(drawn):
    second, positive = zip(*drawn, strict=True)
    probabilities, labels = two(list(second)), np.array(positive, dtype=np.int64)
    found = fit_calibration(probabilities, labels)
    after = calibrated(probabilities, found)
    assert np.isfinite(after).all()
    assert after.sum(axis=1) == pytest.approx(1)
    ordered = after[np.argsort(probabilities[:, 1], kind="stable"), 1]
    assert (np.diff(ordered) >= 0).all()

    def loss(each: np.ndarray) -> float:
        own = each[np.arange(len(labels)), labels]
        return float(-np.log(own.clip(1e-300)).mean())

    assert loss(after) <= loss(calibrated(probabilities, Calibration(method="platt", slope=1))) + (
        1e-6
    )


@settings(deadline=None)  # the machine may be busy
@given(CASES, st.sampled_from(["sensitivity", "specificity"]), st.floats(0.1, 0.9))
def test_a_threshold_is_the_best_one_that_fulfils_the_wish(drawn, aim, wished):
    second, positive = zip(*drawn, strict=True)
    scores, labels = np.array(second), np.array(positive)
    found = None
    try:
        found = threshold_for(
            held_out(list(second), labels.astype(int).tolist()), None, aim, wished
        )
    except DataError:
        own = labels if aim == "sensitivity" else ~labels
        few = own.sum() < wished / (1 - wished) or labels.all() or not labels.any()
        assert few or (aim == "specificity" and (scores[~labels] == 1).any())
        return
    own = labels if aim == "sensitivity" else ~labels
    least = wished * (own.sum() + 1) / own.sum() - 1e-8  # for new findings, on average
    shares = []
    for value in {0.0, *scores.tolist(), *np.nextafter(scores, 2).tolist()}:
        sensitivity = float((scores[labels] >= value).mean())
        specificity = float((scores[~labels] < value).mean())
        if (sensitivity if aim == "sensitivity" else specificity) >= least and value <= 1:
            shares.append(specificity if aim == "sensitivity" else sensitivity)
    said = decide(two(scores), found)
    assert found.sensitivity == (said[labels] == 1).mean()
    assert found.specificity == (said[~labels] == 0).mean()
    assert (found.sensitivity if aim == "sensitivity" else found.specificity) >= least
    assert max(shares) == (found.specificity if aim == "sensitivity" else found.sensitivity)


def test_a_threshold_by_hand_with_ties():
    positives, negatives = [0.9, 0.8, 0.8, 0.7, 0.6, 0.6, 0.6, 0.5, 0.4, 0.1], [0.5, 0.3, 0.2, 0.0]
    labels = [1] * 10 + [0] * 4
    stored = held_out(positives + negatives, labels)
    # 0.8 x 11 = 8.8: the ninth of ten has 0.4, and the next lower score is 0.3.
    assert threshold_for(stored, None, "sensitivity", 0.8) == Threshold(
        aim="sensitivity", wished=0.8, value=0.35, sensitivity=0.9, specificity=0.75
    )
    half = threshold_for(stored, None, "sensitivity", 0.5)
    assert half.value == pytest.approx(0.55)  # three findings have the score of the sixth
    assert half.sensitivity == 0.7
    other = threshold_for(stored, None, "specificity", 0.6)  # 0.6 x 5 = 3
    assert other.value == pytest.approx(0.35)
    assert other.specificity == 0.75


def test_a_threshold_is_of_calibrated_probabilities():
    probabilities, labels = cases(4, 200, slope=2.0)
    decision = fit_decision(probabilities, labels, networks=1, source="validation")
    assert decision.threshold is not None
    after = calibrated(probabilities, decision.calibration)
    said = decide(after, decision.threshold)
    assert said[labels == 1].mean() == pytest.approx(decision.threshold.sensitivity)
    assert decision.threshold.sensitivity >= 0.9
    assert said[labels == 0].mean() == pytest.approx(1 - decision.threshold.specificity)
    one_more = np.sort(after[labels == 1, 1])[int((said[labels == 1] == 0).sum())]
    assert (after[labels == 1, 1] > one_more).sum() < 0.9 * (1 + labels.sum())


@pytest.mark.parametrize(
    ("aim", "wished", "labels", "message"),
    [
        ("sensitivity", 0.9, [1] * 8 + [0] * 20, "at least 9 positive held-out findings"),
        ("specificity", 0.95, [1] * 30 + [0] * 18, "at least 19 negative held-out findings"),
        ("sensitivity", 0.9, [1] * 30, "30 positive and 0 negative"),
        ("sensitivity", 1.0, [1] * 30 + [0] * 9, "above 0 and below 1: got 1"),
        ("sensitivity", 0.0, [1] * 30 + [0] * 9, "above 0 and below 1: got 0"),
    ],
)
def test_a_wish_that_the_findings_cannot_fulfil_is_refused(aim, wished, labels, message):
    scores = np.linspace(0, 1, len(labels)).tolist()
    with pytest.raises(DataError, match=message):
        threshold_for(held_out(scores, labels), None, aim, wished)


def test_no_threshold_reaches_a_specificity_if_negatives_have_a_probability_of_one():
    with pytest.raises(DataError, match="too many negative findings have a probability of 1"):
        threshold_for(held_out([1.0] * 20, [0] * 10 + [1] * 10), None, "specificity", 0.5)


def test_a_threshold_holds_for_a_network_that_is_too_sure():
    """Probabilities next to 1 are rounded in the head's file, and decide as in the network."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    logits = (2 * labels - 1) * 28 + rng.normal(0, 30, 300)
    probabilities = softmax(np.column_stack([0 * logits, logits]), axis=1)
    decision = fit_decision(probabilities, labels, networks=1, source="validation")
    fitted = decision.calibration
    assert fitted is not None
    exact = expit(fitted.slope * logits + fitted.intercept)
    np.testing.assert_allclose(calibrated(probabilities, fitted)[:, 1], exact, atol=1e-12)
    assert decision.held_out is not None
    for aim, wished in (("sensitivity", 0.5), ("specificity", 0.95)):
        threshold = threshold_for(decision.held_out, fitted, aim, wished)
        chosen = exact >= threshold.value
        assert chosen[labels == 1].mean() == threshold.sensitivity > 0
        assert (~chosen)[labels == 0].mean() == threshold.specificity


def test_too_few_findings_leave_the_probabilities_as_they_are_and_say_so():
    probabilities = two([0.9, 0.8, 0.7, 0.6, *[0.3] * 30])
    labels = np.array([1] * 4 + [0] * 30)
    decision = fit_decision(probabilities, labels, networks=3, source="out-of-fold")
    assert decision.calibration is None
    assert decision.threshold is None
    assert len(decision.notes) == 2
    words = decision.words(["benign", "malignant"])
    assert "of the mean of 3 networks as they are; the most probable class" in words
    assert "at least 5 out-of-fold findings outside the most frequent class are needed" in words
    assert "needs at least 9 positive held-out findings" in words
    assert "chosen on" not in words
    assert calibrated(probabilities, decision.calibration) is probabilities
    assert decide(probabilities, decision.threshold).tolist() == labels.tolist()


def test_three_classes_get_a_temperature_and_no_threshold():
    rng = np.random.default_rng(5)
    probabilities = rng.dirichlet([1, 1, 1], 60)
    decision = fit_decision(probabilities, rng.integers(0, 3, 60), networks=1, source="validation")
    assert decision.calibration is not None
    assert decision.calibration.method == "temperature"
    assert decision.threshold is None
    assert decision.notes == ()
    after = calibrated(probabilities, decision.calibration)
    assert (after.argmax(axis=1) == probabilities.argmax(axis=1)).all()
    assert decide(after, None).tolist() == probabilities.argmax(axis=1).tolist()


def test_of_very_many_findings_a_file_holds_a_share():
    probabilities, labels = cases(6, 3 * MAX_HELD_OUT)
    decision = fit_decision(probabilities, labels, networks=1, source="validation")
    assert decision.held_out is not None
    assert len(decision.held_out.labels) == MAX_HELD_OUT
    assert np.mean(decision.held_out.labels) == pytest.approx(labels.mean(), abs=0.02)


def test_prediction_sets_by_hand():
    # Scores 1 - p of the second class: 0.05, 0.15, ... 0.95. The 8th of 9 is the quantile at
    # 0.8 = 8 / (9 + 1), so the second class is in the set from a probability of 0.25 on.
    second = [0.95, 0.85, 0.75, 0.65, 0.55, 0.45, 0.35, 0.25, 0.15]
    first = [0.9, 0.8, 0.7, 0.6]  # at 0.8 the 4th of 4: from a probability of 0.6 on
    stored = held_out([*second, *(1 - p for p in first)], [1] * 9 + [0] * 4)
    decision = Decision(source="validation", held_out=stored)
    sets = prediction_sets(two([0.24, 0.25, 0.4, 0.41, 1.0]), decision, 0.8)
    assert sets.tolist() == [
        [True, False],
        [True, True],
        [True, True],
        [False, True],
        [False, True],
    ]


@pytest.mark.parametrize(
    ("decision", "coverage", "message"),
    [
        (Decision(source="validation"), 0.9, "at least 9 held-out findings of each class"),
        (
            Decision(source="validation", held_out=held_out([0.5] * 27, [1] * 8 + [0] * 19)),
            0.9,
            "and class 1 has 8: ask for a lower coverage",
        ),
        (
            Decision(source="validation", held_out=held_out([0.5] * 27, [1] * 8 + [0] * 19)),
            1.0,
            "above 0 and below 1: got 1",
        ),
    ],
)
def test_a_coverage_that_the_findings_cannot_give_is_refused(decision, coverage, message):
    with pytest.raises(DataError, match=message):
        prediction_sets(two([0.5]), decision, coverage)


def test_a_class_with_too_few_findings_is_named():
    decision = Decision(source="validation", held_out=held_out([0.5] * 27, [1] * 8 + [0] * 19))
    with pytest.raises(DataError, match="and class 'tumour' has 8"):
        prediction_sets(two([0.5]), decision, 0.9, ["healthy", "tumour"])


@pytest.mark.parametrize("positives", [10, 33])
def test_new_findings_have_the_wished_sensitivity_on_average(positives):
    rng = np.random.default_rng(13)
    shares = []
    for _ in range(400):
        scores = np.concatenate([rng.normal(1.5, 1, positives), rng.normal(0, 1, 90)])
        labels = [1] * positives + [0] * 90
        chosen = threshold_for(held_out(expit(scores).tolist(), labels), None, "sensitivity", 0.9)
        shares.append(1 - norm.cdf(logit(chosen.value), loc=1.5))
    error = np.std(shares) / np.sqrt(len(shares))
    assert 0.9 - 3 * error <= np.mean(shares) <= 0.9 + 1 / positives


@pytest.mark.parametrize("coverage", [0.8, 0.9])
@pytest.mark.parametrize("count", [40, 200])
def test_prediction_sets_cover_each_class(coverage, count):
    """The mean coverage over many sets of held-out findings is at least the wish, barely above."""
    covered: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(150):
        probabilities, labels = cases(seed, count, slope=2.5, shift=1.0)
        if np.bincount(labels, minlength=2).min() < 9:
            continue
        stored = held_out(probabilities[:, 1].tolist(), labels.tolist())
        decision = Decision(source="validation", held_out=stored)
        new, true = cases(10_000 + seed, 400, slope=2.5, shift=1.0)
        inside = prediction_sets(new, decision, coverage)[np.arange(400), true]
        for label, shares in covered.items():
            shares.append(float(inside[true == label].mean()))
    least = {0: count * 0.5, 1: 9}
    for label, shares in covered.items():
        error = np.std(shares) / np.sqrt(len(shares))
        assert coverage - 3 * error <= np.mean(shares)
        assert np.mean(shares) <= coverage + 1 / (least[label] + 1) + 3 * error


def test_figures_of_a_decision_are_those_of_scikit_learn_and_scipy():
    probabilities, labels = cases(7, 120, slope=2.5, shift=0.5)
    chosen, true = cases(8, 150, slope=2.5, shift=0.5)
    decision = fit_decision(chosen, true, networks=1, source="validation")
    patients = [str(number) for number in range(120)]
    found = judge(decision, probabilities, labels, patients, ["benign", "malignant"])
    after = calibrated(probabilities, decision.calibration)
    assert found.after is not None
    for figures, each in ((found.before, probabilities), (found.after, after)):
        assert figures.log_loss.value == pytest.approx(log_loss(labels, each))
        assert figures.brier.value == pytest.approx(brier_score_loss(labels, each[:, 1]))
    assert found.log_loss_change is not None
    assert found.log_loss_change.value == pytest.approx(
        log_loss(labels, after) - log_loss(labels, probabilities)
    )
    assert found.log_loss_change.high is not None
    assert found.log_loss_change.high < 0
    said = decide(after, decision.threshold)
    assert [list(row) for row in found.confusion] == confusion_matrix(labels, said).tolist()
    (tn, fp), (fn, tp) = found.confusion
    for share, hits, count in (
        (found.sensitivity, tp, tp + fn),
        (found.specificity, tn, tn + fp),
    ):
        expected = binomtest(hits, count).proportion_ci(method="wilson")
        assert share is not None
        assert share.value == hits / count
        assert (share.low, share.high) == pytest.approx((expected.low, expected.high))


def test_intervals_are_those_of_a_mean_and_wider_if_patients_have_several_findings():
    values = np.random.default_rng(9).normal(1, 2, 40)
    alone = clustered_mean(values, np.arange(40))
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (alone.low, alone.high) == pytest.approx((expected.low, expected.high))
    twice = clustered_mean(np.repeat(values, 2), np.repeat(np.arange(40), 2))
    assert (twice.value, twice.low) == pytest.approx((alone.value, alone.low))
    single = clustered_mean(values, np.zeros(40, dtype=np.intp))
    assert single.low is None
    probabilities, labels = cases(10, 60)
    decision = Decision(source="validation")
    wide, narrow = (
        judge(decision, probabilities, labels, patients, ["a", "b"]).sensitivity
        for patients in (["one"] * 60, [str(number) for number in range(60)])
    )
    assert wide is not None
    assert narrow is not None
    assert wide.high - wide.low > narrow.high - narrow.low


def test_three_classes_are_judged_by_their_most_probable_one():
    rng = np.random.default_rng(11)
    probabilities = rng.dirichlet([1, 1, 1], 90)
    labels = rng.integers(0, 3, 90)
    decision = fit_decision(probabilities, labels, networks=1, source="validation")
    found = judge(decision, probabilities, labels, [str(n) for n in range(90)], ["a", "b", "c"])
    assert found.sensitivity is None
    assert found.before.log_loss.value == pytest.approx(log_loss(labels, probabilities))
    by_hand = ((probabilities - np.eye(3)[labels]) ** 2).sum(axis=1).mean()
    assert found.before.brier.value == pytest.approx(by_hand)
    said = probabilities.argmax(axis=1)
    assert [list(row) for row in found.confusion] == confusion_matrix(labels, said).tolist()


def test_a_decision_is_written_into_a_head_and_nothing_else_changes(tmp_path: Path):
    path, body = tmp_path / "head.safetensors", "0" * 64
    before = weights.save_head(
        path,
        nn.Linear(4, 2),
        body=body,
        features=4,
        dataset="alpha",
        classes=["benign", "malignant"],
        factory="linear",
        preprocessing=PREPROCESSING,
    )
    first = path.read_bytes()
    decision = fit_decision(*cases(12, 5000), networks=1, source="validation")
    weights.set_decision(path, decision)
    after = weights.read_metadata(path)
    assert isinstance(after, weights.HeadMetadata)
    assert after.decision == decision
    assert after.model_copy(update={"decision": None}) == before
    weights.set_decision(path, None)
    assert path.read_bytes() == first
    other = tmp_path / "body.safetensors"
    other.write_bytes(b"")
    with pytest.raises(WeightsError):
        weights.set_decision(other, decision)


@pytest.mark.parametrize(
    ("classes", "change", "message"),
    [
        (3, {"threshold": None}, "another number of classes|are for two classes"),
        (3, {"calibration": None, "threshold": None}, "another number of classes"),
        (3, {"calibration": None, "held_out": None}, "are for two classes"),
        (2, {"task": "multilabel"}, "only a classification"),
    ],
)
def test_a_file_with_a_decision_that_is_not_for_its_classes_is_refused(
    tmp_path: Path, classes: int, change: dict[str, object], message: str
):
    path = tmp_path / "head.safetensors"
    weights.save_head(
        path,
        nn.Linear(4, classes),
        body="0" * 64,
        features=4,
        dataset="alpha",
        classes=["a", "b", "c"][:classes],
        factory="linear",
        preprocessing=PREPROCESSING,
        task="multilabel" if "task" in change else "classification",
    )
    decision = fit_decision(*cases(14, 100), networks=1, source="validation")
    fields = {name: value for name, value in change.items() if name != "task"}
    weights.set_decision(path, decision.model_copy(update=fields))
    with pytest.raises(WeightsError, match=message):
        weights.read_metadata(path)


def print_tables(draws: int) -> None:
    """Print the simulations of docs/statistics.md."""
    truths = {
        "calibrated": (1.0, 0.0),
        "logits x 2.5": (2.5, 0.0),
        "logits x 0.5": (0.5, 0.0),
        "logits + 1": (1.0, 1.0),
        "logits x 2 + 1": (2.0, 1.0),
    }
    free = {"slope_spread": np.inf, "intercept_spread": np.inf}
    rng = np.random.default_rng(0)
    logits = rng.normal(-1.6, 1.7, 20_000)
    true = expit(logits)

    def excess(given: np.ndarray) -> float:
        best, each = (
            -(true * np.log(p) + (1 - true) * np.log1p(-p)).mean()
            for p in (true, given.clip(1e-12, 1 - 1e-12))
        )
        return float(each - best)

    print("1000 x log loss of new findings above that of the true probabilities")
    for name, (slope, shift) in truths.items():
        new = two(expit(slope * logits + shift))
        print(f"{name}: none {1000 * excess(new[:, 1]):.0f}; positives: free, penalised")
        for positives in (5, 7, 10, 20, 50, 100, 200):
            rows: list[tuple[float, float]] = []
            while len(rows) < draws:
                drawn = rng.normal(-1.6, 1.7, 4 * positives)
                labels = (rng.random(4 * positives) < expit(drawn)).astype(np.int64)
                if 0 < labels.sum() < len(labels):
                    chosen = two(expit(slope * drawn + shift))
                    fits = [fit_calibration(chosen, labels, **each) for each in (free, {})]
                    rows.append(tuple(excess(calibrated(new, each)[:, 1]) for each in fits))
            print(positives, *(f"{1000 * value:.0f}" for value in np.mean(rows, axis=0)))
    print("sensitivity of new findings at thresholds for 0.9: mean, 5 % quantile; specificity")
    for positives in (10, 20, 50, 100):
        found, others = [], []
        for _ in range(draws):
            scores = np.concatenate(
                [rng.normal(1.5, 1, positives), rng.normal(0, 1, 3 * positives)]
            )
            labels = [1] * positives + [0] * 3 * positives
            chosen = threshold_for(
                held_out(expit(scores).tolist(), labels), None, "sensitivity", 0.9
            )
            at = float(logit(chosen.value))
            found.append(float((rng.normal(1.5, 1, 2000) >= at).mean()))
            others.append(float((rng.normal(0, 1, 2000) < at).mean()))
        print(positives, f"{np.mean(found):.3f} {np.quantile(found, 0.05):.3f}", end=" ")
        print(f"{np.mean(others):.3f}")
    print("coverage of prediction sets of each class, size of the sets")
    for count in (40, 100, 400):
        for coverage in (0.8, 0.9, 0.95):
            shares: list[list[float]] = []
            for seed in range(draws):
                probabilities, labels = cases(seed, count, slope=2.5, shift=1.0)
                if np.bincount(labels, minlength=2).min() * (1 - coverage) < coverage:
                    continue
                stored = held_out(probabilities[:, 1].tolist(), labels.tolist())
                decision = Decision(source="validation", held_out=stored)
                new, of_new = cases(10_000 + seed, 1000, slope=2.5, shift=1.0)
                sets = prediction_sets(new, decision, coverage)
                inside = sets[np.arange(1000), of_new]
                parts = [inside[of_new == label].mean() for label in (0, 1)]
                shares.append([*parts, sets.sum(axis=1).mean(), (sets.sum(axis=1) == 0).mean()])
            if shares:
                print(count, coverage, len(shares), np.mean(shares, axis=0).round(3))


if __name__ == "__main__":
    import sys

    print_tables(int(sys.argv[1]))
