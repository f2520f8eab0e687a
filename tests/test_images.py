"""One image file of any format: its values, its facts, and files that are damaged or hostile."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from hydrakit.data.declared.arrays import ImageError, open_array
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.picture import Picture
from hydrakit.data.declared.schema import ImageRules

GREY8 = np.arange(0, 240, 20, dtype=np.uint8).reshape(3, 4)
GREY16 = (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4)
RGB = np.arange(36, dtype=np.uint8).reshape(3, 4, 3) * 7


def read(path: Path, member: str | None = None, row: int | None = None, **rules) -> Picture:
    reader = ImageReader(ImageRules(**rules))
    try:
        return reader.read(path, member, row)
    finally:
        reader.close()


def refused(path: Path, words: str, *args, **rules) -> None:
    with pytest.raises(ImageError, match=words) as error:
        read(path, *args, **rules)
    assert "\n" not in str(error.value)
    assert path.name in str(error.value)


def save(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(("pixels", "bits"), [(GREY8, 8), (GREY16, 16)])
def test_grey_is_kept_as_stored(tmp_path: Path, suffix: str, pixels, bits: int) -> None:
    picture = read(save(tmp_path / f"a{suffix}", pixels))
    assert picture.pixels.dtype == np.float32
    np.testing.assert_array_equal(picture.pixels, pixels[np.newaxis])
    facts = {"width": 4, "height": 3, "bits": bits}
    assert {name: picture.facts[name] for name in facts} == facts
    assert picture.facts["format"] == {".png": "PNG", ".tif": "TIFF"}[suffix]


def test_float_tiff(tmp_path: Path) -> None:
    pixels = np.linspace(-1000, 3000, 12, dtype=np.float32).reshape(3, 4)
    picture = read(save(tmp_path / "a.tif", pixels))
    np.testing.assert_array_equal(picture.pixels[0], pixels)
    assert picture.facts["bits"] == 32
    refused(save(tmp_path / "b.tif", pixels * np.float32(np.nan)), "not finite")


def test_colour_by_either_rule(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    channels = read(path, colour="channels").pixels
    np.testing.assert_array_equal(channels, np.moveaxis(RGB, -1, 0))
    luma = RGB @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
    np.testing.assert_allclose(read(path).pixels[0], luma, atol=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_mode_leaves_no_trace(tmp_path: Path, mode: str) -> None:
    black_white = np.where(GREY8 > 100, 255, 0).astype(np.uint8)
    picture = read(save(tmp_path / "a.png", black_white, mode))
    np.testing.assert_array_equal(picture.pixels[0], black_white)
    assert read(tmp_path / "a.png", colour="channels").pixels.shape == (3, 3, 4)
    assert picture.facts["mode"] == mode
    assert picture.facts["bits"] == (1 if mode == "1" else 8)


def test_16_bit_grey_as_channels(tmp_path: Path) -> None:
    pixels = read(save(tmp_path / "a.png", GREY16), colour="channels").pixels
    np.testing.assert_array_equal(pixels, np.stack([GREY16] * 3))


def test_jpeg_and_a_wrong_name(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 90, np.uint8)).save(tmp_path / "a.png", "JPEG")
    picture = read(tmp_path / "a.png")
    assert picture.facts["format"] == "JPEG"
    np.testing.assert_allclose(picture.pixels, 90, atol=1)


def test_arrays(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).normal(size=(5, 2, 3, 4))
    np.save(tmp_path / "a.npy", stack[0, 0])
    np.save(tmp_path / "b.npy", np.moveaxis(stack[1], 0, -1))
    np.savez_compressed(tmp_path / "c.npz", stack=stack, other=GREY8)
    np.savez(tmp_path / "d.npz", np.asfortranarray(stack[2]))
    single = stack.astype(np.float32)
    np.testing.assert_array_equal(read(tmp_path / "a.npy").pixels, single[0, :1])
    np.testing.assert_array_equal(read(tmp_path / "b.npy", channels="last").pixels, single[1])
    np.testing.assert_array_equal(read(tmp_path / "d.npz", channels="first").pixels, single[2])
    reader = ImageReader(ImageRules(channels="first"))
    for row in (0, 3, 1, 4, 4):  # forwards and backwards in the compressed stream
        picture = reader.read(tmp_path / "c.npz", "stack", row)
        np.testing.assert_array_equal(picture.pixels, single[row])
    np.testing.assert_array_equal(reader.read(tmp_path / "c.npz", "other").pixels, [GREY8])
    reader.close()
    facts = {"format": "NPZ", "mode": "float64", "width": 4, "height": 3, "bits": 64}
    assert picture.facts == facts


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((28, 28, 3), -1),
        ((32, 40, 1), -1),
        ((3, 28, 28), 0),
        ((4, 16, 20), 0),
        ((1, 5, 5), 0),
        ((25, 32, 32), None),  # a volume
        ((64, 64, 51), None),
        ((2, 64, 64), None),
        ((3, 28, 3), None),
        ((3, 11, 28), None),  # perhaps three slices of a strip
        ((4, 40, 1), None),
    ],
)
def test_the_axis_of_channels_is_guessed_only_where_it_is_plain(
    tmp_path: Path, shape: tuple[int, ...], axis: int | None
) -> None:
    values = np.random.default_rng(0).random((2, *shape)).astype(np.float32)
    np.save(tmp_path / "one.npy", values[1])
    np.savez(tmp_path / "all.npz", images=values)
    for path, *where in ((tmp_path / "one.npy",), (tmp_path / "all.npz", "images", 1)):
        if axis is None:
            refused(path, rf"shape \({shape[0]}, .*channels = .*volume", *where)
        else:
            expected = np.moveaxis(values[1], axis, 0)
            np.testing.assert_array_equal(read(path, *where).pixels, expected)
        for name, stated in (("first", 0), ("last", -1)):  # a declaration decides
            expected = np.moveaxis(values[1], stated, 0)
            np.testing.assert_array_equal(read(path, *where, channels=name).pixels, expected)


def test_arrays_that_cannot_be_used(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=GREY8, y=GREY8, words=np.array([["a", "b"]]))
    refused(tmp_path / "a.npz", "several arrays.*#member")
    refused(tmp_path / "a.npz", "no member 'z'", "z")
    refused(tmp_path / "a.npz", "holds text", "words")
    refused(tmp_path / "a.npz", "no row 3", "x", 3)
    refused(tmp_path / "a.npz", r"shape \(4,\)", "x", 0)
    np.save(tmp_path / "b.npy", GREY8.astype(complex))
    refused(tmp_path / "b.npy", "neither numbers nor text")
    np.save(tmp_path / "c.npy", np.full((2, 2), 1e300))
    refused(tmp_path / "c.npy", "not finite")
    np.save(tmp_path / "d.npy", np.asfortranarray(np.zeros((2, 3, 4))))
    refused(tmp_path / "d.npy", "Fortran order", None, 0)
    refused(tmp_path / "b.npy", "no members", "x")
    refused(save(tmp_path / "e.png", GREY8), "has no page 1", None, 1)


class Trap:
    """What a pickle in an array would run."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_a_pickle_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "a.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    refused(tmp_path / "a.npy", "neither numbers nor text")
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Trap()))
    refused(tmp_path / "b.npy", "is no image in a format")
    assert not (tmp_path / "trapped").exists()


