"""Connected components are those of SciPy, without its import."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components as scipy_components

from hydrakit.data.quality.components import connected_components

index = st.integers(0, 11)


@settings(deadline=None)
@given(st.lists(st.tuples(index, index), max_size=20), st.integers(12, 14))
def test_components_are_those_of_scipy(links: list[tuple[int, int]], count: int) -> None:
    one, other = np.array(links, dtype=int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(count, count))
    _, labels = scipy_components(graph, directed=False)
    sets = [np.flatnonzero(labels == label).tolist() for label in np.unique(labels)]
    assert connected_components(count, links) == sorted(sets)


def test_no_index_has_no_component_and_a_long_chain_has_one() -> None:
    assert connected_components(0, []) == []
    count = 50_000
    chain = [(i, i + 1) for i in reversed(range(count - 1))]
    assert connected_components(count, chain) == [list(range(count))]
