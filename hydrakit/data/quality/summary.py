"""Summary of a dataset check, as data.

`hydrakit datasets check` prints it, or writes it as JSON or as a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from hydrakit.data.prepared.index import ExcludedCase
from hydrakit.data.quality.split import SPLITS
from hydrakit.hooks import Label, Normalise, Task
from hydrakit.plan.model import Split
from hydrakit.plan.results import AreaUnderCurve, ShortcutFact
from hydrakit.schema import Frozen
from hydrakit.stats.findings import Findings


class Issue(Frozen):
    """A problem or a warning about a dataset.

    Attributes:
        kind: A key of `PROBLEMS` or of `WARNINGS`.
        text: Description of the issue, on one line.
        keys: Keys of the affected cases, if they are to be listed.
    """

    kind: str
    text: str
    keys: tuple[str, ...] = ()


class CheckedCase(Frozen):
    """A usable case of a checked dataset.

    Attributes:
        key: Identity of the case, unique in its dataset.
        label: Label of the case; None if it is unknown.
        classes: Names for the label (`hydrakit.data.read.class_names`).
        patient: Pseudonymous patient identifier; of several spellings, the first.
        finding: Key of the first case of the finding.
        split: Split of the case in a run; None without a label, or if no split is possible.
        subgroups: Subgroups of the case and their values.
        facts: Facts of the case's file and image.
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
    """Range of a numeric fact over the cases that have it."""

    fact: str
    low: float
    median: float
    high: float
    cases: int


class FactValues(Frozen):
    """Frequency of each value of a text fact, most frequent first."""

    fact: str
    values: dict[str, int]


class CopyPair(Frozen):
    """Two cases that are copies of one another.

    Attributes:
        one: Key of a case.
        other: Key of the other case.
        similarity: Similarity of the thumbnails; 1 for exact copies.
        agreement: Agreement of the textures; 1 for exact copies.
        kind: ``exact`` if all pixels are equal, otherwise ``near``.
        flip: Flip of one image that makes it most similar to the other.
        across_labels: Whether the labels differ.
    """

    one: str
    other: str
    similarity: float
    agreement: float
    kind: Literal["exact", "near"]
    flip: str
    across_labels: bool


class ConflictGroup(Frozen):
    """Cases that show one image but have different labels.

    Attributes:
        pair: Two of the cases, with different labels.
        keys: Keys of all of the cases.
    """

    pair: CopyPair
    keys: tuple[str, ...]


class GreyChoice(Frozen):
    """What a normalisation keeps: AUC of a regression on first-order statistics of the patches.

    Attributes:
        rule: The normalisation.
        classes: AUC of each class or label; with two classes only that of the second.
    """

    rule: Normalise
    classes: tuple[AreaUnderCurve, ...]


class GreyMeasurement(Frozen):
    """Comparison of the normalisations on the training split.

    Attributes:
        present: Normalisation of the dataset.
        recommended: The present one, unless another is better beyond chance.
        text: The recommendation, or why nothing was compared.
        choices: What each normalisation keeps; none if nothing was compared.
        images: Number of images that were used.
        training: Number of images of the training split.
    """

    present: Normalise
    recommended: Normalise
    text: str
    choices: tuple[GreyChoice, ...] = ()
    images: int = 0
    training: int = 0

    @property
    def images_text(self) -> str:
        """Which images were used."""
        if self.images < self.training:
            return f"{self.images} of {self.training} training images, of patients drawn at random"
        return f"{self.images} training images"


class Summary(Frozen):
    """Summary of a checked dataset.

    Attributes:
        dataset: Name of the dataset.
        task: Task of the dataset.
        all_classes: Names of the classes.
        digest: SHA-256 of the prepared patches and cases.
        channels: Number of channels of the images.
        split: Shares of the splits.
        seed: Seed of the split.
        declared: Number of cases whose split the dataset itself declares.
        cases: Usable cases, in the order of the prepared patches.
        unusable: Cases without a usable image, with the reasons.
        ranges: Numeric facts.
        values: Text facts.
        copies: Enough pairs to join all copies into their groups.
        groups: Groups of copies, as keys of their cases.
        conflicts: Groups of cases that show one image but have different labels.
        shortcuts: How well facts predict the class, strongest first.
        grey_values: What each normalisation keeps; None if no case is usable.
        problems: Issues that make results invalid.
        warnings: Issues that are worth checking.
        remarks: How the dataset was read, such as columns and files that are not used.
        prepared: When the prepared data was made, as local date and time, if the check reused it
            without reading the dataset; None otherwise.
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
    conflicts: tuple[ConflictGroup, ...] = ()
    shortcuts: tuple[ShortcutFact, ...] = ()
    grey_values: GreyMeasurement | None = None
    problems: tuple[Issue, ...] = ()
    warnings: tuple[Issue, ...] = ()
    remarks: tuple[str, ...] = ()
    prepared: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that have cases, in their usual order."""
        return tuple(name for name in SPLITS if any(case.split == name for case in self.cases))

    @property
    def split_description(self) -> str:
        """How the labelled cases are split, as text."""
        shares = (self.split.train, self.split.val, self.split.test)
        assigned = "-".join(f"{share:g}" for share in shares if share)
        assigned += f", seed {self.seed}; patients, groups and copies stay together"
        if self.declared == len(self.cases) - len(self.members(None)):
            return "as the dataset declares it"
        if self.declared:
            return f"{self.declared} cases as the dataset declares them, the others {assigned}"
        return assigned

    def members(self, name: str | None) -> list[CheckedCase]:
        """Return the cases of a class; for None, the cases without a label."""
        if name is None:
            return [case for case in self.cases if case.label is None]
        return [case for case in self.cases if name in case.classes]

    def counts(self) -> list[tuple[str, list[CheckedCase]]]:
        """Return the rows to count: each class, the unlabelled cases if there are any, and all.

        Cases for which a label is unknown have a row of their own: ``fracture?``.
        """
        unlabelled = self.members(None)
        return [
            *((name, self.members(name)) for name in self.all_classes),
            *((f"{name}?", cases) for name, cases in self._unknown() if cases),
            *([("(no label)", unlabelled)] if unlabelled else []),
            ("all", list(self.cases)),
        ]

    def _unknown(self) -> Iterator[tuple[str, list[CheckedCase]]]:
        for number, name in enumerate(self.all_classes):
            labels = ((case, case.label) for case in self.cases)
            yield (
                name,
                [case for case, of in labels if isinstance(of, tuple) and of[number] is None],
            )

    def count_table(self) -> tuple[list[str], list[list[str | int]]]:
        """Return headers and rows: cases by class and split, and their findings and patients.

        Findings are included only if some have several cases.
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
        """Count the findings of each value of each subgroup, most frequent first."""
        grouped = Findings.of([case.finding for case in self.cases])
        counted: dict[str, Counter[str]] = {}
        for subgroups in grouped.subgroups([case.subgroups for case in self.cases]):
            for name, value in subgroups.items():
                counted.setdefault(name, Counter())[value] += 1
        return {name: dict(values.most_common()) for name, values in sorted(counted.items())}

    def _by_split(self, cases: Sequence[CheckedCase]) -> list[int]:
        counted = Counter(case.split for case in cases)
        return [counted[name] for name in self.splits]


def findings(cases: Sequence[CheckedCase]) -> int:
    """Count the distinct findings of the cases."""
    return len({case.finding for case in cases})


def patients(cases: Sequence[CheckedCase]) -> int:
    """Count the distinct patients of the cases."""
    return len({case.patient for case in cases})
