"""Checks of a plugin's import, which every command of hydrakit waits for."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from hydrakit.errors import one_line
from hydrakit.testing.fresh_import import BEGIN, END, PROGRAM
from hydrakit.testing.properties import Property, PropertySkipped

LIMIT = 0.3
"""Seconds that the import of a plugin may take."""

REPEATS = 3  # of an import that takes longer: the disk or another program may be to blame
SLOW = 0.05  # seconds of a package from which it is named

_LINE = re.compile(r"import time:\s*\d+ \|\s*(\d+) \| ( *)(\S+)\s*$")


@dataclass(frozen=True)
class ImportedPackage:
    """A package of others that a plugin imported.

    Attributes:
        name: Its name; a module of hydrakit has its whole name.
        seconds: Time that its import took.
    """

    name: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class FreshImport:
    """What the import of a plugin in a process of its own did.

    Attributes:
        seconds: Time of the import and of the calls of its hooks.
        error: Why it failed, on one line.
        changed: Parts of the process's state that it changed.
        warnings: Warnings that it caused.
        printed: What it printed.
        packages: Packages of others that it imported, the slowest first.
    """

    seconds: float
    error: str | None
    changed: Sequence[str]
    warnings: Sequence[str]
    printed: str
    packages: Sequence[ImportedPackage]


def import_afresh(module: str, folder: Path) -> FreshImport:
    """Import a plugin in a process of its own.

    Args:
        module: Module that its entry point names.
        folder: Folder for a temporary file.

    Raises:
        AssertionError: The import ended the process.
    """
    file = folder / "import.json"
    file.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-X", "importtime", "-c", PROGRAM, module, str(file)]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="backslashreplace",
    )
    lines = done.stderr.splitlines()
    begin = lines.index(BEGIN) if BEGIN in lines else 0
    lines = lines[begin + 1 : lines.index(END) if END in lines else None]
    said = [_LINE.sub("", line) for line in lines]
    printed = "\n".join([*done.stdout.splitlines(), *filter(None, said)])
    if not file.is_file():
        last = one_line((printed.splitlines() or ["it printed nothing"])[-1], 200)
        raise AssertionError(
            f"the import ended the process with status {done.returncode} ({last}): remove what "
            "ends it"
        )
    result = json.loads(file.read_text(encoding="utf-8"))
    own = module.partition(":")[0].partition(".")[0]
    return FreshImport(**result, printed=printed, packages=imported_packages(lines, own))


def imported_packages(lines: Iterable[str], own: str) -> list[ImportedPackage]:
    """The packages that the modules of a package imported, the slowest first.

    Args:
        lines: Lines that ``python -X importtime`` printed: a module comes after those that it
            imported, which are indented further.
        own: Name of the package itself.
    """
    seconds: Counter[str] = Counter()
    inside: int | None = None  # indent of the package whose own imports the lines before are
    for line in reversed(list(lines)):
        match = _LINE.search(line)
        if match is None:
            continue
        indent, name = len(match[2]), match[3]
        if inside is not None and indent > inside:
            continue
        top = name.partition(".")[0]
        inside = None if top == own else indent
        if inside is not None:
            seconds[name if top == "hydrakit" else top] += int(match[1])
    return [ImportedPackage(name, each / 1e6) for name, each in seconds.most_common()]


@dataclass(frozen=True)
class ImportSubject:
    """A plugin whose import is checked.

    Attributes:
        module: Module that its entry point names.
        folder: Folder for temporary files.
        limit: Seconds that the import may take.
    """

    module: str
    folder: Path
    limit: float = field(default=LIMIT)

    @cached_property
    def result(self) -> FreshImport:
        """The import; of a slow one, the fastest of several."""
        first = import_afresh(self.module, self.folder)
        if first.seconds <= self.limit or first.error:
            return first
        again = (import_afresh(self.module, self.folder) for _ in range(REPEATS - 1))
        return min([first, *again], key=lambda each: each.seconds)

    @property
    def imported(self) -> FreshImport:
        """The import, if it succeeded.

        Raises:
            PropertySkipped: It did not.
        """
        try:
            result = self.result
        except AssertionError:
            raise PropertySkipped("it cannot be imported") from None
        if result.error:
            raise PropertySkipped("it cannot be imported")
        return result

    def says(self, error: str) -> bool:
        """Whether the fault of the import already has the text of an error."""
        try:
            return error in (self.result.error or "")
        except AssertionError:  # it ended the process
            return False


def _is_plugin(subject: ImportSubject) -> str:
    error = subject.result.error
    assert not error, error
    return ""


def _is_quick(subject: ImportSubject) -> str:
    imported = subject.imported
    spent = f"{imported.seconds:.2f} s"
    if imported.seconds <= subject.limit:
        return spent
    slow = [each for each in imported.packages if each.seconds >= SLOW] or imported.packages[:1]
    which = ", ".join(f"{each.name} ({each.seconds:.2f} s)" for each in slow)
    remedy = (
        f"it imports {which}: import that inside the functions that need it"
        if which
        else "its own code takes that long: do that work inside the functions that need it"
    )
    raise AssertionError(
        f"it takes {spent}, over {subject.limit:g} s, which every command waits for; {remedy}"
    )


def _prints_nothing(subject: ImportSubject) -> str:
    printed = subject.imported.printed
    first = one_line((printed.splitlines() or [""])[0], 80)
    assert not printed, f"it printed {first!r}: every command would print it; remove it"
    return ""


def _warns_of_nothing(subject: ImportSubject) -> str:
    caught = subject.imported.warnings
    assert not caught, f"it causes the warning {caught[0]!r}: correct what it warns of"
    return ""


def _changes_nothing(subject: ImportSubject) -> str:
    changed = ", ".join(subject.imported.changed)
    assert not changed, (
        f"it changed {changed}, for the whole process: do that inside the functions that need it, "
        "and put it back"
    )
    return ""


IMPORT_PROPERTIES = (
    Property("can be imported, and its hooks are valid", _is_plugin),
    Property("its import is quick", _is_quick),
    Property("its import prints nothing", _prints_nothing),
    Property("its import causes no warning", _warns_of_nothing),
    Property("its import changes nothing in the process", _changes_nothing),
)
"""Properties of a plugin's import."""
