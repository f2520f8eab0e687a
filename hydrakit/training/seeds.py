"""Seeds of random numbers: each purpose in each round has a seed of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

# Purposes, the first part of a seed's key.
INITIALISATION, VIEWS, EPOCH, STATISTICS = range(4)


@dataclass(frozen=True)
class Seeds:
    """Seeds of one round, derived from the plan's seed and the number of the round.

    A round that is resumed after a stop therefore draws the same numbers as without a stop.

    Attributes:
        plan: Seed of the plan.
        round: Number of the round, from 1.
    """

    plan: int
    round: int

    def of(self, *key: int) -> int:
        """Seed for one purpose, for example ``of(EPOCH, 3, 0)``."""
        sequence = np.random.SeedSequence(self.plan, spawn_key=(self.round, *key))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def generator(self, *key: int) -> torch.Generator:
        """CPU generator for one purpose."""
        return torch.Generator().manual_seed(self.of(*key))


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators within a ``with`` block, and restore them afterwards.

    Dropout and initialisation use these generators. Only those of the CPU and of the device are
    seeded: `torch.manual_seed` would also seed every other GPU.
    """
    gpus = [device] if device.type == "cuda" else []
    on_mac = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        if on_mac is None:
            yield
            return
        torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            torch.mps.set_rng_state(on_mac)
