"""The first dataset.toml that is written for a folder of images."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from hydrakit.cli import main
from hydrakit.data.declared.adapter import load_declared
from hydrakit.data.declared.files import companions
from hydrakit.data.declared.guess import guess_declaration
from hydrakit.data.read import read_samples
from hydrakit.errors import DataError
from hydrakit.hooks import DatasetAdapter, Sample, Unusable


def png(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((6, 8), 100, np.uint8)).save(path)
    return path


def guessed(folder: Path) -> tuple[str, DatasetAdapter, list[Sample]]:
    """The guess, the dataset that it declares, and its samples, all of which are usable."""
    text = guess_declaration(folder)
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    adapter = load_declared(folder)
    cases = list(read_samples(adapter, folder, {}))
    assert all(isinstance(case, Sample) for case in cases), cases
    return text, adapter, [case for case in cases if isinstance(case, Sample)]


def test_class_folders(tmp_path: Path) -> None:
    folder = tmp_path / "brain"
    for name in ("no/1.png", "no/2.png", "yes/3.PNG", "stray.png"):
        png(folder / name)
    text, adapter, samples = guessed(folder)
    assert (adapter.name, adapter.classes) == ("brain", ("no", "yes"))
    assert [sample.label for sample in samples] == [0, 0, 1]
    assert "no patient was detected" in text
    assert "PNG, mode L, 8 bits: 4" in text
    assert "8 x 6 (4)" in text


@pytest.mark.parametrize(
    ("sizes", "rule"),
    [
        ([(64, 64), (64, 64)], "dataset"),
        ([(65, 64), (65, 64)], "patient"),
        ([(64, 64), (64, 60)], "patient"),
    ],
)
def test_patches_are_not_normalised_one_by_one(
    sizes: list[tuple[int, int]], rule: str, tmp_path: Path
) -> None:
    for label, size in zip("ab", sizes, strict=True):
        path = tmp_path / "mine" / label / "1.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(255, size=size, dtype=np.uint8)).save(
            path
        )
    text, adapter, _ = guessed(tmp_path / "mine")
    assert adapter.normalise == rule
    assert ("removes its brightness" in text) == (rule == "dataset")


def test_patients_inside_classes_inside_splits(tmp_path: Path) -> None:
    folder = tmp_path / "My Data"
    for index in range(24):
        split, label = ("Training", "test")[index % 2], ("a b", "c")[index // 12]
        png(folder / "set" / split / label / f"P{index}" / "lesion" / "x.png")
    text, adapter, samples = guessed(folder)
    assert 'pattern = "set/{split}/{label}/{patient}/lesion/*.png"' in text
    assert (adapter.name, adapter.classes) == ("my-data", ("a b", "c"))
    assert len({sample.patient for sample in samples}) == 24
    assert {sample.split for sample in samples} == {"train", "test"}


def test_what_a_finding_is_is_asked_or_told(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for index in range(12):
        png(folder / ("a", "b")[index % 2] / f"P{index // 2}" / f"nodule {index}" / "1.png")
    text, _, _ = guessed(folder)
    assert 'pattern = "{label}/{patient}/*/*.png"' in text
    assert "write {finding} for its *" in text
    table = tmp_path / "table"
    rows = ["path,dx,lesion_id,finding_site"]
    for index in range(6):
        png(table / f"{index}.png")
        rows.append(f"{index}.png,{('nv', 'mel')[index // 2 % 2]},L{index // 2},back")
    (table / "meta.csv").write_text("\n".join(rows))
    _, _, samples = guessed(table)
    assert [sample.finding for sample in samples] == ["L0", "L0", "L1", "L1", "L2", "L2"]
    assert samples[0].group is None


def test_classes_inside_patients_and_uneven_depth(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for index in range(6):
        png(folder / f"P{index}" / ("neg", "pos")[index % 2] / "x.png")
    png(folder / "P0" / "pos" / "more" / "y.png")
    text, _, samples = guessed(folder)
    assert 'pattern = "{patient}/{label}/**/*.png"' in text
    assert len(samples) == 7
    assert len({sample.patient for sample in samples}) == 6


def test_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "skin"
    rows = ["image_file,patient_id,dx,row,column,split"]
    for index in range(6):
        png(folder / "images" / f"{index}.png")
        rows.append(f"images/{index}.png,P{index // 2},{('nv', 'mel')[index % 2]},1,2,Training")
    (folder / "meta.csv").write_text("\n".join(rows))
    (folder / "another.csv").write_text("a,b\n1,2\n")
    _, adapter, samples = guessed(folder)
    assert adapter.classes == ("mel", "nv")
    assert [sample.patient for sample in samples] == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert samples[0].centre == (1, 2)
    assert samples[0].split == "train"


@pytest.mark.parametrize(
    ("labels", "task", "classes"),
    [
        (["0", "1", "", "1"], "classification", ("class 0", "class 1")),
        (["benign", "benign", "", ""], "classification", ("other", "benign")),
        (["a;b", "none", "b", ""], "multilabel", ("a", "b")),
        ([f"{0.5 * i}" for i in range(30)], "regression", ("value",)),
        (['say "hi"\x7f', "b\\c", "d", "d"], "classification", ('say "hi"_', "b\\c", "d")),
    ],
)
def test_labels_of_a_table(
    tmp_path: Path, labels: list[str], task: str, classes: tuple[str, ...]
) -> None:
    folder = tmp_path / "mine"
    quoted = ['"' + label.replace('"', '""') + '"' for label in labels]
    rows = [f"{index}.png,{label}" for index, label in enumerate(quoted)]
    for index in range(len(labels)):
        png(folder / f"{index}.png")
    (folder / "cases.csv").write_text("\n".join(["path,label", *rows]))
    _, adapter, samples = guessed(folder)
    assert (adapter.task, set(adapter.classes)) == (task, set(classes))
    assert len(samples) == len(labels)
    assert [sample.label is None for sample in samples] == [label == "" for label in labels]


def test_columns_of_ones_and_zeros_are_labels(tmp_path: Path) -> None:
    """As in CheXpert's tables; a column of labels, or one such column, is a classification."""
    folder = tmp_path / "mine"
    rows = ["Path,Sex,PatientID,No Finding,Edema,Fracture"]
    answers = ["1.0,,", ",1.0,-1.0", ",0.0,1.0", ",1.0,1.0", ",-1.0,1.0", "1.0,,"]
    for index, answer in enumerate(answers):
        png(folder / f"{index}.png")
        rows.append(f"{index}.png,{'FM'[index % 2]},P{index // 2},{answer}")
    (folder / "cases.csv").write_text("\n".join(rows))
    text, adapter, samples = guessed(folder)
    assert (adapter.task, adapter.classes) == ("multilabel", ("No Finding", "Edema", "Fracture"))
    assert samples[1].label == (None, 1, None)
    assert samples[0].patient == samples[1].patient == "P0"
    assert "-1: unknown" in text
    assert "an empty cell means that the label is unknown" in text
    assert "exactly one" not in text
    for more, task in (("diagnosis", "classification"), ("Edema", "multilabel")):
        (folder / "dataset.toml").unlink()
        lines = [f"{index}.png,{index % 2},{1 - index % 2}" for index in range(6)]
        (folder / "cases.csv").write_text("\n".join([f"path,{more},smoker", *lines]))
        text, adapter, _ = guessed(folder)
        assert adapter.task == task
        assert ("every case has exactly one of them" in text) == (task == "multilabel")


