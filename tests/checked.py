"""Small declared datasets of PNG files, for the tests of `hydrakit datasets check`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CLASSES = ("benign", "malignant")
TOML = """
name = "lesions"
summary = "Lesions made by a test"
classes = ["benign", "malignant"]
licence = "none"
citation = "none"
field_of_view = {{ share = 1.0 }}
cases = "cases.csv"
{more}
"""

# Path, label, patient, split.
Row = tuple[str, str, str, str]


def picture(seed: int, *, height: int = 64, width: int = 64) -> NDArray[np.uint8]:
    """Grey noise within an even border: unlike that of any other seed, and no fact tells it."""
    noise = np.random.default_rng(seed).integers(0, 256, (height - 2, width - 2), dtype=np.uint8)
    return np.pad(noise, 1, constant_values=128)


def usual(patients: int = 20) -> dict[str, tuple[NDArray[np.uint8], str, str, str]]:
    """One image for each patient, classes in turn: image, label, patient and split by path."""
    return {
        f"{number:02d}.png": (picture(number), CLASSES[number % 2], f"patient-{number:02d}", "")
        for number in range(patients)
    }


def write(
    folder: Path,
    cases: dict[str, tuple[NDArray[np.uint8], str, str, str]],
    *,
    broken: Sequence[str] = (),
    more: str = "",
) -> Path:
    """Write a dataset; the files of ``broken`` are no images."""
    folder.mkdir(parents=True)
    lines = ["path,label,patient,split"]
    for name, (image, label, patient, split) in cases.items():
        if name in broken:
            (folder / name).write_bytes(b"this is no image")
        else:
            Image.fromarray(image).save(folder / name)
        lines.append(f"{name},{label},{patient},{split}")
    (folder / "cases.csv").write_text("\n".join(lines) + "\n")
    (folder / "dataset.toml").write_text(TOML.format(more=more))
    return folder
