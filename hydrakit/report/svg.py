"""A line plot as SVG: axes with ticks, bands, areas, lines, marks, and its content in words.

Colours and line styles are CSS classes of the page (``style.css``), so that a plot follows light
and dark: ``c0`` to ``c5``, ``ink`` and ``faint`` are colours; ``dashed``, ``dotted`` and ``thin``
are styles of lines; a ``plain`` mark has no rim. A class that is new here needs a place in
`hydrakit.report.export` too, which writes figures for other programs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from hydrakit.report.markup import Html, element, together

COLOURS = 6
DASHES = ("", " dashed", " dotted")  # of lines, where there are more than colours
LETTER = 6.4  # width in units of a letter of the labels, a little too large on purpose
NARROW = 450  # a wider drawing scrolls on a phone: smaller, its labels could not be read
LINE = 14  # height of a line of the labels

Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis.

    Attributes:
        label: What it shows, with the unit.
        low: Value at its left or lower end.
        high: Value at the other end, above ``low``.
        whole: Its values are whole numbers, and so are its ticks.
    """

    label: str
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points joined in order; ``style`` is a list of CSS classes."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True, kw_only=True)
class Band:
    """A part of the x axis, with lines of label above it: those that it is wide enough for."""

    low: float
    high: float
    labels: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A dot at a point, and what a pointer that rests on it is told."""

    at: Point
    text: str
    style: str
    radius: float = 4


@dataclass(frozen=True, kw_only=True)
class Area:
    """A filled shape between its points, such as a band round a line; ``style`` is a colour."""

    points: Sequence[Point]
    style: str


@dataclass(frozen=True)
class PlotFrame:
    """The rectangle between the axes: from values to units of the drawing."""

    x: Axis
    y: Axis
    left: float
    top: float
    right: float
    bottom: float

    def across(self, value: float) -> float:
        """Units from the drawing's left."""
        share = (value - self.x.low) / (self.x.high - self.x.low)
        return self.left + share * (self.right - self.left)

    def up(self, value: float) -> float:
        """Units from the drawing's top."""
        share = (value - self.y.low) / (self.y.high - self.y.low)
        return self.bottom - share * (self.bottom - self.top)


