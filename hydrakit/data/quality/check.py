"""Check of a prepared dataset before a run: counts, problems, copies, shortcuts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from hydrakit.data.identity import is_named, patient_of
from hydrakit.data.prepared.crop import crop_fault, is_flat
from hydrakit.data.prepared.index import ExcludedCase, Index, PreparedCase, PreparedDataset
from hydrakit.data.quality.duplicates import (
    Copy,
    compare_images,
    contradict,
    copy_groups,
)
from hydrakit.data.quality.grey_values import measure_rules
from hydrakit.data.quality.issues import PROBLEMS, WARNINGS
from hydrakit.data.quality.leakage import (
    assign_splits,
    find_leaks,
    reading_warnings,
    shortcut_facts,
    unit_names,
)
from hydrakit.data.quality.shortcuts import mixed_units
from hydrakit.data.quality.split import DeclaredSplitError
from hydrakit.data.quality.summary import (
    CheckedCase,
    ConflictGroup,
    CopyPair,
    FactRange,
    FactValues,
    Issue,
    Summary,
)
from hydrakit.data.read import class_names, label_names, read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, Label, OptionValue, Unusable
from hydrakit.plan.model import Split
from hydrakit.plan.profiles import SUPPORT_SPLIT, TARGET_SPLIT
from hydrakit.plan.results import ShortcutFact
from hydrakit.stats.tasks import strata, strata_names

MAX_SHORTCUTS = 3
MAX_CHANNELS = 4  # colour and transparency; more are often another dimension of an array
MIN_SIDE = 16
MAX_SHARE = 2  # times the image's width that a field of view is expected to have at most
# Display order of facts; others follow by name.
FACT_ORDER = (
    "width",
    "height",
    "row spacing",
    "column spacing",
    "lowest value",
    "highest value",
    "mean value",
    "value deviation",
    "border value",
)
# Facts of a DICOM header and the image facts they repeat; left out if both are equal.
HEADER_FACTS = {
    "rows": "height",
    "columns": "width",
    "row spacing (mm)": "row spacing",
    "column spacing (mm)": "column spacing",
}


def default_split(cases: Sequence[PreparedCase]) -> Split:
    """Return 8-1-1, as for a target; 9-1 if the dataset declares only train and val."""
    declared = {case.split for case in cases}
    return SUPPORT_SPLIT if declared and declared <= {"train", "val"} else TARGET_SPLIT


def summarise(
    adapter: DatasetAdapter,
    prepared: PreparedDataset,
    *,
    split: Split | None = None,
    seed: int = 0,
) -> Summary:
    """Check a prepared dataset as a run would, and summarise it.

    Args:
        adapter: Adapter of the dataset.
        prepared: Prepared patches of the dataset.
        split: Shares of the splits; None for `default_split`. Splits that the dataset declares for
            its cases take precedence.
        seed: Seed of the split.
    """
    index = prepared.index
    labelled = [case for case in index.cases if case.label is not None]
    split = split or default_split(labelled)
    result = _assign_splits(adapter, prepared, split=split, seed=seed)
    written: dict[str, str] = {}  # first spelling of each patient
    cases = tuple(
        CheckedCase(
            key=case.key,
            label=case.label,
            classes=class_names(case.label, adapter.task, adapter.classes),
            patient=written.setdefault(patient_of(case, exact=adapter.exact_names), case.patient),
            finding=case.finding,
            subgroups=case.subgroups,
            split=result.splits.get(case.key),
            facts=case.facts | _intensity(prepared, case),
        )
        for case in index.cases
    )
    groups = copy_groups(result.copies, len(labelled))
    shortcuts = shortcut_facts(index.cases, adapter, result.units)
    ranges, values = _facts(cases, adapter)
    return Summary(
        dataset=adapter.name,
        task=adapter.task,
        all_classes=adapter.classes,
        digest=index.content,
        channels=index.channels,
        split=split,
        seed=seed,
        declared=sum(case.split is not None for case in labelled),
        cases=cases,
        unusable=index.excluded,
        ranges=ranges,
        values=values,
        copies=tuple(_pair(copy, labelled) for copy in result.copies),
        groups=tuple(tuple(labelled[i].key for i in group) for group in groups),
        conflicts=tuple(_conflict_group(keys, prepared) for keys in result.conflicts),
        shortcuts=shortcuts,
        grey_values=measure_rules(adapter, prepared, result.splits, result.units, seed=seed),
        problems=(*_too_few_usable(len(cases), len(index.excluded)), *result.problems),
        warnings=(
            *_patient_warnings(prepared, adapter),
            *_warnings(index.excluded, groups, shortcuts, index.cases),
            *_shape_warnings(index, adapter.field_of_view),
        ),
        remarks=tuple(remark.text for remark in index.remarks if not remark.warning),
        prepared=_local_time(prepared.reused_since),
    )


def _local_time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M")


def _patient_warnings(prepared: PreparedDataset, adapter: DatasetAdapter) -> Iterator[Issue]:
    for text in reading_warnings(prepared, adapter):
        yield _warning("reading", text)
    cases = prepared.index.cases
    unnamed = sum(not is_named(case) for case in cases)
    if unnamed:
        which = (
            "no case names its patient"
            if unnamed == len(cases)
            else f"{_cases(unnamed)} name no patient"
        )
        yield _warning(
            "patients",
            f"{which}: each image counts as its own patient, so that images of one person can be "
            "in several splits, and results too good: name the patients if a person has several",
        )


def _intensity(prepared: PreparedDataset, case: PreparedCase) -> dict[str, float]:
    """Return mean and deviation of the patient's images by channel, in the files' unit."""
    intensity = prepared.index.patients[case.patient]
    channels = range(prepared.index.channels)
    suffixes = [""] if len(channels) == 1 else [f", channel {channel + 1}" for channel in channels]
    means = {f"mean value{end}": intensity.mean[c] for c, end in enumerate(suffixes)}
    deviations = {f"value deviation{end}": intensity.deviation[c] for c, end in enumerate(suffixes)}
    return means | deviations


def excluded_if_none_usable(
    adapter: DatasetAdapter, root: Path, options: Mapping[str, OptionValue], *, patch: int
) -> list[ExcludedCase] | None:
    """Return all cases of a dataset with their reasons if none is usable, otherwise None."""
    excluded = []
    for case in read_samples(adapter, root, options):
        if isinstance(case, Unusable):
            excluded.append(ExcludedCase(key=case.key, reason=case.reason))
        elif is_flat(case.image):
            excluded.append(ExcludedCase(key=case.key, reason="the image has no contrast"))
        elif fault := crop_fault(case, adapter.field_of_view, patch):
            excluded.append(ExcludedCase(key=case.key, reason=fault))
        else:
            return None
    return excluded


def summarise_unusable(adapter: DatasetAdapter, unusable: Sequence[ExcludedCase]) -> Summary:
    """Summarise a dataset without any usable case."""
    return Summary(
        dataset=adapter.name,
        task=adapter.task,
        all_classes=adapter.classes,
        digest="",
        channels=0,
        split=TARGET_SPLIT,
        seed=0,
        declared=0,
        cases=(),
        unusable=tuple(unusable),
        problems=tuple(_too_few_usable(0, len(unusable))),
        warnings=tuple(_warnings(unusable, (), (), ())),
    )


def _problem(kind: str, text: str, keys: Sequence[str] = ()) -> Issue:
    assert kind in PROBLEMS
    return Issue(kind=kind, text=text, keys=tuple(keys))


def _warning(kind: str, text: str, keys: Sequence[str] = ()) -> Issue:
    assert kind in WARNINGS
    return Issue(kind=kind, text=text, keys=tuple(keys))


def _too_few_usable(usable: int, unusable: int) -> Iterator[Issue]:
    if not usable:
        yield _problem("unusable", f"no case can be used (of {unusable})")
    elif unusable > usable:
        total = usable + unusable
        yield _problem("unusable", f"{unusable} of {total} cases, more than half, cannot be used")


def _warnings(
    unusable: Sequence[ExcludedCase],
    groups: Sequence[Sequence[int]],
    shortcuts: Sequence[ShortcutFact],
    cases: Sequence[PreparedCase],
) -> Iterator[Issue]:
    for reason, count in Counter(case.reason for case in unusable).most_common():
        keys = [case.key for case in unusable if case.reason == reason]
        yield _warning("unusable", f"{_cases(count)} cannot be used: {reason}", keys)
    if groups:
        copied = sum(map(len, groups))
        yield _warning(
            "copies",
            f"{_cases(copied)} are copies of another patient's image, in {len(groups)} "
            f"group{'' if len(groups) == 1 else 's'}: a run keeps each in one split (`--copies`)",
        )
    units = mixed_units(case.facts for case in cases)
    if units is not None:
        yield _warning("units", units)
    strong = [each for each in shortcuts if each.strong]
    for each in strong[:MAX_SHORTCUTS]:
        yield _warning(
            "shortcut",
            f"{each.fact} alone predicts {each.class_name!r}: AUC {each.auc:.2f} "
            f"({each.low:.2f} to {each.high:.2f})",
        )
    if strong[MAX_SHORTCUTS:]:
        names = ", ".join(each.fact for each in strong[MAX_SHORTCUTS:])
        yield _warning("shortcut", f"weaker shortcuts: {names}")
    only = [(each.fact, *each.only[0]) for each in shortcuts if each.only and not each.strong]
    if only:
        entries = [f"{fact} {value} ({name!r}, {n} patients)" for fact, value, name, n in only]
        yield _warning("shortcut", f"values that only one class has: {', '.join(entries)}")


def _shape_warnings(index: Index, view: FieldOfView) -> Iterator[Issue]:
    """Warn of images whose shape or pixel spacing is probably read wrongly."""
    if index.channels > MAX_CHANNELS:
        yield _warning(
            "shape",
            f"the images have {index.channels} channels: check that these are channels, and not "
            "the rows, columns or slices of an image",
        )
    small, wide = [], []
    for case in index.cases:
        height, width, row, column = (
            value if isinstance(value := case.facts.get(name), float) else math.inf
            for name in ("height", "width", "row spacing", "column spacing")
        )
        if min(height, width) < MIN_SIDE:
            small.append(case.key)
        if max(height * row, width * column) * MAX_SHARE < (view.millimetres or 0):
            wide.append(case.key)
    if small:
        yield _warning(
            "shape",
            f"{_cases(len(small))} with a side under {MIN_SIDE} pixels: check that its dimensions "
            "are height and width",
            small,
        )
    if wide:
        yield _warning(
            "shape",
            f"{_cases(len(wide))}, image less than 1/{MAX_SHARE} as wide as the field of view of "
            f"{view.millimetres:g} mm: check the pixel spacing",
            wide,
        )


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


@dataclass(frozen=True)
class _SplitResult:
    """Result of splitting: copies by index of the labelled cases, splits and units by key."""

    copies: Sequence[Copy]
    conflicts: Sequence[tuple[str, ...]]
    splits: Mapping[str, str]
    units: Mapping[str, str]
    problems: Sequence[Issue]


def _assign_splits(
    adapter: DatasetAdapter,
    prepared: PreparedDataset,
    *,
    split: Split,
    seed: int,
) -> _SplitResult:
    """Split the labelled cases as a run does; if that fails, add the problem, and find copies."""
    cases = [case for case in prepared.index.cases if case.label is not None]
    if not cases:
        return _SplitResult(
            (), (), {}, {}, [_problem("unlabelled", "no case has a label to learn from")]
        )
    problems = list(_empty_classes(cases, adapter))
    splits: Mapping[str, str] = {}
    try:
        leakage = assign_splits(
            {adapter.name: prepared},
            {adapter.name: adapter},
            splits={adapter.name: split},
            seed=seed,
            copies="group",
            conflicts="keep",  # reported below
        )
        splits, names = leakage.splits[adapter.name], leakage.units[adapter.name]
        copies = [pair.copy for pair in leakage.copies]
        conflicts = leakage.conflicts
    except DataError as error:
        copies, conflicts = find_leaks({adapter.name: prepared}, {adapter.name: adapter})
        names = _units_by_key(cases, adapter, copies)
        problems += _declared_clashes(cases, names)  # its message would name patients
        if not problems:
            text = str(error).removeprefix(f"{adapter.name}: ")
            declared = isinstance(error, DeclaredSplitError)
            problems.append(_problem("declared splits" if declared else "few patients", text))
    own = conflicts.get(adapter.name, [])
    problems += _conflicts(cases, own, adapter)
    return _SplitResult(copies, own, splits, names, problems)


def _empty_classes(cases: Sequence[PreparedCase], adapter: DatasetAdapter) -> Iterator[Issue]:
    labels = [case.label for case in cases if case.label is not None]
    counts = strata(labels, adapter.task, adapter.classes).sum(axis=0)
    for name, count in zip(strata_names(adapter.task, adapter.classes), counts, strict=True):
        if not count:
            yield _problem("empty class", f"class {name!r} has no usable case")


def _conflicts(
    cases: Sequence[PreparedCase],
    conflicts: Sequence[Sequence[str]],
    adapter: DatasetAdapter,
) -> Iterator[Issue]:
    if not conflicts:
        return
    labels = {case.key: label_text(case.label, adapter) for case in cases}
    one, other = (f"{key} ({labels[key]})" for key in conflicts[0][:2])
    yield _problem(
        "conflict",
        f"{one} and {other} are copies of one image with different labels"
        f"{_more(len(conflicts) - 1, 'group')}: correct the labels, or leave all of them out with "
        "`--conflicts drop`",
        [key for group in conflicts for key in group],
    )


def _units_by_key(
    cases: Sequence[PreparedCase], adapter: DatasetAdapter, copies: Sequence[Copy]
) -> dict[str, str]:
    """Return the name of each case's unit (patient, group or copies), by key."""
    names = unit_names([adapter.name] * len(cases), cases, {adapter.name: adapter}, copies)
    return {case.key: name for case, name in zip(cases, names, strict=True)}


