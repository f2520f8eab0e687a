"""Small sound datasets for the fuzzing, and what reads them."""

from __future__ import annotations

import csv
import gzip
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from PIL import Image

from fuzzing.mutators import (
    TEXT,
    Mutator,
    nested_csv,
    nested_toml,
    odd_toml,
    odd_xml,
    unzipped,
    zip_fields,
    zip_inner,
    zip_members,
    zipped,
)
from fuzzing.mutators_dicom import COMPRESSED, DICOM
from fuzzing.mutators_images import JPEG, PNG, TIFF, odd_npy
from fuzzing.mutators_volumes import HEADER, NIFTI
from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.read import read_samples
from hydrakit.hooks import DatasetAdapter, Sample
from hydrakit.plugins import load_plugins

LONGEST = 2000  # characters of a message
SECRETS = ("PHANTOM^SYNTHETIC", "SYNTHETIC PHANTOM", "CANARY", "19330303")  # in the DICOM files

Files = dict[Path, tuple[Mutator, ...]]


def check_line(message: str, folder: Path | None = None) -> None:
    """Complain of a message that is not one short line, tells of a patient, or names no file."""
    assert message.isprintable(), f"not one line of text: {message!r}"
    assert len(message) < LONGEST, f"{len(message)} characters: {message[:200]}"
    assert not any(secret in message for secret in SECRETS), f"tells of a patient: {message}"
    assert folder is None or str(folder) in message, f"names no file: {message}"


def _dataset(adapter: DatasetAdapter, folder: Path, options: Mapping[str, str]) -> str:
    cases = list(read_samples(adapter, folder, options))
    for case in cases:
        if isinstance(case, Sample):
            for path in case.source:
                assert path.resolve().is_relative_to(folder.resolve()), f"{path} is outside"
        else:
            check_line(case.reason)
        check_line(case.key)
    return "read" if all(isinstance(case, Sample) for case in cases) else "unusable"


def shipped(name: str, **options: str) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        return _dataset(load_plugins().get(DatasetAdapter, name), folder, options)

    return read


def declared(folder: Path) -> str:
    return _dataset(load_declared(folder), folder, {})


def _copy_of(name: str, write: Callable[[Path], None], folder: Path) -> None:
    """Fill a folder with what ``write`` writes, which is done once and copied from then on."""
    made = folder.parent / "made" / name
    if not made.exists():
        made.mkdir(parents=True)
        write(made)
    shutil.copytree(made, folder, dirs_exist_ok=True)


def _write_prostate(folder: Path) -> None:
    from hydrakit_phantom.prostate import write_prostate
    from hydrakit_phantom.settings import Settings

    write_prostate(folder, Settings(patients=1, seed=0, difficulty=0.5))
    for series in folder.glob("PROSTATEx/*/*/*"):
        if not any(word in series.name for word in ("CALCBVAL", "ADC", "t2tsetra")):
            shutil.rmtree(series)


def _prostate(folder: Path) -> None:
    _copy_of("prostatex", _write_prostate, folder)


def prostate_images(folder: Path) -> Files:
    _prostate(folder)
    return dict.fromkeys(sorted(folder.rglob("*.dcm")), DICOM)


def prostate_sheet(name: str) -> Callable[[Path], Files]:
    def build(folder: Path) -> Files:
        _prostate(folder)
        return {folder / f"ProstateX-{name}-Train.csv": (*TEXT, nested_csv)}

    return build


def _write_lung(folder: Path) -> None:
    from hydrakit_phantom.lung import write_lung
    from hydrakit_phantom.settings import Settings

    write_lung(folder, Settings(patients=3, seed=0, difficulty=0.5))


def _lung(folder: Path) -> list[Path]:
    """Three scans; gives the sheets."""
    _copy_of("lung", _write_lung, folder)
    return sorted(folder.glob("*.csv"))


def lung_images(folder: Path) -> Files:
    _lung(folder)
    return dict.fromkeys(sorted(folder.rglob("*.dcm")), DICOM)


def lung_sheets(folder: Path) -> Files:
    return dict.fromkeys(_lung(folder), (*TEXT, nested_csv))


def fix_dates(path: Path) -> None:
    """Pack an archive anew, without the time at which it was written."""
    date = rb"20\d\d-\d\d-\d\dT[\d:]+Z"
    members = unzipped(path.read_bytes())
    path.write_bytes(zipped([(name, re.sub(date, b"", content)) for name, content in members]))


