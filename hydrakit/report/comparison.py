"""The report of a comparison of strategies: from its ``comparison.json`` alone."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.report import contrasts
from hydrakit.report.figure import Counter, Figure
from hydrakit.report.markup import REFRESH, Html, element, fill, section, together
from hydrakit.report.subgroups import compared_subgroups
from hydrakit.report.tables import ABSENT, facts_list, number, seconds, table
from hydrakit.schema import first_fault
from hydrakit.stats.verdict import p_value
from hydrakit.storage.files import read_json, reason, write_atomic
from hydrakit.storage.records import refuse_later

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, Pair

FILE = "comparison.json"
MAX_SCORES = 2_000_000  # of all findings, strategies and passes; in memory one takes 40 bytes


def read_comparison(folder: Path) -> Comparison:
    """What a comparison found.

    Raises:
        PlanError: The file is absent or broken.
    """
    from hydrakit.stats.comparison import Comparison

    path = folder / FILE
    try:
        content = read_json(path, values=MAX_SCORES)
        refuse_later(path, content)
        return Comparison.model_validate_json(content)
    except (OSError, ValueError) as error:
        told = first_fault(error) if isinstance(error, ValidationError) else reason(error)
        raise PlanError(
            f"{path}: cannot be read ({told}): run the same `hydrakit compare` again, which "
            "writes it from the cells that are done"
        ) from None


def write_comparison_report(folder: Path, *, plugins: Plugins | None = None) -> Path:
    """Write ``report.html`` into the folder of a comparison; it needs nothing else.

    Args:
        folder: Of the comparison.
        plugins: As loaded, for what datasets say of themselves; None loads them.

    Returns:
        The report's path.

    Raises:
        PlanError: ``comparison.json`` is absent or broken.
    """
    text, _ = build_comparison(folder, plugins=plugins)
    path = folder / "report.html"
    write_atomic(path, text.encode())
    return path


def build_comparison(folder: Path, *, plugins: Plugins | None = None) -> tuple[str, list[Figure]]:
    """The text of a comparison's report, and its figures in order."""
    found = read_comparison(folder)
    offered = plugins or load_plugins()
    counter = Counter()
    names = ", ".join(each.name for each in found.strategies)
    sections = [
        element("section", _verdict(found)),
        section("Strategies", _strategies(found), counter.html(contrasts.auc_figure(found))),
        section(
            "Differences",
            counter.html(contrasts.difference_figure(found)) if found.pairs else None,
            _differences(found),
        ),
        section("Test", counter.html(contrasts.roc_figure(found)), compared_subgroups(found)),
        section("Cells", _cells(found)),
        section("Datasets", *_datasets(found, offered)),
        section("How to repeat this comparison", _repeat(folder, found)),
    ]
    parts = {
        "refresh": REFRESH if found.under_way else Html(""),
        "title": together((f"{len(found.strategies)} strategies on {found.target}",)),
        "order": together((f"{names}; datasets {' → '.join(found.datasets)}",)),
        "sections": together(sections, "\n"),
        "version": together((found.hydrakit,)),
    }
    return fill("page.html", parts), counter.figures


def _verdict(found: Comparison) -> Html:
    """What may be said, in words, and what it rests on."""
    lines = found.verdict.splitlines()
    headline, figures = _parted(lines[0])
    said = element("p", element("b", headline), figures, class_="verdict")
    first = together((_under_way(found), said)) if found.under_way else said
    others = element("ul", *(element("li", line) for line in lines[1:])) if lines[1:] else None
    folds = f"{found.folds}-fold cross-validation" if found.folds else "a single 8-1-1 split"
    rests = (
        f"It rests on {found.positives} positive ({found.positive}) and {found.negatives} negative "
        f"findings{_images(found)} of {found.patients} patients of {found.target}: "
        f"{_times(found.seeds, 'seed')}, {_times(found.repeats, 'repeat')} of {folds}. "
        f"Test labels were read {found.readings} times, by runs that had chosen before."
    )
    missing = None
    if found.used < found.wanted and not found.under_way:
        missing = element(
            "p",
            element("b", "Not complete: "),
            f"{found.used} of {found.wanted} cells are behind these figures (those of seeds and "
            "folds that every strategy finished).",
        )
    return together((first, others, element("p", rests), missing), "\n")


def _under_way(found: Comparison) -> Html:
    """How far a comparison is that goes on."""
    return element(
        "p",
        element("b", f"Under way: {found.done} of {found.wanted} cells are done."),
        f" Figures are of {found.used}: of the seeds and folds that every strategy finished. "
        "The verdict is for the end: whoever looks again and again, and stops when it pleases, "
        "finds differences that are none.",
    )


def _images(found: Comparison) -> str:
    """How many images the findings have, where they are more."""
    more = found.images > found.positives + found.negatives
    return f" ({found.images} images)" if more else ""


def _parted(line: str) -> tuple[str, str]:
    """A verdict's line as what it says, and the figures that it says it by."""
    at = min((found for mark in (" (", ": mean") if (found := line.find(mark)) > 0), default=None)
    return (line, "") if at is None else (line[:at], line[at:])