def _declared_clashes(cases: Sequence[PreparedCase], units: Mapping[str, str]) -> Iterator[Issue]:
    """Yield a problem if the dataset declares several splits for one unit."""
    first: dict[str, PreparedCase] = {}
    clashing: dict[str, tuple[PreparedCase, PreparedCase]] = {}
    for case in cases:
        if case.split is None:
            continue
        unit = units[case.key]
        before = first.setdefault(unit, case)
        if before.split != case.split:
            clashing.setdefault(unit, (before, case))
    for one, other in list(clashing.values())[:1]:
        text = (
            f"{one.key} ({one.split}) and {other.key} ({other.split}) are of one patient, one "
            "group, or copies, but the dataset declares different splits for them"
        )
        yield _problem("declared splits", text + _more(len(clashing) - 1, "patient or group"))


def _more(count: int, what: str) -> str:
    return f" (and {count} more such {what}{'' if count == 1 else 's'})" if count else ""


def label_text(label: Label | None, adapter: DatasetAdapter) -> str:
    """Return a label as text."""
    if adapter.task == "regression":
        return "no label" if label is None else f"{label:g}"
    return ", ".join(label_names(label, adapter.task, adapter.classes)) or "none"


def _pair(copy: Copy, labelled: Sequence[PreparedCase]) -> CopyPair:
    one, other = labelled[copy.one], labelled[copy.other]
    return CopyPair(
        one=one.key,
        other=other.key,
        similarity=copy.similarity,
        agreement=copy.agreement,
        kind=copy.kind,
        flip=copy.flip,
        across_labels=contradict(one.label, other.label),
    )


