"""A dataset where one field of view is clearly better, for the tests of searches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from helpers import SIDE


def write_lesions(
    root: Path, *, patients: int = 60, seed: int = 0, mirrored: Sequence[int] = ()
) -> None:
    """A lesion in the middle that is brighter in class 1, and a border that says nothing.

    The patients in ``mirrored`` have the image of the other class, with their own label.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(patients) % 2
    shown = np.array([1 - each if p in mirrored else each for p, each in enumerate(labels)])
    images = random.normal(size=(patients, SIDE, SIDE)).astype(np.float32)
    row, column = np.abs(np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2)
    border = np.maximum(row, column) > 5
    blocks = random.normal(scale=20, size=(patients, 5, 5)).repeat(4, axis=1).repeat(4, axis=2)
    images += (border * blocks).astype(np.float32)
    disk = (row**2 + column**2 <= 9).astype(np.float32)
    images += 1.5 * (shown[:, None, None] * disk).astype(np.float32)
    root.mkdir(parents=True)
    people = np.full(patients, f"{root.name}-")
    np.savez(
        root / "cases.npz",
        images=images,
        labels=labels,
        patients=np.arange(patients),
        people=people,
    )
