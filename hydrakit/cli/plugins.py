"""``hydrakit plugins``."""

from __future__ import annotations

import json

import click

from hydrakit.cli import params


@click.group(short_help="What is installed: datasets, heads, strategies.")
def plugins() -> None:
    """What is installed: datasets, heads, strategies."""


@plugins.command("list")
@params.as_json
def list_plugins(as_json: bool) -> None:
    """List the plugins, what each offers, and those that are broken with their reason."""
    from hydrakit.plugins.registry import load_plugins

    found = load_plugins()
    if as_json:
        click.echo(json.dumps(found.records(), indent=2))
        return
    for plugin in found.found:
        click.echo(f"{plugin.name}  ({plugin.distribution} {plugin.version})")
        for kind in ("datasets", "heads", "strategies", "commands"):
            names = getattr(plugin, kind)
            if names:
                click.echo(f"  {kind + ':':12}{', '.join(names)}")
        for clash in plugin.clashes:
            click.echo(f"  CLASH: {clash}")
        if plugin.error:
            click.echo(f"  BROKEN: {plugin.error}")
