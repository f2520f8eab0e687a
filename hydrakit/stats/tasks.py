"""All that differs between classification, regression and multi-label tasks.

A head has one output per class (a logit), one per label (a logit), or a single one for a number.
For training, a number is standardised by the mean and standard deviation of the training split;
everything that a user sees is in the number's own unit. An unknown answer of a multi-label case is
NaN in targets: no loss and no metric counts it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from hydrakit.hooks import Label, Task
from hydrakit.plan.results import AreaUnderCurve, Metrics, Subgroup
from hydrakit.stats.findings import Floats, Subgroups, each_subgroup, enough_for_auc
from hydrakit.stats.metrics import auc, mean_absolute_error, r_squared

Scale = tuple[float, float]  # mean and standard deviation of a number over the training split
Targets = NDArray[np.float64] | NDArray[np.int64]


def targets_of(labels: Sequence[Label], task: Task) -> Targets:
    """Labels as an array: ``(cases,)`` class indices, else ``(cases, outputs)`` numbers.

    None in a label of several parts becomes NaN.
    """
    if task == "classification":
        return np.array(labels, dtype=np.int64).reshape(len(labels))
    return np.array(labels, dtype=np.float64).reshape(len(labels), -1)


def scale_of(targets: Targets, task: Task) -> Scale | None:
    """Mean and standard deviation of the numbers of a regression task; None for other tasks."""
    if task != "regression":
        return None
    spread = float(targets.std())
    return float(targets.mean()), spread if spread > 0 else 1.0


def to_tensor(targets: Targets, scale: Scale | None) -> Tensor:
    """Targets for training: int64 class indices, or float32 numbers, standardised by the scale."""
    if targets.dtype == np.int64:
        return torch.from_numpy(targets)
    mean, spread = scale or (0.0, 1.0)
    return torch.from_numpy((targets - mean) / spread).float()


def from_tensor(targets: Tensor, scale: Scale | None) -> Tensor:
    """Inverse of `to_tensor`: class indices unchanged, numbers in their own unit, on the CPU."""
    if targets.dtype == torch.int64:
        return targets
    mean, spread = scale or (0.0, 1.0)
    return targets.cpu().double() * spread + mean


def strata(labels: Sequence[Label], task: Task, classes: Sequence[str]) -> NDArray[np.float64]:
    """Strata of the cases for stratified splits: ``(cases, strata)``, 1 for membership, else 0.

    The strata are the classes, or each label's presence and its absence for a multi-label task: an
    unknown one is in neither. In a regression task there is a single stratum.
    """
    if task == "regression":
        return np.ones((len(labels), 1))
    if task == "multilabel":
        answers = np.array(labels, dtype=np.float64).reshape(len(labels), len(classes))
        return np.concatenate([answers == 1, answers == 0], axis=1).astype(np.float64)
    return np.eye(len(classes))[np.array(labels, dtype=np.int64)]


def strata_names(task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `strata`."""
    if task == "multilabel":
        return (*classes, *(f"not {name}" for name in classes))
    return tuple(classes)


def loss_of(
    outputs: Tensor, targets: Tensor, *, task: Task, loss: str, smoothing: float = 0.0
) -> Tensor:
    """Mean loss of a head's outputs.

    Cross-entropy for classes (``softmax-cross-entropy`` applies the softmax twice, as the authors
    did), binary cross-entropy for labels, and half the squared error for a number. Of several
    labels, the mean is over the answers that are known, and 0 if none is.

    Args:
        outputs: Outputs of the head, ``(cases, outputs)``.
        targets: Targets as `to_tensor` makes them: a number is standardised.
        task: Task of the dataset.
        loss: Name of the loss, as in `Hyperparameters`; it matters for classification only.
        smoothing: Share of each label's probability that is spread over all classes, or over yes
            and no; only for training. A number is not changed.
    """
    if task == "regression":
        return functional.mse_loss(outputs, targets) / 2
    if task == "multilabel":
        targets = targets * (1 - smoothing) + smoothing / 2 if smoothing else targets
        unknown = targets.isnan()
        # On a GPU nothing asks whether there are any: the answer would take a synchronisation.
        if targets.device.type == "cpu" and not unknown.any():
            return functional.binary_cross_entropy_with_logits(outputs, targets)
        total = functional.binary_cross_entropy_with_logits(
            outputs, targets.nan_to_num(), weight=(~unknown).to(outputs.dtype), reduction="sum"
        )
        return total / (~unknown).sum().clamp(min=1)
    if loss == "softmax-cross-entropy":
        outputs = functional.softmax(outputs, dim=1)
    return functional.cross_entropy(outputs, targets, label_smoothing=smoothing)


