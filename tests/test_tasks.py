"""Regression and multi-label tasks, from labels to a run's results."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import (
    accuracy_score,
    log_loss,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
)

from hydrakit import weights
from hydrakit.engine import run
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter, HeadFactory, NoOptions, Sample
from hydrakit.runs.evaluate import evaluate_run
from hydrakit.runs.rundir import RunDir
from hydrakit.stats import metrics, tasks
from hydrakit.stats.label_cells import has_label, label_cell

NUMBERS = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3)), min_size=2, max_size=30
).filter(lambda pairs: np.ptp([true for _, true in pairs]) > 1e-3)


@given(NUMBERS)
def test_errors_of_numbers_are_those_of_scikit_learn(pairs: list[tuple[float, float]]) -> None:
    found, truth = np.array(pairs).T
    assert metrics.mean_absolute_error(found, truth) == pytest.approx(
        mean_absolute_error(truth, found)
    )
    assert metrics.r_squared(found, truth) == pytest.approx(r2_score(truth, found), rel=1e-9)


def test_r_squared_of_one_value_is_0_or_1() -> None:
    assert metrics.r_squared([2.0, 2.0], [2.0, 2.0]) == 1
    assert metrics.r_squared([2.0, 3.0], [2.0, 2.0]) == 0
    with pytest.raises(ValueError, match="not finite"):
        metrics.r_squared([np.nan], [1.0])
    with pytest.raises(ValueError, match="shapes"):
        metrics.mean_absolute_error([1.0, 2.0], [1.0])


@st.composite
def logit_cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    classes, size = draw(st.integers(2, 5)), draw(st.integers(2, 25))
    labels = draw(arrays(np.int64, size, elements=st.integers(0, classes - 1)))
    assume(set(labels) == set(range(classes)))
    return draw(arrays(np.float64, (size, classes), elements=st.integers(-6, 6))), labels


@given(logit_cases())
def test_metrics_of_classes_are_scikit_learns(cases: tuple[np.ndarray, np.ndarray]) -> None:
    logits, labels = cases
    probabilities = tasks.predictions(logits, task="classification")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)
    found = tasks.metrics_of(logits, labels, task="classification")
    expected = log_loss(labels, probabilities, labels=list(range(logits.shape[1])))
    assert found.loss == pytest.approx(expected, abs=1e-9)
    assert found.accuracy == accuracy_score(labels, logits.argmax(axis=1))
    table = torch.softmax(torch.tensor(logits), dim=1).numpy()  # with the same ties, to the bit
    scores = table[:, 1] if logits.shape[1] == 2 else table
    assert found.auc == pytest.approx(roc_auc_score(labels, scores, multi_class="ovr"), abs=1e-12)


def test_a_class_without_a_case_has_no_auc() -> None:
    with pytest.raises(ValueError, match="got 0 positive and 2 negative"):
        tasks.metrics_of(np.zeros((2, 3)), np.array([0, 2]), task="classification")


@pytest.mark.parametrize("task", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_give_no_predictions(task: Any, value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        tasks.predictions(np.array([[value, 0.0]]), task=task)


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e5, -1e5], [-1e5, 1e5]])
    np.testing.assert_array_equal(tasks.predictions(logits, task="classification"), np.eye(2))


def test_metrics_of_labels_are_means_over_the_labels() -> None:
    random = np.random.default_rng(0)
    outputs = random.normal(size=(40, 3))
    targets = (random.random((40, 3)) < [0.2, 0.5, 0.7]).astype(float)
    found = tasks.metrics_of(outputs, targets, task="multilabel")
    expected = [roc_auc_score(targets[:, k], outputs[:, k]) for k in range(3)]
    assert found.auc == pytest.approx(np.mean(expected))
    assert found.accuracy == np.mean((outputs > 0) == targets.astype(bool))
    shares = 1 / (1 + np.exp(-outputs))
    cross = -(targets * np.log(shares) + (1 - targets) * np.log(1 - shares)).mean()
    assert found.loss == pytest.approx(cross)
    areas = tasks.class_aucs(
        tasks.predictions(outputs, task="multilabel"), targets, task="multilabel", classes="abc"
    )
    assert [area.auc for area in areas] == pytest.approx(expected)
    assert [area.positives for area in areas] == targets.sum(axis=0).tolist()


def test_a_number_is_standardised_for_training_and_shown_in_its_own_unit() -> None:
    numbers = [10.0, 20.0, 40.0]
    targets = tasks.targets_of(numbers, "regression")
    scale = tasks.scale_of(targets, "regression")
    assert scale == pytest.approx((np.mean(numbers), np.std(numbers)))
    standard = tasks.to_tensor(targets, scale)
    assert standard.mean().item() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(tasks.from_tensor(standard, scale), targets, rtol=1e-6)
    perfect = tasks.metrics_of(standard.double().numpy(), targets, task="regression", scale=scale)
    assert perfect.mae == pytest.approx(0, abs=1e-5)
    assert perfect.r2 == pytest.approx(1)
    assert perfect.score == perfect.r2
    assert perfect.auc is None


def test_strata_hold_each_label_and_its_absence() -> None:
    found = tasks.strata([(1, 0), (1, 1)], "multilabel", ("cyst", "stone"))
    np.testing.assert_array_equal(found, [[1, 0, 0, 1], [1, 1, 0, 0]])
    found = tasks.strata([(1, None), (None, 0)], "multilabel", ("cyst", "stone"))
    np.testing.assert_array_equal(found, [[1, 0, 0, 0], [0, 0, 0, 1]])
    names = tasks.strata_names("multilabel", ("cyst", "stone"))
    assert names == ("cyst", "stone", "not cyst", "not stone")
    np.testing.assert_array_equal(tasks.strata([2, 0], "classification", "abc"), np.eye(3)[[2, 0]])


@st.composite
def partial_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs ``(cases, 3)``, answers of 1 and 0, and which of them are known: some of both."""
    size = draw(st.integers(4, 20))
    outputs = draw(arrays(np.float64, (size, 3), elements=st.floats(-6, 6)))
    answers = draw(arrays(np.int64, (size, 3), elements=st.integers(0, 1)))
    known = draw(arrays(np.bool_, (size, 3)))
    answers[:2], known[:2] = [[0, 0, 0], [1, 1, 1]], True
    return outputs, answers, known


