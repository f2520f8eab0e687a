"""Reads checkpoints of PyTorch from elsewhere, as plain tensors.

This is the one place that calls ``torch.load``, with ``weights_only=True``: PyTorch then builds
tensors and runs no code that a file names.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from hydrakit.errors import WeightsError
from hydrakit.storage.files import MAX_WEIGHTS, open_regular, reason

WRAPPERS = ("state_dict", "model_state_dict", "model", "network", "net", "weights")
"""Keys under which training scripts store the state_dict of a network beside other values."""


def read_checkpoint(path: Path, *, remedy: str, wrapped: bool = False) -> Mapping[str, Tensor]:
    """Read the tensors of a state_dict, by name, on the CPU.

    Args:
        path: File written by ``torch.save(model.state_dict())``, in the old or the new format.
        remedy: What the user can do if it cannot be read.
        wrapped: Whether the state_dict may be beside other values, under one of `WRAPPERS`.

    Raises:
        WeightsError: PyTorch cannot read the file as plain tensors, or it holds something else.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_WEIGHTS:
                raise ValueError(f"it has {size} bytes, and {MAX_WEIGHTS} are allowed")
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({reason(error)}): {remedy}") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the checks below decide
            state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # a damaged pickle can raise any class
        raise WeightsError(
            f"{path}: PyTorch cannot read it as plain tensors ({type(error).__name__}): {remedy}, "
            "or download it again"
        ) from error
    if wrapped and isinstance(state, Mapping):
        state = next((state[key] for key in WRAPPERS if isinstance(state.get(key), Mapping)), state)
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and _is_plain(tensor) for name, tensor in state.items()
    ):
        raise WeightsError(
            f"{path}: holds a {type(state).__name__} that is not a state_dict: {remedy}"
        )
    return state


def _is_plain(tensor: object) -> bool:
    """Whether an object is a dense tensor on the CPU."""
    return (
        isinstance(tensor, Tensor)
        and not tensor.is_nested
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )
