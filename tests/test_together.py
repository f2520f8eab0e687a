"""Heads that are trained together learn what each learns alone."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import hyperparameters, load_dataset, new_network, round_of
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn

from hydrakit.compute.modules import freeze, set_dropout
from hydrakit.data.load import LoadedDataset
from hydrakit.models.heads import build_linear, build_mlp
from hydrakit.models.layers import Dropout
from hydrakit.plan import Hyperparameters
from hydrakit.search.batched_trials import (
    Trial,
    TrialOutcome,
    can_train_together,
    train_alone,
    train_together,
)
from hydrakit.stats.tasks import to_tensor
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds

FEATURES, ROWS, CASES = 12, 150, 60
CLASSES: Any = {"task": "classification", "scale": None}
SEEDS = Seeds(plan=5, round=2)
VAL = torch.arange(ROWS, ROWS + CASES)


@pytest.fixture
def features() -> Tensor:
    return torch.randn(ROWS + CASES, FEATURES, generator=torch.Generator().manual_seed(1))


def labels_for(features: Tensor, classes: int = 2) -> Tensor:
    """Classes that the features tell, with much noise."""
    noise = torch.randn(len(features), generator=torch.Generator().manual_seed(2))
    score = features[:, :4].sum(dim=1) / 2 + noise
    return torch.bucketize(score, torch.linspace(-1, 1, classes + 1)[1:-1])


def trial(rows: Tensor | int = ROWS, *, val: Tensor = VAL, seeds: Seeds = SEEDS, **changes: Any):
    chosen = torch.arange(rows) if isinstance(rows, int) else rows
    return Trial(hyperparameters(**changes), chosen, val, seeds)


def new_heads(count: int, *, outputs: int = 2, build: Any = build_mlp) -> list[nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return [build(FEATURES, outputs) for _ in range(count)]


def assert_alike(one: TrialOutcome, other: TrialOutcome, *, exact: float = 1e-5) -> None:
    assert len(one.epochs) == len(other.epochs)
    for first, second in zip(one.epochs, other.epochs, strict=True):
        assert first.learning_rate == second.learning_rate
        for ours, theirs in ((first.train, second.train), (first.val, second.val)):
            assert ours.model_dump() == pytest.approx(theirs.model_dump(), abs=exact)
    assert one.best is not None
    assert other.best is not None
    assert one.best.epoch == other.best.epoch
    assert one.state.keys() == other.state.keys()
    for name, tensor in one.state.items():
        torch.testing.assert_close(tensor, other.state[name], rtol=0, atol=100 * exact)


def both(
    heads: Any, features: Tensor, labels: Tensor, trials: Any, **task: Any
) -> list[TrialOutcome]:
    """Train both ways, compare, and give what was trained together."""
    together = train_together(heads, features, labels, trials, **task)
    for head, each, found in zip(heads, trials, together, strict=True):
        assert found.trial is each
        assert_alike(found, train_alone(head, features, labels, each, **task))
    return together


# What one head learns alone is what a round teaches it


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


@pytest.mark.parametrize(
    "changes",
    [
        {"dropout": 0.5},
        {"dropout": 0.3, "feature_dropout": True, "weight_decay": 0.1, "select": "authors"},
        {"schedule": "authors", "epochs": 12, "loss": "softmax-cross-entropy"},
        {"patience": 2, "epochs": 30, "learning_rate": 0.03},
        {"schedule": "cosine", "warmup": 0.3, "label_smoothing": 0.2, "refresh_statistics": True},
    ],
)
def test_alone_a_head_learns_what_a_round_teaches(
    alpha: LoadedDataset, changes: dict[str, Any]
) -> None:
    body, head = new_network()
    start = deepcopy(head)
    round = round_of("alpha", "head", **({"epochs": 5} | changes))
    expected = train_round(round, body, head, alpha, seeds=SEEDS)

    freeze(body)
    examples = TrainingExamples(alpha, round.hyperparameters, SEEDS, fixed=True)
    examples.precompute_features(body, torch.device("cpu"))
    assert examples.features is not None
    of_val = forward_in_batches(body, alpha.val.patches)
    count = len(examples.features)
    found = train_alone(
        start,
        torch.cat([examples.features, of_val]),
        torch.cat([examples.labels, to_tensor(alpha.val.labels, None)]),
        Trial(
            round.hyperparameters,
            torch.arange(count),
            torch.arange(count, count + len(of_val)),
            SEEDS,
        ),
        **CLASSES,
    )
    assert found.epochs == expected.epochs
    assert found.best == expected.best
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, found.state[name]), name


# Together


def test_settings_and_folds_and_seeds_at_once(features: Tensor) -> None:
    every = torch.arange(ROWS)
    trials = [
        trial(learning_rate=0.01, dropout=0.0, epochs=8),
        trial(learning_rate=0.003, dropout=0.5, epochs=6, seeds=Seeds(5, 1)),
        trial(dropout=0.2, epochs=3),
        trial(every[every % 3 != 0], val=every[every % 3 == 0], dropout=0.3, epochs=8),
        trial(every[every % 3 != 1], val=every[every % 3 == 1], dropout=0.2, weight_decay=0.3),
        trial(every[17:], dropout=0.3, feature_dropout=True, epochs=8),
        trial(every[17:], dropout=0.4, feature_dropout=True, epochs=8, seeds=Seeds(6, 2)),
        trial(every[17:], dropout=0.3, epochs=5),
        trial(every[:3], dropout=0.4, epochs=4),
        trial(torch.cat([every, every[:31]]), dropout=0.1, schedule="authors", epochs=12),
    ]
    found = both(new_heads(len(trials)), features, labels_for(features), trials, **CLASSES)
    assert [len(outcome.epochs) for outcome in found] == [8, 6, 3, 8, 2, 8, 8, 5, 4, 12]
    assert found[9].epochs[-1].learning_rate < found[9].epochs[0].learning_rate


@pytest.mark.parametrize("build", [build_mlp, build_linear])
@pytest.mark.parametrize(
    ("task", "outputs", "changes"),
    [
        ("classification", 3, {}),
        ("classification", 2, {"loss": "softmax-cross-entropy"}),
        ("multilabel", 3, {}),
        ("regression", 1, {}),
        ("classification", 3, {"label_smoothing": 0.2, "schedule": "cosine", "warmup": 0.3}),
        ("multilabel", 3, {"label_smoothing": 0.1, "schedule": "cosine", "batch_size": 40}),
        ("partial labels", 3, {}),
    ],
)
def test_every_task(
    features: Tensor, build: Any, task: Any, outputs: int, changes: dict[str, Any]
) -> None:
    labels, scale = labels_for(features, outputs), None
    if outputs == 3 and task != "classification":
        labels = (features[:, :3] + features[:, 3:6] > 0).float()
    if task == "partial labels":
        labels[features[:, 6:9] > 0.5] = torch.nan
        task = "multilabel"
    if task == "regression":
        labels, scale = features[:, :1] + features[:, 1:2] ** 2, (40.0, 8.0)
    trials = [
        trial(ROWS - 7 * (at % 2), dropout=dropout, learning_rate=rate, epochs=4, **changes)
        for at, (dropout, rate) in enumerate([(0.0, 0.01), (0.4, 0.003), (0.1, 0.001)])
    ]
    heads = new_heads(3, outputs=outputs, build=build)
    both(heads, features, labels, trials, task=task, scale=scale)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(8, 70), min_size=1, max_size=5),
    batch=st.integers(1, 40),
    dropouts=st.lists(st.sampled_from([0.0, 0.2, 0.7]), min_size=5, max_size=5),
)
def test_whatever_the_sizes(counts: list[int], batch: int, dropouts: list[float]) -> None:
    features = torch.randn(ROWS + CASES, FEATURES, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(len(features)) % 2
    trials = [
        trial(count, dropout=dropout, batch_size=batch)
        for count, dropout in zip(counts, dropouts, strict=False)
    ]
    heads = new_heads(len(trials))
    together = train_together(heads, features, labels, trials, **CLASSES)
    for head, each, found in zip(heads, trials, together, strict=True):
        alone = train_alone(head, features, labels, each, **CLASSES)
        for one, other in zip(found.epochs, alone.epochs, strict=True):
            assert one.train.loss == pytest.approx(other.train.loss, abs=1e-5)
            assert one.val.loss == pytest.approx(other.val.loss, abs=1e-5)


def test_heads_stop_one_by_one_and_the_others_go_on(features: Tensor) -> None:
    rates = [0.1, 0.03, 0.01, 0.003, 1e-30]
    trials = [trial(learning_rate=rate, patience=3, epochs=25, dropout=0.2) for rate in rates]
    found = both(new_heads(5), features, labels_for(features), trials, **CLASSES)
    stopped = [len(outcome.epochs) for outcome in found]
    assert len(set(stopped)) >= 3, "choose rates that stop at different epochs"
    assert stopped[-1] == 4
    for outcome in found:
        assert outcome.best is not None
        assert len(outcome.epochs) in (25, outcome.best.epoch + 3)


def test_the_state_is_that_of_the_best_epoch(features: Tensor) -> None:
    labels = labels_for(features)
    trials = [trial(learning_rate=rate, epochs=15) for rate in (0.05, 0.02)]
    outcomes = train_together(new_heads(2), features, labels, trials, **CLASSES)
    assert len(outcomes) == 2
    for outcome in outcomes:
        best = outcome.best
        assert best is not None
        assert best.val.auc == max(epoch.val.auc or 0 for epoch in outcome.epochs)
        assert best.epoch < 15, "choose a rate at which the last epoch is not the best"
        head = build_mlp(FEATURES, 2).eval()
        head.load_state_dict(outcome.state)
        chances = head(features[VAL]).detach().softmax(dim=1).double().numpy()
        assert best.val.auc == pytest.approx(roc_auc_score(labels[VAL], chances[:, 1]))
        chances /= chances.sum(axis=1, keepdims=True)
        assert best.val.loss == pytest.approx(log_loss(labels[VAL], chances), abs=1e-5)
        assert best.val.accuracy == np.mean(chances.argmax(axis=1) == labels[VAL].numpy())


def test_a_head_that_diverges_ends_and_does_not_touch_the_others(features: Tensor) -> None:
    trials = [trial(learning_rate=rate, epochs=5) for rate in (0.01, 1e30, 0.003)]
    found = train_together(new_heads(3), features, labels_for(features), trials, **CLASSES)
    assert [outcome.diverged for outcome in found] == [False, True, False]
    assert found[1].best is None
    assert found[1].epochs == []
    assert found[1].state == {}
    for at in (0, 2):
        args = new_heads(3)[at], features, labels_for(features), trials[at]
        assert_alike(found[at], train_alone(*args, **CLASSES))
    alone = train_alone(new_heads(3)[1], features, labels_for(features), trials[1], **CLASSES)
    assert alone.diverged
    assert alone.best is None


def test_heads_stay_as_they_are_and_torchs_generator_too(features: Tensor) -> None:
    head = new_heads(1)[0]
    set_dropout(head, 0.9)
    before, generator = deepcopy(head.state_dict()), torch.get_rng_state()
    trials = [trial(learning_rate=0.01), trial(learning_rate=0.02)]
    found = train_together([head, head], features, labels_for(features), trials, **CLASSES)
    again = train_together([head, head], features, labels_for(features), trials, **CLASSES)
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, before[name])
        assert not torch.equal(found[0].state[name], found[1].state[name])
        assert torch.equal(found[0].state[name], again[0].state[name])
    assert torch.equal(torch.get_rng_state(), generator)
    assert [layer.p for layer in head.modules() if isinstance(layer, Dropout)] == [0.9]


# Refusals


class Own(nn.Sequential):
    """Not plain: it may do anything."""


TIED = nn.Linear(FEATURES, FEATURES)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (build_mlp(FEATURES, 2), True),
        (build_linear(FEATURES, 2), True),
        (nn.Sequential(Dropout(0.1), nn.Linear(FEATURES, 5), Dropout(0.1), nn.Linear(5, 2)), True),
        (nn.Sequential(nn.Dropout(0.1), nn.Linear(FEATURES, 2)), False),
        (nn.Sequential(nn.Linear(FEATURES, 2, bias=False)), False),
        (nn.Sequential(nn.Linear(FEATURES, 3), nn.ReLU(), nn.Linear(3, 2)), False),
        (nn.Sequential(nn.Linear(FEATURES, 3), nn.ELU(0.5), nn.Linear(3, 2)), False),
        (nn.Sequential(nn.Linear(FEATURES, 2).double()), False),
        (nn.Sequential(nn.Linear(FEATURES, 2).requires_grad_(False)), False),
        (nn.Sequential(TIED, nn.ELU(), TIED, nn.Linear(FEATURES, 2)), False),
        (Own(nn.Linear(FEATURES, 2)), False),
        (nn.Linear(FEATURES, 2), False),
        (nn.Sequential(Dropout(0.1)), False),
    ],
)
def test_which_heads_can_be_trained_together(
    features: Tensor, head: nn.Module, expected: bool
) -> None:
    assert can_train_together(head) is expected
    trials = [trial(dropout=0.3, epochs=3), trial(31, dropout=0.2, epochs=3)]
    if expected:
        both([head, head], features, labels_for(features), trials, **CLASSES)
    else:
        with pytest.raises(ValueError, match=r"head 0 .* use train_alone"):
            train_together([head, head], features, labels_for(features), trials, **CLASSES)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("batch_size", 8, "trial 1 has batch_size 8, trial 0 has 16"),
        ("views", 3, "trial 1 has views 3"),
        ("augmentation", "none", "trial 1 has augmentation none"),
        ("loss", "softmax-cross-entropy", "trial 1 has loss softmax"),
    ],
)
def test_trials_that_do_not_fit_are_refused(
    features: Tensor, name: str, value: Any, shown: str
) -> None:
    trials = [trial(), trial(**{name: value})]
    with pytest.raises(ValueError, match=shown):
        train_together(new_heads(2), features, labels_for(features), trials, **CLASSES)


def test_every_setting_is_used_or_must_agree() -> None:
    used = {"learning_rate", "weight_decay", "dropout", "epochs", "patience", "select"}
    used |= {"schedule", "warmup"}
    shared = {"batch_size", "epoch_size", "fill_epochs", "augmentation", "views", "loss"}
    shared |= {"label_smoothing", "transforms"}
    for_rounds = {"carry_head", "window", "refresh_statistics", "solver", "penalty"}
    assert used | shared | for_rounds | {"feature_dropout"} == set(Hyperparameters.model_fields)


def test_heads_that_do_not_fit_are_refused(features: Tensor) -> None:
    labels = labels_for(features)
    mixed = [build_mlp(FEATURES, 2), build_linear(FEATURES, 2)]
    with pytest.raises(ValueError, match="head 1 has other layers than head 0"):
        train_together(mixed, features, labels, [trial(), trial()], **CLASSES)
    with pytest.raises(ValueError, match="each trial needs a head: got 2 and 1"):
        train_together(new_heads(2), features, labels, [trial()], **CLASSES)
    with pytest.raises(ValueError, match="got 0 and 0"):
        train_together([], features, labels, [], **CLASSES)


def test_a_trial_needs_examples_and_cases() -> None:
    with pytest.raises(ValueError, match=r"train_rows .* got shape \(0,\)"):
        trial(0)
    with pytest.raises(ValueError, match=r"val_rows .* got shape \(2, 3\)"):
        trial(val=torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("build", [build_mlp, build_linear])
def test_the_shipped_heads_drop_as_the_body_does(build: Any) -> None:
    kinds = [type(layer) for layer in build(FEATURES, 2) if isinstance(layer, nn.Dropout)]
    assert kinds == [Dropout]
