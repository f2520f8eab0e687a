"""The command ``hydrakit finish``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say, say_json
from hydrakit.compute.signals import describe_stop
from hydrakit.errors import command_line

if TYPE_CHECKING:
    from hydrakit.compare.finish import How
    from hydrakit.runs.context import RunContext


@click.command(short_help="Make one model to use of a strategy of a comparison.")
@click.argument("comparison", type=params.FOLDER)
@click.option(
    "--strategy",
    required=True,
    shell_complete=names_of("strategy"),
    metavar="NAME",
    help="Strategy of the comparison, or a baseline.",
)
@click.option(
    "--how",
    type=click.Choice(["ensemble", "retrain"]),
    default="ensemble",
    show_default=True,
    help="ensemble: average the networks of all cells; retrain: train on all cases.",
)
@click.option(
    "--out", type=params.FOLDER, required=True, metavar="DIR", help="New folder of the model."
)
@click.option(
    "--allow-missing",
    is_flag=True,
    help="Leave out cells that are not finished, in place of refusing.",
)
@params.running_options
@params.as_json
@click.pass_context
def finish(
    ctx: click.Context,
    /,
    *,
    context: RunContext,
    comparison: Path,
    strategy: str,
    how: How,
    out: Path,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Make one model to use of a strategy of a COMPARISON, the folder that `compare` printed.

    An ensemble copies the networks of all cells, whose predictions are then averaged. Its expected
    AUC is that of the comparison. It needs no data and trains nothing.

    With --how retrain, the strategy is trained once more on all labelled cases of the target, with
    as many epochs as the cells ended with. No test split is left: the model's description quotes
    the figure of the comparison as an estimate. To continue after a stop, run the command again.
    """
    if how == "ensemble":
        _refuse_running_options(ctx)

    from hydrakit.compare import finish as finishing  # imports torch

    make = partial(
        finishing.finish,
        comparison,
        strategy,
        context,
        out=out,
        how=how,
        allow_missing=allow_missing,
    )
    if how == "ensemble":
        description = make()
    else:
        from hydrakit.cli.printing import print_results
        from hydrakit.cli.progress import run_progress
        from hydrakit.runs.rundir import RunDir

        cells = finishing.find_cells(comparison, strategy, allow_missing=allow_missing)
        try:
            with run_progress(finishing.final_plan(cells)) as progress:
                description = make(callbacks=[progress])
        except KeyboardInterrupt as error:
            raise describe_stop(error, "run the same command again to continue") from None
        if not as_json:
            print_results(RunDir(out))
    if as_json:
        say_json(description.model_dump_json(indent=2))
        return
    if how == "ensemble":
        say(f"model:    {out}: {description.networks} networks, whose predictions are averaged")
        for dataset, figure in description.expected.items():
            say(f"expected: {dataset}: {figure}")
            say(f"          {figure.reason}")
    for note in description.notes:
        say(f"Note: {note}")
    say(f"use it with: {command_line('hydrakit', 'predict', out, 'IMAGES')}")


def _refuse_running_options(ctx: click.Context) -> None:
    """Refuse options of training, which an ensemble of trained networks does not need."""
    own = {"comparison", "strategy", "how", "out", "allow_missing", "as_json"}
    for option in ctx.command.params:
        assert option.name is not None
        source = ctx.get_parameter_source(option.name)
        if option.name not in own and source is not None and source.name == "COMMANDLINE":
            raise click.UsageError(
                f"{option.opts[0]} is for `--how retrain`: an ensemble needs no data and trains "
                "nothing"
            )
