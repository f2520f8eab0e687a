"""Leakage check before training: no patient, group or copy may be in two splits.

The check covers all datasets of a run together, because a patient or an image can be in several of
them. The target is split first; cases of a support dataset that share a patient or copy with the
target's test split are withheld.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from hydrakit.data.identity import is_identified, is_named, names_nobody, normal_name, patient_of
from hydrakit.data.prepared.index import Index, PreparedCase, PreparedDataset
from hydrakit.data.quality.duplicates import (
    MIN_AGREEMENT,
    MIN_DETAIL,
    TEXTURE,
    THRESHOLD,
    Conflict,
    Copy,
    Int8Array,
    assign_groups,
    conflict_error,
    copy_groups,
    duplicates_to_drop,
    find_conflicts,
    find_duplicates,
)
from hydrakit.data.quality.left_out import has_value, parts_without
from hydrakit.data.quality.shortcuts import find_shortcuts
from hydrakit.data.quality.split import RESERVED, UNUSED, split_cases
from hydrakit.data.read import class_names, label_names
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Conflicts, Copies, Plan, Split
from hydrakit.plan.results import DataFacts, ShortcutFact
from hydrakit.stats.tasks import strata, strata_names
from hydrakit.storage.files import MAX_WEIGHTS, read_whole, write_atomic
from hydrakit.storage.paths import cache_folder

FORMAT = 2  # version of the cached list of copies; increase when the detection changes
WITHHELD = "withheld"
_log = logging.getLogger(__name__)
DROPPED = "dropped"
CONFLICTING = "conflicting"


@dataclass(frozen=True)
class DuplicateCases:
    """Two cases that are copies of one another.

    Attributes:
        one: Dataset and key of one case.
        other: Dataset and key of the other case.
        copy: Indices and similarity of the two images.
    """

    one: tuple[str, str]
    other: tuple[str, str]
    copy: Copy


@dataclass(frozen=True)
class LeakageResult:
    """Result of the leakage check: splits, units and copies of all datasets.

    Attributes:
        splits: Split of each labelled case, by dataset and key: ``train``, ``val``, ``test``;
            ``withheld`` (a support's case that belongs to the target's test split), ``dropped`` (a
            copy), ``conflicting`` (dropped, because a copy has another label), ``unused`` (if the
            plan uses a share of the dataset), or ``reserved`` (the test split, if an inner fold
            takes its place; and what is neither tested nor trained on while a value of a subgroup
            is left out; a support's case that belongs to either is withheld too).
        units: Name of the unit (patient, group or copies) of each case, by dataset and key.
        copies: Enough pairs to join all copies into their groups.
        copied: Number of cases in groups of copies, by dataset.
        groups: Number of groups of copies.
        conflicts: Groups of cases that show one image with different labels, as keys by dataset;
            the first two of a group have different labels.
    """

    splits: dict[str, dict[str, str]]
    units: dict[str, dict[str, str]]
    copies: tuple[DuplicateCases, ...] = ()
    copied: dict[str, int] = field(default_factory=dict)
    groups: int = 0
    conflicts: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class _LabelledCase:
    """A labelled case of one of the datasets."""

    dataset: str
    case: PreparedCase


def check_leakage(
    prepared: Mapping[str, PreparedDataset],
    adapters: Mapping[str, DatasetAdapter],
    plan: Plan,
    *,
    begun: bool = False,
    warn: bool = True,
) -> LeakageResult:
    """Find copies, refuse copies with conflicting labels, and split every dataset of a plan.

    Args:
        prepared: Prepared patches of the datasets, by name.
        adapters: Adapters of the datasets, by name.
        plan: Plan with the splits and the treatment of copies.
        begun: Only warn of patients with the same names in two datasets: the run has trained.
        warn: Warn of how the datasets were read: not again for further splits of the same data.

    Raises:
        DataError: A dataset has too few cases for its splits, copies have different labels, or two
            datasets without a common cohort have patients of the same names.
    """
    for name, each in prepared.items():
        for text in reading_warnings(each, adapters[name]) if warn else ():
            _log.warning("%s: %s", name, text)
    for one, other in combinations(prepared, 2):
        _check_people(prepared, adapters, (one, other), strangers=plan.strangers, begun=begun)
    order = sorted(prepared, key=lambda name: name != plan.target)
    splits = {name: plan.dataset(name).split for name in order}
    return assign_splits(
        {name: prepared[name] for name in order},
        adapters,
        splits=splits,
        seed=plan.effective_split_seed,
        copies=plan.copies,
        conflicts=plan.conflicts,
    )


def assign_splits(
    prepared: Mapping[str, PreparedDataset],
    adapters: Mapping[str, DatasetAdapter],
    *,
    splits: Mapping[str, Split],
    seed: int,
    copies: Copies,
    conflicts: Conflicts,
) -> LeakageResult:
    """Check and split datasets in the given order, without a plan; see `check_leakage`."""
    rows, units = _labelled(prepared, adapters)
    duplicates = _find_copies(prepared, rows, units)
    conflicting = _find_conflicts(prepared, rows, units, duplicates)
    if conflicting and conflicts == "error":
        _refuse_conflicts(conflicting, rows, adapters)
    out = {i for each in conflicting for i in each.cases} if conflicts == "drop" else set()
    dropped = duplicates_to_drop(duplicates, units, unused=out) if copies == "drop" else set()
    datasets, cases = [row.dataset for row in rows], [row.case for row in rows]
    names = unit_names(datasets, cases, adapters, duplicates if copies == "group" else ())

    left_out = next((each.left_out for each in splits.values() if each.left_out), None)
    unit_splits: dict[str, str] = {}  # the split of each unit in the datasets before
    assigned: dict[str, dict[str, str]] = {name: {} for name in prepared}
    for name in prepared:
        members = [i for i, row in enumerate(rows) if row.dataset == name]
        withheld = {i for i in members if unit_splits.get(names[i]) in ("test", RESERVED)}
        own = splits[name].left_out
        if left_out is not None and own is None:
            withheld |= {i for i in members if has_value(rows[i].case, left_out)}
        for i in members:
            status = CONFLICTING if i in out else DROPPED if i in dropped else WITHHELD
            assigned[name][rows[i].case.key] = status
        remaining = [i for i in members if i not in out | dropped | withheld]
        if out.issuperset(members):
            raise DataError(
                f"{name}: every case has a copy with another label, so that `--conflicts drop` "
                "leaves none: correct the labels"
            )
        fixed = [_fixed(rows[i], unit_splits.get(names[i])) for i in remaining]
        if splits[name].final:
            fixed = [None if split == "test" else split for split in fixed]
        case_splits = _split(
            [rows[i].case for i in remaining],
            [names[i] for i in remaining],
            adapters[name],
            fixed=fixed,
            split=splits[name],
            seed=seed,
        )
        for i, split in zip(remaining, case_splits, strict=True):
            assigned[name][rows[i].case.key] = split
            if split != UNUSED:
                unit_splits[names[i]] = split
    groups = copy_groups(duplicates, len(rows))
    copied = [rows[i].dataset for group in groups for i in group]
    all_names = names if copies == "group" else unit_names(datasets, cases, adapters, duplicates)
    by_key: dict[str, dict[str, str]] = {name: {} for name in prepared}
    for row, unit in zip(rows, all_names, strict=True):
        by_key[row.dataset][row.case.key] = unit
    return LeakageResult(
        splits=assigned,
        units=by_key,
        copies=tuple(_duplicate_cases(copy, rows) for copy in duplicates),
        copied={name: copied.count(name) for name in prepared},
        groups=len(groups),
        conflicts=_conflicts_by_dataset(conflicting, rows),
    )


def find_leaks(
    prepared: Mapping[str, PreparedDataset], adapters: Mapping[str, DatasetAdapter]
) -> tuple[list[Copy], dict[str, list[tuple[str, ...]]]]:
    """Find copies and conflicts without splitting; see `assign_splits` and `LeakageResult`.

    Returns:
        Copies, with indices into all labelled cases, and `LeakageResult.conflicts`.
    """
    rows, units = _labelled(prepared, adapters)
    copies = _find_copies(prepared, rows, units)
    return copies, _conflicts_by_dataset(_find_conflicts(prepared, rows, units, copies), rows)


def _labelled(
    prepared: Mapping[str, PreparedDataset], adapters: Mapping[str, DatasetAdapter]
) -> tuple[list[_LabelledCase], list[int]]:
    """Return the labelled cases of all datasets, and the number of each one's unit."""
    rows: list[_LabelledCase] = []
    for name, each in prepared.items():
        labelled = [
            _LabelledCase(name, case) for case in each.index.cases if case.label is not None
        ]
        if not labelled:
            raise DataError(f"{name}: no case has a label: label some cases to train on it")
        rows += labelled
    datasets, cases = [row.dataset for row in rows], [row.case for row in rows]
    return rows, _numbers(unit_names(datasets, cases, adapters, ()))


def _fixed(row: _LabelledCase, earlier: str | None) -> str | None:
    """Return the split of a case that its dataset, or an earlier dataset, has fixed."""
    own = row.case.split
    if own and earlier and own != earlier:
        raise DataError(
            f"{row.dataset}: case {row.case.key!r} is put into {own!r}, but another dataset of "
            f"this run has its patient or a copy in {earlier!r}: put both into one split"
        )
    return own or earlier


def _split(
    cases: Sequence[PreparedCase],
    names: Sequence[str],
    adapter: DatasetAdapter,
    *,
    fixed: Sequence[str | None],
    split: Split,
    seed: int,
) -> list[str]:
    if not cases:
        raise DataError(
            f"{adapter.name}: every case belongs to a patient or an image of the target's test "
            "split, or has the value that is left out of training: leave this dataset out"
        )
    if split.left_out is not None:
        return _split_without(cases, names, adapter, fixed=fixed, split=split, seed=seed)
    labels = [case.label for case in cases if case.label is not None]
    return split_cases(
        strata(labels, adapter.task, adapter.classes),
        [case.patient for case in cases],
        names,
        split=split,
        seed=seed,
        names=strata_names(adapter.task, adapter.classes),
        dataset=adapter.name,
        fixed=fixed,
    )


def _split_without(
    cases: Sequence[PreparedCase],
    names: Sequence[str],
    adapter: DatasetAdapter,
    *,
    fixed: Sequence[str | None],
    split: Split,
    seed: int,
) -> list[str]:
    """Split as `_split` does, with a value of a subgroup left out of training."""
    assert split.left_out is not None
    if any(fixed):
        raise DataError(
            f"{adapter.name}: some cases have their split from the dataset or another one of this "
            f"run, so that {split.left_out} cannot be left out: use `--holdout`"
        )
    parts = parts_without(cases, names, split.left_out, adapter)
    learning = [i for i, part in enumerate(parts) if part is None]
    if not learning:
        raise DataError(
            f"{adapter.name}: no case is left to train on without {split.left_out} and its "
            "patients: leave out another value"
        )
    try:
        others = _split(
            [cases[i] for i in learning],
            [names[i] for i in learning],
            adapter,
            fixed=[None] * len(learning),
            split=split.model_copy(update={"left_out": None}),
            seed=seed,
        )
    except DataError as error:
        raise DataError(f"{error} (without {split.left_out} and its patients)") from None
    tested = "test" if split.inner is None else RESERVED
    splits = [RESERVED if part is not None and part != "test" else tested for part in parts]
    for i, part in zip(learning, others, strict=True):
        splits[i] = part
    return splits


def unit_names(
    datasets: Sequence[str],
    cases: Sequence[PreparedCase],
    adapters: Mapping[str, DatasetAdapter],
    copies: Sequence[Copy],
) -> list[str]:
    """Return the name of each case's unit: the cases that must stay in one split.

    Args:
        datasets: Name of each case's dataset.
        cases: Cases of one or several datasets.
        adapters: Adapters of the datasets, by name.
        copies: Copies from `find_duplicates` over these cases.
    """
    exact = [adapters[dataset].exact_names for dataset in datasets]
    groups = [
        None if case.group is None else normal_name(case.group, exact=each)
        for case, each in zip(cases, exact, strict=True)
    ]
    return assign_groups(
        datasets,
        [case.patient for case in cases],
        groups,
        copies,
        people={
            name: normal_name(each.cohort)
            for name, each in adapters.items()
            if each.cohort is not None
        },
        identities=[patient_of(case, exact=each) for case, each in zip(cases, exact, strict=True)],
    )


def reading_warnings(prepared: PreparedDataset, adapter: DatasetAdapter) -> Iterator[str]:
    """Yield warnings about how a dataset was read, and about its names."""
    yield from (remark.text for remark in prepared.index.remarks if remark.warning)
    if adapter.exact_names:
        return
    cases = prepared.index.cases
    yield from _spellings(cases)
    nobody = [case for case in cases if is_named(case) and names_nobody(case.patient)]
    if nobody:
        yield (
            f"the patient of {nobody[0].key} is NA, unknown or alike, as is that of "
            f"{len(nobody) - 1} other cases; cases with the same word count as one patient: name "
            "the patients"
        )


def _spellings(cases: Sequence[PreparedCase]) -> Iterator[str]:
    """Warn of patients and groups that are written in several ways; name cases, not patients."""
    for what in ("patient", "group"):
        first: dict[str, PreparedCase] = {}
        pairs: dict[str, PreparedCase] = {}
        for case in cases:
            name = case.patient if what == "patient" else case.group
            if name is None or (what == "patient" and not is_named(case)):
                continue
            normal = normal_name(name)
            before = first.setdefault(normal, case)
            if name != (before.patient if what == "patient" else before.group):
                pairs.setdefault(normal, case)
        for normal, case in list(pairs.items())[:1]:
            one = f"1 {what} is" if len(pairs) == 1 else f"{len(pairs)} {what}s are"
            yield (
                f"{one} written in several ways (first in {first[normal].key} and {case.key}), "
                "which count as one: write each name in one way, or declare "
                "`exact_names = true` if they differ"
            )


def _check_people(
    prepared: Mapping[str, PreparedDataset],
    adapters: Mapping[str, DatasetAdapter],
    pair: tuple[str, str],
    *,
    strangers: bool,
    begun: bool,
) -> None:
    """Check that two datasets share patients if, and only if, they are of one cohort.

    Args:
        prepared: Prepared patches of the datasets, by name.
        adapters: Adapters of the datasets, by name.
        pair: Names of the two datasets.
        strangers: Whether equal names in datasets without a common cohort are a coincidence.
        begun: Whether to warn only.

    Raises:
        DataError: They have patients of the same names, but no common cohort.
    """
    one, other = pair
    names = {
        name: {
            normal_name(case.patient)
            for case in prepared[name].index.cases
            if case.label is not None and is_identified(case)
        }
        for name in pair
    }
    shared = len(names[one] & names[other])
    cohorts = [adapters[name].cohort for name in pair]
    if None not in cohorts and normal_name(cohorts[0] or "") == normal_name(cohorts[1] or ""):
        if not shared:
            _log.warning(
                "%s and %s are of the cohort %r, but have no patient in common: check that both "
                "write the same names",
                *(one, other, cohorts[0]),
            )
        return
    if not shared or strangers:
        return
    text = (
        f"{one}: {shared} of its {len(names[one])} patients have the names of patients of {other}"
    )
    if begun:
        _log.warning("%s: if they are the same people, results are too good", text)
        return
    raise DataError(
        f"{text}: if they are the same people, give both datasets the same cohort "
        '(`cohort = "NAME"` in both dataset.toml files or adapters), which puts each patient into '
        "one split; if the names coincide by chance, add `--strangers` (in the file of a plan: "
        '"strangers": true)'
    )


def _numbers(names: Sequence[str]) -> list[int]:
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def shortcut_facts(
    cases: Sequence[PreparedCase], adapter: DatasetAdapter, units: Mapping[str, str]
) -> tuple[ShortcutFact, ...]:
    """Measure how well facts that should be irrelevant predict the class of a dataset's cases.

    Args:
        cases: Cases of the dataset.
        adapter: Adapter of the dataset; if its labels are not classes, the result is empty.
        units: Unit of each labelled case, by key (`LeakageResult.units`): patients with many
            images, and copies, count once.
    """
    if adapter.task != "classification":
        return ()
    labelled = [(case, case.label) for case in cases if isinstance(case.label, int)]
    shortcuts = find_shortcuts(
        [case.facts for case, _ in labelled],
        [label for _, label in labelled],
        _numbers([units[case.key] for case, _ in labelled]),
    )
    return tuple(
        ShortcutFact(
            fact=each.fact,
            class_name=adapter.classes[each.label],
            auc=each.auc,
            low=each.low,
            high=each.high,
            strong=each.strong,
            only=tuple((value, adapter.classes[label], n) for value, label, n in each.only),
        )
        for each in shortcuts
    )


def _find_copies(
    prepared: Mapping[str, PreparedDataset],
    rows: Sequence[_LabelledCase],
    units: Sequence[int],
) -> list[Copy]:
    """Find the copies among all cases, or load them from the cache folder."""
    contents = [each.index.content for each in prepared.values()]
    facts = [
        FORMAT,
        THRESHOLD,
        MIN_DETAIL,
        MIN_AGREEMENT,
        contents,
        list(units),
        [row.case.content for row in rows],
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    path = cache_folder() / f"copies-{digest[:16]}.json"
    if path.is_file():
        try:
            content = read_whole(path, max_bytes=MAX_WEIGHTS)
            with suppress(OSError):  # a cache that cannot be written
                os.utime(path)  # the time of the last use, for `hydrakit cache`
            return [Copy(**pair) for pair in json.loads(content)]
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)  # incomplete, for example after a full disk: search again
    places = _places(prepared)

    def textures(images: Sequence[int]) -> Int8Array:
        stacked = np.empty((len(images), TEXTURE, TEXTURE), dtype=np.int8)
        for texture, image in zip(stacked, images, strict=True):
            dataset, row = places[image]
            texture[...] = prepared[dataset].textures([row])[0]
        return stacked

    thumbnails = np.concatenate(
        [
            each.thumbnails()[[row for dataset, row in places if dataset == name]]
            for name, each in prepared.items()
        ]
    )
    copies = find_duplicates(thumbnails, [row.case.content for row in rows], textures, units=units)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps([vars(copy) for copy in copies]).encode())
    return copies


