"""A fixture of pytest that checks a plugin; name this module in ``conftest.py`` to have it.

Example::

    # tests/conftest.py
    pytest_plugins = ["hydrakit.testing.fixtures"]

    # tests/test_plugin.py
    def test_plugin(check_plugin, tmp_path):
        write_many_files(tmp_path / "skin")
        check_plugin("hydrakit-skin", data=tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hydrakit.testing.properties import CheckedProperty


@pytest.fixture
def check_plugin() -> Callable[..., list[CheckedProperty]]:
    """`hydrakit.testing.check_plugin`, which fails the test with one line for each fault."""
    from hydrakit.testing import plugin, properties

    def check(name_or_path: str | Path, data: Path | None = None) -> list[CheckedProperty]:
        return properties.require(plugin.check_plugin(name_or_path, data))

    return check
