"""The report of a comparison of strategies, from its ``comparison.json`` alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from hydrakit.errors import PlanError, command_line, one_line
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.edit import parse_value
from hydrakit.plan.settings import as_options, make_settings
from hydrakit.plugins.registry import Plugins, load_plugins
from hydrakit.report import comparison_figures
from hydrakit.report.figure import Figure, FigureCounter
from hydrakit.report.looks import looks_html, looks_text
from hydrakit.report.markup import REFRESH, Html, bullet_list, element, join, render, section
from hydrakit.report.provenance import place_options
from hydrakit.report.scores import compared_subgroups
from hydrakit.report.tables import (
    ABSENT,
    count_of,
    description_list,
    interval,
    number,
    seconds,
    table,
)
from hydrakit.report.tuned import tuned_html, value_text
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import first_fault
from hydrakit.stats.verdict import p_value
from hydrakit.storage.files import read_json, reason, write_atomic
from hydrakit.storage.records import refuse_later

if TYPE_CHECKING:
    from hydrakit.stats.comparison import Comparison, LeaveOut, StrategyPair, StrategyResult

FILE = "comparison.json"
DESIGN = "compare.json"
DESIGN_FORMAT = 4  # latest of that file (`hydrakit.compare.design.FORMAT`)
MAX_SCORES = 2_000_000  # of all findings, strategies and passes; each takes 40 bytes of memory
MAX_CELLS = 20  # a longer table of cells is collapsed


def read_comparison(folder: Path) -> Comparison:
    """The results of a comparison.

    Raises:
        PlanError: The file is absent or broken.
    """
    from hydrakit.stats.comparison import FORMAT, Comparison

    path = folder / FILE
    try:
        content = read_json(path, values=MAX_SCORES)
        refuse_later(path, content, latest=FORMAT)
        return Comparison.model_validate_json(content)
    except (OSError, ValueError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else reason(error)
        raise PlanError(
            f"{path}: cannot be read ({fault}): run the same `hydrakit compare` again, which "
            "writes it from the finished cells"
        ) from None


def write_comparison_report(folder: Path, *, plugins: Plugins | None = None) -> Path:
    """Write the self-contained ``report.html`` into the folder of a comparison.

    Args:
        folder: Folder of the comparison.
        plugins: Loaded plugins, for descriptions of the datasets; None loads them.

    Returns:
        Path of the report.

    Raises:
        PlanError: ``comparison.json`` is absent or broken.
    """
    text, _ = build_comparison(folder, plugins=plugins)
    path = folder / "report.html"
    write_atomic(path, text.encode())
    return path


def build_comparison(folder: Path, *, plugins: Plugins | None = None) -> tuple[str, list[Figure]]:
    """Text of a comparison's report, and its figures in order."""
    comparison = read_comparison(folder)
    counter = FigureCounter()
    names = ", ".join(comparison.label(each.name) for each in comparison.strategies)
    sections = [
        element("section", _verdict(comparison)),
        section(
            "Strategies",
            _strategies(comparison),
            counter.html(comparison_figures.auc_figure(comparison)),
        ),
        section(
            "Differences",
            counter.html(comparison_figures.difference_figure(comparison))
            if comparison.pairs
            else None,
            _differences(comparison),
        ),
        *(
            [section("Looks", *looks_html(comparison, comparison.looks))]
            if comparison.looks
            else []
        ),
        *(
            [section("Left-out values", _left_out(comparison, comparison.leave_out))]
            if comparison.leave_out is not None
            else []
        ),
        *_test_results(comparison, counter),
        *(
            [section("Training", counter.html(comparison_figures.trace_figure(comparison)))]
            if comparison.traces
            else []
        ),
        *([section("Plans", _plans(comparison))] if comparison.plans else []),
        *([section("Tuning", tuned_html(comparison))] if comparison.tuned else []),
        section("Cells", _cells(comparison)),
        section("Datasets", *_datasets(comparison, plugins or load_plugins())),
        section("Reproduce this comparison", _reproduction(folder, comparison)),
    ]
    parts = {
        "refresh": REFRESH if comparison.under_way else Html(""),
        "title": join((f"{_count(comparison)} on {comparison.target}",)),
        "subtitle": join((f"{names}; datasets {' → '.join(comparison.datasets)}",)),
        "sections": join(sections, "\n"),
        "version": join((comparison.hydrakit,)),
    }
    return render("page.html", parts), counter.figures


