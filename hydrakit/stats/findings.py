"""Findings: the units of every test metric, each of them counted once for all of its images."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Subgroups = Mapping[str, str]  # value of each subgroup variable of a case: {"zone": "PZ"}

MIN_PER_CLASS = 2  # positive and negative findings: a subgroup with fewer has no AUC


def mean_score(values: Sequence[float]) -> float:
    """Mean of the scores of one finding's images.

    The result does not depend on the order of the values, to the last bit, and the mean of equal
    scores is exactly that score. So a copy of an image never breaks a tie between two findings.
    """
    low = min(values)
    return low + math.fsum(value - low for value in values) / len(values)


@dataclass(frozen=True, eq=False)
class Findings:
    """The assignment of cases (images) to findings.

    Attributes:
        members: Indices of the cases of each finding, in the order of each finding's first case.
    """

    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Findings:
        """Group cases by the name of the finding of each case."""
        members: dict[str, list[int]] = {}
        for index, name in enumerate(names):
            members.setdefault(name, []).append(index)
        return cls(tuple(map(tuple, members.values())))

    @property
    def firsts(self) -> list[int]:
        """Index of each finding's first case."""
        return [indices[0] for indices in self.members]

    def mean_scores(self, scores: Floats) -> Floats:
        """Mean scores of the findings, ``(findings, ...)``, from scores ``(cases, ...)``."""
        flat = scores.reshape(len(scores), math.prod(scores.shape[1:]))
        rows = [[mean_score(column) for column in flat[list(of)].T.tolist()] for of in self.members]
        return np.array(rows, dtype=np.float64).reshape(len(self.members), *scores.shape[1:])

    def subgroups(self, of_cases: Sequence[Subgroups]) -> list[Subgroups]:
        """Subgroups of each finding: those in which all of its images agree."""
        return [
            dict(set.intersection(*(set(of_cases[index].items()) for index in indices)))
            for indices in self.members
        ]


def each_subgroup(
    of_findings: Sequence[Subgroups],
) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Name and value of every subgroup, sorted, with a mask of its findings ``(findings,)``."""
    for name, value in sorted({pair for each in of_findings for pair in each.items()}):
        members = [each.get(name) == value for each in of_findings]
        yield name, value, np.array(members, dtype=np.bool_)


def enough_for_auc(positives: int, negatives: int) -> bool:
    """Whether a subgroup with these numbers of findings gets an AUC."""
    return min(positives, negatives) >= MIN_PER_CLASS
