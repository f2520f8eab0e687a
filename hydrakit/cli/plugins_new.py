"""The command ``hydrakit plugins new``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hydrakit.cli import params
from hydrakit.cli.printing import say

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

Command = TypeVar("Command", bound="Callable[..., Any]")

# Not from `hydrakit.plugins.registry`, which `hydrakit --help` needs not import for it; a test
# compares them.
FLAGS = {
    "dataset": "A dataset: images that a table lists.",
    "head": "A head: layer normalisation and dense layers.",
    "body": "A body: a small convolutional network.",
    "strategy": "A strategy: each dataset in turn, then the target's head.",
    "launcher": "A launcher: processes of this machine.",
    "tracker": "A tracker: a CSV file with the metrics of every epoch.",
    "command": "A command: a table of images that lie in folders.",
}


def _kinds(command: Command) -> Command:
    for name, text in reversed(FLAGS.items()):
        command = click.option(f"--{name}", is_flag=True, help=text)(command)
    return command


@click.command(short_help="Write a new plugin that works as it is, to be changed.")
@click.argument("name")
@_kinds
@click.argument("folder", metavar="[DIR]", type=params.FOLDER, required=False)
@click.option(
    "--licence",
    type=click.Choice(["MIT", "Apache-2.0", "BSD-3-Clause", "none"]),
    default="none",
    show_default=True,
    help="Licence of the plugin, whose text is written to LICENSE.",
)
@click.option("--author", metavar="NAME", help="Author, whom the licence names.")
def new(name: str, folder: Path | None, licence: str, author: str | None, **flags: bool) -> None:
    """Write a new plugin into DIR, a new or empty folder: a distribution called NAME.

    Without DIR, the folder has the name of the distribution: ./NAME.

    It has a component of each kind that is chosen, all called NAME without `hydrakit-`. All of them
    work as they are, and so do their tests; comments say what to change.

    \b
    hydrakit plugins new hydrakit-skin --dataset --head
    """  # noqa: D301 - click reads the backspace and does not join the lines below it
    from hydrakit.errors import command_line
    from hydrakit.plugins.registry import KINDS, load_plugins
    from hydrakit.scaffold.new import NewPlugin, write_plugin

    plugin = NewPlugin(
        name=name,
        kinds=tuple(kind for kind in KINDS if flags[kind.name]),
        licence=None if licence == "none" else licence,
        author=author,
    )
    plugin.refuse_clashes(load_plugins(params.disabled_plugins()))
    folder = Path(name) if folder is None else folder
    write_plugin(plugin, folder)
    shown = f"./{folder}" if str(folder).startswith("-") else str(folder)  # no option
    say(f"{shown}: {name} with {plugin.what} {plugin.component!r}; next:")
    say(f"  {command_line('pip', 'install', '-e', f'{shown}[test]')}")
    say(f"  {command_line('pytest', shown)}")
    say(f"  {command_line('hydrakit', 'plugins', 'check', name)}")
    say(f"  {command_line('grep', '-rn', 'change this', shown)}")
