"""Patches as PNG images within a page: original, augmented, and duplicates side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hydrakit.data.read import label_names
from hydrakit.report.markup import Html, element, join
from hydrakit.runs.example_cases import ImageStack

if TYPE_CHECKING:
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.data.quality.summary import CheckedCase, CopyPair, Summary
    from hydrakit.rounds import FlipAxis

DisplayRange = tuple[float, float]

PER_CLASS = 8
MAX_PAIRS = 4  # least similar duplicates, and as many most similar ones
BLACK, WHITE = 0.5, 99.5  # percentiles of a patch that are drawn as black and as white
SUPPORTS, OPPOSES = (255, 140, 0), (40, 110, 255)  # RGB colours of a saliency map
CENTRE = "M50,30V42M50,58V70M30,50H42M58,50H70"  # four ticks that point at the centre


def spread_rows(cases: Sequence[tuple[int, CheckedCase]], count: int = PER_CLASS) -> list[int]:
    """Rows of some cases, evenly spread over the list, of as many patients as possible.

    Args:
        cases: Row and case.
        count: Largest number of rows.
    """
    first = {case.patient: row for row, case in reversed(cases)}
    one_each = sorted(first.values())
    rest = sorted({row for row, _ in cases} - set(one_each))
    rows = one_each if len(one_each) >= count else one_each + rest[: count - len(one_each)]
    return [rows[len(rows) * i // count] for i in range(count)] if len(rows) > count else rows


def montage_rows(summary: Summary) -> list[tuple[str, list[int]]]:
    """Classes with the rows of their example cases; of a regression from low to high values."""
    rows = list(enumerate(summary.cases))
    if summary.task == "regression":
        numbered = [
            (float(case.label), row) for row, case in rows if isinstance(case.label, int | float)
        ]
        ordered = [row for _, row in sorted(numbered)]
        count = min(PER_CLASS, len(ordered))
        spread = [ordered[len(ordered) * i // count] for i in range(count)]
        return [(f"{summary.all_classes[0]}, from low to high", spread)] if ordered else []
    classes = [
        (name, [(row, case) for row, case in rows if name in case.classes])
        for name in summary.all_classes
    ]
    if unlabelled := [(row, case) for row, case in rows if case.label is None]:
        classes.append(("no label", unlabelled))
    return [(name, spread_rows(members)) for name, members in classes if members]


def montage(
    summary: Summary,
    prepared: PreparedDataset,
    patch: int,
    flips: Collection[FlipAxis] | None = None,
) -> Html:
    """Example patches of each class, original and augmented.

    Args:
        summary: Summary of the dataset.
        prepared: Its patches.
        patch: Side of the network's input in pixels.
        flips: Axes along which its images may be mirrored; None: all.
    """
    import torch

    from hydrakit.data.augment import PAPER, Views, allowed, central_view

    generator = torch.Generator().manual_seed(summary.seed)
    parts = []
    for name, rows in montage_rows(summary):
        canvas = torch.from_numpy(prepared.rows(rows))
        original = central_view(canvas, patch).numpy()
        views = Views.draw(len(rows), generator, allowed(PAPER, flips))
        augmented = views.of(canvas, patch).numpy()
        windows = [intensity_windows(each) for each in original]
        parts.append(element("h3", name))
        for label, patches in (("original", original), ("augmented", augmented)):
            parts += [
                element("p", label, class_="row"),
                _patch_row(patches, windows, f"{name}, {label}"),
            ]
    return join(parts, "\n")


def duplicate_pairs(summary: Summary) -> list[tuple[str, CopyPair]]:
    """Titles and pairs to draw: the least and the most similar pairs, identical ones last."""
    near = sorted(
        (pair for pair in summary.copies if pair.kind == "near"), key=lambda pair: pair.similarity
    )
    least = near[:MAX_PAIRS]
    rest = [pair for pair in summary.copies if pair not in least]
    most = sorted(rest, key=lambda pair: (pair.kind == "exact", -pair.similarity))[:MAX_PAIRS]
    return [
        *(("least similar", pair) for pair in least),
        *(("most similar", pair) for pair in most),
    ]


def pair_list(
    pairs: Sequence[tuple[str, CopyPair]], summary: Summary, prepared: PreparedDataset, patch: int
) -> Html:
    """Pairs of cases side by side, with labels and similarities.

    Args:
        pairs: Title and pair.
        summary: Summary of the dataset.
        prepared: Its patches.
        patch: Side of the network's input in pixels.
    """
    return element(
        "ul",
        *(_pair(title, pair, summary, prepared, patch) for title, pair in pairs),
        class_="pairs",
    )


def _pair(
    title: str, pair: CopyPair, summary: Summary, prepared: PreparedDataset, patch: int
) -> Html:
    import torch

    from hydrakit.data.augment import central_view

    row_of = {case.key: row for row, case in enumerate(summary.cases)}
    rows = [row_of[pair.one], row_of[pair.other]]
    planes = central_view(torch.from_numpy(prepared.rows(rows)), patch).numpy()[:, :1]
    tiles = (
        _tile(plane[0], intensity_windows(plane)[0], f"duplicate {side}", centre=False)
        for side, plane in enumerate(planes, start=1)
    )
    cases = [summary.cases[row] for row in rows]
    labels = [
        f"{case.label:g}"
        if isinstance(case.label, float)
        else ", ".join(label_names(case.label, summary.task, summary.all_classes)) or "–"
        for case in cases
    ]
    flip = "" if pair.flip == "none" else f", flipped ({pair.flip})"
    return element(
        "li",
        element("div", *tiles, class_="patch"),
        element(
            "p",
            element(
                "b", f"{title}: similarity {pair.similarity:.3f}, texture {pair.agreement:.2f}"
            ),
            f" ({pair.kind}{flip})",
        ),
        element("p", f"{pair.one} ({labels[0]}) and {pair.other} ({labels[1]})"),
    )


def _patch_row(patches: ImageStack, windows: Sequence[Sequence[DisplayRange]], name: str) -> Html:
    """Patches ``(n, channels, height, width)`` in a row, with their channels side by side."""
    items = (
        element("li", *_channels(planes, window, f"{name}, {number}"), class_="patch")
        for number, (planes, window) in enumerate(zip(patches, windows, strict=True), start=1)
    )
    several = " wide" if patches.shape[1] > 1 else ""
    return element("ul", *items, class_=f"patches{several}")


def _channels(planes: ImageStack, windows: Sequence[DisplayRange], name: str) -> Iterable[Html]:
    for channel, (plane, window) in enumerate(zip(planes, windows, strict=True), start=1):
        full_name = name if len(planes) == 1 else f"{name}, channel {channel}"
        yield _tile(plane, window, full_name)


def _tile(plane: ImageStack, window: DisplayRange, name: str, *, centre: bool = True) -> Html:
    mark = element("svg", element("path", d=CENTRE), viewBox="0 0 100 100", aria_hidden="true")
    picture = element("img", src=grey_png(plane, window), alt=name)
    return element("span", picture, mark if centre else None, class_="tile")


def intensity_windows(planes: ImageStack) -> list[DisplayRange]:
    """Values drawn as black and as white, for each channel of ``(channels, height, width)``."""
    return [
        (float(low), float(high))
        for low, high in (np.percentile(plane, [BLACK, WHITE]) for plane in planes)
    ]


def grey_png(plane: ImageStack, window: DisplayRange) -> str:
    """A grey image ``(height, width)`` as a ``data:`` URL.

    Args:
        plane: Values.
        window: Values drawn as black and as white.
    """
    return _data_url(_grey(plane, window))


def overlay_png(plane: ImageStack, window: DisplayRange, saliency: ImageStack) -> str:
    """An image with a saliency map over it (`overlay`) as a ``data:`` URL."""
    return _data_url(overlay(plane, window, saliency))


def overlay(
    plane: ImageStack, window: DisplayRange, saliency: ImageStack
) -> NDArray[np.floating[Any]]:
    """An image with a saliency map over it, orange above 0, blue below: ``(height, width, 3)``.

    Args:
        plane: Values ``(height, width)``.
        window: Values drawn as black and as white.
        saliency: Map ``(height, width)``; it is smoothed, and its strongest per cent has full
            colour.
    """
    smooth = _smooth(saliency)
    strength = np.clip(np.abs(smooth) / max(float(np.percentile(np.abs(smooth), 99)), 1e-12), 0, 1)
    colour = np.where((smooth > 0)[..., None], np.array(SUPPORTS), np.array(OPPOSES))
    opacity = 0.75 * strength[..., None]
    drawn: NDArray[np.floating[Any]] = (1 - opacity) * 0.8 * _grey(plane, window)[..., None]
    return drawn + opacity * colour


def _smooth(values: ImageStack) -> ImageStack:
    """Moving averages with weights 1, 2, 3, 2, 1 in both directions; single pixels are noise."""
    weights = np.array([1, 2, 3, 2, 1]) / 9
    for axis in (0, 1):
        values = np.apply_along_axis(np.convolve, axis, values, weights, mode="same")
    return values


def _grey(plane: ImageStack, window: DisplayRange) -> ImageStack:
    low, high = window
    grey: ImageStack = np.clip((plane - low) / max(high - low, 1e-6), 0, 1) * np.float32(255)
    return grey


def _data_url(pixels: NDArray[np.floating[Any]]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def png(pixels: NDArray[np.floating[Any]]) -> bytes:
    """A PNG of values from 0 to 255, grey or RGB."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(file, format="PNG", optimize=True)
    return file.getvalue()
