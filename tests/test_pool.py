"""Which process of the pool runs which job, whatever the order in which they end."""

from __future__ import annotations

from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from hydrakit.jobs.job import Job
from hydrakit.jobs.pool import Queue


def groups_of(*sizes: int) -> list[list[Job]]:
    """Groups of so many jobs each, by names alone."""
    return [
        [cast("Job", f"job {group}-{number}") for number in range(size)]
        for group, size in enumerate(sizes)
    ]


def queue_of(groups: list[list[Job]], processes: int) -> Queue:
    queue = Queue(processes)
    queue.add(groups)
    return queue


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=60),
)
def test_every_job_runs_once(
    sizes: list[int], processes: int, moves: list[tuple[int, bool]]
) -> None:
    groups = groups_of(*sizes)
    queue = queue_of(groups, processes)
    jobs = [job for group in groups for job in group]
    out: list[Job] = []
    rest = [(process, True) for _ in jobs for process in range(processes)]
    for process, ahead in moves + rest:
        job = queue.next(process % processes, lambda _, ahead=ahead: ahead)
        out += [] if job is None else [job]
    assert sorted(map(str, out)) == sorted(map(str, jobs))
    assert len(queue) == 0


def test_a_process_goes_on_with_its_group_and_then_takes_another() -> None:
    groups = groups_of(2, 2, 1)
    queue = queue_of(groups, 2)
    order = [queue.next(process, lambda _: True) for process in (0, 1, 0, 0, 1)]
    assert order == [groups[0][0], groups[1][0], groups[0][1], groups[2][0], groups[1][1]]


def test_one_without_work_helps_with_the_last_cell_of_the_one_that_has_most() -> None:
    groups = groups_of(1, 3, 2)
    queue = queue_of(groups, 3)
    for process in range(3):
        assert queue.next(process, lambda _: True) == groups[process][0]
    asked: list[int] = []
    assert queue.next(0, lambda other: asked.append(other) is not None) is None  # no round yet
    assert asked == [1]
    assert queue.next(0, lambda _: True) == groups[1][2]
    assert queue.next(1, lambda _: True) == groups[1][1]
    assert queue.next(1, lambda _: True) == groups[2][1]
    assert queue.next(0, lambda _: True) is None


def test_a_cell_whose_process_was_killed_comes_next() -> None:
    groups = groups_of(2)
    queue = queue_of(groups, 1)
    first = queue.next(0, lambda _: True)
    assert first is not None
    queue.put_back(0, first)
    assert len(queue) == 2
    assert [queue.next(0, lambda _: True) for _ in range(2)] == groups[0]
