"""The paper's strategies: Hydra, transfer learning and classical training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydrakit.hooks import SequenceStrategy, Settings, hookimpl

if TYPE_CHECKING:
    from hydrakit.plan import Place, Round, Train


def hydra(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Algorithm 1 of the paper: for each dataset, its head on the frozen body, then both.

    The first dataset has no trained body to put a head on, so it trains both at once. A dataset
    that comes again trains its own head on.
    """
    from hydrakit.plan import Round

    rounds = []
    for number, name in enumerate(datasets):
        kinds: tuple[Train, ...] = ("head", "all") if number > 0 else ("all",)
        for train in kinds:
            # The first dataset has no head round: place counts among rounds of one kind.
            place = _place(number - (train == "head"), len(datasets) - (train == "head"))
            values = settings.hyperparameters(train, place)
            rounds.append(Round(dataset=name, train=train, head=name, hyperparameters=values))
    return rounds


def transfer(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Sequential transfer learning: one network, all of it trained on each dataset in turn."""
    from hydrakit.plan import Round

    return [
        Round(
            dataset=name,
            train="all",
            head="shared",
            hyperparameters=settings.hyperparameters("all", _place(number, len(datasets))),
        )
        for number, name in enumerate(datasets)
    ]


def classical(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """The target alone: one round that trains body and head."""
    from hydrakit.plan import Round

    target = datasets[-1]
    values = settings.hyperparameters("all", "first")
    return [Round(dataset=target, train="all", head=target, hyperparameters=values)]


def _place(number: int, count: int) -> Place:
    if number == 0:
        return "first"
    return "last" if number == count - 1 else "middle"


@hookimpl
def hydrakit_sequence_strategies() -> Iterator[SequenceStrategy]:
    """The shipped strategies."""
    yield SequenceStrategy(
        name="hydra",
        summary="for each dataset: its head on the frozen body, then body and head (the paper)",
        plan=hydra,
    )
    yield SequenceStrategy(
        name="transfer",
        summary="one network with one head, trained on each dataset in turn",
        plan=transfer,
    )
    yield SequenceStrategy(
        name="classical",
        summary="the target dataset alone",
        plan=classical,
    )
