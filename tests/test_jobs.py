"""Jobs: plans as files, and the driver that submits them to a launcher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from helpers import plan_of, plugins, refused, round_of, run_plan

from hydrakit.cli import main
from hydrakit.hooks import LauncherFactory
from hydrakit.jobs.driver import JobDriver, build_launcher
from hydrakit.jobs.job import Job, job_command, read_job, run_job, train_job
from hydrakit.jobs.launchers import hydrakit_launchers
from hydrakit.jobs.states import read_states, status_of
from hydrakit.jobs.submit import submit_run
from hydrakit.plugins import Plugins
from hydrakit.plugins.options import split_component
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.lock import TakenOverError, break_locks

PLAN = plan_of(round_of("alpha", epochs=1))


class Launcher:
    """Calls a function for each job, one at each poll."""

    def __init__(self, work: Any) -> None:
        self.work = work
        self.waiting: list[Job] = []
        self.cancelled = False
        self.files: list[Path] = []

    def processes(self, context: RunContext, groups: int) -> int:
        return 1

    def threads(self, groups: int) -> int:
        return 1

    def submit(self, groups: Sequence[Sequence[Job]], folder: Path, *, processes: int) -> None:
        for job in (job for group in groups for job in group):
            self.files.append(job.write(folder))
            self.waiting.append(job)

    def poll(self) -> list[tuple[Job, str]]:
        job = self.waiting.pop(0)
        return [(job, self.work(job))]

    def states(self) -> dict[str, str]:
        return {job.name: "PENDING" for job in self.waiting}

    def cancel(self) -> None:
        self.cancelled = True


def job_in(folder: Path, name: str = "a") -> Job:
    return Job(name=name, plan=PLAN, out=folder / name, context=RunContext(threads=1))


def test_a_job_is_what_its_file_says(tmp_path: Path) -> None:
    context = RunContext(checkpoint_interval=float("inf"), data=Path("d"), threads=2)
    job = job_in(tmp_path).model_copy(update={"context": context})
    path = job.write(tmp_path / "jobs")
    assert read_job(path) == job.resolved()
    assert read_job(path).context.data == Path("d").resolve()
    assert job_command([path])[1:] == ["-m", "hydrakit", "job", str(path)]
    path.write_text(path.read_text().replace('"format": 1', '"format": 9', 1))
    refused(lambda: read_job(path), str(path))


def test_a_lost_job_is_submitted_once_more_and_the_others_go_on(tmp_path: Path) -> None:
    states: list[dict[str, str]] = []
    launcher = Launcher(lambda job: "exit status 9")
    lost: list[str] = []
    with JobDriver(
        launcher,
        tmp_path / "jobs",
        1,
        on_poll=lambda: states.append(read_states(tmp_path / "jobs")),
        on_lost=lambda job, how: lost.append(f"{job.name}: {how}"),
    ) as driver:
        driver.run([[job_in(tmp_path)], [job_in(tmp_path, "b")], []])
    assert lost == ["a: exit status 9", "b: exit status 9"] * 2
    assert launcher.cancelled
    assert states[0] == {"a": "PENDING", "b": "PENDING"}
    assert read_states(tmp_path / "jobs") == {}
    why = "its process ended unexpectedly 2 times (exit status 9)"
    assert status_of(tmp_path / "a") == status_of(tmp_path / "b") == why


def test_jobs_that_do_not_run_are_no_losses(tmp_path: Path) -> None:
    class Odd(Launcher):
        def poll(self) -> list[tuple[Job, str]]:
            (ended,) = super().poll()
            return [ended, ended, (job_in(tmp_path, "other"), "exit status 0")]

    def fail(job: Job) -> str:
        job.write_failure("why")
        return "exit status 1"

    lost: list[str] = []
    launcher = Odd(fail)
    with JobDriver(launcher, tmp_path, 1, on_lost=lambda job, how: lost.append(how)) as driver:
        driver.submit([[job_in(tmp_path)]])
        assert [job.name for job in driver.poll()] == ["a"]
    assert lost == []
    assert len(launcher.files) == 1


def test_a_launcher_that_would_run_nothing_is_refused(tmp_path: Path) -> None:
    refused(lambda: JobDriver(Launcher(lambda job: ""), tmp_path, 0), "0 jobs", "--launcher")


def test_jobs_are_cancelled_when_the_driver_is_stopped(tmp_path: Path) -> None:
    def stop(job: Job) -> str:
        raise KeyboardInterrupt

    launcher = Launcher(stop)
    with pytest.raises(KeyboardInterrupt), JobDriver(launcher, tmp_path, 1) as driver:
        driver.run([[job_in(tmp_path)]])
    assert launcher.cancelled


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("local", "local", {}),
        ("slurm:time=1:00:00,partition=a,b", "slurm", {"time": "1:00:00", "partition": "a,b"}),
        ("x:prefix=run --a=b,n=1", "x", {"prefix": "run --a=b", "n": "1"}),
        ("x:empty=", "x", {"empty": ""}),
    ],
)
def test_options_of_a_component(text: str, name: str, options: dict[str, str]) -> None:
    assert split_component(text, option="--launcher") == (name, options)


@pytest.mark.parametrize("text", ["x:", "x:a", ":a=1", "x:a=1,a=2", "x:A=1"])
def test_a_text_of_another_form_is_refused(text: str) -> None:
    refused(lambda: split_component(text, option="--launcher"), "--launcher", text)


def test_an_unknown_launcher_or_option_is_refused() -> None:
    known = Plugins.of(*hydrakit_launchers())
    refused(lambda: build_launcher("slum", known), "slum", "local")
    refused(lambda: build_launcher("local:time=1", known), "time", "local")


class Events(RunCallback):
    def __init__(self) -> None:
        self.seen: list[str] = []

    def finished(self, number: int, round: Any, result: Any) -> None:
        self.seen.append(f"finished {number}")

    def completed(self, rundir: Any) -> None:
        self.seen.append("completed")


def test_a_run_through_a_launcher_is_the_run_itself(
    standin: Path, data: Path, tmp_path: Path
) -> None:
    def work(job: Job) -> str:
        (tmp_path / "run.jobs" / "states.json").write_text('{"run": "PENDING (Priority)"}')
        said = CliRunner().invoke(main, ["status", str(tmp_path / "run")])
        assert said.stderr.endswith("run: has not begun: its job is PENDING (Priority)\n")
        result = CliRunner().invoke(main, ["job", str(tmp_path / "run.jobs" / "run.json")])
        said = CliRunner().invoke(main, ["status", str(tmp_path / "run")])
        assert "in the queue: PENDING (Priority)\n" in said.stdout
        return f"exit status {result.exit_code}"

    launcher, events = Launcher(work), Events()
    installed = Plugins.of(
        *plugins().components["dataset"].values(),
        *(
            each
            for kind in ("body", "head", "strategy")
            for each in plugins().components[kind].values()
        ),
        LauncherFactory(name="mine", summary="", build=lambda options: launcher),
    )
    context = RunContext(data=data, cache=tmp_path / "cache", device="cpu", launcher="mine")
    run = submit_run(PLAN, context, out=tmp_path / "run", callback=events, plugins=installed)
    assert events.seen == ["finished 1", "completed"]
    alone = run_plan(PLAN, tmp_path / "alone", data=data, cache=tmp_path / "cache", threads=1)
    bodies = [(each.path / "body.safetensors").read_bytes() for each in (run, alone)]
    assert bodies[0] == bodies[1]
    launcher.waiting.clear()
    submit_run(PLAN, context, out=tmp_path / "run", callback=events, plugins=installed)
    assert len(launcher.files) == 1  # it was done


def test_a_failed_job_says_why(standin: Path, data: Path, tmp_path: Path) -> None:
    context = RunContext(data=tmp_path / "none", cache=tmp_path / "cache", device="cpu")
    job = job_in(tmp_path).model_copy(update={"context": context})
    path = job.write(tmp_path / "jobs")
    result = CliRunner().invoke(main, ["job", str(path)])
    assert result.exit_code == 1
    line = result.stderr.splitlines()[-1]
    assert line.startswith("hydrakit: a: failed: ")
    assert line.removeprefix("hydrakit: a: failed: ") == job.status()
    assert "alpha" in job.status()
    refused(lambda: read_job(tmp_path / "none.json"), "none.json", "launcher")


def test_a_run_that_was_taken_over_stops_and_has_not_failed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TakeOver(RunCallback):
        def epoch(self, number: int, round: Any, record: Any) -> None:
            break_locks(tmp_path / "a")

    context = RunContext(data=data, cache=tmp_path / "cache", device="cpu", threads=1)
    job = job_in(tmp_path).model_copy(update={"context": context})
    job = job.model_copy(update={"plan": plan_of(round_of("alpha", epochs=9))})
    refused(lambda: train_job(job, callbacks=[TakeOver()], plugins=plugins()), "taken over")
    assert not RunDir(job.out).rounds_done(job.plan)

    def raising(job: Job) -> None:
        raise TakenOverError("taken over")

    monkeypatch.setattr("hydrakit.jobs.job.train_job", raising)
    refused(lambda: run_job(job), "taken over")
    assert job.status() == "waiting"