def npy_header(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue()


@pytest.mark.parametrize("shape", [(10**6, 10**6), (2**62, 4), (-1, 4), (3, 5), (0, 5)])
def test_a_header_that_lies_about_the_size(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = npy_header(shape) + bytes(96)
    (tmp_path / "a.npy").write_bytes(content)
    refused(tmp_path / "a.npy", "not a whole")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    refused(tmp_path / "a.npz", "not a whole", "x")


def test_a_large_array_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = npy_header((2**13, 2**13))
    path = tmp_path / "a.npy"
    with path.open("wb") as file:  # sparse: half a gigabyte that takes no room
        file.write(header)
        file.truncate(len(header) + 8 * 2**26)
    refused(path, "has an array of 536870912 bytes")
    with closing(open_array(path)) as stored:
        assert stored.read(5).shape == (2**13,)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("side", [9000, 12000, 2**30])
def test_a_bomb(tmp_path: Path, side: int) -> None:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(10_000_000))) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
    refused(path, "more than 67108864 pixels")


def test_what_is_no_image(tmp_path: Path) -> None:
    for name, content in (("a.png", b""), ("b.jpg", b"hello"), ("c.npz", b"PK\3\4" + bytes(99))):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, "is no image in a format|is not a whole NPY")
    whole = save(tmp_path / "d.png", np.random.default_rng(0).integers(0, 255, (32, 32), np.uint8))
    whole.write_bytes(whole.read_bytes()[:-300])
    refused(whole, "not a whole image")
    refused(tmp_path / "absent.png", "cannot be opened")
    pages = [Image.fromarray(GREY8), Image.fromarray(GREY8)]
    pages[0].save(tmp_path / "e.tif", save_all=True, append_images=pages[1:])
    refused(tmp_path / "e.tif", r"has 2 pages: name one as FILE#\[0\] to FILE#\[1\]")


