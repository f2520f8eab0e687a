"""The commands ``hydrakit run``, ``plan`` and ``evaluate``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.plan_options import PlanCommand, datasets, plan_options, strategy
from hydrakit.cli.printing import say, say_json, say_lines
from hydrakit.compute.signals import describe_stop
from hydrakit.errors import command_line

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan
    from hydrakit.runs.context import RunContext


start_model = click.option(
    "--from",
    "model",
    type=params.FOLDER,
    metavar="MODEL",
    help="Begin with the body of this run or model, and with its heads for datasets of the same "
    "name and classes, in place of random weights.",
)


def _make_plan(context: RunContext, *, model: Path | None, **given: Any) -> Plan:
    from functools import partial

    from hydrakit.plan.profiles import make_plan

    make = make_plan
    if model is not None:
        from hydrakit.runs.start import make_plan_from

        make = partial(make_plan_from, model)
    strategy, datasets = given.pop("strategy"), given.pop("datasets")
    if not strategy or not datasets:
        missing = "--strategy" if not strategy else "--datasets"
        raise click.UsageError(f"{missing} is needed: see `hydrakit plugins list`")
    made = make(strategy, datasets, plugins=context.plugins(), **given)
    used = {dataset.name for dataset in made.datasets}
    unused = [name for name in dict.fromkeys(datasets) if name not in used]
    if unused:
        say(f"Note: {strategy} does not train on {', '.join(unused)}", err=True)
    if given.get("recentre") and made.strategy_rounds == len(made.rounds):
        say(
            "Note: --recentre adds no round: each head ends with the final body, or serves several "
            "datasets",
            err=True,
        )
    return made


@click.command(cls=PlanCommand, short_help="Print the plan of a run as JSON.")
@strategy
@datasets
@plan_options()
@start_model
@params.places
@click.option(
    "--out", type=params.FOLDER, metavar="FILE", help="Write the plan to this file instead."
)
def plan(*, context: RunContext, out: Path | None, **given: Any) -> None:
    """Print the plan of a run as JSON, for reading or editing; `run --plan FILE` runs it.

    `--set` changes single values. Some with their defaults are not printed, such as:

    \b
    datasets.brain.field_of_view.share=0.5    the middle of each image (or millimetres=50)
    datasets.brain.flips=horizontal           axes along which images may be mirrored
    body.patch=64                             pixels per side of the network's input
    rounds.all.transforms.rotation=45         views for training; also flips=horizontal,vertical,
                                              shift=2,2, scale=0.1, intensity=0.1 and noise=0.1
    test_views=8                              average the predictions for 8 views of each case
    """  # noqa: D301 - click reads the backspace and does not join the lines below it
    text = _make_plan(context, **given).to_json()
    if out is None:
        say_json(text)
    else:
        from hydrakit.errors import PlanError
        from hydrakit.storage.files import write_atomic
        from hydrakit.storage.records import writable

        if out.exists():
            raise PlanError(f"{out}: exists already: name another file")
        with writable(out, "name a file in another folder"):
            write_atomic(out, text.encode())


@click.command(cls=PlanCommand, short_help="Train body and heads, and test on the target dataset.")
@strategy
@datasets
@plan_options()
@start_model
@click.option(
    "--plan",
    "plan_file",
    type=params.FOLDER,
    metavar="FILE",
    help="Run the plan in this file, as written by `hydrakit plan`.",
)
@click.option("--resume", type=params.FOLDER, metavar="RUN", help="Resume the run in this folder.")
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the run.  [default: a folder in ./runs, the same for the same plan]",
)
@click.option(
    "--trace-test",
    is_flag=True,
    help="Also evaluate the test split after every epoch, only for a figure in the report.",
)
@click.option(
    "--dry-run",
    "dry",
    is_flag=True,
    help="Check everything and estimate time, memory and disk space on this machine, without "
    "training; print what --launcher would submit.",
)
@params.launcher
@params.running_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    context: RunContext,
    plan_file: Path | None,
    resume: Path | None,
    out: Path | None,
    dry: bool,
    **given: Any,
) -> None:
    """Train body and heads, one dataset after another, and test on the target dataset.

    To resume a run that was stopped, run the same command again; the final weights are the same.
    """
    from hydrakit.cli.printing import print_dry_run, print_results
    from hydrakit.cli.progress import run_progress
    from hydrakit.plan.model import load_plan
    from hydrakit.runs.rundir import RunDir

    if plan_file or resume:
        _refuse_plan_options(ctx, given, plan_file=plan_file, resume=resume, out=out)
    if resume:
        rundir = RunDir(resume)
        plan, out = rundir.plan(), resume
        if context.data is None:
            roots = rundir.environment().get("roots", {})
            context = context.changed(roots={**roots, **context.roots})
    else:
        plan = load_plan(plan_file) if plan_file else _make_plan(context, **given)

    from hydrakit import engine  # imports torch, only after the plan is valid

    out = out or engine.default_out(plan)
    with _resumable(out), run_progress(plan) as progress:
        if dry:
            from hydrakit.jobs.submit import preview_run

            script = None if context.launcher == "local" else preview_run(context, out=out)
            estimate = engine.dry_run(plan, context, out=out, callbacks=[progress])
        elif context.launcher == "local":
            rundir = engine.run(plan, context, out=out, callbacks=[progress])
        else:
            from hydrakit.jobs.submit import submit_run

            rundir = submit_run(plan, context, out=out, callback=progress)
    if dry:
        print_dry_run(estimate)
        for path, value in given["changes"].items():
            say(f"set:     {path} = {json.dumps(value)}")
        if script is not None:
            say_lines(script)
    else:
        print_results(rundir)


def _refuse_plan_options(
    ctx: click.Context,
    given: dict[str, Any],
    *,
    plan_file: Path | None,
    resume: Path | None,
    out: Path | None,
) -> None:
    """Refuse options that would change a plan from `--plan` or `--resume`."""
    if plan_file and resume:
        raise click.UsageError("--plan starts a run and --resume resumes one: give one of them")
    chosen = "--plan" if plan_file else "--resume"
    for option in ctx.command.params:
        if option.name in given and _is_given(ctx, option.name):
            raise click.UsageError(
                f"{chosen} gives a complete plan: {option.opts[0]} cannot change it"
            )
    if resume and out is not None:
        raise click.UsageError("--resume names the run's folder: leave out --out")


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """Add to the message of a stop in the block how to resume the run."""
    try:
        yield
    except KeyboardInterrupt as error:
        remedy = "run the same command again to resume"
        if (out / "plan.json").is_file():
            remedy = f"resume with `{command_line('hydrakit', 'run', '--resume', out)}`"
        raise describe_stop(error, remedy) from None


def _is_given(ctx: click.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@click.command(cls=PlanCommand, short_help="Evaluate a run, or any body and head, on a dataset.")
@click.argument("run", required=False, type=params.FOLDER)
@click.option("--body", type=params.FOLDER, metavar="FILE", help="Safetensors file of a body.")
@click.option("--head", type=params.FOLDER, metavar="FILE", help="Safetensors file of a head.")
@click.option(
    "--dataset",
    metavar="NAME",
    help="Dataset to evaluate on.  [default: the target of the run, or the dataset of the head]",
)
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="test",
    show_default=True,
    help="Cases to evaluate on, by the split that the head was trained with.",
)
@click.option(
    "--classes",
    callback=params.names,
    metavar="A,B,...",
    help="Classes of the dataset that the outputs of the head stand for, in the order of the "
    "outputs.  [default: matched by name]",
)
@params.evaluation_options
@plan_options("options")
@params.as_json
def evaluate(
    *,
    run: Path | None,
    body: Path | None,
    head: Path | None,
    dataset: str | None,
    split: str,
    classes: list[str],
    context: RunContext,
    options: dict[str, Any],
    as_json: bool,
) -> None:
    """Evaluate a finished RUN, or any body and head that fit together, on cases of a dataset.

    RUN may also be a folder with a model: of `weights swap`, `finish` or `export --to hub`.
    """
    if (run is None) == (body is None or head is None):
        raise click.UsageError("give a RUN, or both --body and --head")
    if run is not None and (body or head):
        raise click.UsageError("a RUN has its own body and heads: give a RUN alone")

    from hydrakit.cli.printing import print_evaluation
    from hydrakit.maintenance.forecast import forecast
    from hydrakit.runs.evaluate import evaluate_files, evaluate_run
    from hydrakit.weights.folders import head_datasets, is_model_folder, networks_in
    from hydrakit.weights.format import read_head

    others: list[tuple[Path, Path]] = []
    if run is not None and is_model_folder(run):
        own = dataset if dataset in head_datasets(run) else None
        (body, head), *others = networks_in(run, own)
    elif run is not None and options:
        raise click.UsageError("a RUN has its own options: leave out --option")
    if body is None:
        assert run is not None
        evaluation = evaluate_run(
            run, context, dataset=dataset, split=split, classes=classes or None
        )
    else:
        assert head is not None
        files = body, head

        def say_expected() -> None:
            for sentence in forecast(*files, plugins=context.plugins()):
                say(f"Note: {sentence}", err=True)

        evaluation = evaluate_files(
            body,
            head,
            context,
            dataset=dataset,
            split=split,
            classes=classes or None,
            options=options.get(dataset or read_head(head).dataset),
            others=others,
            on_checked=say_expected,
        )
    print_evaluation(evaluation, as_json=as_json)
