"""What a run computes on, and how exactly: device, precision, repeatability."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from hydrakit.errors import PlanError
from hydrakit.schema import Precision


@dataclass(frozen=True)
class Compute:
    """How training computes. It is not part of a plan, but written into a run's environment.

    Attributes:
        device: Where.
        precision: Of the convolutions and matrix products of a training step; weights, their
            updates, losses and all evaluation stay in float32, and so do heads that train alone
            beside a GPU (`of_heads`).
        deterministic: The same seed gives the same bits. A CPU always does; on CUDA it costs speed.
        compiled: Training steps go through `torch.compile`.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = True
    compiled: bool = False

    def training(self) -> torch.autocast:
        """The context of a forward pass in training."""
        wanted = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=wanted)

    def of_heads(self) -> Compute:
        """How a head trains on features that are kept: beside a GPU, in float32 on the CPU.

        Its step is too small for a GPU, which waits for Python to launch it: 1.6 ms on an H100
        where a core of a CPU takes 0.5.
        """
        if self.device.type == "cpu":
            return self
        return Compute(torch.device("cpu"))

    def prepared(self, model: nn.Module) -> nn.Module:
        """A model whose forward pass is compiled, if that is asked for; it shares the weights."""
        if not self.compiled:
            return model
        # On CUDA as a graph of kernels that is launched at once: small batches wait for launches.
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        return cast(nn.Module, torch.compile(model, mode=mode))


def choose_compute(
    device: str = "auto",
    *,
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
) -> Compute:
    """How to compute on a device.

    Args:
        device: As for `choose_device`.
        precision: ``auto`` is bfloat16 on CUDA and float32 on a CPU.
        deterministic: Give up speed on CUDA for the same bits from the same seed: float32 (unless
            bfloat16 is asked for by name) and algorithms that repeat their results.
        compiled: Put training steps through `torch.compile`.

    Raises:
        PlanError: There is no such device here, or it cannot do that.
    """
    where = choose_device(device)
    if precision == "auto":
        fast = where.type == "cuda" and not deterministic and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    return Compute(where, precision, deterministic or where.type == "cpu", compiled)


def choose_device(name: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        PlanError: There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda") or (device.type == "cpu" and name != "cpu"):
        raise PlanError(f"device {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise PlanError(
                f"device {name!r}: torch {torch.__version__} sees {count} CUDA devices here: "
                "use `--device cpu`, or install a CUDA build of torch (README)"
            )
    return device


@contextmanager
def deterministic_algorithms(compute: Compute) -> Iterator[None]:
    """Have cuDNN choose algorithms that repeat their results, if that is asked for.

    It is not told to time all of them (`cudnn.benchmark`): a run of seven rounds spent 4 of 14 s on
    an H100 so, and its epochs were no faster.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = compute.deterministic, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


@contextmanager
def on_device(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Have a module on another device for a while."""
    before = next(module.parameters()).device
    module.to(device)
    try:
        yield
    finally:
        module.to(before)


@contextmanager
def thread_count(count: int | None) -> Iterator[None]:
    """Use a number of CPU threads within a ``with`` block; None changes nothing."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_large_blocks() -> bool:
    """Have glibc serve all blocks from its heap, and keep what is freed there.

    It holds for the whole process, from now on. Resident memory stays at its peak between steps.

    Returns:
        Whether it is so: False where the C library is another.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl, say
        return False
    kept = library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(kept)
