"""Figures 4a and 4b: the target's AUC over the epochs of a run, where and how it is drawn."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import (
    NO_PLUGINS,
    Node,
    adapter,
    drawn,
    make_run,
    part,
    plotted,
    plugins,
    report,
)

from hydrakit.cli import main
from hydrakit.errors import PlanError
from hydrakit.plan.results import TracePoint
from hydrakit.report import build_report, write_report
from hydrakit.report.figures import moving_average
from hydrakit.runs.rundir import TRACE, RunDir
from hydrakit.stats.intervals import newcombe_interval
from hydrakit.storage.records import write_lines

OFFERED = plugins(adapter("prostatex"))
EPOCHS = 6


def traced(folder: Path, *, rounds: tuple[int, ...] = tuple(range(1, 8))) -> RunDir:
    """A run whose test split was looked at after every epoch of some rounds."""
    run = make_run(folder, epochs=EPOCHS)
    for number, round in enumerate(run.plan().rounds, start=1):
        if number in rounds:
            points = [
                TracePoint(epoch=epoch, test_auc=0.5 + 0.01 * number * epoch)
                for epoch in range(1, EPOCHS + 1)
            ]
            for _ in points:
                run.log("test read", by="trace", dataset="prostatex", cases=19)
            write_lines(run.round_path(number, round) / TRACE, points)
    return run


def value(svg: Node, y: float) -> float:
    """The AUC at a height: the chance line is at 0.5, and the axis ends at 1 at its top."""
    chance, top = (
        plotted(svg, "line faint dashed")[0][0][1],
        float(svg.all("rect")[0].attributes["y"]),
    )
    return 0.5 + 0.5 * (chance - y) / (chance - top)


def lines(svg: Node, style: str) -> list[list[float]]:
    found = sorted(plotted(svg, f"line {style}"), key=lambda line: line[0][0])
    return [[value(svg, y) for _, y in line] for line in found]


def test_the_trace_is_drawn_with_its_average_and_its_interval(tmp_path: Path) -> None:
    figure = drawn(report(traced(tmp_path / "run"), OFFERED), "trace")
    svg = figure.all("svg")[-1]
    wanted = {n: [0.5 + 0.01 * n * e for e in range(1, EPOCHS + 1)] for n in range(1, 8)}
    own, other = (1, 6, 7), (2, 3, 4, 5)  # rounds on the target, and on supports
    for style, numbers in (("c0", own), ("c1", other)):
        thin, thick = lines(svg, f"{style} thin"), lines(svg, style)
        assert len(thin) == len(thick) == len(numbers)
        for number, single, average in zip(numbers, thin, thick, strict=True):
            assert single == pytest.approx(wanted[number], abs=2e-3)
            assert average == pytest.approx(moving_average(wanted[number], 5), abs=2e-3)
    # The band of the last round, above and below its moving average.
    outline = [value(svg, y) for _, y in max(plotted(svg, "area c0"))]
    ends = [newcombe_interval(auc, 4, 15) for auc in moving_average(wanted[7], 5)]
    assert outline == pytest.approx([h for _, h in ends] + [low for low, _ in ends][::-1], abs=2e-3)
    assert len(svg.all("rect")) == 7  # a band of the axis for each round
    words = figure.words()
    assert "the test labels were read 42 times for this figure" in words
    assert "95 % confidence interval (Newcombe) of the moving average" in words


def test_the_trace_marks_the_epochs_that_validation_chose(tmp_path: Path) -> None:
    run = traced(tmp_path / "run")
    svg = drawn(report(run, OFFERED), "trace").all("svg")[-1]
    assert [mark.words() for mark in svg.all("circle")] == [
        f"round {r.round}, best epoch {r.best_epoch}: {0.5 + 0.01 * r.round * r.best_epoch:.3f}"
        for r in run.results().rounds
    ]


def test_the_readings_of_a_trace_are_one_line(tmp_path: Path) -> None:
    section = part(report(traced(tmp_path / "run"), OFFERED), "Test results")
    assert "The test labels were read 43 times." in section.words()
    entries = [item.words() for item in section.all("li") if "by the run" in item.words()
            or "--trace-test" in item.words()]  # fmt: skip
    assert len(entries) == 2
    assert "after each of 42 epochs (--trace-test)" in entries[0]


def test_rounds_without_a_trace_leave_a_gap(tmp_path: Path) -> None:
    page = report(traced(tmp_path / "run", rounds=(1, 7)), OFFERED)
    svg = drawn(page, "trace").all("svg")[-1]
    assert (len(lines(svg, "c0")), len(lines(svg, "c1"))) == (2, 0)
    assert "the first round's head" not in [li.words() for li in drawn(page, "trace").all("li")]
    assert len(svg.all("rect")) == 7


def test_a_run_that_was_not_traced_has_no_such_figure(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run"))
    assert [f.attributes["id"] for f in part(page, "Training").all("figure")] == [
        "figure-auc", "figure-reference", "figure-loss"
    ]  # fmt: skip


def test_without_two_classes_there_is_no_band(tmp_path: Path) -> None:
    run = traced(tmp_path / "run")
    other = plugins(adapter("prostatex", classes=("a", "b", "c")))
    figure = drawn(report(run, other), "trace")
    assert plotted(figure.all("svg")[-1], "area c0") == []
    assert "Shaded" not in figure.words()


def test_the_reference_head_is_followed_with_its_average_and_its_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", epochs=EPOCHS)
    figure = drawn(report(run, OFFERED), "reference")
    svg = figure.all("svg")[-1]
    assert [max(line) for line in lines(svg, "c1")] == pytest.approx(
        [0.7 - 0.02 * number for number in range(2, 8)], abs=2e-3
    )
    made = [epoch.val.auc for epoch in run.epochs(1, run.plan().rounds[0])]
    assert lines(svg, "c0 thin") == [pytest.approx(made, abs=2e-3)]
    outline = [value(svg, y) for _, y in min(plotted(svg, "area c1"))]
    low, high = newcombe_interval(0.66, 8, 30)
    assert (max(outline), min(outline)) == pytest.approx((high, low), abs=2e-3)


def test_there_is_no_reference_where_the_first_round_is_not_the_targets(tmp_path: Path) -> None:
    page = report(make_run(tmp_path / "run", rounds=[("prostatex", "all")]))
    assert "figure-reference" not in [f.attributes["id"] for f in page.all("figure")]


def test_the_files_of_the_figures_hold_what_is_drawn(tmp_path: Path) -> None:
    run = traced(tmp_path / "run")
    result = CliRunner().invoke(
        main, ["report", str(run.path), "--figures", str(tmp_path / "figures")]
    )
    assert result.exit_code == 0, result.output
    for name in ("trace", "reference"):
        assert (tmp_path / "figures" / f"{name}.svg").is_file()
    with (tmp_path / "figures" / "trace.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 42
    last = rows[-1]
    assert (last["round"], last["dataset"], last["epoch"]) == ("7", "prostatex", "6")
    assert float(last["auc"]) == pytest.approx(0.5 + 0.07 * 6)
    averages = moving_average([0.5 + 0.07 * epoch for epoch in range(1, 7)], 5)
    found = [float(row["moving_average"]) for row in rows[-6:]]
    assert found == pytest.approx(averages)
    low, high = newcombe_interval(averages[-1], 4, 15)
    if last["low"]:  # where the dataset is installed, its two classes are known
        assert (float(last["low"]), float(last["high"])) == pytest.approx((low, high))


def test_the_numbers_have_the_ends_of_the_band(tmp_path: Path) -> None:
    _, figures = build_report(traced(tmp_path / "run"), plugins=OFFERED)
    (figure,) = (each for each in figures if each.name == "trace")
    assert figure.rows
    for row in figure.rows:
        cells = dict(zip(figure.columns, row, strict=True))
        assert (cells["low"], cells["high"]) == pytest.approx(
            newcombe_interval(cells["moving_average"], 4, 15)
        )


def test_a_run_under_way_tells_its_readings(tmp_path: Path) -> None:
    run = traced(tmp_path / "run")
    run.results_path.unlink()
    page = report(run, OFFERED)
    assert "The test labels were read 43 times." in page.all("section")[0].words()
    assert drawn(page, "trace")


@pytest.mark.parametrize("line", ['{"epoch": 1', '{"epoch": 99, "test_auc": 0.5}'])
def test_a_broken_trace_is_said(tmp_path: Path, line: str) -> None:
    run = traced(tmp_path / "run")
    path = run.round_path(1, run.plan().rounds[0]) / TRACE
    path.write_text(line + "\n")
    with pytest.raises(PlanError) as caught:
        write_report(run, plugins=NO_PLUGINS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
