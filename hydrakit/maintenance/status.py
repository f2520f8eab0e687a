"""How far a run or a comparison is, from its folder: while it goes on, and afterwards.

Nothing is locked or written, so that another process can be watched at work.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from hydrakit.compare.design import FILE as COMPARE
from hydrakit.compare.design import Cell, CompareDir
from hydrakit.errors import PlanError, WeightsError
from hydrakit.plan.results import CheckpointFacts, Event
from hydrakit.rounds import Round, Train
from hydrakit.runs.rundir import CHECKPOINT, RunDir
from hydrakit.schema import Frozen, Name
from hydrakit.storage.lock import Holder, holder_of
from hydrakit.storage.records import refuse_later
from hydrakit.weights.format import read_description


class HolderStatus(Frozen):
    """Who holds the lock of a folder, or held it when it was killed.

    Attributes:
        pid: As in `Holder`, like the two below.
        host: Name of the machine.
        since: When the lock was taken.
        alive: Whether the process is there; None where it cannot be told from here.
    """

    pid: int
    host: str
    since: datetime.datetime
    alive: bool | None


class RoundStatus(Frozen):
    """How far a round is.

    Attributes:
        round: Number, from 1.
        dataset: Trained on.
        train: What is trained.
        state: Whether it is done, begun, or waiting.
        epoch: The last one that is over, as far as the disk tells.
        epochs: At most so many; of a round that is done, so many there were.
        best_epoch: Of a round that is done.
        score: Validation AUC (of a number, R2) of the best epoch.
        seconds: Of training so far.
        since: When it was begun or gone on with last.
        problem: What is wrong with its progress on disk.
    """

    round: int
    dataset: Name
    train: Train
    state: Literal["done", "begun", "waiting"]
    epoch: int = 0
    epochs: int
    best_epoch: int | None = None
    score: float | None = None
    seconds: float | None = None
    since: datetime.datetime | None = None
    problem: str | None = None


RunState = Literal["finished", "running", "stopped"]


class RunStatus(Frozen):
    """How far a run is.

    Attributes:
        kind: Always ``run``.
        path: Of its folder.
        state: ``running`` also where the process is of another machine, and cannot be asked.
        strategy: Of its plan.
        target: Of its plan.
        holder: Who holds the lock.
        last: When something was last written down.
        rounds: In order.
    """

    kind: Literal["run"] = "run"
    path: str
    state: RunState
    strategy: Name
    target: Name
    holder: HolderStatus | None
    last: datetime.datetime | None
    rounds: tuple[RoundStatus, ...]

    @property
    def done(self) -> int:
        """How many rounds are done."""
        return sum(each.state == "done" for each in self.rounds)


class CellStatus(Frozen):
    """How far a cell of a comparison is.

    Attributes:
        name: Of the cell.
        state: Whether it is done, failed, begun, or waiting.
        rounds: How many of its rounds are done.
        running: Whether a process is at it.
        reason: Why it failed.
    """

    name: str
    state: Literal["done", "failed", "begun", "waiting"]
    rounds: int
    running: bool = False
    reason: str | None = None


class ComparisonStatus(Frozen):
    """How far a comparison is; attributes as in `RunStatus`."""

    kind: Literal["comparison"] = "comparison"
    path: str
    state: RunState
    holder: HolderStatus | None
    cells: tuple[CellStatus, ...]


def status(folder: Path) -> RunStatus | ComparisonStatus:
    """How far the run or the comparison in a folder is.

    Raises:
        PlanError: It is the folder of neither, or a file that tells of it is broken.
    """
    return _of_comparison(folder) if (folder / COMPARE).is_file() else _of_run(RunDir(folder))


def _of_run(run: RunDir) -> RunStatus:
    plan, events, holder = run.plan(), run.events(), _holder(run.path)
    rounds: list[RoundStatus] = []
    for number, round in enumerate(plan.rounds, start=1):
        begun = not rounds or rounds[-1].state == "done"
        rounds.append(_round(run, number, round, under_way=begun))
    times = _times(events)
    return RunStatus(
        path=str(run.path),
        state=_state(run.results_path.is_file(), holder),
        strategy=plan.strategy,
        target=plan.target,
        holder=holder,
        last=times[-1] if times else None,
        rounds=tuple(rounds),
    )


def _round(run: RunDir, number: int, round: Round, *, under_way: bool) -> RoundStatus:
    began = _times(
        each
        for each in run.events()
        if each.event == "round" and (each.model_extra or {}).get("round") == number
    )
    found = RoundStatus(
        round=number,
        dataset=round.dataset,
        train=round.train,
        state="begun" if under_way and began else "waiting",
        epochs=round.hyperparameters.epochs,
        since=began[-1] if began else None,
    )
    if run.finished(number, round):
        done = run.round_result(number, round)
        return found.model_copy(
            update={
                "state": "done",
                "epoch": done.epochs,
                "epochs": done.epochs,
                "best_epoch": done.best_epoch,
                "score": done.val.score,
                "seconds": done.seconds,
            }
        )
    return found.model_copy(update=_progress(run.state_path(number, round) / CHECKPOINT))


def _times(events: Iterable[Event]) -> list[datetime.datetime]:
    """When events happened; what is no time is passed over."""
    found = []
    for each in events:
        with suppress(ValueError):
            found.append(datetime.datetime.fromisoformat(each.time))
    return found


def _progress(path: Path) -> dict[str, object]:
    """What a round's checkpoint tells, if there is one: it may go any moment."""
    try:
        text = read_description(path)
        refuse_later(path, text)
        facts = CheckpointFacts.model_validate_json(text)
    except PlanError as error:
        return {"problem": str(error)}
    except (WeightsError, ValueError):
        if not path.is_file():
            return {}
        return {"problem": f"{path}: is damaged: delete it, and the round begins anew"}
    return {"epoch": facts.epoch, "seconds": facts.seconds}


def _of_comparison(folder: Path) -> ComparisonStatus:
    here, holder = CompareDir(folder), _holder(folder)
    cells = tuple(_cell(here, cell) for cell in here.description().design.cells())
    finished = all(each.state == "done" for each in cells) and here.comparison_path.is_file()
    return ComparisonStatus(
        path=str(folder), state=_state(finished, holder), holder=holder, cells=cells
    )


def _cell(here: CompareDir, cell: Cell) -> CellStatus:
    run, said = RunDir(here.cell(cell)), here.status(cell)
    rounds, holder = len(run.round_folders()), _holder(run.path)
    if said == "done":
        return CellStatus(name=cell.name, state="done", rounds=rounds)
    if said != "waiting":
        return CellStatus(name=cell.name, state="failed", rounds=rounds, reason=said)
    begun = run.plan_path.is_file()
    return CellStatus(
        name=cell.name,
        state="begun" if begun else "waiting",
        rounds=rounds,
        running=holder is not None and holder.alive is not False,
    )


def _holder(folder: Path) -> HolderStatus | None:
    found: Holder | None = holder_of(folder)
    return HolderStatus(**found.model_dump(), alive=found.alive()) if found else None


def _state(finished: bool, holder: HolderStatus | None) -> RunState:
    if holder is not None and holder.alive is not False:
        return "running"
    return "finished" if finished else "stopped"
