"""Sharing out cases into training, validation and test, whole patients at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.quality.components import connected_components
from hydrakit.errors import DataError
from hydrakit.plan.model import Split

SPLITS = ("train", "val", "test")
UNUSED = "unused"


def split_cases(
    strata: NDArray[np.float64],
    patients: Sequence[str],
    groups: Sequence[str | None],
    *,
    split: Split,
    seed: int,
    names: Sequence[str],
    dataset: str,
    fixed: Sequence[str | None] | None = None,
) -> list[str]:
    """Give each case its split: patient-disjoint and stratified by class.

    Cases that share a patient or a group, directly or through other cases, form one unit and stay
    together. Every class first gets one unit in every split; the other units then go, in random
    order and larger ones first, where their classes are furthest below their share.

    Args:
        strata: ``(cases, strata)``, 1 where a case belongs to a stratum: its class, most often
            (`tasks.strata`).
        patients: Patient of each case.
        groups: Group of each case, or None.
        split: The shares; a share of 0 leaves its split empty. Of a fold, first all units are
            dealt into as many parts as there are folds, the same for each of them; one part is
            the test split. Where only a share is used, all is dealt as ever, and then of
            training and of validation as much is left out.
        seed: Of the order in which units are dealt out.
        names: Of the strata, for messages.
        dataset: Its name, for messages.
        fixed: The split of each case that is decided already, and of its whole unit with it; None
            for the others.

    Returns:
        ``"train"``, ``"val"``, ``"test"`` or ``"unused"`` for each case.

    Raises:
        DataError: A class is empty, or has too few patients to be in every split; or two cases of
            one unit are fixed in two splits.
    """
    units = unit_of_each(patients, groups)
    counts = np.zeros((max(units) + 1, len(names)))
    np.add.at(counts, np.array(units), strata)
    decided = _decided(units, patients, fixed or [None] * len(patients), dataset)
    order = np.random.default_rng(seed).permutation(len(counts))

    def deal(shares: Sequence[float], decided: NDArray[np.int64]) -> NDArray[np.int64]:
        parts = len([share for share in shares if share > 0])
        _check_enough(counts, parts, names=names, dataset=dataset)
        dealt = _deal(counts, np.array(shares), order, decided)
        if dealt is None:
            rarest = int(np.argmin((counts > 0).sum(axis=0)))
            raise DataError(_too_few(dataset, names[rarest], counts[:, rarest], parts))
        return dealt

    if split.fold is not None:
        folds = deal([1] * split.fold.count, np.full(len(counts), -1))
        if (decided >= 0).any():
            raise DataError(
                f"{dataset}: some cases have their split from the dataset or another one of this "
                "run, so that it cannot be cross-validated: use `--holdout`"
            )
        decided[folds == split.fold.index] = SPLITS.index("test")
    chosen = deal([split.train, split.val, split.test], decided)
    if split.used < 1:
        for part in (SPLITS.index("train"), SPLITS.index("val")):
            inside = order[chosen[order] == part]
            chosen[inside[_left_out(counts[inside], split.used)]] = len(SPLITS)
    return [(*SPLITS, UNUSED)[chosen[unit]] for unit in units]


def _left_out(counts: NDArray[np.float64], used: float) -> NDArray[np.bool_]:
    """Which units of a split are left out, where a share of it is used with all its classes."""
    shares, order = np.array([used, 1 - used]), np.arange(len(counts))
    chosen = _one_of_each_class(counts, shares, order, [0], np.full(len(counts), -1))
    assert chosen is not None  # the split has every class
    _deal_the_rest(counts, shares, order, [0, 1], chosen)
    return np.equal(chosen, 1)


def _deal(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    decided: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """The part of each unit, by the shares of the parts; None where no class can be in all."""
    shares = shares / shares.sum()
    used = [index for index in range(len(shares)) if shares[index] > 0]
    chosen = _one_of_each_class(counts, shares, order, used, decided)
    if chosen is not None:
        _deal_the_rest(counts, shares, order, used, chosen)
    return chosen


def unit_of_each(patients: Sequence[str], groups: Sequence[str | None]) -> list[int]:
    """Number of each case's unit: cases that share a patient or a group must stay together."""
    first: dict[tuple[str, str], int] = {}
    links = []
    for index, (patient, group) in enumerate(zip(patients, groups, strict=True)):
        links.append((first.setdefault(("patient", patient), index), index))
        if group is not None:
            links.append((first.setdefault(("group", group), index), index))
    units = [0] * len(patients)
    for number, unit in enumerate(connected_components(len(patients), links)):
        for index in unit:
            units[index] = number
    return units


