"""The result of a comparison (``comparison.json``): strategies on the same findings, as data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, model_validator

from hydrakit.plan.decision import Share
from hydrakit.plan.results import Number, Seconds
from hydrakit.schema import Frozen, Name, Text
from hydrakit.stats.paired import Measure
from hydrakit.stats.sequential import Ended
from hydrakit.stats.subgroups import ComparedSubgroup, SubgroupAuc
from hydrakit.stats.verdict import VerdictKind

Metric = Literal["AUC", "R2"]

FORMAT = 4
"""Latest format of ``comparison.json``: 1 is written where the figure is the AUC of a class, 2 for
other figures, 3 where folds are values of a subgroup, 4 where looks were taken."""


MAE = "mean absolute error"


class StrategyResult(Frozen):
    """Result of one strategy.

    Attributes:
        name: Name of the strategy.
        val: Mean over the cells of the final validation AUC, or mean absolute error. It is too good
            as an estimate, because the weights were chosen by it.
        auc: Mean over the cells of the test AUC, or of the mean of several labels; None in a
            regression.
        mae: Mean absolute error of the tested numbers; None where they are classes.
        low: Lower bound of the interval of ``auc`` or ``mae``.
        high: Upper bound of the interval of ``auc`` or ``mae``.
        r2: R2 within a pass, mean over the passes; None where it has no value.
        r2_low: Lower bound of the interval of ``r2``.
        r2_high: Upper bound of the interval of ``r2``.
        cells: Number of cells in the mean.
        left_out: Number of cells without an AUC, because they tested one class only.
        seconds: Training time over all cells. Rounds that are shared with other strategies count
            too: it is the time that the strategy alone would have taken.
        shared: Number of rounds, over all cells, that were shared and not trained again.
        scores: Probability of the positive class, or the predicted number, ``(passes, findings)``;
            None where a pass did not test the finding. Scores of two cells are not on one scale.
            Empty for several labels.
        mean_scores: Mean of each finding's scores over the passes; empty for several labels.
        cell_values: AUC or mean absolute error of each cell, with its seed, repeat and fold; empty
            where the scores give them.
    """

    name: Name
    val: NonNegativeFloat
    auc: Share | None = None
    mae: NonNegativeFloat | None = None
    low: NonNegativeFloat
    high: NonNegativeFloat
    r2: float | None = None
    r2_low: float | None = None
    r2_high: float | None = None
    cells: Number
    left_out: Number
    seconds: Seconds
    shared: Number
    scores: tuple[tuple[float | None, ...], ...]
    mean_scores: tuple[float, ...]
    cell_values: tuple[tuple[Number, Number, Number, NonNegativeFloat], ...] = ()

    @property
    def value(self) -> float:
        """The figure that strategies are compared by: AUC, or mean absolute error."""
        value = self.mae if self.auc is None else self.auc
        assert value is not None
        return value

    @property
    def quality(self) -> tuple[Metric, float, float | None, float | None] | None:
        """AUC or R2, of which 1 is perfect, with its interval; None where R2 has no value."""
        if self.auc is not None:
            return "AUC", self.auc, self.low, self.high
        return None if self.r2 is None else ("R2", self.r2, self.r2_low, self.r2_high)

    @model_validator(mode="after")
    def _has_one_figure(self) -> Self:
        if (self.auc is None) == (self.mae is None):
            raise ValueError("a strategy has an AUC or a mean absolute error")
        return self


class StrategyPair(Frozen):
    """Comparison of the first strategy with another one, on the same findings.

    Attributes:
        strategy: Name of the first strategy.
        against: Name of the other strategy.
        difference: Mean test AUC, or mean absolute error, of ``strategy`` minus that of
            ``against``.
        low: Lower bound of the difference's interval.
        high: Upper bound of the difference's interval.
        level: Confidence level of the difference's interval; None for that of the comparison.
        p: p-value for no difference.
        p_holm: p-value after Holm's correction for all pairs, and for all looks where there were
            several.
        verdict: ``better``, ``worse`` or ``cannot tell``: ``strategy`` compared with ``against``.
        findings_needed: Approximate number of findings needed to detect a difference of this size;
            None where the verdict is ``better`` or ``worse``, or the difference is 0.
        r2_difference: R2 of ``strategy`` minus that of ``against``; None where there is none.
        r2_low: Lower bound of the interval of ``r2_difference``.
        r2_high: Upper bound of the interval of ``r2_difference``.
        text: The verdict as text.
    """

    strategy: Name
    against: Name
    difference: float
    low: float
    high: float
    level: Share | None = None
    p: Share
    p_holm: Share
    verdict: VerdictKind
    findings_needed: NonNegativeFloat | None
    r2_difference: float | None = None
    r2_low: float | None = None
    r2_high: float | None = None
    text: Text


class LabelAuc(Frozen):
    """AUC of one label for every strategy.

    Attributes:
        name: Name of the label.
        positives: Number of findings with the label.
        negatives: Number of findings without it.
        strategies: AUC of each strategy, in the order of the comparison; empty where no cell tested
            findings with and without the label, which leaves it out of the mean.
    """

    name: Text
    positives: Number
    negatives: Number
    strategies: tuple[SubgroupAuc, ...] = ()


class TunedCell(Frozen):
    """What the tuning of a cell chose, on the cell's training part.

    Attributes:
        cell: Name of the cell.
        strategy: Name of the strategy.
        values: Chosen values, by path.
        score: Mean AUC of the chosen values on the inner folds; the best of all candidates.
        candidates: Number of candidates.
        runs: Number of runs on inner folds.
    """

    cell: Text
    strategy: Name
    values: dict[Text, Any]
    score: float
    candidates: Number
    runs: Number


class EpochTrace(Frozen):
    """Test AUC (or R2) of a strategy after every epoch, with `--trace-test`.

    Attributes:
        strategy: Name of the strategy.
        epochs: Epochs with a value, counted over all rounds of a cell from 1.
        means: Mean over the cells that trained this epoch.
        deviations: Standard deviation between these cells; 0 for a single one.
        cells: Number of these cells.
    """

    strategy: Name
    epochs: tuple[Number, ...]
    means: tuple[float, ...]
    deviations: tuple[NonNegativeFloat, ...]
    cells: tuple[Number, ...]


class ComparedPlan(Frozen):
    """What a plan is that was compared like a strategy.

    Attributes:
        sha256: SHA-256 of its file in the folder ``plans`` of the comparison.
        strategy: Name of the strategy that the plan states.
        rounds: Number of its rounds.
        differences: Values in which it differs from the plan that the comparison's settings give
            for that strategy, as text; None if there is no such strategy.
    """

    sha256: Text
    strategy: Name
    rounds: Number
    differences: tuple[Text, ...] | None


class ValueFigure(Frozen):
    """Figure of a strategy on the findings of a value that was left out of its training.

    Attributes:
        strategy: Name of the strategy.
        value: Mean over the seeds of the AUC, or mean absolute error.
        low: Lower bound of its interval.
        high: Upper bound of its interval.
    """

    strategy: Name
    value: NonNegativeFloat
    low: NonNegativeFloat
    high: NonNegativeFloat


class ValueResult(Frozen):
    """Results on the findings of a value of a subgroup that was left out of training.

    Attributes:
        value: The value, such as the name of a scanner.
        findings: Number of tested findings.
        positives: Number of positive ones; None where the figure is not the AUC of a class.
        patients: Number of their patients.
        strategies: Figure of each strategy, in the order of the comparison; empty where no cell of
            the value is behind the results.
    """

    value: Text
    findings: Number
    positives: Number | None = None
    patients: Number
    strategies: tuple[ValueFigure, ...] = ()


class LeaveOut(Frozen):
    """Folds that are the values of a subgroup, each left out of training and tested.

    Attributes:
        subgroup: Name of the subgroup.
        values: Results on each value; the first is that of fold 0.
        notes: Sentences about findings and patients that are not tested, or not always trained on.
    """

    subgroup: Text
    values: tuple[ValueResult, ...]
    notes: tuple[Text, ...] = ()


class PairLook(Frozen):
    """The first strategy compared with another one at a look.

    Attributes:
        against: Name of the other strategy.
        difference: AUC of the first minus that of the other one, by the cells of the look.
        low: Lower bound of the difference's interval, with the confidence level of the look.
        high: Upper bound of the difference's interval.
        p: p-value of this look alone.
        p_looks: p-value of all looks so far together.
        chance: Probability that all cells will show a difference; None where one is shown, or the
            cells are all.
        ended: Why the comparison with this strategy ended at the look: ``decided``, ``no change
            expected`` or ``all cells``; None if it went on.
    """

    against: Name
    difference: float
    low: float
    high: float
    p: Share
    p_looks: Share
    chance: Share | None = None
    ended: Ended | None = None


class TakenLook(Frozen):
    """A planned look, and what it says where it was taken.

    Attributes:
        cells: What it covers, in words.
        time: Expected information, as a share of that of all cells.
        level: Level of its tests; intervals have 1 minus it.
        pairs: Comparisons; empty where the look was not taken.
    """

    cells: Text
    time: Share
    level: Share
    pairs: tuple[PairLook, ...] = ()


class DroppedStrategy(Frozen):
    """A strategy whose comparison ended before that of others.

    Attributes:
        name: Name of the strategy.
        look: Number of the last look at it; 0 if there was none.
        failed: Whether it ended because a cell of it failed.
        auc: Mean over its cells of the test AUC; None without a look.
        low: Lower bound of the interval of ``auc``.
        high: Upper bound of the interval of ``auc``.
        cells: Number of cells in the mean.
        seconds: Training time over these cells.
    """

    name: Name
    look: Number
    failed: bool = False
    auc: Share | None = None
    low: Share | None = None
    high: Share | None = None
    cells: Number = 0
    seconds: Seconds = 0.0


class Looks(Frozen):
    """Looks at a comparison that may end before all cells are trained.

    Attributes:
        stops: Whether cells are left out that can hardly change the verdict.
        planned: All planned looks, in order.
        needed: Number of cells that the looks so far needed.
        dropped: Strategies that ended before others. They are not among the comparison's
            strategies, but their pairs are.
    """

    stops: bool
    planned: tuple[TakenLook, ...]
    needed: Number
    dropped: tuple[DroppedStrategy, ...] = ()

    @property
    def taken(self) -> int:
        """Number of looks that were taken."""
        return sum(bool(each.pairs) for each in self.planned)

    @property
    def stopped_early(self) -> bool:
        """Whether the last look that was taken ended the comparison before the last planned one."""
        pairs = self.planned[self.taken - 1].pairs if self.taken else ()
        return 0 < self.taken < len(self.planned) and all(each.ended for each in pairs)


class Comparison(Frozen):
    """A comparison of strategies (``comparison.json``).

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote the file.
        digest: Digest of the design.
        datasets: Datasets in the order of training.
        target: Dataset of the test findings.
        measure: Figure that the strategies are compared by: ``AUC`` of a class, ``mean AUC`` of
            several labels, or ``mae``, the mean absolute error of numbers.
        positive: Positive class of the AUC, against all others; None for other measures.
        seeds: Number of seeds.
        repeats: Number of repeats.
        folds: Number of folds; None for a single 8-1-1 split.
        level: Confidence level of the intervals.
        positives: Number of positive findings; 0 for other measures than the AUC of a class.
        negatives: Number of negative findings, likewise.
        patients: Number of patients (those joined by groups or copies count as one).
        strategies: Results of the strategies, in the order of the comparison, then of the
            baselines.
        baselines: Strategies that are baselines, each with its description.
        pairs: Comparison of the first strategy with each baseline, then with each other one.
        verdict: Text of the verdict, a line for each pair.
        readings: How often test labels were read, in all cells of these strategies.
        wanted: Number of cells of the design.
        done: Number of finished cells; None in files of earlier versions of hydrakit.
        under_way: Whether further cells were running when this was written.
        failed: Reasons of failed cells, by name of the cell.
        used: Number of cells behind the results: of each (seed, repeat, fold) that all strategies
            finished.
        findings: Names of the findings.
        labels: Label of each finding: 1 for positive, 0 for negative; its number in a regression;
            empty for several labels.
        patient_of: Number of the patient of each finding.
        passes: Seed and repeat of each pass: a pass tests all findings once.
        fold_of: Fold that tested each finding, ``(passes, findings)``; None where none did.
        images: Number of images of the findings.
        subgroups: Results in subgroups of the findings, where the target has any; only for the AUC
            of a class.
        label_aucs: AUCs of the single labels.
        tuned: What was chosen for each tuned cell behind the results.
        plans: Strategies that are plans from files, each with what it is.
        traces: Test figure of each strategy after every epoch, where the cells recorded it.
        leave_out: What was left out of training; None where folds are of random patients.
        looks: Looks at the results; None where only all cells together were tested.
    """

    format: Literal[1, 2, 3, 4] = 1
    hydrakit: Text
    digest: Text
    datasets: tuple[Name, ...]
    target: Name
    measure: Measure = "AUC"
    positive: Text | None
    seeds: Number
    repeats: Number
    folds: Number | None
    level: Share
    positives: Number
    negatives: Number
    patients: Number
    strategies: Annotated[tuple[StrategyResult, ...], Field(min_length=1)]
    baselines: dict[Name, Text] = Field(default_factory=dict)
    pairs: tuple[StrategyPair, ...]
    verdict: Annotated[str, Field(min_length=1)]
    readings: Number
    wanted: Number
    done: Number | None = None
    under_way: bool = False
    failed: dict[str, str]
    used: Number
    findings: tuple[str, ...]
    labels: tuple[int | float, ...]
    patient_of: tuple[Number, ...]
    passes: tuple[tuple[Number, Number], ...]
    fold_of: tuple[tuple[Number | None, ...], ...]
    images: Number
    subgroups: tuple[ComparedSubgroup, ...] = ()
    label_aucs: tuple[LabelAuc, ...] = ()
    tuned: tuple[TunedCell, ...] = ()
    plans: dict[Name, ComparedPlan] = Field(default_factory=dict)
    traces: tuple[EpochTrace, ...] = ()
    leave_out: LeaveOut | None = None
    looks: Looks | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        passes, findings = len(self.passes), len(self.findings)
        tables = [self.fold_of, *(each.scores for each in self.strategies)]
        means = (each.mean_scores for each in self.strategies)
        rows: list[Sequence[float | None]] = [self.labels, self.patient_of, *means]
        if self.measure == "mean AUC":
            tables, rows = [self.fold_of], [self.patient_of]
        rows += [row for table in tables for row in table]
        if not passes or {len(table) for table in tables} != {passes}:
            raise ValueError("the number of passes in 'scores' or 'fold_of' differs from 'passes'")
        if {len(row) for row in rows} != {findings}:
            raise ValueError("the number of findings in a table differs from 'findings'")
        if max(self.patient_of) >= findings:
            raise ValueError("its findings are of more patients than findings")
        if self.measure == "AUC":
            scores = (score for each in self.strategies for row in each.scores for score in row)
            if set(self.labels) != {0, 1} or self.positive is None:
                raise ValueError("its findings are not of two classes, one of them positive")
            if any(score is not None and not 0 <= score <= 1 for score in scores):
                raise ValueError("a score is not between 0 and 1")
        if any((each.mae is None) == (self.measure == "mae") for each in self.strategies):
            raise ValueError(f"a strategy has no {self.measure}")
        names = [each.name for each in self.strategies]
        if len(set(names)) < len(names):
            raise ValueError("a strategy occurs twice")
        if self.looks is not None:
            names += [each.name for each in self.looks.dropped]
        if not self.baselines.keys() <= set(names):
            raise ValueError("a baseline is not among the strategies")
        if not self.plans.keys() <= set(names):
            raise ValueError("a plan is not among the strategies")
        return self

    @property
    def figure(self) -> str:
        """Name of the figure that the strategies are compared by, for tables."""
        return {"AUC": "AUC", "mean AUC": "mean AUC of the labels", "mae": MAE}[self.measure]

    @property
    def scheme(self) -> str:
        """How the cases were divided, in words."""
        if self.leave_out is not None:
            return f"each {self.leave_out.subgroup} left out in turn ({self.folds} folds)"
        return f"{self.folds}-fold cross-validation" if self.folds else "a single split"

    def counts(self, *, name: bool = False) -> str:
        """Numbers of findings and patients, in words; with ``name``, also the positive class."""
        positive = f"{self.positives} positive{f' ({self.positive})' if name else ''}"
        kinds = f"{positive} and {self.negatives} negative"
        count = kinds if self.measure == "AUC" else f"{len(self.findings)}"
        images = f" ({self.images} images)" if self.images > len(self.findings) else ""
        return f"{count} findings{images} of {self.patients} patients"

    def label(self, strategy: str) -> str:
        """Name of a strategy, with a mark if it is a baseline."""
        return f"{strategy} (baseline)" if strategy in self.baselines else strategy
