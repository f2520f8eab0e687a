"""`hydrakit verdict --predictions`: anyone's scores of the same findings, pair by pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from helpers import refused
from scipy.stats import rankdata

from hydrakit.cli import main
from hydrakit.errors import DataError
from hydrakit.stats.paired import compare, holm
from hydrakit.stats.score_files import compare_files
from hydrakit.stats.score_table import Row, gather


def write(path: Path, columns: str, *rows: str) -> Path:
    path.write_text("\n".join([columns, *rows, ""]), encoding="utf-8")
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["verdict", "--predictions", *map(str, arguments)])


@pytest.fixture
def ten(tmp_path: Path) -> tuple[Path, Path]:
    """Ten findings: a reader's scores from 1 to 5, and a program's probabilities."""
    labels = "1111000000"
    reader, program = "5342213121", (0.9, 0.6, 0.8, 0.3, 0.5, 0.1, 0.7, 0.2, 0.35, 0.05)
    a = write(
        tmp_path / "reader.csv",
        "finding,score,label",
        *(f"f{i},{s},{y}" for i, (s, y) in enumerate(zip(reader, labels, strict=True))),
    )
    b = write(
        tmp_path / "program.csv", "finding,score", *(f"f{i},{s}" for i, s in enumerate(program))
    )
    return a, b


def delong(scores: Sequence[Sequence[float]], labels: Sequence[int]) -> tuple[list[float], float]:
    """AUCs, and the variance of the difference of two, by DeLong's formulas word for word."""
    m, n = labels.count(1), labels.count(0)
    areas, over_positives, over_negatives = [], [], []
    for of_one in scores:
        xs = [s for s, y in zip(of_one, labels, strict=True) if y]
        ys = [s for s, y in zip(of_one, labels, strict=True) if not y]
        wins = [[1.0 if x > y else 0.5 if x == y else 0.0 for y in ys] for x in xs]
        areas.append(sum(map(sum, wins)) / (m * n))
        over_positives.append([sum(row) / n for row in wins])
        over_negatives.append([sum(row[j] for row in wins) / m for j in range(n)])
    s10, s01 = np.cov(over_positives), np.cov(over_negatives)
    s = s10 / m + s01 / n
    return areas, float(s[0, 0] + s[1, 1] - 2 * s[0, 1])


def test_ten_findings_by_hand(ten: tuple[Path, Path]) -> None:
    """Reader: the positives 5, 3, 4, 2 win 6, 5.5 (a tie), 6 and 4 (two ties) of 6 pairs each."""
    found = compare_files(ten)
    assert [each.auc for each in found.files] == pytest.approx([21.5 / 24, 20 / 24])
    assert (found.positive, found.positives, found.negatives, found.patients) == ("1", 4, 6, 10)
    (only,) = found.verdicts
    assert only.difference == pytest.approx(1.5 / 24)
    assert (only.first, only.second, only.kind) == ("reader", "program", "cannot tell")
    assert "trained" not in only.text
    assert "(AUC 0.90 against 0.83," in only.text


