"""Progress of a run or a comparison, read from its folder, also while it is running.

Nothing is locked or written, so that a running process is not disturbed.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from hydrakit.compare.design import FILE as COMPARE
from hydrakit.compare.design import Cell, CompareDir
from hydrakit.errors import PlanError, WeightsError, one_line
from hydrakit.jobs.states import jobs_of_run, read_states
from hydrakit.plan.model import Plan
from hydrakit.plan.results import CheckpointFacts, Event
from hydrakit.rounds import Round, Train
from hydrakit.runs.rundir import CHECKPOINT, RunDir
from hydrakit.schema import Frozen, Name, PathText, Text
from hydrakit.storage.claims import Observer
from hydrakit.storage.lock import holder_of
from hydrakit.storage.records import refuse_later
from hydrakit.weights.format import read_description

MAX_QUEUE = 100  # characters of the state of a job


class HolderStatus(Frozen):
    """The process that holds the lock of a folder, or held it when it was killed.

    Attributes:
        pid: Process id.
        host: Name of the machine.
        since: Time when the lock was acquired.
        alive: Whether the process is running; None if unknown.
    """

    pid: int
    host: str
    since: datetime.datetime
    alive: bool | None


class RoundStatus(Frozen):
    """Progress of a round.

    Attributes:
        round: Number of the round, from 1.
        dataset: Dataset to train on.
        train: Parts of the network that are trained.
        state: Whether the round is done, begun or waiting.
        epoch: Last epoch whose progress is on disk.
        epochs: Maximum number of epochs; for a round that is done, the number of epochs trained.
        best_epoch: Best epoch; None until the round is done.
        score: Validation AUC (R2 in regression) of the best epoch; None until the round is done.
        seconds: Training time so far.
        since: Time when the round was last started or resumed.
        problem: Why its progress on disk cannot be read.
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
    problem: PathText | None = None


class MemberStatus(Frozen):
    """Progress of the second or another network of an ensemble.

    Attributes:
        number: Number of the network, from 2.
        rounds: Progress of each round, in order.
    """

    number: int
    rounds: tuple[RoundStatus, ...]

    @property
    def done(self) -> int:
        """Number of rounds that are done."""
        return sum(each.state == "done" for each in self.rounds)


RunState = Literal["finished", "running", "stopped"]


class RunStatus(Frozen):
    """Progress of a run.

    Attributes:
        kind: Always ``run``.
        path: Path of the run's folder.
        state: State of the run; ``running`` also if a process on another machine holds the lock.
        strategy: Name of the plan's strategy.
        target: Name of the target dataset.
        holder: Process that holds the lock.
        last: Time of the last event.
        rounds: Progress of each round, in order; in an ensemble those of the first network.
        members: Progress of the other networks of an ensemble.
        queue: State of its job in the words of the launcher, such as ``PENDING (Priority)``; None
            if it says nothing.
    """

    kind: Literal["run"] = "run"
    path: PathText
    state: RunState
    strategy: Name
    target: Name
    holder: HolderStatus | None
    last: datetime.datetime | None
    rounds: tuple[RoundStatus, ...]
    members: tuple[MemberStatus, ...] = ()
    queue: PathText | None = None

    @property
    def done(self) -> int:
        """Number of rounds that are done."""
        return sum(each.state == "done" for each in self.rounds)


class CellStatus(Frozen):
    """Progress of a cell of a comparison.

    Attributes:
        name: Name of the cell.
        state: Whether the cell is done, failed, begun or waiting, or not needed, since the
            comparison ended early.
        rounds: Number of rounds that are done.
        running: Whether a process is running the cell.
        reason: Why the cell failed.
        queue: State of its job in the words of the launcher, such as ``PENDING (Priority)``; None
            if it says nothing.
    """

    name: PathText
    state: Literal["done", "failed", "begun", "waiting", "not needed"]
    rounds: int
    running: bool = False
    reason: PathText | None = None
    queue: PathText | None = None


class ComparisonStatus(Frozen):
    """Progress of a comparison.

    Attributes:
        kind: Always ``comparison``.
        path: Path of the comparison's folder.
        state: State of the comparison; ``running`` also if a process on another machine holds the
            lock.
        holder: Process that holds the lock.
        members: Processes that share the comparison (`compare --join`), as "pid 1 on HOST"; one
            that was killed is among them until another one notices it.
        cells: Progress of each cell, in order.
    """

    kind: Literal["comparison"] = "comparison"
    path: PathText
    state: RunState
    holder: HolderStatus | None
    members: tuple[Text, ...] = ()
    cells: tuple[CellStatus, ...]


def status(folder: Path) -> RunStatus | ComparisonStatus:
    """Read the progress of the run or the comparison in a folder.

    Raises:
        PlanError: The folder holds neither, or a file in it is broken.
    """
    if (folder / COMPARE).is_file():
        return _of_comparison(folder)
    queue = read_states(jobs_of_run(folder)).get(folder.name)
    queue = None if queue is None else one_line(queue, MAX_QUEUE)
    if queue is not None and not folder.exists():
        raise PlanError(f"{folder}: has not begun: its job is {queue}")
    if folder.is_dir() and not RunDir(folder).plan_path.is_file():
        _refuse_other(folder)
    return _of_run(RunDir(folder), queue)


def _refuse_other(folder: Path) -> None:
    """Name what is in a folder that is neither a run nor a comparison, such as a search."""
    inside = [
        path.parent
        for below in ("*", "*/*")
        for name in (COMPARE, "plan.json")
        for path in folder.glob(f"{below}/{name}")
    ]
    remedy = (
        f"it holds {len(inside)} of them: give one, such as {min(inside)}"
        if inside
        else "give a folder that `hydrakit run` or `hydrakit compare` has written"
    )
    raise PlanError(f"{folder}: is neither a run nor a comparison: {remedy}")


