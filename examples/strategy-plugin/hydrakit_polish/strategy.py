"""The strategy `polish`: the rounds of `hydra`, then the target's head in small steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from hydrakit.hooks import SequenceStrategy, Settings, hookimpl

if TYPE_CHECKING:
    from hydrakit.plan import Round, RoundPosition, Train

SMALL_STEPS = 0.1  # of the learning rate of the last head round


def plan(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """List the rounds of `hydra`, and one more of the target's head on the final body.

    The target is the last dataset. The function only describes: it reads no files, draws no random
    numbers, and gives the same rounds whenever it is called.
    """
    from hydrakit.plan import Round  # here: it imports pydantic

    def trained(name: str, train: Train, position: RoundPosition) -> Round:
        values = settings.hyperparameters(train, position)
        return Round(dataset=name, train=train, head=name, hyperparameters=values)

    first, *others = datasets
    rounds = [trained(first, "all", "first")]
    for number, name in enumerate(others, start=1):
        is_last = number == len(others)
        head: RoundPosition = "last" if is_last else "middle"
        rounds.append(trained(name, "head", "first" if number == 1 else head))
        rounds.append(trained(name, "all", "last" if is_last else "middle"))

    final = trained(datasets[-1], "head", "last")
    rate = SMALL_STEPS * final.hyperparameters.learning_rate
    gentle = final.hyperparameters.model_copy(update={"learning_rate": rate})
    return [*rounds, final.model_copy(update={"hyperparameters": gentle})]


STRATEGY = SequenceStrategy(
    name="polish",
    summary="the rounds of hydra, then the target's head on the final body, in small steps",
    plan=plan,
)


@hookimpl
def hydrakit_sequence_strategies() -> Iterator[SequenceStrategy]:
    """Yield the strategies of this plugin."""
    yield STRATEGY
