"""The version of hydrakit that is installed."""

from __future__ import annotations


def version() -> str:
    """The version of the installed distribution ``hydrakit-imaging``."""
    from importlib import metadata

    return metadata.version("hydrakit-imaging")
