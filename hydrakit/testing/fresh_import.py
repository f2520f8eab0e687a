"""Imports one plugin in a process of its own, and writes down what that did.

`hydrakit.testing.imports` starts it: ``python -P -X importtime -c PROGRAM MODULE FILE``. What
Python says about import times, and what the plugin prints, is on the standard streams, between two
marks.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from pathlib import Path
from types import ModuleType

from hydrakit.errors import HydrakitError, one_line
from hydrakit.plugins.guard import describe_error
from hydrakit.plugins.process_state import restored
from hydrakit.plugins.registry import components_of
from hydrakit.testing.properties import describe_exit

# What every command imports before the plugins; it is not the plugin's.
PROGRAM = "import hydrakit.cli, hydrakit.testing.fresh_import as it; it.main()"

BEGIN, END = "hydrakit: the import begins", "hydrakit: the import has ended"

# Warnings that Python does not show, unless they are about code of the plugin itself.
HIDDEN = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)


def main() -> None:
    """Import the plugin that the arguments name, call its hooks, and write a file of JSON."""
    module, file = sys.argv[1:]
    changed: list[str] = []
    error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with restored(changed.extend, seeds=True):
            _mark(BEGIN)
            started = time.perf_counter()
            try:
                components_of(module)
            except HydrakitError as broken:
                error = str(broken)
            except SystemExit as broken:
                error = describe_exit(broken)
            except BaseException as broken:
                error = describe_error(broken) + _remedy(broken, _top_level(module))
            seconds = time.perf_counter() - started
            _mark(END)
    top = sys.modules.get(_top_level(module))
    result = {
        "seconds": seconds,
        "error": error,
        "changed": changed,
        "warnings": [
            one_line(f"{each.category.__name__}: {each.message}", 200)
            for each in caught
            if not issubclass(each.category, HIDDEN) or _is_of(each.filename, top)
        ],
    }
    Path(file).write_text(json.dumps(result), encoding="utf-8")


def _mark(text: str) -> None:
    sys.stdout.flush()
    print(f"\n{text}", file=sys.stderr, flush=True)


def _remedy(error: BaseException, own: str) -> str:
    """What to do about a package that is not installed; empty for other errors."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is None or _top_level(missing) in (own, "hydrakit"):
        return ""
    return ": install it, or add it to the plugin's dependencies"


def _top_level(module: str) -> str:
    return module.partition(":")[0].partition(".")[0]


def _is_of(filename: str, top: ModuleType | None) -> bool:
    """Whether a file belongs to a package or module."""
    file = getattr(top, "__file__", None)
    if file is None:
        return False
    path = Path(file)
    return Path(filename) == path or (
        path.name == "__init__.py" and path.parent in Path(filename).parents
    )
