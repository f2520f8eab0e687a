"""The command ``hydrakit phantom``."""

from __future__ import annotations

from pathlib import Path

import click

from hydrakit_phantom.settings import DATASETS, DIFFICULTY, MOST_PATIENTS, PATIENTS


@click.command(short_help="Write synthetic data in the real formats.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--patients",
    default=PATIENTS,
    show_default=True,
    type=click.IntRange(12, MOST_PATIENTS),
    help="Patients of each dataset (brain: images).",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="The same seed gives the same files.",
)
@click.option(
    "--datasets",
    default=",".join(DATASETS),
    show_default=True,
    metavar="NAMES",
    help="Which datasets to write, with commas between.",
)
@click.option(
    "--difficulty",
    default=DIFFICULTY,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="0: the classes hardly overlap; 1: nothing tells them apart.",
)
def phantom(out: Path, patients: int, seed: int, datasets: str, difficulty: float) -> None:
    """Write synthetic prostate, brain and lung data into the folder OUT.

    The files have the formats of PROSTATEx, LUNGx and the Kaggle brain images, so that the
    adapters for the real data read them. Nothing in them is from a patient.
    """
    from hydrakit_phantom.write import write_phantom

    names = tuple(name.strip() for name in datasets.split(","))
    written = write_phantom(
        out, patients=patients, seed=seed, datasets=names, difficulty=difficulty
    )
    if written.already_there:
        click.echo(f"{out} already holds this phantom; nothing was written")
    for name, cases in written.cases.items():
        counts = ", ".join(f"{count} {label}" for label, count in cases.items())
        click.echo(f"{name}: {counts} in {out / name}")
    strategy, order = ("hydra", (*names, names[0])) if len(names) > 1 else ("classical", names)
    click.echo("Synthetic data: for trying the program, not for any medical conclusion.")
    click.echo(
        f"next: hydrakit run --strategy {strategy} --datasets {','.join(order)} --data {out}"
    )
