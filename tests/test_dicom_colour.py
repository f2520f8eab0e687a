"""DICOM images in colour become the channels that a PNG of the same colours becomes."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import image, save
from PIL import Image
from pydicom import dcmread
from pydicom.pixels import apply_color_lut
from pydicom.pixels.processing import convert_color_space
from pydicom.uid import JPEG2000Lossless, RLELossless

from hydrakit.data.declared.arrays import ImageError
from hydrakit.data.declared.given import GivenReader, images_in_table
from hydrakit.data.declared.images import ImageReader
from hydrakit.data.declared.schema import ImageRules
from hydrakit.data.dicom import read_pixels
from hydrakit.data.dicom.pixels import DicomImage
from hydrakit.errors import DataError

OWN_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
RGB = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def coloured(pixels: np.ndarray, kind: str = "RGB", **tags):
    bits = pixels.dtype.itemsize * 8
    dataset = image(SamplesPerPixel=3, PhotometricInterpretation=kind, PlanarConfiguration=0)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = bits, bits, bits - 1
    dataset.Rows, dataset.Columns, dataset.PixelData = 48, 64, pixels.tobytes()
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def shared_chroma(ybr: np.ndarray) -> np.ndarray:
    """YBR_FULL_422 (PS3.3 C.7.6.3.1.2): two values of Y, then one of each colour difference."""
    y, b, r = (ybr[..., i].reshape(-1, 2) for i in range(3))
    return np.stack([y[:, 0], y[:, 1], b[:, 0], r[:, 0]], axis=1)


def palette(bits: int, *, first: int = 0, wide: bool = False, **tags):
    """Indices 0 to 19 in 8 bits, and ten colours, the first of which is that of ``first``."""
    indices = (np.arange(48 * 64) % 20).astype(np.uint8)
    entries = np.random.default_rng(1).integers(0, 2**bits, (3, 10))
    dataset = image(Rows=48, Columns=64, PixelData=indices.tobytes(), **tags)
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name, values in zip(("Red", "Green", "Blue"), entries, strict=True):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [10, first, bits])
        data = values.astype("<u2" if bits == 16 or wide else "u1").tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", data)
    at = np.clip(indices.reshape(48, 64).astype(int) - first, 0, 9)
    return dataset, (entries[:, at] >> (bits - 8)).transpose(1, 2, 0)


def channels(path, rules: ImageRules | None = None) -> np.ndarray:
    with closing(ImageReader(rules or ImageRules(colour="channels"))) as reader:
        return reader.read(path).pixels


@pytest.mark.parametrize(
    "dataset",
    [
        coloured(RGB),
        coloured(np.moveaxis(RGB, -1, 0), PlanarConfiguration=1),
        coloured(RGB.astype(np.uint16) * 256 + 77),
        coloured(convert_color_space(RGB, "RGB", "YBR_FULL"), "YBR_FULL"),
    ],
    ids=["interleaved", "planes", "16 bits", "YBR"],
)
def test_colours_are_those_of_a_png(tmp_path, dataset):
    path = save(dataset, tmp_path / "x")
    with DicomImage(path) as file:
        rgb = file.rgb()
    # A conversion to YBR and back rounds twice.
    tolerance = 2 if dataset.PhotometricInterpretation == "YBR_FULL" else 0
    np.testing.assert_allclose(rgb.astype(int), RGB, atol=tolerance)
    Image.fromarray(rgb).save(tmp_path / "y.png")
    for rules in (ImageRules(colour="channels"), ImageRules()):
        np.testing.assert_array_equal(channels(path, rules), channels(tmp_path / "y.png", rules))


@pytest.mark.parametrize(
    ("syntax", "package"), [(RLELossless, None), (JPEG2000Lossless, "openjpeg")]
)
def test_compressed_colours(tmp_path, syntax, package):
    if package:
        pytest.importorskip(package, reason="needs hydrakit-imaging[codecs]")
    dataset = coloured(RGB, "RGB")
    dataset.compress(syntax, generate_instance_uid=False)
    expected = np.moveaxis(RGB, -1, 0)
    np.testing.assert_array_equal(channels(save(dataset, tmp_path / "x")), expected)


def test_shared_colour_differences(tmp_path):
    ybr = convert_color_space(RGB, "RGB", "YBR_FULL")
    path = save(coloured(shared_chroma(ybr), "YBR_FULL_422"), tmp_path / "x")
    doubled = ybr.copy()
    doubled[:, 1::2, 1:] = doubled[:, ::2, 1:]
    expected = convert_color_space(doubled, "YBR_FULL", "RGB")
    np.testing.assert_array_equal(channels(path), np.moveaxis(expected, -1, 0))
    wrong = save(coloured(ybr, "YBR_FULL_422"), tmp_path / "y")
    with pytest.raises(ImageError, match="the pixels cannot be read"):
        channels(wrong)


@pytest.mark.parametrize(
    "made", [palette(8), palette(8, first=5), palette(8, wide=True), palette(16)]
)
def test_a_palette_gives_the_colours_of_pydicom(tmp_path, made):
    dataset, expected = made
    path = save(dataset, tmp_path / "x")
    with DicomImage(path) as file:
        rgb = file.rgb()
    np.testing.assert_array_equal(rgb, expected)
    read = dcmread(path)
    theirs = apply_color_lut(read.pixel_array, read)
    bits = read.RedPaletteColorLookupTableDescriptor[2]
    np.testing.assert_array_equal(rgb, theirs >> (bits - 8))


def test_a_palette_of_more_than_256_colours_of_8_bits(tmp_path):
    """pydicom's `apply_color_lut` wraps these indices."""
    indices = np.array([[0, 10, 255, 256, 511, 600]], dtype=np.uint16)
    dataset = image(Rows=1, Columns=6, PixelData=indices.tobytes())
    dataset.PhotometricInterpretation = "PALETTE COLOR"
    for name in ("Red", "Green", "Blue"):
        setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [512, 0, 8])
        data = (np.arange(512) // 2).astype(np.uint8).tobytes()
        setattr(dataset, f"{name}PaletteColorLookupTableData", data)
    expected = [[[0, 5, 127, 128, 255, 255]]] * 3
    np.testing.assert_array_equal(channels(save(dataset, tmp_path / "x")), expected)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_jpeg_dcmtk.dcm",  # JPEG baseline, YBR_FULL
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "examples_jpeg2k.dcm",  # YBR_RCT
        "examples_palette.dcm",
        "SC_rgb_rle_16bit_2frame.dcm",
        "examples_ybr_color.dcm",  # 30 frames
        "SC_rgb_small_odd_big_endian.dcm",
    ],
)
def test_the_colours_of_pydicoms_files_are_those_of_pydicom(name):
    path = OWN_FILES / name
    dataset = dcmread(path)
    with DicomImage(path) as file:
        frames = file.header(0).frames
        last = frames - 1
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            pytest.importorskip("gdcm", reason="needs hydrakit-imaging[codecs]")
        rgb = file.rgb(last)
    expected = dataset.pixel_array
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        expected = apply_color_lut(expected, dataset)
    expected = expected[last] if frames > 1 else expected
    np.testing.assert_array_equal(rgb, expected >> (expected.dtype.itemsize * 8 - 8))


