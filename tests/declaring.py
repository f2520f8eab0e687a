"""Small declared datasets for the tests of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import Sample, Unusable

BASE = """
classes = ["benign", "malignant"]
field_of_view = { share = 1.0 }
"""
CSV = BASE + 'cases = "cases.csv"\n'
NPZ = """
root = "../files"
cases = "all.npz"
[columns]
group = "zone"
[labels]
0 = "benign"
1 = "malignant"
"""
BY_FOLDER = BASE + 'pattern = "{label}/{patient}/*.png"\n'


def png(path: Path, value: int = 100, side: int = 6) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side), value, np.uint8)).save(path)
    return path


def declare(folder: Path, toml: str, csv: str | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.toml").write_text(toml, encoding="utf-8")
    if csv is not None:
        (folder / "cases.csv").write_text(csv, encoding="utf-8")
    return folder


def read(folder: Path) -> list[Sample | Unusable]:
    return list(read_samples(load_declared(folder), folder, {}))


def samples(folder: Path) -> list[Sample]:
    cases = read(folder)
    assert all(isinstance(case, Sample) for case in cases), cases
    return [case for case in cases if isinstance(case, Sample)]


def refused(folder: Path, *words: str) -> str:
    with pytest.raises(DataError) as error:
        read(folder)
    line = str(error.value)
    assert "\n" not in line
    for word in words:
        assert word in line
    return line


@pytest.fixture
def by_folder(tmp_path: Path) -> Path:
    """Two classes of two patients of two images each."""
    folder = declare(tmp_path / "mine", BY_FOLDER)
    for index in range(8):
        label = ("benign", "malignant")[index // 4]
        png(folder / label / f"P{index // 2}" / f"{index}.png", index)
    return folder
