"""How well a dataset's labels are told by facts that should not tell them.

A network that can see the file's format, the image's size or the scanner need not look at the
lesion. Each fact alone is asked to predict the label, and its AUC is given with its interval.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

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
    """How well one fact tells one class from the others.

    Attributes:
        fact: Its name.
        label: The class that it tells best from all others; 1 of two classes.
        auc: 0.5 tells nothing, 1 tells everything.
        low: Lower bound of the AUC's interval.
        high: Upper bound.
        positives: Number of units with a case of that class.
        negatives: Number of units with a case of another class.
        only: Categories that occur with one class only, as ``(value, class, units)``, the most
            frequent first; for the reader. Those that chance alone would so fill with a
            probability below 0.05 each, so of many categories some are chance.
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
        """Whether even the lower bound is above 0.6: a warning."""
        return self.low > STRONG


def image_facts(sample: LoadedSample) -> dict[str, Fact]:
    """Facts that every image has: size, aspect ratio, border, spacing.

    Returns:
        ``border value`` is the mean of the outermost pixels, in the image's unit; ``row spacing``
        and ``column spacing``, in millimetres, are there where the sample has them.
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
    return facts


def shortcuts(
    facts: Sequence[Mapping[str, Fact]], labels: Sequence[int], units: Sequence[Hashable]
) -> list[Shortcut]:
    """How well each fact alone tells the label, the strongest first.

    A unit has one vote for each class that it has cases of: the median or the most frequent value
    of its cases, so that a patient with many slices counts once.

    Text, and numbers of at most 10 different values, are categories: each is scored by the share of
    the class among its units, and each pair of units is compared by shares without these two
    (`category_auc`), so that chance gives 0.5 on average however many categories there are. Other
    numbers are ranked, and cut into tenths that are compared as categories (a size that only one
    class has may lie in the middle); the better of both counts. Which end of the ranks goes with
    the class is chosen by the data, so an AUC ``a`` below 0.5 becomes ``1 - a``, and an interval
    that holds 0.5 begins there. A fact that only some cases have is also looked at as given or
    absent.

    Intervals are Newcombe's from the numbers of units, widened for every such choice (Bonferroni).
    On labels drawn at random (10 to 155 units of a class, 1,000 runs each), `Shortcut.strong` held
    for at most 0.2 % of numbers and 1.2 % of categories.

    Args:
        facts: Of each case; numbers or text.
        labels: Class of each case.
        units: Of each case, what must stay together (`assign_groups`).

    Returns:
        One for each fact that differs between cases, for the class that it tells best.
    """
    names = sorted({name for of_case in facts for name in of_case})
    found = []
    for name in names:
        values = [_known(of_case.get(name)) for of_case in facts]
        if any(value is None for value in values):
            given = [ABSENT if value is None else "given" for value in values]
            found += _of_fact(f"{name} given", given, labels, units)
        found += _of_fact(name, values, labels, units)
    return sorted(found, key=lambda shortcut: (-shortcut.low, -shortcut.auc, shortcut.fact))


def _known(value: Fact | None) -> Fact | None:
    """The value, or None for one that is not a number (NaN)."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _of_fact(
    name: str, values: Sequence[Fact | None], labels: Sequence[int], units: Sequence[Hashable]
) -> list[Shortcut]:
    """The shortcut of one fact, in a list; an empty one where it cannot tell anything."""
    known = {value for value in values if value is not None}
    is_number = not any(isinstance(value, str) for value in known) and len(known) > FEW_VALUES
    votes: dict[tuple[Hashable, int], list[Fact]] = {}
    for value, label, unit in zip(values, labels, units, strict=True):
        if value is not None or not is_number:
            votes.setdefault((unit, label), []).append(ABSENT if value is None else value)
    of_class = np.array([label for _, label in votes])
    classes = np.unique(of_class).tolist()
    if len(classes) < 2 or len({value for cast in votes.values() for value in cast}) < 2:
        return []
    asked = classes[1:] if len(classes) == 2 else classes
    tried: list[tuple[tuple[float, float, float], int, tuple[tuple[str, int, int], ...]]] = []
    for label in asked:
        positive = of_class == label
        if is_number:
            tried.append((_of_number(_medians(votes), positive, len(asked)), label, ()))
        else:
            chosen = _most_frequent(votes)
            result = _of_categories(chosen, positive, len(asked))
            tried.append((result, label, _only_in_one_class(chosen, of_class)))
    (low, auc, high), label, only = max(tried, key=lambda entry: entry[0])
    positives = int((of_class == label).sum())
    return [
        Shortcut(
            fact=name,
            label=label,
            auc=auc,
            low=low,
            high=high,
            positives=positives,
            negatives=len(of_class) - positives,
            only=only,
        )
    ]


