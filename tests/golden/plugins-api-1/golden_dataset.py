"""Three datasets for hook API 1, in NPY files: one for each kind of label."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from hydrakit.errors import DataError
from hydrakit.file_rules import FileRules
from hydrakit.hooks import (
    DatasetAdapter,
    FieldOfView,
    Remark,
    Sample,
    Unusable,
    Window,
    hookimpl,
)
from hydrakit.sources import KaggleDataset, ManualFile, PublicCollection

HYDRAKIT_API = 1

CLASSES = ("benign", "malignant")


@dataclass(frozen=True)
class SpotOptions:
    """Options with a field of every type."""

    light: Literal["any", "polarised"] = field(
        default="any", metadata={"help": "photographs with this kind of light"}
    )
    suffix: str = ".npy"
    own_splits: bool = False
    at_most: int = 1000
    millimetres: float = 0.5
    skip: tuple[str, ...] = ()
    margin: float | None = None

    def __post_init__(self) -> None:
        if self.margin is not None and self.margin < 0:
            raise ValueError(f"margin is {self.margin}: it cannot be negative")


def read_spots(root: Path, options: SpotOptions):
    """Read files such as ``malignant/P07-2.npy``; a label of the folder ``unknown`` is unknown."""
    paths = sorted(root.glob(f"*/*{options.suffix}"))
    if not paths:
        raise DataError(f"{root}: holds no {options.suffix} files: see the layout")
    yield Remark(text=f"read files with the suffix {options.suffix}")
    if options.light != "any":
        yield Remark(text="the kind of light is not recorded", warning=True)
    for path in paths[: options.at_most]:
        patient, _, number = path.stem.partition("-")
        key = f"{path.parent.name}/{path.name}"
        if number in options.skip:
            yield Unusable(key=key, reason="is skipped by an option")
            continue
        yield Sample(
            image=partial(load, path),
            label=CLASSES.index(path.parent.name) if path.parent.name in CLASSES else None,
            patient=patient,
            key=key,
            group=None,
            finding=f"spot {number}",
            centre=(8.0, 8.0),
            spacing=(options.millimetres, options.millimetres),
            split="train" if options.own_splits else None,
            facts={"format": "npy", "bits": 32.0},
            subgroups={"zone": "arm" if number == "1" else "leg"},
            source=(path,),
        )


def load(path: Path):
    """Pixels of a file."""
    import numpy as np

    try:
        return np.load(path, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError):
        raise DataError("the image file is missing or damaged") from None


def read_depths(root: Path, options):
    """Read ``depths.csv`` with lines such as ``P07,3.5``, and ``P07.npy`` with three channels."""
    import numpy as np

    for line in (root / "depths.csv").read_text().splitlines():
        patient, depth = line.split(",")
        pixels = load(root / f"{patient}.npy")
        masked = np.ma.masked_array(pixels, mask=pixels < 0)  # outside of the scan
        yield Sample(image=masked, label=float(depth), patient=patient, key=patient, named=True)


def read_signs(root: Path, options):
    """Read files such as ``P07-1-0.npy``: redness is present, swelling is not; ``x``: unknown."""
    for path in sorted(root.glob("*.npy")):
        patient, *answers = path.stem.split("-")
        yield Sample(
            image=partial(load, path),
            label=tuple(None if each == "x" else int(each) for each in answers),
            patient=patient,
            key=path.name,
            group=f"exam of {patient}",
            extent=(4.0, 6.0),
            source=(path,),
        )


def needed(series, options) -> bool:
    """Whether the dataset may read a series of the public collection."""
    return series.modality == "XC" and series.images > 0 and options.light == "any"


@hookimpl
def hydrakit_dataset_adapters():
    yield DatasetAdapter(
        name="golden-spots",
        summary="Photographs of spots, benign or malignant",
        classes=CLASSES,
        read=read_spots,
        field_of_view=FieldOfView(millimetres=8.0),
        version="1",
        layout="benign/PATIENT-NUMBER.npy and malignant/PATIENT-NUMBER.npy",
        how_to_get="Ask the dermatology department.",
        citation="none",
        licence="for tests",
        options=SpotOptions,
        task="classification",
        cohort="golden-patients",
        elsewhere=(Path(__file__).parent,),
        normalise="image",
        flips=("horizontal", "vertical"),
        channels=None,
        exact_names=True,
        source=PublicCollection(id="golden", needed=needed),
        by_hand=(
            ManualFile(name="Labels*.csv", page="https://example.org/labels", also=("labels.txt",)),
        ),
        file_rules=FileRules(window=(40.0, 400.0), spacing=(0.5, 0.5)),
    )
    yield DatasetAdapter(
        name="golden-depths",
        summary="Photographs of spots, and their depth in millimetres",
        classes=("depth",),
        read=read_depths,
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="depths.csv and PATIENT.npy",
        how_to_get="Ask the dermatology department.",
        citation="none",
        licence="for tests",
        task="regression",
        normalise=Window(window=(0.0, 1.0)),
        channels="grey",
        source=KaggleDataset(handle="golden/depths", folders=("images",), size=1000),
    )
    yield DatasetAdapter(
        name="golden-signs",
        summary="Photographs of spots with redness, swelling, or both",
        classes=("redness", "swelling"),
        read=read_signs,
        field_of_view=FieldOfView(mask=1.5),
        version="1",
        layout="PATIENT-REDNESS-SWELLING.npy",
        how_to_get="Ask the dermatology department.",
        citation="none",
        licence="for tests",
        task="multilabel",
        flips=("horizontal",),
        channels="repeat",
    )
