"""What is told of a run, in lines: on a terminal, and in its log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hydrakit.plan import Plan, Round
    from hydrakit.results import DataFacts, EpochRecord, RoundResult

SPLITS = ("train", "val", "test")


def name_of(plan: Plan, number: int, round: Round) -> str:
    """How a round is called."""
    return f"round {number} of {len(plan.rounds)}, {round.dataset} {round.train}"


def data_lines(name: str, facts: DataFacts) -> Iterator[str]:
    """What a dataset gives to the run, and what of it is left out or should be known."""
    parts = [f"{facts.cases[split]} {split}" for split in SPLITS if split in facts.cases]
    out = sum(facts.excluded.values())
    parts += [f"{out} without a usable image"] if out else []
    parts += [f"{facts.dropped} copies dropped"] if facts.dropped else []
    parts += [f"{facts.withheld} withheld (in the target's test split)"] if facts.withheld else []
    parts += [f"{facts.unused} unused"] if facts.unused else []
    yield f"{name}: {', '.join(parts)}"
    strong = [each.fact for each in facts.shortcuts if each.strong]
    if out or facts.copies or strong:
        notes = [f"{facts.copies} cases are copies of others"] if facts.copies else []
        notes += [f"{', '.join(strong)} tell{'s' * (len(strong) == 1)} the class"] if strong else []
        notes += [f"see `hydrakit datasets check {name}`"]
        yield f"{name}: {'; '.join(notes)}"


def figures(record: EpochRecord) -> str:
    """An epoch's figures in a few words."""
    train, val = record.train, record.val
    kind = "R2" if val.auc is None else "AUC"
    text = f"loss {train.loss:.3f} val {val.loss:.3f}, {kind} {train.score:.3f} val {val.score:.3f}"
    if record.reference_auc is not None:
        text += f" reference {record.reference_auc:.3f}"
    return text


def summary(result: RoundResult) -> str:
    """A finished round in a few words."""
    kind = "R2" if result.val.auc is None else "AUC"
    at = f" at epoch {result.best_epoch} of {result.epochs}" if result.epochs else ""
    text = f"val {kind} {result.val.score:.3f}{at}, {duration(result.seconds)}"
    if result.bootstrap is not None and len(result.bootstrap.val_auc) > 1:
        starts = result.bootstrap.val_auc
        best = starts[result.bootstrap.chosen]
        text += f" (best of {len(starts)} random starts: {best:.3f})"
    return text


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, in words."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"
