"""The test result in words: AUC, confidence interval, and how to interpret them."""

from __future__ import annotations

from collections.abc import Iterator

from hydrakit.plan.results import AreaUnderCurve, Baseline, DataFacts, TestResult
from hydrakit.report.markup import Html, bullet_list, element, join
from hydrakit.report.tables import count_of, interval, number, table
from hydrakit.weights.description import ModelDescription


def verdict(test: TestResult, facts: DataFacts, baseline: Baseline | None = None) -> Html:
    """The test result with its confidence interval, the baseline beside it, and caveats."""
    level = f"{test.level * 100:g} %"
    if not test.classes:
        headline: list[object] = [
            "Test mean absolute error ",
            element("b", number(test.figures.mae)),
            f", R2 {number(test.figures.r2)}, on {test.dataset}: {_findings(test)}.",
        ]
        explanation = element(
            "p", "R2 is 0 for a prediction that is always the mean of these findings."
        )
    elif len(test.classes) == 1:
        area = test.classes[0]
        headline = [
            "Test AUC ",
            element("b", number(area.auc)),
            f" ({level} confidence interval {interval(area.low, area.high)}) on {test.dataset}: "
            f"{area.positives} positive ({area.class_name}) and "
            f"{count_of(area.negatives, 'negative finding')}{_images(test)}.",
        ]
        explanation = element("p", interpretation(area))
    else:
        headline = [
            "Test AUC ",
            element("b", number(test.figures.auc)),
            f" on {test.dataset}: macro average of {len(test.classes)} classes, each versus the "
            f"rest; {_findings(test)}.",
        ]
        explanation = _class_table(test, level)
    beside = element("p", baseline_text(baseline, test)) if baseline is not None else None
    notes = bullet_list(caveats(test, facts))
    return join((element("p", *headline, class_="verdict"), beside, explanation, notes), "\n")


def untested(target: str, facts: DataFacts, description: ModelDescription | None) -> Html:
    """What is known of a model that was trained on all cases of its target.

    Args:
        target: Name of the target.
        facts: Facts of the target.
        description: Description of the model, with its expected figure; None if there is none.
    """
    used = sum(facts.cases.get(split, 0) for split in ("train", "val"))
    headline: list[object] = [f"No test split: all {used} cases of {target} train and validate."]
    expected = description and description.expected.get(target)
    if not expected:
        why = "Nothing says how good the model is: no model.json quotes a cross-validated figure."
        return join((element("p", *headline, class_="verdict"), element("p", why)), "\n")
    headline += [" Estimate: ", element("b", str(expected)), "."]
    parts = (element("p", *headline, class_="verdict"), element("p", expected.reason))
    return join(parts, "\n")


def baseline_text(baseline: Baseline, test: TestResult) -> str:
    """The baseline's figure on the same test split, and what it says about the network."""
    kind = "ridge" if test.task == "regression" else "logistic"
    name = f"a {kind} regression on {baseline.numbers} intensities (no network)"
    if baseline.test is None:
        return f"Baseline: {name} could not be tested: {baseline.reason}."
    other = baseline.test
    if not other.classes:
        figure = f"mean absolute error {number(other.figures.mae)}, R2 {number(other.figures.r2)}"
    elif len(other.classes) == 1:
        area = other.classes[0]
        level = f"{other.level * 100:g} %"
        figure = f"AUC {number(area.auc)} ({level} interval {interval(area.low, area.high)})"
    else:
        figure = f"macro average AUC {number(other.figures.auc)}"
    end = ""
    if other.figures.score >= test.figures.score:
        end = " On these findings the network is no better."
    return (
        f"Baseline on the same test findings: {name} has {figure}.{end} A single split does not "
        "show which is better: the command hydrakit compare does."
    )


def interpretation(area: AreaUnderCurve) -> str:
    """What the confidence interval of an AUC says about the network."""
    compatible = f"AUCs from {interval(area.low, area.high)} are compatible with this result."
    if area.low > 0.5:
        return (
            "The confidence interval excludes 0.5: the network ranks findings better than chance. "
            f"{compatible}"
        )
    if area.high < 0.5:
        return (
            "The confidence interval lies below 0.5: the network ranks findings worse than chance. "
            f"{compatible} Check whether the classes are swapped."
        )
    return (
        f"The confidence interval includes 0.5: on these {area.positives + area.negatives} "
        f"findings, the network is not distinguishable from chance. {compatible}"
    )


def _class_table(test: TestResult, level: str) -> Html:
    rows = [
        (
            area.class_name,
            area.positives,
            area.negatives,
            number(area.auc),
            interval(area.low, area.high),
            element("span", interpretation(area)),
        )
        for area in test.classes
    ]
    headers = ("Class", "Findings", "Other findings", "AUC", f"{level} CI", "Interpretation")
    note = element("p", "The macro average has no confidence interval.")
    caption = "Each class versus the rest, on the test split"
    return join((table(caption, headers, rows, words=(5,)), note), "\n")


def caveats(test: TestResult, facts: DataFacts) -> Iterator[str]:
    """Caveats of the result."""
    count = test.findings
    if len(test.classes) == 1:
        area = test.classes[0]
        yield (
            f"One positive finding contributes {number(1 / area.positives)} to the AUC, one "
            f"negative finding {number(1 / area.negatives)}."
        )
    if test.images > count:
        yield (
            "Each finding counts once: predictions are averaged over its images "
            f"({test.images} images in total)."
        )
    patients = facts.patients.get(test.split, count)
    if patients < count:
        yield (
            f"The {count} findings come from {count_of(patients, 'patient')}. The confidence "
            "interval treats findings as independent. Findings of one patient are correlated, so "
            "the interval is somewhat too narrow."
        )
    strong = [each for each in facts.shortcuts if each.strong]
    if strong:
        properties = ", ".join(each.fact for each in strong)
        yield (
            f"Warning: file properties alone predict the class in {test.dataset} ({properties}). "
            "The network may have learnt these shortcuts instead of the lesion."
        )
    if not test.classes:
        return
    largest = _largest_class(test)
    if largest is not None:
        yield (
            f"Accuracy {number(test.figures.accuracy)}. Always predicting the most frequent class "
            f"gives {number(largest / count)}."
        )
    yield (
        f"The confidence interval ({test.method}) covers the sampling of test findings only. "
        "Another seed gives another split and another training; a single run does not show how "
        "much the result varies."
    )


def _largest_class(test: TestResult) -> int | None:
    """Findings of the most frequent class; None if a finding can have several labels or none."""
    if len(test.classes) > 1 and sum(area.positives for area in test.classes) != test.findings:
        return None
    first = test.classes[0]
    if len(test.classes) == 1:
        return max(first.positives, first.negatives)
    return max(area.positives for area in test.classes)


def _findings(test: TestResult) -> str:
    return f"{count_of(test.findings, 'finding')}{_images(test)}"


def _images(test: TestResult) -> str:
    """Number of images, if a finding can have several."""
    return f" ({test.images} images)" if test.images > test.findings else ""
