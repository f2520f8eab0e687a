"""The head `blend`: a dense layer, blended with a regression on grey values alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hydrakit.models.layers import Dropout


class BlendedHead(nn.Module):
    """A dense layer that is trained, and a regression that is solved exactly.

    In training, its outputs are those of the dense layer alone. In evaluation mode, they are the
    weighted mean of both: for classes and labels, the mean of two log-odds.

    Args:
        features: Number of features.
        outputs: Number of outputs.
        share: Weight of the dense layer in the mean, from 0 to 1; the regression has the rest.
            None: a half, until training chooses it on validation.

    Attributes:
        logits: Dense layer on all features.
        share: Weight of the dense layer in the mean, a number.
        chooses_share: Whether training chooses it (`hydrakit.training.exact.choose_share`).
        regression: Linear layer on the first-order statistics among the features; its other weights
            are 0. It needs no gradient: `hydrakit.training.exact.fit_blend` solves it.
    """

    share: Tensor

    def __init__(self, features: int, outputs: int, share: float | None = None) -> None:
        super().__init__()
        self.chooses_share = share is None
        self.register_buffer("share", torch.tensor(0.5 if share is None else share))
        self.dropout = Dropout(0.0)
        self.logits = nn.Linear(features, outputs)
        self.regression = nn.Linear(features, outputs).requires_grad_(False)
        nn.init.zeros_(self.regression.weight)
        nn.init.zeros_(self.regression.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Turn features ``(batch, features)`` into logits ``(batch, outputs)``."""
        logits: Tensor = self.logits(self.dropout(features))
        if self.training:
            return logits
        regression: Tensor = self.regression(features)
        return self.share * logits + (1 - self.share) * regression

    def set_regression(self, weights: Tensor, bias: Tensor) -> None:
        """Set the regression on the last features.

        Args:
            weights: Weights ``(outputs, last)`` of the last features.
            bias: Bias ``(outputs,)``.
        """
        with torch.no_grad():
            self.regression.weight.zero_()
            self.regression.weight[:, -weights.shape[1] :].copy_(weights)
            self.regression.bias.copy_(bias)
