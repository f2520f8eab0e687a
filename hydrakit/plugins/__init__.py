"""Finding plugins, isolating broken ones, and reading the options of their components."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrakit.plugins.registry import Plugins, load_plugins

__all__ = ["Plugins", "load_plugins"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("hydrakit.plugins.registry"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
