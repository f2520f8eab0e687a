"""The report of a comparison: what it says is what ``comparison.json`` holds."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from compared import FOLDS, SEEDS, make_comparison
from pages import NO_PLUGINS, adapter, cells, parse, part, plotted, plugins
from sklearn.metrics import roc_auc_score, roc_curve

from hydrakit.cli import main
from hydrakit.compare.design import CompareDir, Description, Design
from hydrakit.errors import PlanError
from hydrakit.report import build_comparison, write_comparison_report
from hydrakit.report.comparison_figures import (
    RATES,
    cell_values,
    interpolated,
    resampled_band,
    weighted_heights,
)
from hydrakit.runs.rundir import RunDir


def page_of(folder, offered=NO_PLUGINS):
    path = write_comparison_report(folder, plugins=offered)
    assert path == folder / "report.html"
    return parse(path)


def test_the_verdict_comes_first_and_says_what_it_rests_on(tmp_path):
    found = make_comparison(tmp_path / "c")
    words = page_of(tmp_path / "c").all("section")[0].words()
    said = re.sub(r"\s+", "", words)
    assert re.sub(r"\s+", "", found.pairs[1].text) in said
    headline = page_of(tmp_path / "c").all("section")[0].all("b")[0].words()
    assert found.pairs[0].text.startswith(headline)
    assert found.pairs[0].text[len(headline) :].startswith((" (", ": mean"))
    assert f"{found.positives} positive (significant) and {found.negatives} negative" in words
    assert "2 seeds, 1 repeat of 4-fold cross-validation" in words
    assert "read 24 times, always after model selection" in words
    assert "Incomplete" not in words


def test_baselines_are_marked_and_repeated(tmp_path):
    make_comparison(tmp_path / "c", baselines={"classical": "a logistic regression on <22>"})
    page = page_of(tmp_path / "c")
    assert page.all("h1")[0].words() == "2 strategies and 1 baseline on prostatex"
    names = [row[0] for row in cells(part(page, "Strategies").all("table")[0])[1:]]
    assert names == ["hydra", "transfer", "classical (baseline)"]
    assert "The baseline classical is a logistic regression on <22>." in page.words()
    names = [row[0] for row in cells(part(page, "Differences").all("table")[0])[1:]]
    assert names == ["hydra − transfer", "hydra − classical (baseline)"]
    command = part(page, "Reproduce this comparison").all("pre")[0].words()
    assert "--strategies hydra,transfer --baselines classical --datasets" in command


def test_what_is_missing_is_said(tmp_path):
    make_comparison(tmp_path / "c", used=18, failed={"hydra-seed1": "too <little> memory"})
    page = page_of(tmp_path / "c")
    assert "the results include 18 of 24 cells" in page.all("section")[0].words()
    assert "hydra-seed1: too <little> memory" in part(page, "Cells").words()


def test_one_under_way_says_so_first_and_is_read_again(tmp_path):
    make_comparison(tmp_path / "c", used=18, done=20, under_way=True)
    page = page_of(tmp_path / "c")
    first = page.all("section")[0]
    assert first.all("b")[0].words() == "In progress: 20 of 24 cells are finished."
    assert "The results include 18 cells: those of seeds and folds" in first.words()
    assert "Incomplete" not in first.words()
    assert [n for n in page.all("meta") if n.attributes.get("http-equiv") == "refresh"]


def test_table_two_and_the_differences(tmp_path):
    found = make_comparison(tmp_path / "c")
    page = page_of(tmp_path / "c")
    rows = cells(part(page, "Strategies").all("table")[0])[1:]
    assert [row[:4] for row in rows] == [
        [s.name, "0.900", f"{s.auc:.3f}", f"{s.low:.3f} to {s.high:.3f}"] for s in found.strategies
    ]
    rows = cells(part(page, "Differences").all("table")[0])[1:]
    assert [(row[0], row[1], row[5]) for row in rows] == [
        (f"{p.strategy} − {p.against}", f"{p.difference:+.3f}", p.verdict) for p in found.pairs
    ]
    assert [pair.verdict for pair in found.pairs] == ["cannot tell", "better"]
    assert rows[0][6].startswith("about ")
    assert rows[1][6] == "–"


def test_every_cell_has_its_auc(tmp_path):
    found = make_comparison(tmp_path / "c")
    labels, folds = np.array(found.labels), np.array(found.fold_of)
    told = cell_values(found)
    for strategy in found.strategies:
        assert len(told[strategy.name]) == SEEDS * FOLDS
        for (seed, _, fold), auc in told[strategy.name].items():
            inside = folds[seed] == fold
            scores = np.array(strategy.scores[seed])[inside]
            assert auc == pytest.approx(roc_auc_score(labels[inside], scores))
        assert np.mean(list(told[strategy.name].values())) == pytest.approx(strategy.auc)
    rows = cells(part(page_of(tmp_path / "c"), "Cells").all("table")[0])
    assert rows[-1][1:] == [f"{each.auc:.3f}" for each in found.strategies]
    assert len(rows) == 2 + SEEDS * FOLDS


def test_the_intervals_are_drawn_where_they_are(tmp_path):
    found = make_comparison(tmp_path / "c")
    svg = part(page_of(tmp_path / "c"), "Differences").all("svg")[-1]
    grid = [p.attributes["d"] for p in svg.all("path") if p.attributes["class"] == "grid"]
    ticks = [float(t.words()) for t in svg.all("text")[: len(grid)]]
    places = [float(re.match(r"M([\d.]+),", d)[1]) for d in grid]
    scale = (places[-1] - places[0]) / (ticks[-1] - ticks[0])
    lines = [
        p.attributes["d"]
        for p in svg.all("path")
        if p.attributes["class"] in ("line ink", "line c0")
    ]
    for pair, d in zip(found.pairs, lines, strict=True):
        low, high = (float(x) for x in re.match(r"M([\d.]+),[\d.]+H([\d.]+)", d).groups())
        assert ticks[0] + (low - places[0]) / scale == pytest.approx(pair.low, abs=2e-3)
        assert ticks[0] + (high - places[0]) / scale == pytest.approx(pair.high, abs=2e-3)


def test_the_mean_curve_has_the_mean_area(tmp_path):
    found = make_comparison(tmp_path / "c")
    _, figures = build_comparison(tmp_path / "c", plugins=NO_PLUGINS)
    roc = figures[-1]
    for strategy in found.strategies:
        points = np.array([row[1:] for row in roc.rows if row[0] == strategy.name], dtype=float)
        area = float(np.sum(np.diff(points[:, 0]) * (points[1:, 1] + points[:-1, 1]) / 2))
        assert area == pytest.approx(strategy.auc, abs=1e-12)
    svg = part(page_of(tmp_path / "c"), "Test results").all("svg")[-1]
    assert len(plotted(svg, "area c0")) == len(plotted(svg, "area c2")) == 1


def test_weighted_curves_are_those_of_repeated_findings():
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=30).round(1), rng.random(30) < 0.4
    weights = np.vstack([np.ones(30, int), rng.multinomial(30, [1 / 30] * 30, size=3), positive])
    found = weighted_heights(scores, positive, weights)
    for weight, heights in zip(weights[:4], found[:4], strict=True):
        rate, height, _ = roc_curve(
            np.repeat(positive, weight), np.repeat(scores, weight), drop_intermediate=False
        )
        grid = ~np.isin(RATES.round(9), rate.round(9))  # at a step up any of its heights is right
        np.testing.assert_allclose(heights[grid], np.interp(RATES, rate, height)[grid])
    assert np.isnan(found[4]).all()


def test_many_curves_are_interpolated_as_numpy_interpolates_each():
    rng = np.random.default_rng(1)
    steps = rng.integers(0, 3, (2, 50, 12))  # with points above one another, and repeated ones
    steps[:, :, -1] += 1
    ends = np.cumsum(steps, axis=2) / steps.sum(axis=2, keepdims=True)
    xs, ys = np.concatenate([np.zeros((2, 50, 1)), ends], axis=2)
    alone = [np.interp(RATES, x, y) for x, y in zip(xs, ys, strict=True)]
    np.testing.assert_allclose(interpolated(RATES, xs, ys), alone, rtol=0, atol=1e-15)


def test_the_band_counts_patients(tmp_path):
    found = make_comparison(tmp_path / "c")
    low, high = resampled_band(found, found.strategies[0])
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    one = found.model_copy(update={"patient_of": tuple(range(len(found.findings)))})
    lower, higher = resampled_band(one, found.strategies[0])
    assert (high - low).mean() != (higher - lower).mean()


def test_datasets_and_the_command(tmp_path):
    make_comparison(tmp_path / "c")
    page = page_of(tmp_path / "c", plugins(adapter("prostatex")))
    words = part(page, "Datasets").words()
    assert "Author A. The prostatex set, 2020." in words
    assert "CC BY 3.0" in words
    assert re.findall(r"(\w+)\s+The plugin of this dataset is not installed\.", words) == ["brain"]
    given = part(page, "Reproduce this comparison").all("pre")[0].words()
    assert given.startswith(
        "hydrakit compare --strategies hydra,transfer,classical --no-baselines --datasets "
        "prostatex,brain,prostatex --seeds 2 --folds 4 --positive significant --out "
    )
    words = part(page, "Reproduce this comparison").words()
    assert "The command uses default options, because compare.json" in words


OPTIONS = [
    ["--profile", "paper", "--epochs", "3", "--patience", "0", "--learning-rate", "1e-05"],
    ["--option", "prostatex.slice=geometry", "--option", "brain.x=a b;$(c)'\"", "--copies", "drop"],
    ["--head", "linear", "--head", "brain=mlp", "--head-option", "brain.hidden=64,16"],
    ["--body", "small", "--body-option", "width=7", "--body-option", "names=a,b"],
    ["--body-channels", "4,8", "--body-norm", "group", "--select", "smoothed", "--window", "3"],
    ["--set", "rounds.all.dropout=0.2", "--set", 'body.x="0.2"', "--set", "body.channels=4,8"],
    ["--set", "rounds.2.patience=null", "--set", "copies=drop", "--set", 'head={"name": "mlp"}'],
    ["--target-share", "0.5", "--bootstrap", "7", "--bootstrap-rule", "halving", "--dropout", "0"],
    [],
]


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[Design, dict[str, Any]]:
    """The design that a command makes, and the other things that it asks for."""
    asked: dict[str, Any] = {}

    def stop(design: Design, context: Any, **more: Any) -> None:
        asked.update(more, design=design, context=context)
        raise click.ClickException("stopped")

    monkeypatch.setattr("hydrakit.compare.engine.compare", stop)
    result = CliRunner().invoke(main, words)
    assert "design" in asked, result.output
    return asked.pop("design"), asked


@pytest.mark.parametrize("options", OPTIONS, ids=lambda words: " ".join(words[:1]))
@pytest.mark.parametrize("folds", [4, None])
def test_the_command_gives_the_same_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], folds: int | None
) -> None:
    given = [
        "compare",
        "--no-baselines",
        "--strategies",
        "hydra,transfer,classical",
        "--seeds",
        "2",
        *options,
    ]
    given += ["--datasets", "prostatex,brain,prostatex"]
    given += ["--folds", str(folds)] if folds else ["--holdout"]
    design, _ = parsed(given, monkeypatch)
    folder, data = tmp_path / "of a $student", tmp_path / "the data; all"
    make_comparison(folder, digest=design.digest, folds=folds)
    about = {"hydrakit": "0.1.0", "digest": design.digest, "positive": "significant", "status": {}}
    CompareDir(folder).write(Description(design=design, **about))
    run = RunDir(folder / "cells" / "hydra-seed0-repeat0-fold0")
    run.path.mkdir(parents=True)
    roots = {name: str(data / name) for name in ("prostatex", "brain")}
    run.write_json("environment.json", {"roots": roots, "device": "cpu"})
    command = part(page_of(folder), "Reproduce this comparison").all("pre")[0].words()
    program, *words = shlex.split(command)
    again, asked = parsed(words, monkeypatch)
    assert program == "hydrakit"
    assert again == design
    assert again.digest == design.digest
    assert asked["positive"] == "significant"
    assert asked["out"] == Path(f"{folder}-again")
    assert (asked["context"].data, asked["context"].device) == (data, "cpu")


def test_a_changed_list_of_options_is_said(tmp_path: Path) -> None:
    made = make_comparison(tmp_path / "c")
    for settings, word in (
        ({"epochs": "many"}, "epochs"),
        ({"epoch": 1}, "epoch"),
        (3, "settings"),
    ):
        content = {"digest": made.digest, "design": {"settings": settings}}
        (tmp_path / "c" / "compare.json").write_text(json.dumps(content))
        with pytest.raises(PlanError, match=rf"compare\.json: cannot be read .*{word}") as caught:
            write_comparison_report(tmp_path / "c", plugins=NO_PLUGINS)
        assert "\n" not in str(caught.value)


def test_no_finding_is_named(tmp_path):
    make_comparison(tmp_path / "c")
    page_of(tmp_path / "c")
    assert "secret" in (tmp_path / "c" / "comparison.json").read_text()
    assert "secret" not in (tmp_path / "c" / "report.html").read_text()


def test_a_broken_file_is_said(tmp_path):
    make_comparison(tmp_path / "c")
    (tmp_path / "c" / "comparison.json").write_text("{}")
    with pytest.raises(PlanError, match=r"comparison\.json: cannot be read") as caught:
        write_comparison_report(tmp_path / "c", plugins=NO_PLUGINS)
    assert "\n" not in str(caught.value)
