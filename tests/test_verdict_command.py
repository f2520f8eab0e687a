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


@pytest.mark.parametrize(
    ("table", "value", "remedy"),
    [
        ("Hydra 0,81, transfer 0,74", "'0,81'", "write 0.81"),
        ("Hydra 0,81; transfer 0.74", "'0,81'", "write 0.81"),
        ("Hydra 0.81, transfer 1,00", "'1,00'", "write 1.00"),
        ("Hydra 48/60, net 2 0,7", "'0,7'", "write 0.7 "),
    ],
)
def test_a_decimal_comma_is_refused(table: str, value: str, remedy: str) -> None:
    """0,81 would be an AUC of 0 and something else."""
    counts = ["--positives", "4", "--negatives", "15"]
    result = CliRunner().invoke(main, ["verdict", "--table", table, *counts])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"hydrakit: --table: {value} ")
    assert remedy in line


@pytest.mark.parametrize(
    "row", ["a,0,81,60", "a,0,81,60,30", 'a,"0,81",60,30', "a;0,81;60;30", "a, 0,81 , 60, 30"]
)
def test_a_decimal_comma_in_a_file_is_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "table.csv"
    path.write_text(f"name,auc,positives,negatives\nb,0.6,60,30\n# not 0,81\n{row}\n")
    result = CliRunner().invoke(main, ["verdict", "--table", str(path)])
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"hydrakit: {path}, row 4: '0,81' ")
    assert "write 0.81 with a decimal point" in line


def test_an_auc_of_one_and_a_name_of_digits_are_no_decimal_commas(tmp_path: Path) -> None:
    counts = ["--positives", "30", "--negatives", "90"]
    for table in ("a 1,2net 0.5", "a 1, b 0.5", "a 0.5,b 0.25"):
        assert CliRunner().invoke(main, ["verdict", "--table", table, *counts]).exit_code == 0
    path = tmp_path / "table.csv"
    path.write_text("a,1,30,90\nb,0.0,30,90\n")
    assert CliRunner().invoke(main, ["verdict", "--table", str(path)]).exit_code == 0
