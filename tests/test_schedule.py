"""The learning rate schedule ``cosine``, and label smoothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Runner, hyperparameters, load_dataset, new_network, plan_of, refused, round_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.optim.lr_scheduler import CosineAnnealingLR

from hydrakit.data.load import LoadedDataset
from hydrakit.models.build import check_components
from hydrakit.plan import Hyperparameters
from hydrakit.stats.tasks import loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.loop import train_round
from hydrakit.training.schedule import cosine_rate
from hydrakit.training.seeds import Seeds


def rates(chosen: Hyperparameters, steps: int) -> list[float]:
    """Learning rates of all steps of a round."""
    return [
        cosine_rate(chosen, epoch=epoch, step=step, steps=steps)
        for epoch in range(1, chosen.epochs + 1)
        for step in range(steps)
    ]


@settings(deadline=None)
@given(epochs=st.integers(1, 9), steps=st.integers(1, 9))
def test_without_warmup_the_rate_is_that_of_torch(epochs: int, steps: int) -> None:
    chosen = hyperparameters(schedule="cosine", epochs=epochs, learning_rate=0.3)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=0.3)
    scheduler: Any = CosineAnnealingLR(optimiser, T_max=epochs * steps)
    expected = []
    for step in range(epochs * steps):
        scheduler.last_epoch = step + 0.5  # the middle of the step
        expected += scheduler._get_closed_form_lr()
    assert rates(chosen, steps) == pytest.approx(expected)


def test_the_rate_rises_during_the_warmup_and_falls_after_it() -> None:
    chosen = hyperparameters(schedule="cosine", epochs=5, warmup=0.4, learning_rate=1.0)
    found = rates(chosen, 2)  # 10 steps, 4 of them of the rise
    assert found[:4] == pytest.approx([0.125, 0.375, 0.625, 0.875])
    shares = (np.arange(6) + 0.5) / 6
    assert found[4:] == pytest.approx(list((1 + np.cos(np.pi * shares)) / 2))


@settings(deadline=None)
@given(
    epochs=st.integers(1, 20),
    steps=st.integers(1, 30),
    warmup=st.floats(0, 1, exclude_max=True),
)
def test_the_rate_stays_above_0_and_at_most_at_the_chosen_one(
    epochs: int, steps: int, warmup: float
) -> None:
    chosen = hyperparameters(schedule="cosine", epochs=epochs, warmup=warmup, learning_rate=0.01)
    assert all(0 <= rate <= 0.01 for rate in rates(chosen, steps))


def test_warmup_needs_the_schedule_that_has_one() -> None:
    with pytest.raises(ValueError, match="'warmup' needs the schedule 'cosine'"):
        hyperparameters(warmup=0.1)


@pytest.fixture
def alpha(data: Path, cache: Path) -> LoadedDataset:
    return load_dataset("alpha", data=data, cache=cache)


@pytest.mark.parametrize("train", ["all", "head"])
def test_an_epoch_records_the_rate_of_its_last_step(alpha: LoadedDataset, train: str) -> None:
    body, head = new_network()
    round = round_of("alpha", train, epochs=4, schedule="cosine", warmup=0.25)
    chosen = round.hyperparameters
    trained = train_round(round, body, head, alpha, seeds=Seeds(1, 1))
    examples = TrainingExamples(alpha, chosen, Seeds(1, 1), fixed=train == "head")
    steps = -(-len(examples) // chosen.batch_size)
    expected = rates(chosen, steps)[steps - 1 :: steps]
    assert [epoch.learning_rate for epoch in trained.epochs] == expected


def test_the_rate_of_the_first_step_is_used(alpha: LoadedDataset) -> None:
    # One step of Adam changes each weight by the learning rate.
    body, head = new_network()
    before = {name: each.clone() for name, each in body.named_parameters()}
    round = round_of("alpha", epochs=1, schedule="cosine", batch_size=10_000, learning_rate=0.01)
    train_round(round, body, head, alpha, seeds=Seeds(1, 1))
    change = max(
        float((each - before[name]).abs().max().detach()) for name, each in body.named_parameters()
    )
    assert change == pytest.approx(0.01 / 2, rel=1e-2)  # the middle of the only step


LOGITS = torch.randn(9, 3, generator=torch.Generator().manual_seed(1))


def test_smoothed_classes_are_those_of_torch() -> None:
    labels = torch.arange(9) % 3
    for loss, outputs in (("cross-entropy", LOGITS), ("softmax-cross-entropy", LOGITS.softmax(1))):
        expected = functional.cross_entropy(outputs, labels, label_smoothing=0.2)
        found = loss_of(LOGITS, labels, task="classification", loss=loss, smoothing=0.2)
        assert torch.equal(found, expected)


def test_smoothed_labels_move_towards_a_half() -> None:
    labels = (LOGITS > 0.3).float()
    chances = LOGITS.sigmoid()
    smoothed = torch.where(labels > 0, 0.9, 0.1)
    expected = -(smoothed * chances.log() + (1 - smoothed) * (1 - chances).log()).mean()
    found = loss_of(LOGITS, labels, task="multilabel", loss="cross-entropy", smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_a_number_is_not_smoothed() -> None:
    targets = torch.ones(9, 1)
    plain, smoothed = (
        loss_of(LOGITS[:, :1], targets, task="regression", loss="cross-entropy", smoothing=each)
        for each in (0.0, 0.5)
    )
    assert torch.equal(plain, smoothed)


def test_reported_losses_are_not_smoothed(alpha: LoadedDataset) -> None:
    epochs = []
    for smoothing in (0.0, 0.5):
        body, head = new_network()
        round = round_of("alpha", epochs=1, learning_rate=1e-12, label_smoothing=smoothing)
        epochs += train_round(round, body, head, alpha, seeds=Seeds(1, 1)).epochs
    assert epochs[0].val.loss == pytest.approx(epochs[1].val.loss, abs=1e-6)
    assert epochs[0].train.loss == pytest.approx(epochs[1].train.loss, abs=1e-6)


def test_numbers_cannot_be_smoothed(runner: Runner) -> None:
    from dataclasses import replace

    from helpers import adapter, plugins

    plan = plan_of(round_of("alpha", label_smoothing=0.1), round_of("beta"))
    adapters = {name: adapter(name) for name in ("alpha", "beta")}
    check_components(plan, adapters, plugins())
    number = replace(adapters["alpha"], task="regression", classes=("size",))
    refused(
        lambda: check_components(plan, {**adapters, "alpha": number}, plugins()),
        "round 1: label_smoothing is 0.1",
        "'alpha' are numbers",
        "--set rounds.1.label_smoothing=0",
    )
