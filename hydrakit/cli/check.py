"""``hydrakit datasets check``."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params, plan_options
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say, say_json
from hydrakit.data.quality.issues import PROBLEMS, WARNINGS

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import CopyPair, Summary
    from hydrakit.hooks import DatasetAdapter
    from hydrakit.plan.model import Split
    from hydrakit.runs.context import RunContext

WIDTH = 80
KEYS_SHOWN = 5
VALUES_SHOWN = 4
# Facts that are not printed, since they follow from width and height.
DERIVED = ("size", "aspect ratio")


def _epilog() -> str:
    """The list of problems (exit status 1) and warnings (exit status 0) for the help text."""

    def block(title: str, kinds: dict[str, str]) -> str:
        lines = (textwrap.fill(text, 76, initial_indent="  - ", subsequent_indent="    ")
                 for text in kinds.values())  # fmt: skip
        return "\b\n" + title + "\n" + "\n".join(lines)

    return "\n\n".join(
        (
            block("PROBLEM (makes results invalid; exit status 1):", PROBLEMS),
            block("WARNING (may affect results):", WARNINGS),
        )
    )


@click.command(cls=plan_options.PlanCommand, epilog=_epilog())
@click.argument("name", shell_complete=names_of("dataset"))
@params.data_options
@plan_options.plan_options("options")
@click.option(
    "--split",
    "splits",
    multiple=True,
    callback=lambda _, __, value: plan_options.splits(value),
    metavar="NAME=8-1-1",
    help="Shares of train, val and test to check.  [default: 8-1-1, as for a target, or the "
    "splits that the dataset declares]",
)
@click.option(
    "--seed",
    type=params.Whole(0),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the random split.",
)
@click.option(
    "--html",
    type=params.FOLDER,
    metavar="FILE",
    help="Also write the results, with pictures, to this HTML file.",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Read every file again, for example after an edit of the plugin's code.",
)
@click.option("--cases", "each_case", is_flag=True, help="List every case and each pair of copies.")
@params.as_json
@click.pass_context
def check(
    ctx: click.Context,
    /,
    *,
    name: str,
    context: RunContext,
    options: dict[str, dict[str, Any]],
    splits: dict[str, Split],
    seed: int,
    html: Path | None,
    fresh: bool,
    each_case: bool,
    as_json: bool,
) -> None:
    """Check dataset NAME as a run reads it, and list problems that would make results invalid.

    Prints counts, unusable cases, sizes, copies of images, and properties of the files that reveal
    the class. The first check reads all images and stores them prepared for runs.
    """
    from hydrakit import engine
    from hydrakit.cli.progress import PreparingProgress

    for given in (options, splits):
        for other in given:
            if other != name:
                raise click.UsageError(f"{other!r} is not the dataset to check, {name!r}")
    from hydrakit.hooks import DatasetAdapter

    plugins = context.plugins()
    adapter, root = plugins.get(DatasetAdapter, name), context.root_of(name)
    summary, prepared = engine.check(
        name,
        context,
        options=options.get(name),
        split=splits.get(name),
        seed=seed,
        fresh=fresh,
        callbacks=[PreparingProgress()],
        plugins=plugins,
    )
    if html is not None:
        _write_page(html, summary, prepared, adapter)
    if as_json:
        say_json(json.dumps(_as_json(summary, root), indent=2))
    else:
        _print(summary, root, each_case=each_case)
    if summary.problems:
        ctx.exit(1)


def _write_page(
    path: Path, summary: Summary, prepared: PreparedDataset | None, adapter: DatasetAdapter
) -> None:
    from hydrakit.errors import DataError
    from hydrakit.report.check import check_page
    from hydrakit.storage.files import write_atomic
    from hydrakit.storage.records import writable

    page = check_page(summary, prepared, adapter)
    with writable(path, "name a file in a folder that exists", error=DataError):
        write_atomic(path, page.encode())


def _as_json(summary: Summary, root: Path) -> dict[str, Any]:
    """The summary as JSON, with counts as numbers by split."""
    content = summary.model_dump(mode="json")
    from hydrakit.data.quality.summary import findings, patients

    counts = {
        name: {split: sum(case.split == split for case in cases) for split in summary.splits}
        | {"all": len(cases), "findings": findings(cases), "patients": patients(cases)}
        for name, cases in summary.counts()
    }
    first = {"dataset": content.pop("dataset"), "root": str(root), "counts": counts}
    return first | {"usable": content.pop("cases"), **content}


def _print(summary: Summary, root: Path, *, each_case: bool) -> None:
    from hydrakit.cli.printing import print_table
    from hydrakit.data.read import label_names

    headers, rows = summary.count_table()
    headers = [headers[0], *(f"#{header}" for header in headers[1:])]
    print_table(headers, rows, title=f"{summary.dataset} in {root}")
    if summary.prepared is not None:
        say(f"prepared data of {summary.prepared} (--fresh reads all files again)")
    lines = _split_lines(summary), _facts_lines(summary), _copies_lines(summary)
    for line in chain(*lines, _grey_lines(summary)):
        _print_wrapped(line)
    for remark in summary.remarks:
        _print_wrapped(remark)
    if each_case:
        for case in summary.cases:
            names = label_names(case.label, summary.task, summary.all_classes)
            label = case.label if summary.task == "regression" else ", ".join(names)
            say(f"{case.key}: {label or '(no label)'}, {case.split or '(no split)'}")
        for pair in summary.copies:
            say(f"copies: {_pair(pair)}")
        for group in summary.conflicts:
            say(f"different labels: {', '.join(group.keys)}")
    for word, issues in (("WARNING", summary.warnings), ("PROBLEM", summary.problems)):
        for issue in issues:
            _print_wrapped(f"{word}: {issue.text}")
            if issue.keys:
                keys = issue.keys if each_case else issue.keys[:KEYS_SHOWN]
                more = len(issue.keys) - len(keys)
                rest = f", and {more} more (--cases lists them)" if more else ""
                _print_wrapped(f"  {', '.join(keys)}{rest}")
    if not summary.problems:
        say("No problem was found that would make results invalid.")


def _print_wrapped(line: str) -> None:
    """Print a line wrapped to the width of a screen, without breaking keys and paths."""
    for part in textwrap.wrap(
        line,
        WIDTH,
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
    ):
        say(part)


def _split_lines(summary: Summary) -> Iterator[str]:
    if summary.splits:
        yield f"split: {summary.split_description}"
    unlabelled = len(summary.members(None))
    if unlabelled:
        yield f"without a label: {unlabelled}, only for `hydrakit predict`"
    for name, counted in summary.subgroups().items():
        values = ", ".join(f"{value} ({count})" for value, count in counted.items())
        yield f"subgroup {name}, findings: {values}"


def _facts_lines(summary: Summary) -> Iterator[str]:
    same = []
    for each in summary.ranges:
        if each.fact in DERIVED:
            continue
        if each.low == each.high:
            same.append(f"{each.fact} {each.low:g}{_of_all(each.cases, len(summary.cases))}")
        else:
            yield (
                f"{each.fact}: {each.low:.4g} to {each.high:.4g}, median {each.median:.4g}"
                + _of_all(each.cases, len(summary.cases))
            )
    for counted in summary.values:
        if counted.fact in DERIVED:
            continue
        if len(counted.values) == 1:
            ((value, count),) = counted.values.items()
            same.append(f"{counted.fact} {value}{_of_all(count, len(summary.cases))}")
            continue
        listed = list(counted.values.items())[:VALUES_SHOWN]
        more = len(counted.values) - len(listed)
        yield (
            f"{counted.fact}: "
            + ", ".join(f"{value} ({count})" for value, count in listed)
            + (f", and {more} other value{'s' * (more > 1)}" if more else "")
        )
    if summary.cases:
        same.append(f"channels {summary.channels}")
        yield f"same for all cases that state it: {', '.join(same)}"


def _of_all(cases: int, all_cases: int) -> str:
    return "" if cases == all_cases else f" ({cases} cases)"


def _copies_lines(summary: Summary) -> Iterator[str]:
    if summary.conflicts:
        cases = sum(len(group.keys) for group in summary.conflicts)
        groups = len(summary.conflicts)
        yield (
            f"one image with different labels: {cases} cases in {groups} "
            f"{'group' if groups == 1 else 'groups'}, "
            f"first: {_pair(summary.conflicts[0].pair)}"
        )
    if not summary.copies:
        if summary.cases:
            yield f"copies: none {'of another patient' if summary.conflicts else 'found'}"
        return
    near = [pair for pair in summary.copies if pair.kind == "near"]
    flipped = sum(pair.flip != "none" for pair in near)
    exact = len(summary.copies) - len(near)
    line = f"copies: {exact} exact {'pair' if exact == 1 else 'pairs'}, {len(near)} near"
    if near:
        line += f" ({flipped} flipped), least similar: "
        line += _pair(min(near, key=lambda pair: pair.similarity))
    yield line


def _grey_lines(summary: Summary) -> Iterator[str]:
    from hydrakit.plan.grey import rule_text

    measured = summary.grey_values
    if measured is None:
        return
    yield f"grey values: {rule_text(measured.present)}"
    if measured.choices:
        yield (
            "normalisations compared, by the AUC of a logistic regression on first-order "
            f"statistics of the patch, cross-validated by patient on {measured.images_text}:"
        )
    for choice in measured.choices:
        areas = "; ".join(
            f"{each.class_name} {each.auc:.2f} ({each.low:.2f} to {each.high:.2f})"
            for each in choice.classes
        )
        yield f"  {rule_text(choice.rule)}: {areas}"
    yield f"normalisation: {measured.text}"


def _pair(pair: CopyPair) -> str:
    flipped = "" if pair.flip == "none" else f", flipped ({pair.flip})"
    across = ", with different labels" if pair.across_labels else ""
    looks = f"{pair.kind} {pair.similarity:.3f}, texture {pair.agreement:.2f}"
    return f"{pair.one} = {pair.other}, {looks}{flipped}{across}"
