"""The README says what is true: its tree names every module, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydrakit.cli import main

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


@pytest.mark.parametrize(
    "line",
    [
        line
        for block in re.findall(r"```sh\n(.*?)```", README, re.S)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("hydrakit ")
    ],
)
def test_commands_of_the_readme_have_the_options_that_it_uses(line: str) -> None:
    words = shlex.split(line.split("  #", maxsplit=1)[0], comments=True)[1:]
    path = []
    for word in words:
        if word.startswith("-") or not word.islower() or "/" in word:
            break
        path.append(word)
    # An argument in lower case, such as a dataset's name, is none of the commands.
    groups = [name for name, command in main.commands.items() if hasattr(command, "commands")]
    path = path[: 2 if path[0] in groups else 1]
    result = CliRunner().invoke(main, [*path, "--help"])
    assert result.exit_code == 0, line
    for word in words:
        if word.startswith("--"):
            assert word in result.output, line
