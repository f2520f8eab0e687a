"""The documentation's site: built without a warning, whole, and readable in a browser.

`make docs` runs these too; the folder that it builds is built again here, so that it is up to date.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from chromium import PROGRAM, Page, chromium
from site_pages import DOCS, ROOT, python_examples, reference
from test_chromium import DESKTOP, PAPER, PHONE

import hydrakit

pytestmark = pytest.mark.slow

BUILD = ROOT / "build"
NOT_LOADED = ("index", "search", "next", "prev")  # kinds of <link>
LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}

in_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")

# What sticks out of the page to the right, unless it can be scrolled to within a part of the page.
WIDE = """
[...document.querySelectorAll(".bd-article *")]
  .filter((each) => each.getBoundingClientRect().right > innerWidth + 1)
  .filter((each) => {
    for (let up = each.parentElement; up; up = up.parentElement)
      if (up !== document.body
          && ["auto", "scroll", "hidden"].includes(getComputedStyle(up).overflowX)
          && up.getBoundingClientRect().right <= innerWidth + 1) return false;
    return true;
  })
  .map((each) => each.tagName + " " + each.textContent.slice(0, 40))
"""


class Links(HTMLParser):
    """The links of a page, what it loads, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if LOADING.get(tag) in given and given.get("rel") not in (
            "index",
            "search",
            "next",
            "prev",
        ):
            self.loads.append(given[LOADING[tag]])


@pytest.fixture(scope="session")
def site() -> Path:
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    command = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet"]
    folders = ["--doctree-dir", BUILD / "doctrees", DOCS, BUILD / "docs"]
    done = subprocess.run([*command, *folders], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return BUILD / "docs"


@pytest.fixture(scope="session")
def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_every_link_within_the_site_leads_somewhere(pages: dict[Path, Links]) -> None:
    dead = []
    for page, content in pages.items():
        for link in [*content.links, *content.loads]:
            path, _, anchor = unquote(link).partition("#")
            if ":" in path.split("/")[0]:
                continue
            target = (page.parent / path.partition("?")[0]).resolve() if path else page
            known = pages[target].anchors if target in pages else {anchor}
            if not target.exists() or (anchor and anchor not in known):
                dead.append(f"{page.name}: {link}")
    assert dead == []


def test_a_page_loads_nothing_from_elsewhere(pages: dict[Path, Links]) -> None:
    loaded = {load for content in pages.values() for load in content.loads}
    assert [load for load in loaded if "//" in load] == []
    assert len(loaded) > 5


def test_the_site_has_every_page_and_schema(site: Path) -> None:
    names = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    assert [name for name in names if not (site / name).is_file()] == []
    schemas = {path.name: json.loads(path.read_text("utf-8")) for path in site.glob("schemas/*")}
    assert schemas == reference.schemas()


def test_links_to_other_files_lead_to_the_repository(tmp_path: Path) -> None:
    pytest.importorskip("sphinx", reason="the extra docs is not installed")
    docs = tmp_path / "docs"
    shutil.copytree(DOCS / "_extension", docs / "_extension")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "a.py").touch()
    (docs / "conf.py").write_text(
        "import sys\nsys.path.insert(0, '_extension')\n"
        "extensions = ['myst_parser', 'site_parts']\nrepository = 'https://forge.example/a'\n"
    )
    (docs / "index.md").write_text("# T\n[a](../examples/a.py) [b](../examples) [c](index.md)\n")
    command = [sys.executable, "-m", "sphinx", "--quiet", "-W", docs, tmp_path / "out"]
    subprocess.run(command, check=True, cwd=docs)
    links = Links(tmp_path / "out" / "index.html").links
    assert "https://forge.example/a/blob/main/examples/a.py" in links
    assert "https://forge.example/a/blob/main/examples" in links


# In a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("browser")) as page:
        yield page


@pytest.fixture(scope="module")
def shown(browser: Page, pages: dict[Path, Links]) -> dict[str, list[str]]:
    """What sticks out of each page at each width; `browser` notes meanwhile what is asked for."""
    browser.requests.clear()
    browser.said.clear()
    wide = {}
    for path in pages:
        browser.open(path)
        for width, media in ((DESKTOP, "screen"), (PHONE, "screen"), (PAPER, "print")):
            browser.look(width=width, media=media)
            wide[f"{path.parent.name}/{path.name} at {width}"] = browser.value(WIDE)[:5]
    return wide


@in_browser
def test_nothing_is_wider_than_the_window(shown: dict[str, list[str]]) -> None:
    assert {page: wide for page, wide in shown.items() if wide} == {}


@in_browser
def test_a_page_asks_for_files_of_the_site_alone(
    browser: Page, shown: dict[str, list[str]], site: Path
) -> None:
    asked = {request.partition("?")[0] for request in browser.requests}
    assert {each for each in asked if not each.startswith((site.as_uri(), "data:"))} == set()
    assert len(asked) > len(shown) / 3
    assert [each for each in browser.said if not each.startswith("[PST]")] == []  # the theme


@in_browser
def test_the_search_works_without_a_server(browser: Page, site: Path) -> None:
    browser.look(width=DESKTOP)
    browser.open(site / "index.html")
    browser.value(f"location.href = '{(site / 'search.html').as_uri()}?q=dropout'")
    count = "document.querySelectorAll('#search-results li').length"
    assert any(browser.value(count) > 3 for _ in range(5000))  # they come one after another


# Examples


def test_the_python_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of README, the first page, predict.md, models.md and export.md, one after another."""
    from functools import partial

    monkeypatch.chdir(tmp_path)
    run_command("phantom", "data", "--patients", "24")
    (scan,) = sorted((tmp_path / "data" / "prostatex").rglob("*.dcm"))[:1]
    shutil.copy(scan, "scan.dcm")
    np.save("scan.npy", np.random.default_rng(1).normal(100, 20, (80, 64)).astype(np.float32))
    short = partial(hydrakit.make_plan, epochs=1, bootstrap=1, ensemble=1)
    monkeypatch.setattr(hydrakit, "make_plan", short)
    for page in (ROOT / "README.md", DOCS / "index.md"):
        for text in python_examples(page):
            exec(text, {})
    (run, *_) = sorted((tmp_path / "runs").iterdir())
    Path("RUN").symlink_to(run)
    run_command("export", "RUN", "--to", "onnx", "onnx")
    patch = hydrakit.load_plan(Path("RUN/plan.json")).patch
    np.save("onnx/patches.npy", np.zeros((2, 1, patch, patch), np.float32))
    for page in ("predict", "models"):
        for text in python_examples(DOCS / f"{page}.md"):
            exec(text, {})
    monkeypatch.chdir("onnx")
    for text in python_examples(DOCS / "export.md"):
        exec(text, {})


def run_command(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "hydrakit", *words], check=True, capture_output=True)