def lung_workbooks(folder: Path) -> Files:
    import openpyxl

    files: Files = {}
    for sheet in _lung(folder):
        book = openpyxl.Workbook()
        for row in csv.reader(sheet.read_text(encoding="utf-8").splitlines(), delimiter=";"):
            book.active.append(row)
        sheet.unlink()
        path = sheet.with_suffix(".xlsx")
        book.save(path)
        fix_dates(path)
        files[path] = (zip_members, zip_fields, zip_inner((odd_xml, *TEXT)))
    return files


# Declared datasets

HEAD = 'name = "mine"\nclasses = ["benign", "malignant"]\nfield_of_view = { share = 1.0 }\n'
PATTERN = HEAD + 'pattern = "{label}/{patient}/*"\n'
NRRD = """NRRD0004
type: short
dimension: 3
space: left-posterior-superior
sizes: 8 8 4
space directions: (1,0,0) (0,1,0) (0,0,1)
kinds: domain domain domain
endian: little
encoding: raw
space origin: (0,0,0)
"""
META = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
CompressedData = False
TransformMatrix = 1 0 0 0 1 0 0 0 1
Offset = 0 0 0
ElementSpacing = 1 1 1
DimSize = 8 8 4
ElementType = MET_SHORT
"""
IMAGE = np.arange(64, dtype=np.uint8).reshape(8, 8) * 3


def _places(folder: Path, name: str) -> list[Path]:
    """One path of each class."""
    (folder / "dataset.toml").write_text(PATTERN, encoding="utf-8")
    paths = [folder / label / "P1" / name for label in ("benign", "malignant")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    return paths


def pictures(kind: str, own: tuple[Mutator, ...]) -> Callable[[Path], Files]:
    """A grey and an RGB image of a format."""

    def build(folder: Path) -> Files:
        files: Files = {}
        for path, mode in zip(_places(folder, f"1.{kind.lower()}"), ("L", "RGB"), strict=True):
            Image.fromarray(IMAGE).convert(mode).save(path, kind)
            files[path] = own
        return files

    return build


def colour(build: Callable[[Path], Files]) -> Callable[[Path], Files]:
    """The same, with three channels."""

    def coloured(folder: Path) -> Files:
        files = build(folder)
        with (folder / "dataset.toml").open("a", encoding="utf-8") as file:
            file.write('[images]\ncolour = "channels"\n')
        return files

    return coloured


def _image(path: Path, **tags: object) -> Path:
    from dicom_files import image, save

    tags = {"PatientName": "CANARY^NAME", "PatientBirthDate": "19330303", **tags}
    tags |= {"RescaleSlope": "1", "RescaleIntercept": "-1024", "PixelSpacing": ["1", "1"]}
    tags |= {"SOPInstanceUID": f"1.2.3.{len(path.parts)}{path.parents[1].name == 'benign':d}"}
    return save(image(**tags), path)


def dicom_files(folder: Path) -> Files:
    paths = [_image(path) for path in _places(folder, "1.dcm")]
    with (folder / "dataset.toml").open("a", encoding="utf-8") as file:
        file.write("[images]\nrescale = true\n")
    return dict.fromkeys(paths, DICOM)


def dicom_frames(folder: Path) -> Files:
    pixels = {"Rows": 8, "Columns": 8, "PixelData": bytes(128)}
    return {_image(path, **pixels): COMPRESSED for path in _places(folder, "1.dcm")}


def odd_collection() -> list[Path]:
    """The files that pydicom's own package holds: character sets, palettes and odd files."""
    data = Path(pydicom.__file__).parent / "data"
    return [path for path in sorted(data.glob("*_files/**/*")) if path.is_file()]


def odd_dicom(folder: Path, largest: int = 50_000) -> Files:
    """Those files of the collection that are not over so many bytes."""
    files: Files = {}
    _places(folder, "1.dcm")
    for number, path in enumerate(odd_collection()):
        if path.stat().st_size <= largest:
            copy = folder / "benign" / "P1" / f"{number}{path.suffix}"
            shutil.copyfile(path, copy)
            files[copy] = DICOM
    return files


def arrays(folder: Path) -> Files:
    files: Files = {}
    for path, dtype in zip(_places(folder, "1.npy"), (np.uint8, np.float32), strict=True):
        np.save(path, IMAGE.astype(dtype))
        files[path] = (odd_npy,)
    return files


