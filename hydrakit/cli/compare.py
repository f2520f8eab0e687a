"""``hydrakit compare`` and ``hydrakit verdict``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.plan_options import PlanCommand, datasets, plan_options
from hydrakit.cli.printing import say, say_json, say_lines
from hydrakit.compute.signals import describe_stop

if TYPE_CHECKING:
    from hydrakit.compare.engine import CompareCallback, CompareResult, PlannedComparison
    from hydrakit.runs.context import RunContext


@click.command(cls=PlanCommand, short_help="Compare training strategies on the same test findings.")
@click.option(
    "--strategies",
    callback=params.names,
    shell_complete=names_of("strategy", several=True),
    metavar="A,B,...",
    help="Strategies to compare; every other one is compared with the first.",
)
@click.option(
    "--plan",
    "plan_files",
    multiple=True,
    metavar="NAME=FILE",
    help="Compare the plan in this file like a strategy of this name, which may be listed in "
    "--strategies; may be given several times. It keeps its values, except for seeds and test "
    "split; later, NAME alone names it.",
)
@click.option(
    "--baselines",
    callback=params.names,
    shell_complete=names_of("strategy", several=True),
    metavar="A,B,...",
    help="Simple models that the first strategy is compared with before all others.  [default: "
    "intensity,probe]",
)
@click.option("--no-baselines", is_flag=True, help="Compare with no baseline.")
@datasets
@plan_options(without=("splits", "seed", "recentre"))
@click.option(
    "--seeds",
    type=params.Whole(1),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of seeds; every strategy is trained with the seeds 0 to N-1.",
)
@click.option(
    "--folds",
    type=params.Whole(2),
    metavar="N",
    help="Number of cross-validation folds; each patient is in one fold.  [default: 5]",
)
@click.option(
    "--leave-out",
    metavar="SUBGROUP",
    help="Make a fold of each value of this subgroup of the target, such as scanner, in place of "
    "--folds: its findings are tested, and training leaves out the value and its patients.",
)
@click.option(
    "--holdout", is_flag=True, help="Use one 8-1-1 split, as in the paper, instead of folds."
)
@click.option(
    "--repeats",
    type=params.Whole(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of repeats of the cross-validation, each with different folds.",
)
@click.option(
    "--until-told",
    is_flag=True,
    help="Stop when more cells can hardly change the verdict: look at the results after each fold "
    "and pass, at levels that come to 5 % together, and drop strategies that are decided.",
)
@click.option(
    "--tune",
    "choices",
    multiple=True,
    metavar="PATH=V1,V2",
    help="Values of the plans that each cell tries on its training part before it is trained "
    "(paths as in --set; a list as JSON: [16,32]). Given several times, all combinations are "
    "tried.",
)
@click.option(
    "--inner-folds",
    type=params.Whole(2),
    metavar="N",
    help="Number of folds of a training part on which --tune tries values.  [default: 3]",
)
@click.option(
    "--positive",
    metavar="CLASS",
    help="Class treated as positive in the AUC.  [default: the second of two]",
)
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the comparison.  [default: a folder in ./runs, named after the settings]",
)
@params.jobs
@click.option(
    "--dry-run",
    is_flag=True,
    help="Check everything, and print what would be trained and submitted.",
)
@click.option(
    "--trace-test",
    is_flag=True,
    help="Also evaluate the test split after every epoch, only for a figure of all strategies.",
)
@params.join
@params.launcher
@params.running_options
@params.as_json
@click.pass_context
def compare(
    ctx: click.Context,
    /,
    *,
    strategies: list[str],
    plan_files: tuple[str, ...],
    baselines: list[str],
    no_baselines: bool,
    datasets: list[str],
    seeds: int,
    folds: int | None,
    leave_out: str | None,
    holdout: bool,
    repeats: int,
    until_told: bool,
    choices: tuple[str, ...],
    inner_folds: int | None,
    positive: str | None,
    context: RunContext,
    out: Path | None,
    join: bool,
    dry_run: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Compare strategies by cross-validation, with confidence intervals and tests.

    Every strategy is trained with every seed on every fold, and tested on the same findings; so
    are the plans of --plan, and the baselines, logistic regressions that take seconds: a network
    that is not better than they are is not worth its cost. All plans and splits are checked before
    anything is trained. To resume a comparison that was stopped, run the same command again; with
    more strategies, plans, seeds or repeats it trains only the new ones.

    With --tune, each cell first chooses values by cross-validation within its training part, so
    that the test results also hold for the way of choosing (nested cross-validation).
    """
    if not (strategies or plan_files) or not datasets:
        missing = "--strategies" if datasets else "--datasets"
        raise click.UsageError(f"{missing} is needed: see `hydrakit plugins list`")
    if holdout and (folds or repeats > 1):
        raise click.UsageError("--holdout is a single split: leave out --folds and --repeats")
    if leave_out is not None and (folds or holdout):
        raise click.UsageError("--leave-out takes the place of --folds and --holdout: give one")
    if inner_folds and not choices:
        raise click.UsageError("--inner-folds is for --tune: add values to try, or leave it out")
    if baselines and no_baselines:
        raise click.UsageError("--baselines and --no-baselines contradict each other: give one")

    from hydrakit.compare import engine
    from hydrakit.compare.design import BASELINES, make_design, with_named_plans
    from hydrakit.jobs.candidates import FOLDS, parse_choices

    design = make_design(
        strategies=strategies,
        baselines=[] if no_baselines else baselines or BASELINES,
        datasets=datasets,
        seeds=seeds,
        folds=None if holdout or leave_out is not None else folds or 5,
        leave_out=leave_out,
        repeats=repeats,
        settings=settings,
        tune=parse_choices(choices, option="--tune"),
        inner_folds=inner_folds or FOLDS,
    )
    design = with_named_plans(design, plan_files, out or engine.default_out(design))
    try:
        with comparison_progress() as progress:
            result = engine.compare(
                design,
                context,
                positive=positive,
                out=out,
                join=join,
                dry_run=dry_run,
                until_told=until_told,
                callback=progress,
            )
    except KeyboardInterrupt as error:
        raise describe_stop(error, "run the same command again to resume") from None
    if result.planned is not None:
        _print_planned(result.path, result.planned)
        return
    print_result(result, as_json=as_json)
    if result.failed:
        ctx.exit(1)


