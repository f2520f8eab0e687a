"""Parts of reports: bands, transfer, chance, use of test labels, examples, runs in progress."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import NO_PLUGINS, cells, make_run, parse, part, report
from scipy.stats import kstwo, mannwhitneyu
from sklearn.metrics import brier_score_loss

from hydrakit.errors import PlanError
from hydrakit.plan.results import AreaUnderCurve, Bootstrap, DataFacts
from hydrakit.report import write_report
from hydrakit.report.cases import read_examples
from hydrakit.report.figures import moving_average
from hydrakit.report.page import build_report
from hydrakit.report.roc import RocCurve, kolmogorov_quantile, roc_band, roc_points
from hydrakit.report.rounds import chance_note, two_classes
from hydrakit.report.scores import sensitivity_table
from hydrakit.runs.example_cases import choose_examples


@pytest.mark.parametrize("count", [4, 15, 76, 254])
def test_the_quantile_is_kolmogorovs(count):
    for level in (0.9, 0.95, 0.975):
        assert kolmogorov_quantile(count, level) == pytest.approx(
            kstwo.ppf(level, count), abs=0.007
        )


def test_the_band_holds_the_whole_true_curve():
    """Two normal distributions: the true curve is known; of 100 bands about 95 hold all of it."""
    from scipy.stats import norm

    rng = np.random.default_rng(0)
    thresholds = np.linspace(-5, 6, 400)
    true = np.column_stack([norm.sf(thresholds), norm.sf(thresholds - 1)])
    held = 0
    for _ in range(200):
        scores = np.concatenate([rng.normal(1, 1, 20), rng.normal(0, 1, 60)])
        points = roc_points(scores, np.arange(80) < 20)
        outline = np.array(roc_band(points, 20, 60))
        half = len(points) + 3
        upper, lower = outline[:half], outline[half:][::-1]
        top = np.array([upper[upper[:, 0] <= x + 1e-12, 1].max() for x in true[:, 0]])
        low = np.array([lower[lower[:, 0] >= x - 1e-12, 1].min() for x in true[:, 0]])
        held += bool(((true[:, 1] <= top + 1e-9) & (true[:, 1] >= low - 1e-9)).all())
    assert held >= 188


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20), st.sampled_from([1, 3, 5]))
def test_a_moving_average_keeps_length_range_and_straight_lines(values, window):
    found = moving_average(values, window)
    assert len(found) == len(values)
    assert min(values) - 1e-12 <= min(found) <= max(found) <= max(values) + 1e-12
    line = [0.5 * place for place in range(len(values))]
    assert moving_average(line, window) == pytest.approx(line)


@pytest.mark.parametrize(
    ("counts", "cases", "found"),
    [
        ({"a": 3, "b": 4}, {"val": 7}, [3, 4]),
        ({"a": 3, "b": 4}, {"val": 6}, None),
        ({"a": 3, "b": 0}, {}, None),
        ({"a": 3, "b": 4, "c": 1}, {}, None),
    ],
)
def test_two_classes_are_told_from_other_tasks(counts, cases, found):
    facts = DataFacts(
        digest="", channels=1, cases=cases, counts={"val": counts}, findings={"val": counts},
        patients={}, unlabelled=0, excluded={},
    )  # fmt: skip
    assert two_classes(facts, "val", None) == found
    if found:  # several images of a finding
        fewer = facts.model_copy(update={"findings": {"val": {"a": 2, "b": 3}}})
        assert two_classes(fewer, "val", None) == [2, 3]


def test_the_transfer_matrix_and_what_follows_from_it(tmp_path):
    page = report(make_run(tmp_path / "run"))
    section = part(page, "Transfer between rounds")
    rows = {row[0]: row[1:] for row in cells(section.all("table")[0])[1:]}

    assert rows["prostatex"][:3] == ["0.700", "0.700", "0.780"]
    assert rows["prostatex"][4:] == ["-0.080", "–", "+0.080"]
    assert rows["brain"][:3] == ["0.600", "0.800", "0.620"]
    assert rows["brain"][4:] == ["+0.180", "-0.180", "–"]
    assert rows["lung"][4:] == ["+0.140", "-0.140", "–"]
    figure = section.all("figure")[0]
    numbers = [node.words() for node in figure.all("text") if node.attributes.get("class")]
    assert numbers.count("0.700") == 2
    assert len(numbers) == 1 + 2 + 2 + 3 * 4
    frames = [node for node in figure.all("rect") if node.attributes["class"] == "frame"]
    assert len(frames) == 7
    moved = section.all("figure")[1].words()
    assert "round 3, convolutions: 0.03" in moved
    assert "statistics" not in moved.split("Euclidean norm")[0]


def test_chance_is_noted_with_the_best_initialisation(tmp_path):
    rundir = make_run(tmp_path / "run")
    words = part(report(rundir), "Rounds").words()
    assert (
        "Expected best AUC of 3 random classifiers on these cases (8 positive and 30 negative"
        in words
    )
    assert "random initialisation had 0.630: not better than expected by chance." in words
    first = rundir.results().rounds[0]
    lucky = first.model_copy(update={"bootstrap": Bootstrap(chosen=0, val_auc=(0.99, 0.2, 0.1))})
    assert "0.990: better than expected by chance" in chance_note(lucky, (30, 8))
    assert chance_note(first, None) is None


def test_a_single_start_gets_the_range_of_chance():
    rundir_first = Bootstrap(chosen=0, val_auc=(0.5,))
    from hydrakit.plan.results import Metrics, RoundResult

    first = RoundResult(
        round=1, dataset="d", train="all", head="d", learning_rate=1, dropout=0, best_epoch=1,
        epochs=1, val=Metrics(loss=1, auc=0.6), reference_auc=None, seconds=1,
        bootstrap=rundir_first,
    )  # fmt: skip
    words = chance_note(first, (5, 4))
    assert "AUC of a random classifier" in words
    # The mean, and the 2.5 % and 97.5 % quantiles, over all 126 orders of 4 and 5 scores.
    aucs = []
    for places in combinations(range(9), 4):
        others = sorted(set(range(9)) - set(places))
        aucs.append(float(mannwhitneyu(places, others).statistic) / 20)
    aucs.sort()
    low, high = (aucs[math.ceil(share * len(aucs)) - 1] for share in (0.025, 0.975))
    expected = [f"{value:.3f}" for value in (np.mean(aucs), low, high)]
    assert re.findall(r"\b[01]\.\d{3}\b", words) == expected


def test_every_reading_of_test_labels_is_counted(tmp_path):
    rundir = make_run(tmp_path / "run")
    assert "were read once" in part(report(rundir), "Test results").words()
    rundir.log("evaluated", dataset="prostatex", split="test")
    rundir.log("evaluated", dataset="prostatex", split="val")
    rundir.log("evaluated", dataset="brain", split="all")
    assert "were read 2 times" in part(report(rundir), "Test results").words()
    path = rundir.path / "events.jsonl"
    path.write_text(path.read_text() + '{"time": "2026', encoding="utf-8")  # killed while writing
    assert "were read 2 times" in part(report(rundir), "Test results").words()
    path.write_text("half\n" + path.read_text(), encoding="utf-8")
    with pytest.raises(PlanError, match=r"events\.jsonl: line 1 cannot be read"):
        write_report(rundir, plugins=NO_PLUGINS)


def test_calibration_is_scikit_learns(tmp_path):
    rundir = make_run(tmp_path / "run")
    section = part(report(rundir), "Test results")
    with (rundir.path / "predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    truth = [row["label"] == "significant" for row in rows]
    score = brier_score_loss(truth, [float(row["p_significant"]) for row in rows])
    table = cells(section.all("table")[0])
    assert table[1][:2] == ["significant", f"{score:.3f}"]
    assert "calibrated network" in section.words()


def unfinished(folder: Path, done: int):
    rundir = make_run(folder)
    for name in ("results.json", "predictions.csv", "body.safetensors"):
        (folder / name).unlink(missing_ok=True)
    for number, round in list(enumerate(rundir.plan().rounds, start=1))[done:]:
        shutil.rmtree(rundir.round_path(number, round))
    return rundir


@pytest.mark.parametrize("done", [0, 1, 3, 7])
def test_a_run_under_way_tells_what_there_is(tmp_path, done):
    rundir = unfinished(tmp_path / "run", done)
    page = report(rundir)
    words = page.all("section")[0].words()
    told = (
        f"In progress: {done} of 7 rounds are finished."
        if done < 7
        else "All 7 rounds are finished."
    )
    assert told in words
    refresh = [node for node in page.all("meta") if node.attributes.get("http-equiv") == "refresh"]
    assert [node.attributes["content"] for node in refresh] == ["30"]
    table = cells(part(page, "Rounds").all("table")[0])
    stages = [row[6] for row in table[1:-1]]
    assert [stage in ("in progress", "pending") for stage in stages] == [False] * done + [True] * (
        7 - done
    )
    assert stages.count("in progress") == (done < 7)
    assert len(part(page, "Training").all("figure")) == (3 if done > 1 else 2 * done)
    assert not any(h.words() == "Test results" for h in page.all("h2"))


def test_a_run_that_has_not_read_its_data_has_a_report(tmp_path):
    rundir = unfinished(tmp_path / "run", 0)
    for name in ("data.json", "environment.json", "events.jsonl"):
        (rundir.path / name).unlink()
    page = report(rundir)
    assert "has not been read yet" in part(page, "Data").words()


def test_a_finished_run_is_not_read_again(tmp_path):
    page = report(make_run(tmp_path / "run"))
    assert not any(node.attributes.get("http-equiv") == "refresh" for node in page.all("meta"))


def write_examples(rundir, count=3):
    """Write example cases into a folder, without data."""
    from safetensors.numpy import save

    _, chosen = choose_examples(rundir)
    rng = np.random.default_rng(0)
    maps, patches = rng.normal(size=(2, count, 1, 9, 9)).astype(np.float32)
    text = json.dumps([each.model_dump() for each in chosen[:count]])
    path = rundir.path / "shown.safetensors"
    path.write_bytes(save({"maps": maps, "patches": patches}, {"shown": text}))
    return chosen[:count], path


def test_shown_cases_have_pictures_and_no_names(tmp_path):
    rundir = make_run(tmp_path / "run")
    chosen, path = write_examples(rundir)
    section = part(report(rundir), "Example test cases")
    pictures = section.all("img")
    assert len(pictures) == 2 * len(chosen)
    assert all(p.attributes["src"].startswith("data:image/png;base64,") for p in pictures)
    assert all(p.attributes["alt"] for p in pictures)
    words = section.words()
    for each in chosen:
        assert f"{each.place}: predicted" in words
    assert "secret" not in rundir.report_path.read_text()
    assert b"secret" not in path.read_bytes()


def test_a_broken_file_of_shown_cases_is_said(tmp_path):
    rundir = make_run(tmp_path / "run")
    _, path = write_examples(rundir)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(PlanError, match=r"shown\.safetensors: cannot be read"):
        read_examples(rundir)


def test_the_figures_are_in_the_order_of_the_page(tmp_path):
    rundir = make_run(tmp_path / "run")
    text, figures = build_report(rundir, plugins=NO_PLUGINS)
    (tmp_path / "page.html").write_text(text)
    captions = [f.all("b")[0].words() for f in parse(tmp_path / "page.html").all("figure")]
    assert len({figure.name for figure in figures}) == len(figures) == len(captions)
    for number, (figure, caption) in enumerate(zip(figures, captions, strict=True), start=1):
        assert caption == f"Figure {number}. {figure.caption}"
        assert figure.rows
        assert all(len(row) == len(figure.columns) for row in figure.rows)


def test_sensitivity_at_fixed_specificity_is_that_of_the_threshold() -> None:
    random = np.random.default_rng(4)
    positive = np.arange(60) % 3 == 0
    scores = random.random(60) + 0.4 * positive
    points = roc_points(scores, positive)
    area = AreaUnderCurve(
        class_name="malignant", auc=0.8, low=0.7, high=0.9, positives=20, negatives=40
    )
    text = str(sensitivity_table([RocCurve(area, points, scores, positive)]))
    for specificity in (0.8, 0.9, 0.95):
        allowed = 1 - specificity
        by_hand = max(y for x, y in points if x <= allowed + 1e-9)
        assert f"<td>{by_hand:.3f}</td>" in text or f">{by_hand:.3f}<" in text, specificity
