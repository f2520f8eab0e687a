"""Penalised linear models: logistic regression, and ridge regression for a number.

They are the baselines of a comparison (docs/statistics.md), and solve a head of one linear layer
exactly. Features are standardised for the fit alone, over all cases: the weights of a fitted model
are those of the features as given. Targets are those of `hydrakit.stats.tasks.targets_of`: the
model of a label is fitted to the cases for which it is known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from hydrakit.errors import DataError
from hydrakit.stats.findings import Findings, Floats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hydrakit.hooks import Task
    from hydrakit.plan.results import AreaUnderCurve
    from hydrakit.stats.tasks import Targets

PENALTIES = (1e4, 1e3, 1e2, 1e1, 1.0, 1e-1, 1e-2)
"""Penalties to choose from."""

FOLDS = 5
FEWEST_GROUPS = 2
CONSTANT = 1e-7  # relative to the largest value: features are float32 numbers
TOLERANCE = 1e-6
MAX_ITERATIONS = 10_000


@dataclass(frozen=True, eq=False)
class LinearModel:
    """A fitted model: ``outputs = features @ weights + bias``.

    Attributes:
        weights: Weights of the features, ``(features, outputs)``.
        bias: Bias of each output, ``(outputs,)``.
        penalty: Penalty that it was fitted with.
    """

    weights: Floats
    bias: Floats
    penalty: float

    def outputs(self, features: Floats) -> Floats:
        """Outputs ``(cases, outputs)``: logits, or the number."""
        return np.asarray(features @ self.weights + self.bias, dtype=np.float64)


def fit(
    features: Floats, targets: Targets, *, task: Task, outputs: int, penalty: float
) -> LinearModel:
    """Fit a model with a given penalty.

    The sum of the cases' losses plus ``penalty / 2`` times the sum of the squared weights of the
    standardised features is minimal; the bias is free. A penalty is 1 / C of scikit-learn's
    LogisticRegression, and alpha of its Ridge.

    Args:
        features: Features ``(cases, features)``, finite.
        targets: Class indices ``(cases,)``, or numbers ``(cases, outputs)``; NaN for an unknown
            label.
        task: Task of the dataset. Two classes are one logit, half of which each class gets with its
            sign; more classes are a multinomial model; several labels are one model each.
        outputs: Number of classes or labels; 1 for a number.
        penalty: L2 penalty, positive.
    """
    path = _Axes.of(features).path(targets, task=task, outputs=outputs, penalties=(penalty,))
    return path[0]


def fit_with_chosen_penalty(
    features: Floats,
    targets: Targets,
    groups: Sequence[str],
    *,
    task: Task,
    outputs: int,
    penalties: Sequence[float] = PENALTIES,
) -> LinearModel:
    """Fit a model with the penalty that predicts other groups best.

    The chosen penalty has the least loss over all cases, each predicted by a model that was fitted
    without its group (cross-validation in `FOLDS` folds). The loss is log loss or squared error: it
    has a value where a fold lacks a class, and differs between models that rank a fold's few cases
    in the same order, which have the same AUC. Of equal ones the larger penalty is chosen. Equal
    data give equal results: nothing is drawn at random.

    Args:
        features: Features ``(cases, features)``, finite.
        targets: Class indices ``(cases,)``, or numbers ``(cases, outputs)``.
        groups: Group of each case: its patient.
        task: Task of the dataset; `fit` says which model it gets.
        outputs: Number of classes or labels; 1 for a number.
        penalties: Penalties to choose from.

    Raises:
        DataError: All cases are of one group.
    """
    descending = sorted(penalties, reverse=True)
    folds = grouped_folds(targets, groups, task=task, outputs=outputs)
    losses = np.zeros(len(descending))
    for fold in range(folds.max() + 1):
        inside = folds == fold
        path = _Axes.of(features[~inside]).path(
            targets[~inside], task=task, outputs=outputs, penalties=descending
        )
        wanted = _as_matrix(targets[inside], task, outputs)
        for number, model in enumerate(path):
            losses[number] += _loss_of(task, outputs)(
                _reduced(model.outputs(features[inside]), task, outputs), wanted
            )[0]
    chosen = descending[int(np.argmin(losses))]
    return fit(features, targets, task=task, outputs=outputs, penalty=chosen)


def cross_validated_outputs(
    features: Floats,
    targets: Targets,
    groups: Sequence[str],
    *,
    task: Task,
    outputs: int,
    penalty: float | None = None,
) -> Floats:
    """Outputs ``(cases, outputs)`` for each case of a model that was fitted without its group.

    Args:
        features: Features ``(cases, features)``, finite.
        targets: Class indices ``(cases,)``, or numbers ``(cases, outputs)``.
        groups: Group of each case: its patient.
        task: Task of the dataset; `fit` says which model it gets.
        outputs: Number of classes or labels; 1 for a number.
        penalty: Penalty of each model; None chooses it within the cases that it is fitted to.

    Raises:
        DataError: There are fewer than three groups.
    """
    folds = grouped_folds(targets, groups, task=task, outputs=outputs)
    names = np.array(groups)
    predicted = np.empty((len(features), outputs))
    for fold in range(folds.max() + 1):
        inside = folds == fold
        others = features[~inside], targets[~inside]
        if penalty is None:
            groups_of_others = names[~inside].tolist()
            model = fit_with_chosen_penalty(*others, groups_of_others, task=task, outputs=outputs)
        else:
            model = fit(*others, task=task, outputs=outputs, penalty=penalty)
        predicted[inside] = model.outputs(features[inside])
    return predicted


def calibrated(
    model: LinearModel,
    features: Floats,
    targets: Targets,
    groups: Sequence[str],
    *,
    task: Task,
    outputs: int,
) -> LinearModel:
    """A model whose outputs are as far from their mean as its predictions of new cases deserve.

    A model is too certain of the cases that it was fitted to. The factor of its weights, from 0 to
    1, has the least loss on predictions of each case by a model that was fitted without its group.

    Source: the slope of Platt scaling, and of Copas' shrinkage (1983, JRSS B 45:311-354).

    Args:
        model: Model of these cases.
        features: Features ``(cases, features)``, finite.
        targets: Class indices ``(cases,)``, or numbers ``(cases, outputs)``.
        groups: Group of each case: its patient.
        task: Task of the dataset; `fit` says which model it gets.
        outputs: Number of classes or labels; 1 for a number.

    Raises:
        DataError: There are fewer than three groups.
    """
    from scipy.optimize import minimize_scalar

    predicted = _reduced(
        cross_validated_outputs(
            features, targets, groups, task=task, outputs=outputs, penalty=model.penalty
        ),
        task,
        outputs,
    )
    mean, wanted = predicted.mean(axis=0), _as_matrix(targets, task, outputs)
    loss_of = _loss_of(task, outputs)

    def loss(slope: float) -> float:
        return loss_of(mean + slope * (predicted - mean), wanted)[0]

    slope = float(minimize_scalar(loss, bounds=(0, 1), method="bounded").x)
    centre = features.mean(axis=0)
    weights = slope * model.weights
    return replace(model, weights=weights, bias=model.outputs(centre) - centre @ weights)


def cross_validated_aucs(
    features: Floats,
    targets: Targets,
    groups: Sequence[str],
    *,
    task: Task,
    classes: Sequence[str],
    findings: Sequence[str] | None = None,
) -> tuple[AreaUnderCurve, ...]:
    """AUC of each class or label, with its interval, of models that predict groups they never saw.

    The predictions of all folds (`cross_validated_outputs`) are pooled. With two classes only the
    AUC of the second is returned; for a regression task none.

    Args:
        features: Features ``(cases, features)``, finite.
        targets: Class indices ``(cases,)``, or numbers ``(cases, outputs)``.
        groups: Group of each case: its patient.
        task: Task of the dataset.
        classes: Names of the classes or labels.
        findings: Name of each case's finding, whose predictions are averaged; None if each case is
            a finding by itself.

    Raises:
        DataError: There are fewer than three groups.
        ValueError: A class has no case.
    """
    from hydrakit.stats.tasks import class_aucs, predictions

    if task == "regression":
        return ()
    outputs = cross_validated_outputs(features, targets, groups, task=task, outputs=len(classes))
    scores = predictions(outputs, task=task)
    if findings is not None:
        units = Findings.of(findings)
        scores, targets = units.mean_scores(scores), targets[units.firsts]
    return class_aucs(scores, targets, task=task, classes=classes)


def grouped_folds(
    targets: Targets, groups: Sequence[str], *, task: Task, outputs: int, count: int = FOLDS
) -> NDArray[np.intp]:
    """Fold of each case, ``(cases,)``: groups stay together, and every fold has cases of all kinds.

    Groups are ordered by their mean target, those with equal ones shuffled by a fixed seed, and go
    to the folds in turn.

    Raises:
        DataError: All cases are of one group.
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < FEWEST_GROUPS:
        raise DataError(
            "the penalty of a regression cannot be chosen: all training cases are of one patient, "
            "and cross-validation needs two: set `penalty`"
        )
    wanted = _as_matrix(targets, task, outputs)
    means = np.stack([_known_mean(wanted[members == number]) for number in range(len(names))])
    shuffled = np.random.default_rng(0).permutation(len(names))
    order = np.lexsort((shuffled, *means.T))
    folds = np.empty(len(names), dtype=np.intp)
    folds[order] = np.arange(len(names)) % min(count, len(names))
    return np.asarray(folds[members], dtype=np.intp)


