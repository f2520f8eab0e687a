"""Fixtures for the tests of the engine."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hydrakit.plugins import load_plugins

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Put a module and the metadata of a distribution into a folder on the search path."""
    before = set(sys.modules)

    def install(
        distribution: str,
        module: str,
        source: str | None,
        *,
        entry: str | None = None,
        version: str = "1.0",
        folder: str = "site",
    ) -> Path:
        site = tmp_path / folder
        info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        )
        points = info / "entry_points.txt"
        text = points.read_text() if points.exists() else "[hydrakit]\n"
        points.write_text(f"{text}{entry or module} = {module}\n")
        if source is not None:
            (site / f"{module}.py").write_text(source)
        if str(site) not in sys.path:
            monkeypatch.syspath_prepend(str(site))
        load_plugins.cache_clear()
        return info

    yield install
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    load_plugins.cache_clear()
