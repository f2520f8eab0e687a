"""Reports in a browser, figures as files, and the command that writes both."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from ctypes.util import find_library
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner
from compared import make_comparison
from pages import NO_PLUGINS, make_run, predictions

from hydrakit.cli import main
from hydrakit.errors import PlanError
from hydrakit.report import build_comparison, build_report, write_comparison_report, write_report
from hydrakit.report import export as exporting
from hydrakit.report.export import INSTALL, read_style, standalone_svg, to_csv, write_figures
from hydrakit.report.markup import style_sheet

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
QUIET = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--no-proxy-server",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--enable-logging=stderr", "--dump-dom",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
]  # fmt: skip


def open_in_browser(page: Path, folder: Path) -> tuple[set[str], list[str], str]:
    """What a page asked for, what it said on the console, and the page as the browser read it."""
    log = folder / "net.json"
    done = subprocess.run(
        [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}",
         page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    events = json.loads(log.read_text())["events"]
    # Requests of the browser itself have no page that began them; they end at its resolver.
    began = [event["params"] for event in events if "initiator" in event.get("params", {})]
    asked = {each["url"] for each in began if each["initiator"] != "not an origin"}
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {url for url in asked if url.startswith("http")}, said, done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_no_request_leaves_the_file_and_no_error_is_told(tmp_path):
    rundir = make_run(tmp_path / "run")
    make_comparison(tmp_path / "c")
    pages = [
        write_report(rundir, plugins=NO_PLUGINS),
        write_comparison_report(tmp_path / "c", plugins=NO_PLUGINS),
    ]
    for number, page in enumerate(pages):
        folder = tmp_path / f"browser-{number}"
        folder.mkdir()
        asked, said, seen = open_in_browser(page, folder)
        assert asked == set()
        assert said == []
        assert "</footer>" in seen


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_page_that_asks_for_something_would_be_caught(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://127.0.0.1:9/x.png"><script>console.log("hello")</script>')
    asked, said, _ = open_in_browser(page, tmp_path)
    assert "http://127.0.0.1:9/x.png" in asked
    assert any("hello" in line for line in said)


def figures_of(tmp_path):
    make_comparison(tmp_path / "c")
    _, run = build_report(make_run(tmp_path / "run"), plugins=NO_PLUGINS)
    _, compared = build_comparison(tmp_path / "c", plugins=NO_PLUGINS)
    return run, compared


def test_a_figure_alone_needs_no_style_sheet(tmp_path):
    run, compared = figures_of(tmp_path)
    rules, _ = read_style(style_sheet())
    known = {name for rule in rules for name in rule.classes}
    for figure in (*run, *compared):
        used = {
            name
            for node in ElementTree.fromstring(figure.drawing).iter()
            for name in node.attrib.get("class", "").split()
        }
        assert used <= known
        text = standalone_svg(figure)
        root = ElementTree.fromstring(text)
        assert all("class" not in node.attrib for node in root.iter())
        assert "var(" not in text
        assert "--" not in text
        words = "".join(root.itertext())
        for _, label in figure.key:
            assert label in words
        assert root.attrib["viewBox"].endswith(f"{root.attrib['width']} {root.attrib['height']}")


def test_the_numbers_of_a_figure_are_its_csv(tmp_path):
    run, _ = figures_of(tmp_path)
    auc = next(figure for figure in run if figure.name == "auc")
    rows = list(csv.DictReader(to_csv(auc).splitlines()))
    assert len(rows) == 42
    assert rows[0]["reference_auc"] == ""
    plan = (tmp_path / "run" / "rounds" / "02-brain-head" / "metrics.jsonl").read_text()
    first = json.loads(plan.splitlines()[0])
    assert float(rows[6]["val_auc"]) == first["val"]["auc"]


def test_what_to_install_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    run, _ = figures_of(tmp_path)
    paths, install = write_figures(run, tmp_path / "new" / "figures")
    assert install == INSTALL
    assert {path.suffix for path in paths} == {".svg", ".csv"}
    assert len(paths) == 2 * len(run)


def test_a_missing_cairo_library_is_said(tmp_path, monkeypatch):
    def without(name):
        raise OSError('no library called "cairo-2" was found\nno library called "cairo" was found')

    monkeypatch.setattr(exporting, "find_spec", lambda name: object())
    monkeypatch.setattr(exporting, "import_module", without)
    run, _ = figures_of(tmp_path)
    with pytest.raises(PlanError, match="need the cairo library") as caught:
        write_figures(run, tmp_path / "figures")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    find_spec("cairosvg") is None or find_library("cairo") is None,
    reason="cairosvg or the cairo library is not installed",
)
def test_pdf_and_png_are_written(tmp_path):
    from PIL import Image

    run, _ = figures_of(tmp_path)
    paths, install = write_figures(run[:1], tmp_path / "figures")
    assert install is None
    by_kind = {path.suffix: path for path in paths}
    assert by_kind[".pdf"].read_bytes().startswith(b"%PDF")
    with Image.open(by_kind[".png"]) as image:
        assert image.width == 680 * 3
        assert len(image.convert("RGB").getcolors(1 << 20)) > 50


def test_the_command_writes_both_reports_again(tmp_path):
    rundir = make_run(tmp_path / "run")
    (tmp_path / "run" / "shown.safetensors").unlink(missing_ok=True)
    make_comparison(tmp_path / "c")
    runner = CliRunner()

    done = runner.invoke(main, ["report", str(tmp_path / "run"), "--figures", str(tmp_path / "f")])
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0] == str(rundir.report_path)
    assert "does not exist, so the report shows no patches" in done.stderr
    assert (tmp_path / "f" / "roc.svg").is_file()
    assert "<h2>Test results</h2>" in rundir.report_path.read_text()

    done = runner.invoke(main, ["report", str(tmp_path / "c")])
    assert done.exit_code == 0, done.output
    assert "3 strategies on prostatex" in (tmp_path / "c" / "report.html").read_text()

    done = runner.invoke(main, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert "is not the folder of a run" in done.stderr


def test_the_command_adds_patches_where_the_data_is(tmp_path, monkeypatch):
    """A real run on stand-in data: its patches come from the data, and stay without it."""
    import helpers
    from helpers import hydra_plan, run_plan, write_data

    from hydrakit.runs import context

    data = write_data(tmp_path / "data")
    rundir = run_plan(hydra_plan(), tmp_path / "run", data=data, cache=tmp_path / "cache")
    (rundir.path / "shown.safetensors").unlink(missing_ok=True)
    monkeypatch.setattr(context, "plugins_at", lambda *_: helpers.plugins())
    arguments = ["report", str(rundir.path), "--cache", str(tmp_path / "cache")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    first = rundir.report_path.read_text()
    assert first.count("data:image/png") >= 10
    shutil.rmtree(data)
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert rundir.report_path.read_text() == first


def test_reports_and_figures_do_not_load_torch(tmp_path):
    make_run(tmp_path / "run", test=predictions(4, 15))
    make_comparison(tmp_path / "c")
    code = (
        "import sys; from pathlib import Path; from hydrakit.report import *; "
        "from hydrakit.report.export import write_figures; "
        "from hydrakit.runs.rundir import RunDir; from hydrakit.plugins import Plugins; "
        "none = Plugins.of(); "
        f"_, figures = build_report(RunDir(Path({str(tmp_path / 'run')!r})), plugins=none); "
        f"write_figures(figures, Path({str(tmp_path / 'f')!r})); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
