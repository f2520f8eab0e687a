"""The report of a run: what it says is what its folder holds."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import forget_digests
from pages import (
    NO_PLUGINS,
    Node,
    adapter,
    cells,
    drawn,
    make_run,
    part,
    plotted,
    plugins,
    predictions,
    report,
)

from hydrakit.errors import PlanError
from hydrakit.plan.results import AreaUnderCurve
from hydrakit.report import write_report
from hydrakit.report.markup import Html, element
from hydrakit.report.provenance import rerun_command
from hydrakit.report.verdict import interpretation
from hydrakit.stats.decision_test import judge
from hydrakit.stats.decisions import fit_decision
from hydrakit.stats.intervals import newcombe_interval
from hydrakit.storage.records import write_record


def test_only_markup_goes_in_as_markup():
    assert element("p", "a < b", Html("<b>&amp;</b>"), None, 3) == "<p>a &lt; b<b>&amp;</b>3</p>"
    assert element("p", class_='"x"', aria_label="a&b", id=None) == (
        '<p class="&quot;x&quot;" aria-label="a&amp;b"></p>'
    )


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.52, 0.97, "excludes 0.5"),
        (0.31, 0.88, "on these 19 findings, the network is not distinguishable from chance"),
        (0.5, 0.9, "not distinguishable from chance"),
        (0.1, 0.45, "worse than chance"),
    ],
)
def test_interpretation_of_an_interval(low, high, expected):
    area = AreaUnderCurve(
        class_name="x", auc=(low + high) / 2, low=low, high=high, positives=4, negatives=15
    )
    assert expected in interpretation(area)
    assert f"from {low:.3f} to {high:.3f}" in interpretation(area)


def test_the_verdict_comes_first_and_says_what_it_rests_on(tmp_path):
    rundir = make_run(tmp_path / "run", test=predictions(4, 15, shift=0.3))
    found = rundir.results().test
    page = report(rundir)

    section = page.all("section")[0]
    verdict = section.children[0].words()
    area = found.classes[0]
    assert f"{area.auc:.3f}" in verdict
    assert f"95 % confidence interval {area.low:.3f} to {area.high:.3f}" in verdict
    assert "4 positive (significant) and 15 negative findings" in verdict
    words = section.words()
    assert area.low < 0.5 < area.high
    assert "not distinguishable from chance" in words
    assert "One positive finding contributes 0.250 to the AUC, one negative finding 0.067." in words
    assert "The 19 findings come from 16 patients" in words
    assert f"Accuracy {found.figures.accuracy:.3f}" in words
    assert "most frequent class gives 0.789" in words


def test_one_patient_is_one(tmp_path):
    page = report(make_run(tmp_path / "run", facts={"patients": {"test": 1}}))
    assert "The 19 findings come from 1 patient. The" in page.all("section")[0].words()


def test_no_word_of_patients_where_each_has_one_case(tmp_path):
    page = report(make_run(tmp_path / "run", facts={"patients": {"test": 19}}))
    assert "independent" not in page.all("section")[0].words()


def test_more_than_two_classes(tmp_path):
    test = predictions(6, 10, classes=("none", "a", "b"))
    rundir = make_run(tmp_path / "run", test=test)
    page = report(rundir)
    found = rundir.results().test

    verdict = page.all("section")[0]
    assert f"{found.figures.auc:.3f}" in verdict.children[0].words()
    assert "macro average of 3 classes, each versus the rest; 22 findings" in verdict.words()
    rows = cells(verdict.all("table")[0])[1:]
    assert [row[:5] for row in rows] == [
        [a.class_name, str(a.positives), str(a.negatives), f"{a.auc:.3f}",
         f"{a.low:.3f} to {a.high:.3f}"]
        for a in found.classes
    ]  # fmt: skip
    assert "most frequent class gives 0.455" in verdict.words()
    roc = drawn(page, "roc")
    assert [len(plotted(roc.all("svg")[-1], f"line c{number}")) for number in range(4)] == [
        1,
        1,
        1,
        0,
    ]
    for area in found.classes:
        assert f"{area.class_name}: AUC {area.auc:.3f}" in roc.all("ul")[0].words()


def test_the_rounds_are_those_of_the_results(tmp_path):
    rundir = make_run(tmp_path / "run")
    table = report(rundir).all("section")[1].all("table")[0]

    header, *rows, total = cells(table)
    assert header[:3] == ["Round", "Dataset", "Trained"]
    for row, result in zip(rows, rundir.results().rounds, strict=True):
        low, high = newcombe_interval(result.val.auc, 8, 30)
        reference = "–" if result.round == 1 else f"{result.reference_auc:.3f}"
        assert row == [
            str(result.round),
            result.dataset,
            result.train,
            result.head,
            "1e-05",
            "0.3",
            f"{result.best_epoch} of 6",
            f"{result.val.loss:.3f}",
            f"{result.val.auc:.3f}",
            f"{low:.3f} to {high:.3f}",
            "0.625",
            reference,
            f"{result.seconds:.0f}",
        ]
    assert total[0] == "Total"
    assert total[-1] == "350"


def test_notes_on_the_rounds(tmp_path):
    words = report(make_run(tmp_path / "a", carry_head="last")).all("section")[1].words()
    assert "best of 3 random initialisations" in words
    assert "from 0.410 to 0.630" in words
    assert "the head of the last epoch" in words
    words = (
        report(make_run(tmp_path / "b", rounds=[("prostatex", "all")])).all("section")[1].words()
    )
    assert "Reference AUC: not available" in words
    assert "the head of the last epoch" not in words


def test_the_file_needs_nothing_else(tmp_path):
    rundir = make_run(tmp_path / "run")
    page = report(rundir)
    text = rundir.report_path.read_text(encoding="utf-8")

    for tag in ("script", "img", "iframe", "object", "embed", "form", "base"):
        assert page.all(tag) == []
    assert [link.attributes["href"] for link in page.all("link")] == ["data:,"]
    assert not re.search(r"\b(src|srcset|xlink:href)=|url\(|@import", text)
    assert "default-src 'none'" in text
    assert len(text) < 100_000


def test_no_case_is_named(tmp_path):
    rundir = make_run(tmp_path / "run")
    assert "secret-18" in (rundir.path / "predictions.csv").read_text()
    report(rundir)
    assert "secret" not in rundir.report_path.read_text()


def test_text_from_outside_stays_text(tmp_path):
    evil = '<script>alert("1")</script>$title&amp;'
    test = predictions(4, 15, classes=("benign", evil))
    facts = {
        "counts": {"test": {"benign": 15, evil: 4}},
        "excluded": {evil: 2},
    }
    rundir = make_run(tmp_path / "run", test=test, facts=facts)
    rundir.write_json("environment.json", {"torch": evil, "device": evil})
    page = report(
        rundir, plugins(adapter("prostatex", citation=evil, licence=evil, classes=("benign", evil)))
    )

    assert page.all("script") == []
    data = part(page, "Data").words()
    assert f"2: {evil}" in data
    assert data.count(evil) >= 4
    assert evil in part(page, "Reproduce this run").words()


def test_the_data_of_each_dataset(tmp_path):
    rundir = make_run(tmp_path / "run")
    section = part(report(rundir, plugins(adapter("prostatex"), adapter("lung"))), "Data")

    assert [h.words() for h in section.all("h3")] == ["prostatex (target)", "brain", "lung"]
    assert cells(section.all("table")[0]) == [
        ["Split", "benign", "significant", "All cases", "Patients"],
        ["train", "200", "60", "260", "150"],
        ["val", "30", "8", "38", "20"],
        ["test", "15", "4", "19", "16"],
        ["Total", "245", "72", "317", "186"],
    ]
    target, brain, lung = (
        dict(zip([t.words() for t in dl.all("dt")], [d.words() for d in dl.all("dd")], strict=True))
        for dl in section.all("dl")
    )
    assert target["Excluded"] == "6: position outside the volume 1: no highest-b series"
    assert target["Without label"] == "3 cases, unused"
    assert target["Split"] == "train 8, val 1, test 1; all cases of a patient are in one split"
    assert target["Options"] == "slice=geometry"
    assert target["Citation"] == "Author A. The prostatex set, 2020."
    assert target["Licence"] == "CC BY 3.0"
    assert lung["About"] == "Images of lung"
    assert "Citation" not in brain
    assert brain["Split"] == "train 8, val 1; all cases of a patient are in one split"


SHORTCUTS = [
    {"fact": fact, "class_name": "significant", "auc": 0.8, "low": low, "high": 0.9,
     "strong": strong}
    for fact, low, strong in [("mode", 0.7, True), ("width", 0.55, False)]
]  # fmt: skip


def data_of(page: Node, place: int = 0) -> dict[str, str]:
    """What the report says of a dataset of the run."""
    dl = part(page, "Data").all("dl")[place]
    words = [[node.words() for node in dl.all(tag)] for tag in ("dt", "dd")]
    return dict(zip(*words, strict=True))


def test_leakage_results_of_a_dataset(tmp_path):
    facts = {"copies": 12, "withheld": 3, "unused": 7, "shortcuts": SHORTCUTS}
    page = report(make_run(tmp_path / "run", facts=facts))
    details = data_of(page)
    assert details["Duplicates"] == (
        "12 cases duplicate an image of another patient; "
        "duplicates of an image are in the same split"
    )
    assert details["Withheld"] == (
        "3 cases that share a patient or an image with the test split of prostatex"
    )
    assert details["Unused"] == "7 cases, by the plan's split"
    assert details["Shortcuts"] == (
        "Warning: mode alone predicts significant, AUC 0.800 (0.700 to 0.900)"
    )
    verdict = page.all("section")[0].words()
    assert "file properties alone predict the class in prostatex (mode)" in verdict


def test_a_dataset_without_duplicates_and_shortcuts(tmp_path):
    page = report(make_run(tmp_path / "run"))
    details = data_of(page)
    assert details["Duplicates"] == "none"
    assert details["Shortcuts"] == "none: no file property alone predicts the class well"
    assert not {"Withheld", "Unused"} & details.keys()
    assert "file properties" not in page.all("section")[0].words()


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"copies": "drop"}, "5 of them were removed, so that each image has one patient"),
        ({"copies": "report"}, "so duplicates of an image can be in different splits"),
    ],
)
def test_treatment_of_duplicates_is_that_of_the_plan(tmp_path, choice, expected):
    rundir = make_run(tmp_path / "run", facts={"copies": 12, "dropped": 5})
    forget_digests(rundir.path)
    plan = json.loads(rundir.plan_path.read_text())
    rundir.plan_path.write_text(json.dumps(plan | choice))
    assert expected in data_of(report(rundir))["Duplicates"]


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("drop", "none of them is used"), ("keep", "they are treated like other duplicates")],
)
def test_contradictory_labels_are_listed_and_mentioned_only_where_there_are_any(
    tmp_path, choice, expected
):
    for name, facts in (("with", {"conflicting": ["a.png", "<b>.png"]}), ("without", {})):
        rundir = make_run(tmp_path / name, facts=facts)
        forget_digests(rundir.path)
        plan = json.loads(rundir.plan_path.read_text())
        rundir.plan_path.write_text(json.dumps(plan | {"conflicts": choice}))
        page = report(rundir)
        if facts:
            entry = data_of(page)["Contradictory labels"]
            assert "2 cases" in entry
            assert expected in entry
            assert "a.png" in entry
            assert "<b>.png" in entry
        else:
            assert "Contradictory labels" not in data_of(page)
            assert "different labels" not in page.words()


def test_reproduction(tmp_path):
    rundir = make_run(tmp_path / "run")
    section = part(report(rundir), "Reproduce this run")

    given = shlex.split(section.all("pre")[0].words())
    folder = str(tmp_path / "run")
    assert given == ["hydrakit", "run", "--plan", f"{folder}/plan.json", "--data", "/data/my sets",
                     "--device", "cuda:0", "--threads", "16",
                     "--out", f"{folder}-again"]  # fmt: skip
    words = section.words()
    for said in (rundir.plan().digest(), "ab" * 32, "2.13.0", "cuda:0, NVIDIA H200", "3.11.9"):
        assert said in words


def test_the_command_names_roots_that_lie_apart():
    roots = {"roots": {"brain": "/a/brain", "lung": "/b/LUNGx"}}
    assert rerun_command(Path("runs/x"), roots) == (
        "hydrakit run --plan runs/x/plan.json --root brain=/a/brain --root lung=/b/LUNGx "
        "--out runs/x-again"
    )


def test_the_same_folder_gives_the_same_file(tmp_path):
    rundir = make_run(tmp_path / "run")
    first = write_report(rundir).read_bytes()
    assert write_report(rundir).read_bytes() == first
    assert "report.html" in {path.name for path in rundir.path.iterdir()}


def remove(name):
    return lambda rundir: (rundir.path / name).unlink()


def write(name, text):
    return lambda rundir: (rundir.path / name).write_text(text)


def swap_labels(rundir):
    path = rundir.path / "predictions.csv"
    lines = path.read_text().splitlines()
    lines[-1] = lines[-1].replace(",significant,", ",benign,", 1)
    path.write_text("\n".join(lines) + "\n")


def edit_plan(rundir):
    plan = json.loads(rundir.plan_path.read_text())
    plan["rounds"].pop()
    rundir.plan_path.write_text(json.dumps(plan))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (write("results.json", "{}"), r"results\.json: cannot be read"),
        (remove("data.json"), r"data\.json: does not list every dataset"),
        (write("data.json", "["), r"data\.json: cannot be read"),
        (write("environment.json", "["), r"environment\.json: cannot be read"),
        (remove("predictions.csv"), r"predictions\.csv: cannot be read .*: delete .*results\.json"),
        (write("predictions.csv", "a,b\n1,2\n"), r"predictions\.csv: has no column 'split'"),
        (
            write("predictions.csv", "split,finding,label,p_significant\ntest,a,benign,high\n"),
            r"predictions\.csv: is broken",
        ),
        (
            write("predictions.csv", "split,finding,label,p_significant\ntest,a,benign\n"),
            r"predictions\.csv: is broken",
        ),
        (write("predictions.csv", "split,finding,label,p_significant\n"), "do not give the AUC"),
        (swap_labels, "do not give the AUC"),
        (remove("rounds/03-brain-all/metrics.jsonl"), r"03-brain-all/metrics\.jsonl: cannot be"),
        (write("rounds/03-brain-all/metrics.jsonl", ""), "does not have the 6 epochs"),
        (edit_plan, r"results\.json: has other rounds than plan\.json"),
    ],
)
def test_a_folder_that_is_not_whole_is_said(tmp_path, harm, message):
    rundir = make_run(tmp_path / "run")
    forget_digests(rundir.path)
    harm(rundir)
    with pytest.raises(PlanError, match=message) as caught:
        write_report(rundir, plugins=NO_PLUGINS)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_report_does_not_load_torch():
    code = "import sys, hydrakit.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_stored_threshold_replaces_the_one_from_the_test_split(tmp_path):
    rundir = make_run(tmp_path / "run", test=predictions(12, 30, shift=1.0))
    results = rundir.results()
    before = report(rundir).words()
    assert "with thresholds from the test split itself" in before
    assert "Calibration and threshold" not in before
    rng = np.random.default_rng(1)
    labels = np.arange(90) % 3 // 2
    second = rng.beta(1 + labels, 2)
    chosen = fit_decision(
        np.column_stack([1 - second, second]), labels, networks=1, source="validation"
    )
    scores = np.column_stack([1 - second[:42], second[:42]])
    judged = judge(chosen, scores, labels[:42], [str(n) for n in range(42)], ["a", "b"])
    test = results.test.model_copy(update={"decision": judged})
    write_record(rundir.results_path, results.model_copy(update={"test": test}))
    words = report(rundir).words()
    assert "with thresholds from the test split itself" not in words
    assert chosen.threshold is not None
    assert f"at the stored threshold {chosen.threshold.value:.3f}" in words
    assert judged.sensitivity is not None
    low, high = judged.sensitivity.low, judged.sensitivity.high
    assert f"{judged.sensitivity.value:.3f} {low:.3f} to {high:.3f}" in words
    (tn, fp), (fn, tp) = judged.confusion
    assert f"a {tn} {fp} {tn + fp}" in words
    assert f"b {fn} {tp} {fn + tp}" in words
    assert judged.decision in words
