"""Headers of MetaImage files (https://itk.org/Wiki/ITK/MetaIO/Documentation)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.volumes.header import COLOUR, affine_of, data_file, ordered, placed, shape_of
from hydrakit.data.volumes.volume import Volume
from hydrakit.data.volumes.voxels import Voxels

_MET_TYPES = {
    **{"CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4"},
    **{"LONG": "i4", "ULONG": "u4", "LONG_LONG": "i8", "ULONG_LONG": "u8"},
    **{"FLOAT": "f4", "DOUBLE": "f8"},
}


def read_metaimage(path: Path, head: bytes) -> Volume:
    """Read the header of a MetaImage file, of which ``head`` is the beginning.

    Raises:
        ImageError: It is no volume that hydrakit reads.
        ValueError, KeyError: It is damaged.
    """
    end = re.search(rb"(?:^|\n)[ \t]*ElementDataFile[ \t]*=[^\n]*(?:\n|$)", head)
    if end is None:
        raise ValueError("no ElementDataFile")
    fields = {}
    for line in head[: end.end()].decode("utf-8", "replace").splitlines():
        name, mark, value = line.partition("=")
        if mark:
            fields[name.strip()] = value.strip()

    def of(*names: str) -> str | None:
        return next((fields[name] for name in names if name in fields), None)

    if fields.get("ObjectType", "Image") != "Image":
        raise ImageError(path, "is a MetaIO file without an image: leave it out")
    if fields.get("BinaryData", "True").lower() != "true":
        raise ImageError(path, "has voxels as text: save it with binary ones")
    kind = fields["ElementType"].removeprefix("MET_")
    if int(fields.get("ElementNumberOfChannels", 1)) != 1 or kind.endswith("ARRAY"):
        raise ImageError(path, COLOUR)
    sides = [int(side) for side in fields["DimSize"].split()]
    count = int(fields["NDims"])
    if len(sides) != count:
        raise ValueError("DimSize and NDims")
    shape = shape_of(path, sides)
    name, file, start = fields["ElementDataFile"], path, end.end()
    if name.upper() != "LOCAL":
        file, start = data_file(path, name), 0
    order = of("BinaryDataByteOrderMSB", "ElementByteOrderMSB") or "False"
    packed = fields.get("CompressedData", "False").lower() == "true"
    turn = of("TransformMatrix", "Orientation", "Rotation")
    spacing = of("ElementSpacing", "ElementSize")
    sizes = np.ones(3)
    if spacing is not None:
        sizes[: min(count, 3)] = [abs(float(each)) for each in spacing.split()[:3]]
    oriented = turn is not None and count > 2
    directions, origin = np.eye(3), np.zeros(3)
    if turn is not None and oriented:
        # A line of the file's matrix is the direction of an axis of the image.
        lines = np.array([float(each) for each in turn.split()]).reshape(count, count)
        directions = lines[:3, :3].T
        offset = of("Offset", "Position", "Origin") or "0 0 0"
        origin[:] = [float(each) for each in offset.split()[:3]]
    voxels = Voxels(
        file=file,
        start=start,
        shape=shape,
        dtype=ordered(_MET_TYPES[kind], order.lower()),
        packed=packed,
    )
    return Volume(
        path=path,
        format="MetaImage",
        voxels=placed(voxels, 0 if packed else int(fields.get("HeaderSize", 0))),
        affine=affine_of(directions * sizes, origin),
        oriented=oriented,
        spaced=spacing is not None,
    )
