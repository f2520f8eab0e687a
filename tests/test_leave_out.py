"""Leaving out a value of a subgroup: what is tested, what is trained on, and a whole comparison."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest
from click.testing import CliRunner
from declaring import CSV, declare
from helpers import adapter, refused
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import roc_auc_score
from test_gate import TWO, Data, dataset, deal, several_datasets

from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Design, make_design
from hydrakit.compare.finish import final_plan, find_cells, finish
from hydrakit.data.quality.leakage import WITHHELD, assign_splits
from hydrakit.data.quality.left_out import notes_on_cases, values_to_leave_out
from hydrakit.data.quality.split import RESERVED
from hydrakit.errors import DataError
from hydrakit.maintenance.models import list_models
from hydrakit.plan import Fold, LeftOut, Split
from hydrakit.runs.evaluate import evaluate_files
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.comparison import Comparison
from hydrakit.stats.score_table import Row, gather, gather_findings
from hydrakit.stats.scored import LabelScores, NumberScores

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset


def without(value: str, subgroup: str = "scanner", **more: Any) -> Split:
    return Split(train=8, val=2, left_out=LeftOut(subgroup=subgroup, value=value), **more)


def scanner(value: str, **more: Any) -> dict[str, Any]:
    return {"subgroups": {"scanner": value}, **more}


def cases(value: str | None, first: int, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Patients of one image each, classes in turn."""
    groups = {} if value is None else {"subgroups": {"scanner": value}}
    numbers = range(first, first + count)
    return [(n, {"label": n % 2, "patient": f"p{n}", **groups}) for n in numbers]


def parts(splits: dict[str, str], numbers: Sequence[int]) -> set[str]:
    return {splits[f"c{number}"] for number in numbers}


LEARNING = {"train", "val"}


def test_a_value_is_tested_and_nothing_of_it_or_of_its_patients_is_trained_on(
    tmp_path: Path,
) -> None:
    """By hand: A is c0-c19, B c20-c39, C has one class; then what spans several values."""
    target = dataset(
        *cases("A", 0, 20),
        *cases("B", 20, 20),
        *cases(None, 40, 10),
        # c50, c51: a patient with a finding of each value
        *((50 + n, scanner("AB"[n], label=0, patient="both")) for n in range(2)),
        # c52, c53: a finding with images of both values; c54: another finding of that patient
        *((52 + n, scanner("AB"[n], label=1, patient="mixed", finding="c52")) for n in range(2)),
        (54, {"label": 0, "patient": "mixed"}),
        # c55, c56: two patients of one group; c57: a copy of c0, of another patient and scanner
        *((55 + n, scanner("AB"[n], label=n, patient=f"g{n}", group="g")) for n in range(2)),
        (0, scanner("B", label=0, patient="copy")),
    )
    of = {value: deal(tmp_path, target=without(value), alpha=target) for value in "AB"}
    a, b = of["A"].splits["alpha"], of["B"].splits["alpha"]
    assert parts(a, [*range(20), 50, 55]) == {"test"}
    assert parts(a, range(20, 50)) == LEARNING
    assert parts(a, [51, 52, 56, 57]) == {RESERVED}
    assert parts(a, [53, 54]) <= LEARNING  # no image of A, and nothing of the patient is tested
    assert parts(b, [*range(20, 40), 51, 56, 57]) == {"test"}
    assert parts(b, [*range(1, 20), *range(40, 50)]) == LEARNING
    assert parts(b, [0, 50, 53, 55]) == {RESERVED}
    assert parts(b, [52, 54]) <= LEARNING
    labelled = target.index.cases
    assert values_to_leave_out(labelled, "scanner", adapter("alpha")) == (("A", "B"), ())
    notes = notes_on_cases(labelled, of["A"].units["alpha"], "scanner", ("A", "B"))
    assert [note.split(" ")[0] for note in notes] == ["11", "1", "3"]
    assert "11 findings of 11 patients without scanner" in notes[0]
    assert "1 finding of 1 patient with images of several values" in notes[1]


def test_supports_leave_out_the_value_too(tmp_path: Path) -> None:
    target = dataset(*cases("A", 0, 20), *cases("B", 20, 20))
    support = dataset(
        *((100 + n, scanner("AC"[n > 9], label=n % 2, patient=f"s{n}")) for n in range(40)),
        *((200 + n, {"label": n % 2, "patient": f"p{n}"}) for n in range(40)),
    )
    found = deal(tmp_path, cohort="clinic", target=without("A"), alpha=target, beta=support)
    beta = found.splits["beta"]
    assert parts(beta, range(10)) == {WITHHELD}  # the value
    assert parts(beta, range(40, 60)) == {WITHHELD}  # patients of the test split
    for number in range(60, 80):
        assert beta[f"c{number}"] == found.splits["alpha"][f"c{number - 40}"]
    assert parts(beta, range(10, 40)) <= LEARNING