def _print_planned(out: Path, planned: PlannedComparison) -> None:
    """Print what a comparison would do."""
    say(f"comparison: {out}")
    say(f"cells:      {planned.cells}, of which {planned.done} are done; {planned.rounds} rounds")
    say(f"jobs:       {planned.processes} at a time, CPU threads of each: {planned.threads}")
    if planned.preview is not None:
        say_lines(planned.preview)
    say("Nothing was trained, and no folder was created.")


@contextmanager
def comparison_progress() -> Iterator[CompareCallback]:
    """Print the progress of a comparison on standard error, by the callback that is yielded."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from hydrakit.cli.compare_progress import LiveCompareProgress, PlainCompareProgress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainCompareProgress()
        return
    columns = [
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.completed} of {task.total} rounds"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=console, transient=True) as progress:
        yield LiveCompareProgress(progress)


def print_result(result: CompareResult, *, as_json: bool) -> None:
    """Print the strategies, their differences and the verdict; failures on standard error."""
    comparison = result.comparison
    if as_json and comparison is not None:
        say_json(comparison.model_dump_json(indent=2))
    elif comparison is not None:
        from hydrakit.cli.printing import print_comparison

        print_comparison(comparison)
        say("")
        say(f"comparison:  {result.path / 'comparison.json'}")
        say(f"report:      {result.path / 'report.html'}")
    elif not result.failed:
        say("no fold has all strategies yet")
    for name, reason in result.failed.items():
        say(f"hydrakit: cell {name} failed: {reason}", err=True)


@click.command(short_help="Test whether score files, or a published table, show a difference.")
@click.argument("files", nargs=-1, type=params.FOLDER)
@click.option(
    "--predictions",
    is_flag=True,
    help="Compare FILES, tables (CSV) with scores of the same findings, pair by pair.",
)
@click.option(
    "--labels",
    type=params.FOLDER,
    metavar="FILE",
    help="Table with the labels, and the patients, of the findings.  [default: the columns label "
    "and patient of FILES]",
)
@click.option(
    "--positive",
    metavar="CLASS",
    help="Class treated as positive in FILES.  [default: the second of two, or 1]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    help="Rows to compare, of FILES with a column split.  [default: test]",
)
@click.option(
    "--table",
    metavar="TEXT",
    help='Names with AUCs, such as "Hydra 48/60, transfer 0.72" (fractions of pairs, or numbers '
    "with a decimal point), with the two options below; or a CSV file with columns name, AUC, "
    "positives, negatives.",
)
@click.option(
    "--positives", type=params.Whole(1), help="Number of positive findings in the test set."
)
@click.option(
    "--negatives", type=params.Whole(1), help="Number of negative findings in the test set."
)
@params.as_json
def verdict(
    *,
    files: tuple[Path, ...],
    predictions: bool,
    labels: Path | None,
    positive: str | None,
    split: str | None,
    table: str | None,
    positives: int | None,
    negatives: int | None,
    as_json: bool,
) -> None:
    """Test whether score files, or the AUCs of a published table, show a difference.

    `--predictions A.csv B.csv` compares scores of the same findings: a reader's, another program's,
    or a predictions.csv of hydrakit. Rows are matched by the column finding or key; the scores are
    in the column p_CLASS or score. Patients are the units if there is a column patient.

    `--table` compares the methods of a published table, each with each later one.
    """
    of_table = [
        name
        for name, value in (
            ("--table", table),
            ("--positives", positives),
            ("--negatives", negatives),
        )
        if value is not None
    ]
    of_files = [
        name
        for name, value in (("--labels", labels), ("--positive", positive), ("--split", split))
        if value is not None
    ]
    if predictions:
        if of_table:
            raise click.UsageError(f"--predictions compares files: leave out {of_table[0]}")
        if len(files) < 2:
            raise click.UsageError("--predictions needs two files or more: name them after it")
        _compare_files(files, labels, positive, split or "test", as_json=as_json)
        return
    if files or of_files:
        given = of_files[0] if of_files else files[0]
        raise click.UsageError(f"{given} is for a comparison of files: add --predictions")
    if table is None:
        raise click.UsageError("give --table TEXT, or --predictions A.csv B.csv")
    _compare_rows(table, positives, negatives, as_json=as_json)


def _compare_files(
    files: tuple[Path, ...],
    labels: Path | None,
    positive: str | None,
    split: str,
    *,
    as_json: bool,
) -> None:
    """Compare score files and print the result."""
    from dataclasses import asdict

    from hydrakit.cli.printing import print_table
    from hydrakit.errors import utf8
    from hydrakit.stats.score_files import compare_files

    found = compare_files(files, labels=labels, positive=positive, split=split)
    if as_json:
        content = asdict(found)
        for each in content["verdicts"]:
            each["needed"] = _finite(each["needed"])
        say_json(utf8(json.dumps(content, indent=2, ensure_ascii=False)))
        return
    print_table(
        ["file", "scores", "#AUC", "95% interval"],
        [
            (each.name, each.column, f"{each.auc:.3f}", f"{each.low:.3f} to {each.high:.3f}")
            for each in found.files
        ],
        title=f"AUC for {found.positive!r}: {found.positives} positive and {found.negatives} "
        f"negative findings of {found.patients} patients",
    )
    for verdict in found.verdicts:
        say(verdict.text)
    for note in found.notes:
        say(f"Note: {note}", err=True)


def _compare_rows(
    table: str, positives: int | None, negatives: int | None, *, as_json: bool
) -> None:
    """Compare the rows of a published table and print the result."""
    from dataclasses import asdict

    from hydrakit.errors import DataError
    from hydrakit.stats.verdict import refuse_decimal_comma, rows_of_table, verdict_of_table

    if (positives is None) != (negatives is None):
        raise click.UsageError("--positives and --negatives are needed together: give both")
    source = "--table"
    if positives is not None:
        refuse_decimal_comma(table, where=source)
        rows = [_row(part, positives, negatives) for part in table.replace(";", ",").split(",")]
        table = "\n".join(rows)
    elif Path(table).is_file():
        source = table
        try:
            table = Path(table).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: cannot be read as a table: {error}") from None
    verdicts = verdict_of_table(rows_of_table(table, where=source))
    if as_json:
        rounded = [{**asdict(each), "needed": _finite(each.needed)} for each in verdicts]
        say_json(json.dumps(rounded, indent=2))
        return
    for each in verdicts:
        say(each.text)


def _finite(needed: float | None) -> float | None:
    """The number of findings, with None for infinity, which JSON cannot hold."""
    return None if needed is None or needed == float("inf") else needed


def _row(part: str, positives: int, negatives: int | None) -> str:
    """A CSV row of a table, from a text with a name and an AUC."""
    name, _, auc = part.strip().rpartition(" ")
    return f"{name.strip()}, {auc}, {positives}, {negatives}"
