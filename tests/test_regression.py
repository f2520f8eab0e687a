"""Regressions and first-order statistics, against scikit-learn and NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from hydrakit.errors import DataError
from hydrakit.hooks import Task
from hydrakit.models.intensity import STATISTICS, first_order
from hydrakit.stats.metrics import auc
from hydrakit.stats.regression import (
    PENALTIES,
    calibrated,
    cross_validated_aucs,
    cross_validated_outputs,
    fit,
    fit_with_chosen_penalty,
    grouped_folds,
)
from hydrakit.stats.tasks import predictions


def cases(classes: int, count: int = 150, features: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features of different units, the last one constant, and classes they predict."""
    random = np.random.default_rng(classes)
    values = random.normal(size=(count, features)) @ random.normal(size=(features, features))
    values = values * 10.0 ** np.arange(-3, features - 3) + 5
    values[:, -1] = 3.7
    standard = (values[:, :-1] - values[:, :-1].mean(axis=0)) / values[:, :-1].std(axis=0)
    logits = standard @ random.normal(size=(features - 1, classes)) + np.eye(classes)[0] / 2
    noisy = logits + random.gumbel(size=logits.shape)
    return values, noisy.argmax(axis=1)


@pytest.mark.parametrize("penalty", [0.01, 1.0, 10.0, 1000.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_regression_is_that_of_scikit_learn(classes: int, penalty: float) -> None:
    values, labels = cases(classes)
    scaler = StandardScaler().fit(values)
    oracle = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=100_000)
    oracle.fit(scaler.transform(values), labels)
    model = fit(values, labels, task="classification", outputs=classes, penalty=penalty)
    probabilities = predictions(model.outputs(values), task="classification")
    expected = oracle.predict_proba(scaler.transform(values))
    np.testing.assert_allclose(probabilities, expected, atol=1e-4)
    standardised = model.weights * scaler.scale_[:, None]
    if classes == 2:
        standardised = standardised[:, 1:] - standardised[:, :1]
    np.testing.assert_allclose(standardised.T, oracle.coef_, atol=1e-4)
    assert (model.weights[-1] == 0).all()  # of the constant feature


def test_several_labels_are_one_regression_each() -> None:
    values, labels = cases(3)
    present = np.stack([labels == 0, labels == 2], axis=1).astype(float)
    model = fit(values, present, task="multilabel", outputs=2, penalty=2.0)
    scaled = StandardScaler().fit_transform(values)
    probabilities = predictions(model.outputs(values), task="multilabel")
    for label in range(2):
        oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=100_000)
        expected = oracle.fit(scaled, present[:, label]).predict_proba(scaled)[:, 1]
        np.testing.assert_allclose(probabilities[:, label], expected, atol=1e-4)


def test_a_label_is_learnt_from_the_cases_that_know_it() -> None:
    values, labels = cases(3)
    present = np.stack([labels == 0, labels == 2], axis=1).astype(float)
    known = np.random.default_rng(0).random(present.shape) < 0.6
    wanted = np.where(known, present, np.nan)
    model = fit(values, wanted, task="multilabel", outputs=2, penalty=2.0)
    scaled = StandardScaler().fit_transform(values)
    probabilities = predictions(model.outputs(values), task="multilabel")
    for label in range(2):
        rows = known[:, label]
        oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=100_000)
        expected = oracle.fit(scaled[rows], present[rows, label]).predict_proba(scaled)[:, 1]
        np.testing.assert_allclose(probabilities[:, label], expected, atol=1e-4)

    patients = [f"p{number // 3}" for number in range(len(values))]
    wanted[:30] = np.nan  # ten patients know nothing
    whole = fit_with_chosen_penalty(values, wanted, patients, task="multilabel", outputs=2)
    assert np.isfinite(whole.weights).all()
    shrunk = calibrated(whole, values, wanted, patients, task="multilabel", outputs=2)
    assert np.isfinite(shrunk.bias).all()
    for area in cross_validated_aucs(values, wanted, patients, task="multilabel", classes="ab"):
        assert (
            area.positives + area.negatives
            == (~np.isnan(wanted[:, "ab".index(area.class_name)])).sum()
        )


def test_a_number_is_a_ridge_regression() -> None:
    values, labels = cases(3)
    numbers = (values[:, :1] + labels[:, None]) / 3
    model = fit(values, numbers, task="regression", outputs=1, penalty=5.0)
    scaled = StandardScaler().fit_transform(values)
    expected = Ridge(alpha=5.0).fit(scaled, numbers).predict(scaled)
    np.testing.assert_allclose(model.outputs(values)[:, 0], np.ravel(expected), atol=1e-8)


def test_the_chosen_penalty_has_the_least_loss_on_other_patients() -> None:
    values, labels = cases(2, count=120)
    patients = [f"p{number // 3}" for number in range(120)]
    model = fit_with_chosen_penalty(values, labels, patients, task="classification", outputs=2)
    folds = grouped_folds(labels, patients, task="classification", outputs=2)
    losses = []
    for penalty in PENALTIES:
        loss = 0.0
        for fold in range(5):
            inside = folds == fold
            scaler = StandardScaler().fit(values[~inside])
            oracle = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=100_000)
            oracle.fit(scaler.transform(values[~inside]), labels[~inside])
            chances = oracle.predict_proba(scaler.transform(values[inside]))
            loss -= np.log(chances[np.arange(len(chances)), labels[inside]]).sum()
        losses.append(loss)
    assert model.penalty == PENALTIES[int(np.argmin(losses))]


