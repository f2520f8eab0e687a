"""The version of hydrakit that is installed."""

from __future__ import annotations

DISTRIBUTION = "hydrakit-imaging"


def version() -> str:
    """The version of the installed distribution ``hydrakit-imaging``."""
    from importlib import metadata

    return metadata.version(DISTRIBUTION)
