"""The stored calibration and threshold, judged on the test split."""

from __future__ import annotations

from hydrakit.plan.results import DecisionTest, Estimate, ProbabilityFigures
from hydrakit.report.markup import Html, bullet_list, element, join
from hydrakit.report.tables import ABSENT, interval, number, table


def decision_tables(judged: DecisionTest) -> Html:
    """The decision in words, its figures on the test split, and the confusion matrix."""
    words = f"Stored in the head's file: {judged.decision}."
    parts = [element("p", words), _probabilities(judged), _shares(judged), _confusion(judged)]
    return join((part for part in parts if part is not None), "\n")


def _probabilities(judged: DecisionTest) -> Html:
    """Figures of the probabilities, before and after calibration."""
    rows = [_row("as the network gives them", judged.before)]
    notes = [
        "Log loss: mean of −ln(probability of the true class). Intervals allow for several "
        "findings of one patient. Calibration error by chance: 95th percentile for a perfectly "
        "calibrated network with the same number of findings."
    ]
    if judged.after is not None:
        rows.append(_row("calibrated", judged.after))
    if judged.log_loss_change is not None and judged.brier_change is not None:
        rows.append(
            (
                "change",
                _estimate(judged.log_loss_change),
                _estimate(judged.brier_change),
                ABSENT,
                ABSENT,
            )
        )
        notes.append(_effect(judged.log_loss_change))
    headers = (
        *("Probabilities", "Log loss (95 % CI)", "Brier score (95 % CI)"),
        *("Calibration error", "Calibration error by chance, up to"),
    )
    caption = "Probabilities before and after calibration, on the test split"
    return join((table(caption, headers, rows), bullet_list(notes)), "\n")


def _row(name: str, figures: ProbabilityFigures) -> tuple[str, ...]:
    return (
        name,
        _estimate(figures.log_loss),
        _estimate(figures.brier),
        number(figures.error),
        number(figures.error_by_chance),
    )


def _effect(change: Estimate) -> str:
    """What the calibration did to the log loss, in words."""
    if change.low is not None and change.high is not None:
        if change.high < 0:
            return "Calibration improved the probabilities of these test findings."
        if change.low > 0:
            return (
                "Calibration made the probabilities of these test findings worse: the validation "
                "findings were few, or are other patients than the test findings."
            )
    return (
        "These test findings do not show whether calibration improved the probabilities: the "
        "interval of the change includes 0."
    )


def _shares(judged: DecisionTest) -> Html | None:
    """Sensitivity and specificity at the threshold; None for more than two classes."""
    if judged.sensitivity is None or judged.specificity is None:
        return None
    chosen = judged.threshold
    before = (None, None) if chosen is None else (chosen.sensitivity, chosen.specificity)
    rows = [
        (name, number(held_out), number(each.value), interval(each.low, each.high))
        for name, held_out, each in zip(
            ("sensitivity", "specificity"),
            before,
            (judged.sensitivity, judged.specificity),
            strict=True,
        )
    ]
    rule = (
        "predicting the most probable class"
        if chosen is None
        else f"at the stored threshold {number(chosen.value)}"
    )
    headers = ("Share", "Where it was chosen", "Test split", "95 % CI (Wilson)")
    note = (
        "The threshold was chosen without the test findings, so these are the shares to expect on "
        "new patients like them."
    )
    shares = table(f"Sensitivity and specificity {rule}", headers, rows)
    return join((shares, element("p", note) if chosen is not None else None), "\n")


def _confusion(judged: DecisionTest) -> Html:
    rows = [
        (name, *counts, sum(counts))
        for name, counts in zip(judged.classes, judged.confusion, strict=True)
    ]
    headers = ("True class", *(f"predicted {name}" for name in judged.classes), "Findings")
    return table("Confusion matrix on the test split (number of findings)", headers, rows)


def _estimate(estimate: Estimate) -> str:
    return f"{number(estimate.value)} ({interval(estimate.low, estimate.high)})"