def _test_results(comparison: Comparison, counter: FigureCounter) -> Iterator[Html]:
    """ROC curves and subgroups of one class, or a table of the labels."""
    if comparison.measure == "AUC":
        yield section(
            "Test results",
            counter.html(comparison_figures.roc_figure(comparison)),
            compared_subgroups(comparison),
        )
    elif comparison.measure == "mean AUC":
        yield section("Labels", _labels(comparison))


def _left_out(comparison: Comparison, leave_out: LeaveOut) -> Html:
    """Figure of every strategy on each value that was left out of training."""
    is_auc = comparison.measure == "AUC"
    names = [comparison.label(each.name) for each in comparison.strategies]
    rows = []
    for each in leave_out.values:
        positives = each.positives or 0
        counts = (positives, each.findings - positives) if is_auc else (each.findings,)
        figures = [
            f"{_figure(one.value, comparison)} ({_ends(one.low, one.high, comparison)})"
            for one in each.strategies
        ]
        cells = figures or ["not finished"] * len(names)
        rows.append((each.value, *counts, each.patients, *cells))
    headers = (
        leave_out.subgroup,
        *(("Positive findings", "Negative findings") if is_auc else ("Findings",)),
        "Patients",
        *names,
    )
    figure = "MAE" if comparison.measure == "mae" else "AUC"
    caption = f"Test {figure} of each {leave_out.subgroup} ({comparison.level * 100:g} % CI)"
    pooled = "findings" if comparison.measure == "mae" else "values, each with the same weight"
    note = (
        f"In each fold, the findings of one {leave_out.subgroup} were tested by networks that had "
        "seen neither it nor its patients. The figures and the verdict of the strategies are over "
        f"all {pooled}. Differences between values are not tested: values also differ in patients "
        "and in training data. Nothing follows for values that the dataset does not have."
    )
    results = table(caption, headers, rows)
    return join((results, bullet_list([note, *leave_out.notes])), "\n")


def _labels(comparison: Comparison) -> Html:
    """AUC of each label for every strategy."""
    names = [comparison.label(each.name) for each in comparison.strategies]
    rows = []
    for each in comparison.label_aucs:
        aucs = [f"{number(one.auc)} ({interval(one.low, one.high)})" for one in each.strategies]
        cells = aucs or ["none"] * len(names)
        rows.append((each.name, each.positives, each.negatives, *cells))
    note = (
        "The mean over the labels decides, in a single verdict; differences of single labels are "
        "not tested. None: no fold of a pass has findings with and without the label, which is "
        "left out of the mean."
    )
    headers = ("Label", "With it", "Without it", *names)
    labels = table(f"Test AUC of each label ({comparison.level:.0%} CI)", headers, rows)
    return join((labels, element("p", note)), "\n")


def _count(comparison: Comparison) -> str:
    """Numbers of strategies and of baselines."""
    baselines = len(comparison.baselines)
    count = len(comparison.strategies) - baselines
    strategies = f"{count} {'strategy' if count == 1 else 'strategies'}"
    return f"{strategies} and {count_of(baselines, 'baseline')}" if baselines else strategies


def _verdict(comparison: Comparison) -> Html:
    """The conclusion in words, and the amount of data behind it."""
    lines = comparison.verdict.splitlines()
    headline, details = _headline(lines[0])
    verdict = element("p", element("b", headline), details, class_="verdict")
    others = bullet_list(lines[1:]) if lines[1:] else None
    data = (
        f"Data: {comparison.counts(name=True)} of "
        f"{comparison.target}. Design: {count_of(comparison.seeds, 'seed')}, "
        f"{count_of(comparison.repeats, 'repeat')} of {comparison.scheme}. The test labels were "
        f"read {count_of(comparison.readings, 'time')}, always after model selection."
    )
    incomplete = None
    if comparison.looks is not None:
        incomplete = element("p", looks_text(comparison, comparison.looks))
    elif comparison.used < comparison.wanted and not comparison.under_way:
        incomplete = element(
            "p",
            element("b", "Incomplete: "),
            f"the results include {comparison.used} of {comparison.wanted} cells (those of seeds "
            "and folds that every strategy finished).",
        )
    progress = _progress(comparison) if comparison.under_way else None
    return join((progress, verdict, others, element("p", data), incomplete), "\n")


