"""Going on after a stop, the same run again, and random state that is left alone."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    ADAPTERS,
    Runner,
    StopError,
    hydra_plan,
    install_standin,
    plan_of,
    plugins,
    round_of,
    tree,
    weights_of,
    write_dataset,
)

from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter, Remark, Sample, Unusable
from hydrakit.plan import Plan, Round
from hydrakit.plan.results import EpochRecord, RoundResult, ShortcutFact
from hydrakit.plugins import Plugins
from hydrakit.runs import earlier
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.rundir import RunDir


def without_seconds(rundir: RunDir) -> dict[str, Any]:
    results = rundir.results()
    assert results is not None
    found = results.model_dump()
    for each in found["rounds"]:
        assert each.pop("seconds") > 0
    return found


def assert_equal_runs(one: RunDir, other: RunDir) -> None:
    assert weights_of(one.path).keys() == weights_of(other.path).keys()
    for name, content in weights_of(one.path).items():
        assert content == weights_of(other.path)[name], name
    assert without_seconds(one) == without_seconds(other)


class Stopper(RunCallback):
    """Stops a run once: in a round's first epoch, or after a round."""

    def __init__(self, round: int, *, after: bool) -> None:
        self.round = round
        self.after = after

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        if number == self.round and not self.after:
            raise StopError

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        if number == self.round and self.after:
            raise StopError


def stop_everywhere(runner: Runner, plan: Plan, **more: Any) -> RunDir:
    """Run a plan that is stopped in and after every round, and go on each time."""
    for number in range(1, len(plan.rounds) + 1):
        for after in (False, True):
            with pytest.raises(StopError):
                runner(plan, callbacks=[Stopper(number, after=after)], **more)
            done = [p for p in (runner.folder / "run" / "rounds").glob("*") if p.suffix != ".part"]
            assert len(done) == number - (not after)
    return runner(plan, **more)


def test_a_run_stopped_in_and_after_every_round_ends_like_one_in_one_go(
    runner: Runner, hydra_run: RunDir
) -> None:
    assert_equal_runs(stop_everywhere(runner, hydra_plan()), hydra_run)


def test_so_does_one_whose_rounds_go_on_with_their_last_head(runner: Runner, device: str) -> None:
    habits: dict[str, Any] = {"carry_head": "last", "select": "authors", "schedule": "authors"}

    def plan_with(seed: int) -> Plan:
        return plan_of(
            round_of("alpha", epochs=5, learning_rate=0.03, **habits),
            round_of("beta", "head", feature_dropout=True, carry_head="last"),
            round_of("beta", carry_head="last"),
            round_of("alpha", "head", epochs=5, learning_rate=0.03, carry_head="last"),
            bootstrap=3,
            seed=seed,
        )

    def last_is_best(run: RunDir) -> bool:
        first = run.path / "rounds" / "01-alpha-all"
        files = [first / f"{name}.safetensors" for name in ("head", "last-head")]
        return len({file.read_bytes() for file in files}) == 1

    # Where the last epoch is the best one, this shows nothing; devices round differently.
    for seed in range(5):
        whole = runner(plan_with(seed), f"whole-{seed}", device=device)
        if not last_is_best(whole):
            break
    assert not last_is_best(whole), "choose a rate at which the last epoch is not the best"
    assert_equal_runs(stop_everywhere(runner, plan_with(seed), device=device), whole)


def test_so_does_one_with_every_kind_of_augmentation(runner: Runner) -> None:
    wild = {"rotation": 180, "flips": ["vertical"], "shift": [3, 3], "scale": 0.2}
    values: dict[str, Any] = {"transforms": {**wild, "intensity": 0.3, "noise": 0.3}}
    plan = plan_of(
        round_of("alpha", augmentation="fixed", **values),
        round_of("alpha", "head", **values),
        test_views=3,
    )
    assert_equal_runs(stop_everywhere(runner, plan), runner(plan, "whole"))


@pytest.fixture
def environment(tmp_path: Path, data: Path, cache: Path) -> dict[str, str]:
    """For a process of its own that finds the stand-ins."""
    site = install_standin(tmp_path / "site")
    places = {"HYDRAKIT_DATA": str(data), "HYDRAKIT_CACHE": str(cache)}
    paths = os.pathsep.join([str(site), str(Path(__file__).parent)])
    return {**os.environ, **places, "PYTHONPATH": paths}


