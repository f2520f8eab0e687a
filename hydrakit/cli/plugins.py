"""The commands ``hydrakit plugins list`` and ``info``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params, plugins_check, plugins_new
from hydrakit.cli.completion import ANY, names_of
from hydrakit.cli.printing import say, say_json
from hydrakit.errors import one_line

if TYPE_CHECKING:
    from hydrakit.plugins.registry import PluginRecord, Plugins


@click.group(short_help="List, describe, check and write plugins.")
def plugins() -> None:
    """List, describe, check and write plugins: datasets, heads, bodies, strategies and more."""


plugins.add_command(plugins_new.new)
plugins.add_command(plugins_check.check)


@plugins.command("list")
@params.as_json
@click.pass_context
def list_plugins(ctx: click.Context, as_json: bool) -> None:
    """List installed plugins and the components of each, also broken and disabled plugins.

    The time is that of the plugin's import and its hooks, which every command waits for. A package
    that several plugins import counts for the first of them.

    The exit status is 1 if a plugin is broken, or if two offer the same component.
    """
    from hydrakit.plugins.registry import load_plugins

    installed = load_plugins(params.disabled_plugins())
    records = installed.records
    if as_json:
        say_json(json.dumps([plugin.to_json() for plugin in records], indent=2))
    else:
        for plugin in records:
            _say_plugin(plugin, installed)
    if any(plugin.error or plugin.clashes for plugin in records):
        ctx.exit(1)


def _say_plugin(plugin: PluginRecord, installed: Plugins) -> None:
    """Print a plugin, and below it its components or what is wrong with it."""
    from hydrakit.hooks import SequenceStrategy
    from hydrakit.plugins.registry import KINDS

    time = "" if plugin.import_ms is None else f"  {plugin.import_ms:.0f} ms"
    say(f"{plugin.name}  ({plugin.distribution} {plugin.version}){time}")
    for kind in KINDS:
        names = plugin.offers.get(kind.name)
        if names and kind.type is SequenceStrategy:
            strategies = installed.all(SequenceStrategy)
            baselines = {name for name, each in strategies.items() if each.baseline}
            names = tuple(f"{name} (baseline)" if name in baselines else name for name in names)
        if names:
            say(f"  {kind.plural + ':':12}{', '.join(names)}")
    for line in _faults(plugin):
        say(f"  {line}")


def _faults(plugin: PluginRecord) -> Iterator[str]:
    """What is wrong with a plugin, one line each."""
    for clash in plugin.clashes:
        yield f"CLASH: {clash}"
    if plugin.disabled:
        yield "disabled"
    if plugin.error:
        yield f"BROKEN: {plugin.error}"


@plugins.command()
@click.argument("name", shell_complete=names_of(*ANY))
@params.as_json
def info(name: str, as_json: bool) -> None:
    """Describe NAME: a component, with its options; or a plugin or a distribution.

    NAME is a name that `hydrakit plugins list` prints. If a component and a plugin have it, both
    are described.
    """
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
    records = [plugin for plugin in installed.records if name in plugin.names]
    if not descriptions and not records:
        known = {each for by_name in components.values() for each in by_name}
        known |= {each for plugin in installed.records for each in plugin.names}
        raise PluginError(unknown("component or plugin", name, known))
    described = [_describe_plugin(plugin, installed) for plugin in records]
    if as_json:
        say_json(json.dumps([*descriptions, *described], indent=2))
        return
    for each in descriptions:
        say(f"{each['kind']} {name}: {each['summary']}")
        for option in each["options"]:
            say(f"  {option['name']}={option['default']}  ({option['expected']})")
            if option["help"]:
                say(f"      {option['help']}")
    distribution = None
    for plugin, each in zip(records, described, strict=True):
        if plugin.source.release != distribution:
            distribution = plugin.source.release
            about = f": {each['summary']}" if each["summary"] else ""
            say(one_line(f"distribution {distribution}{about}"))
            if each["homepage"]:
                say(f"  {one_line(each['homepage'])}")
        _say_description(plugin, each["components"])


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


def _describe_plugin(plugin: PluginRecord, installed: Plugins) -> dict[str, Any]:
    """A plugin as a JSON-ready record, with what its distribution and its components say."""
    record = plugin.to_json() | {"kind": "plugin", **_about(plugin.distribution)}
    record["components"] = [
        {"kind": kind, "name": name, "summary": _summary(installed.components[kind].get(name))}
        for kind, names in plugin.offers.items()
        for name in names
    ]
    return record


def _summary(component: Any) -> str | None:
    """The summary line of a component; None for one that cannot be used."""
    if isinstance(component, click.Command):
        return component.get_short_help_str(80)
    return getattr(component, "summary", None)


def _about(distribution: str) -> dict[str, str | None]:
    """Summary and home page in the metadata of a distribution; None for what is not there."""
    from importlib import metadata

    values: dict[str, Any] = {}
    with suppress(metadata.PackageNotFoundError):  # its metadata is broken
        values = dict(metadata.metadata(distribution).json)
    urls = dict(each.split(", ", 1) for each in values.get("project_url", ()) if ", " in each)
    pages = {label.lower(): url for label, url in urls.items()}
    homepage = values.get("home_page") or pages.get("homepage") or next(iter(urls.values()), None)
    return {"summary": values.get("summary"), "homepage": homepage}


def _say_description(plugin: PluginRecord, components: list[dict[str, Any]]) -> None:
    """Print a plugin, with its components as `_describe_plugin` lists them."""
    time = "" if plugin.import_ms is None else f", imported in {plugin.import_ms:.0f} ms"
    say(f"  plugin {plugin.name}: module {plugin.module}{time}")
    for each in components:
        summary = f": {each['summary']}" if each["summary"] else ""
        say(f"    {each['kind']} {each['name']}{summary}")
    for line in _faults(plugin):
        say(f"    {line}")
