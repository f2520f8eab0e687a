"""The commands ``hydrakit cache list`` and ``clean``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hydrakit.cli import params
from hydrakit.cli.completion import cached_names
from hydrakit.cli.printing import say, say_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrakit.maintenance.cache import CacheItem
    from hydrakit.runs.context import RunContext


@click.group(short_help="List or remove prepared data and other files of the cache.")
def cache() -> None:
    """List or remove what the cache holds: prepared images, headers, found copies, and logs.

    All of it is made again where it is needed; only preparing large data again takes time.
    """


@cache.command("list")
@params.cache_options
@params.as_json
def list_cache(context: RunContext, as_json: bool) -> None:
    """List what the cache holds: of which dataset, its size, last use, and the images' folder."""
    from hydrakit.maintenance.cache import list_cache as contents_of
    from hydrakit.storage.files import size_text
    from hydrakit.storage.paths import cache_folder

    contents = contents_of(context.cache or cache_folder())
    if as_json:
        say_json(contents.model_dump_json(indent=2))
        return
    if contents.items:
        _print_items(contents.items)
    others = f"; {contents.others} other files or folders are not hydrakit's"
    say(
        f"{contents.folder}: {size_text(contents.size)} in {len(contents.items)} items"
        f"{others if contents.others else ''}"
    )
    gone = [item for item in contents.items if item.source_exists is False]
    if gone:
        say(
            f"{size_text(sum(item.size for item in gone))} are of images that are gone: "
            "`hydrakit cache clean` removes them"
        )


@cache.command()
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=cached_names)
@click.option(
    "--older-than",
    type=params.FloatOption(min=0),
    metavar="DAYS",
    help="Remove only what was last used more than so many days ago.",
)
@click.option("--all", "everything", is_flag=True, help="Remove everything.")
@click.option("--yes", is_flag=True, help="Remove without asking for confirmation.")
@params.cache_options
def clean(
    names: tuple[str, ...],
    older_than: float | None,
    everything: bool,
    yes: bool,
    context: RunContext,
) -> None:
    """Remove files from the cache: by default those of images whose folder does not exist any more.

    NAME removes what belongs to that dataset. What a process uses is not removed, and no file that
    is not hydrakit's.
    """
    from hydrakit.maintenance.cache import clean_cache
    from hydrakit.storage.files import size_text
    from hydrakit.storage.paths import cache_folder

    if everything and (names or older_than is not None):
        raise click.UsageError("--all removes everything: leave out NAME and --older-than")

    def confirm(items: Sequence[CacheItem]) -> bool:
        _print_items(items)
        size = size_text(sum(item.size for item in items))
        return yes or click.confirm(f"Remove {len(items)} items, {size}?")

    folder: Path = context.cache or cache_folder()
    removal = clean_cache(folder, names, days=older_than, everything=everything, confirm=confirm)
    for item in removal.in_use:
        say(f"Note: {folder / item.path}: is used by a process, and stays", err=True)
    if removal.removed:
        say(f"{size_text(sum(item.size for item in removal.removed))} removed from {folder}")
    else:
        say("nothing was removed")


def _print_items(items: Sequence[CacheItem]) -> None:
    """Print the items by dataset and kind; small items of one kind share a row."""
    from hydrakit.cli.printing import print_table
    from hydrakit.storage.files import size_text

    groups: dict[tuple[str, str, str], list[CacheItem]] = {}
    for item in items:
        source = item.source or ("unknown" if item.kind == "prepared data" else "")
        if item.source_exists is False:
            source += " (gone)"
        groups.setdefault((item.dataset or "", item.kind, source), []).append(item)
    rows = [
        (
            dataset,
            kind,
            len(group),
            size_text(sum(item.size for item in group)),
            max(item.last_used for item in group).date(),
            source,
        )
        for (dataset, kind, source), group in sorted(groups.items())
    ]
    print_table(["dataset", "kind", "#items", "#size", "last use", "folder of images"], rows)
