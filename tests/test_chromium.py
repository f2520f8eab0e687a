"""Reports in a real browser: nothing is fetched, nothing complained of, all of it can be read."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest
from chromium import PROGRAM, Page, chromium
from compared import make_comparison
from pages import NO_PLUGINS, adapter, make_run, plugins
from PIL import Image

from hydrakit.plan.results import TracePoint
from hydrakit.report import write_comparison_report, write_report
from hydrakit.runs.rundir import TRACE, RunDir
from hydrakit.storage.records import write_lines

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

DESKTOP, PHONE, PAPER = 1280, 390, 717  # pixels; A4 less the margins of a browser
NAMES = ("run", "run on made-up data", "comparison", "comparison under way")

# The least contrast of a text with the page, as WCAG 2.1 defines it; of texts on panels too,
# whose colours are close to the page's.
CONTRAST = """
(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map((each) => each / 255);
  const light = (colour) => parts(colour)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const page = light(getComputedStyle(document.body).backgroundColor);
  const ratio = (colour) => {
    const both = [light(colour), page].sort((a, b) => b - a);
    return (both[0] + 0.05) / (both[1] + 0.05);
  };
  const texts = [...document.querySelectorAll("p, li, td, th, dt, dd, summary, caption, h2, text")];
  return Math.min(...texts.map((each) => {
    const style = getComputedStyle(each);
    return ratio(each.tagName === "text" ? style.fill : style.color);
  }));
})()
"""

# What sticks out to the right of the page, and cannot be scrolled to.
CUT = """
[...document.querySelectorAll("main *")]
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
  .filter((each) => !each.closest(".scroll") || matchMedia("print").matches)
  .map((each) => each.tagName + " " + each.textContent.slice(0, 40))
"""

# Letters of drawings in pixels as shown, the smallest.
SMALLEST = """
Math.min(...[...document.querySelectorAll("figure svg text")].map(
  (each) => parseFloat(getComputedStyle(each).fontSize)
    * Math.hypot(each.getScreenCTM().a, each.getScreenCTM().b)))
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def reports(hydra_run: RunDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of a run with pictures, of one with all figures, of a comparison, and of one half done."""
    folder = tmp_path_factory.mktemp("reports")
    made = make_run(folder / "made")
    for number, round in enumerate(made.plan().rounds, start=1):
        points = [TracePoint(epoch=epoch, test_auc=0.5 + 0.05 * epoch) for epoch in range(1, 7)]
        write_lines(made.round_path(number, round) / TRACE, points)
    write_report(made, plugins=plugins(*map(adapter, ("prostatex", "brain", "lung"))))
    for name, changes in (("whole", {}), ("part", {"used": 18, "done": 20, "under_way": True})):
        make_comparison(folder / name, **changes)
        write_comparison_report(folder / name, plugins=NO_PLUGINS)
    paths = (hydra_run.path, made.path, folder / "whole", folder / "part")
    return dict(zip(NAMES, (path / "report.html" for path in paths), strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_report_asks_for_nothing_and_says_nothing(
    browser: Page, reports: dict[str, Path], name: str
) -> None:
    browser.requests.clear()
    browser.said.clear()
    browser.look(width=DESKTOP)
    browser.open(reports[name])
    assert browser.value("document.title").endswith(" - hydrakit report")
    assert browser.value("document.images.length") == browser.value(
        "[...document.images].filter((each) => each.complete && each.naturalWidth).length"
    )
    fetched = [each for each in browser.requests if not each.startswith("data:")]
    assert fetched == [reports[name].as_uri()]
    assert browser.said == []


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
@pytest.mark.parametrize("name", NAMES)
def test_a_report_fits_and_can_be_read(
    browser: Page, reports: dict[str, Path], name: str, width: int
) -> None:
    browser.look(width=width)
    browser.open(reports[name])
    for dark in (False, True):
        browser.look(width=width, dark=dark)
        assert browser.value("document.documentElement.scrollWidth") == width
        assert browser.value(CUT) == []
        assert browser.value(CONTRAST) >= 4.5  # WCAG 2.1, level AA
        assert browser.value(SMALLEST) >= 8
    assert browser.value("matchMedia('(prefers-color-scheme: dark)').matches")


@pytest.mark.parametrize("name", NAMES)
def test_a_report_fits_on_paper(browser: Page, reports: dict[str, Path], name: str) -> None:
    browser.look(width=PAPER, media="print")
    browser.open(reports[name])
    assert browser.value(CUT) == []
    browser.look(width=DESKTOP)
    printed = base64.b64decode(browser.ask("Page.printToPDF", printBackground=True)["data"])
    assert printed.startswith(b"%PDF")


def test_a_page_that_asks_and_complains_is_seen(browser: Page, tmp_path: Path) -> None:
    """The browser tells of what the tests above must not find."""
    path = tmp_path / "bad.html"
    path.write_text(
        "<main><p style='width:3000px;color:#888'>wide</p><figure><svg viewBox='0 0 9 9' width=9>"
        "<text>small</text></svg></figure><img src='other.png'><script>missing()</script></main>"
    )
    browser.requests.clear()
    browser.said.clear()
    browser.look(width=PHONE)
    browser.open(path)
    assert browser.requests == [path.as_uri(), (tmp_path / "other.png").as_uri()]
    assert len(browser.said) == 2  # a file that is not there, and an error of a script
    assert browser.value(CUT) == ["P wide"]
    assert browser.value(CONTRAST) < 4.5


def test_the_page_itself_forbids_to_ask(
    browser: Page, reports: dict[str, Path], tmp_path: Path
) -> None:
    """Whatever a report were made to hold, the browser would not show or run it."""
    Image.new("L", (9, 9)).save(tmp_path / "other.png")
    text = reports["run"].read_text()
    bad = "<img src='other.png'><script>document.title = 'changed'</script></main>"
    path = tmp_path / "report.html"
    path.write_text(text.replace("</main>", bad))
    browser.said.clear()
    browser.open(path)
    assert browser.value("document.querySelector('img[src=\"other.png\"]').naturalWidth") == 0
    assert browser.value("document.title") != "changed"
    assert sum("Content Security Policy" in each for each in browser.said) == 2
