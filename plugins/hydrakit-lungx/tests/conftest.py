"""What the tests of this plugin share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # `lungx_files`


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    """Headers are kept in a folder of the test's own."""
    monkeypatch.setenv("HYDRAKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
