"""Images that a user names for prediction: a folder, single files, or a table of cases.

They are read as the cases of a declared dataset are, without a ``dataset.toml``.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hydrakit.data.archives import unpack_hint
from hydrakit.data.declared.by_name import match_names
from hydrakit.data.declared.cases import (
    SAY_AXES,
    DeclaredCase,
    ImageLocation,
    case_of,
    split_location,
)
from hydrakit.data.declared.files import (
    IMAGE_SUFFIXES,
    companions,
    describe_files,
    is_dicom,
    is_image_name,
    linked_folders,
    list_files,
)
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.labels import MAP_LABELS
from hydrakit.data.declared.listing import at_matched, files_of, with_parts, with_slice
from hydrakit.data.declared.patterns import compile_pattern, match_files
from hydrakit.data.declared.read_case import MissingSpacingError, Noticed, read_case
from hydrakit.data.declared.rows import Fields, table_rows
from hydrakit.data.declared.schema import UNKNOWN, Declaration, ImageRules, View, number
from hydrakit.data.declared.tables import TableFile
from hydrakit.data.read import LoadedSample, checked
from hydrakit.data.safe_paths import quote, resolve_inside
from hydrakit.errors import DataError, printable, utf8
from hydrakit.file_rules import FileRules
from hydrakit.hooks import Remark, Task, Unusable

MAX_TABLE_BYTES = 2**27
SPACING = ("row_spacing", "column_spacing")
NO_SPACING = "does not state its pixel spacing"
_NO_AXES = (
    "the model does not say where they rise to: give slice, row and column, or a folder with a "
    "dataset.toml that has axes"
)
_LEADS_OUT = "leads out of its folder by a link"
_NO_DICOM = tuple(suffix for suffix in IMAGE_SUFFIXES if suffix not in (".dcm", ".ima"))


@dataclass(frozen=True)
class GivenCase:
    """One image that a user named.

    Attributes:
        case: How a table or a pattern declares it.
        root: Resolved folder of its files; None to resolve that of its only file.
        spacing: Pixel spacing ``(row, column)`` in millimetres, for a file that does not state it.
        fault: Why it cannot be read, if its name already shows that.
    """

    case: DeclaredCase
    root: Path | None
    spacing: tuple[float, float] | None = None
    fault: str | None = None


@dataclass(frozen=True, eq=False)
class GivenImages:
    """Images that a user named; nothing but their names is read yet.

    Attributes:
        where: What names them, for messages.
        count: Their number.
        cases: Yields them in order, from the first on; may be called several times.
        digest: SHA-256 of what names them, and of the size and the time of each file.
        patients: Whether a table, a pattern or a DICOM file may name patients.
        notes: What users must know about files and columns that are not used.
        reader: Reads one of them; called in several threads.
        labelled: Whether any of them has a label.
    """

    where: str
    count: int
    cases: Callable[[], Iterator[GivenCase]]
    digest: str
    patients: bool
    notes: tuple[str, ...]
    reader: GivenReader
    labelled: bool = False


class GivenReader:
    """Reads images that a user named.

    Args:
        classes: Classes of the model, which labels of a table or of a pattern are among.
        task: Task of the model.
        colour: Whether an image in one file has three channels, as colours have; otherwise it has
            one, the luminance, as each of several files that are joined has.
        rules: How files are read; None for the default.
        spacing: Pixel spacing of all files that do not state theirs; None for that of the rules.
        masks: Whether the model sees the lesion in a mask, so that each image needs one.
        labels: Whether labels of a table or of a pattern are read.
    """

    def __init__(
        self,
        classes: Sequence[str],
        task: Task,
        *,
        colour: bool,
        rules: FileRules | None = None,
        spacing: tuple[float, float] | None = None,
        masks: bool = False,
        labels: bool = True,
    ) -> None:
        self.rules = rules or FileRules()
        self.masks = masks
        self.labels = labels
        self.declaration = Declaration.model_construct(
            classes=tuple(classes),
            task=task,
            field_of_view=View.model_construct(share=1.0),
            cases="cases.csv",
            spacing=spacing or self.rules.spacing,
            no_mask=self.rules.no_mask,
            labels={"": UNKNOWN},
            images=ImageRules.of(self.rules, colour=colour),
        )
        self._local = threading.local()
        self._opened: list[ImageReader] = []

    def used(self, fields: Fields) -> Fields:
        """The fields of a case that are used."""
        return fields if self.labels else {**fields, "label": ""}

    def read(self, given: GivenCase) -> LoadedSample | Unusable:
        """Read an image.

        Raises:
            MissingCodecError: No installed package decodes it.
        """
        key = given.case.key
        if given.fault is not None:
            return Unusable(key=key, reason=given.fault)
        case, root = given.case, given.root
        try:
            if root is None:
                (location,) = case.channels
                path = Path(location.file).resolve(strict=True)
                root, file = path.parent, path.name
                case = replace(case, channels=(replace(location, file=file),))
            else:
                for location in case.channels:
                    resolve_inside(root, location.file)
                for mask in case.masks or ():
                    with suppress(OSError):  # `read_case` says that it is missing
                        resolve_inside(root, mask)
        except FileNotFoundError:
            return Unusable(key=key, reason="its file is missing")
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or "a loop of links"
            return Unusable(key=key, reason=f"cannot be opened ({reason})")
        except DataError:
            return Unusable(key=key, reason=_LEADS_OUT)
        declaration = self.declaration
        if given.spacing is not None:
            declaration = declaration.model_copy(update={"spacing": given.spacing})
        images = self._images(is_joined=len(case.channels) > 1)
        try:
            sample = read_case(
                declaration, case, where=key, root=root, reader=images, noticed=Noticed()
            )
        except MissingSpacingError:
            return Unusable(key=key, reason=NO_SPACING)
        return sample if isinstance(sample, Unusable) else checked(sample)

    def close(self) -> None:
        """Close the array files that are still open, when no thread reads any more."""
        for each in self._opened:
            each.close()

    def _images(self, *, is_joined: bool) -> ImageReader:
        """The reader of this thread: it keeps an array file open."""
        name = "joined" if is_joined else "single"
        if not hasattr(self._local, name):
            reader = ImageReader(
                ImageRules.of(self.rules, colour=False) if is_joined else self.declaration.images
            )
            setattr(self._local, name, reader)
            self._opened.append(reader)
        images: ImageReader = getattr(self._local, name)
        return images


def images_in_files(paths: Sequence[Path], reader: GivenReader) -> GivenImages:
    """Images in single files; the key of each is its path as given.

    Raises:
        DataError: A file is named twice.
    """
    seen: set[str] = set()
    files = [location_of(path) for path in paths]
    for path in paths:
        if str(path) in seen:
            raise DataError(f"{path}: is named twice: name each image once")
        seen.add(str(path))
    return GivenImages(
        where=f"{len(paths)} files",
        count=len(paths),
        cases=lambda: (
            GivenCase(_case(_name(path), location), root=None)
            for path, location in zip(paths, files, strict=True)
        ),
        digest=_digest([*map(str, paths), *(_state(Path(each.file)) for each in files)]),
        patients=_may_be_dicom([location.file for location in files]),
        notes=(),
        reader=reader,
    )


def location_of(path: Path) -> ImageLocation:
    """Return where an image lies that a user names: a file, or one image of it as ``FILE#[N]``."""
    return ImageLocation(str(path)) if path.exists() else split_location(str(path))


