"""The page of `hydrakit datasets check`: quality of a dataset, with example images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydrakit.plan.grey import rule_text
from hydrakit.plan.results import ShortcutFact
from hydrakit.plan.view import view_text
from hydrakit.report.charts import histogram
from hydrakit.report.markup import Html, bullet_list, element, join, render
from hydrakit.report.tables import ABSENT, count_of, description_list, interval, number, table
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import GreyMeasurement, Issue, Summary
    from hydrakit.hooks import DatasetAdapter

# Numeric properties with a histogram (if their values differ), and their units.
HISTOGRAMS = {
    "width": "pixels",
    "height": "pixels",
    "row spacing": "mm",
    "column spacing": "mm",
    "mean value": "in the files' unit",
    "border value": "in the files' unit",
}
MAX_VALUES = 12  # most frequent values of a property
MAX_UNIQUE = 4  # values that occur in a single class
MAX_ITEMS = 20  # longer lists are collapsed
MAX_CONFLICTS = 12  # pairs with different labels that are drawn
LOOKS = (
    "Pairs, with the similarity of their thumbnails and the agreement of their fine texture "
    "(1: identical):"
)


def check_page(summary: Summary, prepared: PreparedDataset | None, adapter: DatasetAdapter) -> str:
    """Text of the page. It names no patient, and only cases with an issue by their keys.

    Args:
        summary: Summary of the dataset.
        prepared: Its patches; None if no case is usable.
        adapter: The dataset.
    """
    unusable = element("p", "No case is usable.")
    parts: dict[str, Html] = {
        "title": join((summary.dataset,)),
        "about": join((adapter.summary,)),
        "verdict": _verdict(summary),
        "cases": _cases(summary),
        "images": _images(summary) if prepared else unusable,
        "patches": _patches(summary, prepared, adapter) if prepared else unusable,
        "grey_values": _grey_values(summary.grey_values) if summary.grey_values else unusable,
        "duplicates": _duplicates(summary, prepared) if prepared else unusable,
        "shortcuts": shortcuts_section(summary.shortcuts) if prepared else unusable,
        "dataset": _dataset(summary, adapter),
        "version": join((version(),)),
    }
    return render("check.html", parts)


def _verdict(summary: Summary) -> Html:
    """Problems that prevent training on this dataset, and warnings."""
    cases = f"{len(summary.cases)} of {len(summary.cases) + len(summary.unusable)} cases are usable"
    if summary.problems:
        problems = count_of(len(summary.problems), "problem")
        verdict = element(
            "div",
            element("b", f"{problems} would invalidate results; {cases}."),
            _issues(summary.problems),
            class_="verdict problem",
        )
    else:
        verdict = element(
            "div",
            element("b", "No problem was found that would invalidate results"),
            f"; {cases}.",
            class_="verdict",
        )
    if not summary.warnings:
        return verdict
    warnings = element("div", element("b", "Warnings"), _issues(summary.warnings), class_="warning")
    return join((verdict, warnings), "\n")


def _issues(issues: Sequence[Issue]) -> Html:
    return bullet_list(issue.text for issue in issues)


def _cases(summary: Summary) -> Html:
    headers, counts = summary.count_table()
    rows = [[ABSENT if cell == "" else cell for cell in row] for row in counts]
    parts: list[Html] = [
        table(
            "Cases by class and split, and patients",
            [header.capitalize() for header in headers],
            rows[: -1 if summary.splits else None],
            footer=rows[-1] if summary.splits else None,
        ),
        element("p", f"Split: {summary.split_description}.") if summary.splits else Html(""),
    ]
    parts += [element("p", f"{remark}.") for remark in summary.remarks]
    for issue in summary.warnings:
        if issue.keys:
            parts += [element("h3", issue.text), _key_list(issue.keys)]
    return join(parts, "\n")


def _key_list(entries: Sequence[str]) -> Html:
    """A list of keys, collapsed if it is long."""
    items = element("ul", *(element("li", entry) for entry in entries), class_="keys")
    if len(entries) <= MAX_ITEMS:
        return items
    return element("details", element("summary", f"All {len(entries)}"), items)


def _images(summary: Summary) -> Html:
    varying = [each for each in summary.ranges if each.low < each.high]
    ranges = table(
        "Numeric image properties, over the cases that have them",
        ("Property", "Lowest", "Median", "Highest", "Cases"),
        [
            (each.fact, *(f"{v:.5g}" for v in (each.low, each.median, each.high)), each.cases)
            for each in varying
        ],
    )
    histograms = [
        histogram(each.fact, HISTOGRAMS[each.fact], _values_by_class(summary, each.fact)).html()
        for each in varying
        if each.fact in HISTOGRAMS
    ]
    constant = [f"{each.fact} {each.low:g}" for each in summary.ranges if each.low == each.high]
    values = description_list(
        [
            ("Same for all cases", ", ".join(constant) or None),
            *((f"Subgroup {name}", _frequent(of)) for name, of in summary.subgroups().items()),
            *((each.fact.capitalize(), _frequent(each.values)) for each in summary.values),
            ("Channels", summary.channels),
        ]
    )
    panels = element("div", *histograms, class_="panels")
    return join((ranges if varying else None, values, panels), "\n")


def _frequent(values: dict[str, int]) -> str:
    """The most frequent values with their counts."""
    items = [f"{value} ({count})" for value, count in values.items()]
    return _shortened(items, MAX_VALUES)


def _shortened(items: Sequence[str], most: int) -> str:
    text = ", ".join(items[:most])
    more = len(items) - most
    return f"{text}, and {more} other value{'s' * (more > 1)}" if more > 0 else text


def _values_by_class(summary: Summary, name: str) -> list[tuple[str, list[float]]]:
    """Values of a numeric property by class, unlabelled cases last."""
    members = [(label, summary.members(label)) for label in summary.all_classes]
    members.append(("no label", summary.members(None)))
    return [
        (label, [float(case.facts[name]) for case in cases if name in case.facts])
        for label, cases in members
        if cases
    ]


def _patches(summary: Summary, prepared: PreparedDataset, adapter: DatasetAdapter) -> Html:
    from hydrakit.plan.model import BodySpec
    from hydrakit.report.pictures import montage

    view = adapter.field_of_view
    if view.millimetres:
        extent = f"{view.millimetres:g} mm wide"
    else:
        extent = "the whole image" if view.share == 1 else view_text(view)
    text = (
        f"Example patches of each class ({extent}). Four ticks mark the centre: the lesion if the "
        "dataset specifies its position, else the centre of the image. The darkest and the "
        "brightest 0.5 % of each patch are drawn black and white."
    )
    return join(
        (element("p", text), montage(summary, prepared, BodySpec().patch, adapter.flips)), "\n"
    )


def _grey_values(measured: GreyMeasurement) -> Html:
    """What each normalisation of grey values keeps, and the recommendation."""
    verdict = element(
        "p", f"Normalisation now: {rule_text(measured.present)}. {_sentence(measured)}"
    )
    if not measured.choices:
        return verdict
    text = (
        "AUC of a logistic regression on first-order statistics of the patch (mean, deviation and "
        f"percentiles), cross-validated by patient on {measured.images_text}. No normalisation "
        "(none) keeps as much as one z-score over the training split. A z-score over each patch "
        "removes its brightness."
    )
    rows = [
        (rule_text(choice.rule), each.class_name, number(each.auc), interval(each.low, each.high))
        for choice in measured.choices
        for each in choice.classes
    ]
    caption = "What each normalisation keeps of the difference between the classes"
    headers = ("Normalisation", "Class", "AUC", "95 % CI")
    return join((element("p", text), table(caption, headers, rows, words=(0, 1)), verdict), "\n")


def _sentence(measured: GreyMeasurement) -> str:
    return f"{measured.text[:1].upper()}{measured.text[1:]}."


def _duplicates(summary: Summary, prepared: PreparedDataset) -> Html:
    from hydrakit.plan.model import BodySpec
    from hydrakit.report.pictures import duplicate_pairs, pair_list

    if not summary.copies and not summary.conflicts:
        return element("p", "No duplicates were found.")
    parts: list[Html] = []
    if summary.conflicts:
        pairs = [("different labels", group.pair) for group in summary.conflicts[:MAX_CONFLICTS]]
        parts += [
            element("h3", "Contradictory labels"),
            element("p", _conflicts_text(summary)),
            element("p", LOOKS),
            pair_list(pairs, summary, prepared, BodySpec().patch),
            _key_list([", ".join(group.keys) for group in summary.conflicts]),
        ]
    if summary.copies:
        near = sum(pair.kind == "near" for pair in summary.copies)
        cases = sum(map(len, summary.groups))
        text = (
            f"{cases} cases form {count_of(len(summary.groups), 'group')} of duplicates, linked by "
            f"{len(summary.copies) - near} pairs with identical pixels and {near} pairs that match "
            "after resizing, compression, brightness changes or flipping. Duplicates of training "
            "images in the test split make results optimistic."
        )
        parts += [
            element("h3", "Duplicates of other patients' images"),
            element("p", text),
            element("p", LOOKS),
            pair_list(duplicate_pairs(summary), summary, prepared, BodySpec().patch),
            element("h3", "Groups"),
            _key_list([", ".join(group) for group in summary.groups]),
        ]
    return join(parts, "\n")


def _conflicts_text(summary: Summary) -> str:
    groups, cases = len(summary.conflicts), sum(len(group.keys) for group in summary.conflicts)
    shown = "" if groups <= MAX_CONFLICTS else f" The first {MAX_CONFLICTS} are drawn."
    return (
        f"{cases} cases form {count_of(groups, 'group')} that show one image with different "
        "labels, so at least one label of each group is wrong. A run refuses them; `--conflicts "
        f"drop` leaves all of them out, `--conflicts keep` uses them.{shown}"
    )


def shortcuts_section(shortcuts: Sequence[ShortcutFact]) -> Html:
    """How well each file property alone predicts the class."""
    if not shortcuts:
        return element("p", "No file property differs between cases.")
    rows = [
        (
            each.fact,
            each.class_name,
            number(each.auc),
            interval(each.low, each.high),
            "yes" if each.strong else "",
            element("span", _unique_values(each)),
        )
        for each in shortcuts
    ]
    text = (
        "AUC of a prediction from one file property that should be irrelevant; 0.5 means no "
        "information about the class. A network can learn a strong shortcut instead of the lesion, "
        "and then fails on files from another source. Strong: the lower end of the confidence "
        "interval is above 0.6."
    )
    headers = ("Property", "Class", "AUC", "95 % CI", "Strong", "Values in a single class")
    caption = "File properties that predict the class, strongest first"
    return join((element("p", text), table(caption, headers, rows, words=(1, 4, 5))), "\n")


def _unique_values(shortcut: ShortcutFact) -> str:
    """Values that occur in a single class, most frequent first."""
    items = [f"{value} ({count} {name})" for value, name, count in shortcut.only]
    return _shortened(items, MAX_UNIQUE)


def _dataset(summary: Summary, adapter: DatasetAdapter) -> Html:
    def entries() -> Iterator[tuple[str, object]]:
        yield "Task", adapter.task
        yield "Citation", adapter.citation
        yield "Licence", adapter.licence
        yield "Access", adapter.how_to_get
        if summary.digest:
            yield "Data (SHA-256)", element("code", summary.digest)
        if summary.prepared:
            yield "Prepared", f"{summary.prepared}, and not read again for this page"

    return description_list(entries())
