"""Mutators that know PNG, JPEG, TIFF and NPY (see `mutators`)."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from random import Random

from PIL import Image

from fuzzing.mutators import BYTES, EXTREMES, MIB, SIZES, mutate

# PNG (ISO 15948)

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Each chunk's type and content."""
    chunks, at = [], 8
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        chunks.append((kind, data[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


def as_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG with right lengths and checksums."""
    return PNG_HEAD + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def png_order(data: bytes, random: Random) -> bytes:
    """A chunk removed, repeated or moved."""
    chunks = png_chunks(data)
    if not chunks:
        return data
    chunk = chunks.pop(random.randrange(len(chunks)))
    for _ in range(random.choice((0, 1, 2, 50))):
        chunks.insert(random.randrange(len(chunks) + 1), chunk)
    return as_png(chunks)


def png_content(data: bytes, random: Random) -> bytes:
    """A chunk's content mutated, its checksum right."""
    chunks = png_chunks(data)
    if not chunks:
        return data
    at = random.randrange(len(chunks))
    kind, content = chunks[at]
    if kind == b"IDAT" and random.random() < 0.7:  # what is packed in it
        chunks[at] = (kind, zlib.compress(mutate(_inflated(content), BYTES, random)))
    else:
        chunks[at] = (kind, mutate(content, BYTES, random))
    return as_png(chunks)


def _inflated(content: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(content, MIB)
    except zlib.error:
        return content


def png_header(data: bytes, random: Random) -> bytes:
    """Other dimensions, depth, colour type or interlacing in the header."""
    chunks = png_chunks(data)
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        return data
    fields = list(struct.unpack(">IIBBBBB", chunks[0][1]))
    for _ in range(random.choice((1, 2))):
        at = random.randrange(7)
        fields[at] = (
            random.choice(SIZES) if at < 2 else random.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
        )
    return as_png([(b"IHDR", struct.pack(">IIBBBBB", *fields)), *chunks[1:]])


@cache
def deflated_zeros(size: int) -> bytes:
    """So many zeros, deflated."""
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(MIB, size - at))) for at in range(0, size, MIB)]
    return b"".join(parts) + packer.flush()


def png_bomb(data: bytes, random: Random) -> bytes:
    """Little that inflates to much: pixels of a huge image, a text, or a colour profile."""
    chunks = png_chunks(data)
    packed = deflated_zeros(random.choice((20 * MIB, 100 * MIB)))
    match random.choice(("pixels", "text", "profile", "itext")):
        case "pixels":
            side = random.choice((4700, 8192, 8192, 9000, 100_000))
            depth, colour = random.choice(
                ((8, 0), (16, 0), (8, 2), (16, 2), (8, 4), (8, 6), (1, 0))
            )
            header = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
            packed = deflated_zeros(600 * MIB)  # 16 bits of three channels take 400 MiB
            return as_png([(b"IHDR", header), (b"IDAT", packed), (b"IEND", b"")])
        case "text":
            extra = (b"zTXt", b"Comment\0\0" + packed)
        case "itext":
            extra = (b"iTXt", b"Comment\0\1\0\0\0" + packed)
        case _:
            extra = (b"iCCP", b"profile\0\0" + packed)
    return as_png([*chunks[:1], extra, *chunks[1:]])


def png_extra(data: bytes, random: Random) -> bytes:
    """A chunk that few images have: transparency, a palette, animation, or an EXIF block."""
    chunks = png_chunks(data)
    kind = random.choice(
        (b"tRNS", b"PLTE", b"acTL", b"fcTL", b"eXIf", b"gAMA", b"pHYs", b"CgBI", b"sBIT")
    )
    content = random.choice((b"", b"\0", b"\xff" * 8, random.randbytes(26), random.randbytes(300)))
    chunks.insert(min(1, len(chunks)), (kind, content))
    return as_png(chunks)


PNG = (png_order, png_content, png_content, png_header, png_header, png_bomb, png_extra)

# JPEG (ISO 10918-1, B.1)


def jpeg_segments(data: bytes) -> list[bytes]:
    """The segments, each with its marker and length; the last has all the rest."""
    segments, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        segments.append(data[at:end])
        at = end
    return [*segments, data[at:]]


def jpeg_order(data: bytes, random: Random) -> bytes:
    segments = jpeg_segments(data)
    segment = segments.pop(random.randrange(len(segments)))
    for _ in range(random.choice((0, 1, 2, 200))):
        segments.insert(random.randrange(len(segments) + 1), segment)
    return b"".join(segments)


def jpeg_content(data: bytes, random: Random) -> bytes:
    """A segment's content mutated, its length right."""
    segments = jpeg_segments(data)
    at = random.randrange(len(segments))
    if len(segments[at]) > 4 and at < len(segments) - 1:
        content = mutate(segments[at][4:], BYTES, random)[:65_000]
        segments[at] = segments[at][:2] + struct.pack(">H", len(content) + 2) + content
    return b"".join(segments)


def jpeg_frame(data: bytes, random: Random) -> bytes:
    """Another kind of frame, precision, size, or number of components."""
    segments = jpeg_segments(data)
    for at, segment in enumerate(segments):
        if len(segment) > 10 and segment[0] == 0xFF and 0xC0 <= segment[1] <= 0xC3:
            changed = bytearray(segment)
            match random.choice(("kind", "precision", "size", "components")):
                case "kind":
                    changed[1] = random.choice((0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xF7))
                case "precision":
                    changed[4] = random.choice((0, 2, 8, 12, 16, 255))
                case "size":
                    sizes = (random.choice((0, 1, 8192, 65_535)), random.choice((0, 8192, 65_535)))
                    changed[5:9] = struct.pack(">HH", *sizes)
                case _:
                    changed[9] = random.choice((0, 1, 2, 3, 4, 255))
            segments[at] = bytes(changed)
    return b"".join(segments)


JPEG = (jpeg_order, jpeg_content, jpeg_content, jpeg_frame, jpeg_frame)

# TIFF 6.0, section 2


def tiff_field(data: bytes, random: Random) -> bytes:
    """A field of the first directory with another tag, type, count or value."""
    if data[:2] not in (b"II", b"MM") or len(data) < 16:
        return data
    order = "<" if data[:2] == b"II" else ">"
    (start,) = struct.unpack(order + "I", data[4:8])
    if start + 2 > len(data):
        return data
    (count,) = struct.unpack(order + "H", data[start : start + 2])
    if random.random() < 0.15:  # the next directory: this one again, or one nowhere
        at, size, value = start + 2 + 12 * count, 4, random.choice((start, 8, len(data), 2**32 - 1))
    else:
        at = start + 2 + 12 * random.randrange(max(1, count))
        offset, size = random.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 4)))
        at += offset
        choices = (
            *EXTREMES,
            256,
            257,
            258,
            259,
            262,
            273,
            277,
            278,
            279,
            322,
            330,
            339,
            34_665,
            start,
        )
        value = random.choice(choices) % 256**size
    return data[:at] + value.to_bytes(size, "little" if order == "<" else "big") + data[at + size :]