def test_an_npz_of_cases(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    arrays = {"x": np.zeros((4, 5, 6)), "y_class": np.array([0, 1, 0, 1]), "other": np.eye(2)}
    np.savez(folder / "all.npz", **arrays, subject=np.array(["a", "a", "b", "c"]))
    text, _, samples = guessed(folder)
    assert [sample.label for sample in samples] == [0, 1, 0, 1]
    assert [sample.patient for sample in samples] == ["a", "a", "b", "c"]
    assert "6 x 5 (1)" in text


def test_the_guess_names_the_axis_of_channels(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (4, 28, 20, 3), dtype=np.uint8)
    folder = tmp_path / "colour"
    folder.mkdir()
    np.savez(folder / "all.npz", images=images, label=np.array([0, 1, 0, 1]))
    text, _, samples = guessed(folder)
    assert 'channels = "last"' in text
    assert "20 x 28 (1)" in text
    np.testing.assert_array_equal(samples[1].image, np.moveaxis(images[1], -1, 0))
    for index, name in enumerate(["a", "a", "b", "b"]):
        (tmp_path / "files" / name).mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "files" / name / f"{index}.npy", np.moveaxis(images[index], -1, 0))
    assert 'channels = "first"' in guessed(tmp_path / "files")[0]


def test_the_guess_asks_about_a_volume(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "x.npy", np.random.default_rng(0).random((25, 32, 32)))
    text = guess_declaration(tmp_path)
    assert "# Check: an array of shape (25, 32, 32) does not show its channels" in text
    assert '\n# channels = "first"' in text
    (tmp_path / "dataset.toml").write_text(text)
    cases = list(read_samples(load_declared(tmp_path), tmp_path, {}))
    assert [case.reason for case in cases if isinstance(case, Unusable)] == [
        "has an array of shape (25, 32, 32), which does not show its channels: if it is one image, "
        'add channels = "first" or "last" under [images]; if it is a volume, use its slices as '
        "images"
    ] * 2


