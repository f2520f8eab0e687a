"""Findings: what counts once in a test figure, however many images there are of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Subgroups = Mapping[str, str]

FEWEST = 2  # positive and negative findings: a subgroup with fewer has no AUC


def average(values: Sequence[float]) -> float:
    """The mean of the scores of one finding's images.

    It does not depend on their order, to the last bit, and of equal scores it is that score: so a
    copy of an image breaks no tie between two findings.
    """
    low = min(values)
    return low + math.fsum(value - low for value in values) / len(values)


@dataclass(frozen=True, eq=False)
class Findings:
    """Which cases are images of which finding.

    Attributes:
        members: Of each finding the places of its cases, in the order of the first one's.
    """

    members: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, names: Sequence[str]) -> Findings:
        """The findings of cases, from the name of each one's."""
        members: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            members.setdefault(name, []).append(place)
        return cls(tuple(map(tuple, members.values())))

    @property
    def firsts(self) -> list[int]:
        """The place of each finding's first case."""
        return [places[0] for places in self.members]

    def pooled(self, scores: Floats) -> Floats:
        """Mean scores of the findings, ``(findings, ...)`` of scores ``(cases, ...)``."""
        flat = scores.reshape(len(scores), math.prod(scores.shape[1:]))
        rows = [[average(column) for column in flat[list(of)].T.tolist()] for of in self.members]
        return np.array(rows, dtype=np.float64).reshape(len(self.members), *scores.shape[1:])

    def subgroups(self, told: Sequence[Subgroups]) -> list[Subgroups]:
        """What each finding is told to be; where its images differ in a subgroup, it is in none."""
        return [
            dict(set.intersection(*(set(told[place].items()) for place in places)))
            for places in self.members
        ]


def parts(told: Sequence[Subgroups]) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
    """Each subgroup and value by name, and which findings have it, ``(findings,)``."""
    for name, value in sorted({pair for each in told for pair in each.items()}):
        yield name, value, np.array([each.get(name) == value for each in told], dtype=np.bool_)


def enough(positives: int, negatives: int) -> bool:
    """Whether so many findings of a subgroup are given an AUC."""
    return min(positives, negatives) >= FEWEST
