"""The paper's training sequences, those it proposes as future work, and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from hydrakit.hooks import SequenceStrategy, Settings, hookimpl

if TYPE_CHECKING:
    from hydrakit.plan import Round, RoundPosition, Train


def hydra(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Algorithm 1 of the paper: for each dataset, first its head on the frozen body, then both.

    The first dataset trains both at once, since there is no trained body yet. A dataset that occurs
    again continues to train its head.
    """
    from hydrakit.plan import Round

    rounds = []
    for number, name in enumerate(datasets):
        kinds: tuple[Train, ...] = ("head", "all") if number > 0 else ("all",)
        for train in kinds:
            without_first = train == "head"  # the first dataset has no head round
            position = _position(number - without_first, len(datasets) - without_first)
            values = settings.hyperparameters(train, position)
            rounds.append(Round(dataset=name, train=train, head=name, hyperparameters=values))
    return rounds


def transfer(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Sequential transfer learning: one body and one head, trained on each dataset in turn."""
    from hydrakit.plan import Round

    return [
        Round(
            dataset=name,
            train="all",
            head="shared",
            hyperparameters=settings.hyperparameters("all", _position(number, len(datasets))),
        )
        for number, name in enumerate(datasets)
    ]


def transfer_long(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Transfer learning with as many training steps as `hydra`: those of its head rounds are added.

    An epoch of a head round uses all views of each patch, an epoch of other rounds a single one, so
    the first counts as several of the second. The patience is the sum of both rounds of `hydra`.
    """
    rounds = []
    for number, round in enumerate(transfer(datasets, settings)):
        values = round.hyperparameters
        if number > 0:
            head = settings.hyperparameters("head", _position(number - 1, len(datasets) - 1))
            per_epoch = head.views if values.augmentation == "fresh" else 1
            longer: dict[str, int] = {"epochs": values.epochs + head.epochs * per_epoch}
            if values.patience is not None and head.patience is not None:
                longer["patience"] = values.patience + head.patience
            values = values.model_copy(update=longer)
        rounds.append(round.model_copy(update={"hyperparameters": values}))
    return rounds


def classical(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Only the target: one round that trains body and head."""
    from hydrakit.plan import Round

    target = datasets[-1]
    values = settings.hyperparameters("all", "first")
    return [Round(dataset=target, train="all", head=target, hyperparameters=values)]


def classical_long(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Only the target, in all its rounds of `hydra`: hydra without support datasets."""
    target = datasets[-1]
    return hydra([name for name in datasets if name == target], settings)


def random(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """No training: the random start with the best validation score."""
    from hydrakit.plan import Round

    target = datasets[-1]
    values = settings.hyperparameters("none", "first")
    return [Round(dataset=target, train="none", head=target, hyperparameters=values)]


def exact_head(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Only the target's head, solved exactly on the features of the body as it begins."""
    from hydrakit.plan import Hyperparameters, Round

    target, of_steps = datasets[-1], settings.hyperparameters("head", "first")
    values = Hyperparameters(
        learning_rate=of_steps.learning_rate,
        dropout=0.0,
        batch_size=of_steps.batch_size,
        epochs=1,
        patience=None,
        augmentation="none",
        solver="exact",
    )
    return [Round(dataset=target, train="head", head=target, hyperparameters=values)]


def head_alone(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """Only the target's head, trained on the body as it begins, such as that of another model."""
    from hydrakit.plan import Round

    target, values = datasets[-1], settings.hyperparameters("head", "last")
    return [Round(dataset=target, train="head", head=target, hyperparameters=values)]


def norm(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """The rounds of `hydra`; after the first, they train only the body's normalisation layers."""
    return [
        round.model_copy(update={"train": "norm"}) if number and round.train == "all" else round
        for number, round in enumerate(hydra(datasets, settings))
    ]


def parallel(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """All datasets in one round; each epoch uses one of them (the paper's future work)."""
    return [_together(datasets, settings, mix="epoch")]


def joint(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """All datasets in one round, mixed in every batch, each with its own head."""
    return [_together(datasets, settings, mix="batch")]


def _together(
    datasets: Sequence[str], settings: Settings, *, mix: Literal["batch", "epoch"]
) -> Round:
    from hydrakit.plan import Other, Round

    target = datasets[-1]
    supports = [name for name in dict.fromkeys(datasets) if name != target]
    values = settings.hyperparameters("all", "first")
    if mix == "epoch":  # so that the target gets as many epochs as alone
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


def _position(number: int, count: int) -> RoundPosition:
    if number == 0:
        return "first"
    return "last" if number == count - 1 else "middle"


@hookimpl
def hydrakit_sequence_strategies() -> Iterator[SequenceStrategy]:
    """Yield the strategies of this plugin."""
    for name, summary, plan in (
        (
            "hydra",
            "for each dataset: its head on the frozen body, then body and head (paper)",
            hydra,
        ),
        ("transfer", "one network with one head, trained on each dataset in turn", transfer),
        ("transfer-long", "transfer, with as many training steps as hydra", transfer_long),
        ("classical", "only the target dataset", classical),
        (
            "classical-long",
            "only the target, in as many rounds as in hydra: hydra without support datasets",
            classical_long,
        ),
        ("head", "only the target's head, on the body as it begins (`run --from`)", head_alone),
        ("norm", "hydra, but after the first round only normalisation layers train", norm),
        ("parallel", "all datasets in one round; each epoch uses one of them", parallel),
        ("joint", "all datasets in one round, mixed in every batch, each with its head", joint),
    ):
        yield SequenceStrategy(name=name, summary=summary, plan=plan)
    yield SequenceStrategy(
        name="random",
        summary="the best of 1,000 untrained starts on the target's validation split",
        plan=random,
        bootstrap=1000,
    )
    yield SequenceStrategy(
        name="intensity",
        summary="logistic regression on 11 statistics of the target's grey values, no network",
        plan=exact_head,
        bootstrap=1,
        body="intensity",
        head="linear",
        baseline=True,
    )
    yield SequenceStrategy(
        name="probe",
        summary="logistic regression on the features of the body as it begins, untrained",
        plan=exact_head,
        bootstrap=1,
        head="linear",
        baseline=True,
    )
