"""Finding plugins, isolating broken ones, and reading the options of their components."""

from hydrakit.plugins.registry import Plugins, load_plugins

__all__ = ["Plugins", "load_plugins"]
