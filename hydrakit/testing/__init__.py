"""Checks of plugins, for the tests of their authors; ``hydrakit plugins check`` runs the same ones.

Example::

    from hydrakit.testing import check_adapter

    def test_adapter(tmp_path):
        write_three_files(tmp_path)
        report = check_adapter(ADAPTER, tmp_path)
        assert report.samples == {"benign": 2, "malignant": 1}
"""

from __future__ import annotations

from hydrakit.testing.adapter import AdapterReport, check_adapter
from hydrakit.testing.properties import CheckedProperty, Property, check_properties

__all__ = [
    "AdapterReport",
    "CheckedProperty",
    "Property",
    "check_adapter",
    "check_properties",
]
