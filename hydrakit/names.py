"""Rules for names of datasets, heads, strategies and commands."""

from __future__ import annotations

import re

# Commands of the program itself; no plugin may replace them.
OWN_COMMANDS = (
    "cache",
    "clean",
    "compare",
    "completion",
    "datasets",
    "doctor",
    "evaluate",
    "export",
    "finish",
    "heads",
    "job",
    "models",
    "order",
    "plan",
    "plugins",
    "predict",
    "report",
    "run",
    "status",
    "tune",
    "verdict",
    "verify",
    "weights",
)

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"


DEVICE_NAMES = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")
"""Names that mean devices on Windows, also with a suffix, so that no file can have them."""


def is_name(name: object) -> bool:
    """Whether a dataset, head or strategy may have this name, which is also used for files."""
    return (
        isinstance(name, str)
        and re.fullmatch(NAME_PATTERN, name) is not None
        and DEVICE_NAMES.fullmatch(name) is None
    )