def images_in_folder(folder: Path, reader: GivenReader, *, pattern: str | None) -> GivenImages:
    """Images below a folder, folder by folder; the key of each is its path within it.

    Args:
        folder: The folder.
        reader: Reads them.
        pattern: Pattern that selects files and reads parts of their paths, as in ``dataset.toml``;
            None for all files that may be images, masks of other images left out.

    Raises:
        DataError: The folder cannot be listed, or has no such file; or the pattern is wrong.
    """
    root = folder.resolve()
    if pattern is not None:
        return _matching(folder, root, reader, pattern)
    listed = list_files(root)
    images = [path for path in listed if is_image_name(path) or is_dicom(root / path)]
    masks = {} if reader.rules.masks == "cases" else companions(images)
    images = [path for path in images if path not in masks]
    if not images:
        raise DataError(
            f"{folder}: holds no image ({describe_files(listed)}): give files that end in "
            f"{', '.join(IMAGE_SUFFIXES)}, or DICOM{unpack_hint(folder / name for name in listed)}"
        )
    notes = []
    links = linked_folders(root)
    if links:
        notes.append(
            f"{folder}: {len(links)} linked folders are not followed (first {quote(links[0])}): "
            "predict their files by naming the folders they lead to"
        )
    lesions: dict[str, list[str]] = {}
    if reader.masks:
        for mask, image in masks.items():
            lesions.setdefault(image, []).append(mask)
    elif masks:
        mask, image = next(iter(masks.items()))
        notes.append(
            f"{folder}: {len(masks)} files are left out as masks of other images (first "
            f"{quote(mask)}, of {quote(image)}): to predict them, name them with `--pattern`"
        )
    others = len(listed) - len(images) - len(masks)
    if others:
        used = {*images, *masks}
        names = describe_files(path for path in listed if path not in used)
        notes.append(f"{folder}: other files that are not used: {names}")
    return GivenImages(
        where=str(folder),
        count=len(images),
        cases=lambda: (
            GivenCase(_case(_name(path), ImageLocation(path), lesions.get(path)), root)
            for path in images
        ),
        digest=_digest([_state(root / path) for path in images]),
        patients=_may_be_dicom(images),
        notes=tuple(notes),
        reader=reader,
    )


