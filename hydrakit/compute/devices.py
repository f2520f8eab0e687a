"""Device, precision and repeatability of computations, CPU threads and the memory allocator."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import nn

from hydrakit.errors import PlanError
from hydrakit.schema import Precision

# Large pages of memory for large tensors, where Linux gives them on request (its usual setting):
# 1.1 to 1.2 times as fast in training. PyTorch reads this before its first tensor.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


@dataclass(frozen=True)
class Compute:
    """How training is computed. A plan does not contain it; a run's ``environment.json`` does.

    Attributes:
        device: Device of the data and the network.
        precision: Precision of convolutions and matrix products in training steps. Weights, their
            updates, losses and all evaluation are float32, and so are heads that train on cached
            features (`for_cached_features`).
        deterministic: Whether the same seed gives the same bits. A CPU always does; on CUDA it
            costs speed; Apple's GPUs cannot.
        compiled: Whether training steps use `torch.compile`.
        graphs: Whether training steps and evaluations on a GPU are replayed as CUDA graphs. It
            changes no result.
    """

    device: torch.device
    precision: Literal["float32", "bfloat16"] = "float32"
    deterministic: bool = True
    compiled: bool = False
    graphs: bool = False

    @property
    def has_float64(self) -> bool:
        """Whether the device computes in float64; Apple's GPUs do not."""
        return self.device.type != "mps"

    def training(self) -> torch.autocast:
        """Autocast context of a forward pass in training."""
        enabled = self.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def for_cached_features(self) -> Compute:
        """How to train a head on cached features: on the CPU in float32, also if there is a GPU.

        A step of a head is too small for a GPU, which waits for Python to start each kernel: it
        takes 1.6 ms on an H100 and 0.5 ms on one CPU core.
        """
        if self.device.type == "cpu":
            return self
        return Compute(torch.device("cpu"))

    def compiled_if_wanted(self, model: nn.Module, *, replayed: bool = False) -> nn.Module:
        """The model, compiled with `torch.compile` if `compiled` is set; weights are shared.

        Args:
            model: Model to compile.
            replayed: Whether the whole step is replayed as a CUDA graph (`graphs.Replayed`); if
                not, forward and backward pass on CUDA become graphs of their own.
        """
        if not self.compiled:
            return model
        mode = "reduce-overhead" if self.device.type == "cuda" and not replayed else "default"
        return cast(nn.Module, torch.compile(model, mode=mode))


def choose_compute(
    device: str = "auto",
    *,
    precision: Precision = "auto",
    deterministic: bool = False,
    compiled: bool = False,
    graphs: bool = True,
) -> Compute:
    """Choose device and precision.

    Args:
        device: Name of the device, as for `choose_device`.
        precision: ``auto`` is bfloat16 on CUDA and float32 elsewhere.
        deterministic: Whether CUDA repeats the same bits from the same seed: with repeatable
            algorithms, and with float32 unless ``precision`` says otherwise.
        compiled: Whether training steps use `torch.compile`.
        graphs: Whether a GPU replays steps as CUDA graphs; without effect elsewhere.

    Raises:
        PlanError: This machine has no such device, or it cannot be ``deterministic``.
    """
    chosen = choose_device(device)
    if deterministic and chosen.type == "mps":
        raise PlanError(
            f"device {device!r}: an Apple GPU cannot repeat the same bits: leave out "
            "`--deterministic`, or use `--device cpu`"
        )
    if precision == "auto":
        fast = chosen.type == "cuda" and not deterministic and torch.cuda.is_bf16_supported()
        precision = "bfloat16" if fast else "float32"
    return Compute(
        chosen,
        precision,
        deterministic or chosen.type == "cpu",
        compiled,
        graphs and chosen.type == "cuda",
    )


def choose_device(name: str) -> torch.device:
    """Device with a name: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    ``auto`` is CUDA or else the CPU; ``mps``, the GPU of a Mac, is used only on request.

    Raises:
        PlanError: This machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps") or device.type not in ("cuda", name):
        raise PlanError(f"device {name!r}: must be auto, cpu, cuda, cuda:N or mps")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PlanError(
            f"device {name!r}: torch {torch.__version__} sees no GPU of a Mac here: use "
            "`--device cpu`"
        )
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
    """Make cuDNN choose repeatable algorithms within a ``with`` block, if `compute` requires it.

    cuDNN does not measure all algorithms (`cudnn.benchmark`): this took 4 of the 14 s of a run of
    seven rounds on an H100, and its epochs were not faster.
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
    """Move a module to another device within a ``with`` block."""
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


def peak_memory(device: torch.device) -> int | None:
    """Peak memory of the process in bytes: on a GPU its own memory, else main memory.

    None if the system does not report it.
    """
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_large_blocks() -> bool:
    """Make glibc allocate all blocks on its heap, and not return freed memory to the system.

    The setting holds for the rest of the process. Repeated allocations become faster; the memory
    of the process stays at its peak between steps.

    Returns:
        Whether the setting was made; False with other C libraries.
    """
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # for example musl
        return False
    succeeded = library.mallopt(_M_MMAP_MAX, 0) and library.mallopt(_M_TRIM_THRESHOLD, _LARGEST)
    return bool(succeeded)
