from __future__ import annotations

import csv
import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hydrakit.data.quality.split import RESERVED, SPLITS, UNUSED, split_cases, unit_numbers
from hydrakit.errors import DataError
from hydrakit.plan import Fold, Split

THREE = Split(train=8, val=1, test=1)
TWO = Split(train=9, val=1)


@dataclass(frozen=True)
class Table:
    """A dataset without images: one row per case."""

    labels: list[int]
    patients: list[str]
    groups: list[str | None]
    classes: int

    def deal(self, split: Split, seed: int = 0) -> list[str]:
        return split_cases(
            np.eye(self.classes)[self.labels],
            self.patients,
            self.groups,
            split=split,
            seed=seed,
            names=[f"class{label}" for label in range(self.classes)],
            dataset="thing",
        )

    def components(self) -> list[int]:
        """SciPy's answer to which cases belong together."""
        rows, names = [], [f"patient {patient}" for patient in self.patients]
        links = sorted({*names, *(f"group {group}" for group in self.groups if group is not None)})
        number = {name: len(names) + index for index, name in enumerate(links)}
        for case, (name, group) in enumerate(zip(names, self.groups, strict=True)):
            rows.append((case, number[name]))
            if group is not None:
                rows.append((case, number[f"group {group}"]))
        start, end = zip(*rows, strict=True)
        size = len(names) + len(links)
        graph = coo_array((np.ones(len(rows)), (start, end)), shape=(size, size))
        found = connected_components(graph, directed=False)[1]
        return [int(component) for component in found[: len(names)]]

    def units_with(self, label: int) -> int:
        cases = zip(self.components(), self.labels, strict=True)
        return len({unit for unit, of in cases if of == label})


@st.composite
def tables(draw: st.DrawFn) -> Table:
    classes = draw(st.integers(2, 4))
    label = st.integers(0, classes - 1)
    table = Table([], [], [], classes)
    for patient in range(draw(st.integers(2, 40))):
        group = draw(st.none() | st.integers(0, 30).map(str))
        for of_case in draw(st.lists(label, min_size=1, max_size=6)):
            table.labels.append(of_case)
            table.patients.append(f"p{patient}")
            table.groups.append(group)
    return table


@settings(max_examples=150, deadline=None)
@given(tables(), st.sampled_from([THREE, TWO]), st.integers(0, 2**63 - 1))
def test_whole_units_are_dealt_and_every_split_has_every_class(
    table: Table, split: Split, seed: int
) -> None:
    names = SPLITS if split.test else SPLITS[:2]
    fewest = min(table.units_with(label) for label in range(table.classes))
    try:
        dealt = table.deal(split, seed)
    except DataError:
        # With two classes, a unit of each per split is enough; with more, units that hold several
        # classes can get in each other's way, but not where there is one for each class and split.
        assert fewest < len(names) * (1 if table.classes == 2 else table.classes)
        return
    assert fewest >= len(names)
    assert len(dealt) == len(table.labels)
    for units in (table.components(), table.patients, table.groups):
        homes: dict[object, set[str]] = {}
        for unit, name in zip(units, dealt, strict=True):
            homes.setdefault(unit, set()).add(name)
        homes.pop(None, None)
        assert all(len(home) == 1 for home in homes.values())
    assert set(zip(dealt, table.labels, strict=True)) == set(
        itertools.product(names, range(table.classes))
    )
    assert table.deal(split, seed) == dealt


@given(tables())
def test_units_are_connected_components(table: Table) -> None:
    units = unit_numbers(table.patients, table.groups)
    pairs = set(zip(units, table.components(), strict=True))
    assert len(pairs) == len(set(units)) == len(set(table.components()))


def _can_be_split(counts: NDArray[np.int64], splits: int) -> bool:
    """Whether any way to deal the units gives every split every class; by trying them all."""
    for ways in itertools.product(range(splits), repeat=len(counts)):
        home = np.array(ways)
        if all((counts[home == index] > 0).any(axis=0).all() for index in range(splits)):
            return True
    return False


