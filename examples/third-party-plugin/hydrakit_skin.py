"""The dataset `skin`: photographs of skin lesions, with labels in a CSV file."""

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, FieldOfView, NoOptions, Sample, Unusable, hookimpl

CLASSES = ("benign", "malignant")
COLUMNS = {"file", "patient", "label"}


def read(root: Path, options: NoOptions) -> Iterator[Sample | Unusable]:
    """Yield each row of ``labels.csv`` as a sample, or as unusable if its image is."""
    sheet = root / "labels.csv"
    try:
        lines = sheet.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{sheet}: cannot be read: {error}") from None
    rows = csv.DictReader(lines, restval="")
    if not set(rows.fieldnames or ()) >= COLUMNS:
        raise DataError(f"{sheet}: its first line must name the columns file, patient and label")
    for row in rows:
        if row["label"] not in CLASSES:
            raise DataError(
                f"{sheet}, line {rows.line_num}: label {row['label']!r} is not one of "
                f"{', '.join(CLASSES)}"
            )
        yield _case(root / row["file"], row)


def _case(path: Path, row: Mapping[str, str]) -> Sample | Unusable:
    import numpy as np  # slow packages are imported here, so that `hydrakit --help` stays fast
    from PIL import Image

    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"), dtype=np.float32)
    except (OSError, SyntaxError):  # Pillow raises these for missing and damaged files
        return Unusable(key=row["file"], reason="its image is missing or damaged")
    return Sample(
        image=pixels,
        label=CLASSES.index(row["label"]),
        patient=row["patient"],
        key=row["file"],
        source=(path,),
    )


ADAPTER = DatasetAdapter(
    name="skin",
    summary="Photographs of skin lesions, benign or malignant",
    classes=CLASSES,
    read=read,
    field_of_view=FieldOfView(share=1.0),
    version="1",
    layout="labels.csv with the columns file, patient and label, and the images that it names",
    how_to_get="This is an example: use your own photographs.",
    citation="none",
    licence="the licence of your photographs",
)


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """Yield the datasets of this plugin."""
    yield ADAPTER
