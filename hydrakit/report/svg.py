"""Line plots as SVG: axes with ticks, areas, lines, marks, and a text description.

Colours and line styles are CSS classes (``style.css``), so that a plot follows the light and dark
scheme of the page: ``c0`` to ``c5``, ``ink`` and ``faint`` are colours; ``dashed``, ``dotted`` and
``thin`` are line styles; a ``plain`` mark has no rim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydrakit.report.markup import Html, element, join

COLOURS = 6
DASHES = ("", " dashed", " dotted")  # line styles, used once the colours are exhausted
LETTER = 6.4  # width of a letter of the labels in units of the drawing, slightly overestimated
NARROW = 450  # wider drawings scroll on a phone instead of shrinking, so that labels stay legible
LINE = 14  # height of a line of labels

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
        label: Quantity and unit.
        low: Value at the left or lower end.
        high: Value at the other end, above ``low``.
        whole: Place ticks at whole numbers only.
    """

    label: str
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points in order; ``style`` is a list of CSS classes."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True, kw_only=True)
class AxisSpan:
    """A part of the x axis with a background, and above it those of its labels that fit."""

    low: float
    high: float
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A dot at a point, with the text of its tooltip."""

    at: Point
    text: str
    style: str
    radius: float = 4


@dataclass(frozen=True, kw_only=True)
class Area:
    """A filled polygon, such as a confidence band; ``style`` is a colour class."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class PlotFrame:
    """The plotting area; converts values to units of the drawing."""

    x: Axis
    y: Axis
    left: float
    top: float
    right: float
    bottom: float

    def across(self, value: float) -> float:
        """Horizontal position of a value, from the left of the drawing."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return self.left + share * (self.right - self.left)

    def up(self, value: float) -> float:
        """Vertical position of a value, from the top of the drawing."""
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return self.bottom - share * (self.bottom - self.top)


def ticks(axis: Axis, most: int = 7) -> list[float]:
    """Round values on an axis, at steps of 1, 2 or 5 times a power of ten.

    Args:
        axis: The axis.
        most: Largest number of values, at least 2.
    """
    least = (axis.high - axis.low) / (most - 1)
    power = math.floor(math.log10(least))
    steps = (factor * 10.0**exponent for exponent in (power, power + 1) for factor in (1, 2, 5))
    step = next(step for step in steps if step >= least * (1 - 1e-9))
    step = max(step, 1) if axis.whole else step
    slack = 1e-9 * min(1.0, (axis.high - axis.low) / step)
    first = math.ceil(axis.low / step - slack)
    last = math.floor(axis.high / step + slack)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def plot(
    *,
    name: str,
    title: str,
    description: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    areas: Sequence[Area] = (),
    spans: Sequence[AxisSpan] = (),
    marks: Sequence[Mark] = (),
    size: tuple[int, int] = (680, 320),
) -> Html:
    """A line plot.

    Args:
        name: Name of the plot, unique in its page; ids of title and description start with it.
        title: Title, for screen readers.
        description: Content in words, for screen readers.
        x: Horizontal axis.
        y: Vertical axis.
        lines: Lines; later ones are drawn over earlier ones.
        areas: Filled polygons, below the lines.
        spans: Parts of the x axis.
        marks: Dots, over the lines.
        size: Width and height in units of the drawing (pixels at full size).
    """
    width, height = size
    label_lines = max((len(span.labels) for span in spans), default=0)
    frame = PlotFrame(x, y, 52, 10 + LINE * label_lines, width - 12, height - 44)
    shapes = [
        *_spans(frame, spans),
        *_axes(frame),
        *(_area(frame, area) for area in areas),
        *(_line(frame, line) for line in lines),
        *(_mark(frame, mark) for mark in marks),
    ]
    return drawing(shapes, name=name, title=title, description=description, size=size)


def drawing(
    shapes: Sequence[Html], *, name: str, title: str, description: str, size: tuple[int, int]
) -> Html:
    """An SVG drawing with its title and text description; see `plot`."""
    width, height = size
    least = f";min-width:{width * 0.85:.0f}px" if width > NARROW else ""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *shapes,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        style=f"max-width:{width * 1.25:.0f}px{least}",
    )


def line_style(index: int) -> str:
    """Style of a line among others; the first eighteen all differ."""
    return f"c{index % COLOURS}{DASHES[index // COLOURS % len(DASHES)]}"


def legend_sample(style: str, *, dot: bool = False) -> Html:
    """A short line, or a dot, as the sample of a style in a legend."""
    shape = (
        element("circle", cx=13, cy=6, r=4, class_=f"mark {style}")
        if dot
        else element("path", d="M1,6H25", class_=f"line {style}")
    )
    return element("svg", shape, viewBox="0 0 26 12", width=26, height=12, aria_hidden="true")


def legend(entries: Sequence[tuple[Html, str]]) -> Html:
    """A legend: samples with their labels."""
    items = (element("li", join((each, Html(" "), text))) for each, text in entries)
    return element("ul", *items, class_="legend")


def _spans(frame: PlotFrame, spans: Sequence[AxisSpan]) -> list[Html]:
    shapes = []
    for index, span in enumerate(spans):
        left, right = frame.across(span.low), frame.across(span.high)
        shapes.append(
            element(
                "rect",
                x=coordinate(left),
                y=coordinate(frame.top),
                width=coordinate(right - left),
                height=coordinate(frame.bottom - frame.top),
                class_="band odd" if index % 2 else "band",
            )
        )
        shapes += [
            text_at(label, (left + right) / 2, 4 + LINE * (line + 0.6), "middle")
            for line, label in enumerate(span.labels)
            if len(label) * LETTER <= right - left
        ]
    return shapes


def _axes(frame: PlotFrame) -> list[Html]:
    shapes = []
    for value in ticks(frame.y):
        height = frame.up(value)
        path = f"M{coordinate(frame.left)},{coordinate(height)}H{coordinate(frame.right)}"
        shapes.append(element("path", d=path, class_="grid"))
        shapes.append(text_at(f"{value:g}", frame.left - 7, height + 4, "end"))
    for value in ticks(frame.x, most=10 if frame.right - frame.left > 500 else 7):
        place = frame.across(value)
        path = f"M{coordinate(place)},{coordinate(frame.bottom)}v4"
        shapes.append(element("path", d=path, class_="axis"))
        shapes.append(text_at(f"{value:g}", place, frame.bottom + 17, "middle"))
    corner = f"M{coordinate(frame.left)},{coordinate(frame.top)}V{coordinate(frame.bottom)}"
    shapes.append(element("path", d=f"{corner}H{coordinate(frame.right)}", class_="axis"))
    middle = (frame.left + frame.right) / 2
    shapes.append(text_at(frame.x.label, middle, frame.bottom + 36, "middle"))
    turn = f"translate(13 {coordinate((frame.top + frame.bottom) / 2)}) rotate(-90)"
    shapes.append(element("text", frame.y.label, transform=turn, text_anchor="middle"))
    return shapes


def _area(frame: PlotFrame, area: Area) -> Html:
    places = [f"{coordinate(frame.across(x))},{coordinate(frame.up(y))}" for x, y in area.points]
    return element("path", d=f"M{'L'.join(places)}Z", class_=f"area {area.style}")


def _line(frame: PlotFrame, line: Line) -> Html:
    places = [f"{coordinate(frame.across(x))},{coordinate(frame.up(y))}" for x, y in line.points]
    # A single point has no length; browsers draw a line of length 0 with round ends as a dot.
    path = f"M{places[0]}{'h0' if len(places) == 1 else 'L' + ' '.join(places[1:])}"
    return element("path", d=path, class_=f"line {line.style}")


def _mark(frame: PlotFrame, mark: Mark) -> Html:
    return element(
        "circle",
        element("title", mark.text),
        cx=coordinate(frame.across(mark.at[0])),
        cy=coordinate(frame.up(mark.at[1])),
        r=f"{mark.radius:g}",
        class_=f"mark {mark.style}",
    )


def text_at(text: str, x: float, y: float, anchor: str) -> Html:
    """Text at a position; ``anchor`` is the part of it that is there: start, middle or end."""
    return element("text", text, x=coordinate(x), y=coordinate(y), text_anchor=anchor)


def coordinate(value: float) -> str:
    """A coordinate to a tenth of a unit; finer differences are invisible."""
    return f"{value:.1f}".removesuffix(".0")