def _places(prepared: Mapping[str, PreparedDataset]) -> list[tuple[str, int]]:
    """Return dataset and row of each labelled case, in the order of `_LabelledCase`."""
    return [
        (name, row)
        for name, each in prepared.items()
        for row, case in enumerate(each.index.cases)
        if case.label is not None
    ]


def _find_conflicts(
    prepared: Mapping[str, PreparedDataset],
    rows: Sequence[_LabelledCase],
    units: Sequence[int],
    copies: Sequence[Copy],
) -> list[Conflict]:
    """Find the copies and the equal patches with different labels."""
    labels = [row.case.label for row in rows]
    places = _places(prepared)
    patches: list[str | None] = [prepared[dataset].index.patches[row] for dataset, row in places]
    equal: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
    for i, (row, patch) in enumerate(zip(rows, patches, strict=True)):
        equal[row.dataset, patch].append(i)
    for cases in equal.values():
        if len({labels[i] for i in cases}) > 1:
            dataset, row_number = places[cases[0]]
            if not np.ptp(prepared[dataset].stored([row_number])[0], axis=(1, 2)).any():
                for i in cases:  # for example two lesions outside of the scan
                    patches[i] = None
    datasets = [row.dataset for row in rows]
    return find_conflicts(copies, labels, units=units, datasets=datasets, patches=patches)


