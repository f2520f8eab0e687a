"""Comparisons of numbers and of several labels: figures, intervals, and whole comparisons."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from click.testing import CliRunner
from PIL import Image
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score

from hydrakit.cli import main
from hydrakit.compare.design import CompareDir
from hydrakit.errors import DataError
from hydrakit.report.comparison import build_comparison
from hydrakit.stats.comparison import Comparison
from hydrakit.stats.paired import compare
from hydrakit.stats.patient_parts import (
    compare_errors,
    compare_labels,
    error_parts,
    label_interval,
    label_parts,
    r2_parts,
)
from hydrakit.stats.score_table import Row, ScoreTable, gather, gather_findings
from hydrakit.stats.scored import LabelScores
from hydrakit.stats.verdict import verdicts


def numbers(
    rng: np.random.Generator, noise: float, observed: np.ndarray, patients: np.ndarray
) -> ScoreTable:
    """Observed numbers with errors that correlate within patients."""
    shared = rng.normal(size=patients.max() + 1)[patients]
    errors = noise * (0.7 * shared + 0.7 * rng.normal(size=len(observed)))
    return gather_findings(
        [
            Row(finding=f"f{i:03d}", patient=f"p{p:03d}", label=y, score=y + e, fold=int(p) % 3)
            for i, (p, y, e) in enumerate(zip(patients, observed, errors, strict=True))
        ]
    )


def test_errors_of_independent_findings_are_those_of_a_paired_t_test() -> None:
    rng = np.random.default_rng(3)
    observed, patients = rng.normal(size=40), np.arange(40)
    one, two = (numbers(rng, noise, observed, patients) for noise in (0.5, 1.5))
    found = compare_errors(one, two)
    errors = [np.abs(each.scores[0] - each.labels) for each in (one, two)]
    told = scipy.stats.ttest_rel(*errors)
    interval = told.confidence_interval(0.95)
    assert found.difference == pytest.approx(errors[0].mean() - errors[1].mean())
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    flips = scipy.stats.permutation_test(
        (errors[0] - errors[1],),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        rng=np.random.default_rng(0),
    )
    assert found.p == pytest.approx(flips.pvalue, abs=0.01)
    assert error_parts(one).value == pytest.approx(mean_absolute_error(one.labels, one.scores[0]))
    parts = r2_parts(one)
    assert parts is not None
    assert parts.value == pytest.approx(r2_score(one.labels, one.scores[0]))


def test_a_smaller_error_is_better() -> None:
    rng = np.random.default_rng(4)
    observed, patients = rng.normal(size=60), np.arange(60) // 2
    one, two = (numbers(rng, noise, observed, patients) for noise in (0.2, 2.0))
    better, worse = (verdicts({("a", "b"): compare_errors(*pair)})[0]
                     for pair in ((one, two), (two, one)))  # fmt: skip
    assert (better.kind, worse.kind) == ("better", "worse")
    assert better.high < 0 < worse.low
    assert "mean absolute error 0." in better.text
    assert "60 findings of 30 patients" in better.text
    same = compare_errors(one, one)
    assert (same.difference, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_the_parts_of_r2_are_its_derivatives() -> None:
    """Against the change of R2 when one patient's findings count a little more."""
    rng = np.random.default_rng(5)
    observed, patients = rng.normal(size=12), np.arange(12) // 3
    table = numbers(rng, 0.8, observed, patients)
    parts = r2_parts(table)
    assert parts is not None
    step = 1e-6
    for patient in range(4):
        weights = 1 + step * (table.patients == patient)
        change = r2_score(table.labels, table.scores[0], sample_weight=weights) - parts.value
        assert parts.groups[0][0, patient] == pytest.approx(change / step, rel=1e-3)
    constant = [Row(finding=f"f{i}", patient=f"p{i}", label=2.0, score=i) for i in range(4)]
    assert r2_parts(gather_findings(constant)) is None


