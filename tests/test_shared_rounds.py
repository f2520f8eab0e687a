"""Rounds that runs have in common are trained once, and are what they would be without that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers import (
    BODY,
    SUPPORT,
    TARGET,
    Runner,
    plan_of,
    plugins,
    prepared_dataset,
    round_of,
    run_plan,
    tree,
    weights_of,
)

from hydrakit.compute.devices import choose_compute
from hydrakit.hooks import DatasetAdapter, Window
from hydrakit.plan import Dataset, Fold, Plan, Split
from hydrakit.plan.start import StartWeights
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.datasets import PlanDatasets
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.session import Session

FOLD = Split(train=8, val=2, fold=Fold(index=0, count=2))


def events(run: RunDir) -> list[str]:
    lines = (run.path / "events.jsonl").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def transfer_plan(**changes: Any) -> Plan:
    names = ("alpha", "beta", "alpha")
    return plan_of(*(round_of(name, head="shared") for name in names), **changes)


def hydra_plan(**changes: Any) -> Plan:
    return plan_of(
        round_of("alpha"), round_of("beta", "head"), round_of("beta"), round_of("alpha"), **changes
    )


@pytest.fixture
def key(data: Path, cache: Path, tmp_path: Path) -> Any:
    def key(plan: Plan, number: int = 1, rule: Any = "patient") -> str:
        names = [dataset.name for dataset in plan.datasets]
        datasets = PlanDatasets(
            {name: replace(plugins().get(DatasetAdapter, name), normalise=rule) for name in names},
            {name: data / name for name in names},
            {name: prepared_dataset(name, data=data, cache=cache) for name in names},
            plugins(),
            channels=1,
        )
        context, compute = RunContext(), choose_compute("cpu")
        session = Session(
            plan, datasets, context, compute, plugins(), RunDir(tmp_path), RunCallback()
        )
        return session.round_key(number)

    return key


def test_a_shared_run_has_the_very_files_of_one_alone(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "rounds"
    first = runner(hydra_plan(), "hydra", round_cache=shared)
    assert "round shared" not in events(first)
    assert len(list(shared.iterdir())) == 4

    second = runner(transfer_plan(), "transfer", round_cache=shared)
    alone = runner(transfer_plan(), "alone")
    assert events(second).count("round shared") == 1
    assert events(second).count("round") == 2
    assert weights_of(second.path) == weights_of(alone.path)
    for number, round in enumerate(transfer_plan().rounds, start=1):
        here = second.round_result(number, round)
        there = alone.round_result(number, round)
        assert here.model_copy(update={"seconds": 0}) == there.model_copy(update={"seconds": 0})
    assert len(list(shared.iterdir())) == 6


def test_a_whole_run_can_be_shared(runner: Runner, tmp_path: Path) -> None:
    shared = tmp_path / "rounds"
    one = runner(transfer_plan(), "one", round_cache=shared)
    before = weights_of(shared)
    two = runner(transfer_plan(), "two", round_cache=shared)
    assert events(two).count("round shared") == 3
    assert weights_of(one.path) == weights_of(two.path)
    assert weights_of(shared) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 1},
        {"seed": 0, "split_seed": 1},
        {"bootstrap": 2},
        {"bootstrap_rule": "halving", "bootstrap": 1},
        {"copies": "report"},
        {"head": "linear"},
        {"body": BODY.model_copy(update={"features": 4})},
        {"datasets": (Dataset(name="alpha", split=FOLD), Dataset(name="beta", split=SUPPORT))},
        {
            "datasets": (
                Dataset(name="alpha", split=TARGET, normalise="image"),
                Dataset(name="beta", split=SUPPORT),
            )
        },
    ],
    ids=",".join,
)
def test_what_decides_a_round_changes_its_key(key: Any, changes: dict[str, Any]) -> None:
    assert key(transfer_plan(**changes)) != key(transfer_plan())


def test_the_adapter_s_normalisation_changes_the_key(key: Any) -> None:
    keys = [key(transfer_plan(), rule=rule) for rule in ("patient", "image", "dataset", "none")]
    windows = [Window(window=(0, high)) for high in (1, 1.0000001)]
    assert len({*keys, *(key(transfer_plan(), rule=rule) for rule in windows)}) == 6


def test_folds_do_not_share(key: Any) -> None:
    def plan(index: int) -> Plan:
        split = Split(train=8, val=2, fold=Fold(index=index, count=2))
        datasets = (Dataset(name="alpha", split=split), Dataset(name="beta", split=SUPPORT))
        return transfer_plan(datasets=datasets, split_seed=0)

    assert key(plan(0)) == key(plan(0))
    assert key(plan(0)) != key(plan(1))


def test_another_target_gives_another_reference(key: Any) -> None:
    split = Split(train=6, val=2, test=2)
    datasets = tuple(Dataset(name=name, split=split) for name in ("alpha", "beta"))
    rounds = round_of("alpha"), round_of("beta"), round_of("alpha")
    one = plan_of(*rounds, datasets=datasets, split_seed=0)
    other = one.model_copy(update={"target": "beta"})
    assert key(one) != key(other)


def test_names_of_heads_and_what_comes_later_do_not_count(key: Any) -> None:
    assert key(transfer_plan()) == key(hydra_plan())
    assert key(transfer_plan(), 2) != key(hydra_plan(), 2)
    assert key(hydra_plan(), 1) != key(hydra_plan(), 2)
    changed = plan_of(round_of("alpha"), round_of("beta", epochs=3), round_of("alpha"))
    plain = plan_of(round_of("alpha"), round_of("beta"), round_of("alpha"))
    assert key(changed) == key(plain)
    assert [key(changed, n) == key(plain, n) for n in (2, 3)] == [False, False]


def test_a_head_of_its_own_is_not_one_that_goes_on(key: Any) -> None:
    """alpha, beta, alpha with one head, and with one per dataset, begin alike and then differ."""
    own = plan_of(*(round_of(name) for name in ("alpha", "beta", "alpha")))
    assert [key(own, n) == key(transfer_plan(), n) for n in (1, 2, 3)] == [True, False, False]


def test_a_part_left_behind_is_not_taken(runner: Runner, tmp_path: Path, key: Any) -> None:
    shared = tmp_path / "rounds"
    (shared / f"{key(transfer_plan())[:16]}-00.part").mkdir(parents=True)
    run = runner(transfer_plan(), round_cache=shared)
    assert "round shared" not in events(run)


def test_of_two_runs_that_train_one_round_at_once_the_first_keeps_it(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "rounds"
    runner(transfer_plan(), "first", round_cache=shared)
    before = tree(shared)
    monkeypatch.setattr(
        "hydrakit.runs.round_cache.load", lambda *_: False
    )  # as if it were not there yet
    second = runner(transfer_plan(), "second", round_cache=shared)
    assert "round shared" not in events(second)
    assert tree(shared) == before


def test_without_a_folder_nothing_is_shared(data: Path, cache: Path, tmp_path: Path) -> None:
    run = run_plan(transfer_plan(), tmp_path / "run", data=data, cache=cache)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
    assert "round shared" not in events(run)


def test_given_weights_of_a_head_change_the_rounds_that_train_it(key: Any) -> None:
    body, head = (StartWeights(file=name, sha256=name * 64) for name in "ab")
    without = hydra_plan(body_weights=body)
    assert without.body_weights is not None
    given = hydra_plan(body_weights=body, head_weights={"beta": head})
    moved = head.model_copy(update={"file": "elsewhere"})
    assert key(given) == key(without)  # the first round has another head
    assert key(given, 2) != key(without, 2)
    again = hydra_plan(body_weights=body, head_weights={"beta": moved})
    assert key(again, 2) == key(given, 2)
    fixed = body.model_copy(update={"channels": 1})
    assert key(hydra_plan(body_weights=fixed)) != key(without)
