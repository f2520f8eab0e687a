"""Headers of NIfTI files (nifti1.h and nifti2.h)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.safe_paths import open_file
from hydrakit.data.volumes.header import COLOUR, affine_of, completed, data_file, shape_of
from hydrakit.data.volumes.volume import Volume
from hydrakit.data.volumes.voxels import GZIP, Voxels

if TYPE_CHECKING:
    from hydrakit.data.volumes.voxels import Vector

_NIFTI_TYPES = {
    **{2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8"},
    **{256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"},
}
_NIFTI_COLOURS = (32, 128, 1792, 2048, 2304)
_METRE, _MICROMETRE = 1, 3  # units


def _record(size: int, **fields: tuple[str, int]) -> np.dtype[Any]:
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": size,
        }
    )


_NIFTI = {  # nifti1.h and nifti2.h
    348: _record(
        348,
        dim=("8i2", 40),
        datatype=("i2", 70),
        pixdim=("8f4", 76),
        vox_offset=("f4", 108),
        scale=("2f4", 112),
        units=("u1", 123),
        qform_code=("i2", 252),
        sform_code=("i2", 254),
        quaternion=("3f4", 256),
        qoffset=("3f4", 268),
        srow=("(3,4)f4", 280),
    ),
    540: _record(
        540,
        dim=("8i8", 16),
        datatype=("i2", 12),
        pixdim=("8f8", 104),
        vox_offset=("i8", 168),
        scale=("2f8", 176),
        units=("i4", 500),
        qform_code=("i4", 344),
        sform_code=("i4", 348),
        quaternion=("3f8", 352),
        qoffset=("3f8", 376),
        srow=("(3,4)f8", 400),
    ),
}


def nifti_kind(head: bytes) -> tuple[int, Literal["<", ">"]] | None:
    """Return the size of a NIfTI header, and the order of its bytes; None if it is none."""
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(head[:4], name)  # type: ignore[arg-type]
        if size in _NIFTI and len(head) >= size:
            return size, order  # type: ignore[return-value]
    return None


def read_nifti(path: Path, head: bytes) -> Volume:
    """Read the header of a NIfTI file, of which ``head`` is the beginning.

    Raises:
        ImageError: It is no volume that hydrakit reads.
        ValueError, KeyError: It is damaged.
    """
    kind = nifti_kind(head)
    assert kind is not None
    size, order = kind
    magic = head[344:348] if size == 348 else head[4:8]
    if magic[:1] != b"n" or magic[1:2] not in b"+i":
        raise ImageError(
            path, "is an ANALYZE volume, which does not state left and right: save it as NIfTI"
        )
    header = np.frombuffer(head, _NIFTI[size].newbyteorder(order), 1)[0]
    count, *sides = (int(side) for side in header["dim"])
    if not 1 <= count <= 7:
        raise ValueError("no dimensions")
    code = int(header["datatype"])
    if code in _NIFTI_COLOURS:
        raise ImageError(path, COLOUR)
    if code not in _NIFTI_TYPES:
        raise ImageError(path, f"has voxels of the NIfTI type {code}: save it as float32")
    shape = shape_of(path, sides[:count])
    file, start = path, int(header["vox_offset"])
    if magic[1:2] == b"i":
        suffix = ".img.gz" if path.name.lower().endswith(".gz") else ".img"
        stem = path.name[: -len(suffix)]  # .hdr is as long as .img
        file = data_file(path, stem + suffix)
    elif start < size:
        raise ValueError("voxels within the header")
    with open_file(file) as stream:
        packed = stream.read(2) == GZIP
    affine, oriented, spaced = _nifti_affine(header, shape)
    slope, intercept = (float(each) for each in header["scale"])
    rescale = (slope, intercept) if slope and math.isfinite(slope) else None
    if rescale and not math.isfinite(intercept):
        raise ValueError("an intercept that is not finite")
    return Volume(
        path=path,
        format="NIfTI",
        voxels=Voxels(
            file=file,
            start=start,
            shape=shape,
            dtype=np.dtype(_NIFTI_TYPES[code]).newbyteorder(order),
            packed=packed,
            packed_file=packed,
        ),
        affine=affine,
        oriented=oriented,
        spaced=spaced,
        rescale=rescale,
    )


def _nifti_affine(header: Any, shape: tuple[int, int, int]) -> tuple[Vector, bool, bool]:
    """Return the affine, and whether it knows the orientation and the spacing: the sform first."""
    sizes = np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    sizes[(np.array(shape) == 1) & (sizes == 0)] = 1.0
    unit = {_METRE: 1000.0, _MICROMETRE: 0.001}.get(int(header["units"]) & 7, 1.0)
    to_lps = np.array([-1.0, -1.0, 1.0])[:, np.newaxis]  # NIfTI: x to the right, y to the front
    if header["sform_code"] > 0:
        rows = np.asarray(header["srow"], dtype=np.float64) * to_lps * unit
        return completed(affine_of(rows[:, :3], rows[:, 3]), shape), True, True
    if header["qform_code"] > 0:
        accuracy = 3 * float(np.finfo(header["quaternion"].dtype).eps)
        turn = _rotation(np.asarray(header["quaternion"], dtype=np.float64), accuracy)
        sizes[2] *= -1 if header["pixdim"][0] < 0 else 1
        offset = np.asarray(header["qoffset"], dtype=np.float64)
        origin = offset * to_lps[:, 0] * unit
        return affine_of(turn * sizes * to_lps * unit, origin), True, True
    spaced = bool(np.isfinite(sizes).all() and sizes.min() > 0)
    return affine_of(np.diag(sizes * unit if spaced else [1.0] * 3), 0.0), False, spaced


def _rotation(vector: Vector, accuracy: float) -> Vector:
    """Return the rotation matrix of a unit quaternion, of which the vector part is given."""
    real = float(1 - vector @ vector)
    if real < accuracy:  # a half turn
        vector, real = vector / np.linalg.norm(vector), 0.0
    b, c, d = vector
    crossed = np.array([[0, -d, c], [d, 0, -b], [-c, b, 0]])
    rotation: Vector = np.eye(3) + 2 * math.sqrt(real) * crossed + 2 * crossed @ crossed
    return rotation
