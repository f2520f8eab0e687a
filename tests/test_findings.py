"""A finding counts once, however many images there are of it, and subgroups are parts of them."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from hydrakit.data.prepared.index import PreparedCase
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.leakage import assign_splits
from hydrakit.data.read import MAX_SUBGROUPS, read_cases
from hydrakit.hooks import DatasetAdapter, Sample
from hydrakit.plan.results import Subgroup, TestResult
from hydrakit.runs.evaluate import Predictions, score, to_csv
from hydrakit.stats.findings import Findings, mean_score
from hydrakit.stats.intervals import mean_auc, newcombe_interval
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.stats.subgroups import subgroups_of

SIDE = 20


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)


def sample(key: str, **changes: Any) -> Sample:
    values: dict[str, Any] = {"image": image(7), "label": 0, "patient": "p"}
    return Sample(key=key, **{**values, **changes})


def read(*samples: Sample, **changes: Any) -> list[Sample]:
    adapter = replace(helpers.adapter("alpha"), read=lambda _, __: iter(samples), **changes)
    return [case for case in read_cases(adapter, Path(), {}) if isinstance(case, Sample)]


def cases_of(folder: Path, *samples: Sample) -> list[PreparedCase]:
    """The cases of samples as they are prepared."""
    adapter = replace(helpers.adapter("alpha"), read=lambda _, __: iter(samples))
    (folder / "alpha").mkdir(exist_ok=True)
    prepared = prepare(adapter, folder / "alpha", options={}, patch=16, cache=folder / "cache")
    return list(prepared.index.cases)


def findings(folder: Path, *samples: Sample) -> list[str]:
    return [case.finding for case in cases_of(folder, *samples)]


# --- reading


def test_names_of_findings_are_within_a_patient(tmp_path: Path) -> None:
    """As nodules are numbered anew in each exam; one of a patient is of all its samples."""
    found = findings(
        tmp_path,
        sample("a1", image=image(1), finding="1"),
        sample("b1", image=image(2), finding="1", patient="q", label=1),
        sample("a2", image=image(3), finding="1"),
        sample("a3", image=image(4), finding="2", label=1),
        sample("a4", image=image(5)),
    )
    assert found == ["a1", "b1", "a1", "a3", "a4"]


def test_exact_copies_of_one_patient_are_one_finding_and_two_lesions_of_a_slice_are_two(
    tmp_path: Path,
) -> None:
    found = findings(
        tmp_path,
        sample("one"),
        sample("copy"),
        sample("other label", label=1),
        sample("other patient", patient="q"),
        sample("other place", centre=(3.0, 4.0)),
        sample("named", finding="x"),
        sample("named copy", finding="y"),
    )
    expected = ["one", "one", "other label", "other patient", "other place", "named", "named copy"]
    assert found == expected


@pytest.mark.parametrize("label", [1, None])
def test_a_finding_of_two_labels_is_refused(label: int | None) -> None:
    one = sample("one", finding="f7")
    said = "'malignant'" if label else "none"
    helpers.refused(
        lambda: read(one, sample("two", finding="f7", label=label)),
        f"alpha: case 'two' has label {said}, but 'one', of the same finding 'f7' of its patient, "
        "has 'benign': correct one, or name two findings",
    )
    assert len(read(one, sample("two", finding="f7", label=label, patient="q"))) == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finding": ""}, "a finding without a name"),
        ({"finding": "\n"}, "a finding that is not valid text"),
        ({"subgroups": {"zone": ""}}, "the subgroup ('zone', ''): a name and a value of 1 to 64"),
        ({"subgroups": {"": "PZ"}}, "the subgroup ('', 'PZ')"),
        ({"subgroups": {"zone": 3}}, "the subgroup ('zone', 3)"),
        ({"subgroups": {"zone": "x" * 65}}, "1 to 64 characters"),
        ({"subgroups": {"zone": "\udc80"}}, "a subgroup that is not valid text"),
    ],
)
def test_what_is_no_finding_or_subgroup_is_refused(changes: dict[str, Any], said: str) -> None:
    helpers.refused(lambda: read(sample("bad", **changes)), "alpha: case 'bad' has ", said)


def test_what_is_of_each_patient_is_no_subgroup() -> None:
    many = [sample(f"s{n}", subgroups={"who": f"p{n}"}) for n in range(MAX_SUBGROUPS + 1)]
    assert len(read(*many[:-1])) == MAX_SUBGROUPS
    helpers.refused(lambda: read(*many), f"case 's{MAX_SUBGROUPS}' brings", "'who'", "leave it out")


def test_the_digest_of_prepared_data_tells_of_findings_and_subgroups(tmp_path: Path) -> None:
    def digest(name: str, **changes: Any) -> str:
        samples = [sample("a", image=image(1)), sample("b", image=image(2), **changes)]
        adapter = replace(helpers.adapter("alpha"), read=lambda _, __: iter(samples))
        prepared = prepare(adapter, tmp_path, options={}, patch=16, cache=tmp_path / name)
        return prepared.index.content

    plain = digest("1")
    assert digest("2") == plain
    assert digest("3", finding="x") == plain  # of one image, it is what it was without a name
    assert digest("4", subgroups={"zone": "PZ"}) != plain
    both = [sample("a", image=image(1), finding="x"), sample("b", image=image(2), finding="x")]
    adapter = replace(helpers.adapter("alpha"), read=lambda _, __: iter(both))
    prepared = prepare(adapter, tmp_path, options={}, patch=16, cache=tmp_path / "5")
    assert prepared.index.content != plain


def test_a_finding_is_on_one_side_of_every_split(tmp_path: Path) -> None:
    samples = [
        sample(f"{n}-{slice}", image=image(10 * n + slice), patient=f"p{n // 2}", label=n % 2,
               finding=str(n % 2))
        for n in range(40) for slice in range(3)
    ]  # fmt: skip
    adapter = replace(helpers.adapter("alpha"), read=lambda _, __: iter(samples))
    prepared = prepare(adapter, tmp_path, options={}, patch=16, cache=tmp_path / "c")
    for seed in range(5):
        splits = assign_splits(
            {"alpha": prepared}, {"alpha": adapter}, splits={"alpha": helpers.TARGET}, seed=seed,
            copies="group", conflicts="keep",
        ).splits["alpha"]  # fmt: skip
        sides: dict[str, set[str]] = {}
        for case in prepared.index.cases:
            sides.setdefault(case.finding, set()).add(splits[case.key])
        assert len(sides) == 40
        assert {len(of) for of in sides.values()} == {1}
        assert set().union(*sides.values()) == {"train", "val", "test"}


# --- averaging

scores = st.floats(0, 1, allow_subnormal=False)


@given(st.lists(scores, min_size=1, max_size=9), st.randoms(use_true_random=False))
def test_the_mean_is_of_no_order_and_between_its_scores(values: list[float], random: Any) -> None:
    found = mean_score(values)
    assert found == pytest.approx(math.fsum(values) / len(values))
    mixed = list(values)
    random.shuffle(mixed)
    assert mean_score(mixed) == found
    assert min(values) <= found <= math.nextafter(max(values), 2)


@given(scores, st.integers(1, 60))
def test_the_mean_of_equal_scores_is_that_score(value: float, count: int) -> None:
    assert mean_score([value] * count) == value


def test_scores_of_a_finding_are_pooled_column_by_column() -> None:
    found = Findings.of(["a", "b", "a"])
    assert found.members == ((0, 2), (1,))
    table = np.array([[0.0, 1.0], [0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_array_equal(found.mean_scores(table), [[0.25, 0.75], [0.2, 0.8]])
    np.testing.assert_array_equal(found.mean_scores(table[:, 1]), [0.75, 0.8])
    assert Findings.of([]).mean_scores(np.zeros((0, 3))).shape == (0, 3)


def test_a_finding_whose_images_differ_in_a_subgroup_is_in_none_of_it() -> None:
    told = [{"zone": "PZ", "scanner": "A"}, {"zone": "TZ"}, {"zone": "PZ", "scanner": "B"}]
    assert Findings.of(["a", "b", "a"]).subgroups(told) == [{"zone": "PZ"}, {"zone": "TZ"}]


# --- the figures of a run


def predictions(
    labels: Sequence[int],
    logits: np.ndarray,
    names: Sequence[str] | None = None,
    **more: Any,
) -> Predictions:
    outputs = np.asarray(logits, dtype=np.float64)
    classes = ("none", "some", "much")[: outputs.shape[1]]
    keys = tuple(f"k{n}" for n in range(len(labels)))
    given = tuple(names) if names is not None else None
    truth = np.array(labels)
    return Predictions("alpha", "test", classes, keys, truth, outputs, findings=given, **more)


def three_slices(classes: int) -> tuple[Predictions, np.ndarray, np.ndarray]:
    """Images of 30 findings, 1 to 5 of each, and the findings' probabilities averaged by hand."""
    rng = np.random.default_rng(4)
    truth = np.arange(30) % classes
    owner = np.repeat(np.arange(30), 1 + np.arange(30) % 5)
    rng.shuffle(owner)
    logits = rng.normal(size=(len(owner), classes)) + 0.5 * np.eye(classes)[truth[owner]]
    given = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    order = list(dict.fromkeys(owner.tolist()))
    by_hand = np.array([given[owner == finding].mean(axis=0) for finding in order])
    return predictions(truth[owner].tolist(), logits, list(map(str, owner))), by_hand, truth[order]


