"""A dataset without code: a folder that holds a ``dataset.toml`` (docs/dataset-toml.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hydrakit.data.declared.schema import FILE, Declaration, parse_declaration
from hydrakit.data.safe_paths import inside, shown
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, NoOptions, Sample, Unusable
from hydrakit.names import NAME_PATTERN, is_name
from hydrakit.storage.paths import default_data

if TYPE_CHECKING:
    from hydrakit.data.declared.cases import CsvTable, DeclaredCase
    from hydrakit.data.declared.images import ImageReader
    from hydrakit.plugins.registry import Plugins

RULES = "2"
"""Changes whenever the code below reads something else from the same files."""


def load_declared(folder: Path) -> DatasetAdapter:
    """The dataset that a folder's ``dataset.toml`` declares.

    Its version is a digest of the declaration and of its CSV: a change of either makes prepared
    data of before stale.

    Raises:
        DataError: The file is absent or no declaration, or its CSV is absent; the message names
            the file, the key and the value.
    """
    path = folder / FILE
    declaration, content = parse_declaration(path)
    name = declaration.name or folder.resolve().name
    if not is_name(name):
        raise DataError(
            f"{path}: the folder's name {name!r} is no name for a dataset ({NAME_PATTERN}): add "
            "name = ..., and give the folder as --root NAME=FOLDER"
        )
    table = _csv(declaration, folder)
    digest = hashlib.sha256(b"\0".join([content, table.content if table else b""])).hexdigest()

    def read(root: Path, options: NoOptions) -> Iterator[Sample | Unusable]:
        return read_declared(declaration, root, table=table)

    return DatasetAdapter(
        name=name,
        summary=declaration.summary or f"Declared in a {FILE}",
        classes=declaration.classes,
        task=declaration.task,
        read=read,
        field_of_view=declaration.view,
        version=f"{RULES}-{digest[:32]}",
        layout=f"{FILE}, and the images that it tells of",
        how_to_get=declaration.how_to_get,
        cohort=declaration.cohort,
        elsewhere=_elsewhere(declaration, folder),
        citation=declaration.citation,
        licence=declaration.licence,
    )


def read_declared(
    declaration: Declaration, folder: Path, *, table: CsvTable | None
) -> Iterator[Sample | Unusable]:
    """Every case of a declared dataset.

    Args:
        declaration: Of the dataset.
        folder: Where its ``dataset.toml`` lies.
        table: Its CSV, if it has one.

    Raises:
        DataError: A case is declared wrongly, leads out of the dataset's root, or lacks the
            spacing that it needs. An image that cannot be read gives an `Unusable`.
    """
    from hydrakit.data.declared.cases import list_cases
    from hydrakit.data.declared.images import ImageReader

    root = _files_root(declaration, folder)
    cases = list_cases(declaration, root, table=table)
    with closing(ImageReader(declaration.images)) as reader:
        for case in cases:
            yield _sample(declaration, case, folder=folder, root=root, reader=reader)


def declared_datasets(data: Path | None, roots: Mapping[str, Path]) -> dict[str, DatasetAdapter]:
    """The declared datasets: of each folder right below the data folder, and of each root.

    Args:
        data: Folder with one folder per dataset; None for `hydrakit.storage.paths.default_data`.
        roots: Folders of datasets that lie elsewhere, by name; they come before those in ``data``.

    Raises:
        DataError: A ``dataset.toml`` is wrong, or has another name than its folder or root.
    """
    found = {}
    for name, folder in _declaring(data, roots).items():
        found[name] = _load_named(name, folder)
    return found


def with_declared(plugins: Plugins, data: Path | None, roots: Mapping[str, Path]) -> Plugins:
    """The plugins together with the declared datasets (see `declared_datasets`).

    Like a broken plugin, a wrong ``dataset.toml`` harms no other dataset: its message, and that of
    a name which a plugin also offers, comes when the name is asked for.

    Raises:
        DataError: The data folder cannot be listed.
    """
    datasets, clashes = dict(plugins.all(DatasetAdapter)), dict(plugins.clashes)
    for name, folder in _declaring(data, roots).items():
        offering = _offering(plugins, name)
        try:
            adapter = _load_named(name, folder)
        except DataError as error:
            datasets.pop(name, None)
            clashes["dataset", name] = str(error)
            continue
        if offering or name in datasets:
            datasets.pop(name, None)
            clashes["dataset", name] = (
                f"dataset {name!r} is offered by {' and by '.join(offering) or 'a plugin'} and by "
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
    """What is installed, and the datasets that a ``dataset.toml`` at these places declares.

    Args:
        data: Folder with one folder per dataset; None for `hydrakit.storage.paths.default_data`.
        roots: Folders of datasets that lie elsewhere, by name.
        disabled: As for `load_plugins`.
    """
    from hydrakit.plugins.registry import load_plugins

    return with_declared(load_plugins(disabled), data, roots)


def _offering(plugins: Plugins, name: str) -> list[str]:
    return [
        f"{p.distribution} ({p.module})"
        for p in plugins.records
        if name in p.offered(DatasetAdapter)
    ]


def _declaring(data: Path | None, roots: Mapping[str, Path]) -> dict[str, Path]:
    """Each folder that holds a ``dataset.toml``, by the name that it is asked for by."""
    data = data or default_data()
    try:
        below = sorted(data.iterdir()) if data.is_dir() else []
    except OSError as error:
        raise DataError(f"{data}: cannot be listed: {error.strerror or error}") from None
    folders = {folder.name: folder for folder in below} | dict(roots)
    return {name: folder for name, folder in folders.items() if (folder / FILE).is_file()}


def _load_named(name: str, folder: Path) -> DatasetAdapter:
    adapter = load_declared(folder)
    if adapter.name != name:
        raise DataError(
            f"{folder / FILE}: name is {adapter.name!r}, but it was looked for as {name!r}: let "
            f"them be equal, or give it as --root {adapter.name}={folder}"
        )
    return adapter


def _elsewhere(declaration: Declaration, folder: Path) -> tuple[Path, ...]:
    """The folder of the images where it lies outside the declaration's own."""
    try:
        root = _files_root(declaration, folder)
    except DataError:  # told when the dataset is read: the declaration itself is in order
        return ()
    return () if root.is_relative_to(folder.resolve()) else (root,)


