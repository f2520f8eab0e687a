"""``hydrakit datasets get``."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hydrakit.cli import params, plan_options
from hydrakit.cli.completion import names_of
from hydrakit.cli.printing import say, say_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from hydrakit.data.fetch.idc import Collection
    from hydrakit.hooks import DatasetAdapter
    from hydrakit.runs.context import RunContext
    from hydrakit.sources import IndexedSeries, KaggleDataset

Record = dict[str, Any]


@click.command(
    cls=plan_options.PlanCommand, short_help="Fetch the public images that a dataset needs."
)
@click.argument("name", shell_complete=names_of("dataset"))
@params.places
@plan_options.plan_options("options")
@click.option(
    "--out",
    type=params.FOLDER,
    metavar="DIR",
    help="Folder of the dataset.  [default: its folder as --data and --root say]",
)
@click.option(
    "--only",
    type=click.Choice(["needed", "all"]),
    default="needed",
    show_default=True,
    help="Fetch what the dataset's adapter can read, or the whole collection.",
)
@click.option(
    "--modality",
    "modalities",
    multiple=True,
    metavar="NAME",
    help="Fetch only series of this modality, such as CT; may be given several times.",
)
@click.option(
    "--series-description",
    "description",
    metavar="REGEX",
    help="Fetch only series whose description this regular expression matches.",
)
@click.option(
    "--manifest",
    type=params.FOLDER,
    metavar="FILE",
    help="Fetch nothing: write a list for s5cmd to this file, for a machine with a network.",
)
@click.option("--yes", is_flag=True, help="Fetch without asking for confirmation.")
@params.as_json
def get(
    name: str,
    *,
    context: RunContext,
    options: dict[str, dict[str, Any]],
    out: Path | None,
    only: str,
    modalities: tuple[str, ...],
    description: str | None,
    manifest: Path | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Fetch the public images of dataset NAME, or of a collection of the Imaging Data Commons.

    Prints how much is needed, how much the whole collection is, and its licence, and asks before
    it fetches anything. Files that are there already are not fetched again: the same command goes
    on after an interruption. Needs the extra `hydrakit-imaging[get]`.
    """
    from hydrakit.errors import PlanError, command_line
    from hydrakit.hooks import DatasetAdapter
    from hydrakit.plugins.options import parse_options
    from hydrakit.sources import KaggleDataset, PublicCollection

    for other in options:
        if other != name:
            raise click.UsageError(f"{other!r} is not the dataset to fetch, {name!r}")
    adapter = context.plugins().all(DatasetAdapter).get(name)
    if adapter is not None and adapter.source is None:
        raise PlanError(f"{name}: its plugin does not say from where: {adapter.how_to_get}")
    from hydrakit.data.declared.sets import public_sets

    if adapter is None and name in public_sets():
        add = command_line("hydrakit", "datasets", "add", name)
        raise PlanError(
            f"{name} cannot be fetched: `{add}` says where it is, and `{add} DIR` declares what "
            "was downloaded"
        )
    if adapter is None and options:
        raise PlanError(f"{name} is no dataset with options: leave out `--option`")
    folder = context.root_of(name) if out is None else out.resolve()
    command = _Get(name, adapter, folder, yes=yes, as_json=as_json)
    if adapter is not None and isinstance(adapter.source, KaggleDataset):
        if manifest or modalities or description or only != "needed":
            raise PlanError(
                f"{name} comes from Kaggle: leave out `--only`, `--modality`, "
                "`--series-description` and `--manifest`"
            )
        command.from_kaggle(adapter.source)
        return
    from hydrakit.data.fetch.idc import choose, read_collection
    from hydrakit.plugins.guard import needed_series

    if adapter is None:
        whole = read_collection(name)
        needed: Sequence[IndexedSeries] = whole.series
    else:
        assert isinstance(adapter.source, PublicCollection)
        parsed = parse_options(adapter, options.get(name, {}))
        whole = read_collection(adapter.source.id)
        needed = whole.series if only == "all" else needed_series(adapter, whole.series, parsed)
    chosen = choose(needed, modalities=modalities, description=description)
    command.from_collection(whole, chosen, manifest)


