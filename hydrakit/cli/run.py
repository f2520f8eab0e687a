"""``hydrakit run``, ``plan`` and ``evaluate``."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.plan_options import PlanCommand, datasets, plan_options, strategy
from hydrakit.compute.signals import describe_stop

if TYPE_CHECKING:
    from hydrakit.compute.devices import Precision
    from hydrakit.plan.model import Plan


def _make_plan(data: Path | None, roots: dict[str, Path], **given: Any) -> Plan:
    from hydrakit.data.declared.adapter import plugins_at
    from hydrakit.plan.profiles import make_plan

    strategy, datasets = given.pop("strategy"), given.pop("datasets")
    if not strategy or not datasets:
        missing = "--strategy" if not strategy else "--datasets"
        raise click.UsageError(f"{missing} is needed: see `hydrakit plugins list`")
    return make_plan(strategy, datasets, plugins=plugins_at(data, roots), **given)


@click.command(cls=PlanCommand, short_help="Print the plan of a run as JSON.")
@strategy
@datasets
@plan_options()
@params.places
@click.option("--out", type=params.FOLDER, metavar="FILE", help="Write the plan to a file instead.")
def plan(*, data: Path | None, roots: dict[str, Path], out: Path | None, **given: Any) -> None:
    """Print the plan of a run as JSON, to read or to edit: `run --plan FILE` runs it."""
    text = _make_plan(data, roots, **given).to_json()
    if out is None:
        click.echo(text, nl=False)
    else:
        from hydrakit.errors import PlanError
        from hydrakit.storage.files import write_atomic

        if out.exists():
            raise PlanError(f"{out}: exists already: name another file")
        try:
            write_atomic(out, text.encode())
        except OSError as error:
            raise PlanError(
                f"{out}: cannot be written ({error.strerror}): name a file in another folder"
            ) from None


@click.command(cls=PlanCommand, short_help="Train body and heads, and test on the target.")
@strategy
@datasets
@plan_options()
@params.places
@click.option(
    "--plan",
    "plan_file",
    type=params.FOLDER,
    metavar="FILE",
    help="Run the plan in this file, as `hydrakit plan` writes it.",
)
@click.option(
    "--resume", type=params.FOLDER, metavar="RUN", help="Continue the run in this folder."
)
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the run.  [default: one under ./runs, the same for the same plan]",
)
@click.option(
    "--trace-test",
    "trace",
    is_flag=True,
    help="Evaluate the test split after every epoch too, for a figure; the report says so.",
)
@click.option(
    "--track",
    type=click.Choice(["tensorboard", "mlflow"]),
    help="Send the metrics of every epoch to this tracker too; its files are in the run's folder.",
)
@click.option(
    "--dry-run",
    "dry",
    is_flag=True,
    help="Check everything and estimate time, memory and disk space, without training.",
)
@params.compute
@params.checkpoint_every
@params.cache
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    data: Path | None,
    roots: dict[str, Path],
    plan_file: Path | None,
    resume: Path | None,
    out: Path | None,
    device: str,
    trace: bool,
    track: str | None,
    dry: bool,
    precision: Precision,
    deterministic: bool,
    compiled: bool,
    checkpoint_every: float,
    cache: Path | None,
    **given: Any,
) -> None:
    """Train body and heads, dataset after dataset, and test on the target.

    The same command goes on where a stopped one left off, and ends with the same weights.
    """
    from hydrakit.cli.progress import watching
    from hydrakit.cli.show import print_dry_run, print_results
    from hydrakit.plan.model import load_plan
    from hydrakit.runs.rundir import RunDir

    if plan_file and resume:
        raise click.UsageError(
            "--plan begins a run and --resume goes on with one: name one of them"
        )
    if plan_file or resume:
        chosen = "--plan" if plan_file else "--resume"
        for option in ctx.command.params:
            if option.name in given and _is_given(ctx, option.name):
                raise click.UsageError(
                    f"{chosen} brings a whole plan: {option.opts[0]} cannot change it"
                )
    if resume:
        if out is not None:
            raise click.UsageError("--resume names the run's folder: leave out --out")
        rundir = RunDir(resume)
        the_plan, out = rundir.plan(), resume
        known = {} if data else rundir.environment().get("roots", {})
        roots = {**{name: Path(path) for name, path in known.items()}, **roots}
    else:
        the_plan = load_plan(plan_file) if plan_file else _make_plan(data, roots, **given)

    from hydrakit import engine  # torch: only once the plan is known to be right
    from hydrakit.observers.trackers import tracking

    out = out or engine.default_out(the_plan)
    places: dict[str, Any] = {
        "out": out,
        "data": data,
        "roots": roots,
        "device": device,
        "precision": precision,
        "deterministic": deterministic,
        "compiled": compiled,
        "cache": cache,
    }
    with (
        _resumable(out),
        watching(the_plan) as shown,
        tracking(shown, track) as watcher,
    ):
        if dry:
            rehearsal = engine.dry_run(the_plan, **places, watcher=watcher, trace=trace)
        else:
            done = engine.run(
                the_plan,
                **places,
                trace=trace,
                watcher=watcher,
                checkpoint_every=checkpoint_every,
            )
    if dry:
        print_dry_run(rehearsal)
        for path, value in given["changes"].items():
            click.echo(f"set:     {path} = {json.dumps(value)}")
    else:
        print_results(done)


@contextmanager
def _resumable(out: Path) -> Iterator[None]:
    """A run that is stopped in the block says how it goes on."""
    try:
        yield
    except KeyboardInterrupt as error:
        begun = (out / "plan.json").is_file()
        again = f"`hydrakit run --resume {shlex.quote(str(out))}`" if begun else "the same command"
        raise describe_stop(error, f"{again} goes on where it was") from None


def _is_given(ctx: click.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@click.command(cls=PlanCommand, short_help="Evaluate a run, or any body and head.")
@click.argument("run", required=False, type=params.FOLDER)
@click.option("--body", type=params.FOLDER, metavar="FILE", help="A body's safetensors.")
@click.option("--head", type=params.FOLDER, metavar="FILE", help="A head's safetensors.")
@click.option("--dataset", metavar="NAME", help="Whose cases.  [default: the target, the head's]")
@click.option(
    "--split",
    type=click.Choice(["train", "val", "test", "all"]),
    default="test",
    show_default=True,
    help="Which cases, split as when the head was trained.",
)
@params.places
@plan_options("options")
@params.device
@params.cache
@params.as_json
def evaluate(
    *,
    run: Path | None,
    body: Path | None,
    head: Path | None,
    dataset: str | None,
    split: str,
    data: Path | None,
    roots: dict[str, Path],
    options: dict[str, Any],
    device: str,
    cache: Path | None,
    as_json: bool,
) -> None:
    """Evaluate a finished RUN, or any body and head that fit each other, on a dataset's cases."""
    if (run is None) == (body is None or head is None):
        raise click.UsageError("name a RUN, or both --body and --head")
    if run is not None and (body or head or options):
        raise click.UsageError("a RUN brings its body, heads and options: name a RUN alone")

    from hydrakit.cli.show import print_evaluation
    from hydrakit.runs.evaluate import evaluate_files, evaluate_run
    from hydrakit.storage.paths import root_of
    from hydrakit.weights.format import read_head

    if run is not None:
        places = dict(roots)
        if data is not None and dataset not in roots:
            from hydrakit.runs.rundir import RunDir

            name = dataset or RunDir(run).plan().target
            places.setdefault(name, root_of(name, data, roots))
        evaluation = evaluate_run(
            run, roots=places, dataset=dataset, split=split, device=device, cache=cache
        )
    else:
        assert body is not None
        assert head is not None
        name = dataset or read_head(head).dataset
        evaluation = evaluate_files(
            body,
            head,
            root=root_of(name, data, roots),
            dataset=name,
            split=split,
            options=options.get(name),
            device=device,
            cache=cache,
        )
    print_evaluation(evaluation, as_json=as_json)