def ticks(axis: Axis, most: int = 7) -> list[float]:
    """Round values on an axis, at steps of 1, 2 or 5 times a power of ten.

    Args:
        axis: The axis.
        most: At most so many; at least 2.
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
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    size: tuple[int, int] = (680, 320),
) -> Html:
    """A line plot.

    Args:
        name: Of the plot, unique in its page: for the ids of its title and description.
        title: What it shows, in a few words.
        description: What it shows, for those who cannot see it.
        x: The axis across.
        y: The axis up.
        lines: The lines; later ones are drawn over earlier ones.
        areas: Filled shapes, below the lines.
        bands: Parts of the x axis.
        marks: Dots, over the lines.
        size: Width and height in units of the drawing (pixels where it is shown at full size).
    """
    width, height = size
    label_lines = max((len(band.labels) for band in bands), default=0)
    frame = PlotFrame(x, y, 52, 10 + LINE * label_lines, width - 12, height - 44)
    drawn = [
        *_bands(frame, bands),
        *_axes(frame),
        *(_area(frame, area) for area in areas),
        *(_line(frame, line) for line in lines),
        *(_mark(frame, mark) for mark in marks),
    ]
    return picture(drawn, name=name, title=title, description=description, size=size)


def picture(
    drawn: Sequence[Html], *, name: str, title: str, description: str, size: tuple[int, int]
) -> Html:
    """A drawing with its title and its content in words; see `plot`."""
    width, height = size
    least = f";min-width:{width * 0.85:.0f}px" if width > NARROW else ""
    return element(
        "svg",
        element("title", title, id=f"{name}-title"),
        element("desc", description, id=f"{name}-desc"),
        *drawn,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
        style=f"max-width:{width * 1.25:.0f}px{least}",
    )


def line_style(place: int) -> str:
    """The style of a line among others, by its place: no two of the first eighteen are alike."""
    return f"c{place % COLOURS}{DASHES[place // COLOURS % len(DASHES)]}"


def sample(style: str, *, dot: bool = False) -> Html:
    """A short piece of a line, or a dot, of that style, for a legend."""
    shape = (
        element("circle", cx=13, cy=6, r=4, class_=f"mark {style}")
        if dot
        else element("path", d="M1,6H25", class_=f"line {style}")
    )
    return element("svg", shape, viewBox="0 0 26 12", width=26, height=12, aria_hidden="true")


def legend(entries: Sequence[tuple[Html, str]]) -> Html:
    """What each sample stands for."""
    items = (element("li", together((each, Html(" "), text))) for each, text in entries)
    return element("ul", *items, class_="legend")


def _bands(frame: PlotFrame, bands: Sequence[Band]) -> list[Html]:
    drawn = []
    for number, band in enumerate(bands):
        left, right = frame.across(band.low), frame.across(band.high)
        drawn.append(
            element(
                "rect",
                x=short(left),
                y=short(frame.top),
                width=short(right - left),
                height=short(frame.bottom - frame.top),
                class_="band odd" if number % 2 else "band",
            )
        )
        drawn += [
            text_at(label, (left + right) / 2, 4 + LINE * (line + 0.6), "middle")
            for line, label in enumerate(band.labels)
            if len(label) * LETTER <= right - left
        ]
    return drawn


def _axes(frame: PlotFrame) -> list[Html]:
    drawn = []
    for value in ticks(frame.y):
        height = frame.up(value)
        path = f"M{short(frame.left)},{short(height)}H{short(frame.right)}"
        drawn.append(element("path", d=path, class_="grid"))
        drawn.append(text_at(f"{value:g}", frame.left - 7, height + 4, "end"))
    for value in ticks(frame.x, most=10 if frame.right - frame.left > 500 else 7):
        place = frame.across(value)
        path = f"M{short(place)},{short(frame.bottom)}v4"
        drawn.append(element("path", d=path, class_="axis"))
        drawn.append(text_at(f"{value:g}", place, frame.bottom + 17, "middle"))
    corner = f"M{short(frame.left)},{short(frame.top)}V{short(frame.bottom)}"
    drawn.append(element("path", d=f"{corner}H{short(frame.right)}", class_="axis"))
    middle = (frame.left + frame.right) / 2
    drawn.append(text_at(frame.x.label, middle, frame.bottom + 36, "middle"))
    turn = f"translate(13 {short((frame.top + frame.bottom) / 2)}) rotate(-90)"
    drawn.append(element("text", frame.y.label, transform=turn, text_anchor="middle"))
    return drawn


def _area(frame: PlotFrame, area: Area) -> Html:
    places = [f"{short(frame.across(x))},{short(frame.up(y))}" for x, y in area.points]
    return element("path", d=f"M{'L'.join(places)}Z", class_=f"area {area.style}")


def _line(frame: PlotFrame, line: Line) -> Html:
    places = [f"{short(frame.across(x))},{short(frame.up(y))}" for x, y in line.points]
    # A single point has no length; a piece of length 0 with a round end is drawn as a dot.
    path = f"M{places[0]}{'h0' if len(places) == 1 else 'L' + ' '.join(places[1:])}"
    return element("path", d=path, class_=f"line {line.style}")


def _mark(frame: PlotFrame, mark: Mark) -> Html:
    return element(
        "circle",
        element("title", mark.text),
        cx=short(frame.across(mark.at[0])),
        cy=short(frame.up(mark.at[1])),
        r=f"{mark.radius:g}",
        class_=f"mark {mark.style}",
    )


def text_at(text: str, x: float, y: float, anchor: str) -> Html:
    """Words at a place; ``anchor`` is which part of them is there: start, middle, end."""
    return element("text", text, x=short(x), y=short(y), text_anchor=anchor)


def short(value: float) -> str:
    """A length to a tenth of a unit, which is as fine as can be seen."""
    return f"{value:.1f}".removesuffix(".0")
