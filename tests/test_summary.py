"""What a check finds: counts, facts, copies, shortcuts, and everything that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checked import CLASSES, picture, usual, write
from helpers import adapter as standin
from hypothesis import given, settings
from hypothesis import strategies as st

from hydrakit.data.declared.adapter import plugins_at
from hydrakit.data.prepared.index import PreparedCase, PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.check import (
    default_split,
    excluded_if_none_usable,
    summarise,
    summarise_unusable,
)
from hydrakit.data.quality.summary import Summary
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Sample, Unusable
from hydrakit.plan import Split

EIGHT_ONE_ONE = Split(train=8, val=1, test=1)


def look(folder: Path, **changes: object) -> Summary:
    """The summary of a declared dataset in a folder called ``lesions``."""
    adapter = plugins_at(None, {"lesions": folder}).get(DatasetAdapter, "lesions")
    cache = folder.parent / "cache"
    prepared = prepare(adapter, folder, options={}, patch=16, cache=cache)
    return summarise(adapter, prepared, **changes)


def look_at(
    samples: list[Sample | Unusable], folder: Path, **changes: object
) -> tuple[Summary, PreparedDataset, DatasetAdapter]:
    """The summary of samples that are in no file."""
    adapter = replace(standin("lesions", CLASSES), read=lambda _, __: iter(samples), **changes)
    folder.mkdir(exist_ok=True)
    prepared = prepare(adapter, folder, options={}, patch=16, cache=folder.parent / "cache")
    return summarise(adapter, prepared), prepared, adapter


def sample(number: int, **changes: object) -> Sample:
    given = {
        "image": picture(number).astype(np.float32),
        "label": number % 2,
        "patient": f"p{number}",
        "key": f"k{number}",
    }
    return Sample(**{**given, **changes})


def kinds(summary: Summary) -> tuple[list[str], list[str]]:
    return [each.kind for each in summary.problems], [each.kind for each in summary.warnings]


def test_a_dataset_in_order_has_no_problem(tmp_path: Path) -> None:
    summary = look(write(tmp_path / "lesions", usual(40)))
    assert kinds(summary) == ([], [])
    assert summary.split == EIGHT_ONE_ONE
    headers, rows = summary.count_table()
    assert headers == ["class", "train", "val", "test", "all", "patients"]
    assert rows == [
        ["benign", 16, 2, 2, 20, 20],
        ["malignant", 16, 2, 2, 20, 20],
        ["all", 32, 4, 4, 40, 40],
        ["patients", 32, 4, 4, 40, ""],
    ]
    assert "8-1-1, seed 0" in summary.split_description


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0, 1, None]), st.integers(0, 9)), min_size=24,
                max_size=40))  # fmt: skip
def test_the_counts_are_those_of_the_cases(
    tmp_path_factory: pytest.TempPathFactory, given_: list[tuple[int | None, int]]
) -> None:
    folder = tmp_path_factory.mktemp("made") / "lesions"
    samples: list[Sample | Unusable] = [
        sample(number, label=label, patient=f"p{patient}")
        for number, (label, patient) in enumerate(given_)
    ]
    summary, _, _ = look_at(samples, folder)
    headers, rows = summary.count_table()
    by_name = {str(row[0]): dict(zip(headers[1:], row[1:], strict=True)) for row in rows}
    labels = Counter(label for label, _ in given_)
    assert by_name["benign"]["all"] == labels[0]
    assert by_name["malignant"]["all"] == labels[1]
    assert by_name.get("(no label)", {"all": 0})["all"] == labels[None]
    assert by_name["all"]["patients"] == len({patient for _, patient in given_})
    if not summary.problems:
        for name in ("benign", "malignant"):
            assert sum(by_name[name][split] for split in summary.splits) == by_name[name]["all"]
        owners: dict[str, set[str | None]] = {}
        for case in summary.cases:
            if case.label is not None:
                owners.setdefault(case.patient, set()).add(case.split)
        assert all(len(splits) == 1 for splits in owners.values())


def test_ranges_are_numpys(tmp_path: Path) -> None:
    sizes = [(30, 41), (25, 60), (50, 33), (31, 33)] * 10
    samples: list[Sample | Unusable] = [
        sample(number, image=picture(number, height=h, width=w).astype(np.float32),
               spacing=(0.5, 0.25 * (1 + number % 3)), facts={"mode": "RGB" if number % 4 else "L"})
        for number, (h, w) in enumerate(sizes)
    ]  # fmt: skip
    summary, _, _ = look_at(samples, tmp_path / "lesions")
    found = {each.fact: each for each in summary.ranges}
    expected = {
        "height": [h for h, _ in sizes],
        "width": [w for _, w in sizes],
        "row spacing": [0.5] * 40,
        "column spacing": [0.25 * (1 + number % 3) for number in range(40)],
        "mean value": [each.image.mean(dtype=np.float64) for each in samples],
        "value deviation": [each.image.std(dtype=np.float64) for each in samples],
    }
    for name, values in expected.items():
        told = found[name]
        assert (told.low, told.median, told.high) == pytest.approx(
            (min(values), np.median(values), max(values))
        )
        assert told.cases == 40
    (mode,) = (each for each in summary.values if each.fact == "mode")
    assert mode.values == {"RGB": 30, "L": 10}
    order = [each.fact for each in summary.ranges]
    assert order[:4] == ["width", "height", "row spacing", "column spacing"]


def test_the_header_is_not_told_twice(tmp_path: Path) -> None:
    facts = [{"rows": 64.0, "columns": float(32 if n % 3 else 64)} for n in range(40)]
    samples: list[Sample | Unusable] = [sample(n, facts=facts[n]) for n in range(40)]
    names = {each.fact for each in look_at(samples, tmp_path / "lesions")[0].ranges}
    assert {"width", "height", "columns"} < names  # square images, and a header that differs
    assert "rows" not in names


def test_unusable_cases_keep_their_reasons_and_keys(tmp_path: Path) -> None:
    broken = ["03.png", "07.png"]
    summary = look(write(tmp_path / "lesions", usual(30), broken=broken))
    assert kinds(summary) == ([], ["unusable"])
    assert len(summary.cases) == 28
    (warning,) = summary.warnings
    assert warning.text.startswith("2 cases cannot be used: ")
    assert list(warning.keys) == [each.key for each in summary.unusable]
    assert all(name in key for name, key in zip(broken, warning.keys, strict=True))


def test_more_than_half_unusable_is_a_problem(tmp_path: Path) -> None:
    cases = usual(42)
    summary = look(write(tmp_path / "lesions", cases, broken=list(cases)[:22]))
    assert kinds(summary) == (["unusable"], ["unusable"])
    assert summary.problems[0].text == "22 of 42 cases, more than half, cannot be used"
    half = look(write(tmp_path / "half" / "lesions", cases, broken=list(cases)[:21]))
    assert kinds(half) == ([], ["unusable"])


def test_no_usable_case_is_told_with_its_reasons(tmp_path: Path) -> None:
    cases: list[Sample | Unusable] = [
        Unusable(key="a", reason="no image"),
        sample(0, image=np.ones((8, 8), dtype=np.float32)),
    ]
    with pytest.raises(DataError, match="no usable case"):
        look_at(cases, tmp_path / "lesions")
    adapter = replace(standin("lesions", CLASSES), read=lambda _, __: iter(cases))
    unusable = excluded_if_none_usable(adapter, tmp_path, {}, patch=16)
    assert unusable is not None
    assert {each.key: each.reason for each in unusable} == {
        "a": "no image",
        "k0": "the image has no contrast",
    }
    summary = summarise_unusable(adapter, unusable)
    assert kinds(summary) == (["unusable"], ["unusable", "unusable"])
    cases.append(sample(1))
    assert excluded_if_none_usable(adapter, tmp_path, {}, patch=16) is None


def test_an_empty_class_is_a_problem(tmp_path: Path) -> None:
    cases = {name: (image, "benign", patient, split)
             for name, (image, _, patient, split) in usual(20).items()}  # fmt: skip
    summary = look(write(tmp_path / "lesions", cases))
    assert kinds(summary)[0] == ["empty class"]
    assert "'malignant'" in summary.problems[0].text
    assert summary.splits == ()


def test_no_label_at_all_is_one_problem(tmp_path: Path) -> None:
    samples: list[Sample | Unusable] = [sample(number, label=None) for number in range(6)]
    summary, _, _ = look_at(samples, tmp_path / "lesions")
    assert kinds(summary)[0] == ["unlabelled"]
    assert summary.counts()[-2][0] == "(no label)"


def test_too_few_patients_is_a_problem_that_other_shares_may_solve(tmp_path: Path) -> None:
    folder = write(tmp_path / "lesions", usual(5))  # three benign, two malignant
    summary = look(folder)
    assert kinds(summary)[0] == ["few patients"]
    assert "'malignant'" in summary.problems[0].text
    assert not summary.problems[0].text.startswith("lesions")
    assert kinds(look(folder, split=Split(train=9, val=1))) == ([], [])


def test_copies_with_different_labels_are_a_problem(tmp_path: Path) -> None:
    cases = usual(30)
    same = cases["04.png"][0]
    cases["05.png"] = (same, *cases["05.png"][1:])
    cases["07.png"] = (cases["06.png"][0], *cases["07.png"][1:])
    summary = look(write(tmp_path / "lesions", cases))
    assert kinds(summary) == (["conflict"], ["copies"])
    text = summary.problems[0].text
    for word in ("04.png", "(benign)", "05.png", "(malignant)", "1 more such group"):
        assert word in text
    assert [pair.across_labels for pair in summary.copies] == [True, True]


def test_an_image_of_one_patient_with_two_labels_is_a_problem_and_two_findings_are_none(
    tmp_path: Path,
) -> None:
    cases = usual(30)
    image, label, patient, *more = cases["04.png"]
    assert label == "benign"
    cases["again.png"] = (image, "malignant", patient, *more)
    summary = look(write(tmp_path / "lesions", cases))
    assert kinds(summary) == (["conflict"], [])
    assert summary.problems[0].keys == ("04.png", "again.png")
    (group,) = summary.conflicts
    assert group.keys == ("04.png", "again.png")
    assert (group.pair.kind, group.pair.agreement, group.pair.across_labels) == ("exact", 1, True)
    assert summary.copies == ()


@pytest.mark.parametrize("share", [0.4, 1.0])  # the whole image is moved to the position, too
@pytest.mark.parametrize("apart", [0.0, 9.0])
def test_two_findings_of_one_image_conflict_only_at_one_position(
    tmp_path: Path, share: float, apart: float
) -> None:
    samples = [
        replace(
            sample(n, image=picture(n // 2).astype(np.float32), patient=f"p{n // 2}"),
            centre=(20.0 + apart * (n % 2), 20.0),
        )
        for n in range(40)
    ]
    view = {"field_of_view": FieldOfView(share=share)}
    summary, _, _ = look_at(samples, tmp_path / "lesions", **view)
    assert len(summary.conflicts) == (0 if apart else 20)


def test_copies_with_equal_labels_are_a_warning_and_stay_together(tmp_path: Path) -> None:
    cases = usual(40)
    for copy in ("06.png", "08.png"):
        cases[copy] = (cases["04.png"][0], *cases[copy][1:])
    brighter = np.clip(cases["10.png"][0].astype(int) // 2 + 60, 0, 255).astype(np.uint8)
    cases["12.png"] = (np.ascontiguousarray(brighter[:, ::-1]), *cases["12.png"][1:])
    summary = look(write(tmp_path / "lesions", cases))
    assert kinds(summary) == ([], ["copies"])
    assert "5 cases are copies" in summary.warnings[0].text
    assert "2 groups" in summary.warnings[0].text
    assert sorted(map(len, summary.groups)) == [2, 3]
    (near,) = (pair for pair in summary.copies if pair.kind == "near")
    assert near.flip == "horizontal"
    assert near.similarity > 0.98
    split_of = {case.key: case.split for case in summary.cases}
    for group in summary.groups:
        assert len({split_of[key] for key in group}) == 1


@pytest.mark.parametrize("by", ["patient", "copy"])
def test_what_lies_across_declared_splits_is_a_problem(tmp_path: Path, by: str) -> None:
    cases = usual(20)
    splits = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    for (name, (image, label, patient, _)), split in zip(
        list(cases.items()), splits, strict=True
    ):  # fmt: skip
        cases[name] = (image, label, patient, split)
    ordered = look(write(tmp_path / "lesions", cases))
    assert kinds(ordered) == ([], [])
    assert ordered.split_description == "as the dataset declares it"
    assert [case.split for case in ordered.cases] == splits
    if by == "patient":
        image, label, _, split = cases["18.png"]
        cases["18.png"] = (image, label, cases["02.png"][2], split)
    else:
        cases["18.png"] = (cases["02.png"][0], *cases["18.png"][1:])
    summary = look(write(tmp_path / "again" / "lesions", cases))
    assert kinds(summary)[0] == ["declared splits"]
    text = summary.problems[0].text
    for word in ("02.png", "(train)", "18.png", "(test)"):
        assert word in text
    assert "patient-" not in text


@pytest.mark.parametrize("absent", ["val", "one class of test"])
def test_a_declared_split_without_a_class_is_named(tmp_path: Path, absent: str) -> None:
    cases = usual(40)
    for n, name in enumerate(cases):
        split = "test" if n >= 30 and (absent == "val" or n % 2 == 0) else "train"
        split = "val" if absent != "val" and 20 <= n < 30 else split
        cases[name] = (*cases[name][:3], split)
    summary = look(write(tmp_path / "lesions", cases), split=EIGHT_ONE_ONE)
    (problem,) = summary.problems
    assert problem.kind == "declared splits"
    split, name = ("val", "benign") if absent == "val" else ("test", "malignant")
    assert f"no case of class {name!r} is left for {split!r}" in problem.text


def test_columns_and_files_that_are_not_used_are_in_the_summary(tmp_path: Path) -> None:
    folder = write(tmp_path / "lesions", usual(20))
    table = folder / "cases.csv"
    lines = table.read_text().splitlines()
    lines = [f"{lines[0].replace('patient', 'Subject')},age", *(f"{line},40" for line in lines[1:])]
    table.write_text("\n".join(lines))
    summary = look(folder)
    assert kinds(summary) == ([], ["reading", "patients"])
    assert "the column 'Subject' is not used" in summary.warnings[0].text
    assert "each image counts as its own patient" in summary.warnings[1].text
    assert summary.remarks == ("cases.csv: columns that are not used: Subject, age",)


def test_some_declared_splits_stand_and_the_others_are_dealt(tmp_path: Path) -> None:
    cases = usual(40)
    for name in ("00.png", "01.png"):
        cases[name] = (*cases[name][:3], "test")
    summary = look(write(tmp_path / "lesions", cases))
    assert summary.declared == 2
    assert [case.split for case in summary.cases][:2] == ["test", "test"]
    assert summary.split_description.startswith(
        "2 cases as the dataset declares them, the others 8-1-1"
    )


def test_a_dataset_of_train_and_val_alone_is_looked_at_as_a_support() -> None:
    def case(split: str | None) -> PreparedCase:
        return PreparedCase(key="k", label=0, patient="p", group=None, finding="k", split=split)

    assert default_split([case("train"), case("val")]) == Split(train=9, val=1)
    assert default_split([case("train"), case(None)]) == EIGHT_ONE_ONE
    assert default_split([case("train"), case("val"), case("test")]) == EIGHT_ONE_ONE
    assert default_split([]) == EIGHT_ONE_ONE


def test_a_fact_that_tells_the_class_is_a_warning(tmp_path: Path) -> None:
    def facts(number: int) -> dict[str, str | float]:
        return {"scanner": "one" if number % 2 else "two", "dose": float(number % 7)}

    samples: list[Sample | Unusable] = [sample(n, facts=facts(n)) for n in range(60)]
    summary, _, _ = look_at(samples, tmp_path / "lesions")
    assert kinds(summary) == ([], ["shortcut"])
    assert "scanner alone predicts 'malignant': AUC 1.00" in summary.warnings[0].text


def test_shapes_that_are_probably_read_wrongly_are_a_warning(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def samples(shape: tuple[int, ...], **more: object) -> list[Sample | Unusable]:
        return [sample(n, image=rng.random(shape).astype(np.float32), **more) for n in range(30)]

    def shape_warnings(name: str, cases: list[Sample | Unusable], **changes: object) -> list[str]:
        summary, _, _ = look_at(cases, tmp_path / name, **changes)
        return [each.text for each in summary.warnings if each.kind == "shape"]

    assert shape_warnings("a", samples((4, 16, 16))) == []
    many, thin = shape_warnings("b", samples((28, 28, 3)))
    assert "28 channels" in many
    assert thin.startswith("30 cases with a side under 16 pixels")
    view = FieldOfView(millimetres=50)
    assert shape_warnings("c", samples((40, 40), spacing=(0.7, 0.7)), field_of_view=view) == []
    (wide,) = shape_warnings("d", samples((40, 40), spacing=(0.07, 0.07)), field_of_view=view)
    assert wide.startswith("30 cases, image less than 1/2 as wide as the field of view of 50 mm")


def test_many_strong_facts_take_few_lines(tmp_path: Path) -> None:
    facts = {f"fact {name}": "x" for name in "abcdef"}
    samples: list[Sample | Unusable] = [
        sample(n, facts={name: f"{value}{n % 2}" for name, value in facts.items()})
        for n in range(60)
    ]
    warnings = look_at(samples, tmp_path / "lesions")[0].warnings
    assert len(warnings) == 4
    told = " ".join(each.text for each in warnings)
    assert all(name in told for name in facts)


def test_a_number_is_a_fact_of_its_own(tmp_path: Path) -> None:
    samples: list[Sample | Unusable] = [sample(n, label=n / 4) for n in range(30)]
    summary, _, _ = look_at(samples, tmp_path / "lesions", task="regression", classes=("age",))
    (age,) = (each for each in summary.ranges if each.fact == "age")
    assert (age.low, age.median, age.high) == (0.0, 3.625, 7.25)
    assert summary.count_table()[1][0][0] == "age"
    assert kinds(summary) == ([], [])


def test_labels_may_be_several(tmp_path: Path) -> None:
    samples: list[Sample | Unusable] = [
        sample(n, label=(n % 2, int(n % 3 == 0))) for n in range(60)
    ]
    summary, _, _ = look_at(samples, tmp_path / "lesions", task="multilabel")
    counts = {name: len(cases) for name, cases in summary.counts()}
    assert counts == {"benign": 30, "malignant": 20, "all": 60}
    unsure = [
        replace(each, label=(each.label[0], None) if n % 4 == 0 else each.label)
        for n, each in enumerate(samples)
    ]
    summary, _, _ = look_at(unsure, tmp_path / "unsure", task="multilabel")
    counts = {name: len(cases) for name, cases in summary.counts()}
    assert counts == {"benign": 30, "malignant": 15, "malignant?": 15, "all": 60}
    assert kinds(summary) == ([], [])
    always = [replace(each, label=(1, each.label[1])) for each in samples]
    empty, _, _ = look_at(always, tmp_path / "always", task="multilabel")
    assert kinds(empty)[0] == ["empty class"]
    assert "'not benign'" in empty.problems[0].text


@pytest.mark.shared
def test_the_brain_data(shared_data: Path, tmp_path: Path) -> None:
    adapter = plugins_at(None, {}).get(DatasetAdapter, "brain")
    prepared = prepare(adapter, shared_data / "brain", options={}, patch=65, cache=tmp_path)
    summary = summarise(adapter, prepared)
    assert [len(cases) for _, cases in summary.counts()] == [98, 155, 253]
    assert summary.problems == ()
    assert not any(pair.across_labels for pair in summary.copies)
    assert 25 <= len(summary.groups) <= 40
    assert {"patients", "copies", "shortcut"} == {each.kind for each in summary.warnings}
    strong = {each.fact for each in summary.shortcuts if each.strong}
    assert strong & {"size", "width", "height"}
