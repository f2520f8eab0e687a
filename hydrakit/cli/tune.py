"""The commands ``hydrakit tune`` and ``hydrakit order``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.plan_options import PlanCommand, datasets, plan_options, strategy
from hydrakit.cli.printing import say, say_json
from hydrakit.errors import command_line

TUNED = ("learning_rate", "dropout")  # hyperparameters that `tune` chooses

if TYPE_CHECKING:
    from hydrakit.jobs.candidates import CandidateTable
    from hydrakit.runs.context import RunContext
    from hydrakit.search.order import OrderResult
    from hydrakit.search.tune import RoundTuning


def _values(_: click.Context, __: click.Parameter, value: str | None) -> list[float] | None:
    """Parse numbers such as ``1e-4,3e-4``."""
    if value is None:
        return None
    try:
        return [float(each) for each in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list such as 1e-4,3e-4,1e-3") from None


@click.command(
    cls=PlanCommand, short_help="Tune learning rates and dropout, or any values, and write a plan."
)
@strategy
@datasets
@plan_options(without=(*TUNED, "recentre"))
@click.option(
    "--try",
    "choices",
    multiple=True,
    metavar="PATH=V1,V2",
    help="Values of the plan to try in place of learning rates and dropouts, such as "
    "body.patch=32,48 (paths as in --set; a list as JSON: [16,32]); given several times, all "
    "combinations are tried.",
)
@click.option(
    "--learning-rates",
    callback=_values,
    metavar="R,R,...",
    help="Learning rates to try in each round.  [default: 1e-4,3e-4,1e-3]",
)
@click.option(
    "--dropouts",
    callback=_values,
    metavar="P,P,...",
    help="Dropout probabilities to try in each round.  [default: 0,0.1,0.3]",
)
@click.option(
    "--folds",
    type=params.Whole(2),
    default=3,
    show_default=True,
    metavar="N",
    help="Number of cross-validation folds: within each round's training split, or with --try of "
    "the cases outside the test split.",
)
@click.option(
    "--search",
    type=click.Choice(["grid", "optuna"]),
    help="Try all pairs of values (grid), or pairs that Optuna proposes within their ranges.  "
    "[default: grid]",
)
@click.option(
    "--trials",
    type=params.Whole(1),
    metavar="N",
    help="Number of pairs to try in each round with Optuna.  [default: 20]",
)
@click.option("--out", type=params.FOLDER, metavar="FILE", help="Write the plan to this file.")
@params.search_jobs
@params.join
@params.launcher
@params.running_options
def tune(
    *,
    context: RunContext,
    choices: tuple[str, ...],
    learning_rates: list[float] | None,
    dropouts: list[float] | None,
    folds: int,
    search: str | None,
    trials: int | None,
    out: Path | None,
    join: bool,
    **given: Any,
) -> None:
    """Choose learning rate and dropout of every round by cross-validation on its training split.

    With --try, choose any values of the plan: each combination is trained and tested as a whole run
    by cross-validation of the cases outside the test split.

    The test split is never read. Run the plan that is written with `hydrakit run --plan FILE`. To
    resume after a stop, run the same command again; with more values, it tries only the new ones.
    """
    strategy, datasets = given.pop("strategy"), given.pop("datasets")
    for option, value in (("--strategy", strategy), ("--datasets", datasets), ("--out", out)):
        if not value:
            raise click.UsageError(f"{option} is needed: see `hydrakit tune --help`")
    assert out is not None
    if choices:
        rates = (learning_rates, dropouts, search, trials)
        if any(each is not None for each in rates):
            raise click.UsageError(
                "--try replaces --learning-rates, --dropouts, --search and --trials: leave them "
                "out, and try rounds.all.learning_rate or rounds.all.dropout"
            )
        if join:
            raise click.UsageError("--join shares no runs of --try: leave it out")
        _tune_values(strategy, datasets, choices, out, context, folds=folds, given=given)
        return
    for path in given["changes"]:
        if path.startswith("rounds.") and path.rpartition(".")[2] in TUNED:
            raise click.UsageError(f"`tune` chooses this value: leave out --set {path}")

    from hydrakit.cli.search_progress import TuneProgress
    from hydrakit.data.dicom.index import report_index_progress
    from hydrakit.plan.profiles import make_plan
    from hydrakit.search import tune as engine

    plugins = context.plugins()
    plan = make_plan(strategy, datasets, plugins=plugins, recentre=False, **given)
    progress = TuneProgress(plan, on_choice=lambda each: _print_round(each, len(plan.rounds)))
    with report_index_progress(progress.indexing):
        result = engine.tune(
            plan,
            out,
            context,
            search=engine.TuningSearch(
                learning_rates=learning_rates or engine.LEARNING_RATES,
                dropouts=dropouts or engine.DROPOUTS,
                folds=folds,
                method=search or "grid",
                trials=trials,
            ),
            join=join,
            callbacks=[progress],
            plugins=plugins,
        )
    say(f"plan:    {result.path}")
    say(f"trials:  {result.trials_path}")
    say(f"run it:  {command_line('hydrakit', 'run', '--plan', result.path)}")


def _tune_values(
    strategy: str,
    datasets: list[str],
    choices: tuple[str, ...],
    out: Path,
    context: RunContext,
    *,
    folds: int,
    given: dict[str, Any],
) -> None:
    """Choose any values of a plan, and print all candidates."""
    from hydrakit.cli.search_progress import ValuesProgress
    from hydrakit.data.dicom.index import report_index_progress
    from hydrakit.jobs.candidates import parse_choices
    from hydrakit.plan.profiles import make_plan
    from hydrakit.search.values import tune_values

    values = parse_choices(choices, option="--try")
    for path in given["changes"].keys() & values.keys():
        raise click.UsageError(f"{path} is both set and tried: leave out one of the two")
    plugins = context.plugins()
    plan = make_plan(strategy, datasets, plugins=plugins, recentre=False, **given)
    progress = ValuesProgress()
    with report_index_progress(progress.indexing):
        result = tune_values(
            plan, values, out, context, folds=folds, callbacks=[progress], plugins=plugins
        )
    _print_candidates(result.table)
    say(f"plan:        {result.path}")
    say(f"candidates:  {result.table_path}")
    say(f"run it:      {command_line('hydrakit', 'run', '--plan', result.path)}")


def _print_candidates(table: CandidateTable) -> None:
    """Print all candidates with their scores, and how to take them."""
    from hydrakit.cli.printing import print_table

    paths = list(table.best.values)
    rows = [
        [
            *(_short(each.values[path]) for path in paths),
            "" if each.score is None else f"{each.score:.3f}",
            " ".join("diverged" if s is None else f"{s:.3f}" for s in each.scores),
            "" if each.loss is None else f"{each.loss:.3f}",
            f"{each.seconds:.1f}",
            "chosen" if index == table.chosen else "",
        ]
        for index, each in enumerate(table.tried)
    ]
    title = f"target {table.target}: AUC (R2 in regression) on {table.folds} inner folds"
    print_table([*paths, "#mean", "by fold", "#loss", "#seconds", ""], rows, title=title)
    say(
        f"{len(table.tried)} candidates were tried, without the test split. The score of the "
        "chosen one is optimistic, because it is the best of them: a run of the plan tests it."
    )


def _short(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _print_round(tuning: RoundTuning, rounds: int) -> None:
    """Print the settings that were tried for a round, and the chosen one."""
    from hydrakit.cli.printing import print_table

    title = f"round {tuning.number} of {rounds}, {tuning.round.dataset} {tuning.round.train}"
    if tuning.chosen is None:
        say(f"{title}: trains nothing, so there is nothing to choose")
        say()
        return
    rows = []
    for index, candidate in enumerate(tuning.candidates):
        setting, score, records = candidate.setting, candidate.score, candidate.records
        scores = ["diverged" if r.score is None else f"{r.score:.3f}" for r in records]
        rows.append(
            [
                f"{setting.learning_rate:g}",
                f"{setting.dropout:g}",
                "" if score is None else f"{score:.3f}",
                " ".join(scores),
                f"{sum(each.epochs for each in records) / len(records):.0f}",
                f"{sum(each.seconds for each in records):.1f}",
                "chosen" if index == tuning.chosen else "",
            ]
        )
    columns = ["#learning rate", "#dropout", "#mean", "by fold", "#epochs", "#seconds", ""]
    print_table(
        columns, rows, title=f"{title}: validation AUC (R2 in regression) of each fold's best epoch"
    )


@click.command(
    cls=PlanCommand, short_help="Find which support datasets help a target, and in which order."
)
@click.option(
    "--target",
    shell_complete=names_of("dataset"),
    metavar="NAME",
    help="Dataset to find support datasets for.",
)
@click.option(
    "--strategy",
    default="hydra",
    show_default=True,
    shell_complete=names_of("strategy"),
    metavar="NAME",
    help="Strategy to train each order of support datasets with.",
)
@click.option(
    "--datasets",
    callback=params.names,
    shell_complete=names_of("dataset", several=True),
    metavar="A,B,...",
    help="Datasets to choose the support datasets from.",
)
@plan_options(without=("splits", "ensemble", "recentre"))
@click.option(
    "--seeds",
    type=params.Whole(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Number of runs of each order, with seeds --seed, --seed + 1, ... and the same splits.",
)
@click.option(
    "--budget",
    type=params.Whole(1),
    metavar="N",
    help="Maximum number of runs.  [default: 20, unless --minutes is given]",
)
@click.option(
    "--minutes",
    type=params.FloatOption(min=0, min_open=True),
    metavar="X",
    help="Try no other order after this many minutes of training, added up over all processes.",
)
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the search.  [default: a folder in ./runs, the same for the same search]",
)
@params.search_jobs
@params.launcher
@params.running_options
@params.as_json
def order(
    *,
    target: str | None,
    strategy: str,
    datasets: list[str],
    seed: int,
    seeds: int,
    budget: int | None,
    minutes: float | None,
    context: RunContext,
    out: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Find which of the --datasets help the --target as support datasets, and in which order.

    Orders are compared by the validation split of the target; the test split is never read. Each
    order is trained as the target, its supports, and the target again. Each support of the best
    order is then left out in turn, to test whether it helps. To resume, run the same command again.
    """
    if not target or not datasets:
        raise click.UsageError(f"{'--datasets' if target else '--target'} is needed")

    from hydrakit.cli.search_progress import OrderProgress
    from hydrakit.search import order as engine

    result = engine.order(
        datasets,
        target,
        engine.OrderSearch(
            strategy=strategy,
            seeds=seeds,
            seed=seed,
            budget=budget,
            minutes=minutes,
            settings=settings,
        ),
        context,
        out=out,
        callback=OrderProgress(),
    )
    if as_json:
        say_json(result.model_dump_json(indent=2))
    else:
        _print_order(result)


