"""Declared datasets from arrays by split, COCO annotations, boxes, and tables by split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declaring import declare, png, read, refused, samples
from hypothesis import given
from hypothesis import strategies as st

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.coco import coco_table
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.declared.masks import Lesion
from hydrakit.errors import DataError
from hydrakit.hooks import NoOptions, Remark, Unusable

CLASSES = 'classes = ["benign", "malignant"]\n'
WHOLE = CLASSES + "field_of_view = { share = 1.0 }\n"


def draft(folder: Path) -> str:
    text = guess_declaration(folder)
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    return text


def remarks(folder: Path) -> list[str]:
    cases = load_declared(folder).read(folder, NoOptions())
    return [case.text for case in cases if isinstance(case, Remark)]


# --- arrays by split, as in MedMNIST


def medmnist(folder: Path, classes: int, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (count, 28, 28), np.uint8)
        labels = np.arange(count)[:, None] % 2
        if classes > 2:
            labels = rng.integers(0, 2, (count, classes))
        arrays[f"{split}_labels"] = labels.astype(np.uint8)
    folder.mkdir(parents=True)
    np.savez(folder / "pneumoniamnist.npz", **arrays, **more)
    return folder


def test_a_file_of_medmnist_is_guessed_and_keeps_its_splits(tmp_path: Path) -> None:
    folder = medmnist(tmp_path / "pneumonia", 2)
    text = draft(folder)
    assert 'image = "{split}_images"' in text
    assert 'label = "{split}_labels"' in text
    found = samples(folder)
    assert [case.split for case in found] == ["train"] * 6 + ["val"] * 3 + ["test"] * 4
    assert [case.label for case in found] == [0, 1, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0, 1]
    with np.load(folder / "pneumoniamnist.npz") as stored:
        np.testing.assert_array_equal(found[7].image[0], stored["val_images"][1])
    assert found[7].key == "pneumoniamnist.npz#val_images[1]"
    assert remarks(folder) == []


def test_several_labels_of_medmnist(tmp_path: Path) -> None:
    folder = medmnist(tmp_path / "chest", 5, note=np.array(["x"]))
    text = draft(folder)
    assert 'task = "multilabel"' in text
    with np.load(folder / "pneumoniamnist.npz") as stored:
        expected = np.concatenate([stored[f"{s}_labels"] for s in ("train", "val", "test")])
    np.testing.assert_array_equal([case.label for case in samples(folder)], expected)
    assert remarks(folder) == ["pneumoniamnist.npz: columns that are not used: note"]


def test_words_of_the_data_for_its_splits(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    images = np.random.default_rng(0).random((3, 8, 8))
    np.savez(
        folder / "a.npz", x_Training=images, y_Training=[0, 1, 0], x_Valid=images, y_Valid=[0, 1, 1]
    )
    toml = WHOLE + 'cases = "a.npz"\n[columns]\nimage = "x_{split}"\nlabel = "y_{split}"\n'
    toml += '[labels]\n0 = "benign"\n1 = "malignant"\n'
    declare(folder, toml)
    refused(folder, "a.npz: row 0 of 'x_Training'", "split 'Training'", "[splits]")
    declare(folder, toml + '[splits]\nTraining = "train"\nValid = "val"\n')
    assert [case.split for case in samples(folder)] == ["train"] * 3 + ["val"] * 3
    declare(folder, toml.replace("x_{split}", "z_{split}"))
    refused(folder, "has no array 'z_{split}' for any split", "x_Training")


# --- boxes


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30), st.integers(1, 30))
def test_a_box_is_that_of_the_pixels_in_it(top: int, left: int, height: int, width: int) -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[top : top + height, left : left + width] = True
    expected = Lesion.of(mask)
    image = {"id": 1, "file_name": "a.png", "width": 64, "height": 64}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, width, height]}
    data = {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    table = coco_table(Path("a.json"), json.dumps(data).encode())
    ((_, cells),) = table.rows()
    row = dict(zip(table.header, cells, strict=True))
    at = [float(row[f"box_{name}"]) for name in ("left", "top", "width", "height")]
    assert expected is not None
    assert expected.extent == (at[3], at[2])
    assert expected.centre == (at[1] + at[3] / 2 - 0.5, at[0] + at[2] / 2 - 0.5)


def test_boxes_of_a_table(tmp_path: Path) -> None:
    header = "path,label,box_left,box_top,box_width,box_height\n"
    toml = CLASSES + 'field_of_view = { mask = 2.0 }\ncases = "cases.csv"\n'
    rows = "a.png,malignant,2,4,6,8\nb.png,benign,,,,\n"
    folder = declare(tmp_path / "mine", toml + 'no_mask = "whole"\n', header + rows)
    for name in ("a", "b"):
        png(folder / f"{name}.png", side=20)
    first, second = samples(folder)
    assert (first.centre, first.extent) == ((7.5, 4.5), (8, 6))
    assert (second.centre, second.extent) == ((9.5, 9.5), (10, 10))
    for row, words in (
        ("a.png,benign,2,4,6,", ("line 2", "box_height is blank")),
        ("a.png,benign,2,4,6,0", ("line 2", "6 pixels wide and 0 high")),
    ):
        declare(folder, toml, header + row + "\n")
        refused(folder, *words)


def test_rows_of_one_image_are_merged_if_declared(tmp_path: Path) -> None:
    header = "path,label,box_left,box_top,box_width,box_height\n"
    toml = WHOLE + 'cases = "cases.csv"\n'
    rows = "a.png,malignant,2,4,6,8\na.png,malignant,10,0,5,4\nb.png,benign,,,,\n"
    folder = declare(tmp_path / "mine", toml, header + rows)
    for name in ("a", "b"):
        png(folder / f"{name}.png", side=20)
    refused(folder, "line 3", "'a.png' also belongs to line 2", "merge_rows = true")
    declare(folder, toml + "merge_rows = true\n", header + rows)
    first, second = samples(folder)
    assert (first.centre, first.extent) == ((5.5, 8.0), (12, 13))
    assert second.extent is None
    declare(folder, toml + "merge_rows = true\n", header + rows + "b.png,malignant,1,1,1,1\n")
    refused(folder, "line 5", "its label is another one")


# --- COCO


def coco(folder: Path, name: str, images: dict[str, list[str]], first: int = 1) -> None:
    """Annotations: the categories of the boxes of each image."""
    names = ["benign", "malignant"]
    data: dict[str, list[dict[str, object]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": x} for n, x in enumerate(names)],
    }
    for number, (file, labels) in enumerate(images.items(), start=first):
        data["images"].append({"id": number, "file_name": file, "patient_id": f"P{number}"})
        for label in labels:
            at = {"id": len(data["annotations"]) + 1, "image_id": number, "bbox": [2, 4, 6, 8]}
            data["annotations"].append({**at, "category_id": names.index(label)})
        png(folder / file, number * 20, side=20)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data), encoding="utf-8")


def test_coco_annotations_are_guessed(tmp_path: Path) -> None:
    folder = tmp_path / "lesions"
    coco(
        folder,
        "train/_annotations.coco.json",
        {"train/a.png": ["benign", "malignant"], "train/b.png": []},
    )
    coco(folder, "valid/_annotations.coco.json", {"valid/c.png": ["malignant"]}, first=5)
    text = draft(folder)
    assert 'cases = "{split}/_annotations.coco.json"' in text
    found = samples(folder)
    assert [(case.key, case.label, case.split) for case in found] == [
        ("train/a.png#1", 0, "train"),
        ("train/a.png#2", 1, "train"),
        ("train/b.png", None, "train"),
        ("valid/c.png", 1, "val"),
    ]
    assert {case.group for case in found[:2]} == {"train/a.png"}
    assert (found[0].centre, found[0].extent) == ((7.5, 4.5), (8, 6))
    (remark,) = [text for text in remarks(folder) if "patient" in text and "column" in text][:1]
    assert "patient = 'patient_id'" in remark


def test_coco_names_without_their_folder_are_found(tmp_path: Path) -> None:
    folder = tmp_path / "lesions"
    coco(folder, "annotations.json", {"a.png": ["benign"], "b.png": ["malignant"]})
    (folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).rename(folder / "images" / name)
    text = draft(folder)
    assert 'cases = "annotations.json"' in text
    assert [case.source[0].name for case in samples(folder)] == ["a.png", "b.png"]


def test_boxes_that_were_drawn_in_an_image_of_another_size(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", WHOLE + 'cases = "a.json"\n')
    coco(folder, "a.json", {"a.png": ["benign"], "b.png": ["benign"], "c.png": ["malignant"]})
    data = json.loads((folder / "a.json").read_text(encoding="utf-8"))
    for image, width in zip(data["images"], (20, 40, 0), strict=True):
        image |= {"width": width, "height": 20}
    data["annotations"][2]["bbox"] = [10, 4, 14, 8]
    (folder / "a.json").write_text(json.dumps(data), encoding="utf-8")
    _, other, _ = read(folder)
    assert isinstance(other, Unusable)
    assert other.reason.startswith("has 20 x 20 pixels, and its box was drawn in an image of 20 x")
    (beyond,) = [text for text in remarks(folder) if "reach beyond" in text]
    assert "the boxes of 1 cases reach beyond their images (first c.png)" in beyond


def test_coco_with_several_labels_of_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "lesions"
    images = {"a.png": ["benign", "malignant", "benign"], "b.png": [], "c.png": ["malignant"]}
    coco(folder, "a.json", images)
    declare(folder, 'task = "multilabel"\ncases = "a.json"\n' + WHOLE)
    assert [case.label for case in samples(folder)] == [(1, 1), (0, 0), (0, 1)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "no lists of images"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "no 'file_name'"),
        ('{"images": [1], "annotations": [], "categories": []}', "export it again"),
        (
            '{"images": [], "categories": [], '
            '"annotations": [{"id": 3, "image_id": 1, "category_id": 1}]}',
            "annotation 3 is of no image",
        ),
    ],
)
def test_what_is_no_coco_file(content: str, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        coco_table(Path("a.json"), content.encode())
    assert str(error.value).startswith("a.json: ")


# --- tables by split


def test_tables_of_several_splits(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", WHOLE + 'cases = "{split}.csv"\n')
    for split, rows in (("train", "a.png,benign\nb.png,malignant\n"), ("test", "c.png,benign\n")):
        (folder / f"{split}.csv").write_text("path,label\n" + rows, encoding="utf-8")
    for name in ("a", "b", "c"):
        png(folder / f"{name}.png")
    assert {case.key: case.split for case in samples(folder)} == {
        "a.png": "train",
        "b.png": "train",
        "c.png": "test",
    }
    assert remarks(folder) == []
    before = load_declared(folder).version
    (folder / "test.csv").write_text("path,label\nc.png,malignant\n", encoding="utf-8")
    assert load_declared(folder).version != before
    declare(folder, WHOLE + 'cases = "{label}.csv"\n')
    refused(folder, "dataset.toml", "only {split}")
