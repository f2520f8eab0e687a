"""``hydrakit plugins``."""

from __future__ import annotations

import json
from typing import Any

import click

from hydrakit.cli import params


@click.group(short_help="What is installed: datasets, heads, bodies, strategies, and more.")
def plugins() -> None:
    """What is installed: datasets, heads, bodies, strategies, launchers, trackers, commands."""


@plugins.command("list")
@params.as_json
def list_plugins(as_json: bool) -> None:
    """List the plugins, what each offers, and those that are broken or disabled."""
    from hydrakit.plugins.registry import KINDS, load_plugins

    records = load_plugins(params.disabled_plugins()).records
    if as_json:
        click.echo(json.dumps([plugin.to_json() for plugin in records], indent=2))
        return
    for plugin in records:
        click.echo(f"{plugin.name}  ({plugin.distribution} {plugin.version})")
        for kind in KINDS:
            names = plugin.offers.get(kind.name)
            if names:
                click.echo(f"  {kind.plural + ':':12}{', '.join(names)}")
        for clash in plugin.clashes:
            click.echo(f"  CLASH: {clash}")
        if plugin.disabled:
            click.echo("  disabled")
        if plugin.error:
            click.echo(f"  BROKEN: {plugin.error}")


@plugins.command()
@click.argument("name")
@params.as_json
def info(name: str, as_json: bool) -> None:
    """Show the components called NAME: their kind, what they are, and their options."""
    from hydrakit.errors import PluginError, unknown
    from hydrakit.hooks import NamedComponent
    from hydrakit.plugins.registry import load_plugins

    installed = load_plugins(params.disabled_plugins())
    components = {
        kind: {each: one for each, one in named.items() if isinstance(one, NamedComponent)}
        for kind, named in installed.components.items()
    }
    described = [
        _describe(kind, named[name]) for kind, named in components.items() if name in named
    ]
    if not described:
        known = {each for named in components.values() for each in named}
        raise PluginError(unknown("component", name, known))
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    for each in described:
        click.echo(f"{each['kind']} {name}: {each['summary']}")
        for option in each["options"]:
            click.echo(f"  {option['name']}={option['default']}  ({option['expected']})")
            if option["help"]:
                click.echo(f"      {option['help']}")


def _describe(kind: str, component: Any) -> dict[str, Any]:
    from hydrakit.hooks import NoOptions
    from hydrakit.plugins.options import option_fields, option_text

    return {
        "kind": kind,
        "name": component.name,
        "summary": component.summary,
        "options": [
            {
                "name": option.name,
                "default": option_text(option.default),
                "expected": option.expected,
                "help": option.help,
            }
            for option in option_fields(getattr(component, "options", NoOptions))
        ],
    }
