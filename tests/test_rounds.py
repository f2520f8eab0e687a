"""Rounds of other kinds: the norm alone, nothing, and several datasets together."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import (
    BODY,
    Runner,
    adapter,
    hydra_plan,
    load_dataset,
    plan_of,
    plugins,
    refused,
    round_of,
    weights_of,
)
from torch import nn

from hydrakit.compute.devices import Compute
from hydrakit.data.load import LoadedDataset
from hydrakit.models.body import BodyWithHead, PaperBody
from hydrakit.models.heads import build_mlp
from hydrakit.plan import Other, Round
from hydrakit.plan.results import RoundResult
from hydrakit.runs.rundir import TRACE
from hydrakit.stats.tasks import loss_of
from hydrakit.training.batch_norm import refresh_statistics
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.epochs import MultiTaskEpoch
from hydrakit.training.evaluation import Evaluator
from hydrakit.training.loop import TrainingResult, train_round
from hydrakit.training.seeds import Seeds
from hydrakit.weights import load_model

SEEDS = Seeds(3, 1)


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


@pytest.fixture
def beta(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("beta", data=data, cache=cache)


def network(**spec: Any) -> tuple[PaperBody, nn.Module, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        body = PaperBody(BODY.model_copy(update=spec), in_channels=1, dropout=0.0)
        body(torch.randn(8, 1, BODY.patch, BODY.patch))
        return body, build_mlp(BODY.features, 2), build_mlp(BODY.features, 2)


def changed(before: dict[str, torch.Tensor], body: PaperBody) -> set[str]:
    return {name for name, each in body.state_dict().items() if not torch.equal(each, before[name])}


def test_a_norm_round_changes_the_norms_and_nothing_else_of_the_body(alpha: LoadedDataset) -> None:
    body, head, _ = network()
    before, old = deepcopy(body.state_dict()), deepcopy(head.state_dict())
    train_round(round_of("alpha", "norm"), body, head, alpha, seeds=SEEDS)
    assert changed(before, body) == {name for name in before if ".norm" in name}
    assert not torch.equal(old["logits.weight"], head.state_dict()["logits.weight"])
    train_round(round_of("alpha"), body, head, alpha, seeds=SEEDS)
    assert changed(before, body) == set(before), "the next round trains all again"


def test_a_round_that_trains_nothing_tells_how_the_network_does(alpha: LoadedDataset) -> None:
    body, head, _ = network()
    before = deepcopy(body.state_dict())
    trained = train_round(round_of("alpha", "none"), body, head, alpha, seeds=SEEDS)
    assert changed(before, body) == set()
    assert [epoch.epoch for epoch in trained.epochs] == [0]
    assert trained.best.val == Evaluator(body, head, alpha.val, None, "cross-entropy")()[0]


def test_a_run_that_trains_nothing_has_results_and_a_report(runner: Runner) -> None:
    run = runner(plan_of(round_of("alpha", "none"), bootstrap=3), trace_test=True)
    (only,) = run.results().rounds
    assert (only.epochs, only.best_epoch) == (0, 0)
    assert run.results().test.figures.auc == pytest.approx(
        run.trace(1, run.plan().rounds[0])[0].test_auc
    )
    assert "Test AUC of alpha after every epoch" in run.report_path.read_text()


def together(mix: str, **changes: Any) -> Round:
    others = (Other(dataset="beta", head="beta"),)
    return round_of("alpha", **changes).model_copy(update={"others": others, "mix": mix})


def train_together(
    mix: str, alpha: LoadedDataset, beta: LoadedDataset, *, epochs: int = 3, **spec: Any
) -> tuple[TrainingResult, PaperBody, nn.Module, nn.Module]:
    body, head, other = network(**spec)
    trained = train_round(
        together(mix, epochs=epochs, select="last"),
        body,
        head,
        alpha,
        seeds=SEEDS,
        others=[(other, beta)],
    )
    return trained, body, head, other


def test_a_mixed_batch_updates_as_the_joint_loss_says(
    alpha: LoadedDataset, beta: LoadedDataset
) -> None:
    body, head, other = network()
    round = together("batch", dropout=0.0, batch_size=10_000, learning_rate=1e-2)
    parts = [
        (each, TrainingExamples(data, round.hyperparameters, SEEDS, fixed=False))
        for each, data in ((head, alpha), (other, beta))
    ]
    twins = deepcopy((body, head, other))
    multi_task = MultiTaskEpoch(
        body, parts, round, seeds=SEEDS, compute=Compute(torch.device("cpu"))
    )
    multi_task.epoch(1)
    # One step on everything: by hand, over both datasets' examples at once.
    batches = [next(iter(each.batches(1, 1))) for _, each in parts]
    twin, one, two = twins
    features = twin.train()(torch.cat([images for images, _ in batches]))
    sizes = [len(labels) for _, labels in batches]
    found = [h(f) for h, f in zip((one, two), features.split(sizes), strict=True)]
    losses = [
        loss_of(o, labels, task="classification", loss="cross-entropy") * len(labels)
        for o, (_, labels) in zip(found, batches, strict=True)
    ]
    (sum(losses) / sum(sizes)).backward()
    optimiser = torch.optim.AdamW(
        [*twin.parameters(), *one.parameters(), *two.parameters()], lr=1e-2, weight_decay=0.0
    )
    optimiser.step()
    for ours, theirs in ((body, twin), (head, one), (other, two)):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_the_reference_head_is_that_of_the_target(runner: Runner) -> None:
    run = runner(plan_of(together("batch", epochs=2), round_of("alpha", "none")))
    results = run.results()
    assert results is not None
    _, unchanged = results.rounds  # body and head are those of the first round
    assert unchanged.reference_auc == unchanged.val.auc


@pytest.mark.parametrize("mix", ["batch", "epoch"])
def test_all_heads_of_a_round_are_trained(
    alpha: LoadedDataset, beta: LoadedDataset, mix: str
) -> None:
    _, head, other = network()
    trained, *_, after, last = train_together(mix, alpha, beta, epochs=8)
    for old, new in ((head, after), (other, last)):
        assert not torch.equal(old.state_dict()["logits.weight"], new.state_dict()["logits.weight"])
    drawn = {epoch.dataset for epoch in trained.epochs}
    assert drawn == ({"alpha", "beta"} if mix == "epoch" else {None})
    again, *_ = train_together(mix, alpha, beta, epochs=8)
    assert again.epochs == trained.epochs


def test_statistics_of_each_dataset_are_kept_apart(
    alpha: LoadedDataset, beta: LoadedDataset
) -> None:
    spec = {"norm": "dataset", "datasets": ("alpha", "beta")}
    body, head, _ = network(**spec)
    norm = body.blocks[0].norm1
    train_round(round_of("beta"), body, head, beta, seeds=SEEDS)
    ours = norm.running_mean.clone()
    train_round(round_of("alpha"), body, head, alpha, seeds=SEEDS)
    assert torch.equal(norm.running_mean[1], ours[1])
    assert not torch.equal(norm.running_mean[0], ours[0])
    body.eval()
    images = alpha.val.patches
    body.use("alpha")
    one = body(images)
    plain = nn.BatchNorm2d(len(ours[0])).eval()
    plain.load_state_dict(
        {
            "weight": norm.weight,
            "bias": norm.bias,
            "running_mean": norm.running_mean[0],
            "running_var": norm.running_var[0],
            "num_batches_tracked": torch.tensor(0),
        }
    )
    maps = body.blocks[0].conv1(images)
    torch.testing.assert_close(norm(maps), plain(maps))
    body.use("beta")
    assert not torch.equal(one, body(images))
    with pytest.raises(ValueError, match="statistics of alpha, beta, not of 'gamma'"):
        body.use("gamma")


@pytest.mark.parametrize("norm", ["group", "dataset"])
def test_runs_with_other_norms_resume_and_load(runner: Runner, norm: str) -> None:
    plan = hydra_plan()
    plan = plan.model_copy(update={"body": plan.body.model_copy(update={"norm": norm})})
    run = runner(plan)
    model = load_model(run.body_path, run.head_path("alpha"))
    assert isinstance(model, BodyWithHead)
    if norm == "dataset":
        assert model.body.spec.datasets == tuple(each.name for each in plan.datasets)
        norms = [m for n, m in model.body.named_modules() if n.endswith("norm1")]
        assert {each.active for each in norms} == {list(model.body.spec.datasets).index("alpha")}
    (run.path / "results.json").unlink()
    before = weights_of(run.path)
    for folder in sorted((run.path / "rounds").iterdir())[3:]:
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert weights_of(runner(plan).path) == before


@pytest.mark.parametrize("mix", ["batch", "epoch"])
def test_a_run_over_several_datasets_at_once_resumes_and_keeps_every_head(
    runner: Runner, mix: str
) -> None:
    plan = plan_of(together(mix), round_of("alpha", "head"))
    run = runner(plan)
    assert {path.stem for path in (run.path / "heads").iterdir()} == {"alpha", "beta"}
    result = RoundResult.model_validate_json(
        (run.path / "rounds" / "01-alpha-all" / "round.json").read_bytes()
    )
    assert set(result.heads) == {"alpha", "beta"}
    assert result.heads["alpha"] == result.val
    again = runner(plan, "again")
    assert weights_of(again.path) == weights_of(run.path)


def test_an_epoch_of_a_large_dataset_holds_a_part_and_another_one_next(
    alpha: LoadedDataset,
) -> None:
    settings = round_of("alpha", epoch_size=8).hyperparameters
    examples = TrainingExamples(alpha, settings, SEEDS, fixed=False)
    assert len(examples) == 8
    drawn = []
    for epoch in (1, 2):
        assert sum(len(labels) for _, labels in examples.batches(epoch)) == 8
        drawn.append(set(examples.rows.tolist()))
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(("size", "expected"), [(8, 8), (28, 28), (100, 112), (None, 28)])
def test_an_epoch_of_a_small_dataset_is_filled_with_further_views(
    alpha: LoadedDataset, size: int | None, expected: int
) -> None:
    assert torch.bincount(alpha.train_labels).tolist() == [14, 14]
    settings = round_of("alpha", epoch_size=size, fill_epochs=True).hyperparameters
    examples = TrainingExamples(alpha, settings, SEEDS, fixed=False)
    assert len(examples) == expected
    for _ in examples.batches(1):
        pass
    counts = torch.bincount(examples.rows)
    assert int(counts.sum()) == expected
    assert set(counts[counts > 0].tolist()) == {max(1, expected // 28)}
    assert examples.views is not None
    assert len(set(examples.views.angle.tolist())) == expected  # no view is used twice


def test_each_round_tells_every_head_so_far_and_how_far_the_body_moved(runner: Runner) -> None:
    run = runner(hydra_plan())
    results = run.results()
    assert results is not None
    seen = [set(each.heads) for each in results.rounds]
    assert seen[0] == {"alpha"}
    assert seen[1] == seen[2] == {"alpha", "beta"}
    assert seen[3] == seen[-1] == {"alpha", "beta", "gamma"}
    for each in results.rounds:
        assert each.heads[each.dataset].auc == pytest.approx(each.val.auc)
        assert each.moved is not None
        parts = [each.moved.convolutions, each.moved.dense, each.moved.scales]
        if each.train == "head":
            assert [*parts, each.moved.statistics] == [0, 0, 0, 0]
        else:
            assert min(parts) > 0
            assert each.moved.statistics is not None
            assert each.moved.statistics > 0
    # What a head round leaves of the body, the heads of the others see unchanged.
    first, second = results.rounds[2], results.rounds[3]
    assert second.heads["alpha"].auc == pytest.approx(first.heads["alpha"].auc)


def test_tracing_the_test_changes_nothing_and_is_noted(runner: Runner) -> None:
    plain, traced = runner(hydra_plan(), "plain"), runner(hydra_plan(), "traced", trace_test=True)
    assert weights_of(plain.path) == weights_of(traced.path)
    readings = [
        [
            line
            for line in (run.path / "events.jsonl").read_text().splitlines()
            if "test read" in line
        ]
        for run in (plain, traced)
    ]
    epochs = sum(len(traced.epochs(n, r)) for n, r in enumerate(hydra_plan().rounds, start=1))
    assert (len(readings[0]), len(readings[1])) == (1, 1 + epochs)
    assert not list(plain.path.rglob(TRACE))
    points = traced.trace(7, hydra_plan().rounds[6])
    best = traced.round_result(7, hydra_plan().rounds[6]).best_epoch
    results = traced.results()
    assert results is not None
    assert points[best - 1].test_auc == pytest.approx(results.test.figures.auc)


def test_one_head_for_classes_in_two_orders_is_refused(runner: Runner) -> None:
    base = plugins()
    turned = replace(adapter("beta"), classes=("malignant", "benign"))
    names = {**base.components["dataset"], "beta": turned}
    other = replace(base, components={**base.components, "dataset": names})
    plan = plan_of(round_of("beta", head="shared"), round_of("alpha", head="shared"))
    words = ["'shared'", "'beta' (classification: malignant, benign)", "'alpha'", "into one order"]
    refused(lambda: runner(plan, plugins=other), *words)
    assert not (runner.folder / "run").exists()


def patches_of(data: LoadedDataset) -> torch.Tensor:
    return data.train.unaugmented(data.patch)


def norms_of(body: PaperBody) -> list[nn.BatchNorm2d]:
    return [module for module in body.modules() if isinstance(module, nn.BatchNorm2d)]


def test_new_statistics_are_those_of_torch(
    alpha: LoadedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hydrakit.training.batch_norm.BATCH", 7)
    body, _, _ = network()
    twin = deepcopy(body)
    for layer in (each for each in body.modules() if isinstance(each, nn.Dropout)):
        layer.p = 0.9  # has no effect: statistics are used without dropout
    assert refresh_statistics(body, [(nn.Identity(), alpha)], SEEDS)
    # torch.optim.swa_utils, over the same batches
    order = torch.randperm(len(alpha.train_labels), generator=SEEDS.generator(3))
    batches = [patches_of(alpha)[rows] for rows in order.tensor_split(-(-len(order) // 7))]
    assert len(batches) > 1
    torch.optim.swa_utils.update_bn(batches, twin)
    for ours, theirs in zip(norms_of(body), norms_of(twin), strict=True):
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)
        assert ours.momentum == theirs.momentum == 0.1
    assert not body.training


def test_new_statistics_of_each_dataset_are_those_of_its_patches(
    alpha: LoadedDataset, beta: LoadedDataset
) -> None:
    body, _, _ = network(norm="dataset", datasets=("alpha", "beta", "gamma"))
    before = deepcopy(body.state_dict())
    assert refresh_statistics(body, [(nn.Identity(), each) for each in (alpha, beta)], SEEDS)
    for number, data in enumerate((alpha, beta)):
        first = body.blocks[0]
        maps = first.conv1(patches_of(data)).detach()
        torch.testing.assert_close(
            first.norm1.running_mean[number], maps.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(
            first.norm1.running_var[number], maps.transpose(0, 1).flatten(1).var(dim=1)
        )
    for name, tensor in body.state_dict().items():
        if "running" in name:
            assert torch.equal(tensor[2], before[name][2]), "gamma is not in the round"


def test_several_datasets_without_statistics_of_their_own_share_the_new_ones(
    alpha: LoadedDataset, beta: LoadedDataset
) -> None:
    body, _, _ = network()
    assert refresh_statistics(body, [(nn.Identity(), each) for each in (alpha, beta)], SEEDS)
    maps = body.blocks[0].conv1(torch.cat([patches_of(alpha), patches_of(beta)])).detach()
    mean = maps.mean(dim=(0, 2, 3))
    torch.testing.assert_close(norms_of(body)[0].running_mean, mean, atol=1e-5, rtol=1e-4)


def test_a_body_without_batch_norm_has_no_statistics(alpha: LoadedDataset) -> None:
    body, _, _ = network(norm="group")
    before = deepcopy(body.state_dict())
    assert not refresh_statistics(body, [(nn.Identity(), alpha)], SEEDS)
    assert changed(before, body) == set()


@pytest.mark.parametrize("select", ["averaged", "best"])
def test_the_figures_of_a_round_are_those_with_the_new_statistics(
    alpha: LoadedDataset, select: str
) -> None:
    results = {}
    for refresh in (False, True):
        body, head, _ = network()
        round = round_of("alpha", epochs=3, select=select, window=2, refresh_statistics=refresh)
        trained = train_round(round, body, head, alpha, seeds=SEEDS)
        assert trained.best.val == Evaluator(body, head, alpha.val, None, "cross-entropy")()[0]
        results[refresh] = (
            trained,
            {name: each for name, each in body.state_dict().items() if "running" not in name},
        )
    (before, weights), (after, same) = results[False], results[True]
    assert before.epochs == after.epochs
    assert before.best.val != after.best.val
    for name, tensor in weights.items():
        assert "tracked" in name or torch.equal(tensor, same[name]), name


def test_a_head_round_leaves_the_statistics(alpha: LoadedDataset) -> None:
    body, head, _ = network()
    before = deepcopy(body.state_dict())
    round = round_of("alpha", "head", refresh_statistics=True)
    train_round(round, body, head, alpha, seeds=SEEDS)
    assert changed(before, body) == set()