def test_figures_are_those_of_scores_averaged_by_hand() -> None:
    given, by_hand, truth = three_slices(2)
    found = score(given)
    (area,) = found.classes
    assert area.auc == pytest.approx(roc_auc_score(truth, by_hand[:, 1]), abs=1e-12)
    assert (area.positives, area.negatives) == (15, 15)
    assert (area.low, area.high) == newcombe_interval(area.auc, 15, 15)
    assert (found.findings, found.images) == (30, len(given.keys))
    assert found.figures.auc == area.auc
    assert found.figures.loss == pytest.approx(log_loss(truth, by_hand))
    assert found.figures.accuracy == accuracy_score(truth, by_hand.argmax(axis=1))
    images = score(replace(given, findings=None))
    assert (images.findings, images.images) == (len(given.keys), len(given.keys))
    assert images.classes[0].auc != area.auc


def test_figures_of_several_classes_are_of_findings_too() -> None:
    given, by_hand, truth = three_slices(3)
    found = score(given)
    for label, area in enumerate(found.classes):
        expected = roc_auc_score(truth == label, by_hand[:, label])
        assert area.auc == pytest.approx(expected, abs=1e-12)
        assert (area.positives, area.negatives) == (10, 20)
    expected = roc_auc_score(truth, by_hand, multi_class="ovr")
    assert found.figures.auc == pytest.approx(expected, abs=1e-12)