def test_a_killed_run_goes_on_to_the_same_weights(
    runner: Runner, tmp_path: Path, environment: dict[str, str]
) -> None:
    rounds = hydra_plan().rounds
    longer = [r.hyperparameters.model_copy(update={"epochs": 12}) for r in rounds]
    plan = hydra_plan(
        rounds=tuple(
            r.model_copy(update={"hyperparameters": h}) for r, h in zip(rounds, longer, strict=True)
        )
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    out = tmp_path / "run"
    arguments = ["run", "--plan", str(tmp_path / "plan.json"), "--out", str(out), "--device", "cpu"]
    with subprocess.Popen(
        [sys.executable, "-c", "from hydrakit.cli import main; main()", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        last = random.randint(1, 5)
        # Its last line; on a slow machine its epochs have lines of their own.
        done = re.compile(rf"round {last} of 7, \w+ \w+: val AUC ")
        assert any(done.match(line) for line in process.stderr)
        time.sleep(random.random() * 0.1)
        process.kill()
    assert RunDir(out).finished(last, plan.rounds[last - 1])
    assert process.wait() != 0, "killed too late: let the rounds last longer"
    assert_equal_runs(runner(plan), runner(plan, "whole"))


def test_a_finished_run_is_left_alone(runner: Runner, hydra_run: RunDir) -> None:
    copy = runner.folder / "copy"
    shutil.copytree(hydra_run.path, copy)
    before = tree(copy)
    again = runner(hydra_plan(), "copy", callbacks=[Stopper(1, after=False)])
    assert tree(copy) == before
    assert without_seconds(again) == without_seconds(hydra_run)


def test_a_report_that_was_not_written_any_more_is_written(
    runner: Runner, hydra_run: RunDir
) -> None:
    copy = runner.folder / "copy"
    shutil.copytree(hydra_run.path, copy)
    (copy / "report.html").unlink()
    again = runner(hydra_plan(), "copy")
    assert "</html>" in again.report_path.read_text()


def test_data_that_changed_stops_a_run_that_goes_on(
    tmp_path: Path, data: Path, cache: Path
) -> None:
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    runner = Runner(tmp_path, mine, cache)
    plan = plan_of(round_of("beta"), round_of("alpha"))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Stopper(1, after=True)])
    shutil.rmtree(mine / "beta")
    write_dataset(mine / "beta", seed=99)
    before = tree(tmp_path / "run")
    with pytest.raises(DataError, match=r"beta: the data has changed since the run in .*--out"):
        runner(plan)
    assert tree(tmp_path / "run") == before


def test_classes_and_splits_that_changed_stop_a_run_that_goes_on(
    runner: Runner, data: Path, cache: Path
) -> None:
    plan = plan_of(round_of("beta"), round_of("alpha"))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Stopper(1, after=True)])
    rundir = RunDir(runner.folder / "run")
    before = tree(rundir.path)
    first = {each.name: each for each in ADAPTERS}
    turned = replace(first["beta"], classes=("malignant", "benign"))
    with pytest.raises(DataError, match=r"beta: .*its classes were benign, malignant and are mal"):
        runner(plan, plugins=with_adapters(turned))
    assert tree(rundir.path) == before
    # Nor does a run go on without the record of its data.
    content = (rundir.path / "data.json").read_bytes()
    (rundir.path / "data.json").unlink()
    with pytest.raises(PlanError, match=r"data\.json: is missing"):
        runner(plan)
    (rundir.path / "data.json").write_bytes(content)
    assert runner(plan).results() is not None


def test_a_cohort_that_joins_patients_stops_a_run_that_goes_on(runner: Runner) -> None:
    """The same cases are in other splits."""

    def one_people(adapter: DatasetAdapter) -> DatasetAdapter:
        def read(root: Path, options: Any) -> Iterator[Sample | Unusable | Remark]:
            for case in adapter.read(root, options):
                assert isinstance(case, Sample)
                yield replace(case, patient=case.patient.rpartition("-")[2])

        return replace(adapter, read=read, version="one people")

    plan = plan_of(round_of("beta"), round_of("alpha"), strangers=True)
    shared = [one_people(each) for each in ADAPTERS if each.name in ("alpha", "beta")]
    with pytest.raises(StopError):
        runner(plan, callbacks=[Stopper(1, after=True)], plugins=with_adapters(*shared))
    before = tree(runner.folder / "run")
    cohort = [replace(each, cohort="ward") for each in shared]
    with pytest.raises(DataError, match=r"beta: the data has changed .*in other splits.*--out"):
        runner(plan, plugins=with_adapters(*cohort))
    assert tree(runner.folder / "run") == before


