"""What a dataset, head, strategy or command may be called.

Kept apart from `hydrakit.plan.model`, which takes longer to import.
"""

from __future__ import annotations

import re

# Commands of the program itself, which no plugin may hide.
OWN_COMMANDS = (
    "clean",
    "compare",
    "datasets",
    "evaluate",
    "order",
    "plan",
    "plugins",
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
    """Whether a name is fit for datasets, heads and strategies (and so for files)."""
    return isinstance(name, str) and re.fullmatch(NAME_PATTERN, name) is not None
