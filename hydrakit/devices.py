"""Which device a run is on, and how it is kept to repeatable results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hydrakit.errors import PlanError


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
def deterministic() -> Iterator[None]:
    """Have cuDNN choose algorithms that repeat their results, as the CPU's do."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
