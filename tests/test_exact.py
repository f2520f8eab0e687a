"""Heads that are solved exactly, the body without weights, and the baselines made of them."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    ADAPTERS,
    Runner,
    load_dataset,
    plan_of,
    round_of,
    weights_of,
)
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import nn

from hydrakit import weights
from hydrakit.compute.modules import only_layer
from hydrakit.errors import PlanError
from hydrakit.models.build import build_body, check_builds
from hydrakit.models.heads import build_linear, build_mlp
from hydrakit.plan import Component
from hydrakit.plan.model import OtherBody
from hydrakit.plan.profiles import make_plan
from hydrakit.plugins import load_plugins
from hydrakit.runs.rundir import RunDir
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds

INTENSITY = OtherBody(name="intensity", options={"patch": 16})
EXACT = partial(round_of, train="head", solver="exact", augmentation="none")


def test_only_layer_is_a_single_linear_layer_with_a_bias() -> None:
    assert only_layer(build_linear(5, 2)) is not None
    assert only_layer(nn.Linear(5, 2)) is not None
    assert only_layer(build_mlp(5, 2)) is None
    assert only_layer(nn.Linear(5, 2, bias=False)) is None
    assert only_layer(nn.Sequential(nn.Linear(5, 2), nn.Tanh())) is None
    assert only_layer(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2))) is None


def test_an_exact_round_is_the_regression_of_scikit_learn(data: Path, cache: Path) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    torch.manual_seed(0)
    plugins = load_plugins()
    body = build_body(plan_of(EXACT("alpha")).body, in_channels=1, datasets=(), plugins=plugins)
    head = build_linear(body.features, 2)
    before = {name: each.clone() for name, each in body.state_dict().items()}
    result = train_round(EXACT("alpha", penalty=2.0), body, head, loaded, seeds=Seeds(0, 1))
    assert result.penalty == 2.0
    assert [each.epoch for each in result.epochs] == [1]
    for name, each in body.state_dict().items():
        assert torch.equal(each, before[name])
    body.eval()
    with torch.no_grad():
        features = body(loaded.train.unaugmented(loaded.patch)).double().numpy()
        val = body(loaded.val.patches)
        found = torch.softmax(head(val).double(), dim=1).numpy()
    scaler = StandardScaler().fit(features)
    oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=100_000)
    oracle.fit(scaler.transform(features), loaded.train_labels.numpy())
    expected = oracle.predict_proba(scaler.transform(val.double().numpy()))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_an_exact_round_cannot_be_is_refused_before_training() -> None:
    with pytest.raises(ValidationError, match="'exact' is for rounds that train the head alone"):
        round_of("alpha", solver="exact")
    adapters = {"alpha": ADAPTERS[0]}
    check = partial(check_builds, adapters=adapters, in_channels=1, plugins=load_plugins())
    mlp, linear = Component(name="mlp"), Component(name="linear")
    check(plan_of(EXACT("alpha"), head=linear))
    with pytest.raises(PlanError, match="head 'mlp' of 'alpha' is not one linear layer"):
        check(plan_of(EXACT("alpha"), head=mlp))
    with pytest.raises(PlanError, match="'penalty' has no effect in this plan"):
        check(plan_of(round_of("alpha", penalty=1.0), head=linear))


def test_the_plans_of_baselines_replace_body_and_head(standin: Path) -> None:
    given = {"body_channels": (4,), "head_options": {"hidden": (8,)}, "bootstrap": 30}
    plan = make_plan("intensity", ["alpha", "beta"], **given)
    assert (plan.body.name, plan.patch, plan.head.name) == ("intensity", 65, "linear")
    assert (plan.bootstrap, [each.name for each in plan.datasets]) == (1, ["beta"])
    plan = make_plan("probe", ["alpha", "beta"], **given)
    assert (plan.body.channels, plan.head.options, plan.bootstrap) == ((4,), {}, 1)  # type: ignore[union-attr]


def test_a_body_without_weights_goes_through_a_whole_run(runner: Runner) -> None:
    plan = plan_of(
        round_of("alpha", epochs=2),
        round_of("beta", "head", epochs=2),
        round_of("beta", "norm", epochs=2),
        EXACT("alpha"),
        body=INTENSITY,
        head=Component(name="linear"),
    )
    run = runner(plan, "run")
    results = run.results()
    assert results is not None
    assert [each.penalty is None for each in results.rounds] == [True, True, True, False]
    before = weights_of(run.path)
    body = weights.load_body(run.body_path)
    assert (body.features, list(body.state_dict())) == (11, [])
    for name in ("results.json", "files.json", "predictions.csv"):
        (run.path / name).unlink()
    for folder in run.round_folders()[1:]:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    assert weights_of(runner(plan, "run").path) == before


def test_a_run_says_what_a_regression_would_do(hydra_run: RunDir, data: Path, cache: Path) -> None:
    results = hydra_run.results()
    assert results is not None
    baseline = results.baseline
    assert baseline is not None
    assert (baseline.numbers, baseline.reason) == (11, None)
    assert baseline.test is not None
    assert baseline.test.findings == results.test.findings
    readings = [each for each in hydra_run.events() if each.event == "test read"]
    assert len(readings) == 1
    page = hydra_run.report_path.read_text()
    assert "a logistic regression on 11 intensities" in page
    assert f"has AUC {baseline.test.classes[0].auc:.3f}" in page
    no_better = baseline.test.figures.score >= results.test.figures.score
    assert ("On these findings the network is no better." in page) == no_better
    assert "A single split does not show which is better" in page


def test_a_run_of_an_older_version_has_no_baseline(hydra_run: RunDir, tmp_path: Path) -> None:
    content = json.loads(hydra_run.results_path.read_text())
    del content["baseline"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    results = RunDir(tmp_path).results()
    assert results is not None
    assert results.baseline is None
