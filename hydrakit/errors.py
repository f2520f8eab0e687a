"""Errors that users can correct.

For a `HydrakitError` the command line prints only the message, on one line, and exits with status
1. The message says which value is wrong, why, and how to correct it; it names the file if a file is
wrong. Exceptions of plugins become such messages too (`hydrakit.plugins.guard`). Any other
exception is a bug in hydrakit and keeps its traceback.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

__all__ = ["DataError", "HydrakitError", "PlanError", "PluginError", "WeightsError"]


class HydrakitError(Exception):
    """An error with a message that says what the user must change."""


class PluginError(HydrakitError):
    """A plugin cannot be loaded, is invalid, or clashes with another plugin."""


class PlanError(HydrakitError):
    """A plan or a setting is invalid, or does not match the run folder."""


class DataError(HydrakitError):
    """Files of a dataset are missing or damaged, or there are too few of them."""


class WeightsError(HydrakitError):
    """A weight file is invalid, or a head does not match the body."""


def printable(text: str) -> str:
    r"""Return text in which no character acts, whatever it came from.

    Control characters (also those from 128 to 159, which some terminals obey), line ends, bidi
    controls and other invisible characters become escapes such as ``\x1b``; spaces of other
    widths become plain spaces. The command line, log files, progress lines and pages all print
    text through this function.
    """
    if text.isprintable():
        return text
    import unicodedata

    return "".join(
        each
        if each.isprintable()
        else " "
        if unicodedata.category(each) == "Zs"
        else ascii(each)[1:-1]
        for each in text
    )


def one_line(text: str, most: int = 2000) -> str:
    """Return `printable` text with single spaces for all white space, cut after ``most``."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else f"{line[:most]}..."


def utf8(text: str) -> str:
    r"""Text that can be encoded: bytes of a path that are not UTF-8 are written as ``\xff``."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def command_line(*words: object) -> str:
    """Return a command, or a part of one, as a user can paste it into a POSIX shell.

    Every message and report that suggests a command with a path, a name or a value uses this.
    """
    return utf8(shlex.join(map(str, words)))


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name; it suggests the nearest known name, or lists all."""
    import difflib  # here: every command imports this module

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"unknown {kind} {name!r}: did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}: known are {', '.join(names) or 'none'}"
