"""The command ``hydrakit completion``, and what shells complete names of components with.

While a shell completes, no plugin is imported, save once after an installation: their names are
remembered (`hydrakit.plugins.remembered`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import click

from hydrakit.cli.printing import say_lines

Complete = Callable[[click.Context, click.Parameter, str], list[str]]

ANY = ("dataset", "head", "body", "strategy", "launcher", "tracker", "plugin")


@click.command(short_help="Print the script with which a shell completes commands and names.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script with which SHELL completes commands, options, paths and names at the Tab key.

    Names are those of datasets, strategies, heads and the like; datasets of the data folder too.

    Install it once, then open a new shell:

    \b
    bash  hydrakit completion bash > ~/.hydrakit-completion
          echo '. ~/.hydrakit-completion' >> ~/.bashrc
    zsh   hydrakit completion zsh > ~/.hydrakit-completion
          echo '. ~/.hydrakit-completion' >> ~/.zshrc      (after compinit)
    fish  hydrakit completion fish > ~/.config/fish/completions/hydrakit.fish
    """  # noqa: D301 - click reads the backspace and does not join the lines below it
    from click.shell_completion import get_completion_class

    program = click.get_current_context().find_root().command
    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    script = kind(program, {}, "hydrakit", "_HYDRAKIT_COMPLETE").source()
    # In fish, click 8.4 cuts off what follows the first comma of a value.
    say_lines(script.replace('string split ","', 'string split --max 1 ","'))


def names_of(*kinds: str, several: bool = False) -> Complete:
    """Return what completes the names of components: an argument ``shell_complete`` of click.

    Args:
        kinds: Kinds of component, or ``plugin``. Datasets are also those of the data folder.
        several: Whether the value is a list such as ``a,b``.
    """

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        from hydrakit.plugins.remembered import remembered_names

        before, comma, begin = incomplete.rpartition(",") if several else ("", "", incomplete)
        remembered = remembered_names()
        names = {name for kind in kinds for name in remembered.get(kind, ())}
        if "dataset" in kinds:
            names.update(_declared(ctx))
        return [f"{before}{comma}{name}" for name in sorted(names) if name.startswith(begin)]

    return complete


def public_sets(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of public datasets with a shipped dataset.toml."""
    folder = Path(__file__).parent.parent / "data" / "declared" / "sets"
    names = sorted(path.stem for path in folder.glob("*.toml") if path.stem != "catalogue")
    return [name for name in names if name.startswith(incomplete)]


def _declared(ctx: click.Context) -> list[str]:
    """Names of the datasets with a ``dataset.toml`` in the data folder, and those of ``--root``."""
    from hydrakit.storage.paths import default_data

    try:
        folders = list((ctx.params.get("data") or default_data()).iterdir())
    except OSError:  # there is none
        folders = []
    declared = [folder.name for folder in folders if (folder / "dataset.toml").is_file()]
    return [*declared, *(ctx.params.get("roots") or ())]


def cached_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[str]:
    """Complete the names of datasets with prepared data in the user's cache."""
    from hydrakit.errors import PlanError
    from hydrakit.storage.paths import user_cache

    try:
        folders = [path.name for path in user_cache().iterdir() if path.is_dir()]
    except (OSError, PlanError):  # there is none
        return []
    names = {re.sub("-[0-9a-f]{16}$", "", folder) for folder in folders}
    return sorted(name for name in names - {*folders} if name.startswith(incomplete))
