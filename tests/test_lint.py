"""The rules that keep code out of files really fire (docs/security.md)."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from hydrakit.errors import command_line
from hydrakit.names import OWN_COMMANDS

ROOT = Path(__file__).parent.parent
SHIPPED = sorted(
    [*(ROOT / "hydrakit").rglob("*.py"), *(ROOT / "plugins").glob("*/hydrakit_*/**/*.py")]
)


def found(source: str, name: str) -> set[str]:
    """The rules that a module of that name would break, by the project's own settings."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--output-format=json",
            "--stdin-filename",
            name,
            "-",
        ],
        input=f'"""A module."""\n\n{source}\n',
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    return {each["code"] for each in json.loads(done.stdout)}


@pytest.mark.parametrize(
    ("source", "rules"),
    [
        ("import pickle", {"TID251"}),
        ('import pickle\n\npickle.loads(b"")', {"TID251", "S301"}),
        ("from pickle import Unpickler", {"TID251"}),
        ("import marshal", {"TID251"}),
        ('import marshal\n\nmarshal.loads(b"")', {"TID251", "S302"}),
        ("import shelve", {"TID251"}),
        ("import dill", {"TID251"}),
        ("from torch import load", {"TID251"}),
        ('import torch\n\ntorch.load("a.pth", weights_only=True)', {"TID251"}),
        ('import torch as t\n\nt.load("a.pth")', {"TID251"}),
        ('import torch\n\ntorch.save({}, "a.pth")', {"TID251"}),
        ('import torch\n\ntorch.jit.load("a.pt")', {"TID251"}),
        ('eval("1")', {"S307"}),
        ('exec("a = 1")', {"S102"}),
        ('import tarfile\n\ntarfile.open("a.tar").extractall()', {"TID251", "S202"}),
        ('import shutil\n\nshutil.unpack_archive("a.zip")', {"TID251"}),
        ('import yaml\n\nyaml.load("a")', {"S506"}),
    ],
)
@pytest.mark.parametrize(
    "name", ["hydrakit/data/new.py", "plugins/hydrakit-brain/hydrakit_brain/new.py"]
)
def test_what_runs_code_from_files_is_refused(source: str, rules: set[str], name: str) -> None:
    assert rules <= found(source, name)


def test_sound_code_is_not_refused() -> None:
    assert found('import json\n\njson.loads("1")', "hydrakit/data/new.py") == set()


def test_the_reader_of_foreign_checkpoints_is_the_one_exception() -> None:
    source = 'import torch\n\ntorch.load("a.pth", weights_only=True)'
    assert "TID251" not in found(source, "hydrakit/weights/foreign.py")
    assert "S301" in found('import pickle\n\npickle.loads(b"")', "hydrakit/weights/foreign.py")
    noted = [path for path in SHIPPED if "noqa: TID251" in path.read_text(encoding="utf-8")]
    # It loads the file that it has just written, to check it.
    assert [path.name for path in noted] == ["programs.py"]


def _arguments(name: str) -> list[tuple[str, object]]:
    """Where the shipped code gives an argument of that name, and its value as it is written."""
    return [
        (path.name, ast.unparse(keyword.value))
        for path in SHIPPED
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == name
    ]


def test_arguments_that_would_let_pickles_in_are_never_given() -> None:
    assert len(SHIPPED) > 100
    assert _arguments("weights_only") == [("foreign.py", "True")]
    assert {value for _, value in _arguments("allow_pickle")} <= {"False"}
    assert all(value in ("False", "None") for _, value in _arguments("shell"))


def unquoted_commands(source: str) -> list[int]:
    """Lines of f-strings that put a value into a suggested command by themselves."""
    called = re.compile(rf"hydrakit ({'|'.join(OWN_COMMANDS)})\b[^`]*$|`--[a-z-]+[ =][^`]*$")
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for text, value in pairwise(node.values):
            said = text.value if isinstance(text, ast.Constant) else ""
            if isinstance(value, ast.FormattedValue) and called.search(str(said)):
                lines.append(value.lineno)
    return lines


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_suggested_commands_are_quoted(path: Path) -> None:
    """By `hydrakit.errors.command_line`; the only exception is a number."""
    numbers = {"diagnostics.py": 1}
    assert len(unquoted_commands(path.read_text("utf-8"))) == numbers.get(path.name, 0)


def test_unquoted_commands_are_noticed() -> None:
    assert unquoted_commands('f"go on with `hydrakit run --resume {path}`"') == [1]
    assert unquoted_commands('f"do `hydrakit report {a} --figures {b}` now"') == [1]
    assert unquoted_commands('f"leave out `--set {path}`"') == [1]
    assert unquoted_commands('f"`hydrakit run` printed {path}, hydrakit {version}"') == []


def test_a_command_is_quoted_for_a_shell() -> None:
    path = Path("my runs/$(x)'s")
    line = command_line("hydrakit", "run", "--resume", path)
    echo = subprocess.check_output(["sh", "-c", f"printf '%s\\n' {line}"], text=True)
    assert echo.splitlines() == ["hydrakit", "run", "--resume", str(path)]
    assert command_line("hydrakit", "report", "runs/a") == "hydrakit report runs/a"
