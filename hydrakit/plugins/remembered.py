"""Names of the components of installed plugins, which shells complete without importing a plugin.

Whenever all plugins are loaded, their names are written to a file of the user's cache folder, one
for each Python environment. After an installation the new names are known once any command has
loaded the plugins; names of a plugin that is gone stay as long.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hydrakit.errors import PlanError
from hydrakit.storage.paths import user_cache

Names = dict[str, list[str]]  # by the kind of component, or "plugin"

MAX_BYTES = 2**20  # of the file; ours has 2 kB


def _path() -> Path:
    """The file of this Python environment. The folder of `using_cache` is not known to a shell."""
    return user_cache() / f"names-{zlib.crc32(sys.prefix.encode()):08x}.json"


def remember_names(names: Mapping[str, Sequence[str]]) -> None:
    """Write the names if they are new; without a folder for them, shells do not complete them."""
    from hydrakit.storage.files import write_atomic

    known = {kind: sorted(each) for kind, each in names.items()}
    with suppress(OSError, PlanError):
        if remembered_names() != known:
            path = _path()
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(known).encode(), sync=False)


def remembered_names() -> Names:
    """The names that were written last; none if there is no such file."""
    try:
        path = _path()
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return {}
        content = json.loads(path.read_bytes())
        return {str(kind): [str(name) for name in names] for kind, names in content.items()}
    except (OSError, PlanError, ValueError, TypeError, AttributeError, RecursionError):
        return {}