@settings(deadline=None, max_examples=40)
@given(partial_labels(), st.sampled_from([0.0, 0.2]))
def test_unknown_answers_count_neither_in_the_loss_nor_in_a_figure(
    cases: tuple[np.ndarray, np.ndarray, np.ndarray], smoothing: float
) -> None:
    """Against torch and scikit-learn on the known ones."""
    outputs, answers, known = cases
    labels = [
        tuple(int(answer) if yes else None for answer, yes in zip(*row, strict=True))
        for row in zip(answers, known, strict=True)
    ]
    targets = tasks.targets_of(labels, "multilabel")
    np.testing.assert_array_equal(np.isnan(targets), ~known)
    tensor = tasks.to_tensor(targets, None)
    np.testing.assert_array_equal(tasks.from_tensor(tensor, None), targets)

    logits = torch.tensor(outputs, dtype=torch.float32, requires_grad=True)
    of_known = torch.tensor(outputs[known], dtype=torch.float32, requires_grad=True)
    wanted = torch.tensor(answers[known], dtype=torch.float32) * (1 - smoothing) + smoothing / 2
    expected = torch.nn.functional.binary_cross_entropy_with_logits(of_known, wanted)
    found = tasks.loss_of(
        logits, tensor, task="multilabel", loss="cross-entropy", smoothing=smoothing
    )
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[torch.from_numpy(known)], of_known.grad)
    assert not logits.grad[torch.from_numpy(~known)].any()

    metrics = tasks.metrics_of(outputs, targets, task="multilabel")
    aucs = [
        roc_auc_score(answers[known[:, k], k], outputs[known[:, k], k], labels=[0, 1])
        for k in range(3)
    ]
    assert metrics.auc == pytest.approx(np.mean(aucs))
    assert metrics.accuracy == pytest.approx(np.mean((outputs > 0)[known] == answers[known]))
    others = np.where(known, outputs, 5 - outputs)  # what is said about the unknown ones
    assert tasks.metrics_of(others, targets, task="multilabel") == metrics
    subgroups = [{"half": "one"} if row % 2 else {} for row in range(len(outputs))]
    scores = tasks.predictions(outputs, task="multilabel")
    areas = tasks.class_aucs(scores, targets, task="multilabel", classes="abc")
    assert [area.positives + area.negatives for area in areas] == known.sum(axis=0).tolist()
    parts = tasks.subgroup_aucs(scores, targets, subgroups, task="multilabel", classes="abc")
    assert [part.positives for part in parts] == (answers * known)[1::2].sum(axis=0).tolist()
    assert [part.negatives for part in parts] == ((1 - answers) * known)[1::2].sum(axis=0).tolist()


def test_a_batch_without_a_known_answer_teaches_nothing() -> None:
    logits = torch.zeros((4, 2), requires_grad=True)
    targets = tasks.to_tensor(np.full((4, 2), np.nan), None)
    loss = tasks.loss_of(logits, targets, task="multilabel", loss="cross-entropy")
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@given(st.lists(st.sampled_from([0, 1, None]), min_size=3, max_size=3))
@settings(deadline=None)
def test_a_cell_of_labels_says_each_answer(label: list[int | None]) -> None:
    cell = label_cell(label, ("edema", "gas", "mass"))
    assert label_cell([np.nan if answer is None else answer for answer in label], "abc") == (
        label_cell(label, "abc")
    )
    answers = [has_label(cell, name) for name in ("edema", "mass")]
    assert answers == [None if each is None else bool(each) for each in (label[0], label[2])]


# Runs


