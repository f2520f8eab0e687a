"""Figures as files for a paper: SVG that needs no style sheet, PDF, PNG, and their numbers."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hydrakit.errors import PlanError
from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html, element, together
from hydrakit.report.svg import LETTER
from hydrakit.storage.files import write_atomic

INSTALL = (
    "PDF and PNG are not written: `pip install 'hydrakit-imaging[figures]'` adds what it takes"
)
SVG = "{http://www.w3.org/2000/svg}"
PNG_SCALE = 3  # pixels for each unit of a drawing

# What the classes of the page's style sheet are as attributes; $c is the colour of the element.
# Later ones win, as in the style sheet.
STYLES: dict[str, dict[str, str]] = {
    "line": {
        "fill": "none",
        "stroke": "$c",
        "stroke-width": "1.75",
        "stroke-linejoin": "round",
        "stroke-linecap": "round",
    },
    "dashed": {"stroke-dasharray": "5 4", "stroke-linecap": "butt"},
    "dotted": {"stroke-dasharray": "0.1 4", "stroke-width": "2.25"},
    "faint": {"stroke-width": "1"},
    "thin": {"stroke-width": "1", "stroke-opacity": "0.55"},
    "area": {"fill": "$c", "fill-opacity": "0.13", "stroke": "none"},
    "mark": {"fill": "$c", "stroke": "$page", "stroke-width": "1.5"},
    "plain": {"stroke": "none"},
    "pale": {"fill-opacity": "0.45"},
    "band": {"fill": "none"},
    "odd": {"fill": "$band"},
    "grid": {"fill": "none", "stroke": "$grid"},
    "axis": {"fill": "none", "stroke": "$soft"},
    "cell": {"fill": "$accent", "stroke": "$grid"},
    "frame": {"fill": "none", "stroke": "$ink", "stroke-width": "1.5"},
    "strong": {"fill": "$ink"},
}
COLOUR_OF = {"ink": "ink", "faint": "soft"}  # classes that are a colour of another name
TEXT = {"font-family": "Helvetica, Arial, sans-serif", "font-size": "11"}


def write_figures(figures: Sequence[Figure], folder: Path) -> tuple[list[Path], str | None]:
    """Write each figure as SVG and CSV, and as PDF and PNG where cairosvg is installed.

    Args:
        figures: To be written.
        folder: Made where it is not there.

    Returns:
        The files, and what to install for those that were not written (None: nothing).

    Raises:
        PlanError: The folder cannot be written, or cairosvg does not find the cairo library.
    """
    drawn = find_spec("cairosvg") is not None
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            svg = standalone(figure).encode()
            files = {"svg": svg, "csv": to_csv(figure).encode()}
            if drawn:
                files |= _drawn(svg)
            for ending, content in files.items():
                path = folder / f"{figure.name}.{ending}"
                write_atomic(path, content)
                paths.append(path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise PlanError(f"{folder}: figures cannot be written ({reason})") from None
    return paths, None if drawn else INSTALL


def _drawn(svg: bytes) -> dict[str, bytes]:
    try:
        cairosvg: Any = import_module("cairosvg")
    except OSError:  # how it says that there is no cairo
        raise PlanError(
            "PDF and PNG need the cairo library, which is not on this machine: install it "
            "(Debian: `apt-get install libcairo2`), or uninstall cairosvg to go without them"
        ) from None
    pdf: bytes = cairosvg.svg2pdf(bytestring=svg)
    png: bytes = cairosvg.svg2png(bytestring=svg, scale=PNG_SCALE, background_color="white")
    return {"pdf": pdf, "png": png}


def to_csv(figure: Figure) -> str:
    """The numbers that a figure shows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(figure.columns)
    writer.writerows(["" if cell is None else cell for cell in row] for row in figure.rows)
    return text.getvalue()


def standalone(figure: Figure) -> str:
    """A figure with its legend as SVG that needs no style sheet, in light colours."""
    drawing = ElementTree.fromstring(figure.drawing)
    _, _, width, height = (float(part) for part in drawing.attrib["viewBox"].split())
    rows = _legend_rows([text for _, text in figure.key], width)
    for (shape, text), (x, row) in zip(figure.key, rows, strict=True):
        drawing.append(_entry(shape, text, x=x, y=height + 4 + 18 * row))
    height += 18 * (rows[-1][1] + 1) + 8 if rows else 0
    drawing.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
    }
    drawing.attrib.pop("style", None)
    colours = _colours()
    for node in drawing.iter():
        _resolve(node, colours)
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(drawing, encoding="unicode") + "\n"


def _legend_rows(texts: Iterable[str], width: float) -> list[tuple[float, int]]:
    """Where each entry begins, and in which row it is."""
    places = []
    x, row = 12.0, 0
    for text in texts:
        size = 46 + LETTER * len(text)
        if x > 12 and x + size > width:
            x, row = 12.0, row + 1
        places.append((x, row))
        x += size
    return places


def _entry(shape: Html, text: str, *, x: float, y: float) -> ElementTree.Element:
    inside = re.sub(r"^<svg[^>]*>|</svg>$", "", shape)
    words = element("text", text, x=32, y=10, class_="strong")
    group = element(
        "g",
        together((Html(inside), words)),
        transform=f"translate({x:g} {y:g})",
        xmlns="http://www.w3.org/2000/svg",
    )
    return ElementTree.fromstring(group)


def _resolve(node: ElementTree.Element, colours: dict[str, str]) -> None:
    """Turn an element's classes into attributes."""
    classes = node.attrib.pop("class", "").split()
    named = [name for name in classes if name in colours or name in COLOUR_OF]
    own = colours[COLOUR_OF.get(named[0], named[0])] if named else colours["ink"]
    found: dict[str, str] = TEXT | {"fill": "$soft"} if node.tag == f"{SVG}text" else {}
    for name in sorted(set(classes) & set(STYLES), key=list(STYLES).index):
        if name != "faint" or "line" in classes:
            found = found | STYLES[name]
    for key, value in found.items():
        colour = own if value == "$c" else colours.get(value.removeprefix("$"), value)
        node.attrib.setdefault(key, colour)


def _colours() -> dict[str, str]:
    """The light colours of the page's style sheet, by name."""
    style = resources.files("hydrakit.report").joinpath("style.css").read_text(encoding="utf-8")
    light = style[: style.index("@media")]
    return dict(re.findall(r"--([a-z]+\d?): (#[0-9a-f]{6})", light))