def _progress(comparison: Comparison) -> Html:
    """Progress of a comparison that is still running."""
    if comparison.looks is not None:
        done = f"In progress: {comparison.done} cells are finished."
        return element("p", element("b", done), " The intervals hold at every look.")
    return element(
        "p",
        element("b", f"In progress: {comparison.done} of {comparison.wanted} cells are finished."),
        f" The results include {comparison.used} cells: those of seeds and folds that every "
        "strategy finished. Wait for the end before drawing a conclusion: repeated looks at "
        "interim results, with the option to stop at any time, lead to false positive differences.",
    )


def _headline(line: str) -> tuple[str, str]:
    """A line of the verdict as conclusion and details."""
    ends = [at for mark in (" (", ": mean") if (at := line.find(mark)) > 0]
    return (line[: min(ends)], line[min(ends) :]) if ends else (line, "")


def _strategies(comparison: Comparison) -> Html:
    is_auc = comparison.measure == "AUC"
    errors = comparison.measure == "mae"
    rows = []
    for each in comparison.strategies:
        counts = (comparison.positives, comparison.negatives)
        fit = (number(each.r2), interval(each.r2_low, each.r2_high)) if _has_r2(each) else ("", "")
        rows.append(
            (
                comparison.label(each.name),
                _figure(each.val, comparison),
                _figure(each.value, comparison),
                _ends(each.low, each.high, comparison),
                *(fit if errors else ()),
                *(counts if is_auc else (len(comparison.findings),)),
                each.cells,
                seconds(each.seconds),
                each.shared,
            )
        )
    figure = "MAE" if errors else "AUC"
    headers = (
        *("Strategy", f"Val. {figure}", f"Test {figure}", f"{comparison.level * 100:g} % CI"),
        *(("R2", f"{comparison.level * 100:g} % CI") if errors else ()),
        *(("Positive findings", "Negative findings") if is_auc else ("Findings",)),
        *("Cells", "Seconds", "Reused rounds"),
    )
    means = {
        "AUC": "AUCs are means over the cells (one seed and fold each); scores of different "
        "networks are never pooled.",
        "mean AUC": "AUCs are means over the labels, and over the cells (one seed and fold each); "
        "scores of different networks are never pooled.",
        "mae": "MAE: mean absolute error, over all findings of all passes, in the unit of the "
        "labels; less is better. R2: 1 is perfect, 0 no better than the mean of the labels.",
    }
    notes = [
        f"{means[comparison.measure]} The confidence interval covers the sampling of patients and "
        "the variation between random initialisations.",
        f"The validation data helped to choose the weights, so validation {figure}s are "
        "optimistic. Seconds: training time that the strategy alone would take; reused rounds were "
        "trained once for several cells.",
    ]
    for name, text in comparison.baselines.items():
        notes.append(
            f"The baseline {name} is {text}. A network that is not better than a baseline is not "
            "worth its cost."
        )
    left_out = sum(each.left_out for each in comparison.strategies)
    if left_out:
        notes.append(f"{left_out} cells tested a single class and have no AUC.")
    strategies = table("Table II. Strategies on the same findings", headers, rows)
    return join((strategies, bullet_list(notes)), "\n")


def _plans(comparison: Comparison) -> Html:
    """What each plan is that was compared like a strategy."""
    parts = [
        element(
            "p",
            "These plans were compared like strategies: with the seeds, folds and datasets of the "
            "comparison, and all other values as in their files. The comparison's folder has a "
            "copy of each. Values are compared with those that the settings of this comparison "
            "give for the strategy that the plan names.",
        )
    ]
    for name, plan in comparison.plans.items():
        parts.append(element("h3", name))
        parts.append(
            description_list(
                [
                    ("File", element("code", f"plans/{name}.json")),
                    ("SHA-256", element("code", plan.sha256)),
                    ("Strategy", f"{plan.strategy}, {count_of(plan.rounds, 'round')}"),
                ]
            )
        )
        if plan.differences is None:
            parts.append(element("p", "No plugin offers this strategy: no value is compared."))
        elif not plan.differences:
            parts.append(element("p", "All values are those of the strategy."))
        else:
            parts.append(bullet_list(plan.differences))
    return join(parts, "\n")


def _has_r2(each: StrategyResult) -> bool:
    return None not in (each.r2, each.r2_low, each.r2_high)


def _figure(value: float, comparison: Comparison) -> str:
    """An AUC, or an error with three digits that count."""
    return f"{value:.3g}" if comparison.measure == "mae" else number(value)


