"""The pages of docs/ as their folder has them, without Sphinx."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TOCTREE = re.compile(r"^```\{toctree\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)

sys.path.append(str(DOCS / "_extension"))

import reference  # noqa: E402

__all__ = ["DOCS", "ROOT", "expanded", "listed", "python_examples", "reference"]


@cache
def expanded(page: Path) -> str:
    """The text of a page with its generated parts."""
    return reference.expand(page.read_text("utf-8"))


def listed(page: Path, docs: Path = DOCS) -> Iterator[Path]:
    """The pages that the toctrees of a page list."""
    for block in TOCTREE.findall(page.read_text("utf-8")):
        lines = [line.strip() for line in block.splitlines()]
        globs = ":glob:" in lines
        for line in lines:
            if line and not line.startswith(":"):
                titled = re.fullmatch(r".+<(.+)>", line)
                name = titled[1] if titled else line
                folder = docs if name.startswith("/") else page.parent
                path = name.lstrip("/") + ".md"
                if globs:
                    yield from (each for each in sorted(folder.glob(path)) if each != page)
                else:
                    yield folder / path


def python_examples(page: Path) -> list[str]:
    """The Python code of a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