def _of_run(run: RunDir, queue: str | None) -> RunStatus:
    plan, holder = run.plan(), _holder(run.path)
    members = tuple(
        MemberStatus(number=number, rounds=_rounds(member, plan, member.events()))
        for number, member in enumerate(run.members(plan), start=2)
    )
    events = [event for each in run.networks(plan) for event in each.events()]
    times = [time for event in events if (time := _time(event)) is not None]
    return RunStatus(
        path=str(run.path),
        state=_state(run.whole, holder),
        strategy=plan.strategy,
        target=plan.target,
        holder=holder,
        last=max(times, default=None),
        rounds=_rounds(run, plan, run.events()),
        members=members,
        queue=queue,
    )


def _rounds(run: RunDir, plan: Plan, events: Sequence[Event]) -> tuple[RoundStatus, ...]:
    """Progress of the rounds of one network."""
    starts: dict[object, datetime.datetime] = {}
    for event in events:
        if event.event == "round" and (time := _time(event)) is not None:
            number = (event.model_extra or {}).get("round")
            starts[number if isinstance(number, int) else None] = time
    rounds: list[RoundStatus] = []
    for number, round in enumerate(plan.rounds, start=1):
        is_next = not rounds or rounds[-1].state == "done"
        rounds.append(_round(run, number, round, is_next=is_next, since=starts.get(number)))
    return tuple(rounds)


def _round(
    run: RunDir, number: int, round: Round, *, is_next: bool, since: datetime.datetime | None
) -> RoundStatus:
    status = RoundStatus(
        round=number,
        dataset=round.dataset,
        train=round.train,
        state="begun" if is_next and since else "waiting",
        epochs=round.hyperparameters.epochs,
        since=since,
    )
    if run.finished(number, round):
        result = run.round_result(number, round)
        return status.model_copy(
            update={
                "state": "done",
                "epoch": result.epochs,
                "epochs": result.epochs,
                "best_epoch": result.best_epoch,
                "score": result.val.score,
                "seconds": result.seconds,
            }
        )
    return status.model_copy(update=_progress(run.state_path(number, round) / CHECKPOINT))


def _time(event: Event) -> datetime.datetime | None:
    """Time of an event in this time zone; None if it is invalid."""
    try:
        return datetime.datetime.fromisoformat(event.time).astimezone()
    except (ValueError, OverflowError):
        return None


def _progress(path: Path) -> dict[str, object]:
    """Epoch and seconds of a round's checkpoint, which a running process may delete any time."""
    try:
        text = read_description(path)
        refuse_later(path, text)
        facts = CheckpointFacts.model_validate_json(text)
    except PlanError as error:
        return {"problem": one_line(str(error))}
    except (WeightsError, ValueError):
        if not path.exists():
            return {}
        return {"problem": one_line(f"{path}: is damaged: delete it to start the round again")}
    return {"epoch": facts.epoch, "seconds": facts.seconds}


def _of_comparison(folder: Path) -> ComparisonStatus:
    compare_dir, holder = CompareDir(folder), _holder(folder)
    started, description = compare_dir.started(), compare_dir.description()
    cells = tuple(
        _cell(compare_dir, cell)
        if cell.name in started
        else CellStatus(name=cell.name, state="waiting", rounds=0)
        for cell in description.design.cells()
    )
    if holder is not None and holder.alive is not False:
        cells = _with_queue(cells, read_states(compare_dir.jobs))
    not_needed = set(description.not_needed)
    cells = tuple(
        each.model_copy(update={"state": "not needed"})
        if each.name in not_needed and each.state in ("begun", "waiting")
        else each
        for each in cells
    )
    done = all(each.state in ("done", "not needed") for each in cells)
    finished = done and compare_dir.comparison_path.is_file()
    observer = Observer(folder)
    members = tuple(observer.describe(each) for each in observer.present())
    return ComparisonStatus(
        path=str(folder),
        state="running" if members else _state(finished, holder),
        holder=holder,
        members=members,
        cells=cells,
    )


def _with_queue(cells: tuple[CellStatus, ...], states: Mapping[str, str]) -> tuple[CellStatus, ...]:
    """Cells with the states of their jobs, which the launcher last reported."""
    return tuple(
        each.model_copy(update={"queue": one_line(states[each.name], MAX_QUEUE)})
        if each.name in states and each.state in ("begun", "waiting")
        else each
        for each in cells
    )


def _cell(compare_dir: CompareDir, cell: Cell) -> CellStatus:
    run, state = RunDir(compare_dir.cell(cell)), compare_dir.status(cell)
    networks, tuning = [run, *run.begun_members()], compare_dir.tuning(cell)
    rounds = sum(len(each.round_folders()) for each in networks)
    holder = _holder(run.path) or _holder(tuning)
    if state == "done":
        return CellStatus(name=cell.name, state="done", rounds=rounds)
    if state != "waiting":
        return CellStatus(name=cell.name, state="failed", rounds=rounds, reason=state)
    begun = run.plan_path.is_file() or tuning.is_dir()
    return CellStatus(
        name=cell.name,
        state="begun" if begun else "waiting",
        rounds=rounds,
        running=holder is not None and holder.alive is not False,
    )


def _holder(folder: Path) -> HolderStatus | None:
    holder = holder_of(folder)
    return HolderStatus(**holder.model_dump(), alive=holder.alive()) if holder else None


def _state(finished: bool, holder: HolderStatus | None) -> RunState:
    if holder is not None and holder.alive is not False:
        return "running"
    return "finished" if finished else "stopped"
