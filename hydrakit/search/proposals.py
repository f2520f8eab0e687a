"""Which settings are tried: all of a grid, or those that Optuna proposes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from itertools import product
from types import ModuleType

from pydantic import ValidationError

from hydrakit.errors import PlanError
from hydrakit.rounds import Hyperparameters
from hydrakit.schema import first_fault
from hydrakit.search.trials import Setting

AT_ONCE = 4  # proposals of Optuna that are tried together, as heads learn best

# Gives the score of each setting, in order; None for one that cannot be trained.
Evaluate = Callable[[Sequence[Setting]], Sequence[float | None]]


class GridProposals:
    """Every learning rate with every dropout."""

    def __init__(self, learning_rates: Sequence[float], dropouts: Sequence[float]) -> None:
        """Of these values.

        Raises:
            PlanError: There is none, or one that no round can have.
        """
        pairs = list(product(dict.fromkeys(learning_rates), dict.fromkeys(dropouts)))
        if not pairs:
            raise PlanError("there is no learning rate or no dropout to try: name one or more")
        for rate, dropout in pairs:
            _check(rate, dropout)
        self.settings = [Setting(learning_rate=rate, dropout=dropout) for rate, dropout in pairs]

    @property
    def count(self) -> int:
        """How many settings are tried in each round."""
        return len(self.settings)

    def try_all(self, evaluate: Evaluate) -> None:
        """Have every setting tried."""
        evaluate(self.settings)


class OptunaProposals:
    """What Optuna's sampler proposes between the lowest and the highest values.

    Rates are proposed by their logarithm. The same seed and the same scores give the same
    proposals, so that a stopped search goes on.
    """

    def __init__(
        self, learning_rates: Sequence[float], dropouts: Sequence[float], *, trials: int, seed: int
    ) -> None:
        """Between these values, so many times in each round.

        Raises:
            PlanError: Optuna is not installed, or a value is one that no round can have.
        """
        every = GridProposals(learning_rates, dropouts).settings
        self.rates = sorted(each.learning_rate for each in every)
        self.dropouts = sorted(each.dropout for each in every)
        if trials < 1:
            raise PlanError(f"{trials} trials: there must be at least one (`--trials`)")
        self.count, self.seed = trials, seed
        self.optuna = _optuna()

    def try_all(self, evaluate: Evaluate) -> None:
        """Have settings tried, a few before the next are proposed."""
        optuna = self.optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed % 2**32)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        left = self.count
        while left:
            asked = [study.ask() for _ in range(min(left, AT_ONCE))]
            settings = [
                Setting(
                    learning_rate=_short(
                        trial.suggest_float(
                            "learning_rate", self.rates[0], self.rates[-1], log=True
                        )
                    ),
                    dropout=_short(
                        trial.suggest_float("dropout", self.dropouts[0], self.dropouts[-1])
                    ),
                )
                for trial in asked
            ]
            for trial, score in zip(asked, evaluate(settings), strict=True):
                failed = optuna.trial.TrialState.FAIL if score is None else None
                study.tell(trial, score, state=failed)
            left -= len(asked)


Proposals = GridProposals | OptunaProposals


def proposals(
    learning_rates: Sequence[float],
    dropouts: Sequence[float],
    *,
    search: str,
    trials: int | None,
    seed: int,
) -> Proposals:
    """What is to be tried.

    Args:
        learning_rates: To try; of ``optuna``, to try between.
        dropouts: Likewise.
        search: ``grid`` or ``optuna``.
        trials: Of ``optuna``, how many settings in each round; None for 20.
        seed: Of ``optuna``.

    Raises:
        PlanError: A value is impossible, or Optuna is wanted and not installed.
    """
    if search == "grid":
        if trials is not None:
            raise PlanError("a grid tries all its settings: `--trials` is for `--search optuna`")
        return GridProposals(learning_rates, dropouts)
    if search != "optuna":
        raise PlanError(f"unknown search {search!r}: known are grid, optuna")
    count = 20 if trials is None else trials
    return OptunaProposals(learning_rates, dropouts, trials=count, seed=seed)


def _optuna() -> ModuleType:
    try:
        return importlib.import_module("optuna")
    except ModuleNotFoundError:
        raise PlanError(
            "Optuna is not installed: `pip install optuna`, or leave out `--search optuna` to try "
            "a grid"
        ) from None


def _check(learning_rate: float, dropout: float) -> None:
    try:
        Hyperparameters(
            learning_rate=learning_rate, dropout=dropout, batch_size=1, epochs=1, patience=None
        )
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def _short(value: float) -> float:
    """Three digits: more only look exact."""
    return float(f"{value:.3g}")
