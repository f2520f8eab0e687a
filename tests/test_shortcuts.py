from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from hydrakit.data.quality.duplicates import (
    assign_groups,
    content_digest,
    find_duplicates,
    texture,
    thumbnail,
)
from hydrakit.data.quality.shortcuts import (
    Shortcut,
    category_auc,
    find_shortcuts,
    image_facts,
)
from hydrakit.data.read import LoadedSample, read_samples
from hydrakit.stats.intervals import newcombe_interval
from hydrakit_brain import hydrakit_dataset_adapters

TWO_CLASSES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=25).filter(
    lambda cases: len({positive for _, positive in cases}) == 2
)


def of(facts: list[dict[str, str | float]], labels: list[int]) -> dict[str, Shortcut]:
    found = find_shortcuts(facts, labels, list(range(len(labels))))
    return {shortcut.fact: shortcut for shortcut in found}


# AUCs


@given(TWO_CLASSES)
def test_the_auc_of_categories_leaves_out_each_pair(cases: list[tuple[int, bool]]) -> None:
    """Counted anew for each pair of a positive and a negative case."""
    wins = []
    for i, (category_i, positive_i) in enumerate(cases):
        for j, (category_j, positive_j) in enumerate(cases):
            if not positive_i or positive_j:
                continue
            rest = [case for k, case in enumerate(cases) if k not in (i, j)]
            prior = np.mean([positive for _, positive in rest]) if rest else 0.5
            scores = []
            for category in (category_i, category_j):
                inside = [positive for other, positive in rest if other == category]
                scores.append((sum(inside) + prior) / (len(inside) + 1))
            same = abs(scores[0] - scores[1]) < 1e-12
            wins.append(0.5 if same else float(scores[0] > scores[1]))
    categories = np.array([category for category, _ in cases])
    positive = np.array([positive for _, positive in cases])
    assert category_auc(categories, positive) == pytest.approx(np.mean(wins))


def test_chance_gives_a_half_however_many_categories() -> None:
    rng = np.random.default_rng(0)
    positive = np.arange(30) < 12
    for count in (1, 2, 8, 30, 200):
        drawn = [category_auc(rng.integers(0, count, 30), positive) for _ in range(400)]
        assert np.mean(drawn) == pytest.approx(0.5, abs=0.02)


# Shortcuts


def test_a_scanner_that_tells_the_label_is_strong_and_a_constant_is_no_fact() -> None:
    labels = [0] * 20 + [1] * 20
    facts: list[dict[str, str | float]] = [
        {"scanner": "new" if label else "old", "format": "PNG", "bits": 8.0} for label in labels
    ]
    found = of(facts, labels)
    assert set(found) == {"scanner"}
    scanner = found["scanner"]
    assert (scanner.auc, scanner.label, scanner.high, scanner.strong) == (1, 1, 1, True)
    assert (scanner.positives, scanner.negatives) == (20, 20)
    assert scanner.low == newcombe_interval(1.0, 20, 20)[0]
    assert scanner.only == (("new", 1, 20), ("old", 0, 20))


def test_numbers_tell_in_either_direction_and_from_the_middle() -> None:
    rng = np.random.default_rng(1)
    labels = [0] * 60 + [1] * 60
    label = np.array(labels)
    middle = np.where(label == 1, rng.uniform(-1, 1, 120), rng.uniform(1.2, 4, 120))
    values = {
        "up": label + rng.normal(0, 0.5, 120),
        "down": -label + rng.normal(0, 0.5, 120),
        "middle": np.where(label == 1, middle, middle * rng.choice([-1, 1], 120)),
        "noise": rng.normal(size=120),
    }
    facts: list[dict[str, str | float]] = [
        {name: float(column[case]) for name, column in values.items()} for case in range(120)
    ]
    found = of(facts, labels)
    assert {name for name, shortcut in found.items() if shortcut.strong} == {
        "up",
        "down",
        "middle",
    }
    up = roc_auc_score(labels, values["up"])
    assert found["up"].auc == pytest.approx(up)
    interval = newcombe_interval(float(up), 60, 60, level=0.975)
    assert (found["up"].low, found["up"].high) == pytest.approx(interval)
    assert found["down"].auc == pytest.approx(1 - roc_auc_score(labels, values["down"]))
    assert abs(roc_auc_score(labels, values["middle"]) - 0.5) < 0.15
    assert found["noise"].low <= 0.5
    assert found["noise"].auc >= 0.5


def test_the_strongest_comes_first() -> None:
    labels = [0, 1] * 15
    facts: list[dict[str, str | float]] = [
        {"a": str(label if case % 4 else 1), "b": str(label)} for case, label in enumerate(labels)
    ]
    found = find_shortcuts(facts, labels, list(range(30)))
    assert [shortcut.fact for shortcut in found] == ["b", "a"]


