"""Files that a table names without their folder or their suffix."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from hydrakit.data.declared.files import companions, is_image_name, list_files
from hydrakit.data.safe_paths import quote, resolve_inside, same_form
from hydrakit.data.volumes.names import stem_of
from hydrakit.errors import DataError
from hydrakit.hooks import Remark


class FolderImages:
    """Images below a root by the name of their folder, for ``match = "folder"``.

    Args:
        root: Resolved folder of the files.
        follow: Whether to look in linked folders, too.
    """

    def __init__(self, root: Path, *, follow: bool = False) -> None:
        self._images: dict[str, list[str]] = defaultdict(list)
        self._by_end: dict[str, list[str]] = defaultdict(list)
        for path in list_files(root, tolerant=True, follow=follow):
            if is_image_name(path):
                name = _folder(path)
                self._images[name].append(path)
                self._by_end[name.rpartition("_")[2]].append(path)

    def find(self, path: str) -> list[str]:
        """Return the images in the folder of a path, by its name, or by ``X_`` and its name."""
        name = _folder(path)
        return (self._images.get(name) or self._by_end.get(name, [])) if name else []

    def only(self, path: str) -> str:
        """Return the image in the folder of a path; the path itself if there is none.

        Raises:
            ValueError: There are several.
        """
        images = self.find(path)
        if len(images) > 1:
            raise ValueError(
                f"path {quote(path)} may be {quote(images[0])} or {quote(images[1])}: with "
                'match = "folder", a folder has one image'
            )
        return images[0] if images else path


def _folder(path: str) -> str:
    return same_form(path.rpartition("/")[0].rpartition("/")[2])


class FileNames:
    """Files below a folder, by their names with and without the suffix of an image.

    Args:
        paths: Paths of the files, with ``/``.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._by_name: dict[str, list[str]] = defaultdict(list)
        self._by_number: dict[str, list[str]] = defaultdict(list)
        images = [path for path in paths if is_image_name(path)]
        self._masks = companions(images)
        for path in paths:
            self._by_name[_last(path)].append(path)
        for path in images:
            stem = _stem(_last(path))
            self._by_name[stem].append(path)
            if stem.isdecimal():
                self._by_number[stem.lstrip("0")].append(path)

    def find(self, name: str) -> list[str]:
        """Return the files of a name, which may have folders; masks only if nothing else has it."""
        *folders, last = PurePosixPath(same_form(name)).parts or ("",)
        below = [
            path
            for path in self._by_name.get(last, ())
            if not folders or same_form(path).split("/")[:-1][-len(folders) :] == folders
        ]
        return [path for path in below if path not in self._masks] or below

    def with_zeros(self, name: str) -> list[str]:
        """Return the files whose name is a number that differs from this one in zeros before it."""
        stem = _stem(name)
        return self._by_number.get(stem.lstrip("0"), []) if stem.isdecimal() else []


def _last(path: str) -> str:
    return same_form(path.rpartition("/")[2])


def _stem(name: str) -> str:
    return stem_of(name) if is_image_name(name) else name


def match_names(
    root: Path, named: Iterable[tuple[str, str]], *, follow: bool = False
) -> tuple[dict[str, str], Iterator[Remark]]:
    """Find the files that a table names without their folder or suffix.

    Args:
        root: Resolved folder of the files.
        named: Place in the table, and path, of each file.
        follow: Whether to look in linked folders, too.

    Returns:
        Path of each such file, and what users must know. A file that no other has the name of is
        left out.

    Raises:
        DataError: Several files have a name, or a spreadsheet may have removed zeros before it.
    """
    absent = {
        path: where
        for where, path in named
        if not ("/" in path and is_image_name(path)) and not file_exists(root, path)
    }
    matched: dict[str, str] = {}
    if not absent:
        return matched, iter(())
    names = FileNames(list_files(root, tolerant=True, follow=follow))
    for path, where in absent.items():
        found = names.find(path)
        if len(found) > 1:
            raise DataError(
                f"{where}: path {quote(path)} may be {quote(found[0])} or {quote(found[1])}: write "
                "the paths with their folders and suffixes"
            )
        if found:
            matched[path] = found[0]
    for path, where in absent.items():
        others = [other for other in names.with_zeros(path) if other not in matched.values()]
        if path not in matched and others:
            raise DataError(
                f"{where}: path {quote(path)}: there is no such file, but {quote(others[0])}: if a "
                "spreadsheet removed the zeros, export this column as text"
            )
    return matched, _remarks(matched)


def file_exists(root: Path, path: str) -> bool:
    """Whether there is a file of a path, in any Unicode form of its name."""
    if os.path.lexists(root / path):
        return True
    try:
        resolve_inside(root, path, follow=True)
    except OSError:
        return False
    return True


def _remarks(matched: dict[str, str]) -> Iterator[Remark]:
    for first, file in matched.items():
        yield Remark(
            text=f"path: {len(matched)} names without a folder or a suffix are matched to files of "
            f"that name (first {quote(first)}: {quote(file)})"
        )
        return
