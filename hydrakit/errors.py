"""The failures that are the user's to mend.

The command line prints the message of a `HydrakitError` alone, on one line, with exit status 1.
A message says which value is wrong, why, and what would be right, and names the file where a file
is at fault. What a plugin's function raises becomes such a message too
(`hydrakit.plugins.guard`). Every other exception is a bug in hydrakit and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HydrakitError(Exception):
    """A failure whose message tells the user what to change."""


class PluginError(HydrakitError):
    """A plugin cannot be loaded, offers something invalid, or clashes with another."""


class PlanError(HydrakitError):
    """A plan or one of its settings is impossible, or does not fit its run folder."""


class DataError(HydrakitError):
    """A dataset's files are absent, broken or too few for what is asked of them."""


class WeightsError(HydrakitError):
    """A weight file is not what it should be, or does not fit the other one."""


def one_line(text: str, most: int = 2000) -> str:
    """Text for a terminal: on one line, no character that would be obeyed, and not too long."""
    shown = "".join(
        each if each.isprintable() else ascii(each)[1:-1] for each in " ".join(text.split())
    )
    return shown if len(shown) <= most else f"{shown[:most]}..."


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that nobody offers: the nearest known one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"unknown {kind} {name!r}: did you mean {near[0]!r}?"
    return f"unknown {kind} {name!r}: known are {', '.join(names) or 'none'}"
