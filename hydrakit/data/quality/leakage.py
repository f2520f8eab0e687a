"""The gate before training: no patient, group or copy on two sides of a split.

It looks at all datasets of a run at once, since a patient or an image can be in two of them, and
deals out the target first: what a support shares with the target's test split is withheld from the
support.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from hydrakit.data.prepared.index import Index, PreparedCase, PreparedDataset
from hydrakit.data.quality.duplicates import (
    MIN_DETAIL,
    THRESHOLD,
    Copy,
    assign_groups,
    conflict_error,
    conflicts,
    copy_groups,
    duplicates_to_drop,
    find_duplicates,
)
from hydrakit.data.quality.shortcuts import shortcuts
from hydrakit.data.quality.split import UNUSED, split_cases
from hydrakit.data.read import class_names
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Copies, Plan, Split
from hydrakit.plan.results import DataFacts, ShortcutFact
from hydrakit.stats.tasks import strata, strata_names
from hydrakit.storage.files import write_atomic
from hydrakit.storage.paths import cache_folder

FORMAT = 1  # of the list of copies that is kept; changes with how they are found
WITHHELD = "withheld"
DROPPED = "dropped"


@dataclass(frozen=True)
class DuplicateCases:
    """Two cases that are copies of one another.

    Attributes:
        one: Dataset and key.
        other: Dataset and key.
        copy: How alike they are.
    """

    one: tuple[str, str]
    other: tuple[str, str]
    copy: Copy


@dataclass(frozen=True)
class LeakageResult:
    """What the gate found and decided.

    Attributes:
        splits: By dataset and key: ``train``, ``val``, ``test``; or ``withheld`` (a support's case
            that belongs to the target's test split), ``dropped`` (a copy), or ``unused`` (where
            the plan uses a share of a dataset).
        copies: Enough pairs to join all copies into their groups.
        copied: By dataset, how many cases are in a group of copies.
        groups: Number of groups of copies.
        units: By dataset and key, the name of the patient, group or copies that a case is one with.
    """

    splits: dict[str, dict[str, str]]
    units: dict[str, dict[str, str]]
    copies: tuple[DuplicateCases, ...] = ()
    copied: dict[str, int] = field(default_factory=dict)
    groups: int = 0


@dataclass(frozen=True)
class _Row:
    """A labelled case of one of the datasets."""

    dataset: str
    case: PreparedCase


def check_leakage(
    prepared: Mapping[str, PreparedDataset],
    adapters: Mapping[str, DatasetAdapter],
    plan: Plan,
) -> LeakageResult:
    """Find copies, refuse conflicts, and split every dataset of a plan.

    Args:
        prepared: The datasets' prepared patches, by name.
        adapters: The datasets.
        plan: Says how to split, and what becomes of copies.

    Raises:
        DataError: A dataset has too few cases for its splits, or copies have different labels.
    """
    order = sorted(prepared, key=lambda name: name != plan.target)
    splits = {name: plan.dataset(name).split for name in order}
    return assign_splits(
        {name: prepared[name] for name in order},
        adapters,
        splits=splits,
        seed=plan.effective_split_seed,
        copies=plan.copies,
        keep_conflicts=plan.conflicts == "keep",
    )


def assign_splits(
    prepared: Mapping[str, PreparedDataset],
    adapters: Mapping[str, DatasetAdapter],
    *,
    splits: Mapping[str, Split],
    seed: int,
    copies: Copies,
    keep_conflicts: bool,
) -> LeakageResult:
    """As `check_leakage`, for datasets in the given order, without a plan."""
    rows: list[_Row] = []
    for name, each in prepared.items():
        labelled = [_Row(name, case) for case in each.index.cases if case.label is not None]
        if not labelled:
            raise DataError(f"{name}: no case has a label: nothing can be trained on it")
        rows += labelled
    units = _numbers(_groups(rows, adapters, ()))
    found = _copies(prepared, rows, units)
    if not keep_conflicts:
        _refuse_conflicts(found, rows, units, adapters)
    dropped = duplicates_to_drop(found, units) if copies == "drop" else set()
    names = _groups(rows, adapters, found if copies == "group" else ())

    decided: dict[str, str] = {}  # the split of a group of cases that an earlier dataset has
    dealt: dict[str, dict[str, str]] = {name: {} for name in prepared}
    for name in prepared:
        members = [i for i, row in enumerate(rows) if row.dataset == name]
        withheld = {i for i in members if decided.get(names[i]) == "test"}
        for i in members:
            dealt[name][rows[i].case.key] = DROPPED if i in dropped else WITHHELD
        left = [i for i in members if i not in dropped and i not in withheld]
        chosen = _split(
            [rows[i].case for i in left],
            [names[i] for i in left],
            adapters[name],
            fixed=[_fixed(rows[i], decided.get(names[i])) for i in left],
            split=splits[name],
            seed=seed,
        )
        for i, split in zip(left, chosen, strict=True):
            dealt[name][rows[i].case.key] = split
            if split != UNUSED:
                decided[names[i]] = split
    groups = copy_groups(found, len(rows))
    copied = [rows[i].dataset for group in groups for i in group]
    joined = names if copies == "group" else _groups(rows, adapters, found)
    together: dict[str, dict[str, str]] = {name: {} for name in prepared}
    for row, unit in zip(rows, joined, strict=True):
        together[row.dataset][row.case.key] = unit
    return LeakageResult(
        splits=dealt,
        units=together,
        copies=tuple(_alike(copy, rows) for copy in found),
        copied={name: copied.count(name) for name in prepared},
        groups=len(groups),
    )


def splits_digest(splits: Mapping[str, str]) -> str:
    """SHA-256 of the split of every case: tells whether a dataset was split alike again."""
    return hashlib.sha256(json.dumps(sorted(splits.items())).encode()).hexdigest()


def _fixed(row: _Row, decided: str | None) -> str | None:
    """The split of a case that its dataset, or an earlier dataset, has fixed."""
    own = row.case.split
    if own and decided and own != decided:
        raise DataError(
            f"{row.dataset}: case {row.case.key!r} is put into {own!r}, but another dataset of "
            f"this run has its patient or a copy in {decided!r}: put both into one split"
        )
    return own or decided


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
            "split: leave this dataset out"
        )
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


def _groups(
    rows: Sequence[_Row], adapters: Mapping[str, DatasetAdapter], found: Sequence[Copy]
) -> list[str]:
    """For each row the name of what it must stay together with."""
    cohorts = {name: each.cohort for name, each in adapters.items() if each.cohort is not None}
    return assign_groups(
        [row.dataset for row in rows],
        [row.case.patient for row in rows],
        [row.case.group for row in rows],
        found,
        people=cohorts,
    )


def _numbers(names: Sequence[str]) -> list[int]:
    numbers: dict[str, int] = {}
    return [numbers.setdefault(name, len(numbers)) for name in names]


def shortcut_facts(
    cases: Sequence[PreparedCase], adapter: DatasetAdapter, units: Mapping[str, str]
) -> tuple[ShortcutFact, ...]:
    """How well facts that should not matter tell the class of a dataset's cases.

    Args:
        cases: Of the dataset.
        adapter: The dataset; where its labels are no classes, nothing is found.
        units: By key, the unit of each labelled case (`LeakageResult.units`): patients with many
            images, and copies, count once.
    """
    if adapter.task != "classification":
        return ()
    labelled = [(case, case.label) for case in cases if isinstance(case.label, int)]
    found = shortcuts(
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
        for each in found
    )


def _copies(
    prepared: Mapping[str, PreparedDataset],
    rows: Sequence[_Row],
    units: Sequence[int],
) -> list[Copy]:
    """The copies among all cases: looked for once, and kept beside the prepared data."""
    contents = [each.index.content for each in prepared.values()]
    facts = [
        FORMAT,
        THRESHOLD,
        MIN_DETAIL,
        contents,
        list(units),
        [row.case.content for row in rows],
    ]
    digest = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
    path = cache_folder() / f"copies-{digest[:16]}.json"
    if path.is_file():
        try:
            return [Copy(**pair) for pair in json.loads(path.read_bytes())]
        except (ValueError, TypeError):
            path.unlink(missing_ok=True)  # torn by a full disk, say: look again
    thumbnails = np.concatenate(
        [
            each.thumbnails()[
                [i for i, case in enumerate(each.index.cases) if case.label is not None]
            ]
            for each in prepared.values()
        ]
    )
    found = find_duplicates(thumbnails, [row.case.content for row in rows], units=units)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps([vars(copy) for copy in found]).encode())
    return found


def _refuse_conflicts(
    found: Sequence[Copy],
    rows: Sequence[_Row],
    units: Sequence[int],
    adapters: Mapping[str, DatasetAdapter],
) -> None:
    labels = [row.case.label for row in rows]
    clashing = conflicts(found, labels, units=units, datasets=[row.dataset for row in rows])
    if clashing:
        dataset = rows[clashing[0][0]].dataset
        adapter = adapters[dataset]
        shown = [
            ", ".join(class_names(label, adapter.task, adapter.classes))
            if row.dataset == dataset
            else ""
            for row, label in zip(rows, labels, strict=True)
        ]
        raise conflict_error(
            clashing, names=[row.case.key for row in rows], labels=shown, dataset=dataset
        )


def _alike(copy: Copy, rows: Sequence[_Row]) -> DuplicateCases:
    one, other = rows[copy.one], rows[copy.other]
    return DuplicateCases((one.dataset, one.case.key), (other.dataset, other.case.key), copy)


def data_facts(index: Index, adapter: DatasetAdapter, gate: LeakageResult) -> DataFacts:
    """The facts of one of a run's datasets.

    Args:
        index: Of its prepared patches.
        adapter: The dataset.
        gate: Which split each of its cases is in.
    """
    labelled = [case for case in index.cases if case.label is not None]
    dealt = gate.splits[adapter.name]
    members: dict[str, list[PreparedCase]] = {}
    for case in labelled:
        members.setdefault(dealt[case.key], []).append(case)
    out = {name: len(members.pop(name, ())) for name in (DROPPED, WITHHELD, UNUSED)}
    inside = dict(sorted(members.items()))
    return DataFacts(
        digest=index.content,
        channels=index.channels,
        cases={split: len(cases) for split, cases in inside.items()},
        counts={split: _counts(cases, adapter) for split, cases in inside.items()},
        findings={
            split: _counts([*{case.finding: case for case in cases}.values()], adapter)
            for split, cases in inside.items()
        },
        patients={split: len({case.patient for case in cases}) for split, cases in inside.items()},
        unlabelled=len(index.cases) - len(labelled),
        excluded=dict(Counter(case.reason for case in index.excluded)),
        copies=gate.copied.get(adapter.name, 0),
        dropped=out[DROPPED],
        withheld=out[WITHHELD],
        unused=out[UNUSED],
        shortcuts=shortcut_facts(index.cases, adapter, gate.units[adapter.name]),
    )


def _counts(cases: Sequence[PreparedCase], adapter: DatasetAdapter) -> dict[str, int]:
    """How many cases there are of each class or label."""
    counted = Counter(
        name for case in cases for name in class_names(case.label, adapter.task, adapter.classes)
    )
    return dict(sorted(counted.items()))
