"""Patches as pictures within a page: as they are, augmented, and copies side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hydrakit.report.markup import Html, element, together

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import CheckedCase, CopyPair, Summary

Planes = NDArray[np.float32]

PER_CLASS = 8
PAIRS = 4
# Darkest and brightest per cent of a patch, beyond which it is black or white.
DARK, BRIGHT = 0.5, 99.5
# Red, green and blue of what speaks for an answer, and against it.
FOR, AGAINST = (255, 140, 0), (40, 110, 255)
# Four ticks that point at the centre and leave it to be seen.
CENTRE = "M50,30V42M50,58V70M30,50H42M58,50H70"


def choose(cases: Sequence[tuple[int, CheckedCase]], count: int = PER_CLASS) -> list[int]:
    """Rows of some cases, spread evenly over the list; of different patients as far as there are.

    Args:
        cases: Row and case.
        count: How many at most.
    """
    first = {case.patient: row for row, case in reversed(cases)}
    one_each = sorted(first.values())
    rest = sorted({row for row, _ in cases} - set(one_each))
    rows = one_each if len(one_each) >= count else one_each + rest[: count - len(one_each)]
    return [rows[len(rows) * i // count] for i in range(count)] if len(rows) > count else rows


def groups(summary: Summary) -> list[tuple[str, list[int]]]:
    """Names of the classes with the rows to be shown; a number's cases from lowest to highest."""
    rows = list(enumerate(summary.cases))
    if summary.task == "regression":
        numbered = [
            (float(case.label), row) for row, case in rows if isinstance(case.label, int | float)
        ]
        ordered = [row for _, row in sorted(numbered)]
        count = min(PER_CLASS, len(ordered))
        spread = [ordered[len(ordered) * i // count] for i in range(count)]
        return [(f"{summary.all_classes[0]}, from low to high", spread)] if ordered else []
    named = [
        (name, [(row, case) for row, case in rows if name in case.classes])
        for name in summary.all_classes
    ]
    if unlabelled := [(row, case) for row, case in rows if case.label is None]:
        named.append(("no label", unlabelled))
    return [(name, choose(members)) for name, members in named if members]


def montage(summary: Summary, prepared: PreparedDataset, patch: int) -> Html:
    """For each class some patches, above as they are, below as augmentation may show them.

    Args:
        summary: Of the dataset.
        prepared: Its patches.
        patch: Side in pixels of what the network sees.
    """
    import torch

    from hydrakit.data.augment import Views, central_view

    generator = torch.Generator().manual_seed(summary.seed)
    parts = []
    for name, rows in groups(summary):
        canvas = torch.from_numpy(prepared.rows(rows))
        before = central_view(canvas, patch).numpy()
        after = Views.draw(len(rows), generator).of(canvas, patch).numpy()
        windows = [ends_of(each) for each in before]
        parts += [
            element("h3", name),
            element("p", "as they are", class_="row"),
            _row(before, windows, f"{name}, as it is"),
            element("p", "augmented", class_="row"),
            _row(after, windows, f"{name}, augmented"),
        ]
    return together(parts, "\n")


def pairs(summary: Summary, prepared: PreparedDataset, patch: int) -> Html:
    """Copies side by side: the least and the most alike; equal ones only where others are few."""
    chosen = [
        (f"{title}: {pair.similarity:.3f}", pair)
        for title, some in (("least alike", _least(summary)), ("most alike", _most(summary)))
        for pair in some
    ]
    return element(
        "ul",
        *(_pair(title, pair, summary, prepared, patch) for title, pair in chosen),
        class_="pairs",
    )


def _least(summary: Summary) -> list[CopyPair]:
    near = [pair for pair in summary.copies if pair.kind == "near"]
    return sorted(near, key=lambda pair: pair.similarity)[:PAIRS]


def _most(summary: Summary) -> list[CopyPair]:
    least = _least(summary)
    rest = [pair for pair in summary.copies if pair not in least]
    return sorted(rest, key=lambda pair: (pair.kind == "exact", -pair.similarity))[:PAIRS]


def _pair(
    title: str, pair: CopyPair, summary: Summary, prepared: PreparedDataset, patch: int
) -> Html:
    import torch

    from hydrakit.data.augment import central_view

    rows = {case.key: row for row, case in enumerate(summary.cases)}
    two = [rows[pair.one], rows[pair.other]]
    planes = central_view(torch.from_numpy(prepared.rows(two)), patch).numpy()[:, :1]
    drawn = (
        _tile(plane[0], ends_of(plane)[0], f"copy {side}", centre=False)
        for side, plane in zip(("one", "two"), planes, strict=True)
    )
    labels = [", ".join(summary.cases[row].classes) or "–" for row in two]
    turned = "" if pair.flip == "none" else f", flipped ({pair.flip})"
    return element(
        "li",
        element("div", *drawn, class_="patch"),
        element("p", element("b", f"{title} ({pair.kind}{turned})")),
        element("p", f"{pair.one} ({labels[0]}) and {pair.other} ({labels[1]})"),
    )


def _row(patches: Planes, windows: Sequence[Sequence[tuple[float, float]]], name: str) -> Html:
    """Patches ``(n, channels, height, width)`` in a row, their channels side by side."""
    items = (
        element("li", *_tiles(planes, window, f"{name}, {number}"), class_="patch")
        for number, (planes, window) in enumerate(zip(patches, windows, strict=True), start=1)
    )
    several = " wide" if patches.shape[1] > 1 else ""
    return element("ul", *items, class_=f"patches{several}")


def _tiles(planes: Planes, windows: Sequence[tuple[float, float]], name: str) -> Iterable[Html]:
    for channel, (plane, window) in enumerate(zip(planes, windows, strict=True), start=1):
        said = name if len(planes) == 1 else f"{name}, channel {channel}"
        yield _tile(plane, window, said)


def _tile(plane: Planes, window: tuple[float, float], name: str, *, centre: bool = True) -> Html:
    mark = element("svg", element("path", d=CENTRE), viewBox="0 0 100 100", aria_hidden="true")
    picture = element("img", src=png(plane, window), alt=name)
    return element("span", picture, mark if centre else None, class_="tile")


def ends_of(planes: Planes) -> list[tuple[float, float]]:
    """Of each channel of ``(channels, height, width)`` the values shown as black and as white."""
    return [
        (float(low), float(high))
        for low, high in (np.percentile(plane, [DARK, BRIGHT]) for plane in planes)
    ]


def png(plane: Planes, window: tuple[float, float]) -> str:
    """A grey picture ``(height, width)`` as a ``data:`` address.

    Args:
        plane: Values.
        window: Those shown as black and as white.
    """
    return _address(_grey(plane, window))


def coloured(plane: Planes, window: tuple[float, float], adds: Planes) -> str:
    """A picture with a map over it as a ``data:`` address: orange above 0, blue below.

    Args:
        plane: Values ``(height, width)``.
        window: Those shown as black and as white.
        adds: The map ``(height, width)``; it is smoothed, and its strongest hundredth has the full
            colour.
    """
    smooth = _smoothed(adds)
    strength = np.clip(np.abs(smooth) / max(float(np.percentile(np.abs(smooth), 99)), 1e-12), 0, 1)
    colour = np.where((smooth > 0)[..., None], np.array(FOR), np.array(AGAINST))
    cover = 0.75 * strength[..., None]
    return _address((1 - cover) * 0.8 * _grey(plane, window)[..., None] + cover * colour)


def _smoothed(values: Planes) -> Planes:
    """Means with weights 1, 2, 3, 2, 1 both ways: single pixels cannot be read."""
    weights = np.array([1, 2, 3, 2, 1]) / 9
    for axis in (0, 1):
        values = np.apply_along_axis(np.convolve, axis, values, weights, mode="same")
    return values


def _grey(plane: Planes, window: tuple[float, float]) -> Planes:
    low, high = window
    shown: Planes = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * np.float32(255)
    return shown


def _address(shown: NDArray[np.floating[Any]]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(shown.round().astype(np.uint8)).save(file, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
