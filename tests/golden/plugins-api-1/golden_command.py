"""A command for hook API 1."""

import click

from hydrakit.errors import PlanError
from hydrakit.hooks import hookimpl

HYDRAKIT_API = 1


@click.command("golden-plan")
@click.argument("dataset")
@click.option("--seed", default=1, show_default=True, help="Seed of the plan.")
def golden_plan(dataset: str, seed: int) -> None:
    """Say how many rounds a plan has that trains DATASET alone."""
    import hydrakit

    if seed > 9:
        raise PlanError(f"--seed {seed}: is too large: choose one from 0 to 9")
    plan = hydrakit.make_plan("golden-together", [dataset], seed=seed)
    click.echo(f"{len(plan.rounds)} rounds")


@hookimpl
def hydrakit_commands():
    yield golden_plan
