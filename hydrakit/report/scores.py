"""What the test split shows: the ROC curve, and whether probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

from hydrakit.report.figure import Figure
from hydrakit.report.levels import roc_band
from hydrakit.report.markup import Html, element, together
from hydrakit.report.roc import Curve
from hydrakit.report.svg import COLOURS, Area, Axis, Line, Mark, line_style, plot, sample
from hydrakit.report.tables import number, table
from hydrakit.stats.calibration import (
    CalibrationError,
    brier_score,
    calibration_error,
    reliability_curve,
)

DOTS = 60  # a curve of more points than this is drawn without a dot on each
BANDS = 1  # more bands than this hide one another
FEWEST = 5  # findings of a bin: with less its share says nothing
BAND_WORDS = (
    " Shaded: a band that holds the whole true curve in 95 of 100 test sets of this size "
    "(Kolmogorov and Smirnov)."
)


def roc_figure(curves: Sequence[Curve], dataset: str, *, patients: float = 1.0) -> Figure:
    """The ROC of the test split: one line per class with its band, and what a step of it is.

    Args:
        curves: Of each class.
        dataset: Tested on.
        patients: Patients per finding, at most 1: the band counts patients.
    """
    colours = [line_style(place) for place in range(len(curves))]
    coloured = list(zip(curves, colours, strict=True))
    areas = [
        Area(
            points=roc_band(
                each.points, each.area.positives * patients, each.area.negatives * patients
            ),
            style=style,
        )
        for each, style in (coloured if len(coloured) <= BANDS else ())
    ]
    chance = Line(points=[(0, 0), (1, 1)], style="faint dashed")
    title = f"ROC on the test split of {dataset}"
    drawing = plot(
        name="roc",
        title=title,
        description=" ".join(f"{_area(curve)}. {_steps(curve)}" for curve in curves),
        x=Axis(label="false positive rate (1 − specificity)", low=0, high=1),
        y=Axis(label="true positive rate (sensitivity)", low=0, high=1),
        areas=areas,
        lines=[chance, *(Line(points=curve.points, style=style) for curve, style in coloured)],
        marks=[mark for curve, style in coloured for mark in _roc_marks(curve, style)],
        size=(400, 400),
    )
    key = [(sample(style), _area(curve)) for curve, style in coloured]
    key.append((sample("faint dashed"), "chance"))
    text = (
        _steps(curves[0])
        if len(curves) == 1
        else "Each class against the rest: a step up is one finding of the class, a step to the "
        "right one of the others."
    )
    text += " A slanted piece is findings with equal scores."
    if areas:
        text += BAND_WORDS + (" It counts patients, not findings." if patients < 1 else "")
    return Figure(
        name="roc",
        caption=f"{title}.",
        text=text,
        drawing=drawing,
        key=key,
        columns=("class", "false_positive_rate", "true_positive_rate"),
        rows=[(curve.area.class_name, *point) for curve in curves for point in curve.points],
    )


def calibration_figure(curves: Sequence[Curve]) -> Figure:
    """Share of positives by the probability given (reliability diagram).

    Args:
        curves: Of each class.
    """
    rows, marks, whiskers = [], [], []
    for place, curve in enumerate(curves):
        name, style = curve.area.class_name, f"c{place % COLOURS}"
        bins = _bins(len(curve.scores))
        for each in reliability_curve(curve.scores, curve.positive, bins=bins):
            shown = (
                f"{name}: {number(each.observed)} of {each.count} where {number(each.predicted)} "
                "was said"
            )
            at = (each.predicted, each.observed)
            marks.append(Mark(at=at, text=shown, style=style))
            ends = [(each.predicted, each.low), (each.predicted, each.high)]
            whiskers.append(Line(points=ends, style=style))
            rows.append((name, each.predicted, each.observed, each.low, each.high, each.count))
    drawing = plot(
        name="reliability",
        title="Reliability diagram of the test split",
        description=" ".join(f"{mark.text}." for mark in marks),
        x=Axis(label="probability given (mean of the bin)", low=0, high=1),
        y=Axis(label="share that is positive", low=0, high=1),
        lines=[Line(points=[(0, 0), (1, 1)], style="faint dashed"), *whiskers],
        marks=marks,
        size=(400, 400),
    )
    key = [
        (sample(f"c{place % COLOURS}", dot=True), curve.area.class_name)
        for place, curve in enumerate(curves)
    ]
    return Figure(
        name="reliability",
        caption="What probabilities are worth (reliability).",
        text="Each dot is a bin of about as many test findings, with Wilson's 95 % interval: on "
        "the dashed line, probabilities mean what they say.",
        drawing=drawing,
        key=[*key, (sample("faint dashed"), "perfect")],
        columns=("class", "predicted", "observed", "low", "high", "findings"),
        rows=rows,
    )


def _bins(findings: int) -> int:
    return max(2, min(10, findings // FEWEST))


def calibration_table(curves: Sequence[Curve]) -> Html:
    """Brier score and calibration error of each class, beside what luck gives."""
    rows, words = [], []
    for curve in curves:
        name, bins = curve.area.class_name, _bins(len(curve.scores))
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
        words.append(element("li", f"{name}: {_calibrated(error)}"))
    headers = (
        "Class",
        "Brier score",
        "By the share alone",
        "Skill",
        "Calibration error",
        "By luck",
    )
    return together(
        (
            table("Whether probabilities mean what they say, on the test split", headers, rows),
            element(
                "ul",
                *words,
                element(
                    "li",
                    "Brier score: mean squared distance of the probability from what happened, 0 "
                    "being perfect; “by the share alone” is what saying the share of positives "
                    "each time gives, and skill is how much of that is saved. Calibration error "
                    "(ECE): mean distance of the bins from the dashed line; “by luck” is "
                    "what a perfectly calibrated network would show on as few findings.",
                ),
            ),
        ),
        "\n",
    )


def _calibrated(error: CalibrationError) -> str:
    if error.error <= error.by_chance_high:
        return (
            "no fault of calibration can be shown: a perfectly calibrated network would have an "
            f"error as large in {error.p * 100:.0f} of 100 test sets."
        )
    return (
        "the probabilities are off by more than so few findings explain: do not read them as such."
    )


def _roc_marks(curve: Curve, style: str) -> list[Mark]:
    """A dot on each point, where there are not too many of them."""
    if len(curve.points) > DOTS:
        return []
    area = curve.area
    return [
        Mark(
            at=(false, true),
            text=f"{area.class_name}: {round(true * area.positives)} of {area.positives} found, "
            f"{round(false * area.negatives)} of {area.negatives} false alarms",
            style=f"{style} plain",
            radius=2.5,
        )
        for false, true in curve.points
    ]


def _area(curve: Curve) -> str:
    area = curve.area
    return f"{area.class_name}: AUC {number(area.auc)} ({number(area.low)} to {number(area.high)})"


def _steps(curve: Curve) -> str:
    area = curve.area
    return (
        f"A step up is 1 of {area.positives} positive findings ({number(1 / area.positives)}), a "
        f"step to the right 1 of {area.negatives} negative findings ({number(1 / area.negatives)})."
    )