def test_labels_and_numbers_are_averaged_too() -> None:
    names = ["a", "a", "b", "c", "d", "d"]
    truth = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0], [0, 0]], dtype=np.float64)
    logits = np.random.default_rng(2).normal(size=truth.shape)
    given = predictions([0] * 6, logits, names, task="multilabel")
    found = score(replace(given, labels=truth))
    chance = 1 / (1 + np.exp(-logits))
    by_hand = np.array([chance[:2].mean(0), chance[2], chance[3], chance[4:].mean(0)])
    first = truth[[0, 2, 3, 4]]
    expected = -(first * np.log(by_hand) + (1 - first) * np.log(1 - by_hand)).mean()
    assert found.figures.loss == pytest.approx(expected)
    assert found.figures.accuracy == np.mean((by_hand > 0.5) == (first > 0.5))

    number = replace(
        given, task="regression", classes=("value",), scale=(10.0, 2.0),
        labels=np.array([[4.0], [4.0], [6.0], [9.0], [12.0], [12.0]]), outputs=logits[:, :1],
    )  # fmt: skip
    found = score(number)
    told = logits[:, 0] * 2 + 10
    means = np.array([told[:2].mean(), told[2], told[3], told[4:].mean()])
    assert found.figures.mae == pytest.approx(np.abs(means - [4, 6, 9, 12]).mean())
    assert (found.findings, found.images, found.classes, found.subgroups) == (4, 6, (), ())


def test_certain_answers_have_finite_figures() -> None:
    logits = np.array([[2000.0, 0.0], [0.0, 2000.0], [2000.0, 0.0]])
    found = score(predictions([0, 1, 1], logits, ["a", "b", "c"]))
    assert math.isfinite(found.figures.loss)
    assert found.classes[0].auc == 0.75