def _print_order(result: OrderResult) -> None:
    from hydrakit.cli.printing import print_table

    best = sorted(result.tried, key=lambda each: (-each.score, len(each.supports)))
    rows = [
        [
            ", ".join(each.supports) or "no support",
            f"{each.score:.3f}",
            " ".join(f"{score:.3f}" for score in each.scores),
            f"{each.seconds:.1f}",
            "chosen" if each.supports == result.chosen else "",
        ]
        for each in best
    ]
    title = f"{result.strategy}, target {result.target}: validation AUC (R2 in regression)"
    print_table(["supports in order", "#mean", "by seed", "#seconds", ""], rows, title=title)
    for line in _search_lines(result):
        say(line)
    for each in result.left_out:
        say(f"{each.support}: {each.effect}. {each.text}")


def _search_lines(result: OrderResult) -> list[str]:
    """The extent of the search, and a warning about the score of the best order."""
    limits = [] if result.budget is None else [f"{result.budget} runs"]
    limits += [] if result.minutes is None else [f"{result.minutes:g} minutes"]
    runs = len(result.tried) * len(result.seeds)
    lines = [
        f"{len(result.tried)} of {result.possible} orders tried in {runs} runs "
        f"(budget: {' and '.join(limits)}), and {result.left_out_runs} runs to leave supports out"
    ]
    if result.search == "greedy":
        lines.append(
            "too many orders for the budget: a greedy search added the best support at the end, "
            "one at a time, before trying other orders; a better order may have been missed"
        )
    if result.luck is not None:
        lines.append(
            "the score of the best order is optimistic: the expected best AUC of "
            f"{len(result.tried)} random classifiers on these validation cases is {result.luck:.3f}"
        )
    return lines
