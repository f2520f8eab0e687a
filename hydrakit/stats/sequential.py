"""A comparison that may stop early: looks at its results, and the level of each look.

More looks at growing data, each at a level of 5 %, find differences that do not exist. So every
look has a smaller level, of which all together come to 5 % (docs/statistics.md).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import numpy as np

from hydrakit.stats.findings import Floats
from hydrakit.stats.paired import PairedDifference, holm

FIRST_PASSES = 3
"""Passes that go on together, fold by fold: fewer show too little of how training varies."""

TRAINING_SHARE = 0.5
"""Part of the variance of one pass that training is assumed to cause, which more passes reduce."""

LEAST_STEP = 0.02  # in information, between two looks
LEAST_SPENT = 1e-5  # of the level of 5 % at a look: with less, it can show nothing
LEAST_CHANCE = 0.05  # of another verdict: below it, the cells that are left are not worth it
NODES = 256  # of the numerical integration
FAR = 8.0  # standard deviations beyond which nothing is integrated
STEPS = 12  # of the bisection for a p-value, which is found to 0.4 %
SMALLEST_P = 1e-6

Ended = Literal["decided", "no change expected", "all cells"]
HOPELESS: Ended = "no change expected"


@dataclass(frozen=True, kw_only=True)
class Look:
    """A planned look at the results of a comparison.

    Attributes:
        passes: Number of passes.
        folds: Number of folds in each of them.
        time: Expected information, as a share of that of all cells.
    """

    passes: int
    folds: int
    time: float


def planned_looks(passes: int, folds: int) -> tuple[Look, ...]:
    """The looks of a design: after each fold of the first passes, then after each other pass.

    Each has two cells or more, of which the variance from training can be estimated, and 2 % more
    information than the one before. Looks that are too early to show anything are left out.

    Args:
        passes: Number of passes (seeds times repeats).
        folds: Number of folds; 1 for a single split.
    """

    def variance(number: int) -> float:
        return 1 - TRAINING_SHARE + TRAINING_SHARE / number

    first, last = min(FIRST_PASSES, passes), variance(passes)
    planned = [
        Look(passes=first, folds=fold, time=fold / folds * last / variance(first))
        for fold in range(1, folds + 1)
    ]
    planned += [
        Look(passes=number, folds=folds, time=last / variance(number))
        for number in range(first + 1, passes + 1)
    ]
    looks: list[Look] = []
    for look in planned:
        before = looks[-1].time if looks else 0.0
        can_show = look.passes * look.folds > 1 and spent(0.05, look.time) >= LEAST_SPENT
        grows = min(look.time - before, 1 - look.time) >= LEAST_STEP
        if (look.passes, look.folds) == (passes, folds) or (can_show and grows):
            looks.append(look)
    return tuple(looks)


def spent(level: float, time: float) -> float:
    """Share of a test's level that may be used up to a time: O'Brien and Fleming's function.

    Args:
        level: Level of the test, such as 0.05.
        time: Information as a share of that of all cells, above 0, at most 1.

    Source: Lan and DeMets 1983, Biometrika 70:659-663.
    """
    normal = NormalDist()
    return 4 * normal.cdf(normal.inv_cdf(level / 4) / math.sqrt(time))


def crossing_probabilities(times: Sequence[float], bounds: Sequence[float]) -> list[float]:
    """Probability, without any difference, that the bound of a look is the first to be crossed.

    Args:
        times: Information at each look, rising.
        bounds: Bound of the absolute normal deviate at each look.

    Source: Armitage, McPherson and Rowe 1969, J. R. Stat. Soc. A 132:235-244.
    """
    walk = _Walk()
    found = []
    for time, bound in zip(times, bounds, strict=True):
        walk.step(time)
        found.append(float(walk.beyond(bound)))
        walk.stay_within(bound)
    return found


class _Walk:
    """Distribution of a sum of independent normal parts that has crossed no bound so far."""

    def __init__(self) -> None:
        self.time = 0.0
        self.before = 0.0
        self.values: Floats = np.zeros(1)
        self.weights: Floats = np.ones(1)

    def step(self, time: float) -> None:
        """Go on to the next look."""
        self.before, self.time = self.time, time

    def beyond(self, bound: float) -> float:
        """Probability of an absolute deviate of at least the bound, at this look."""
        from scipy.special import ndtr

        spread, end = math.sqrt(self.time - self.before), bound * math.sqrt(self.time)
        tails = ndtr((self.values - end) / spread) + ndtr((-self.values - end) / spread)
        return float(self.weights @ tails)

    def stay_within(self, bound: float) -> None:
        """Leave out all sums beyond the bound of this look."""
        end = min(bound, FAR) * math.sqrt(self.time)
        nodes, weights = _nodes()
        values = end * nodes
        spread = math.sqrt(self.time - self.before)
        steps = np.subtract.outer(values, self.values) / spread
        density = np.exp(-0.5 * steps**2) @ self.weights / (spread * math.sqrt(2 * math.pi))
        self.values, self.weights = values, end * weights * density


@lru_cache(maxsize=1)
def _nodes() -> tuple[Floats, Floats]:
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    return nodes, weights


@lru_cache(maxsize=4096)
def levels(times: tuple[float, ...], level: float = 0.05) -> tuple[float, ...]:
    """Level of the test of each look, so that all together find no more than ``level`` by chance.

    Args:
        times: Information at each look, rising to 1.
        level: Level of all looks together.
    """
    from scipy.optimize import brentq

    walk, before, found = _Walk(), 0.0, []
    normal = NormalDist()
    for time in times:
        walk.step(time)
        allowed = spent(level, time) - before
        before += allowed
        if walk.beyond(FAR) >= allowed:  # too little to compute with, and to find anything
            bound = math.inf
        else:
            bound = float(brentq(lambda end, part=allowed: walk.beyond(end) - part, 0.0, FAR))
        found.append(2 * normal.cdf(-bound) if bound < math.inf else 0.0)
        walk.stay_within(bound)
    return tuple(found)


def sequential_p(p_values: Sequence[float], times: tuple[float, ...]) -> float:
    """p-value of all looks so far together: the smallest level at which one of them would decide.

    It is rounded up by at most 0.4 %.

    Args:
        p_values: p-value of each look that was taken, in order.
        times: Information at each planned look.

    Source: Liu and Anderson 2008, J. Am. Stat. Assoc. 103:1621-1630.
    """

    def decides(level: float) -> bool:
        return any(p <= allowed for p, allowed in zip(p_values, levels(times, level), strict=False))

    low, high = math.log(SMALLEST_P), 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        if decides(math.exp(middle)):
            high = middle
        else:
            low = middle
    return math.exp(high)


def chance_of_difference(p: float, time: float, last_level: float) -> float:
    """Probability that all cells together will show a difference, as far as the data says.

    It is the predictive power: every true difference is taken for as probable as the data so far
    makes it.

    Args:
        p: p-value of a look.
        time: Information at the look, below 1.
        last_level: Level of the last look.

    Source: Spiegelhalter, Freedman and Blackburn 1986, Control. Clin. Trials 7:8-17.
    """
    normal = NormalDist()
    bound, spread = -normal.inv_cdf(last_level / 2), math.sqrt((1 - time) / time)
    expected = -normal.inv_cdf(p / 2) / math.sqrt(time)
    return normal.cdf((expected - bound) / spread) + normal.cdf((-expected - bound) / spread)


@dataclass(frozen=True, kw_only=True)
class PairAtLook:
    """The first strategy compared with another one at a look.

    Attributes:
        pair: The difference, with the interval and the p-value of this look alone.
        p: p-value of all looks so far together.
        chance: Probability that all cells together will show a difference; None where this look
            has shown one, or is the last one.
        reason: Why this look is the last one for the strategy; None if it is not.
    """

    pair: PairedDifference
    p: float
    chance: float | None = None
    reason: Ended | None = None


class LookSeries:
    """Looks at the comparisons of the first strategy with others, in order.

    A comparison ends at the look that shows a difference, or at which all cells would hardly show
    one. The strategy's other cells are then not needed. What was shown stays shown: later looks
    make p-values only smaller, so that Holm's correction can only become less strict.

    Args:
        others: Names of the strategies that the first one is compared with.
        looks: Planned looks.
        level: Level of all looks and comparisons together.
        stops: Whether comparisons end before the last look.
    """

    def __init__(
        self,
        others: Sequence[str],
        looks: tuple[Look, ...],
        *,
        level: float = 0.05,
        stops: bool = True,
    ) -> None:
        self.looks = looks
        self.level = level
        self.levels = levels(tuple(look.time for look in looks), level)
        self.taken: list[dict[str, PairAtLook]] = []
        self.active = tuple(others)
        self._others = tuple(others)
        self._stops = stops

    @property
    def next(self) -> Look | None:
        """The next look; None if no other is needed."""
        return self.looks[len(self.taken)] if self.active else None

    @property
    def confidence(self) -> float:
        """Confidence level of the intervals of the next look."""
        return 1 - self.levels[len(self.taken)]

    def take(self, pairs: Mapping[str, PairedDifference]) -> None:
        """Take the next look.

        Args:
            pairs: The first strategy compared with each one in ``active``, by the cells of the
                look, with intervals of the level ``confidence``.
        """
        number, times = len(self.taken), tuple(look.time for look in self.looks)
        before = {name: [look[name].pair.p for look in self.taken] for name in pairs}
        at_look = {
            name: PairAtLook(
                pair=pair, p=sequential_p([*before[name], pair.p], times[: number + 1])
            )
            for name, pair in pairs.items()
        }
        self.taken.append(at_look)
        adjusted = holm({name: each.p for name, (_, each) in self.latest().items()})
        is_last = number + 1 == len(self.looks)
        open_pairs = []
        for name, each in at_look.items():
            low, high = each.pair.gain
            if is_last:
                at_look[name] = replace(each, reason="all cells")
            elif adjusted[name] <= self.level and (low > 0 or high < 0):
                at_look[name] = replace(each, reason="decided" if self._stops else None)
            else:
                open_pairs.append(name)
        self._judge_chances(at_look, open_pairs)
        self.active = tuple(name for name in self.active if at_look[name].reason is None)

    def _judge_chances(self, at_look: dict[str, PairAtLook], names: Sequence[str]) -> None:
        """Add the chance of a difference to pairs without one, and end those that have none.

        Each pair that ends without a difference makes Holm's correction stricter for the others.
        """
        time, times = self.looks[len(self.taken) - 1].time, tuple(look.time for look in self.looks)
        hopeless = {name for name, (_, at) in self.latest().items() if at.reason == HOPELESS}
        while True:
            last = levels(times, self.level / (1 + len(hopeless)))[-1]
            chances = {
                name: chance_of_difference(at_look[name].pair.p, time, last)
                for name in names
                if name not in hopeless
            }
            for name, chance in chances.items():
                at_look[name] = replace(at_look[name], chance=chance)
            ended = {name for name, chance in chances.items() if chance < LEAST_CHANCE}
            if not (ended and self._stops):
                return
            for name in ended:
                at_look[name] = replace(at_look[name], reason=HOPELESS)
            hopeless |= ended

    def drop(self, name: str) -> None:
        """End the comparison with a strategy whose cells failed."""
        self.active = tuple(each for each in self.active if each != name)

    def latest(self) -> dict[str, tuple[int, PairAtLook]]:
        """The last look at each strategy, with its number from 1; none for one without a look."""
        found = {
            name: (number, each)
            for number, at_look in enumerate(self.taken, start=1)
            for name, each in at_look.items()
        }
        return {name: found[name] for name in self._others if name in found}
