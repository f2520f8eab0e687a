"""Shipped declarations of public datasets, each over small files in the layout of its download."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from declaring import declare, png, read, refused, samples
from dicom_files import image as dicom
from dicom_files import save as save_dicom
from PIL import Image

from hydrakit.cli import main
from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.schema import FILE
from hydrakit.data.declared.sets import FOLDER, public_set, public_sets
from hydrakit.hooks import NoOptions, Remark, Sample, Unusable

MEDMNIST = sorted(name for name in public_sets() if name.endswith("mnist"))
CHANNELS = {"bloodmnist": 3, "dermamnist": 3, "pathmnist": 3, "retinamnist": 3}


@dataclass(frozen=True, order=True)
class Case:
    """What a case of a set must be read as."""

    key: str
    label: str | tuple[int, ...] | None
    patient: str
    split: str | None = None
    centre: tuple[float, float] | None = None
    finding: str | None = None
    subgroups: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Layout:
    """How the files of a set are made, and what they must be read as."""

    top: str  # folder that the download makes; "" for none
    make: Callable[[Path], None]
    cases: list[Case]
    unusable: list[str] = field(default_factory=list)


def spot(path: Path, *box: int, side: int = 20) -> None:
    """A mask that is white in rows box[0] to box[1] and columns box[2] to box[3]."""
    pixels = np.zeros((side, side), np.uint8)
    if box:
        pixels[box[0] : box[1], box[2] : box[3]] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def busi(top: Path) -> None:
    for name in ("benign/benign (1)", "benign/benign (4)", "malignant/malignant (1)"):
        png(top / f"{name}.png", side=20)
    png(top / "normal" / "normal (1).png", side=20)
    spot(top / "benign" / "benign (1)_mask.png", 2, 6, 8, 12)
    spot(top / "benign" / "benign (4)_mask.png", 0, 4, 0, 4)
    spot(top / "benign" / "benign (4)_mask_1.png", 8, 12, 8, 12)
    spot(top / "malignant" / "malignant (1)_mask.png", 10, 20, 0, 10)
    spot(top / "normal" / "normal (1)_mask.png")


BUSI = Layout(
    "Dataset_BUSI_with_GT",
    busi,
    [
        Case(f"{path}.png", label, f"{path}.png", centre=centre)
        for path, label, centre in (
            ("benign/benign (1)", "benign", (3.5, 9.5)),
            ("benign/benign (4)", "benign", (5.5, 5.5)),
            ("malignant/malignant (1)", "malignant", (14.5, 4.5)),
        )
    ],
    unusable=["normal/normal (1).png"],
)


def cbis(top: Path) -> None:
    header = (
        "patient_id,{},left or right breast,image view,abnormality id,abnormality type,mass shape,"
        "mass margins,assessment,pathology,subtlety,image file path,cropped image file path,"
        "ROI mask file path\n"
    )
    rows = {
        "train": [
            ("P_00001", "LEFT", "CC", 1, "MALIGNANT", "1.3.1", "1.3.2"),
            ("P_00001", "LEFT", "CC", 2, "BENIGN", "1.3.1", "1.3.3"),
        ],
        "test": [("P_00016", "RIGHT", "MLO", 1, "BENIGN_WITHOUT_CALLBACK", "1.3.4", "1.3.5")],
    }
    for split, masses in rows.items():
        text = header.format("breast_density")
        for patient, side, view, number, pathology, image, roi in masses:
            name = f"Mass-{'Training' if split == 'train' else 'Test'}_{patient}_{side}_{view}"
            cut = f"{name}_{number}/1.3.9/{roi}"
            text += (
                f"{patient},3,{side},{view},{number},mass,IRREGULAR,SPICULATED,4,{pathology},4,"
                f'{name}/1.3.8/{image}/000000.dcm,"{cut}/000000.dcm\n","{cut}/000001.dcm\n"\n'
            )
        path = top / "csv" / f"mass_case_description_{split}_set.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for image in ("1.3.1", "1.3.4"):
        spot(top / "jpeg" / image / "1-103.jpg", 0, 9, 0, 9)
    for series, box in (
        ("1.3.2", (0, 8, 0, 8)),
        ("1.3.3", (8, 16, 8, 16)),
        ("1.3.5", (0, 8, 8, 16)),
    ):
        spot(top / "jpeg" / series / "1-012.jpg", side=8)  # the cut-out image
        spot(top / "jpeg" / series / "2-034.jpg", *box)


def cut(name: str, series: str) -> str:
    return f"{name}/1.3.9/{series}/000000.dcm"


CBIS = Layout(
    "",
    cbis,
    [
        Case(
            cut("Mass-Training_P_00001_LEFT_CC_1", "1.3.2"),
            *("malignant", "P_00001", None, (3.5, 3.5)),
        ),
        Case(
            cut("Mass-Training_P_00001_LEFT_CC_2", "1.3.3"),
            *("benign", "P_00001", None, (11.5, 11.5)),
        ),
        Case(
            cut("Mass-Test_P_00016_RIGHT_MLO_1", "1.3.5"),
            *("benign", "P_00016", "test", (3.5, 11.5)),
        ),
    ],
)


def ham(top: Path) -> None:
    rows = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    words = ("bkl", "bkl", "nv", "mel", "akiec", "bcc", "df", "vasc")
    for number, dx in enumerate(words):
        lesion = f"HAM_000011{max(number, 1)}"
        rows.append(f"{lesion},ISIC_002741{number},{dx},histo,80.0,male,scalp")
        part = 1 + number % 2
        png(top / f"HAM10000_images_part_{part}" / f"ISIC_002741{number}.jpg")
    (top / "HAM10000_metadata.csv").write_text("\n".join(rows) + "\n")


HAM_WORDS = {
    "0": "benign keratosis",
    "1": "benign keratosis",
    "2": "melanocytic naevus",
    "3": "melanoma",
    "4": "actinic keratosis or intraepithelial carcinoma",
    "5": "basal cell carcinoma",
    "6": "dermatofibroma",
    "7": "vascular lesion",
}
HAM = Layout(
    "",
    ham,
    [
        Case(
            f"ISIC_002741{number}",
            label,
            f"HAM_000011{max(int(number), 1)}",
            finding=f"HAM_000011{max(int(number), 1)}",
            subgroups=(("sex", "male"),),
        )
        for number, label in HAM_WORDS.items()
    ],
)


def isic(top: Path) -> None:
    table = (
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target\n"
        "ISIC_2637011,IP_7279968,male,45.0,head/neck,unknown,benign,0\n"
        "ISIC_0015719,IP_3075186,female,45.0,upper extremity,melanoma,malignant,1\n"
        "ISIC_0052212,IP_7279968,female,50.0,lower extremity,nevus,benign,0\n"
    )
    top.mkdir(parents=True, exist_ok=True)
    (top / "ISIC_2020_Training_GroundTruth.csv").write_text(table)
    for name in ("ISIC_2637011", "ISIC_0015719", "ISIC_0052212"):
        png(top / "train" / f"{name}.jpg")


ISIC = Layout(
    "",
    isic,
    [
        Case("ISIC_2637011", "benign", "IP_7279968"),
        Case("ISIC_0015719", "melanoma", "IP_3075186"),
        Case("ISIC_0052212", "benign", "IP_7279968"),
    ],
)


def rsna(top: Path) -> None:
    table = (
        "patientId,x,y,width,height,Target\n"
        "0004cfab-14fd,,,,,0\n"
        "00436515-870c,264.0,152.0,213.0,379.0,1\n"
        "00436515-870c,562.0,152.0,256.0,453.0,1\n"
    )
    for name in ("0004cfab-14fd", "00436515-870c"):
        save_dicom(dicom(PatientID=name), top / "stage_2_train_images" / f"{name}.dcm")
    save_dicom(dicom(PatientID="0000a175"), top / "stage_2_test_images" / "0000a175.dcm")
    (top / "stage_2_train_labels.csv").write_text(table)
    (top / "stage_2_detailed_class_info.csv").write_text(
        "patientId,class\n0004cfab-14fd,Normal\n00436515-870c,Lung Opacity\n"
    )


RSNA = Layout(
    "rsna-pneumonia-detection-challenge",
    rsna,
    [
        Case("0004cfab-14fd", "no opacity", "0004cfab-14fd"),
        Case("00436515-870c", "opacity", "00436515-870c"),
    ],
)


def lidc(top: Path) -> None:
    for path in (
        "benigno/1.3.6/1/4",
        "benigno/1.3.6/1/5",
        "maligno/1.3.6/2/4",
        "maligno/1.3.7/1/9",
    ):
        png(top / f"{path}.png", side=64)


LIDC = Layout(
    "images",
    lidc,
    [
        Case(f"{label}o/{exam}/{nodule}/{name}.png", word, exam, finding=nodule)
        for label, word, exam, nodule, name in (
            ("benign", "benign", "1.3.6", "1", "4"),
            ("benign", "benign", "1.3.6", "1", "5"),
            ("malign", "malignant", "1.3.6", "2", "4"),
            ("malign", "malignant", "1.3.7", "1", "9"),
        )
    ],
)


def brain(files: dict[str, str]) -> Layout:
    def make(top: Path) -> None:
        for path in files:
            png(top / path)

    return Layout("", make, [Case(path, label, path) for path, label in files.items()])


NICKPARVAR = brain(
    {
        "Training/glioma/Tr-gl_0010.jpg": "glioma",
        "Training/meningioma/Tr-me_0010.jpg": "meningioma",
        "Training/notumor/Tr-no_0010.jpg": "no tumour",
        "Training/pituitary/Tr-pi_0010.jpg": "pituitary tumour",
        "Testing/notumor/Te-noTr_0000.jpg": "no tumour",
    }
)
SARTAJ = brain(
    {
        "Training/glioma_tumor/gg (1).jpg": "glioma",
        "Training/meningioma_tumor/m (1).jpg": "meningioma",
        "Training/no_tumor/1.jpg": "no tumour",
        "Training/pituitary_tumor/p (1).jpg": "pituitary tumour",
        "Testing/no_tumor/image(1).jpg": "no tumour",
    }
)


def medmnist(name: str) -> Layout:
    """An NPZ with a case of each class in every split."""
    declared = public_set(name).declaration
    classes = len(declared.classes)
    multilabel = declared.task == "multilabel"
    rng = np.random.default_rng(0)

    def make(top: Path) -> None:
        arrays = {}
        for split in ("train", "val", "test"):
            shape = (classes, 28, 28, CHANNELS[name]) if name in CHANNELS else (classes, 28, 28)
            arrays[f"{split}_images"] = rng.integers(0, 255, shape, np.uint8)
            labels = np.eye(classes) if multilabel else np.arange(classes)[:, None]
            arrays[f"{split}_labels"] = labels.astype(np.uint8)
        top.mkdir(parents=True, exist_ok=True)
        np.savez(top / f"{name}.npz", **arrays)

    def label(row: int) -> str | tuple[int, ...]:
        if multilabel:
            return tuple(int(row == at) for at in range(classes))
        return declared.labels[str(row)]

    keys = [
        (f"{name}.npz#{split}_images[{row}]", split, row)
        for split in ("train", "val", "test")
        for row in range(classes)
    ]
    used = declared.splits != dict.fromkeys(("train", "val", "test"), "")
    cases = [Case(key, label(row), key, split if used else None) for key, split, row in keys]
    return Layout("", make, cases)


LAYOUTS = {
    "brain-tumor-mri": NICKPARVAR,
    "brain-tumor-sartaj": SARTAJ,
    "busi": BUSI,
    "cbis-ddsm": CBIS,
    "ham10000": HAM,
    "isic2020": ISIC,
    "lidc-patches": LIDC,
    "rsna-pneumonia": RSNA,
    **{name: medmnist(name) for name in MEDMNIST},
}


def add(*arguments: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(main, ["datasets", "add", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result


def as_case(sample: Sample, classes: tuple[str, ...]) -> Case:
    label = classes[sample.label] if isinstance(sample.label, int) else sample.label
    assert not isinstance(label, float)
    return Case(
        sample.key,
        label,
        sample.patient,
        sample.split,
        sample.centre,
        sample.finding,
        tuple(sample.subgroups.items()),
    )


def test_every_shipped_declaration_has_a_layout_and_is_in_the_catalogue() -> None:
    assert {path.stem for path in FOLDER.glob("*.toml")} == {"catalogue", *public_sets()}
    assert LAYOUTS.keys() == public_sets().keys()


@pytest.mark.parametrize("name", public_sets())
def test_a_set_in_the_layout_of_its_download(name: str, tmp_path: Path) -> None:
    layout = LAYOUTS[name]
    folder = tmp_path / name
    layout.make(folder / layout.top)
    printed = add(name, folder).stdout
    assert "missing:" not in printed
    *_, command = printed.splitlines()
    assert shlex.split(command.removeprefix("next: ")) == [
        *("hydrakit", "datasets", "check", name, "--data", str(tmp_path))
    ]
    adapter = load_declared(folder)
    cases = read(folder)
    usable = [as_case(case, adapter.classes) for case in cases if isinstance(case, Sample)]
    assert sorted(usable, key=lambda case: case.key) == sorted(layout.cases)
    assert [case.key for case in cases if isinstance(case, Unusable)] == layout.unusable
    known = set(public_set(name).classes) or set(adapter.classes)
    assert known == set(adapter.classes)
    if adapter.task == "classification":
        assert {case.label for case in usable} == known
    remarks = [each for each in adapter.read(folder, NoOptions()) if isinstance(each, Remark)]
    warnings = [each.text for each in remarks if each.warning]
    expected = ["1 cases have no mask or box, or an empty mask"] if name == "busi" else []
    assert [text.partition(" (first")[0] for text in warnings] == expected


@pytest.mark.parametrize("name", public_sets())
def test_a_declaration_states_what_people_need(name: str) -> None:
    one = public_set(name)
    declared = one.declaration
    text = one.path.read_text(encoding="utf-8")
    assert declared.name == name
    for stated in (declared.summary, declared.licence, declared.citation, declared.how_to_get):
        assert stated
        assert len(stated) <= 500
    assert declared.licence != "not stated"
    assert "# Patients: " in text
    assert "# What check finds" in text or "# Expect from check: " in text
    assert one.page.startswith("https://")
    assert one.cases > 500
    assert one.patients
    assert one.pitfalls
    assert all(len(line) <= 120 for line in text.splitlines() if line.startswith("#"))
    assert set(one.classes) <= set(declared.classes)


def test_the_sets_are_listed_and_described() -> None:
    lines = add().stdout.splitlines()
    assert [line.split()[0] for line in lines] == sorted(public_sets())
    assert "cases: 780" in next(line for line in lines if line.startswith("busi"))
    listed = json.loads(add("--json").stdout)
    assert [each["name"] for each in listed] == sorted(public_sets())
    assert json.loads(add("busi", "--json").stdout) == listed[[*public_sets()].index("busi")]
    described = add("busi").stdout
    assert "how to get:   kaggle datasets download" in described
    assert "pitfalls:     many copies" in described


def test_what_is_missing_is_named_with_where_to_get_it(tmp_path: Path) -> None:
    folder = tmp_path / "skin cancer"
    ham(folder)
    for path in (folder / "HAM10000_images_part_2").iterdir():
        path.unlink()
    (folder / "HAM10000_images_part_2").rmdir()
    printed = add("ham10000", folder).stdout
    assert "melanoma 1 of 1,113" in printed
    assert "missing: HAM10000_images_part_2\n" in printed
    assert "missing: 4 images of 8 (first ISIC_0027411)" in printed
    assert "get them: HAM10000_images_part_1.zip" in printed
    # The name of the folder is not that of the set.
    words = shlex.split(printed.splitlines()[-1])
    assert words[-2:] == ["--root", f"ham10000={folder.resolve()}"]
    (folder / "HAM10000_metadata.csv").unlink()
    (folder / FILE).unlink()
    told = json.loads(add("ham10000", folder, "--json").stdout)
    assert "there is no file 'HAM10000_metadata.csv'" in told["fault"]
    assert told["missing"] == ["HAM10000_metadata.csv", "HAM10000_images_part_2"]
    assert told["written"] == str(folder / FILE)
    assert told["expected"]["classes"]["melanoma"] == 1113


def test_images_that_are_there_twice_are_named(tmp_path: Path) -> None:
    ham(tmp_path / "ham10000")
    for part in ("ham10000_copy_1", "ham10000_copy_2"):  # as in Kaggle's archive, in lower case
        png(tmp_path / "ham10000" / part / f"ISIC_002741{part[-1]}.jpg")
    printed = add("ham10000", tmp_path / "ham10000").stdout
    line = next(line for line in printed.splitlines() if line.startswith("cases: "))
    assert "HAM10000_images_part_2/ISIC_0027411.jpg" in line
    assert "ham10000_copy_1/ISIC_0027411.jpg" in line
    assert "remove the folders ham10000_images_part_1 and _2" in printed


def test_add_never_overwrites_and_names_what_is_wrong(tmp_path: Path) -> None:
    busi(tmp_path / "busi")
    before = add("busi", tmp_path / "busi").stdout
    assert "classes: benign 2 of 437, malignant 1 of 210\nwithout a label: 1 of 133" in before
    assert "the numbers differ: files are missing, or it is another version: https://" in before
    text = (tmp_path / "busi" / FILE).read_text()
    assert text == public_set("busi").path.read_text()
    assert "exists already" in add("busi", tmp_path / "busi", status=1).stderr
    assert "did you mean 'busi'?" in add("busl", tmp_path / "busi", status=1).stderr
    message = add("busi", tmp_path / "none", status=1).stderr
    assert "no such folder" in message
    assert "kaggle datasets download" in message
    assert "--out needs NAME and DIR" in add("--out", tmp_path, status=2).stderr


def test_the_declaration_of_a_folder_that_is_read_only_lies_elsewhere(tmp_path: Path) -> None:
    busi(tmp_path / "disk" / "Dataset_BUSI_with_GT")
    place = tmp_path / "data" / "busi"
    printed = add("busi", tmp_path / "disk", "--out", place).stdout
    assert f"files in: {(tmp_path / 'disk' / 'Dataset_BUSI_with_GT').resolve()}" in printed
    assert printed.splitlines()[-1].endswith(f"check busi --data {place.parent.resolve()}")
    assert not (tmp_path / "disk" / FILE).exists()
    assert sum(isinstance(case, Sample) for case in read(place)) == 3


# --- match = "folder"

BY_FOLDER = (
    'classes = ["benign", "malignant"]\nfield_of_view = { share = 1.0 }\ncases = "cases.csv"\n'
    'match = "folder"\n'
)


def test_a_folder_with_several_images_is_refused(tmp_path: Path) -> None:
    csv = "path,label\na/SERIES/000000.dcm,benign\na/OTHER/000000.dcm,malignant\n"
    folder = declare(tmp_path / "mine", BY_FOLDER, csv)
    png(folder / "x" / "SERIES" / "1-1.png")
    png(folder / "y" / "MG_OTHER" / "1-2.png", value=50)
    assert [case.image.max() for case in samples(folder)] == [100, 50]
    png(folder / "z" / "CT_OTHER" / "1-3.png")
    refused(folder, "line 3", "may be 'y/MG_OTHER/1-2.png' or 'z/CT_OTHER/1-3.png'", "one image")
    png(folder / "OTHER" / "1-4.png", value=25)  # the name itself comes first
    assert [case.image.max() for case in samples(folder)] == [100, 25]


def test_a_path_whose_folder_is_absent_is_unusable(tmp_path: Path) -> None:
    csv = "path,label\na/SERIES/1.dcm,benign\nx.png,malignant\n"
    folder = declare(tmp_path / "mine", BY_FOLDER, csv)
    png(folder / "x.png")
    cases = read(folder)
    assert isinstance(cases[0], Unusable)
    assert isinstance(cases[1], Sample)  # a path without a folder is the file itself


def test_masks_in_a_folder_none_of_which_fits(tmp_path: Path) -> None:
    csv = (
        "path,label,roi\na/SERIES/1.dcm,benign,a/ROI/1.dcm\nb/SECOND/1.dcm,malignant,b/ROI2/1.dcm\n"
    )
    folder = declare(tmp_path / "mine", BY_FOLDER + '[columns]\nmask = "roi"\n', csv)
    for series in ("SERIES", "SECOND"):
        png(folder / series / "1.png", side=20)
    spot(folder / "ROI" / "1.png", 0, 2, 0, 2, side=8)
    spot(folder / "ROI2" / "1.png", 0, 2, 0, 2, side=8)
    spot(folder / "ROI2" / "2.png", 4, 6, 4, 6)
    first, second = read(folder)
    assert isinstance(first, Unusable)
    assert "its mask has 8 x 8 pixels and its image 20 x 20" in first.reason
    assert isinstance(second, Sample)
    assert second.centre == (4.5, 4.5)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('pattern = "{label}/*.png"\nmatch = "folder"\n', "match: only a table has paths"),
        ('cases = "a.npz"\nmatch = "folder"\n', "match: only a table has paths"),
    ],
)
def test_only_a_table_has_paths_to_match(tmp_path: Path, toml: str, words: str) -> None:
    base = 'classes = ["benign", "malignant"]\nfield_of_view = { share = 1.0 }\n'
    refused(declare(tmp_path / "mine", base + toml), words)


@pytest.mark.shared
def test_real_patches_of_lidc(tmp_path: Path, shared_data: Path) -> None:
    printed = add("lidc-patches", shared_data / "lidc", "--out", tmp_path / "lidc").stdout
    one = public_set("lidc-patches")
    counts = ", ".join(f"{name} {number:,} of {number:,}" for name, number in one.classes.items())
    assert f"classes: {counts}\n" in printed
    assert "missing" not in printed
    assert "differ" not in printed


def test_a_split_that_the_dataset_does_not_mean(tmp_path: Path) -> None:
    toml = BY_FOLDER.replace('match = "folder"\n', '[splits]\ndevelopment = ""\nexam = "test"\n')
    csv = "path,label,split\na.png,benign,development\nb.png,malignant,exam\nc.png,benign,\n"
    folder = declare(tmp_path / "mine", toml, csv)
    for name in "abc":
        png(folder / f"{name}.png")
    assert [case.split for case in samples(folder)] == [None, "test", None]


def test_the_page_of_public_sets_has_them_all() -> None:
    page = (Path(__file__).parent.parent / "docs" / "sets.md").read_text(encoding="utf-8")
    for one in public_sets().values():
        declared = one.declaration
        answers = (
            f"{len(declared.classes)} {'labels' if declared.task == 'multilabel' else 'classes'}"
        )
        parts = (declared.summary, answers, f"{one.cases:,}", one.patients, declared.licence)
        assert f"| [`{one.name}`]({one.page}) | {' | '.join(parts)} | {one.pitfalls} |" in page
