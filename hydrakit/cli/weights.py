"""``hydrakit weights``."""

from __future__ import annotations

from pathlib import Path

import click

from hydrakit.cli import params
from hydrakit.errors import one_line


@click.group(short_help="Look into weight files, import and swap them.")
def weights() -> None:
    """Weight files: look into them, import them, put a head on another body."""


@weights.command()
@click.argument("file", type=params.FOLDER)
@params.as_json
def inspect(file: Path, as_json: bool) -> None:
    """Tell what a safetensors FILE of hydrakit is, and what its input needs."""
    from hydrakit.weights.format import read_metadata

    description = read_metadata(file)
    if as_json:
        click.echo(description.model_dump_json(indent=2))
        return
    facts = description.model_dump(mode="json", exclude={"probe"}, exclude_none=True)
    for key, value in facts.items():
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else _words(value)
        click.echo(f"{key + ':':16}{one_line(shown, 2**20)}")


def _words(value: object) -> str:
    """A value, and dictionaries as their names and values."""
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{name} {_words(inner)}" for name, inner in value.items()) or "none"


@weights.command("import-authors")
@click.argument("file", type=params.FOLDER)
@click.option("--out", type=params.FOLDER, required=True, metavar="DIR", help="A new folder.")
def import_authors(file: Path, out: Path) -> None:
    """Turn a checkpoint FILE.pth of the paper's authors into body and head safetensors."""
    from hydrakit.weights.import_authors import import_authors as convert

    for path in convert(file, out):
        click.echo(path)


@weights.command()
@click.option("--body", type=params.FOLDER, required=True, metavar="FILE")
@click.option("--head", type=params.FOLDER, required=True, metavar="FILE")
@click.option("--out", type=params.FOLDER, required=True, metavar="DIR", help="A new folder.")
def swap(body: Path, head: Path, out: Path) -> None:
    """Put a head on another body, after checking that they fit."""
    from hydrakit.weights.files import swap as join

    note = join(body, head, out)
    if note:
        click.echo(f"Note: {note}")
    click.echo(out / "body.safetensors")
    for path in sorted((out / "heads").iterdir()):
        click.echo(path)
