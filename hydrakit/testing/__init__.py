"""Checks of plugins, for the tests of their authors; ``hydrakit plugins check`` runs the same ones.

Example::

    from hydrakit.testing import check_adapter, check_head, check_plugin, require

    def test_adapter(tmp_path):
        write_three_files(tmp_path)
        report = check_adapter(ADAPTER, tmp_path)
        assert report.samples == {"benign": 2, "malignant": 1}

    def test_head():
        check_head(HEAD)

    def test_plugin(tmp_path):
        write_many_files(tmp_path / "skin")
        require(check_plugin("hydrakit-skin", data=tmp_path))

`hydrakit.testing.fixtures` has the last one as a fixture of pytest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrakit.testing.adapter import AdapterReport, check_adapter
    from hydrakit.testing.launchers import check_launcher
    from hydrakit.testing.networks import check_body, check_head
    from hydrakit.testing.plugin import check_plugin
    from hydrakit.testing.properties import (
        CheckedProperty,
        Property,
        PropertySkipped,
        check_properties,
        require,
    )
    from hydrakit.testing.strategies import check_strategy

__all__ = [
    "AdapterReport",
    "CheckedProperty",
    "Property",
    "PropertySkipped",
    "check_adapter",
    "check_body",
    "check_head",
    "check_launcher",
    "check_plugin",
    "check_properties",
    "check_strategy",
    "require",
]

# Modules are imported when a name of them is used: a strategy must be checked before torch is
# imported, and the process that measures a plugin's import must not have imported NumPy.
_MODULES = {
    "AdapterReport": "adapter",
    "check_adapter": "adapter",
    "check_body": "networks",
    "check_head": "networks",
    "check_launcher": "launchers",
    "check_plugin": "plugin",
    "check_strategy": "strategies",
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = _MODULES.get(name, "properties")
        return getattr(import_module(f"hydrakit.testing.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
