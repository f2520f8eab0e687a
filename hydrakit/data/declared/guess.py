"""Draft of a ``dataset.toml`` for a folder of images, with comments on what to check.

A person must correct the draft: every line that may be wrong has a comment with the reason.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.data.archives import unpack_hint
from hydrakit.data.declared.answers import CODES
from hydrakit.data.declared.arrays import (
    MAX_COLUMN_BYTES,
    ImageError,
    channel_axis,
    member_names,
    open_array,
)
from hydrakit.data.declared.by_name import FileNames
from hydrakit.data.declared.cases import SEPARATOR
from hydrakit.data.declared.coco import SUFFIX as COCO
from hydrakit.data.declared.coco import coco_table
from hydrakit.data.declared.columns import WORDS, is_attribute, may_name, resembles
from hydrakit.data.declared.files import (
    OTHER_SUFFIXES,
    SUFFIXES,
    companions,
    describe_files,
    linked_folders,
    list_files,
    suffix_of,
)
from hydrakit.data.declared.images import ImageReader, Picture
from hydrakit.data.declared.masks import guess_template
from hydrakit.data.declared.schema import (
    ABSENT,
    FILE,
    MAX_CLASS,
    NONE,
    PRESENT,
    SPLIT,
    ImageRules,
)
from hydrakit.data.declared.tables import MAX_TABLE_BYTES, may_be_table, read_columns
from hydrakit.data.identity import names_nobody, normal_name
from hydrakit.data.safe_paths import open_file, path_fault, resolve_inside
from hydrakit.data.volumes.formats import open_volume
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.errors import DataError, one_line
from hydrakit.names import is_name
from hydrakit.storage.tables import label_form

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_FILES = 200_000
MAX_CLASSES = 20
MAX_SAMPLED = 24
MAX_PATCH_SIDE = 64  # pixels: images of one size up to this are probably cut out of larger ones
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
POINT_COLUMNS = ("x_mm", "y_mm", "z_mm")
SAME_NAME_COLUMNS = (
    *("row", "column", "row_mm", "column_mm", "slice", *POINT_COLUMNS, "split", "key"),
)


@dataclass(frozen=True)
class _CaseSource:
    """Source of the cases, as lines of TOML, and their classes.

    Attributes:
        lines: Lines of the file's top level.
        tables: Lines of the file's tables, which come last.
        task: Task of the dataset.
        labels: Labels of the cases, sorted.
        patients: What the source says of the patients, with their number; empty if nothing.
        member: Name of the array of images in an NPZ with one case per row; None otherwise.
        columns: Columns of the table of cases; none if there is no table.
        above: Whether paths begin with the name of the folder, as if from the one above it.
    """

    lines: tuple[str, ...]
    tables: tuple[str, ...]
    task: str
    labels: tuple[str, ...]
    patients: str
    member: str | None = None
    columns: frozenset[str] = frozenset()
    above: bool = False


def dataset_name(folder: Path) -> str:
    """Return the name of the dataset whose ``dataset.toml`` lies in a folder."""
    name = folder.resolve().name
    if is_name(name):
        return name
    return re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64] or "mydata"


def guess_declaration(folder: Path, out: Path | None = None) -> str:
    """Return the text of a draft ``dataset.toml`` for a folder of images.

    Args:
        folder: The folder of images.
        out: Folder that the file will be in; None for that of the images.

    Raises:
        DataError: The folder of the file already has a ``dataset.toml``; or that of the images
            cannot be listed, or holds neither images in two or more class folders nor a table of
            cases.
    """
    place = out or folder
    if (place / FILE).exists():
        raise DataError(f"{place / FILE}: exists already: edit it, or move it away first")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder: give a folder of images")
    links = linked_folders(folder)
    files = list_files(folder, most=MAX_FILES, follow=bool(links))
    images = [name for name in files if name.lower().endswith(SUFFIXES)]
    images = images or [name for name in files if _is_dicom(folder / name)]
    if not images:
        raise _no_image_error(folder, files)
    masks = companions(images)
    images = [name for name in images if name not in masks]
    cases, unused = _from_tables(folder, files)
    cases = cases or _from_coco(folder, files)
    cases = cases or _from_split_arrays(folder, images) or _from_npz(folder, images)
    cases = cases or _from_folders(images)
    if cases is None:
        left_out = f" (beside {len(masks)} masks of other images)" if masks else ""
        raise DataError(
            f"{folder}: holds neither two or more folders of images by class{left_out} nor a table "
            f"with the columns path and label{_in_brackets(unused)}: sort the images into folders, "
            "or write such a table"
        )
    cases = _with_printable_names(cases)
    return "\n".join(
        [
            *_description_lines(place),
            *_place_lines(folder, place, links, above=cases.above),
            *_class_lines(cases),
            *_image_lines(folder, images, cases),
            *_mask_lines(images, masks, cases),
            *(f"# Not used: {_comment(reason)}" for reason in unused),
            *_case_lines(folder, images, cases),
            *_channel_lines(folder, images, cases),
            *_volume_lines(folder, images, cases, masked=_choose_slices(images, masks, cases)),
            "",
        ]
    )


def _in_brackets(reasons: Sequence[str]) -> str:
    return f" ({one_line('; '.join(reasons), 400)})" if reasons else ""


def _no_image_error(folder: Path, files: Sequence[str]) -> DataError:
    remedies = {
        remedy: None
        for suffix, remedy in OTHER_SUFFIXES.items()
        if any(name.lower().endswith(suffix) for name in files)
    }
    hint = unpack_hint(folder / name for name in files).removeprefix("; ")
    remedy = hint or next(iter(remedies), "give a folder of images")
    return DataError(
        f"{folder}: holds no image that hydrakit reads ({', '.join(SUFFIXES)}, or DICOM), but "
        f"{describe_files(files)}: {remedy}"
    )


def _with_printable_names(cases: _CaseSource) -> _CaseSource:
    """Give every class a printable name of valid length; map other labels to such names."""
    names: dict[str, str] = {}
    for label in cases.labels:
        printable = "".join(c if c.isprintable() else "_" for c in label.strip())[:MAX_CLASS]
        while printable in names.values():
            printable = f"{printable[: MAX_CLASS - 4]}-{len(names)}"
        names[label] = printable
    if [label.strip() for label in names] == list(names.values()):
        return cases
    lines = [f"{_quoted(label)} = {_quoted(name)}" for label, name in names.items()]
    tables = (*cases.tables, "", "[labels]", *lines)
    return replace(cases, labels=tuple(names.values()), tables=tables)


# Lines of the file


def _description_lines(folder: Path) -> list[str]:
    slug = dataset_name(folder)
    if slug == folder.resolve().name:
        lines = [f"name = {_quoted(slug)}  # as the folder"]
    else:
        lines = [
            f"name = {_quoted(slug)}  # the folder's name is not a dataset name: rename it so, "
            f"or use --root {slug}=FOLDER"
        ]
    return [
        f"# {FILE}, guessed by `hydrakit datasets new`: check every line (docs/dataset-toml.md).",
        *lines,
        'summary = ""      # description in one line',
        'licence = "not stated"',
        'citation = "not stated"',
    ]


def _place_lines(
    folder: Path, place: Path, links: Sequence[str], *, above: bool = False
) -> list[str]:
    """Say where the images are, if they are not below the file."""
    lines = []
    if above:
        root = ".." if folder.resolve() == place.resolve() else str(folder.resolve().parent)
        lines.append(f"root = {_quoted(root)}  # the paths begin with {_comment(folder.name)!r}")
    elif folder.resolve() != place.resolve():
        lines.append(f"root = {_quoted(str(folder.resolve()))}  # folder of the images")
    if links:
        first = _comment(links[0])
        lines.append(f"follow_links = true  # linked folders: {len(links)} (first {first})")
    return lines


def _class_lines(cases: _CaseSource) -> list[str]:
    labels = list(cases.labels)
    lines = [""]
    if cases.task != "classification":
        lines.append(f"task = {_quoted(cases.task)}  # guessed from the labels")
    if cases.task == "regression":
        return [*lines, 'classes = ["value"]  # name and unit of the number']
    while len(labels) < 2:
        lines.append("# Only one class was detected: correct the name of the other one.")
        labels.insert(0, "other" if "other" not in labels else "another")
    names = ", ".join(map(_quoted, labels))
    if cases.task == "classification":
        lines.append("# Check: of two classes, the second is the positive one.")
    return [*lines, f"classes = [{names}]"]


def _image_lines(folder: Path, images: Sequence[str], cases: _CaseSource) -> list[str]:
    """Describe a sample of the images, and propose a field of view."""
    pictures, faults = _sample_images(folder, images, cases)
    lines = ["", f"# Image files: {len(images)}. Images that were read: {len(pictures)}."]
    kinds = Counter(
        f"{p.facts['format']}, mode {p.facts['mode']}, {p.facts['bits']:g} bits" for p in pictures
    )
    sizes = Counter(f"{p.facts['width']:g} x {p.facts['height']:g}" for p in pictures)
    spacings = Counter(p.spacing for p in pictures if p.spacing)
    lines += [f"#   {_comment(kind)}: {count}" for kind, count in kinds.most_common(5)]
    if len(kinds) > 1:
        lines.append("# Check that the kind of file does not reveal the class.")
    if faults:
        path, reason = next(iter(faults.items()))
        lines.append(f"# Not usable as it is: {len(faults)} (first {_comment(path)}: {reason}).")
    if not cases.columns and any("name one as FILE#[0]" in each for each in faults.values()):
        lines.append("# To use the first page or frame of each, end the pattern in #[0].")
    common = [f"{size} ({count})" for size, count in sizes.most_common(5)]
    lines.append(f"#   width x height: {', '.join(common) or 'none could be read'}")
    if spacings:
        row, column = spacings.most_common(1)[0][0]
        lines.append(f"#   pixel spacing: {row:g} x {column:g} mm in most files that state it")
        lines.append("# For a region of fixed physical size: field_of_view = { millimetres = 65 }")
    else:
        lines.append("# For a size in millimetres add spacing = [row, column], for all images.")
    lines.append("field_of_view = { share = 1.0 }  # the whole image")
    return [*lines, *_normalise_lines(pictures)]


def _normalise_lines(pictures: Sequence[Picture]) -> list[str]:
    """Propose a normalisation other than the default for patches: small images of one size."""
    sizes = {picture.pixels.shape[1:] for picture in pictures}
    height, width = next(iter(sizes), (0, 0))
    if len(sizes) != 1 or max(height, width) > MAX_PATCH_SIDE:
        return []
    return [
        f"# The images are probably patches ({width} x {height} pixels). A z-score over a patch",
        "# removes its brightness, which may tell the classes. `hydrakit datasets check` compares",
        "# the choices.",
        'normalise = "dataset"  # z-score over all training images',
    ]


def _choose_slices(images: Sequence[str], masks: Mapping[str, str], cases: _CaseSource) -> bool:
    """Whether the masks choose the slice of each case: all images are volumes that have one."""
    with_slice = {*POINT_COLUMNS, "slice"} & cases.columns
    volumes = all(map(is_volume_name, images)) and set(images) == set(masks.values())
    return volumes and not with_slice and guess_template(masks) is not None


def _mask_lines(images: Sequence[str], masks: Mapping[str, str], cases: _CaseSource) -> list[str]:
    if not masks:
        return []
    mask, image = next(iter(masks.items()))
    first = _comment(f"{mask}, of {image}")
    lines = [f"# Masks of other images, which are no cases: {len(masks)} (first {first})."]
    template = guess_template(masks)
    if template is None:
        return lines
    if _choose_slices(images, masks, cases):
        return [
            *lines,
            "# They choose slice and position of each case. To see 1.5 times the lesion:",
            "# field_of_view = { mask = 1.5 }  # in place of the line above",
            f"mask = {_quoted(template)}",
        ]
    return [
        *lines,
        "# To take the position of the lesion from them, and to see 1.5 times the lesion:",
        f"# mask = {_comment(_quoted(template))}",
        "# field_of_view = { mask = 1.5 }  # in place of the line above",
    ]


def _case_lines(folder: Path, images: Sequence[str], cases: _CaseSource) -> list[str]:
    patients = cases.patients
    if not patients and any(_is_dicom(path) for path in _spread(folder, images)):
        patients = (
            "# Check: PatientID of the DICOM files names the patients. Each must be one person.\n"
            "# If it is not, declare the patients, or results will be too optimistic."
        )
    elif not patients:
        patients = (
            "# Check: no patient was detected, so each image counts as its own patient. If\n"
            "# patients have several images, declare them, or results will be too optimistic."
        )
        folders = {
            each for name in images for each in name.split("/")[:-1] if _are_patients([each])
        }
        if len(folders) > 1 and cases.columns:
            first = _comment(min(folders))
            patients += (
                f"\n# {len(folders)} folders seem to name patients (first {first}): give the"
                "\n# table a column patient with these names."
            )
    return ["", patients, *cases.lines, *cases.tables]


def _patient_line(source: str, names: Sequence[str]) -> str:
    """Say where the patients come from, and how many there are."""
    named = [normal_name(name) for name in names if not names_nobody(name)]
    line = f"# Check: {_comment(source)} gives {len(set(named))} patients of {len(names)} images."
    if not named or len(named) == len(names):
        return line
    return (
        f"{line}\n# {len(names) - len(named)} of the images name no patient: complete the names, "
        'or uncomment what this means:\n# empty_patient = "above"  # the patient of the row above, '
        'as in merged cells\n# empty_patient = "own"  # each is a patient of its own'
    )


def _channel_lines(folder: Path, images: Sequence[str], cases: _CaseSource) -> list[str]:
    """Write which dimension of the arrays holds the channels, or how to say it."""
    shapes: dict[tuple[int, ...], None] = {}
    for path in _spread(folder, images):
        try:
            with closing(open_array(path, cases.member)) as stored:
                shape = stored.shape if cases.member is None else stored.shape[1:]
        except (OSError, ImageError):  # no array
            continue
        if len(shape) == 3:
            shapes.setdefault(shape)
    axes = {channel_axis(shape): shape for shape in reversed(shapes)}
    if None in axes:
        return [
            "",
            f"# Check: an array of shape {axes[None]} does not show its channels. If it is a",
            "# volume, use its slices as images. If it is one image, uncomment:",
            "# [images]",
            '# channels = "first"  # or "last": the dimension that holds the channels',
        ]
    if len(axes) == 1:
        ((axis, shape),) = axes.items()
        return [
            "",
            "[images]",
            f'channels = "{axis}"  # Check: guessed from arrays of shape {shape}',
        ]
    return []


def _volume_lines(
    folder: Path, images: Sequence[str], cases: _CaseSource, *, masked: bool
) -> list[str]:
    """Say how a slice of each volume is chosen, if the cases do not choose one yet."""
    counts = set()
    for path in _spread(folder, [name for name in images if is_volume_name(name)]):
        try:
            counts.add(open_volume(path).count_slices("axial"))
        except (OSError, ImageError):  # `datasets check` names each unusable file
            continue
    if not counts or counts == {1}:
        return []
    least, most = min(counts), max(counts)
    number = f"{most}" if least == most else f"{least} to {most}"
    lines = [
        "",
        f"# These are volumes of {number} axial slices, of which each case shows one. Under",
        '# [images], slices = 3 shows its neighbours, too, as channels, and plane = "coronal" or',
        '# "sagittal" another plane.',
    ]
    if set(POINT_COLUMNS) <= cases.columns:
        lines += [
            "[images]",
            'axes = "LPS"  # Check: x_mm, y_mm, z_mm as in DICOM; "RAS": as in NIfTI',
        ]
    elif "slice" in cases.columns:
        lines.append("# Check: the column slice counts from 0, in the order of the file.")
    elif masked:
        lines.append("# Check: the slice of each case is the one in which its mask is largest.")
    elif not cases.columns:
        lines += [
            "# Check: a case is unusable until its slice is chosen: by mask = ..., by #[N] at the",
            "# end of pattern (the same of each file), or, in place of pattern, by a table,",
            '# cases = "cases.csv", with the columns path, label, patient, and slice (from 0), or',
            "# x_mm, y_mm and z_mm.",
        ]
    else:
        lines += [
            "# Check: a case is unusable until its slice is chosen: by a column slice (from 0), by",
            "# x_mm, y_mm and z_mm, by #[N] at the end of its path, or by a mask.",
        ]
    return lines


def _quoted(text: str) -> str:
    """Quote text as a TOML basic string: as in JSON, but TOML also escapes the DEL character.

    Raises:
        DataError: The text comes from a file name and is not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"the name {text!r} is not UTF-8: rename the file or folder") from None
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _comment(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)