def _medians(votes: Mapping[tuple[Hashable, int], Sequence[Fact]]) -> NDArray[np.float64]:
    return np.array([median(float(value) for value in cast) for cast in votes.values()])


def _most_frequent(votes: Mapping[tuple[Hashable, int], Sequence[Fact]]) -> NDArray[np.str_]:
    """Each vote's category; of equally frequent ones the first by name."""
    chosen = []
    for cast in votes.values():
        counts = Counter(str(value) for value in cast)
        chosen.append(min(counts, key=lambda value: (-counts[value], value)))
    return np.array(chosen)


def _of_number(
    values: NDArray[np.float64], positive: NDArray[np.bool_], classes: int
) -> tuple[float, float, float]:
    """The better of the ranks' and the tenths' lower bound, AUC and upper bound."""
    auc = metrics.auc(values, positive)
    low, high = _interval(auc, positive, 2 * classes)
    if auc < 0.5:
        low, auc, high = 1 - high, 1 - auc, 1 - low
    if low < 0.5:
        low, high = 0.5, max(high, 1 - low)
    edges = np.unique(np.quantile(values, np.arange(1, 10) / 10))
    return max(
        (low, auc, high), _of_categories(np.searchsorted(edges, values), positive, 2 * classes)
    )


def _of_categories(
    values: NDArray[np.str_] | NDArray[np.intp], positive: NDArray[np.bool_], tries: int
) -> tuple[float, float, float]:
    """Lower bound, AUC and upper bound of categories."""
    auc = category_auc(values, positive)
    low, high = _interval(auc, positive, tries)
    return low, auc, high


def _interval(auc: float, positive: NDArray[np.bool_], tries: int) -> tuple[float, float]:
    """Newcombe's interval of 95 %, widened for the best of several tries (Bonferroni)."""
    positives = int(positive.sum())
    return newcombe_interval(auc, positives, len(positive) - positives, level=1 - 0.05 / tries)


def _only_in_one_class(
    values: NDArray[np.str_], of_class: NDArray[np.intp]
) -> tuple[tuple[str, int, int], ...]:
    found = []
    for value in np.unique(values):
        inside = of_class[values == value]
        share = float((of_class == inside[0]).mean())
        if (inside == inside[0]).all() and share ** len(inside) < UNLIKELY:
            found.append((str(value), int(inside[0]), len(inside)))
    return tuple(sorted(found, key=lambda entry: -entry[2]))


def category_auc(values: NDArray[np.str_] | NDArray[np.intp], positive: NDArray[np.bool_]) -> float:
    """AUC of scoring each category by its share of positives, by leave-pair-out.

    In each pair of a positive and a negative case, both are taken out before the shares are
    counted. (Leaving out one alone would give 0 for a category that all cases have: each positive
    then sees one positive fewer than each negative does.) The shares are drawn towards the overall
    one by the weight of one case, so that a category seen once says nothing.

    Args:
        values: Of each case; equal ones are one category.
        positive: Whether each case is positive.
    """
    names, categories = np.unique(values, return_inverse=True)
    of_positive = np.bincount(categories[positive], minlength=len(names))
    of_negative = np.bincount(categories[~positive], minlength=len(names))
    positives, negatives = int(of_positive.sum()), int(of_negative.sum())
    rest = positives + negatives - 2
    prior = (positives - 1) / rest if rest else 0.5
    of_all = of_positive + of_negative
    # The category of the positive case has lost a positive, that of the negative case a negative.
    without_positive = (of_positive - 1 + prior) / of_all
    without_negative = (of_positive + prior) / of_all
    wins = 0.0
    for category in np.flatnonzero(of_positive):
        score = without_positive[category]
        lead = score - without_negative
        beaten = (lead > ROUNDING) + 0.5 * (np.abs(lead) <= ROUNDING)
        beaten[category] = 0.5
        wins += of_positive[category] * float(beaten @ of_negative)
    return float(wins / (positives * negatives))