def volumes(suffix: str) -> Callable[[Path], Files]:
    """Two volumes of a format, of which a table chooses slices."""

    def build(folder: Path) -> Files:
        rows = "path,label,slice,x_mm,y_mm,z_mm\n1{0},benign,1,,,\n2{0},malignant,,1,1,2\n"
        (folder / "cases.csv").write_text(rows.format(suffix), encoding="utf-8")
        toml = f'{HEAD}cases = "cases.csv"\n[images]\naxes = "LPS"\nslices = 3\n'
        (folder / "dataset.toml").write_text(toml, encoding="utf-8")
        values = np.stack([IMAGE, IMAGE + 9, IMAGE * 2, IMAGE], axis=-1).astype("<i2")
        files: Files = {}
        for number in (1, 2):
            path = folder / f"{number}{suffix}"
            if suffix.startswith(".nii"):
                image = nibabel.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0]))
                path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))
                if suffix == ".nii":
                    path.write_bytes(image.to_bytes())
                files[path] = NIFTI
                continue
            block = values.tobytes(order="F")
            if suffix in (".nhdr", ".mhd"):
                data = folder / f"{number}.raw"
                data.write_bytes(block)
                files[data], where, block = (), data.name, b""
            else:
                where = "LOCAL"
            if suffix in (".nrrd", ".nhdr"):
                text = NRRD + ("" if block else f"data file: {where}\n") + "\n"
            else:
                text = META + f"ElementDataFile = {where}\n"
            path.write_bytes(text.encode() + block)
            files[path] = HEADER
        return files

    return build


def archive(folder: Path) -> Files:
    """A table of cases in an NPZ."""
    text = HEAD + 'cases = "all.npz"\n[labels]\n0 = "benign"\n1 = "malignant"\n'
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    images, labels = np.stack([IMAGE] * 6), np.arange(6) % 2
    patients = np.array([f"P{number}" for number in range(6)])
    np.savez_compressed(folder / "all.npz", image=images, label=labels, patient=patients)
    fix_dates(folder / "all.npz")
    return {folder / "all.npz": (zip_members, zip_fields, zip_inner((odd_npy,)))}


def mixture(folder: Path) -> Files:
    """Images of every format, of which a first dataset.toml is to be guessed."""
    files = pictures("PNG", PNG)(folder) | pictures("JPEG", JPEG)(folder)
    files |= pictures("TIFF", TIFF)(folder) | arrays(folder) | dicom_files(folder)
    (folder / "dataset.toml").unlink()
    (folder / "cases.csv").write_text(TABLE, encoding="utf-8")
    return files | {folder / "cases.csv": (*TEXT, nested_csv)}


def read_guess(folder: Path) -> str:
    from hydrakit.data.declared.guess import guess_declaration

    text = guess_declaration(folder)
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    try:
        load_declared(folder)
    finally:
        (folder / "dataset.toml").unlink()
    return "read"


def _traps(folder: Path) -> None:
    """What no path may lead to, and ways there: a secret beside the dataset's folder, and links."""
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    Image.fromarray(IMAGE).save(outside / "secret.png")
    (folder / "out").symlink_to(outside)
    (folder / "loop").symlink_to("loop")


TABLE = """path,label,patient,group,row,column,split,key
images/0.png,benign,P0,G0,3,4.5,train,k0
images/1.png,malignant,P1,G0,3,4.5,train,k1
images/2.png,benign,P2,G1,,,test,k2
images/3.png,malignant,P3,G1,0,7,test,k3
"""


def _table(folder: Path) -> None:
    _traps(folder)
    (folder / "dataset.toml").write_text(HEAD + 'cases = "cases.csv"\n', encoding="utf-8")
    (folder / "cases.csv").write_text(TABLE, encoding="utf-8")
    (folder / "images").mkdir()
    for number in range(4):
        Image.fromarray(IMAGE + number).save(folder / "images" / f"{number}.png")


def table(folder: Path) -> Files:
    _table(folder)
    return {folder / "cases.csv": (*TEXT, nested_csv)}


def declaration(folder: Path) -> Files:
    _table(folder)
    text = HEAD + (
        'summary = "x"\ntask = "classification"\nlicence = "none"\nroot = "."\nspacing = [1, 1.5]\n'
        'cases = "cases.csv"\n[columns]\npatient = "patient"\n[labels]\nbenign = "benign"\n'
        '[splits]\ntrain = "train"\n[images]\ncolour = "luma"\nchannels = "first"\n'
    )
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return {folder / "dataset.toml": (odd_toml, odd_toml, odd_toml, nested_toml, *TEXT)}


def patterns(folder: Path) -> Files:
    for path in _places(folder, "1.png"):
        Image.fromarray(IMAGE).save(path)
    _traps(folder)
    return {folder / "dataset.toml": (odd_toml, odd_toml, *TEXT)}