# The files


def _is_dicom(path: Path) -> bool:
    """Whether a file begins like a DICOM file (PS3.10 section 7.1), whatever its name is."""
    try:
        with open_file(path) as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:  # a file that cannot be opened is not used for the draft
        return False


def _sample_images(
    folder: Path, images: Sequence[str], cases: _CaseSource
) -> tuple[list[Picture], dict[str, str]]:
    """Read a sample of images, spread over the list; name those that cannot be read."""
    pictures = []
    faults = {}
    with closing(ImageReader(ImageRules())) as reader:
        for path in _spread(folder, images):
            try:
                row = None if cases.member is None else 0
                if is_volume_name(path.name):
                    row = reader.volume(path).count_slices("axial") // 2
                pictures.append(reader.read(path, cases.member, row))
            except (OSError, DataError) as error:  # `datasets check` names each unusable file
                reason = str(error).replace(f"{path}: ", "")
                faults[path.relative_to(folder).as_posix()] = _comment(one_line(reason, 200))
    return pictures, faults


def _spread(folder: Path, images: Sequence[str]) -> list[Path]:
    """Return the paths of a sample of images, spread over the list."""
    count = min(len(images), MAX_SAMPLED)
    return [folder / images[index * len(images) // count] for index in range(count)]


# From folders


def _from_folders(images: Sequence[str]) -> _CaseSource | None:
    """Derive a pattern over paths, if one level of folders looks like classes."""
    images = [name for name in images if "/" in name]
    depth = min((name.count("/") for name in images), default=0)
    deeper = any(name.count("/") > depth for name in images)
    levels = [Counter(name.split("/")[level] for name in images) for level in range(depth)]
    split = next((i for i, names in enumerate(levels) if _are_splits(names)), None)
    candidates = [level for level, names in enumerate(levels) if level != split and len(names) >= 2]
    classes = [level for level in candidates if not _are_patients(levels[level])]
    label = min(classes, key=lambda level: len(levels[level]), default=None)
    if label is None or len(levels[label]) > MAX_CLASSES:
        return None
    rest = [level for level in candidates if level != label]
    # An inner level (visits, lesions) may have more names; the outer level avoids leakage.
    most = max((len(levels[level]) for level in rest), default=0)
    patient = next((level for level in rest if len(levels[level]) * 10 >= most), None)
    names = {split: "{split}", label: "{label}", patient: "{patient}"}
    pattern = [names.get(level) or _literal(folders) for level, folders in enumerate(levels)]
    if deeper:
        pattern.append("**")
    endings = {suffix_of(name) for name in images}
    pattern.append(f"*{endings.pop()}" if len(endings) == 1 else "*")
    tables = _splits([] if split is None else list(levels[split]))
    lines = [f"pattern = {_quoted('/'.join(pattern))}"]
    people = ""
    if patient is not None:
        people = _patient_line("{patient}", [name.split("/")[patient] for name in images])
        lines.insert(0, "# Check that each {patient} is one person, with a name of its own.")
        if any(level > patient for level in rest):
            lines.insert(
                1,
                "# Check: if a folder below {patient} is one finding (lesion), write {finding} for "
                "its *,\n# so that it counts once however many images it has.",
            )
    labels = sorted({name.strip() for name in levels[label]} - {""})
    return _CaseSource(tuple(lines), tuple(tables), "classification", tuple(labels), people)


def _splits(names: Sequence[str]) -> list[str]:
    """Write the table that maps the data's words for splits."""
    words = sorted(
        {name for name in names if name.lower() in SPLIT_WORDS} - set(SPLIT_WORDS.values())
    )
    lines = [f"{_quoted(name)} = {_quoted(SPLIT_WORDS[name.lower()])}" for name in words]
    return ["", "[splits]  # Check: the data's words for its splits", *lines] if lines else []


def _are_splits(names: Mapping[str, int]) -> bool:
    return len(names) > 1 and all(name.lower() in SPLIT_WORDS for name in names)


def _are_patients(names: Iterable[str]) -> bool:
    """Whether folders are patients by their names: ``patient00001``, ``sub-01``, ``Case 7``."""
    parts = [re.fullmatch(r"([^\W\d_]+)[ _-]?\d+", name) for name in names]
    return all(part and part[1].lower() in ("sub", *WORDS["patient"]) for part in parts)


def _literal(names: Mapping[str, int]) -> str:
    """Return the name of a level with only one folder, if a pattern allows it; else ``*``."""
    name = next(iter(names))
    plain = len(names) == 1 and not set(name) & set("{}*?#") and path_fault(name) is None
    return name if plain else "*"


# From tables


def _from_tables(folder: Path, files: Sequence[str]) -> tuple[_CaseSource | None, list[str]]:
    """Use the first table in the folder that has a column of paths and one of labels.

    Returns:
        What it gives, and the name of each other table with the reason why it is not used.
    """
    chosen: _CaseSource | None = None
    unused: list[str] = []
    names = FileNames(files)
    for name in files:
        if "/" in name or not may_be_table(name):
            continue
        try:
            columns = read_columns(folder / name)
        except DataError as error:
            unused.append(str(error).replace(f"{folder / name}: ", f"{name}: ", 1))
            continue
        if columns is None:
            continue
        listed = f"(its columns: {one_line(', '.join(columns), 200)})"
        path = _path_column(folder, columns, names)
        below = "" if path else _path_column_above(folder, columns)
        path = path or below
        cases = path and _from_columns(name, {"path": path}, columns)
        if not path:
            unused.append(f"{name}: {_without_files(columns, names)} {listed}")
        elif not cases:
            unused.append(f"{name}: no column of labels {listed}")
        elif fault := next(
            (f"{each}: {why}" for each in columns[path] if (why := _fault(each))), ""
        ):
            unused.append(f"{name}: path {fault}")
        elif chosen is not None:
            unused.append(f"{name}: another table comes before it {listed}")
        elif any(_is_file(folder, value) for value in columns[path][:50]):
            chosen = cases
        elif below:
            inside = f"cases = {_quoted(f'{folder.resolve().name}/{name}')}"
            chosen = replace(cases, lines=(inside,), above=True)
        else:
            line = f"# Check: the column {_comment(path)} names files without folder or suffix."
            chosen = replace(cases, lines=(line, *cases.lines))
    return chosen, unused


def _path_column(
    folder: Path, columns: Mapping[str, Sequence[str]], names: FileNames
) -> str | None:
    """The column of paths, or else the one of names without folder or suffix, of most files."""
    if "path" in columns:
        return "path"
    for column, values in columns.items():
        if any(_is_file(folder, value) for value in values[:50]):
            return column
    counts = {
        column: len({value for value in values if len(names.find(value)) == 1})
        for column, values in columns.items()
    }
    most = max(counts, key=lambda each: counts[each], default=None)
    return most if most is not None and 2 * counts[most] >= len(set(columns[most])) > 1 else None


def _fault(text: str) -> str | None:
    """Why a path of a table cannot be used; None if it is empty."""
    return path_fault(text.partition(SEPARATOR)[0].partition("#")[0]) if text else None


def _path_column_above(folder: Path, columns: Mapping[str, Sequence[str]]) -> str | None:
    """The column of paths that begin with the name of the folder, as those of CheXpert."""
    top = f"{folder.resolve().name}/"
    for column, values in columns.items():
        inner = [value.removeprefix(top) for value in values[:50] if value.startswith(top)]
        if any(_is_file(folder, value) for value in inner):
            return column
    return None


def _without_files(columns: Mapping[str, Sequence[str]], names: FileNames) -> str:
    """Say that no column names files of the folder, with the first file that one seems to name."""
    for column, values in columns.items():
        first = next(iter(values), "")
        if (others := names.with_zeros(first)) and len(set(values)) == len(values):
            return (
                f"the column {column} has {first}, and there is {others[0]}: if a spreadsheet "
                "removed the zeros, export the column as text"
            )
        if first.lower().endswith(SUFFIXES):
            return f"the files of the column {column} are not here (first {first})"
    return "no column of paths"


def _is_file(folder: Path, text: str) -> bool:
    if not text or _fault(text) is not None:
        return False
    text = text.partition(SEPARATOR)[0].partition("#")[0]
    try:
        return resolve_inside(folder.resolve(), text, follow=True).is_file()
    except (OSError, DataError):
        return False


def _from_coco(folder: Path, files: Sequence[str]) -> _CaseSource | None:
    """Use annotations in the COCO format; those of several splits, if their names tell these."""
    found: dict[str, list[str]] = {}
    for name in files:
        if name.lower().endswith(COCO) and (classes := _coco_classes(folder / name)):
            found[name] = classes
    names: dict[str, list[str]] = defaultdict(list)  # by the name with {split} for its split
    for name in found:
        template = _with_split(name)
        names[template or name].append(name)
    template = max(names, key=lambda each: len(names[each]), default=None)
    if template is None:
        return None
    used = names[template]
    classes = sorted({each for name in used for each in found[name]})
    if len(used) == 1:
        template = used[0]
    splits = [_split_word(name) for name in used] if len(used) > 1 else []
    lines = [
        "# Annotations in the COCO format: each box is a case, and its middle is the position.",
        f"cases = {_quoted(template)}",
    ]
    people = (
        "# Check: all boxes of an image stay in one split. If patients have several images,\n"
        "# declare them, or results will be too optimistic."
    )
    return _CaseSource(
        tuple(lines), tuple(_splits(splits)), "classification", tuple(classes), people
    )


def _coco_classes(path: Path) -> list[str]:
    """Return the categories that a COCO file uses; none for another file."""
    try:
        with open_file(path) as file:
            content = file.read(MAX_TABLE_BYTES + 1)
        table = coco_table(path, content[:MAX_TABLE_BYTES])
    except (OSError, DataError):  # another kind of JSON file
        return []
    at = table.header.index("label")
    return sorted({cells[at] for _, cells in table.rows() if cells[at]})


def _split_word(name: str) -> str:
    """Return the word for a split in a name, as the file has it; empty if there is none."""
    words = (match[0] for match in re.finditer("[A-Za-z]+", name))
    return next((word for word in words if word.lower() in SPLIT_WORDS), "")


def _with_split(name: str) -> str | None:
    """Return a name with ``{split}`` for the word for a split; None if it has none."""
    word = _split_word(name)
    if not word or set(name) & set("{}*?"):
        return None
    return re.sub(rf"(?<![A-Za-z]){word}(?![A-Za-z])", SPLIT, name, count=1)


def _from_split_arrays(folder: Path, images: Sequence[str]) -> _CaseSource | None:
    """Use the folder's only NPZ, if it has arrays for each split, as those of MedMNIST."""
    if len(images) != 1 or not images[0].lower().endswith(".npz"):
        return None
    found: dict[str, list[str]] = defaultdict(list)
    shapes: dict[str, tuple[int, ...]] = {}
    values: dict[str, list[NDArray[np.generic]]] = defaultdict(list)
    try:
        for name in member_names(folder / images[0]):
            template = _with_split(name)
            if template is None:
                continue
            with closing(open_array(folder / images[0], name)) as stored:
                found[template].append(name)
                shapes[template] = stored.shape
                if len(stored.shape) <= 2:
                    values[template].append(stored.read(limit=MAX_COLUMN_BYTES))
    except (OSError, ImageError):  # `_image_lines` describes the readable images
        return None
    image = next((each for each, shape in shapes.items() if len(shape) > 2), None)
    if image is None:
        return None
    splits = [_split_word(name) for name in found[image]]
    several = next(
        (each for each in values if len(shapes[each]) == 2 and shapes[each][1] > 1), None
    )
    if several is not None:
        count = shapes[several][1]
        tables = ["", "[columns]  # Check: the array of each field"]
        tables += [f"image = {_quoted(image)}", f"label = {_quoted(several)}", *_splits(splits)]
        source = _CaseSource(
            (f"cases = {_quoted(images[0])}",),
            tuple(tables),
            "multilabel",
            tuple(f"label {number}" for number in range(count)),
            "",
        )
    else:
        columns = {
            name: [str(value).strip() for each in arrays for value in each.ravel().tolist()]
            for name, arrays in values.items()
        }
        columns_source = _from_columns(images[0], {"image": image}, columns)
        if columns_source is None:
            return None
        source = replace(columns_source, tables=(*columns_source.tables, *_splits(splits)))
    return replace(source, member=found[image][0])


def _from_npz(folder: Path, images: Sequence[str]) -> _CaseSource | None:
    """Use the folder's only NPZ, if its arrays are columns of a table of cases."""
    if len(images) != 1 or not images[0].lower().endswith(".npz"):
        return None
    columns: dict[str, list[str]] = {}
    image, rows = None, 0
    try:
        for name in member_names(folder / images[0]):
            stored = open_array(folder / images[0], name)
            if len(stored.shape) > 2 and stored.dtype.kind in "biuf" and image is None:
                image, rows = name, stored.shape[0]
            elif len(stored.shape) == 1 or stored.shape[1:] == (1,):
                columns[name] = [str(value).strip() for value in stored.read().ravel().tolist()]
            stored.close()
    except (OSError, ImageError):  # not such a table; `_image_lines` describes the readable images
        return None
    if image is None:
        return None
    columns = {name: values for name, values in columns.items() if len(values) == rows}
    return _from_columns(images[0], {"image": image}, columns)


def _from_columns(
    name: str, fixed: Mapping[str, str], columns: Mapping[str, Sequence[str]]
) -> _CaseSource | None:
    """Use a table of cases, if one of its columns looks like labels."""
    chosen = _match_columns(fixed, columns)
    answers = _answer_columns(columns, chosen)
    if answers:
        chosen.pop("label", None)
        task, labels = "multilabel", answers
    elif "label" in chosen:
        # Spellings that differ only in what `label_form` leaves out are one label.
        values = {label_form(value): value for value in sorted(columns[chosen["label"]]) if value}
        task, labels = _task(set(values.values()))
    else:
        return None
    chosen |= {field: field for field in SAME_NAME_COLUMNS if field in columns}
    renamed = [field for field, column in chosen.items() if field != column]
    tables = ["", "[columns]  # Check: the column of each field"] if renamed else []
    tables += [f"{field} = {_quoted(chosen[field])}" for field in renamed]
    if answers:
        tables += _answer_lines([columns[name] for name in answers])
    elif labels and all(
        re.fullmatch(r"-?\d+(\.0)?|True|False", label, re.IGNORECASE) for label in labels
    ):
        lines = [f"{_quoted(label)} = {_quoted(f'class {label}')}" for label in labels]
        tables += ["", "[labels]  # Give the classes their names, here and above", *lines]
        labels = tuple(f"class {label}" for label in labels)
    tables += _splits(columns.get("split", []))
    source = (f"cases = {_quoted(name)}",)
    patients = ""
    if "patient" in chosen:
        patients = _patient_line(f"the column {chosen['patient']}", columns[chosen["patient"]])
    return _CaseSource(
        source, tuple(tables), task, labels, patients, fixed.get("image"), frozenset(columns)
    )


def _match_columns(
    fixed: Mapping[str, str], columns: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Choose the column of each field by name; for the label, otherwise one with few values."""
    chosen = dict(fixed)
    for field in ("label", "patient", "finding", "group"):
        free = [column for column in columns if column not in chosen.values()]
        column = (
            _by_words(WORDS["label"], free) if field == "label" else _names(field, free, columns)
        )
        if column is not None:
            chosen[field] = column
    if "label" not in chosen:
        few = [
            column
            for column in sorted(columns.keys() - {*chosen.values(), *SAME_NAME_COLUMNS})
            if 2 <= len(set(columns[column]) - {""}) <= min(6, len(columns[column]) // 2)
            and not any(re.fullmatch(r"[+-]?\d*\.\d*[1-9]\d*", text) for text in columns[column])
        ]
        # Text is a label rather than a number, and a number rather than the sex of a patient.
        if few:
            chosen["label"] = max(
                few,
                key=lambda each: (not is_attribute(each), not _are_numbers(columns[each]), each),
            )
    return chosen


def _answer_columns(
    columns: Mapping[str, Sequence[str]], chosen: Mapping[str, str]
) -> tuple[str, ...]:
    """Return the columns of 1 and 0 (or empty, -1, nan), one for each label; none if one is alone.

    A column with the name of a label, or with other labels, is the only one.
    """
    label = chosen.get("label")
    others = {column for field, column in chosen.items() if field != "label"} | {*SAME_NAME_COLUMNS}
    answers = [
        name
        for name, values in columns.items()
        if PRESENT in (forms := {label_form(value) for value in values})
        and forms <= CODES
        and len(forms) > 1
        and name not in others
        and name.isprintable()
        and 0 < len(name) <= MAX_CLASS
        and SEPARATOR not in name
        and name.lower() != NONE
    ]
    if len(answers) < 2 or (label is not None and label not in answers):
        return ()
    return () if label is not None and label.lower() in WORDS["label"] else tuple(answers)


def _answer_lines(columns: Sequence[Sequence[str]]) -> list[str]:
    """Say what the texts of the columns of single labels mean."""
    forms = {label_form(value) for values in columns for value in values}
    lines = ["# Check: each class has a column of its name, with 1 (present) and 0 (absent)."]
    if unknown := sorted(forms & {"-1", "nan"}):
        lines.append(f"# {' and '.join(unknown)}: unknown, neither trained on nor tested.")
    if all(list(map(label_form, row)).count(PRESENT) == 1 for row in zip(*columns, strict=True)):
        lines += [
            "# Check: every case has exactly one of them. If they exclude one another, write a",
            "# column label with the class of each case, and remove task.",
        ]
    if "" in forms:
        lines += [
            "# Check: an empty cell means that the label is unknown; to make it absent, write",
            f'# "" = "{ABSENT}".',
            "[labels]",
            '"" = ""',
        ]
    return ["", *lines]


def _by_words(words: Sequence[str], columns: Sequence[str]) -> str | None:
    """Return the column with the first of some words that one has."""
    whole = (c for word in words for c in columns if word in c.lower().split("_"))
    return next(whole, None) or next((c for w in words for c in columns if w in c.lower()), None)


def _names(field: str, free: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str | None:
    """Return the column that names the patient, finding or group: first one whose values repeat.

    A column such as ``case_id`` names the patient only if its values repeat.
    """
    alike = [column for column in free if resembles(column, field) and may_name(columns[column])]
    repeat = [column for column in alike if len(set(columns[column])) < len(columns[column])]
    others = [column for column in alike if "case" not in column.lower()]
    return next(iter(repeat + others), None)


def _task(values: set[str]) -> tuple[str, tuple[str, ...]]:
    """Guess the task and its classes from a column of labels."""
    if any(SEPARATOR in value for value in values):
        parts = {part.strip() for value in values for part in value.split(SEPARATOR)}
        return "multilabel", tuple(sorted(parts - {"", NONE}))
    if len(values) > MAX_CLASSES and all(_is_number(value) for value in values):
        return "regression", ()
    return "classification", tuple(sorted(values))


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_is_number(text) for text in texts if text)


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?\d*\.?\d+([eE][+-]?\d+)?", text) is not None
