"""Broken, huge and hostile files: one line that names the file, in bounded time and memory.

A small part of the inputs is tried in every run of the tests, the whole in `make slow`. What an
input is and what it may do: `fuzzing.targets`, `fuzzing.watch`. Results: docs/robustness.md.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from fuzzing.datasets import check_line, odd_collection, odd_dicom
from fuzzing.runs import NOTES
from fuzzing.targets import TARGETS
from fuzzing.watch import Report, make

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.dicom import read_header
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable

SECONDS = 1.0  # of the processor, for a command that refuses a run, a plan or weights
PART = 15  # inputs of each target in every run of the tests
MEBIBYTES = 950  # 1 GB is 953
ONE_OUTCOME = ("guess", "dicom-collection")  # tells all in comments; always has odd files
GROUPS = {
    "dicom": [name for name in TARGETS if name.startswith("dicom") and "collection" not in name],
    "images": ["jpeg", "png", "png-colour", "tiff", "npy", "npz"],
    "volumes": ["nifti", "nifti-packed", "nrrd", "nrrd-files", "metaimage", "metaimage-files"],
    "tables": ["xlsx", *(name for name in TARGETS if name.startswith("csv"))],
    "others": ["toml", "toml-pattern", "guess", "safetensors", "plan"],
    "commands": ["run", "run-plan", "weights"],
    "finished": ["run-finished", "comparison-finished"],
    "slow commands": ["run-begun", "comparison"],  # these train, if little
}
FEW = {"slow commands": 2, "finished": 10}


def watched(folder: Path, last: int, *targets: str) -> dict[str, Report]:
    """The reports on inputs 0 to ``last`` of some targets, made and read in another process."""
    arguments = [sys.executable, "-m", "fuzzing.watch", str(folder), "0", str(last), *targets]
    tests = Path(__file__).parent
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=tests)
    # The names of the inputs, and what libtiff has to say; anything else would be seen by users.
    lines = [line for line in done.stderr.splitlines() if not line.startswith((*TARGETS, "TIFF"))]
    assert done.returncode == 0, done.stderr[-3000:]
    assert lines == []
    reports: dict[str, Report] = json.loads(done.stdout)
    return reports


def check(name: str, report: Report, last: int) -> None:
    assert report["faults"] == {}, name
    assert sum(report["counts"].values()) == last + 1
    assert report["memory"][0] <= MEBIBYTES, name
    # The mutations are neither too weak nor too strong to show anything.
    if name not in ONE_OUTCOME:
        assert len(report["counts"]) > 1, name
    assert report["counts"].keys() & {"read", "unusable"}, name


@pytest.mark.parametrize("group", GROUPS)
def test_a_part(group: str, tmp_path: Path) -> None:
    last = FEW.get(group, PART)
    for name, report in watched(tmp_path, last, *GROUPS[group]).items():
        check(name, report, last)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_the_whole(name: str, tmp_path: Path) -> None:
    last = TARGETS[name].inputs
    report = watched(tmp_path, last, name)[name]
    print(name, report)
    check(name, report, last)
    if (tmp_path / NOTES).is_file():
        refused = [json.loads(line) for line in (tmp_path / NOTES).read_text().splitlines()]
        print(len(refused), *(max(each[what] for each in refused) for what in ("seconds", "mib")))
        assert max(each["seconds"] for each in refused) <= SECONDS


def test_all_is_ten_thousand_inputs() -> None:
    assert sum(target.inputs for target in TARGETS.values()) >= 10_000
    commands = [*GROUPS["commands"], *GROUPS["finished"], *GROUPS["slow commands"]]
    assert sum(TARGETS[name].inputs for name in commands) >= 1000
    assert set(TARGETS) == {name for names in GROUPS.values() for name in names} | {
        "dicom-collection"
    }


@pytest.mark.parametrize("name", ["xlsx", "npz", "csv-cases", "dicom-compressed", "png", "plan"])
def test_a_number_always_gives_the_same_input(name: str, tmp_path: Path) -> None:
    made = []
    for side in ("one", "two"):
        folder = tmp_path / side / name
        folder.mkdir(parents=True)
        files = TARGETS[name].build(folder)
        inputs = [make(files, name, number) for number in range(6)]
        made.append([(path.relative_to(folder), content) for path, content in inputs])
    assert made[0] == made[1]
    assert len({content for _, content in made[0]}) > 3


def test_pydicoms_own_collection(tmp_path: Path) -> None:
    """Odd files of many makers: each is read, or is told as unusable, and none stops the others."""
    folder = tmp_path / "mine"
    folder.mkdir()
    odd_dicom(folder, largest=10**9)
    cases = list(read_samples(load_declared(folder), folder, {}))
    read = [case for case in cases if isinstance(case, Sample)]
    reasons = Counter(case.reason for case in cases if isinstance(case, Unusable))
    assert len(cases) == len(odd_collection()) > 100
    assert len(read) >= 20
    for reason in reasons:
        check_line(reason)


def test_an_index_of_pydicoms_own_collection(tmp_path: Path) -> None:
    """Each file is an image, is no image, or is named as broken."""
    for path in odd_collection():
        try:
            header = read_header(path)
        except DataError as error:
            check_line(str(error), path)
        else:
            assert header is None or header.path == path
