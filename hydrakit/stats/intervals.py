"""Confidence intervals of an AUC: of one test set, and of the mean over folds, repeats and seeds.

The methods, the alternatives that were tried, and simulations of the coverage: docs/statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hydrakit.stats.findings import Floats
from hydrakit.stats.score_table import FindingPairs, ScoreTable, pairs_of

# Correlation of a patient's findings that is assumed in advance, and the weight of this assumption
# in patients: chosen by simulation (docs/statistics.md).
PRIOR_CORRELATION = 0.3
PRIOR_WEIGHT = 10


def normal_quantile(level: float) -> float:
    """Normal quantile of a two-sided interval: 1.96 for a level of 0.95.

    Raises:
        ValueError: The level is not within (0, 1).
    """
    return NormalDist().inv_cdf(_share_below(level))


def t_quantile(level: float, freedom: float) -> float:
    """Student's t quantile of a two-sided interval: 2.23 for 0.95 and 10 degrees of freedom.

    Args:
        level: Confidence level, in (0, 1).
        freedom: Degrees of freedom, not necessarily a whole number.

    Raises:
        ValueError: The level is not within (0, 1).
    """
    from scipy.special import stdtrit

    return float(stdtrit(freedom, _share_below(level)))


def _share_below(level: float) -> float:
    """Share of the distribution below the upper end of a two-sided interval."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level is between 0 and 1: got {level}")
    return (1 + level) / 2


def newcombe_interval(
    auc: float, positives: int, negatives: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Confidence interval of an AUC, from the AUC and the numbers of cases alone.

    The interval consists of every true AUC ``theta`` that is at most ``z`` standard errors away
    from the estimate, where the standard error is that for ``theta`` itself. So it stays within
    [0, 1], is not symmetric, and has a width even where the estimate is 0 or 1.

    Args:
        auc: Estimated AUC, in [0, 1].
        positives: Number of positive cases.
        negatives: Number of negative cases.
        level: Confidence level, in (0, 1).

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
    """Variance of an AUC for exponentially distributed scores (Hanley and McNeil 1982).

    The terms of the two classes are replaced by their mean, as in Newcombe's methods 4 and 5.

    Attributes:
        positives: 1 / the (effective) number of positive findings.
        negatives: 1 / the (effective) number of negative findings.
        pairs: 1 / the (effective) number of pairs.
    """

    positives: float
    negatives: float
    pairs: float

    def variance(self, theta: float) -> float:
        """Variance of the estimate where the true AUC is ``theta``."""
        others = max(0.0, (self.positives + self.negatives) / 2 - self.pairs)
        shared = (1 - theta) / (2 - theta) + theta / (1 + theta)
        return theta * (1 - theta) * (self.pairs + others * shared)


def score_interval(
    auc: float, variance: Callable[[float], float], *, level: float = 0.95
) -> tuple[float, float]:
    """Every true AUC that is at most ``z`` of its own standard errors away from the estimate.

    Args:
        auc: Estimated AUC.
        variance: Variance of the estimate, as a function of the true AUC.
        level: Confidence level, in (0, 1).

    Raises:
        ValueError: The level is outside its range.
    """
    z = normal_quantile(level)

    def is_near(theta: float) -> bool:
        return abs(theta - auc) < z * math.sqrt(variance(theta))

    low = 0.0 if auc <= 0 else _bisect(auc, 0.0, is_near)
    high = 1.0 if auc >= 1 else _bisect(auc, 1.0, is_near)
    return low, high


def _bisect(inside: float, outside: float, is_inside: Callable[[float], bool]) -> float:
    """The boundary between a point inside and one outside, to the last bit, on the outer side."""
    while True:
        middle = (inside + outside) / 2
        if middle in (inside, outside):
            return outside
        if is_inside(middle):
            inside = middle
        else:
            outside = middle


def wilson_interval(share: float, cases: float, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion.

    The number of cases may be an effective one: ``scipy.stats.binomtest`` takes whole numbers only.

    Raises:
        ValueError: The share or the level is outside its range, or there is no case.

    Source: Wilson 1927, J. Am. Stat. Assoc. 22:209-212.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"a share is between 0 and 1: got {share}")
    if not cases > 0:
        raise ValueError(f"an interval needs cases: got {cases}")
    z2 = normal_quantile(level) ** 2
    middle = (share + z2 / (2 * cases)) / (1 + z2 / cases)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * cases)) / cases) / (1 + z2 / cases)
    low = 0.0 if share == 0 else max(0.0, middle - half)
    return low, 1.0 if share == 1 else min(1.0, middle + half)


