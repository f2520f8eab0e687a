"""Where the cases of a draft may come from: a table, COCO, an NPZ file, or folders."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydrakit.data.declared.arrays import MAX_COLUMN_BYTES, ImageError, member_names, open_array
from hydrakit.data.declared.by_name import FileNames
from hydrakit.data.declared.coco import SUFFIX as COCO
from hydrakit.data.declared.coco import coco_table
from hydrakit.data.declared.files import is_image_name, suffix_of
from hydrakit.data.declared.guess_columns import from_columns
from hydrakit.data.declared.guess_text import (
    MAX_CLASSES,
    SPLIT_WORDS,
    GuessedCases,
    are_patients,
    comment,
    patient_line,
    quoted,
    split_lines,
)
from hydrakit.data.declared.schema import SPLIT
from hydrakit.data.declared.tables import MAX_TABLE_BYTES, may_be_table, read_columns
from hydrakit.data.safe_paths import open_file, path_fault, resolve_inside
from hydrakit.errors import DataError, one_line
from hydrakit.stats.label_cells import SEPARATOR

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def from_folders(images: Sequence[str]) -> GuessedCases | None:
    """Derive a pattern over paths, if one level of folders looks like classes."""
    images = [name for name in images if "/" in name]
    depth = min((name.count("/") for name in images), default=0)
    deeper = any(name.count("/") > depth for name in images)
    levels = [Counter(name.split("/")[level] for name in images) for level in range(depth)]
    split = next((i for i, names in enumerate(levels) if _are_splits(names)), None)
    candidates = [level for level, names in enumerate(levels) if level != split and len(names) >= 2]
    classes = [level for level in candidates if not are_patients(levels[level])]
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
    tables = split_lines([] if split is None else list(levels[split]))
    lines = [f"pattern = {quoted('/'.join(pattern))}"]
    people = ""
    if patient is not None:
        people = patient_line("{patient}", [name.split("/")[patient] for name in images])
        lines.insert(0, "# Check that each {patient} is one person, with a name of its own.")
        if any(level > patient for level in rest):
            lines.insert(
                1,
                "# Check: if a folder below {patient} is one finding (lesion), write {finding} for "
                "its *,\n# so that it counts once however many images it has.",
            )
    labels = sorted({name.strip() for name in levels[label]} - {""})
    return GuessedCases(tuple(lines), tuple(tables), "classification", tuple(labels), people)


def _are_splits(names: Mapping[str, int]) -> bool:
    return len(names) > 1 and all(name.lower() in SPLIT_WORDS for name in names)


def _literal(names: Mapping[str, int]) -> str:
    """Return the name of a level with only one folder, if a pattern allows it; else ``*``."""
    name = next(iter(names))
    plain = len(names) == 1 and not set(name) & set("{}*?#") and path_fault(name) is None
    return name if plain else "*"


def from_tables(folder: Path, files: Sequence[str]) -> tuple[GuessedCases | None, list[str]]:
    """Use the first table in the folder that has a column of paths and one of labels.

    Returns:
        What it gives, and the name of each other table with the reason why it is not used.
    """
    chosen: GuessedCases | None = None
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
        cases = path and from_columns(name, {"path": path}, columns)
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
            inside = f"cases = {quoted(f'{folder.resolve().name}/{name}')}"
            chosen = replace(cases, lines=(inside,), above=True)
        else:
            line = f"# Check: the column {comment(path)} names files without folder or suffix."
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
        if is_image_name(first):
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


def from_coco(folder: Path, files: Sequence[str]) -> GuessedCases | None:
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
        f"cases = {quoted(template)}",
    ]
    people = (
        "# Check: all boxes of an image stay in one split. If patients have several images,\n"
        "# declare them, or results will be too optimistic."
    )
    return GuessedCases(
        tuple(lines), tuple(split_lines(splits)), "classification", tuple(classes), people
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


def from_split_arrays(folder: Path, images: Sequence[str]) -> GuessedCases | None:
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
        tables += [f"image = {quoted(image)}", f"label = {quoted(several)}", *split_lines(splits)]
        source = GuessedCases(
            (f"cases = {quoted(images[0])}",),
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
        columns_source = from_columns(images[0], {"image": image}, columns)
        if columns_source is None:
            return None
        source = replace(columns_source, tables=(*columns_source.tables, *split_lines(splits)))
    return replace(source, member=found[image][0])


def from_npz(folder: Path, images: Sequence[str]) -> GuessedCases | None:
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
    return from_columns(images[0], {"image": image}, columns)
