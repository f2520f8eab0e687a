"""`hydrakit verdict`: what a published table allows to say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from hydrakit.cli import main

PAPER = ["--table", "Hydra 48/60, transfer 43/60, classical 41/60"]


def test_the_papers_table_cannot_tell() -> None:
    """The project's own wish for the paper's Table II: nothing there can be told apart."""
    counts = ["--positives", "4", "--negatives", "15"]
    result = CliRunner().invoke(main, ["verdict", *PAPER, *counts])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    pairs = ["Hydra and transfer", "Hydra and classical", "transfer and classical"]
    for line, pair in zip(lines, pairs, strict=True):
        assert line.startswith(f"This data cannot tell {pair} apart: about ")
    found = json.loads(CliRunner().invoke(main, ["verdict", *PAPER, *counts, "--json"]).stdout)
    assert [each["kind"] for each in found] == ["cannot tell"] * 3


def test_a_table_can_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("name,auc,positives,negatives\na,0.9,300,900\nb,0.6,300,900\n")
    result = CliRunner().invoke(main, ["verdict", "--table", str(path)])
    assert result.stdout.startswith("a is better than b, even by this table alone")
    path.write_text("a,0.9,300\n")
    broken = CliRunner().invoke(main, ["verdict", "--table", str(path)])
    assert broken.exit_code == 1
    assert str(path) in broken.stderr


@pytest.mark.parametrize(
    ("table", "word"),
    [
        ("Hydra, transfer 43/60", "Hydra"),
        ("a 2, b 0.5", "between 0 and 1"),
        ("a 0.5", "two rows"),
    ],
)
def test_a_table_that_is_none_is_refused(table: str, word: str) -> None:
    result = CliRunner().invoke(
        main, ["verdict", "--table", table, "--positives", "4", "--negatives", "15"]
    )
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert word in result.stderr
