from __future__ import annotations

from pathlib import Path

import pytest

from hydrakit_phantom.write import write_phantom


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest phantom."""
    out = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(out, patients=12, seed=3)
    return out
