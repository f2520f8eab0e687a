"""Signals and kills from outside: what is done is kept, and the run ends as in one go."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import Runner, weights_of
from killing import Killing, longer_plan
from test_checkpoint import assert_same

from hydrakit.compute.signals import StopRequested, check, describe_stop, stoppable
from hydrakit.runs.rundir import RunDir

STATUS = {
    signal.SIGINT: 130,
    signal.SIGTERM: 143,
    signal.SIGHUP: 143,
    signal.SIGUSR1: 143,
}


@pytest.fixture(scope="module")
def whole(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """The plan in one go."""
    return killing_of(tmp_path_factory.mktemp("whole"), data, cache).finish()


@pytest.fixture(scope="module")
def shorter(data: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A plan of half the epochs in one go."""
    return killing_of(tmp_path_factory.mktemp("shorter"), data, cache, divisor=2).finish()


def killing_of(folder: Path, data: Path, cache: Path, divisor: int = 1) -> Killing:
    plan = folder / "plan.json"
    plan.write_text(longer_plan(divisor).to_json())
    arguments = ["run", "--plan", str(plan), "--device", "cpu", "--checkpoint-every", "0"]
    return Killing(folder, data, arguments, cache)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        signal.SIGTERM,
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, marks=pytest.mark.slow),
    ],
)
def test_a_signal_stops_a_run_that_says_how_it_goes_on(
    number: signal.Signals, tmp_path: Path, data: Path, cache: Path, shorter: RunDir
) -> None:
    killing = killing_of(tmp_path, data, cache, divisor=2)
    ended = killing.stop_after(0.7, number)
    assert ended.returncode == STATUS[number], ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        f"hydrakit: stopped by {number.name}: resume with `hydrakit run --resume {killing.out}`"
    )
    assert "Traceback" not in ended.stderr
    events = (killing.out / "events.jsonl").read_text().splitlines()
    assert '"event": "stopped", "by": "Stopped"' in events[-1]
    assert_same(killing.finish().path, shorter.path)


def test_killed_runs_end_as_in_one_go(
    tmp_path: Path, data: Path, shorter: RunDir, cache: Path
) -> None:
    killing = killing_of(tmp_path, data, cache, divisor=2)
    ended = killing.stop_after(0.9, signal.SIGKILL)
    assert ended.returncode == -signal.SIGKILL
    assert_same(killing.finish().path, shorter.path)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(50))
def test_killed_at_random_again_and_again_they_end_as_in_one_go(
    turn: int, tmp_path: Path, data: Path, whole: RunDir
) -> None:
    killing = killing_of(tmp_path, data, tmp_path / "cache")  # killed while it prepares, too
    kills = killing.kill_until_done(random.Random(turn), at_most=6.0)
    print(f"turn {turn}: {kills} kills at {killing.stops}")
    assert_same(killing.out, whole.path)


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(50))
def test_signals_at_random_moments_stop_within_five_seconds(
    turn: int, tmp_path: Path, data: Path, cache: Path, whole: RunDir
) -> None:
    chance = random.Random(turn)
    killing, number = killing_of(tmp_path, data, cache), chance.choice(list(STATUS))
    with killing.start() as process:
        time.sleep(chance.random() * 6)  # while torch is imported, too
        alive = process.poll() is None
        sent = time.monotonic()
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        took = time.monotonic() - sent
    print(f"turn {turn}: {number.name} at {killing.place}: {process.returncode} after {took:.2f} s")
    if process.returncode != 0:
        early = process.returncode == -number  # before Python had installed a handler
        assert early or process.returncode == STATUS[number], said
        assert early or re.search(
            rf"stopped by {number.name}: (resume with .*|run the same command again.*)$",
            said,
            re.M,
        )
        assert alive
    assert took < 5
    assert_same(killing.finish().path, whole.path)


# --- in this process


def test_stopped_is_raised_where_the_program_is() -> None:
    @stoppable()
    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    with pytest.raises(StopRequested) as caught:
        work()
    assert caught.value.status == 143
    assert str(caught.value) == "stopped by SIGTERM"
    assert str(describe_stop(caught.value, "go on so")) == "stopped by SIGTERM: go on so"
    assert describe_stop(KeyboardInterrupt()).status == 130


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_nohup_or_a_shell_ignores_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_processes_of_a_comparison_leave_the_end_of_a_terminal_to_their_parent(
    tmp_path: Path,
) -> None:
    program = (
        "import os, signal, multiprocessing as m\n"
        "from hydrakit.jobs import pool\n"
        "class Pipe:\n"
        "    def recv(self):\n"
        "        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1):\n"
        "            os.kill(os.getpid(), number)\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "pool._end_with_parent = lambda: None\n"
        "pool._work(Pipe())\n"
        "print('stopped')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "stopped\n"), done.stderr


def test_handlers_are_put_back_and_later_requests_ignored() -> None:
    @stoppable()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    before = [signal.getsignal(number) for number in STATUS]
    with pytest.raises(StopRequested, match=r"^stopped by SIGUSR1$"):
        work()
    assert [signal.getsignal(number) for number in STATUS] == before


def test_a_request_whose_exception_was_swallowed_is_raised_again() -> None:
    @stoppable()
    def work() -> None:
        with suppress(BaseException):  # as some packages do while they are imported
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        check()

    with pytest.raises(StopRequested, match=r"^stopped by SIGTERM$"):
        work()
    check()  # which was for that block alone


def test_a_request_that_became_another_error_is_told_as_what_it_was() -> None:
    @stoppable()
    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)
        except KeyboardInterrupt:
            raise SystemError("error return without exception set") from None

    with pytest.raises(StopRequested, match=r"^stopped by SIGUSR1$"):
        work()


def test_a_run_hears_a_request_that_was_swallowed(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.compute.signals._received", [signal.SIGTERM])
    with pytest.raises(StopRequested):
        runner(longer_plan())
    monkeypatch.setattr("hydrakit.compute.signals._received", [])


def test_threads_have_no_handlers() -> None:
    seen: list[object] = []

    def work() -> None:
        with stoppable():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_an_epoch_that_was_over_is_not_lost_in_memory_alone(runner: Runner) -> None:
    """Progress that was not yet due to be written is written when the run is stopped."""
    from test_checkpoint import Interrupter, StopError

    from hydrakit.runs.rundir import CHECKPOINT
    from hydrakit.training.checkpoint import read_facts

    with pytest.raises(StopError):
        runner(longer_plan(), callbacks=[Interrupter(7)], checkpoint_interval=1e9)
    path = runner.folder / "run" / "rounds" / "01-alpha-all.part" / CHECKPOINT
    assert read_facts(path).epoch == 6
    assert weights_of(runner.folder / "run").keys() == {f"rounds/01-alpha-all.part/{CHECKPOINT}"}


@pytest.mark.parametrize("count", [40, pytest.param(500, marks=pytest.mark.slow)])
def test_a_checkpoint_is_whole_or_absent_whenever_its_writer_is_killed(
    count: int, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("writer_kills.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path), str(count)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    print(ended.stdout, ended.stderr)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"(\d+) kills: 0 bad, (\d+) absent, (\d+) while writing", ended.stdout)
    assert found
    assert int(found[1]) == count
    assert int(found[2]) < count / 2
    assert int(found[3]) > 0