def test_inner_folds_and_shares_are_of_what_is_left(tmp_path: Path) -> None:
    target = dataset(*cases("A", 0, 20), *cases("B", 20, 40))
    inner = [
        deal(tmp_path, target=without("A", inner=Fold(index=n, count=2)), alpha=target)
        for n in range(2)
    ]
    tested = []
    for each in inner:
        splits = each.splits["alpha"]
        assert parts(splits, range(20)) == {RESERVED}
        tested += [n for n in range(20, 60) if splits[f"c{n}"] == "test"]
    assert sorted(tested) == list(range(20, 60))
    half = deal(tmp_path, target=without("A", used=0.5), alpha=target).splits["alpha"]
    assert parts(half, range(20)) == {"test"}
    assert sum(half[f"c{n}"] == "unused" for n in range(20, 60)) == 20


def test_values_without_enough_findings_are_trained_on_and_named() -> None:
    few = dataset(*cases("A", 0, 8), *cases("B", 8, 8), *cases("C", 16, 3)).index.cases
    values, notes = values_to_leave_out(few, "scanner", adapter("alpha"))
    assert values == ("A", "B")
    (note,) = notes
    assert "scanner 'C' has too few findings for a figure (2 of benign, 1 of malignant;" in note
    images = dataset(*((n, scanner("AB"[n % 2], label=n % 2, finding="c0")) for n in range(9)))
    refused(
        lambda: values_to_leave_out(images.index.cases, "scanner", adapter("alpha")),
        "alpha: two values or more of 'scanner' are needed",
        "`--folds`",
    )


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (without("A", "scaner"), "alpha: unknown subgroup 'scaner': did you mean 'scanner'?"),
        (without("D"), "alpha: unknown value of 'scanner' 'D': known are A, B, C"),
        (without("C"), "alpha: no finding of scanner 'C' has class 'malignant'"),
    ],
)
def test_what_cannot_be_left_out_is_refused(tmp_path: Path, split: Split, words: str) -> None:
    some = [*cases("A", 0, 20), *cases("B", 20, 20), (40, scanner("C"))]
    refused(lambda: deal(tmp_path, target=split, alpha=dataset(*some)), words)


def test_what_leaves_too_little_to_train_on_is_refused(tmp_path: Path) -> None:
    only = without("A")
    alone = dataset(*cases("A", 0, 9))
    refused(lambda: deal(tmp_path, target=only, alpha=alone), "no case is left")
    one = dataset(*cases("A", 0, 9), (9, scanner("B", label=0)))
    refused(lambda: deal(tmp_path, target=only, alpha=one), "(without scanner 'A' and its")
    none = dataset(*cases(None, 0, 9))
    refused(lambda: deal(tmp_path, target=only, alpha=none), "has no subgroup 'scanner', nor any")
    declared = dataset(*cases("A", 0, 9), *cases("B", 9, 8), (99, scanner("B", split="train")))
    refused(lambda: deal(tmp_path, target=only, alpha=declared), "use `--holdout`")


@given(several_datasets(), st.integers(0, 2**31), st.sampled_from([None, "clinic"]))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_patient_copy_or_value_is_trained_on_and_tested(
    datasets: dict[str, Data], seed: int, cohort: str | None
) -> None:
    random = Random(seed)  # not drawn by Hypothesis, which would have too much to draw
    for data in datasets.values():
        for number, each in enumerate(data.index.cases):
            value = random.choice(["A", "A", "B", "B", "C", None])
            groups = {} if value is None else {"scanner": value}
            data.index.cases[number] = each.model_copy(update={"subgroups": groups})
    adapters = {name: replace(adapter(name), cohort=cohort) for name in datasets}
    tested: list[str] = []
    for value in "ABC":
        try:
            found = assign_splits(
                cast("dict[str, PreparedDataset]", datasets),
                adapters,
                splits={name: without(value) if name == "alpha" else TWO for name in datasets},
                seed=0,
                copies="group",
                conflicts="keep",
            )
        except DataError as error:
            known = ("too few", "leave this dataset out", "is left", "no usable case", "no find")
            if not any(words in str(error) for words in known):
                raise
            return
        sides: dict[object, set[str]] = {}
        for name, data in datasets.items():
            for each in data.index.cases:
                split = found.splits[name][each.key]
                if split not in ("train", "val", "test"):
                    continue
                assert (each.subgroups.get("scanner") == value) == (split == "test")
                tested += [each.key] if split == "test" else []
                for thing in (
                    (cohort or name, each.patient),
                    (each.content,),
                    (name, "group", each.group),
                ):
                    if thing[-1] is not None:
                        sides.setdefault(thing, set()).add(split)
        assert {thing: found for thing, found in sides.items() if len(found) > 1} == {}
    assert len(tested) == len(set(tested))


