"""What there is to know of a dataset before a network is trained on it, as data.

`hydrakit datasets check` prints it, and writes it as JSON or as a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from hydrakit.data.prepared.index import ExcludedCase
from hydrakit.data.quality.split import SPLITS
from hydrakit.hooks import Label, Task
from hydrakit.plan.model import Split
from hydrakit.plan.results import ShortcutFact
from hydrakit.schema import Frozen
from hydrakit.stats.findings import Findings


class Issue(Frozen):
    """A problem or a warning.

    Attributes:
        kind: One of `PROBLEMS` or of `WARNINGS`.
        text: What is the matter, on one line.
        keys: The cases that it is about, where they are to be listed.
    """

    kind: str
    text: str
    keys: tuple[str, ...] = ()


class CheckedCase(Frozen):
    """A usable case.

    Attributes:
        key: Of the case.
        label: Of the case; None where it is unknown.
        classes: What the label says, in words.
        patient: Of the case.
        finding: As in `hydrakit.data.prepared.index.PreparedCase`.
        split: Where it would go; None without a label, or where no split is possible.
        subgroups: Of the case.
        facts: What is known of its file and of its image.
    """

    key: str
    label: Label | None
    classes: tuple[str, ...]
    patient: str
    finding: str
    split: str | None
    subgroups: dict[str, str]
    facts: dict[str, str | float]


class FactRange(Frozen):
    """A fact that is a number: its range over the cases that have it."""

    fact: str
    low: float
    median: float
    high: float
    cases: int


class FactValues(Frozen):
    """A fact that is text: how often each value occurs, the most frequent first."""

    fact: str
    values: dict[str, int]


class CopyPair(Frozen):
    """Two cases that are copies of one another; ``one`` and ``other`` are keys."""

    one: str
    other: str
    similarity: float
    kind: Literal["exact", "near"]
    flip: str
    across_labels: bool


class Summary(Frozen):
    """A dataset, looked at as a run would.

    Attributes:
        dataset: Its name.
        task: What a label is.
        all_classes: As the adapter names them.
        digest: SHA-256 of the prepared patches and cases.
        channels: Of the images.
        split: The shares by which cases were dealt out.
        seed: Of the dealing.
        declared: Number of cases whose split the dataset itself declares.
        cases: In the order of the prepared patches.
        unusable: Cases that give no image, and why.
        ranges: The facts that are numbers.
        values: The facts that are text.
        copies: Enough pairs to join all copies into their groups.
        groups: The groups of copies, by keys.
        shortcuts: How well facts tell the class, the strongest first.
        problems: What would spoil a result.
        warnings: What is worth knowing.
    """

    dataset: str
    task: Task
    all_classes: tuple[str, ...]
    digest: str
    channels: int
    split: Split
    seed: int
    declared: int
    cases: tuple[CheckedCase, ...]
    unusable: tuple[ExcludedCase, ...]
    ranges: tuple[FactRange, ...] = ()
    values: tuple[FactValues, ...] = ()
    copies: tuple[CopyPair, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    shortcuts: tuple[ShortcutFact, ...] = ()
    problems: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have cases, in their usual order."""
        return tuple(name for name in SPLITS if any(case.split == name for case in self.cases))

    @property
    def split_words(self) -> str:
        """How the cases with a label were dealt out."""
        shares = (self.split.train, self.split.val, self.split.test)
        dealt = "-".join(f"{share:g}" for share in shares if share)
        dealt += f", seed {self.seed}; patients, groups and copies stay together"
        if self.declared == len(self.cases) - len(self.members(None)):
            return "as the dataset declares it"
        if self.declared:
            return f"{self.declared} cases as the dataset declares them, the others {dealt}"
        return dealt

    def members(self, name: str | None) -> list[CheckedCase]:
        """The cases of a class; of None those without a label."""
        if name is None:
            return [case for case in self.cases if case.label is None]
        return [case for case in self.cases if name in case.classes]

    def counts(self) -> list[tuple[str, list[CheckedCase]]]:
        """What to count: each class with its cases, the unlabelled if there are any, and all."""
        unlabelled = self.members(None)
        return [
            *((name, self.members(name)) for name in self.all_classes),
            *([("(no label)", unlabelled)] if unlabelled else []),
            ("all", list(self.cases)),
        ]

    def count_table(self) -> tuple[list[str], list[list[str | int]]]:
        """Headers and rows: cases by class and split, and how many they are of.

        Findings are there where some have several cases.
        """
        counted = {"findings": findings, "patients": patients}
        if findings(self.cases) == len(self.cases):
            del counted["findings"]
        headers = ["class", *self.splits, "all", *counted]
        rows: list[list[str | int]] = [
            [
                name,
                *self._by_split(cases),
                len(cases),
                *(count(cases) for count in counted.values()),
            ]
            for name, cases in self.counts()
        ]
        for what, count in counted.items() if self.splits else ():
            within = [count([c for c in self.cases if c.split == name]) for name in self.splits]
            rows.append([what, *within, count(self.cases), *[""] * len(counted)])
        return headers, rows

    def subgroups(self) -> dict[str, dict[str, int]]:
        """How many findings each value of each subgroup has, the most frequent first."""
        found = Findings.of([case.finding for case in self.cases])
        counted: dict[str, Counter[str]] = {}
        for told in found.subgroups([case.subgroups for case in self.cases]):
            for name, value in told.items():
                counted.setdefault(name, Counter())[value] += 1
        return {name: dict(values.most_common()) for name, values in sorted(counted.items())}

    def _by_split(self, cases: Sequence[CheckedCase]) -> list[int]:
        counted = Counter(case.split for case in cases)
        return [counted[name] for name in self.splits]


def findings(cases: Sequence[CheckedCase]) -> int:
    """How many different findings the cases are images of."""
    return len({case.finding for case in cases})


def patients(cases: Sequence[CheckedCase]) -> int:
    """How many different patients the cases are of."""
    return len({case.patient for case in cases})
