"""Text of strangers in what is printed and in pages: no character of it acts."""

from __future__ import annotations

import base64
import io
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from checked import picture
from chromium import PROGRAM, chromium
from click.testing import CliRunner, Result
from helpers import adapter as standin
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hydrakit.cli import main, printing
from hydrakit.cli.progress import LiveProgress, PlainProgress
from hydrakit.data.prepared.prepare import prepare
from hydrakit.data.quality.check import summarise
from hydrakit.errors import one_line, printable
from hydrakit.hooks import Sample
from hydrakit.observers.log import _Formatter
from hydrakit.report.check import check_page
from hydrakit.report.markup import element, escape
from hydrakit.runs.rundir import RunDir

ACTING = "\x1b[31m\x1b]0;x\x07\x9b31m\x08\r\u202e\u2066\u200f\u061c\x7f"
MARKUP = "<script>document.title='acted'</script><img src=x onerror=\"document.title='acted'\">"
HOSTILE = f"{ACTING}{MARKUP}"
NAME = f"run{ACTING}<b>[red]"  # of a folder: no slash
HEBREW = "\u05d0\u05d1\u05d2"

Install = Callable[..., Path]
Command = Callable[..., Result]


def assert_nothing_acts(text: str) -> None:
    assert [each for each in text if not each.isprintable() and each != "\n"] == []


@given(st.text())
def test_no_character_of_any_text_acts(text: str) -> None:
    assert printable(text).isprintable()
    assert one_line(text).isprintable()
    assert_nothing_acts(escape(text).replace("\u2068", "").replace("\u2069", ""))
    if text.isprintable():
        assert printable(text) == text


def test_escapes_say_what_stood_there() -> None:
    assert printable("a\x1b\x9b\u202e\n\xa0b") == r"a\x1b\x9b\u202e\n b"
    assert printable(f"Gr\xf6\xdfe {HEBREW}") == f"Gr\xf6\xdfe {HEBREW}"


@pytest.fixture
def command(standin: Path, install: Install, tmp_path: Path) -> Command:
    """Calls a command among plugins that are hostile or broken, and returns all that it printed."""
    source = f"""
from hydrakit.hooks import HeadFactory, hookimpl
TEXT = {HOSTILE!r}

@hookimpl
def hydrakit_head_factories():
    yield HeadFactory(name="hostile", summary=TEXT, build=None)
"""
    install("hostile", "tp_hostile", source)
    install("broken", "tp_broken", f"raise ValueError({HOSTILE!r})")

    def call(*arguments: str | Path, status: int | None = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert status is None or result.exit_code == status, result.output
        assert_nothing_acts(result.stdout)
        assert_nothing_acts(result.stderr)
        return result

    return call


@pytest.fixture
def run(hydra_run: RunDir, tmp_path: Path) -> Path:
    """A finished run in a folder with a hostile name."""
    shutil.copytree(hydra_run.path, tmp_path / NAME)
    return tmp_path / NAME


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("status",), 0),
        (("status", "--json"), 0),
        (("verify",), 0),
        (("verify", "--json"), 0),
        (("report",), 0),
        (("evaluate",), 0),
        (("evaluate", "--json"), 0),
        (("clean", "--yes"), 0),
        (("run", "--resume"), 0),
        (("weights", "inspect"), 1),
        (("verdict", "--table"), 1),
        (("datasets", "new"), 1),
        (("plan", "--strategy", "classical", "--datasets", "alpha", "--out"), 1),
    ],
)
def test_what_commands_print_of_a_folder(
    words: tuple[str, ...], status: int, command: Command, run: Path
) -> None:
    result = command(*words, run, status=None)
    if "--json" in words:
        json.loads(result.stdout)
    if words[-1] == "--resume":
        assert_nothing_acts((run / "log.txt").read_text() if (run / "log.txt").exists() else "")


def test_what_commands_print_of_a_damaged_run(command: Command, run: Path) -> None:
    (run / "data.json").write_text(json.dumps({HOSTILE: {}}))
    for words in (("status",), ("verify",), ("report",), ("evaluate",), ("run", "--resume")):
        command(*words, run, status=None)


def test_what_plans_print(command: Command, tmp_path: Path) -> None:
    given = ("--strategy", "classical", "--datasets", "alpha")
    out = tmp_path / f"new{ACTING}"
    command("plan", *given, "--out", out)
    json.loads(command("plan", *given).stdout)
    command("run", "--dry-run", "--plan", out, "--out", tmp_path / NAME)
    command("plan", "--strategy", HOSTILE, "--datasets", "alpha", status=1)
    command("plan", *given[:3], HOSTILE, status=1)
    command("tune", *given, "--out", out, status=None)
    command("order", *given, "--out", out, status=None)
    command(
        "compare", "--no-baselines", "--strategies", HOSTILE, *given[2:], "--out", out, status=None
    )


@pytest.mark.parametrize("words", [("list",), ("list", "--json"), ("info", "hostile")])
def test_what_commands_print_of_plugins(words: tuple[str, ...], command: Command) -> None:
    result = command("plugins", *words, status=int("list" in words))  # one of them is broken
    assert "script" in result.stdout


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """A folder of a dataset whose declaration and file names are hostile."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    bidi = "\u202e\u2066\u200f<script>"
    rows = ["file,label,patient,site"]
    for number in range(40):
        name = f"{number:02d}{HEBREW}<script>.png"
        Image.fromarray(picture(number - number % 2 * (number < 4))).save(folder / name)
        rows.append(f"{name},{('<i>a</i>', HEBREW)[number % 2]},p{number},{bidi}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    (folder / "dataset.toml").write_text(
        f"""
