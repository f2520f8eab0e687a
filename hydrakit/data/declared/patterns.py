"""Path patterns: they select a dataset's case files and take labels and patients from the paths."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydrakit.data.safe_paths import forms_of, path_fault, quote
from hydrakit.errors import DataError

PARTS = ("label", "patient", "group", "finding", "split", "key")
MASK_PARTS = ("folder", "stem")
"""Parts of the key ``mask``, besides those of the pattern."""
PLACE = re.compile(r"\{([^{}]*)\}")
MAX_WILDCARDS = 3
"""Maximum wildcards and parts in one name: with more, matching some names takes very long."""
MAX_DEPTH = 64

_MEMBER = re.compile(r"(?P<files>.+)(?P<member>(?<=\.np[yz])#.*|#\[\d{1,12}\])", re.DOTALL)
_TOKEN = re.compile(r"\{(?P<part>[^{}]*)\}|(?P<wild>[*?])|(?P<text>[^{}*?]+)|(?P<bad>.)", re.DOTALL)

Names = Sequence[re.Pattern[str] | None]  # of the folders and then the file; None is **


def part_names(pattern: str) -> list[str]:
    """Return the names of a pattern's parts, in order."""
    return [match["part"] for match in _TOKEN.finditer(pattern) if match["part"] is not None]


def compile_pattern(pattern: str) -> tuple[Names, str]:
    """Compile a pattern into one expression per folder and file name, and its ``#member`` or "".

    Raises:
        ValueError: The pattern is invalid; the message gives the reason.
    """
    match = _MEMBER.fullmatch(pattern)
    files, member = (match["files"], match["member"]) if match else (pattern, "")
    fault = path_fault(files)
    if fault:
        raise ValueError(f"pattern: {quote(files)} {fault}")
    parts = part_names(files)
    for part in parts:
        if part not in PARTS:
            known = ", ".join(f"{{{name}}}" for name in PARTS)
            raise ValueError(f"pattern: unknown part {quote(part)}: the parts are {known}")
        if parts.count(part) > 1:
            raise ValueError(f"pattern: {{{part}}} occurs twice: write * for one of them")
    names = [name for name in files.split("/") if name not in ("", ".")]
    if names.count("**") > 1:
        raise ValueError("pattern: ** occurs twice: remove one")
    if files.endswith("/") or not names or names[-1] == "**":
        raise ValueError(
            f"pattern: {quote(files)} ends in a folder: end it in a file, such as *.png"
        )
    return [None if name == "**" else _compile_name(name) for name in names], member


def _compile_name(name: str) -> re.Pattern[str]:
    expression = ""
    wildcards = 0
    for match in _TOKEN.finditer(name):
        if match["bad"]:
            raise ValueError(
                f"pattern: a brace in {quote(name)} is not matched: close or remove it"
            )
        if match["part"] is not None:
            expression += f"(?P<{match['part']}>.+?)"
        elif match["wild"]:
            expression += ".*?" if match["wild"] == "*" else "."
        else:
            expression += f"(?:{'|'.join(map(re.escape, forms_of(match['text'])))})"
        wildcards += match["text"] is None
    if wildcards > MAX_WILDCARDS:
        raise ValueError(
            f"pattern: {quote(name)} has {wildcards} wildcards in one name: at most {MAX_WILDCARDS}"
        )
    return re.compile(expression, re.DOTALL)


def check_template(template: str, parts: Sequence[str]) -> None:
    """Check the key ``mask``.

    Args:
        template: Its value, such as ``{folder}/{stem}_mask*.png``.
        parts: Names of the parts of the pattern.

    Raises:
        ValueError: It is wrong; the message gives the reason.
    """
    known = (*MASK_PARTS, *parts)
    for name in PLACE.findall(template):
        if name not in known:
            names = ", ".join(f"{{{each}}}" for each in known)
            raise ValueError(f"mask: unknown part {quote(name)}: the parts are {names}")
    plain = PLACE.sub("x", template)
    fault = path_fault(plain)
    if fault or set(plain) & set("{}"):
        raise ValueError(f"mask: {quote(template)} {fault or 'has a brace that is not matched'}")
    if "*" in plain.rpartition("/")[0]:
        raise ValueError(
            f"mask: {quote(template)} has a * in a folder: it may be in the name alone"
        )
    if "stem" not in PLACE.findall(template) and "*" not in plain and not parts:
        raise ValueError(f"mask: {quote(template)} is the same for all images: add {{stem}}")


def nearly_matches(path: str, names: Names) -> bool:
    """Whether a file matches a compiled pattern but for upper and lower case, or lies deeper."""

    def match(parts: Sequence[str], expressions: Sequence[re.Pattern[str]]) -> bool:
        return all(
            re.fullmatch(expression.pattern, part, re.DOTALL | re.IGNORECASE)
            for part, expression in zip(parts, expressions, strict=True)
        )

    parts = path.split("/")
    fixed = [name for name in names if name is not None]
    free = next((i for i, name in enumerate(names) if name is None), len(fixed) - 1)
    if len(parts) < len(fixed):
        return False
    return match(parts[:free], fixed[:free]) and match(
        parts[len(parts) - len(fixed) + free :], fixed[free:]
    )


def match_files(
    root: Path, pattern: str, *, follow: bool = False
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the files that match a pattern, sorted by path, with the text of each named part.

    Names that begin with a dot are skipped.

    Args:
        root: Folder of the files.
        pattern: The pattern.
        follow: Whether ``**`` follows links to folders; a link to a folder around it is left out.

    Raises:
        DataError: A folder cannot be listed, or folders are nested too deeply.
    """
    names, member = compile_pattern(pattern)
    above = frozenset([os.path.realpath(root)]) if follow else None
    for path, parts in _match_files(root, "", names, {}, above):
        yield path + member, parts


def _match_files(
    root: Path, folder: str, names: Names, parts: dict[str, str], above: frozenset[str] | None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Match names in a folder; ``above``: real paths of those above it, to follow links."""
    if folder.count("/") > MAX_DEPTH:
        raise DataError(f"{root}: folders are over {MAX_DEPTH} levels deep: name them in pattern")
    name, rest = names[0], names[1:]
    if name is None:
        yield from _match_files(root, folder, rest, parts, above)
    for entry in _visible_entries(root / folder):
        path = folder + entry.name
        if name is None:
            if above is None and entry.is_dir(follow_symlinks=False):
                yield from _match_files(root, path + "/", names, parts, None)
            elif above is not None and _is_dir(entry):
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from _match_files(root, path + "/", names, parts, above | {real})
            continue
        match = name.fullmatch(entry.name)
        if match is None:
            continue
        texts = {**parts, **match.groupdict()}
        is_dir = _is_dir(entry)
        if rest and is_dir:
            yield from _match_files(root, path + "/", rest, texts, above)
        elif not rest and not is_dir:
            yield path, texts


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links; as a case, it becomes an Unusable
        return False


def _visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    return sorted(visible, key=lambda entry: entry.name)