def test_folds_hold_whole_patients_and_every_class() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    patients = [f"p{number // 2}" for number in range(100)]
    folds = grouped_folds(labels, patients, task="classification", outputs=2)
    for patient in set(patients):
        assert (
            len({fold for fold, name in zip(folds, patients, strict=True) if name == patient}) == 1
        )
    for fold in range(5):
        assert (labels[folds == fold] == 1).sum() == 2
    order = np.random.default_rng(1).permutation(100)
    again = grouped_folds(
        labels[order], [patients[case] for case in order], task="classification", outputs=2
    )
    assert (again == folds[order]).all()


def test_one_patient_is_refused() -> None:
    values, labels = cases(2)
    with pytest.raises(DataError, match="all training cases are of one patient"):
        fit_with_chosen_penalty(values, labels, ["p"] * 150, task="classification", outputs=2)


def test_a_class_that_a_fold_lacks_has_finite_outputs() -> None:
    values, _ = cases(2, count=60)
    labels = np.array([1] + [0] * 29 + [2] * 30)
    patients = [f"p{number}" for number in range(60)]
    outputs = cross_validated_outputs(values, labels, patients, task="classification", outputs=3)
    assert outputs.shape == (60, 3)
    assert np.isfinite(outputs).all()


def test_cross_validated_auc_is_that_of_the_pooled_findings() -> None:
    values, labels = cases(2, count=120)
    patients = [f"p{number // 4}" for number in range(120)]
    labels[1::2] = labels[::2]  # two images of each finding
    findings = [f"f{number // 2}" for number in range(120)]
    (area,) = cross_validated_aucs(
        values, labels, patients, task="classification", classes=("a", "b"), findings=findings
    )
    outputs = cross_validated_outputs(values, labels, patients, task="classification", outputs=2)
    scores = predictions(outputs, task="classification")[:, 1].reshape(60, 2).mean(axis=1)
    assert area.auc == pytest.approx(auc(scores, labels[::2]))
    assert area.low < area.auc < area.high
    assert (area.class_name, area.positives) == ("b", int(labels[::2].sum()))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (65, 65), (5, 9), (1, 1)])
def test_first_order_statistics_are_those_of_numpy(height: int, width: int) -> None:
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 2, height, width))
    numbers = first_order(torch.from_numpy(images)).reshape(4, 2, len(STATISTICS)).numpy()

    def central(image: np.ndarray, parts: int) -> np.ndarray:
        rows, columns = max(1, height // parts), max(1, width // parts)
        top, left = (height - rows) // 2, (width - columns) // 2
        return image[top : top + rows, left : left + columns]

    for case in range(4):
        for channel in range(2):
            image = images[case, channel]
            half = central(image, 2)
            expected = [
                half.mean(),
                half.std(),
                half.max(),
                *np.percentile(half, [5, 25, 50, 75, 95]),
                image.mean(),
                image.std(),
                central(image, 8).mean(),
            ]
            np.testing.assert_allclose(numbers[case, channel], expected, atol=1e-12)


@settings(max_examples=30, deadline=None)
@given(
    factor=st.floats(1e-3, 1e3),
    seed=st.integers(0, 1000),
    task=st.sampled_from(["classification", "multilabel", "regression"]),
)
def test_scaling_all_images_changes_no_prediction(factor: float, seed: int, task: Task) -> None:
    random = np.random.default_rng(seed)
    images = torch.from_numpy(random.gamma(2.0, size=(24, 1, 8, 8)))
    patients = [f"p{number}" for number in range(24)]
    targets = np.arange(24) % 2
    wanted = targets if task == "classification" else targets[:, None] * 1.0

    def predict(images: torch.Tensor) -> np.ndarray:
        features = first_order(images).numpy()
        outputs = 2 if task == "classification" else 1
        model = fit_with_chosen_penalty(features, wanted, patients, task=task, outputs=outputs)
        return model.outputs(features)

    np.testing.assert_allclose(predict(images * factor), predict(images), atol=1e-5)


def test_a_calibrated_model_is_as_certain_as_its_predictions_of_others_deserve() -> None:
    random = np.random.default_rng(4)
    values = random.normal(size=(60, 12))
    labels = (values[:, 0] + 2 * random.normal(size=60) > 0).astype(int)
    groups = [str(number // 2) for number in range(60)]
    kwargs = {"task": "classification", "outputs": 2}
    model = fit(values, labels, penalty=0.1, **kwargs)
    certain = calibrated(model, values, labels, groups, **kwargs)
    slope = certain.weights[0, 1] / model.weights[0, 1]
    np.testing.assert_allclose(certain.weights, slope * model.weights)
    centre = values.mean(axis=0)
    np.testing.assert_allclose(certain.outputs(centre), model.outputs(centre))
    outputs = cross_validated_outputs(values, labels, groups, penalty=0.1, **kwargs)
    logits = outputs[:, 1] - outputs[:, 0]

    def loss(factor: float) -> float:
        scaled = logits.mean() + factor * (logits - logits.mean())
        return float(log_loss(labels, 1 / (1 + np.exp(-scaled))))

    grid = np.linspace(0, 1, 1001)
    assert abs(slope - grid[np.argmin([loss(each) for each in grid])]) < 2e-3
    assert 0.05 < slope < 0.8  # 12 features, one of which counts, and 60 cases
