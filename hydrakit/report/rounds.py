"""The table of rounds, with validation results and their confidence intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plan.results import DataFacts, RoundResult
from hydrakit.report.markup import Html, bullet_list, join
from hydrakit.report.tables import ABSENT, interval, number, seconds, table
from hydrakit.rounds import Round
from hydrakit.stats.chance import best_of_chance
from hydrakit.stats.intervals import newcombe_interval

ClassCounts = Mapping[str, Sequence[int] | None]
"""Validation findings (negative, positive) by dataset; None for tasks without two classes."""

HEADERS = (
    "Round",
    "Dataset",
    "Trained",
    "Head",
    "Learning rate",
    "Dropout",
    "Best epoch",
    "Val. loss",
    "Val. AUC",
    "95 % CI",
    "Val. accuracy",
    "Reference AUC",
    "Seconds",
)
TRAINED = {
    "head": "“head”: the head, with a frozen body",
    "all": "“all”: body and head",
    "norm": "“norm”: the head, and only the normalisation layers of the body",
    "none": "“none”: nothing, the network is only evaluated",
}


def two_classes(facts: DataFacts, split: str, adapter: DatasetAdapter | None) -> list[int] | None:
    """Findings of each of the two classes in a split; None for any other task.

    Args:
        facts: Facts of the dataset.
        split: Name of the split.
        adapter: The dataset, if its plugin is installed.
    """
    counts = facts.findings.get(split, {})
    classes = adapter.classes if adapter else tuple(counts)
    known = set(counts) <= set(classes)
    if len(classes) != 2 or not known or (adapter and adapter.task != "classification"):
        return None
    # In a multi-label dataset without a plugin, cases with several labels are counted twice.
    if facts.cases and sum(facts.counts.get(split, {}).values()) != facts.cases.get(split):
        return None
    of_class = [counts.get(name, 0) for name in classes]
    return of_class if all(of_class) else None


def val_interval(auc: float | None, counts: Sequence[int] | None) -> tuple[float, float] | None:
    """Newcombe's 95 % confidence interval of an AUC; None without an AUC of two classes."""
    if auc is None or counts is None:
        return None
    return newcombe_interval(auc, counts[1], counts[0])


def rounds_table(plan: Plan, rounds: Sequence[RoundResult], counts: ClassCounts) -> Html:
    """The rounds, as in Table I of the paper, with notes.

    Args:
        plan: Plan of the run.
        rounds: Finished rounds in order.
        counts: Validation findings, for the confidence intervals.
    """
    total = seconds(sum(round.seconds for round in rounds))
    rows = [
        _finished_row(result, plan.rounds[result.round - 1], counts.get(result.dataset))
        for result in rounds
    ]
    rows += [
        _pending_row(number, plan.rounds[number - 1], is_next=number == len(rounds) + 1)
        for number in range(len(rounds) + 1, len(plan.rounds) + 1)
    ]
    rounds_in_order = table(
        "Table I. Rounds in training order",
        HEADERS,
        rows,
        words=(1, 2, 3),
        footer=("Total", *[""] * (len(HEADERS) - 2), total),
    )
    return join((rounds_in_order, bullet_list(_notes(plan, rounds, counts))), "\n")


def _body_notes(plan: Plan) -> Iterator[str]:
    """Which body the heads of the finished run belong to."""
    last = plan.rounds[plan.strategy_rounds :]
    if last:
        yield (
            f"The rounds at the end ({', '.join(each.dataset for each in last)}) fit these heads "
            "to the final body, which they do not change. Forgetting and transfer are measured "
            "before them."
        )
    heads = dict.fromkeys(head for each in plan.rounds for head in each.heads)
    numbers = {head: plan.body_round(head) for head in heads}
    earlier = [f"{head} (round {number})" for head, number in numbers.items() if number]
    if earlier:
        yield (
            "Heads that do not belong to the final body, since later rounds have changed it: "
            f"{', '.join(earlier)}. They stay with the body of that round, which evaluation and "
            "prediction use for them. --recentre trains them on the final body at the end."
        )