def _labelled(task: str) -> DatasetAdapter:
    """A stand-in whose label is the brightness of the disk, or whether it and the corner glow."""

    def read(root: Path, options: Any) -> Iterator[Sample]:
        random = np.random.default_rng(5)
        row, column = np.mgrid[: helpers.SIDE, : helpers.SIDE] - (helpers.SIDE - 1) / 2
        disk = (row**2 + column**2 <= 16).astype(np.float32)
        side = (np.abs(column) > 4).astype(np.float32)
        for number in range(60):
            glow, edge = random.random() * 2, number % 3 == 0
            image = random.normal(size=disk.shape).astype(np.float32) + 2 * glow * disk
            if task == "multilabel":
                image = image + 2 * side * edge
            yield Sample(
                image=image.astype(np.float32),
                label=100 + 50 * glow if task == "regression" else (int(glow > 1), int(edge)),
                patient=f"p{number}",
                key=f"c{number}",
            )

    classes = ("volume",) if task == "regression" else ("bright", "edged")
    base = helpers.adapter("alpha", classes)
    return replace(base, read=read, options=NoOptions, task=task)  # type: ignore[arg-type]


def _run(task: str, folder: Path, **more: Any) -> tuple[RunDir, Any]:
    plugins = helpers.plugins().including(_labelled(task))
    plan = helpers.plan_of(
        helpers.round_of("alpha", epochs=12, learning_rate=0.01, dropout=0.0),
        helpers.round_of("alpha", "head", epochs=12, learning_rate=0.01, dropout=0.0),
    )
    plan = plan.model_copy(update=more)
    (folder / "alpha").mkdir(parents=True, exist_ok=True)
    places = {"data": folder, "cache": folder / "cache", "out": folder / "run"}
    return run(plan, device="cpu", plugins=plugins, **places), plugins


def _predictions(rundir: RunDir) -> list[dict[str, str]]:
    with (rundir.path / "predictions.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["split"] == "test"]


def test_a_number_is_learnt_and_reported_in_its_own_unit(tmp_path: Path) -> None:
    rundir, plugins = _run("regression", tmp_path)
    results = rundir.results()
    assert results is not None
    assert results.test.classes == ()
    assert results.test.figures.r2 is not None
    assert results.test.figures.r2 > 0.3
    rows = _predictions(rundir)
    truth = [float(row["label"]) for row in rows]
    said = [float(row["predicted"]) for row in rows]
    assert min(truth) >= 100
    assert results.test.figures.mae == pytest.approx(mean_absolute_error(truth, said))
    assert results.test.figures.r2 == pytest.approx(r2_score(truth, said))
    again = evaluate_run(
        rundir.path, roots={}, device="cpu", cache=tmp_path / "cache", plugins=plugins
    )
    assert again.result == results.test
    head = weights.read_metadata(rundir.head_path("alpha"))
    assert head.kind == "head"
    assert head.task == "regression"
    assert head.scale is not None
    assert head.decision is None
    assert results.test.decision is None
    assert "mean absolute error" in rundir.report_path.read_text()


def test_several_labels_are_learnt_each_with_its_interval(tmp_path: Path) -> None:
    rundir, _ = _run("multilabel", tmp_path)
    results = rundir.results()
    assert results is not None
    assert [area.class_name for area in results.test.classes] == ["bright", "edged"]
    rows = _predictions(rundir)
    for area in results.test.classes:
        present = [area.class_name in row["label"].split(";") for row in rows]
        shares = [float(row[f"p_{area.class_name}"]) for row in rows]
        assert area.auc == pytest.approx(roc_auc_score(present, shares))
        assert area.positives == sum(present)
    assert results.test.figures.auc == pytest.approx(
        np.mean([area.auc for area in results.test.classes])
    )
    assert results.test.figures.auc > 0.6
    assert results.test.decision is None
    head = weights.read_metadata(rundir.head_path("alpha"))
    assert head.kind == "head"
    assert head.decision is None


def test_a_head_that_cannot_learn_the_task_is_refused_before_training(tmp_path: Path) -> None:
    plugins = helpers.plugins().including(_labelled("regression"))
    only_classes = replace(plugins.all(HeadFactory)["mlp"], tasks=("classification",))
    plugins = plugins.including(only_classes)
    (tmp_path / "alpha").mkdir()
    plan = helpers.plan_of(helpers.round_of("alpha"))
    with pytest.raises(PlanError, match="'mlp' cannot learn 'alpha', a regression task"):
        run(plan, data=tmp_path, cache=tmp_path / "c", out=tmp_path / "run", plugins=plugins)
    assert not (tmp_path / "run").exists()


def test_losses_are_those_of_torch() -> None:
    outputs, numbers = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert tasks.loss_of(outputs, numbers, task="regression", loss="cross-entropy") == 1.25
    labels = torch.tensor([[0.0], [1.0]])
    expected = torch.nn.functional.binary_cross_entropy(torch.sigmoid(outputs), labels)
    found = tasks.loss_of(outputs, labels, task="multilabel", loss="cross-entropy")
    assert found.item() == pytest.approx(expected.item())
