"""The launcher with hydrakit's driver of jobs, on a queue that a test moves on by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hydrakit.compare.design import make_design
from hydrakit.errors import HydrakitError
from hydrakit.hooks import Launcher
from hydrakit.jobs.driver import JobDriver, preview
from hydrakit.jobs.job import Job, read_job
from hydrakit.jobs.states import read_states
from hydrakit.plugins import load_plugins
from hydrakit.runs.context import RunContext
from hydrakit_slurm import launcher as module
from hydrakit_slurm.launcher import SlurmLauncher
from hydrakit_slurm.queue import Batch, QueueError, State, Submitted


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL", "FASTEST", "SLOWEST", "DELAY", "PATIENCE"):
        monkeypatch.setattr(module, name, 0.0)


class Hand:
    """A queue: each call of `states` returns the next ones, in which None is a silent queue."""

    def __init__(self, *turns: dict[str, str] | None) -> None:
        self.turns = list(turns)
        self.batches: list[Batch] = []
        self.cancelled: list[str] = []
        self.left: dict[str, State] = {}

    def check(self) -> None:
        pass

    def submit(self, batch: Batch, folder: Path) -> list[Submitted]:
        self.batches.append(batch)
        first = len(self.batches) * 10
        return [
            Submitted(f"{first}_{number}", folder / f"{first}_{number}.out", folder / "none")
            for number in range(len(batch.commands))
        ]

    def script(self, batch: Batch, folder: Path) -> str:
        return f"{batch.name} {len(batch.commands)} {batch.limit} {batch.cpus} {folder}"

    def states(self, name: str) -> dict[str, State]:
        if self.cancelled:
            return {number: State("CANCELLED") for number in self.left}
        if self.turns:
            turn = self.turns.pop(0)
            if turn is None:
                raise QueueError("squeue: no answer")
            self.left = {number: State(*text.split(" ", 1)) for number, text in turn.items()}
        return self.left

    def cancel(self, name: str) -> None:
        self.cancelled.append(name)


@pytest.fixture(scope="module")
def job() -> Callable[[Path, str], Job]:
    settings = {"profile": "recommended-0.1"}
    design = make_design(
        strategies=("classical",), baselines=(), datasets=("brain",), folds=2, settings=settings
    )
    plan = design.plan(design.cells()[0], load_plugins())

    def make(folder: Path, name: str) -> Job:
        return Job(name=name, plan=plan, out=folder / name, context=RunContext(threads=3))

    return make


def end(job: Job, text: str = "no data") -> None:
    """End a job as its process would: with a reason why it failed."""
    job.write_failure(text)


def names(command: Sequence[str]) -> list[str]:
    """Names of the jobs that a command runs."""
    return [read_job(Path(word)).name for word in command[command.index("job") + 1 :]]


def test_groups_are_tasks_and_their_states_are_shown(tmp_path: Path, job) -> None:
    jobs = {name: job(tmp_path, name) for name in "abc"}
    turns = {"10_0": "RUNNING node7", "10_1": "PENDING (Priority)"}, {"10_0": "FAILED", "10_1": "R"}
    queue = Hand(*turns, {"10_1": "COMPLETED"})
    launcher = SlurmLauncher(queue, most=1000)
    assert isinstance(launcher, Launcher)
    assert launcher.processes(RunContext(jobs=5), 2) == 2
    assert launcher.processes(RunContext(), 2) == 2
    seen = []

    def look() -> None:
        seen.append(read_states(tmp_path / "jobs"))
        if len(seen) == 2:
            end(jobs["c"])

    lost: list[str] = []
    for each in (jobs["a"], jobs["b"]):
        end(each)
    with JobDriver(
        launcher,
        tmp_path / "jobs",
        2,
        on_poll=look,
        on_lost=lambda each, how: lost.append(f"{each.name}: {how}"),
    ) as driver:
        groups = [[jobs["a"], jobs["b"]], [jobs["c"]]]
        launcher.submit(groups, tmp_path / "jobs", processes=2)
        driver._waiting = set(jobs)
        while driver._waiting:
            driver.poll()
    (batch,) = queue.batches
    assert [names(command) for command in batch.commands] == [["a", "b"], ["c"]]
    assert (batch.limit, batch.cpus) == (2, 3)
    assert seen[0] == {"a": "RUNNING node7", "b": "RUNNING node7", "c": "PENDING (Priority)"}
    assert lost == []
    assert queue.cancelled == []


def test_a_lost_task_is_submitted_again(tmp_path: Path, job) -> None:
    queue = Hand({"10_0": "RUNNING node7"}, {"10_0": "NODE_FAIL"}, {}, {}, {})
    lost: list[str] = []
    with JobDriver(
        SlurmLauncher(queue, most=10),
        tmp_path / "jobs",
        1,
        on_lost=lambda each, how: lost.append(how),
    ) as driver:
        driver.run([[job(tmp_path, "a")]])
    folder = tmp_path / "jobs" / "slurm"
    assert lost == [
        f"NODE_FAIL: {folder}/10_0.out",
        f"Slurm does not list it any more: {folder}/20_0.out",
    ]
    assert len({batch.name for batch in queue.batches}) == 1


def test_a_silent_queue_loses_nothing(
    tmp_path: Path, job, caplog: pytest.LogCaptureFixture
) -> None:
    one = job(tmp_path, "a")
    queue = Hand(None, None, None, None, {"10_0": "COMPLETED"})
    launcher = SlurmLauncher(queue, most=10)
    launcher.submit([[one]], tmp_path / "jobs", processes=1)
    ended = [each for _ in range(4) for each in launcher.poll()]
    assert ended == []
    assert [record.getMessage() for record in caplog.records] == [
        "squeue: no answer: asking again every 0 seconds"
    ]
    end(one)
    assert [each.name for each, _ in launcher.poll()] == ["a"]


def test_more_groups_than_tasks_are_divided_among_them(tmp_path: Path, job) -> None:
    queue = Hand()
    launcher = SlurmLauncher(queue, most=2, cpus=4, prefix="apptainer exec 'my image.sif'")
    groups = [[job(tmp_path, name)] for name in "abcde"]
    launcher.submit(groups, tmp_path / "jobs", processes=2)
    (batch,) = queue.batches
    assert [names(command) for command in batch.commands] == [["a", "c", "e"], ["b", "d"]]
    assert batch.commands[0][:5] == ["apptainer", "exec", "my image.sif", "hydrakit", "job"]
    assert batch.cpus == launcher.threads(5) == 4
    text = preview(launcher, RunContext(), 5, tmp_path / "jobs", 2)
    assert text is not None
    assert text.splitlines()[-1] == (
        "# tasks: 2; each runs: apptainer exec 'my image.sif' hydrakit job FILE..."
    )


def test_what_an_earlier_command_left_in_the_queue_is_ended_first(tmp_path: Path, job) -> None:
    first = SlurmLauncher(queue := Hand(), most=10)
    first.submit([[job(tmp_path, "a")]], tmp_path / "jobs", processes=1)
    name = queue.batches[0].name
    other = Hand({"10_0": "RUNNING node7", "10_1": "COMPLETED"})
    second = SlurmLauncher(other, most=10)
    second.submit([[job(tmp_path, "a")]], tmp_path / "jobs", processes=1)
    assert other.cancelled == [name]
    assert other.batches[0].name == name


def test_cancelled_tasks_that_do_not_end_are_named(tmp_path: Path, job) -> None:
    queue = Hand({"10_0": "RUNNING node7"})
    queue.cancel = lambda name: None  # type: ignore[method-assign]
    launcher = SlurmLauncher(queue, most=10)
    launcher.submit([[job(tmp_path, "a")]], tmp_path / "jobs", processes=1)
    with pytest.raises(HydrakitError, match="did not end within 0 seconds: 10_0: start"):
        launcher.cancel()


def test_a_folder_that_slurm_would_misread_is_refused(tmp_path: Path, job) -> None:
    launcher = SlurmLauncher(Hand(), most=10)
    with pytest.raises(HydrakitError, match="a path with a %"):
        launcher.submit([[job(tmp_path, "a")]], tmp_path / "50%j", processes=1)
    (tmp_path / "slurm.json").write_text('{"name": "hydrakit-1,other"}')
    with pytest.raises(HydrakitError, match=r"slurm\.json"):
        launcher.submit([[job(tmp_path, "a")]], tmp_path, processes=1)