def test_a_patient_may_be_in_several_folds_only_where_values_are_left_out() -> None:
    rows = [
        Row(finding=f"f{n}", patient=f"p{n % 4}", label=n // 2 % 2, score=n / 8, fold=n % 2)
        for n in range(8)
    ]
    rows += [replace(row, finding=f"g{row.finding}", fold=1 - row.fold) for row in rows]
    refused(lambda: gather(rows), "patient 'p0' is in the folds 0 and 1")
    table = gather(rows, whole_patients=False)
    assert (len(table.findings), len(table.cells), table.patients.max()) == (16, 2, 3)
    refused(
        lambda: gather([*rows, replace(rows[0], fold=1)], whole_patients=False),
        "finding 'f0' is in the folds 0 and 1",
    )


def test_numbers_and_several_labels_have_a_figure_for_each_value() -> None:
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 2, (2, 40)), random.random((2, 40))

    def rows(label: int) -> list[Row]:
        return [
            Row(finding=f"f{n:02d}", patient=f"p{n % 30}", label=labels[label, n],
                score=scores[label, n], fold=int(n >= 25))
            for n in range(40)
        ]  # fmt: skip

    tables = [gather_findings(rows(label), whole_patients=False) for label in (0, 1)]
    parts = [slice(0, 25), slice(25, 40)]
    one = NumberScores({"hydra": tables[0]}, 0.95).by_fold(["A", "B", "C"])
    errors = [np.abs(labels[0, part] - scores[0, part]).mean() for part in parts]
    assert [each.strategies[0].value for each in one[:2]] == pytest.approx(errors)
    assert [(each.value, each.findings, each.patients) for each in one] == [
        ("A", 25, 25), ("B", 15, 15), ("C", 0, 0),
    ]  # fmt: skip
    assert one[2].strategies == ()
    by_label = {name: {"hydra": table} for name, table in zip("xy", tables, strict=True)}
    both = LabelScores(by_label, 0.95)
    means = [
        np.mean([roc_auc_score(labels[n, part], scores[n, part]) for n in (0, 1)]) for part in parts
    ]
    figures = [each.strategies[0] for each in both.by_fold(["A", "B"])]
    assert [each.value for each in figures] == pytest.approx(means)
    assert all(each.low < each.value < each.high for each in figures)


def test_digests_of_designs() -> None:
    def design(**more: Any) -> Design:
        given = {"strategies": ("classical",), "datasets": ("alpha",), "folds": None}
        return make_design(**(given | more))

    begun = design(leave_out="scanner")
    assert begun.with_values(["A", "B"]).digest == begun.digest
    assert begun.digest != design(leave_out="zone").digest != design().digest
    assert [cell.fold for cell in begun.with_values("AB").cells() if cell.strategy == "probe"] == [
        0,
        1,
    ]
    refused(lambda: design(leave_out="scanner", repeats=2), "leave out --repeats")


# --- a comparison by the command line


def write_scans(folder: Path, scanners: Sequence[str]) -> None:
    """Images whose disk is brighter in the second class; every sixth patient has two scanners."""
    random = np.random.default_rng(0)
    row, column = np.mgrid[:20, :20] - 9.5
    disk = row**2 + column**2 <= 16
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,patient,scanner"]
    for number, name in enumerate(scanners):
        label = number % 2
        image = random.normal(100 + 60 * label * disk, 30, (20, 20)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number}.png")
        patient = number - 1 if number % 6 == 1 else number
        lines.append(f"{number}.png,{('benign', 'malignant')[label]},p{patient},{name}")
    declare(folder, CSV + '[subgroups]\nscanner = "scanner"\n', "\n".join(lines) + "\n")


SCANNERS = ["A", "B"] * 12 + ["B", "A"] * 8 + ["C", "C", "C", ""]


def compare(root: Path, *more: str, strategies: str = "classical", code: int = 0) -> str:
    done = CliRunner().invoke(
        main,
        [
            *("compare", "--strategies", strategies, "--baselines", "intensity"),
            *("--datasets", "scans", "--seeds", "1", "--epochs", "1", "--bootstrap", "1"),
            *("--profile", "recommended-0.1", "--set", "body.patch=16", "--jobs", "1"),
            *("--set", "body.channels=[4,8]", "--set", "body.features=8", "--device", "cpu"),
            *("--data", str(root / "data"), "--cache", str(root / "cache")),
            *("--out", str(root / "out"), *more),
        ],
    )
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("left-out")