class _Get:
    """One call of the command.

    Args:
        name: Name of the dataset or collection.
        adapter: Adapter of the dataset; None for a collection without one.
        folder: Folder of the dataset.
        yes: Whether not to ask.
        as_json: Whether to print JSON in place of lines.
    """

    def __init__(
        self, name: str, adapter: DatasetAdapter | None, folder: Path, *, yes: bool, as_json: bool
    ) -> None:
        self.name, self.adapter, self.folder = name, adapter, folder
        self.yes, self.as_json = yes, as_json
        self.record: Record = {"name": name, "folder": str(folder)}

    def from_collection(
        self, whole: Collection, chosen: Sequence[IndexedSeries], manifest: Path | None
    ) -> None:
        """Fetch series of a collection, or write a manifest of those that are missing."""
        from hydrakit.data.fetch import store

        publications = whole.publications(chosen)
        self.record |= {
            "collection": whole.id,
            "index": whole.version,
            "needed": _counts(chosen),
            "whole": _counts(whole.series),
            "publications": [vars(each) for each in publications],
        }
        for key, series in (("needed", chosen), ("whole", whole.series)):
            counts = _counts(series)
            self.say(
                f"{key}:",
                f"{_size(counts['bytes'])} in {counts['series']:,} series of "
                f"{counts['patients']:,} patients ({counts['files']:,} files)",
            )
        self.say("from:", f"Imaging Data Commons, collection {whole.id}, index {whole.version}")
        for each in publications:
            self.say("licence:", f"{each.licence} (https://doi.org/{each.doi})")
            self.say("cite:", each.citation)
        missing = store.missing_series(chosen, self.folder)
        self.say_folder(sum(each.size for each in missing))
        if manifest is not None:
            self.write_manifest(missing, manifest)
            return
        if missing:
            self.confirm(sum(each.size for each in missing))
            with _progress(sum(each.size for each in missing), self.as_json) as progress:
                store.download(missing, self.folder, progress)
            missing = store.missing_series(chosen, self.folder)
        self.finish(complete=not missing)

    def write_manifest(self, missing: Sequence[IndexedSeries], file: Path) -> None:
        """Write a manifest of the missing series, and say how to use it."""
        from hydrakit.data.fetch import store
        from hydrakit.storage.files import write_atomic

        file = file.resolve()
        use = store.manifest_command(file)
        write_atomic(file, store.manifest(missing, use).encode())
        self.record |= {"manifest": str(file), "command": use}
        self.say("written:", f"{file}, {len(missing):,} series")
        self.say("use:", f"{use} (in {self.folder}, on a machine with a network)")
        self.finish(complete=not missing)

    def from_kaggle(self, dataset: KaggleDataset) -> None:
        """Fetch an archive of Kaggle."""
        from hydrakit.data.fetch import kaggle

        assert self.adapter is not None
        missing = kaggle.missing_folders(dataset, self.folder)
        folders = ", ".join(f"{name}/" for name in dataset.folders)
        self.record |= {"kaggle": dataset.handle, "needed": {"bytes": dataset.size}}
        self.say("needed:", f"{_size(dataset.size)} ({folders}) of the archive")
        self.say("from:", kaggle.page(dataset))
        self.say("licence:", self.adapter.licence)
        self.say("cite:", self.adapter.citation)
        self.say_folder(dataset.size if missing else 0)
        if missing:
            self.confirm(dataset.size)
            kaggle.download(dataset, self.folder)
        self.finish(complete=True)

    def say(self, key: str, text: str) -> None:
        """Print a line with a key, unless JSON is asked for."""
        if not self.as_json:
            say(f"{key:9} {text}")

    def say_folder(self, size: int) -> None:
        """Print the folder, and how much is missing there."""
        free = _free(self.folder)
        self.record |= {"missing_bytes": size, "free_bytes": free}
        self.say("to:", f"{self.folder} ({_size(free)} free)")
        self.say("missing:", f"{_size(size)} are still to be fetched" if size else "nothing")

    def confirm(self, size: int) -> None:
        """Ask whether to fetch.

        Raises:
            DataError: There is no room, or nobody to ask.
        """
        from hydrakit.errors import DataError

        if size > _free(self.folder):
            raise DataError(
                f"{self.folder}: {_size(size)} are needed, and {_size(_free(self.folder))} are "
                "free: make room, or choose another folder with `--out`"
            )
        if self.yes:
            return
        if self.as_json or not _has_terminal():
            if self.as_json:
                say_json(json.dumps(self.record, indent=2))
            raise DataError("nothing was fetched: there is no terminal to ask: give `--yes`")
        if not click.confirm(f"Fetch {_size(size)}?"):
            say("nothing was fetched")
            raise click.exceptions.Exit(1)

    def finish(self, *, complete: bool) -> None:
        """Print what is still missing, and the next command."""
        from hydrakit.data.fetch.by_hand import missing_files
        from hydrakit.errors import command_line

        by_hand = missing_files(self.adapter.by_hand if self.adapter else (), self.folder)
        check = ["hydrakit", "datasets", "check", self.name]
        if self.folder.name == self.name:
            check += ["--data", str(self.folder.parent)]
        else:
            check += ["--root", f"{self.name}={self.folder}"]
        if self.adapter is None:
            check = ["hydrakit", "datasets", "new", str(self.folder)]
        self.record |= {
            "complete": complete,
            "by_hand": [{"name": each.name, "page": each.page} for each in by_hand],
        }
        if self.as_json:
            say_json(json.dumps(self.record, indent=2))
            return
        if complete:
            self.say("images:", f"all that are needed are in {self.folder}")
        if by_hand:
            self.say("by hand:", f"put these files, which cannot be fetched, below {self.folder}:")
            for each in by_hand:
                say(f"          {each.name}: {each.page}")
        if complete:
            self.say("next:", command_line(*check))


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def _counts(series: Sequence[IndexedSeries]) -> dict[str, int]:
    return {
        "series": len(series),
        "patients": len({each.patient for each in series}),
        "files": sum(each.images for each in series),
        "bytes": sum(each.size for each in series),
    }


def _size(count: int) -> str:
    """A number of bytes as text."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e8 else f"{count / 1e6:,.1f} MB"


def _free(folder: Path) -> int:
    """Free bytes of the disk that a folder is on, or will be."""
    while not folder.exists() and folder.parent != folder:
        folder = folder.parent
    return shutil.disk_usage(folder).free


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Show how many bytes are there: a bar on a terminal, a line from time to time elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        columns = [BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()]
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("", total=total)
            yield partial(progress.advance, task)
        return
    from hydrakit.cli.progress import PreparingProgress

    lines, done = PreparingProgress(), 0

    def advance(size: int) -> None:
        nonlocal done
        done += size
        if not quiet:
            lines.print_sometimes(f"fetched {_size(done)} of {_size(total)}")

    yield advance