def with_adapters(*changed: DatasetAdapter) -> Plugins:
    names = {each.name: each for each in (*ADAPTERS, *changed)}
    base = plugins()
    return replace(base, components={**base.components, "dataset": names})


class Notes(RunCallback):
    """Collects what the user is told; stops a run after its first round."""

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)

    def finished(self, number: int, round: Round, result: RoundResult) -> None:
        if self.stop:
            raise StopError


def test_the_number_of_threads_stays_and_another_is_told(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(earlier, "processors", lambda: 2)
    plan = plan_of(round_of("beta"), round_of("alpha", "head"), round_of("alpha"))
    whole, before = runner(plan, "whole", threads=1), torch.get_num_threads()

    def go_on(name: str, *, default: int, **more: Any) -> tuple[RunDir, list[str]]:
        with pytest.raises(StopError):
            runner(plan, name, threads=1, callbacks=[Notes(stop=True)])
        torch.set_num_threads(default)
        try:
            notes = Notes(stop=False)
            return runner(plan, name, callbacks=[notes], **more), notes.notes
        finally:
            torch.set_num_threads(before)

    kept, told = go_on("kept", default=2)
    assert (kept.environment()["threads"], told) == (1, [])
    assert_equal_runs(kept, whole)
    other, told = go_on("other", default=2, threads=2)
    assert other.environment()["threads"] == 2
    assert len(told) == 1
    assert "threads 2 in place of 1" in told[0]
    assert "from round 2 on" in told[0]
    assert told[0] in (other.path / "log.txt").read_text()
    # A machine that cannot give as many says so, too.
    monkeypatch.setattr(earlier, "processors", lambda: 0)
    few, told = go_on("few", default=2)
    assert few.environment()["threads"] == 2
    assert any("threads 2 in place of 1" in note for note in told)


def test_a_run_goes_on_where_only_the_last_bits_of_a_shortcut_changed(
    runner: Runner, data: Path
) -> None:
    """An earlier version of hydrakit rounded the AUC of a shortcut otherwise."""
    plan = plan_of(round_of("beta"), round_of("alpha"))
    with pytest.raises(StopError):
        runner(plan, callbacks=[Stopper(1, after=True)])
    rundir = RunDir(runner.folder / "run")
    facts = rundir.facts()
    before = ShortcutFact(
        fact="width", class_name="malignant", auc=0.75, low=0.5, high=0.8, strong=False
    )
    rundir.write_facts(
        {name: each.model_copy(update={"shortcuts": (before,)}) for name, each in facts.items()}
    )
    assert runner(plan).results() is not None


# --- the same again, and nothing else touched


def test_two_runs_of_one_plan_are_equal_and_another_seed_is_not(
    runner: Runner, device: str
) -> None:
    plan = plan_of(round_of("beta"), round_of("alpha", "head"), round_of("alpha"), bootstrap=2)
    one, two = (runner(plan, name, device=device) for name in ("one", "two"))
    assert_equal_runs(one, two)
    other = runner(plan.model_copy(update={"seed": 1}), "other", device=device)
    for name in ("body.safetensors", "heads/alpha.safetensors", "predictions.csv"):
        assert (one.path / name).read_bytes() != (other.path / name).read_bytes()


def test_a_run_leaves_all_random_state_as_it_was(runner: Runner, device: str) -> None:
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002 - the state that must not be touched
    torch.manual_seed(3)
    states = [random.getstate(), torch.get_rng_state()]
    legacy = np.random.get_state()  # noqa: NPY002
    assert isinstance(legacy, tuple)
    on_device = torch.cuda.get_rng_state() if device == "cuda" else None
    plan = plan_of(round_of("beta", dropout=0.5), round_of("alpha", "head"), bootstrap=2)
    runner(plan, device=device)
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    now = np.random.get_state()  # noqa: NPY002
    assert isinstance(now, tuple)
    assert np.array_equal(now[1], legacy[1])
    assert now[2:] == legacy[2:]
    if on_device is not None:
        assert torch.equal(torch.cuda.get_rng_state(), on_device)


def test_the_state_before_a_run_does_not_matter(runner: Runner) -> None:
    plan = plan_of(round_of("alpha", dropout=0.5))
    one = runner(plan, "one")
    torch.manual_seed(77)
    torch.rand(5)
    assert_equal_runs(one, runner(plan, "two"))