def test_the_area_is_of_the_probabilities_that_are_written() -> None:
    """However near they are: the way from mean probabilities to a loss may make them equal."""
    logits = np.array([[0.0, 0.3 + number * 2**-54] for number in range(400)])
    given = predictions([number * 7 % 5 % 2 for number in range(400)], logits)
    found = score(given)
    rows = list(csv.DictReader(io.StringIO(to_csv([given]))))
    truth = [row["label"] == "some" for row in rows]
    assert found.figures.auc == found.classes[0].auc
    shares = [float(row["p_some"]) for row in rows]
    assert found.classes[0].auc == pytest.approx(roc_auc_score(truth, shares), abs=1e-12)


case = st.tuples(
    st.integers(0, 1), st.sampled_from([-1.0, 0.0, 0.3, 0.7, 2.0]), st.sampled_from("xy")
)


@given(st.lists(case, min_size=2, max_size=14), st.data())
def test_copies_and_order_change_nothing(cases: list[tuple[int, float, str]], data: Any) -> None:
    """An image of a finding that has one, given again with its score, as often as one likes."""
    assume(len({label for label, _, _ in cases}) == 2)

    def figures(places: Sequence[int]) -> TestResult:
        labels, logits, zones = zip(*(cases[place] for place in places), strict=True)
        return score(
            predictions(
                labels, np.array([[0.0, logit] for logit in logits]),
                [f"f{place}" for place in places],
                subgroups=tuple({"zone": zone} for zone in zones),
            )
        )  # fmt: skip

    plain = figures(range(len(cases)))
    more = data.draw(st.lists(st.integers(0, len(cases) - 1), max_size=30))
    places = data.draw(st.permutations([*range(len(cases)), *more]))
    found = figures(places)
    assert found.images == len(places)
    same = {"images": 0, "figures": None}
    assert found.model_copy(update=same) == plain.model_copy(update=same)
    assert found.figures.auc == plain.figures.auc
    assert found.figures.accuracy == plain.figures.accuracy
    assert found.figures.loss == pytest.approx(plain.figures.loss)


@given(st.lists(case, min_size=2, max_size=14), st.data())
def test_copies_and_order_change_nothing_of_a_comparison(
    cases: list[tuple[int, float, str]], data: Any
) -> None:
    assume(len({label for label, _, _ in cases}) == 2)
    rows = [
        Row(finding=f"f{n}", patient=f"p{n // 2}", label=label, score=value)
        for n, (label, value, _) in enumerate(cases)
    ]
    again = data.draw(st.lists(st.sampled_from(rows), max_size=20))
    assert mean_auc(gather(data.draw(st.permutations(rows + again)))) == mean_auc(gather(rows))


def test_the_csv_has_a_line_for_each_image_and_names_its_finding() -> None:
    given = predictions([0, 1, 0], np.zeros((3, 2)), ["k0", "k1", "k0"])
    rows = list(csv.DictReader(io.StringIO(to_csv([given]))))
    assert [(row["key"], row["finding"]) for row in rows] == [
        ("k0", "k0"),
        ("k1", "k1"),
        ("k2", "k0"),
    ]
    alone = to_csv([replace(given, findings=None)])
    assert [row["finding"] for row in csv.DictReader(io.StringIO(alone))] == ["k0", "k1", "k2"]


def test_the_curves_of_the_report_are_of_findings(tmp_path: Path) -> None:
    from pages import make_run

    from hydrakit.report.roc import roc_curves

    given, by_hand, truth = three_slices(2)
    whole = replace(given, dataset="prostatex", classes=("benign", "significant"))
    rundir = make_run(tmp_path / "run", test=whole)
    results = rundir.results()
    assert results is not None
    (curve,) = roc_curves(rundir, results.test)
    np.testing.assert_allclose(curve.scores, by_hand[:, 1], rtol=1e-12)
    assert curve.positive.tolist() == (truth == 1).tolist()
    false_rate, true_rate = np.array(curve.points).T
    area = np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2)
    assert area == pytest.approx(roc_auc_score(truth, by_hand[:, 1]))


def test_images_are_counted_once_however_often_they_are_tested() -> None:
    tested = strategy(0.0, findings=12)
    assert len(tested.passes) == 2
    assert tested.images.tolist() == [3] * 12


# --- subgroups