def _conflict_group(keys: Sequence[str], prepared: PreparedDataset) -> ConflictGroup:
    row_of = {case.key: row for row, case in enumerate(prepared.index.cases)}
    rows = [row_of[key] for key in keys[:2]]
    cases = [prepared.index.cases[row] for row in rows]
    copy = compare_images(
        (0, 1),
        prepared.thumbnails()[rows],
        prepared.textures(rows),
        exact=cases[0].content == cases[1].content,
    )
    return ConflictGroup(pair=_pair(copy, cases), keys=tuple(keys))


def _facts(
    cases: Sequence[CheckedCase], adapter: DatasetAdapter
) -> tuple[tuple[FactRange, ...], tuple[FactValues, ...]]:
    """Summarise numeric and text facts separately; header facts that repeat others are left out."""
    case_facts = [dict(case.facts) for case in cases]
    if adapter.task == "regression":
        for facts, case in zip(case_facts, cases, strict=True):
            if isinstance(case.label, int | float):
                facts[adapter.classes[0]] = float(case.label)
    names = {name: None for facts in case_facts for name in facts}
    ranges, values = [], []
    columns: dict[str, tuple[str | float | None, ...]] = {}
    for name in sorted(names, key=lambda name: (_order(name), name)):
        column = tuple(facts.get(name) for facts in case_facts)
        columns[name] = column
        if column == columns.get(HEADER_FACTS.get(name, "")):
            continue
        given = [value for value in column if value is not None]
        numbers = [float(value) for value in given if not isinstance(value, str)]
        if len(numbers) < len(given):
            counted = Counter(str(value) for value in given).most_common()
            values.append(FactValues(fact=name, values=dict(counted)))
        else:
            ranges.append(
                FactRange(
                    fact=name,
                    low=min(numbers),
                    median=median(numbers),
                    high=max(numbers),
                    cases=len(numbers),
                )
            )
    return tuple(ranges), tuple(values)


def _order(name: str) -> int:
    base = name.partition(", channel")[0]
    return FACT_ORDER.index(base) if base in FACT_ORDER else len(FACT_ORDER)
