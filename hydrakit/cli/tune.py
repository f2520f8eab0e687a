"""``hydrakit tune`` and ``hydrakit order``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.plan_options import PlanCommand, datasets, plan_options, strategy

TUNED = ("learning_rate", "dropout")  # what `tune` chooses

if TYPE_CHECKING:
    from hydrakit.runs.context import RunContext
    from hydrakit.search.order import OrderResult
    from hydrakit.search.tuning import RoundTuning


def _values(_: click.Context, __: click.Parameter, value: str | None) -> list[float] | None:
    """Numbers, as ``1e-4,3e-4``."""
    if value is None:
        return None
    try:
        return [float(each) for each in value.split(",")]
    except ValueError:
        raise click.BadParameter(f"{value!r} is not a list such as 1e-4,3e-4,1e-3") from None


@click.command(
    cls=PlanCommand, short_help="Choose learning rate and dropout of every round; write a plan."
)
@strategy
@datasets
@plan_options(without=TUNED)
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
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="Number of cross-validation folds within each round's training split.",
)
@click.option(
    "--search",
    type=click.Choice(["grid", "optuna"]),
    default="grid",
    show_default=True,
    help="Try all pairs of the values, or pairs that Optuna proposes within their ranges.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    metavar="N",
    help="Number of pairs that Optuna tries in each round.  [default: 20]",
)
@click.option("--out", type=params.FOLDER, metavar="FILE", help="Write the plan to this file.")
@params.running_options
def tune(
    *,
    context: RunContext,
    learning_rates: list[float] | None,
    dropouts: list[float] | None,
    folds: int,
    search: str,
    trials: int | None,
    out: Path | None,
    **given: Any,
) -> None:
    """Choose learning rate and dropout of every round, by cross-validation on its training split.

    The test split is never read. `hydrakit run --plan FILE` runs the plan that is written. The same
    command goes on where a stopped one left off; one with further values tries only these.
    """
    strategy, datasets = given.pop("strategy"), given.pop("datasets")
    for option, value in (("--strategy", strategy), ("--datasets", datasets), ("--out", out)):
        if not value:
            raise click.UsageError(f"{option} is needed: see `hydrakit tune --help`")
    assert out is not None
    for path in given["changes"]:
        if path.startswith("rounds.") and path.rpartition(".")[2] in TUNED:
            raise click.UsageError(f"`tune` chooses this value itself: leave out --set {path}")

    from hydrakit.cli.search_progress import TuneProgress
    from hydrakit.data.dicom.index import report_index_progress
    from hydrakit.plan.profiles import make_plan
    from hydrakit.search import tune as engine

    plugins = context.plugins()
    plan = make_plan(strategy, datasets, plugins=plugins, **given)
    progress = TuneProgress(plan, on_choice=lambda each: _print_round(each, len(plan.rounds)))
    with report_index_progress(progress.indexing):
        tuned = engine.tune(
            plan,
            out,
            context,
            search=engine.TuningSearch(
                learning_rates=learning_rates or engine.LEARNING_RATES,
                dropouts=dropouts or engine.DROPOUTS,
                folds=folds,
                method=search,
                trials=trials,
            ),
            callbacks=[progress],
            plugins=plugins,
        )
    click.echo(f"plan:    {tuned.path}")
    click.echo(f"trials:  {tuned.trials_path}")
    click.echo(f"run it:  hydrakit run --plan {tuned.path}")


def _print_round(tuned: RoundTuning, rounds: int) -> None:
    """What was tried for a round."""
    from hydrakit.cli.show import print_table

    title = f"round {tuned.number} of {rounds}, {tuned.round.dataset} {tuned.round.train}"
    if tuned.chosen is None:
        click.echo(f"{title}: trains nothing, so there is nothing to choose\n")
        return
    rows = []
    for place, tried in enumerate(tuned.candidates):
        scores = ["diverged" if r.score is None else f"{r.score:.3f}" for r in tried.records]
        rows.append(
            [
                f"{tried.setting.learning_rate:g}",
                f"{tried.setting.dropout:g}",
                "" if tried.score is None else f"{tried.score:.3f}",
                " ".join(scores),
                f"{sum(each.epochs for each in tried.records) / len(tried.records):.0f}",
                f"{sum(each.seconds for each in tried.records):.1f}",
                "chosen" if place == tuned.chosen else "",
            ]
        )
    columns = ["#learning rate", "#dropout", "#mean", "by fold", "#epochs", "#seconds", ""]
    print_table(
        columns, rows, title=f"{title}: AUC (of a number R2) of each fold, by its best epoch"
    )


@click.command(cls=PlanCommand, short_help="Find which supports help a target, and in which order.")
@click.option("--target", metavar="NAME", help="Dataset to find supports for.")
@click.option(
    "--strategy",
    default="hydra",
    show_default=True,
    metavar="NAME",
    help="Strategy that trains each order of supports.",
)
@click.option(
    "--datasets",
    callback=params.names,
    metavar="A,B,...",
    help="Datasets to choose supports from.",
)
@plan_options(without=("splits",))
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Runs of each order, with the seeds --seed, --seed + 1, ...; all have the same splits.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="N",
    help="Maximum number of runs.  [default: 20, unless --minutes is given]",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    metavar="X",
    help="Start no new run after this many minutes.",
)
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the search.  [default: one under ./runs, the same for the same search]",
)
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
    """Find which of the --datasets help the --target as supports, and in which order.

    Judged on the target's validation split alone; the test split is never read. Each order is
    trained as the target, its supports, and the target again. Of the best one each support is then
    left out: did it help or hurt? The same command goes on where a stopped one left off.
    """
    if not target or not datasets:
        raise click.UsageError(f"{'--datasets' if target else '--target'} is needed")

    from hydrakit.cli.search_progress import OrderProgress
    from hydrakit.search import order as engine

    found = engine.order(
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
        click.echo(found.model_dump_json(indent=2))
    else:
        _print_order(found)


def _named(supports: tuple[str, ...]) -> str:
    return ", ".join(supports) or "no support"


def _print_order(result: OrderResult) -> None:
    from hydrakit.cli.show import print_table

    best = sorted(result.tried, key=lambda each: (-each.score, len(each.supports)))
    rows = [
        [
            _named(each.supports),
            f"{each.score:.3f}",
            " ".join(f"{score:.3f}" for score in each.scores),
            f"{each.seconds:.1f}",
            "chosen" if each.supports == result.chosen else "",
        ]
        for each in best
    ]
    title = f"{result.strategy}, target {result.target}: validation AUC (of a number R2)"
    print_table(["supports in order", "#mean", "by seed", "#seconds", ""], rows, title=title)
    for line in _search_lines(result):
        click.echo(line)
    for each in result.left_out:
        click.echo(f"{each.support}: {each.effect}. {each.text}")


def _search_lines(result: OrderResult) -> list[str]:
    """How far the search went, and what its best figure is worth."""
    limits = [] if result.budget is None else [f"{result.budget} runs"]
    limits += [] if result.minutes is None else [f"{result.minutes:g} minutes"]
    runs = len(result.tried) * len(result.seeds)
    lines = [
        f"{len(result.tried)} of {result.possible} orders tried in {runs} runs "
        f"(budget: {' and '.join(limits)}), and {result.left_out_runs} runs to leave supports out"
    ]
    if result.search == "greedy":
        lines.append(
            "too many orders for the budget: the best support was added at the end, again and "
            "again, before others were tried; a better order may have been missed"
        )
    if result.luck is not None:
        lines.append(
            f"the best of many on one validation split flatters: the best of {len(result.tried)} "
            f"networks that know nothing has {result.luck:.3f} here on average"
        )
    return lines
