"""HTML and SVG elements, with escaped text, and pages built from templates."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from string import Template

from hydrakit.errors import printable

# Words that are written from right to left.
_LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc\U00010800-\U00010fff\U0001e800-\U0001efff"
_WORDS = re.compile(f"[{_LETTERS}]+(?:[ -]+[{_LETTERS}]+)*")
_ISOLATE, _END_OF_ISOLATE = "\u2068", "\u2069"

VOID = ("img",)  # elements without an end tag


class Html(str):
    """Markup; `element` and `join` escape every other text."""

    __slots__ = ()


REFRESH = Html('<meta http-equiv="refresh" content="30">')
"""Makes a browser reload the page every 30 seconds."""


def escape(text: object) -> str:
    """Text for an element or an attribute of a page: nothing in it acts.

    Markup and control characters are escaped (`printable`). Text that is written from right to left
    is isolated, so that it does not move what stands beside it.
    """
    lines = (printable(line) for line in str(text).split("\n"))
    escaped = html.escape("\n".join(lines))
    if escaped.isascii():
        return escaped
    return _WORDS.sub(lambda run: f"{_ISOLATE}{run[0]}{_END_OF_ISOLATE}", escaped)


def element(name: str, *children: object, **attributes: object) -> Html:
    """An element with its children in order.

    Args:
        name: Tag name.
        children: `Html` is inserted as it is, anything else as escaped text; None is skipped.
        attributes: ``_`` in a name stands for ``-``, a trailing one is dropped (``class_``); None
            omits the attribute.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in VOID:
        return Html(f"<{name}{given}>")
    return Html(f"<{name}{given}>{join(children)}</{name}>")


def join(parts: Iterable[object], separator: str = "") -> Html:
    """Parts one after another: `Html` as it is, anything else escaped, None skipped."""
    texts = (part if isinstance(part, Html) else escape(part) for part in parts if part is not None)
    return Html(separator.join(texts))


def bullet_list(items: Iterable[object]) -> Html:
    """A bulleted list."""
    return element("ul", *(element("li", item) for item in items))


def section(title: str, *children: object) -> Html:
    """A section of a page with its heading."""
    return element("section", Html("\n"), element("h2", title), Html("\n"), *children)


def style_sheet() -> str:
    """The style sheet of all pages and figures."""
    return resources.files(__package__).joinpath("style.css").read_text(encoding="utf-8")


def render(template: str, parts: Mapping[str, Html]) -> str:
    """Text of a page: a template of this package, filled in, with the style sheet.

    Percentages do not break across lines.

    Args:
        template: File name of the template.
        parts: Content, by the names in the template.
    """
    text = resources.files(__package__).joinpath(template).read_text(encoding="utf-8")
    page = Template(text).substitute({"style": Html(style_sheet()), **parts})
    return re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", page)
