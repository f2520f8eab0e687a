"""Earlier results are compared with what they came from: which differences are seen."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from helpers import adapter, refused, write_dataset
from hypothesis import given
from hypothesis import strategies as st

from hydrakit.data.origin import DataOrigin, in_class_order, origins_digest, refuse_changed
from hydrakit.data.read import label_names, read_samples
from hydrakit.hooks import FieldOfView, Sample, Window
from hydrakit.weights.format import IMAGE_BYTES, MAX_IMAGES, TrainingCases, seen_in_training

WHOLE = DataOrigin(
    content="a" * 64,
    classes=("neg", "pos"),
    task="classification",
    field_of_view=FieldOfView(share=1.0),
    normalise="patient",
    splits="b" * 64,
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": ("pos", "neg"), "content": "c" * 64}, "its classes were neg, pos and are pos"),
        ({"task": "multilabel"}, "its labels were for classification"),
        ({"content": "c" * 64}, "its cases, images, labels or patients are others"),
        (
            {"content": "c" * 64, "field_of_view": FieldOfView(millimetres=65)},
            "its field of view was 1 of the image and is 65 mm",
        ),
        (
            {"normalise": Window(window=(0, 255))},
            "normalisation of its grey values was z-score per patient and is window 0 to 255",
        ),
        ({"splits": "c" * 64}, "in other splits"),
    ],
)
def test_each_difference_is_named_with_the_remedy(changes: dict[str, object], words: str) -> None:
    now = WHOLE.model_copy(update=changes)
    refused(
        lambda: refuse_changed("skin", WHOLE, now, since="the run in R began", remedy="go away"),
        "skin: the data has changed since the run in R began",
        words,
        "restore the data, or go away",
    )
    assert origins_digest({"skin": WHOLE}) != origins_digest({"skin": now}) or "task" in changes


def test_digests_of_earlier_versions_stay_as_they_were() -> None:
    # Computed by the version before there were rules.
    expected = "06a55dc20aa4d077d1a30bc9032cb942d4e225aa1c1e19a99ed6b255669d87d5"
    for rule in (None, "patient"):
        assert origins_digest({"skin": WHOLE.model_copy(update={"normalise": rule})}) == expected


def test_what_one_of_the_two_does_not_state_is_not_compared() -> None:
    assert WHOLE.change_to(WHOLE) is None
    for name in DataOrigin.model_fields:
        other = WHOLE.model_copy(update={"content": "c" * 64, name: None})
        assert (other.change_to(WHOLE) is None) == (name == "content")
    # Equal contents show the same pixels, whatever the field of view is called.
    assert WHOLE.change_to(WHOLE.model_copy(update={"field_of_view": None})) is None
    view = WHOLE.model_copy(update={"content": None, "field_of_view": FieldOfView(share=0.5)})
    assert WHOLE.change_to(view) is not None


@given(
    st.permutations(("a", "b", "c")),
    st.integers(0, 2),
    st.tuples(*[st.sampled_from([0, 1, None])] * 3),
)
def test_a_case_keeps_the_names_of_its_classes_in_any_order(
    order: list[str], label: int, flags: tuple[int | None, ...]
) -> None:
    for task, old in (("classification", label), ("multilabel", flags)):
        cases = [Sample(image=lambda: None, label=old, patient="p", key="k")]  # type: ignore[arg-type, return-value]
        before = replace(
            adapter("alpha", ("a", "b", "c")),
            task=task,  # type: ignore[arg-type]
            read=lambda _, given: iter(given),
        )
        (moved,) = in_class_order(before, order).read(Path(), cases)
        assert isinstance(moved, Sample)
        names = label_names(old, before.task, before.classes)  # type: ignore[arg-type]
        assert set(label_names(moved.label, before.task, order)) == set(names)


def test_invalid_labels_are_left_to_the_reader(tmp_path: Path) -> None:
    write_dataset(tmp_path / "alpha", seed=0, classes=3)
    two = adapter("alpha")
    for classes in permutations(two.classes):
        turned = in_class_order(two, classes)
        refused(lambda turned=turned: list(read_samples(turned, tmp_path / "alpha", {})), "label 2")


@given(st.lists(st.binary(min_size=32, max_size=32), unique=True), st.integers(0, 30))
def test_images_of_the_training_are_recognised_and_no_others(
    digests: list[bytes], split: int
) -> None:
    contents = [each.hex() for each in digests]
    trained, other = contents[:split], contents[split:]
    cases = TrainingCases.of(trained, {"alpha": "Ward 7", "beta": None})
    again = TrainingCases.model_validate_json(cases.model_dump_json())
    assert seen_in_training(trained, again) == [True] * len(trained)
    known = {each[: 2 * IMAGE_BYTES] for each in trained}
    assert seen_in_training(other, again) == [e[: 2 * IMAGE_BYTES] in known for e in other]
    assert seen_in_training([""], again) == [False]
    assert "Ward" not in cases.model_dump_json()
    assert cases.cohorts.keys() == {"alpha"}


def test_a_large_training_is_stored_in_part() -> None:
    contents = [f"{number:010x}{'0' * 54}" for number in range(MAX_IMAGES + 5)]
    cases = TrainingCases.of(reversed(contents), {})
    assert len(cases.images) < 140_000
    assert seen_in_training(contents, cases) == [True] * MAX_IMAGES + [False] * 5
