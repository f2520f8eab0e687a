"""Connected components: which cases belong together, directly or through others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def connected_components(count: int, links: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Sets of indices that links connect: each set ascending, the sets by their first index.

    Args:
        count: Number of indices, from 0. An index without a link is a set of its own.
        links: Pairs of indices that belong together.
    """
    from scipy.sparse import coo_array, csgraph

    if not count:
        return []
    one, other = np.array(links, dtype=np.intp).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    components: dict[int, list[int]] = {}
    for index, label in enumerate(csgraph.connected_components(graph, directed=False)[1].tolist()):
        components.setdefault(label, []).append(index)
    return list(components.values())