@pytest.fixture(scope="module")
def printed(root: Path) -> str:
    write_scans(root / "data" / "scans", SCANNERS)
    return compare(root, "--leave-out", "scanner")


def test_the_command_line(root: Path, printed: str) -> None:
    comparison = Comparison.model_validate_json((root / "out/comparison.json").read_bytes())
    assert comparison.leave_out is not None
    assert (comparison.format, comparison.folds) == (3, 2)
    assert [each.value for each in comparison.leave_out.values] == ["A", "B"]
    for fold, each in enumerate(comparison.leave_out.values):
        path = CompareDir(root / "out").path / f"cells/classical-seed0-repeat0-fold{fold}"
        with (path / "predictions.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
        numbers = [int(row["key"].split(".")[0]) for row in rows]
        assert {SCANNERS[number] for number in numbers} == {each.value}
        assert len(rows) == each.findings == SCANNERS.count(each.value)
        labels = [row["label"] == "malignant" for row in rows]
        expected = roc_auc_score(labels, [float(row["p_malignant"]) for row in rows])
        figure = each.strategies[0]
        assert figure.value == pytest.approx(expected)
        assert figure.low < figure.value < figure.high or figure.value in (0, 1)
        plan = json.loads((path / "plan.json").read_text())
        (own,) = plan["datasets"]
        assert own["split"]["left_out"] == {"subgroup": "scanner", "value": each.value}
        report = unescape((path / "report.html").read_text(encoding="utf-8"))
        assert f"test: scanner '{each.value}', which training leaves out" in report
    pooled = np.mean([each.strategies[0].value for each in comparison.leave_out.values])
    assert comparison.strategies[0].auc == pytest.approx(pooled)
    assert "scanner 'C' has too few findings for a figure" in printed
    assert "1 finding of 1 patient without scanner" in printed
    assert "have findings of several values of scanner" in printed
    assert comparison.subgroups == ()
    report = (root / "out/report.html").read_text(encoding="utf-8")
    assert "Left-out values" in report
    assert "--leave-out scanner" in report
    assert "--folds" not in report


def test_it_goes_on_and_refuses_other_values(root: Path, printed: str) -> None:
    again = compare(root, "--leave-out", "scanner", strategies="classical,probe")
    assert "classical, seed 0, repeat 0, fold 0: test AUC" in again
    assert "done before" in again
    other = compare(root, "--folds", "2", code=1)
    assert "holds a comparison with other folds, leave-out: only" in other
    rows = (root / "data/scans/cases.csv").read_text()
    (root / "data/scans/cases.csv").write_text(rows.replace(",B\n", ",A\n"))
    assert "two values or more of 'scanner'" in compare(root, "--leave-out", "scanner", code=1)
    (root / "data/scans/cases.csv").write_text(rows.replace(",C\n", ",B\n"))
    assert "the data has changed since" in compare(root, "--leave-out", "scanner", code=1)
    (root / "data/scans/cases.csv").write_text(rows)


def test_weight_files_and_a_final_model(root: Path, printed: str, tmp_path: Path) -> None:
    run = RunDir(root / "out/cells/classical-seed0-repeat0-fold1")
    results = run.results()
    assert results is not None
    again = evaluate_files(
        run.path / "body.safetensors",
        run.path / "heads/scans.safetensors",
        split="test",
        data=root / "data",
        cache=root / "cache",
        device="cpu",
    )
    assert again.result.figures.auc == pytest.approx(results.tested.figures.auc)
    comparison = Comparison.model_validate_json((root / "out/comparison.json").read_bytes())
    model = finish(root / "out", "classical", out=tmp_path / "model")
    assert model.expected["scans"].value == comparison.strategies[0].auc
    (listed,) = list_models(root / "out").comparisons
    assert listed.strategies[0].expected is not None
    assert "each scanner left out of training in turn" in listed.strategies[0].expected.reason
    plan = final_plan(find_cells(root / "out", "classical"))
    assert plan.dataset("scans").split == Split(train=8, val=2, final=True)


def test_mistakes_of_the_command_line(root: Path, printed: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "new"))
    assert "unknown subgroup 'scaner': did you mean" in compare(
        root, "--leave-out", "scaner", *out, code=1
    )
    assert "give one" in compare(root, "--leave-out", "scanner", "--folds", "3", *out, code=2)
    assert "leave out --repeats" in compare(
        root, "--leave-out", "scanner", "--repeats", "2", *out, code=1
    )
    left_out = 'datasets.scans.split.left_out={"subgroup":"scanner","value":"A"}'
    assert "sets this value itself" in compare(
        root, "--leave-out", "scanner", "--set", left_out, *out, code=1
    )
    assert not (tmp_path / "new").exists()
