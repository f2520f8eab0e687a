"""The counts of a small source tree are those counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.structure import REPEATED, static_counts

FILES = {
    "README.md": "# Small\n\nTwo lines of text.\n",
    "hydrakit/__init__.py": "",
    "hydrakit/__main__.py": "print()\n",
    "hydrakit/engine.py": """
type_name = int
LIMIT = 3
T = LIMIT
Norm = int | float

async def run(plan, /, context, *rest, cache=None, **more): ...
""",
    "hydrakit/planning.py": """
LIMIT = 4
T = LIMIT
Norm: TypeAlias = str

class Plan:
    def make(self, cache): ...

def make_plan(strategy, *, cache_folder): ...
""",
    "hydrakit/data/__init__.py": "",
    "hydrakit/data/load.py": """
def load(folder):
    Norm = folder

    class Plan:
        pass

    def inner(*, cache): ...
""",
}
SMALL = {
    "lines of hydrakit/": 25,
    "modules of hydrakit/": 6,
    "modules at its top level": 2,
    "signatures with cache": 3,
    "parameters of engine.run": 5,
    "parameters of make_plan": 2,
    "repeated type names": 2,
    "lines of README.md": 3,
    REPEATED: {
        "Norm": ["hydrakit/engine.py", "hydrakit/planning.py"],
        "Plan": ["hydrakit/data/load.py", "hydrakit/planning.py"],
    },
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_static_counts_are_those_counted_by_hand(tmp_path: Path) -> None:
    write(tmp_path, FILES)
    assert static_counts(tmp_path) == SMALL


def test_make_plan_is_read_at_its_new_home_first(tmp_path: Path) -> None:
    write(tmp_path, FILES | {"hydrakit/plan/profiles.py": "def make_plan(strategy): ...\n"})
    assert static_counts(tmp_path)["parameters of make_plan"] == 1


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"hydrakit\.engine: name a checkout"):
        static_counts(tmp_path)
