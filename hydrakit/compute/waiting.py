"""How long the CPU threads of torch wait actively for one another.

Between two parallel parts of a computation, OpenMP's threads first count in a loop and then sleep.
With the default of GNU OpenMP, which torch uses on Linux, they count for milliseconds: where other
processes need the processors, a training step with 2 threads took three times as long, and
four times the CPU time. Without any counting, a step of a head takes 2.5 times as long on an idle
machine, because waking a thread takes longer than the step's parallel parts. `SPINS` is long enough
for the gaps between parallel parts, and no longer. It changes no bit of a result.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = 20_000
"""Number of times that a waiting thread counts before it sleeps; 300,000 is OpenMP's default."""

VARIABLE = "GOMP_SPINCOUNT"
OTHER = "OMP_WAIT_POLICY"  # of the user, decides the same


def limit_waiting(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the waiting time for this process and those that it starts, unless the user has set it.

    It has an effect only before torch is imported.
    """
    if OTHER not in environment:
        environment.setdefault(VARIABLE, str(SPINS))