def _notes(plan: Plan, rounds: Sequence[RoundResult], counts: ClassCounts) -> Iterator[str]:
    kinds = dict.fromkeys(("head", "all", *(round.train for round in plan.rounds)))
    yield f"Trained: {'; '.join(TRAINED[kind] for kind in kinds)}."
    yield from _body_notes(plan)
    yield (
        "Validation results (val.) are those of the weights that the round ends with, on its own "
        "dataset. The same cases helped to choose them, so the results are optimistic. Every image "
        "counts; the "
        "confidence interval (Newcombe) reflects the number of findings only."
    )
    if not rounds:
        return
    if any(round.reference_auc is not None for round in rounds):
        yield (
            "Reference AUC: the first round's head on the validation split of "
            f"{plan.target}, with the body after this round. A drop means that the body has moved "
            "away from the features that this head uses."
        )
    else:
        yield (
            "Reference AUC: not available. It requires a first round on the target and further "
            "rounds after it."
        )
    yield from _initialisation_notes(rounds[0], counts.get(rounds[0].dataset))
    if any(round.hyperparameters.carry_head == "last" for round in plan.rounds):
        yield (
            "Body and results are those of the best epoch. Rounds with carry_head = last pass on "
            "the head of the last epoch to later rounds, as the authors' code does."
        )
    select = dict.fromkeys(round.hyperparameters.select for round in plan.rounds)
    if list(select) != ["best"]:
        yield f"Rule that selects the epoch a round ends with (select): {', '.join(select)}."


def _initialisation_notes(first: RoundResult, counts: Sequence[int] | None) -> Iterator[str]:
    """Random initialisations of the first round, and the AUC expected from chance."""
    if first.bootstrap is not None and len(first.bootstrap.val_auc) > 1:
        aucs = [auc for auc in first.bootstrap.val_auc if auc is not None]
        dropped = len(first.bootstrap.val_auc) - len(aucs)
        early = f" ({dropped} rejected early, on part of the validation cases)" if dropped else ""
        yield (
            f"The run started from the best of {len(first.bootstrap.val_auc)} random "
            f"initialisations{early}. Their validation AUCs on {first.dataset} before training "
            f"ranged from {number(min(aucs))} to {number(max(aucs))}."
        )
    chance = chance_note(first, counts)
    if chance is not None:
        yield chance


def chance_note(first: RoundResult, counts: Sequence[int] | None) -> str | None:
    """AUC expected from chance on the first round's validation split; None for other tasks.

    Args:
        first: Result of the first round.
        counts: Validation findings (negative, positive) of its dataset; None for other tasks.
    """
    if counts is None or first.val.auc is None:
        return None
    starts = len(first.bootstrap.val_auc) if first.bootstrap else 1
    chance = best_of_chance(counts[1], counts[0], starts)
    cases = f"{counts[1]} positive and {counts[0]} negative validation findings of {first.dataset}"
    range_95 = f"95 % range {interval(chance.low, chance.high)}"
    if starts == 1 or first.bootstrap is None:
        return f"Expected AUC of a random classifier on these cases ({cases}): 0.500 ({range_95})."
    best = first.bootstrap.val_auc[first.bootstrap.chosen]
    verdict = (
        "better than expected by chance"
        if best is not None and best > chance.high
        else "not better than expected by chance"
    )
    return (
        f"Expected best AUC of {starts} random classifiers on these cases ({cases}): "
        f"{number(chance.expected)} ({range_95}). The best random "
        f"initialisation had {number(best)}: {verdict}."
    )


def _finished_row(
    round: RoundResult, planned: Round, counts: Sequence[int] | None
) -> tuple[object, ...]:
    return (
        round.round,
        " + ".join(planned.datasets),
        round.train,
        " + ".join(planned.heads),
        f"{round.learning_rate:g}",
        f"{round.dropout:g}",
        f"{round.best_epoch} of {round.epochs}" if round.epochs else ABSENT,
        number(round.val.loss),
        number(round.val.auc),
        interval(*(val_interval(round.val.auc, counts) or (None, None))),
        number(round.val.accuracy),
        number(round.reference_auc),
        seconds(round.seconds),
    )


def _pending_row(index: int, planned: Round, *, is_next: bool) -> tuple[object, ...]:
    settings = planned.hyperparameters
    return (
        index,
        " + ".join(planned.datasets),
        planned.train,
        " + ".join(planned.heads),
        f"{settings.learning_rate:g}",
        f"{settings.dropout:g}",
        "in progress" if is_next else "pending",
        *[ABSENT] * 6,
    )