def test_grey_beside_colour(tmp_path):
    """As for PNG: "channels" repeats grey, and "luma" leaves it."""
    path = save(image(), tmp_path / "x")
    grey = read_pixels(path)
    np.testing.assert_array_equal(channels(path), [grey] * 3)
    np.testing.assert_array_equal(channels(path, ImageRules()), [grey])
    padded = image(PixelPaddingValue=0)
    with_padding = channels(save(padded, tmp_path / "y"))
    assert np.ma.getmaskarray(with_padding).sum() == 3


def faulty_palette(**tags):
    dataset, _ = palette(8)
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


@pytest.mark.parametrize(
    ("dataset", "rules", "words"),
    [
        (coloured(RGB, "YBR_PARTIAL_420"), {}, "YBR_PARTIAL_420 pixels of shape .* not read"),
        (coloured(RGB, "ARGB"), {}, "ARGB pixels"),
        (coloured(RGB, PixelRepresentation=1), {}, "signed numbers as colours"),
        (coloured(RGB), {"window": "file"}, 'in colour, which window = "file" does not apply to'),
        (coloured(RGB), {"rescale": True}, "in colour, which rescale = true does not apply to"),
        (faulty_palette(GreenPaletteColorLookupTableData=None), {}, "no palette, or a segmented"),
        (faulty_palette(RedPaletteColorLookupTableDescriptor=[10, 0, 12]), {}, "not of 12 bits"),
        (
            faulty_palette(BluePaletteColorLookupTableDescriptor=[90, 0, 8]),
            {},
            "10 entries, not 90",
        ),
    ],
)
def test_colours_that_cannot_be_used_are_named(tmp_path, dataset, rules, words):
    path = save(dataset, tmp_path / "x")
    with pytest.raises(ImageError, match=words) as caught:
        channels(path, ImageRules(**rules))
    assert "\n" not in caught.value.reason
    with pytest.raises(DataError, match="a greyscale image is required"):
        read_pixels(path)


@pytest.mark.parametrize("suffix", ["dcm", "png"])
def test_three_grey_files_are_a_stack_for_a_model_of_three_channels(tmp_path, suffix):
    for name in "abc":
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "dcm":
            save(image(), path)
        else:
            Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
    table = tmp_path / "cases.csv"
    table.write_text(f"path\na.{suffix};b.{suffix};c.{suffix}\na.{suffix}\n")
    given = GivenReader(("no", "yes"), "classification", colour=True)
    stack, single = (given.read(case) for case in images_in_table(table, given).cases())
    given.close()
    grey = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(stack.image, [grey] * 3)
    np.testing.assert_array_equal(single.image, [grey] * 3)