def _matching(folder: Path, root: Path, reader: GivenReader, pattern: str) -> GivenImages:
    try:
        compile_pattern(pattern)
    except ValueError as error:
        raise DataError(f"--pattern: {error}") from None
    declaration = reader.declaration.model_copy(update={"cases": None, "pattern": pattern})
    cases = [
        _given(declaration, f"{folder}: {quote(path)}", root, reader.used({"path": path, **parts}))
        for path, parts in match_files(root, pattern)
    ]
    if not cases:
        raise DataError(
            f"{folder}: no file matches {pattern!r} ({describe_files(list_files(root))}): correct "
            "the pattern"
        )
    return GivenImages(
        where=str(folder),
        count=len(cases),
        cases=lambda: iter(cases),
        digest=_digest([pattern, *_states(root, cases)]),
        patients=True,
        notes=(),
        reader=reader,
        labelled=any(given.case.label is not None for given in cases),
    )


def images_in_table(table: Path, reader: GivenReader, *, root: Path | None = None) -> GivenImages:
    """Images in the rows of a table, with the columns that ``dataset.toml`` knows.

    Only the column ``path`` is needed. The columns ``row_spacing`` and ``column_spacing`` give the
    pixel spacing in millimetres.

    Args:
        table: The table.
        reader: Reads them.
        root: Folder that the paths are relative to; None for that of the table.

    Raises:
        DataError: The table cannot be read, or a row is wrong; the message names the line.
    """
    try:
        file = TableFile.read(table, most=MAX_TABLE_BYTES)
        root = (root or table.parent).resolve(strict=True)
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read: {error.strerror or error}") from None
    cases: list[GivenCase] = []
    notes: list[str] = []
    named: list[tuple[str, str]] = []
    places: list[str] = []
    lines: dict[str, str] = {}
    patients = False
    for row in table_rows(reader.declaration, file, more=SPACING):
        if isinstance(row, Remark):
            notes += [row.text] if not row.warning else []
            continue
        where, fields = row
        patients = patients or "patient" in fields
        given = _given(reader.declaration, where, root, reader.used(fields))
        if given.case.key in lines:
            raise DataError(
                f"{where}: the key {quote(given.case.key)} also belongs to "
                f"{lines[given.case.key]}: remove one, or give each a key of its own in a column "
                "'key'"
            )
        lines[given.case.key] = where.rpartition(": ")[2]
        cases.append(given)
        places.append(where)
        named += [(where, file) for file in files_of(given.case)]
    if not cases:
        raise DataError(f"{table}: has no row: give one image per row, in a column 'path'")
    matched, remarks = match_names(root, named)
    notes += [remark.text for remark in remarks]
    try:
        cases = [
            replace(
                given, case=with_slice(reader.declaration, at_matched(given.case, matched), where)
            )
            for given, where in zip(cases, places, strict=True)
        ]
    except DataError as error:
        raise DataError(str(error).replace(SAY_AXES, _NO_AXES)) from None
    parts = with_parts([given.case for given in cases])
    cases = [replace(given, case=case) for given, case in zip(cases, parts, strict=True)]
    files = (location.file for given in cases for location in given.case.channels)
    return GivenImages(
        where=str(table),
        count=len(cases),
        cases=lambda: iter(cases),
        digest=_digest([hashlib.sha256(file.content).hexdigest(), *_states(root, cases)]),
        patients=patients or any(case.is_part for case in parts) or _may_be_dicom(files),
        notes=tuple(notes),
        reader=reader,
        labelled=any(given.case.label is not None for given in cases),
    )


