"""Tuning: what it chooses is what loops by hand choose, from training data alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import (
    BODY,
    NAMES,
    StopError,
    load_dataset,
    plan_of,
    plugins,
    prepared_dataset,
    refused,
    round_of,
    run_plan,
)
from killing import Killing
from numpy.typing import NDArray

from hydrakit.cli import main
from hydrakit.data.load import LoadedDataset, load, select
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.quality.leakage import assign_splits
from hydrakit.errors import HydrakitError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.body import PaperBody
from hydrakit.models.heads import build_mlp
from hydrakit.plan import Other, Plan, Split, load_plan
from hydrakit.plan.grey import PER_PATIENT
from hydrakit.runs.callbacks import RunCallback
from hydrakit.search.trials import Setting, TrialRecord, folds_of
from hydrakit.search.tune import TuneCallback, TuneResult, TuningFiles, TuningSearch, tune
from hydrakit.storage import claims
from hydrakit.storage.lock import locked
from hydrakit.storage.records import read_appended
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import INITIALISATION, Seeds, seeded
from hydrakit.weights import load_body, load_head

RATES, DROPOUTS, FOLDS = (3e-3, 3e-2), (0.0, 0.4), 2
CPU = torch.device("cpu")


def small_plan(**changes: Any) -> Plan:
    """Three rounds: a body, a head on it, and both."""
    rounds = round_of("beta"), round_of("alpha", "head"), round_of("alpha")
    return plan_of(*rounds, seed=3, **changes)


@pytest.fixture(scope="module")
def places(data: Path, cache: Path) -> dict[str, Any]:
    return {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}


def tuned(
    out: Path,
    places: dict[str, Any],
    plan: Plan | None = None,
    callbacks: Sequence[RunCallback] = (),
    join: bool = False,
    **more: Any,
) -> TuneResult:
    values = {"learning_rates": RATES, "dropouts": DROPOUTS, "folds": FOLDS}
    search = TuningSearch(**(values | more))
    return tune(plan or small_plan(), out, search=search, callbacks=callbacks, join=join, **places)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, places: dict[str, Any]) -> TuneResult:
    return tuned(tmp_path_factory.mktemp("tuned") / "plan.json", places)


def figures(path: Path) -> list[dict[str, Any]]:
    """The trials of a file, without how long they took."""
    records = read_appended(path, TrialRecord, remedy="")
    return [each.model_dump(exclude={"seconds"}) for each in records]


def folds_by_hand(loaded: LoadedDataset, prepared: PreparedDataset) -> Iterator[LoadedDataset]:
    """The dataset restricted to each fold, as the tests below know its folds to be right."""
    adapter = plugins().get(DatasetAdapter, loaded.name)
    units = {case.key: case.patient for case in prepared.index.cases}
    yield from folds_of(loaded, prepared, adapter, units=units, count=FOLDS, seed=3)


def splits_of(plan: Plan, places: dict[str, Any]) -> dict[str, dict[str, str]]:
    names = [plan.target, *(each.name for each in plan.datasets if each.name != plan.target)]
    where = {"data": places["data"], "cache": places["cache"]}
    prepared = {name: prepared_dataset(name, **where) for name in names}
    return assign_splits(
        prepared,
        {name: plugins().get(DatasetAdapter, name) for name in names},
        splits={name: plan.dataset(name).split for name in names},
        seed=plan.effective_split_seed,
        copies="group",
        conflicts="keep",
    ).splits


def test_the_grid_is_what_loops_by_hand_find(
    whole: TuneResult, places: dict[str, Any], tmp_path: Path
) -> None:
    plan = whole.plan
    run = run_plan(plan, tmp_path / "run", data=places["data"], cache=places["cache"])
    splits = splits_of(plan, places)
    records = {
        (r["round"], r["learning_rate"], r["dropout"], r["fold"]): r
        for r in figures(whole.trials_path)
    }
    assert len(records) == 3 * len(RATES) * len(DROPOUTS) * FOLDS
    for number, round in enumerate(plan.rounds, start=1):
        seeds = Seeds(plan.seed, number)
        before = run.round_path(number - 1, plan.rounds[number - 2])
        with seeded(seeds.of(*((INITIALISATION, 0) if number == 1 else (INITIALISATION,))), CPU):
            body = PaperBody(BODY, in_channels=1, dropout=0.0)
            head = build_mlp(BODY.features, 2)
            if number > 1:
                body = load_body(before / "body.safetensors")
                with seeded(seeds.of(INITIALISATION), CPU):
                    head = build_mlp(BODY.features, 2)
            if number == 3:
                head = load_head(before / "head.safetensors", plugins=plugins())
        prepared = prepared_dataset(round.dataset, data=places["data"], cache=places["cache"])
        loaded = load(
            prepared,
            plugins().get(DatasetAdapter, round.dataset),
            splits=splits[round.dataset],
            patch=BODY.patch,
            device=CPU,
        )
        found: dict[tuple[float, float], list[float]] = {}
        for rate, dropout in product(RATES, DROPOUTS):
            for fold, part in enumerate(folds_by_hand(loaded, prepared)):
                changed = Setting(learning_rate=rate, dropout=dropout).apply_to(round)
                best = train_round(changed, deepcopy(body), deepcopy(head), part, seeds=seeds).best
                record = records[number, rate, dropout, fold]
                assert record["best_epoch"] == best.epoch
                assert record["score"] == pytest.approx(best.val.score, abs=1e-6)
                assert record["loss"] == pytest.approx(best.val.loss, abs=1e-4)
                found.setdefault((rate, dropout), []).append(best.val.score)
        highest = max(mean(scores) for scores in found.values())
        chosen = round.hyperparameters.learning_rate, round.hyperparameters.dropout
        assert mean(found[chosen]) == pytest.approx(highest, abs=1e-6)


def test_a_plan_keeps_all_but_what_was_tuned(whole: TuneResult) -> None:
    before, after = small_plan(), load_plan(whole.path)
    assert after == whole.plan
    assert after.strategy == before.strategy
    for old, new in zip(before.rounds, after.rounds, strict=True):
        chosen = {"learning_rate", "dropout"}
        kept = old.model_dump(exclude={"hyperparameters": chosen})
        assert new.model_dump(exclude={"hyperparameters": chosen}) == kept
        assert new.hyperparameters.learning_rate in RATES
        assert new.hyperparameters.dropout in DROPOUTS


def test_folds_share_out_the_training_patients_and_nothing_else(
    places: dict[str, Any],
) -> None:
    where = {"data": places["data"], "cache": places["cache"]}
    for name, count in product(NAMES, (2, 3, 5)):
        loaded, prepared = load_dataset(name, **where), prepared_dataset(name, **where)
        cases = {case.key: case for case in prepared.index.cases}
        train = {key for key, split in loaded.splits.items() if split == "train"}
        units = {key: case.patient for key, case in cases.items()}
        adapter = plugins().get(DatasetAdapter, name)
        folds = folds_of(loaded, prepared, adapter, units=units, count=count, seed=0)
        held = [{case.key for case in fold.val.cases} for fold in folds]
        assert sorted(key for keys in held for key in keys) == sorted(train), "each once"
        for fold, keys in zip(folds, held, strict=True):
            assert set(fold.splits) == train
            assert {key for key, split in fold.splits.items() if split == "val"} == keys
            assert len(fold.train) == len(train) - len(keys)
            patients = {cases[key].patient for key in keys}
            assert not patients & {cases[key].patient for key in train - keys}
            assert set(np.unique(fold.val.labels)) == {0, 1}
        refused(
            lambda loaded=loaded, prepared=prepared, adapter=adapter, units=units: folds_of(
                loaded, prepared, adapter, units=units, count=40, seed=0
            ),
            name,
            "--folds",
        )


def test_poisoned_test_cases_change_nothing(
    whole: TuneResult, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = {
        key for key, split in splits_of(small_plan(), places)["alpha"].items() if split == "test"
    }
    assert test
    clean = PreparedDataset.stored

    def poisoned(self: PreparedDataset, rows: Sequence[int]) -> NDArray[np.float32]:
        canvases = clean(self, rows)
        for canvas, row in zip(canvases, rows, strict=True):
            if self.index.dataset == "alpha" and self.index.cases[row].key in test:
                canvas[...] = float("nan")
        return canvases

    monkeypatch.setattr(PreparedDataset, "stored", poisoned)
    prepared = prepared_dataset("alpha", data=places["data"], cache=places["cache"])
    seen = select(
        prepared,
        test,
        task="classification",
        scale=None,
        grey=PER_PATIENT,
        patch=BODY.patch,
        device=CPU,
    )
    assert seen.patches.isnan().all(), "who looked at them would see it"
    again = tuned(tmp_path / "plan.json", places)
    assert again.plan == whole.plan
    assert figures(again.trials_path) == figures(whole.trials_path)
    assert not list(tmp_path.rglob("predictions.csv"))
    assert "test read" not in (tmp_path / "plan.tuning" / "events.jsonl").read_text()


@pytest.mark.parametrize("stop", [1, 5, 9])
def test_a_stopped_search_goes_on(
    whole: TuneResult, places: dict[str, Any], tmp_path: Path, stop: int
) -> None:
    out, seen = tmp_path / "plan.json", 0

    class Stop(TuneCallback):
        def trials(self, number: int, done: int, of: int) -> None:
            nonlocal seen
            seen += done > 0
            if seen == stop:
                raise StopError

    with pytest.raises(StopError):
        tuned(out, places, callbacks=[Stop()])
    assert not out.exists()
    lines = tmp_path / "plan.tuning.jsonl"
    before = lines.read_bytes()
    assert before.count(b"\n") == stop
    lines.write_bytes(before + b'{"digest": "torn')
    again = tuned(out, places)
    assert again.plan == whole.plan
    assert lines.read_bytes().startswith(before)
    assert figures(lines) == figures(whole.trials_path)


def test_what_was_tried_is_not_tried_again(places: dict[str, Any], tmp_path: Path) -> None:
    out, rounds = tmp_path / "plan.json", plan_of(round_of("beta"), round_of("alpha", "head"))
    first = tuned(out, places, rounds, learning_rates=(3e-3,))
    before = first.trials_path.read_bytes()
    assert before.count(b"\n") == 2 * 2 * FOLDS
    again = tuned(out, places, rounds, learning_rates=(3e-3,))
    assert (again.plan, again.trials_path.read_bytes()) == (first.plan, before)
    log = (tmp_path / "plan.tuning" / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log] == ["round", "round done", "round shared"]
    more = tuned(out, places, rounds, learning_rates=(3e-3,), dropouts=(*DROPOUTS, 0.2))
    assert more.trials_path.read_bytes().startswith(before)
    new = figures(more.trials_path)[2 * 2 * FOLDS :]
    assert {each["dropout"] for each in new if each["round"] == 1} == {0.2}


def test_a_rate_that_diverges_is_passed_over(places: dict[str, Any], tmp_path: Path) -> None:
    rounds = plan_of(round_of("beta"), round_of("alpha", "head"))
    result = tuned(tmp_path / "a.json", places, rounds, learning_rates=(1e38, 3e-3))
    for round, tuning in zip(result.plan.rounds, result.rounds, strict=True):
        assert round.hyperparameters.learning_rate == 3e-3
        assert [each.score is None for each in tuning.candidates] == [True, True, False, False]
    refused(
        lambda: tuned(tmp_path / "b.json", places, rounds, learning_rates=(1e38,)),
        "round 1",
        "--learning-rates",
    )


@pytest.mark.parametrize("select", ["averaged", "last", "smoothed"])
def test_heads_with_other_rules_are_tuned_one_by_one(
    places: dict[str, Any], tmp_path: Path, select: str
) -> None:
    rounds = plan_of(round_of("alpha", "none"), round_of("alpha", "head", select=select))
    result = tuned(tmp_path / "plan.json", places, rounds, learning_rates=(3e-3,))
    assert result.rounds[0].candidates == ()
    assert result.plan.rounds[0] == rounds.rounds[0]
    assert len(result.rounds[1].candidates) == 2


def test_rounds_of_several_datasets_and_norm_rounds_are_tuned(
    places: dict[str, Any], tmp_path: Path
) -> None:
    others = (Other(dataset="beta", head="beta"),)
    joint = round_of("alpha").model_copy(update={"others": others})
    plan = plan_of(joint, round_of("beta", "norm"), round_of("alpha", "head"))
    result = tuned(tmp_path / "plan.json", places, plan, dropouts=(0.0,))
    assert [len(each.candidates) for each in result.rounds] == [2, 2, 2]


def test_what_is_impossible_is_refused(
    places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tries(*words: str, **given: Any) -> None:
        refused(lambda: tuned(tmp_path / "plan.json", places, **given), *words)

    tries("--folds", folds=1)
    tries("learning_rate", learning_rates=(0.0,))
    tries("dropout", dropouts=(1.0,))
    tries("no learning rate", learning_rates=())
    tries("--trials", trials=3)
    tries("unknown search", method="random")
    monkeypatch.setitem(sys.modules, "optuna", None)
    tries("Optuna is not installed", "pip install", method="optuna")
    tries("--folds", "too few", folds=30)
    (tmp_path / "mine.json").write_text("{}")
    refused(lambda: tuned(tmp_path / "mine.json", places), "exists already")
    refused(lambda: tuned(tmp_path / "new.json", places | {"jobs": 2}), "`--jobs`", "`--join`")
    refused(lambda: tuned(tmp_path / "new.json", places | {"launcher": "ray"}), "`--launcher`")
    assert not list(tmp_path.glob("new*"))


def test_optuna_proposes_the_same_again(places: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    rounds = plan_of(round_of("beta"), round_of("alpha", "head"))
    first = tuned(tmp_path / "a.json", places, rounds, method="optuna", trials=6)
    settings = [each.setting for each in first.rounds[1].candidates]
    assert len(settings) == 6
    assert all(RATES[0] <= each.learning_rate <= RATES[1] for each in settings)
    assert all(DROPOUTS[0] <= each.dropout <= DROPOUTS[1] for each in settings)
    again = tuned(tmp_path / "b.json", places, rounds, method="optuna", trials=6)
    assert again.plan == first.plan
    more = tuned(tmp_path / "a.json", places, rounds, method="optuna", trials=8)
    assert [each.setting for each in more.rounds[0].candidates][:4] == [
        each.setting for each in first.rounds[0].candidates
    ][:4]


def test_who_shares_a_search_finds_what_one_finds(
    whole: TuneResult, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another joins after three trials, and leaves in the middle of its fifth; a third ends it."""
    out, began, written = tmp_path / "plan.json", 0, list[str]()
    real = TuningFiles.add_shared_trial

    def write(files: TuningFiles, record: TrialRecord) -> None:
        if len(written) == 8 and began == 2:
            raise StopError
        real(files, record)
        written.append(record.digest)

    class Others(TuneCallback):
        def trials(self, number: int, done: int, of: int) -> None:
            nonlocal began
            if began == 1 and done == 3:
                began = 2
                with pytest.raises(StopError):
                    tuned(out, places, join=True)
                assert len(written) == 8
                began = 3
                results.append(tuned(out, places, join=True))

    monkeypatch.setattr(TuningFiles, "add_shared_trial", write)
    results, began = list[TuneResult](), 1
    results.append(tuned(out, places, callbacks=[Others()], join=True))
    assert [each.plan for each in results] == [whole.plan] * 2
    assert figures(results[0].trials_path) == figures(whole.trials_path)
    assert len(set(written)) == len(written) == len(figures(whole.trials_path))
    folder = tmp_path / "plan.tuning"
    assert len(list((folder / "kept").iterdir())) == 2
    assert not list((folder / "members").iterdir())
    assert tuned(out, places).plan == whole.plan  # alone, and without another trial
    assert figures(results[0].trials_path) == figures(whole.trials_path)


