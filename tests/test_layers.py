"""Dropout from pieces of random words does what dropout does."""

from __future__ import annotations

import pytest
import torch
from scipy import stats

from hydrakit.models.layers import Dropout, keep_mask, random_pieces


def masked(layer: Dropout, like: torch.Tensor, seed: int = 0) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return layer.mask(like)


@pytest.mark.parametrize("probability", [0.0001, 0.1, 0.3, 0.5, 0.9999])
def test_as_many_numbers_are_dropped_as_the_probability_says(probability: float) -> None:
    mask = masked(Dropout(probability), torch.empty(1000, 1001))
    dropped = int((mask == 0).sum())
    # Its 16 bits round the probability to a multiple of 1/65536.
    rounded = round(probability * 65536) / 65536
    assert stats.binomtest(dropped, mask.numel(), rounded).pvalue > 1e-4


def test_pieces_are_uniform_and_each_independent_of_the_next() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = random_pieces(torch.empty(400_001)).double()
    assert stats.kstest(drawn.numpy(), "uniform", args=(-32768, 65536)).pvalue > 1e-3
    for lag in range(1, 9):
        assert abs(stats.pearsonr(drawn[:-lag], drawn[lag:]).statistic) < 0.01


def test_kept_numbers_are_scaled_up_and_gradients_alike() -> None:
    layer = Dropout(0.25)
    images = torch.randn(6, 5, 4, 3, requires_grad=True)
    mask = masked(layer, images)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropped = layer(images)
    torch.testing.assert_close(dropped, images * mask / 0.75)
    dropped.sum().backward()
    torch.testing.assert_close(images.grad, mask / 0.75)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_mask_fits_whatever_the_order_in_memory(layout: torch.memory_format) -> None:
    like = torch.empty(3, 4, 5, 6).contiguous(memory_format=layout)
    assert masked(Dropout(0.5), like).shape == like.shape
    part = torch.empty(8, 8)[:, ::2]
    assert masked(Dropout(0.5), part).shape == (8, 4)


def test_without_training_or_probability_nothing_changes() -> None:
    images = torch.randn(3, 4)
    assert Dropout(0.5).eval()(images) is images
    assert Dropout(0.0)(images) is images


def test_the_largest_probability_keeps_something_to_compare() -> None:
    every = torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16)
    assert int(keep_mask(every, 1 - 1e-9).sum()) == 1
    assert int(keep_mask(every, 0.5).sum()) == 32768
