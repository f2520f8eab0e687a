"""Mutators that know NIfTI, NRRD and MetaImage (see `mutators`)."""

from __future__ import annotations

import gzip
import struct
import zlib
from functools import cache
from random import Random

from fuzzing.mutators import EXTREMES, MIB, TEXT

# NIfTI-1: the place and the type of each number that the reader uses
_FIELDS = [
    (0, "i"),
    *((at, "h") for at in range(40, 56, 2)),
    *((at, "h") for at in (70, 72, 252, 254)),
    *((at, "f") for at in range(76, 120, 4)),
    *((at, "f") for at in range(256, 328, 4)),
    (123, "B"),
    (344, "i"),
]
_FLOATS = (0.0, -1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), 352.5, -1e9)


def _unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def nifti_field(data: bytes, random: Random) -> bytes:
    """One to three numbers of the header, in a file that is packed as before."""
    try:
        changed = bytearray(_unpacked(data))
    except (OSError, EOFError, zlib.error):  # damaged by another mutation
        return data
    for at, kind in random.sample(_FIELDS, random.choice((1, 1, 2, 3))):
        if at + 4 > len(changed):
            continue
        size = struct.calcsize(kind)
        number = random.choice(EXTREMES) % 256**size
        value = number.to_bytes(size, random.choice(("little", "big")))
        if kind == "f" and random.random() < 0.7:
            value = struct.pack("<f", random.choice(_FLOATS))
        changed[at : at + size] = value
    return gzip.compress(changed) if data.startswith(b"\x1f\x8b") else bytes(changed)


@cache
def _zeros(head: bytes, size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(MIB)) for _ in range(size // MIB)]
    return b"".join([*parts, packer.flush()])


def nifti_bomb(data: bytes, random: Random) -> bytes:
    """A header that states much, and as many zeros, or fewer."""
    try:
        head = bytearray(_unpacked(data)[:352])
    except (OSError, EOFError, zlib.error):
        return data
    if len(head) < 352:
        return data
    sides = random.choice(((512, 512, 1000), (8192, 8192, 9), (32767, 32767, 9), (999, 999, 4)))
    head[40:48] = struct.pack("<4h", 3, *sides)
    return _zeros(bytes(head), random.choice((2, 2, 2, 500)) * MIB)


_VALUES = (
    b"0", b"-1", b"1", b"3", b"nan", b"inf", b"1e400", b"9" * 5000, b"", b"x", b"LOCAL", b"LIST",
    b"../cases.csv", b"/etc/passwd", b"dataset.toml", b"a%03d.raw 1 9 1", b"True", b"gzip", b"hex",
    b"big", b"double", b"MET_DOUBLE", b"2 2", b"-1 -1 -1", b"99999 99999 99999", b"1 1 1 1 1 1 1",
    b"(1,0,0) (0,1,0)", b"(nan,0,0) (0,0,0) (0,0,1)", b"none (1,0,0) (0,1,0)", b"\xff", b"0 0 0",
)  # fmt: skip


def text_field(data: bytes, random: Random) -> bytes:
    """Another value of one field of a header of text."""
    head, mark, body = data.partition(b"\n\n") if b"NRRD" in data[:4] else (data, b"", b"")
    end = head.find(b"ElementDataFile")
    if end >= 0:
        end = head.find(b"\n", end) + 1
        head, body = head[:end], head[end:] + mark + body
        mark = b""
    lines = head.split(b"\n")
    at = random.randrange(len(lines))
    for sign in (b": ", b" = "):
        name, found, _ = lines[at].partition(sign)
        if found:
            lines[at] = name + sign + random.choice(_VALUES)
    if random.random() < 0.2:
        lines.insert(at, random.choice(lines))
    return b"\n".join(lines) + mark + body


NIFTI = (*[nifti_field] * 20, nifti_bomb)
HEADER = (*[text_field] * 6, TEXT[0])
