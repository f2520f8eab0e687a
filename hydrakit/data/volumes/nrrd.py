"""Headers of NRRD files (http://teem.sourceforge.net/nrrd/format.html)."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.volumes.header import (
    COLOUR,
    MAX_TEXT,
    SEVERAL,
    affine_of,
    completed,
    data_file,
    ordered,
    placed,
    shape_of,
)
from hydrakit.data.volumes.volume import Volume
from hydrakit.data.volumes.voxels import Voxels

if TYPE_CHECKING:
    from hydrakit.data.volumes.voxels import Vector

_INTEGERS = {
    "1": ("char",),
    "2": ("short", "short int"),
    "4": ("int",),
    "8": ("longlong", "long long", "long long int"),
}
_NRRD_TYPES = {"float": "f4", "double": "f8", "int8": "i1", "int8_t": "i1", "uchar": "u1"} | {
    name: kind
    for size, words in _INTEGERS.items()
    for word in words
    for name, kind in (
        *((f"{sign}{word}", f"i{size}") for sign in ("", "signed ")),
        *((f"{sign}{word}", f"u{size}") for sign in ("u", "unsigned ")),
        *((f"int{8 * int(size)}{end}", f"i{size}") for end in ("", "_t")),
        *((f"uint{8 * int(size)}{end}", f"u{size}") for end in ("", "_t")),
    )
}
_NRRD_SPACES = {  # from the axes of a file to LPS; by their short names, too
    **dict.fromkeys(("left-posterior-superior", "lps"), (1.0, 1.0, 1.0)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (-1.0, -1.0, 1.0)),
    **dict.fromkeys(("left-anterior-superior", "las"), (1.0, -1.0, 1.0)),
}
_NRRD_DOMAINS = {"domain", "space", "none", "???"}


def read_nrrd(path: Path, head: bytes) -> Volume:
    """Read the header of a NRRD file, of which ``head`` is the beginning.

    Raises:
        ImageError: It is no volume that hydrakit reads.
        ValueError, KeyError: It is damaged.
    """
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    if end is None and len(head) > MAX_TEXT:
        raise ValueError("a header without an end")
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "replace").splitlines()[1:]:
        name, mark, value = line.partition(": ")
        if mark and not line.startswith("#") and ":=" not in name:
            fields[name.strip().lower()] = value.strip()
    names = {"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip"}
    fields = {names.get(name, name): value for name, value in fields.items()}
    if fields["type"].lower() == "block":
        raise ImageError(path, COLOUR)
    dtype = _NRRD_TYPES[fields["type"].lower()]
    sides = [int(side) for side in fields["sizes"].split()]
    if len(sides) != int(fields["dimension"]):
        raise ValueError("sizes and dimension")
    kinds = fields.get("kinds", "").lower().split()
    if not set(kinds) <= _NRRD_DOMAINS:
        raise ImageError(path, SEVERAL if set(kinds) <= {*_NRRD_DOMAINS, "time"} else COLOUR)
    shape = shape_of(path, sides)
    packed = {"raw": False, "gzip": True, "gz": True}.get(fields["encoding"].lower())
    if packed is None:
        raise ImageError(path, "has voxels that are neither raw nor gzip: save it as one of these")
    if int(fields.get("line skip", 0)) or (packed and int(fields.get("byte skip", 0))):
        raise ImageError(path, "has lines or packed bytes to skip: save it as one file")
    file, start = path, end.end() if end else len(head)
    if "data file" in fields:
        file, start = data_file(path, fields["data file"]), 0
    affine, oriented, spaced = _nrrd_affine(path, fields, shape, len(sides))
    return Volume(
        path=path,
        format="NRRD",
        voxels=placed(
            Voxels(
                file=file,
                start=start,
                shape=shape,
                dtype=ordered(dtype, fields.get("endian", "").lower()),
                packed=packed,
            ),
            int(fields.get("byte skip", 0)),
        ),
        affine=affine,
        oriented=oriented,
        spaced=spaced,
    )


def _nrrd_affine(
    path: Path, fields: Mapping[str, str], shape: tuple[int, int, int], dimensions: int
) -> tuple[Vector, bool, bool]:
    units = {each.lower() for each in re.findall(r'"([^"]*)"', fields.get("space units", ""))}
    if not units <= {"mm", "millimeter", "millimeters", "millimetre", ""}:
        raise ImageError(path, "has positions in another unit than millimetres: save it in these")
    if "space directions" not in fields:
        sizes = [float(each) for each in fields.get("spacings", "nan").split()]
        sizes += [1.0] * (3 - dimensions)
        spaced = len(sizes) == 3 and all(0 < size < math.inf for size in sizes)
        return affine_of(np.diag(sizes if spaced else [1.0] * 3), 0.0), False, spaced
    words = re.findall(r"none|\([^()]*\)", fields["space directions"].lower())
    if len(words) != dimensions:
        raise ValueError("directions and dimension")
    if "none" in words[:3]:
        raise ImageError(path, COLOUR)
    vectors = [_nrrd_vector(word) for word in words[:3]]
    flat = len(vectors[0]) == 2  # positions in a plane, without a patient
    space = _NRRD_SPACES.get(fields.get("space", "").lower())
    to_lps = np.array(space or (1.0, 1.0, 1.0))
    columns = np.zeros((3, 3))
    for axis, vector in enumerate(vectors):
        columns[: len(vector), axis] = vector
    affine = completed(affine_of(columns * to_lps[:, np.newaxis], 0.0), shape)
    if space is None or flat:
        sizes = np.linalg.norm(affine[:3, :3], axis=0).tolist()
        return affine_of(np.diag(sizes), 0.0), False, True
    if "space origin" in fields:
        affine[:3, 3] = np.array(_nrrd_vector(fields["space origin"])) * to_lps
    return affine, True, True


def _nrrd_vector(text: str) -> list[float]:
    return [float(each) for each in text.strip().strip("()").split(",")]
