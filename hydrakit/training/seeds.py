"""Where random numbers come from: each purpose of each round has a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

# Purposes, the first part of a seed's key.
INITIALISATION, VIEWS, EPOCH = range(3)


@dataclass(frozen=True)
class Seeds:
    """Seeds of one round, all derived from the plan's seed and the round's number.

    A round that is run alone, after a stop, so draws the same numbers as in one go.
    """

    plan: int
    round: int

    def of(self, *key: int) -> int:
        """The seed for one purpose."""
        sequence = np.random.SeedSequence(self.plan, spawn_key=(self.round, *key))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def generator(self, *key: int) -> torch.Generator:
        """A generator of the CPU for one purpose."""
        return torch.Generator().manual_seed(self.of(*key))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators (dropout and initialisation use them), and put them back.

    Those of the CPU and of the device alone: `torch.manual_seed` would seed every other GPU too.
    """
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
