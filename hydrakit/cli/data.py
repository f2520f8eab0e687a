"""The commands ``hydrakit datasets list``, ``new``, ``add``, ``info``, ``get`` and ``check``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.check import check
from hydrakit.cli.completion import names_of, public_sets
from hydrakit.cli.get import get
from hydrakit.cli.printing import say, say_json, say_lines

if TYPE_CHECKING:
    from hydrakit.data.declared.sets import Contents, PublicSet
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
    from hydrakit.errors import DataError
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
    say()
    say(f"written: {place / FILE}. Check it, then: {_check_command(dataset_name(place), place)}")


def _check_command(name: str, place: Path) -> str:
    """The command that checks a dataset whose ``dataset.toml`` is in a folder."""
    from hydrakit.errors import command_line

    whole = place.resolve()
    where = ["--data", whole.parent] if name == whole.name else ["--root", f"{name}={whole}"]
    return command_line("hydrakit", "datasets", "check", name, *where)


@datasets.command()
@click.argument("name", metavar="[NAME]", required=False, shell_complete=public_sets)
@click.argument("folder", metavar="[DIR]", type=params.FOLDER, required=False)
@click.option(
    "--out",
    metavar="FOLDER",
    type=params.FOLDER,
    help="Write the file into this folder, which is made; DIR itself may be read-only.",
)
@params.as_json
def add(name: str | None, folder: Path | None, out: Path | None, as_json: bool) -> None:
    """Copy the shipped dataset.toml of the public dataset NAME into DIR, the folder of its files.

    Without DIR, it says where to get the files, and what to know about them; without NAME, it lists
    the datasets.
    """
    from hydrakit.data.declared.schema import FILE
    from hydrakit.data.declared.sets import add_set, contents_of, public_set, public_sets

    if out is not None and folder is None:
        raise click.UsageError("--out needs NAME and DIR, the folder of the files")
    if name is None:
        if as_json:
            say_json(json.dumps([_public(one) for one in public_sets().values()], indent=2))
            return
        width = max(map(len, public_sets()))
        for one in public_sets().values():
            say(f"{one.name:{width}}  {one.declaration.summary}; cases: {one.cases:,}")
        return
    one = public_set(name)
    if folder is None:
        if as_json:
            say_json(json.dumps(_public(one), indent=2))
            return
        for key, value in _public(one).items():
            say(f"{key.replace('_', ' ') + ':':14}{_listed(value)}")
        return
    root = add_set(one, folder, out)
    place = out or folder
    contents = contents_of(one, place, place / root)
    command = _check_command(name, place)
    if as_json:
        written = {"written": str(place / FILE), "root": root, "check": command}
        should = {"classes": one.classes, "splits": one.splits, "unlabelled": one.unlabelled}
        say_json(json.dumps({**written, **asdict(contents), "expected": should}, indent=2))
        return
    say(f"written: {place / FILE}")
    if root != ".":
        say(f"files in: {root}")
    for line in _content_lines(one, contents):
        say(line)
    say(f"patients: {one.patients}")
    say(f"pitfalls: {one.pitfalls}")
    say(f"next: {command}")


def _public(one: PublicSet) -> dict[str, Any]:
    declared = one.declaration
    return {
        "name": one.name,
        "summary": declared.summary,
        "task": declared.task,
        "classes": list(declared.classes),
        "cases": one.cases,
        "patients": one.patients,
        "pitfalls": one.pitfalls,
        "page": one.page,
        "how_to_get": declared.how_to_get,
        "citation": declared.citation,
        "licence": declared.licence,
    }


def _listed(value: Any) -> Any:
    return ", ".join(value) if isinstance(value, list) else value


def _content_lines(one: PublicSet, contents: Contents) -> Iterator[str]:
    """What a folder has of a public dataset, and what it should have."""
    differs = False
    for what, have, should in (
        ("classes", contents.classes, one.classes),
        ("splits", contents.splits, one.splits),
        ("without a label", {"": contents.unlabelled}, {"": one.unlabelled}),
    ):
        differs = differs or any(have.get(each, 0) != number for each, number in should.items())
        names = [each for each in should if have.get(each) or should[each]]
        counts = [f"{each} {have.get(each, 0):,} of {should[each]:,}".strip() for each in names]
        if counts and not contents.fault:
            yield f"{what}: {', '.join(counts)}"
    if contents.fault:
        yield f"cases: {contents.fault}"
    for name in contents.missing:
        yield f"missing: {name}"
    if contents.missing or contents.fault:
        yield f"get them: {one.declaration.how_to_get}"
    elif differs:
        yield f"the numbers differ: files are missing, or it is another version: {one.page}"


@datasets.command()
@click.argument("name", shell_complete=names_of("dataset"))
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