def dicom(path: Path, **tags) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.PatientID, dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "P1", "1.2", "1.3"
    dataset.Modality, dataset.PhotometricInterpretation = "CT", "MONOCHROME2"
    dataset.PixelSpacing = [0.5, 0.75]
    dataset.Rows, dataset.Columns = GREY16.shape
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation, dataset.SamplesPerPixel = 0, 1
    dataset.PixelData = GREY16.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path, enforce_file_format=True)
    return path


def test_dicom(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", RescaleSlope=2, RescaleIntercept=-1024)
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels[0], GREY16 * 2.0 - 1024)
    assert picture.facts["rescale tags"] == "applied"
    np.testing.assert_array_equal(read(path, rescale=False).pixels[0], GREY16)
    np.testing.assert_array_equal(read(dicom(tmp_path / "b")).pixels[0], GREY16)
    assert read(tmp_path / "b").facts["rescale tags"] == "none"
    assert (picture.spacing, picture.patient) == ((0.5, 0.75), "P1")
    facts = {"format": "DICOM", "mode": "CT", "width": 4, "height": 3, "bits": 16}
    assert facts.items() <= picture.facts.items()
    np.testing.assert_array_equal(read(path, rescale=True).pixels[0], GREY16 * 2.0 - 1024)
    refused(tmp_path / "b", "RescaleSlope", rescale=True)
    refused(dicom(tmp_path / "c", Rows=60000, Columns=60000), "more than 67108864 pixels")
    refused(dicom(tmp_path / "d", PixelData=b"\0\0"), "cannot be read")


def test_a_window_of_any_grey_values(tmp_path: Path) -> None:
    # PS3.3 C.11.2.1.2.1: ((x - (c - 0.5)) / (w - 1) + 0.5) x (ymax - ymin) + ymin
    expected = np.clip((np.arange(0, 240, 20) - 99.5) / 100 + 0.5, 0, 1) * 255
    path = dicom(tmp_path / "a", RescaleSlope=2, RescaleIntercept=-10, WindowWidth=3)
    scaled = np.clip((GREY16 * 2.0 - 10 - 29999.5) / 40000 + 0.5, 0, 1) * 255
    pixels = read(path, window=[30000, 40001]).pixels[0]
    np.testing.assert_allclose(pixels, scaled, rtol=1e-6)
    save(tmp_path / "a.png", GREY8)
    np.save(tmp_path / "a.npy", GREY8.astype(float))
    for name in ("a.png", "a.npy"):
        pixels = read(tmp_path / name, window=[100, 101]).pixels[0]
        np.testing.assert_allclose(pixels.ravel(), expected, rtol=1e-6)
        refused(tmp_path / name, "has no window.*only DICOM has one", window="file")
    step = read(tmp_path / "a.png", window=[60.5, 1]).pixels
    np.testing.assert_array_equal(step[0], np.where(GREY8 > 60, 255, 0))
    refused(path, "neither WindowCenter and WindowWidth", window="file")


