"""Sensitivity at fixed specificity, on the test split."""

from __future__ import annotations

from collections.abc import Sequence

from hydrakit.report.markup import Html, element, together
from hydrakit.report.roc import Curve
from hydrakit.report.tables import number, table
from hydrakit.stats.calibration import sensitivity_at
from hydrakit.stats.score_table import Row, gather

SPECIFICITIES = (0.8, 0.9, 0.95)


def operating_table(curves: Sequence[Curve]) -> Html:
    """How many positive findings are found where so many of the others are let go."""
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
            found = sensitivity_at(tested, specificity)
            rows.append(
                (
                    curve.area.class_name,
                    f"{specificity:.0%}",
                    f"{found.specificity:.0%}",
                    number(found.sensitivity),
                    f"{number(found.low)} to {number(found.high)}",
                )
            )
    headers = ("Class", "Specificity", "Reached", "Sensitivity", "95 % interval")
    note = (
        "The threshold is taken from the negative findings of this very split, and each finding "
        "counts as a patient of its own: on new patients, expect less."
    )
    shown = table("Sensitivity at fixed specificity, on the test split", headers, rows)
    return together((shown, element("p", note)), "\n")
