"""When memory runs out in training: which batch would have fitted."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from hydrakit.devices import Compute
from hydrakit.models import Body, Joined
from hydrakit.plan import Round
from hydrakit.training.course import optimiser_of

_ON_A_CPU = ("can't allocate memory", "not enough memory")


def ran_out(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _ON_A_CPU)


def fitting_batch(
    round: Round, body: Body, head: nn.Module, image: Tensor, compute: Compute
) -> int | None:
    """The largest batch of a round, halved again and again, with which an update fits.

    Args:
        round: What is trained.
        body: Stays as it is, like the head.
        head: Of the round.
        image: ``(1, channels, patch, patch)`` on the device; a batch holds it again and again.
        compute: How to compute.

    Returns:
        None where not even one image fits.
    """

    def update(size: int) -> None:
        model = Joined(deepcopy(body), deepcopy(head)).train()
        optimiser = optimiser_of([model], round.hyperparameters)
        with torch.random.fork_rng(devices=[]), compute.training():
            output = model(image.repeat(size, 1, 1, 1))
        output.float().sum().backward()
        optimiser.step()

    size = round.hyperparameters.batch_size
    while size and not _fits(update, size):
        size //= 2
    return size or None


def _fits(update: Callable[[int], None], size: int) -> bool:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        update(size)
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        return False
    return True
