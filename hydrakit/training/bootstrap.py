"""The best of many random starts, by the first round's validation split (paper, Section II-D)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from hydrakit.data.load import CaseSet
from hydrakit.models.body import BodyModule
from hydrakit.plan.model import BootstrapRule
from hydrakit.plan.results import Bootstrap
from hydrakit.schema import Frozen
from hydrakit.training.evaluation import Evaluator

# Stages of `halving`: the share of the validation cases that is looked at, and the share of the
# starts that goes on. Few cases tell starts apart badly: with less than so many of a class, all
# cases are looked at.
STAGES = ((1 / 8, 1 / 4), (1 / 2, 1 / 4))
FEWEST_OF_A_CLASS = 16

BodyAndHead = tuple[BodyModule, nn.Module]


class StartScores(Frozen):
    """What was seen of random starts so far (``bootstrap.json``).

    Attributes:
        scores: Validation AUC (of a number, R2), by the share of the cases that was looked at, and
            the number of the start.
    """

    scores: dict[float, dict[int, float]] = Field(default_factory=dict)


def best_start(
    build: Callable[[int], BodyAndHead],
    val: CaseSet,
    *,
    count: int,
    rule: BootstrapRule,
    loss: str,
    on_start: Callable[[int], None],
    looked: StartScores | None = None,
    on_look: Callable[[StartScores], None] = lambda _: None,
) -> tuple[BodyAndHead, Bootstrap]:
    """Look at random starts, and give the one with the highest validation AUC (of a number, R2).

    Args:
        build: Makes the start of a number, on the cases' device; the same whenever it is asked.
        val: The validation split.
        count: How many starts.
        rule: ``all`` looks at every start on every case; ``halving`` drops hopeless ones early.
        loss: As in `Hyperparameters`.
        on_start: Called with the number of starts that are done with.
        looked: What was seen before a stop: these starts are not looked at again.
        on_look: Called with what was seen so far, after each start.
    """
    scores = {share: dict(of) for share, of in (looked or StartScores()).scores.items()}

    def score(number: int, share: float, cases: CaseSet) -> float:
        known = scores.setdefault(share, {})
        if number not in known:
            known[number] = Evaluator(*build(number), cases, None, loss)()[0].score
            on_look(StartScores(scores=scores))
        return known[number]

    running = list(range(count))
    if rule == "halving":
        for share, kept in STAGES:
            part = subset(val, share)
            if part is None:
                continue
            found = [score(number, share, part) for number in running]
            order = sorted(range(len(running)), key=lambda at: -found[at])
            best = sorted(order[: max(1, round(kept * len(running)))])
            running = [running[at] for at in best]
            on_start(count - len(running))
    whole: list[float | None] = [None] * count
    for done, number in enumerate(running, start=count - len(running) + 1):
        whole[number] = score(number, 1.0, val)
        on_start(done)
    chosen = max(running, key=lambda number: (whole[number], -number))
    return build(chosen), Bootstrap(chosen=chosen, val_auc=tuple(whole))


def subset(cases: CaseSet, share: float) -> CaseSet | None:
    """Some of the cases, as many of every class as its share is.

    Returns:
        The first ones of each class; None where that leaves too few of a class, or where labels
        are no classes.
    """
    if cases.task != "classification":
        return None
    chosen: list[NDArray[np.int64]] = []
    for label in np.unique(cases.labels):
        members = np.flatnonzero(cases.labels == label)
        count = round(share * len(members))
        if count < FEWEST_OF_A_CLASS:
            return None
        chosen.append(members[np.linspace(0, len(members) - 1, count).astype(int)])
    rows = np.sort(np.concatenate(chosen))
    return replace(
        cases,
        patches=cases.patches[torch.from_numpy(rows).to(cases.patches.device)],
        labels=cases.labels[rows],
        cases=tuple(cases.cases[row] for row in rows),
    )
