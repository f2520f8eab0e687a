"""No patient, group or copy in two splits, over random datasets."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from hydrakit.data.quality.duplicates import assign_groups, find_duplicates
from hydrakit.data.quality.split import DeclaredSplitError, split_cases, unit_numbers
from hydrakit.errors import DataError
from hydrakit.plan import Split


def vectors(count: int, seed: int) -> np.ndarray:
    """Thumbnails of images that look like nothing."""
    rows = np.random.default_rng(seed).normal(size=(count, 576)).astype(np.float32)
    rows[:, 0] = 0
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class World:
    """Random datasets: patients of 1 to 6 images, groups of patients, copies anywhere."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.datasets: list[str] = []
        self.patients: list[str] = []
        self.groups: list[str | None] = []
        for name in ["a", "b", "c"][: int(rng.integers(1, 4))]:
            for patient in range(int(rng.integers(12, 40))):
                images = int(rng.integers(1, 7))
                exam = f"g{rng.integers(6)}" if rng.random() < 0.15 else None
                self.datasets += [name] * images
                self.patients += [f"p{patient}"] * images
                self.groups += [exam if rng.random() < 0.7 else None for _ in range(images)]
        count = len(self.datasets)
        self.labels = rng.integers(0, 2, count)
        self.people = {"a": "x", "b": "x"} if rng.random() < 0.3 else {}
        self.thumbnails = vectors(count, seed)
        self.digests = [str(index) for index in range(count)]
        self.planted: list[tuple[int, int]] = []
        for _ in range(int(rng.integers(0, 9))):
            one, other = (int(index) for index in rng.choice(count, 2, replace=False))
            self.thumbnails[other] = self.thumbnails[one]
            if rng.random() < 0.5:
                self.digests[other] = self.digests[one]
            self.planted = [pair for pair in self.planted if other not in pair]
            self.planted.append((one, other))

    def split(self, seed: int) -> list[str]:
        """As a run does: datasets in order, and what is decided in one holds in the next."""
        scopes = [self.people.get(name, f"only {name}") for name in self.datasets]
        own = [f"{s}/{p}" for s, p in zip(scopes, self.patients, strict=True)]
        found = find_duplicates(
            self.thumbnails,
            self.digests,
            lambda chosen: np.full((len(chosen), 128, 128), 8, dtype=np.int8),
            units=unit_numbers(own, [None] * len(own)),
        )
        units = assign_groups(self.datasets, self.patients, self.groups, found, people=self.people)
        decided: dict[str, str] = {}
        splits = [""] * len(units)
        for name in dict.fromkeys(self.datasets):
            rows = [row for row, dataset in enumerate(self.datasets) if dataset == name]
            dealt = split_cases(
                np.eye(2)[self.labels[rows]],
                [self.patients[row] for row in rows],
                [units[row] for row in rows],
                split=Split(train=8, val=1, test=1) if name == "a" else Split(train=9, val=1),
                seed=seed,
                names=["no", "yes"],
                dataset=name,
                fixed=[decided.get(units[row]) for row in rows],
            )
            for row, split in zip(rows, dealt, strict=True):
                splits[row] = split
                decided[units[row]] = split
        return splits


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_no_patient_group_or_copy_is_in_two_splits_of_many_random_datasets(count: int) -> None:
    done = 0
    used: Counter[str] = Counter()
    for seed in range(count + count // 20):
        world = World(seed)
        try:
            splits = world.split(seed * 7919)
        except DataError as error:
            if "too few" not in str(error) and not isinstance(error, DeclaredSplitError):
                raise
            continue
        done += 1
        used.update(splits)
        together: dict[tuple[str, ...], str] = {}
        rows = zip(world.datasets, world.patients, world.groups, splits, strict=True)
        for dataset, patient, group, split in rows:
            scope = world.people.get(dataset, f"only {dataset}")
            assert together.setdefault(("patient", scope, patient), split) == split
            if group is not None:
                assert together.setdefault(("group", dataset, group), split) == split
        for one, other in world.planted:
            assert splits[one] == splits[other]
    assert done >= count
    assert set(used) == {"train", "val", "test"}