@dataclass(frozen=True, eq=False)
class _Axes:
    """Standardised features in their principal axes, in which the fit converges in few steps.

    The penalty is the same there, because a rotation changes no length.

    Attributes:
        coordinates: Coordinates of the cases, ``(cases, axes)``; each column has mean 0.
        lengths: Length of each column, ``(axes,)``.
        to_weights: Weights of the features as given, of the weights of the axes,
            ``(features, axes)``.
        centre: Mean of each feature.
    """

    coordinates: Floats
    lengths: Floats
    to_weights: Floats
    centre: Floats

    @classmethod
    def of(cls, features: Floats) -> _Axes:
        values = np.asarray(features, dtype=np.float64)
        centre, spread = values.mean(axis=0), values.std(axis=0)
        varies = spread > CONSTANT * np.abs(values).max(axis=0)
        factor = np.divide(1, spread, out=np.zeros_like(spread), where=varies)
        left, lengths, right = np.linalg.svd((values - centre) * factor, full_matrices=False)
        return cls(left * lengths, lengths, factor[:, None] * right.T, centre)

    def path(
        self, targets: Targets, *, task: Task, outputs: int, penalties: Sequence[float]
    ) -> list[LinearModel]:
        """A model for each penalty; each fit begins at the one before."""
        wanted = _as_matrix(targets, task, outputs)
        mean = wanted.mean(axis=0)
        models: list[LinearModel] = []
        weights, bias = np.zeros((len(self.lengths), wanted.shape[1])), mean
        if task != "regression":
            share = _shares(wanted)
            bias = np.log(share) - (0 if _is_softmax(task, outputs) else np.log1p(-share))
        for penalty in penalties:
            if task == "regression":
                products = self.coordinates.T @ (wanted - mean)
                weights = products / (self.lengths[:, None] ** 2 + penalty)
            else:
                weights, bias = self._minimum(
                    wanted, _loss_of(task, outputs), penalty, weights, bias
                )
            of_features = self.to_weights @ weights
            model = LinearModel(of_features, bias - self.centre @ of_features, penalty)
            models.append(_expanded(model, task, outputs))
        return models

    def _minimum(
        self, wanted: Floats, loss_of: _Loss, penalty: float, weights: Floats, bias: Floats
    ) -> tuple[Floats, Floats]:
        """Weights of the axes and bias at the minimum of the penalised loss."""
        from scipy.optimize import minimize

        # Steps are scaled by the square root of the loss's approximate curvature on each axis.
        share, known = _shares(wanted), (~np.isnan(wanted)).sum(axis=0)
        curvature = share * (1 - share)
        scale = np.sqrt(
            np.concatenate(
                [
                    curvature * self.lengths[:, None] ** 2 + penalty,
                    curvature[None] * np.maximum(known, 1),
                ]
            )
        )

        def objective(flat: Floats) -> tuple[float, Floats]:
            values = flat.reshape(scale.shape) / scale
            of_axes = values[:-1]
            loss, slope = loss_of(self.coordinates @ of_axes + values[-1], wanted)
            slopes = np.concatenate(
                [self.coordinates.T @ slope + penalty * of_axes, slope.sum(axis=0, keepdims=True)]
            )
            value = loss + penalty / 2 * float(np.sum(of_axes**2))
            return value, (slopes / scale).ravel()

        start = np.concatenate([weights, bias[None]]) * scale
        options = {"gtol": TOLERANCE, "ftol": 0.0, "maxiter": MAX_ITERATIONS, "maxcor": 20}
        result = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
        values = result.x.reshape(scale.shape) / scale
        return values[:-1], values[-1]


