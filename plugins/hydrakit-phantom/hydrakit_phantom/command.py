"""Command ``hydrakit phantom``."""

from __future__ import annotations

from pathlib import Path

import click

from hydrakit.errors import printable
from hydrakit_phantom.settings import DATASETS, DIFFICULTY, MAX_PATIENTS, PATIENTS


@click.command(short_help="Write synthetic data in the real formats.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--patients",
    default=PATIENTS,
    show_default=True,
    type=click.IntRange(12, MAX_PATIENTS),
    help="Number of patients of each dataset (brain: images).",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Random seed; the same seed gives the same files.",
)
@click.option(
    "--datasets",
    default=",".join(DATASETS),
    show_default=True,
    metavar="NAMES",
    help="Datasets to write, separated by commas.",
)
@click.option(
    "--difficulty",
    default=DIFFICULTY,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Overlap of the classes: 0 hardly any, 1 complete (equal distributions).",
)
def phantom(out: Path, patients: int, seed: int, datasets: str, difficulty: float) -> None:
    """Write synthetic prostate, brain and lung data into the folder OUT.

    The files have the formats of PROSTATEx, LUNGx and the Kaggle brain images, so that the
    adapters for the real data read them. Nothing in them is from a patient.
    """
    from hydrakit.errors import command_line
    from hydrakit_phantom.write import write_phantom

    names = tuple(name.strip() for name in datasets.split(","))
    written = write_phantom(
        out, patients=patients, seed=seed, datasets=names, difficulty=difficulty
    )
    if written.existed:
        click.echo(printable(f"{out} already holds this phantom; nothing was written"))
    for name, cases in written.cases.items():
        counts = ", ".join(f"{count} {label}" for label, count in cases.items())
        click.echo(printable(f"{name}: {counts} in {out / name}"))
    strategy, order = ("hydra", (*names, names[0])) if len(names) > 1 else ("classical", names)
    click.echo("Synthetic data: for trying the program, not for any medical conclusion.")
    words = ["--strategy", strategy, "--datasets", ",".join(order), "--data", out]
    click.echo(printable(f"next: {command_line('hydrakit', 'run', *words)}"))
