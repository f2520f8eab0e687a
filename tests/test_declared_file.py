"""A dataset in a file: the file itself, how it is found, its documentation, and real data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from declaring import BASE, BY_FOLDER, CSV, NPZ, by_folder, declare, png, read, refused, samples
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hydrakit.data.declared.adapter import declared_datasets, load_declared, with_declared
from hydrakit.data.declared.schema import json_schema
from hydrakit.errors import DataError, PluginError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.profiles import make_plan
from hydrakit.plugins import load_plugins

__all__ = ["by_folder"]

DOCS = Path(__file__).parent.parent / "docs"

# --- the file itself


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("", ["key 'classes' is missing"]),
        ("classes = [", ["not valid TOML", "end of document"]),
        ("x = " + "[" * 5000, ["not valid TOML"]),
        ("x = " + "9" * 5000, ["not valid TOML"]),
        (BY_FOLDER + "licens = 'x'\n", ["unknown key 'licens': did you mean 'licence'"]),
        (BY_FOLDER + "[images]\ncolor = 'luma'\n", ["'images.color'", "'images.colour'"]),
        (BY_FOLDER + "[images]\ncolour = 'grey'\n", ["images.colour", "'luma'", "'grey'"]),
        (BY_FOLDER + "[images]\nrescale = 1\n", ["images.rescale", "1"]),
        (BY_FOLDER + "[images]\nwindow = 'lung'\n", ["images.window: 'lung'", "[centre, width]"]),
        (BY_FOLDER + "[images]\nwindow = [40]\n", ["images.window: '[40]'", "[centre, width]"]),
        (BY_FOLDER + "[images]\nwindow = [40, 0.5]\n", ["images.window", "at least 1"]),
        (BY_FOLDER + "[images]\nwindow = [nan, 400]\n", ["images.window", "two numbers"]),
        (
            BY_FOLDER + "[images]\nwindow = 'file'\nrescale = false\n",
            ["images: window", "rescaled values"],
        ),
        (
            BY_FOLDER + "[images]\nwindow = [40, 400]\ncolour = 'channels'\n",
            ["images: window", "only grey values"],
        ),
        (BY_FOLDER.replace("1.0", "1.5"), ["field_of_view.share", "1.5"]),
        (BY_FOLDER.replace("1.0", "nan"), ["field_of_view.share", "nan"]),
        (BY_FOLDER.replace("1.0", "'1'"), ["field_of_view.share", "'1'"]),
        (
            BY_FOLDER.replace("share = 1.0", ""),
            ["field_of_view", "either millimetres, share or mask"],
        ),
        (BY_FOLDER + "spacing = [1]\n", ["spacing"]),
        (BY_FOLDER + "spacing = [1, -1]\n", ["spacing", "[1, -1]"]),
        (BY_FOLDER + "name = 'Mine!'\n", ["name", "'Mine!'"]),
        (BY_FOLDER.replace('"malignant"', '"benign"'), ["classes", "twice"]),
        (BY_FOLDER.replace(', "malignant"', ""), ["classes", "two or more"]),
        (BY_FOLDER + "task = 'regression'\n", ["classes", "a regression needs exactly one"]),
        (BY_FOLDER + "task = 'sorting'\n", ["task", "'sorting'"]),
        (BY_FOLDER + "[labels]\nno = 'healthy'\n", ["labels: 'no'", "'healthy'", "benign"]),
        (BY_FOLDER + "[splits]\nholdout = 'test'\n", ["splits", "{split}"]),
        (BY_FOLDER + "[columns]\nlabel = 'x'\n", ["columns", "remove"]),
        (BASE + "flips = ['left']\n", ["flips", "'horizontal' or 'vertical'", "'left'"]),
        (BASE + "flips = 'horizontal'\n", ["flips", "'horizontal'", "docs/dataset-toml.md"]),
        (BASE, ["either cases (a table) or pattern"]),
        (BY_FOLDER + "cases = 'cases.csv'\n", ["either cases (a table) or pattern"]),
        (BASE + "cases = 'cases.ods'\n", ["cases", "'cases.ods'", ".csv, .tsv, .txt, .xlsx"]),
        (BASE + "cases = '../cases.csv'\n", ["cases", "leads out"]),
        (CSV + "[columns]\nimage = 'x'\n", ["columns.image"]),
        (BASE + "cases = 'a.npz'\n[columns]\npath = 'x'\n", ["columns.path"]),
        (CSV + "root = 'nowhere'\n", ["root", "'nowhere'"]),
        (CSV + 'root = "a\\u0000b"\n', ["root"]),
        ("task = 'multilabel'\n" + CSV.replace("benign", "none"), ["classes", "'none'"]),
        ("task = 'multilabel'\n" + CSV.replace("benign", "malignant?"), ["'malignant?' means"]),
        (CSV + "[label_columns]\nbenign = 'b'\n", ["label_columns", "only a multilabel task"]),
        (
            "task = 'multilabel'\n" + CSV + "[label_columns]\nbening = 'b'\n",
            ["label_columns: unknown class 'bening'", "'benign'"],
        ),
        (
            "task = 'multilabel'\n"
            + CSV
            + "[columns]\nlabel = 'l'\n[label_columns]\nbenign = 'b'\n",
            ["label_columns", "columns.label"],
        ),
    ],
)
def test_a_file_that_is_wrong(by_folder: Path, toml: str, words: list[str]) -> None:
    refused(declare(by_folder, toml), str(by_folder / "dataset.toml"), *words)


def test_a_file_that_is_absent_or_no_text(tmp_path: Path) -> None:
    refused(tmp_path, "dataset.toml", "cannot be read")
    (tmp_path / "dataset.toml").write_bytes(b"\xff\xfe")
    refused(tmp_path, "dataset.toml", "not UTF-8")
    (tmp_path / "dataset.toml").write_bytes(b" " * (2**17 + 1))
    refused(tmp_path, "dataset.toml", "over 128 KiB")


def test_a_name_that_the_folder_cannot_give(tmp_path: Path) -> None:
    folder = declare(tmp_path / "My Data", BY_FOLDER)
    refused(folder, "dataset.toml", "'My Data'", "name = ...", "--root")
    declare(folder, 'name = "mydata"\n' + BY_FOLDER)
    assert load_declared(folder).name == "mydata"


def test_the_version_follows_toml_and_csv(tmp_path: Path) -> None:
    folder = declare(tmp_path / "mine", CSV, "path,label\na.png,benign\n")
    versions = [load_declared(folder).version, load_declared(folder).version]
    declare(folder, CSV, "path,label\na.png,malignant\n")
    versions.append(load_declared(folder).version)
    declare(folder, CSV + "# checked\n")
    versions.append(load_declared(folder).version)
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutations_are_one_line(tmp_path: Path, data) -> None:
    folder = tmp_path / "mine"
    if not folder.exists():
        declare(folder, CSV)
        png(folder / "a.png")
    whole = (CSV + NPZ.partition("[columns]")[2]).encode(), b"path,label,row,column\na.png,0,1,2\n"
    names = "dataset.toml", "cases.csv"
    which = data.draw(st.integers(0, 1))
    content = bytearray(whole[which])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(
            st.sampled_from([b"", b"\0", b'"', b"[", b"=", b"../", b",", b"\n", b"\xff"])
        )
        content[at : at + data.draw(st.integers(0, 3))] = new
    (folder / names[1 - which]).write_bytes(whole[1 - which])
    (folder / names[which]).write_bytes(content)
    try:
        read(folder)
    except DataError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either answer is right
        assert str(folder) in str(error)  # noqa: PT017


# --- finding them


@pytest.mark.parametrize(
    ("line", "expected"),
    [("", None), ("flips = []\n", ()), ("flips = ['horizontal']\n", ("horizontal",))],
)
def test_a_plan_states_the_flips_that_a_file_allows(
    tmp_path: Path, line: str, expected: tuple[str, ...] | None
) -> None:
    adapter = load_declared(declare(tmp_path / "mine", CSV + line, "path,label\n"))
    assert adapter.flips == expected
    plugins = with_declared(load_plugins(), tmp_path, {})
    plan = make_plan("classical", ["mine"], plugins=plugins)
    assert plan.dataset("mine").flips == expected
    assert ("flips" in plan.dataset("mine").model_dump()) == (expected is not None)
    assert plan.dataset("mine").applied_to(adapter) == adapter


def test_found_under_the_data_root_and_elsewhere(tmp_path: Path) -> None:
    declare(tmp_path / "data" / "one", BY_FOLDER)
    declare(tmp_path / "data" / "two", BY_FOLDER)
    (tmp_path / "data" / "brain").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("")
    elsewhere = declare(tmp_path / "x" / "two", BY_FOLDER + 'summary = "elsewhere"\n')
    roots = {"two": elsewhere, "brain": tmp_path / "data" / "brain"}
    found = declared_datasets(tmp_path / "data", roots)
    assert sorted(found) == ["one", "two"]
    assert found["two"].summary == "elsewhere"
    assert declared_datasets(tmp_path / "nowhere", {}) == {}


def test_the_name_must_be_that_of_its_folder_or_root(tmp_path: Path) -> None:
    folder = declare(tmp_path / "data" / "one", BY_FOLDER + 'name = "other"\n')
    with pytest.raises(DataError, match=r"name is 'other'.*--root other="):
        declared_datasets(tmp_path / "data", {})
    assert list(declared_datasets(tmp_path / "nowhere", {"other": folder})) == ["other"]


def test_a_plugin_of_the_same_name_is_a_clash(tmp_path: Path) -> None:
    folder = declare(tmp_path / "brain", BY_FOLDER)
    declare(tmp_path / "mine", BY_FOLDER)
    plugins = with_declared(load_plugins(), tmp_path, {})
    with pytest.raises(PluginError) as error:
        plugins.get(DatasetAdapter, "brain")
    for word in ("hydrakit_brain", str(folder), "hydrakit-"):
        assert word in str(error.value)
    assert plugins.get(DatasetAdapter, "mine").classes == ("benign", "malignant")
    assert plugins.get(DatasetAdapter, "lung") is load_plugins().get(DatasetAdapter, "lung")
    assert load_plugins().get(DatasetAdapter, "brain").name == "brain"
    assert "mine" not in load_plugins().all(DatasetAdapter)


def test_a_wrong_file_harms_no_other(tmp_path: Path) -> None:
    declare(tmp_path / "bad", "classes = 3")
    declare(tmp_path / "good", BY_FOLDER)
    plugins = with_declared(load_plugins(), tmp_path, {})
    assert plugins.get(DatasetAdapter, "good").name == "good"
    with pytest.raises(PluginError, match=r"bad/dataset\.toml: classes"):
        plugins.get(DatasetAdapter, "bad")


# --- docs and real data


def test_the_schema_is_that_of_the_docs() -> None:
    stored = (DOCS / "dataset.schema.json").read_text(encoding="utf-8")
    assert json.loads(stored) == json.loads(json_schema()), "write json_schema() there again"


def examples() -> list[str]:
    text = (DOCS / "dataset-toml.md").read_text(encoding="utf-8")
    found = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    assert found  # else the test below has no case
    return found


@pytest.mark.parametrize("toml", examples())
def test_the_examples_of_the_docs_load(tmp_path: Path, toml: str) -> None:
    folder = declare(tmp_path / "mine", toml)
    for name in re.findall(r'^cases = "(.*\.csv)"', toml, re.MULTILINE):
        (folder / name).write_text("path,label\n")
    assert load_declared(folder).classes


def test_the_docs_name_every_key() -> None:
    text = (DOCS / "dataset-toml.md").read_text(encoding="utf-8")
    schema = json.loads(json_schema())
    keys = [*schema["properties"], *(k for d in schema["$defs"].values() for k in d["properties"])]
    assert len(keys) > 20
    assert [key for key in keys if not re.search(rf"`\[?{key}\]?\W|\b{key} = ", text)] == []


def test_the_real_lidc(shared_data: Path, tmp_path: Path) -> None:
    toml = (
        BASE
        + f'root = "{shared_data / "lidc"}"\npattern = "images/{{label}}/{{patient}}/*/*.png"\n'
    )
    toml += '[labels]\nbenigno = "benign"\nmaligno = "malignant"\n'
    found = samples(declare(tmp_path / "lidc", toml))
    assert len(found) == 5043
    assert len({sample.patient for sample in found}) == 494
    by_exam: dict[str, set[Any]] = {}
    for sample in found:
        by_exam.setdefault(sample.patient, set()).add(sample.label)
    assert sum(labels == {0, 1} for labels in by_exam.values()) == 67


def test_the_real_prostate_patches(shared_data: Path, tmp_path: Path) -> None:
    toml = f'root = "{shared_data / "prostatex-patches"}"\ncases = "bval_patches32.npz"\n' + BASE
    toml += '[columns]\nimage = "patch"\nlabel = "clinsig"\npatient = "prox_id"\n'
    toml += '[labels]\n0 = "benign"\n1 = "malignant"\n'
    found = samples(declare(tmp_path / "prostate-patches", toml))
    assert len(found) == 317
    assert len({sample.patient for sample in found}) == 198
    assert sum(sample.label == 1 for sample in found) == 68
    with np.load(shared_data / "prostatex-patches" / "bval_patches32.npz") as stored:
        np.testing.assert_array_equal(np.concatenate([s.image for s in found]), stored["patch"])