MACHINE = """
import sys
from hydrakit.search import tune
from hydrakit.storage import claims

claims.BEAT, claims.LIMIT, claims.WAIT = 0.3, 15.0, 0.1
from hydrakit.cli import main

main(sys.argv[1:])
"""


@pytest.mark.slow
def test_processes_that_are_killed_lose_no_trial(tmp_path: Path, data: Path) -> None:
    arguments = [
        *("tune", "--strategy", "hydra", "--datasets", "alpha,beta,alpha", "--folds", "2"),
        *("--epochs", "4", "--bootstrap", "1", "--body-channels", "4,8", "--device", "cpu"),
        *("--profile", "recommended-0.1", "--learning-rates", "3e-3,3e-2", "--dropouts", "0,0.4"),
    ]
    killing = Killing(tmp_path, data, arguments, tmp_path / "cache")

    def start(name: str, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", MACHINE, *arguments, "--out", str(tmp_path / name), *more],
            env=killing.environment,
            stderr=subprocess.PIPE,
            text=True,
        )

    with start("alone.json") as alone:
        _, said = alone.communicate()
        assert alone.returncode == 0, said
    processes = [start("shared.json", "--join") for _ in range(3)]
    folder = tmp_path / "shared.tuning"
    while len(list(folder.glob("trials/*.json"))) < 3:
        time.sleep(0.01)
    processes[0].kill()
    for each in processes:
        _, said = each.communicate()
        assert each.returncode == (-signal.SIGKILL if each is processes[0] else 0), said
    assert load_plan(tmp_path / "shared.json") == load_plan(tmp_path / "alone.json")
    trials = figures(tmp_path / "alone.tuning.jsonl")
    assert figures(tmp_path / "shared.tuning.jsonl") == trials
    gone = sorted(path.read_text() for path in folder.glob("claims/members/*.gone"))
    taken = [path.read_text() for path in folder.glob("claims/trials-*")]
    print(f"{len(trials)} trials of 3 processes, one killed ({gone}), {len(taken)} claims")


