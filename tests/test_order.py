"""Finding supports and their order: every figure is a plain run's, and no test is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from helpers import (
    PoolBackwards,
    StopError,
    another_process,
    plugins,
    refused,
    run_plan,
    write_dataset,
)
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from hydrakit.cli import main
from hydrakit.data.load import select
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.prepared.prepare import prepare
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan import load_plan
from hydrakit.plan.grey import PER_PATIENT
from hydrakit.runs import earlier
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.rundir import RunDir
from hydrakit.search.order import (
    OrderCallback,
    OrderPlanner,
    OrderResult,
    OrderSearch,
    TriedOrder,
    _Search,
    count_orders,
    greedy,
    order,
    smallest_first,
)
from hydrakit.search.order_evaluator import OrderEvaluator
from hydrakit.stats.paired import sign_flip
from hydrakit.storage.paths import using_cache
from hydrakit.weights import load_model

SETTINGS = {
    "epochs": 2,
    "bootstrap": 1,
    "profile": "recommended-0.1",
    "body_channels": (2, 2, 2),
    "learning_rate": 3e-3,
    "epoch_size": 24,
}
SUPPORTS = ("beta", "gamma")
SEEDS = (5, 6)


@pytest.fixture(scope="module")
def places(data: Path, cache: Path) -> dict[str, Any]:
    return {"data": data, "cache": cache, "device": "cpu", "plugins": plugins()}


def found(
    out: Path, places: dict[str, Any], callback: OrderCallback | None = None, **more: Any
) -> OrderResult:
    search = OrderSearch(**({"seeds": 2, "seed": 5, "budget": 10, "settings": SETTINGS} | more))
    return order(SUPPORTS, "alpha", search, out=out, callback=callback, **places)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order") / "search"


@pytest.fixture(scope="module")
def whole(folder: Path, places: dict[str, Any]) -> OrderResult:
    return found(folder, places)


def poison(monkeypatch: pytest.MonkeyPatch, test: set[str]) -> None:
    """Make the patches of some cases of alpha unusable, for whoever looks at them."""
    clean = PreparedDataset.stored

    def poisoned(self: PreparedDataset, rows: Sequence[int]) -> NDArray[np.float32]:
        canvases = clean(self, rows)
        for canvas, row in zip(canvases, rows, strict=True):
            if self.index.dataset == "alpha" and self.index.cases[row].key in test:
                canvas[...] = float("nan")
        return canvases

    monkeypatch.setattr(PreparedDataset, "stored", poisoned)


@given(st.integers(0, 5))
def test_the_orders_are_all_orders_of_all_subsets(size: int) -> None:
    names = "abcde"[:size]
    subsets = chain.from_iterable(combinations(names, k) for k in range(size + 1))
    by_hand = [each for subset in subsets for each in permutations(subset)]
    listed = [order for stage in smallest_first(names) for order in stage]
    assert sorted(listed) == sorted(by_hand)
    assert [len(each) for each in listed] == sorted(len(each) for each in listed)
    assert count_orders(size) == len(by_hand)


@given(st.integers(1, 4), st.randoms(use_true_random=False))
def test_greedy_adds_the_best_support_and_tries_all_in_the_end(size: int, random: Any) -> None:
    names = "abcd"[:size]
    score = {each: random.random() for stage in smallest_first(names) for each in stage}
    given_so_far: list[tuple[str, ...]] = []

    def known(asked: tuple[str, ...]) -> float:
        assert asked in given_so_far, "an order's figure is asked for once it was tried"
        return score[asked]

    for stage in greedy(names, known):
        given_so_far.extend(stage)
    assert sorted(given_so_far) == sorted(score)
    best: tuple[str, ...] = ()
    expected = [best]
    while len(best) < size:
        longer = [(*best, name) for name in names if name not in best]
        expected += longer
        scores = [score[each] for each in longer]
        best = longer[scores.index(max(scores))]
    assert given_so_far[: len(expected)] == expected


def test_every_figure_is_that_of_a_plain_run(
    whole: OrderResult, folder: Path, places: dict[str, Any], tmp_path: Path
) -> None:
    assert [each.supports for each in whole.tried] == [
        (),
        ("beta",),
        ("gamma",),
        ("beta", "gamma"),
        ("gamma", "beta"),
    ]
    assert (whole.search, whole.possible, whole.finished) == ("every", 5, True)
    by_hand = {}
    for number, tried in enumerate(whole.tried):
        for seed in SEEDS[number % 2 :][:1]:  # one of the two
            name = f"{len(tried.supports)}-{'+'.join(tried.supports)}-seed{seed}"
            plan = RunDir(folder / "runs" / name).plan()
            names = dict.fromkeys(round.dataset for round in plan.rounds)
            assert tuple(names) == ("alpha", *tried.supports)
            assert (plan.seed, plan.split_seed) == (seed, 5)
            out = tmp_path / name
            alone = run_plan(plan, out, data=places["data"], cache=places["cache"], test=False)
            score = alone.round_result(len(plan.rounds), plan.rounds[-1]).val.auc
            assert tried.scores[SEEDS.index(seed)] == score
        assert tried.score == pytest.approx(sum(tried.scores) / 2)
        by_hand[tried.supports] = tried.score
    assert by_hand[whole.chosen] == max(by_hand.values())
    written = OrderResult.model_validate_json((folder / "order.json").read_bytes())
    assert written == whole
    best = load_plan(folder / "plan.json")
    assert tuple(dict.fromkeys(round.dataset for round in best.rounds)) == ("alpha", *whole.chosen)


def test_no_run_reads_the_test_split(whole: OrderResult, folder: Path) -> None:
    logs = list((folder / "runs").glob("*/events.jsonl"))
    assert len(logs) == 2 * len(whole.tried)
    assert not any("test read" in log.read_text() for log in logs)
    assert not list(folder.rglob("predictions.csv"))
    assert not list(folder.rglob("results.json"))


def test_equal_beginnings_are_trained_once(whole: OrderResult, folder: Path) -> None:
    events = [
        json.loads(line)["event"]
        for log in (folder / "runs").glob("*/events.jsonl")
        for line in log.read_text().splitlines()
    ]
    # By hand, for hydra with one seed: 1 + (1 + 2 + 2) + 5 + 7 + 7 rounds; of these are shared the
    # first round of four orders, and the support's two rounds of two.
    assert events.count("round shared") == 2 * (4 + 2 * 2)
    assert events.count("round done") == 2 * (1 + 5 + 5 + 7 + 7) - 2 * (4 + 2 * 2)


def test_leaving_a_support_out_is_told_from_predictions(
    folder: Path, places: dict[str, Any], whole: OrderResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDir(folder / "runs" / "2-beta+gamma-seed5")
    splits = run.splits()["alpha"]
    poison(monkeypatch, {key for key, split in splits.items() if split == "test"})
    maker = OrderPlanner("hydra", "alpha", SUPPORTS, 5, SETTINGS, places["plugins"])
    context = RunContext(data=places["data"], cache=places["cache"], device="cpu")
    judge = OrderEvaluator(
        folder=folder,
        plan=maker.plan,
        seeds=SEEDS,
        target=places["plugins"].get(DatasetAdapter, "alpha"),
        plugins=places["plugins"],
        context=context.for_search(folder / "rounds"),
        callback=RunCallback(),
    )
    with using_cache(places["cache"]):
        left_out = judge.left_out(("beta", "gamma"))
    assert [each.support for each in left_out] == ["beta", "gamma"]
    means = {each.supports: each.score for each in whole.tried}
    for each, without in zip(left_out, [("gamma",), ("beta",)], strict=True):
        assert each.score == pytest.approx(means[without])
        assert each.difference == pytest.approx(means["beta", "gamma"] - means[without], abs=1e-6)
        assert each.low is not None
        assert each.high is not None
        assert -1 <= each.low <= each.difference <= each.high <= 1
        assert each.effect == "cannot tell", "a handful of cases cannot tell"
    assert _auc_of(run, places) == pytest.approx(
        next(each.scores[0] for each in whole.tried if each.supports == ("beta", "gamma"))
    )
    with using_cache(places["cache"]):
        same = judge.score_table(("beta",))
    assert same.findings == tuple(sorted(key for key, split in splits.items() if split == "val"))
    assert sign_flip(same.scores[0] * 0) == 1


def _auc_of(run: RunDir, places: dict[str, Any]) -> float:
    """By scikit-learn, from the weights of a run's last round."""
    plan, last = run.plan(), run.plan().rounds[-1]
    folder = run.round_path(len(plan.rounds), last)
    model = load_model(folder / "body.safetensors", folder / "head.safetensors", plugins=plugins())
    prepared = prepare(
        plugins().get(DatasetAdapter, "alpha"),
        places["data"] / "alpha",
        options={},
        patch=plan.patch,
        cache=places["cache"],
    )
    keys = {key for key, split in run.splits()["alpha"].items() if split == "val"}
    cases = select(
        prepared,
        keys,
        task="classification",
        scale=None,
        grey=PER_PATIENT,
        patch=plan.patch,
        device=torch.device("cpu"),
    )
    with torch.no_grad():
        scores = model.eval()(cases.patches)
    return float(roc_auc_score(cases.labels, scores[:, 1] - scores[:, 0]))


