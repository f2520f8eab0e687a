"""The process of one contender: ``python -m benchmarks.worker MODULE.CLASS SETTINGS``.

It says ``ready``, then for every number that comes in on a line it does a unit of work and answers
with a line of JSON, until the input ends.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict

from benchmarks.harness import READY, Answer
from benchmarks.settings import Point, Settings

Unit = Callable[[int], Answer]


def contender(name: str, settings: Settings) -> Unit:
    """A contender: ``name`` is its class, as ``module.Class`` within this package."""
    module, _, kind = name.partition(".")
    made: Unit = getattr(importlib.import_module(f"benchmarks.{module}"), kind)(settings)
    return made


def main() -> None:
    """Work until the input ends."""
    name, text = sys.argv[1:]
    given = json.loads(text)
    settings = Settings(**{**given, "point": Point(**given["point"])})
    # What libraries print must not come between the answers.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    unit = contender(name, settings)
    print(READY, file=replies, flush=True)
    for line in sys.stdin:
        gc.collect()
        print(json.dumps(asdict(unit(int(line)))), file=replies, flush=True)


if __name__ == "__main__":
    main()