def _conflicts_by_dataset(
    conflicts: Sequence[Conflict], rows: Sequence[_LabelledCase]
) -> dict[str, list[tuple[str, ...]]]:
    by_dataset: dict[str, list[tuple[str, ...]]] = {}
    for conflict in conflicts:
        ordered = dict.fromkeys((conflict.one, conflict.other, *conflict.cases))
        keys = tuple(rows[i].case.key for i in ordered)
        by_dataset.setdefault(rows[conflict.one].dataset, []).append(keys)
    return by_dataset


def _refuse_conflicts(
    conflicts: Sequence[Conflict],
    rows: Sequence[_LabelledCase],
    adapters: Mapping[str, DatasetAdapter],
) -> None:
    dataset = rows[conflicts[0].one].dataset
    adapter = adapters[dataset]
    texts = [
        ", ".join(label_names(row.case.label, adapter.task, adapter.classes))
        if row.dataset == dataset
        else ""
        for row in rows
    ]
    raise conflict_error(
        conflicts, names=[row.case.key for row in rows], labels=texts, dataset=dataset
    )


def _duplicate_cases(copy: Copy, rows: Sequence[_LabelledCase]) -> DuplicateCases:
    one, other = rows[copy.one], rows[copy.other]
    return DuplicateCases((one.dataset, one.case.key), (other.dataset, other.case.key), copy)


