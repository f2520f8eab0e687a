"""Names of the components of installed plugins, which shells complete without importing a plugin.

At the first Tab key after an installation, the plugins are loaded once, and the names are written
to a file of the user's cache folder, one for each Python environment. Commands other than those of
a completing shell neither read nor write it.
"""

from __future__ import annotations

import json
import os
import site
import sys
import zlib
from contextlib import suppress
from pathlib import Path

from hydrakit.errors import PlanError
from hydrakit.storage.paths import user_cache

Names = dict[str, list[str]]  # by the kind of component, or "plugin"

MAX_BYTES = 2**20  # of the file; ours has 2 kB


def _path() -> Path:
    """The file of this Python environment. The folder of `using_cache` is not known to a shell."""
    return user_cache() / f"names-{zlib.crc32(sys.prefix.encode()):08x}.json"


def _installed() -> list[str]:
    """Folders that pip installs into with their times, which it changes; and further folders."""
    folders = [*site.getsitepackages(), site.getusersitepackages()]
    times = [f"{path}: {path.stat().st_mtime_ns}" for path in map(Path, folders) if path.is_dir()]
    return [*times, os.environ.get("PYTHONPATH", "")]


def remembered_names() -> Names:
    """Names by kind of component; after an installation they are collected anew."""
    installed = _installed()
    try:
        path = _path()
        if path.is_file() and path.stat().st_size <= MAX_BYTES:
            content = json.loads(path.read_bytes())
            if content["installed"] == installed:
                names = content["names"].items()
                return {str(kind): [str(name) for name in each] for kind, each in names}
    except (OSError, PlanError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass  # collected and written again
    names = _collected()
    from hydrakit.storage.files import write_atomic

    with suppress(OSError, PlanError):  # without a folder for them they are collected every time
        path = _path()
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"installed": installed, "names": names})
        write_atomic(path, text.encode(), sync=False)
    return names


def _collected() -> Names:
    """Names of the components of all plugins."""
    from hydrakit.plugins.registry import load_plugins

    plugins = load_plugins(frozenset())
    names = {kind: sorted(components) for kind, components in plugins.components.items()}
    return {**names, "plugin": sorted(record.name for record in plugins.records)}