def _decided(
    units: Sequence[int], patients: Sequence[str], fixed: Sequence[str | None], dataset: str
) -> NDArray[np.int64]:
    """The split of each unit that is fixed, -1 for the others."""
    chosen = np.full(max(units) + 1, -1)
    first: dict[int, str] = {}
    for unit, patient, name in zip(units, patients, fixed, strict=True):
        if name is None:
            continue
        if chosen[unit] >= 0 and SPLITS[chosen[unit]] != name:
            raise DataError(
                f"{dataset}: patient {first[unit]!r} is put into {SPLITS[chosen[unit]]!r} and "
                f"patient {patient!r}, of the same patient, group or copies, into {name!r}: "
                "put both into one split, or leave the choice to hydrakit"
            )
        chosen[unit] = SPLITS.index(name)
        first.setdefault(unit, patient)
    return chosen


def _check_enough(
    counts: NDArray[np.float64], splits: int, *, names: Sequence[str], dataset: str
) -> None:
    for label, name in enumerate(names):
        have = int((counts[:, label] > 0).sum())
        if have == 0:
            raise DataError(
                f"{dataset}: class {name!r} has no usable case: every class needs some "
                f"(see `hydrakit datasets check {dataset}`)"
            )
        if have < splits:
            raise DataError(_too_few(dataset, name, counts[:, label], splits))


def _too_few(dataset: str, name: str, counts: NDArray[np.float64], splits: int) -> str:
    have = int((counts > 0).sum())
    fewer = f", or give it no test split (`--split {dataset}=9-1`)" if splits > 2 else ""
    patients = "patient" if have == 1 else "patients"
    return (
        f"{dataset}: {have} {patients} with class {name!r} (those of one group count once): too "
        f"few to have every class in {splits} splits that share no patient: add cases{fewer}"
    )


def _one_of_each_class(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    used: list[int],
    decided: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """Seed every split with a unit of every class: the split of each unit, -1 where not chosen.

    ``decided`` are the units whose split stands already, likewise.

    The class with the fewest units to spare chooses first, for the smallest split first. Where
    units have several rare classes, a choice can leave another class one unit short: the search
    then steps back. None where no choice does.
    """
    chosen = decided.copy()
    sizes = counts.sum(axis=1)
    room = shares * sizes.sum()
    smallest_first = sorted(used, key=lambda index: float(shares[index]))

    def seed() -> bool:
        free = (counts > 0) & (chosen < 0)[:, None]
        lacking = {
            label: [i for i in smallest_first if not counts[chosen == i, label].any()]
            for label in range(counts.shape[1])
        }
        spare = {label: free[:, label].sum() - len(of) for label, of in lacking.items() if of}
        if not spare:
            return True
        label = min(spare, key=lambda label: int(spare[label]))
        if spare[label] < 0:
            return False
        index = lacking[label][0]
        # A patient with very many cases would fill a small split alone: first those that fit.
        candidates = sorted(
            order[free[order, label]], key=lambda unit: max(float(sizes[unit] - room[index]), 0)
        )
        for unit in candidates:
            chosen[unit] = index
            if seed():
                return True
            chosen[unit] = -1
        return False

    return chosen if seed() else None


def _deal_the_rest(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    used: list[int],
    chosen: NDArray[np.int64],
) -> None:
    """Deal the units not yet chosen, in place, to the split that lacks their classes most.

    What a split lacks is measured by its own share, so that all fill evenly: by cases, the largest
    split would take the largest patients and leave the small ones to validation and test.
    """
    weight = 1.0 / np.maximum(counts.sum(axis=0), 1.0)
    have = np.stack([counts[chosen == index].sum(axis=0) for index in range(len(shares))])
    rest = [unit for unit in order if chosen[unit] < 0]
    for unit in sorted(rest, key=lambda unit: -float(counts[unit].sum())):
        lacking = 1 - (have[used] + counts[unit] / 2) * weight / shares[used, None]
        need = (lacking * counts[unit] * weight).sum(axis=1)
        best = used[int(np.argmax(need))]
        chosen[unit] = best
        have[best] += counts[unit]