def data_facts(index: Index, adapter: DatasetAdapter, leakage: LeakageResult) -> DataFacts:
    """Collect the facts of one of a run's datasets for its results.

    Args:
        index: Index of the dataset's prepared data.
        adapter: Adapter of the dataset.
        leakage: Result of the leakage check, with the split of each case.
    """
    labelled = [case for case in index.cases if case.label is not None]
    splits = leakage.splits[adapter.name]
    members: dict[str, list[PreparedCase]] = {}
    for case in labelled:
        members.setdefault(splits[case.key], []).append(case)
    not_used = (CONFLICTING, DROPPED, WITHHELD, UNUSED, RESERVED)
    excluded = {name: len(members.pop(name, ())) for name in not_used}
    by_split = dict(sorted(members.items()))
    unknown = {split: _unknown(cases, adapter) for split, cases in by_split.items()}
    return DataFacts(
        digest=index.content,
        channels=index.channels,
        cases={split: len(cases) for split, cases in by_split.items()},
        counts={split: _counts(cases, adapter) for split, cases in by_split.items()},
        findings={
            split: _counts([*{case.finding: case for case in cases}.values()], adapter)
            for split, cases in by_split.items()
        },
        patients={
            split: len({patient_of(case, exact=adapter.exact_names) for case in cases})
            for split, cases in by_split.items()
        },
        unknown=unknown if any(unknown.values()) else {},
        unlabelled=len(index.cases) - len(labelled),
        excluded=dict(Counter(case.reason for case in index.excluded)),
        copies=leakage.copied.get(adapter.name, 0),
        conflicting=tuple(
            key for group in leakage.conflicts.get(adapter.name, ()) for key in sorted(group)
        ),
        dropped=excluded[DROPPED],
        withheld=excluded[WITHHELD],
        unused=excluded[UNUSED] + excluded[RESERVED],
        shortcuts=shortcut_facts(index.cases, adapter, leakage.units[adapter.name]),
        classes=adapter.classes,
        task=adapter.task,
        field_of_view=adapter.field_of_view,
        normalise=adapter.normalise,
        channel_rule=adapter.channels,
    )


def _counts(cases: Sequence[PreparedCase], adapter: DatasetAdapter) -> dict[str, int]:
    """Count the cases of each class or label."""
    counted = Counter(
        name for case in cases for name in class_names(case.label, adapter.task, adapter.classes)
    )
    return dict(sorted(counted.items()))


def _unknown(cases: Sequence[PreparedCase], adapter: DatasetAdapter) -> dict[str, int]:
    """Count the cases for which a label is unknown, for each label with such cases."""
    labels = [case.label for case in cases if isinstance(case.label, tuple)]
    columns = zip(adapter.classes, zip(*labels, strict=True), strict=True) if labels else ()
    return {name: column.count(None) for name, column in columns if None in column}