def test_a_unit_has_one_vote_for_each_class() -> None:
    # One patient with 50 slices tells nothing that 50 patients would.
    labels = [0] * 10 + [1] * 60
    units = [*range(10), *([10] * 50), *range(11, 21)]
    facts: list[dict[str, str | float]] = [{"scanner": "a"}] * 10
    facts += [{"scanner": "b"}] * 50 + [{"scanner": "a"}] * 10
    (shortcut,) = find_shortcuts(facts, labels, units)
    assert (shortcut.positives, shortcut.negatives, shortcut.strong) == (11, 10, False)
    (alone,) = find_shortcuts(facts, labels, list(range(70)))
    assert (alone.positives, alone.negatives, alone.strong) == (60, 10, True)


def test_a_unit_with_cases_of_both_classes_votes_in_both() -> None:
    labels = [0, 1, 0, 1]
    facts: list[dict[str, str | float]] = [{"s": "x"}, {"s": "x"}, {"s": "y"}, {"s": "y"}]
    (shortcut,) = find_shortcuts(facts, labels, ["p", "p", "q", "q"])
    assert (shortcut.positives, shortcut.negatives) == (2, 2)
    assert shortcut.auc <= 0.5


def test_a_fact_that_is_absent_in_one_class_is_one_too() -> None:
    labels = [0] * 15 + [1] * 15
    rng = np.random.default_rng(2)
    facts: list[dict[str, str | float]] = [
        {"b-value": float(rng.normal())} if label else {} for label in labels
    ]
    facts[-1] = {"b-value": float("nan")}
    found = of(facts, labels)
    assert set(found) == {"b-value given"}
    assert found["b-value given"].strong
    assert found["b-value given"].only == (("given", 1, 14),)


def test_of_several_classes_the_best_told_is_named() -> None:
    labels = [0, 1, 2] * 12
    facts: list[dict[str, str | float]] = [{"kind": "z" if x == 2 else "w"} for x in labels]
    found = of(facts, labels)
    assert (found["kind"].label, found["kind"].auc) == (2, 1)
    assert found["kind"].low == newcombe_interval(1.0, 12, 24, level=1 - 0.05 / 3)[0]


def test_one_class_or_no_facts_give_no_shortcuts() -> None:
    assert find_shortcuts([{"a": "x"}, {"a": "y"}], [1, 1], [0, 1]) == []
    assert find_shortcuts([{}, {}], [0, 1], [0, 1]) == []
    assert find_shortcuts([], [], []) == []


@pytest.mark.parametrize("kind", ["number", "two values", "five categories", "many categories"])
def test_random_labels_are_seldom_a_strong_shortcut(kind: str) -> None:
    rng = np.random.default_rng(3)
    strong = 0
    for _ in range(300):
        labels = rng.permutation([0] * 25 + [1] * 35).tolist()
        drawn: list[str | float] = {
            "number": lambda: rng.normal(size=60).tolist(),
            "two values": lambda: rng.integers(0, 2, 60).astype(float).tolist(),
            "five categories": lambda: [str(value) for value in rng.integers(0, 5, 60)],
            "many categories": lambda: [str(value) for value in rng.integers(0, 60, 60)],
        }[kind]()
        (shortcut,) = of([{"fact": value} for value in drawn], labels).values()
        strong += shortcut.strong
    assert strong <= 0.02 * 300


# Facts of an image


def test_facts_of_an_image() -> None:
    image = np.zeros((2, 3, 4), dtype=np.float32)
    image[:, 1, 1:3] = 100  # the inner pixels
    image[0, 0, 0] = 40  # of 2 x 10 border pixels
    sample = LoadedSample(image=image, label=0, patient="p", key="k", spacing=(0.5, 0.75))
    assert image_facts(sample) == {
        "width": 4.0,
        "height": 3.0,
        "size": "4 x 3",
        "aspect ratio": 4 / 3,
        "border value": 2.0,
        "row spacing": 0.5,
        "column spacing": 0.75,
    }
    seven = np.full((1, 1, 1), 7, dtype=np.float32)
    single = LoadedSample(image=seven, label=0, patient="p", key="k")
    assert image_facts(single)["border value"] == 7
    assert "row spacing" not in image_facts(single)


def test_brain_images_tell_their_label_by_size_and_by_suffix(shared_data: Path) -> None:
    (adapter,) = hydrakit_dataset_adapters()
    samples = [
        case
        for case in read_samples(adapter, shared_data / "brain", {})
        if isinstance(case, LoadedSample)
    ]
    copies = find_duplicates(
        np.stack([thumbnail(sample.image) for sample in samples]),
        [content_digest(sample.image) for sample in samples],
        lambda chosen: np.stack([texture(samples[index].image) for index in chosen]),
    )
    count = len(samples)
    patients = [sample.patient for sample in samples]
    units = assign_groups(["brain"] * count, patients, [None] * count, copies)
    facts = [{**image_facts(sample), **sample.facts} for sample in samples]
    labels = [int(sample.label or 0) for sample in samples]
    found = {shortcut.fact: shortcut for shortcut in find_shortcuts(facts, labels, units)}
    strong = {name for name, shortcut in found.items() if shortcut.strong}
    assert strong == {"width", "height", "aspect ratio", "suffix"}
    assert found["mode"].only == (("RGBA", 0, 3),)
    assert not found["border value"].strong