def metrics_of(
    outputs: Tensor | Floats,
    targets: Tensor | Targets,
    *,
    task: Task,
    loss: str = "cross-entropy",
    scale: Scale | None = None,
) -> Metrics:
    """Loss and metrics of a head's outputs.

    With two classes the AUC is that of the second one; with more classes, or several labels, it is
    the mean of each one's AUC against all others. Of several labels, unknown answers do not count.

    Args:
        outputs: Outputs of the head, ``(cases, outputs)``, float64, finite, on any device.
        targets: Targets as `targets_of` makes them, on the same device: a number is in its own
            unit.
        task: Task of the dataset.
        loss: Name of the loss, as in `loss_of`.
        scale: Scale of the number in a regression task.

    Raises:
        ValueError: A class has no case.
    """
    outputs, targets = torch.as_tensor(outputs), torch.as_tensor(targets)
    mean, spread = scale or (0.0, 1.0)
    standardised = (targets - mean) / spread if task == "regression" else targets
    value = float(loss_of(outputs, standardised, task=task, loss=loss))
    observed = targets.cpu().numpy()
    if task == "regression":
        predicted = (outputs * spread + mean).cpu().numpy()
        error = mean_absolute_error(predicted, observed)
        return Metrics(loss=value, mae=error, r2=r_squared(predicted, observed))
    if task == "multilabel":
        logits = outputs.cpu().numpy()
        known = ~np.isnan(observed)
        aucs = [
            auc(scores[inside], answers[inside])
            for scores, answers, inside in zip(logits.T, observed.T, known.T, strict=True)
        ]
        right = ((outputs > 0) == (targets == 1))[~targets.isnan()]
        correct = float(right.double().mean())
        return Metrics(loss=value, auc=float(np.mean(aucs)), accuracy=correct)
    probabilities = functional.softmax(outputs, dim=1)
    correct = float((probabilities.argmax(dim=1) == targets).double().mean())
    table = probabilities.cpu().numpy()
    classes = [1] if table.shape[1] == 2 else range(table.shape[1])
    aucs = [auc(table[:, label], observed == label) for label in classes]
    return Metrics(loss=value, auc=float(np.mean(aucs)), accuracy=correct)


def predictions(outputs: Floats, *, task: Task, scale: Scale | None = None) -> Floats:
    """Predictions for users: probabilities of the classes or labels, or the number in its unit.

    Raises:
        ValueError: An output is not finite.
    """
    if not np.isfinite(outputs).all():
        raise ValueError("an output of the network is not finite")
    if task == "regression":
        mean, spread = scale or (0.0, 1.0)
        return outputs * spread + mean
    if task == "multilabel":
        return 1 / (1 + np.exp(-outputs))
    from scipy.special import softmax

    return np.asarray(softmax(outputs, axis=1), dtype=np.float64)


