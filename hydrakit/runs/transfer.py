"""Forgetting and transfer: how later rounds changed a head's AUC, with confidence intervals.

Each value is the difference of a head's AUC after two rounds, on the same validation cases. Every
round therefore stores the outputs of all heads (``validation.safetensors``: a tensor
``(cases, outputs)`` for each dataset, in the order of its validation split). When all rounds are
finished, the outputs are compared like two strategies: paired, and by patient
(`hydrakit.stats.paired.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import PlanError, one_line
from hydrakit.plan.results import Change, RoundResult, Transfer
from hydrakit.rounds import Round
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.storage.files import read_whole, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from hydrakit.data.load import CaseSet

FILE = "validation.safetensors"
MAX_PAIRS = 10_000_000  # of a positive and a negative case: 80 MB for each of several arrays
NOT_YET = "intervals are computed when the run is finished"
NOT_STORED = "the rounds did not store validation outputs"


def write_outputs(folder: Path, validation_outputs: Mapping[str, Tensor]) -> None:
    """Write the validation outputs of every head, by dataset, into a round's folder."""
    from safetensors.torch import save

    write_atomic(
        folder / FILE, save({n: each.cpu().contiguous() for n, each in validation_outputs.items()})
    )


@dataclass(frozen=True)
class RoundOutputs:
    """Validation outputs that the rounds of a run stored, with the cases they belong to.

    Attributes:
        rundir: Folder of the run.
        rounds: Rounds of the plan.
        val: Validation split of each dataset.
        units: Patient or group of each case, by dataset and key (`LeakageResult.units`).
    """

    rundir: RunDir
    rounds: Sequence[Round]
    val: Mapping[str, CaseSet]
    units: Mapping[str, Mapping[str, str]]

    def scores(self, number: int, name: str) -> ScoreTable | str:
        """Scores of a dataset's validation findings after a round; or the reason for their absence.

        Raises:
            PlanError: The file of the round cannot be read.
        """
        from hydrakit.stats import tasks

        val = self.val[name]
        if val.task == "regression":
            return "a regression has no AUC"
        if val.task == "multilabel":
            return "intervals are computed for two classes, not for several labels"
        outputs = self._read(number, name)
        if outputs is None:
            return NOT_STORED
        if outputs.shape[1] != 2:
            return f"intervals are computed for two classes, not for {outputs.shape[1]}"
        positives = int((val.labels == 1).sum())
        if positives * (len(val.labels) - positives) > MAX_PAIRS:
            return f"intervals are computed for at most {MAX_PAIRS:,} pairs of cases"
        scores = tasks.predictions(outputs, task=val.task)[:, 1].tolist()
        return gather(
            Row(
                finding=case.finding,
                patient=self.units[name][case.key],
                label=label,
                score=score,
            )
            for case, label, score in zip(val.cases, val.labels.tolist(), scores, strict=True)
        )

    def _read(self, number: int, name: str) -> NDArray[np.float64] | None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        path = self.rundir.round_file(number, self.rounds[number - 1], FILE)
        if not path.is_file():
            return None
        try:
            outputs = load(read_whole(path))[name].astype(np.float64)
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            reason = one_line(str(error), 200)
            raise PlanError(
                f"{path}: cannot be read ({reason}): delete {path.parent} and run again"
            ) from None
        if len(outputs) != len(self.val[name].cases):
            raise PlanError(
                f"{path}: contains outputs for {len(outputs)} cases of {name}, but its validation "
                f"split has {len(self.val[name].cases)}: delete {path.parent} and run again"
            )
        return outputs


def transfers(
    planned: Sequence[Round], done: Sequence[RoundResult], outputs: RoundOutputs | str
) -> tuple[Transfer, ...]:
    """Forgetting and transfer of every head, by dataset in the order of training.

    Args:
        planned: Rounds of the plan.
        done: Results of the finished rounds, in order.
        outputs: Validation outputs for the intervals; or the reason for their absence.

    Raises:
        PlanError: The outputs of a round cannot be read.
    """
    found = []
    for name in dict.fromkeys(name for each in done for name in each.heads):
        scores = {each.round: each.heads[name].score for each in done if name in each.heads}
        trained = [number for number in scores if name in planned[number - 1].datasets]
        if trained:  # else an early version ran the round: it stored the metrics of one head
            found.append(_transfer(name, scores, trained, outputs))
    return tuple(found)


def _transfer(
    name: str, scores: Mapping[int, float], trained: Sequence[int], outputs: RoundOutputs | str
) -> Transfer:
    """Forgetting and transfer of one dataset's head.

    Args:
        name: Name of the dataset.
        scores: Score of the head after each round, by number of the round.
        trained: Numbers of the rounds that trained the head.
        outputs: As in `transfers`.
    """
    visits = [number for number in trained if number + 1 not in trained]
    last = max(scores)
    earlier = [number for number in scores if number < last]
    best = max(earlier, key=lambda number: scores[number], default=None)
    pairs = {
        "forgotten": (best, last) if best is not None else None,
        "backward": (last, trained[-1]) if last != trained[-1] else None,
        "forward": (visits[-1], visits[0]) if len(visits) > 1 else None,
    }
    numbers = {number for pair in pairs.values() if pair for number in pair}
    tables = {
        number: outputs if isinstance(outputs, str) else outputs.scores(number, name)
        for number in numbers
    }
    reasons = [each for each in tables.values() if isinstance(each, str)]
    return Transfer(
        dataset=name,
        first=scores[trained[0]],
        best=None if best is None else scores[best],
        last=scores[last],
        reason=reasons[0] if reasons else None,
        **{
            kind: None if pair is None else _change(pair, scores, tables)
            for kind, pair in pairs.items()
        },
    )


def _change(
    pair: tuple[int, int], scores: Mapping[int, float], tables: Mapping[int, ScoreTable | str]
) -> Change:
    """Score after one round minus the score after another."""
    one, other = (tables[number] for number in pair)
    low = high = None
    if not isinstance(one, str) and not isinstance(other, str):
        comparison = compare(one, other)
        low, high = comparison.low, comparison.high
    return Change(
        round=pair[0],
        against=pair[1],
        difference=scores[pair[0]] - scores[pair[1]],
        low=low,
        high=high,
    )