def test_each_subgroup_of_a_run_has_its_own_figures() -> None:
    rng = np.random.default_rng(6)
    names = [f"f{n // 2}" for n in range(80)]  # two images of each finding
    truth = np.array([n // 2 % 2 for n in range(80)])
    zones = [("PZ", "TZ", "AS", "SV")[min(n // 26, 3)] for n in range(80)]
    logits = rng.normal(size=(80, 2))
    told = tuple({"zone": zone} for zone in zones)
    found = score(predictions(truth.tolist(), logits, names, subgroups=told))
    share = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert [each.value for each in found.subgroups] == ["AS", "PZ", "SV", "TZ"]
    for each in found.subgroups:
        inside = [n for n in range(0, 80, 2) if zones[n] == each.value]
        labels = truth[inside]
        counts = int(labels.sum()), int((1 - labels).sum())
        assert (each.name, each.class_name) == ("zone", "some")
        assert (each.positives, each.negatives) == counts
        if each.value == "SV":  # one finding
            assert (each.auc, each.low, each.high) == (None, None, None)
            continue
        means = [(share[n] + share[n + 1]) / 2 for n in inside]
        assert each.auc == pytest.approx(roc_auc_score(labels, means), abs=1e-12)
        assert (each.low, each.high) == newcombe_interval(each.auc, *counts)
    again = TestResult.model_validate_json(found.model_dump_json())
    assert again.subgroups == found.subgroups


def test_with_one_positive_finding_there_are_counts_alone() -> None:
    told = tuple({"zone": zone} for zone in "aaabbbb")
    given = predictions([0, 0, 1, 0, 0, 1, 1], np.zeros((7, 2)), subgroups=told)
    first, second = score(given).subgroups
    assert first == Subgroup(name="zone", value="a", class_name="some", positives=1, negatives=2)
    assert (second.auc, second.positives, second.negatives) == (0.5, 2, 2)


def strategy(shift: float, *, findings: int = 60) -> ScoreTable:
    """Three folds and two seeds; three images of a finding; every third finding positive."""
    rng = np.random.default_rng(3)
    return gather(
        Row(
            finding=f"f{n:02d}", patient=f"p{n // 2}", label=int(n % 3 == 0), seed=seed,
            fold=n // 2 % 3, score=float(rng.normal() + shift * (n % 3 == 0)),
        )
        for seed in range(2) for n in range(findings) for _ in range(3)
    )  # fmt: skip


def test_a_subgroup_of_a_comparison_is_judged_as_its_findings_alone() -> None:
    tested = {"hydra": strategy(1.0), "classical": strategy(0.0)}
    names = tested["hydra"].findings
    told: dict[str, dict[str, str]] = {name: {"zone": "PZ"} for name in names[:40]}
    told |= {name: {"zone": "TZ"} for name in names[40:55]}
    told |= {name: {} for name in names[55:58]}
    told |= {name: {"zone": "SV"} for name in names[58:]}
    found = subgroups_of(tested, told, level=0.9)
    assert [each.value for each in found] == ["PZ", "SV", "TZ"]
    assert not found[1].strategies
    assert found[1].positives + found[1].negatives == 2
    for each in (found[0], found[2]):
        for one in each.strategies:
            whole = tested[one.strategy]
            alone = gather(
                Row(
                    finding=name, patient=str(whole.patients[n]), label=int(whole.labels[n]),
                    score=float(whole.scores[at, n]), seed=seed, repeat=repeat,
                    fold=int(whole.folds[at, n]),
                )
                for at, (seed, repeat) in enumerate(whole.passes)
                for n, name in enumerate(whole.findings)
                if told[name].get("zone") == each.value
            )  # fmt: skip
            expected = mean_auc(alone, level=0.9)
            figures = expected.auc, expected.low, expected.high
            assert (one.auc, one.low, one.high) == pytest.approx(figures, abs=1e-9)
            assert (one.cells, one.left_out) == (expected.cells, expected.left_out)
            assert (each.positives, each.negatives) == (expected.positives, expected.negatives)
            assert each.patients == expected.patients
        assert [one.strategy for one in each.strategies] == ["hydra", "classical"]


def test_a_subgroup_whose_classes_no_fold_tested_together_has_counts_alone() -> None:
    rows = [
        Row(finding=f"{n}", patient=f"{n}", label=n % 2, score=float(n), fold=n // 2 % 2)
        for n in range(16)
    ]
    tested = {"one": gather(rows)}
    fold = {row.finding: row.fold for row in rows}
    label = {row.finding: row.label for row in rows}
    told = {name: {"odd": str((fold[name] + label[name]) % 2)} for name in fold}
    found = subgroups_of(tested, told, level=0.95)
    assert [(each.positives, each.negatives, each.strategies) for each in found] == [(4, 4, ())] * 2


def test_a_dataset_without_subgroups_has_none() -> None:
    tested = {"one": strategy(0.0)}
    told: dict[str, dict[str, str]] = {name: {} for name in tested["one"].findings}
    assert subgroups_of(tested, told, level=0.95) == ()
    assert score(predictions([0, 1], np.zeros((2, 2)))).subgroups == ()


# --- a run, from its files to its report


def grouped(root: Path) -> None:
    """As `helpers.write_dataset`, with three slices of each finding."""
    helpers.write_dataset(root, seed=3)
    with np.load(root / "cases.npz") as stored:
        arrays = {name: np.repeat(stored[name], 3, axis=0) for name in stored.files}
    noise = np.random.default_rng(1).normal(size=arrays["images"].shape).astype(np.float32)
    arrays["images"] += noise
    np.savez(root / "cases.npz", **arrays)


DECLARED = """
name = "omega"
classes = ["benign", "malignant"]
field_of_view = { share = 1.0 }
cases = "cases.npz"
[columns]
image = "images"
label = "labels"
patient = "patients"
finding = "lesion"
[subgroups]
zone = "zone"
[labels]
0 = "benign"
1 = "malignant"
"""


@pytest.fixture(scope="module")
def declared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the declared dataset ``omega``: three slices of each finding."""
    root = tmp_path_factory.mktemp("declared") / "omega"
    grouped(root)
    with np.load(root / "cases.npz") as stored:
        arrays = dict(stored)
    count = len(arrays["labels"])
    lesion = np.array([f"n{n // 3 % 2}" for n in range(count)])  # within the patient
    zone = np.array([("PZ", "PZ", "TZ", "")[n // 6 % 4] for n in range(count)])
    np.savez(root / "cases.npz", **arrays, lesion=lesion, zone=zone)
    (root / "dataset.toml").write_text(DECLARED)
    return root.parent


def test_a_run_counts_findings_from_its_files_to_its_report(
    declared: Path, tmp_path: Path, cache: Path
) -> None:
    from click.testing import CliRunner
    from pages import cells, parse, part

    from hydrakit.cli import main

    places = ["--data", str(declared), "--cache", str(cache)]
    checked = CliRunner().invoke(main, ["datasets", "check", "omega", *places, "--json"])
    assert checked.exit_code == 0, checked.output
    assert json.loads(checked.stdout)["counts"]["all"]["findings"] == 48
    assert json.loads(checked.stdout)["counts"]["all"]["all"] == 144
    table = CliRunner().invoke(main, ["datasets", "check", "omega", *places]).stdout
    assert "findings   patients" in table
    assert "subgroup zone, findings: PZ (24), TZ (12)" in table
    out = tmp_path / "run"
    options = [
        *("--strategy", "classical", "--datasets", "omega", "--epochs", "1", "--bootstrap", "1"),
        *(
            "--profile",
            "recommended-0.1",
            "--body-channels",
            "4,8",
            "--device",
            "cpu",
            "--out",
            str(out),
        ),
    ]
    ran = CliRunner().invoke(main, ["run", *places, *options])
    assert ran.exit_code == 0, ran.output
    with (out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    shares: dict[str, list[float]] = {}
    for row in rows:
        shares.setdefault(row["finding"], []).append(float(row["p_malignant"]))
    assert {len(of) for of in shares.values()} == {3}
    truth = {row["finding"]: row["label"] == "malignant" for row in rows}
    told = json.loads((out / "results.json").read_text())["test"]
    (area,) = told["classes"]
    means = [float(np.mean(of)) for of in shares.values()]
    assert area["auc"] == pytest.approx(roc_auc_score([truth[f] for f in shares], means))
    assert area["positives"] == sum(truth.values())
    assert (told["findings"], told["images"]) == (len(shares), len(rows))
    assert {each["value"] for each in told["subgroups"]} <= {"PZ", "TZ"}
    counts = (
        f"{area['positives']} positive, {area['negatives']} negative findings, {len(rows)} images"
    )
    assert counts in ran.stdout
    again = CliRunner().invoke(main, ["evaluate", str(out), "--cache", str(cache)])
    assert again.exit_code == 0, again.output
    assert counts in again.stdout
    assert "zone PZ: " in again.stdout

    page = parse(out / "report.html")
    words = page.all("section")[0].words()
    assert f"negative findings ({len(rows)} images)" in words
    assert f"averaged over its images ({len(rows)} images in total)" in words
    (drawn,) = (t for t in part(page, "Test results").all("table") if "subgroup" in t.words())
    assert [row[0] for row in cells(drawn)[1:]] == [
        f"zone: {s['value']}" for s in told["subgroups"]
    ]
    assert "Differences between subgroups are not tested" in part(page, "Test results").words()
    (data,) = (t for t in part(page, "Data").all("table") if "Cases of omega" in t.words())
    header, *_, total = cells(data)
    assert total[header.index("Findings")] == "48"
    assert total[header.index("All cases")] == "144"


def test_a_comparison_counts_findings_and_tells_of_subgroups(
    declared: Path, tmp_path: Path, cache: Path
) -> None:
    from click.testing import CliRunner
    from pages import cells, parse, part

    from hydrakit.cli import main
    from hydrakit.stats.comparison import Comparison

    out = tmp_path / "out"
    arguments = [
        *(
            "compare",
            "--no-baselines",
            "--strategies",
            "classical,transfer",
            "--datasets",
            "omega",
            "--folds",
            "2",
        ),
        *(
            "--seeds",
            "1",
            "--epochs",
            "1",
            "--bootstrap",
            "1",
            "--profile",
            "recommended-0.1",
            "--body-channels",
            "4,8",
        ),
        *("--data", str(declared), "--cache", str(cache), "--out", str(out), "--jobs", "1"),
        *("--device", "cpu"),
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    found = Comparison.model_validate_json((out / "comparison.json").read_bytes())
    assert (found.positives + found.negatives, found.images, found.patients) == (48, 144, 40)
    assert "findings (144 images) of 40 patients" in result.stdout
    assert "test AUC by subgroup (differences between subgroups are not tested)" in result.stdout
    counted = {each.value: each.positives + each.negatives for each in found.subgroups}
    assert counted == {"PZ": 24, "TZ": 12}
    section = part(parse(out / "report.html"), "Test results")
    (drawn,) = (t for t in section.all("table") if "subgroup" in t.words())
    rows = {row[0]: row for row in cells(drawn)[1:]}
    for each in found.subgroups:
        row = rows[f"zone: {each.value}"]
        assert row[1:4] == [str(each.positives), str(each.negatives), str(each.patients)]
        assert row[4].startswith(f"{each.strategies[0].auc:.3f} (")
    assert "For 12 findings, the zone is unknown or not unique" in section.words()

    path = next(out.glob("cells/*/predictions.csv"))
    path.with_name("files.json").unlink()  # which would tell that it was changed
    path.write_text(path.read_text().replace(",finding,", ",lesion,"))
    broken = CliRunner().invoke(main, arguments)
    assert broken.exit_code == 1
    assert (
        "but its finding has changed in the data: restore the data, or start a new" in broken.stderr
    )


def test_orders_of_supports_are_compared_on_findings(
    declared: Path, tmp_path: Path, cache: Path
) -> None:
    from hydrakit.data.declared.adapter import with_declared
    from hydrakit.runs.callbacks import RunCallback
    from hydrakit.runs.context import RunContext
    from hydrakit.search.order_evaluator import OrderEvaluator
    from hydrakit.storage.paths import using_cache

    offered = with_declared(helpers.plugins(), declared, {})
    plan = helpers.plan_of(helpers.round_of("omega", epochs=1))
    judge = OrderEvaluator(
        folder=tmp_path, plan=lambda _, seed: plan,
        seeds=(0,), target=offered.get(DatasetAdapter, "omega"), plugins=offered,
        context=RunContext(data=declared, cache=cache, device="cpu"), callback=RunCallback(),
    )  # fmt: skip
    with using_cache(cache):
        assert list(judge.train([()])) == [()]
        tested = judge.score_table(())
        positives, negatives = judge.counts()
    assert len(tested.findings) == positives + negatives
    assert positives == int(tested.labels.sum())
    assert tested.images.tolist() == [3] * len(tested.findings)