_Loss = Callable[[Floats, Floats], tuple[float, Floats]]


def _is_softmax(task: Task, outputs: int) -> bool:
    return task == "classification" and outputs > 2


def _as_matrix(targets: Targets, task: Task, outputs: int) -> Floats:
    """Targets as the fitted outputs should be, ``(cases, outputs)``: one for two classes."""
    if task != "classification":
        return np.asarray(targets, dtype=np.float64)
    table = np.eye(outputs)[targets]
    return table[:, 1:] if outputs == 2 else table


def _known_mean(wanted: Floats) -> Floats:
    """Mean of each column without its unknown targets; 0 where none is known."""
    known = ~np.isnan(wanted)
    return np.asarray(np.nansum(wanted, axis=0) / np.maximum(known.sum(axis=0), 1))


def _shares(wanted: Floats) -> Floats:
    """Share of each column's known targets that are 1, shrunk a little towards a half."""
    known = ~np.isnan(wanted)
    return np.asarray((np.nansum(wanted, axis=0) + 0.5) / (known.sum(axis=0) + 1))


def _reduced(values: Floats, task: Task, outputs: int) -> Floats:
    """The logits of a model as it is fitted: one for two classes."""
    if task == "classification" and outputs == 2:
        return values[:, 1:] - values[:, :1]
    return values


