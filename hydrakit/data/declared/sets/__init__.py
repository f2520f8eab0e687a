"""Shipped declarations of public datasets: their list, copies beside the data, and what is there.

Each ``NAME.toml`` in this folder is a ``dataset.toml`` for the layout of a download;
``catalogue.toml`` has what the set should contain.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hydrakit.data.declared.adapter import list_declared
from hydrakit.data.declared.by_name import file_exists
from hydrakit.data.declared.schema import FILE, Declaration, parse_declaration
from hydrakit.errors import DataError, unknown
from hydrakit.storage.files import write_atomic

FOLDER = Path(__file__).parent
MAX_SUBFOLDERS = 200  # in which the files of a set are looked for


@dataclass(frozen=True, kw_only=True)
class PublicSet:
    """What a public dataset should contain.

    Attributes:
        name: Name of the dataset.
        page: Address of its page.
        needs: Files and folders of the download, below its top.
        classes: Number of cases of each class; empty if not known.
        splits: Number of cases of each split; empty if the set has none.
        unlabelled: Number of cases whose label is not used.
        patients: What names the patients.
        pitfalls: What spoils results, in one line.
    """

    name: str
    page: str
    needs: tuple[str, ...]
    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    patients: str
    pitfalls: str

    @property
    def cases(self) -> int:
        """Number of cases."""
        return (sum(self.classes.values()) or sum(self.splits.values())) + self.unlabelled

    @property
    def path(self) -> Path:
        """The shipped declaration."""
        return FOLDER / f"{self.name}.toml"

    @property
    def declaration(self) -> Declaration:
        """The shipped declaration, parsed."""
        return parse_declaration(self.path)[0]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a folder has of a public dataset.

    Attributes:
        classes: Number of cases of each class.
        splits: Number of cases of each split that the set declares.
        unlabelled: Number of cases without a label.
        missing: Files and folders of the set that are not there; of images that a table names, the
            first one with their number.
        fault: Why the cases cannot be listed; empty if they can.
    """

    classes: dict[str, int] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    unlabelled: int = 0
    missing: tuple[str, ...] = ()
    fault: str = ""


@cache
def public_sets() -> dict[str, PublicSet]:
    """Return the public datasets that have a shipped declaration, by name, sorted."""
    content = tomllib.loads((FOLDER / "catalogue.toml").read_text(encoding="utf-8"))
    return {
        name: PublicSet(name=name, **{**content[name], "needs": tuple(content[name]["needs"])})
        for name in sorted(content)
    }


def public_set(name: str) -> PublicSet:
    """Return a public dataset.

    Raises:
        DataError: There is none of this name.
    """
    if name not in public_sets():
        raise DataError(f"{unknown('set', name, public_sets())} (hydrakit datasets add lists them)")
    return public_sets()[name]


def add_set(one: PublicSet, folder: Path, out: Path | None = None) -> str:
    """Copy the declaration of a public dataset beside its files.

    Args:
        one: The dataset.
        folder: Folder of its files, or the one above it.
        out: Folder of the declaration; None for ``folder``.

    Returns:
        Folder of the files, as the declaration names it: ``.`` for its own.

    Raises:
        DataError: There is no such folder, or a declaration already, or none can be written.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder: make it, and get {one.name}: {one.declaration.how_to_get}"
        )
    place = out or folder
    if (place / FILE).exists():
        raise DataError(f"{place / FILE}: exists already: edit it, or move it away first")
    top = _top(one, folder)
    root = "." if top == folder else top.name
    if place.resolve() != folder.resolve():
        root = str(top.resolve())
    text = one.path.read_text(encoding="utf-8")
    if root != ".":
        line = f"name = {json.dumps(one.name)}\n"
        above = f"root = {json.dumps(root, ensure_ascii=False)}  # folder of the files\n"
        text = text.replace(line, line + above, 1)
    try:
        place.mkdir(parents=True, exist_ok=True)
        write_atomic(place / FILE, text.encode())
    except OSError as error:
        remedy = "" if out else ": write it elsewhere with `--out FOLDER`"
        raise DataError(f"{place / FILE}: cannot be written ({error.strerror}){remedy}") from None
    return root


def contents_of(one: PublicSet, place: Path, files: Path) -> Contents:
    """Count the cases of a public dataset, without reading images.

    Args:
        one: The dataset.
        place: Folder of its declaration.
        files: Top folder of its files.
    """
    missing = [name for name in one.needs if not (files / name).exists()]
    try:
        declaration, cases = list_declared(place)
    except DataError as error:
        return Contents(missing=tuple(missing), fault=str(error))
    classes, splits = Counter[str](), Counter[str]()
    absent: list[str] = []
    for case in cases:
        if isinstance(case.label, int):
            classes[declaration.classes[case.label]] += 1
        if case.split is not None:
            splits[case.split] += 1
        absent += [at.file for at in case.channels if not file_exists(files, at.file)]
    if absent:
        missing.append(f"{len(absent)} images of {len(cases)} (first {absent[0]})")
    return Contents(
        classes=dict(classes),
        splits=dict(splits),
        unlabelled=sum(case.label is None for case in cases),
        missing=tuple(missing),
    )


def _top(one: PublicSet, folder: Path) -> Path:
    """The folder with the files of a set: the given one, or else one in it that has more of them.

    Raises:
        DataError: The folder cannot be listed.
    """
    try:
        inner = sorted(each for each in folder.iterdir() if each.is_dir())[:MAX_SUBFOLDERS]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    inner = [each for each in inner if not each.name.startswith(".")]
    return max((folder, *inner), key=lambda each: sum((each / name).exists() for name in one.needs))
