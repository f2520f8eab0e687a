"""Build hook: the root distribution has the entry points of all the plugins that it carries.

Each shipped plugin names its entry points once, in its own ``pyproject.toml``.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class EntryPoints(MetadataHookInterface):
    """Adds the plugins' entry points to those of the root distribution itself."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the entry points of the distribution that is built."""
        points = dict(self.config["own"])
        for path in sorted(Path(self.root).glob("plugins/*/pyproject.toml")):
            project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
            points |= project["entry-points"]["hydrakit"]
        metadata["entry-points"] = {"hydrakit": points}
