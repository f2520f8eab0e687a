"""New batch-norm statistics for the final weights of a round (`refresh_statistics`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from hydrakit.data.load import LoadedDataset, cases_at_once
from hydrakit.models.body import BodyModule
from hydrakit.models.layers import DatasetNorm
from hydrakit.training.epochs import features_of
from hydrakit.training.seeds import STATISTICS, Seeds

BATCH = 128  # patches of all datasets together; fewer if they are larger than the paper's


Part = tuple[nn.Module, LoadedDataset]


def refresh_statistics(body: BodyModule, parts: Sequence[Part], seeds: Seeds) -> bool:
    """Estimate the batch-norm statistics of a body anew, over the training splits of a round.

    Every training patch is used once: unaugmented and without dropout, since the statistics are
    used for such patches. The statistics are the mean over batches in random order. Averaged
    weights need it most: their statistics would be an average of those of other weights.

    Args:
        body: Body with its final weights.
        parts: Heads of the round, each with its dataset; their stems have their final weights, too.
        seeds: Seeds of the round.

    Returns:
        Whether the body has batch-norm statistics.
    """
    norms = [
        module
        for module in body.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.running_mean is not None
    ]
    if not norms:
        return False
    before = [(norm.momentum, deepcopy(norm.state_dict())) for norm in norms]
    body.eval()  # also without dropout
    for norm in norms:
        norm.train()
        if not isinstance(norm, DatasetNorm):
            norm.reset_running_stats()
            norm.momentum = None  # the mean of all batches
    # A body with separate statistics gets one dataset after the other.
    groups = [[part] for part in parts] if body.by_dataset else [parts]
    with torch.no_grad():
        for group in groups:
            heads, datasets = [head for head, _ in group], [data for _, data in group]
            names = [data.name for data in datasets]
            for number, images in enumerate(_batches(datasets, seeds), start=1):
                for norm in norms:
                    if isinstance(norm, DatasetNorm):
                        norm.momentum = 1 / number  # the mean of the batches of this dataset
                features_of(body, heads, names, images)
    for norm, (momentum, state) in zip(norms, before, strict=True):
        norm.momentum = momentum
        if not isinstance(norm, DatasetNorm) and not norm.num_batches_tracked:
            norm.load_state_dict(state)  # no dataset of the round uses it
    body.eval()
    return True


def _batches(parts: Sequence[LoadedDataset], seeds: Seeds) -> Iterator[list[Tensor]]:
    """Unaugmented training patches of each dataset; a batch has the same share of each."""
    device = parts[0].train.device
    counts = [len(part.train_labels) for part in parts]
    batches = min(-(-sum(counts) // cases_at_once(BATCH, parts[0].patch)), *counts)
    generator = seeds.generator(STATISTICS)
    rows = [
        torch.randperm(count, generator=generator).to(device).tensor_split(batches)
        for count in counts
    ]
    for chosen in zip(*rows, strict=True):
        yield [
            part.train.views(own, None, part.patch) for part, own in zip(parts, chosen, strict=True)
        ]
