"""Checks of a command of a plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import click

from hydrakit.errors import one_line
from hydrakit.plugins.registry import DISABLED
from hydrakit.testing.imports import imported_packages
from hydrakit.testing.properties import Property


@dataclass(frozen=True)
class CommandSubject:
    """A command to check.

    Attributes:
        command: The command.
        others: Names of other plugins, which are not loaded meanwhile.
    """

    command: click.Command
    others: tuple[str, ...] = ()


def _is_described(subject: CommandSubject) -> str:
    text = subject.command.get_short_help_str(limit=1000)
    assert text, "it has no help: write a docstring, whose first line `hydrakit --help` prints"
    return ""


def _prints_help(subject: CommandSubject) -> str:
    name = subject.command.name or ""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "hydrakit", name, "--help"]
    environment = os.environ | {DISABLED: ",".join(subject.others)}
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        check=False,
        stdin=subprocess.DEVNULL,
        encoding="utf-8",
        errors="backslashreplace",
    )
    lines = done.stderr.splitlines()
    if done.returncode != 0 or not done.stdout.strip():
        said = [line for line in lines if not line.startswith("import time:")]
        last = one_line((said or ["it prints nothing"])[-1], 200)
        raise AssertionError(f"`hydrakit {name} --help` has the status {done.returncode}: {last}")
    imported = {each.name for each in imported_packages(lines, "hydrakit")}
    assert "torch" not in imported, (
        f"`hydrakit {name} --help` imports torch: import it inside the function of the command"
    )
    return ""


COMMAND_PROPERTIES = (
    Property("has a help text", _is_described),
    Property("`--help` prints it, without torch", _prints_help),
)
"""Properties of a command."""
