"""How far a figure from few cases can be trusted: intervals of an AUC, and of folds together.

What is computed, what was tried, and the simulations behind it: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hydrakit.stats.findings import Floats
from hydrakit.stats.tested import Pairs, ScoreTable, pairs_of

# Assumed before the patients are looked at, and the weight of that in patients: chosen by
# simulation (docs/statistics.md).
PRIOR_CORRELATION = 0.3
PRIOR_WEIGHT = 10


def newcombe_interval(
    auc: float, positives: int, negatives: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of an AUC, from the AUC and the numbers of cases alone.

    It holds every true AUC ``theta`` from which the one found lies at most ``z`` standard errors
    away, the standard error being that of ``theta`` itself. So it stays within [0, 1], is not
    symmetric, and is not a point where the AUC found is 0 or 1.

    Args:
        auc: The AUC found, in [0, 1].
        positives: Number of positive cases.
        negatives: Number of negative cases.
        level: Confidence, in (0, 1).

    Returns:
        The lower and the upper bound.

    Raises:
        ValueError: The AUC or the level is outside its range, or a class has no case.

    Source: Newcombe 2006, Statistics in Medicine 25:559-573, method 5.
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"an AUC is between 0 and 1: got {auc}")
    if positives < 1 or negatives < 1:
        raise ValueError(
            f"an interval needs cases of both classes: got {positives} positive and "
            f"{negatives} negative"
        )
    model = VarianceModel(1 / positives, 1 / negatives, 1 / (positives * negatives))
    return score_interval(auc, model.variance, level=level)


@dataclass(frozen=True)
class VarianceModel:
    """The variance of an AUC where scores are exponential (Hanley and McNeil 1982).

    Both classes' terms are replaced by their mean, as in Newcombe's methods 4 and 5.

    Attributes:
        positives: 1 / the (effective) number of positive findings.
        negatives: 1 / the (effective) number of negative findings.
        pairs: 1 / the (effective) number of pairs.
    """

    positives: float
    negatives: float
    pairs: float

    def variance(self, theta: float) -> float:
        """Of an AUC that is truly ``theta``."""
        others = max(0.0, (self.positives + self.negatives) / 2 - self.pairs)
        shared = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return theta * (1 - theta) * (self.pairs + others * shared)


def score_interval(
    auc: float, variance: Callable[[float], float], *, level: float = 0.95
) -> tuple[float, float]:
    """Every true AUC from which the one found lies within the normal quantile's standard errors.

    Args:
        auc: The AUC found.
        variance: Of the AUC found, as a function of the true one.
        level: Confidence, in (0, 1).

    Raises:
        ValueError: The level is outside its range.
    """
    z = quantile(level)

    def is_near(theta: float) -> bool:
        return abs(theta - auc) < z * math.sqrt(variance(theta))

    low = 0.0 if auc <= 0 else _bisect(auc, 0.0, is_near)
    high = 1.0 if auc >= 1 else _bisect(auc, 1.0, is_near)
    return low, high


def _bisect(inside: float, outside: float, is_inside: Callable[[float], bool]) -> float:
    """The edge between a point inside and one outside, to the last bit, on the outer side."""
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if is_inside(middle):
            inside = middle
        else:
            outside = middle


def t_level(value: float, freedom: float) -> float:
    """Share of Student's t distribution within ``-value`` to ``value``: 1 - the two-sided p.

    Exact to about 1e-9: the density is integrated by Gauss and Legendre's rule over the angle whose
    tangent is ``t / sqrt(freedom)``.

    Raises:
        ValueError: The degrees of freedom are below 1, or the value is below 0.
    """
    if not freedom >= 1:
        raise ValueError(f"degrees of freedom are 1 or more: got {freedom}")
    if not value >= 0:
        raise ValueError(f"a t value is 0 or more here: got {value}")
    if freedom > 1e6:
        return 2 * NormalDist().cdf(value) - 1
    nodes, weights = _gauss_legendre()
    angle = math.atan(value / math.sqrt(freedom))
    area = angle / 2 * float(weights @ np.cos(angle * (nodes + 1) / 2) ** (freedom - 1))
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    return min(1.0, 2 * scale / math.sqrt(math.pi) * area)


@cache
def _gauss_legendre() -> tuple[Floats, Floats]:
    return np.polynomial.legendre.leggauss(200)


def t_quantile(level: float, freedom: float) -> float:
    """Student's t quantile of a two-sided interval: 2.228 for 0.95 and 10 degrees of freedom.

    Raises:
        ValueError: The level is outside its range, or the degrees of freedom are below 1.
    """
    low = quantile(level)
    if freedom > 1e6:
        return low
    high = 2 * low + 1
    while t_level(high, freedom) < level:
        high *= 2
    return _bisect(low, high, lambda value: t_level(value, freedom) <= level)


def wilson_interval(share: float, cases: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share of cases, whose number may be an effective one.

    Raises:
        ValueError: The share or the level is outside its range, or there is no case.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209-212.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is between 0 and 1: got {share}")
    if not cases > 0:
        raise ValueError(f"an interval needs cases: got {cases}")
    z2 = quantile(level) ** 2
    middle = (share + z2 / (2 * cases)) / (1 + z2 / cases)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * cases)) / cases) / (1 + z2 / cases)
    low = 0.0 if share == 0 else max(0.0, middle - half)
    return low, 1.0 if share == 1 else min(1.0, middle + half)


def quantile(level: float) -> float:
    """The normal quantile of a two-sided interval: 1.96 for 0.95.

    Raises:
        ValueError: The level is not within (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"a confidence level is between 0 and 1: got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


@dataclass(frozen=True, kw_only=True)
class MeanAuc:
    """The mean AUC of a strategy's cells, and how far it can be trusted.

    Attributes:
        auc: Mean over the cells (seed, repeat, fold) that tested both classes.
        low: Lower end of the interval.
        high: Upper end.
        level: Its confidence.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients.
        cells: Number of cells in the mean.
        left_out: Number of cells that tested one class alone.
        inflation: Variance used over that of as many independent findings compared in the same
            pairs; above 1 where the findings of a patient go together.
    """

    auc: float
    low: float
    high: float
    level: float
    positives: int
    negatives: int
    patients: int
    cells: int
    left_out: int
    inflation: float


def mean_auc(tested: ScoreTable, *, level: float = 0.95) -> MeanAuc:
    """The mean AUC of a strategy with an interval that allows for findings of one patient.

    Newcombe's equation with another variance: Hanley and McNeil's at effective numbers of findings,
    times how much larger or smaller the variance between patients is (`deviation`). The networks
    are taken as given, save that differences between passes add to the variance.

    Raises:
        ValueError: The level is outside its range.

    Source: Newcombe 2006 (method 5); Obuchowski 1997, Biometrics 53:567-578.
    """
    pairs = pairs_of(tested)
    model = model_of(pairs)
    factor = ratio_of(pairs, model)
    found = spread_of(pairs, pairs.components, pairs.pass_aucs)
    if found.training > 0:  # it is known from few passes: Student's quantile for that part
        freedom = found.training_freedom * (found.variance / found.training) ** 2
        factor *= (t_quantile(level, freedom) / quantile(level)) ** 2
    low, high = score_interval(pairs.auc, lambda theta: factor * model.variance(theta), level=level)
    plain = model_of(pairs, correlation=0.0).variance(0.5)
    return MeanAuc(
        auc=pairs.auc,
        low=low,
        high=high,
        level=level,
        positives=len(pairs.positives),
        negatives=len(pairs.negatives),
        patients=len(np.unique(tested.patients)),
        cells=len(tested.cells),
        left_out=tested.left_out,
        inflation=factor * model.variance(0.5) / plain,
    )


def model_of(pairs: Pairs, *, correlation: float = PRIOR_CORRELATION) -> VarianceModel:
    """Hanley and McNeil's variance at the effective numbers of findings and of pairs.

    Args:
        pairs: That were compared.
        correlation: Assumed between findings of one class and patient.
    """
    weights = pairs.weights.sum(axis=0)
    of_positive, of_negative = weights.sum(axis=1), weights.sum(axis=0)
    first = shared_variance(of_positive, pairs.positives, correlation)
    second = shared_variance(of_negative, pairs.negatives, correlation)
    alone = float((of_positive**2).sum() * (of_negative**2).sum())
    return VarianceModel(first, second, float((weights**2).sum()) * first * second / alone)


def shared_variance(weights: Floats, patients: NDArray[np.intp], correlation: float) -> float:
    """Variance of a weighted mean of findings of variance 1 that go together within patients.

    Args:
        weights: ``(findings,)``.
        patients: Of the findings, ``(findings,)``.
        correlation: Of two findings of one patient.
    """
    together = np.bincount(patients, weights)
    return float((1 - correlation) * (weights**2).sum() + correlation * (together**2).sum())


def ratio_of(pairs: Pairs, model: VarianceModel) -> float:
    """How many times the model's variance the AUC has, drawn towards 1 where patients are few."""
    expected = model.variance(pairs.auc)
    if expected <= 0:  # an AUC of 0 or 1: the pairs say nothing of their variance
        return 1.0
    known = min(len(np.unique(pairs.positives)), len(np.unique(pairs.negatives))) - 1
    found = spread_of(pairs, pairs.components, pairs.pass_aucs).variance
    return (known * found / expected + PRIOR_WEIGHT) / (known + PRIOR_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The variance of a mean AUC, or of a difference of two.

    Attributes:
        variance: Of patients and training together.
        training: The part that other random starts and folds would add to.
        freedom: Degrees of freedom of all (Satterthwaite), 1 or more.
        training_freedom: Those of the training part: the number of passes less 1, at least 1.
    """

    variance: float
    training: float
    freedom: float
    training_freedom: int


def spread_of(pairs: Pairs, components: tuple[Floats, Floats], passes: Floats) -> Spread:
    """The variance of a mean AUC or a difference of two, from patients and from trainings.

    Patients: Obuchowski's for clustered data, which is DeLong's where every patient has one
    finding. Training: what the passes differ by, beyond what the same patients in all of them
    explain (as readers in Obuchowski and Rockette's analysis), over the number of passes.

    Args:
        pairs: Whose findings were compared.
        components: Two arrays ``(passes, patients)``, as `Pairs.components`.
        passes: The figure of each pass, ``(passes,)``; NaN for one without any.

    Source: Obuchowski 1997, Biometrics 53:567-578; Obuchowski and Rockette 1995, Commun. Stat.
    Simul. 24:285-308.
    """
    positives, negatives = (len(np.unique(part)) for part in (pairs.positives, pairs.negatives))
    patients = len(np.union1d(pairs.positives, pairs.negatives))
    above, below = (part.sum(axis=0) for part in components)
    one = _corrected(positives) * float(above @ above)
    two = _corrected(negatives) * float(below @ below)
    both = 2 * _corrected(patients) * float(above @ below)
    training = _training(components[0] + components[1], pairs.shares, passes, patients)
    trained = max(1, int((pairs.shares > 0).sum()) - 1)
    terms = one**2 / max(1, positives - 1) + two**2 / max(1, negatives - 1) + training**2 / trained
    fewest = min(positives, negatives) - 1
    return Spread(
        variance=max(0.0, one + two + both) + training,
        training=training,
        freedom=max(1.0, (one + two + training) ** 2 / terms if terms > 0 else fewest),
        training_freedom=trained,
    )


def _corrected(count: int) -> float:
    """Bessel's correction; 1 for a single patient, whose variance nobody can tell."""
    return count / (count - 1) if count > 1 else 1.0


def _training(components: Floats, shares: Floats, figures: Floats, patients: int) -> float:
    """The variance of the mean of the passes that patients do not explain."""
    usable = shares > 0
    count = int(usable.sum())
    if count < 2:
        return 0.0
    scaled = components[usable] / shares[usable, None]
    between = _corrected(patients) * (scaled @ scaled.T)
    alike = (between.sum() - np.trace(between)) / (count * (count - 1))
    explained = float(np.trace(between) / count - alike)
    return max(0.0, float(np.var(figures[usable], ddof=1)) - explained) / count
