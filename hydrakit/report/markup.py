"""HTML and SVG elements whose text cannot be anything but text, and pages made of them."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template

VOID = ("img",)  # elements that have no end


class Html(str):
    """Text that is markup already; any other text is escaped where it goes into an element."""

    __slots__ = ()


REFRESH = Html('<meta http-equiv="refresh" content="30">')
"""Has a browser read the page again every 30 seconds."""


def element(name: str, *children: object, **attributes: object) -> Html:
    """An element with its children in order.

    Args:
        name: Of the element.
        children: `Html` goes in as it is, anything else as escaped text; None is left out.
        attributes: ``_`` in a name stands for ``-``, a trailing one is dropped (``class_``); None
            leaves the attribute out.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    inside = together(children)
    return Html(f"<{name}{given}>{inside}</{name}>")


def together(parts: Iterable[object], between: str = "") -> Html:
    """The parts one after another: `Html` as it is, anything else escaped, None left out."""
    texts = (
        part if isinstance(part, Html) else html.escape(str(part))
        for part in parts
        if part is not None
    )
    return Html(between.join(texts))


def section(title: str, *children: object) -> Html:
    """A part of a page with its heading."""
    return element("section", Html("\n"), element("h2", title), Html("\n"), *children)


def fill(template: str, parts: Mapping[str, Html]) -> str:
    """The text of a page: a template of this package with its parts and the common style.

    Args:
        template: Name of its file.
        parts: By their names in the template.
    """
    folder = resources.files("hydrakit.report")
    style = Html(folder.joinpath("style.css").read_text(encoding="utf-8"))
    text = folder.joinpath(template).read_text(encoding="utf-8")
    return Template(text).substitute({"style": style, **parts})
