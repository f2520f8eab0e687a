"""Settings to try: all of a grid, or proposals of Optuna."""

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

BATCH = 4  # Optuna proposals that are tried together, since heads are trained faster in batches

# Returns the score of each setting, in order; None for a setting that diverged.
Evaluate = Callable[[Sequence[Setting]], Sequence[float | None]]


class GridProposals:
    """Every learning rate with every dropout.

    Raises:
        PlanError: There is no value, or an invalid one.
    """

    def __init__(self, learning_rates: Sequence[float], dropouts: Sequence[float]) -> None:
        pairs = list(product(dict.fromkeys(learning_rates), dict.fromkeys(dropouts)))
        if not pairs:
            raise PlanError("there is no learning rate or no dropout to try: name one or more")
        for rate, dropout in pairs:
            _check(rate, dropout)
        self.settings = [Setting(learning_rate=rate, dropout=dropout) for rate, dropout in pairs]

    def try_all(self, evaluate: Evaluate) -> None:
        """Try every setting."""
        evaluate(self.settings)


class OptunaProposals:
    """Proposals of Optuna's sampler between the lowest and the highest values.

    Learning rates are proposed on a logarithmic scale. The same seed and the same scores give the
    same proposals, so that a stopped search can be resumed.

    Raises:
        PlanError: Optuna is not installed, or a value is invalid.
    """

    def __init__(
        self, learning_rates: Sequence[float], dropouts: Sequence[float], *, trials: int, seed: int
    ) -> None:
        grid = GridProposals(learning_rates, dropouts).settings
        self.rates = sorted(each.learning_rate for each in grid)
        self.dropouts = sorted(each.dropout for each in grid)
        if trials < 1:
            raise PlanError(f"{trials} trials: there must be at least one (`--trials`)")
        self.trials, self.seed = trials, seed
        self.optuna = _optuna()

    def try_all(self, evaluate: Evaluate) -> None:
        """Try proposed settings, in small batches."""
        optuna = self.optuna
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self.seed % 2**32)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        left = self.trials
        while left:
            trials = [study.ask() for _ in range(min(left, BATCH))]
            settings = [
                Setting(
                    learning_rate=_rounded(
                        trial.suggest_float(
                            "learning_rate", self.rates[0], self.rates[-1], log=True
                        )
                    ),
                    dropout=_rounded(
                        trial.suggest_float("dropout", self.dropouts[0], self.dropouts[-1])
                    ),
                )
                for trial in trials
            ]
            for trial, score in zip(trials, evaluate(settings), strict=True):
                failed = optuna.trial.TrialState.FAIL if score is None else None
                study.tell(trial, score, state=failed)
            left -= len(trials)


Proposals = GridProposals | OptunaProposals


def proposals(
    learning_rates: Sequence[float],
    dropouts: Sequence[float],
    *,
    search: str,
    trials: int | None,
    seed: int,
) -> Proposals:
    """Make the proposals of a search.

    Args:
        learning_rates: Learning rates to try; with ``optuna``, the range to try.
        dropouts: Dropout probabilities, likewise.
        search: ``grid`` or ``optuna``.
        trials: Number of settings in each round with ``optuna``; None for 20.
        seed: Seed of ``optuna``.

    Raises:
        PlanError: A value is invalid, or Optuna is not installed.
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
    """Refuse values that a round cannot have."""
    try:
        Hyperparameters(
            learning_rate=learning_rate, dropout=dropout, batch_size=1, epochs=1, patience=None
        )
    except ValidationError as error:
        raise PlanError(first_fault(error)) from None


def _rounded(value: float) -> float:
    """Round to three significant digits; more would suggest a precision that a search lacks."""
    return float(f"{value:.3g}")
