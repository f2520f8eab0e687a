"""What each of several processes does with its part of a batch; threads stand in for processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import BODY, hyperparameters, load_dataset, new_network
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import hydrakit.models.layers
from hydrakit.compute.distributed import ALONE, Part, ProcessGroup
from hydrakit.models.body import BodyWithHead, ParallelBodyWithHead
from hydrakit.models.layers import BatchNorm, Dropout
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.seeds import Seeds


@dataclass
class Threads:
    """Threads in the place of processes: `summed` waits until each has brought its tensor."""

    size: int
    brought: dict[int, torch.Tensor] = field(default_factory=dict)
    own: threading.local = field(default_factory=threading.local)

    def __post_init__(self) -> None:
        self.barrier = threading.Barrier(self.size, timeout=60)

    def summed(self, tensor: torch.Tensor) -> torch.Tensor:
        self.brought[self.own.rank] = tensor.clone()
        self.barrier.wait()
        tensor.copy_(sum(self.brought[rank] for rank in range(self.size)))
        self.barrier.wait()
        return tensor

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        given: dict[int, Any] = {}

        def thread(rank: int) -> None:
            self.own.rank = rank
            try:
                given[rank] = work(rank)
            except BaseException:
                self.barrier.abort()
                raise

        every = [threading.Thread(target=thread, args=(rank,)) for rank in range(self.size)]
        for each in every:
            each.start()
        for each in every:
            each.join()
        return [given[rank] for rank in range(self.size)]


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(2, 4),
    more=st.integers(0, 5),
    channels=st.integers(1, 3),
    side=st.integers(1, 4),
    offset=st.sampled_from([0.0, -3.0, 50.0]),
    spread=st.sampled_from([0.5, 1.0, 20.0]),
    last=st.booleans(),
    seed=st.integers(0, 99),
)
def test_batch_norm_of_parts_is_that_of_the_joined_batch(
    size: int,
    more: int,
    channels: int,
    side: int,
    offset: float,
    spread: float,
    last: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    shape = (size + more, channels, side, side)
    maps = torch.from_numpy(random.normal(offset, spread, shape)).float()
    slopes = torch.from_numpy(random.normal(size=shape)).float()
    if last:
        maps = maps.contiguous(memory_format=torch.channels_last)
    plain = nn.BatchNorm2d(channels)
    with torch.no_grad():
        plain.weight.copy_(torch.linspace(0.5, -2, channels))
        plain.bias.copy_(torch.linspace(-1, 1, channels))
    layer = BatchNorm(channels)
    layer.load_state_dict(plain.state_dict())
    whole = maps.double().requires_grad_()  # what is right is computed with more digits
    plain.double()
    wanted = plain(whole)
    wanted.backward(slopes.double())
    threads = Threads(size)

    def work(rank: int) -> Any:
        own, part = deepcopy(layer), Part(rank, size, len(maps))
        own.part = part
        rows = maps[part.rows].clone().requires_grad_()
        found = own(rows)
        found.backward(slopes[part.rows])
        return found.detach(), rows.grad, own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hydrakit.models.layers, "summed", threads.summed)
        found, grads, layers = zip(*threads.run(work), strict=True)
    close: Any = {"rtol": 1e-3, "atol": 1e-3, "check_dtype": False}
    torch.testing.assert_close(torch.cat(found), wanted.detach(), **close)
    torch.testing.assert_close(torch.cat(grads), whole.grad, **close)
    for name in ("weight", "bias"):
        total = sum(getattr(each, name).grad for each in layers)
        torch.testing.assert_close(total, getattr(plain, name).grad, **close)
    for each in layers:
        for name, buffer in each.named_buffers():
            torch.testing.assert_close(buffer, dict(plain.named_buffers())[name], **close)


def test_batch_norm_alone_and_in_evaluation_is_pytorchs() -> None:
    layer, plain = BatchNorm(3), nn.BatchNorm2d(3)
    maps = torch.randn(4, 3, 2, 2)
    assert torch.equal(layer(maps), plain(maps))
    layer.part = Part(0, 2, 4)  # which matters in training alone
    assert torch.equal(layer.eval()(maps), plain.eval()(maps))


@given(size=st.integers(1, 9), more=st.integers(0, 40))
def test_parts_are_the_whole_batch_in_order(size: int, more: int) -> None:
    total = size + more
    parts = [Part(rank, size, total) for rank in range(size)]
    assert [row for part in parts for row in range(total)[part.rows]] == list(range(total))
    assert min(parts[0].counts) >= 1
    assert max(parts[0].counts) - min(parts[0].counts) <= 1
    assert parts[0].counts == [len(range(total)[part.rows]) for part in parts]


def test_who_is_alone_or_has_too_few_rows_does_the_whole_batch() -> None:
    assert ALONE.part(5) is None
    assert ProcessGroup(0, 3).part(2) is None
    assert ProcessGroup(0, 3).part(3) == Part(0, 3, 3)


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 4, 2), (7, 3, 1, 1), (2, 1, 3, 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_masks_of_parts_are_cut_from_that_of_the_whole_batch(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    images = torch.empty(shape)
    if len(shape) == 4:
        images = images.contiguous(memory_format=layout)
    layer, masks = Dropout(0.4), []
    for part in (None, Part(0, 2, len(images)), Part(1, 2, len(images))):
        layer.part = part
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            masks.append(layer.mask(images if part is None else images[part.rows]))
    assert torch.equal(torch.cat(masks[1:]), masks[0])


def test_examples_of_parts_are_those_of_the_whole_batch(data: Path, cache: Path) -> None:
    loaded = load_dataset("alpha", data=data, cache=cache)
    values = hyperparameters(batch_size=11, augmentation="fresh")
    every = [
        list(TrainingExamples(loaded, values, Seeds(1, 1), fixed=False, team=team).batches(1))
        for team in (ALONE, ProcessGroup(0, 2), ProcessGroup(1, 2))
    ]
    for (whole, labels), (first, first_labels), (second, second_labels) in zip(*every, strict=True):
        assert torch.equal(torch.cat([first, second]), whole)
        assert torch.equal(first_labels, labels)
        assert torch.equal(second_labels, labels)


def test_a_shared_model_alone_is_a_joined_one() -> None:
    body, head = new_network()
    images = torch.randn(3, 1, BODY.patch, BODY.patch)
    shared, plain = ParallelBodyWithHead(body, head, ALONE).eval(), BodyWithHead(body, head).eval()
    assert torch.equal(shared(images), plain(images))
    assert list(shared.state_dict()) == list(plain.state_dict())
