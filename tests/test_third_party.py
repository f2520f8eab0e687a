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


def test_its_own_tests_pass(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "-c", os.devnull, f"--rootdir={tmp_path}", f"--basetemp={tmp_path}/t", EXAMPLE],
        env=os.environ | {"PYTHONPATH": str(EXAMPLE), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


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
