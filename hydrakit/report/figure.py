"""A figure of a report: drawing, legend, and the numbers in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from hydrakit.report.markup import Html, element
from hydrakit.report.svg import legend

CellContent = str | int | float | None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure.

    Attributes:
        name: Name of its files, unique in a report.
        caption: Title, in a few words.
        text: Explanation below the title.
        drawing: SVG drawing.
        key: Legend: samples with their labels.
        columns: Column names of `rows`.
        rows: Numbers that the figure shows.
    """

    name: str
    caption: str
    text: str
    drawing: Html
    key: Sequence[tuple[Html, str]] = ()
    columns: Sequence[str]
    rows: Sequence[Sequence[CellContent]] = field(repr=False)

    def html(self, number: int | None = None) -> Html:
        """The figure as part of a page.

        Args:
            number: Number of the figure in its page; None if figures are not numbered.
        """
        caption = self.caption if number is None else f"Figure {number}. {self.caption}"
        return element(
            "figure",
            element("figcaption", element("b", caption), " ", self.text),
            legend(self.key) if self.key else None,
            element(
                "div", self.drawing, class_="scroll", role="region", tabindex=0, aria_label=caption
            ),
            id=f"figure-{self.name}",
        )


class FigureCounter:
    """Numbers the figures of a page in the order in which they are placed."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def html(self, figure: Figure | None) -> Html | None:
        """The next figure as part of the page; None stays None."""
        if figure is None:
            return None
        self.figures.append(figure)
        return figure.html(len(self.figures))

    def all(self, figures: Iterable[Figure]) -> Iterator[Html]:
        """The next figures as parts of the page."""
        for figure in figures:
            self.figures.append(figure)
            yield figure.html(len(self.figures))
