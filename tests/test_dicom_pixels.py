"""Pixels from compressed files, and from files that are not what they say."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
from dicom_files import image, save
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
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
from hydrakit.data.dicom.pixels import DicomImage, GreyImage, read_stored
from hydrakit.errors import DataError

VALUES = np.random.default_rng(0).integers(0, 4096, (48, 64), dtype=np.uint16)
SIZE = {"Rows": 48, "Columns": 64, "PixelData": VALUES.tobytes()}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Headers are kept in a folder of the test's own."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def grey(**tags):
    return image(**SIZE, **tags)


def encoded(syntax: UID, frame: bytes, **tags):
    """An image whose one compressed frame is given."""
    dataset = image(Rows=48, Columns=64, **tags)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    return dataset


def read_grey(path, frame=None, *, rescale=None, own_window=False) -> GreyImage:
    with DicomImage(path) as file:
        return file.grey(frame, rescale=rescale, own_window=own_window)


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


def deflated(path, tail: bytes = b""):
    """Rewrite a file of plain little endian as a deflated one, with other data behind its own."""
    content = path.read_bytes()
    start = content.index(b"\x08\0\x16\0")  # SOPClassUID, the first element of the data set
    meta = content[:start].replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    at = meta.index(b"\x02\0\x10\0") + 6
    length = struct.pack("<H", len(DeflatedExplicitVRLittleEndian))
    group = struct.pack("<L", len(meta) - 144)
    meta = meta[:140] + group + meta[144:at] + length + meta[at + 2 :]
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(meta + packer.compress(content[start:] + tail) + packer.flush())
    return path


def test_a_deflated_file(tmp_path):
    path = deflated(save(grey(RescaleSlope=2, RescaleIntercept=1), tmp_path / "x"))
    assert VALUES[0].tobytes() not in path.read_bytes()
    np.testing.assert_array_equal(dcmread(path).pixel_array, VALUES)
    np.testing.assert_array_equal(read_pixels(path, rescale=True), VALUES * 2.0 + 1)
    header = read_header(path)
    plain = read_header(save(grey(RescaleSlope=2), tmp_path / "y"))
    assert header == replace(plain, path=path, sop_uid=header.sop_uid)


@pytest.mark.parametrize("read", [read_header, read_pixels])
def test_a_deflated_file_that_inflates_to_too_much_or_is_damaged(tmp_path, monkeypatch, read):
    path = deflated(save(grey(), tmp_path / "x"), bytes(10**7))
    whole = path.read_bytes()
    assert len(whole) < 30_000
    monkeypatch.setattr("hydrakit.data.dicom.header.MAX_INFLATED", 2**20)
    tracemalloc.start()
    with pytest.raises(DataError, match="it inflates to over 1 MiB"):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    monkeypatch.undo()
    path.write_bytes(whole[:-2000])
    with pytest.raises(DataError, match="its deflated data is cut off"):
        read(path)
    path.write_bytes(whole[:400] + b"\xff" * 100 + whole[500:])
    with pytest.raises(DataError, match="its deflated data is damaged"):
        read(path)
    path.write_bytes(whole[:140] + b"\0\0\0\0" + whole[144:])
    with pytest.raises(DataError, match="where its deflated data begins is not clear"):
        read(path)


def test_a_deflated_file_of_millions_of_empty_elements(tmp_path, monkeypatch):
    monkeypatch.setattr("hydrakit.data.dicom.header.MAX_READS", 5000)
    path = save(grey(), tmp_path / "x")
    assert read_header(deflated(path)).rows == 48
    content = save(grey(), path).read_bytes()
    at = content.index(b"\x28\0\2\0")  # SamplesPerPixel
    path.write_bytes(content[:at] + bytes(80_000) + content[at:])
    with pytest.raises(DataError, match="its deflated data has too many elements"):
        read_header(deflated(path))


def test_a_length_beyond_the_file_takes_no_memory(tmp_path):
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


# --- from stored numbers to grey values


def signed(values, **tags):
    stored = np.asarray(values, dtype=np.int16)
    size = {"Rows": stored.shape[0], "Columns": stored.shape[1]}
    return image(**size, PixelRepresentation=1, PixelData=stored.tobytes(), **tags)


def lookup(first: int, bits: int, *entries: int) -> Dataset:
    table = Dataset()
    table.LUTDescriptor = [len(entries), first, bits]
    table["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    table.add_new("LUTData", "OW", np.array(entries, dtype="<u2").tobytes())
    return table


@pytest.mark.parametrize(
    ("tags", "is_inverse"),
    [
        ({}, False),
        ({"PhotometricInterpretation": "MONOCHROME1"}, True),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "INVERSE"}, True),
        ({"PresentationLUTShape": "IDENTITY"}, False),
    ],
)
@pytest.mark.parametrize("rescale", [False, None])
def test_low_values_are_black(tmp_path, tags, is_inverse, rescale):
    bits = {"BitsStored": 12, "HighBit": 11}
    path = save(grey(**bits, **tags, RescaleSlope=2, RescaleIntercept=10), tmp_path / "x")
    seen = 4095 - VALUES if is_inverse else VALUES
    expected = seen * (1.0 if rescale is False else 2.0) + (0 if rescale is False else 10)
    np.testing.assert_array_equal(read_pixels(path, rescale=rescale), expected)
    header = read_header(path)
    assert header.facts()["photometric interpretation"] == tags.get(
        "PhotometricInterpretation", "MONOCHROME2"
    )
    assert header.facts().get("presentation LUT shape") == tags.get("PresentationLUTShape")


def test_signed_values_are_inverted_within_their_range(tmp_path):
    tags = {"BitsStored": 10, "HighBit": 9, "PhotometricInterpretation": "MONOCHROME1"}
    path = save(signed([[-512, -1, 0, 511]], **tags), tmp_path / "x")
    np.testing.assert_array_equal(read_pixels(path), [[511, 0, -1, -512]])


@pytest.mark.parametrize("unit", [{"Modality": "CT"}, {"RescaleType": "HU"}])
def test_hounsfield_units_are_never_inverted(tmp_path, unit):
    tags = {
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    path = save(grey(**tags, **unit), tmp_path / "x")
    np.testing.assert_array_equal(read_pixels(path, rescale=True), VALUES - 1024.0)
    np.testing.assert_array_equal(read_pixels(path), VALUES)


def test_the_modality_transform_is_that_of_pydicom(tmp_path):
    wide = grey(ModalityLUTSequence=[lookup(100, 16, 7, 3, 900, 60000)])
    narrow = grey(ModalityLUTSequence=[lookup(0, 8, 5, 4, 3)])
    slope = grey(RescaleSlope="0.1", RescaleIntercept="-7")
    for name, dataset in (("wide", wide), ("narrow", narrow), ("slope", slope)):
        path = save(dataset, tmp_path / name)
        expected = apply_modality_lut(VALUES, dcmread(path)).astype(np.float32)
        np.testing.assert_array_equal(read_pixels(path, rescale=None), expected)
        np.testing.assert_array_equal(read_pixels(path, rescale=True), expected)
        np.testing.assert_array_equal(read_pixels(path), VALUES)
    plain = read_grey(save(grey(), tmp_path / "plain"), rescale=None)
    np.testing.assert_array_equal(plain.pixels, VALUES)
    one = grey(RescaleSlope=1, RescaleIntercept=0)
    assert plain.tags == "none"
    assert read_grey(save(one, tmp_path / "one"), rescale=None).tags == "without effect"
    assert read_grey(tmp_path / "slope", rescale=None).tags == "applied"


def test_a_modality_table_of_12_bits_is_inverted_within_them(tmp_path):
    table = lookup(0, 12, 4095, 0, 95)
    values = np.array([[0, 1, 2, 9]], dtype=np.uint16)
    tags = {"Rows": 1, "Columns": 4, "PixelData": values.tobytes()}
    dataset = image(**tags, ModalityLUTSequence=[table], PhotometricInterpretation="MONOCHROME1")
    pixels = read_pixels(save(dataset, tmp_path / "x"), rescale=None)
    np.testing.assert_array_equal(pixels, [[0, 4095, 4000, 4000]])


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"RescaleSlope": 2}, "only one of RescaleSlope and RescaleIntercept"),
        ({"RescaleIntercept": 2}, "only one of RescaleSlope and RescaleIntercept"),
        ({"RescaleSlope": [1, 2], "RescaleIntercept": 0}, "RescaleSlope that is not a finite"),
        ({"PixelPaddingValue": [1, 2]}, "PixelPaddingValue that is not a finite number"),
        ({"BitsStored": 12}, "HighBit is 15 where BitsStored is 12"),
        ({"ModalityLUTSequence": [lookup(0, 0)]}, "lookup table of 1 entries, not 65536"),
        (
            {"NumberOfFrames": 2, "Rows": 24},
            r"has 2 frames: name one as FILE#\[0\] to FILE#\[1\]",
        ),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "PALETTE COLOR pixels .* a greyscale"),
    ],
)
def test_elements_that_cannot_be_used_are_named(tmp_path, tags, words):
    path = save(image(**{**SIZE, **tags}), tmp_path / "x")
    with pytest.raises(DataError, match=words) as caught:
        read_pixels(path, rescale=None)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_slope_that_is_no_number_is_no_missing_slope(tmp_path):
    path = save(grey(RescaleSlope="7.75", RescaleIntercept=0), tmp_path / "x")
    path.write_bytes(path.read_bytes().replace(b"7.75", b"7 75"))
    with pytest.raises(DataError, match="RescaleSlope that is not a finite number"):
        read_pixels(path, rescale=None)
    np.testing.assert_array_equal(read_pixels(path), VALUES)


def test_an_enhanced_image_of_one_frame_is_rescaled_by_its_functional_groups(tmp_path):
    transform, groups = Dataset(), Dataset()
    transform.RescaleSlope, transform.RescaleIntercept, transform.RescaleType = 2, -5, "US"
    groups.PixelValueTransformationSequence = [transform]
    dataset = grey(NumberOfFrames=1, SharedFunctionalGroupsSequence=[groups])
    pixels = read_pixels(save(dataset, tmp_path / "x"), rescale=None)
    np.testing.assert_array_equal(pixels, VALUES * 2.0 - 5)


def test_unused_high_bits_are_ignored(tmp_path):
    """Old files store overlays there (PS3.5, section 8.1.1)."""
    dirty = VALUES | np.uint16(0x8000)
    dataset = image(Rows=48, Columns=64, BitsStored=12, HighBit=11, PixelData=dirty.tobytes())
    np.testing.assert_array_equal(read_pixels(save(dataset, tmp_path / "x")), VALUES)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID", None])
def test_the_window_of_a_file_is_that_of_pydicom(tmp_path, function):
    dataset = grey(WindowCenter=[500, 4], WindowWidth=[700, 9], VOILUTFunction=function)
    dataset.RescaleSlope, dataset.RescaleIntercept = 0.5, -100
    if function is None:
        del dataset.VOILUTFunction
    path = save(dataset, tmp_path / "x")
    read = dcmread(path)
    modality = apply_modality_lut(VALUES, read)
    low, high = -100, 65535 * 0.5 - 100  # the range to which pydicom maps a window
    expected = (apply_voi_lut(modality, read) - low) / (high - low) * 255
    pixels = read_grey(path, rescale=None, own_window=True).pixels
    np.testing.assert_allclose(pixels, expected, atol=1e-3)
    read.PhotometricInterpretation = "MONOCHROME1"
    inverse = read_grey(save(read, tmp_path / "y"), rescale=None, own_window=True).pixels
    np.testing.assert_allclose(inverse, 255 - expected, atol=1e-3)


def test_the_voi_table_of_a_file_is_that_of_pydicom(tmp_path):
    table = lookup(2000, 12, *range(0, 4096, 3))
    dataset = grey(VOILUTSequence=[table], WindowCenter=1, WindowWidth=2)
    path = save(dataset, tmp_path / "x")
    expected = apply_voi_lut(VALUES, dcmread(path)) / 4095 * 255
    pixels = read_grey(path, rescale=None, own_window=True).pixels
    np.testing.assert_allclose(pixels, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({}, "neither WindowCenter and WindowWidth nor a VOI LUT"),
        ({"WindowCenter": 5, "WindowWidth": 0.5}, "a window of width 0.5"),
        ({"WindowCenter": 5, "WindowWidth": 2, "VOILUTFunction": "CUBIC"}, "VOILUTFunction"),
    ],
)
def test_a_window_that_cannot_be_used(tmp_path, tags, words):
    with pytest.raises(DataError, match=words):
        read_grey(save(grey(**tags), tmp_path / "x"), rescale=None, own_window=True)


def padded(stored, value, vr, *, limit=None, **tags):
    """An image of one row with a padding value, and perhaps a limit, of the given type."""
    stored = np.asarray(stored)
    size = {"Rows": 1, "Columns": stored.size, "PixelRepresentation": int(stored.dtype.kind == "i")}
    dataset = image(**size, PixelData=stored.tobytes(), **tags)
    dataset.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "is_padding"),
    [
        (padded(np.int16([-2000, -5, 7, -2000]), -2000, "SS"), [1, 0, 0, 1]),
        (padded(np.int16([-2000, -5, 7, -2000]), 63536, "US"), [1, 0, 0, 1]),
        (padded(np.int16([-2000, -5, 7, -2000]), b"\x30\xf8", "UN"), [1, 0, 0, 1]),
        (padded(np.uint16([63536, 5, 7, 9]), -2000, "SS"), [1, 0, 0, 0]),
        (padded(np.int16([-9, -8, -7, -6]), -9, "SS", limit=-8), [1, 1, 0, 0]),
        (padded(np.int16([-9, -8, -7, -6]), -8, "SS", limit=-9), [1, 1, 0, 0]),
        (padded(np.uint16([1, 5, 7, 9]), 0, "US"), [0, 0, 0, 0]),
        # A word that does not fit into 12 bits; -2000 does, if they are signed.
        (padded(np.uint16([63536, 2096, 7]), 63536, "US", BitsStored=12, HighBit=11), [1, 0, 0]),
        (padded(np.int16([-2000, 47, 7]), -2000, "SS", BitsStored=12, HighBit=11), [1, 0, 0]),
    ],
)
def test_padding_is_found_among_the_stored_values(tmp_path, dataset, is_padding):
    dataset.RescaleSlope, dataset.RescaleIntercept = 3, 1
    for rescale in (False, None):
        pixels = read_pixels(save(dataset, tmp_path / "x"), rescale=rescale)
        np.testing.assert_array_equal(np.ma.getmaskarray(pixels)[0], np.array(is_padding) == 1)
        assert isinstance(pixels, np.ma.MaskedArray) == any(is_padding)


def test_padding_has_the_values_of_its_surroundings(tmp_path):
    stored = np.int16([[-2000, 10, 40, -2000], [-2000, 11, 41, -2000], [-2000] * 4])
    dataset = padded(stored, -2000, "SS", RescaleSlope=2, RescaleIntercept=1)
    dataset.Rows, dataset.Columns = 3, 4
    pixels = read_pixels(save(dataset, tmp_path / "x"), rescale=True)
    expected = [[21, 21, 81, 81], [23, 23, 83, 83], [23, 23, 83, 83]]
    np.testing.assert_array_equal(np.ma.getdata(pixels), expected)
    assert (pixels.min(), pixels.max(), pixels.mean()) == (21, 83, 52)  # without padding
    dataset.PixelData = np.full((3, 4), -2000, np.int16).tobytes()
    message = refused(save(dataset, tmp_path / "y"))
    assert "every pixel of the image is padding (PixelPaddingValue)" in message


assert sys.byteorder == "little"  # so that tobytes() is what DICOM stores