def test_it_fails_only_where_no_valid_split_exists() -> None:
    random = np.random.default_rng(5)
    failures = 0
    for seed in range(120):
        classes, patients = int(random.integers(2, 5)), int(random.integers(4, 7))
        counts = random.integers(0, 2, (patients, classes))
        counts[counts.sum(axis=1) == 0, 0] = 1
        cases = [(p, label) for p in range(patients) for label in np.flatnonzero(counts[p])]
        labels = [int(label) for _, label in cases]
        table = Table(labels, [str(p) for p, _ in cases], [None] * len(cases), classes)
        try:
            table.deal(THREE, seed)
        except DataError:
            failures += 1
            assert not _can_be_split(counts, 3)
    assert 10 < failures < 110


@pytest.mark.parametrize("seed", range(20))
def test_patients_with_several_rare_classes_are_kept_apart(seed: int) -> None:
    # Class 2 has three patients; two of them are also wanted for classes 0 and 1, and would fill
    # one split together if each class were seeded without regard to the others.
    holds = {"a": [0, 2], "b": [0], "c": [0], "d": [1, 2], "e": [1], "f": [1], "g": [2]}
    cases = [(patient, label) for patient, of in holds.items() for label in of]
    table = Table([label for _, label in cases], [p for p, _ in cases], [None] * len(cases), 3)
    dealt = table.deal(THREE, seed)
    assert len(set(zip(dealt, table.labels, strict=True))) == 9


def test_other_seeds_give_other_splits() -> None:
    table = Table([0, 1] * 30, [str(case) for case in range(60)], [None] * 60, 2)
    assert len({tuple(table.deal(THREE, seed)) for seed in range(20)}) == 20


def _largest_miss(table: Table, split: Split, seeds: int) -> float:
    """How many cases of a class a split lies off its share, at most."""
    whole = split.train + split.val + split.test
    misses: list[float] = []
    for seed in range(seeds):
        have = Counter(zip(table.deal(split, seed), table.labels, strict=True))
        for name, label in itertools.product(SPLITS, range(table.classes)):
            due = getattr(split, name) / whole * table.labels.count(label)
            misses.append(abs(have[name, label] - due))
    return max(misses)


def _like_prostatex() -> Table:
    """330 findings of 204 patients, 76 positive, 33 patients with both."""
    per_patient = [[1, 0]] * 21 + [[1, 1, 0]] * 12 + [[1]] * 31
    per_patient += [[0]] * 78 + [[0, 0]] * 48 + [[0, 0, 0]] * 9 + [[0, 0, 0, 0]] * 5
    assert len(per_patient) == 204
    cases = [(str(p), label) for p, of in enumerate(per_patient) for label in of]
    table = Table([label for _, label in cases], [p for p, _ in cases], [None] * len(cases), 2)
    assert (len(table.labels), sum(table.labels)) == (330, 76)
    return table


@pytest.mark.parametrize("split", [THREE, TWO], ids=["8-1-1", "9-1"])
def test_ordinary_data_is_stratified_to_the_case(split: Split) -> None:
    assert _largest_miss(_like_prostatex(), split, 30) <= 1.0


