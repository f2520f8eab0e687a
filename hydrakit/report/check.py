"""The page of `hydrakit datasets check`: all that was found of a dataset, with pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydrakit.plan.results import ShortcutFact
from hydrakit.report.figures import histogram
from hydrakit.report.markup import Html, element, fill, together
from hydrakit.report.tables import ABSENT, facts_list, number, table
from hydrakit.version import version

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import Issue, Summary
    from hydrakit.hooks import DatasetAdapter

# Facts whose numbers are drawn, where they differ, and their units.
DRAWN = {
    "width": "pixels",
    "height": "pixels",
    "row spacing": "mm",
    "column spacing": "mm",
    "mean value": "in the files' unit",
    "border value": "in the files' unit",
}
VALUES_SHOWN = 12
ONLY_SHOWN = 4
FOLDED = 20  # a longer list is folded


def check_page(summary: Summary, prepared: PreparedDataset | None, adapter: DatasetAdapter) -> str:
    """The text of the page. It names no patient, and keys only of cases that have a fault.

    Args:
        summary: Of the dataset.
        prepared: Its patches; None where no case can be used.
        adapter: The dataset.
    """
    from hydrakit.plan.model import BodySpec
    from hydrakit.report import pictures

    nothing = element("p", "No case can be used.")
    patch = BodySpec().patch
    parts: dict[str, Html] = {
        "title": together((summary.dataset,)),
        "about": together((adapter.summary,)),
        "verdict": _verdict(summary),
        "cases": _cases(summary),
        "images": _images(summary) if prepared else nothing,
        "patches": _seen(adapter, pictures.montage(summary, prepared, patch))
        if prepared
        else nothing,
        "copies": _copies(summary, prepared, patch) if prepared else nothing,
        "shortcuts": shortcuts(summary.shortcuts) if prepared else nothing,
        "dataset": _dataset(summary, adapter),
        "version": together((version(),)),
    }
    return fill("check.html", parts)


def _verdict(summary: Summary) -> Html:
    """What stands against training on this dataset, and what is worth knowing."""
    cases = f"{len(summary.cases)} of {len(summary.cases) + len(summary.unusable)} cases are usable"
    if summary.problems:
        count = len(summary.problems)
        first = element(
            "div",
            element(
                "b", f"{count} problem{'s' if count > 1 else ''} would spoil a result; {cases}."
            ),
            _faults(summary.problems),
            class_="verdict problem",
        )
    else:
        first = element(
            "div",
            element("b", "Nothing was found that would spoil a result"),
            f"; {cases}.",
            class_="verdict",
        )
    if not summary.warnings:
        return first
    known = element(
        "div", element("b", "Worth knowing"), _faults(summary.warnings), class_="warning"
    )
    return together((first, known), "\n")


def _faults(faults: Sequence[Issue]) -> Html:
    return element("ul", *(element("li", fault.text) for fault in faults))


def _cases(summary: Summary) -> Html:
    headers, given = summary.count_table()
    rows = [[ABSENT if cell == "" else cell for cell in row] for row in given]
    parts: list[Html] = [
        table(
            "Cases by class and split, and patients",
            [header.capitalize() for header in headers],
            rows[: -1 if summary.splits else None],
            footer=rows[-1] if summary.splits else None,
        ),
        element("p", f"Split: {summary.split_description}.") if summary.splits else Html(""),
    ]
    for fault in summary.warnings:
        if fault.keys:
            parts += [element("h3", fault.text), _listed(fault.keys)]
    return together(parts, "\n")


def _listed(entries: Sequence[str]) -> Html:
    """A list, folded where it is long."""
    items = element("ul", *(element("li", entry) for entry in entries), class_="keys")
    if len(entries) <= FOLDED:
        return items
    return element("details", element("summary", f"All {len(entries)}"), items)


def _images(summary: Summary) -> Html:
    varying = [each for each in summary.ranges if each.low < each.high]
    ranges = table(
        "Facts that are numbers, over the cases that have them",
        ("Fact", "Lowest", "Median", "Highest", "Cases"),
        [
            (each.fact, *(f"{v:.5g}" for v in (each.low, each.median, each.high)), each.cases)
            for each in varying
        ],
    )
    drawn = [
        histogram(each.fact, DRAWN[each.fact], _by_class(summary, each.fact))
        for each in varying
        if each.fact in DRAWN
    ]
    same = [f"{each.fact} {each.low:g}" for each in summary.ranges if each.low == each.high]
    values = facts_list(
        [
            ("The same for all", ", ".join(same) or None),
            *((f"Subgroup {name}", _frequent(of)) for name, of in summary.subgroups().items()),
            *((each.fact.capitalize(), _frequent(each.values)) for each in summary.values),
            ("Channels", summary.channels),
        ]
    )
    return together(
        (ranges if varying else None, values, element("div", *drawn, class_="panels")), "\n"
    )


def _frequent(values: dict[str, int]) -> str:
    shown = list(values.items())[:VALUES_SHOWN]
    more = len(values) - len(shown)
    listed = ", ".join(f"{value} ({count})" for value, count in shown)
    return f"{listed}, and {more} other values" if more else listed


def _by_class(summary: Summary, fact: str) -> list[tuple[str, list[float]]]:
    """The values of a fact that is a number, class by class, the unlabelled last."""
    members = [(name, summary.members(name)) for name in summary.all_classes]
    members.append(("no label", summary.members(None)))
    return [
        (name, [float(case.facts[fact]) for case in cases if fact in case.facts])
        for name, cases in members
        if cases
    ]


def _seen(adapter: DatasetAdapter, montage: Html) -> Html:
    view = adapter.field_of_view
    if view.millimetres:
        seen = f"{view.millimetres:g} mm wide"
    else:
        seen = "the whole image" if view.share == 1 else f"{view.share:g} of the image"
    text = (
        f"Some cases of each class, {seen}, around the centre, which four ticks mark: the lesion's "
        "where the dataset gives one, else the image's. Black is the darkest half "
        "per cent of each patch, white the brightest."
    )
    return together((element("p", text), montage), "\n")


def _copies(summary: Summary, prepared: PreparedDataset, patch: int) -> Html:
    from hydrakit.report.pictures import pairs

    if not summary.copies:
        return element("p", "None were found.")
    near = sum(pair.kind == "near" for pair in summary.copies)
    across = sum(pair.across_labels for pair in summary.copies)
    copied = sum(map(len, summary.groups))
    text = (
        f"{copied} cases are in {len(summary.groups)} groups of copies, joined by "
        f"{len(summary.copies) - near} pairs that are equal pixel by pixel and {near} that are "
        f"alike after resizing, encoding, brightening or flipping; {across} pairs have different "
        "labels. A copy in the test split of what was trained on flatters the result."
    )
    return together(
        (
            element("p", text),
            element("p", "Pairs, with how alike their thumbnails are (1 is equal):"),
            pairs(summary, prepared, patch),
            element("h3", "Groups"),
            _listed([", ".join(group) for group in summary.groups]),
        ),
        "\n",
    )


def shortcuts(found: Sequence[ShortcutFact]) -> Html:
    """How well each fact alone tells the class, and how to read that."""
    if not found:
        return element("p", "No fact of the files differs between cases that could tell a class.")
    rows = [
        (
            each.fact,
            each.class_name,
            number(each.auc),
            f"{number(each.low)} to {number(each.high)}",
            "yes" if each.strong else "",
            element("span", _only(each)),
        )
        for each in found
    ]
    text = (
        "How well one fact of the files, which should not matter, tells the class: an AUC of 0.5 "
        "tells nothing. A network may learn a strong one in place of the lesion; it then fails "
        "where files are made otherwise. Strong: even the lower end is above 0.6."
    )
    headers = ("Fact", "Class", "AUC", "95 % interval", "Strong", "In one class only")
    caption = "Facts of the files that tell the class, the strongest first"
    return together((element("p", text), table(caption, headers, rows, words=(1, 4, 5))), "\n")


def _only(fact: ShortcutFact) -> str:
    """The values that a single class has, the most frequent first."""
    shown = ", ".join(f"{value} ({count} {name})" for value, name, count in fact.only[:ONLY_SHOWN])
    more = len(fact.only) - ONLY_SHOWN
    return f"{shown}, and {more} other values" if more > 0 else shown


def _dataset(summary: Summary, adapter: DatasetAdapter) -> Html:
    def listed() -> Iterator[tuple[str, object]]:
        yield "Task", adapter.task
        yield "Cite as", adapter.citation
        yield "Licence", adapter.licence
        yield "How to get it", adapter.how_to_get
        if summary.digest:
            yield "Data (SHA-256)", element("code", summary.digest)

    return facts_list(listed())