def _given(declaration: Declaration, where: str, root: Path, fields: Fields) -> GivenCase:
    """A case from its fields.

    Raises:
        DataError: A field is invalid.
    """
    try:
        for name in ("key", "patient", "finding", "path"):
            if not fields.get(name, "").strip().isprintable():
                raise ValueError(f"{name} {quote(fields[name])} holds control characters")
        case = case_of(declaration, fields)
        case = replace(
            case, masks=case.masks or None
        )  # no cell needs a mask, unless the model does
        texts = [fields.get(name, "").strip() for name in SPACING]
        if any(texts) and not all(texts):
            raise ValueError(f"only one of {SPACING[0]} and {SPACING[1]} is given: give both")
        spacing = None
        if all(texts):
            row, column = (number(*pair) for pair in zip(texts, SPACING, strict=True))
            if min(row, column) <= 0:
                raise ValueError(f"pixel spacing {row:g} x {column:g}: give positive millimetres")
            spacing = row, column
    except ValueError as error:
        raise DataError(f"{where}: {str(error).removesuffix(MAP_LABELS)}") from None
    return GivenCase(case, root, spacing)


def _case(key: str, location: ImageLocation, masks: Sequence[str] | None = None) -> DeclaredCase:
    """A case of which only the file and its masks are known."""
    return DeclaredCase(
        key=key,
        channels=(location,),
        label=None,
        patient=None,
        group=None,
        finding=None,
        subgroups={},
        split=None,
        position=None,
        millimetres=False,
        masks=None if masks is None else tuple(masks),
    )


def _name(path: object) -> str:
    """A path as a key: on one line, in valid characters."""
    return printable(utf8(str(path)))


def _may_be_dicom(paths: Iterator[str] | Sequence[str]) -> bool:
    return not all(path.lower().endswith(_NO_DICOM) for path in paths)


def _states(root: Path, cases: Iterable[GivenCase]) -> Iterator[str]:
    """`_state` of the files of cases below a folder."""
    for given in cases:
        for location in given.case.channels:
            yield _state(root / location.file)


def _state(path: Path) -> str:
    """Where a file is, how large it is and when it was changed: what shows that it is another."""
    try:
        status = path.stat()
    except OSError:
        return f"{path.absolute()}: cannot be opened"
    return f"{path.absolute()}: {status.st_size} bytes, {status.st_mtime_ns}"


def _digest(texts: Iterator[str] | Sequence[str]) -> str:
    hasher = hashlib.sha256()
    for text in texts:
        hasher.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return hasher.hexdigest()
