"""The command ``hydrakit plugins check``."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say, say_json

if TYPE_CHECKING:
    from hydrakit.testing.plugin import PluginChecks
    from hydrakit.testing.properties import CheckedProperty

WIDTH = 100
INDENT = " " * 12


@click.command()
@click.argument("name", metavar="[NAME|PATH]", required=False, shell_complete=names_of("plugin"))
@click.option(
    "--data",
    type=params.FOLDER,
    metavar="ROOT",
    help="Folder that holds one folder per dataset; without it, what needs data is skipped.",
)
@params.as_json
@click.pass_context
def check(ctx: click.Context, name: str | None, data: Path | None, as_json: bool) -> None:
    """Check that a plugin has the properties that hydrakit relies on.

    NAME is the entry point or the distribution of an installed plugin. PATH is a folder with a
    pyproject.toml, or a module file, that need not be installed. Without either, all plugins that
    are not hydrakit's own are checked.

    The code of the plugin is run. The exit status is 1 if a property is missing.
    """
    from hydrakit.testing.plugin import plugin_checks

    disabled = sorted(params.disabled_plugins() or ())
    results = []
    for checks in plugin_checks(name, data, disabled):
        if not as_json:
            say(f"{checks.record.name}  ({checks.record.distribution} {checks.record.version})")
        results.append((checks, _run(checks, printing=not as_json)))
    checked = [each for _, properties in results for each in properties]
    if as_json:
        say_json(json.dumps([_as_json(*each) for each in results], indent=2))
    else:
        passed, failed, skipped = _counts(checked)
        say(f"{passed} passed, {failed} failed, {skipped} skipped")
    if any(each.fault for each in checked):
        ctx.exit(1)


def _run(checks: PluginChecks, *, printing: bool) -> list[CheckedProperty]:
    results: list[CheckedProperty] = []
    for each in checks:
        if printing:
            before = results[-1] if results else None
            if before is None or before.of != each.of:
                say(f"  {each.of}")
            _print(each, again=before is not None and before.skipped and before.note == each.note)
        results.append(each)
    return results


def _print(each: CheckedProperty, *, again: bool) -> None:
    """Print a result; a reason that is that of the line before is not printed again."""
    word = "FAILED" if each.fault else "skipped" if each.skipped else "passed"
    text = "" if again else each.fault or each.note
    lines = textwrap.wrap(
        f"    {word:8}{each.name}{f': {text}' if text else ''}",
        WIDTH,
        subsequent_indent=INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in lines:
        say(line)


def _counts(properties: list[CheckedProperty]) -> tuple[int, int, int]:
    """Numbers of properties that passed, failed and were skipped."""
    failed = sum(each.fault is not None for each in properties)
    skipped = sum(each.skipped for each in properties)
    return len(properties) - failed - skipped, failed, skipped


def _as_json(checks: PluginChecks, properties: list[CheckedProperty]) -> dict[str, Any]:
    passed, failed, skipped = _counts(properties)
    return {
        "name": checks.record.name,
        "module": checks.record.module,
        "distribution": checks.record.distribution,
        "version": checks.record.version,
        "passed": passed,
        "failed": failed,
        "skipped": skipped,
        "properties": [
            {
                "of": each.of,
                "name": each.name,
                "state": "failed" if each.fault else "skipped" if each.skipped else "passed",
                "text": each.fault or each.note,
            }
            for each in properties
        ],
    }
