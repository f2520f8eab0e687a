"""Which weights a round ends with (`Hyperparameters.select`)."""

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
    """Follows a round's epochs, and keeps the weights that it is to end with.

    Attributes:
        settings: Of the round.
        leader: The epoch that is best by the rule; patience counts from it. Of the rules that do
            not choose an epoch, ``last`` and ``averaged``, the best by validation AUC.
    """

    def __init__(self, settings: Hyperparameters, modules: Sequence[nn.Module]) -> None:
        self.settings = settings
        self.rule = settings.select
        self.window = settings.window
        self.modules = modules
        self.leader: EpochRecord | None = None
        self._smoothed = float("-inf")
        self._scores: deque[float] = deque(maxlen=self.window)
        self._kept: deque[tuple[EpochRecord, list[StateDict]]] = deque(
            maxlen=self.window if self.rule == "averaged" else 1
        )

    def see(self, record: EpochRecord) -> None:
        """An epoch is over, and the modules hold its weights."""
        self._scores.append(record.val.score)
        better = self._is_better(record)
        if better:
            self.leader = record
        if better or self.rule in ("last", "averaged"):
            self._kept.append((record, [_copy(module) for module in self.modules]))

    def _is_better(self, record: EpochRecord) -> bool:
        if self.rule == "smoothed":
            smoothed = sum(self._scores) / len(self._scores)
            risen = smoothed > self._smoothed
            self._smoothed = max(smoothed, self._smoothed)
            return risen
        return self.leader is None or is_better(record, self.leader, self.rule)

    def exhausted(self, epoch: int, patience: int | None) -> bool:
        """Whether there was no better epoch for as many as patience allows."""
        if patience is None or self.leader is None:
            return False
        return epoch - self.leader.epoch >= patience

    @property
    def kept(self) -> list[tuple[EpochRecord, list[StateDict]]]:
        """Epochs whose weights are kept, the last that is to count coming last."""
        return list(self._kept)

    def go_on(
        self, records: Sequence[EpochRecord], kept: Sequence[tuple[EpochRecord, list[StateDict]]]
    ) -> None:
        """Be as after some epochs.

        Args:
            records: Of these epochs.
            kept: As `kept` was then.
        """
        self.leader, self._smoothed = None, float("-inf")
        self._scores.clear()
        for record in records:
            self._scores.append(record.val.score)
            if self._is_better(record):
                self.leader = record
        self._kept.clear()
        self._kept.extend(kept)

    def finish(self, evaluate: Callable[[], tuple[Metrics, float | None]]) -> EpochRecord:
        """Put the kept weights into the modules.

        Args:
            evaluate: For the figures of averaged weights, which were those of no epoch.

        Returns:
            The record of the epoch they are from; of averaged ones, of the last epoch, with the
            figures of the averaged weights.
        """
        record = self._kept[-1][0]
        states = [state for _, state in self._kept]
        for number, module in enumerate(self.modules):
            module.load_state_dict(_mean([each[number] for each in states]))
        if self.rule != "averaged":
            return record
        val, reference = evaluate()
        return record.model_copy(update={"val": val, "reference_auc": reference})


def is_better(new: EpochRecord, best: EpochRecord, rule: str) -> bool:
    """Whether an epoch takes the place of the best one so far; see `Hyperparameters.select`."""
    if rule == "authors":
        as_accurate = (new.val.accuracy or 0.0) >= (best.val.accuracy or 0.0)
        return new.val.score >= best.val.score and as_accurate
    return (new.val.score, -new.val.loss) > (best.val.score, -best.val.loss)


def _copy(module: nn.Module) -> StateDict:
    return deepcopy(dict(module.state_dict()))


def _mean(states: Sequence[StateDict]) -> StateDict:
    """The mean of each tensor; of counts, the last."""
    if len(states) == 1:
        return states[0]
    return {
        name: torch.stack([state[name] for state in states]).mean(dim=0)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in states[-1].items()
    }
