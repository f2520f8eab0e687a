"""Checks of plugins, for the tests of their authors; ``hydrakit plugins check`` runs the same ones.

Example::

    from hydrakit.testing import check_adapter, check_head

    def test_adapter(tmp_path):
        write_three_files(tmp_path)
        report = check_adapter(ADAPTER, tmp_path)
        assert report.samples == {"benign": 2, "malignant": 1}

    def test_head():
        check_head(HEAD)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hydrakit.testing.adapter import AdapterReport, check_adapter
from hydrakit.testing.properties import CheckedProperty, Property, check_properties

if TYPE_CHECKING:
    from hydrakit.testing.networks import check_body, check_head

__all__ = [
    "AdapterReport",
    "CheckedProperty",
    "Property",
    "check_adapter",
    "check_body",
    "check_head",
    "check_properties",
]

_MODULE = {"check_body": "networks", "check_head": "networks"}  # which import torch


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        return getattr(import_module(f"hydrakit.testing.{_MODULE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
