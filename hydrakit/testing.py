"""Checks for the tests of a dataset plugin.

from hydrakit.testing import check_adapter

def test_adapter(tmp_path):
make_a_few_files(tmp_path)
checked = check_adapter(ADAPTER, tmp_path)
assert checked.samples == {"benign": 2, "malignant": 1}
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hydrakit.data.read import LoadedSample, class_names, read_samples
from hydrakit.hooks import DatasetAdapter, Label, OptionValue, Sample, Unusable


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """Counts of the cases that an adapter returned.

    Attributes:
        samples: Number of labelled samples of each class, by name.
        unlabelled: Number of samples without a label.
        unusable: Number of unusable cases, by reason.
        patients: Number of different patients.
        groups: Number of different groups; a sample without a group is one of its own.
        findings: Number of different findings; a sample without a finding is one of its own.
    """

    samples: dict[str, int]
    unlabelled: int
    unusable: dict[str, int]
    patients: int
    groups: int
    findings: int


def check_adapter(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue] | None = None
) -> AdapterReport:
    """Read every case of a dataset twice, and check that each follows the rules of `Sample`.

    Beyond what the engine checks whenever it reads (float32, finite, label in range, unique keys,
    spacing where it is needed, centre inside the image), this checks the types of all fields,
    that the named files exist, and that both readings give the same cases in the same order.

    Args:
        adapter: The adapter to check.
        root: The dataset's folder.
        options: The adapter's options as a user would give them; the others have their defaults.

    Raises:
        AssertionError: The first rule that a case breaks; the message names the case.
        DataError: As the engine would raise it.
    """
    first = [_without_pixels(case) for case in _read(adapter, root, options or {})]
    second = [_without_pixels(case) for case in _read(adapter, root, options or {})]
    _check_same(first, second)
    samples = [case for case in first if isinstance(case, _Read)]
    names = Counter(
        name
        for sample in samples
        for name in class_names(sample.label, adapter.task, adapter.classes)
    )
    return AdapterReport(
        samples={name: names[name] for name in adapter.classes},
        unlabelled=sum(sample.label is None for sample in samples),
        unusable=dict(Counter(case.reason for case in first if isinstance(case, Unusable))),
        patients=len({sample.patient for sample in samples}),
        groups=len({sample.group or sample.key for sample in samples}),
        findings=len({(s.patient, s.finding) if s.finding else (s.key,) for s in samples}),
    )


def _read(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> Iterator[LoadedSample | Unusable]:
    """The cases as the engine reads them, with the types checked before the engine sees them."""

    def typed(root: Path, options: object) -> Iterator[Sample | Unusable]:
        for case in adapter.read(root, options):
            _check_types(case)
            yield case

    return read_samples(replace(adapter, read=typed), root, options)


def _check_types(case: object) -> None:
    if isinstance(case, Unusable):
        _check_text(case.key, "key", case.key)
        _check_text(case.reason, "reason", case.key)
        assert "\n" not in case.reason, f"{case.key!r}: the reason must be one line"
        return
    assert isinstance(case, Sample), f"read gave a {type(case).__name__}, not Sample or Unusable"
    key = case.key
    _check_text(key, "key", key)
    _check_text(case.patient, "patient", key)
    if case.group is not None:
        _check_text(case.group, "group", key)
    if case.finding is not None:
        _check_text(case.finding, "finding", key)
    assert case.split in (None, "train", "val", "test"), f"{key!r}: split is {case.split!r}"
    for name, value in case.facts.items():
        _check_text(name, "a fact's name", key)
        assert isinstance(value, str | int | float), f"{key!r}: fact {name!r} is {value!r}"
    for name, value in case.subgroups.items():
        _check_text(name, "a subgroup's name", key)
        _check_text(value, f"subgroup {name!r}", key)
    _check_pair(case.centre, "centre", key)
    _check_pair(case.spacing, "spacing", key)
    assert isinstance(case.source, tuple), f"{key!r}: source is not a tuple of paths"
    for path in case.source:
        assert isinstance(path, Path), f"{key!r}: source holds a {type(path).__name__}"
        assert path.exists(), f"{key!r}: its source does not exist: {path}"


def _check_text(value: object, what: str, key: object) -> None:
    assert isinstance(value, str), f"{key!r}: {what} is a {type(value).__name__}, not a str"
    assert value, f"{key!r}: {what} is empty"


def _check_pair(value: object, what: str, key: str) -> None:
    if value is None:
        return
    assert isinstance(value, tuple), f"{key!r}: {what} is a {type(value).__name__}, not a tuple"
    assert len(value) == 2, f"{key!r}: {what} has {len(value)} numbers, not (row, column)"
    for number in value:
        assert isinstance(number, int | float), f"{key!r}: {what} holds a {type(number).__name__}"


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A sample with the digest of its pixels in their place."""

    key: str
    label: Label | None
    patient: str
    group: str | None
    finding: str | None
    centre: tuple[float, float] | None
    spacing: tuple[float, float] | None
    split: str | None
    facts: Mapping[str, str | float]
    subgroups: Mapping[str, str]
    source: tuple[Path, ...]
    shape: tuple[int, ...]
    pixels: str


def _without_pixels(case: LoadedSample | Unusable) -> _Read | Unusable:
    if isinstance(case, Unusable):
        return case
    facts = {name: value for name, value in vars(case).items() if name != "image"}
    digest = hashlib.sha256(case.image.tobytes()).hexdigest()
    return _Read(**facts, shape=case.image.shape, pixels=digest)


def _check_same(first: list[_Read | Unusable], second: list[_Read | Unusable]) -> None:
    """Splits and prepared data rely on a dataset that reads alike every time."""
    keys, again = ([case.key for case in cases] for cases in (first, second))
    assert keys == again, "two readings gave other cases, or in another order: sort what you list"
    for one, two in zip(first, second, strict=True):
        assert one == two, f"{one.key!r}: two readings gave something else"
