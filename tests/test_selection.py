"""Which weights a round ends with."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from helpers import hyperparameters
from torch import nn

from hydrakit.plan.results import EpochRecord, Metrics
from hydrakit.training.selection import Selection

AUCS = [0.5, 0.9, 0.4, 0.7, 0.8, 0.75, 0.6]


def follow(aucs: Sequence[float], **changes: object) -> tuple[nn.Linear, EpochRecord, Selection]:
    """A layer whose weight is 1 in epoch 1, 2 in epoch 2, ...; what it ends with."""
    layer = nn.Linear(1, 1, bias=False)
    selection = Selection(hyperparameters(**changes), [layer])
    for epoch, auc in enumerate(aucs, start=1):
        layer.weight.data.fill_(epoch)
        val = Metrics(loss=0.5, auc=auc, accuracy=0.5)
        selection.add(
            EpochRecord(epoch=epoch, learning_rate=1.0, train=val, val=val, reference_auc=None)
        )
    layer.weight.data.fill_(-1)
    seen = []

    def evaluate() -> tuple[Metrics, float | None]:
        seen.append(layer.weight.item())
        return Metrics(loss=0.25, auc=0.85, accuracy=0.5), 0.6

    record = selection.finish(evaluate)
    assert len(seen) == (changes.get("select") == "averaged")
    return layer, record, selection


def test_the_best_epoch_is_kept() -> None:
    layer, record, selection = follow(AUCS)
    assert (layer.weight.item(), record.epoch) == (2, 2)
    assert not selection.exhausted(4, 3)
    assert selection.exhausted(5, 3)
    assert not selection.exhausted(500, None)


def test_smoothed_takes_the_epoch_with_the_highest_moving_average() -> None:
    window = 3
    means = [sum(AUCS[max(0, n - window + 1) : n + 1]) / min(window, n + 1) for n in range(7)]
    expected = means.index(max(means)) + 1
    assert expected == 6, "choose figures whose smoothed best is not their best"
    layer, record, selection = follow(AUCS, select="smoothed", window=window)
    assert (layer.weight.item(), record.epoch) == (expected, expected)
    assert selection.leader == record


def test_last_takes_the_last() -> None:
    layer, record, selection = follow(AUCS, select="last")
    assert (layer.weight.item(), record.epoch) == (7, 7)
    assert selection.leader is not None
    assert selection.leader.epoch == 2


@pytest.mark.parametrize(("window", "mean"), [(3, 6.0), (50, 4.0)])
def test_averaged_takes_the_mean_of_the_last_weights_and_their_figures(
    window: int, mean: float
) -> None:
    layer, record, _ = follow(AUCS, select="averaged", window=window)
    assert layer.weight.item() == mean
    assert (record.epoch, record.val.auc, record.reference_auc) == (7, 0.85, 0.6)


def test_averaging_keeps_counts_whole() -> None:
    norm = nn.BatchNorm1d(1)
    selection = Selection(hyperparameters(select="averaged", window=2), [norm])
    val = Metrics(loss=0.5, auc=0.5, accuracy=0.5)
    for epoch in (1, 2):
        assert norm.num_batches_tracked is not None
        norm.num_batches_tracked.fill_(epoch)
        norm.running_mean = torch.full((1,), float(epoch))
        selection.add(
            EpochRecord(epoch=epoch, learning_rate=1.0, train=val, val=val, reference_auc=None)
        )
    selection.finish(lambda: (val, None))
    assert int(norm.num_batches_tracked) == 2
    assert float(norm.running_mean) == 1.5
