"""The test figures of every epoch, for the paper's Fig. 4a: off unless it is asked for.

They are written beside the round's metrics and handed to nobody: what selects epochs, stops rounds
or chooses starts is given validation figures alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from hydrakit.data.load import CaseSet
from hydrakit.models.body import BodyModule
from hydrakit.plan.results import EpochRecord, TracePoint
from hydrakit.runs.rundir import TRACE
from hydrakit.storage.records import write_lines
from hydrakit.training.evaluation import Evaluator


class Trace:
    """Looks at the target's test split after every epoch of a round."""

    def __init__(
        self, body: BodyModule, head: nn.Module, read: Callable[[], CaseSet], *, folder: Path
    ) -> None:
        """Of a body and the head of the target, as a round trains them.

        Args:
            body: Of the network.
            head: Of the target.
            read: Reads the test cases, and notes that it did.
            folder: Where the figures are kept while the round goes on; those that were seen before
                a stop are there.
        """
        self.body = body
        self.head = head
        self.read = read
        self.path = folder / TRACE
        self._points: list[TracePoint] = []
        if self.path.is_file():
            lines = self.path.read_bytes().splitlines()
            self._points = [TracePoint.model_validate_json(line) for line in lines]

    def __call__(self, record: EpochRecord) -> None:
        """An epoch is over."""
        evaluate = Evaluator(self.body, self.head, self.read(), None, "cross-entropy")
        point = TracePoint(epoch=record.epoch, test_auc=evaluate()[0].score)
        # An epoch that is done again after a stop takes the place of what was seen of it.
        self._points = [each for each in self._points if each.epoch < point.epoch] + [point]
        self.write(self.path.parent)

    def write(self, folder: Path) -> None:
        """Into a round's folder."""
        write_lines(folder / TRACE, self._points)
