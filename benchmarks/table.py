"""What was measured, as text: tables, the machine, and the page that keeps both."""

from __future__ import annotations

import datetime
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import Spread

TITLE = """# What hydrakit costs

`python -m benchmarks` writes this page; nobody does by hand. Contenders work in turns, each in a
process of its own: (a) the authors' way, written anew from its description
(`benchmarks/authors.py`); (b) the bare floor, a plain network on one tensor in memory, eager, in
PyTorch's default layout (`benchmarks/floor.py`); (c) what a user would write instead, a plain
Lightning loop with MONAI's transforms and cached data (`benchmarks/lightning_loop.py`); and
hydrakit. What counts is the median of the ratios of neighbours in time; quartiles are in brackets.
Seconds drift by tens of percent on a shared machine and are given for their size alone.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table.

    Attributes:
        what: Is compared.
        target: What is to be reached; empty where nothing is.
        measured: The median, and the quartiles.
        met: Whether the target is reached; None where there is none, or no figure.
        times: Medians of both sides.
        note: How it was measured.
    """

    what: str
    target: str
    measured: str
    met: bool | None
    times: str
    note: str


def quartiles(found: Spread) -> str:
    """A ratio with its quartiles: ``2.41 times (2.32 to 2.50)``."""
    median, low, high = (_three(value) for value in (found.median, found.low, found.high))
    return f"{median} times ({low} to {high})"


def shown(seconds: float) -> str:
    """A duration with three digits: ``1.23 s``, ``4.56 ms``, ``7.89 min``, ``1.23 h``."""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three(seconds / size)} {unit}"
    return f"{_three(seconds * 1e6)} µs"


def _three(value: float) -> str:
    """Three digits, or all before the point."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def rows_table(rows: Sequence[Row]) -> str:
    """The rows as one table."""
    reached = {True: "yes", False: "no", None: ""}
    header = ["what", "target", "measured", "reached", "medians of the other; of hydrakit", "how"]
    return table(
        header,
        [
            [row.what, row.target, row.measured, reached[row.met], row.times, row.note]
            for row in rows
        ],
    )


def machine(command: str, *, threads: int) -> str:
    """On what, with what and when it was measured, as a line."""
    facts = {
        "machine": f"{platform.node()}, {_processor()}, {os.cpu_count()} cores",
        "threads": str(threads),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "torch": version("torch"),
        "date": datetime.datetime.now(tz=datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": f"`{command}`",
    }
    return "; ".join(f"{name}: {value}" for name, value in facts.items()) + "\n"


def _processor() -> str:
    """Its name, as the system tells it."""
    told = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", told.read_text(), re.M) if told.exists() else None
    return found[1].strip() if found else platform.processor() or "unknown processor"


def write_parts(path: Path, parts: Mapping[str, str]) -> None:
    """Put parts into the page in place of those of the same names; the others stay.

    Args:
        path: Of the page; made if it is not there.
        parts: Markdown by name; a new one comes last.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = dict(re.findall(r"<!-- begin (\S+) -->\n(.*?)<!-- end \1 -->\n", text, re.S))
    body = "\n".join(
        f"<!-- begin {name} -->\n{part.rstrip()}\n<!-- end {name} -->\n"
        for name, part in (found | dict(parts)).items()
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{TITLE}\n{body}", encoding="utf-8")