def _ends(low: float, high: float, comparison: Comparison) -> str:
    if comparison.measure == "mae":
        return f"{low:.3g} to {high:.3g}"
    return interval(low, high)


def _differences(comparison: Comparison) -> Html:
    if not comparison.pairs:
        return element("p", "A single strategy: there is nothing to compare.")
    errors = comparison.measure == "mae"
    figure = "MAE" if errors else "AUC"
    levels = "CI" if comparison.looks else f"{comparison.level * 100:g} % CI"
    headers = (
        *("Strategies", f"{figure} difference", levels, "p"),
        *("p (Holm)", *(("R2 difference",) if errors else ()), "Verdict", "Findings needed"),
    )
    note = (
        "Differences are paired: both strategies on the same findings. p: sign-flip test over "
        "whole patients. p (Holm): corrected for "
        f"{count_of(len(comparison.pairs), 'comparison')}"
        f"{' and for all looks' if comparison.looks else ''}. “Cannot tell” does not prove "
        "equality. Findings needed: approximate sample size that would detect a true difference of "
        "the observed size."
    )
    if errors:
        note += " Below 0, the first has the smaller error. The verdict is on the error alone."
    rows = [_difference(pair, comparison) for pair in comparison.pairs]
    against = "baseline, then each other strategy" if comparison.baselines else "other strategy"
    differences = table(f"First strategy minus each {against}", headers, rows, words=(5 + errors,))
    return join((differences, element("p", note)), "\n")


def _difference(pair: StrategyPair, comparison: Comparison) -> tuple[object, ...]:
    fit: tuple[str, ...] = ()
    digits = "+.3f"
    level = "" if pair.level is None else f" ({100 * pair.level:.4g} %)"
    if comparison.measure == "mae":
        digits, fit = "+.3g", (ABSENT,)
        if pair.r2_difference is not None:
            fit = (f"{pair.r2_difference:+.3f} ({pair.r2_low:+.3f} to {pair.r2_high:+.3f})",)
    return (
        f"{pair.strategy} − {comparison.label(pair.against)}",
        f"{pair.difference:{digits}}",
        f"{pair.low:{digits}} to {pair.high:{digits}}{level}",
        p_value(pair.p),
        p_value(pair.p_holm),
        *fit,
        pair.verdict,
        ABSENT if pair.findings_needed is None else _rounded_up(pair.findings_needed),
    )


def _rounded_up(findings: float) -> str:
    """A number of findings, rounded up to two significant digits."""
    unit = 10 ** max(0, math.floor(math.log10(max(findings, 1))) - 1)
    return f"about {math.ceil(findings / unit) * unit:,}"


def _cells(comparison: Comparison) -> Html:
    """Test AUC, or error, of every cell."""
    cells = comparison_figures.cell_values(comparison)
    names = [each.name for each in comparison.strategies]
    rows = [
        (
            f"seed {seed}, repeat {repeat}, {_fold(fold, comparison)}",
            *(_in_cell(cells[name].get((seed, repeat, fold)), comparison) for name in names),
        )
        for seed, repeat, fold in sorted({key for aucs in cells.values() for key in aucs})
    ]
    means = [_in_cell(float(np.mean(list(cells[name].values()))), comparison) for name in names]
    figure = "MAE" if comparison.measure == "mae" else "AUC"
    aucs = table(f"Test {figure} of every cell", ("Cell", *names), rows, footer=("Mean", *means))
    if len(rows) > MAX_CELLS:
        aucs = element("details", element("summary", f"All {len(rows)} cells"), aucs)
    if not comparison.failed:
        return aucs
    failures = bullet_list(f"{name}: {cause}" for name, cause in comparison.failed.items())
    return join((aucs, element("h3", "Failed cells"), failures), "\n")


def _fold(fold: int, comparison: Comparison) -> str:
    """A fold in words: its number, or the value that it left out."""
    if comparison.leave_out is None:
        return f"fold {fold}"
    value = comparison.leave_out.values[fold].value
    return f"fold {fold} ({comparison.leave_out.subgroup} {value})"


def _in_cell(value: float | None, comparison: Comparison) -> str:
    return ABSENT if value is None else _figure(value, comparison)