def _about(findings: float) -> str:
    """A number of findings, rounded up to two figures."""
    unit = 10 ** max(0, math.floor(math.log10(max(findings, 1))) - 1)
    return f"about {math.ceil(findings / unit) * unit:,}"


def _times(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _strategies(found: Comparison) -> Html:
    rows = [
        (
            each.name,
            number(each.val),
            number(each.auc),
            f"{number(each.low)} to {number(each.high)}",
            found.positives,
            found.negatives,
            each.cells,
            seconds(each.seconds),
            each.shared,
        )
        for each in found.strategies
    ]
    headers = (
        *("Strategy", "Val. AUC", "Test AUC", f"{found.level * 100:g} % interval"),
        *("Positives", "Negatives", "Cells", "Seconds", "Rounds shared"),
    )
    notes = [
        "AUCs are means over the cells (strategy, seed, fold): scores of two networks are never "
        "compared. The interval counts patients, and what other random starts would change.",
        "Validation figures chose the epochs: they flatter. Seconds are what the strategy alone "
        "would have taken; rounds that are shared were trained once.",
    ]
    left_out = sum(each.left_out for each in found.strategies)
    if left_out:
        notes.append(f"{left_out} cells tested one class alone, and have no AUC.")
    return together(
        (
            table("Table II. The strategies on the same findings", headers, rows),
            element("ul", *(element("li", note) for note in notes)),
        ),
        "\n",
    )


def _differences(found: Comparison) -> Html:
    if not found.pairs:
        return element("p", "One strategy: there is nothing to compare it with.")
    rows = [_difference(pair) for pair in found.pairs]
    headers = (
        *("Strategies", "Difference", f"{found.level * 100:g} % interval", "p", "p (Holm)"),
        *("Verdict", "Findings needed"),
    )
    note = (
        "On the same findings; whole patients change sides in the test. p (Holm) allows for "
        f"{_times(len(found.pairs), 'comparison')}. “Cannot tell” is no proof that two are equal. "
        "Findings needed: to tell a difference of the size found, if it is the true one."
    )
    drawn = table("The first strategy less each other one", headers, rows, words=(5,))
    return together((drawn, element("p", note)), "\n")


def _difference(pair: Pair) -> tuple[object, ...]:
    needed = ABSENT if pair.findings_needed is None else _about(pair.findings_needed)
    return (
        f"{pair.strategy} − {pair.against}",
        f"{pair.difference:+.3f}",
        f"{pair.low:+.3f} to {pair.high:+.3f}",
        p_value(pair.p),
        p_value(pair.p_holm),
        pair.verdict,
        needed,
    )


def _cells(found: Comparison) -> Html:
    """The test AUC of every cell."""
    cells = contrasts.cell_aucs(found)
    places = sorted({place for row in cells.values() for place in row})
    rows = [
        (
            f"seed {seed}, repeat {repeat}, fold {fold}",
            *(number(cells[each.name].get((seed, repeat, fold))) for each in found.strategies),
        )
        for seed, repeat, fold in places
    ]
    mean = [number(float(np.mean(list(cells[each.name].values())))) for each in found.strategies]
    headers = ("Cell", *(each.name for each in found.strategies))
    drawn = table("Test AUC of every cell", headers, rows, footer=("Mean", *mean))
    if len(rows) > 20:
        drawn = element("details", element("summary", f"All {len(rows)} cells"), drawn)
    if not found.failed:
        return drawn
    items = (element("li", f"{name}: {said}") for name, said in found.failed.items())
    return together((drawn, element("h3", "Failed"), element("ul", *items)), "\n")


def _datasets(found: Comparison, plugins: Plugins) -> Iterator[Html]:
    for name in dict.fromkeys((found.target, *found.datasets)):
        adapter = plugins.all(DatasetAdapter).get(name)
        yield element("h3", name, " (target)" if name == found.target else "")
        if adapter is None:
            yield element("p", "Its plugin is not installed here.")
            continue
        yield facts_list(
            [
                ("About", adapter.summary),
                ("Classes", ", ".join(adapter.classes)),
                ("Cite as", adapter.citation),
                ("Licence", adapter.licence),
                ("How to get it", adapter.how_to_get),
            ]
        )


def _repeat(folder: Path, found: Comparison) -> Html:
    words = ["hydrakit", "compare", "--strategies", ",".join(s.name for s in found.strategies)]
    words += ["--datasets", ",".join(found.datasets), "--seeds", str(found.seeds)]
    words += ["--folds", str(found.folds)] if found.folds else ["--holdout"]
    words += ["--repeats", str(found.repeats)] if found.repeats > 1 else []
    words += ["--out", f"{folder}-again"]
    total = sum(each.seconds for each in found.strategies)
    return together(
        (
            element("pre", element("code", shlex.join(words))),
            element(
                "p",
                "Further options that the comparison was given are in compare.json; each cell's "
                "folder has its own plan, splits, weights and report.",
            ),
            facts_list(
                [
                    ("Design (SHA-256)", element("code", found.digest)),
                    ("hydrakit", found.hydrakit),
                    ("Training, all cells", f"{seconds(total)} seconds"),
                ]
            ),
        ),
        "\n",
    )
