"""Looks at a comparison: their levels against published tables, and what is decided by them."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from test_coverage import Setting, draw
from test_paired import pair

from hydrakit.stats.paired import PairedDifference, compare, holm
from hydrakit.stats.score_table import ScoreTable
from hydrakit.stats.sequential import (
    LEAST_CHANCE,
    Look,
    LookSeries,
    chance_of_difference,
    crossing_probabilities,
    levels,
    planned_looks,
    sequential_p,
    spent,
)

FIFTHS = (0.2, 0.4, 0.6, 0.8, 1.0)
NORMAL = NormalDist()


def difference(p: float, *, gain: float = 0.1) -> PairedDifference:
    """A difference with a p-value, whose interval does not hold 0."""
    tested = compare(*pair(1))
    return replace(tested, p=p, difference=gain, low=gain - 0.05, high=gain + 0.05)


@pytest.mark.parametrize(
    ("times", "bounds"),
    [  # of the R packages gsDesign (sfLDOF) and ldbounds, two-sided 5 %
        (FIFTHS, (4.877, 3.357, 2.680, 2.290, 2.031)),
        ((0.5, 1.0), (2.963, 1.969)),
        ((1.0,), (1.960,)),
    ],
)
def test_bounds_are_those_of_published_tables(
    times: tuple[float, ...], bounds: tuple[float, ...]
) -> None:
    found = [-NORMAL.inv_cdf(level / 2) for level in levels(times)]
    assert found == pytest.approx(bounds, abs=6e-4)


@pytest.mark.parametrize(
    "bounds",
    [  # Jennison and Turnbull 2000, tables 2.1 and 2.3: five looks, two-sided 5 %
        [2.413] * 5,
        [2.040 * math.sqrt(5 / number) for number in range(1, 6)],
    ],
)
def test_constant_and_falling_bounds_come_to_five_percent(bounds: list[float]) -> None:
    assert sum(crossing_probabilities(FIFTHS, bounds)) == pytest.approx(0.05, abs=1e-4)


def test_the_integration_agrees_with_the_normal_distribution_of_scipy() -> None:
    times, bounds = [0.3, 0.7, 1.0], [2.5, 2.2, 2.0]
    covariance = [[math.sqrt(min(s, t) / max(s, t)) for s in times] for t in times]
    within = multivariate_normal([0, 0, 0], covariance, abseps=1e-9, releps=1e-9, maxpts=10**6)
    inside = within.cdf(bounds, lower_limit=[-each for each in bounds])
    assert sum(crossing_probabilities(times, bounds)) == pytest.approx(1 - inside, abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0.05, 0.97), min_size=1, max_size=6, unique=True).map(sorted),
    st.floats(0.001, 0.2),
)
def test_all_looks_together_use_the_whole_level(inner: list[float], level: float) -> None:
    times = (*(t for t, n in zip(inner, [*inner[1:], 1.0], strict=True) if n - t > 0.01), 1.0)
    found = levels(times, level)
    assert all(0 <= each <= level * 1.0001 for each in found)
    bounds = [-NORMAL.inv_cdf(each / 2) if each else math.inf for each in found]
    assert sum(crossing_probabilities(times, bounds)) == pytest.approx(level, rel=1e-4)
    assert spent(level, 1.0) == pytest.approx(level)
    p = sequential_p([found[0], *[1.0] * (len(times) - 1)], times)
    assert p <= level * 1.005 or found[0] == 0


def test_a_p_value_of_one_look_of_all_cells_stays_as_it_is() -> None:
    assert sequential_p([0.03], (1.0,)) == pytest.approx(0.03, rel=0.005)
    assert sequential_p([0.03, 0.2], (0.5, 1.0)) > 0.05  # not small enough for an early look
    assert sequential_p([0.00305, 0.9], (0.5, 1.0)) == pytest.approx(0.05, rel=0.01)


def test_looks_come_after_each_fold_of_three_passes_and_after_each_other_pass() -> None:
    looks = planned_looks(5, 5)
    assert [(each.passes, each.folds) for each in looks] == [
        (3, 2), (3, 3), (3, 4), (3, 5), (4, 5), (5, 5)
    ]  # fmt: skip
    # Half of a pass's variance is taken to be of patients: 4/6, 5/8 and 6/10 of it are left after
    # 3, 4 and 5 passes.
    whole = 0.6 / (4 / 6)
    expected = [2 / 5 * whole, 3 / 5 * whole, 4 / 5 * whole, whole, 0.6 / (5 / 8), 1]
    assert [each.time for each in looks] == pytest.approx(expected)
    assert [(each.passes, each.folds) for each in planned_looks(2, 2)] == [(2, 1), (2, 2)]
    assert [each.passes for each in planned_looks(4, 1)] == [3, 4]
    assert len(planned_looks(3, 1)) == len(planned_looks(1, 2)) == 1
    many = planned_looks(100, 10)
    assert len(many) < 20
    assert (many[-1].passes, many[-1].time) == (100, 1)


def test_the_chance_of_a_difference_is_that_of_drawn_data() -> None:
    # Flat prior: the true drift is normal about the observed one.
    rng = np.random.default_rng(0)
    p, time, last = 0.2, 0.6, 0.04
    z = -NORMAL.inv_cdf(p / 2)
    drift = rng.normal(z / math.sqrt(time), 1 / math.sqrt(time), 400_000)
    final = z * math.sqrt(time) + rng.normal(drift * (1 - time), math.sqrt(1 - time))
    share = float(np.mean(np.abs(final) > -NORMAL.inv_cdf(last / 2)))
    assert chance_of_difference(p, time, last) == pytest.approx(share, abs=0.004)


def test_a_comparison_ends_where_it_is_decided_or_hopeless() -> None:
    series = LookSeries(("clear", "equal", "close"), planned_looks(5, 5))
    series.take({"clear": difference(0.3), "equal": difference(0.9), "close": difference(0.3)})
    assert series.active == ("clear", "equal", "close")  # too early for anything
    series.take({"clear": difference(1e-5), "equal": difference(0.5), "close": difference(0.2)})
    assert series.active == ("equal", "close")
    series.take({"equal": difference(0.9), "close": difference(0.1)})
    assert series.active == ("close",)
    series.take({"close": difference(0.03)})
    series.take({"close": difference(0.03)})
    assert series.next is not None
    series.take({"close": difference(0.03)})
    assert series.next is None
    ends = {name: (number, each.reason) for name, (number, each) in series.latest().items()}
    assert ends == {
        "clear": (2, "decided"),
        "equal": (3, "no change expected"),
        "close": (6, "all cells"),
    }
    chances = [at["equal"].chance for at in series.taken[:3]]
    assert chances[0] > chances[1] > LEAST_CHANCE > chances[2]  # type: ignore[operator]


def test_several_comparisons_need_smaller_p_values() -> None:
    looks = planned_looks(1, 5)
    p = 0.99 * levels(tuple(each.time for each in looks))[0]  # p-values are rounded up
    alone = LookSeries(("a",), looks)
    alone.take({"a": difference(p)})
    assert not alone.active
    both = LookSeries(("a", "b"), looks)
    both.take({"a": difference(p), "b": difference(0.5)})
    assert both.active == ("a", "b")
    half = levels(tuple(each.time for each in looks), 0.05 / 2)[0]
    both = LookSeries(("a", "b"), looks)
    both.take({"a": difference(half * 0.99), "b": difference(p)})  # Holm: the second at 5 %
    assert not both.active


def test_without_stopping_all_looks_are_taken_and_the_first_sign_counts() -> None:
    series = LookSeries(("a",), planned_looks(1, 5), stops=False)
    for p in (1e-6, 0.3, 0.9):
        series.take({"a": difference(p)})
        assert series.active == ("a",)
    series.take({"a": difference(0.2)})
    _, last = series.latest()["a"]
    assert last.reason == "all cells"
    assert last.p < 0.05


def test_an_interval_that_holds_0_decides_nothing() -> None:
    series = LookSeries(("a",), planned_looks(1, 5))
    series.take({"a": replace(difference(1e-6), low=-0.1)})
    assert series.active == ("a",)


def test_training_that_differs_from_cell_to_cell_widens_the_interval() -> None:
    first, second = pair(3, findings=100, patients=100, folds=5)
    plain, cells = (compare(first, second, cells_vary=each) for each in (False, True))
    # By hand: the variance between the cells beyond what their findings explain.
    values, explained = [], []
    for fold in range(5):
        inside = first.folds[0] == fold
        parts = [
            replace(
                each,
                findings=tuple(np.array(each.findings)[inside]),
                patients=each.patients[inside],
                labels=each.labels[inside],
                scores=each.scores[:, inside],
                folds=each.folds[:, inside],
                images=each.images[inside],
            )
            for each in (first, second)
        ]
        found = compare(*parts)
        values.append(found.difference)
        explained.append(found.error**2)
    excess = max(0.0, float(np.var(values, ddof=1)) - float(np.mean(explained))) / 5
    assert cells.error**2 == pytest.approx(plain.error**2 + excess)
    shifted = replace(first, scores=first.scores + 3 * (first.folds % 2) * first.labels)
    plain, cells = (compare(shifted, second, cells_vary=each) for each in (False, True))
    assert cells.error > 1.3 * plain.error
    assert cells.p > plain.p


def at_look(table: ScoreTable, look: Look) -> ScoreTable:
    """The scores of the cells of a look."""
    folds = np.where(table.folds[: look.passes] < look.folds, table.folds[: look.passes], -1)
    tested = (folds >= 0).any(axis=0)
    scores = np.where(folds >= 0, table.scores[: look.passes], np.nan)
    return ScoreTable(
        findings=tuple(np.array(table.findings)[tested]),
        patients=table.patients[tested],
        labels=table.labels[tested],
        passes=table.passes[: look.passes],
        scores=scores[:, tested],
        folds=folds[:, tested],
        images=table.images[tested],
    )


Compared = dict[tuple[str, Look], PairedDifference]


def follow(
    tables: tuple[ScoreTable, ...], passes: int, known: Compared, *, stops: bool
) -> tuple[set[str], float]:
    """Strategies called different from the first, and the share of cells that it took."""
    others = [f"{number}" for number in range(1, len(tables))]
    looks = planned_looks(passes, 5)
    series = LookSeries(others, looks, stops=stops)
    cells = 0
    before = 0
    while (look := series.next) is not None:
        cells += (1 + len(series.active)) * (look.passes * look.folds - before)
        before = look.passes * look.folds
        for name in series.active:
            if (name, look) not in known:
                parts = (at_look(tables[number], look) for number in (0, int(name)))
                known[name, look] = compare(*parts, level=series.confidence, cells_vary=True)
        series.take({name: known[name, look] for name in series.active})
    latest = series.latest()
    adjusted = holm({name: each.p for name, (_, each) in latest.items()})
    shown = {
        name
        for name, (_, each) in latest.items()
        if adjusted[name] <= 0.05 and (each.pair.low > 0 or each.pair.high < 0)
    }
    return shown, cells / (len(tables) * passes * 5)


def simulate(setting: Setting, count: int, *, cells_vary: float = 0.0) -> dict[str, float]:
    """Shares in drawn comparisons.

    Args:
        setting: The setting, with a true AUC of each strategy.
        count: Number of draws.
        cells_vary: Standard deviation of a shift of each cell of a strategy.

    Returns:
        Share with a difference that was called, with stops (``told``), by all cells in one test
        (``fixed``) and at all looks without stops (``all looks``); share of called differences that
        only the fixed test has (``lost``); mean share of the cells that were needed (``cells``).
    """
    rng = np.random.default_rng(3)
    found: dict[str, list[float]] = {"told": [], "fixed": [], "all looks": [], "lost": []}
    found["cells"] = []
    while len(found["told"]) < count:
        tables = draw(rng, setting)
        if tables is None:
            continue
        shifts = cells_vary * rng.normal(size=(len(tables), setting.passes, setting.folds))
        tables = tuple(
            replace(
                table,
                scores=table.scores + np.take_along_axis(shift, table.folds, 1) * table.labels,
            )
            for table, shift in zip(tables, shifts, strict=True)
        )
        known: Compared = {}
        told, share = follow(tables, setting.passes, known, stops=True)
        found["told"].append(bool(told))
        found["cells"].append(share)
        pairs = {f"{n}": compare(tables[0], each) for n, each in enumerate(tables) if n}
        adjusted = holm({name: each.p for name, each in pairs.items()})
        fixed = {
            name
            for name, each in pairs.items()
            if adjusted[name] <= 0.05 and (each.low > 0 or each.high < 0)
        }
        looks, _ = follow(tables, setting.passes, known, stops=False)
        found["fixed"].append(bool(fixed))
        found["lost"].append(bool(fixed - told))
        found["all looks"].append(bool(looks))
    return {name: float(np.mean(values)) for name, values in found.items()}


def setting_of(size: tuple[int, int], *aucs: float, **more: Any) -> Setting:
    return Setting(
        positives=size[0],
        negatives=size[1],
        aucs=aucs,
        within=(0.5,) * len(aucs),
        **({"passes": 3, "folds": 5} | more),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("aucs", "more", "cells_vary"),
    [
        ((0.75, 0.75), {}, 0.0),
        ((0.75, 0.75), {}, 0.3),
        ((0.75, 0.75), {"training": 0.1}, 0.0),
        ((0.75, 0.75), {"passes": 5}, 0.0),
        ((0.75,) * 4, {}, 0.0),
    ],
)
def test_equal_strategies_are_seldom_called_different_at_any_look(
    aucs: tuple[float, ...], more: dict[str, Any], cells_vary: float
) -> None:
    count = 500 if len(aucs) == 2 else 250
    found = simulate(setting_of((20, 60), *aucs, **more), count, cells_vary=cells_vary)
    print(f"\n{aucs} {more} {cells_vary}: {found}")
    assert 0.003 <= found["told"] <= 0.07  # the test of all cells has about 0.03 here
    assert found["all looks"] <= 0.07
    assert found["cells"] < 0.85


@pytest.mark.slow
def test_a_clear_difference_needs_about_half_of_the_cells() -> None:
    found = simulate(setting_of((40, 120), 0.9, 0.65, passes=5), 100)
    print(f"\n{found}")
    assert found["told"] >= found["fixed"] - 0.03
    assert found["cells"] <= 0.5


def print_tables(count: int) -> None:
    """The tables of docs/statistics.md."""
    for size in ((12, 48), (20, 60), (40, 120), (76, 224)):
        draws = count if size[0] < 40 else count // 2
        for aucs, more, cells_vary in (
            ((0.75, 0.75), {}, 0.0),
            ((0.75, 0.75), {}, 0.3),
            ((0.75, 0.75), {"training": 0.1}, 0.0),
            ((0.75, 0.75), {"training": 0.3}, 0.0),
            ((0.75, 0.75), {"passes": 9}, 0.0),
            ((0.75,) * 5, {}, 0.0),
            ((0.8, 0.7), {}, 0.0),
            ((0.85, 0.65), {}, 0.0),
            ((0.85, 0.65), {"passes": 9}, 0.0),
            ((0.85, 0.85, 0.65, 0.65), {}, 0.0),
        ):
            found = simulate(setting_of(size, *aucs, **more), draws, cells_vary=cells_vary)
            shares = " | ".join(f"{100 * share:.1f}" for share in found.values())
            print(f"| {size} {aucs} {more} {cells_vary} | {shares} |", flush=True)


if __name__ == "__main__":
    print_tables(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