def test_spacing_of_dicom(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "prostatex").rglob("*.dcm"))[:2]
    for source, label in zip(files, ("a", "b"), strict=True):
        (tmp_path / "mr" / label).mkdir(parents=True)
        shutil.copyfile(source, tmp_path / "mr" / label / "1")  # without a suffix
    text, _, samples = guessed(tmp_path / "mr")
    assert samples[0].spacing is not None
    row, column = samples[0].spacing
    assert f"pixel spacing: {row:g} x {column:g} mm" in text


def test_the_label_of_a_german_table_is_its_diagnosis(tmp_path: Path) -> None:
    folder = tmp_path / "haut"
    rows = ["Bild;Patient;Geschlecht;Diagnose;Zeile"]
    for n in range(8):
        png(folder / f"Läsion_{n}.png")
        rows.append(f"Läsion_{n};M{n // 2};w;{('Bösartig', 'gutartig ')[n % 2]};{30 + n % 3},5")
    (folder / "Befunde.csv").write_bytes("\r\n".join(rows).encode("cp1252"))
    _, adapter, samples = guessed(folder)
    assert adapter.classes == ("Bösartig", "gutartig")
    assert [sample.label for sample in samples] == [0, 1] * 4


def test_neither_sex_nor_a_number_is_preferred_as_label(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    rows = ["file;result;sex;site;z_score"]
    for n in range(8):
        png(folder / f"{n}.png")
        sex, site = "mf"[n // 4], 1 + n // 4
        rows.append(f"{n}.png;{('good', 'bad')[n % 2]};{sex};{site};{n % 3},5")
    (folder / "cases.csv").write_text("\n".join(rows))
    assert guessed(folder)[1].classes == ("bad", "good")


@pytest.mark.parametrize(("first", "mixed"), [("TRUE", True), ("1", False)])
def test_a_draft_says_that_labels_mix_numbers_and_words(
    tmp_path: Path, first: str, mixed: bool
) -> None:
    rows = [
        f"{name}.png,{label}" for name, label in zip("abcd", (first, "1", "0", "0"), strict=True)
    ]
    for name in "abcd":
        png(tmp_path / "mine" / f"{name}.png")
    (tmp_path / "mine" / "t.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    text, _, found = guessed(tmp_path / "mine")
    assert ("mixes numbers with True and False" in text) is mixed
    assert len(found) == 4


def test_whole_numbers_with_decimal_commas_are_labels(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    for n in range(4):
        png(folder / f"{n}.png")
    rows = ["path;label", "0.png;1,0", "1.png;0,0", "2.png;1", "3.png;0,00"]
    (folder / "cases.csv").write_text("\n".join(rows))
    _, adapter, samples = guessed(folder)
    assert len(adapter.classes) == 2
    assert [sample.label for sample in samples] == [1, 0, 1, 0]


def chexpert(folder: Path) -> Path:
    """Files as CheXpert names them: below a folder that is the one of the table."""
    rows = ["Path,Sex,Edema,Fracture"]
    for n in range(8):
        name = f"train/patient{n // 2:05}/study1/view{n % 2}.jpg"
        png(folder / name)
        rows.append(
            f"CheXpert-v1.0-small/{name},Male,{('1.0', '-1.0')[n % 2]},{('', '1.0')[n % 2]}"
        )
    (folder / "train.csv").write_text("\n".join(rows))
    return folder


def test_paths_that_begin_with_the_name_of_the_folder(tmp_path: Path) -> None:
    folder = chexpert(tmp_path / "CheXpert-v1.0-small")
    text = guess_declaration(folder, tmp_path / "elsewhere")
    assert f'root = "{tmp_path}"' in text.replace("\\\\", "/")
    text, adapter, samples = guessed(folder)
    assert "\nroot = " in text
    assert "of two classes" not in text
    assert adapter.classes == ("Edema", "Fracture")
    assert samples[0].label == (1, None)
    assert "4 folders seem to name patients (first patient00000)" in text


def test_folders_of_patients_are_no_classes(tmp_path: Path) -> None:
    folder = chexpert(tmp_path / "renamed")
    with pytest.raises(DataError, match="files of the column Path are not here"):
        guess_declaration(folder)


@pytest.mark.parametrize(
    ("first", "words"),
    [
        (
            "0",
            "the column id has 0, and there is img/000.png: if a spreadsheet removed the zeros",
        ),
        ("img\\000.png", "holds a backslash: write paths with /"),
        ("/home/me/000.png", "labels.csv: path /home/me/000.png: "),
    ],
)
def test_paths_that_cannot_be_used_are_named_with_the_remedy(
    first: str, words: str, tmp_path: Path
) -> None:
    for n in range(4):
        png(tmp_path / "img" / f"{n:03}.png")
    rows = ["id,label" if first == "0" else "path,label", f"{first},a"]
    rows += [f"{n},{'ab'[n % 2]}" for n in (1, 2, 3)]
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    with pytest.raises(DataError) as caught:
        guess_declaration(tmp_path)
    assert words in str(caught.value)


def test_files_of_several_pages_are_named_with_the_remedy(tmp_path: Path) -> None:
    page = Image.new("L", (8, 6))
    for label in ("a", "b"):
        path = tmp_path / "mine" / label / "1.tif"
        path.parent.mkdir(parents=True)
        page.save(path, save_all=True, append_images=[Image.new("L", (8, 6), 9)])
    text = guess_declaration(tmp_path / "mine")
    assert "Not usable as it is: 2 (first a/1.tif: has 2 pages: name one as FILE#[0] to" in text
    assert "end the pattern in #[0]" in text


def test_masks_of_volumes_choose_the_slices(tmp_path: Path) -> None:
    nib = pytest.importorskip("nibabel")
    folder = tmp_path / "liver"
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        voxels = np.random.default_rng(0).integers(0, 99, (8, 7, 5)).astype(np.int16)
        mask = np.zeros((8, 7, 5), np.uint8)
        mask[3, 2, 4] = 1
        for name, values in (("ct", voxels), ("ct_seg", mask)):
            nib.save(nib.Nifti1Image(values, np.eye(4)), folder / label / f"{name}.nii.gz")
    text, _, samples = guessed(folder)
    assert '\nmask = "{folder}/{stem}_seg*.nii.gz"\n' in text
    assert "a case is unusable" not in text
    assert len(samples) == 2


def test_what_cannot_be_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        guess_declaration(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no image"):
        guess_declaration(tmp_path)
    png(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"neither two or more folders.*path and label"):
        guess_declaration(tmp_path)
    (tmp_path / "dataset.toml").write_text("")
    with pytest.raises(DataError, match=r"dataset\.toml: exists already"):
        guess_declaration(tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("1.svs", "1 .svs: save the regions"),
        ("a.zip", "unpack the ZIP archive: python -m zipfile -e"),
        ("1.tar", "unpack it"),
    ],
)
def test_a_folder_without_readable_images_is_described(
    tmp_path: Path, name: str, remedy: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=rf"holds no image that hydrakit reads .*{remedy}"):
        guess_declaration(tmp_path)


def test_ages_and_dates_name_nobody(tmp_path: Path) -> None:
    rows = ["path,class,patient_age,study_date,subject_nr,patient_code,exam"]
    for n in range(12):
        png(tmp_path / "mine" / f"{n}.png")
        rows.append(
            f"{n}.png,{'ab'[n % 2]},{40 + n // 4},2020-01-0{1 + n // 6},{n // 3},2.5,E{n // 2}"
        )
    (tmp_path / "mine" / "cases.csv").write_text("\n".join(rows))
    text, _, samples = guessed(tmp_path / "mine")
    assert 'patient = "subject_nr"' in text
    assert 'group = "exam"' in text
    assert "# Check: the column subject_nr gives 4 patients of 12 images." in text
    assert len({sample.patient for sample in samples}) == 4


@pytest.mark.parametrize("cases", [3, 6])
def test_a_case_is_a_patient_if_it_has_several_images(tmp_path: Path, cases: int) -> None:
    rows = ["path,class,case_id"]
    for n in range(6):
        png(tmp_path / "mine" / f"{n}.png")
        rows.append(f"{n}.png,{'ab'[n % 2]},C{n % cases}")
    (tmp_path / "mine" / "cases.csv").write_text("\n".join(rows))
    assert ('patient = "case_id"' in guess_declaration(tmp_path / "mine")) == (cases == 3)


def test_a_patient_is_not_guessed_from_an_attribute(tmp_path: Path) -> None:
    rows = ["path,class,patient_age,PatientBirthDate,patient"]
    for n in range(6):
        png(tmp_path / "mine" / f"{n}.png")
        rows.append(f"{n}.png,{'ab'[n % 2]},0{30 + n}Y,1.2.19{50 + n},1{n}.5")
    (tmp_path / "mine" / "cases.csv").write_text("\n".join(rows))
    text = guess_declaration(tmp_path / "mine")
    assert "patient =" not in text
    assert "no patient was detected" in text


def test_masks_are_no_classes_and_no_cases(tmp_path: Path) -> None:
    for n in range(4):
        for part in ("images", "masks"):
            png(tmp_path / "seg" / part / f"{n}.png")
        for end in ("", "_mask"):
            png(tmp_path / "busi" / ("benign", "malignant")[n % 2] / f"{n}{end}.png")
    with pytest.raises(DataError, match="beside 4 masks of other images"):
        guess_declaration(tmp_path / "seg")
    text, adapter, samples = guessed(tmp_path / "busi")
    assert adapter.classes == ("benign", "malignant")
    assert len(samples) == 4
    assert "# Image files: 4." in text
    assert "# Masks of other images, which are no cases: 4 (first benign/0_mask.png" in text


def test_a_draft_for_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    for label in ("a", "b"):
        for n in range(2):
            png(tmp_path / "my scans" / label / f"{n}.png")
    images, out = tmp_path / "my scans", tmp_path / "data" / "Mine 2"
    done = CliRunner().invoke(main, ["datasets", "new", str(images), "--out", str(out)])
    assert done.exit_code == 0
    assert not (images / "dataset.toml").exists()
    # The command that it names works as it is written, with a folder that is no dataset name.
    command = shlex.split(done.stdout.splitlines()[-1].partition("then: ")[2])
    assert command[:4] == ["hydrakit", "datasets", "check", "mine-2"]
    checked = CliRunner().invoke(main, [*command[1:], "--cache", str(tmp_path / "cache")])
    assert "(of 4)" in checked.stdout


def test_linked_folders_are_followed_once_and_only_if_declared(tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    for label in ("a", "b"):
        for n in range(2):
            png(tmp_path / "elsewhere" / label / f"{n}.png")
    folder.mkdir()
    (folder / "scans").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "a" / "loop").symlink_to(folder)
    text = guess_declaration(folder)
    assert "follow_links = true  # linked folders: 1 (first scans)" in text
    (folder / "dataset.toml").write_text(text, encoding="utf-8")
    adapter = load_declared(folder)
    found = [case.key for case in read_samples(adapter, folder, {})]
    assert found == [f"scans/{label}/{n}.png" for label in "ab" for n in range(2)]
    pattern = text.replace('"scans/{label}/*.png"', '"**/{label}/*.png"')
    assert pattern != text
    (folder / "dataset.toml").write_text(pattern, encoding="utf-8")
    assert [case.key for case in read_samples(load_declared(folder), folder, {})] == found
    (folder / "dataset.toml").write_text(pattern.replace("= true", "= false"), encoding="utf-8")
    with pytest.raises(DataError, match="yields no case"):
        list(read_samples(load_declared(folder), folder, {}))
    (folder / "dataset.toml").write_text(text.replace("= true", "= false"), encoding="utf-8")
    with pytest.raises(DataError, match="follow_links = true"):
        list(read_samples(load_declared(folder), folder, {}))


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8)


def may_be_class(name: str) -> bool:
    """Whether a folder is neither hidden nor, by its name, one of masks (``GT``)."""
    return not name.startswith(".") and not companions(["other/1.png", f"{name}/1.png"])


@given(st.sets(NAMES.filter(may_be_class), min_size=2, max_size=5))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_class_folders_load(tmp_path: Path, names: set[str]) -> None:
    folder = tmp_path / "mine"
    for name in names:
        png(folder / name / "1.png")
    (folder / "dataset.toml").write_text(guess_declaration(folder), encoding="utf-8")
    classes = set(load_declared(folder).classes)
    shutil.rmtree(folder)
    printable = {name for name in names if name.isprintable()}
    assert classes >= {name.strip() for name in printable} - {""}
    assert len(classes) >= len({name.strip() for name in names} - {""})


def test_the_command_writes_a_declaration_that_loads(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from hydrakit.cli import main

    folder = tmp_path / "mine"
    for index in range(4):
        png(folder / ("neg", "pos")[index % 2] / f"{index}.png")
    done = CliRunner().invoke(main, ["datasets", "new", str(folder)])
    assert done.exit_code == 0, done.output
    assert f"hydrakit datasets check mine --data {tmp_path}" in done.stdout
    assert (folder / "dataset.toml").read_text() in done.stdout
    assert load_declared(folder).classes == ("neg", "pos")
    again = CliRunner().invoke(main, ["datasets", "new", str(folder)])
    assert again.exit_code == 1
    assert "exists already" in again.stderr
    listed = CliRunner().invoke(main, ["datasets", "list", "--data", str(tmp_path)])
    assert "mine" in listed.stdout


def test_empty_cells_of_a_patient_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    rows = ["path,label,Patient ID"]
    for n in range(8):
        png(folder / f"{n}.png")
        rows.append(f"{n}.png,{'ab'[n // 2 % 2]},{'' if n % 2 else n}")
    (folder / "cases.csv").write_text("\n".join(rows))
    text = guess_declaration(folder)
    assert "gives 4 patients of 8 images.\n# 4 of the images name no patient" in text
    (folder / "dataset.toml").write_text(text.replace("# empty_patient", "empty_patient", 1))
    patients = [case.patient for case in read_samples(load_declared(folder), folder, {})]  # type: ignore[union-attr]
    assert patients == [*"00224466"]


def test_the_patients_of_dicom_files_are_their_patient_ids(
    shared_data: Path, tmp_path: Path
) -> None:
    files = sorted((shared_data / "prostatex").rglob("*.dcm"))[:2]
    for source, label in zip(files, ("a", "b"), strict=True):
        (tmp_path / "mr" / label).mkdir(parents=True)
        shutil.copyfile(source, tmp_path / "mr" / label / "1.dcm")
    text, *_ = guessed(tmp_path / "mr")
    assert "PatientID of the DICOM files names the patients" in text
    assert "no patient was detected" not in text


@pytest.mark.parametrize("mark", ";\t")
def test_a_table_without_commas_of_names_without_suffix(tmp_path: Path, mark: str) -> None:
    folder = tmp_path / "mine"
    for number in range(4):
        png(folder / "images" / f"s{number}.png")
    rows = ["image_id;dx;age", "s0;Benign;7,5", "s1;benign;8", "s2;Malign ;9", "s3;malign;1"]
    (folder / "meta.csv").write_text("\n".join(rows).replace(";", mark))
    (folder / "a-notes.txt").write_text("Received in May, from Ann.\nAll of them.\n")
    (folder / "labels.csv").write_text("dx,age\nbenign,3\n")
    (folder / "more.tsv").write_text("path\tage\nimages/s0.png\t3\n")
    (folder / "old.xls").write_bytes(b"")
    (folder / "odd.csv").write_text("path,age\nimages/s0.png\n")
    text, *_ = guessed(folder)
    assert 'cases = "meta.csv"' in text
    assert 'classes = ["benign", "malign"]' in text
    assert "# Check: the column image_id names files without folder or suffix." in text
    assert "# Not used: labels.csv: no column of paths (its columns: dx, age)" in text
    assert "# Not used: more.tsv: no column of labels (its columns: path, age)" in text
    assert "# Not used: odd.csv: line 2: has 1 cells where the header has 2" in text
    assert "# Not used: old.xls: tables of this kind are not read: save it as .xlsx or CSV" in text
    assert "notes" not in text
    (folder / "dataset.toml").write_text(text)
    found = list(read_samples(load_declared(folder), folder, {}))
    assert [case.label for case in found if isinstance(case, Sample)] == [0, 0, 1, 1]
    (folder / "meta.csv").unlink()
    (folder / "dataset.toml").unlink()
    with pytest.raises(DataError, match=r"\(labels.csv: no column of paths .its columns: dx, age"):
        guess_declaration(folder)
