"""What the tests of a dataset plugin call: read everything, and check it against the rules.

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
    """What an adapter gave.

    Attributes:
        samples: Number of labelled samples by the class's name; every class is there.
        unlabelled: Number of samples without a label.
        unusable: Number of cases without a sample, by reason.
        patients: Number of different patients.
        groups: Number of different groups, those of one sample included.
        findings: Number of different findings, those of one sample included.
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
    spacing where it is needed, centre inside the image), this checks that the named files exist,
    and that both readings give the same cases in the same order.

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
    """The cases as the engine reads them, with what only an author needs to know checked too."""

    def checked(root: Path, options: object) -> Iterator[Sample | Unusable]:
        for case in adapter.read(root, options):
            if isinstance(case, Unusable):
                assert case.reason, f"{case.key!r}: the reason is empty"
                assert "\n" not in case.reason, f"{case.key!r}: the reason must be one line"
            elif isinstance(case, Sample):
                for path in case.source:
                    assert path.exists(), f"{case.key!r}: its source does not exist: {path}"
            yield case

    return read_samples(replace(adapter, read=checked), root, options)


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
