"""The command ``hydrakit heads add``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.plan_options import PlanCommand, plan_options
from hydrakit.cli.printing import say
from hydrakit.errors import command_line

if TYPE_CHECKING:
    from hydrakit.runs.context import RunContext

FIELDS = (
    *(
        "options",
        "splits",
        "copies",
        "conflicts",
        "profile",
        "seed",
        "split_seed",
        "epochs",
        "epoch_size",
    ),
    *("patience", "batch_size", "learning_rate", "dropout", "bootstrap", "head", "head_options"),
    "changes",
)


@click.group(short_help="Add a head to a trained model.")
def heads() -> None:
    """Add a head for a further dataset to a trained model."""


@heads.command(cls=PlanCommand, short_help="Train a head on the frozen body of a model.")
@click.argument("model", type=params.FOLDER)
@click.option(
    "--dataset",
    required=True,
    shell_complete=names_of("dataset"),
    metavar="NAME",
    help="Dataset of the new head.",
)
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="New folder for a copy of the model with the head.  [default: add it to MODEL itself, "
    "which must be no run]",
)
@click.option(
    "--run-out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the run that trains the head.  [default: a folder in ./runs]",
)
@plan_options(*FIELDS)
@params.running_options
def add(
    *,
    model: Path,
    dataset: str,
    out: Path | None,
    run_out: Path | None,
    context: RunContext,
    **given: Any,
) -> None:
    """Train a head for a further dataset on the frozen body of MODEL, and add it to MODEL.

    MODEL is a finished run or a folder with a model. Its body and its heads stay as they are, byte
    for byte. The head has its own split, its own test and its own report.
    """
    from hydrakit.cli.printing import print_results
    from hydrakit.cli.progress import run_progress
    from hydrakit.maintenance.add_head import add_head
    from hydrakit.plan.settings import make_settings

    settings = make_settings(None, given)
    with run_progress(None) as progress:
        added = add_head(
            model,
            dataset,
            context,
            out=out,
            run_out=run_out,
            settings=settings,
            callbacks=[progress],
        )
    print_results(added.run)
    if added.left_out:
        say(
            f"Note: {added.model}: without the heads of {', '.join(added.left_out)}, which do not "
            f"belong to the final body of {model}",
            err=True,
        )
    if out is None and (model / "README.md").is_file():
        command = command_line("hydrakit", "export", model, "--to", "hub", "NEW-FOLDER")
        say(
            f"Note: {model / 'README.md'}: does not tell of the new head: write the folder anew "
            f"with `{command}`",
            err=True,
        )
    say(f"model:   {added.model}")
