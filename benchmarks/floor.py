"""The bare floor: the plain network on one tensor in memory, eager, in PyTorch's default layout."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Answer
from benchmarks.plain import looked_at, plain_body, plain_head, starts
from benchmarks.settings import Settings

DROPOUT = 0.3
EVALUATION_BATCH = 64
STARTS = "starts.npz"  # what `ours_parts.ExportStarts` writes


class Step:
    """Forward, backward and Adam's step on one batch."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self.steps = settings.steps
        self.images = torch.randn(settings.batch, 1, 65, 65)
        self.labels = torch.arange(settings.batch) % 2
        self.network = nn.Sequential(plain_body(dropout=DROPOUT), plain_head(dropout=DROPOUT))
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=1e-5)

    def __call__(self, repeat: int) -> Answer:
        """Some steps; seconds are of one."""
        self.network.train()
        began = time.perf_counter()
        for _ in range(self.steps):
            self.optimiser.zero_grad()
            nn.functional.cross_entropy(self.network(self.images), self.labels).backward()
            self.optimiser.step()
        return Answer((time.perf_counter() - began) / self.steps)


class Evaluate:
    """The plain network in evaluation mode, in batches of 64."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self.images = torch.randn(settings.evaluated, 1, 65, 65)
        self.network = nn.Sequential(plain_body(), plain_head())

    def __call__(self, repeat: int) -> Answer:
        """Look at all images; seconds are of one."""
        began = time.perf_counter()
        looked_at(self.network, self.images, batch=EVALUATION_BATCH)
        return Answer((time.perf_counter() - began) / len(self.images))


class Starts:
    """Random starts of the plain network, one by one, on hydrakit's patches from its seeds.

    One costs what another does, so the first ones are looked at and the time is multiplied.
    """

    def __init__(self, settings: Settings) -> None:
        self.share = settings.start_share
        with np.load(Path(settings.work) / STARTS) as stored:
            self.images = torch.from_numpy(stored["images"])
            self.labels = torch.from_numpy(stored["labels"])
            self.seeds = stored["seeds"].tolist()

    def __call__(self, repeat: int) -> Answer:
        """A share of them, seconds are of all; to warm up, one."""
        every = self.seeds[repeat]
        looked_at = every[: max(1, len(every) // self.share if repeat else 1)]
        began = time.perf_counter()
        aucs = starts(looked_at, self.images, self.labels, batch=EVALUATION_BATCH)
        seconds = (time.perf_counter() - began) * len(every) / len(looked_at)
        return Answer(seconds, {"aucs": aucs})
