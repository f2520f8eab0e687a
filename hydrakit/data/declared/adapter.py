"""Adapters of datasets that a ``dataset.toml`` declares (docs/dataset-toml.md)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hydrakit.data.declared.schema import FILE, SPLIT, Declaration, parse_declaration
from hydrakit.data.identity import names_nobody
from hydrakit.data.safe_paths import quote, resolve_inside
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.errors import DataError, command_line
from hydrakit.hooks import DatasetAdapter, NoOptions, Remark, Sample, Unusable
from hydrakit.names import NAME_PATTERN, is_name
from hydrakit.storage.paths import default_data

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hydrakit.data.declared.cases import DeclaredCase
    from hydrakit.data.declared.images import ImageReader, Picture
    from hydrakit.data.declared.masks import Lesion
    from hydrakit.data.declared.tables import TableFile
    from hydrakit.plugins.registry import Plugins

READER_VERSION = "4"
"""Increase whenever the code below reads other samples from the same files."""


@dataclass(frozen=True)
class Noticed:
    """Keys of the cases, read so far, that remarks are due about.

    Attributes:
        by_study: Cases whose study is their patient.
        no_mask: Cases without a mask, or with an empty one.
        tilted: Cases whose volume is tilted.
        animated: Animated GIFs of which the first frame is used.
    """

    by_study: list[str] = field(default_factory=list)
    no_mask: list[str] = field(default_factory=list)
    tilted: list[str] = field(default_factory=list)
    animated: list[str] = field(default_factory=list)


class MissingSpacingError(DataError):
    """A file does not state the pixel spacing that millimetres need."""


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
            f"{path}: the folder's name {name!r} is not a valid dataset name ({NAME_PATTERN}): add "
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
    from hydrakit.data.declared.cases import list_cases
    from hydrakit.data.declared.images import ImageReader
    from hydrakit.data.declared.tables import remarks_on_tables
    from hydrakit.data.volumes.volume import MAX_TILT, is_tilted

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
    if noticed.tilted:
        yield Remark(
            text=f"the volumes of {len(noticed.tilted)} images are tilted by over {MAX_TILT:g} "
            f"degrees (first {noticed.tilted[0]}): their slices are not in the plane that [images] "
            "names, but in the nearest one of the file",
            warning=True,
        )
    if noticed.no_mask:
        what = f'are not used: add them, or no_mask = "whole" to {FILE}'
        if declaration.no_mask is not None:
            what = (
                "are used whole: if one class has them more often, the network may tell it by the "
                "size or the place of what it sees"
            )
        yield Remark(
            text=f"{len(noticed.no_mask)} cases have no mask or box, or an empty mask (first "
            f"{noticed.no_mask[0]}), and {what}",
            warning=True,
        )
    if noticed.animated:
        yield Remark(
            text=f"{len(noticed.animated)} animated GIFs are used by their first frame (first "
            f"{noticed.animated[0]}): FILE#[N] names another one, counted from 0",
            warning=True,
        )
    if noticed.by_study:
        yield Remark(
            text=f"the PatientID of {len(noticed.by_study)} DICOM files is empty, ANONYMOUS or "
            f"alike (first {noticed.by_study[0]}): the images of one study (StudyInstanceUID) "
            "count as one patient; name the patients if they have several studies",
            warning=True,
        )


def list_declared(folder: Path) -> tuple[Declaration, tuple[DeclaredCase, ...]]:
    """Return the declaration in a folder, and its cases, without reading an image.

    Raises:
        DataError: The declaration, its table or a case is invalid.
    """
    from hydrakit.data.declared.cases import list_cases

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

    return with_declared(load_plugins(disabled), data, roots)


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


def read_case(
    declaration: Declaration,
    case: DeclaredCase,
    *,
    where: object,
    root: Path,
    reader: ImageReader,
    noticed: Noticed,
) -> Sample | Unusable:
    """Read the sample of a case.

    Args:
        declaration: Declaration of the dataset.
        case: The case.
        where: What declares the dataset, for messages.
        root: Resolved folder of its files.
        reader: Reader of its images.
        noticed: Gets the key of the case where a remark is due.

    Raises:
        MissingSpacingError: The case lacks a pixel spacing that it needs.
        DataError: The case leads out of the root.
    """
    from hydrakit.data.declared.arrays import ImageError
    from hydrakit.data.padding import concatenate

    try:
        case, mask = _slice_of_mask(declaration, case, root, reader)
        pictures, paths = _read_pictures(case, root, reader, follow=declaration.follow_links)
    except ImageError as error:
        return Unusable(key=case.key, reason=error.reason)
    spacing = next((p.spacing for p in pictures if p.spacing), declaration.spacing)
    if spacing is None and (case.millimetres or declaration.field_of_view.millimetres):
        raise MissingSpacingError(
            f"{where}: spacing: is missing, and {paths[0]} does not state its pixel spacing, which "
            "millimetres need: add spacing = [row, column] in millimetres"
        )
    image = concatenate([picture.pixels for picture in pictures])
    if mask is not None:  # which slice is read depends on it
        paths += _mask_paths(declaration, case, root)
    named = [location.row is not None for location in case.channels]
    if any(p.facts.get("frames") and not name for p, name in zip(pictures, named, strict=True)):
        noticed.animated.append(case.key)
    try:
        lesion = _find_lesion(declaration, case, root, image.shape[1:], noticed, mask=mask)
    except ImageError as error:
        return Unusable(key=case.key, reason=error.reason)
    centre = lesion.centre if lesion else pictures[0].centre or case.position
    if centre is not None and case.millimetres and spacing is not None:
        centre = (centre[0] / spacing[0], centre[1] / spacing[1])
    if centre is not None and not all(
        -0.5 <= at <= size - 0.5 for at, size in zip(centre, image.shape[1:], strict=True)
    ):
        return Unusable(key=case.key, reason="its position lies outside its image")
    patient = case.patient or next(
        filter(None, (_patient_id(declaration, p) for p in pictures)), None
    )
    study = next((picture.study for picture in pictures if picture.study), None)
    if patient is None and study is not None:
        patient = study
        noticed.by_study.append(case.key)
    patient = patient or case.finding
    return Sample(
        image=image,
        label=case.label,
        patient=patient or case.key,
        named=patient is not None,
        key=case.key,
        group=case.group,
        finding=case.finding,
        centre=centre,
        spacing=spacing,
        extent=lesion.extent if lesion else None,
        split=case.split,
        facts=pictures[0].facts,
        subgroups=case.subgroups,
        source=tuple(paths),
    )


def _read_pictures(
    case: DeclaredCase, root: Path, reader: ImageReader, *, follow: bool
) -> tuple[list[Picture], list[Path]]:
    """Read the files of a case, which become its channels, and return their paths as well.

    Raises:
        ImageError: A file is missing or cannot be read, or the files do not fit together.
        DataError: A file lies outside of the root.
    """
    from hydrakit.data.declared.arrays import MAX_VALUES, ImageError
    from hydrakit.data.dicom.geometry import alignment_fault

    pictures: list[Picture] = []
    paths: list[Path] = []
    for location in case.channels:
        path = root / location.file
        try:
            path = resolve_inside(root, location.file, follow=follow)
        except FileNotFoundError:
            raise ImageError(path, "its file is missing") from None
        except OSError as error:
            raise ImageError(path, f"cannot be opened ({error.strerror or 'a loop'})") from None
        if not path.is_file():
            raise ImageError(path, "its path is not a file")
        pictures.append(reader.read(path, location.member, location.row, point=case.point))
        paths += [path, *pictures[-1].files]
        if pictures[-1].pixels.shape[1:] != pictures[0].pixels.shape[1:]:
            raise ImageError(path, "its files differ in height or width")
        if sum(picture.pixels.size for picture in pictures) > MAX_VALUES:
            raise ImageError(path, f"has more than {MAX_VALUES} pixels")
    fault = alignment_fault([picture.plane for picture in pictures if picture.plane])
    if fault is not None:
        raise ImageError(paths[0], fault)
    return pictures, paths


def _mask_paths(declaration: Declaration, case: DeclaredCase, root: Path) -> list[Path]:
    """The files of the masks of a case.

    Raises:
        ImageError: One cannot be opened.
        DataError: One leads out of the root.
    """
    from hydrakit.data.declared.arrays import ImageError

    follow = declaration.follow_links
    try:
        return [resolve_inside(root, mask, follow=follow) for mask in case.masks or ()]
    except OSError as error:
        reason = error.strerror or "a loop of links"
        image = root / case.channels[0].file
        raise ImageError(image, f"its mask cannot be opened ({reason})") from None


def _slice_of_mask(
    declaration: Declaration, case: DeclaredCase, root: Path, reader: ImageReader
) -> tuple[DeclaredCase, NDArray[np.bool_] | None]:
    """Choose the slice of a volume in which its masks are largest, unless the case chooses one.

    Returns:
        The case with this slice, and the mask in it; the case alone if it has no masks of a volume.

    Raises:
        ImageError: A file cannot be read, or a mask is empty or does not fit its volume.
        DataError: A file leads out of the root.
    """
    import numpy as np

    from hydrakit.data.declared.arrays import ImageError

    first = case.channels[0]
    if not case.masks or not is_volume_name(first.file):
        return case, None
    try:
        path = resolve_inside(root, first.file, follow=declaration.follow_links)
    except OSError:  # `_read_pictures` says that it is missing
        return case, None
    masks = [reader.volume(each) for each in _mask_paths(declaration, case, root)]
    found = reader.volume(path).mask_slice(masks, plane=declaration.images.plane, index=first.row)
    if found is None and first.row is None:
        raise ImageError(path, "its mask is empty, so that it chooses no slice")
    if found is None:
        return case, np.zeros((1, 1), np.bool_)
    index, mask = found
    channels = (
        replace(each, row=index) if each.row is None and is_volume_name(each.file) else each
        for each in case.channels
    )
    return replace(case, channels=tuple(channels)), mask


def _find_lesion(
    declaration: Declaration,
    case: DeclaredCase,
    root: Path,
    size: tuple[int, int],
    noticed: Noticed,
    *,
    mask: NDArray[np.bool_] | None,
) -> Lesion | None:
    """Find the lesion of a case in its masks; None if it is used without one.

    Args:
        declaration: Declaration of the dataset.
        case: The case.
        root: Resolved folder of its files.
        size: Height and width of its image.
        noticed: Gets the key of a case without a mask.
        mask: Its mask, if it is that of a slice of a volume.

    Raises:
        ImageError: The case has no mask, or an empty one, or one that cannot be read.
        DataError: A mask leads out of the root.
    """
    from hydrakit.data.declared.arrays import ImageError
    from hydrakit.data.declared.masks import Lesion, read_masks

    image = root / case.channels[0].file
    if case.extent is not None and case.position is not None:
        return Lesion(case.position, case.extent)
    if case.masks is None and declaration.field_of_view.mask is None:
        return None
    paths = _mask_paths(declaration, case, root)
    if mask is None and paths:
        mask = read_masks(paths, size, fitting=declaration.match == "folder")
    lesion = None if mask is None else Lesion.of(mask)
    if lesion is None:
        noticed.no_mask.append(case.key)
        if declaration.no_mask is None:
            raise ImageError(image, "its mask is empty" if paths else "has no mask or box")
        factor = declaration.field_of_view.mask
        if factor is not None:
            height, width = size
            centre = ((height - 1) / 2, (width - 1) / 2)
            lesion = Lesion(centre=centre, extent=(height / factor, width / factor))
    return lesion


def _patient_id(declaration: Declaration, picture: Picture) -> str | None:
    """Return the PatientID of a DICOM file, unless it is empty, ANONYMOUS or alike."""
    text = picture.patient
    if text is None or (names_nobody(text) and not declaration.exact_names):
        return None
    return text