@dataclass(frozen=True, kw_only=True)
class MeanAuc:
    """Mean AUC of a strategy's cells with its confidence interval.

    Attributes:
        auc: Mean over the cells (seed, repeat, fold) that tested both classes.
        low: Lower bound of the interval.
        high: Upper bound of the interval.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients.
        cells: Number of cells in the mean.
        left_out: Number of cells without an AUC, because they tested one class only.
    """

    auc: float
    low: float
    high: float
    positives: int
    negatives: int
    patients: int
    cells: int
    left_out: int


def mean_auc(table: ScoreTable, *, level: float = 0.95) -> MeanAuc:
    """Mean AUC of a strategy, with an interval that allows for several findings of one patient.

    The interval solves Newcombe's equation with another variance: Hanley and McNeil's at effective
    numbers of findings, times the ratio of the observed variance between patients to the expected
    one (`variance_ratio`). The networks count as given, except that differences between passes add
    to the variance.

    Raises:
        ValueError: The level is outside its range.

    Source: Newcombe 2006 (method 5); Obuchowski 1997, Biometrics 53:567-578.
    """
    pairs = pairs_of(table)
    model = variance_model(pairs)
    factor = variance_ratio(pairs, model)
    estimate = estimate_variance(pairs, pairs.components, pairs.pass_aucs)
    if estimate.training > 0:  # estimated from few passes: Student's quantile for that part
        freedom = estimate.training_freedom * (estimate.variance / estimate.training) ** 2
        factor *= (t_quantile(level, freedom) / normal_quantile(level)) ** 2
    low, high = score_interval(pairs.auc, lambda theta: factor * model.variance(theta), level=level)
    return MeanAuc(
        auc=pairs.auc,
        low=low,
        high=high,
        positives=len(pairs.positives),
        negatives=len(pairs.negatives),
        patients=len(np.unique(table.patients)),
        cells=len(table.cells),
        left_out=table.left_out,
    )


def variance_model(pairs: FindingPairs, *, correlation: float = PRIOR_CORRELATION) -> VarianceModel:
    """Hanley and McNeil's variance at the effective numbers of findings and of pairs.

    Args:
        pairs: Pairs of findings.
        correlation: Assumed correlation between findings of one class and patient.
    """
    weights = pairs.weights.sum(axis=0)
    of_positive, of_negative = weights.sum(axis=1), weights.sum(axis=0)
    first = clustered_variance(of_positive, pairs.positives, correlation)
    second = clustered_variance(of_negative, pairs.negatives, correlation)
    independent = float((of_positive**2).sum() * (of_negative**2).sum())
    return VarianceModel(first, second, float((weights**2).sum()) * first * second / independent)


def clustered_variance(weights: Floats, patients: NDArray[np.intp], correlation: float) -> float:
    """Variance of a weighted mean of findings of variance 1 that correlate within patients.

    Args:
        weights: Weight of each finding, ``(findings,)``.
        patients: Patient of each finding, ``(findings,)``.
        correlation: Correlation of two findings of one patient.
    """
    of_patient = np.bincount(patients, weights)
    return float((1 - correlation) * (weights**2).sum() + correlation * (of_patient**2).sum())