def _files_root(declaration: Declaration, folder: Path) -> Path:
    try:
        root = (folder / declaration.root).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):  # no such folder, a loop of links, a zero byte
        root = None
    if root is None or not root.is_dir():
        raise DataError(
            f"{folder / FILE}: root: there is no folder {shown(declaration.root)}: give the folder "
            "that holds the images, relative to this file's"
        )
    return root


def _csv(declaration: Declaration, folder: Path) -> CsvTable | None:
    """The CSV, where the cases are in one: beside ``dataset.toml``, or in the root."""
    from hydrakit.data.declared.cases import MAX_TABLE_BYTES, CsvTable

    name = declaration.cases
    if name is None or not name.lower().endswith(".csv"):
        return None
    places = [folder.resolve()]
    if declaration.root != ".":
        places.append(_files_root(declaration, folder))
    for place in places:
        try:
            path = inside(place, name)
            with path.open("rb") as file:
                content = file.read(MAX_TABLE_BYTES + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DataError(f"{place / name}: cannot be read: {error.strerror or error}") from None
        if len(content) > MAX_TABLE_BYTES:
            raise DataError(f"{path}: is over {MAX_TABLE_BYTES >> 20} MiB: declare it in parts")
        return CsvTable(path, content)
    raise DataError(
        f"{folder / FILE}: cases: there is no file {shown(name)} in "
        f"{' or '.join(map(str, places))}: correct its name"
    )


def _sample(
    declaration: Declaration, case: DeclaredCase, *, folder: Path, root: Path, reader: ImageReader
) -> Sample | Unusable:
    import numpy as np

    from hydrakit.data.declared.arrays import MAX_VALUES, ImageError

    pictures, paths = [], []
    for place in case.channels:
        try:
            path = inside(root, place.file)
        except FileNotFoundError:
            return Unusable(key=case.key, reason="its file is missing")
        except OSError as error:
            return Unusable(key=case.key, reason=f"cannot be opened ({error.strerror or 'a loop'})")
        if not path.is_file():
            return Unusable(key=case.key, reason="its path is no file")
        try:
            pictures.append(reader.read(path, place.member, place.row))
        except ImageError as error:
            return Unusable(key=case.key, reason=error.reason)
        paths.append(path)
        if pictures[-1].pixels.shape[1:] != pictures[0].pixels.shape[1:]:
            return Unusable(key=case.key, reason="its files differ in height or width")
        if sum(picture.pixels.size for picture in pictures) > MAX_VALUES:
            return Unusable(key=case.key, reason=f"has more than {MAX_VALUES} pixels")
    first = pictures[0]
    spacing = first.spacing or declaration.spacing
    if spacing is None and (case.millimetres or declaration.field_of_view.millimetres):
        raise DataError(
            f"{folder / FILE}: spacing: is missing, and {paths[0]} does not tell the size of its "
            "pixels, which millimetres need: add spacing = [row, column] in millimetres"
        )
    image = np.concatenate([picture.pixels for picture in pictures])
    centre = case.position
    if centre is not None and case.millimetres and spacing is not None:
        centre = (centre[0] / spacing[0], centre[1] / spacing[1])
    if centre is not None and not all(
        -0.5 <= at <= size - 0.5 for at, size in zip(centre, image.shape[1:], strict=True)
    ):
        return Unusable(key=case.key, reason="its position lies outside its image")
    return Sample(
        image=image,
        label=case.label,
        patient=case.patient or first.patient or case.finding or case.key,
        key=case.key,
        group=case.group,
        finding=case.finding,
        centre=centre,
        spacing=spacing,
        split=case.split,
        facts=first.facts,
        subgroups=case.subgroups,
        source=tuple(paths),
    )
