"""The figures of reports: each curve and dot is where the numbers are."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import drawn, make_run, plotted, predictions, report
from sklearn.metrics import roc_curve

from hydrakit.report.roc import roc_points
from hydrakit.report.svg import Axis, line_style, ticks


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30).filter(
        lambda cases: len({positive for _, positive in cases}) == 2
    )
)
def test_the_curve_is_scikit_learns(cases):
    scores, positive = [score for score, _ in cases], [positive for _, positive in cases]

    points = np.array(roc_points(scores, positive))

    false_rate, true_rate, _ = roc_curve(positive, scores, drop_intermediate=False)
    np.testing.assert_allclose(points, np.column_stack([false_rate, true_rate]))


@given(
    st.floats(-1e6, 1e6),
    st.floats(1e-6, 1e6),
    st.booleans(),
    st.integers(2, 12),
)
def test_ticks_are_even_and_inside(low, width, whole, most):
    axis = Axis(label="", low=low, high=low + width, whole=whole)
    if axis.high - axis.low < 1e-9 * abs(low):
        return

    found = ticks(axis, most)

    assert len(found) <= most
    slack = 1e-6 * width
    assert all(axis.low - slack <= value <= axis.high + slack for value in found)
    steps = np.diff(found)
    if len(steps):
        assert np.allclose(steps, steps[0], rtol=1e-6, atol=1e-9 * abs(low))
    if whole:
        assert all(value == round(value) for value in found)


def test_ticks_of_usual_axes():
    assert ticks(Axis(label="", low=0, high=1)) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(Axis(label="", low=0.4, high=1)) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert ticks(Axis(label="", low=0.5, high=1.5, whole=True)) == [1]
    assert ticks(Axis(label="", low=0.5, high=420.5, whole=True)) == [100, 200, 300, 400]


def test_the_roc_is_drawn_where_it_is(tmp_path):
    test = predictions(4, 15)
    figure = drawn(report(make_run(tmp_path / "run", test=test)), "roc")
    svg = figure.all("svg")[-1]

    (diagonal,) = plotted(svg, "line faint dashed")
    (left, bottom), (right, top) = diagonal
    (curve,) = plotted(svg, "line c0")
    margins = test.outputs[:, 1] - test.outputs[:, 0]
    false_rate, true_rate, _ = roc_curve(test.labels, margins, drop_intermediate=False)
    found = [((x - left) / (right - left), (y - bottom) / (top - bottom)) for x, y in curve]
    np.testing.assert_allclose(found, np.column_stack([false_rate, true_rate]), atol=1e-3)
    assert len(svg.all("circle")) == len(curve)
    caption = figure.all("figcaption")[0].words()
    assert "Each upward step is one of 4 positive findings (0.250)" in caption
    assert "one of 15 negative findings (0.067)" in caption


def test_a_long_roc_has_no_dots(tmp_path):
    figure = drawn(report(make_run(tmp_path / "run", test=predictions(60, 60))), "roc")
    assert figure.all("svg")[-1].all("circle") == []


def test_the_epochs_are_drawn_where_they_are(tmp_path):
    rundir = make_run(tmp_path / "run")
    page = report(rundir)
    auc, loss = drawn(page, "auc"), drawn(page, "loss")
    svg = auc.all("svg")[-1]

    (left, chance), (right, _) = plotted(svg, "line faint dashed")[0]
    # One value gives the scale: the chance line is at 0.5, and the axis ends at 1 at its top.
    rect = svg.all("rect")[0].attributes
    top = float(rect["y"])
    found = [line for colour in range(3) for line in plotted(svg, f"line c{colour} thin")]
    found.sort(key=lambda line: line[0][0])
    epochs = [rundir.epochs(n, r) for n, r in enumerate(rundir.plan().rounds, start=1)]
    assert [len(line) for line in found] == [6] * 7
    for number, (line, records) in enumerate(zip(found, epochs, strict=True)):
        for (x, y), record in zip(line, records, strict=True):
            value = 0.5 + 0.5 * (chance - y) / (chance - top)
            assert value == pytest.approx(record.val.auc, abs=1e-3)
            place = 0.5 + 42 * (x - left) / (right - left)
            assert place == pytest.approx(6 * number + record.epoch, abs=0.02)
    marks = [mark.words() for mark in svg.all("circle")]
    assert marks == [
        f"round {r.round}, best epoch {r.best_epoch}: {r.val.auc:.3f}"
        for r in rundir.results().rounds
    ]
    assert len(svg.all("rect")) == 7
    assert len(plotted(loss.all("svg")[-1], "line c0 dashed")) == 3


def test_one_epoch_of_one_round_is_a_dot(tmp_path):
    auc = report(make_run(tmp_path / "run", rounds=[("prostatex", "all")], epochs=1)).all("figure")[
        0
    ]
    path = next(p for p in auc.all("svg")[-1].all("path") if p.attributes["class"] == "line c0")
    assert re.fullmatch(r"M[\d.]+,[\d.]+h0", path.attributes["d"])


def test_narrow_bands_keep_the_labels_that_fit(tmp_path):
    rounds = [("prostatex", "all"), ("brain", "head")] * 10
    auc = report(make_run(tmp_path / "run", rounds=rounds, epochs=2)).all("figure")[0]
    said = [text.words() for text in auc.all("svg")[-1].all("text")]
    assert {str(number) for number in range(1, 21)} < set(said)
    assert said.count("all") == said.count("head") == 10
    assert "prostatex" not in said


def test_every_picture_has_a_text_in_its_place(tmp_path):
    page = report(make_run(tmp_path / "run"))
    pictures = [svg for svg in page.all("svg") if svg.attributes.get("role") == "img"]
    assert len(pictures) == 7
    ids = [node.attributes["id"] for tag in ("title", "desc") for node in page.all(tag)
           if "id" in node.attributes]  # fmt: skip
    assert len(set(ids)) == len(ids) == 14
    for svg in pictures:
        title, desc = svg.children[:2]
        named = f"{title.attributes['id']} {desc.attributes['id']}"
        assert svg.attributes["aria-labelledby"] == named
        assert len(title.words()) > 10
        assert len(desc.words()) > 40
    decoration = [svg for svg in page.all("svg") if svg not in pictures]
    assert all(svg.attributes["aria-hidden"] == "true" for svg in decoration)


def test_no_two_of_many_lines_look_alike() -> None:
    styles = [line_style(place) for place in range(18)]
    assert len(set(styles)) == 18
    assert styles[0] == "c0"
    assert styles[6] == "c0 dashed"
