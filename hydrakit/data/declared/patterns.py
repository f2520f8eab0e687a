"""Patterns over paths: which files are cases, and what their folders tell about them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydrakit.data.safe_paths import path_fault, shown
from hydrakit.errors import DataError

PARTS = ("label", "patient", "group", "finding", "split", "key")
MAX_WILD = 3
"""Wildcards and parts in one name: with more, an unlucky name takes long to match."""
MAX_DEPTH = 64

_MEMBER = re.compile(r"(?P<files>.+\.np[yz])(?P<member>#.*)", re.DOTALL)
_TOKEN = re.compile(r"\{(?P<part>[^{}]*)\}|(?P<wild>[*?])|(?P<text>[^{}*?]+)|(?P<bad>.)", re.DOTALL)

Names = Sequence[re.Pattern[str] | None]  # of folders, and of the file at last; None stands for **


def parts_of(pattern: str) -> list[str]:
    """The named parts of a pattern, in order."""
    return [match["part"] for match in _TOKEN.finditer(pattern) if match["part"] is not None]


def compile_pattern(pattern: str) -> tuple[Names, str]:
    """A pattern's names from the top down, and the ``#member`` that it ends with, or "".

    Raises:
        ValueError: It is no pattern; the message says why.
    """
    match = _MEMBER.fullmatch(pattern)
    files, member = (match["files"], match["member"]) if match else (pattern, "")
    fault = path_fault(files)
    if fault:
        raise ValueError(f"pattern: {shown(files)} {fault}")
    parts = parts_of(files)
    for part in parts:
        if part not in PARTS:
            known = ", ".join(f"{{{name}}}" for name in PARTS)
            raise ValueError(f"pattern: unknown part {shown(part)}: known are {known}")
        if parts.count(part) > 1:
            raise ValueError(f"pattern: {{{part}}} is there twice: write * for one of them")
    names = [name for name in files.split("/") if name not in ("", ".")]
    if names.count("**") > 1:
        raise ValueError("pattern: ** is there twice: one is enough")
    if files.endswith("/") or not names or names[-1] == "**":
        raise ValueError(
            f"pattern: {shown(files)} ends in a folder: end it in a file, such as *.png"
        )
    return [None if name == "**" else _compile_name(name) for name in names], member


def _compile_name(name: str) -> re.Pattern[str]:
    expression = ""
    wild = 0
    for match in _TOKEN.finditer(name):
        if match["bad"]:
            raise ValueError(
                f"pattern: a brace of {shown(name)} has no other one: close or remove it"
            )
        if match["part"] is not None:
            expression += f"(?P<{match['part']}>.+?)"
        elif match["wild"]:
            expression += ".*?" if match["wild"] == "*" else "."
        else:
            expression += re.escape(match["text"])
        wild += match["text"] is None
    if wild > MAX_WILD:
        raise ValueError(
            f"pattern: {shown(name)} has {wild} wildcards in one name, {MAX_WILD} may be"
        )
    return re.compile(expression, re.DOTALL)


def find(root: Path, pattern: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The files of a pattern, folder by folder by name, and the text of each named part.

    Names that begin with a dot are passed over. ``**`` does not go through links.

    Raises:
        DataError: A folder cannot be listed, or there is no end of folders.
    """
    names, member = compile_pattern(pattern)
    for path, parts in _find(root, "", names, {}):
        yield path + member, parts


def _find(
    root: Path, folder: str, names: Names, parts: dict[str, str]
) -> Iterator[tuple[str, dict[str, str]]]:
    if folder.count("/") > MAX_DEPTH:
        raise DataError(f"{root}: folders lie more than {MAX_DEPTH} deep: name them in pattern")
    name, rest = names[0], names[1:]
    if name is None:
        yield from _find(root, folder, rest, parts)
    for entry in _listed(root / folder):
        path = folder + entry.name
        if name is None:
            if entry.is_dir(follow_symlinks=False):
                yield from _find(root, path + "/", names, parts)
            continue
        match = name.fullmatch(entry.name)
        if match is None:
            continue
        found = {**parts, **match.groupdict()}
        is_dir = _is_dir(entry)
        if rest and is_dir:
            yield from _find(root, path + "/", rest, found)
        elif not rest and not is_dir:
            yield path, found


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links: as a case, it is told as unusable
        return False


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    return sorted(visible, key=lambda entry: entry.name)
