"""``hydrakit datasets``."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params

if TYPE_CHECKING:
    from hydrakit.hooks import DatasetAdapter, Sample, Unusable

KEYS_SHOWN = 5


@click.group()
def datasets() -> None:
    """What datasets there are, what they need, and whether your files are in order."""


@datasets.command("list")
@params.as_json
def list_datasets(as_json: bool) -> None:
    """List the datasets that the installed plugins can read."""
    from hydrakit.plugins import load_plugins

    adapters = load_plugins().datasets
    if as_json:
        click.echo(json.dumps([_describe(adapters[name]) for name in sorted(adapters)], indent=2))
        return
    width = max(map(len, adapters), default=0)
    for name in sorted(adapters):
        click.echo(f"{name:{width}}  {adapters[name].summary}")


@datasets.command()
@click.argument("name")
@params.as_json
def info(name: str, as_json: bool) -> None:
    """Tell what dataset NAME is, which files it needs, how to get them, and its options."""
    from hydrakit.plugins import load_plugins

    adapter = load_plugins().dataset(name)
    described = _describe(adapter)
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    options = described.pop("options")
    for key, value in described.items():
        shown = ", ".join(value) if isinstance(value, list) else value
        click.echo(f"{key.replace('_', ' ') + ':':15}{shown}")
    click.echo("options:" if options else "options:       none")
    for option in options:
        choices = f" ({', '.join(map(str, option['choices']))})" if option["choices"] else ""
        click.echo(f"  --option {name}.{option['name']}={option['default']}{choices}")
        click.echo(f"      {option['help']}")


def _describe(adapter: DatasetAdapter) -> dict[str, Any]:
    view = adapter.field_of_view
    return {
        "name": adapter.name,
        "summary": adapter.summary,
        "classes": list(adapter.classes),
        "field_of_view": f"{view.millimetres:g} mm"
        if view.millimetres
        else f"{view.share:g} of the image",
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
            for option in adapter.options
        ],
    }


@datasets.command()
@click.argument("name")
@params.places
@params.adapter_options
@click.option("--cases", "each_case", is_flag=True, help="List every case, with its files.")
@params.as_json
def check(
    name: str,
    *,
    data: Path | None,
    roots: dict[str, Path],
    options: dict[str, dict[str, Any]],
    each_case: bool,
    as_json: bool,
) -> None:
    """Read every case of dataset NAME and tell what can be used, and why the rest cannot."""
    from hydrakit.data.read import read_samples
    from hydrakit.hooks import Unusable
    from hydrakit.places import root_of
    from hydrakit.plugins import load_plugins

    adapter = load_plugins().dataset(name)
    root = root_of(name, data, roots)
    usable: list[dict[str, Any]] = []
    unusable: list[Unusable] = []
    for case in read_samples(adapter, root, options.get(name, {})):
        if isinstance(case, Unusable):
            unusable.append(case)
        else:
            usable.append(_facts(case, adapter, root))
    if as_json:
        reasons = [{"key": case.key, "reason": case.reason} for case in unusable]
        found = {"dataset": name, "root": str(root), "usable": usable, "unusable": reasons}
        click.echo(json.dumps(found, indent=2))
        return
    _print_check(adapter, root, usable, unusable, each_case=each_case)


def _facts(sample: Sample, adapter: DatasetAdapter, root: Path) -> dict[str, Any]:
    return {
        "key": sample.key,
        "class": None if sample.label is None else adapter.classes[sample.label],
        "patient": sample.patient,
        "shape": list(sample.image.shape),
        "centre": sample.centre and [round(at, 1) for at in sample.centre],
        "spacing": sample.spacing,
        "files": [
            str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
            for path in sample.source
        ],
    }


def _print_check(
    adapter: DatasetAdapter,
    root: Path,
    usable: list[dict[str, Any]],
    unusable: list[Unusable],
    *,
    each_case: bool,
) -> None:
    from hydrakit.cli.show import print_table

    rows = []
    for label in [*adapter.classes, None]:
        members = [case for case in usable if case["class"] == label]
        if members or label is not None:
            patients = len({case["patient"] for case in members})
            rows.append([label or "(no label)", len(members), patients])
    rows.append(["all", len(usable), len({case["patient"] for case in usable})])
    print_table(["class", "#cases", "#patients"], rows, title=f"{adapter.name} in {root}")
    if usable:
        shapes = Counter(" x ".join(map(str, case["shape"])) for case in usable)
        shown = ", ".join(f"{shape} ({count})" for shape, count in shapes.most_common(3))
        more = f", and {len(shapes) - 3} other shapes" if len(shapes) > 3 else ""
        click.echo(f"images, channels x height x width: {shown}{more}")
    if each_case:
        for case in usable:
            click.echo(f"{case['key']}: {case['class']}, {', '.join(case['files'])}")
    for reason, count in Counter(case.reason for case in unusable).most_common():
        keys = [case.key for case in unusable if case.reason == reason]
        named = keys if each_case else keys[:KEYS_SHOWN]
        rest = f", and {count - len(named)} more (--cases lists them)" if named != keys else ""
        click.echo(f"unusable, {reason}: {count} ({', '.join(named)}{rest})")
