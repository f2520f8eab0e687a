"""Cost as work grows: time and peak memory over patches, pixels, channels and datasets."""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import numpy as np

from benchmarks.harness import Answer, Worker, once, worker_command
from benchmarks.settings import Point, Settings
from benchmarks.table import shown, table
from hydrakit.report.markup import Html, element
from hydrakit.report.svg import Axis, Line, Mark, plot

SERIES: Mapping[str, Sequence[Point]] = {
    "patches": [Point(patches=count) for count in (1000, 4000, 16000, 64000)],
    "pixels": [Point(patches=240, patch=side) for side in (65, 130, 195, 260)],
    "channels": [Point(channels=count) for count in (1, 3, 9)],
    "datasets": [Point(patches=100 * count, datasets=count) for count in (2, 4, 8, 12)],
}
QUICK: Mapping[str, Sequence[Point]] = {
    "patches": [Point(patches=count) for count in (120, 240)],
    "pixels": [Point(patches=60, patch=side) for side in (65, 130)],
    "channels": [Point(patches=120, channels=count) for count in (1, 3)],
    "datasets": [Point(patches=60 * count, datasets=count) for count in (2, 4)],
}
ALLOWED = 1e9  # bytes of memory beyond the patches
LINEAR = 1.1  # exponents above it are called worse than linear


@dataclass(frozen=True)
class Cost:
    """What a point costs.

    Attributes:
        point: The work.
        prepare: Preparing all datasets.
        run: A run of `hydra` with an epoch in each round.
        step: Seconds of a training step of the floor at that time, before and after.
    """

    point: Point
    prepare: Answer
    run: Answer
    step: float

    @property
    def seconds(self) -> float:
        """Of both."""
        return self.prepare.seconds + self.run.seconds

    @property
    def steps(self) -> float:
        """Of both, in steps of the floor: so that the machine's drift does not count."""
        return self.seconds / self.step

    @property
    def beyond(self) -> float:
        """Bytes of peak memory of the hungrier of both, beyond the prepared patches."""
        peak = max(self.prepare.facts["resident"], self.run.facts["resident"])
        return float(peak - self.prepare.facts["patches"])


def work_of(name: str, point: Point) -> float:
    """How much work a point of a series is, in the unit of the series."""
    if name == "pixels":
        return point.patch**2
    return float(getattr(point, name))


def measure(settings: Settings, *, quick: bool, plot: Path | None) -> str:
    """Measure all points, each in processes of its own; the part of the page.

    Args:
        settings: Of the measurements.
        quick: Fewer and smaller points.
        plot: Where the plot goes; None for nowhere.
    """
    series = QUICK if quick else SERIES
    costs: dict[str, list[Cost]] = {name: [] for name in series}
    command = worker_command("floor.Step", settings)
    with Worker("floor.Step", command, threads=settings.threads) as floor:
        floor.unit(0)
        for name, points in series.items():
            for point in points:
                print(f"measuring: {name} {point}", file=sys.stderr, flush=True)
                costs[name].append(_cost(replace(settings, point=point), floor))
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(drawn(costs), encoding="utf-8")
    shows = f"![Growth of time with growth of work]({plot.name})\n" if plot else ""
    return f"## Cost as work grows\n\n{_intro()}\n{points_table(costs)}\n{fits(costs)}\n{shows}"


def _cost(settings: Settings, floor: Worker) -> Cost:
    before = floor.unit(1).seconds
    with tempfile.TemporaryDirectory(dir=settings.work) as work:
        inside = replace(settings, work=work)
        prepared = once("ours_runs.ScalePrepare", inside)
        ran = once("ours_runs.ScaleRun", inside)
    return Cost(settings.point, prepared, ran, (before + floor.unit(2).seconds) / 2)


def _intro() -> str:
    return (
        "Noise images: preparing them, then a run of `hydra` over the datasets with one epoch in "
        "each round (head rounds see eight views of each patch). Peak memory is the resident size "
        "of whichever of the two processes needs more; memory-mapped files count. Steps are those "
        "of (b), measured just before and after each point: growth is given in steps, because "
        "seconds drift.\n"
    )


def points_table(costs: Mapping[str, Sequence[Cost]]) -> str:
    """A row for each point."""
    header = ["series", "patches", "pixels", "channels", "datasets"]
    header += ["preparing", "before the rounds", "rounds", "per patch", "in steps"]
    header += ["beyond the patches"]
    lines = []
    for name, series in costs.items():
        for cost in series:
            point, before = cost.point, cost.run.facts["before"]
            size = [point.patches, point.patch, point.channels, point.datasets]
            lines.append(
                [
                    name,
                    *(f"{number:,}" for number in size),
                    shown(cost.prepare.seconds),
                    shown(before),
                    shown(cost.run.seconds - before),
                    shown(cost.seconds / point.patches),
                    f"{cost.steps:.3g}",
                    f"{cost.beyond / 1e9:.2f} GB",
                ]
            )
    return table(header, lines)


def exponent(work: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of the seconds over the work, both as logarithms: 1 is linear."""
    slope, _ = np.polyfit(np.log(work), np.log(seconds), 1)
    return float(slope)


def fits(costs: Mapping[str, Sequence[Cost]]) -> str:
    """What the points say of the claims: at most linear, at most the patches plus 1 GB."""
    lines = []
    for name, series in costs.items():
        work = [work_of(name, cost.point) for cost in series]
        whole = exponent(work, [cost.steps for cost in series])
        last = exponent(work[-2:], [cost.steps for cost in series[-2:]])
        memory = max(cost.beyond for cost in series)
        lines.append(
            [
                name,
                f"{whole:.2f}",
                f"{last:.2f}",
                "yes" if max(whole, last) <= LINEAR else "no",
                f"{memory / 1e9:.2f} GB",
                "yes" if memory <= ALLOWED else "no",
            ]
        )
    header = ["series", "exponent of time", "of the last two points", f"at most {LINEAR}"]
    return table([*header, "most memory beyond the patches", "at most 1 GB"], lines)


def drawn(costs: Mapping[str, Sequence[Cost]]) -> str:
    """An SVG file: how time grows as work does, both in doublings; the dashed line is linear."""
    lines, marks = [], []
    for number, (name, series) in enumerate(costs.items()):
        first = series[0]
        points = [
            (
                math.log2(work_of(name, cost.point) / work_of(name, first.point)),
                math.log2(cost.steps / first.steps),
            )
            for cost in series
        ]
        lines.append(Line(points=points, style=f"c{number}"))
        marks += [Mark(at=at, text=name, style=f"c{number}") for at in points]
    most = max(max(mark.at) for mark in marks)
    low = min(0.0, *(mark.at[1] for mark in marks))
    lines.insert(0, Line(points=[(0, 0), (most, most)], style="faint dashed"))
    svg = plot(
        name="scale",
        title="Growth of time with growth of work",
        description="The dashed line is linear growth: what lies below it grows more slowly.",
        x=Axis(label="work, in doublings", low=0, high=most),
        y=Axis(label="time, in doublings", low=low, high=most),
        lines=lines,
        marks=marks,
    )
    return _alone(svg, list(costs))


def _alone(svg: Html, names: Sequence[str]) -> str:
    """A plot as a file of its own: with its colours, and a name for each line."""
    style = (resources.files("hydrakit.report") / "style.css").read_text(encoding="utf-8")
    keys = [
        element("text", name, x=64, y=26 + 15 * number, style=f"fill:var(--c{number})")
        for number, name in enumerate(names)
    ]
    inside = Html(element("style", Html(style)) + Html("").join(keys))
    return svg.replace("</svg>", f"{inside}</svg>")
