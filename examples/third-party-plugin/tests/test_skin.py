from pathlib import Path

import numpy as np
import pytest
from hydrakit_skin import ADAPTER
from PIL import Image

from hydrakit.errors import DataError
from hydrakit.hooks import Sample
from hydrakit.testing import check_adapter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A dataset of three photographs of two patients, and one that is missing."""
    for number in range(3):
        Image.new("RGB", (8, 6), (10 * number,) * 3).save(tmp_path / f"{number}.png")
    (tmp_path / "labels.csv").write_text(
        "file,patient,label\n"
        "0.png,p1,benign\n1.png,p1,malignant\n2.png,p2,benign\n3.png,p2,benign\n"
    )
    return tmp_path


def test_every_case_follows_the_rules(root: Path) -> None:
    checked = check_adapter(ADAPTER, root)
    assert checked.samples == {"benign": 2, "malignant": 1}
    assert checked.unusable == {"its image is missing or damaged": 1}
    assert checked.patients == 2


def test_pixels_and_labels_are_those_of_the_files(root: Path) -> None:
    second = list(ADAPTER.read(root, {}))[1]
    assert isinstance(second, Sample)
    assert (second.label, second.patient, second.key) == (1, "p1", "1.png")
    np.testing.assert_array_equal(second.image, np.full((6, 8), 10))


def test_an_unknown_label_is_reported_with_its_line(root: Path) -> None:
    with (root / "labels.csv").open("a") as sheet:
        sheet.write("0.png,p1,naevus\n")
    with pytest.raises(DataError, match=r"labels\.csv, line 6: label 'naevus' is not one of"):
        list(ADAPTER.read(root, {}))


def test_missing_columns_are_reported(root: Path) -> None:
    (root / "labels.csv").write_text("image,label\n0.png,benign\n")
    with pytest.raises(DataError, match="must name the columns file, patient and label"):
        list(ADAPTER.read(root, {}))
