"""Masks of lesions: position, field of view, and cases without one."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from declaring import declare, png, read, refused, samples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.declared.masks import Lesion, guess_template
from hydrakit.data.prepared.crop import canvas_side, crop, crop_fault
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.read import LoadedSample, read_cases
from hydrakit.errors import DataError
from hydrakit.hooks import FieldOfView, Remark, Sample, Unusable
from hydrakit.plan.model import Dataset, Split

CLASSES = 'classes = ["benign", "malignant"]\n'
BASE = CLASSES + 'pattern = "{label}/*.png"\n'
SPLIT = Split(train=7, val=3)
AROUND = BASE + "field_of_view = { mask = 1.5 }\n"
MASK = 'mask = "{folder}/{stem}_mask*.png"\n'


def mask(path: Path, *boxes: tuple[int, int, int, int], side: int = 20, value: int = 255) -> Path:
    pixels = np.zeros((side, side), np.uint8)
    for top, bottom, left, right in boxes:
        pixels[top:bottom, left:right] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def remarks(folder: Path) -> list[Remark]:
    cases = read_cases(load_declared(folder), folder, {})
    return [case for case in cases if isinstance(case, Remark)]


@given(arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_a_lesion_is_the_box_that_scipy_finds(pixels: np.ndarray) -> None:
    lesion = Lesion.of(pixels)
    boxes = ndimage.find_objects(pixels.astype(int))
    if not boxes:
        assert lesion is None
        return
    rows, columns = boxes[0]
    assert lesion is not None
    assert lesion.extent == (rows.stop - rows.start, columns.stop - columns.start)
    assert lesion.centre == (
        (rows.start + rows.stop - 1) / 2,
        (columns.start + columns.stop - 1) / 2,
    )


def test_masks_beside_images_give_the_position(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + MASK)
    png(folder / "benign" / "a (1).png", side=20)
    mask(folder / "benign" / "a (1)_mask.png", (2, 6, 10, 16))
    png(folder / "malignant" / "b.png", side=20)
    mask(folder / "malignant" / "b_mask.png", (0, 2, 0, 2), value=1)
    mask(folder / "malignant" / "b_mask_1.png", (8, 10, 0, 4))
    first, second = samples(folder)
    assert (first.key, first.centre, first.extent) == ("benign/a (1).png", (3.5, 12.5), (4, 6))
    assert (second.centre, second.extent) == ((4.5, 1.5), (10, 4))  # of both together
    assert remarks(folder) == []  # declared masks are neither cases nor files that are not used


def test_masks_of_a_table(tmp_path: Path) -> None:
    toml = CLASSES + 'field_of_view = { share = 0.5 }\ncases = "cases.csv"\n'
    csv = "path,label,mask,row,column\nx.png,benign,m/1.png;m/2.png,,\ny.png,malignant,,3,4\n"
    folder = declare(tmp_path / "mine", toml + 'no_mask = "whole"\n[columns]\nmask = "mask"\n', csv)
    for name in ("x", "y"):
        png(folder / f"{name}.png", side=20)
    mask(folder / "m" / "1.png", (4, 6, 4, 8))
    mask(folder / "m" / "2.png", (6, 8, 4, 8))
    assert [case.centre for case in samples(folder)] == [(5.5, 5.5), (3, 4)]
    # A column that is not named moves no case.
    declare(folder, toml, csv)
    assert [case.centre for case in samples(folder)] == [None, (3, 4)]
    for rows, words in (
        ("x.png,benign,m/1.png,3,4", ("line 2", "a mask and a position")),
        ("x.png,benign,../1.png,,", ("line 2", "leads out")),
    ):
        declare(
            folder, toml + '[columns]\nmask = "mask"\n', f"path,label,mask,row,column\n{rows}\n"
        )
        refused(folder, *words)


def test_cases_without_a_mask(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + MASK)
    for name in ("a", "b", "c", "d"):
        png(folder / "benign" / f"{name}.png", side=20)
    mask(folder / "benign" / "a_mask.png", (0, 4, 0, 4))
    mask(folder / "benign" / "b_mask.png")
    mask(folder / "benign" / "d_mask.png", (0, 4, 0, 4), side=10)
    reasons = [case.reason for case in read(folder) if isinstance(case, Unusable)]
    assert reasons == [
        "its mask is empty",
        "has no mask or box",
        "its mask has 10 x 10 pixels and its image 20 x 20: they must be of the same size",
    ]
    (remark,) = remarks(folder)
    assert remark.warning
    assert "2 cases have no mask or box, or an empty mask (first benign/b.png)" in remark.text
    assert 'no_mask = "whole"' in remark.text
    declare(folder, AROUND + MASK + 'no_mask = "whole"\n')
    whole = [case for case in read(folder) if isinstance(case, Sample)][1]
    assert (whole.key, whole.centre) == ("benign/b.png", (9.5, 9.5))
    assert whole.extent == pytest.approx((20 / 1.5, 20 / 1.5))
    (remark,) = remarks(folder)
    assert "by the size" in remark.text


def test_a_mask_of_the_same_name_in_another_folder(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + 'mask = "masks/{stem}.png"\n')
    png(folder / "benign" / "x.png", side=20)
    mask(folder / "masks" / "x.png", (2, 6, 10, 16))
    (sample,) = samples(folder)
    assert sample.centre == (3.5, 12.5)
    assert remarks(folder) == []
    # Beside the image, a file of its name is the image.
    declare(folder, AROUND + 'mask = "{folder}/{stem}.png"\n')
    (case,) = read(folder)
    assert isinstance(case, Unusable)
    assert case.reason == "has no mask or box"


def test_the_mask_of_an_image_is_no_volume(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + 'mask = "masks/{stem}.nii"\n')
    png(folder / "benign" / "x.png", side=20)
    (folder / "masks").mkdir()
    nib.save(nib.Nifti1Image(np.ones((20, 20, 1), np.uint8), np.eye(4)), folder / "masks/x.nii")
    (case,) = read(folder)
    assert isinstance(case, Unusable)
    assert "left and right of the mask are not clear" in case.reason


def test_masks_of_names_in_another_unicode_form(tmp_path: Path) -> None:
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    for image, other in ((nfc, nfd), (nfd, nfc)):
        toml = AROUND + f'mask = "m/{image}/{{stem}}.png"\n'
        folder = declare(tmp_path / f"mine{len(image)}", toml)
        png(folder / "benign" / f"{image}.png", side=20)
        mask(folder / "m" / other / f"{other}.png", (2, 6, 10, 16))
        (sample,) = samples(folder)
        assert sample.centre == (3.5, 12.5)


def test_an_image_that_the_key_mask_takes_for_a_mask_is_told(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + 'mask = "{folder}/{stem}*.png"\n')
    for name in ("1", "10"):
        png(folder / "benign" / f"{name}.png", side=20)
        mask(folder / "benign" / f"{name}_m.png", (2, 6, 10, 16))
    taken, covered = remarks(folder)
    assert "(first 'benign/10.png', of 'benign/1.png')" in taken.text
    assert "the masks of 1 cases cover their whole images (first benign/1.png)" in covered.text


def test_the_mask_of_a_jpeg_has_no_edge(tmp_path: Path) -> None:
    folder = declare(
        tmp_path / "mine", BASE + 'field_of_view = { mask = 1.5 }\nmask = "m/{stem}.jpg"\n'
    )
    png(folder / "benign" / "a.png", side=64)
    pixels = np.zeros((64, 64), np.uint8)
    pixels[20:30, 40:60] = 255
    (folder / "m").mkdir()
    Image.fromarray(pixels).save(folder / "m" / "a.jpg", quality=60)
    assert (np.asarray(Image.open(folder / "m" / "a.jpg")) > 0).sum() > 200  # compression
    (case,) = samples(folder)
    assert case.extent == (10, 20)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        (
            'mask = "{folder}/{patient}.png"',
            ["unknown part 'patient'", "{folder}, {stem}, {label}"],
        ),
        ('mask = "../{stem}.png"', ["leads out"]),
        ('mask = "*/{stem}.png"', ["* in a folder"]),
        ('mask = "{stem.png"', ["brace"]),
        ('no_mask = "whole"', ["no masks"]),
        ('masks = "{stem}.png"', ["masks"]),
    ],
)
def test_a_key_that_is_wrong(tmp_path: Path, toml: str, words: list[str]) -> None:
    folder = declare(tmp_path / "mine", BASE + f"field_of_view = {{ share = 1.0 }}\n{toml}\n")
    refused(folder, "dataset.toml", *words)


def test_a_field_of_view_without_masks_is_refused(tmp_path: Path) -> None:
    refused(declare(tmp_path / "mine", AROUND), "field_of_view: no masks")


def loaded(**more: object) -> LoadedSample:
    image = np.arange(400, dtype=np.float32).reshape(1, 20, 20)
    return LoadedSample(image=image, label=0, patient="P", key="k", **more)  # type: ignore[arg-type]


def test_the_field_of_view_is_the_longer_side_of_the_lesion() -> None:
    around = loaded(centre=(9.5, 7.5), extent=(4.0, 8.0))
    # 2 times 8 pixels are 16: as a share of an image of 20 x 20, 0.8.
    assert np.array_equal(
        crop(around, FieldOfView(mask=2.0), 8), crop(around, FieldOfView(share=0.8), 8)
    )
    # With pixels of 1 x 0.5 mm, both sides are 4 mm long.
    pixels = {"centre": (9.5, 7.5), "spacing": (1.0, 0.5)}
    around = loaded(extent=(4.0, 8.0), **pixels)
    millimetres = crop(loaded(**pixels), FieldOfView(millimetres=8.0), 8)
    assert np.array_equal(crop(around, FieldOfView(mask=2.0), 8), millimetres)
    assert canvas_side(8) == millimetres.shape[1]
    fault = crop_fault(loaded(extent=(1.0, 1.0)), FieldOfView(mask=1.0), 8)
    assert fault is not None
    assert "correct the mask" in fault


def test_preparation_follows_the_mask(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", AROUND + MASK)
    rng = np.random.default_rng(0)
    for label in ("benign", "malignant"):
        for name in ("a", "b"):
            path = png(folder / label / f"{name}.png", side=20)
            Image.fromarray(rng.integers(0, 255, (20, 20), np.uint8)).save(path)
            mask(folder / label / f"{name}_mask.png", (4, 12, 4, 12))

    def prepared() -> tuple[str, np.ndarray]:
        adapter = load_declared(folder)
        result = prepare(adapter, folder, options={}, patch=16, cache=tmp_path / "cache")
        return result.index.content, result.stored(range(4))

    before, patches = prepared()
    mask(folder / "benign" / "a_mask.png", (4, 12, 4, 14))  # of another size, alone
    after, others = prepared()
    assert before != after
    assert [np.array_equal(*pair) for pair in zip(patches, others, strict=True)] == [
        False,
        True,
        True,
        True,
    ]


def test_an_adapter_must_give_the_extent(tmp_path: Path) -> None:
    from dataclasses import replace

    folder = declare(tmp_path / "mine", BASE + "field_of_view = { share = 1.0 }\n")
    png(folder / "benign" / "a.png", side=20)
    adapter = replace(load_declared(folder), field_of_view=FieldOfView(mask=1.5))
    with pytest.raises(DataError, match="has no extent"):
        list(read_cases(adapter, folder, {}))


def test_a_plan_without_a_mask_keeps_its_text() -> None:
    stored = Dataset(name="x", split=SPLIT, field_of_view=FieldOfView(share=0.5)).model_dump()
    assert stored["field_of_view"] == {"millimetres": None, "share": 0.5}
    around = Dataset(name="x", split=SPLIT, field_of_view=FieldOfView(mask=1.5))
    assert Dataset.model_validate_json(around.model_dump_json()) == around


@pytest.mark.parametrize(
    ("masks", "template"),
    [
        (
            {"b/x (1)_mask.png": "b/x (1).png", "b/x (1)_mask_1.png": "b/x (1).png"},
            "{folder}/{stem}_mask*.png",
        ),
        ({"masks/x.png": "images/x.png", "masks/y.png": "images/y.png"}, "masks/{stem}.png"),
        ({"masks/x_gt.png": "x.jpg"}, "masks/{stem}_gt*.png"),
        ({"m/1.png": "i/x.png"}, None),
    ],
)
def test_a_draft_proposes_the_masks(masks: dict[str, str], template: str | None) -> None:
    found = guess_template(masks)
    assert found is None or found.replace("*", "") == (template or "").replace("*", "")
    assert (found is None) == (template is None)


def test_the_proposal_of_a_draft_works(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for label in ("benign", "malignant"):
        for name in ("x (1)", "x (2)"):
            png(folder / label / f"{name}.png", side=20)
            mask(folder / label / f"{name}_mask.png", (2, 6, 2, 6))
        mask(folder / label / "x (2)_mask_1.png", (8, 12, 2, 6))
    text = guess_declaration(folder)
    lines = [line for line in text.splitlines() if not line.startswith("field_of_view")]
    used = [line.removeprefix("# ") if "mask =" in line else line for line in lines]
    (folder / "dataset.toml").write_text("\n".join(used), encoding="utf-8")
    assert [case.extent for case in samples(folder)] == [(4, 4), (10, 4)] * 2


def test_masks_of_merged_rows_are_found_by_name(tmp_path: Path) -> None:
    toml = CLASSES + 'field_of_view = { mask = 1 }\ncases = "cases.csv"\nmerge_rows = true\n'
    rows = "path,label,mask\na,benign,m1\na,benign,m2\n"
    folder = declare(tmp_path / "mine", toml + '[columns]\nmask = "mask"\n', rows)
    png(folder / "images" / "a.png", side=20)
    mask(folder / "masks" / "m1.png", (2, 4, 2, 4))
    mask(folder / "masks" / "m2.png", (8, 10, 2, 6))
    assert [(each.centre, each.extent) for each in samples(folder)] == [((5.5, 3.5), (8, 4))]
