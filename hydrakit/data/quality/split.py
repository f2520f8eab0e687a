"""Splitting of cases into training, validation and test, with each patient in one split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.quality.components import connected_components
from hydrakit.errors import DataError, command_line
from hydrakit.plan.model import Split

INNER_OPTION = "inner folds (`--folds` of `tune`, `--inner-folds` of `compare`)"
SPLITS = ("train", "val", "test")
UNUSED = "unused"
RESERVED = "reserved"


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
    """Assign each case to a split, patient-disjoint and stratified by class.

    Cases that share a patient or a group, directly or through other cases, form one unit and stay
    together. First, every split gets one unit of every class. Then the other units, in random order
    with larger ones first, go to the split where their classes are furthest below their share.

    Args:
        strata: Membership ``(cases, strata)``, 1 if a case belongs to a stratum, usually its class
            (`tasks.strata`).
        patients: Patient of each case.
        groups: Group of each case, or None.
        split: Shares of the splits; a share of 0 leaves its split empty. With a fold, all units are
            first divided into the folds, and one fold is the test split. With a used share below
            1, the cases are assigned as usual, and then the rest of the training and validation
            cases is left unused. With an inner fold, the test split is then reserved, and the
            training and validation cases are divided once more, into the inner folds: one of them
            is the test split, and the others are shared by training and validation.
        seed: Seed of the random order of the units.
        names: Names of the strata, for messages.
        dataset: Name of the dataset, for messages.
        fixed: Split of each case if it is fixed in advance, which also fixes its whole unit; None
            otherwise.

    Returns:
        ``"train"``, ``"val"``, ``"test"``, ``"unused"`` or ``"reserved"`` for each case.

    Raises:
        DataError: A class is empty, or has too few patients for every split; or two cases of one
            unit are fixed to different splits.
    """
    units = unit_numbers(patients, groups)
    counts = np.zeros((max(units) + 1, len(names)))
    np.add.at(counts, np.array(units), strata)
    fixed_splits = _fixed_splits(units, patients, fixed or [None] * len(patients), dataset)
    order = np.random.default_rng(seed).permutation(len(counts))

    def assign(
        units: NDArray[np.int64],
        shares: Sequence[float],
        fixed: NDArray[np.int64],
        order: NDArray[np.int64],
        folds: str = "",
    ) -> NDArray[np.int64]:
        """Assign some units; ``order`` lists their positions, ``folds`` names the folds' option."""
        own, parts = counts[units], len([share for share in shares if share > 0])
        _check_enough(own, parts, names=names, dataset=dataset, folds=folds)
        assigned = _assign(own, np.array(shares), order, fixed)
        if assigned is None and (fixed >= 0).any():
            _check_fixed(own, fixed, shares, names=names, dataset=dataset)
        if assigned is None:
            rarest = int(np.argmin((own > 0).sum(axis=0)))
            raise DataError(_too_few(dataset, names[rarest], own[:, rarest], parts, folds=folds))
        return assigned

    every, none = np.arange(len(counts)), np.full(len(counts), -1)
    option = "" if split.fold is None else "`--folds`"
    if split.fold is not None:
        in_fold = assign(every, [1] * split.fold.count, none, order, option)
        if (fixed_splits >= 0).any():
            raise DataError(
                f"{dataset}: some cases have their split from the dataset or another one of this "
                "run, so that it cannot be cross-validated: use `--holdout`"
            )
        fixed_splits[in_fold == split.fold.index] = SPLITS.index("test")
    shares = [split.train, split.val, split.test]
    assigned = assign(every, shares, fixed_splits, order, option)
    if split.used < 1:
        for part in (SPLITS.index("train"), SPLITS.index("val")):
            members = order[assigned[order] == part]
            assigned[members[_unused(counts[members], split.used)]] = len(SPLITS)
    if split.inner is not None:
        learning = order[assigned[order] < SPLITS.index("test")]
        assigned[assigned == SPLITS.index("test")] = len(SPLITS) + 1
        at = np.arange(len(learning))
        in_fold = assign(learning, [1] * split.inner.count, none[at], at, INNER_OPTION)
        rest = learning[in_fold != split.inner.index]
        assigned[learning] = SPLITS.index("test")
        at = np.arange(len(rest))
        assigned[rest] = assign(rest, shares[:2], fixed_splits[rest], at, INNER_OPTION)
    return [(*SPLITS, UNUSED, RESERVED)[assigned[unit]] for unit in units]


def _unused(counts: NDArray[np.float64], used: float) -> NDArray[np.bool_]:
    """Choose the unused units of a split, so that the used share has all of its classes."""
    shares, order = np.array([used, 1 - used]), np.arange(len(counts))
    assigned = _assign_one_per_class(counts, shares, order, [0], np.full(len(counts), -1))
    assert assigned is not None  # the split has every class
    _assign_rest(counts, shares, order, [0, 1], assigned)
    return np.equal(assigned, 1)