def _datasets(comparison: Comparison, plugins: Plugins) -> Iterator[Html]:
    for name in dict.fromkeys((comparison.target, *comparison.datasets)):
        adapter = plugins.all(DatasetAdapter).get(name)
        yield element("h3", name, " (target)" if name == comparison.target else "")
        if adapter is None:
            yield element("p", "The plugin of this dataset is not installed.")
            continue
        yield description_list(
            [
                ("About", adapter.summary),
                ("Classes", ", ".join(adapter.classes)),
                ("Citation", adapter.citation),
                ("Licence", adapter.licence),
                ("Access", adapter.how_to_get),
            ]
        )


def _reproduction(folder: Path, comparison: Comparison) -> Html:
    design = _stored_design(folder, comparison)
    total = sum(each.seconds for each in comparison.strategies)
    command = repeat_command(folder, comparison, design or StoredDesign())
    notes = ["The folder of each cell contains its plan, splits, weights and report."]
    if design is None:
        notes.insert(
            0,
            f"The command uses default options, because {DESIGN}, which lists those of this "
            "comparison, is missing or belongs to another one.",
        )
    return join(
        (
            element("pre", element("code", command)),
            element("p", " ".join(notes)),
            description_list(
                [
                    ("Design (SHA-256)", element("code", comparison.digest)),
                    ("hydrakit", comparison.hydrakit),
                    ("Training, all cells", f"{seconds(total)} seconds"),
                ]
            ),
        ),
        "\n",
    )


def repeat_command(folder: Path, comparison: Comparison, design: StoredDesign) -> str:
    """The command that repeats a comparison in a new folder.

    Args:
        folder: Folder of the comparison.
        comparison: Its results.
        design: Its design, as far as the results do not say it.
    """
    names = [each.name for each in comparison.strategies]
    names += [each.name for each in comparison.looks.dropped] if comparison.looks else []
    strategies = [names[0], *(name for name in names[1:] if name not in comparison.baselines)]
    baselines = [name for name in names if name not in strategies]
    words = ["--strategies", ",".join(strategies)]
    for name in comparison.plans:
        words += ["--plan", f"{name}={folder / 'plans' / name}.json"]
    words += ["--baselines", ",".join(baselines)] if baselines else ["--no-baselines"]
    words += ["--datasets", ",".join(comparison.datasets), *as_options(design.settings)]
    words += ["--seeds", str(comparison.seeds)]
    if comparison.leave_out is not None:
        words += ["--leave-out", comparison.leave_out.subgroup]
    else:
        words += ["--folds", str(comparison.folds)] if comparison.folds else ["--holdout"]
    words += ["--repeats", str(comparison.repeats)] if comparison.repeats > 1 else []
    for path, values in design.tune.items():
        words += ["--tune", f"{path}={','.join(map(_quoted, values))}"]
    words += ["--inner-folds", str(design.inner_folds)] if design.tune else []
    words += ["--until-told"] if comparison.looks and comparison.looks.stops else []
    words += [] if comparison.positive is None else ["--positive", comparison.positive]
    words += _places(folder)
    return command_line("hydrakit", "compare", *words, "--out", f"{folder}-again")


def _quoted(value: object) -> str:
    """A value as `--tune` reads it: text that would be read as JSON is quoted."""
    is_plain = isinstance(value, str) and parse_value(value) == value and "," not in value
    return value_text(value) if is_plain else json.dumps(value)


def _places(folder: Path) -> list[str]:
    """Options for the data folders and the device, from the first cell that has them."""
    for path in sorted((folder / "cells").iterdir()) if (folder / "cells").is_dir() else []:
        if (path / "environment.json").is_file():
            return place_options(RunDir(path).environment())
    return []


class StoredDesign(BaseModel):
    """The part of a design that ``comparison.json`` does not have."""

    settings: dict[str, Any] = Field(default_factory=dict)
    tune: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    inner_folds: int = 3


class _Description(BaseModel):
    """The part of ``compare.json`` that says how to repeat the comparison."""

    digest: str
    design: StoredDesign


def _stored_design(folder: Path, comparison: Comparison) -> StoredDesign | None:
    """Design of a comparison; None if ``compare.json`` is absent or of another comparison."""
    path = folder / DESIGN
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        refuse_later(path, content, latest=DESIGN_FORMAT)
        description = _Description.model_validate_json(content)
        make_settings(None, description.design.settings)
    except (PlanError, OSError, ValueError) as error:
        fault = first_fault(error) if isinstance(error, ValidationError) else one_line(str(error))
        raise PlanError(
            f"{path}: cannot be read ({fault}): run the same `hydrakit compare` again"
        ) from None
    return description.design if description.digest == comparison.digest else None
