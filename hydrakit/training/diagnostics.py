"""Causes of failed training: the first layer that is not finite, and the batch size that fits.

Checking every layer in every step would slow down all runs. An epoch can be repeated with the same
numbers, so the layers are checked in a repetition of the epoch that failed.
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
from hydrakit.models.stem import stem_of
from hydrakit.rounds import Round
from hydrakit.training.step import build_optimiser

Named = Sequence[tuple[str, nn.Module]]


class _NonFiniteError(Exception):
    """A number is not finite; the message says where."""


def first_nonfinite(
    epoch: Callable[[], object], modules: Named, optimiser: Optimizer
) -> str | None:
    """Repeat an epoch, and return the first batch and layer that are not finite.

    Args:
        epoch: Runs the epoch, from the state before it.
        modules: Modules that the epoch trains, with names.
        optimiser: Optimiser of the epoch.

    Returns:
        For example ``batch 3, the output of body.blocks.0.conv1``; None if everything is finite in
        the repetition.
    """
    try:
        with _checking(modules, optimiser):
            epoch()
    except _NonFiniteError as error:
        return str(error)
    return None


@contextmanager
def _checking(modules: Named, optimiser: Optimizer) -> Iterator[None]:
    """Raise `_NonFiniteError` at the first output, gradient or weight that is not finite."""
    batch = 1

    def check_output_of(name: str) -> Callable[..., None]:
        def check(_: nn.Module, __: Any, output: object) -> None:
            if isinstance(output, torch.Tensor) and not _is_finite(output):
                raise _NonFiniteError(f"batch {batch}, the output of {name}")

        return check

    layers = [
        (f"{name}.{inner}" if inner else name, layer)
        for name, module in modules
        for inner, layer in module.named_modules()
        if not list(layer.children())
    ]

    def check_parameters(kind: str) -> None:
        for name, layer in layers:
            for parameter in layer.parameters(recurse=False):
                tensor = parameter.grad if kind == "gradient" else parameter
                if tensor is not None and not _is_finite(tensor):
                    raise _NonFiniteError(f"batch {batch}, the {kind} of {name}")

    def before_step(*_: Any) -> None:
        check_parameters("gradient")

    def after_step(*_: Any) -> None:
        nonlocal batch
        check_parameters("weights")
        batch += 1

    with ExitStack() as hooks:
        for name, layer in layers:
            hooks.callback(layer.register_forward_hook(check_output_of(name)).remove)
        hooks.callback(optimiser.register_step_pre_hook(before_step).remove)
        hooks.callback(optimiser.register_step_post_hook(after_step).remove)
        yield


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.detach()).all())


NOTHING_FITS = "not even one patch fits: choose a smaller body (`--body-channels`)"

_MESSAGES = ("can't allocate memory", "not enough memory", "MPS backend out of memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that a GPU or the machine ran out of memory."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def out_of_memory_message(
    round: Round, body: BodyModule, head: nn.Module, image: Tensor, compute: Compute
) -> str:
    """Message for a round that ran out of memory, with the batch size that fits.

    Arguments are those of `largest_fitting_batch`.
    """
    size = round.hyperparameters.batch_size
    fits = largest_fitting_batch(round, body, head, image, compute)
    if fits == size:
        remedy = (
            "this batch size fits now, so another program used the memory: run the same command "
            "again"
        )
    elif fits is None:
        remedy = NOTHING_FITS
    else:
        remedy = f"batches of {fits} fit: `--batch-size {fits}` (and another `--out`)"
    return f"{compute.device} ran out of memory with batches of {size}; {remedy}"


def largest_fitting_batch(
    round: Round, body: BodyModule, head: nn.Module, image: Tensor, compute: Compute
) -> int | None:
    """Halve the batch size of a round until a training step fits into memory.

    Args:
        round: Round to train.
        body: Body of the round; a copy is trained.
        head: Head of the round; a copy is trained.
        image: Image ``(1, channels, patch, patch)`` on the device; a batch repeats it.
        compute: How to compute.

    Returns:
        The batch size; None if not even one image fits.
    """

    def update(size: int) -> None:
        own = deepcopy(head)
        model = BodyWithHead(deepcopy(body), own, stem_of(own, round.dataset)).train()
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
