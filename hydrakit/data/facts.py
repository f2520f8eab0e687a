"""What a dataset gave to a run: counts of its splits, and what became of the other cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hydrakit.data.gate import DROPPED, WITHHELD, Gate, shortcut_facts
from hydrakit.data.index import Case, Index
from hydrakit.data.read import class_names
from hydrakit.data.split import UNUSED
from hydrakit.hooks import DatasetAdapter
from hydrakit.results import DataFacts


def data_facts(index: Index, adapter: DatasetAdapter, gate: Gate) -> DataFacts:
    """The facts of one of a run's datasets.

    Args:
        index: Of its prepared patches.
        adapter: The dataset.
        gate: Which split each of its cases is in.
    """
    labelled = [case for case in index.cases if case.label is not None]
    dealt = gate.splits[adapter.name]
    members: dict[str, list[Case]] = {}
    for case in labelled:
        members.setdefault(dealt[case.key], []).append(case)
    out = {name: len(members.pop(name, ())) for name in (DROPPED, WITHHELD, UNUSED)}
    inside = dict(sorted(members.items()))
    return DataFacts(
        digest=index.content,
        channels=index.channels,
        cases={split: len(cases) for split, cases in inside.items()},
        counts={split: _counts(cases, adapter) for split, cases in inside.items()},
        findings={
            split: _counts([*{case.finding: case for case in cases}.values()], adapter)
            for split, cases in inside.items()
        },
        patients={split: len({case.patient for case in cases}) for split, cases in inside.items()},
        unlabelled=len(index.cases) - len(labelled),
        excluded=dict(Counter(case.reason for case in index.excluded)),
        copies=gate.copied.get(adapter.name, 0),
        dropped=out[DROPPED],
        withheld=out[WITHHELD],
        unused=out[UNUSED],
        shortcuts=shortcut_facts(index.cases, adapter, gate.units[adapter.name]),
    )


def _counts(cases: Sequence[Case], adapter: DatasetAdapter) -> dict[str, int]:
    """How many cases there are of each class or label."""
    counted = Counter(
        name for case in cases for name in class_names(case.label, adapter.task, adapter.classes)
    )
    return dict(sorted(counted.items()))
