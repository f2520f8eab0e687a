"""Pixels from compressed files, and from files that are not what they say."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import image, save
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders import JPEGLosslessSV1Decoder
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from hydrakit.data.dicom import MissingCodecError, index_headers, read_header, read_pixels
from hydrakit.data.dicom import decode as dicom_decode
from hydrakit.data.dicom.pixels import read_stored
from hydrakit.errors import DataError

VALUES = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Headers are kept in a folder of the test's own."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def grey(**tags):
    return image(Rows=48, Columns=64, PixelData=VALUES.tobytes(), **tags)


def encoded(syntax: UID, frame: bytes, **tags):
    """An image whose one compressed frame is given."""
    dataset = image(Rows=48, Columns=64, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    return dataset


def refused(path) -> str:
    with pytest.raises(DataError) as caught:
        read_pixels(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message


@pytest.mark.parametrize(
    ("syntax", "package"),
    [(RLELossless, None), (JPEG2000Lossless, "openjpeg"), (JPEGLSLossless, "jpeg_ls")],
)
def test_compressed_pixels_are_those_that_were_compressed(tmp_path, syntax, package):
    if package:
        pytest.importorskip(package, reason="needs hydrakit-imaging[codecs]")
    dataset = grey()
    dataset.compress(syntax, generate_instance_uid=False)
    path = save(dataset, tmp_path / "x")
    assert path.read_bytes().find(VALUES.tobytes()) < 0
    np.testing.assert_array_equal(read_pixels(path), VALUES)
    (header,) = index_headers(tmp_path)
    assert (header.rows, header.columns) == (48, 64)


def jpeg_lossless(values: np.ndarray, precision: int = 16) -> bytes:
    """Values as a JPEG Lossless frame (ISO 10918-1 annex H, predictor 1), by its own tables.

    Each difference category is a Huffman code of five bits: the category's own number.
    """
    bits = ""
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            before = line[column - 1] if column else int(values[row - 1, 0]) if row else 2**15
            step = (value - before + 2**15) % 2**16 - 2**15
            size = abs(step).bit_length()
            bits += f"{size:05b}"
            if 0 < size < 16:
                bits += f"{step if step > 0 else step + 2**size - 1:0{size}b}"
    bits += "1" * (-len(bits) % 8)
    data = int(bits, 2).to_bytes(len(bits) // 8).replace(b"\xff", b"\xff\0")
    height, width = values.shape
    return b"".join(
        (
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB", 11, precision, height, width, 1) + b"\1\x11\0",
            b"\xff\xc4" + struct.pack(">HB", 36, 0) + bytes([0, 0, 0, 0, 17, *[0] * 11]),
            bytes(range(17)),
            b"\xff\xda" + struct.pack(">HB", 8, 1) + b"\1\0\1\0\0",
            data,
            b"\xff\xd9",
        )
    )


def test_jpeg_lossless(tmp_path):
    pytest.importorskip("gdcm", reason="needs hydrakit-imaging[codecs]")
    path = save(encoded(JPEGLosslessSV1, jpeg_lossless(VALUES)), tmp_path / "x")
    np.testing.assert_array_equal(read_pixels(path), VALUES)


def test_a_missing_codec_names_the_extra(tmp_path, monkeypatch):
    path = save(encoded(JPEGLosslessSV1, jpeg_lossless(VALUES)), tmp_path / "x")
    monkeypatch.setattr(JPEGLosslessSV1Decoder, "_available", {})
    message = refused(path)
    assert "JPEG Lossless" in message
    assert "hydrakit-imaging[codecs]" in message
    with pytest.raises(MissingCodecError):
        read_pixels(path)


def test_a_frame_that_brings_its_decoder_down_is_told_and_the_next_one_read(tmp_path, monkeypatch):
    pytest.importorskip("gdcm", reason="needs hydrakit-imaging[codecs]")
    good = save(encoded(JPEGLosslessSV1, jpeg_lossless(VALUES)), tmp_path / "good")
    read_pixels(good)
    decoder = dicom_decode._decoder(os.getpid())
    decoder._process.kill()
    assert "the decoder crashed or took too long" in refused(good)
    np.testing.assert_array_equal(read_pixels(good), VALUES)
    decoder._stop()
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    monkeypatch.setattr(dicom_decode, "DECODE_SECONDS", 0.1)
    monkeypatch.setattr(dicom_decode, "start_worker", lambda _: subprocess.Popen(silent, **pipes))
    assert "the decoder crashed or took too long" in refused(good)
    monkeypatch.undo()
    np.testing.assert_array_equal(read_pixels(good), VALUES)


def test_a_compression_that_no_package_decodes(tmp_path):
    assert "store the images uncompressed" in refused(
        save(encoded(MPEG2MPML, b"\0" * 40), tmp_path / "x")
    )


def test_a_damaged_compressed_frame(tmp_path):
    pytest.importorskip("gdcm", reason="needs hydrakit-imaging[codecs]")
    frame = b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">4I", 64, 48, 0, 0) + b"\0" * 60
    assert "pixels cannot be read" in refused(
        save(encoded(JPEG2000Lossless, frame), tmp_path / "x")
    )
    assert "pixels cannot be read" in refused(
        save(encoded(JPEGLosslessSV1, b"\xff\xd8\0\0\0\0\0\0\0\0\0\0"), tmp_path / "y")
    )


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (JPEG2000Lossless, b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">4I", 2**31, 2**31, 0, 0)),
        (JPEGLosslessSV1, b"\xff\xd8\xff\xc3\0\x0b\x10\xff\xff\xff\xff\1\1\x11\0"),
    ],
)
def test_a_frame_that_would_unpack_to_more_than_its_image_is_not_unpacked(tmp_path, syntax, frame):
    if syntax == JPEGLosslessSV1:
        pytest.importorskip("gdcm", reason="needs hydrakit-imaging[codecs]")
    assert "a compressed frame of" in refused(save(encoded(syntax, frame), tmp_path / "x"))


def test_an_image_that_claims_to_be_huge(tmp_path):
    dataset = grey()
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.Rows = dataset.Columns = 65535
    assert "65535 x 65535 pixels" in refused(save(dataset, tmp_path / "x"))


def test_a_deflated_file_is_not_inflated(tmp_path):
    import zlib

    path = save(image(ImageComments="a" * 10), tmp_path / "x")
    content = path.read_bytes()
    start = content.index(b"\x08\0\x16\0")  # SOPClassUID, the first element of the data set
    meta = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    length = meta.index(b"\x02\0\x10\0") + 6
    meta = (
        meta[:length] + struct.pack("<H", len(DeflatedExplicitVRLittleEndian)) + meta[length + 2 :]
    )
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(meta + packer.compress(content[start:] + bytes(10**7)) + packer.flush())
    with pytest.raises(DataError, match="deflated"):
        read_header(path)


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
    import tracemalloc

    path = save(image(ImageType=["A"] * 10), tmp_path / "x")
    content = path.read_bytes()
    at = content.index(b"\x28\0\x10\0US")
    path.write_bytes(content[:at] + b"\x28\0\x10\0UN\0\0" + struct.pack("<I", 2**31))
    tracemalloc.start()
    with pytest.raises(DataError):
        read_header(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_the_window_is_the_first_one(tmp_path):
    stored = read_stored(
        save(grey(WindowCenter=[40, 600], WindowWidth=[400, 1500]), tmp_path / "x")
    )
    assert stored.window == (40.0, 400.0)
    assert stored.pixels.dtype == np.uint16
    assert read_stored(save(grey(), tmp_path / "y")).window is None


assert sys.byteorder == "little"  # so that tobytes() is what DICOM stores
