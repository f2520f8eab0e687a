"""The commands ``hydrakit datasets list``, ``new``, ``info``, ``get`` and ``check``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.check import check
from hydrakit.cli.get import get
from hydrakit.cli.printing import say, say_json, say_lines

if TYPE_CHECKING:
    from hydrakit.hooks import DatasetAdapter
    from hydrakit.runs.context import RunContext


@click.group(short_help="List, describe, fetch, declare and check datasets.")
def datasets() -> None:
    """List datasets and the files they need, fetch public ones, declare your own, and check."""


@datasets.command("list")
@params.places
@params.as_json
def list_datasets(context: RunContext, as_json: bool) -> None:
    """List the datasets of installed plugins, and those declared by a dataset.toml file."""
    from hydrakit.hooks import DatasetAdapter

    adapters = context.plugins().all(DatasetAdapter)
    if as_json:
        say_json(json.dumps([_describe(adapters[name]) for name in sorted(adapters)], indent=2))
        return
    width = max(map(len, adapters), default=0)
    for name in sorted(adapters):
        say(f"{name:{width}}  {adapters[name].summary}")


@datasets.command()
@click.argument("folder", metavar="DIR", type=params.FOLDER)
@click.option(
    "--out",
    metavar="FOLDER",
    type=params.FOLDER,
    help="Write the file into this folder, which is made; DIR itself may be read-only.",
)
def new(folder: Path, out: Path | None) -> None:
    """Write a draft of dataset.toml into DIR, from the images there, for you to check."""
    from hydrakit.data.declared.guess import dataset_name, guess_declaration
    from hydrakit.data.declared.schema import FILE
    from hydrakit.errors import DataError, command_line
    from hydrakit.storage.files import write_atomic

    place = out or folder
    text = guess_declaration(folder, place)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / FILE, text.encode())
    except OSError as error:
        remedy = "" if out else ": write it elsewhere with `--out FOLDER`"
        raise DataError(f"{place / FILE}: cannot be written ({error.strerror}){remedy}") from None
    say_lines(text)
    whole, name = place.resolve(), dataset_name(place)
    where = ["--data", whole.parent] if name == whole.name else ["--root", f"{name}={whole}"]
    command = command_line("hydrakit", "datasets", "check", name, *where)
    say()
    say(f"written: {place / FILE}. Check it, then: {command}")


@datasets.command()
@click.argument("name")
@params.places
@params.as_json
def info(name: str, context: RunContext, as_json: bool) -> None:
    """Describe dataset NAME: its classes, files, how to get them, licence and options."""
    from hydrakit.hooks import DatasetAdapter

    adapter = context.plugins().get(DatasetAdapter, name)
    description = _describe(adapter)
    if as_json:
        say_json(json.dumps(description, indent=2))
        return
    options = description.pop("options")
    for key, value in description.items():
        text = ", ".join(value) if isinstance(value, list) else value
        say(f"{key.replace('_', ' ') + ':':15}{text}")
    say("options:" if options else "options:       none")
    for option in options:
        choices = f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
        say(f"  --option {name}.{option['name']}={option['default']}{choices}")
        say(f"      {option['help']}")


def _describe(adapter: DatasetAdapter) -> dict[str, Any]:
    from hydrakit.plan.grey import rule_text
    from hydrakit.plan.view import view_text
    from hydrakit.plugins.options import option_fields

    return {
        "name": adapter.name,
        "summary": adapter.summary,
        "classes": list(adapter.classes),
        "field_of_view": view_text(adapter.field_of_view),
        "normalisation": rule_text(adapter.normalise),
        "flips": "any" if adapter.flips is None else ", ".join(adapter.flips) or "none",
        "layout": adapter.layout,
        "how_to_get": adapter.how_to_get,
        "citation": adapter.citation,
        "licence": adapter.licence,
        "options": [
            {
                "name": option.name,
                "default": option.default,
                "choices": list(option.choices),
                "help": option.help,
            }
            for option in option_fields(adapter.options)
        ],
    }


datasets.add_command(get)
datasets.add_command(check)