def outputs_of(predicted: Floats, *, task: Task, scale: Scale | None = None) -> Floats:
    """Inverse of `predictions`: outputs of a head that would give these predictions.

    Probabilities of 0 and 1, which no finite output gives, are replaced by the nearest ones that
    some output gives.
    """
    if task == "regression":
        mean, spread = scale or (0.0, 1.0)
        return (predicted - mean) / spread
    inner = predicted.clip(np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    if task == "multilabel":
        return np.asarray(np.log(inner) - np.log1p(-inner), dtype=np.float64)
    return np.asarray(np.log(inner), dtype=np.float64)


def mean_outputs(members: Sequence[Floats], *, task: Task, scale: Scale | None = None) -> Floats:
    """Outputs that give the mean of the predictions of several outputs for the same cases.

    A single member, and outputs that are not finite, come back as they are: the latter as a member
    that has them.

    Args:
        members: Outputs of a head, each ``(cases, outputs)``.
        task: Task of the dataset.
        scale: Scale of the number in a regression task.
    """
    for member in members:
        if len(members) == 1 or not np.isfinite(member).all():
            return member
    mean = np.mean([predictions(each, task=task, scale=scale) for each in members], axis=0)
    return outputs_of(mean, task=task, scale=scale)


def auc_with_interval(
    scores: Floats, positive: NDArray[np.bool_], class_name: str
) -> AreaUnderCurve:
    """AUC of a class with Newcombe's 95 % interval.

    Args:
        scores: Probability of the class, ``(findings,)``.
        positive: Whether a finding is of the class, ``(findings,)``.
        class_name: Name of the class.

    Raises:
        ValueError: All findings are of the class, or none is.
    """
    value = auc(scores, positive)
    positives = int(positive.sum())
    negatives = len(positive) - positives
    from hydrakit.stats.intervals import newcombe_interval

    low, high = newcombe_interval(value, positives, negatives)
    return AreaUnderCurve(
        class_name=class_name,
        auc=value,
        low=low,
        high=high,
        positives=positives,
        negatives=negatives,
    )


def class_aucs(
    scores: Floats, targets: Targets, *, task: Task, classes: Sequence[str]
) -> tuple[AreaUnderCurve, ...]:
    """AUC of each class or label with its interval; with two classes only that of the second.

    Args:
        scores: Predictions as `predictions` makes them, ``(findings, outputs)``.
        targets: Targets as `targets_of` makes them.
        task: Task of the dataset.
        classes: Names of the classes or labels.
    """
    return tuple(
        auc_with_interval(scores[known, label], positive[known], classes[label])
        for label, known, positive in positives_of(targets, task=task, classes=classes)
    )


def subgroup_aucs(
    scores: Floats,
    targets: Targets,
    subgroups: Sequence[Subgroups],
    *,
    task: Task,
    classes: Sequence[str],
) -> tuple[Subgroup, ...]:
    """AUC of each class or label in each subgroup; only counts where the findings are too few.

    Args:
        scores: Predictions as `predictions` makes them, ``(findings, outputs)``.
        targets: Targets as `targets_of` makes them.
        subgroups: Subgroups of each finding.
        task: Task of the dataset.
        classes: Names of the classes or labels.
    """
    results = []
    for name, value, inside in each_subgroup(subgroups):
        for label, known, positive in positives_of(targets, task=task, classes=classes):
            members = inside & known
            of_subgroup = positive[members]
            counts = {
                "positives": int(of_subgroup.sum()),
                "negatives": int((~of_subgroup).sum()),
            }
            fields: dict[str, object] = {"class_name": classes[label], **counts}
            if enough_for_auc(**counts):
                fields = dict(
                    auc_with_interval(scores[members, label], of_subgroup, classes[label])
                )
            results.append(Subgroup.model_validate({"name": name, "value": value, **fields}))
    return tuple(results)


def positives_of(
    targets: Targets, *, task: Task, classes: Sequence[str]
) -> list[tuple[int, NDArray[np.bool_], NDArray[np.bool_]]]:
    """Each class or label that has an AUC: its index, the known targets, and the positive ones.

    Both are masks ``(cases,)``; an unknown target is not positive. With two classes only the second
    is there; a regression task has none.
    """
    if task == "regression":
        return []
    if task == "multilabel":
        return [
            (label, ~np.isnan(targets[:, label]), targets[:, label] == 1)
            for label in range(len(classes))
        ]
    labels = [1] if len(classes) == 2 else range(len(classes))
    every = np.ones(len(targets), dtype=np.bool_)
    return [(label, every, targets == label) for label in labels]