def test_who_shares_another_search_or_none_is_refused(
    places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    rounds = plan_of(round_of("beta"), round_of("alpha", "head"))
    out = tmp_path / "plan.json"
    found: list[str] = []

    class Other(TuneCallback):
        def trials(self, number: int, done: int, of: int) -> None:
            if not found:
                for more in ({"join": True, "folds": 3}, {}):
                    with pytest.raises(HydrakitError) as caught:
                        tuned(out, places, rounds, **more)
                    found.append(str(caught.value))

    tuned(out, places, rounds, callbacks=[Other()], join=True, learning_rates=(3e-3,))
    assert "runs another search here" in found[0]
    assert "shares work here (--join)" in found[1]
    with locked(tmp_path / "plan.tuning"):
        refused(lambda: tuned(out, places, rounds, join=True), "does not share its work")


def test_optuna_proposes_to_all_who_share_what_it_proposes_to_one(
    places: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("optuna")
    rounds = plan_of(round_of("beta"), round_of("alpha", "head"))
    one = tuned(tmp_path / "a.json", places, rounds, method="optuna", trials=6)
    shared = tuned(tmp_path / "b.json", places, rounds, method="optuna", trials=6, join=True)
    assert shared.plan == one.plan
    assert figures(shared.trials_path) == figures(one.trials_path)


def test_the_command_writes_a_plan_that_runs(standin: Path) -> None:
    small = [
        "--epochs",
        "1",
        "--bootstrap",
        "1",
        "--profile",
        "recommended-0.1",
        "--body-channels",
        "2,2,2",
    ]
    arguments = ["tune", "--strategy", "hydra", "--datasets", "beta,alpha", *small, "--folds", "2"]
    values = ["--learning-rates", "1e-3,1e-2", "--dropouts", "0", "--out", "best.json"]
    result = CliRunner().invoke(main, [*arguments, *values, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert result.stdout.count("chosen") == 3
    assert "round 2 of 3, alpha head" in result.stdout
    assert "hydrakit run --plan best.json" in result.stdout
    plan = load_plan(Path("best.json"))
    assert plan.strategy == "hydra"
    assert plan.dataset("alpha").split == Split(train=8, val=1, test=1)
    run = CliRunner().invoke(main, ["run", "--plan", "best.json", "--device", "cpu"])
    assert run.exit_code == 0, run.output
    missing = CliRunner().invoke(main, arguments)
    assert missing.exit_code == 2
    assert "--out is needed" in missing.stderr
