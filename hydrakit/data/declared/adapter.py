"""Adapters of datasets that a ``dataset.toml`` declares (docs/dataset-toml.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hydrakit.data.declared.schema import FILE, SPLIT, Declaration, parse_declaration
from hydrakit.data.safe_paths import quote, resolve_inside
from hydrakit.errors import DataError, command_line
from hydrakit.hooks import DatasetAdapter, NoOptions, Remark, Sample, Unusable
from hydrakit.names import NAME_PATTERN, is_name
from hydrakit.storage.paths import default_data

if TYPE_CHECKING:
    from hydrakit.data.declared.cases import DeclaredCase
    from hydrakit.data.declared.tables import TableFile
    from hydrakit.plugins.registry import Plugins


READER_VERSION = "4"

"""Increase whenever the code of this package reads other samples from the same files."""


def load_declared(folder: Path) -> DatasetAdapter:
    """Return the adapter of the dataset that a folder's ``dataset.toml`` declares.

    The adapter's version is a digest of the declaration and of its table, so that a change of
    either invalidates prepared data.

    Raises:
        DataError: The file is missing or not a valid declaration, or its table is missing; the
            message names the file, the key and the value.
    """
    path = folder / FILE
    declaration, content = parse_declaration(path)
    name = declaration.name or folder.resolve().name
    if not is_name(name):
        raise DataError(
            f"{path}: the folder's name {name!r} is not a valid dataset name ({NAME_PATTERN}, "
            "and no device of Windows, such as con or nul): add "
            "name = ..., and give the folder as --root NAME=FOLDER"
        )
    tables = _tables(declaration, folder)
    contents = [table.content for table in tables] or [b""]
    digest = hashlib.sha256(b"\0".join([content, *contents])).hexdigest()

    def read(root: Path, options: NoOptions) -> Iterator[Sample | Unusable | Remark]:
        return read_declared(declaration, root, tables=tables)

    return DatasetAdapter(
        name=name,
        summary=declaration.summary or f"Declared in a {FILE}",
        classes=declaration.classes,
        task=declaration.task,
        read=read,
        field_of_view=declaration.view,
        flips=declaration.flips,
        version=f"{READER_VERSION}-{digest[:32]}",
        layout=f"{FILE}, and the images that it declares",
        how_to_get=declaration.how_to_get,
        cohort=declaration.cohort,
        exact_names=declaration.exact_names,
        normalise=declaration.rule,
        # Neighbouring slices are a stack, even if they are three, as red, green and blue are.
        channels=declaration.channels or ("stem" if declaration.images.slices > 1 else None),
        elsewhere=_elsewhere(declaration, folder),
        citation=declaration.citation,
        licence=declaration.licence,
        file_rules=declaration.file_rules,
    )


def read_declared(
    declaration: Declaration, folder: Path, *, tables: Sequence[TableFile]
) -> Iterator[Sample | Unusable | Remark]:
    """Yield every case of a declared dataset, and remarks on columns, files and patients.

    An image that cannot be read yields an `Unusable`.

    Args:
        declaration: Declaration of the dataset.
        folder: Folder that holds ``dataset.toml``.
        tables: Tables of cases; none if the cases come from an NPZ file or a pattern.

    Raises:
        DataError: A case is declared wrongly, leads out of the dataset's root, or lacks a required
            pixel spacing.
    """
    from hydrakit.data.declared.images import ImageReader
    from hydrakit.data.declared.listing import list_cases
    from hydrakit.data.declared.read_case import Noticed, read_case
    from hydrakit.data.declared.tables import remarks_on_tables
    from hydrakit.data.volumes.volume import is_tilted

    root = _files_root(declaration, folder)
    listing = list_cases(declaration, root, tables=tables)
    yield from listing.remarks
    source = declaration.cases or f"the pattern {quote(declaration.pattern)}"
    used = {table.path for table in tables}
    yield from remarks_on_tables((folder.resolve(), root), used, source)
    noticed = Noticed()
    with closing(ImageReader(declaration.images)) as reader:
        for case in listing.cases:
            sample = read_case(
                declaration, case, where=folder / FILE, root=root, reader=reader, noticed=noticed
            )
            if isinstance(sample, Sample) and is_tilted(sample.facts):
                noticed.tilted.append(case.key)
            yield sample
    yield from noticed.remarks(declaration)


def list_declared(folder: Path) -> tuple[Declaration, tuple[DeclaredCase, ...]]:
    """Return the declaration in a folder, and its cases, without reading an image.

    Raises:
        DataError: The declaration, its table or a case is invalid.
    """
    from hydrakit.data.declared.listing import list_cases

    declaration, _ = parse_declaration(folder / FILE)
    root, tables = _files_root(declaration, folder), _tables(declaration, folder)
    return declaration, list_cases(declaration, root, tables=tables).cases


def declared_datasets(data: Path | None, roots: Mapping[str, Path]) -> dict[str, DatasetAdapter]:
    """Return the datasets declared directly below the data folder and in the roots, by name.

    Args:
        data: Folder with one folder per dataset; None for `hydrakit.storage.paths.default_data`.
        roots: Folders of datasets in other places, by name; they take precedence over ``data``.

    Raises:
        DataError: A ``dataset.toml`` is invalid, or its name differs from its folder or root.
    """
    folders = _declared_folders(data, roots)
    return {name: _load_named(name, folder) for name, folder in folders.items()}


def with_declared(plugins: Plugins, data: Path | None, roots: Mapping[str, Path]) -> Plugins:
    """Add the declared datasets (see `declared_datasets`) to the plugins.

    An invalid ``dataset.toml``, like a broken plugin, does not affect other datasets: its error is
    raised only when its name is requested. The same holds for a name that a plugin also provides.

    Raises:
        DataError: The data folder cannot be listed.
    """
    datasets, clashes = dict(plugins.all(DatasetAdapter)), dict(plugins.clashes)
    for name, folder in _declared_folders(data, roots).items():
        providers = _providers(plugins, name)
        try:
            adapter = _load_named(name, folder)
        except DataError as error:
            datasets.pop(name, None)
            clashes["dataset", name] = str(error)
            continue
        if providers or name in datasets:
            datasets.pop(name, None)
            clashes["dataset", name] = (
                f"dataset {name!r} is offered by {' and by '.join(providers) or 'a plugin'} and by "
                f"{folder / FILE}: rename the folder (and its name in the file), or uninstall the "
                "plugin"
            )
        else:
            datasets[name] = adapter
    components = {**plugins.components, "dataset": datasets}
    return replace(plugins, components=components, clashes=MappingProxyType(clashes))


def plugins_at(
    data: Path | None, roots: Mapping[str, Path], disabled: frozenset[str] | None = None
) -> Plugins:
    """Return the installed plugins together with the declared datasets in these places.

    Args:
        data: Folder with one folder per dataset; None for `hydrakit.storage.paths.default_data`.
        roots: Folders of datasets in other places, by name.
        disabled: Names of plugins that are not loaded; None for ``$HYDRAKIT_NO_PLUGINS``.
    """
    from hydrakit.plugins.registry import load_plugins

    return replace(with_declared(load_plugins(disabled), data, roots), data=data)


def _providers(plugins: Plugins, name: str) -> list[str]:
    return [
        f"{record.distribution} ({record.module})"
        for record in plugins.records
        if name in record.offered(DatasetAdapter)
    ]


def _declared_folders(data: Path | None, roots: Mapping[str, Path]) -> dict[str, Path]:
    """Return the folders that hold a ``dataset.toml``, by the name of their folder or root."""
    data = data or default_data()
    try:
        subfolders = sorted(data.iterdir()) if data.is_dir() else []
    except OSError as error:
        raise DataError(f"{data}: cannot be listed: {error.strerror or error}") from None
    folders = {folder.name: folder for folder in subfolders} | dict(roots)
    return {name: folder for name, folder in folders.items() if (folder / FILE).is_file()}


def _load_named(name: str, folder: Path) -> DatasetAdapter:
    adapter = load_declared(folder)
    if adapter.name != name:
        raise DataError(
            f"{folder / FILE}: name is {adapter.name!r}, but the folder or root is named {name!r}: "
            f"make them equal, or give it as {command_line('--root', f'{adapter.name}={folder}')}"
        )
    return adapter


def _elsewhere(declaration: Declaration, folder: Path) -> tuple[Path, ...]:
    """Return the folder of the images if it lies outside the declaration's folder."""
    try:
        root = _files_root(declaration, folder)
    except DataError:  # raised again when the dataset is read; the declaration itself is valid
        return ()
    return () if root.is_relative_to(folder.resolve()) else (root,)


