"""The paper's strategies, those it names as future work, and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import SequenceStrategy, Settings, hookimpl

if TYPE_CHECKING:
    from hydrakit.plan import Round, RoundPosition, Train


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


def transfer_long(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Transfer learning that may take as many updates as `hydra`: its head rounds' are added.

    A head round's epoch has as many updates as there are views, an epoch of all has one view. It
    waits for a better epoch as long as hydra does in both rounds of a dataset together.
    """
    rounds = []
    for number, round in enumerate(transfer(datasets, settings)):
        values = round.hyperparameters
        if number > 0:
            head = settings.hyperparameters("head", _place(number - 1, len(datasets) - 1))
            per_epoch = head.views if values.augmentation == "fresh" else 1
            longer: dict[str, int] = {"epochs": values.epochs + head.epochs * per_epoch}
            if values.patience is not None and head.patience is not None:
                longer["patience"] = values.patience + head.patience
            values = values.model_copy(update=longer)
        rounds.append(round.model_copy(update={"hyperparameters": values}))
    return rounds


def classical(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """The target alone: one round that trains body and head."""
    from hydrakit.plan import Round

    target = datasets[-1]
    values = settings.hyperparameters("all", "first")
    return [Round(dataset=target, train="all", head=target, hyperparameters=values)]


def classical_long(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """The target alone, as often as `hydra` comes to it: what is left of hydra without supports."""
    target = datasets[-1]
    return hydra([name for name in datasets if name == target], settings)


def random(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Random weight guessing: the best untrained start on validation, and nothing else."""
    from hydrakit.plan import Round

    target = datasets[-1]
    values = settings.hyperparameters("none", "first")
    return [Round(dataset=target, train="none", head=target, hyperparameters=values)]


def norm(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Hydra's rounds, but after the first only normalisation changes in the body."""
    return [
        round.model_copy(update={"train": "norm"}) if number and round.train == "all" else round
        for number, round in enumerate(hydra(datasets, settings))
    ]


def parallel(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """All datasets in one round, of which every epoch draws one (the paper's future work)."""
    return [_together(datasets, settings, mix="epoch")]


def joint(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """All datasets in one round, mixed in every batch, each through its own head."""
    return [_together(datasets, settings, mix="batch")]


def _together(
    datasets: Sequence[str], settings: Settings, *, mix: Literal["batch", "epoch"]
) -> Round:
    from hydrakit.plan import Other, Round

    target = datasets[-1]
    supports = [name for name in dict.fromkeys(datasets) if name != target]
    values = settings.hyperparameters("all", "first")
    if mix == "epoch":  # of which the target gets its share, so as many more of them
        count = len(supports) + 1
        patience = None if values.patience is None else values.patience * count
        values = values.model_copy(update={"epochs": values.epochs * count, "patience": patience})
    return Round(
        dataset=target,
        train="all",
        head=target,
        hyperparameters=values,
        others=tuple(Other(dataset=name, head=name) for name in supports),
        mix=mix,
    )


def _place(number: int, count: int) -> RoundPosition:
    if number == 0:
        return "first"
    return "last" if number == count - 1 else "middle"


@hookimpl
def hydrakit_sequence_strategies() -> Iterator[SequenceStrategy]:
    """The shipped strategies."""
    for name, summary, plan in (
        (
            "hydra",
            "for each dataset: its head on the frozen body, then body and head (paper)",
            hydra,
        ),
        ("transfer", "one network with one head, trained on each dataset in turn", transfer),
        ("transfer-long", "transfer, with as many updates allowed as hydra takes", transfer_long),
        ("classical", "the target dataset alone", classical),
        (
            "classical-long",
            "the target alone, in as many rounds as hydra gives it: hydra without supports",
            classical_long,
        ),
        ("norm", "hydra, with only the body's normalisation trained after the first round", norm),
        ("parallel", "all datasets in one round, of which every epoch draws one", parallel),
        ("joint", "all datasets in one round, mixed in every batch, each with its head", joint),
    ):
        yield SequenceStrategy(name=name, summary=summary, plan=plan)
    yield SequenceStrategy(
        name="random",
        summary="the best of 1,000 untrained starts on the target's validation split",
        plan=random,
        bootstrap=1000,
    )
