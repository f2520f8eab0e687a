"""Do the intervals hold what they say? Drawn data, of which the truth is known.

A patient has 1 to 5 findings (1.6 on average, as in PROSTATEx) or, in the `many` cases, 1 to 10
(3.2). Labels go together within patients, and so do the scores of a patient's findings (`within`:
their correlation). Two strategies' scores of a finding are correlated by `alike`. In repeated
cross-validation every pass has folds and a random part of its own (30 % of the variance).
`python tests/test_coverage.py` prints the tables of docs/statistics.md.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import norm

from hydrakit.stats.calibration import sensitivity_at
from hydrakit.stats.intervals import mean_auc
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import ScoreTable

pytestmark = pytest.mark.slow

FEW = (0.62, 0.25, 0.08, 0.03, 0.02)
MANY = (0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.04, 0.03, 0.02, 0.02)
SIZES = [(4, 15), (20, 60), (76, 254)]
NOISE = 0.3


@dataclass(frozen=True, kw_only=True)
class Setting:
    positives: int
    negatives: int
    aucs: tuple[float, ...] = (0.8, 0.8)
    sizes: tuple[float, ...] = FEW
    within: tuple[float, ...] = (0.5, 0.5)
    alike: float = 0.5
    passes: int = 1
    folds: int = 1
    training: float = 0.0  # standard deviation, over passes, of a strategy's shift

    def __str__(self) -> str:
        return (
            f"{self.positives}/{self.negatives}{' many' if self.sizes is MANY else ''} AUC "
            f"{self.aucs[0]:g}, {self.aucs[1]:g} within {self.within[0]:g}, {self.within[1]:g} "
            f"alike {self.alike:g} passes {self.passes} folds {self.folds}"
            f"{f' training {self.training:g}' if self.training else ''}"
        )


def cases(rng: np.random.Generator, setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    """Patients and labels of findings."""
    total = setting.positives + setting.negatives
    sizes: list[int] = []
    while sum(sizes) < total:
        sizes.append(1 + int(rng.choice(len(setting.sizes), p=setting.sizes)))
    patients = np.repeat(np.arange(len(sizes)), sizes)[:total]
    latent = rng.normal(size=len(sizes))[patients] + rng.normal(size=total)
    labels = np.zeros(total, dtype=np.intp)
    labels[np.argsort(-latent)[: setting.positives]] = 1
    return patients, labels


def deal(rng: np.random.Generator, patients: np.ndarray, labels: np.ndarray, folds: int):
    """Folds of whole patients that all have both classes."""
    for _ in range(5000):
        fold = (rng.permutation(patients[-1] + 1) % folds)[patients]
        if all(len(np.unique(labels[fold == k])) == 2 for k in range(folds)):
            return fold
    return None


def draw(rng: np.random.Generator, setting: Setting) -> tuple[ScoreTable, ...] | None:
    """Strategies on the same findings; None where the patients cannot be dealt to folds."""
    patients, labels = cases(rng, setting)
    count, size = len(labels), patients[-1] + 1
    shared = rng.normal(size=size), rng.normal(size=count)
    signals = []
    for within in setting.within:
        of_patient, of_finding = (
            math.sqrt(setting.alike) * part + math.sqrt(1 - setting.alike) * rng.normal(size=n)
            for part, n in zip(shared, (size, count), strict=True)
        )
        signals.append(
            math.sqrt(within) * of_patient[patients] + math.sqrt(1 - within) * of_finding
        )
    folds = []
    for _ in range(setting.passes):
        dealt = deal(rng, patients, labels, setting.folds)
        if dealt is None:
            return None
        folds.append(dealt)
    noise = NOISE if setting.passes > 1 else 0.0
    found = []
    for signal, auc in zip(signals, setting.aucs, strict=True):
        own = rng.normal(size=(setting.passes, count))
        shift = math.sqrt(2) * norm.ppf(auc) + setting.training * rng.normal(
            size=(setting.passes, 1)
        )
        found.append(
            ScoreTable(
                findings=tuple(f"{index:04}" for index in range(count)),
                patients=patients,
                labels=labels,
                passes=tuple((index, 0) for index in range(setting.passes)),
                scores=math.sqrt(1 - noise) * signal + math.sqrt(noise) * own + shift * labels,
                folds=np.array(folds, dtype=np.intp),
                images=np.ones(count, dtype=np.intp),
            )
        )
    return tuple(found)


def coverage(setting: Setting, count: int, seed: int = 1) -> tuple[float, float]:
    """Share of intervals of a mean AUC that hold the truth, and their mean width."""
    rng = np.random.default_rng(seed)
    held, widths = [], []
    while len(held) < count:
        drawn = draw(rng, setting)
        if drawn is not None:
            found = mean_auc(drawn[0])
            held.append(found.low <= setting.aucs[0] <= found.high)
            widths.append(found.high - found.low)
    return float(np.mean(held)), float(np.mean(widths))


def comparisons(setting: Setting, count: int, seed: int = 1) -> tuple[float, float, float]:
    """Shares with p <= 0.05, called different by the rule, and with the truth in the interval."""
    rng = np.random.default_rng(seed)
    small, called, held = [], [], []
    while len(held) < count:
        drawn = draw(rng, setting)
        if drawn is not None:
            found = compare(drawn[0], drawn[1], seed=len(held))
            small.append(found.p <= 0.05)
            called.append(found.p <= 0.05 and (found.low > 0 or found.high < 0))
            held.append(found.low <= setting.aucs[0] - setting.aucs[1] <= found.high)
    return float(np.mean(small)), float(np.mean(called)), float(np.mean(held))


def sensitivity_coverage(setting: Setting, specificity: float, count: int) -> float:
    """Share of intervals of the sensitivity that hold the truth."""
    rng = np.random.default_rng(2)
    truth = norm.cdf(math.sqrt(2) * norm.ppf(setting.aucs[0]) - norm.ppf(specificity))
    held = []
    while len(held) < count:
        drawn = draw(rng, setting)
        if drawn is not None:
            found = sensitivity_at(drawn[0], specificity, draws=300, seed=len(held))
            held.append(found.low <= truth <= found.high)
    return float(np.mean(held))


def settings(size: tuple[int, int], **more: object) -> Setting:
    return Setting(positives=size[0], negatives=size[1], **more)  # type: ignore[arg-type]


def folds_of(size: tuple[int, int]) -> int:
    return 2 if size[0] < 10 else 5


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("auc", [0.5, 0.8, 0.9])
def test_the_interval_of_one_test_set_holds_the_true_auc(size: tuple[int, int], auc: float) -> None:
    share, width = coverage(settings(size, aucs=(auc, auc)), 3000)
    print(f"\n{size} AUC {auc}: coverage {share:.3f}, width {width:.3f}")
    assert 0.93 <= share <= 0.98


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_interval_of_folds_holds_the_true_auc(size: tuple[int, int]) -> None:
    share, width = coverage(settings(size, passes=3, folds=folds_of(size)), 2000)
    print(f"\n{size} in folds: coverage {share:.3f}, width {width:.3f}")
    assert 0.93 <= share <= 0.985


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equal_strategies_are_seldom_called_different(size: tuple[int, int]) -> None:
    small, called, held = comparisons(
        settings(size, aucs=(0.75, 0.75)), 3000 if size[0] < 70 else 1500
    )
    print(f"\n{size}: p <= 0.05 {small:.3f}, called {called:.3f}, coverage {held:.3f}")
    assert 0.03 <= small <= 0.07
    assert called <= 0.07
    assert 0.93 <= held <= 0.98


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equal_strategies_in_folds_are_seldom_called_different(size: tuple[int, int]) -> None:
    setting = settings(size, aucs=(0.75, 0.75), passes=3, folds=folds_of(size))
    small, called, held = comparisons(setting, 1000)
    print(f"\n{size} in folds: p <= 0.05 {small:.3f}, called {called:.3f}, coverage {held:.3f}")
    assert 0.02 <= small <= 0.07
    assert called <= 0.07
    assert 0.93 <= held <= 0.985


@pytest.mark.parametrize(("training", "most"), [(0.1, 0.07), (0.3, 0.09)])
def test_trainings_that_differ_as_a_whole_do_not_deceive(training: float, most: float) -> None:
    setting = settings((76, 254), aucs=(0.75, 0.75), passes=5, folds=5, training=training)
    small, called, held = comparisons(setting, 700)
    print(f"\n(76, 254) training {training}: p <= 0.05 {small:.3f}, coverage {held:.3f}")
    assert called <= small <= most
    assert held >= 1 - most


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("specificity", [0.8, 0.95])
def test_the_interval_of_a_sensitivity_holds_it(size: tuple[int, int], specificity: float) -> None:
    share = sensitivity_coverage(settings(size), specificity, 1000)
    print(f"\n{size} specificity {specificity}: coverage {share:.3f}")
    assert 0.92 <= share <= 0.985


def print_tables(count: int) -> None:
    """The tables of docs/statistics.md; half as many draws for the largest size."""
    for size in SIZES:
        draws = count if size[0] < 70 else count // 2
        cross = {"passes": 3, "folds": folds_of(size)}
        for more in (
            {"aucs": (0.5, 0.5)},
            {},
            {"aucs": (0.9, 0.9)},
            {"sizes": MANY},
            cross,
            {**cross, "sizes": MANY},
            {**cross, "training": 0.3},
        ):
            setting = settings(size, **more)
            share, width = coverage(setting, draws)
            print(f"| AUC | {setting} | {100 * share:.1f} | {width:.2f} |", flush=True)
        equal = {"aucs": (0.75, 0.75)}
        for more in (
            equal,
            {"aucs": (0.9, 0.9), "alike": 0.8},
            {**equal, "sizes": MANY},
            {**equal, "within": (0.7, 0.1), "alike": 0.3},
            {**equal, **cross},
            {**equal, **cross, "sizes": MANY},
            {**equal, **cross, "training": 0.3},
            {**equal, **cross, "training": 0.3, "passes": 5},
            {"aucs": (0.8, 0.7)},
            {"aucs": (0.85, 0.7), "sizes": MANY},
            {"aucs": (0.8, 0.7), **cross},
        ):
            setting = settings(size, **more)
            shares = " | ".join(f"{100 * share:.1f}" for share in comparisons(setting, draws))
            print(f"| difference | {setting} | {shares} |", flush=True)


if __name__ == "__main__":
    print_tables(int(sys.argv[1]) if len(sys.argv) > 1 else 1500)
