"""Forest plots, heat maps and histograms as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html, element
from hydrakit.report.svg import (
    COLOURS,
    LETTER,
    Axis,
    Line,
    coordinate,
    drawing,
    legend_sample,
    plot,
    text_at,
    ticks,
)

ROW = 26  # height of a row in units of the drawing
WIDTH = 680
BINS = 24


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """A row of a forest plot: an estimate with its interval.

    Attributes:
        name: Label at the left.
        value: Estimate.
        low: Lower end of the interval.
        high: Upper end of the interval.
        label: Estimate and interval in words, at the right.
        style: Colour, a CSS class.
        dots: Single values behind the estimate, such as those of folds, drawn below it.
    """

    name: str
    value: float
    low: float
    high: float
    label: str
    style: str = "c0"
    dots: Sequence[float] = ()


def forest(
    rows: Sequence[ForestRow],
    *,
    name: str,
    title: str,
    description: str,
    axis: Axis,
    reference: float,
) -> Html:
    """A forest plot: estimates with intervals, and a line at the reference value.

    Args:
        rows: Rows from top to bottom.
        name: Name of the plot; see `hydrakit.report.svg.plot`.
        title: Title, for screen readers.
        description: Content in words, for screen readers.
        axis: Horizontal axis.
        reference: Value without an effect, such as an AUC of 0.5.
    """
    left = min(220.0, 16 + LETTER * max(len(row.name) for row in rows))
    right = WIDTH - 16 - LETTER * max(len(row.label) for row in rows)
    bottom = 12 + ROW * len(rows)

    def across(value: float) -> float:
        inside = min(max(value, axis.low), axis.high)
        return left + (inside - axis.low) / (axis.high - axis.low) * (right - left)

    shapes = []
    for value in ticks(axis):
        x = coordinate(across(value))
        shapes.append(element("path", d=f"M{x},8V{coordinate(bottom)}", class_="grid"))
        shapes.append(text_at(f"{value:g}", across(value), bottom + 16, "middle"))
    d = f"M{coordinate(across(reference))},8V{coordinate(bottom)}"
    shapes.append(element("path", d=d, class_="line faint dashed"))
    shapes.append(text_at(axis.label, (left + right) / 2, bottom + 34, "middle"))
    for index, row in enumerate(rows):
        middle = 12 + ROW * (index + 0.5)
        shapes.append(text_at(row.name, left - 10, middle + 4, "end"))
        shapes.append(text_at(row.label, right + 10, middle + 4, "start"))
        start, end = coordinate(across(row.low)), coordinate(across(row.high))
        d = f"M{start},{coordinate(middle)}H{end}"
        shapes.append(element("path", d=d, class_=f"line {row.style}"))
        shapes.append(_dot(across(row.value), middle, 4.5, row.style))
        shapes += [_dot(across(dot), middle + 8, 2.5, f"{row.style} plain") for dot in row.dots]
    size = (WIDTH, round(bottom + 44))
    return drawing(shapes, name=name, title=title, description=description, size=size)


def _dot(x: float, y: float, radius: float, style: str) -> Html:
    return element(
        "circle", cx=coordinate(x), cy=coordinate(y), r=f"{radius:g}", class_=f"mark {style}"
    )


@dataclass(frozen=True, kw_only=True)
class HeatMapGrid:
    """A grid of numbers; higher numbers have darker cells.

    Attributes:
        rows: Names of the rows, from top to bottom.
        columns: Names of the columns, from left to right.
        values: Number of each row and column; None leaves the cell empty.
        low: Number without colour.
        high: Number with full colour.
        framed: Rows and columns of cells with a frame.
    """

    rows: Sequence[str]
    columns: Sequence[str]
    values: Sequence[Sequence[float | None]]
    low: float
    high: float
    framed: frozenset[tuple[int, int]] = frozenset()


def heat_map(grid: HeatMapGrid, *, name: str, title: str, description: str) -> Html:
    """A heat map with the number in each cell; see `hydrakit.report.svg.plot`."""
    left = min(240.0, 16 + LETTER * max(map(len, grid.rows)))
    cell = max(64.0, 14 + LETTER * max(map(len, grid.columns)))
    shapes = [
        text_at(column, left + cell * (index + 0.5), 16, "middle")
        for index, column in enumerate(grid.columns)
    ]
    for row, (label, values) in enumerate(zip(grid.rows, grid.values, strict=True)):
        top = 24 + ROW * row
        shapes.append(text_at(label, left - 8, top + 17, "end"))
        for column, value in enumerate(values):
            if value is not None:
                framed = (row, column) in grid.framed
                shapes += _cell(grid, value, (left + cell * column, top), cell, framed=framed)
    size = (max(400, round(left + cell * len(grid.columns) + 8)), 32 + ROW * len(grid.rows))
    return drawing(shapes, name=name, title=title, description=description, size=size)


def _cell(
    grid: HeatMapGrid, value: float, at: tuple[float, float], width: float, *, framed: bool
) -> list[Html]:
    x, y = at
    share = min(max((value - grid.low) / (grid.high - grid.low), 0.0), 1.0)
    box = {
        "x": coordinate(x + 1),
        "y": coordinate(y + 1),
        "width": coordinate(width - 2),
        "height": ROW - 2,
    }
    shapes = [element("rect", **box, class_="cell", fill_opacity=f"{0.6 * share:.2f}")]
    if framed:
        shapes.append(element("rect", **box, class_="frame"))
    label = element(
        "text",
        f"{value:.3f}",
        x=coordinate(x + width / 2),
        y=coordinate(y + 17),
        text_anchor="middle",
        class_="strong",
    )
    return [*shapes, label]


def histogram(
    name: str, unit: str, values: Sequence[tuple[str, Sequence[float]]], *, bins: int = BINS
) -> Figure:
    """A histogram of an image property, with an outline for each class.

    Args:
        name: Name of the property.
        unit: Unit of the values, "" for none.
        values: Each class with the values of its cases; at least two values differ.
        bins: Number of bars.
    """
    every = [value for _, given in values for value in given]
    edges = np.linspace(min(every), max(every), bins + 1)
    lines = []
    for index, (_, given) in enumerate(values):
        counts = np.histogram(given, edges)[0].tolist()
        points = [
            (float(edge), count)
            for bar, count in enumerate(counts)
            for edge in (edges[bar], edges[bar + 1])
        ]
        points = [(points[0][0], 0), *points, (points[-1][0], 0)]
        lines.append(Line(points=points, style=f"c{index % COLOURS}"))
    highest = max(y for line in lines for _, y in line.points)
    full_name = f"histogram-{name.replace(' ', '-')}"
    return Figure(
        name=full_name,
        caption=f"{name.capitalize()}.",
        text="",
        drawing=plot(
            name=full_name,
            title=f"Cases by {name} and class",
            description=" ".join(_range(label, given) for label, given in values if given),
            x=Axis(label=f"{name} ({unit})" if unit else name, low=edges[0], high=edges[-1]),
            y=Axis(label="cases", low=0, high=axis_end(highest), whole=True),
            lines=lines,
            size=(440, 220),
        ),
        key=[
            (legend_sample(line.style), label)
            for line, (label, _) in zip(lines, values, strict=True)
        ],
        columns=("class", name),
        rows=[(label, value) for label, given in values for value in given],
    )


def _range(label: str, values: Sequence[float]) -> str:
    low, median, high = np.percentile(values, [0, 50, 100])
    return f"{label}: {low:.4g} to {high:.4g}, median {median:.4g}, {len(values)} cases."


def axis_end(value: float) -> float:
    """The end of an axis from 0 that includes a value and lies on a tick."""
    if value <= 0:
        return 1.0
    marked = ticks(Axis(label="", low=0, high=value))
    return marked[-1] if marked[-1] >= value else round(marked[-1] + marked[1], 12)
