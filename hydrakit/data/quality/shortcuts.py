"""Shortcut detection: how well facts that should be irrelevant predict a dataset's labels.

A network that can infer the file format, image size or scanner can ignore the lesion. Each fact
alone predicts the label, and its AUC is reported with a confidence interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.dicom.grey import RESCALE_TAGS
from hydrakit.data.read import LoadedSample
from hydrakit.stats import metrics
from hydrakit.stats.intervals import newcombe_interval

STRONG = 0.6
FEW_VALUES = 10
ABSENT = "(absent)"
ROUNDING = 1e-12
UNLIKELY = 0.05

Fact = str | float


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """How well one fact separates one class from the others.

    Attributes:
        fact: Name of the fact.
        label: Class that the fact separates best from all others; 1 for two classes.
        auc: AUC of the fact: 0.5 is chance, 1 is perfect separation.
        low: Lower bound of the AUC's confidence interval.
        high: Upper bound of the AUC's confidence interval.
        positives: Number of units with a case of the class.
        negatives: Number of units with a case of another class.
        only: Categories that occur in one class only, as ``(value, class, units)``, most frequent
            first, for information. Each has a probability below 0.05 under chance, so among many
            categories some occur by chance.
    """

    fact: str
    label: int
    auc: float
    low: float
    high: float
    positives: int
    negatives: int
    only: tuple[tuple[str, int, int], ...] = ()

    @property
    def strong(self) -> bool:
        """Whether the lower bound is above 0.6, which gives a warning."""
        return self.low > STRONG


def image_facts(sample: LoadedSample) -> dict[str, Fact]:
    """Return facts of an image's pixels: size, aspect ratio, border value, spacing, padding.

    Returns:
        Facts by name. ``border value`` is the mean of the outermost pixels, in the image's unit.
        ``row spacing`` and ``column spacing``, in millimetres, are present if the sample has them;
        ``padding``, the share of pixels that are padding, is present if there are any.
    """
    image = sample.image
    height, width = image.shape[1:]
    inner = np.zeros((height, width), dtype=bool)
    inner[1:-1, 1:-1] = True
    facts: dict[str, Fact] = {
        "width": float(width),
        "height": float(height),
        "size": f"{width} x {height}",
        "aspect ratio": width / height,
        "border value": float(image[:, ~inner].mean(dtype=np.float64)),
    }
    if sample.spacing is not None:
        facts["row spacing"], facts["column spacing"] = sample.spacing
    if sample.padding is not None:
        facts["padding"] = float(sample.padding.mean())
    return facts


def mixed_units(facts: Iterable[Mapping[str, Fact]]) -> str | None:
    """Say that only some of a dataset's DICOM files state the unit of their values; None if not."""
    tags = Counter(case_facts.get(RESCALE_TAGS) for case_facts in facts)
    if not (tags["none"] and tags["applied"]):
        return None
    return (
        f"{tags['none']} cases have no RescaleSlope and RescaleIntercept, and keep their stored "
        f"values, beside {tags['applied']} cases that were rescaled: check that all values are in "
        "one unit, or set rescale = true to leave the files without these tags out"
    )


def find_shortcuts(
    facts: Sequence[Mapping[str, Fact]], labels: Sequence[int], units: Sequence[Hashable]
) -> list[Shortcut]:
    """Measure how well each fact alone predicts the label, strongest first.

    Each unit has one vote per class in which it has cases: the median or the most frequent value of
    these cases, so that a patient with many slices counts once.

    Text, and numbers with at most 10 different values, are categories. A category's score is the
    share of the class among its units; each pair of units is compared by shares that exclude the
    two (`category_auc`), so that chance gives 0.5 on average for any number of categories. Other
    numbers are ranked, and also divided into tenths that are compared as categories (a size that
    only one class has can lie in the middle); the better result counts. The data decide which end
    of the ranks belongs to the class, so an AUC ``a`` below 0.5 becomes ``1 - a``, and an interval
    that contains 0.5 begins there. A fact that only some cases have is also tested as given or
    absent.

    Intervals are Newcombe's for the numbers of units, widened for each such choice (Bonferroni).
    With random labels (10 to 155 units of a class, 1,000 runs each), `Shortcut.strong` was true for
    at most 0.2 % of numbers and 1.2 % of categories.

    Args:
        facts: Facts of each case, numbers or text.
        labels: Class of each case.
        units: Unit of each case: cases that must stay together (`assign_groups`).

    Returns:
        One shortcut for each fact that differs between cases, for the class it separates best.
    """
    names = sorted({name for case_facts in facts for name in case_facts})
    shortcuts = []
    for name in names:
        values = [_none_if_nan(case_facts.get(name)) for case_facts in facts]
        if any(value is None for value in values):
            given = [ABSENT if value is None else "given" for value in values]
            shortcuts += _fact_shortcut(f"{name} given", given, labels, units)
        shortcuts += _fact_shortcut(name, values, labels, units)
    return sorted(shortcuts, key=lambda shortcut: (-shortcut.low, -shortcut.auc, shortcut.fact))