@pytest.mark.shared
def test_prostatex_is_stratified_to_the_case(shared_data: Path) -> None:
    with (shared_data / "prostatex" / "ProstateX-Findings-Train.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = [int(row["ClinSig"] == "TRUE") for row in rows]
    table = Table(labels, [row["ProxID"] for row in rows], [None] * len(rows), 2)
    assert (len(labels), sum(labels), len(set(table.patients))) == (330, 76, 204)
    for split in (THREE, TWO):
        assert _largest_miss(table, split, 30) <= 1.0


def test_a_patient_with_many_cases_does_not_fill_a_small_split() -> None:
    labels = [0, 1] * 6 + [0, 1] * 20
    patients = [str(case) for case in range(12)] + ["many"] * 40
    table = Table(labels, patients, [None] * 52, 2)
    for seed in range(20):
        home = dict(zip(patients, table.deal(THREE, seed), strict=True))
        assert home["many"] == "train"


def test_an_empty_class_is_named() -> None:
    table = Table([0] * 9, [str(case) for case in range(9)], [None] * 9, 2)
    with pytest.raises(DataError) as caught:
        table.deal(THREE)
    assert str(caught.value) == (
        "thing: class 'class1' has no usable case: every class needs some "
        "(see `hydrakit datasets check thing`)"
    )


def test_too_few_patients_are_counted_and_the_remedy_told() -> None:
    table = Table([0] * 9 + [1] * 6, [*map(str, range(9)), *"ababab"], [None] * 15, 2)
    with pytest.raises(DataError, match="thing: 2 patients with class 'class1'") as caught:
        table.deal(THREE)
    assert "add cases, or give it no test split (`--split thing=9-1`)" in str(caught.value)
    assert len(table.deal(TWO)) == 15
    with pytest.raises(DataError, match=r"in 3 splits that .*: add cases, or use fewer `--folds`"):
        table.deal(Split(train=9, val=1, fold=Fold(index=0, count=3)))


def test_groups_that_join_patients_count_once() -> None:
    table = Table(
        [0] * 9 + [1] * 4, [str(case) for case in range(13)], [None] * 9 + ["exam"] * 4, 2
    )
    with pytest.raises(DataError, match="1 patient with class 'class1'") as caught:
        table.deal(TWO)
    assert str(caught.value).endswith("share no patient: add cases")


def test_classes_that_can_only_be_had_together_are_an_error() -> None:
    # Three patients per class, but 0, 1 and 2 lie in a ring: any two share a patient.
    holds = {"a": [0, 1], "b": [1, 2], "c": [2, 0], "d": [0], "e": [1], "f": [2]}
    ring = [(patient, label) for patient, of in holds.items() for label in of]
    table = Table([label for _, label in ring], [p for p, _ in ring], [None] * len(ring), 3)
    counts = np.zeros((6, 3), dtype=np.int64)
    np.add.at(counts, (["abcdef".index(p) for p in table.patients], table.labels), 1)
    assert _can_be_split(counts, 3)
    table.deal(THREE)

    holds = {"a": [0, 1], "b": [0, 1], "c": [0, 2], "d": [1, 2], "e": [2]}
    tight = [(patient, label) for patient, of in holds.items() for label in of]
    table = Table([label for _, label in tight], [p for p, _ in tight], [None] * len(tight), 3)
    counts = np.zeros((5, 3), dtype=np.int64)
    np.add.at(counts, (["abcde".index(p) for p in table.patients], table.labels), 1)
    assert not _can_be_split(counts, 3)
    with pytest.raises(DataError, match="3 patients with class 'class0'"):
        table.deal(THREE)


@pytest.mark.parametrize("seed", range(5))
def test_large_patients_are_in_every_split(seed: int) -> None:
    random = np.random.default_rng(seed)
    owners = [p for p in range(300) for _ in range(int(random.integers(1, 21)))]
    table = Table([p % 2 for p in owners], [f"p{p}" for p in owners], [None] * len(owners), 2)
    dealt = table.deal(THREE, seed)
    patients = {
        name: {p for p, s in zip(owners, dealt, strict=True) if s == name} for name in dealt
    }
    sizes = {name: dealt.count(name) / len(members) for name, members in patients.items()}
    overall = len(owners) / 300
    for name, size in sizes.items():
        assert abs(size - overall) < 0.15 * overall, name


@settings(max_examples=150, deadline=None)
@given(
    tables(),
    st.sampled_from([THREE, TWO, Split(train=8, val=2, fold=Fold(index=1, count=3))]),
    st.floats(0.05, 0.95),
    st.integers(0, 2**63 - 1),
)
def test_a_share_that_is_used_leaves_out_whole_units_of_training_and_validation(
    table: Table, split: Split, used: float, seed: int
) -> None:
    try:
        whole = table.deal(split, seed)
    except DataError:
        return
    part = table.deal(split.model_copy(update={"used": used}), seed)
    assert {(one, other) for one, other in zip(whole, part, strict=True) if one != other} <= {
        ("train", UNUSED),
        ("val", UNUSED),
    }
    by_unit: dict[int, set[str]] = {}
    for unit, name in zip(table.components(), part, strict=True):
        by_unit.setdefault(unit, set()).add(name)
    assert all(len(names) == 1 for names in by_unit.values())
    for name in SPLITS:
        assert {label for label, of in zip(table.labels, whole, strict=True) if of == name} == {
            label for label, of in zip(table.labels, part, strict=True) if of == name
        }


@pytest.mark.parametrize("used", [0.25, 0.5, 0.9])
def test_a_share_that_is_used_has_the_classes_as_the_whole_has(used: float) -> None:
    labels = [0] * 240 + [1] * 80
    table = Table(labels, [f"p{case}" for case in range(320)], [None] * 320, 2)
    part = table.deal(Split(train=8, val=2, fold=Fold(index=0, count=5), used=used))
    counts = Counter(zip(part, labels, strict=True))
    for name, label, cases in [("train", 0, 154), ("train", 1, 51), ("val", 0, 38), ("val", 1, 13)]:
        assert counts[name, label] == pytest.approx(cases * used, abs=1.5)
    assert counts["test", 0] + counts["test", 1] == 64


@settings(max_examples=100, deadline=None)
@given(
    tables(),
    st.sampled_from([THREE, Split(train=8, val=2, fold=Fold(index=1, count=3))]),
    st.sampled_from([1.0, 0.6]),
    st.integers(2, 4),
    st.integers(0, 2**32),
)
def test_inner_folds_divide_the_cases_outside_the_test_split(
    table: Table, split: Split, used: float, count: int, seed: int
) -> None:
    split = split.model_copy(update={"used": used})
    try:
        outer = table.deal(split, seed)
        inner = [
            table.deal(split.model_copy(update={"inner": Fold(index=index, count=count)}), seed)
            for index in range(count)
        ]
    except DataError:
        return
    tested = Counter[int]()
    for dealt in inner:
        for case, (whole, own) in enumerate(zip(outer, dealt, strict=True)):
            # What the test split holds, and what a share leaves out, stays so.
            assert (own == RESERVED) == (whole == "test")
            assert (own == UNUSED) == (whole == UNUSED)
            tested[case] += own == "test"
        for units in (table.components(), table.patients):
            homes = set(zip(units, dealt, strict=True))
            assert len({unit for unit, _ in homes}) == len(homes)
        learning = [pair for pair in zip(dealt, table.labels, strict=True) if pair[0] in SPLITS]
        assert set(learning) == set(itertools.product(SPLITS, range(table.classes)))
    assert all(
        tested[case] == (1 if whole in ("train", "val") else 0) for case, whole in enumerate(outer)
    )


def test_an_inner_fold_has_the_classes_in_the_shares_of_the_whole() -> None:
    labels = [int(case % 4 == 0) for case in range(240)]
    table = Table(labels, [str(case) for case in range(240)], [None] * 240, 2)
    split = Split(train=8, val=2, fold=Fold(index=0, count=4), inner=Fold(index=2, count=3))
    found = Counter(zip(table.deal(split), labels, strict=True))
    assert (found[RESERVED, 1], found["test", 1], found["val", 1]) == (15, 15, 6)
    assert (found[RESERVED, 0], found["test", 0], found["val", 0]) == (45, 45, 18)


def test_an_inner_fold_takes_cases_with_a_declared_split_too() -> None:
    labels = [case % 2 for case in range(60)]
    fixed = ["test"] * 12 + ["val"] * 12 + [None] * 36
    dealt = [
        split_cases(
            np.eye(2)[labels],
            [str(case) for case in range(60)],
            [None] * 60,
            split=Split(train=8, val=1, test=1, inner=Fold(index=index, count=3)),
            seed=0,
            names=["no", "yes"],
            dataset="thing",
            fixed=fixed,
        )
        for index in range(3)
    ]
    for each in dealt:
        assert set(each[:12]) == {RESERVED}
        assert set(each[12:24]) == {"val", "test"}
    assert sum(each[12:].count("test") for each in dealt) == 48


def test_an_inner_fold_needs_a_test_split_and_enough_patients() -> None:
    with pytest.raises(ValueError, match="an inner fold needs a test split"):
        Split(train=9, val=1, inner=Fold(index=0, count=3))
    table = Table([0] * 20 + [1] * 4, [str(case) for case in range(24)], [None] * 24, 2)
    split = Split(train=8, val=2, fold=Fold(index=0, count=2), inner=Fold(index=0, count=3))
    with pytest.raises(
        DataError, match=r"2 patients with class 'class1'.* or use fewer inner folds"
    ):
        table.deal(split)
