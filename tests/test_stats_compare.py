"""Figures of one strategy over folds, against SciPy, scikit-learn and plain loops."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, t
from sklearn.metrics import roc_auc_score

from hydrakit.errors import DataError
from hydrakit.stats.findings import mean_score
from hydrakit.stats.intervals import (
    estimate_variance,
    mean_auc,
    newcombe_interval,
    t_quantile,
    variance_model,
    wilson_interval,
)
from hydrakit.stats.score_table import Row, ScoreTable, gather, pairs_of, wins_of


def strategy(
    seed: int, *, findings: int = 60, patients: int = 35, passes: int = 1, folds: int = 1
) -> ScoreTable:
    """Random scores of findings of which the first third is positive; folds hold patients."""
    rng = np.random.default_rng(seed)
    owner = np.concatenate([np.arange(patients), rng.integers(0, patients, findings - patients)])
    owner = np.arange(findings) if patients == findings else rng.permutation(owner)
    labels = (np.arange(findings) < findings // 3).astype(int)
    rows = []
    for number in range(passes):
        fold = rng.permutation(patients) % folds
        scores = np.round(rng.normal(size=findings) + labels, 1)
        rows += [
            Row(
                finding=f"f{index:03}",
                patient=f"p{owner[index]:03}",
                label=int(labels[index]),
                score=float(scores[index]),
                seed=number,
                fold=int(fold[owner[index]]),
            )
            for index in range(findings)
        ]
    return gather(rows)


def one_by_one(rows: list[Row]) -> ScoreTable:
    """What `gather` gives, from a plain loop over the rows."""
    names = sorted({row.finding for row in rows})
    passes = sorted({(row.seed, row.repeat) for row in rows})
    people = sorted({row.patient for row in rows})
    of = {(row.seed, row.repeat, row.finding): [] for row in rows}
    for row in rows:
        of[row.seed, row.repeat, row.finding].append(row)
    cells = [[of.get((*key, name), []) for name in names] for key in passes]
    last = {row.finding: row for row in rows}
    return ScoreTable(
        findings=tuple(names),
        patients=np.array([people.index(last[name].patient) for name in names]),
        labels=np.array([last[name].label for name in names]),
        passes=tuple(passes),
        scores=np.array(
            [[mean_score([r.score for r in c]) if c else math.nan for c in each] for each in cells]
        ),
        folds=np.array([[c[0].fold if c else -1 for c in each] for each in cells]),
        images=np.array([max(map(len, of_name)) for of_name in zip(*cells, strict=True)]),
    )


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_gathered_as_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    findings = int(rng.integers(2, 7))
    owner = [int(rng.integers(0, index + 1)) for index in range(findings)]
    label = [1, 0, *rng.integers(0, 2, findings).tolist()]
    rows = [
        Row(
            finding=f"f{index}",
            patient=f"p{owner[index]}",
            label=label[index],
            score=float(rng.choice([-0.0, 0.1, 0.2, 0.7])),
            seed=number,
            repeat=repeat,
            fold=0,
        )
        for number, repeat in product(range(2), range(2))
        for index in range(findings)
        for _ in range(int(rng.integers(0 if repeat else 1, 4)))
    ]
    rng.shuffle(rows)
    found, expected = gather(rows), one_by_one(rows)
    for name in ("findings", "passes"):
        assert getattr(found, name) == getattr(expected, name)
    for name in ("patients", "labels", "scores", "folds", "images"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), name)


def variance(tested: ScoreTable):
    pairs = pairs_of(tested)
    return estimate_variance(pairs, pairs.components, pairs.pass_aucs)


def test_the_mean_auc_is_that_of_the_cells() -> None:
    tested = strategy(1, passes=3, folds=4)
    aucs = [
        roc_auc_score(tested.labels[tested.folds[p] == k], tested.scores[p, tested.folds[p] == k])
        for p, k in product(range(3), range(4))
    ]
    found = mean_auc(tested)
    assert found.auc == pytest.approx(np.mean(aucs), abs=1e-12)
    assert (found.cells, found.left_out) == (12, 0)
    assert found.low < found.auc < found.high
    assert pairs_of(tested).pass_aucs == pytest.approx(np.reshape(aucs, (3, 4)).mean(axis=1))


def test_a_fold_of_one_class_is_left_out_and_counted() -> None:
    rows = [
        Row(finding=f"{k}{i}", patient=f"{k}{i}", label=label, score=i, fold=k)
        for k, labels in enumerate([(0, 1, 0), (0, 0, 0)])
        for i, label in enumerate(labels)
    ]
    found = mean_auc(gather(rows))
    assert (found.auc, found.cells, found.left_out) == (0.5, 1, 1)
    with pytest.raises(DataError, match="no fold has test findings of both classes"):
        gather(rows[3:])


def test_slices_of_a_finding_count_once() -> None:
    plain = [
        Row(finding=f"{i}", patient=f"{i // 2}", label=i % 2, score=float(i % 7)) for i in range(20)
    ]
    slices = [
        Row(finding=row.finding, patient=row.patient, label=row.label, score=row.score + shift)
        for row in plain
        for shift in (-0.25, 0, 0.25)
    ]
    assert mean_auc(gather(slices)) == mean_auc(gather(plain))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 0}, r"finding 'a' has the labels 1 and 0: only one is possible"),
        ({"patient": "q"}, r"finding 'a' has the patients 'p' and 'q'"),
        ({"fold": 1}, r"patient 'p' is in the folds 0 and 1"),
        ({"label": 2}, "a label is 0 or 1, not 2"),
        ({"score": math.nan}, "its score nan is not finite"),
        ({"fold": -1}, "a fold is 0 or more, not -1"),
    ],
)
def test_rows_that_contradict_one_another_are_refused(
    change: dict[str, object], message: str
) -> None:
    row = {"finding": "a", "patient": "p", "label": 1, "score": 0.0}
    with pytest.raises(DataError, match=message):
        gather([Row(**row), Row(**{**row, **change})])


def test_nothing_to_gather_is_refused() -> None:
    with pytest.raises(DataError, match="there are no test predictions"):
        gather([])


def test_with_one_finding_per_patient_the_variance_is_delongs() -> None:
    tested = strategy(2, findings=45, patients=45)
    scores, positive = tested.scores[0], tested.positive
    wins = np.array(
        [[(a > b) + 0.5 * (a == b) for b in scores[~positive]] for a in scores[positive]]
    )
    delong = np.var(wins.mean(axis=1), ddof=1) / len(wins)
    delong += np.var(wins.mean(axis=0), ddof=1) / wins.shape[1]
    # Every patient has one class, so that what the classes share is 0.
    assert variance(tested).variance == pytest.approx(delong)


def test_the_variance_of_patients_is_obuchowskis() -> None:
    tested = strategy(3, findings=50, patients=20)
    scores, positive, owner = tested.scores[0], tested.positive, tested.patients
    theta = roc_auc_score(tested.labels, scores)
    ten, one = np.zeros(20), np.zeros(20)
    for i, j in product(np.flatnonzero(positive), np.flatnonzero(~positive)):
        win = float(scores[i] > scores[j]) + 0.5 * float(scores[i] == scores[j])
        ten[owner[i]] += (win - theta) / (~positive).sum()
        one[owner[j]] += (win - theta) / positive.sum()
    m, n = positive.sum(), (~positive).sum()
    i10, i01 = len(set(owner[positive])), len(set(owner[~positive]))
    s10, s01 = i10 / (i10 - 1) * (ten**2).sum(), i01 / (i01 - 1) * (one**2).sum()
    s11 = 20 / 19 * (ten * one).sum()
    expected = s10 / m**2 + s01 / n**2 + 2 * s11 / (m * n)  # Biometrics 1997, equation 5
    assert variance(tested).variance == pytest.approx(expected)


def test_the_variance_is_that_of_resampled_patients() -> None:
    tested = strategy(4, findings=300, patients=110, passes=2)
    times = np.random.default_rng(0).multinomial(110, np.full(110, 1 / 110), size=2000)
    weights = times[:, tested.patients]
    aucs = []
    for index, inside in tested.cells:
        scores, positive = tested.scores[index, inside], tested.positive[inside]
        wins = wins_of(scores[positive], scores[~positive])
        above, below = weights[:, inside[positive]], weights[:, inside[~positive]]
        total = above.sum(axis=1) * below.sum(axis=1)
        aucs.append(np.einsum("bi,ij,bj->b", above, wins, below, optimize=True) / total)
    found = np.mean(aucs, axis=0)
    patients = variance(tested).variance - variance(tested).training
    assert patients == pytest.approx(np.var(found), rel=0.15)


def test_copies_of_findings_in_a_patient_are_no_new_evidence() -> None:
    rows = [
        (f"{i}", int(i < 60), float(value))
        for i, value in enumerate(np.random.default_rng(5).normal(size=200))
    ]
    once = gather([Row(finding=n, patient=n, label=y, score=s + y) for n, y, s in rows])
    thrice = gather(
        [Row(finding=f"{n}{c}", patient=n, label=y, score=s + y) for n, y, s in rows for c in "abc"]
    )
    one, three = mean_auc(once), mean_auc(thrice)
    assert three.auc == pytest.approx(one.auc)
    assert three.high - three.low == pytest.approx(one.high - one.low, rel=0.1)
    naive = newcombe_interval(three.auc, 180, 420)
    assert naive[1] - naive[0] < 0.7 * (three.high - three.low)


@pytest.mark.parametrize(("m", "n"), [(4, 15), (20, 60), (1, 3)])
def test_a_perfect_auc_has_newcombes_interval(m: int, n: int) -> None:
    rows = [
        Row(finding=f"{i}", patient=f"{i}", label=int(i < m), score=-float(i)) for i in range(m + n)
    ]
    found = mean_auc(gather(rows))
    assert (found.low, found.high) == pytest.approx(newcombe_interval(1.0, m, n))


@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1))
def test_the_model_is_newcombes_where_nothing_goes_together(m: int, n: int, theta: float) -> None:
    rows = [
        Row(finding=f"{i}", patient=f"{i % 3}", label=int(i < m), score=0.0) for i in range(m + n)
    ]
    others = (m + n) / 2 - 1
    plain = 1 + others * ((1 - theta) / (2 - theta) + theta / (1 + theta))
    assert variance_model(pairs_of(gather(rows)), correlation=0.0).variance(theta) == pytest.approx(
        theta * (1 - theta) * plain / (m * n), abs=1e-12
    )


def test_passes_that_differ_more_than_patients_explain_widen_the_interval() -> None:
    rng = np.random.default_rng(6)
    labels = np.repeat([1, 0], [100, 300])
    base = rng.normal(size=400)

    def rows(shifts: tuple[float, ...]) -> list[Row]:
        return [
            Row(finding=f"{i}", patient=f"{i}", label=int(y), score=base[i] + y * shift, seed=k)
            for k, shift in enumerate(shifts)
            for i, y in enumerate(labels)
        ]

    steady, shaken = (variance(gather(rows(s))) for s in ((1.0, 1.0, 1.0), (0.5, 1.0, 1.5)))
    assert steady.training == 0
    # The AUCs move with the shift alone, so that all of their variance is training's.
    aucs = pairs_of(gather(rows((0.5, 1.0, 1.5)))).pass_aucs
    assert shaken.training == pytest.approx(np.var(aucs, ddof=1) / 3, rel=0.1)
    assert shaken.variance > steady.variance


@given(st.integers(0, 400), st.integers(1, 400), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilsons_interval_is_scipys(hits: int, cases: int, level: float) -> None:
    hits = min(hits, cases)
    expected = binomtest(hits, cases).proportion_ci(level, method="wilson")
    assert wilson_interval(hits / cases, cases, level=level) == pytest.approx(
        (expected.low, expected.high), abs=1e-9
    )


@given(st.floats(1, 1e9), st.sampled_from([0.5, 0.9, 0.95, 0.999]))
def test_the_t_quantile_is_that_of_the_two_sided_interval(freedom: float, level: float) -> None:
    value = t_quantile(level, freedom)
    assert t.cdf(value, freedom) - t.cdf(-value, freedom) == pytest.approx(level, rel=1e-9)


def test_impossible_arguments_are_refused() -> None:
    for call, message in (
        (lambda: wilson_interval(1.5, 3), "a share is between 0 and 1: got 1.5"),
        (lambda: wilson_interval(0.5, 0), "an interval needs cases: got 0"),
        (lambda: t_quantile(95, 3), "a confidence level is between 0 and 1: got 95"),
        (lambda: mean_auc(strategy(1), level=1.0), "a confidence level is between 0 and 1"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