def _assign(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    fixed: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """Assign each unit to a part, by shares; return None if a part cannot get every class."""
    shares = shares / shares.sum()
    used = [index for index in range(len(shares)) if shares[index] > 0]
    assigned = _assign_one_per_class(counts, shares, order, used, fixed)
    if assigned is not None:
        _assign_rest(counts, shares, order, used, assigned)
    return assigned


def unit_numbers(patients: Sequence[str], groups: Sequence[str | None]) -> list[int]:
    """Number the units of cases that share patients or groups; return each case's number."""
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


def _fixed_splits(
    units: Sequence[int], patients: Sequence[str], fixed: Sequence[str | None], dataset: str
) -> NDArray[np.int64]:
    """Return the fixed split of each unit, -1 for units without one."""
    splits = np.full(max(units) + 1, -1)
    first: dict[int, str] = {}
    for unit, patient, name in zip(units, patients, fixed, strict=True):
        if name is None:
            continue
        if splits[unit] >= 0 and SPLITS[splits[unit]] != name:
            raise DataError(
                f"{dataset}: patient {first[unit]!r} is put into {SPLITS[splits[unit]]!r} and "
                f"patient {patient!r}, of the same patient, group or copies, into {name!r}: "
                "put both into one split, or leave the choice to hydrakit"
            )
        splits[unit] = SPLITS.index(name)
        first.setdefault(unit, patient)
    return splits


class DeclaredSplitError(DataError):
    """A split lacks a class, and the splits of all cases of the class are fixed in advance."""


def _check_fixed(
    counts: NDArray[np.float64],
    fixed: NDArray[np.int64],
    shares: Sequence[float],
    *,
    names: Sequence[str],
    dataset: str,
) -> None:
    """Raise DeclaredSplitError if the fixed splits leave too few units of a class for others."""
    for label, name in enumerate(names):
        lacking = [
            SPLITS[index]
            for index, share in enumerate(shares)
            if share > 0 and not counts[fixed == index, label].any()
        ]
        if len(lacking) > (counts[fixed < 0, label] > 0).sum():
            raise DeclaredSplitError(
                f"{dataset}: no case of class {name!r} is left for "
                f"{' and '.join(map(repr, lacking))}, where every split needs some: the dataset "
                "declares other splits, or another dataset of the run has the same patients or "
                "copies in other splits: declare some there, or add cases"
            )


def _check_enough(
    counts: NDArray[np.float64], splits: int, *, names: Sequence[str], dataset: str, folds: str
) -> None:
    for label, name in enumerate(names):
        available = int((counts[:, label] > 0).sum())
        if available == 0:
            raise DataError(
                f"{dataset}: class {name!r} has no usable case: every class needs some "
                f"(see `{command_line('hydrakit', 'datasets', 'check', dataset)}`)"
            )
        if available < splits:
            raise DataError(_too_few(dataset, name, counts[:, label], splits, folds=folds))


def _too_few(
    dataset: str, name: str, counts: NDArray[np.float64], splits: int, *, folds: str
) -> str:
    available = int((counts > 0).sum())
    option = command_line("--split", f"{dataset}=9-1")
    fewer = ""
    if splits > 2:
        fewer = f", or use fewer {folds}" if folds else f", or give it no test split (`{option}`)"
    patients = "patient" if available == 1 else "patients"
    return (
        f"{dataset}: {available} {patients} with class {name!r} (those of one group count once): "
        f"too few to have every class in {splits} splits that share no patient: add cases{fewer}"
    )


def _assign_one_per_class(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    used: list[int],
    fixed: NDArray[np.int64],
) -> NDArray[np.int64] | None:
    """Assign one unit of every class to every split; return the split of each unit, -1 for none.

    ``fixed`` gives the units' fixed splits in the same form.

    The class with the fewest spare units is served first, and for it the smallest split. If units
    have several rare classes, an assignment can leave another class one unit short: the search then
    backtracks. The result is None if no assignment succeeds.
    """
    assigned = fixed.copy()
    sizes = counts.sum(axis=1)
    room = shares * sizes.sum()
    smallest_first = sorted(used, key=lambda index: float(shares[index]))

    def search() -> bool:
        free = (counts > 0) & (assigned < 0)[:, None]
        lacking = {
            label: [i for i in smallest_first if not counts[assigned == i, label].any()]
            for label in range(counts.shape[1])
        }
        spare = {label: free[:, label].sum() - len(of) for label, of in lacking.items() if of}
        if not spare:
            return True
        label = min(spare, key=lambda label: int(spare[label]))
        if spare[label] < 0:
            return False
        index = lacking[label][0]
        # A patient with very many cases would fill a small split alone: try those that fit first.
        candidates = sorted(
            order[free[order, label]], key=lambda unit: max(float(sizes[unit] - room[index]), 0)
        )
        for unit in candidates:
            assigned[unit] = index
            if search():
                return True
            assigned[unit] = -1
        return False

    return assigned if search() else None


def _assign_rest(
    counts: NDArray[np.float64],
    shares: NDArray[np.float64],
    order: NDArray[np.int64],
    used: list[int],
    assigned: NDArray[np.int64],
) -> None:
    """Assign the other units, in place, each to the split that needs its classes most.

    The need is relative to the split's share, so that all splits fill evenly. With an absolute
    need, the largest split would get the largest patients, validation and test the small ones.
    """
    weight = 1.0 / np.maximum(counts.sum(axis=0), 1.0)
    totals = np.stack([counts[assigned == index].sum(axis=0) for index in range(len(shares))])
    rest = [unit for unit in order if assigned[unit] < 0]
    for unit in sorted(rest, key=lambda unit: -float(counts[unit].sum())):
        lacking = 1 - (totals[used] + counts[unit] / 2) * weight / shares[used, None]
        need = (lacking * counts[unit] * weight).sum(axis=1)
        best = used[int(np.argmax(need))]
        assigned[unit] = best
        totals[best] += counts[unit]
