"""Reading of a dataset to compare readings, and `check_adapter`."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from hydrakit.data.identity import patient_of
from hydrakit.data.prepared.prepare import map_in_order
from hydrakit.data.read import (
    LoadedSample,
    check_channels,
    class_names,
    load_image,
    read_cases,
)
from hydrakit.hooks import DatasetAdapter, OptionValue, Remark, Sample, Unusable
from hydrakit.plugins.process_state import restored

Options = Mapping[str, OptionValue]


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
    adapter: DatasetAdapter, root: Path, options: Options | None = None
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
        first = list(CaseReader(adapter, root, options or {}))
        second = list(CaseReader(adapter, root, options or {}))
    assert not changed, f"reading changed {', '.join(changed)}, for the whole process"
    require_same(first, second)
    return report_of(adapter, [each.case for each in first])


def report_of(adapter: DatasetAdapter, cases: list[Sample | Unusable]) -> AdapterReport:
    """Counts of the cases of a dataset."""
    samples = [case for case in cases if isinstance(case, Sample)]
    names = Counter(
        name
        for sample in samples
        for name in class_names(sample.label, adapter.task, adapter.classes)
    )
    return AdapterReport(
        samples={name: names[name] for name in adapter.classes},
        unlabelled=sum(sample.label is None for sample in samples),
        unusable=dict(Counter(case.reason for case in cases if isinstance(case, Unusable))),
        patients=len({patient_of(sample, exact=adapter.exact_names) for sample in samples}),
        groups=len({sample.group or sample.key for sample in samples}),
        findings=len({(s.patient, s.finding) if s.finding else (s.key,) for s in samples}),
    )


@dataclass(frozen=True, kw_only=True)
class ReadCase:
    """A case that was read, without its pixels.

    Attributes:
        case: The case; the image of a sample is empty.
        digests: A digest of each of its fields and of its pixels, by name.
    """

    case: Sample | Unusable
    digests: dict[str, str]


class CaseReader:
    """Reads the cases of a dataset as a run does, with further checks for its author.

    Args:
        adapter: Adapter of the dataset.
        root: Folder of the dataset.
        options: Options of the adapter, as a user would give them.
        threads: Number of threads that call the functions of images; 0 calls them in this one.

    Attributes:
        stage: What is being read: ``keys``, ``cases`` or ``images``; after an error, where it was.
    """

    def __init__(
        self, adapter: DatasetAdapter, root: Path, options: Options, *, threads: int = 0
    ) -> None:
        self.adapter, self.root, self.options, self.threads = adapter, root, options, threads
        self.stage = "cases"
        self._read_before: dict[str, str] = {}

    def __iter__(self) -> Iterator[ReadCase]:
        """Yield every case once.

        Raises:
            AssertionError: A case breaks a rule.
            DataError: hydrakit cannot read a case.
        """
        with_checks = replace(self.adapter, read=self._checked)
        cases = (
            case
            for case in read_cases(with_checks, self.root, self.options)
            if not isinstance(case, Remark)
        )
        channels: int | None = None
        for loaded in self._in_threads(cases) if self.threads else map(self._loaded, cases):
            if isinstance(loaded, LoadedSample):
                check_channels(self.adapter, loaded, channels=len(loaded.image), before=channels)
                channels = len(loaded.image)
            yield _without_pixels(loaded)
            self.stage = "cases"

    def _loaded(self, case: Sample | Unusable) -> LoadedSample | Unusable:
        if isinstance(case, Unusable):
            return case
        self.stage = "images"
        return load_image(self.adapter, case, warn=False)

    def _in_threads(self, cases: Iterator[Sample | Unusable]) -> Iterator[LoadedSample | Unusable]:
        """Load images as the preparation of a run does."""
        for _, loaded in map_in_order(self._loaded, cases, threads=self.threads):
            yield loaded

    def _checked(self, root: Path, options: object) -> Iterator[Sample | Unusable | Remark]:
        """Check what the engine does not check, or describes in fewer words."""
        for number, case in enumerate(self.adapter.read(root, options), start=1):
            if isinstance(case, Sample | Unusable):
                self._check_key(number, case)
            if isinstance(case, Unusable):
                assert case.reason, f"{case.key!r}: the reason is empty"
                assert "\n" not in case.reason, f"{case.key!r}: the reason must be one line"
            elif isinstance(case, Sample):
                for path in case.source:
                    assert path.exists(), f"{case.key!r}: its source does not exist: {path}"
            yield case

    def _check_key(self, number: int, case: Sample | Unusable) -> None:
        files = case.source if isinstance(case, Sample) else ()
        name = f"case {number}"
        if files:
            name += f" ({', '.join(map(str, files))})"
        before = self._read_before.setdefault(case.key, name)
        if before is not name:
            self.stage = "keys"
            raise AssertionError(
                f"the key {case.key!r} occurs twice: {before} and {name}: give each case a key of "
                "its own, such as the path of its file below the folder"
            )


def _without_pixels(case: LoadedSample | Unusable) -> ReadCase:
    digests = {
        each.name: _digest(getattr(case, each.name))
        for each in fields(case)
        if each.name not in ("image", "padding")
    }
    if isinstance(case, Unusable):
        return ReadCase(case=case, digests=digests)
    pixels = hashlib.sha256(f"{case.image.shape}".encode())
    pixels.update(np.ascontiguousarray(case.image).data)
    if case.padding is not None:
        pixels.update(np.ascontiguousarray(case.padding).data)
    empty = replace(case, image=np.empty((0, 0, 0), np.float32), padding=None)
    return ReadCase(case=empty, digests={**digests, "pixels": pixels.hexdigest()})


def _digest(value: object) -> str:
    if isinstance(value, Mapping):
        value = sorted(value.items())
    return hashlib.sha256(repr(value).encode("utf-8", "backslashreplace")).hexdigest()


def require_same(first: list[ReadCase], second: list[ReadCase]) -> None:
    """Check that two readings gave the same cases; splits and prepared data rely on it.

    Raises:
        AssertionError: They did not; the message names the first differing case and its field.
    """
    difference = difference_of(
        [(each.case.key, each.digests) for each in first],
        [(each.case.key, each.digests) for each in second],
    )
    assert difference is None, f"two readings differ: {difference}"


def difference_of(
    first: list[tuple[str, dict[str, str]]], second: list[tuple[str, dict[str, str]]]
) -> str | None:
    """The first difference of two readings, by key and digests of each case; None if equal."""
    for number, ((one, fields_of_one), (other, fields_of_other)) in enumerate(
        zip(first, second, strict=False), start=1
    ):
        if one != other:
            return (
                f"case {number} is {one!r} in the first and {other!r} in the second: let the order "
                "depend on the files alone: sort them, and draw nothing"
            )
        if set(fields_of_one) != set(fields_of_other):
            return f"case {one!r} is usable in one of them only"
        differing = [name for name in fields_of_one if fields_of_one[name] != fields_of_other[name]]
        if differing:
            return f"case {one!r} has other {' and '.join(differing)}: let it depend on files alone"
    if len(first) != len(second):
        return f"{len(first)} cases in the first and {len(second)} in the second"
    return None
