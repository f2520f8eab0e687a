"""Figures as files for a paper: self-contained SVG, PDF, PNG, and CSV with the numbers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from hydrakit.errors import PlanError
from hydrakit.report.figure import Figure
from hydrakit.report.markup import Html, element, join, style_sheet
from hydrakit.report.svg import LETTER
from hydrakit.storage.files import csv_text, write_atomic

INSTALL = (
    "PDF and PNG files need further packages: `pip install 'hydrakit-imaging[figures]'` installs "
    "them"
)
SVG = "{http://www.w3.org/2000/svg}"
PNG_SCALE = 3  # pixels for each unit of a drawing
FONT = {"font-family": "Helvetica, Arial, sans-serif"}


def write_figures(figures: Sequence[Figure], folder: Path) -> tuple[list[Path], str | None]:
    """Write each figure as SVG and CSV, and as PDF and PNG if cairosvg is installed.

    Args:
        figures: Figures to write.
        folder: Folder for the files, created if necessary.

    Returns:
        Paths of the files, and how to install what is missing for PDF and PNG (None: nothing).

    Raises:
        PlanError: The folder cannot be written, or cairosvg does not find the cairo library.
    """
    installed = find_spec("cairosvg") is not None
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            svg = standalone_svg(figure).encode()
            files = {"svg": svg, "csv": to_csv(figure).encode()}
            if installed:
                files |= _render(svg)
            for ending, content in files.items():
                path = folder / f"{figure.name}.{ending}"
                write_atomic(path, content)
                paths.append(path)
    except OSError as error:
        reason = error.strerror or str(error).splitlines()[0]
        raise PlanError(f"{folder}: figures cannot be written ({reason})") from None
    return paths, None if installed else INSTALL


def _render(svg: bytes) -> dict[str, bytes]:
    try:
        cairosvg: Any = import_module("cairosvg")
    except OSError:  # raised if the cairo library is missing
        raise PlanError(
            "PDF and PNG need the cairo library, which is not installed on this machine: install "
            "it (Debian: `apt-get install libcairo2`), or uninstall cairosvg to write SVG and CSV "
            "only"
        ) from None
    pdf: bytes = cairosvg.svg2pdf(bytestring=svg)
    png: bytes = cairosvg.svg2png(bytestring=svg, scale=PNG_SCALE, background_color="white")
    return {"pdf": pdf, "png": png}


def to_csv(figure: Figure) -> str:
    """The numbers in a figure."""
    return csv_text([figure.columns, *figure.rows])


def standalone_svg(figure: Figure) -> str:
    """A figure with its legend as SVG, in light colours, without a style sheet.

    Many programs that read SVG ignore style sheets with variables. The rules of ``style.css`` are
    therefore written as attributes of each element.
    """
    drawing = ElementTree.fromstring(figure.drawing)
    _, _, width, height = (float(part) for part in drawing.attrib["viewBox"].split())
    rows = _legend_rows([text for _, text in figure.key], width)
    for (shape, text), (x, row) in zip(figure.key, rows, strict=True):
        drawing.append(_legend_entry(shape, text, x=x, y=height + 4 + 18 * row))
    height += 18 * (rows[-1][1] + 1) + 8 if rows else 0
    drawing.attrib |= {
        "viewBox": f"0 0 {width:g} {height:g}",
        "width": f"{width:g}",
        "height": f"{height:g}",
    }
    drawing.attrib.pop("style", None)
    rules, variables = read_style(style_sheet())
    for node in drawing.iter():
        _inline_style(node, rules, variables)
    ElementTree.register_namespace("", SVG[1:-1])
    return ElementTree.tostring(drawing, encoding="unicode") + "\n"


def _legend_rows(texts: Iterable[str], width: float) -> list[tuple[float, int]]:
    """Left edge and row of each legend entry."""
    positions = []
    x, row = 12.0, 0
    for text in texts:
        size = 46 + LETTER * len(text)
        if x > 12 and x + size > width:
            x, row = 12.0, row + 1
        positions.append((x, row))
        x += size
    return positions


def _legend_entry(shape: Html, text: str, *, x: float, y: float) -> ElementTree.Element:
    inside = re.sub(r"^<svg[^>]*>|</svg>$", "", shape)
    label = element("text", text, x=32, y=10, class_="strong")
    group = element(
        "g",
        join((Html(inside), label)),
        transform=f"translate({x:g} {y:g})",
        xmlns="http://www.w3.org/2000/svg",
    )
    return ElementTree.fromstring(group)


@dataclass(frozen=True)
class StyleRule:
    """A rule of the style sheet for elements of drawings.

    Attributes:
        tag: Element name it applies to, "" for any.
        classes: Classes that an element must have.
        properties: Names and values.
    """

    tag: str
    classes: frozenset[str]
    properties: dict[str, str]


def read_style(css: str) -> tuple[list[StyleRule], dict[str, str]]:
    """Rules that can apply to drawings, weakest first, and the variables of the light scheme.

    Selectors with spaces, pseudo-classes and everything within ``@media`` are skipped: drawings are
    styled by simple selectors such as ``.line``, ``.band.odd`` and ``text`` alone.
    """
    css = re.sub(r"/\*.*?\*/", "", css, flags=re.DOTALL)
    css = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", css)
    rules: list[StyleRule] = []
    variables: dict[str, str] = {}
    for selectors, body in re.findall(r"([^{}]+)\{([^{}]*)\}", css):
        pairs = (part.split(":", 1) for part in body.split(";") if ":" in part)
        properties = {name.strip(): value.strip() for name, value in pairs}
        for selector in map(str.strip, selectors.split(",")):
            if selector == ":root":
                variables |= properties
            elif re.fullmatch(r"[a-z0-9]+(\.[a-z0-9-]+)*|(\.[a-z0-9-]+)+", selector):
                tag, *classes = selector.split(".")
                rules.append(StyleRule(tag, frozenset(classes), properties))
    return sorted(rules, key=lambda rule: (len(rule.classes), bool(rule.tag))), variables


def _inline_style(
    node: ElementTree.Element, rules: Sequence[StyleRule], variables: dict[str, str]
) -> None:
    """Turn the classes of an element into attributes."""
    tag = node.tag.removeprefix(SVG)
    classes = set(node.attrib.pop("class", "").split())
    properties = dict(FONT) if tag == "text" else {}
    for rule in rules:
        if rule.tag in ("", tag) and rule.classes <= classes:
            properties |= rule.properties
    known = variables | {name: value for name, value in properties.items() if name[:2] == "--"}
    for name, value in properties.items():
        if name not in known:
            node.attrib.setdefault(name, _without_variables(value, known))


def _without_variables(value: str, variables: dict[str, str]) -> str:
    while match := re.search(r"var\((--[a-z0-9]+)\)", value):
        value = value.replace(match[0], variables[match[1]])
    return value
