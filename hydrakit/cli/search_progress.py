"""Progress of tuning and of the search for an order, as lines on standard error."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from hydrakit.cli.progress import PlainProgress, PreparingProgress
from hydrakit.search.order import OrderCallback, OrderResult, TriedOrder
from hydrakit.search.tune import RoundTuning, TuneCallback
from hydrakit.search.values import ValuesCallback

if TYPE_CHECKING:
    from hydrakit.plan.model import Plan


class TuneProgress(PlainProgress, TuneCallback):
    """Prints the progress of tuning.

    Args:
        plan: Plan that is tuned.
        on_choice: Called when a round's setting is chosen.
    """

    def __init__(self, plan: Plan, on_choice: Callable[[RoundTuning], None]) -> None:
        super().__init__(plan)
        self.rounds = plan.rounds
        self.on_choice = on_choice

    def trials(self, number: int, done: int, of: int) -> None:
        """Print the number of finished trials of a round."""
        self.print_sometimes(f"{self.name(number, self.rounds[number - 1])}: {done} of {of} trials")

    def chosen(self, tuning: RoundTuning) -> None:
        """Pass on the tuning of a round."""
        self.on_choice(tuning)


class ValuesProgress(PreparingProgress, ValuesCallback):
    """Prints the progress of a search over values of a plan."""

    def inner_run(self, done: int, of: int) -> None:
        """Print the number of finished runs."""
        self.print_sometimes(f"{done} of {of} runs on inner folds")


class OrderProgress(PlainProgress, OrderCallback):
    """Prints the progress of a search for an order."""

    def tried(self, order: TriedOrder, result: OrderResult) -> None:
        """Print the score of an order."""
        self.print(
            f"order {len(result.tried)} of {result.possible}: "
            f"{', '.join(order.supports) or 'no support'}: validation {order.score:.3f}"
        )
