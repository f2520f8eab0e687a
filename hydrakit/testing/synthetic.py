"""A dataset of a few synthetic images, which checks of other components train on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from hydrakit.hooks import DatasetAdapter, FieldOfView, Label, Normalise, Sample, Task

SIDE = 20  # pixels
CLASSES: dict[Task, tuple[str, ...]] = {
    "classification": ("dark", "bright"),
    "regression": ("brightness",),
    "multilabel": ("bright", "dark"),
}


def synthetic_dataset(
    name: str,
    *,
    cases: int,
    task: Task = "classification",
    classes: Sequence[str] | None = None,
    channels: int = 1,
    normalise: Normalise = "image",
) -> DatasetAdapter:
    """A dataset of noise with a disk in the middle, which is the brighter the higher the class.

    It needs no files, only an empty folder. The images depend on the name alone.

    Args:
        name: Name of the dataset.
        cases: Number of images, each of a patient of its own.
        task: Kind of label.
        classes: Names of the classes; None for those in `CLASSES`.
        channels: Number of channels of the images.
        normalise: How grey values are normalised.
    """
    names = tuple(classes or CLASSES[task])

    def read(root: Path, options: object) -> Iterator[Sample]:
        row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
        disk = row**2 + column**2 <= (SIDE / 4) ** 2
        for number in range(cases):
            random = np.random.default_rng([zlib.crc32(name.encode()), number])
            kind = number % max(2, len(names))
            pixels = random.normal(size=(channels, SIDE, SIDE)) + kind * disk
            label: Label = kind
            if task == "regression":
                label = kind + number / 100
            elif task == "multilabel":
                label = tuple((kind + place) % 2 for place in range(len(names)))
            key = f"{name}-{number}"
            yield Sample(image=pixels.astype(np.float32), label=label, patient=key, key=key)

    return DatasetAdapter(
        name=name,
        summary="Synthetic images",
        classes=names,
        read=read,
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="no files",
        how_to_get="it is computed.",
        citation="none",
        licence="none",
        task=task,
        normalise=normalise,
    )
