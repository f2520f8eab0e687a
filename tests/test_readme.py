"""The README is short and shows a report; docs/design.md names every package of hydrakit.

Links and commands of all pages: test_links.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DESIGN = (ROOT / "docs" / "design.md").read_text("utf-8")
PACKAGE = ROOT / "hydrakit"
MAX_LINES = 150
MAX_PICTURE = 300_000  # bytes
MAX_CORE = 4_650  # lines that can be read in about 90 minutes
TOLERANCE = 0.25  # of the number of lines that the page gives for a file


def named(page: str) -> list[str]:
    """The folders and modules of hydrakit/ in the tree that a page shows in a code block."""
    tree = page.split("```\nhydrakit/\n", maxsplit=1)[1].split("```", maxsplit=1)[0]
    names = [re.match(r" {2}(\w+)(/|\.py) {2,}\S", line) for line in tree.splitlines()]
    return [match[1] + match[2] for match in names if match]


def packages(folder: Path) -> set[str]:
    """The packages of a folder, with a slash behind, and its modules that are for readers."""
    folders = {f"{path.parent.name}/" for path in folder.glob("*/__init__.py")}
    return folders | {path.name for path in folder.glob("*.py") if not path.name.startswith("__")}


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= MAX_LINES


def test_the_readme_begins_with_the_commands_and_the_picture_of_a_report() -> None:
    places = [README.index(text) for text in ("make demo", "](docs/report.png)", "\n## Install")]
    assert places == sorted(places)
    assert (ROOT / "docs" / "report.png").stat().st_size <= MAX_PICTURE


def test_the_design_names_every_package_in_one_line() -> None:
    names = named(DESIGN)
    assert len(names) == len(set(names))
    assert set(names) == packages(PACKAGE)


def test_the_core_is_as_long_as_the_design_says() -> None:
    listed = re.findall(r"^\| `(hydrakit/[\w/]+\.py)` \| (\d+) \| ", DESIGN, re.MULTILINE)
    lines = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path, _ in listed}
    assert {path for path, said in listed if abs(lines[path] / int(said) - 1) > TOLERANCE} == set()
    assert len(lines) == 11
    assert sum(lines.values()) <= MAX_CORE


def test_a_missing_package_is_noticed(tmp_path: Path) -> None:
    page = "```\nhydrakit/\n  one/    the first\n  two.py  the second\n    in it   passed over\n```"
    assert named(page) == ["one/", "two.py"]
    for name in ("one/__init__.py", "two.py", "__init__.py", "three/__init__.py", "data/none.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert packages(tmp_path) - set(named(page)) == {"three/"}
