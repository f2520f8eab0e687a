"""The gate: over all datasets of a run, no patient, group or copy on two sides of a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import helpers
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrakit.data.prepared.index import PreparedCase, PreparedDataset
from hydrakit.data.quality.duplicates import content_digest, texture, thumbnail
from hydrakit.data.quality.leakage import (
    CONFLICTING,
    DROPPED,
    WITHHELD,
    LeakageResult,
    assign_splits,
    data_facts,
    shortcut_facts,
)
from hydrakit.data.quality.split import RESERVED
from hydrakit.errors import DataError
from hydrakit.plan import Copies, Fold, Split
from hydrakit.storage.paths import using_cache

THREE, TWO = Split(train=8, val=1, test=1), Split(train=9, val=1)


@dataclass
class Index:
    cases: list[PreparedCase]
    content: str = "content"
    channels: int = 1
    excluded: tuple[()] = ()

    @property
    def patches(self) -> list[str]:
        return [case.content for case in self.cases]


@dataclass
class Data:
    """What the gate reads of a prepared dataset: cases with the thumbnails of their images."""

    index: Index
    images: list[np.ndarray]

    def thumbnails(self) -> np.ndarray:
        return np.stack([thumbnail(image) for image in self.images])

    def textures(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([texture(self.images[row]) for row in rows])

    def stored(self, rows: Sequence[int]) -> np.ndarray:
        return np.stack([self.images[row] for row in rows])


def picture(seed: int) -> np.ndarray:
    """An image with detail, unlike that of any other seed."""
    return np.random.default_rng(seed).normal(size=(1, 40, 40)).astype(np.float32)


def case(key: str, image: np.ndarray, **more: Any) -> PreparedCase:
    values = {"label": 0, "patient": key, "group": None, "finding": key, "split": None}
    return PreparedCase(key=key, content=content_digest(image), **{**values, **more})


def dataset(*cases: tuple[int, dict[str, Any]]) -> Data:
    """Cases as (seed of their picture, what differs from the defaults)."""
    images = [picture(seed) for seed, _ in cases]
    made = [
        case(more.get("key", f"c{number}"), image, **{k: v for k, v in more.items() if k != "key"})
        for number, (image, (_, more)) in enumerate(zip(images, cases, strict=True))
    ]
    return Data(Index(made), images)


def plenty(start: int = 0, count: int = 40, **more: Any) -> list[tuple[int, dict[str, Any]]]:
    return [(start + n, {"label": n % 2, "patient": f"p{start + n}", **more}) for n in range(count)]


def deal(
    cache: Path, *, cohort: str | None = None, target: Split = THREE, **datasets: Data
) -> LeakageResult:
    adapters = {name: replace(helpers.adapter(name), cohort=cohort) for name in datasets}
    first = next(iter(datasets))
    with using_cache(cache):
        return assign_splits(
            cast("dict[str, PreparedDataset]", datasets),
            adapters,
            splits={name: target if name == first else TWO for name in datasets},
            seed=0,
            copies="group",
            conflicts="error",
        )


@st.composite
def several_datasets(draw: st.DrawFn) -> dict[str, Data]:
    """One to three datasets: patients of 1 to 6 images, groups, and copies within and across."""
    made, next_seed = {}, 0
    for name in ("alpha", "beta", "gamma")[: draw(st.integers(1, 3))]:
        cases: list[tuple[int, dict[str, Any]]] = []
        for patient in range(draw(st.integers(40, 50))):
            for _ in range(draw(st.integers(1, 6)) if patient % 7 == 0 else 1):
                copied = draw(st.integers(0, 30)) == 0 and next_seed > 0
                seed = draw(st.integers(0, next_seed - 1)) if copied else next_seed
                next_seed += not copied
                group = f"g{draw(st.integers(0, 2))}" if draw(st.integers(0, 15)) == 0 else None
                cases.append(
                    (seed, {"label": patient % 2, "patient": f"p{patient}", "group": group})
                )
        made[name] = dataset(*cases)
    return made


@given(
    several_datasets(),
    st.integers(0, 2**31),
    st.sampled_from([None, "one clinic"]),
    st.sampled_from([None, Fold(index=1, count=3)]),
)
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_is_on_two_sides(
    tmp_path_factory: pytest.TempPathFactory,
    datasets: dict[str, Data],
    seed: int,
    cohort: str | None,
    inner: Fold | None,
) -> None:
    adapters = {name: replace(helpers.adapter(name), cohort=cohort) for name in datasets}
    try:
        gate = assign_splits(
            cast("dict[str, PreparedDataset]", datasets),
            adapters,
            splits={
                name: THREE.model_copy(update={"inner": inner}) if name == "alpha" else TWO
                for name in datasets
            },
            seed=seed,
            copies="group",
            conflicts="keep",
        )
    except DataError as error:  # copies may join so much that the splits cannot be filled
        known = ("too few", "leave this dataset out", "is left for")
        if not any(words in str(error) for words in known):
            raise
        return
    homes: dict[object, set[str]] = {}
    for name, data in datasets.items():
        for each in data.index.cases:
            split = gate.splits[name][each.key]
            assert split in ("train", "val", "test", WITHHELD, *([RESERVED] if inner else []))
            side = "test" if split in (WITHHELD, RESERVED) else split
            owner = cohort or name
            for thing in ((owner, each.patient), each.content, (name, "group", each.group)):
                if thing[-1] is not None:
                    homes.setdefault(thing, set()).add(side)
    assert {thing: found for thing, found in homes.items() if len(found) > 1} == {}


def test_what_a_support_shares_with_the_targets_test_split_is_withheld(tmp_path: Path) -> None:
    target = dataset(*plenty())
    support = dataset(*plenty(100), *[(n, {"label": n % 2, "patient": f"x{n}"}) for n in range(40)])
    for number, each in enumerate(support.index.cases):
        support.index.cases[number] = each.model_copy(update={"key": f"s{number}"})
    gate = deal(tmp_path, alpha=target, beta=support)
    for number in range(40):
        of_target = gate.splits["alpha"][f"c{number}"]
        of_copy = gate.splits["beta"][f"s{40 + number}"]
        assert of_copy == (WITHHELD if of_target == "test" else of_target)
    assert gate.groups == 40
    assert gate.copied == {"alpha": 40, "beta": 40}
    assert {(pair.one[0], pair.other[0]) for pair in gate.copies} == {("alpha", "beta")}
    assert all(pair.copy.kind == "exact" for pair in gate.copies)


@pytest.mark.parametrize("cohort", ["clinic", None])
def test_an_inner_fold_and_the_test_split_are_both_kept_from_supports(
    tmp_path: Path, cohort: str | None
) -> None:
    """Patients of one cohort, or copies of their images."""
    datasets = {"alpha": dataset(*plenty(count=60)), "beta": dataset(*plenty(count=60))}
    if cohort:
        beta = datasets["beta"]
        beta.images = [picture(1000 + n) for n in range(60)]
        beta.index.cases = [
            each.model_copy(update={"content": content_digest(image)})
            for each, image in zip(beta.index.cases, beta.images, strict=True)
        ]
    whole = deal(tmp_path, cohort=cohort, **datasets)
    tested = set()
    for index in range(3):
        target = THREE.model_copy(update={"inner": Fold(index=index, count=3)})
        gate = deal(tmp_path, cohort=cohort, target=target, **datasets)
        for key, split in gate.splits["alpha"].items():
            assert (split == RESERVED) == (whole.splits["alpha"][key] == "test")
            withheld = split in ("test", RESERVED)
            assert gate.splits["beta"][key] == (WITHHELD if withheld else split)
        tested |= {key for key, split in gate.splits["alpha"].items() if split == "test"}
    assert tested == {key for key, split in whole.splits["alpha"].items() if split != "test"}


def test_what_the_target_does_not_use_a_support_may_use(tmp_path: Path) -> None:
    datasets = {"alpha": dataset(*plenty()), "beta": dataset(*plenty())}
    whole = deal(tmp_path, **datasets)
    gate = deal(tmp_path, target=THREE.model_copy(update={"used": 0.5}), **datasets)
    assert set(gate.splits["alpha"].values()) == {"train", "val", "test", "unused"}
    assert set(gate.splits["beta"].values()) == {"train", "val", WITHHELD}
    for key, split in gate.splits["alpha"].items():
        assert split in (whole.splits["alpha"][key], "unused")
        if split != "unused":
            assert gate.splits["beta"][key] == (WITHHELD if split == "test" else split)


def test_datasets_of_one_cohort_share_patients_and_others_do_not(tmp_path: Path) -> None:
    alpha, beta = dataset(*plenty()), dataset(*plenty(0))
    beta.images = [picture(1000 + n) for n in range(40)]
    beta.index.cases = [
        each.model_copy(update={"content": content_digest(image)})
        for each, image in zip(beta.index.cases, beta.images, strict=True)
    ]
    shared = deal(tmp_path / "a", cohort="clinic", alpha=alpha, beta=beta)
    assert WITHHELD in shared.splits["beta"].values()
    apart = deal(tmp_path / "b", alpha=alpha, beta=beta)
    assert WITHHELD not in apart.splits["beta"].values()


def test_copies_with_different_labels_are_an_error_that_names_both(tmp_path: Path) -> None:
    cases = [*plenty(), (0, {"label": 1, "patient": "twin", "key": "the copy"})]
    with pytest.raises(
        DataError, match=r"alpha: c0 \(benign\) and the copy \(malignant\) are copies"
    ):
        deal(tmp_path, alpha=dataset(*cases))
    kept = assign_splits(
        cast("dict[str, PreparedDataset]", {"alpha": dataset(*cases)}),
        {"alpha": helpers.adapter("alpha")},
        splits={"alpha": THREE},
        seed=0,
        copies="group",
        conflicts="keep",
    )
    assert kept.splits["alpha"]["c0"] == kept.splits["alpha"]["the copy"]


@pytest.mark.parametrize("copies", ["group", "drop", "report"])
def test_all_cases_with_contradictory_labels_are_dropped(copies: Copies, tmp_path: Path) -> None:
    cases = [
        *plenty(),
        (0, {"label": 1, "patient": "twin", "key": "the copy"}),  # of c0, which has label 0
        (0, {"label": 0, "patient": "third", "key": "with the first label"}),
        (5, {"label": 0, "patient": "p5", "key": "of one patient"}),  # of c5, which has label 1
        (7, {"label": 1, "patient": "other", "key": "no conflict"}),  # of c7, which has label 1
    ]
    beta = dataset(*plenty(100), (0, {"label": 1, "patient": "b", "key": "elsewhere"}))
    both = {"alpha": dataset(*cases), "beta": beta}
    adapters = {name: helpers.adapter(name) for name in both}
    with using_cache(tmp_path):
        gate = assign_splits(
            cast("dict[str, PreparedDataset]", both),
            adapters,
            splits={"alpha": THREE, "beta": TWO},
            seed=0,
            copies=copies,
            conflicts="drop",
        )
    dropped = {key for key, split in gate.splits["alpha"].items() if split == CONFLICTING}
    assert dropped == {"c0", "the copy", "with the first label", "c5", "of one patient"}
    assert gate.splits["beta"]["elsewhere"] in {"train", "val"}  # labels of another meaning
    assert {key for group in gate.conflicts["alpha"] for key in group} == dropped
    assert (gate.splits["alpha"]["no conflict"] == DROPPED) == (copies == "drop")
    facts = data_facts(both["alpha"].index, adapters["alpha"], gate)  # type: ignore[arg-type]
    assert set(facts.conflicting) == dropped
    assert sum(facts.cases.values()) + facts.dropped == 39 + 1 - 1
    assert "conflicting" not in data_facts(beta.index, adapters["beta"], gate).model_dump()  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["group", "drop", "report"])
def test_copies_are_grouped_dropped_or_told(mode: str, tmp_path: Path) -> None:
    cases = plenty(count=60)
    cases += [(n, {"label": n % 2, "patient": f"twin{n}", "key": f"twin{n}"}) for n in range(20)]
    gate = assign_splits(
        cast("dict[str, PreparedDataset]", {"alpha": dataset(*cases)}),
        {"alpha": helpers.adapter("alpha")},
        splits={"alpha": THREE},
        seed=1,
        copies=mode,  # type: ignore[arg-type]
        conflicts="error",
    )
    splits = gate.splits["alpha"]
    pairs = [(splits[f"c{n}"], splits[f"twin{n}"]) for n in range(20)]
    assert gate.groups == 20
    if mode == "group":
        assert all(one == other for one, other in pairs)
    elif mode == "drop":
        assert all(DROPPED in pair for pair in pairs)
        assert list(splits.values()).count(DROPPED) == 20
    else:
        assert any(one != other for one, other in pairs)


def test_a_split_that_the_dataset_declares_is_kept(tmp_path: Path) -> None:
    cases = plenty()
    declared = ["train", "val", "test", "train"]
    cases = [(n, {**more, "split": declared[(n // 2) % 4]}) for n, more in cases]
    gate = deal(tmp_path, alpha=dataset(*cases))
    for number, (_, more) in enumerate(cases):
        assert gate.splits["alpha"][f"c{number}"] == more["split"]
    torn = [(n, {**more, "patient": f"p{n // 3}"}) for n, more in cases]
    with pytest.raises(DataError, match="alpha: patient 'p0' is put into 'train'"):
        deal(tmp_path, alpha=dataset(*torn))


def test_copies_are_looked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydrakit.data.quality import leakage as module

    data = dataset(*plenty(), (3, {"label": 1, "patient": "twin", "key": "twin"}))
    first = deal(tmp_path, alpha=data)
    kept = next(tmp_path.glob("copies-*.json"))
    monkeypatch.setattr(module, "find_duplicates", None)
    assert deal(tmp_path, alpha=data) == first
    kept.write_text("{")
    monkeypatch.undo()
    assert deal(tmp_path, alpha=data) == first


def test_shortcuts_name_the_fact_and_the_class() -> None:
    cases = [
        case(
            f"c{n}", picture(n), label=n % 2, facts={"mode": "RGB" if n % 2 else "L", "width": 9.0}
        )
        for n in range(60)
    ]
    units = {each.key: each.key for each in cases}
    found = shortcut_facts(cases, helpers.adapter("alpha"), units)
    assert [(each.fact, each.class_name, each.auc, each.strong) for each in found] == [
        ("mode", "malignant", 1.0, True)
    ]
    assert shortcut_facts(cases, replace(helpers.adapter("alpha"), task="regression"), units) == ()
