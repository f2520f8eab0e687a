"""Damaged DICOM files are told on one line that names the file, whatever is wrong with them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import enhanced, image, item, save
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from hydrakit.data.dicom import read_header
from hydrakit.data.dicom.pixels import DicomImage
from hydrakit.errors import DataError

OWN_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
LENGTHS = (b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xfe\xff\0\xe0")


def seeds(folder: Path) -> list[bytes]:
    """Whole files, uncompressed and compressed, and pydicom's own small ones."""
    packages = {JPEG2000Lossless: "openjpeg", JPEGLSLossless: "jpeg_ls", RLELossless: "numpy"}
    made = []
    for syntax, package in packages.items():
        pytest.importorskip(package, reason="needs hydrakit-imaging[codecs]")
        pixels = {"Rows": 48, "Columns": 64, "PixelData": random.Random(0).randbytes(48 * 64 * 2)}
        dataset = image(ImageType=["A", "B"], SequenceName="*ep_b800t", **pixels)
        made.append(save(dataset, folder / "plain").read_bytes())
        dataset.compress(syntax, generate_instance_uid=False)
        made.append(save(dataset, folder / "packed").read_bytes())
    frames = [item(PlanePositionSequence=[item(ImagePositionPatient=[0, 0, i])]) for i in (0, 1)]
    stack = np.random.default_rng(0).integers(0, 4096, (2, 48, 64))
    shared = item(PixelMeasuresSequence=[item(PixelSpacing=[1, 1])])
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, JPEG2000Lossless):
        dataset = enhanced(stack, shared=shared, frames=frames)
        if syntax.is_compressed:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.file_meta.TransferSyntaxUID = syntax
        made.append(save(dataset, folder / "several").read_bytes())
    own = sorted(path for path in OWN_FILES.glob("*.dcm") if path.stat().st_size < 60_000)
    return [*made, *(path.read_bytes() for path in own)]


def mutated(content: bytes, chance: random.Random) -> bytes:
    """A file with a bit flipped, an end cut off, a length made wrong, or a part repeated."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(data))
        match chance.randrange(5):
            case 0 | 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at + 1 :]
            case 3:
                data[at : at + 4] = chance.choice(LENGTHS)
            case _:
                data[at:at] = data[at : at + chance.randrange(1, 200)] * chance.choice((1, 5))
    return bytes(data)


def read_frame(path: Path) -> None:
    """Read the last frame, grey or in colour."""
    with DicomImage(path) as file:
        header = file.header(0)
        if header is not None:
            frame = header.frames - 1
            file.rgb(frame) if file.is_colour else file.grey(frame, rescale=None)


def told_or_read(path: Path) -> int:
    """How many of the two readers refuse a file, each in one line that names it."""
    refused = 0
    for read in (read_header, read_frame):
        try:
            read(path)
        except DataError as error:
            message = str(error)
        else:
            continue
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        refused += 1
    return refused


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_files(tmp_path, count):
    chance = random.Random(count)
    whole = seeds(tmp_path)
    path = tmp_path / "mutated.dcm"
    refused = 0
    for _ in range(count):
        path.write_bytes(mutated(chance.choice(whole), chance))
        refused += told_or_read(path) > 0
    assert refused > count / 4


def test_the_odd_files_of_pydicom():
    counts = [told_or_read(path) for path in sorted(OWN_FILES.rglob("*")) if path.is_file()]
    assert counts.count(0) > 20
    assert counts.count(2) > 5
