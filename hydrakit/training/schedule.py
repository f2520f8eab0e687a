"""The learning rate schedule ``cosine``, which changes the rate before every step."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from hydrakit.rounds import Hyperparameters


def cosine_rate(settings: Hyperparameters, *, epoch: int, step: int, steps: int) -> float:
    """Learning rate of one training step.

    It depends only on how much of the round is done in the middle of the step, so that a resumed
    round gets the same rates, and epochs with different numbers of steps are equally long.

    Args:
        settings: Training values of the round.
        epoch: Number of the epoch, from 1.
        step: Number of the step in its epoch, from 0.
        steps: Number of steps of the epoch.
    """
    done = (epoch - 1 + (step + 0.5) / steps) / settings.epochs
    if done < settings.warmup:
        return settings.learning_rate * done / settings.warmup
    fallen = (done - settings.warmup) / (1 - settings.warmup)
    return settings.learning_rate * (1 + math.cos(math.pi * fallen)) / 2


def set_rate(
    optimiser: Optimizer, settings: Hyperparameters, *, epoch: int, step: int, steps: int
) -> None:
    """Set the learning rate of a step, if the schedule changes it within an epoch."""
    if settings.schedule == "cosine":
        for group in optimiser.param_groups:
            group["lr"] = cosine_rate(settings, epoch=epoch, step=step, steps=steps)
