"""What the test figures mean, in words."""

from __future__ import annotations

from collections.abc import Iterator

from hydrakit.plan.results import AreaUnderCurve, DataFacts, TestResult
from hydrakit.report.markup import Html, element, together
from hydrakit.report.tables import number, table


def verdict(test: TestResult, facts: DataFacts) -> Html:
    """The test AUC with its interval, what it rests on, and what it means."""
    level = f"{test.level * 100:g} %"
    if not test.classes:
        headline: list[object] = [
            "Test mean absolute error ",
            element("b", number(test.figures.mae)),
            f", R2 {number(test.figures.r2)}, on {test.dataset}, from {_findings(test)}.",
        ]
        meant = element("p", "An R2 of 0 is what naming the mean of these findings would give.")
    elif len(test.classes) == 1:
        area = test.classes[0]
        headline = [
            "Test AUC ",
            element("b", number(area.auc)),
            f" ({level} interval {number(area.low)} to {number(area.high)}) on {test.dataset}, "
            f"from {area.positives} positive ({area.class_name}) and {area.negatives} negative "
            f"{_plural('finding', area.negatives)}{_images(test)}.",
        ]
        meant = element("p", meaning(area))
    else:
        headline = [
            "Test AUC ",
            element("b", number(test.figures.auc)),
            f" on {test.dataset}: the mean of {len(test.classes)} classes, each against the "
            f"rest (macro average), from {_findings(test)}.",
        ]
        meant = _by_class(test, level)
    notes = (element("li", note) for note in _notes(test, facts))
    return together((element("p", *headline, class_="verdict"), meant, element("ul", *notes)), "\n")


def meaning(area: AreaUnderCurve) -> str:
    """What the interval of an AUC says about the network."""
    fits = f"True values from {number(area.low)} to {number(area.high)} fit the figure found"
    if area.low > 0.5:
        return (
            f"The interval excludes 0.5: the network ranks findings better than chance does. "
            f"{fits}."
        )
    if area.high < 0.5:
        return (
            "The whole interval lies below 0.5: the network ranks findings worse than chance does. "
            f"{fits}. Check that the classes are not interchanged."
        )
    return (
        f"The interval includes 0.5: on these {area.positives + area.negatives} findings the "
        f"network cannot be told from chance. {fits}."
    )


def _by_class(test: TestResult, level: str) -> Html:
    rows = [
        (
            area.class_name,
            area.positives,
            area.negatives,
            number(area.auc),
            f"{number(area.low)} to {number(area.high)}",
            element("span", meaning(area)),
        )
        for area in test.classes
    ]
    headers = ("Class", "Findings", "Others", "AUC", f"{level} interval", "What it means")
    note = element("p", "The macro average is given without an interval.")
    caption = "Each class against the rest, on the test split"
    return together((table(caption, headers, rows, words=(5,)), note), "\n")


def _notes(test: TestResult, facts: DataFacts) -> Iterator[str]:
    """What must be known with the figures."""
    count = test.findings
    if len(test.classes) == 1:
        area = test.classes[0]
        yield (
            f"One positive finding weighs {number(1 / area.positives)} of the AUC, "
            f"one negative finding {number(1 / area.negatives)}."
        )
    if test.images > count:
        yield (
            f"Each finding counts once: the answers to its images ({test.images} in all) are "
            "averaged."
        )
    patients = facts.patients.get(test.split, count)
    if patients < count:
        yield (
            f"The {count} findings are of {patients} {_plural('patient', patients)}. The interval "
            "takes them for independent: findings of one patient are alike, so it is somewhat too "
            "narrow."
        )
    strong = [each for each in facts.shortcuts if each.strong]
    if strong:
        facts_named = ", ".join(each.fact for each in strong)
        yield (
            f"Warning: facts of the files alone tell the class of {test.dataset} "
            f"({facts_named}). The network may have learnt these in place of the lesion."
        )
    if not test.classes:
        return
    largest = _largest_class(test)
    if largest is not None:
        yield (
            f"Accuracy {number(test.figures.accuracy)}. Naming the most frequent class every time "
            f"would give {number(largest / count)}."
        )
    yield (
        f"The interval ({test.method}) is about the choice of test findings alone. Another seed "
        "gives another split and another training: one run does not show how much that changes."
    )


def _largest_class(test: TestResult) -> int | None:
    """Findings of the most frequent class; None where one may have several labels or none."""
    if len(test.classes) > 1 and sum(area.positives for area in test.classes) != test.findings:
        return None
    first = test.classes[0]
    if len(test.classes) == 1:
        return max(first.positives, first.negatives)
    return max(area.positives for area in test.classes)


def _findings(test: TestResult) -> str:
    """How many findings were looked at, and images where those are more."""
    return f"{test.findings} {_plural('finding', test.findings)}{_images(test)}"


def _images(test: TestResult) -> str:
    return f" ({test.images} images)" if test.images > test.findings else ""


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"