def test_the_interval_of_an_error_covers_the_truth() -> None:
    """Normal errors of two sizes, two findings a patient: the difference is known."""
    rng = np.random.default_rng(6)
    patients = np.arange(60) // 2
    truth = (1.0 - 1.3) * np.sqrt(2 * 0.49) * np.sqrt(2 / np.pi)
    covered = 0
    for _ in range(300):
        observed = rng.normal(size=60)
        found = compare_errors(*(numbers(rng, n, observed, patients) for n in (1.0, 1.3)))
        covered += found.low <= truth <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def labels(rng: np.random.Generator, shift: float, count: int, findings: int) -> list[ScoreTable]:
    """Scores of labels that patients share; higher for those that have the label."""
    patients = np.arange(findings) // 2
    fixed = np.random.default_rng(0)
    tables = []
    for _ in range(count):
        present = fixed.random(findings) < 0.4
        scores = rng.normal(size=findings) + shift * present
        tables.append(
            gather([
                Row(finding=f"f{i:03d}", patient=f"p{p:03d}", label=int(y), score=float(s))
                for i, (p, y, s) in enumerate(zip(patients, present, scores, strict=True))
            ])
        )  # fmt: skip
    return tables


def test_one_label_is_compared_as_a_class_is() -> None:
    rng = np.random.default_rng(7)
    one, two = (labels(rng, shift, 1, 80) for shift in (1.5, 0.7))
    found, told = compare_labels(one, two), compare(one[0], two[0])
    assert found.difference == pytest.approx(told.difference)
    assert found.p == pytest.approx(told.p)
    assert (found.low, found.high) == pytest.approx((told.low, told.high), abs=0.003)


def test_a_label_has_the_figures_of_the_findings_that_know_it() -> None:
    """Beside other labels, its table has all findings; each patient still counts as one."""
    rng = np.random.default_rng(10)
    unknown = rng.random(80) < 0.3
    pairs = []
    for shift in (1.5, 0.7):
        (whole,) = labels(rng, shift, 1, 80)
        rows = [
            Row(finding=name, patient=f"p{patient}", label=None if gap else int(y), score=score)
            for name, patient, gap, y, score in zip(
                whole.findings, whole.patients, unknown, whole.labels, whole.scores[0], strict=True
            )
        ]
        pairs.append(
            (gather_findings(rows), gather([row for row in rows if row.label is not None]))
        )
    (beside, alone), (other_beside, other_alone) = pairs
    found, told = compare_labels([beside], [other_beside]), compare_labels([alone], [other_alone])
    assert (found.difference, found.p) == pytest.approx((told.difference, told.p))
    assert (found.low, found.high) == pytest.approx((told.low, told.high))
    assert label_interval([beside], level=0.95) == pytest.approx(
        label_interval([alone], level=0.95)
    )
    both = LabelScores({"a": {"x": beside}, "b": {"x": labels(rng, 1.0, 1, 80)[0]}}, 0.95)
    aucs = [each.strategies[0].auc for each in both.label_aucs()]
    assert aucs[0] == pytest.approx(roc_auc_score(alone.labels, alone.scores[0]))
    assert both.figures("x")["auc"] == pytest.approx(np.mean(aucs))
    assert both.label_aucs()[0].positives + both.label_aucs()[0].negatives == (~unknown).sum()


def test_the_mean_of_labels_is_that_of_their_aucs_and_its_interval_covers_it() -> None:
    rng = np.random.default_rng(8)
    tables = labels(rng, 1.0, 3, 80)
    aucs = [roc_auc_score(each.labels, each.scores[0]) for each in tables]
    assert label_parts(tables).value == pytest.approx(np.mean(aucs))
    truth = scipy.stats.norm.cdf(1.0 / np.sqrt(2))
    difference = truth - scipy.stats.norm.cdf(0.6 / np.sqrt(2))
    alone = paired = 0
    for _ in range(200):
        one, two = labels(rng, 1.0, 3, 80), labels(rng, 0.6, 3, 80)
        low, high = label_interval(one, level=0.95)
        alone += low <= truth <= high
        found = compare_labels(one, two)
        paired += found.low <= difference <= found.high
    assert alone / 200 >= 0.93
    assert 0.91 <= paired / 200 <= 0.985


def declare(root: Path, task: str, patients: int = 24) -> Path:
    """A dataset of noise with a brighter middle, one label or number by its brightness."""
    rng = np.random.default_rng(9)
    folder = root / "mine"
    folder.mkdir(parents=True)
    rows = []
    for number in range(patients * 2):
        level = rng.random()
        image = rng.integers(0, 60, size=(24, 24))
        image[8:16, 8:16] += int(120 * level)
        Image.fromarray(image.astype(np.uint8)).save(folder / f"i{number:02d}.png")
        label = f"{10 * level:.2f}"
        if task == "multilabel":
            odd = -1 if number % 7 == 3 else int(number % 3 == 0)
            label = f"{int(level > 0.5)},{odd}"
        rows.append([f"i{number:02d}.png", *label.split(","), f"p{number // 2:02d}"])
    columns = ["bright", "odd"] if task == "multilabel" else ["label"]
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", *columns, "patient"], *rows])
    classes = '["bright", "odd"]' if task == "multilabel" else '["years"]'
    (folder / "dataset.toml").write_text(
        f'task = "{task}"\nclasses = {classes}\ncases = "cases.csv"\n'
        'field_of_view = { share = 1 }\n'
    )  # fmt: skip
    return root


