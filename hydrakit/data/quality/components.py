"""Connected components: which cases belong together, directly or through others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def connected_components(count: int, links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sets of indices that links connect: each set ascending, the sets by their first index.

    ``scipy.sparse`` gives the same, but every run would wait for its import.

    Args:
        count: Number of indices, from 0. An index without a link is a set of its own.
        links: Pairs of indices that belong together.
    """
    one, other = np.array(links, dtype=np.intp).reshape(-1, 2).T
    lowest = np.arange(count)  # of each index a lower one of its set, in the end the lowest
    while (lowest[one] != lowest[other]).any():
        lower = np.minimum(lowest[one], lowest[other])
        for ends in (one, other):
            np.minimum.at(lowest, lowest[ends], lower)
        while (lowest != lowest[lowest]).any():
            lowest = lowest[lowest]
    components: dict[int, list[int]] = {}
    for index, first in enumerate(lowest.tolist()):
        components.setdefault(first, []).append(index)
    return list(components.values())
