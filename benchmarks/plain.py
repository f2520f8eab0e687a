"""The paper's network as anyone would write it in PyTorch, and figures in plain NumPy.

Nothing of hydrakit is in it: this is what hydrakit's network is compared with, in speed here and in
its numbers in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CHANNELS = (32, 64, 128)
FEATURES = 256
CLASSES = 2


def plain_body(
    *,
    channels: Sequence[int] = CHANNELS,
    inputs: int = 1,
    patch: int = 65,
    features: int = FEATURES,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Blocks of convolutions, batch norm, ELU, dropout and pooling; a dense layer (Section III).

    Gives a module ``(batch, inputs, patch, patch) -> (batch, features)``.
    """
    layers: list[nn.Module] = []
    for outputs in channels:
        for into, kernel in ((inputs, 3), (outputs, 3), (outputs, 1)):
            layers += [nn.Conv2d(into, outputs, kernel), nn.BatchNorm2d(outputs), nn.ELU()]
        layers += [nn.Dropout(dropout), nn.MaxPool2d(2)]
        inputs, patch = outputs, (patch - 4) // 2
    dense = nn.Linear(inputs * patch**2, features)
    return nn.Sequential(*layers, nn.Flatten(), dense, nn.ELU(), nn.Dropout(dropout))


def plain_head(
    *, features: int = FEATURES, classes: int = CLASSES, dropout: float = 0.0
) -> nn.Sequential:
    """Dense layers to 64, to 16 and to the classes: ``(batch, features)`` to logits."""
    return nn.Sequential(
        nn.Linear(features, 64),
        nn.ELU(),
        nn.Dropout(dropout),
        nn.Linear(64, 16),
        nn.ELU(),
        nn.Linear(16, classes),
    )


def take_weights(network: nn.Module, tensors: Sequence[Tensor]) -> None:
    """Put tensors into a network, in the order in which its own state lists them.

    Raises:
        ValueError: There are more or fewer than it has, or of other shapes.
    """
    names = network.state_dict()
    if [t.shape for t in tensors] != [t.shape for t in names.values()]:
        raise ValueError("these are not the tensors of this network")
    network.load_state_dict(dict(zip(names, tensors, strict=True)))


def auc(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Area under the ROC curve from the ranks of the scores ``(cases,)``; ties count one half."""
    ordered = np.sort(scores)
    positive = scores[labels == 1]
    below = np.searchsorted(ordered, positive, "left")
    ranks = (below + np.searchsorted(ordered, positive, "right") + 1) / 2
    count, rest = len(positive), len(scores) - len(positive)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * rest))


def figures(logits: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Loss (of the softmax of the softmax, as the authors took it), accuracy and AUC."""
    chances = nn.functional.softmax(logits, dim=1)
    loss = float(nn.functional.cross_entropy(chances, labels))
    accuracy = float((chances.argmax(dim=1) == labels).float().mean())
    return loss, accuracy, auc(chances[:, 1].double().numpy(), labels.numpy())


def starts(seeds: Sequence[int], images: Tensor, labels: Tensor, *, batch: int) -> list[float]:
    """The AUC of a random start for each seed, one after the other.

    Args:
        seeds: Of torch's generator: as many starts.
        images: ``(cases, channels, patch, patch)``.
        labels: ``(cases,)``.
        batch: Images at a time.
    """
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        network = nn.Sequential(plain_body(), plain_head())
        found.append(figures(looked_at(network, images, batch=batch), labels)[2])
    return found


def looked_at(network: nn.Module, images: Tensor, *, batch: int) -> Tensor:
    """The logits of a network in evaluation mode."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(part) for part in images.split(batch)])