def _none_if_nan(value: Fact | None) -> Fact | None:
    """Return the value, or None if it is NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _fact_shortcut(
    name: str, values: Sequence[Fact | None], labels: Sequence[int], units: Sequence[Hashable]
) -> list[Shortcut]:
    """Return the shortcut of one fact in a list, which is empty if the fact has no information."""
    given = {value for value in values if value is not None}
    is_number = not any(isinstance(value, str) for value in given) and len(given) > FEW_VALUES
    votes: dict[tuple[Hashable, int], list[Fact]] = {}
    for value, label, unit in zip(values, labels, units, strict=True):
        if value is not None or not is_number:
            votes.setdefault((unit, label), []).append(ABSENT if value is None else value)
    vote_classes = np.array([label for _, label in votes])
    classes = np.unique(vote_classes).tolist()
    if len(classes) < 2 or len({value for vote in votes.values() for value in vote}) < 2:
        return []
    tested = classes[1:] if len(classes) == 2 else classes
    results: list[tuple[tuple[float, float, float], int, tuple[tuple[str, int, int], ...]]] = []
    for label in tested:
        positive = vote_classes == label
        if is_number:
            results.append((_number_auc(_medians(votes), positive, len(tested)), label, ()))
        else:
            categories = _most_frequent(votes)
            result = _categories_auc(categories, positive, len(tested))
            results.append((result, label, _only_in_one_class(categories, vote_classes)))
    (low, auc, high), label, only = max(results, key=lambda entry: entry[0])
    positives = int((vote_classes == label).sum())
    return [
        Shortcut(
            fact=name,
            label=label,
            auc=auc,
            low=low,
            high=high,
            positives=positives,
            negatives=len(vote_classes) - positives,
            only=only,
        )
    ]


def _medians(votes: Mapping[tuple[Hashable, int], Sequence[Fact]]) -> NDArray[np.float64]:
    return np.array([median(float(value) for value in vote) for vote in votes.values()])


def _most_frequent(votes: Mapping[tuple[Hashable, int], Sequence[Fact]]) -> NDArray[np.str_]:
    """Return each vote's most frequent category; of equally frequent ones, the first by name."""
    categories = []
    for vote in votes.values():
        counts = Counter(str(value) for value in vote)
        categories.append(min(counts, key=lambda value: (-counts[value], value)))
    return np.array(categories)


def _number_auc(
    values: NDArray[np.float64], positive: NDArray[np.bool_], classes: int
) -> tuple[float, float, float]:
    """Return lower bound, AUC and upper bound of a number: the better of ranks and tenths."""
    auc = metrics.auc(values, positive)
    low, high = _interval(auc, positive, 2 * classes)
    if auc < 0.5:
        low, auc, high = 1 - high, 1 - auc, 1 - low
    if low < 0.5:
        low, high = 0.5, max(high, 1 - low)
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10))
    return max(
        (low, auc, high), _categories_auc(np.searchsorted(edges, values), positive, 2 * classes)
    )


def _categories_auc(
    values: NDArray[np.str_] | NDArray[np.intp], positive: NDArray[np.bool_], tries: int
) -> tuple[float, float, float]:
    """Return lower bound, AUC and upper bound of categories."""
    auc = category_auc(values, positive)
    low, high = _interval(auc, positive, tries)
    return low, auc, high


def _interval(auc: float, positive: NDArray[np.bool_], tries: int) -> tuple[float, float]:
    """Return Newcombe's 95 % interval, widened for the best of several tests (Bonferroni)."""
    positives = int(positive.sum())
    return newcombe_interval(auc, positives, len(positive) - positives, level=1 - 0.05 / tries)


def _only_in_one_class(
    values: NDArray[np.str_], vote_classes: NDArray[np.intp]
) -> tuple[tuple[str, int, int], ...]:
    entries = []
    for value in np.unique(values):
        classes = vote_classes[values == value]
        share = float((vote_classes == classes[0]).mean())
        if (classes == classes[0]).all() and share ** len(classes) < UNLIKELY:
            entries.append((str(value), int(classes[0]), len(classes)))
    return tuple(sorted(entries, key=lambda entry: -entry[2]))


def category_auc(values: NDArray[np.str_] | NDArray[np.intp], positive: NDArray[np.bool_]) -> float:
    """Return the leave-pair-out AUC of scoring each category by its share of positives.

    For each pair of a positive and a negative case, the shares are computed without these two.
    (Leaving out only one would give 0 for a category that all cases have, because each positive
    case would leave one positive fewer than each negative case.) The shares are shrunk towards the
    overall share with the weight of one case, so that a category with one case is uninformative.

    Args:
        values: Category of each case.
        positive: Whether each case is positive.
    """
    names, categories = np.unique(values, return_inverse=True)
    positive_counts = np.bincount(categories[positive], minlength=len(names))
    negative_counts = np.bincount(categories[~positive], minlength=len(names))
    positives, negatives = int(positive_counts.sum()), int(negative_counts.sum())
    rest = positives + negatives - 2
    prior = (positives - 1) / rest if rest else 0.5
    counts = positive_counts + negative_counts
    # The category of the positive case has lost a positive, that of the negative case a negative.
    without_positive = (positive_counts - 1 + prior) / counts
    without_negative = (positive_counts + prior) / counts
    wins = 0.0
    for category in np.flatnonzero(positive_counts):
        score = without_positive[category]
        lead = score - without_negative
        beaten = (lead > ROUNDING) + 0.5 * (np.abs(lead) <= ROUNDING)
        beaten[category] = 0.5
        wins += positive_counts[category] * float(beaten @ negative_counts)
    return float(wins / (positives * negatives))
