"""Building upon a trained model: runs that begin with it, heads that are added, and its lineage."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from helpers import BODY, Runner, StopError, adapter, plan_of, plugins, refused, round_of, tree

from hydrakit import weights
from hydrakit.cli import main
from hydrakit.maintenance.add_head import add_head
from hydrakit.plan import Plan
from hydrakit.plan.results import EpochRecord
from hydrakit.plan.settings import PlanSettings
from hydrakit.rounds import Round
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.model import find_model, load_model
from hydrakit.runs.rundir import RunDir
from hydrakit.runs.start import make_plan_from, networks_of, refuse_seen_images
from hydrakit.weights.description import read_model_description
from hydrakit.weights.format import TrainingCases, read_body, read_head

SETTINGS: dict[str, Any] = {
    "profile": "recommended-0.1",
    "epochs": 1,
    "bootstrap": 1,
    "splits": {"gamma": {"train": 6, "val": 2, "test": 2}},
}

SPLIT = {"alpha": {"train": 6, "val": 2, "test": 2}}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, data: Path, cache: Path) -> Runner:
    return Runner(tmp_path_factory.mktemp("upon"), data, cache)


@pytest.fixture(scope="module")
def begun(places: Runner) -> RunDir:
    """A run with two networks, whose head for beta does not belong to the final body."""
    return places(plan_of(round_of("beta"), round_of("alpha"), ensemble=2), "begun")


def from_run(run: RunDir, *datasets: str, strategy: str = "hydra", **values: Any) -> Plan:
    given = {**SETTINGS, "ensemble": 2, "splits": {}, **values}
    return make_plan_from(run.path, strategy, datasets, plugins=plugins(), **given)


def added(model: str | Path, dataset: str, places: Runner, name: str, **more: Any) -> Any:
    given: dict[str, Any] = {
        "run_out": places.folder / name,
        "settings": PlanSettings.model_validate(SETTINGS),
        "data": places.data,
        "cache": places.cache,
        "device": "cpu",
        "plugins": plugins(),
    }
    return add_head(model, dataset, **(given | more))


class Stop(RunCallback):
    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        raise StopError


def test_a_run_begins_with_the_networks_of_another_and_goes_on_without_it(
    begun: RunDir, places: Runner
) -> None:
    plan = from_run(begun, "beta", "gamma")
    assert plan.body == BODY
    assert set(plan.head_weights) == {"beta"}
    assert len(plan.member_weights) == 1
    assert plan.member(2).body_weights == plan.member_weights[0].body
    copy = places.folder / "copy"
    shutil.copytree(begun.path, copy)
    again = from_run(RunDir(copy), "beta", "gamma")
    assert again.digest() == plan.digest()
    assert again.model_copy(update={"head_weights": {}}).digest() != plan.digest()
    with pytest.raises(StopError):
        places(again, "upon", callbacks=[Stop()])
    shutil.rmtree(copy)
    upon = places(again, "upon")
    assert (upon.path / "start-heads" / "beta.safetensors").read_bytes() == begun.head_path(
        "beta"
    ).read_bytes()
    whole = places(plan, "whole")
    for name in ("body.safetensors", "heads/gamma.safetensors", "predictions.csv"):
        assert (upon.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert "Heads that began with given weights" in upon.report_path.read_text()


def test_a_network_begins_with_exactly_the_given_weights(begun: RunDir, places: Runner) -> None:
    plan = from_run(begun, "alpha", strategy="head", learning_rate=1e-12, splits=SPLIT)
    run = places(plan, "same")
    for ours, theirs in zip(run.networks(plan), begun.networks(begun.plan()), strict=True):
        assert read_body(ours.body_path).digest == read_body(theirs.body_path).digest
        head, before = (
            weights.load_head(each.head_path("alpha"), plugins=plugins()).state_dict()
            for each in (ours, theirs)
        )
        for name, tensor in head.items():
            torch.testing.assert_close(tensor, before[name])


def test_what_contradicts_the_model_is_refused_in_one_line(begun: RunDir) -> None:
    where = str(begun.path)
    refused(lambda: from_run(begun, "gamma", body="small"), where, "'paper'", "leave out")
    options = {"features": 9}
    refused(lambda: from_run(begun, "gamma", body_options=options), where, "'features'")
    refused(lambda: from_run(begun, "gamma", body_norm="group"), where, "'norm'")
    refused(lambda: from_run(begun, "beta", head="linear"), where, "head for 'beta' is mlp")
    refused(lambda: from_run(begun, "gamma", strategy="intensity"), where, "'intensity'")
    weights_file = begun.body_path
    refused(lambda: from_run(begun, "gamma", body_weights=weights_file), "--body-weights")
    assert from_run(begun, "gamma", body="paper", body_options={"features": 8}).body == BODY


def test_test_images_that_trained_the_given_weights_are_refused(
    begun: RunDir, places: Runner
) -> None:
    same = from_run(begun, "alpha", splits=SPLIT)
    places(same.model_copy(update={"ensemble": 1, "member_weights": ()}), "same-splits")
    other = from_run(begun, "alpha", seed=5)
    refused(lambda: places(other, "other-splits"), "test images of 'alpha'", "--split-seed")
    # The head alone has seen them, too.
    foreign = places(plan_of(round_of("gamma")), "foreign")
    head = {"alpha": other.head_weights["alpha"]}
    body = from_run(foreign, "alpha").body_weights
    mixed = other.model_copy(
        update={"body_weights": body, "head_weights": head, "member_weights": ()}
    )
    refused(lambda: places(mixed, "mixed"), "heads/alpha", "test images of 'alpha'")


def test_weights_of_the_same_cohort_are_named() -> None:
    trained = TrainingCases.of(["ab" * 32], {"gamma": "Ward 7", "beta": "Ward 7", "delta": "X"})
    start = SimpleNamespace(match=None, cases=trained, trained_on=("gamma",), seed=0)
    start.match = SimpleNamespace(file="body.safetensors")
    case = SimpleNamespace(key="c0", content="cd" * 32)
    prepared = SimpleNamespace(index=SimpleNamespace(cases=[case]))

    def notes(cohort: str | None) -> list[str]:
        return refuse_seen_images(
            *(start, {}, prepared, {"c0": "test"}),  # type: ignore[arg-type]
            adapter=replace(adapter("alpha"), cohort=cohort),
            seed=0,
            together=["alpha", "beta"],
        )

    (note,) = notes("Ward 7")
    assert "trained on 'gamma', of the same cohort 'Ward 7' as 'alpha'" in note
    assert notes("Y") == notes(None) == []


def test_a_stopped_command_adds_the_head_to_the_other_networks(
    begun: RunDir, places: Runner
) -> None:
    model = places.folder / "stopped"
    for number, network in enumerate((begun, *begun.members(begun.plan())), start=1):
        home = model if number == 1 else model / "members" / str(number)
        (home / "heads").mkdir(parents=True)
        shutil.copy(network.body_path, home / "body.safetensors")
        shutil.copy(network.head_path("alpha"), home / "heads/alpha.safetensors")
    added(model, "gamma", places, "stopped-run")
    whole = tree(model)
    (model / "heads/gamma.safetensors").unlink()  # a member has it already
    added(model, "gamma", places, "stopped-run")
    assert tree(model) == whole
    shutil.copy(model / "heads/gamma.safetensors", model / "heads/copy.safetensors")
    refused(lambda: networks_of(model), "is for the same dataset as", "keep one")


def test_a_head_is_added_to_a_copy_of_a_run(begun: RunDir, places: Runner) -> None:
    before, out = tree(begun.path), places.folder / "model"
    refused(lambda: added(begun.path, "gamma", places, "add"), str(begun.path), "`--out`")
    refused(lambda: added(begun.path, "alpha", places, "add", out=out), "has a head for 'alpha'")
    with pytest.raises(StopError):
        added(begun.path, "gamma", places, "add", out=out, callbacks=[Stop()])
    assert not out.exists()
    result = added(begun.path, "gamma", places, "add", out=out)
    assert tree(begun.path) == before
    assert result.left_out == ("beta",)
    for ours, theirs in ((out, begun.path), (out / "members/2", begun.path / "members/2")):
        for name in ("body.safetensors", "heads/alpha.safetensors"):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    for name in ("alpha", "gamma"):
        pairs = find_model(out, dataset=name).networks
        assert len(pairs) == 2
        for body, head in pairs:
            assert weights.mismatch(read_body(body), read_head(head)) is None
    model = load_model(out, dataset="gamma", plugins=plugins())
    assert model.classes == ("benign", "malignant")
    described, results = read_model_description(out), result.run.results()
    assert described is not None
    assert results is not None
    assert (described.made_by, described.target, described.networks) == ("run", "alpha", 2)
    assert set(described.expected) == {"alpha", "gamma"}
    assert described.expected["gamma"].value == pytest.approx(results.test.figures.auc)
    assert described.expected["gamma"].low == results.test.classes[0].low
    assert result.run.report_path.is_file()


def test_a_head_is_added_to_a_model_itself(
    begun: RunDir, places: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = places(plan_of(round_of("beta"), round_of("alpha")), "single")
    model = places.folder / "swapped"
    weights.swap(*run.weights(run.plan(), "alpha"), model, plugins=plugins())
    before = tree(model)
    command = ["heads", "add", str(model), "--dataset", "gamma", "--split", "gamma=6-2-2"]
    result = added(str(model), "gamma", places, "into")
    assert result.model == model
    after = tree(model)
    assert {path: after[path] for path in before} == before
    assert {Path(path).name for path in after.keys() - before.keys()} == {
        "gamma.safetensors",
        "model.json",
    }
    outcome = CliRunner().invoke(main, command)
    assert outcome.exit_code == 1
    assert "has a head for 'gamma' already" in outcome.stderr
    (model / "README.md").write_text("the model card of `export --to hub`")
    monkeypatch.setattr("hydrakit.maintenance.add_head.add_head", lambda *_, **__: result)
    outcome = CliRunner().invoke(main, command)
    assert outcome.exit_code == 0, outcome.output
    assert f"write the folder anew with `hydrakit export {model} --to hub" in outcome.stderr


def test_a_body_with_statistics_of_each_dataset_takes_no_further_head(places: Runner) -> None:
    body = BODY.model_copy(update={"norm": "dataset"})
    run = places(plan_of(round_of("alpha"), body=body), "norms")
    out = places.folder / "no"
    refused(lambda: added(run.path, "gamma", places, "norm", out=out), "separate statistics")


def test_the_chain_of_trainings_is_in_the_files_and_printed(begun: RunDir, places: Runner) -> None:
    first = read_body(begun.body_path)
    contents = {name: each.digest for name, each in (begun.facts() or {}).items()}
    assert (first.lineage, first.plan) == ((), begun.plan().digest())
    assert first.data == contents
    assert read_head(begun.head_path("beta")).plan == begun.plan().digest()
    second = read_body(begun.path / "members/2/body.safetensors")
    assert second.plan == begun.plan().member(2).digest()

    run = places(from_run(begun, "gamma", strategy="classical", ensemble=1), "child")
    child = read_body(run.body_path)
    assert child.lineage == first.chain
    assert (child.plan, set(child.data)) == (run.plan().digest(), {"gamma"})
    frozen = places(from_run(run, "alpha", strategy="head", ensemble=1, splits=SPLIT), "frozen")
    body = read_body(frozen.body_path)
    assert (body.digest, body.chain) == (child.digest, child.chain)
    assert read_head(frozen.head_path("alpha")).plan == frozen.plan().digest()
    printed = CliRunner().invoke(main, ["weights", "inspect", str(run.body_path)]).stdout
    line = next(line for line in printed.splitlines() if line.startswith("lineage:"))
    assert f"1. body {first.digest[:12]}: trained on alpha and beta by plan" in line
    assert f"2. body {child.digest[:12]}: trained on gamma by plan {child.plan[:12]}" in line


def call(*words: str) -> Any:
    outcome = CliRunner().invoke(main, list(words))
    assert outcome.exit_code == 0, outcome.output
    return outcome


def test_the_commands_begin_with_a_model_and_add_a_head(begun: RunDir, standin: Path) -> None:
    small = ["--profile", "recommended-0.1", "--epochs", "1"]
    given = ["--from", str(begun.path), "--strategy", "hydra", "--datasets", "beta,gamma", *small]
    printed = call("plan", *given, "--recentre", "--ensemble", "2").stdout
    plan = Plan.model_validate_json(printed)
    assert plan == from_run(begun, "beta", "gamma", bootstrap=None, recentre=True)
    assert plan.strategy_rounds == len(plan.rounds) - 1
    outcome = call("run", *given, "--recentre", "--out", "upon", "--device", "cpu")
    assert "the heads beta begin with given weights" in outcome.stderr
    assert RunDir(Path("upon")).plan().ensemble == 1
    alone = ["--strategy", "transfer", "--datasets", "beta,gamma", *small, "--recentre"]
    assert "--recentre adds no round" in call("plan", *alone).stderr

    add = ["heads", "add", str(begun.path), "--dataset", "gamma", "--split", "gamma=6-2-2"]
    outcome = call(*add, *small, "--out", "model", "--run-out", "training", "--device", "cpu")
    assert outcome.stdout.endswith("model:   model\n")
    assert "without the heads of beta" in outcome.stderr
    assert "gamma test: AUC" in outcome.stdout
    assert len(find_model(Path("model"), dataset="gamma").networks) == 2
