"""Test results: ROC curves, calibration, sensitivity at fixed specificity, and subgroups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html, bullet_list, element, join
from hydrakit.report.roc import RocCurve, roc_band
from hydrakit.report.svg import COLOURS, Area, Axis, Line, Mark, legend_sample, line_style, plot
from hydrakit.report.tables import interval, number, table
from hydrakit.stats.calibration import (
    CalibrationError,
    brier_score,
    calibration_error,
    reliability_curve,
    sensitivity_at,
)
from hydrakit.stats.decision_test import bins_of
from hydrakit.stats.findings import MIN_PER_CLASS
from hydrakit.stats.score_table import Row, gather

if TYPE_CHECKING:
    from hydrakit.plan.results import Subgroup, TestResult
    from hydrakit.stats.comparison import Comparison
    from hydrakit.stats.subgroups import ComparedSubgroup

MAX_DOTS = 60  # curves with more points are drawn without dots
MAX_BANDS = 1  # more confidence bands would hide each other
SPECIFICITIES = (0.8, 0.9, 0.95)
TOO_FEW = "too few"
TOO_FEW_NOTE = f" Too few: fewer than {MIN_PER_CLASS} positive or negative findings"


def roc_figure(curves: Sequence[RocCurve], dataset: str, *, patients: float = 1.0) -> Figure:
    """ROC curves of the test split, one for each class, with a confidence band.

    Args:
        curves: Curve of each class.
        dataset: Dataset that was tested.
        patients: Patients per finding, at most 1: the band counts patients.
    """
    styled = [(curve, line_style(index)) for index, curve in enumerate(curves)]
    bands = [
        Area(
            points=roc_band(
                curve.points, curve.area.positives * patients, curve.area.negatives * patients
            ),
            style=style,
        )
        for curve, style in (styled if len(styled) <= MAX_BANDS else ())
    ]
    title = f"ROC curve on the test split of {dataset}"
    if len(curves) == 1:
        text = _steps(curves[0])
    else:
        text = (
            "One class versus the rest: each upward step is one finding of the class, each step "
            "to the right one finding of another class."
        )
    text += " Sloped segments are findings with equal scores."
    if bands:
        text += " Shaded: 95 % confidence band of the whole curve (Kolmogorov-Smirnov)."
    if bands and patients < 1:
        text += " The band counts patients, not findings."
    return Figure(
        name="roc",
        caption=f"{title}.",
        text=text,
        drawing=plot(
            name="roc",
            title=title,
            description=" ".join(f"{_auc(curve)}. {_steps(curve)}" for curve in curves),
            x=Axis(label="false positive rate (1 − specificity)", low=0, high=1),
            y=Axis(label="true positive rate (sensitivity)", low=0, high=1),
            areas=bands,
            lines=[
                Line(points=[(0, 0), (1, 1)], style="faint dashed"),
                *(Line(points=curve.points, style=style) for curve, style in styled),
            ],
            marks=[mark for curve, style in styled for mark in _roc_marks(curve, style)],
            size=(400, 400),
        ),
        key=[
            *((legend_sample(style), _auc(curve)) for curve, style in styled),
            (legend_sample("faint dashed"), "chance"),
        ],
        columns=("class", "false_positive_rate", "true_positive_rate"),
        rows=[(curve.area.class_name, *point) for curve in curves for point in curve.points],
    )


def _roc_marks(curve: RocCurve, style: str) -> list[Mark]:
    """A dot on each point, unless there are too many."""
    if len(curve.points) > MAX_DOTS:
        return []
    area = curve.area
    return [
        Mark(
            at=(false, true),
            text=f"{area.class_name}: {round(true * area.positives)} of {area.positives} true "
            f"positives, {round(false * area.negatives)} of {area.negatives} false positives",
            style=f"{style} plain",
            radius=2.5,
        )
        for false, true in curve.points
    ]


def _auc(curve: RocCurve) -> str:
    area = curve.area
    return f"{area.class_name}: AUC {number(area.auc)} ({interval(area.low, area.high)})"


def _steps(curve: RocCurve) -> str:
    area = curve.area
    return (
        f"Each upward step is one of {area.positives} positive findings "
        f"({number(1 / area.positives)}), each step to the right one of {area.negatives} negative "
        f"findings ({number(1 / area.negatives)})."
    )


def calibration_figure(curves: Sequence[RocCurve]) -> Figure:
    """Reliability diagram: observed fraction of positives by predicted probability.

    Args:
        curves: Curve of each class.
    """
    rows, marks, whiskers = [], [], []
    for index, curve in enumerate(curves):
        name, style = curve.area.class_name, f"c{index % COLOURS}"
        bins = bins_of(len(curve.scores))
        for each in reliability_curve(curve.scores, curve.positive, bins=bins):
            text = (
                f"{name}: predicted {number(each.predicted)}, observed {number(each.observed)} of "
                f"{each.count} findings"
            )
            marks.append(Mark(at=(each.predicted, each.observed), text=text, style=style))
            ends = [(each.predicted, each.low), (each.predicted, each.high)]
            whiskers.append(Line(points=ends, style=style))
            rows.append((name, each.predicted, each.observed, each.low, each.high, each.count))
    return Figure(
        name="reliability",
        caption="Calibration (reliability diagram).",
        text="Each dot is a bin with about the same number of test findings, with Wilson's 95 % "
        "confidence interval. On the dashed line, predicted probabilities equal observed "
        "frequencies.",
        drawing=plot(
            name="reliability",
            title="Reliability diagram of the test split",
            description=" ".join(f"{mark.text}." for mark in marks),
            x=Axis(label="predicted probability (mean of the bin)", low=0, high=1),
            y=Axis(label="observed fraction of positives", low=0, high=1),
            lines=[Line(points=[(0, 0), (1, 1)], style="faint dashed"), *whiskers],
            marks=marks,
            size=(400, 400),
        ),
        key=[
            *(
                (legend_sample(f"c{index % COLOURS}", dot=True), curve.area.class_name)
                for index, curve in enumerate(curves)
            ),
            (legend_sample("faint dashed"), "perfect calibration"),
        ],
        columns=("class", "predicted", "observed", "low", "high", "findings"),
        rows=rows,
    )


def calibration_table(curves: Sequence[RocCurve]) -> Html:
    """Brier score and calibration error of each class, beside their reference values."""
    rows, notes = [], []
    for curve in curves:
        name, bins = curve.area.class_name, bins_of(len(curve.scores))
        score = brier_score(curve.scores, curve.positive)
        error = calibration_error(curve.scores, curve.positive, bins=bins)
        rows.append(
            (
                name,
                number(score.score),
                number(score.uncertainty),
                number(score.skill),
                number(error.error),
                f"{number(error.by_chance)} (up to {number(error.by_chance_high)})",
            )
        )
        notes.append(f"{name}: {_calibration_verdict(error)}")
    headers = (
        *("Class", "Brier score", "Brier score of prevalence", "Brier skill score"),
        *("Calibration error", "Calibration error by chance"),
    )
    notes += [
        "Brier score: mean squared difference between predicted probability and outcome (0 is "
        "perfect). Brier score of prevalence: the same for a prediction that is always the "
        "prevalence. Brier skill score: relative improvement over it.",
        "Calibration error (expected calibration error, ECE): mean distance of the bins from the "
        "dashed line. By chance: mean (and 95th percentile) of a perfectly calibrated network "
        "with the same number of findings.",
    ]
    scores = table("Calibration on the test split", headers, rows)
    return join((scores, bullet_list(notes)), "\n")


def _calibration_verdict(error: CalibrationError) -> str:
    if error.error <= error.by_chance_high:
        return (
            "no miscalibration detected. A perfectly calibrated network would have a calibration "
            f"error at least this large in {error.p * 100:.0f} % of test sets of this size."
        )
    return (
        "miscalibrated by more than the small number of findings explains. Do not interpret the "
        "outputs as probabilities."
    )


def sensitivity_table(curves: Sequence[RocCurve]) -> Html:
    """Sensitivity at fixed specificities on the test split."""
    rows = []
    for curve in curves:
        findings = zip(curve.scores.tolist(), curve.positive.tolist(), strict=True)
        tested = gather(
            [
                Row(finding=str(n), patient=str(n), label=int(positive), score=score)
                for n, (score, positive) in enumerate(findings)
            ]
        )
        for specificity in SPECIFICITIES:
            reached = sensitivity_at(tested, specificity)
            rows.append(
                (
                    curve.area.class_name,
                    f"{100 * specificity:.0f} %",
                    f"{100 * reached.specificity:.0f} %",
                    number(reached.sensitivity),
                    interval(reached.low, reached.high),
                )
            )
    headers = ("Class", "Required specificity", "Actual specificity", "Sensitivity", "95 % CI")
    note = (
        "The thresholds are set on the negative findings of this test split, and each finding "
        "counts as a separate patient: expect lower performance on new patients."
    )
    caption = "Sensitivity at fixed specificity, with thresholds from the test split itself"
    sensitivities = table(caption, headers, rows)
    return join((sensitivities, element("p", note)), "\n")


def subgroups_table(test: TestResult) -> Html | None:
    """AUC of each subgroup of findings (a zone, a scanner); None if the dataset defines none."""
    if not test.subgroups:
        return None
    several = len(test.classes) > 1
    rows = [
        (
            f"{each.name}: {each.value}",
            *((each.class_name,) if several else ()),
            each.positives,
            each.negatives,
            TOO_FEW if each.auc is None else number(each.auc),
            interval(each.low, each.high),
        )
        for each in test.subgroups
    ]
    headers = (
        "Subgroup",
        *(("Class",) if several else ()),
        *("Positive findings", "Negative findings", "AUC", f"{test.level * 100:g} % CI"),
    )
    aucs = table("Test AUC by subgroup", headers, rows, words=(1,) if several else ())
    first = test.subgroups[0].class_name
    of_one_class = [each for each in test.subgroups if each.class_name == first]
    too_few = "" if all(each.auc is not None for each in test.subgroups) else f"{TOO_FEW_NOTE}."
    known = sum(
        area.positives + area.negatives for area in test.classes if area.class_name == first
    )
    return _with_note(aucs, too_few + _missing(of_one_class, known))


def compared_subgroups(comparison: Comparison) -> Html | None:
    """Mean AUC of every strategy in each subgroup; None if the target defines none."""
    if not comparison.subgroups:
        return None
    rows = []
    for each in comparison.subgroups:
        aucs = [f"{number(one.auc)} ({interval(one.low, one.high)})" for one in each.strategies]
        rows.append(
            (
                f"{each.name}: {each.value}",
                each.positives,
                each.negatives,
                each.patients,
                *(aucs or [TOO_FEW] * len(comparison.strategies)),
            )
        )
    headers = (
        *("Subgroup", "Positive findings", "Negative findings", "Patients"),
        *(each.name for each in comparison.strategies),
    )
    caption = f"Test AUC by subgroup ({comparison.level * 100:g} % CI)"
    too_few = ""
    if not all(each.strategies for each in comparison.subgroups):
        too_few = f"{TOO_FEW_NOTE}, or no cell that tested both."
    missing = _missing(comparison.subgroups, comparison.positives + comparison.negatives)
    return _with_note(table(caption, headers, rows), too_few + missing)


def _missing(subgroups: Sequence[Subgroup | ComparedSubgroup], findings: int) -> str:
    """Findings without a subgroup, for each subgroup variable."""
    text = ""
    for name in dict.fromkeys(each.name for each in subgroups):
        assigned = sum(each.positives + each.negatives for each in subgroups if each.name == name)
        if assigned < findings:
            text += f" For {findings - assigned} findings, the {name} is unknown or not unique."
    return text


def _with_note(results: Html, note: str) -> Html:
    text = (
        "Differences between subgroups are not tested: with so few findings in each, subgroups "
        "can differ by chance alone."
    )
    return join((results, element("p", text + note)), "\n")
