"""The network of the head `cosine`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class CosineHead(nn.Module):
    """The cosine between the features and one direction per class, times a trained scale.

    The length of the features does not count: an image with strong contrast gets no larger logits
    than the same image with weak contrast.
    """

    def __init__(self, features: int, outputs: int, scale: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout()  # hydrakit sets its probability
        self.directions = nn.Parameter(torch.randn(outputs, features))
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits ``(batch, outputs)`` of features ``(batch, features)``."""
        seen = functional.normalize(self.dropout(features), dim=1)
        cosines = functional.linear(seen, functional.normalize(self.directions, dim=1))
        return self.log_scale.exp() * cosines
