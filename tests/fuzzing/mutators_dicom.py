"""Mutators that know DICOM in Explicit VR Little Endian (PS3.5, 7.1.2; see `mutators`)."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from random import Random

import numpy as np
from PIL import Image

from fuzzing.mutators import BYTES, EXTREMES, MIB, ODD_WORDS, mutate
from fuzzing.mutators_images import JPEG, deflated_zeros

LONG = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UR", b"UT", b"UN", b"SV", b"UV")
_SYNTAXES = b",.1,.2,.1.99,.5,.4.50,.4.70,.4.80,.4.90,.4.100,.4.202"
ODD_ELEMENTS: dict[int, tuple[bytes, tuple[bytes, ...]]] = {
    0x00020010: (
        b"UI",
        (
            *(b"1.2.840.10008.1.2" + end for end in _SYNTAXES.split(b",")),
            *(b"9.9.9", b""),
        ),
    ),
    0x00080005: (b"CS", (b"ISO_IR 192", b"ISO 2022 IR 87", b"\\ISO 2022 IR 13", b"nonsense", b"")),
    0x00080008: (b"CS", (b"ADC", b"\\" * 5000, b"", b"ORIGINAL\\PRIMARY\\MOSAIC")),
    0x00080016: (
        b"UI",
        (b"1.2.840.10008.1.3.10", b"1.2.840.10008.5.1.4.1.1.66.4", b"", b"1.2\\1.3"),
    ),
    0x00080018: (b"UI", (b"", b"not a uid", b"1.2\\1.3", b"1." * 500)),
    0x00080060: (b"CS", (b"CT", b"MR", b"", b"MR\\CT", b"\xff\xfe")),
    0x0008103E: (b"LO", (b"", b"ep2d_diff_tra_CALC_BVAL", b"a\\b", b"\xe9\x1b$B", b"a\n\x1b[31m")),
    0x00100020: (
        b"LO",
        (b"", b"  ", b"a\\b", b"\xff\x00", b"x" * 60_000, b"a\r\nb", b"\x1b$B\x30"),
    ),
    0x00180050: (b"DS", (b"0", b"-1", b"nan", b"1e999", b"thick")),
    0x0020000E: (b"UI", (b"", b"1.2\\1.3", b"9")),
    0x00200011: (b"IS", (b"", b"1\\2", b"1e3", b"1.5", b"99999999999999999999", b"nan", b"-5")),
    0x00200013: (b"IS", (b"", b"1\\2", b"5000000000", b"x", b"1.0", b"2")),
    0x00200032: (
        b"DS",
        (b"", b"0\\0", b"nan\\0\\0", b"1e300\\1e300\\1e300", b"a\\b\\c", b"0\\0\\0"),
    ),
    0x00200037: (
        b"DS",
        (b"", b"0\\0\\0\\0\\0\\0", b"1\\0\\0\\1\\0\\0", b"1e200\\0\\0\\0\\1e200\\0", b"1"),
    ),
    0x00280002: (b"US", (b"\0\0", b"\3\0", b"\xff\xff", b"\2\0", b"")),
    0x00280004: (b"CS", (b"MONOCHROME1", b"RGB", b"PALETTE COLOR", b"YBR_FULL_422", b"", b"X")),
    0x00280008: (b"IS", (b"0", b"-1", b"2", b"2147483647", b"", b"1\\2", b"x")),
    0x00280010: (b"US", (b"\0\0", b"\1\0", b"\xff\xff", b"\x40\x1f", b"", b"\1\0\2\0")),
    0x00280011: (b"US", (b"\0\0", b"\1\0", b"\xff\xff", b"\x40\x1f", b"", b"\1")),
    0x00280030: (b"DS", (b"", b"0\\0", b"-1\\-1", b"1e-300\\1e300", b"1", b"nan\\1", b"1e999\\1")),
    0x00280100: (b"US", (b"\0\0", b"\1\0", b"\7\0", b"\x08\0", b"\x20\0", b"\x40\0", b"\xff\xff")),
    0x00280101: (b"US", (b"\0\0", b"\1\0", b"\x11\0", b"\xff\xff", b"")),
    0x00280102: (b"US", (b"\0\0", b"\xff\xff")),
    0x00280103: (b"US", (b"\1\0", b"\2\0", b"\xff\xff", b"")),
    0x00281052: (b"DS", (b"", b"nan", b"1e308", b"x", b"-1024\\5")),
    0x00281053: (b"DS", (b"", b"0", b"nan", b"1e308", b"1e-320", b"x")),
    0x7FE00010: (b"OW", (b"", b"\0", b"\xff" * 100, b"\0" * MIB)),
}

Element = tuple[int, bytes, bytes]  # tag, VR, value


def elements(data: bytes) -> tuple[list[Element], bytes]:
    """The elements up to the first whose length is not in the file, and the rest."""
    found, at = [], 132
    while at + 8 <= len(data):
        group, number, vr, size = struct.unpack("<HH2sH", data[at : at + 8])
        start = at + 8
        if vr in LONG:
            if at + 12 > len(data):
                break
            (size,) = struct.unpack("<I", data[at + 8 : at + 12])
            start = at + 12
        if start + size > len(data):
            break
        found.append((group << 16 | number, vr, data[start : start + size]))
        at = start + size
    return found, data[at:]


def element(tag: int, vr: bytes, value: bytes, *, size: int | None = None) -> bytes:
    """One element; ``size`` is a wrong length, where one is wanted."""
    value += (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2) if size is None else b""
    size = len(value) if size is None else size
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr)
    long = vr in LONG
    return head + (struct.pack("<HI", 0, size) if long else struct.pack("<H", size % 2**16)) + value


def as_dicom(found: list[Element], rest: bytes = b"") -> bytes:
    return bytes(128) + b"DICM" + b"".join(element(*each) for each in found) + rest


def dicom_values(data: bytes, random: Random) -> bytes:
    """Odd values in some of the elements that are read."""
    found, rest = elements(data)
    for tag in random.sample(sorted(ODD_ELEMENTS), random.choice((1, 1, 2, 3))):
        vr, values = ODD_ELEMENTS[tag]
        there = [(number, old) for number, old, _ in found if number == tag]
        vr = there[0][1] if there and random.random() < 0.8 else vr
        found = [each for each in found if each[0] != tag]
        found.append((tag, vr, random.choice(values)))
    return as_dicom(sorted(found, key=lambda each: each[0]), rest)


def dicom_order(data: bytes, random: Random) -> bytes:
    """An element removed, repeated or moved."""
    found, rest = elements(data)
    if not found:
        return data
    one = found.pop(random.randrange(len(found)))
    for _ in range(random.choice((0, 0, 1, 2, 300))):
        found.insert(random.randrange(len(found) + 1), one)
    return as_dicom(found, rest)


def dicom_length(data: bytes, random: Random) -> bytes:
    """An element whose length, VR or tag is wrong."""
    found, rest = elements(data)
    if not found:
        return data
    at = random.randrange(len(found))
    tag, vr, value = found[at]
    match random.choice(("length", "length", "vr", "tag")):
        case "length":
            size = random.choice((*EXTREMES[:-1], len(value) + 1, max(0, len(value) - 1)))
            wrong = element(tag, vr, value, size=size)
        case "vr":
            wrong = element(
                tag, random.choice((*LONG, b"US", b"DS", b"AT", b"PN", b"??", b"\0\0")), value
            )
        case _:
            wrong = element(
                random.choice((0, 0xFFFEE000, 0xFFFFFFFF, 0x7FE00010, 0x00020000)), vr, value
            )
    return as_dicom(found[:at]) + wrong + b"".join(element(*e) for e in found[at + 1 :]) + rest


def dicom_nested(data: bytes, random: Random) -> bytes:
    """Sequences within sequences, with lengths or delimiters, or never closed."""
    found, rest = elements(data)
    depth = random.choice((1, 10, 200, 3_000, 30_000))
    way = random.choice(("told", "delimited", "open"))
    item, start = (
        struct.pack("<HHI", 0xFFFE, 0xE000, 2**32 - 1),
        struct.pack("<HH2sHI", 8, 0x1140, b"SQ", 0, 2**32 - 1),
    )
    if way == "told":
        inner = b""
        for _ in range(min(depth, 3_000)):
            item = struct.pack("<HHI", 0xFFFE, 0xE000, len(inner)) + inner
            inner = element(0x00081140, b"SQ", item)
        nest = inner
    else:
        nest = (start + item) * depth
        if way == "delimited":
            ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
            nest += ends * depth
    early = [each for each in found if each[0] < 0x00081140]
    return as_dicom(early) + nest + b"".join(element(*e) for e in found[len(early) :]) + rest


def dicom_deflated(data: bytes, random: Random) -> bytes:
    """The deflated transfer syntax: of the same data, or of a bomb."""
    found, rest = elements(data)
    meta = [each for each in found if each[0] >> 16 == 2 and each[0] != 0x00020010]
    packer = zlib.compressobj(wbits=-15)
    packed = (
        packer.compress(b"".join(element(*e) for e in found[len(meta) :]) + rest) + packer.flush()
    )
    if random.random() < 0.5:
        packed = deflated_zeros(100 * MIB)[2:-4]
    return as_dicom([*meta, (0x00020010, b"UI", b"1.2.840.10008.1.2.1.99")], packed)


@cache
def _frames() -> tuple[tuple[bytes, bytes], ...]:
    """A transfer syntax and one compressed frame of 8 x 8 pixels for each codec that Pillow has."""
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8))
    found = []
    for kind, ends in (
        ("JPEG", (b".4.50", b".4.51", b".4.57", b".4.70")),
        ("JPEG2000", (b".4.90", b".4.91")),
    ):
        file = io.BytesIO()
        image.save(file, kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
        found += [(b"1.2.840.10008.1.2" + end, file.getvalue()) for end in ends]
    run = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x3f" + bytes(range(64))
    found.append((b"1.2.840.10008.1.2.5", run))
    loco = bytes.fromhex(
        "ffd8fff7000b0800080008010111 00ffda0008010100 0000 00 00".replace(" ", "")
    )
    return (*found, (b"1.2.840.10008.1.2.4.80", loco + bytes(40) + b"\xff\xd9"))


def dicom_compressed(data: bytes, random: Random) -> bytes:
    """Compressed 8 x 8 pixels in fragments, sound or mutated, below a header of some other size."""
    found, _ = elements(data)
    syntax, frame = random.choice(_frames())
    if random.random() < 0.7:
        own = JPEG if frame[:2] == b"\xff\xd8" else BYTES
        frame = mutate(frame, own, random)
    side = random.choice((8, 8, 8, 9, 4000)).to_bytes(2, "little")
    bits = {0x00280100: b"\x08\0", 0x00280101: b"\x08\0", 0x00280102: b"\x07\0", 0x00280010: side}
    bits |= {0x00280011: side} | {0x00020010: syntax}
    pixels = _encapsulated(frame)
    if random.random() < 0.1:  # the fragment's length is wrong
        pixels = pixels[:24] + struct.pack("<I", random.choice(EXTREMES[:-1]) % 2**32) + pixels[28:]
    kept = [(tag, vr, bits.get(tag, value)) for tag, vr, value in found if tag < 0x7FE00010]
    return as_dicom(kept, pixels)


def dicom_bomb(data: bytes, random: Random) -> bytes:
    """A huge image whose pixels are one run-length byte pair again and again (PS3.5, annex G)."""
    found, _ = elements(data)
    side = random.choice((6000, 7999, 8000, 30_000))
    depth = random.choice((1, 2, 2, 4))  # bytes of a pixel
    plane = b"\x81\0" * (-(-side * side // 128))  # 128 zeros each
    starts = [64 + number * len(plane) for number in range(depth)]
    frame = struct.pack("<16I", depth, *starts, *[0] * (15 - depth)) + plane * depth
    short = side.to_bytes(2, "little")
    told = {0x00280010: short, 0x00280011: short, 0x00020010: b"1.2.840.10008.1.2.5"}
    told |= {0x00280100: bytes((8 * depth, 0)), 0x00280101: bytes((8 * depth, 0))}
    told |= {0x00280102: bytes((8 * depth - 1, 0))}
    kept = [(tag, vr, told.get(tag, value)) for tag, vr, value in found if tag < 0x7FE00010]
    return as_dicom(kept, _encapsulated(frame))


def _encapsulated(frame: bytes) -> bytes:
    """Pixel data of one fragment after an empty offset table (PS3.5, A.4)."""
    frame += b"\0" * (len(frame) % 2)
    pixels = struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 2**32 - 1)
    for number, content in ((0xE000, b""), (0xE000, frame), (0xE0DD, b"")):
        pixels += struct.pack("<HHI", 0xFFFE, number, len(content)) + content
    return pixels


def dicom_words(data: bytes, random: Random) -> bytes:
    """An odd word in any element of text."""
    found, rest = elements(data)
    texts = [
        n for n, each in enumerate(found) if each[1] in (b"LO", b"CS", b"DS", b"IS", b"SH", b"UI")
    ]
    if not texts:
        return data
    at = random.choice(texts)
    tag, vr, _ = found[at]
    found[at] = (tag, vr, random.choice(ODD_WORDS).encode("utf-8", "replace")[:60_000])
    return as_dicom(found, rest)


DICOM = (
    *(dicom_values, dicom_values, dicom_values, dicom_order, dicom_length, dicom_length),
    *(dicom_nested, dicom_deflated, dicom_words),
)
COMPRESSED = (*[dicom_compressed] * 6, dicom_values, dicom_bomb)