def _files_root(declaration: Declaration, folder: Path) -> Path:
    try:
        root = (folder / declaration.root).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # missing, a loop of links, a zero byte
        root = None
    if root is None or not root.is_dir():
        raise DataError(
            f"{folder / FILE}: root: there is no folder {quote(declaration.root)}: give the folder "
            "of the images, relative to the folder of this file"
        )
    return root


def _tables(declaration: Declaration, folder: Path) -> tuple[TableFile, ...]:
    """Read the tables of cases, if declared: beside ``dataset.toml`` or in the root."""
    from hydrakit.data.declared.patterns import match_files
    from hydrakit.data.declared.tables import TableFile

    name = declaration.cases
    if name is None or not declaration.has_table:
        return ()
    follow = declaration.follow_links
    candidates = [folder.resolve()]
    if declaration.root != ".":
        candidates.append(_files_root(declaration, folder))
    for base in candidates:
        named: list[tuple[str, str | None]] = [(name, None)]
        if SPLIT in name:
            found = match_files(base, name, follow=follow)
            named = [(path, parts["split"]) for path, parts in found]
        try:
            tables = tuple(
                TableFile.read(resolve_inside(base, path, follow=follow), split=split)
                for path, split in named
            )
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{base / name}: cannot be read: {error.strerror or error}") from None
        if tables:
            return tables
    raise DataError(
        f"{folder / FILE}: cases: there is no file {quote(name)} in "
        f"{' or '.join(map(str, candidates))}: correct its name"
    )
