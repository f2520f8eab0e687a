"""Files below the folder of a declared dataset: masks, and files that a pattern leaves."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from hydrakit.data.declared.patterns import MAX_DEPTH, compile_pattern, nearly_matches
from hydrakit.data.safe_paths import open_file, quote, same_form
from hydrakit.data.volumes.names import SUFFIXES as VOLUME_SUFFIXES
from hydrakit.data.volumes.names import stem_of
from hydrakit.errors import DataError
from hydrakit.hooks import Remark

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".pgm", ".ppm", ".gif", ".webp"),
    *(".jp2", ".j2k", ".npy", ".npz", ".dcm", ".ima"),
    *VOLUME_SUFFIXES,
)
OTHER_SUFFIXES = {  # files of images that hydrakit does not read, and what helps
    ".svs": "save the regions as PNG or TIFF",
    ".zip": "unpack it",
    ".tar": "unpack it",
    ".gz": "unpack it",
    ".7z": "unpack it",
    ".rar": "unpack it",
}

_MASK = "mask|masks|seg|segm|segmentation|segmentations"
_MASK_FOLDER = re.compile(rf"({_MASK}|annotations|contours|groundtruth|gt)", re.I)
_MASK_STEM = re.compile(rf"(?P<image>.+?)[ _.-]+({_MASK}|gt|groundtruth)([ _.-]?\d+)?", re.I)
_INDEX = re.compile(r"#\[\d+\]$")
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def is_image_name(path: str) -> bool:
    """Whether a path has the suffix of an image."""
    return path.lower().endswith(IMAGE_SUFFIXES)


def is_dicom(path: Path) -> bool:
    """Whether a file begins like a DICOM file (PS3.10 section 7.1), whatever its name is."""
    try:
        with open_file(path) as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def list_files(
    folder: Path, *, most: int | None = None, tolerant: bool = False, follow: bool = False
) -> list[str]:
    """List the paths of the files below a folder, with ``/``, sorted, without hidden files.

    Args:
        folder: Folder to list.
        most: Number of files above which the folder is refused; None for no limit.
        tolerant: Leave out folders that cannot be listed or are too deep, instead of an error.
        follow: Follow links to folders, each folder once.

    Raises:
        DataError: A folder cannot be listed or is too deep, or there are too many files.
    """
    paths: list[str] = []
    visited = {os.path.realpath(folder)}

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}")

    onerror = None if tolerant else fail
    for base, folders, files in os.walk(folder, onerror=onerror, followlinks=follow):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if follow:
            reals = {name: os.path.realpath(Path(base) / name) for name in folders}
            folders[:] = [name for name in folders if reals[name] not in visited]
            visited |= set(reals.values())
        relative = Path(base).relative_to(folder)
        if len(relative.parts) >= MAX_DEPTH and folders:
            if not tolerant:
                raise DataError(
                    f"{folder}: has folders over {MAX_DEPTH} levels deep: write dataset.toml by "
                    "hand"
                )
            folders.clear()
        paths += [(relative / n).as_posix() for n in sorted(files) if not n.startswith(".")]
        if most is not None and len(paths) > most:
            raise DataError(f"{folder}: has over {most} files: write dataset.toml by hand")
    return paths


def linked_folders(folder: Path) -> list[str]:
    """List the links to folders below a folder, as paths with ``/``; those in them are left out."""
    links: list[str] = []
    for base, folders, _ in os.walk(folder):
        below = Path(base).relative_to(folder)
        names = sorted(name for name in folders if not name.startswith("."))
        links += [(below / name).as_posix() for name in names if (Path(base) / name).is_symlink()]
        folders[:] = names if len(below.parts) < MAX_DEPTH else []
    return links


def describe_files(files: Iterable[str]) -> str:
    """Count files by suffix, as text: ``30 .bmp, 2 .zip``."""
    counted = Counter(suffix_of(name) or "without a suffix" for name in files)
    return ", ".join(f"{n} {suffix}" for suffix, n in counted.most_common(4)) or "no files"


def suffix_of(path: str) -> str:
    """Return the suffix of a path, ``.nii.gz`` as one; empty if it is none of ordinary length."""
    name = path.rpartition("/")[2]
    ending = ".nii.gz" if name.lower().endswith(".nii.gz") else PurePosixPath(name).suffix
    return ending if ending.isprintable() and len(ending) <= 12 else ""


def companions(paths: Collection[str]) -> dict[str, str]:
    """Find masks of other images: ``x_mask.png`` beside ``x.png``, ``masks/x.png`` for any ``x``.

    Args:
        paths: Paths of images, with ``/``.

    Returns:
        The image of each mask.
    """
    common = len(os.path.commonpath([path.rpartition("/")[0] for path in paths] or [""]))
    images: dict[str, str] = {}  # outside of folders of masks
    in_folder: dict[tuple[str, str], str] = {}
    for path in paths:
        folder, stem = _folder_and_stem(path)
        in_folder.setdefault((folder, stem), path)
        if not _is_mask_folder(folder[common:]):
            images.setdefault(stem, path)
    masks: dict[str, str] = {}
    for path in paths:
        folder, stem = _folder_and_stem(path)
        match = _MASK_STEM.fullmatch(stem)
        base = match["image"] if match else stem
        if _is_mask_folder(folder[common:]):
            image = images.get(stem) or images.get(base)
        else:
            image = in_folder.get((folder, base)) if match else None
        if image is not None:
            masks[path] = image
    return masks


def _folder_and_stem(path: str) -> tuple[str, str]:
    folder, _, name = path.rpartition("/")
    return folder, stem_of(_INDEX.sub("", same_form(name)))


def _is_mask_folder(folder: str) -> bool:
    return any(
        _MASK_FOLDER.fullmatch(token)
        for name in folder.split("/")
        for token in (name.replace("_", "").replace(" ", ""), *_TOKEN.findall(name))
    )


def remarks_on_files(
    root: Path,
    pattern: str,
    matched: Collection[str],
    masks: Mapping[str, str],
    *,
    follow: bool = False,
) -> Iterator[Remark]:
    """Yield what users must know about the files below a root that are no cases.

    Args:
        root: Folder of the dataset's files.
        pattern: Pattern that selects them.
        matched: Files that it selects.
        masks: Those of them that are masks, each with its image.
        follow: Whether links to folders are followed.
    """
    if masks:
        mask, image = next(iter(masks.items()))
        yield Remark(
            text=f"{_count(len(masks))} left out as masks of other images (first {quote(mask)}, of "
            f'{quote(image)}): if they are cases, write masks = "cases" into dataset.toml',
            warning=True,
        )
    names, member = compile_pattern(pattern)
    links = [] if follow else linked_folders(root)
    if links:
        yield Remark(
            text=f"{_count(len(links), 'linked folder')} not followed by ** (first "
            f"{quote(links[0])}): to use their files, write follow_links = true into dataset.toml",
            warning=True,
        )
    used = {path.removesuffix(member) for path in matched}
    folders = {path.rpartition("/")[0] for path in used}
    known = (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    listed = list_files(root, tolerant=True, follow=follow)
    left = [path for path in listed if path not in used and path.lower().endswith(known)]
    near = [
        path
        for path in left
        if is_image_name(path)
        and (path.rpartition("/")[0] in folders or nearly_matches(path, names))
    ]
    if near:
        yield Remark(
            text=f"{_count(len(near))} beside the cases or below them, but not selected by the "
            f"pattern: {describe_files(near)} (first {quote(near[0])}): change the pattern if they "
            "are cases",
            warning=True,
        )
    others = [path for path in left if path not in set(near)]
    if others:
        yield Remark(text=f"other files that are not used: {describe_files(others)}")


def _count(number: int, what: str = "file") -> str:
    return f"1 {what} is" if number == 1 else f"{number} {what}s are"
