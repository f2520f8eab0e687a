"""The test split of a split that leaves out a value of a subgroup, such as one scanner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hydrakit.data.prepared.index import PreparedCase
from hydrakit.data.quality.split import RESERVED
from hydrakit.errors import DataError, unknown
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import LeftOut
from hydrakit.stats.findings import MIN_PER_CLASS, Findings
from hydrakit.stats.tasks import strata, strata_names


def values_of_cases(cases: Sequence[PreparedCase], subgroup: str) -> list[str | None]:
    """Value of the finding of each case: the one that all its images have; None without one.

    Args:
        cases: All labelled cases of a dataset.
        subgroup: Name of the subgroup.
    """
    findings = Findings.of([case.finding for case in cases])
    values: list[str | None] = [None] * len(cases)
    of_findings = findings.subgroups([case.subgroups for case in cases])
    for members, of_finding in zip(findings.members, of_findings, strict=True):
        for index in members:
            values[index] = of_finding.get(subgroup)
    return values


def parts_without(
    cases: Sequence[PreparedCase], units: Sequence[str], left_out: LeftOut, adapter: DatasetAdapter
) -> list[str | None]:
    """Part of each case while a value is left out of training.

    Args:
        cases: Labelled cases of the target.
        units: Name of what must stay in one split, for each case.
        left_out: The value.
        adapter: Adapter of the target.

    Returns:
        For each case, ``test`` if its finding has the value in all of its images; ``reserved`` if
        it is not trained on either, since it has the value itself, or is of a unit with a tested
        case; None for the cases that training and validation share.

    Raises:
        DataError: No case has the subgroup or the value, or a class is not among the tested cases.
    """
    subgroup, value = left_out.subgroup, left_out.value
    refuse_unknown_subgroup(cases, subgroup, adapter.name)
    known = {case.subgroups[subgroup] for case in cases if subgroup in case.subgroups}
    if value not in known:
        raise DataError(f"{adapter.name}: {unknown(f'value of {subgroup!r}', value, known)}")
    values = values_of_cases(cases, subgroup)
    tested_units = {unit for unit, of in zip(units, values, strict=True) if of == value}
    tested = [case for case, of in zip(cases, values, strict=True) if of == value]
    _check_classes(tested, left_out, adapter)

    def part(case: PreparedCase, unit: str, of_finding: str | None) -> str | None:
        if of_finding == value:
            return "test"
        return RESERVED if unit in tested_units or has_value(case, left_out) else None

    return [part(*each) for each in zip(cases, units, values, strict=True)]


def has_value(case: PreparedCase, left_out: LeftOut) -> bool:
    """Whether a case itself has the value that is left out."""
    return case.subgroups.get(left_out.subgroup) == left_out.value


def refuse_unknown_subgroup(cases: Sequence[PreparedCase], subgroup: str, dataset: str) -> None:
    """Refuse a subgroup that no case has.

    Raises:
        DataError: No case has it.
    """
    known = {name for case in cases for name in case.subgroups}
    if not known:
        raise DataError(
            f"{dataset}: has no subgroup {subgroup!r}, nor any other: declare it under "
            "`[subgroups]` in dataset.toml, or give it in `Sample.subgroups` of the adapter"
        )
    if subgroup not in known:
        raise DataError(f"{dataset}: {unknown('subgroup', subgroup, known)}")


def _check_classes(
    cases: Sequence[PreparedCase], left_out: LeftOut, adapter: DatasetAdapter
) -> None:
    """Refuse a test split that lacks a class."""
    counts = _findings_per_class(cases, adapter)
    for name, count in counts.items():
        if not count:
            raise DataError(
                f"{adapter.name}: no finding of {left_out} has class {name!r}, so that its test "
                "has no AUC: leave out another value"
            )


def _findings_per_class(cases: Sequence[PreparedCase], adapter: DatasetAdapter) -> dict[str, int]:
    """Number of findings of each class, or with and without each label; of all in a regression."""
    findings = list({case.finding: case for case in cases}.values())
    names = strata_names(adapter.task, adapter.classes) or ("a number",)
    if not findings:
        return dict.fromkeys(names, 0)
    labels = [case.label for case in findings if case.label is not None]
    counts = strata(labels, adapter.task, adapter.classes).sum(axis=0)
    return dict(zip(names, map(int, np.asarray(counts)), strict=True))


def values_to_leave_out(
    cases: Sequence[PreparedCase], subgroup: str, adapter: DatasetAdapter
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Values of a subgroup that can each be tested alone, and sentences about all other values.

    A value is tested if it has `hydrakit.stats.findings.MIN_PER_CLASS` findings of each class.

    Args:
        cases: Labelled cases of the target.
        subgroup: Name of the subgroup.
        adapter: Adapter of the target.

    Raises:
        DataError: No case has the subgroup, or fewer than two of its values can be tested.
    """
    refuse_unknown_subgroup(cases, subgroup, adapter.name)
    values = values_of_cases(cases, subgroup)
    enough, notes = [], []
    for value in sorted({case.subgroups[subgroup] for case in cases if subgroup in case.subgroups}):
        inside = [case for case, of in zip(cases, values, strict=True) if of == value]
        counts = _findings_per_class(inside, adapter)
        if min(counts.values()) >= MIN_PER_CLASS:
            enough.append(value)
        else:
            listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
            notes.append(
                f"{LeftOut(subgroup=subgroup, value=value)} has too few findings for a figure "
                f"({listed}; {MIN_PER_CLASS} of each are needed): it is always trained on and "
                "never tested"
            )
    if len(enough) < 2:
        why = "; ".join(notes) or f"the only value is {enough[0]!r}"
        raise DataError(
            f"{adapter.name}: two values or more of {subgroup!r} are needed, each with enough "
            f"findings to be tested alone ({why}): use `--folds`"
        )
    return tuple(enough), tuple(notes)


def notes_on_cases(
    cases: Sequence[PreparedCase],
    units: Mapping[str, str],
    subgroup: str,
    tested: Sequence[str],
) -> tuple[str, ...]:
    """Sentences about findings that no fold tests, and about patients of several values.

    Args:
        cases: Labelled cases of the target.
        units: Name of what must stay in one split, by key of the case.
        subgroup: Name of the subgroup.
        tested: Values that are left out in turn.
    """
    values = values_of_cases(cases, subgroup)
    without: dict[str, str] = {}
    mixed: dict[str, str] = {}
    of_units: dict[str, set[str | None]] = {}
    has_any = {case.finding for case in cases if subgroup in case.subgroups}
    for case, value in zip(cases, values, strict=True):
        unit = units[case.key]
        of_units.setdefault(unit, set()).add(value)
        if value is None:
            (mixed if case.finding in has_any else without)[case.finding] = unit
    notes = []
    if without:
        notes.append(f"{_of_patients(without)} without {subgroup}: trained on, and never tested")
    if mixed:
        notes.append(
            f"{_of_patients(mixed)} with images of several values of {subgroup}, or of some "
            "without one: never tested, and no image is trained on while its value is left out"
        )
    several = [unit for unit, of in of_units.items() if len(of) > 1 and of & set(tested)]
    if several:
        notes.append(
            f"{len(several)} patients have findings of several values of {subgroup}: while one of "
            "their values is tested, none of their cases is trained on"
        )
    return tuple(notes)


def _of_patients(findings: Mapping[str, str]) -> str:
    patients = len(Counter(findings.values()))
    return (
        f"{len(findings)} {'finding' if len(findings) == 1 else 'findings'} of {patients} "
        f"{'patient' if patients == 1 else 'patients'}"
    )
