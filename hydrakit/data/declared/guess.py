"""Draft of a ``dataset.toml`` for a folder of images, with comments on what to check.

A person must correct the draft: every line that may be wrong has a comment with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from hydrakit.data.archives import unpack_hint
from hydrakit.data.declared.arrays import ImageError, channel_axis, open_array
from hydrakit.data.declared.columns import POINT
from hydrakit.data.declared.files import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    companions,
    describe_files,
    is_dicom,
    is_image_name,
    linked_folders,
    list_files,
)
from hydrakit.data.declared.guess_sources import (
    from_coco,
    from_folders,
    from_npz,
    from_split_arrays,
    from_tables,
)
from hydrakit.data.declared.guess_text import GuessedCases, are_patients, comment, quoted
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.masks import guess_template
from hydrakit.data.declared.picture import Picture
from hydrakit.data.declared.schema import FILE, MAX_CLASS, ImageRules
from hydrakit.data.volumes.formats import open_volume
from hydrakit.data.volumes.names import is_volume_name
from hydrakit.errors import DataError, one_line
from hydrakit.names import is_name

MAX_FILES = 200_000
MAX_SAMPLED = 24
MAX_PATCH_SIDE = 64  # pixels: images of one size up to this are probably cut out of larger ones


def dataset_name(folder: Path) -> str:
    """Return the name of the dataset whose ``dataset.toml`` lies in a folder."""
    name = folder.resolve().name
    if is_name(name):
        return name
    name = re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64]
    return name if is_name(name) else "mydata"


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
    images = [name for name in files if is_image_name(name)]
    images = images or [name for name in files if is_dicom(folder / name)]
    if not images:
        raise _no_image_error(folder, files)
    masks = companions(images)
    images = [name for name in images if name not in masks]
    cases, unused = from_tables(folder, files)
    cases = cases or from_coco(folder, files)
    cases = cases or from_split_arrays(folder, images) or from_npz(folder, images)
    cases = cases or from_folders(images)
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
            *(f"# Not used: {comment(reason)}" for reason in unused),
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
        f"{folder}: holds no image that hydrakit reads ({', '.join(IMAGE_SUFFIXES)}, or DICOM), "
        f"but {describe_files(files)}: {remedy}"
    )


def _with_printable_names(cases: GuessedCases) -> GuessedCases:
    """Give every class a printable name of valid length; map other labels to such names."""
    names: dict[str, str] = {}
    for label in cases.labels:
        printable = "".join(c if c.isprintable() else "_" for c in label.strip())[:MAX_CLASS]
        while printable in names.values():
            printable = f"{printable[: MAX_CLASS - 4]}-{len(names)}"
        names[label] = printable
    if [label.strip() for label in names] == list(names.values()):
        return cases
    lines = [f"{quoted(label)} = {quoted(name)}" for label, name in names.items()]
    tables = (*cases.tables, "", "[labels]", *lines)
    return replace(cases, labels=tuple(names.values()), tables=tables)


def _description_lines(folder: Path) -> list[str]:
    slug = dataset_name(folder)
    if slug == folder.resolve().name:
        lines = [f"name = {quoted(slug)}  # as the folder"]
    else:
        lines = [
            f"name = {quoted(slug)}  # the folder's name is not a dataset name: rename it so, "
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
        lines.append(f"root = {quoted(root)}  # the paths begin with {comment(folder.name)!r}")
    elif folder.resolve() != place.resolve():
        lines.append(f"root = {quoted(str(folder.resolve()))}  # folder of the images")
    if links:
        first = comment(links[0])
        lines.append(f"follow_links = true  # linked folders: {len(links)} (first {first})")
    return lines


def _class_lines(cases: GuessedCases) -> list[str]:
    labels = list(cases.labels)
    lines = [""]
    if cases.task != "classification":
        lines.append(f"task = {quoted(cases.task)}  # guessed from the labels")
    if cases.task == "regression":
        return [*lines, 'classes = ["value"]  # name and unit of the number']
    while len(labels) < 2:
        lines.append("# Only one class was detected: correct the name of the other one.")
        labels.insert(0, "other" if "other" not in labels else "another")
    names = ", ".join(map(quoted, labels))
    if cases.task == "classification":
        lines.append("# Check: of two classes, the second is the positive one.")
    return [*lines, f"classes = [{names}]"]


def _image_lines(folder: Path, images: Sequence[str], cases: GuessedCases) -> list[str]:
    """Describe a sample of the images, and propose a field of view."""
    pictures, faults = _sample_images(folder, images, cases)
    lines = ["", f"# Image files: {len(images)}. Images that were read: {len(pictures)}."]
    kinds = Counter(
        f"{p.facts['format']}, mode {p.facts['mode']}, {p.facts['bits']:g} bits" for p in pictures
    )
    sizes = Counter(f"{p.facts['width']:g} x {p.facts['height']:g}" for p in pictures)
    spacings = Counter(p.spacing for p in pictures if p.spacing)
    lines += [f"#   {comment(kind)}: {count}" for kind, count in kinds.most_common(5)]
    if len(kinds) > 1:
        lines.append("# Check that the kind of file does not reveal the class.")
    if faults:
        path, reason = next(iter(faults.items()))
        lines.append(f"# Not usable as it is: {len(faults)} (first {comment(path)}: {reason}).")
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


def _choose_slices(images: Sequence[str], masks: Mapping[str, str], cases: GuessedCases) -> bool:
    """Whether the masks choose the slice of each case: all images are volumes that have one."""
    with_slice = {*POINT, "slice"} & cases.columns
    volumes = all(map(is_volume_name, images)) and set(images) == set(masks.values())
    return volumes and not with_slice and guess_template(masks) is not None


def _mask_lines(images: Sequence[str], masks: Mapping[str, str], cases: GuessedCases) -> list[str]:
    if not masks:
        return []
    mask, image = next(iter(masks.items()))
    first = comment(f"{mask}, of {image}")
    lines = [f"# Masks of other images, which are no cases: {len(masks)} (first {first})."]
    template = guess_template(masks)
    if template is None:
        return lines
    if _choose_slices(images, masks, cases):
        return [
            *lines,
            "# They choose slice and position of each case. To see 1.5 times the lesion:",
            "# field_of_view = { mask = 1.5 }  # in place of the line above",
            f"mask = {quoted(template)}",
        ]
    return [
        *lines,
        "# To take the position of the lesion from them, and to see 1.5 times the lesion:",
        f"# mask = {comment(quoted(template))}",
        "# field_of_view = { mask = 1.5 }  # in place of the line above",
    ]


def _case_lines(folder: Path, images: Sequence[str], cases: GuessedCases) -> list[str]:
    patients = cases.patients
    if not patients and any(is_dicom(path) for path in _spread(folder, images)):
        patients = (
            "# Check: PatientID of the DICOM files names the patients. Each must be one person.\n"
            "# If it is not, declare the patients, or results will be too optimistic."
        )
    elif not patients:
        patients = (
            "# Check: no patient was detected, so each image counts as its own patient. If\n"
            "# patients have several images, declare them, or results will be too optimistic."
        )
        folders = {each for name in images for each in name.split("/")[:-1] if are_patients([each])}
        if len(folders) > 1 and cases.columns:
            first = comment(min(folders))
            patients += (
                f"\n# {len(folders)} folders seem to name patients (first {first}): give the"
                "\n# table a column patient with these names."
            )
    return ["", patients, *cases.lines, *cases.tables]


def _channel_lines(folder: Path, images: Sequence[str], cases: GuessedCases) -> list[str]:
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
    folder: Path, images: Sequence[str], cases: GuessedCases, *, masked: bool
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
    if set(POINT) <= cases.columns:
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


def _sample_images(
    folder: Path, images: Sequence[str], cases: GuessedCases
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
                faults[path.relative_to(folder).as_posix()] = comment(one_line(reason, 200))
    return pictures, faults


def _spread(folder: Path, images: Sequence[str]) -> list[Path]:
    """Return the paths of a sample of images, spread over the list."""
    count = min(len(images), MAX_SAMPLED)
    return [folder / images[index * len(images) // count] for index in range(count)]
