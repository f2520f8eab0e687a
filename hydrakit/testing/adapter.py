"""Checks of datasets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from hydrakit.data.identity import patient_of
from hydrakit.data.read import LoadedSample, class_names, read_samples
from hydrakit.hooks import DatasetAdapter, Label, OptionValue, Remark, Sample, Unusable
from hydrakit.plugins.process_state import restored


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
    spacing where it is needed, centre inside the image), this checks that the named files exist,
    that both readings give the same cases in the same order, and that reading changes nothing in
    the whole process (`hydrakit.plugins.process_state`).

    Args:
        adapter: The adapter to check.
        root: Folder of the dataset.
        options: Options of the adapter, as a user would give them; None for the defaults.

    Raises:
        AssertionError: A case breaks a rule; the message names the case.
        DataError: hydrakit cannot read a case.
    """
    changed: list[str] = []
    with restored(changed.extend):
        first = [_without_pixels(case) for case in _read(adapter, root, options or {})]
        second = [_without_pixels(case) for case in _read(adapter, root, options or {})]
    assert not changed, f"reading changed {', '.join(changed)}, for the whole process"
    _check_same(first, second)
    samples = [case for case in first if isinstance(case, _Fingerprint)]
    names = Counter(
        name
        for sample in samples
        for name in class_names(sample.label, adapter.task, adapter.classes)
    )
    return AdapterReport(
        samples={name: names[name] for name in adapter.classes},
        unlabelled=sum(sample.label is None for sample in samples),
        unusable=dict(Counter(case.reason for case in first if isinstance(case, Unusable))),
        patients=len({patient_of(sample, exact=adapter.exact_names) for sample in samples}),
        groups=len({sample.group or sample.key for sample in samples}),
        findings=len({(s.patient, s.finding) if s.finding else (s.key,) for s in samples}),
    )


def _read(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue]
) -> Iterator[LoadedSample | Unusable]:
    """Read the cases as a run does, with additional checks for the author of the adapter."""

    def checked(root: Path, options: object) -> Iterator[Sample | Unusable | Remark]:
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
class _Fingerprint:
    """A sample with a digest in place of its pixels."""

    key: str
    label: Label | None
    patient: str
    group: str | None
    finding: str | None
    centre: tuple[float, float] | None
    spacing: tuple[float, float] | None
    extent: tuple[float, float] | None
    split: str | None
    facts: Mapping[str, str | float]
    subgroups: Mapping[str, str]
    source: tuple[Path, ...]
    shape: tuple[int, ...]
    pixels: str
    named: bool


def _without_pixels(case: LoadedSample | Unusable) -> _Fingerprint | Unusable:
    if isinstance(case, Unusable):
        return case
    facts = {name: value for name, value in vars(case).items() if name not in ("image", "padding")}
    digest = hashlib.sha256(case.image.tobytes()).hexdigest()
    return _Fingerprint(**facts, shape=case.image.shape, pixels=digest)


def _check_same(
    first: list[_Fingerprint | Unusable], second: list[_Fingerprint | Unusable]
) -> None:
    """Check that two readings gave the same cases; splits and prepared data rely on it."""
    keys, again = ([case.key for case in cases] for cases in (first, second))
    assert keys == again, (
        "two readings gave different cases or another order: sort the files that you list"
    )
    for one, two in zip(first, second, strict=True):
        assert one == two, f"{one.key!r}: two readings gave different content"