def _expanded(model: LinearModel, task: Task, outputs: int) -> LinearModel:
    """The model with a logit for each class."""
    if task == "classification" and outputs == 2:
        sides = np.array([-0.5, 0.5])
        return replace(model, weights=model.weights * sides, bias=model.bias * sides)
    return model


def _loss_of(task: Task, outputs: int) -> _Loss:
    """Sum of the losses of all cases, and its slope in the outputs."""
    if task == "regression":
        return _squared_error
    return _softmax_loss if _is_softmax(task, outputs) else _logistic_loss


def _squared_error(values: Floats, wanted: Floats) -> tuple[float, Floats]:
    difference = values - wanted
    return float(np.sum(difference**2)) / 2, difference


def _logistic_loss(logits: Floats, wanted: Floats) -> tuple[float, Floats]:
    from scipy.special import expit

    known = ~np.isnan(wanted)
    losses = np.where(known, np.logaddexp(0, logits) - wanted * logits, 0)
    return float(losses.sum()), np.where(known, expit(logits) - wanted, 0)


def _softmax_loss(logits: Floats, wanted: Floats) -> tuple[float, Floats]:
    from scipy.special import logsumexp

    logs = logits - logsumexp(logits, axis=1, keepdims=True)
    return -float(np.sum(wanted * logs)), np.exp(logs) - wanted
