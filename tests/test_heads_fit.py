"""Each delivered head fits the body that it is used with, at the end of a run and later."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from helpers import Runner, plan_of, plugins, round_of

from hydrakit.cli import main
from hydrakit.maintenance.clean import clean
from hydrakit.maintenance.verify import verify
from hydrakit.plan import Plan
from hydrakit.runs.evaluate import evaluate_run
from hydrakit.runs.model import find_model, load_model
from hydrakit.runs.rundir import RunDir
from hydrakit.weights import mismatch
from hydrakit.weights.format import read_body, read_head

ROUNDS = (round_of("beta"), round_of("gamma"), round_of("alpha", "head"), round_of("alpha"))


def plan(*last: str, **changes: object) -> Plan:
    """Two supports, then the target, then head rounds on some of the supports."""
    rounds = (*ROUNDS, *(round_of(name, "head") for name in last))
    return plan_of(*rounds, **{"target": "alpha", "datasets": plan_of(*ROUNDS).datasets, **changes})


def fits(run: RunDir, dataset: str) -> bool:
    """Whether all networks of a model have a head that was trained on their body."""
    pairs = find_model(run.path, dataset=dataset).networks
    return all(mismatch(read_body(body), read_head(head)) is None for body, head in pairs)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Runner:
    return Runner(tmp_path_factory.mktemp("fit"), data, cache)


@pytest.fixture(scope="module")
def plain(places: Runner) -> RunDir:
    return places(plan(ensemble=2), "plain")


@pytest.fixture(scope="module")
def fitted(places: Runner) -> RunDir:
    return places(plan("beta", "gamma", ensemble=2), "fitted", trace_test=True)


def test_rounds_at_the_end_fit_all_heads_and_change_nothing_else(
    fitted: RunDir, plain: RunDir
) -> None:
    assert fitted.plan().strategy_rounds == 4
    title = "beta → gamma → alpha<"
    assert title in fitted.report_path.read_text("utf-8")
    for name in ("alpha", "beta", "gamma"):
        assert fits(fitted, name)
        bodies = [body for body, _ in find_model(fitted.path, dataset=name).networks]
        assert bodies == [each.body_path for each in fitted.networks(fitted.plan())]
    ours, theirs = fitted.results(), plain.results()
    assert ours is not None
    assert theirs is not None
    assert (ours.test, ours.transfer) == (theirs.test, theirs.transfer)
    assert (fitted.path / "predictions.csv").read_bytes() == (
        plain.path / "predictions.csv"
    ).read_bytes()
    assert read_body(fitted.body_path).digest == read_body(plain.body_path).digest
    assert ours.other_bodies == {}
    assert "Forgetting and transfer are measured before them" in fitted.report_path.read_text()
    # The test split is not looked at while nothing that it would show changes.
    traced = [bool(fitted.trace(n, r)) for n, r in enumerate(fitted.plan().rounds, start=1)]
    assert traced == [False, False, True, True, False, False]


def test_a_head_stays_with_the_body_that_it_was_trained_on(plain: RunDir, places: Runner) -> None:
    results = plain.results()
    assert results is not None
    assert results.other_bodies == {"beta": 1, "gamma": 2}
    assert "beta (round 1), gamma (round 2)" in plain.report_path.read_text()
    for name, folder in (("alpha", None), ("beta", "01-beta-all"), ("gamma", "02-gamma-all")):
        assert fits(plain, name)
        for network, (body, _) in zip(
            plain.networks(plain.plan()), find_model(plain.path, dataset=name).networks, strict=True
        ):
            expected = network.path / "rounds" / folder if folder else network.path
            assert body == expected / "body.safetensors"
    found = evaluate_run(
        plain.path,
        dataset="beta",
        split="val",
        data=places.data,
        cache=places.cache,
        device="cpu",
        plugins=plugins(),
    )
    assert any("the body of its last round" in note for note in found.notes)
    assert not any("trained on another body" in note for note in found.notes)


def test_what_a_head_needs_is_not_deleted_and_is_named(plain: RunDir) -> None:
    inspected = CliRunner().invoke(main, ["weights", "inspect", str(plain.head_path("beta"))])
    assert "belongs to the body of round 1" in inspected.stderr
    clean(plain.path, lambda _: True)
    assert verify(plain.path).damaged == ()
    assert all(fits(plain, name) for name in ("alpha", "beta", "gamma"))
    load_model(plain.path, dataset="beta", plugins=plugins())
    # An earlier version deleted them: the final body is used then, and its note says so.
    for network in plain.networks(plain.plan()):
        for path in network.path.glob("rounds/*/body.safetensors"):
            path.unlink()
    assert not fits(plain, "beta")
    assert find_model(plain.path, dataset="beta").networks[0][0] == plain.body_path
