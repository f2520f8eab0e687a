"""The arrows between the packages: imports run downwards, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import hydrakit

PACKAGE = Path(hydrakit.__file__).parent

ORDER = (
    ("__init__", "__main__"),
    ("cli",),
    ("maintenance", "scaffold", "testing"),
    ("compare",),
    ("search",),
    ("jobs",),
    ("engine",),
    ("observers", "export"),
    ("report",),
    ("runs",),
    ("training",),
    ("data", "weights"),
    ("models", "stats"),
    ("plan",),
    ("plugins",),
    ("storage",),
    ("compute",),
    ("hooks",),
    ("rounds", "sources", "file_rules"),
    ("schema",),
    ("errors", "names", "version"),
)
"""Packages and modules of hydrakit/, highest first; those in one row do not import each other."""

RANK = {name: rank for rank, row in enumerate(ORDER) for name in row}


def modules(package: Path) -> dict[str, Path]:
    """Every module below a package by its dotted name; a package has the name of its folder."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        name = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(name)] = path
    return found


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports anywhere: at the top, in functions, and for types alone."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import hides what it imports"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            whole = [str(node.module)] * len(names)
        elif isinstance(node, ast.Import):
            names = whole = [alias.name for alias in node.names]
        else:
            continue
        for longer, shorter in zip(names, whole, strict=True):
            if shorter == "hydrakit" and longer.removeprefix("hydrakit.") not in known:
                yield "__init__"
                continue
            for name in (longer, shorter):
                if name.startswith("hydrakit.") and name.removeprefix("hydrakit.") in known:
                    yield name.removeprefix("hydrakit.")
                    break


def faults(package: Path) -> list[str]:
    """The arrows that run up or to the side, and the circles, in words."""
    known = modules(package)
    graph = {name: set(imports(path, known)) - {name} for name, path in known.items()}
    arrows = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        for one, two in [(name.split(".")[0], other.split(".")[0])]
        if one != two and RANK[one] >= RANK[two]
    ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        arrows.append(f"a circle: {' imports '.join(reversed(error.args[1]))}")
    return arrows


def test_imports_run_downwards_and_never_in_a_circle() -> None:
    assert {name.split(".")[0] for name in modules(PACKAGE)} == set(RANK)
    assert faults(PACKAGE) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("from hydrakit.cli import main", "storage.files imports cli"),
        ("def f():\n    import hydrakit.runs.rundir", "storage.files imports runs.rundir"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
            "    from hydrakit.plan.model import Plan",
            "storage.files imports plan.model",
        ),
        ("from hydrakit.storage import lock", "a circle: "),
        ("from hydrakit import __version__", "storage.files imports __init__"),
    ],
)
def test_a_wrong_arrow_is_noticed(tmp_path: Path, text: str, words: str) -> None:
    files = {
        "storage/files.py": text,
        "storage/lock.py": "from hydrakit.storage.files import write_atomic",
        "storage/__init__.py": "",
        "cli/__init__.py": "",
        "runs/rundir.py": "",
        "plan/model.py": "",
        "__init__.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert any(fault.startswith(words) for fault in faults(tmp_path))
