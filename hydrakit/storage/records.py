"""Files that a later version wrote are refused with the version to use."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.storage.files import read_json
from hydrakit.version import version

FORMAT = 1
"""Of every JSON file that has a ``format``."""

VERSION = re.compile(r"[0-9A-Za-z.+-]{1,40}")


def refuse_later(
    path: Path, content: bytes | str, *, error: type[HydrakitError] = PlanError
) -> None:
    """Raise where a file says that it has a format which this version does not know.

    Whether it is sound else is for its reader to say. A plan does not tell which version wrote it:
    of one in a run's folder the run's ``environment.json`` does.

    Args:
        path: Of the file.
        content: JSON, or something broken.
        error: What is raised.
    """
    told = _object(content)
    number = told.get("format")
    if not isinstance(number, int) or number <= FORMAT:
        return
    writer = told.get("hydrakit")
    if writer is None:
        with suppress(OSError, ValueError):  # then nobody knows the version
            writer = _object(read_json(path.with_name("environment.json"))).get("hydrakit")
    known = isinstance(writer, str) and VERSION.fullmatch(writer)
    who = f"hydrakit {writer}" if known else "a later hydrakit"
    use = "use that version" if known else "use the version that wrote it"
    raise error(
        f"{path}: was written by {who} in format {number}, and this is hydrakit "
        f"{version()}, which reads format {FORMAT}: {use}"
    )


def _object(content: bytes | str) -> dict[str, object]:
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):  # its reader says what is wrong
        return {}
    return told if isinstance(told, dict) else {}
