"""Solves a head of one linear layer exactly: a penalised regression on features of the body."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from hydrakit.compute import signals
from hydrakit.compute.modules import only_layer
from hydrakit.data.load import CHUNK_CASES, CaseSet, LoadedDataset, cases_at_once
from hydrakit.errors import DataError, PlanError
from hydrakit.models.blend import BlendedHead
from hydrakit.models.body import BodyModule
from hydrakit.models.stem import extractor, head_without_stems
from hydrakit.stats import regression
from hydrakit.stats.regression import LinearModel
from hydrakit.training.evaluation import compute_metrics, forward_in_batches


def features_of(data: LoadedDataset, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Features of all training patches, each unaugmented, ``(cases, features)``, on the CPU.

    Args:
        data: Dataset with the training patches.
        compute: Computes the features ``(n, features)`` of images.
    """
    chunks = []
    count = cases_at_once(CHUNK_CASES, data.patch)
    for chosen in torch.arange(len(data.train), device=data.train.device).split(count):
        signals.check()
        chunks.append(compute(data.train.views(chosen, None, data.patch)).cpu())
    return torch.cat(chunks)


def fit(data: LoadedDataset, features: Tensor, penalty: float | None) -> LinearModel:
    """Fit a regression to the training cases of a dataset.

    Args:
        data: Dataset with the labels and patients of the cases.
        features: Features of the cases, ``(cases, features)``.
        penalty: Penalty; None chooses it by cross-validation, patient by patient.

    Raises:
        PlanError: A feature is not finite.
        DataError: The penalty cannot be chosen, because all cases are of one patient.
    """
    values = features.double().numpy()
    if not np.isfinite(values).all():
        raise PlanError(
            f"{data.name}: the body gives features that are not finite: correct its code or its "
            "options, or train it with a lower learning rate"
        )
    targets, outputs = data.train_labels.numpy(), len(data.classes)
    if penalty is not None:
        return regression.fit(values, targets, task=data.task, outputs=outputs, penalty=penalty)
    try:
        return regression.fit_with_chosen_penalty(
            values, targets, data.train_patients, task=data.task, outputs=outputs
        )
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from None


def put_into(head: nn.Module, model: LinearModel) -> None:
    """Give the linear layer of a head the weights of a regression.

    Raises:
        ValueError: The head is not one linear layer (`hydrakit.models.build.check_builds`).
    """
    layer = only_layer(head)
    if layer is None:
        raise ValueError("the head is not one linear layer")
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(model.weights.T))
        layer.bias.copy_(torch.from_numpy(model.bias))


def fit_blend(
    head: nn.Module, body: BodyModule, data: LoadedDataset, penalty: float | None
) -> None:
    """Solve the regression of a blended head on the first-order statistics of the training patches.

    It is calibrated (`regression.calibrated`), so that a regression that predicts little counts
    little in the mean.

    Args:
        head: A `BlendedHead`, perhaps with stems, on the device of the data. The statistics are
            those of the images behind the stem.
        body: Body whose last ``intensities`` features are the statistics.
        data: Dataset of the head.
        penalty: Penalty; None chooses it by cross-validation, patient by patient.

    Raises:
        PlanError: A feature is not finite.
        DataError: The penalty cannot be chosen, because all cases are of one patient.
    """
    module, blended = extractor(body, head, data.name), head_without_stems(head)
    assert isinstance(blended, BlendedHead)
    features = features_of(data, partial(forward_in_batches, module))
    intensities = features[:, -body.intensities :]
    model = fit(data, intensities, penalty)
    try:
        model = regression.calibrated(
            model,
            intensities.double().numpy(),
            data.train_labels.numpy(),
            data.train_patients,
            task=data.task,
            outputs=len(data.classes),
        )
    except DataError as error:
        raise DataError(f"{data.name}: {error}") from None
    weights, bias = (torch.from_numpy(each).float() for each in (model.weights.T, model.bias))
    blended.set_regression(weights, bias)


SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)
"""Weights of a blended head's dense layer to choose from; of equal ones the first is chosen."""


def choose_share(head: BlendedHead, features: Tensor, val: CaseSet) -> None:
    """Set the weight of a blended head's dense layer to the one with the best validation score.

    Args:
        head: Head.
        features: Features of the validation cases, ``(cases, features)``.
        val: Validation split.
    """

    def score(share: float) -> float:
        head.share.fill_(share)
        outputs = forward_in_batches(head, features)
        return compute_metrics(
            outputs, val.labels, task=val.task, loss="cross-entropy", scale=val.scale
        ).score

    head.share.fill_(max(SHARES, key=score))
