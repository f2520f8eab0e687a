"""The command ``hydrakit export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say

if TYPE_CHECKING:
    from hydrakit.export.model import Format


@click.command(short_help="Write a trained model for other software, or as a folder to publish.")
@click.argument("model", type=params.FOLDER)
@click.option(
    "--to",
    type=click.Choice(["onnx", "torchscript", "hub"]),
    required=True,
    help="ONNX or TorchScript files, or a folder as on the Hugging Face Hub.",
)
@click.argument("out", type=params.FOLDER, metavar="DIR")
@click.option(
    "--dataset",
    shell_complete=names_of("dataset"),
    metavar="NAME",
    help="Dataset whose head is written.  [default: all heads]",
)
@click.option(
    "--licence",
    metavar="ID",
    help="With `hub`: licence of the weights, as the Hub names it: mit, cc-by-4.0.  "
    "[default: other]",
)
@click.option(
    "--push",
    metavar="OWNER/NAME",
    help="With `hub`: also push the folder to this repository on the Hugging Face Hub; a new one "
    "is private.",
)
def export(
    *,
    model: Path,
    to: Format,
    out: Path,
    dataset: str | None,
    licence: str | None,
    push: str | None,
) -> None:
    """Write a trained MODEL into the new folder DIR.

    MODEL is a finished run, or a folder with a model.

    \b
    onnx         one file for each head, for onnxruntime and others, and a README
    torchscript  one file for each head, for libtorch
    hub          model card, weights as safetensors, results: predict and evaluate read it

    Each ONNX or TorchScript file is compared with the model on 64 images before the command says
    that it worked.
    """  # noqa: D301 - click reads the backspace and does not join the lines below it
    from hydrakit.export.model import export_model

    done = export_model(model, to, out, dataset=dataset, licence=licence, push=push)
    for note in done.notes:
        say(f"Note: {note}", err=True)
    for path in done.files:
        say(path)
    if done.address is not None:
        say(done.address)