def test_a_stopped_search_goes_on(
    whole: OrderResult, places: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(OrderCallback):
        def tried(self, order: TriedOrder, result: OrderResult) -> None:
            if len(result.tried) == 2:
                raise StopError

    with pytest.raises(StopError):
        found(tmp_path / "a", places, Stop(), seeds=1)
    begun = OrderResult.model_validate_json((tmp_path / "a" / "order.json").read_bytes())
    assert (len(begun.tried), begun.finished) == (2, False)
    again = found(tmp_path / "a", places, seeds=1)
    assert [each.scores for each in again.tried] == [each.scores[:1] for each in whole.tried]
    assert [each.seconds for each in again.tried[:2]] == [each.seconds for each in begun.tried]
    refused(lambda: found(tmp_path / "a", places, strategy="transfer"), "--out")


def test_runs_at_the_same_time_give_the_same_result(
    whole: OrderResult,
    standin: Path,
    places: dict[str, Any],
    pool_backwards: type[PoolBackwards],
    tmp_path: Path,
) -> None:
    out, threads = tmp_path / "search", torch.get_num_threads()
    launched = places | {"plugins": None, "jobs": 2, "threads": threads}
    pool_backwards.polls = 2  # after (gamma), before (beta)
    with pytest.raises(KeyboardInterrupt):
        found(out, launched, seeds=1, budget=3)
    begun = OrderResult.model_validate_json((out / "order.json").read_bytes())
    assert [each.supports for each in begun.tried] == [(), ("gamma",)]
    again = found(out, launched, seeds=1, budget=3)
    assert pool_backwards.most == 2
    assert [each.supports for each in again.tried] == [(), ("beta",), ("gamma",)]
    assert [each.scores for each in again.tried] == [each.scores[:1] for each in whole.tried[:3]]
    best = max(again.tried, key=lambda each: (each.score, -len(each.supports)))
    assert again.chosen == best.supports
    assert {each.name for each in (out / "runs").iterdir()} == {
        f"{name}-seed5" for name in ("0-", "1-beta", "1-gamma")
    }
    timed = found(out, launched, seeds=1, budget=None, minutes=1e-9)
    assert [each.supports for each in timed.tried] == [()]


def test_a_failed_run_of_a_search_is_named(
    standin: Path, places: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise PlanError("no room left")

    monkeypatch.setattr("hydrakit.engine.run_cell", fail)
    launched = places | {"plugins": None, "jobs": 2}
    refused(lambda: found(tmp_path / "a", launched), "0--seed5: no room left")


def test_too_many_orders_for_the_budget_are_searched_greedily(
    whole: OrderResult, places: dict[str, Any], folder: Path
) -> None:
    short = found(folder, places, budget=8)
    scores = {each.supports: each.score for each in whole.tried}
    first = max([("beta",), ("gamma",)], key=lambda each: scores[each])
    second = next(each for each in scores if len(each) == 2 and each[:1] == first)
    assert [each.supports for each in short.tried] == [(), ("beta",), ("gamma",), second]
    assert short.search == "greedy"
    assert {each.supports for each in short.earlier} == set(scores) - {
        each.supports for each in short.tried
    }
    timed = found(folder, places, budget=None, minutes=1e-9)
    assert [each.supports for each in timed.tried] == [()]
    assert timed.left_out == ()
    assert found(folder, places).tried == whole.tried, "what was tried is known"


def test_a_search_goes_on_with_the_same_data_and_as_many_threads(
    whole: OrderResult,
    folder: Path,
    places: dict[str, Any],
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(earlier, "processors", lambda: 64)
    copy = tmp_path / "search"
    shutil.copytree(folder, copy)
    path = copy / "order.json"
    path.write_text(whole.model_copy(update={"threads": 3}).model_dump_json())
    notes: list[str] = []

    class Told(OrderCallback):
        def noted(self, text: str) -> None:
            notes.append(text)

    again = found(copy, places, Told())  # nothing is left to train
    assert (again.threads, notes) == (3, [])
    assert again.tried == whole.tried
    found(copy, places | {"threads": 2}, Told())
    assert len(notes) == 1
    assert "used 3 CPU threads, and the others use 2" in notes[0]
    # The supports of the first order have changed, which it does not train on.
    mine = tmp_path / "data"
    shutil.copytree(data, mine)
    shutil.rmtree(mine / "gamma")
    write_dataset(mine / "gamma", seed=99)
    before = path.read_bytes()
    refused(lambda: found(copy, places | {"data": mine}, budget=20), "gamma: the data has changed")
    assert path.read_bytes() == before


def test_what_is_impossible_is_refused(places: dict[str, Any], tmp_path: Path) -> None:
    def tries(
        *words: str,
        supports: tuple[str, ...] = SUPPORTS,
        out: Path = tmp_path / "new",
        trace_test: bool = False,
        **more: Any,
    ) -> None:
        search = OrderSearch(settings=SETTINGS, **more)
        values = {**places, "out": out, "trace_test": trace_test}
        refused(lambda: order(supports, "alpha", search, **values), *words)

    tries("classical", "--strategy", strategy="classical")
    tries("no support", supports=("alpha",))
    tries("not enough", budget=1, seeds=2)
    tries("--seeds", seeds=0)
    tries("--minutes", minutes=0.0)
    tries("nowhere", supports=("beta", "nowhere"))
    tries("never reads the test split", trace_test=True)
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine.txt").write_text("mine")
    tries("--out", out=tmp_path)


def test_the_command_tells_what_was_tried_and_what_it_is_worth(standin: Path) -> None:
    small = [
        "--epochs",
        "1",
        "--bootstrap",
        "1",
        "--profile",
        "recommended-0.1",
        "--body-channels",
        "2,2,2",
        "--device",
        "cpu",
    ]
    arguments = ["order", "--datasets", "beta,gamma", "--target", "alpha", "--budget", "3", *small]
    result = CliRunner().invoke(main, [*arguments, "--out", "search"])
    assert result.exit_code == 0, result.output
    assert "3 of 5 orders tried in 3 runs (budget: 3 runs)" in result.stdout
    assert "too many orders for the budget" in result.stdout
    assert "random classifiers on these validation cases" in result.stdout
    assert result.stdout.count("chosen") == 1
    again = CliRunner().invoke(main, [*arguments, "--out", "search", "--json"])
    assert OrderResult.model_validate_json(again.stdout).finished
    missing = CliRunner().invoke(main, ["order", "--datasets", "beta"])
    assert missing.exit_code == 2
    assert "--target is needed" in missing.stderr


def test_one_search_at_a_time(tmp_path: Path) -> None:
    """Two in one folder would overwrite each other's order.json."""
    folder = tmp_path / "search"
    folder.mkdir()
    with another_process(folder) as pid:
        search = _Search(folder, Mock(), Mock(), OrderCallback(), None)
        refused(search.run, f"pid {pid} on ", str(folder))
