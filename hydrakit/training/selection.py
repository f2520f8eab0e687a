"""Selection of the weights that a round ends with (`Hyperparameters.select`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from torch import nn

from hydrakit.compute.modules import StateDict
from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.rounds import Hyperparameters


class Selection:
    """Compares the epochs of a round, and stores the weights that the round will end with.

    Attributes:
        settings: Training values of the round.
        modules: Modules that the round trains.
        leader: Best epoch so far, from which patience counts. The rules ``last`` and ``averaged``
            do not select by quality; for them it is the epoch with the best validation AUC.
    """

    def __init__(self, settings: Hyperparameters, modules: Sequence[nn.Module]) -> None:
        self.settings = settings
        self.rule = settings.select
        self.window = settings.window
        self.modules = modules
        self.leader: EpochRecord | None = None
        self._smoothed = float("-inf")
        self._scores: deque[float] = deque(maxlen=self.window)
        self._saved: deque[tuple[EpochRecord, list[StateDict]]] = deque(
            maxlen=self.window if self.rule == "averaged" else 1
        )

    def add(self, record: EpochRecord) -> None:
        """Add a finished epoch, whose weights the modules hold now."""
        self._scores.append(record.val.score)
        better = self._is_better(record)
        if better:
            self.leader = record
        if better or self.rule in ("last", "averaged"):
            self._saved.append((record, [_copy(module) for module in self.modules]))

    def _is_better(self, record: EpochRecord) -> bool:
        if self.rule == "smoothed":
            smoothed = sum(self._scores) / len(self._scores)
            better = smoothed > self._smoothed
            self._smoothed = max(smoothed, self._smoothed)
            return better
        return self.leader is None or is_better(record, self.leader, self.rule)

    def exhausted(self, epoch: int, patience: int | None) -> bool:
        """Whether the leader has not changed for as many epochs as patience allows."""
        if patience is None or self.leader is None:
            return False
        return epoch - self.leader.epoch >= patience

    @property
    def saved(self) -> list[tuple[EpochRecord, list[StateDict]]]:
        """Epochs with stored weights (one state for each module), in order."""
        return list(self._saved)

    def restore(
        self, records: Sequence[EpochRecord], saved: Sequence[tuple[EpochRecord, list[StateDict]]]
    ) -> None:
        """Restore the state after some epochs.

        Args:
            records: Records of these epochs.
            saved: Value of `saved` after them.
        """
        self.leader, self._smoothed = None, float("-inf")
        self._scores.clear()
        for record in records:
            self._scores.append(record.val.score)
            if self._is_better(record):
                self.leader = record
        self._saved.clear()
        self._saved.extend(saved)

    def finish(self, evaluate: Callable[[], tuple[Metrics, float | None]]) -> EpochRecord:
        """Load the selected weights into the modules.

        Args:
            evaluate: Evaluates averaged weights, which no epoch has evaluated.

        Returns:
            Record of the selected epoch; for averaged weights the record of the last epoch, with
            the validation metrics of the averaged weights.
        """
        record = self._saved[-1][0]
        states = [state for _, state in self._saved]
        for number, module in enumerate(self.modules):
            module.load_state_dict(_mean([each[number] for each in states]))
        if self.rule != "averaged":
            return record
        val, reference = evaluate()
        return record.model_copy(update={"val": val, "reference_auc": reference})


def is_better(new: EpochRecord, best: EpochRecord, rule: str) -> bool:
    """Whether an epoch is better than the best one so far; see `Hyperparameters.select`."""
    if rule == "authors":
        as_accurate = (new.val.accuracy or 0.0) >= (best.val.accuracy or 0.0)
        return new.val.score >= best.val.score and as_accurate
    return (new.val.score, -new.val.loss) > (best.val.score, -best.val.loss)


def _copy(module: nn.Module) -> StateDict:
    return deepcopy(dict(module.state_dict()))


def _mean(states: Sequence[StateDict]) -> StateDict:
    """Mean of each tensor; for integer tensors (counts) the last one."""
    if len(states) == 1:
        return states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[-1].items()
    }