def test_auc_and_error_are_those_of_mann_whitney_and_delong(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    labels = (np.arange(90) < 30).astype(int)
    scores = (rng.normal(size=(2, 90)) + labels * [[1.5], [0.4]]).round(1)
    files = [
        write(
            tmp_path / f"{name}.csv",
            "key,label,score",
            *(f"k{i},{y},{s}" for i, (y, s) in enumerate(zip(labels, of_one, strict=True))),
        )
        for name, of_one in zip("ab", scores, strict=True)
    ]
    found = compare_files(files)
    areas, variance = delong(scores.tolist(), labels.tolist())
    by_ranks = [(rankdata(each)[:30].sum() - 30 * 31 / 2) / (30 * 60) for each in scores]
    assert [each.auc for each in found.files] == pytest.approx(areas)
    assert areas == pytest.approx(by_ranks)
    (only,) = found.verdicts
    half = (only.high - only.low) / 2
    assert (only.high + only.low) / 2 == pytest.approx(areas[0] - areas[1])
    # Student's quantile in place of the normal one: a little above 1.96.
    assert 1.96 < half / np.sqrt(variance) < 2.03
    assert only.kind == "better"


def test_patients_are_the_units_where_a_file_names_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    names = [f"f{i}" for i in range(40)]
    patient: Mapping[str, str] = {name: f"p{i // 2}" for i, name in enumerate(names)}
    label = {name: int(i // 2 % 3 == 0) for i, name in enumerate(names)}
    scores = [{name: float(rng.normal() + label[name]) for name in names} for _ in range(2)]
    files = [
        write(tmp_path / f"{i}.csv", "key,score", *(f"{n},{s!r}" for n, s in each.items()))
        for i, each in enumerate(scores)
    ]
    truth = write(
        tmp_path / "truth.csv",
        "key,label,patient",
        *(f"{n},{'bad' if label[n] else 'good'},{patient[n]}" for n in names),
    )
    found = compare_files(files, labels=truth, positive="bad")
    tables = [
        gather(Row(finding=n, patient=patient[n], label=label[n], score=each[n]) for n in names)
        for each in scores
    ]
    expected = compare(*tables)
    (only,) = found.verdicts
    assert (only.low, only.high, only.p) == (expected.low, expected.high, expected.p)
    assert (found.patients, found.notes) == (20, ())
    alone = write(
        tmp_path / "alone.csv",
        "key,label",
        *(f"{n},{'bad' if label[n] else 'good'}" for n in names),
    )
    other = compare_files(files, labels=alone, positive="bad")
    assert other.patients == 40
    assert "add a column 'patient'" in other.notes[0]


def test_own_predictions_meet_a_reader(tmp_path: Path) -> None:
    """Images of a finding are averaged, and rows of other splits are left out."""
    own = write(
        tmp_path / "predictions.csv",
        "dataset,split,key,finding,label,predicted,p_benign,p_malignant",
        "lung,val,z,z,malignant,benign,0.9,0.1",
        "lung,test,a1,a1,malignant,benign,0.6,0.4",
        "lung,test,a2,a1,malignant,malignant,0.2,0.8",
        "lung,test,b,b,benign,benign,0.5,0.5",
        "lung,test,c,c,benign,benign,0.9,0.1",
        "lung,test,d,d,malignant,malignant,0.1,0.9",
    )
    reader = write(
        tmp_path / "reader.csv",
        "\ufeffkey,score,patient",
        "a1,4,p1",
        "b,2,p1",
        "c,1,p2",
        "d,2,p3",
        "e,2,p4",
        "z,,p5",
    )
    found = compare_files([own, reader])
    assert (found.positive, found.positives, found.negatives) == ("malignant", 2, 2)
    assert [each.auc for each in found.files] == [1, 7 / 8]
    assert [each.alone for each in found.files] == [0, 1]
    assert f"{reader}: 1 of its findings are not compared" in found.notes[0]
    assert found.patients == 3


def test_unknown_labels_of_own_predictions_do_not_count(tmp_path: Path) -> None:
    header = "dataset,split,key,finding,label,predicted,p_edema,p_mass"
    cells = ["edema", "edema?;mass", "mass?", "", "edema;mass", "mass"]
    scores = [(0.9, 0.1), (0.1, 0.5), (0.4, 0.3), (0.5, 0.2), (0.6, 0.8), (0.7, 0.9)]
    files = [
        write(
            tmp_path / f"{name}.csv",
            header,
            *(
                f"chest,test,{key},{key},{cell},,{edema},{mass}"
                for key, (cell, (edema, mass)) in enumerate(zip(cells, scores, strict=True))
            ),
        )
        for name in "ab"
    ]
    edema = compare_files(files, positive="edema")
    assert (edema.positives, edema.negatives) == (2, 3)
    assert edema.files[0].auc == pytest.approx(5 / 6)
    assert edema.files[0].alone == 1
    mass = compare_files(files, positive="mass")
    assert (mass.positives, mass.negatives) == (3, 2)
    assert mass.files[0].auc == 1


def test_three_files_are_corrected_by_holm(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    files = [
        write(
            tmp_path / f"{name}.csv",
            "finding,label,score",
            *(f"f{i},{int(i < 25)},{rng.normal() + shift * (i < 25)}" for i in range(80)),
        )
        for name, shift in (("a", 3.0), ("b", 1.5), ("c", 0.0))
    ]
    verdicts = {(each.first, each.second): each for each in compare_files(files).verdicts}
    assert list(verdicts) == [("a", "b"), ("a", "c"), ("b", "c")]
    single = {
        f"{one} {two}": compare_files([tmp_path / f"{one}.csv", tmp_path / f"{two}.csv"])
        .verdicts[0]
        .p
        for one, two in verdicts
    }
    adjusted = holm({name: p for name, p in single.items() if p is not None})
    assert [each.p for each in verdicts.values()] == list(adjusted.values())
    assert [each.kind for each in verdicts.values()] == ["better"] * 3


def test_the_command_prints_aucs_verdict_and_notes(ten: tuple[Path, Path]) -> None:
    result = call(*ten)
    assert result.exit_code == 0, result.output
    assert "AUC for '1': 4 positive and 6 negative findings of 10 patients" in result.stdout
    assert "This data cannot tell reader and program apart" in result.stdout
    assert result.stderr.startswith("Note: no finding has a patient")
    told = json.loads(call(*ten, "--json").stdout)
    assert [each["name"] for each in told["files"]] == ["reader", "program"]
    assert told["verdicts"][0]["kind"] == "cannot tell"


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ("name,score", ["f0,1"], ["other.csv", "'finding' nor 'key'", "name, score"]),
        ("finding,value", ["f0,1"], ["other.csv", "'p_1' nor 'score'"]),
        ("finding,score", [], ["other.csv", "no row"]),
        ("finding;score", ["f0;1,234"], ["other.csv, line 2", "may be 1.234 or 1234"]),
        ("finding;score", ["f0;0,5", "f1;0.5"], ["other.csv, line 2", "a point"]),
        ("finding,score", ["f0,1", "f1,high"], ["other.csv, line 3", "'high'"]),
        ("finding,score", ['f0,"0,5"'], ["other.csv, line 2", "write 0.5"]),
        ("finding,score", ["f0,nan"], ["other.csv, line 2", "finite"]),
        ("finding,score", ["f0,1", ",2"], ["other.csv, line 3", "no name"]),
        ("finding,score", ["g0,1", "g1,2"], ["no finding", "'f0'", "'g0'"]),
        ("finding,score", ["f0,1", "f1,2"], ["all 2 findings", "both classes"]),
        ("finding,score,label", ["f0,1,1", "f5,1,1"], ["line 3", "'f5'", "reader.csv, line 7"]),
        ("finding,score,label", ["f0,1,yes"], ["not clear", "0, 1, yes", "--positive"]),
        ("finding,score,split", ["f0,1,val"], ["no row of split 'test'", "--split"]),
        ("finding,score,patient", ["f0,1,p", "f0,1,q"], ["line 3", "patients 'q'", "'p'"]),
        ("finding,key,score", ["f0,k,1", "f1,k,1"], ["line 3", "key 'k'", "'f1'", "'f0'"]),
        ("finding,score", ["f0"], ["other.csv", "line 2: has 1 cells"]),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    ten: tuple[Path, Path], columns: str, rows: list[str], words: list[str]
) -> None:
    other = write(ten[0].with_name("other.csv"), columns, *rows)
    result = call(ten[0], other)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line


def test_what_is_missing_is_asked_for(ten: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file has a column 'label'"):
        compare_files([ten[1], write(tmp_path / "c.csv", "finding,score", "f0,1")])
    with pytest.raises(DataError, match=r"given twice"):
        compare_files([ten[0], ten[0]])
    three = write(tmp_path / "three.csv", "finding,label,p_a,p_b,p_c", "f0,a,1,0,0", "f1,b,0,1,0")
    with pytest.raises(DataError, match=r"a, b, c with `--positive`"):
        compare_files([three, ten[1]])
    assert compare_files([three, ten[1]], positive="a").positive == "a"
    with pytest.raises(DataError, match=r"no row has the label 'c', only a, b"):
        compare_files([three, ten[1]], positive="c")
    with pytest.raises(DataError, match="absent"):
        compare_files([tmp_path / "absent.csv", ten[1]])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--predictions", "a.csv"], "two files or more"),
        (["--predictions", "a.csv", "b.csv", "--table", "a 1, b 0.5"], "leave out --table"),
        (["a.csv", "b.csv"], "add --predictions"),
        (["--table", "a 1, b 0.5", "--labels", "l.csv"], "add --predictions"),
        ([], "--table TEXT, or --predictions"),
    ],
)
def test_forms_of_the_command_are_not_mixed(arguments: list[str], word: str) -> None:
    result = CliRunner().invoke(main, ["verdict", *arguments])
    assert result.exit_code == 2
    assert word in result.stderr


def test_rows_and_columns_that_occur_twice_are_not_used_silently(
    ten: tuple[Path, Path], tmp_path: Path
) -> None:
    reader, program = ten
    text = program.read_text(encoding="utf-8")
    twice = write(tmp_path / "twice.csv", text + "f0,0.4\n\n")
    notes = " ".join(compare_files([reader, twice]).notes)
    assert "1 findings have several rows, first 'f0'" in notes
    keyed = write(tmp_path / "keyed.csv", text.replace("finding", "key") + "f0,0.4")
    refused(lambda: compare_files([reader, keyed]), "line 12: the key 'f0' is also that of line 2")
    columns = write(tmp_path / "columns.csv", "finding,score,score", "f0,0.1,0.2")
    refused(lambda: compare_files([reader, columns]), "two of its columns are named 'score'")


def test_images_of_training_are_named(ten: tuple[Path, Path], tmp_path: Path) -> None:
    reader, program = ten
    lines = program.read_text(encoding="utf-8").split()
    seen = ["seen_in_training", "yes", "yes", "no", *["unknown"] * 7]
    other = write(tmp_path / "o.csv", *map(",".join, zip(lines, seen, strict=True)))
    notes = compare_files([reader, other]).notes
    assert any("o.csv: training used 2 of its 10 images" in note for note in notes)
    assert not any("training" in note for note in compare_files(ten).notes)


def test_of_classes_0_and_1_the_positive_one_is_1_in_any_order_of_columns(
    ten: tuple[Path, Path], tmp_path: Path
) -> None:
    reader, _ = ten
    rows = [f"f{i},{0.1 + i / 20},{0.9 - i / 20}" for i in range(10)]
    other = write(tmp_path / "other.csv", "finding,p_1,p_0", *rows)
    result = compare_files([reader, other])
    assert result.positive == "1"
    assert [round(file.auc, 2) for file in result.files] == [0.9, 0.0]
