"""The commands ``hydrakit plugins list`` and ``info``."""

from __future__ import annotations

import json
from typing import Any

import click

from hydrakit.cli import params
from hydrakit.cli.completion import ANY, names_of
from hydrakit.cli.printing import say, say_json


@click.group(short_help="List and describe installed plugins and their components.")
def plugins() -> None:
    """List and describe plugins and their datasets, heads, bodies, strategies and more."""


@plugins.command("list")
@params.as_json
def list_plugins(as_json: bool) -> None:
    """List installed plugins and the components of each, also broken and disabled plugins."""
    from hydrakit.hooks import SequenceStrategy
    from hydrakit.plugins.registry import KINDS, load_plugins

    installed = load_plugins(params.disabled_plugins())
    records = installed.records
    if as_json:
        say_json(json.dumps([plugin.to_json() for plugin in records], indent=2))
        return
    for plugin in records:
        say(f"{plugin.name}  ({plugin.distribution} {plugin.version})")
        for kind in KINDS:
            names = plugin.offers.get(kind.name)
            if names and kind.type is SequenceStrategy:
                strategies = installed.all(SequenceStrategy)
                baselines = {name for name, each in strategies.items() if each.baseline}
                names = tuple(f"{name} (baseline)" if name in baselines else name for name in names)
            if names:
                say(f"  {kind.plural + ':':12}{', '.join(names)}")
        for clash in plugin.clashes:
            say(f"  CLASH: {clash}")
        if plugin.disabled:
            say("  disabled")
        if plugin.error:
            say(f"  BROKEN: {plugin.error}")


@plugins.command()
@click.argument("name", shell_complete=names_of(*ANY))
@params.as_json
def info(name: str, as_json: bool) -> None:
    """Describe the components called NAME: kind, summary and options."""
    from hydrakit.errors import PluginError, unknown
    from hydrakit.hooks import NamedComponent
    from hydrakit.plugins.registry import load_plugins

    installed = load_plugins(params.disabled_plugins())
    components = {
        kind: {key: each for key, each in by_name.items() if isinstance(each, NamedComponent)}
        for kind, by_name in installed.components.items()
    }
    descriptions = [
        _describe(kind, by_name[name]) for kind, by_name in components.items() if name in by_name
    ]
    if not descriptions:
        known = {each for by_name in components.values() for each in by_name}
        raise PluginError(unknown("component", name, known))
    if as_json:
        say_json(json.dumps(descriptions, indent=2))
        return
    for each in descriptions:
        say(f"{each['kind']} {name}: {each['summary']}")
        for option in each["options"]:
            say(f"  {option['name']}={option['default']}  ({option['expected']})")
            if option["help"]:
                say(f"      {option['help']}")


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
