"""Random starts: the best one begins, also where hopeless ones are dropped early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import load_dataset, new_network
from torch import nn

from hydrakit.data.load import CaseSet
from hydrakit.models.body import PaperBody
from hydrakit.training.bootstrap import FEWEST_OF_A_CLASS, best_start, subset
from hydrakit.training.evaluation import Evaluator


@pytest.fixture
def val(data: Path, cache: Path) -> CaseSet:
    """The validation split of a stand-in, of 400 cases drawn with replacement."""
    cases = load_dataset("alpha", data=data, cache=cache).val
    rows = np.random.default_rng(0).integers(len(cases.labels), size=400)
    return replace(
        cases,
        patches=cases.patches[torch.from_numpy(rows)],
        labels=cases.labels[rows],
        cases=tuple(cases.cases[row] for row in rows),
    )


def build(number: int) -> tuple[PaperBody, nn.Module]:
    return new_network(seed=number)


def one_by_one(val: CaseSet, count: int) -> list[float]:
    scores = []
    for number in range(count):
        body, head = build(number)
        scores.append(Evaluator(body, head, val, None, "cross-entropy")()[0].score)
    return scores


def test_the_best_of_all_starts_begins(val: CaseSet) -> None:
    expected = one_by_one(val, 12)
    seen: list[int] = []
    (body, head), told = best_start(
        build, val, count=12, rule="all", loss="cross-entropy", on_start=seen.append
    )
    assert told.val_auc == tuple(expected)
    assert told.chosen == int(np.argmax(expected))
    assert seen == list(range(1, 13))
    best = build(told.chosen)
    assert torch.equal(body.dense.weight, best[0].dense.weight)
    assert torch.equal(next(head.parameters()), next(best[1].parameters()))


def test_halving_looks_at_few_starts_on_all_cases_and_keeps_good_ones(val: CaseSet) -> None:
    expected = one_by_one(val, 32)
    seen: list[int] = []
    _, told = best_start(
        build, val, count=32, rule="halving", loss="cross-entropy", on_start=seen.append
    )
    looked_at = [n for n, score in enumerate(told.val_auc) if score is not None]
    assert len(told.val_auc) == 32
    assert len(looked_at) == 2
    assert all(told.val_auc[n] == expected[n] for n in looked_at)
    assert told.val_auc[told.chosen] == max(expected[n] for n in looked_at)
    # The validation cases tell these starts apart well enough that the winner is a good one.
    assert sum(score > expected[told.chosen] for score in expected) <= 3
    assert seen == sorted(seen)
    assert seen[-1] == 32


def test_few_cases_are_all_looked_at(val: CaseSet) -> None:
    few = subset(val, 0.25)
    assert few is not None
    assert subset(few, 0.25) is None
    expected = one_by_one(few, 8)
    _, told = best_start(
        build, few, count=8, rule="halving", loss="cross-entropy", on_start=lambda _: None
    )
    assert told.val_auc[told.chosen] == max(expected)


def test_a_subset_holds_every_class_in_its_share(val: CaseSet) -> None:
    part = subset(val, 0.3)
    assert part is not None
    for label in (0, 1):
        whole = int((val.labels == label).sum())
        assert int((part.labels == label).sum()) == round(0.3 * whole) >= FEWEST_OF_A_CLASS
    at = next(i for i, case in enumerate(val.cases) if case == part.cases[0])
    assert torch.equal(part.patches[0], val.patches[at])
    assert subset(replace(val, task="regression"), 0.3) is None
