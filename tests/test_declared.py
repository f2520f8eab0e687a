"""A dataset in a file: the cases of patterns and tables, their labels, and unusable images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import pytest
from declaring import BASE, CSV, NPZ, by_folder, declare, png, read, refused, samples
from dicom_files import image, save
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.safe_paths import path_fault
from hydrakit.hooks import Sample, Unusable

__all__ = ["by_folder"]

# --- patterns


def test_a_pattern(by_folder: Path) -> None:
    (by_folder / "benign" / ".DS_Store").write_text("litter")
    found = samples(by_folder)
    assert [int(sample.image[0, 0, 0]) for sample in found] == list(range(8))
    assert [sample.label for sample in found] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [sample.patient for sample in found] == ["P0", "P0", "P1", "P1", "P2", "P2", "P3", "P3"]
    assert found[0].key == "benign/P0/0.png"
    assert found[0].source == (by_folder / "benign/P0/0.png",)
    facts = {"format": "PNG", "mode": "L", "width": 6, "height": 6, "bits": 8}
    assert found[0].facts == facts
    assert load_declared(by_folder).name == "mine"


def test_every_part_and_mapped_names(tmp_path: Path) -> None:
    toml = BASE + 'pattern = "x/**/{split}/{label}/{group}/{patient}_{key}.png"\n'
    toml += '[labels]\nyes = "malignant"\n"?" = ""\n[splits]\nTraining = "train"\n'
    folder = declare(tmp_path / "mine", toml)
    png(folder / "x" / "deep" / "er" / "Training" / "yes" / "e1" / "p1_k1.png")
    png(folder / "x" / "test" / "?" / "e2" / "p2_a_b.png")
    png(folder / "y" / "test" / "no" / "e2" / "p3_k3.png")  # elsewhere
    two, one = samples(folder)
    assert (one.label, one.patient, one.key, one.group, one.split) == (1, "p1", "k1", "e1", "train")
    assert (two.label, two.patient, two.key, two.group, two.split) == (
        None,
        "p2",
        "a_b",
        "e2",
        "test",
    )


def test_findings_of_a_pattern_are_within_their_patient(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/{patient}/{finding}/*.png"\n')
    for name in ("benign/e1/0/1", "benign/e1/0/2", "benign/e1/1/1", "malignant/e2/0/1"):
        png(folder / f"{name}.png")
    found = [(sample.patient, sample.finding) for sample in samples(folder)]
    assert found == [("e1", "0"), ("e1", "0"), ("e1", "1"), ("e2", "0")]
    png(folder / "malignant/e1/0/9.png")
    refused(folder, "malignant/e1/0/9.png", "has label 'malignant'", "benign/e1/0/1.png", "'0'")


def test_without_a_patient_a_finding_is_one(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/{finding}-*.png"\n')
    for name in ("a-1", "a-2", "b-1"):
        png(folder / "benign" / f"{name}.png")
    found = [(sample.patient, sample.finding) for sample in samples(folder)]
    assert found == [("a", "a"), ("a", "a"), ("b", "b")]


def test_a_pattern_without_labels_is_for_prediction(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "*.png"\n')
    png(folder / "a;b #1.png")
    (sample,) = samples(folder)
    assert (sample.label, sample.patient, sample.key) == (None, "a;b #1.png", "a;b #1.png")


def test_files_of_a_pattern_with_a_member(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", BASE + 'pattern = "{label}/{patient}.npz#image"\n')
    (folder / "benign").mkdir()
    np.savez(folder / "benign" / "p1.npz", image=np.eye(4), other=np.eye(2))
    (sample,) = samples(folder)
    np.testing.assert_array_equal(sample.image, [np.eye(4)])


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("{lable}/*.png", "unknown part 'lable'"),
        ("{label}/{label}.png", "{label} occurs twice"),
        ("../{label}/*.png", "leads out"),
        ("/etc/{label}", "is absolute"),
        ("C:/x/{label}.png", "is absolute"),
        ("{label}\\\\*.png", "backslash"),
        ("{label}/", "ends in a folder"),
        ("{label}/**", "ends in a folder"),
        ("**/{label}/**/*.png", "** occurs twice"),
        ("{label/*.png", "a brace in '{label'"),
        ("*a*b*c*d.png", "4 wildcards"),
        ("", "at least 1 character"),
    ],
)
def test_a_pattern_that_is_none(tmp_path: Path, pattern: str, words: str) -> None:
    folder = declare(tmp_path / "mine", BASE + f'pattern = "{pattern}"\n')
    refused(folder, "dataset.toml", "pattern", words)


def test_a_pattern_that_finds_nothing(by_folder: Path) -> None:
    declare(by_folder, BASE + 'pattern = "{label}/*.jpg"\n')
    refused(by_folder, str(by_folder), "yields no case")


def test_a_folder_that_is_no_class(by_folder: Path) -> None:
    png(by_folder / "odd" / "P9" / "1.png")
    refused(by_folder, "odd/P9/1.png", "label 'odd'", "benign, malignant", "[labels]")


# --- tables


def test_a_csv(tmp_path: Path) -> None:
    rows = [
        "\ufeffpath,label,patient,group,row,column,split,key,remark",
        'a.png;b.png,malignant,P1,E1,2,3.5,train,k1,"two, as channels"',
        "c.png;b.png,,P2,,,,,,",
        "",
    ]
    folder = declare(tmp_path / "mine", CSV, "\r\n".join(rows))
    for value, name in enumerate("abc"):
        png(folder / f"{name}.png", value)
    one, two = samples(folder)
    np.testing.assert_array_equal(one.image[:, 0, 0], [0, 1])
    assert (one.label, one.patient, one.group, one.key) == (1, "P1", "E1", "k1")
    assert (one.centre, one.split) == ((2.0, 3.5), "train")
    assert one.source == (folder / "a.png", folder / "b.png")
    assert (two.label, two.group, two.centre, two.split) == (None, None, None, None)
    assert two.key == "c.png;b.png"


def test_findings_and_subgroups_of_a_table(tmp_path: Path) -> None:
    toml = CSV + '[columns]\nfinding = "lesion"\n[subgroups]\nzone = "where"\n"T (T)" = "field"\n'
    csv = "path,label,patient,lesion,where,field\na.png,benign,P,1,PZ,3\nb.png,benign,P,1,,1.5\n"
    folder = declare(tmp_path / "mine", toml, csv)
    for name in "ab":
        png(folder / f"{name}.png")
    one, two = samples(folder)
    assert (one.finding, two.finding) == ("1", "1")
    assert (one.subgroups, two.subgroups) == ({"zone": "PZ", "T (T)": "3"}, {"T (T)": "1.5"})
    declare(folder, toml.replace('"field"', '"feild"'), csv)
    refused(folder, "line 1", "unknown column 'feild': did you mean 'field'", "subgroups.T (T)")
    declare(folder, CSV + "[subgroups]\n'' = 'where'\n", csv)
    refused(folder, "dataset.toml", "subgroups: '' is not a printable name of 1 to 60 characters")
    declare(folder, BASE + 'pattern = "*.png"\n[subgroups]\nzone = "where"\n')
    refused(folder, "dataset.toml", "subgroups: only a table of cases has columns")


def test_a_column_that_is_the_label_is_not_looked_for_by_its_own_name(tmp_path: Path) -> None:
    csv = "path,finding,patient\na.png,benign,P\nb.png,benign,P\n"
    folder = declare(tmp_path / "mine", CSV + '[columns]\nlabel = "finding"\n', csv)
    for name in "ab":
        png(folder / f"{name}.png")
    assert [(sample.label, sample.finding) for sample in samples(folder)] == [(0, None)] * 2


@pytest.mark.parametrize("name", ["1.23457E+15", "1E+10", "1,2E+05", "02-Jan", "Jan-02", "1. Feb"])
@pytest.mark.parametrize("field", ["patient", "group", "finding", "key"])
def test_a_name_that_a_spreadsheet_converted_is_refused(
    tmp_path: Path, name: str, field: str
) -> None:
    table = f'path,label,{field}\na.png,benign,P1\nb.png,benign,"{name}"\n'
    folder = declare(tmp_path / "mine", CSV, table)
    png(folder / "a.png")
    refused(folder, "line 3", f"{field} '{name}' looks like", "as text")
    (folder / "cases.csv").write_text(table.replace(name, "1-2"))
    png(folder / "b.png")
    assert len(samples(folder)) == 2


def test_positions_in_millimetres(tmp_path: Path) -> None:
    toml = CSV.replace("share = 1.0", "millimetres = 4") + "spacing = [0.5, 2]\n"
    csv = "path,label,patient,row_mm,column_mm,key\na.png,benign,P1,1,6,a\na.png,benign,P1,1,60,b\n"
    folder = declare(tmp_path / "mine", toml, csv)
    png(folder / "a.png")
    one, two = read(folder)
    assert isinstance(one, Sample)
    assert (one.centre, one.spacing) == ((2.0, 3.0), (0.5, 2.0))
    assert two == Unusable(key="b", reason="its position lies outside its image")
    declare(folder, CSV)
    refused(folder, "dataset.toml", "spacing", "a.png", "[row, column]")


def test_renamed_columns_and_labels(tmp_path: Path) -> None:
    toml = CSV + '[columns]\npath = "file"\nlabel = "dx"\n[labels]\n1 = "malignant"\nNA = ""\n'
    folder = declare(tmp_path / "mine", toml, "dx,file\n1,a.png\nNA,b.png\nbenign,c.png\n")
    for name in "abc":
        png(folder / f"{name}.png")
    found = samples(folder)
    assert [sample.label for sample in found] == [1, None, 0]
    assert [sample.patient for sample in found] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("csv", "words"),
    [
        ("", ["line 1", "no column 'path'"]),
        ("path,patient\na.png,P1\n", ["line 1", "no column 'label'", "patient"]),
        ("path,label,label\n", ["line 1", "'label' occurs twice"]),
        ("path,label\na.png,odd\n", ["line 2", "label 'odd'", "[labels]"]),
        ("path,label\na.png\n", ["line 2", "1 cells", "2"]),
        ('path,label\n"a.png,benign\n', ["line 2", "end of data"]),
        ("path,label\n../a.png,benign\n", ["line 2", "'../a.png'", "leads out"]),
        ("path,label\n/etc/passwd,benign\n", ["line 2", "is absolute"]),
        ("path,label\nx\\a.png,benign\n", ["line 2", "backslash"]),
        ("path,label\na\0.png,benign\n", ["line 2", "control characters"]),
        ("path,label\n,benign\n", ["line 2", "is empty"]),
        ("path,label\na.png;,benign\n", ["line 2", "is empty"]),
        ("path,label\na.png,benign\na.png,benign\n", ["line 3", "key 'a.png'", "line 2"]),
        ("path,label,row\na.png,benign,3\n", ["line 2", "only one of row and column"]),
        ("path,label,row,column\na.png,benign,3,x\n", ["line 2", "column: 'x'"]),
        ('path,label,row,column\na.png,benign,3,"1,5"\n', ["line 2", "'1,5'", "decimal point"]),
        ("path,label,row,column\na.png,benign,3,inf\n", ["line 2", "column: 'inf'"]),
        ("path,label,split\na.png,benign,holdout\n", ["line 2", "split 'holdout'", "[splits]"]),
        (
            "path,label,row,column,row_mm,column_mm\na.png,benign,1,1,1,1\n",
            ["line 2", "both in pixels and in millimetres"],
        ),
        ("path,label\n", ["yields no case"]),
    ],
)
def test_a_csv_that_is_wrong(tmp_path: Path, csv: str, words: list[str]) -> None:
    folder = declare(tmp_path / "mine", CSV, csv)
    png(folder / "a.png")
    refused(folder, "cases.csv", *words)


def test_a_csv_that_is_absent_or_not_text(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV)
    refused(folder, "dataset.toml", "cases", "no file 'cases.csv'")
    (folder / "cases.csv").write_bytes(b"path,label\n\x81.png,benign\n")
    refused(folder, "cases.csv", "not UTF-8")
    declare(folder, CSV + '[columns]\nlabel = "lable"\n', "path,label\na.png,benign\n")
    refused(folder, "line 1", "unknown column 'lable': did you mean 'label'", "columns.label")


def write_npz(path: Path, **arrays: Any) -> None:
    images = np.arange(3 * 2 * 4 * 4, dtype=np.float64).reshape(3, 2, 4, 4)
    defaults = {
        "image": images,
        "label": np.array([0, 1, 1], np.int8),
        "patient": np.array(["A", "A", "B"]),
        "row": np.array([0, 1, 2]),
        "column": np.array([0.0, 1.5, 3.0]),
        "zone": np.array([b"PZ", b"TZ", b"AS"]),
    }
    np.savez_compressed(path, **{**defaults, **arrays})


def test_an_npz_from_outside(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    folder = declare(tmp_path / "mine", BASE + NPZ + '[images]\nchannels = "first"\n')
    write_npz(tmp_path / "files" / "all.npz")
    found = samples(folder)
    assert [sample.label for sample in found] == [0, 1, 1]
    assert [sample.patient for sample in found] == ["A", "A", "B"]
    assert [sample.group for sample in found] == ["PZ", "TZ", "AS"]
    assert [sample.centre for sample in found] == [(0, 0), (1, 1.5), (2, 3)]
    assert [sample.key for sample in found] == [f"all.npz#image[{row}]" for row in range(3)]
    images = np.stack([sample.image for sample in found])
    np.testing.assert_array_equal(images.ravel(), np.arange(3 * 2 * 4 * 4))


def test_a_column_of_an_npz_may_have_a_second_dimension_of_one(tmp_path: Path) -> None:
    """MedMNIST stores its labels so."""
    (tmp_path / "files").mkdir()
    folder = declare(tmp_path / "mine", BASE + NPZ + '[images]\nchannels = "first"\n')
    write_npz(tmp_path / "files" / "all.npz", label=np.array([[0], [1], [1]]))
    assert [sample.label for sample in samples(folder)] == [0, 1, 1]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"label": np.array([0, 1])}, ["'label' has 2 rows", "'image' has 3"]),
        ({"label": np.array([0, 1, 7])}, ["row 2", "label '7'"]),
        ({"label": np.eye(3)}, ["'label' has shape (3, 3)"]),
        ({"patient": np.array([{}, {}, {}])}, ["neither numbers nor text"]),
    ],
)
def test_an_npz_that_is_wrong(tmp_path: Path, arrays: Mapping[str, Any], words: list[str]) -> None:
    (tmp_path / "files").mkdir()
    folder = declare(tmp_path / "mine", BASE + NPZ)
    write_npz(tmp_path / "files" / "all.npz", **arrays)
    refused(folder, "all.npz", *words)


def test_names_in_an_npz_that_are_not_utf8(tmp_path: Path) -> None:
    """Replaced characters would make one patient of two."""
    folder = declare(tmp_path / "mine", BASE + 'cases = "all.npz"\n')
    names = np.array(["Mül".encode("latin-1"), "Möl".encode("latin-1")])
    labels = np.array(["benign", "malignant"])
    images = np.zeros((2, 6, 6), np.uint8)
    write_npz(folder / "all.npz", image=images, label=labels, patient=names)
    refused(folder, "all.npz", "'patient' is not UTF-8")


def test_an_npz_of_other_members(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    folder = declare(tmp_path / "mine", BASE + NPZ)
    np.savez(tmp_path / "files" / "all.npz", image=np.zeros((2, 3, 3)), zone=np.zeros(2))
    refused(folder, "all.npz", "no column 'label'", "zone")
    (tmp_path / "files" / "all.npz").unlink()
    refused(folder, "all.npz", "cannot be read")


def test_dicom_files_that_become_channels_must_show_the_same_place(tmp_path: Path) -> None:
    plane = {
        "PixelSpacing": [1, 1],
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "FrameOfReferenceUID": "1.5",
    }
    others = {
        "same": {},
        "patient": {"PatientID": "P2"},
        "frame": {"FrameOfReferenceUID": "1.6"},
        "spacing": {"PixelSpacing": [2, 2]},
        "orientation": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        "position": {"ImagePositionPatient": [0, 0, 40]},
        "unknown": dict.fromkeys(plane),
    }
    rows = "".join(f"one.dcm;{name}.dcm,benign\n" for name in others)
    folder = declare(tmp_path / "mine", CSV, f"path,label\n{rows}png.png;one.dcm,benign\n")
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "png.png")
    save(image(**plane), folder / "one.dcm")
    for name, changes in others.items():
        tags = {key: value for key, value in {**plane, **changes}.items() if value is not None}
        save(image(**tags), folder / f"{name}.dcm")
    found = read(folder)
    reasons = [case.reason if isinstance(case, Unusable) else "" for case in found]
    assert reasons == [
        "",
        "its channels are of different patients",
        "its channels have different frames of reference",
        "its channels differ in pixel spacing",
        "its channels differ in orientation",
        "its channels differ in position",
        "",
        "",
    ]
    last = found[-1]  # the second of its files states the patient and the spacing
    assert isinstance(last, Sample)
    assert (last.patient, last.spacing) == ("P1", (1.0, 1.0))


def test_rows_of_arrays_in_a_csv(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV, "path,label\ns.npz#x[2];t.npy#[1],benign\n")
    np.savez(folder / "s.npz", x=np.full((3, 4, 4), 5))
    np.save(folder / "t.npy", np.full((2, 4, 4), 7))
    (sample,) = samples(folder)
    np.testing.assert_array_equal(sample.image[:, 0, 0], [5, 7])


# --- tasks


def test_regression(tmp_path: Path) -> None:
    toml = 'task = "regression"\nclasses = ["years"]\nfield_of_view = { share = 1 }\n'
    toml += 'cases = "cases.csv"\n[labels]\n"-" = ""\nold = "90"\n'
    folder = declare(tmp_path / "mine", toml, "path,label\na.png,61.5\nb.png,-\nc.png,old\n")
    for name in "abcd":
        png(folder / f"{name}.png")
    assert [sample.label for sample in samples(folder)] == [61.5, None, 90.0]
    declare(folder, toml, "path,label\nd.png,young\n")
    refused(folder, "line 2", "label: 'young' is not a finite number")
    for huge in ("1e308", "-1e31", "1e-320", "1e-31"):
        declare(folder, toml, f"path,label\na.png,0\nd.png,{huge}\n")
        refused(folder, "line 3", f"label: '{huge}' is not 0 or between 1e-30 and 1e+30 in size")


MULTILABEL = 'task = "multilabel"\nclasses = ["a", "b", "c"]\nfield_of_view = { share = 1 }\n'


def test_multilabel(tmp_path: Path) -> None:
    toml = MULTILABEL + 'cases = "cases.csv"\n[labels]\nB = "b"\n"No Finding" = "none"\n'
    rows = ["path,label", "1.png,a;B", "2.png,none", "3.png,", "4.png,No Finding", "5.png, c "]
    folder = declare(tmp_path / "mine", toml, "\n".join(rows))
    for name in "123456":
        png(folder / f"{name}.png")
    labels = [(1, 1, 0), (0, 0, 0), None, (0, 0, 0), (0, 0, 1)]
    assert [sample.label for sample in samples(folder)] == labels
    declare(folder, toml, "path,label\n6.png,a;d\n")
    refused(folder, "line 2", "label 'd'", "a, b, c")


def test_multilabel_arrays(tmp_path: Path) -> None:
    toml = MULTILABEL + 'cases = "all.npz"\n[images]\nchannels = "first"\n'
    folder = declare(tmp_path / "mine", toml)
    label = np.array([[0, 1, 1], [0, 0, 0], [1, 0, 0]])
    write_npz(folder / "all.npz", label=label)
    assert [sample.label for sample in samples(folder)] == [(0, 1, 1), (0, 0, 0), (1, 0, 0)]
    write_npz(folder / "all.npz", label=label * 2)
    refused(folder, "all.npz", "'2' is neither 1 (present), 0 (absent) nor -1, nan")
    write_npz(folder / "all.npz", label=label[:, :2])
    refused(folder, "all.npz", "3 columns, one per class, not 2")
    unsure = np.array([[0, np.nan, 1], [-1, 0, 0], [np.nan, -1, np.nan]])
    write_npz(folder / "all.npz", label=unsure)
    assert [sample.label for sample in samples(folder)] == [(0, None, 1), (None, 0, 0), None]
    declare(folder, toml.replace("[images]", '[labels]\n"-1" = "1"\n[images]'))
    assert [sample.label for sample in samples(folder)] == [
        (0, None, 1),
        (1, 0, 0),
        (None, 1, None),
    ]
    write_npz(folder / "all.npz", label=unsure[:, 0], a=label[:, 0], b=label[:, 1], c=label[:, 2])
    refused(folder, "label '0.0' is none of the classes")  # a column of that name comes first
    columns = {"a": label[:, :1], "b": unsure[:, 1], "c": label[:, 2] == 1}
    np.savez(folder / "all.npz", image=np.zeros((3, 4, 4)), **columns)
    assert [sample.label for sample in samples(folder)] == [(0, None, 1), (0, 0, 0), (1, 1, 0)]


ANSWERS = "path,A,b,note,c\n"


def test_a_column_for_each_class(tmp_path: Path) -> None:
    """The answers of each class: 1, 0 or unknown, in the spellings of published tables."""
    toml = MULTILABEL + 'cases = "cases.csv"\n[label_columns]\na = "A"\n'
    rows = ["1.0,0, x ,TRUE", "0,-1,x,nan", " 1 ,-1.0,,unclear", ",,x, ", "No,YES,x,0.0"]
    table = ANSWERS + "\n".join(f"{number}.png,{row}" for number, row in enumerate(rows))
    folder = declare(tmp_path / "mine", toml, table)
    for number in range(5):
        png(folder / f"{number}.png")
    labels = [(1, 0, 1), (0, None, None), (1, None, None), None, (0, 1, 0)]
    assert [sample.label for sample in samples(folder)] == labels
    declare(folder, toml, table.replace(",", ";").replace(".0", ",0"))  # as a spreadsheet writes it
    assert [sample.label for sample in samples(folder)] == labels
    declare(folder, toml, table.replace("-1.0,,unclear", ",,unclear"))
    refused(folder, "line 4", "label 'b': is empty", '"" = "" (unknown) or "" = "0" (absent)')
    for meaning, third, fourth in (("", (1, None, None), None), ("0", (1, 0, None), (0, 0, 0))):
        declare(folder, f'{toml}[labels]\n"" = "{meaning}"\n')
        assert [sample.label for sample in samples(folder)[2:4]] == [third, fourth]
    declare(folder, toml + '[labels]\n"-1" = "1"\nq = ""\n', table.replace("TRUE", "q"))
    assert [sample.label for sample in samples(folder)[:2]] == [(1, 0, None), (0, 1, None)]
    declare(folder, toml, table.replace("0,-1", "0,2"))
    refused(folder, "line 3", "label 'b': '2' is neither 1 (present), 0 (absent)")
    declare(folder, toml, table.replace("A,b", "A,d"))
    refused(folder, "line 1", "no column for the class 'b'", "[label_columns]")
    declare(folder, toml.replace('"A"', '"B"'), table)
    refused(folder, "line 1", "unknown column 'B'", "label_columns.a")
    declare(folder, toml.partition("[label_columns]")[0], table.replace("A,b", "A,d"))
    refused(folder, "line 1", "no column 'label', nor one for each class")
    declare(folder, toml.replace('"A"', '"c"'), table)
    refused(folder, "line 1", "the column 'c' is that of the classes 'a' and 'c'")


def test_parts_of_a_label_in_one_cell_may_be_unknown(tmp_path: Path) -> None:
    toml = MULTILABEL + 'cases = "cases.csv"\n[labels]\n"b or c" = "b?"\n'
    rows = [
        "path,label",
        "1.png,a;b?",
        "2.png,c?",
        "3.png,none;a?",
        "4.png,a?;b?;c?",
        "5.png,b or c",
    ]
    folder = declare(tmp_path / "mine", toml, "\n".join(rows))
    for name in "12345":
        png(folder / f"{name}.png")
    labels = [(1, None, 0), (0, 0, None), (None, 0, 0), None, (0, None, 0)]
    assert [sample.label for sample in samples(folder)] == labels
    declare(folder, toml, "path,label\n1.png,d?\n")
    refused(folder, "line 2", "label 'd' is none of", "a, b, c")


# --- images that cannot be used


def test_unusable_images_harm_no_other(tmp_path: Path) -> None:
    names = ["good.png", "absent.png", "text.png", "folder", "good.png;small.png", "loop.png"]
    folder = declare(
        tmp_path / "mine", CSV, "\n".join(["path,label", *(f"{n},benign" for n in names)])
    )
    png(folder / "good.png")
    png(folder / "small.png", side=5)
    (folder / "text.png").write_text("hello")
    (folder / "folder").mkdir()
    (folder / "loop.png").symlink_to("loop.png")
    cases = read(folder)
    assert isinstance(cases[0], Sample)
    reasons = [case.reason for case in cases[1:] if isinstance(case, Unusable)]
    assert reasons[:4] == [
        "its file is missing",
        "is no image in a format that hydrakit reads",
        "its path is not a file",
        "its files differ in height or width",
    ]
    assert reasons[4].startswith("cannot be opened")


def test_links_must_stay_inside(by_folder: Path, tmp_path: Path) -> None:
    outside = png(tmp_path / "outside" / "secret.png")
    inside = by_folder / "benign" / "P0"
    (inside / "again.png").symlink_to("0.png")
    assert len(samples(by_folder)) == 9
    (inside / "link.png").symlink_to(outside)
    refused(by_folder, "benign/P0/link.png", "by a link", "root")
    (inside / "link.png").unlink()
    (by_folder / "benign" / "P9").symlink_to(outside.parent)
    refused(by_folder, "benign/P9/secret.png", "by a link")


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_a_path_in_another_unicode_form_is_the_same_file(tmp_path: Path, stored: str) -> None:
    """A table from macOS beside files on Linux, and the other way round."""
    other = {"NFC": "NFD", "NFD": "NFC"}[stored]
    name = "Müller/übersicht é.png"
    folder = tmp_path / "mine"
    path = png(folder / normalize(stored, name))
    declare(folder, CSV, f"path,label\n{normalize(other, name)},benign\nMüller/ö.png,benign\n")
    found, absent = read(folder)
    assert isinstance(found, Sample)
    assert found.source == (path,)
    assert absent == Unusable(key="Müller/ö.png", reason="its file is missing")
    declare(folder, BASE + f'pattern = "{normalize(other, "Müller")}/*.png"\n')
    assert [sample.source for sample in samples(folder)] == [(path,)]
    secret = png(tmp_path / "secret.png")
    (folder / normalize(stored, "ö")).symlink_to(secret.parent)
    declare(folder, CSV, f"path,label\n{normalize(other, 'ö')}/secret.png,benign\n")
    refused(folder, "by a link")


@given(st.lists(st.sampled_from(["..", ".", "a", "", " ", "b.png", "C:", "\\", "~", "\0", "é"])))
@example(["", "etc", "passwd"])
@example(["a", "..", "..", "b.png"])
def test_a_path_without_fault_stays_below(parts: list[str]) -> None:
    text = "/".join(parts)
    root = Path("/data/root")
    if path_fault(text) is None:
        normal = Path(re.sub(r"/+", "/", str(root / text)))
        assert normal.is_relative_to(root)
        assert ".." not in normal.parts
