"""Where the numbers of a round first were no longer finite: an epoch is gone through again to see.

Looking at every layer in every step would cost each run time; an epoch repeats its numbers, so it
is looked at only once it has failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from hydrakit.compute.devices import Compute
from hydrakit.models.body import BodyModule, BodyWithHead
from hydrakit.rounds import Round
from hydrakit.training.epochs import build_optimiser

Named = Sequence[tuple[str, nn.Module]]


class _FoundError(Exception):
    """What is not finite, in words."""


def first_nonfinite(
    epoch: Callable[[], object], modules: Named, optimiser: Optimizer
) -> str | None:
    """Go through an epoch again, and tell the batch and the layer that first are not finite.

    Args:
        epoch: Does it, from the state in which it began.
        modules: What takes part, by name.
        optimiser: Of the updates.

    Returns:
        As ``batch 3, the output of body.blocks.0.conv1``; None where all stays finite this time.
    """
    try:
        with _watching(modules, optimiser):
            epoch()
    except _FoundError as found:
        return str(found)
    return None


@contextmanager
def _watching(modules: Named, optimiser: Optimizer) -> Iterator[None]:
    """Raise `_FoundError` at the first number that is not finite."""
    batch = 1

    def output_of(name: str) -> Callable[..., None]:
        def look(_: nn.Module, __: Any, output: object) -> None:
            if isinstance(output, torch.Tensor) and not _finite(output):
                raise _FoundError(f"batch {batch}, the output of {name}")

        return look

    layers = [
        (f"{name}.{inner}" if inner else name, layer)
        for name, module in modules
        for inner, layer in module.named_modules()
        if not list(layer.children())
    ]

    def parameters(what: str) -> None:
        for name, layer in layers:
            for parameter in layer.parameters(recurse=False):
                looked_at = parameter.grad if what == "gradient" else parameter
                if looked_at is not None and not _finite(looked_at):
                    raise _FoundError(f"batch {batch}, the {what} of {name}")

    def before_step(*_: Any) -> None:
        parameters("gradient")

    def after_step(*_: Any) -> None:
        nonlocal batch
        parameters("weights")
        batch += 1

    with ExitStack() as hooks:
        for name, layer in layers:
            hooks.callback(layer.register_forward_hook(output_of(name)).remove)
        hooks.callback(optimiser.register_step_pre_hook(before_step).remove)
        hooks.callback(optimiser.register_step_post_hook(after_step).remove)
        yield


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


_ON_A_CPU = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a GPU or of the machine ran out."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _ON_A_CPU)


def largest_fitting_batch(
    round: Round, body: BodyModule, head: nn.Module, image: Tensor, compute: Compute
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
        model = BodyWithHead(deepcopy(body), deepcopy(head)).train()
        optimiser = build_optimiser([model], round.hyperparameters)
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
        if not is_out_of_memory(error):
            raise
        return False
    return True
