"""What later rounds did to a head: forgetting and transfer, in AUC, with intervals.

Each is the difference of two rounds, of one dataset's head on the same validation cases. So rounds
keep what every head gives for them (``validation.safetensors``: a tensor ``(cases, outputs)`` for
each dataset, in the order of its validation split), and once all are done the differences are
compared as two strategies are: paired, with whole patients (`hydrakit.stats.paired.compare`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hydrakit.errors import PlanError
from hydrakit.plan.results import Change, RoundResult, Transfer
from hydrakit.rounds import Round
from hydrakit.runs.rundir import RunDir
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.storage.files import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

    from hydrakit.data.load import CaseSet

FILE = "validation.safetensors"
MOST_PAIRS = 10_000_000  # of a positive and a negative case: 80 MB for each of several arrays
NOT_YET = "it is told once the run is finished"
NOT_KEPT = "rounds kept no validation outputs"


def keep(folder: Path, validation_outputs: Mapping[str, Tensor]) -> None:
    """Write what every head gave for validation cases, by dataset, into a round's folder."""
    from safetensors.torch import save

    write_atomic(
        folder / FILE, save({n: each.cpu().contiguous() for n, each in validation_outputs.items()})
    )


@dataclass(frozen=True)
class RoundOutputs:
    """What the rounds of a run kept, and whose cases these are.

    Attributes:
        rundir: Of the run.
        rounds: Of its plan.
        val: The validation split of each dataset.
        units: By dataset and key, what must stay together (`Gate.units`).
    """

    rundir: RunDir
    rounds: Sequence[Round]
    val: Mapping[str, CaseSet]
    units: Mapping[str, Mapping[str, str]]

    def tested(self, number: int, name: str) -> ScoreTable | str:
        """A dataset's validation findings through its head after a round; or why there is no AUC.

        Raises:
            PlanError: What the round kept cannot be read.
        """
        from hydrakit.stats import tasks

        val = self.val[name]
        if val.task == "regression":
            return "a number has no AUC"
        if val.task == "multilabel":
            return "intervals are of two classes, not of several labels"
        validation_outputs = self._read(number, name)
        if validation_outputs is None:
            return NOT_KEPT
        if validation_outputs.shape[1] != 2:
            return f"intervals are of two classes, not of {validation_outputs.shape[1]}"
        positives = int((val.labels == 1).sum())
        if positives * (len(val.labels) - positives) > MOST_PAIRS:
            return f"intervals are of at most {MOST_PAIRS:,} pairs of cases"
        scores = tasks.predictions(validation_outputs, task=val.task)[:, 1].tolist()
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
            found = load(path.read_bytes())[name].astype(np.float64)
        except (OSError, KeyError, SafetensorError) as error:
            reason = str(error).splitlines()[0]
            raise PlanError(
                f"{path}: cannot be read ({reason}): delete {path.parent} and run again"
            ) from None
        if len(found) != len(self.val[name].cases):
            raise PlanError(
                f"{path}: is of {len(found)} cases of {name}, its validation split has "
                f"{len(self.val[name].cases)}: delete {path.parent} and run again"
            )
        return found


def transfers(
    planned: Sequence[Round], done: Sequence[RoundResult], kept: RoundOutputs | str
) -> tuple[Transfer, ...]:
    """What became of every head, by dataset in the order of training.

    Args:
        planned: The rounds of the plan.
        done: Those that are finished, in order.
        kept: For the intervals; or why there are none.

    Raises:
        PlanError: What a round kept cannot be read.
    """
    found = []
    for name in dict.fromkeys(name for each in done for name in each.heads):
        scores = {each.round: each.heads[name].score for each in done if name in each.heads}
        taught = [number for number in scores if name in planned[number - 1].datasets]
        if taught:  # else it was before rounds noted other heads' figures
            found.append(_transfer(name, scores, taught, kept))
    return tuple(found)


def _transfer(
    name: str, scores: Mapping[int, float], taught: Sequence[int], kept: RoundOutputs | str
) -> Transfer:
    """What became of a dataset's head.

    Args:
        name: Of the dataset.
        scores: Of the head after each round that tells it, by number.
        taught: The rounds among them that trained it.
        kept: As for `transfers`.
    """
    visits = [number for number in taught if number + 1 not in taught]
    last = max(scores)
    earlier = [number for number in scores if number < last]
    best = max(earlier, key=lambda number: scores[number], default=None)
    pairs = {
        "forgotten": (best, last) if best is not None else None,
        "backward": (last, taught[-1]) if last != taught[-1] else None,
        "forward": (visits[-1], visits[0]) if len(visits) > 1 else None,
    }
    wanted = {number for pair in pairs.values() if pair for number in pair}
    tested = {
        number: kept if isinstance(kept, str) else kept.tested(number, name) for number in wanted
    }
    reasons = [each for each in tested.values() if isinstance(each, str)]
    return Transfer(
        dataset=name,
        first=scores[taught[0]],
        best=None if best is None else scores[best],
        last=scores[last],
        reason=reasons[0] if reasons else None,
        **{
            what: None if pair is None else _change(pair, scores, tested)
            for what, pair in pairs.items()
        },
    )


def _change(
    pair: tuple[int, int], scores: Mapping[int, float], tested: Mapping[int, ScoreTable | str]
) -> Change:
    """The score after a round less that after another."""
    one, other = (tested[number] for number in pair)
    low = high = None
    if not isinstance(one, str) and not isinstance(other, str):
        found = compare(one, other)
        low, high = found.low, found.high
    return Change(
        round=pair[0],
        against=pair[1],
        difference=scores[pair[0]] - scores[pair[1]],
        low=low,
        high=high,
    )
