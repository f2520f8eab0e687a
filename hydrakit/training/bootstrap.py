"""Bootstrap: the best of several random starts, by the first round's validation split.

The paper trains from the best of 200 (`hydrakit.plan.profiles`).
"""

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
from hydrakit.training.evaluation import Evaluator, require_finite

# Stages of the rule `halving`: share of the validation cases, and share of the starts that remain.
# A stage is left out if its share of a class has fewer cases than FEWEST_OF_A_CLASS.
STAGES = ((1 / 8, 1 / 4), (1 / 2, 1 / 4))
FEWEST_OF_A_CLASS = 16

BodyAndHead = tuple[BodyModule, nn.Module]


class StartScores(Frozen):
    """Scores of the random starts evaluated so far (``bootstrap.json``).

    Attributes:
        scores: Validation AUC (of a regression R2), by share of the validation cases and by number
            of the start.
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
    known: StartScores | None = None,
    on_scores: Callable[[StartScores], None] = lambda _: None,
) -> tuple[BodyAndHead, Bootstrap]:
    """Evaluate random starts, and return the one with the highest validation AUC (or R2).

    Args:
        build: Builds the start with a number, on the device of the cases; the same start each time.
        val: Validation split.
        count: Number of starts.
        rule: ``all`` evaluates every start on every case; ``halving`` drops poor starts early.
        loss: Loss function, as in `Hyperparameters`.
        on_start: Called with the number of starts that are evaluated or dropped.
        known: Scores from before a stop; these starts are not evaluated again.
        on_scores: Called with all scores so far, after each evaluation.

    Raises:
        PlanError: The numbers of a start are not finite.
    """
    scores = {share: dict(by_start) for share, by_start in (known or StartScores()).scores.items()}

    def score(number: int, share: float, cases: CaseSet) -> float:
        by_start = scores.setdefault(share, {})
        if number not in by_start:
            metrics = Evaluator(*build(number), cases, None, loss)()[0]
            require_finite(metrics, f"random start {number + 1} of {count}", cases.dataset)
            by_start[number] = metrics.score
            on_scores(StartScores(scores=scores))
        return by_start[number]

    remaining = list(range(count))
    if rule == "halving":
        for share, remaining_share in STAGES:
            cases = subset(val, share)
            if cases is None:
                continue
            stage_scores = [score(number, share, cases) for number in remaining]
            order = sorted(range(len(remaining)), key=lambda at: -stage_scores[at])
            best = sorted(order[: max(1, round(remaining_share * len(remaining)))])
            remaining = [remaining[at] for at in best]
            on_start(count - len(remaining))
    final: list[float | None] = [None] * count
    for done, number in enumerate(remaining, start=count - len(remaining) + 1):
        final[number] = score(number, 1.0, val)
        on_start(done)
    chosen = max(remaining, key=lambda number: (final[number], -number))
    return build(chosen), Bootstrap(chosen=chosen, val_auc=tuple(final))


def subset(cases: CaseSet, share: float) -> CaseSet | None:
    """Choose the same share of the cases of each class, evenly spaced.

    Returns:
        The chosen cases; None if a class would have too few, or if the labels are not classes.
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
