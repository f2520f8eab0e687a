"""Rules for names of datasets, heads, strategies and commands."""

from __future__ import annotations

import re

# Commands of the program itself; no plugin may replace them.
OWN_COMMANDS = (
    "clean",
    "compare",
    "datasets",
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


def is_name(name: object) -> bool:
    """Whether a dataset, head or strategy may have this name, which is also used for files."""
    return isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) is not None
