"""What differs between classification, regression and multi-label tasks, in one place.

A head gives one output per class (logits), per label (a logit each), or for the one number. While
a head learns a number, the number is standardised by mean and standard deviation of the training
split; everything that a user sees is in the number's own unit.
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
from hydrakit.stats import metrics
from hydrakit.stats.findings import Subgroups, enough, parts
from hydrakit.stats.intervals import newcombe_interval

Scale = tuple[float, float]  # mean and standard deviation of a number over the training split


def targets_of(labels: Sequence[Label], task: Task) -> NDArray[np.float64] | NDArray[np.int64]:
    """Labels as an array: ``(cases,)`` class indices, else ``(cases, outputs)`` numbers."""
    if task == "classification":
        return np.array(labels, dtype=np.int64).reshape(len(labels))
    return np.array(labels, dtype=np.float64).reshape(len(labels), -1)


def scale_of(targets: NDArray[np.float64] | NDArray[np.int64], task: Task) -> Scale | None:
    """How a number is standardised for training; None where there is no number."""
    if task != "regression":
        return None
    spread = float(targets.std())
    return float(targets.mean()), spread if spread > 0 else 1.0


def to_tensor(targets: NDArray[np.float64] | NDArray[np.int64], scale: Scale | None) -> Tensor:
    """Targets for training: int64 class indices, else float32 numbers, standardised."""
    if targets.dtype == np.int64:
        return torch.from_numpy(targets)
    mean, spread = scale or (0.0, 1.0)
    return torch.from_numpy((targets - mean) / spread).float()


def from_tensor(targets: Tensor, scale: Scale | None) -> Tensor:
    """The reverse of `to_tensor`: class indices as they are, numbers in their own unit."""
    if targets.dtype == torch.int64:
        return targets
    mean, spread = scale or (0.0, 1.0)
    return targets.double() * spread + mean


def strata(labels: Sequence[Label], task: Task, classes: Sequence[str]) -> NDArray[np.float64]:
    """What splits are to hold evenly: ``(cases, strata)``, 1 where a case belongs to a stratum.

    The classes; of a multi-label task each label and its absence; of a number a single stratum.
    """
    if task == "regression":
        return np.ones((len(labels), 1))
    if task == "multilabel":
        present = np.array(labels, dtype=np.float64).reshape(len(labels), len(classes))
        return np.concatenate([present, 1 - present], axis=1)
    return np.eye(len(classes))[np.array(labels, dtype=np.int64)]


def strata_names(task: Task, classes: Sequence[str]) -> tuple[str, ...]:
    """Names of the columns of `strata`."""
    if task == "multilabel":
        return (*classes, *(f"not {name}" for name in classes))
    return tuple(classes)


def loss_of(outputs: Tensor, targets: Tensor, *, task: Task, loss: str) -> Tensor:
    """Mean loss of a head's outputs.

    Cross-entropy of the classes (``softmax-cross-entropy`` takes the softmax twice, as the
    authors did), binary cross-entropy of each label, or half the squared error of the number.

    Args:
        outputs: ``(cases, outputs)``.
        targets: As `targets_of` gives them; a number is standardised.
        task: What a label is.
        loss: As in `Hyperparameters`; it matters to classification alone.
    """
    if task == "regression":
        return functional.mse_loss(outputs, targets) / 2
    if task == "multilabel":
        return functional.binary_cross_entropy_with_logits(outputs, targets)
    if loss == "softmax-cross-entropy":
        outputs = functional.softmax(outputs, dim=1)
    return functional.cross_entropy(outputs, targets)


def figures(
    outputs: Tensor | NDArray[np.float64],
    targets: Tensor | NDArray[np.float64] | NDArray[np.int64],
    *,
    task: Task,
    loss: str = "cross-entropy",
    scale: Scale | None = None,
) -> Metrics:
    """The figures of a head's outputs ``(cases, outputs)``, which are finite.

    They are computed where the outputs are. Training asks for them twice in every epoch.

    Args:
        outputs: As the head gives them, float64.
        targets: As `targets_of` gives them, on the same device; a number is in its own unit.
        task: What a label is.
        loss: As in `loss_of`.
        scale: Of a number.

    Raises:
        ValueError: A class has no case.
    """
    outputs, targets = torch.as_tensor(outputs), torch.as_tensor(targets)
    mean, spread = scale or (0.0, 1.0)
    wanted = (targets - mean) / spread if task == "regression" else targets
    value = float(loss_of(outputs, wanted, task=task, loss=loss))
    if task == "regression":
        numbers = (outputs * spread + mean).cpu().numpy()
        error = metrics.mean_absolute_error(numbers, targets.cpu().numpy())
        return Metrics(loss=value, mae=error, r2=metrics.r_squared(numbers, targets.cpu().numpy()))
    if task == "multilabel":
        aucs = [area(outputs[:, k], targets[:, k] > 0.5) for k in range(targets.shape[1])]
        right = float(((outputs > 0) == (targets > 0.5)).double().mean())
        return Metrics(loss=value, auc=float(np.mean(aucs)), accuracy=right)
    probabilities = functional.softmax(outputs, dim=1)
    classes = [1] if outputs.shape[1] == 2 else range(outputs.shape[1])
    return Metrics(
        loss=value,
        auc=float(np.mean([area(probabilities[:, k], targets == k) for k in classes])),
        accuracy=float((probabilities.argmax(dim=1) == targets).double().mean()),
    )


def area(scores: Tensor, positive: Tensor) -> float:
    """The AUC as `metrics.auc` gives it, on any device.

    Args:
        scores: ``(cases,)``, higher for positive.
        positive: ``(cases,)``, true or false.

    Raises:
        ValueError: There are no positive cases, or no others.
    """
    yes, no = scores[positive], scores[~positive].sort().values
    if len(yes) == 0 or len(no) == 0:
        raise ValueError(
            f"AUC needs cases of both classes: got {len(yes)} positive and {len(no)} negative"
        )
    below = torch.searchsorted(no, yes, right=False).sum()
    up_to = torch.searchsorted(no, yes, right=True).sum()
    return float(below + up_to) / (2 * len(yes) * len(no))


def predictions(
    outputs: NDArray[np.float64], *, task: Task, scale: Scale | None = None
) -> NDArray[np.float64]:
    """Outputs as a user reads them: probabilities of the classes or labels, or the number."""
    if task == "regression":
        mean, spread = scale or (0.0, 1.0)
        return outputs * spread + mean
    if task == "multilabel":
        return 1 / (1 + np.exp(-outputs))
    return metrics.softmax(outputs)


def outputs_of(
    found: NDArray[np.float64], *, task: Task, scale: Scale | None = None
) -> NDArray[np.float64]:
    """The reverse of `predictions`: outputs of a head that would give these.

    A probability of 0 or 1, which no finite output gives, is taken for the nearest that one does.
    """
    if task == "regression":
        mean, spread = scale or (0.0, 1.0)
        return (found - mean) / spread
    kept = found.clip(np.finfo(np.float64).tiny, 1 - np.finfo(np.float64).epsneg)
    if task == "multilabel":
        return np.asarray(np.log(kept) - np.log1p(-kept), dtype=np.float64)
    return np.asarray(np.log(kept), dtype=np.float64)


def area_of(scores: NDArray[np.float64], is_it: NDArray[np.bool_], name: str) -> AreaUnderCurve:
    """The AUC of a class with its interval.

    Args:
        scores: Its probability, ``(findings,)``.
        is_it: Which findings are of it, ``(findings,)``.
        name: Of the class.

    Raises:
        ValueError: There are no such findings, or no others.
    """
    found = metrics.auc(scores, is_it.astype(int))
    positives, negatives = int(is_it.sum()), int((~is_it).sum())
    low, high = newcombe_interval(found, positives, negatives)
    return AreaUnderCurve(
        class_name=name, auc=found, low=low, high=high, positives=positives, negatives=negatives
    )


def areas(
    scores: NDArray[np.float64],
    targets: NDArray[np.float64] | NDArray[np.int64],
    *,
    task: Task,
    classes: Sequence[str],
) -> tuple[AreaUnderCurve, ...]:
    """The AUC of each class or label with its interval; of two classes the second one's alone.

    Args:
        scores: ``(findings, outputs)`` as `predictions` gives them.
        targets: As `targets_of` gives them.
        task: What a label is.
        classes: Their names.
    """
    return tuple(
        area_of(scores[:, label], is_it, classes[label])
        for label, is_it in positives_of(targets, task=task, classes=classes)
    )


def areas_of_subgroups(
    scores: NDArray[np.float64],
    targets: NDArray[np.float64] | NDArray[np.int64],
    told: Sequence[Subgroups],
    *,
    task: Task,
    classes: Sequence[str],
) -> tuple[Subgroup, ...]:
    """As `areas`, for each subgroup of the findings; counts alone where they are too few.

    Args:
        scores: ``(findings, outputs)`` as `predictions` gives them.
        targets: As `targets_of` gives them.
        told: What subgroups each finding is in.
        task: What a label is.
        classes: Their names.
    """
    found = []
    for name, value, inside in parts(told):
        for label, is_it in positives_of(targets, task=task, classes=classes):
            of_it = is_it[inside]
            counts = {"positives": int(of_it.sum()), "negatives": int((~of_it).sum())}
            given: dict[str, object] = {"class_name": classes[label], **counts}
            if enough(**counts):
                given = dict(area_of(scores[inside, label], of_it, classes[label]))
            found.append(Subgroup.model_validate({"name": name, "value": value, **given}))
    return tuple(found)


def positives_of(
    targets: NDArray[np.float64] | NDArray[np.int64], *, task: Task, classes: Sequence[str]
) -> list[tuple[int, NDArray[np.bool_]]]:
    """The classes or labels that have an AUC, and which targets are of each; none of a number."""
    if task == "regression":
        return []
    if task == "multilabel":
        return [(label, targets[:, label] > 0.5) for label in range(len(classes))]
    chosen = [1] if len(classes) == 2 else range(len(classes))
    return [(label, targets == label) for label in chosen]
