"""The README says what is true: its tree names every module. Its links and commands: test_links."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def tree() -> set[str]:
    """Paths that the section "What is where" names, one a line, indented by folder."""
    block = README.split("## What is where")[1].split("```")[1]
    paths, folders = set(), []
    for line in block.strip("\n").splitlines():
        name = line.strip().split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name.rstrip("/")]
        paths.add("/".join(folders))
    return paths


def test_the_tree_names_every_module_once_and_nothing_else() -> None:
    packages = [ROOT / "hydrakit", *(ROOT / "plugins").glob("*/hydrakit_*")]
    modules = {
        str(path.relative_to(ROOT))
        for package in packages
        for path in package.rglob("*.py")
        if path.name != "__init__.py" or path.stat().st_size > 0
    }
    named = tree()
    assert modules - named == set()
    assert {path for path in named if not (ROOT / path).exists()} == set()
