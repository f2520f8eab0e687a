"""What a comparison found (``comparison.json``): the strategies on the same findings, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from hydrakit.plan.results import Number, Seconds, Share
from hydrakit.schema import Frozen, Name, Text
from hydrakit.stats.subgroups import ComparedSubgroup
from hydrakit.stats.verdict import Kind

AucDifference = Annotated[float, Field(ge=-1, le=1)]


class StrategyFigures(Frozen):
    """How well a strategy does.

    Attributes:
        name: Of the strategy.
        val: Mean over the cells of the validation AUC that they ended with; it chose the weights,
            and so flatters.
        auc: Mean over the cells of the test AUC.
        low: Lower end of its interval.
        high: Upper end.
        cells: Number of cells in the mean.
        left_out: Number of cells that tested one class alone, so that they have no AUC.
        seconds: Of training, over all cells, rounds that are shared counted for each: what the
            strategy alone would have taken.
        shared: Number of rounds, over all cells, that were not trained anew.
        scores: Probability of the positive class, ``(passes, findings)``; None where a pass did
            not test the finding. Scores of two cells are on two scales.
        mean_scores: Mean of each finding's scores over the passes.
    """

    name: Name
    val: Share
    auc: Share
    low: Share
    high: Share
    cells: Number
    left_out: Number
    seconds: Seconds
    shared: Number
    scores: tuple[tuple[Share | None, ...], ...]
    mean_scores: tuple[Share, ...]


class Pair(Frozen):
    """The first strategy beside another, on the same findings.

    Attributes:
        strategy: The first one named.
        against: The other.
        difference: Mean test AUC of ``strategy`` less that of ``against``.
        low: Lower end of its interval.
        high: Upper end.
        p: Of no difference.
        p_holm: After Holm's correction for all pairs.
        verdict: ``better``, ``worse`` or ``cannot tell``: ``strategy`` beside ``against``.
        findings_needed: About so many would be needed to tell them apart; None where they can be
            told apart, or where no difference was found.
        text: The verdict in words.
    """

    strategy: Name
    against: Name
    difference: AucDifference
    low: AucDifference
    high: AucDifference
    p: Share
    p_holm: Share
    verdict: Kind
    findings_needed: NonNegativeFloat | None
    text: Text


class Comparison(Frozen):
    """A comparison of strategies (``comparison.json``).

    Attributes:
        format: Version of this format.
        hydrakit: Version that wrote it.
        digest: Of the design.
        datasets: In the order of training.
        target: The dataset that was tested.
        positive: The class whose AUC this is, against all others.
        seeds: Number of seeds.
        repeats: Number of repeats.
        folds: Number of folds; None for a single 8-1-1 split.
        level: Of the intervals.
        positives: Number of positive findings.
        negatives: Number of negative findings.
        patients: Number of patients (those that groups or copies join count once).
        strategies: In the order in which they were named.
        pairs: The first strategy beside every other one.
        verdict: In words, a line for each pair.
        readings: How often test labels were read, in all cells of these strategies.
        wanted: Number of cells of the design.
        done: Number of cells that are done; None where an earlier hydrakit wrote this.
        under_way: Whether others were being run when this was written.
        failed: Why cells failed, by name.
        used: Number of cells behind the figures: of the (seed, repeat, fold) that all finished.
        findings: Names.
        labels: 1 for positive, 0 for negative, of each finding.
        patient_of: Number of its patient, of each finding.
        passes: Seed and repeat of each pass: a test of all findings.
        fold_of: Which fold tested a finding, ``(passes, findings)``; None where none did.
        images: Number of images of the findings.
        subgroups: The strategies on parts of the findings, where the target tells of any.
    """

    format: Literal[1] = 1
    hydrakit: Text
    digest: Text
    datasets: tuple[Name, ...]
    target: Name
    positive: Text
    seeds: Number
    repeats: Number
    folds: Number | None
    level: Share
    positives: Number
    negatives: Number
    patients: Number
    strategies: Annotated[tuple[StrategyFigures, ...], Field(min_length=1)]
    pairs: tuple[Pair, ...]
    verdict: Annotated[str, Field(min_length=1)]
    readings: Number
    wanted: Number
    done: Number | None = None
    under_way: bool = False
    failed: dict[str, str]
    used: Number
    findings: tuple[str, ...]
    labels: tuple[Literal[0, 1], ...]
    patient_of: tuple[Number, ...]
    passes: tuple[tuple[Number, Number], ...]
    fold_of: tuple[tuple[Number | None, ...], ...]
    images: Number
    subgroups: tuple[ComparedSubgroup, ...] = ()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        passes, findings = len(self.passes), len(self.findings)
        tables = [self.fold_of, *(each.scores for each in self.strategies)]
        means = (each.mean_scores for each in self.strategies)
        rows: list[Sequence[float | None]] = [self.labels, self.patient_of, *means]
        rows += [row for table in tables for row in table]
        if not passes or {len(table) for table in tables} != {passes}:
            raise ValueError("its tables of scores have other numbers of passes than 'passes'")
        if {len(row) for row in rows} != {findings}:
            raise ValueError("its tables of scores have other numbers of findings than 'findings'")
        if len(set(self.labels)) != 2 or max(self.patient_of) >= findings:
            raise ValueError("its findings are of one class, or of more patients than findings")
        names = [each.name for each in self.strategies]
        if len(set(names)) < len(names):
            raise ValueError("a strategy is there twice")
        return self