def compared(tmp_path: Path, task: str, *more: str) -> Comparison:
    data = declare(tmp_path / "data", task)
    words = [
        *("compare", "--strategies", "classical", "--datasets", "mine", "--seeds", "2"),
        *("--folds", "2", "--epochs", "1", "--profile", "recommended-0.1", "--bootstrap", "1"),
        *("--body-channels", "2,4", "--body-option", "patch=24", "--baselines", "intensity"),
        *("--data", str(data), "--cache", str(tmp_path / "cache"), "--device", "cpu"),
        *("--jobs", "1", "--out", str(tmp_path / "out"), *more),
    ]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return Comparison.model_validate_json((tmp_path / "out" / "comparison.json").read_bytes())


def test_numbers_are_compared_by_their_error(tmp_path: Path) -> None:
    found = compared(tmp_path, "regression")
    assert (found.measure, found.positive, found.format) == ("mae", None, 2)
    for each in found.strategies:
        rows = []
        for path in sorted((tmp_path / "out" / "cells").glob(f"{each.name}-*/predictions.csv")):
            with path.open() as file:
                rows += [row for row in csv.DictReader(file) if row["split"] == "test"]
        assert len(rows) == 2 * len(found.findings)
        errors = [abs(float(row["predicted"]) - float(row["label"])) for row in rows]
        assert each.mae == pytest.approx(np.mean(errors))
        assert np.mean([cell[3] for cell in each.cell_values]) == pytest.approx(np.mean(errors))
        assert each.low <= each.value <= each.high
    (pair,) = found.pairs
    assert pair.r2_difference is not None
    assert found.baselines == {"intensity": "a ridge regression on eleven intensities"}
    assert "Ridge regression" in pair.text or "ridge regression" in pair.text
    page, _ = build_comparison(tmp_path / "out")
    assert "Test MAE" in page
    assert "R2 difference" in page
    assert "Test AUC" not in page
    assert "--positive" not in page
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (content["format"], content["positive"]) == (2, None)
    assert CompareDir(tmp_path / "out").description().positive is None


def test_several_labels_are_compared_by_their_mean(tmp_path: Path) -> None:
    found = compared(tmp_path, "multilabel")
    assert (found.measure, found.positive) == ("mean AUC", None)
    assert [each.name for each in found.label_aucs] == ["bright", "odd"]
    for number, each in enumerate(found.strategies):
        singles = [label.strategies[number].auc for label in found.label_aucs]
        assert each.auc == pytest.approx(np.mean(singles))
        folder = tmp_path / "out" / "cells" / f"{each.name}-seed0-repeat0-fold0"
        with (folder / "predictions.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        aucs = []
        for name in ("bright", "odd"):
            known = [row for row in rows if f"{name}?" not in row["label"].split(";")]
            present = [name in row["label"].split(";") for row in known]
            aucs.append(roc_auc_score(present, [float(row[f"p_{name}"]) for row in known]))
        assert len(known) < len(rows)
        values = {cell[:3]: cell[3] for cell in each.cell_values}
        assert values[0, 0, 0] == pytest.approx(np.mean(aucs))
    assert [each.positives + each.negatives for each in found.label_aucs] == [48, 41]
    assert "mean AUC of the labels" in found.pairs[0].text
    page, _ = build_comparison(tmp_path / "out")
    assert "Test AUC of each label" in page


def test_a_class_of_numbers_is_refused(tmp_path: Path) -> None:
    data = declare(tmp_path / "data", "regression")
    words = ["compare", "--strategies", "classical", "--datasets", "mine", "--positive", "years"]
    words += ["--data", str(data), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 1
    assert "--positive 'years': the labels of 'mine' are numbers" in result.output
    assert not (tmp_path / "out").exists()


def test_tables_of_other_findings_are_refused() -> None:
    one = [Row(finding=f"f{i}", patient=f"p{i}", label=i, score=1.0) for i in range(4)]
    with pytest.raises(DataError, match="same findings"):
        compare_errors(gather_findings(one), gather_findings(one[1:]))
