from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from hydrakit.plugins.options import parse_options, split_component
from hydrakit_slurm import SlurmOptions, further_options, hydrakit_launchers, minutes_of


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90), ("2:30", 3), ("12:00:00", 720), ("0:0:1", 1),
        ("1-06", 1800), ("1-06:30", 1830), ("2-00:00:30", 2881),
    ],
)  # fmt: skip
def test_a_time_is_read_as_slurm_reads_it(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize("text", ["", "0", "1h", "1:2:3:4", "-5", "1-", "1.5", "٣"])
def test_another_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write minutes"):
        minutes_of(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cpus": 0}, "cpus=0: must be 1 or more"),
        ({"gpus": -1}, "gpus=-1: must be 0 or more"),
        ({"memory": "much"}, "memory=much: write a whole number with a unit"),
        ({"sbatch": "--array=0-3"}, "--array is set by hydrakit: leave it out"),
        ({"time": "2"}, "time=2 is not longer than grace=120 seconds"),
        ({"sbatch": "-p gpu"}, "'-p' is not of the form --NAME=VALUE"),
        ({"prefix": "apptainer 'exec"}, "No closing quotation"),
    ],
)
def test_what_slurm_would_not_understand_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SlurmOptions(**options)


def test_further_options_of_sbatch() -> None:
    assert further_options("--exclude=node7,node8 --exclusive '--comment=a b'") == {
        "exclude": "node7,node8",
        "exclusive": True,
        "comment": "a b",
    }


def test_the_launchers_of_the_pages_and_of_the_example_have_these_options() -> None:
    root = Path(__file__).parents[3]
    pages = (root / "docs" / "cluster.md", root / "plugins" / "hydrakit-slurm" / "README.md")
    texts = [
        found
        for path in (*pages, root / "examples" / "slurm" / "compare.sh")
        for found in re.findall(r"--launcher (?:'(slurm:[^']*)'|(slurm:\S+))", path.read_text())
    ]
    (factory,) = hydrakit_launchers()
    for quoted, plain in texts:
        _, options = split_component(quoted or plain, option="--launcher")
        assert options
        assert isinstance(parse_options(factory, options), SlurmOptions)
    assert len(texts) == 4
    names = {field.name for field in fields(SlurmOptions)}
    assert names <= set(re.findall(r"`([a-z]+)`", pages[0].read_text()))
