"""Test metrics after every epoch, for the paper's Fig. 4a; only on request.

They are written into the round's folder and used nowhere else: the selection of epochs, early
stopping and the choice of starts get validation metrics only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from hydrakit.data.load import CaseSet
from hydrakit.models.body import BodyModule
from hydrakit.plan.results import EpochRecord, TracePoint
from hydrakit.runs.rundir import TRACE
from hydrakit.storage.records import read_lines, write_lines
from hydrakit.training.evaluation import Evaluator


class Trace:
    """Evaluates the target's test split after every epoch of a round.

    Args:
        body: Body that the round trains.
        head: Head of the target.
        read_cases: Reads the test cases, and logs the reading.
        folder: Folder of the round's progress; points from before a stop are read from it.
    """

    def __init__(
        self,
        body: BodyModule,
        head: nn.Module,
        read_cases: Callable[[], CaseSet],
        *,
        folder: Path,
    ) -> None:
        self.body = body
        self.head = head
        self.read_cases = read_cases
        self.folder = folder
        self._points: list[TracePoint] = []
        path = folder / TRACE
        if path.is_file():
            self._points = read_lines(path, TracePoint, remedy=f"delete {folder} and run again")

    def __call__(self, record: EpochRecord) -> None:
        """Evaluate the test split after an epoch, and write the points so far."""
        evaluate = Evaluator(self.body, self.head, self.read_cases(), None, "cross-entropy")
        point = TracePoint(epoch=record.epoch, test_auc=evaluate()[0].score)
        # An epoch that is repeated after a stop replaces its earlier point.
        self._points = [each for each in self._points if each.epoch < point.epoch] + [point]
        self.write(self.folder)

    def write(self, folder: Path) -> None:
        """Write all points into a folder."""
        write_lines(folder / TRACE, self._points)