name = "hostile"
classes = ["<i>a</i>", "{HEBREW}"]
field_of_view = {{ share = 1.0 }}
summary = {json.dumps(HOSTILE)}
citation = {json.dumps(HOSTILE)}
licence = {json.dumps(HOSTILE)}
how_to_get = {json.dumps(HOSTILE)}
cases = "cases.csv"
[columns]
path = "file"
label = "label"
patient = "patient"
[subgroups]
site = "site"
"""
    )
    return folder


@pytest.mark.parametrize(
    "words",
    [
        *(("list",), ("list", "--json"), ("info", "hostile"), ("info", "hostile", "--json")),
        *(("check", "hostile"), ("check", "hostile", "--cases"), ("check", "hostile", "--json")),
    ],
)
def test_what_commands_print_of_a_dataset(
    words: tuple[str, ...], command: Command, declared: Path
) -> None:
    result = command("datasets", *words, "--root", f"hostile={declared}", status=None)
    assert "hostile" in result.stdout, result.output


def test_what_a_draft_prints(command: Command, declared: Path) -> None:
    (declared / "dataset.toml").unlink()
    command("datasets", "new", declared, status=None)


def test_warnings_and_progress_lines(tmp_path: Path) -> None:
    from rich.console import Console
    from rich.progress import Progress

    shown = io.StringIO()
    with redirect_stderr(shown):
        PlainProgress().print(HOSTILE)
    assert_nothing_acts(shown.getvalue())
    live = io.StringIO()
    progress = Progress(console=Console(file=live, width=1000))
    LiveProgress(SimpleNamespace(), progress).print(HOSTILE)  # type: ignore[arg-type]
    assert_nothing_acts(live.getvalue())
    record = logging.LogRecord("hydrakit", logging.WARNING, __file__, 1, "%s", (HOSTILE,), None)
    assert_nothing_acts(_Formatter("%(message)s").format(record))


def test_a_logged_warning_is_printed_as_a_line(command: Command, tmp_path: Path) -> None:
    from hydrakit.cli.printing import printing_warnings

    shown = io.StringIO()
    with redirect_stderr(shown), printing_warnings():
        logging.getLogger("hydrakit.data.read").warning("%s", HOSTILE)
        logging.getLogger("hydrakit").warning("a line of a run's log, which the run prints itself")
    assert_nothing_acts(shown.getvalue())
    assert shown.getvalue().count("\n") == 1


def test_only_one_module_prints() -> None:
    """So that no command prints text of strangers as it is."""
    for path in sorted(Path(printing.__file__).parent.glob("*.py")):
        if path.name != "printing.py":
            assert "click.echo(" not in path.read_text(), path
            assert "sys.stdout" not in path.read_text(), path


# Pages


def hostile_page(folder: Path) -> Path:
    """The page of a check: hostile keys, classes, facts, summary, and pairs side by side."""
    cases = [
        Sample(
            key=f"{HEBREW}-{number}<script>\u202e",
            image=picture(number - number % 2 * (number < 4)).astype(np.float32),
            label=number % 2,
            patient=f"p{number}",
            facts={f"{HEBREW} {MARKUP}\u202e": ("one \u202e", MARKUP)[number % 2]},
            subgroups={"site \u2067": f"{HEBREW} <b>"},
        )
        for number in range(40)
    ]
    texts = dict.fromkeys(("summary", "citation", "licence", "how_to_get"), HOSTILE)
    classes = (f"{HEBREW} <i>\u05d3</i>", "<b>malignant</b>")
    adapter = replace(standin("hostile", classes), read=lambda *_: iter(cases), **texts)
    (folder / "hostile").mkdir()
    prepared = prepare(adapter, folder / "hostile", options={}, patch=16)
    summary = summarise(adapter, prepared)
    path = folder / "page.html"
    path.write_text(check_page(summary, prepared, adapter), encoding="utf-8")
    return path


def test_no_text_is_markup_and_no_control_character_is_left(tmp_path: Path) -> None:
    text = hostile_page(tmp_path).read_text(encoding="utf-8")
    for each in ("<script", "<img src=x", "\u202e", "\u2067", "\x1b", "\x9b", "<b>malignant"):
        assert each not in text
    assert text.count("\u2068") == text.count("\u2069") > 0
    assert str(element("p", f"{HEBREW} 12")) == f"<p>\u2068{HEBREW}\u2069 12</p>"
    assert str(element("i", title=f'{HEBREW}"')) == f'<i title="\u2068{HEBREW}\u2069&quot;"></i>'


# The left edges of what stands before, in and after words written from right to left.
EDGES = """
(() => {
  const item = [...document.querySelectorAll(".pairs p")]
    .find((each) => each.textContent.includes("-0<script>"));
  const text = item.firstChild, at = item.textContent.indexOf("-0<script>");
  const left = (index) => {
    const range = document.createRange();
    range.setStart(text, index); range.setEnd(text, index + 1);
    return range.getBoundingClientRect().left;
  };
  return [left(at - 3), left(at), left(at + 1), left(at + 2)];
})()
"""


@pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")
def test_a_page_runs_nothing_and_isolates_what_is_written_from_right_to_left(
    tmp_path: Path,
) -> None:
    path = hostile_page(tmp_path)
    with chromium(tmp_path / "profile") as browser:
        browser.look(width=1280)
        browser.open(path)
        assert browser.value("document.title") == "hostile - hydrakit datasets check"
        assert browser.value("document.scripts.length") == 0
        assert {each.split(":")[0] for each in browser.requests} == {"file", "data"}
        assert [each for each in browser.requests if each.startswith("file")] == [path.as_uri()]
        assert browser.said == []
        edges = browser.value(EDGES)
        assert edges == sorted(edges)
        assert len(set(edges)) == 4
        shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        assert Image.open(io.BytesIO(base64.b64decode(shot))).width == 1280
