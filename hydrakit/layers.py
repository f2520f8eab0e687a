"""Dropout that costs little on a CPU: masks from 16-bit pieces of random words.

PyTorch draws one Bernoulli number after another: 37 ms for the largest maps of a batch of 32 (3.8
million numbers, 2 cores), as long as the forward convolutions. Random words cut into four pieces
take 6 ms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIECES = 2**16  # probabilities are kept so finely on a CPU


class Dropout(nn.Dropout):
    """Dropout as `torch.nn.Dropout`; its probability is rounded to 1/65536 on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """Make each number 0 with the layer's probability, and scale the others up."""
        if not self.training or self.p == 0:
            return input
        return input * self.mask(input) * self.scale

    @property
    def scale(self) -> float:
        """What the kept numbers are multiplied by, so that the mean stays."""
        return 1 / (1 - self.p)

    def mask(self, like: Tensor) -> Tensor:
        """Which numbers of a tensor are kept: true or false, in its shape, on its device."""
        if like.device.type == "cpu" and not torch.compiler.is_compiling():
            return kept(pieces(like), self.p)
        return torch.rand(like.shape, device=like.device) >= self.p


def pieces(like: Tensor) -> Tensor:
    """Random int16 numbers from torch's generator of the CPU, in a tensor's shape and layout."""
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    if not _is_dense(like):
        like = like.contiguous()
    return words.view(torch.int16)[:count].as_strided(like.shape, like.stride())


def kept(pieces: Tensor, probability: float) -> Tensor:
    """Which pieces stand for a number that is kept, where one is dropped with a probability."""
    return pieces >= min(round(probability * PIECES), PIECES - 1) - PIECES // 2


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie without gaps, in whatever order of its axes."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