def variance_ratio(pairs: FindingPairs, model: VarianceModel) -> float:
    """Observed variance of an AUC over the model's, shrunk towards 1 where patients are few."""
    expected = model.variance(pairs.auc)
    if expected <= 0:  # an AUC of 0 or 1: the pairs do not show how much it varies
        return 1.0
    weight = min(len(np.unique(pairs.positives)), len(np.unique(pairs.negatives))) - 1
    observed = estimate_variance(pairs, pairs.components, pairs.pass_aucs).variance
    return (weight * observed / expected + PRIOR_WEIGHT) / (weight + PRIOR_WEIGHT)


@dataclass(frozen=True, kw_only=True)
class VarianceEstimate:
    """Estimated variance of a mean AUC, or of a difference of two.

    Attributes:
        variance: Variance from patients and training together.
        training: The part from training: how much other random starts and folds would change.
        freedom: Degrees of freedom of the whole variance (Satterthwaite), at least 1.
        training_freedom: Degrees of freedom of the training part: the number of passes minus 1, at
            least 1.
    """

    variance: float
    training: float
    freedom: float
    training_freedom: int


def estimate_variance(
    pairs: FindingPairs,
    components: tuple[Floats, Floats],
    pass_values: Floats,
    given_training: tuple[float, int] | None = None,
) -> VarianceEstimate:
    """Estimate the variance of a mean AUC, or of a difference of two, from patients and training.

    Patients: Obuchowski's variance for clustered data, which is DeLong's where every patient has
    one finding. Training: the variance between passes that the patients they have in common do not
    explain (like readers in Obuchowski and Rockette's analysis), divided by the number of passes.

    Args:
        pairs: Pairs of findings.
        components: Contributions of the patients, two arrays ``(passes, patients)`` like
            `FindingPairs.components`.
        pass_values: AUC, or difference of AUCs, of each pass, ``(passes,)``; NaN for a pass without
            one.
        given_training: Part of the variance from training, with its degrees of freedom; None
            estimates it between passes.

    Source: Obuchowski 1997, Biometrics 53:567-578; Obuchowski and Rockette 1995, Commun. Stat.
    Simul. 24:285-308.
    """
    positives, negatives = (len(np.unique(part)) for part in (pairs.positives, pairs.negatives))
    patients = len(np.union1d(pairs.positives, pairs.negatives))
    above, below = (part.sum(axis=0) for part in components)
    one = _bessel(positives) * float(above @ above)
    two = _bessel(negatives) * float(below @ below)
    both = 2 * _bessel(patients) * float(above @ below)
    summed = components[0] + components[1]
    training = training_variance(summed, pairs.shares, pass_values, patients)
    training_freedom = max(1, int((pairs.shares > 0).sum()) - 1)
    if given_training is not None:
        training, training_freedom = given_training
    terms = (
        one**2 / max(1, positives - 1)
        + two**2 / max(1, negatives - 1)
        + training**2 / training_freedom
    )
    fewest = min(positives, negatives) - 1
    return VarianceEstimate(
        variance=max(0.0, one + two + both) + training,
        training=training,
        freedom=max(1.0, (one + two + training) ** 2 / terms if terms > 0 else fewest),
        training_freedom=training_freedom,
    )


def _bessel(count: int) -> float:
    """Bessel's correction; 1 for a single patient, from whom no variance can be estimated."""
    return count / (count - 1) if count > 1 else 1.0


def training_variance(
    components: Floats, shares: Floats, pass_values: Floats, patients: int
) -> float:
    """The part of the variance of the passes' mean that patients do not explain.

    Args:
        components: Parts of the patients in each pass, ``(passes, patients)``.
        shares: Weight of each pass in the mean, ``(passes,)``.
        pass_values: Value in each pass, ``(passes,)``.
        patients: Number of patients.
    """
    usable = shares > 0
    count = int(usable.sum())
    if count < 2:
        return 0.0
    scaled = components[usable] / shares[usable, None]
    covariances = _bessel(patients) * (scaled @ scaled.T)
    between = (covariances.sum() - np.trace(covariances)) / (count * (count - 1))
    explained = float(np.trace(covariances) / count - between)
    return max(0.0, float(np.var(pass_values[usable], ddof=1)) - explained) / count