def tiff_saved(data: bytes, random: Random) -> bytes:
    """Another compression, mode or number of pages."""
    mode = random.choice(("L", "RGB", "I;16", "F", "1", "CMYK", "P", "RGBA", "LA"))
    image = Image.new(mode, random.choice(((8, 8), (1, 1), (300, 1))))
    file = io.BytesIO()
    ways = ("raw", "tiff_lzw", "tiff_deflate", "packbits") + (("group4",) if mode == "1" else ())
    pages = [image] * random.choice((0, 0, 1, 5))
    image.save(
        file, "TIFF", compression=random.choice(ways), save_all=bool(pages), append_images=pages
    )
    return tiff_field(file.getvalue(), random) if random.random() < 0.7 else file.getvalue()


def tiff_bomb(data: bytes, random: Random) -> bytes:
    """One deflated strip of a huge image, grey or in colours, of whole or real numbers."""
    side = random.choice((4700, 8192, 8192, 30_000, 100_000))
    bits, numbers = random.choice(((8, 1), (16, 1), (32, 1), (32, 3), (32, 2)))
    samples = random.choice((1, 1, 3, 4)) if bits == 8 else 1
    packed = deflated_zeros(300 * MIB)
    fields = [(256, side), (257, side), (258, bits), (259, 8), (262, 1 if samples == 1 else 2)]
    fields += [(273, 200), (277, samples), (278, side), (279, len(packed)), (339, numbers)]
    if samples > 1:
        fields[2] = (258, bits)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + b"\0\0\0\0"
    return head.ljust(200, b"\0") + packed


TIFF = (*[tiff_field] * 5, tiff_saved, tiff_saved, tiff_bomb)

# NPY (numpy.lib.format)

_SHAPES = """
(2147483647,)  (65535,65535)  (-1,8)  ()  (0,8,8)  (6,8,8)  (1,)*9  (True,8)  [6,8,8]  (6,64)
('a',)  (9223372036854775807,9223372036854775807)  (8192,8193)
"""
_DTYPES = "<f4 |u1 |O <f8 >i2 <c16 <U9 |V999999999 <M8[s] |b1 <f2 <i8 x <U2147483647"


def odd_npy(data: bytes, random: Random) -> bytes:
    """A header that says something else of the same bytes."""
    shape = random.choice(_SHAPES.split())
    kinds = (f"'{random.choice(_DTYPES.split())}'", "[('a', '<f4')]", "1", "[('a', '|O')]")
    fields = [
        f"'descr': {random.choice(kinds[:1] * 4 + kinds)}",
        f"'fortran_order': {random.choice(('False', 'False', 'True', '2'))}",
        f"'shape': {shape}",
    ]
    texts = (
        "{" + ", ".join(fields) + "}",
        "(" * random.choice((50, 3000)),
        "__import__('os')",
        "{}",
    )
    text = random.choice(texts[:1] * 6 + texts)
    body = data[128:] + b"\0" * random.choice((0, 0, 4096))
    version = random.choice(((1, 0), (1, 0), (2, 0), (3, 0), (9, 9)))
    length = struct.pack(
        "<H" if version[0] == 1 else "<I", len(text) + random.choice((0, 0, 1, -1))
    )
    return b"\x93NUMPY" + bytes(version) + length + text.encode() + body
