"""The test figures of every epoch, for the paper's Fig. 4a: off unless it is asked for.

They are written beside the round's metrics and handed to nobody: what selects epochs, stops rounds
or chooses starts is given validation figures alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from hydrakit.data.load import Cases
from hydrakit.files import write_atomic
from hydrakit.models import Body
from hydrakit.plan import Frozen
from hydrakit.results import EpochRecord
from hydrakit.validation import Evaluation

FILE = "test-trace.jsonl"


class TracePoint(Frozen):
    """A line of ``test-trace.jsonl``: the target's test AUC (of a number, R2) after an epoch."""

    epoch: int
    test_auc: float


class Trace:
    """Looks at the target's test split after every epoch of a round.

    Attributes:
        points: What was seen.
    """

    def __init__(self, body: Body, head: nn.Module, read: Callable[[], Cases]) -> None:
        """Of a body and the head of the target; ``read`` reads the test cases, and notes it."""
        self.body = body
        self.head = head
        self.read = read
        self.points: list[TracePoint] = []

    def __call__(self, record: EpochRecord) -> None:
        """An epoch is over."""
        evaluate = Evaluation(self.body, self.head, self.read(), None, "cross-entropy")
        self.points.append(TracePoint(epoch=record.epoch, test_auc=evaluate()[0].score))

    def write(self, folder: Path) -> None:
        """Into a round's folder."""
        lines = "".join(f"{point.model_dump_json()}\n" for point in self.points)
        write_atomic(folder / FILE, lines.encode())