def test_the_window_of_a_file(tmp_path: Path) -> None:
    tags = {"RescaleSlope": 2, "RescaleIntercept": -10}
    expected = np.clip((GREY16 * 2.0 - 10 - 29999.5) / 40000 + 0.5, 0, 1) * 255
    path = dicom(tmp_path / "a", WindowCenter=30000, WindowWidth=40001, **tags)
    np.testing.assert_allclose(read(path, window="file").pixels[0], expected, rtol=1e-6)


def test_a_window_leaves_the_padding_masked(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", PixelPaddingValue=0, WindowCenter=30000, WindowWidth=40001)
    for window in ([30000, 40001], "file"):
        pixels = read(path, window=window).pixels
        np.testing.assert_array_equal(np.ma.getmaskarray(pixels)[0], GREY16 == 0)


def tiff(path: Path, pixels: np.ndarray, photometric: int | None, bits: int = 0) -> Path:
    """An uncompressed grey TIFF, written by hand: Pillow writes no white-is-zero of 16 bits."""
    stored, kind = pixels.tobytes(), pixels.dtype.kind
    bits = bits or pixels.dtype.itemsize * 8
    order = ">" if pixels.dtype.str[0] == ">" else "<"
    tags = {256: pixels.shape[1] * pixels.dtype.itemsize * 8 // bits, 257: len(pixels), 258: bits}
    tags |= {259: 1, 262: photometric, 273: 8, 277: 1, 278: len(pixels), 279: len(stored)}
    tags = {tag: value for tag, value in tags.items() if value is not None}
    tags[339] = {"u": 1, "i": 2, "f": 3}[kind]
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    head = struct.pack(f"{order}HHI", 0x4949 if order == "<" else 0x4D4D, 42, 8 + len(stored))
    count = struct.pack(f"{order}H", len(tags))
    path.write_bytes(head + stored + count + entries + bytes(4))
    return path


@pytest.mark.parametrize(
    ("pixels", "bits", "expected"),
    [
        (GREY8, 0, 255 - GREY8.astype(float)),
        (GREY16, 0, 65535 - GREY16.astype(float)),
        (np.array([[0b10010000]] * 2, np.uint8), 1, [[0, 255, 255, 0, 255, 255, 255, 255]] * 2),
        (np.array([[0x0F]] * 2, np.uint8), 4, [[255, 0]] * 2),
    ],
)
def test_white_is_zero(tmp_path: Path, pixels, bits, expected) -> None:
    picture = read(tiff(tmp_path / "a.tif", pixels, 0, bits))
    np.testing.assert_array_equal(picture.pixels[0], expected)
    assert picture.facts["photometric interpretation"] == "white is zero"
    plain = read(tiff(tmp_path / "b.tif", pixels, 1, bits))
    np.testing.assert_array_equal(plain.pixels[0], np.max(expected) - np.array(expected))
    assert plain.facts["photometric interpretation"] == "black is zero"


def test_grey_tiffs_of_other_kinds(tmp_path: Path) -> None:
    for kind in (">u2", "<i2", ">i2", "<f4", ">f4", "<u4"):
        path = tiff(tmp_path / "a.tif", (GREY16 // 2).astype(kind), 1)
        np.testing.assert_array_equal(read(path).pixels[0], GREY16 // 2)
    refused(tiff(tmp_path / "b.tif", GREY16.astype("<f4"), 0), "floating-point.*zero is white")
    for kind, photometric in ((">u2", 0), ("<i2", 0), ("<f8", 1)):
        path = tiff(tmp_path / "c.tif", GREY16.astype(kind), photometric)
        refused(path, "a kind of TIFF that Pillow cannot read")
    refused(tiff(tmp_path / "d.tif", GREY16, None), "does not say whether zero is white")


def test_a_compressed_tiff_of_white_zeros(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    Image.fromarray(GREY8).save(path, compression="tiff_lzw", tiffinfo={262: 0})  # Pillow inverts
    np.testing.assert_array_equal(read(path).pixels[0], GREY8)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_an_image_is_turned_as_a_viewer_shows_it(tmp_path: Path, suffix: str) -> None:
    stored = np.zeros((8, 24), np.uint8)
    stored[:, :8] = 200
    turns = {1: stored, 3: np.rot90(stored, 2), 6: np.rot90(stored, 3), 8: np.rot90(stored)}
    for orientation, shown in turns.items():
        exif = Image.Exif()
        exif[274] = orientation  # EXIF 2.3, 4.6.4: where the stored row 0 and column 0 are
        Image.fromarray(stored).save(tmp_path / f"a{suffix}", exif=exif)
        picture = read(tmp_path / f"a{suffix}")
        np.testing.assert_allclose(picture.pixels[0], shown, atol=1)
        assert (picture.facts["height"], picture.facts["width"]) == shown.shape


def test_damaged_exif_data_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(GREY8).save(tmp_path / "a.png", exif=b"Exif\0\0this is no TIFF header")
    np.testing.assert_array_equal(read(tmp_path / "a.png").pixels[0], GREY8)


def test_pngs_of_16_bits(tmp_path: Path) -> None:
    """Pillow cuts grey with transparency to 8 bits: such values beside others would be wrong."""

    def png16(name: str, colour: int, channels: int) -> Path:
        rows = b"".join(b"\0" + np.repeat(row, channels).astype(">u2").tobytes() for row in GREY16)
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 3, 16, colour, 0, 0, 0))
        gamma = chunk(b"gAMA", struct.pack(">I", 100_000))
        body = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + head + gamma + body)
        return tmp_path / name

    np.testing.assert_array_equal(read(png16("grey.png", 0, 1)).pixels[0], GREY16)
    refused(png16("alpha.png", 4, 2), "grey of 16 bits with transparency")
    np.testing.assert_array_equal(read(png16("rgb.png", 2, 3)).pixels[0], GREY16 >> 8)


def test_colours_of_other_kinds(tmp_path: Path) -> None:
    luma = RGB @ np.array([0.299, 0.587, 0.114])
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "a.tif")
    np.testing.assert_allclose(read(tmp_path / "a.tif").pixels[0], luma, atol=1)
    Image.fromarray(RGB).quantize(12).save(tmp_path / "b.png")
    np.testing.assert_allclose(read(tmp_path / "b.png").pixels[0], luma, atol=1)
    Image.new("LAB", (4, 3)).save(tmp_path / "c.tif")
    refused(tmp_path / "c.tif", "LAB colours")
    frames = [Image.fromarray(GREY8), Image.fromarray(255 - GREY8)]
    frames[0].save(tmp_path / "d.png", save_all=True, append_images=frames[1:])
    refused(tmp_path / "d.png", "has 2 pages")


@pytest.mark.parametrize("suffix", [".bmp", ".pgm", ".webp", ".jp2", ".gif"])
def test_grey_of_8_bits_in_further_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    lossless = {".webp": {"lossless": True}, ".jp2": {"irreversible": False}}.get(suffix, {})
    Image.fromarray(GREY8).save(path, **lossless)
    picture = read(path)
    np.testing.assert_array_equal(picture.pixels, GREY8[np.newaxis])
    assert picture.facts["bits"] == 8
    Image.fromarray(RGB).save(path.with_suffix(".x" + suffix), **lossless)
    if suffix not in (".gif", ".pgm"):  # a palette; written as PPM
        colour = read(path.with_suffix(".x" + suffix), colour="channels")
        np.testing.assert_array_equal(colour.pixels, np.moveaxis(RGB, -1, 0))


def test_grey_of_more_than_8_bits_keeps_its_values(tmp_path: Path) -> None:
    """Pillow stretches a PGM of 12 bits, and a JPEG 2000 of 12 bits, to 16 bits."""
    values = np.array([[0, 1, 100], [4095, 2048, 7]])
    for top, kind in ((4095, ">u2"), (65535, ">u2"), (5000, ">u2")):
        (tmp_path / "a.pgm").write_bytes(b"P5\n3 2\n%d\n" % top + values.astype(kind).tobytes())
        picture = read(tmp_path / "a.pgm")
        np.testing.assert_array_equal(picture.pixels[0], values)
        assert picture.facts["bits"] == top.bit_length()
    (tmp_path / "b.pgm").write_bytes(b"P5\n3 2\n15\n" + bytes([0, 1, 15, 3, 4, 5]))
    np.testing.assert_array_equal(read(tmp_path / "b.pgm").pixels[0], [[0, 1, 15], [3, 4, 5]])
    (tmp_path / "c.pgm").write_text("P2 3 1 1000  0 1 999")
    np.testing.assert_array_equal(read(tmp_path / "c.pgm").pixels[0], [[0, 1, 999]])
    Image.fromarray(GREY16).save(tmp_path / "d.jp2", irreversible=False)
    np.testing.assert_array_equal(read(tmp_path / "d.jp2").pixels[0], GREY16)


def test_jpeg_2000_of_12_bits(tmp_path: Path) -> None:
    openjpeg = pytest.importorskip("openjpeg.utils")
    values = (np.arange(64 * 64, dtype=np.uint16) % 4096).reshape(64, 64)
    content = openjpeg.encode_array(values, bits_stored=12, photometric_interpretation=2)
    (tmp_path / "a.j2k").write_bytes(content)
    picture = read(tmp_path / "a.j2k")
    np.testing.assert_array_equal(picture.pixels[0], values)
    assert picture.facts["bits"] == 12


@pytest.mark.parametrize(("suffix", "mode"), [(".tif", "I;16"), (".png", "L"), (".gif", "L")])
def test_a_page_by_its_number(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"a{suffix}"
    pages = [Image.fromarray(GREY16 if mode == "I;16" else GREY8), Image.fromarray(GREY8[:2])]
    if suffix != ".tif":  # the frames of an animation have one size
        pages[1] = Image.fromarray(255 - GREY8)
    pages[0].save(path, save_all=True, append_images=pages[1:])
    for number, page in enumerate(pages):
        picture = read(path, None, number)
        np.testing.assert_array_equal(picture.pixels[0], np.asarray(page))
    refused(path, "has no page 2: it has 2, counted from 0", None, 2)
    refused(path, "has no members", "x", 0)
    if suffix == ".gif":
        first = read(path)
        np.testing.assert_array_equal(first.pixels[0], GREY8)
        assert first.facts["frames"] == 2


def whole_files(folder: Path) -> dict[str, bytes]:
    """One small file of each format."""
    folder.mkdir(parents=True, exist_ok=True)
    save(folder / "a.png", GREY16)
    save(folder / "b.tif", RGB)
    Image.fromarray(RGB).save(folder / "c.jpg")
    np.save(folder / "d.npy", GREY16)
    np.savez_compressed(folder / "e.npz", x=GREY16)
    dicom(folder / "f.dcm")
    Image.fromarray(RGB).save(folder / "g.tif", compression="tiff_lzw")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_is_one_line(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    folder = tmp_path_factory.getbasetemp() / "damage"
    if not folder.exists():
        whole_files(folder)
    path = folder / data.draw(st.sampled_from(sorted(p.name for p in folder.glob("?.*"))))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    target = folder / f"damaged{path.suffix}"
    target.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        assert np.isfinite(read(target).pixels).all()
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either answer is right
