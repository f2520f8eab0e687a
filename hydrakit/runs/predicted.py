"""Predictions for single cases: probabilities, decisions, and whether training used the image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hydrakit.data.read import LoadedSample, class_names
from hydrakit.errors import PlanError
from hydrakit.hooks import Label, Task, Unusable
from hydrakit.plan.decision import Aim, Decision, Threshold
from hydrakit.stats.decisions import calibrated, decide, prediction_sets, threshold_for
from hydrakit.stats.findings import Floats
from hydrakit.weights.format import IMAGE_BYTES, MAX_IMAGES, TrainingCases


@dataclass(frozen=True, eq=False)
class InputCase:
    """A case to be predicted.

    Attributes:
        key: Its name, unique among the cases.
        load: Reads its image; called in any thread, once or twice.
        finding: Finding that it shows, if named.
        patient: Patient, if named.
        label: Label, if known.
    """

    key: str
    load: Callable[[], LoadedSample | Unusable]
    finding: str | None = None
    patient: str | None = None
    label: Label | None = None


@dataclass(frozen=True)
class PredictedCase:
    """What a model says about a case.

    Attributes:
        key: Name of the case.
        finding: Finding that it shows, if named.
        patient: Patient, if named.
        probabilities: Probability of each class or label, by its name, calibrated if the head's
            file says how; empty for a regression, and for a case without a prediction.
        predicted: The class, the labels that are present, or the number; None for a case without a
            prediction.
        possible: Classes that a conformal prediction set contains; None if no set was asked for.
        views: Number of views of the image whose predictions were averaged.
        seen_in_training: Whether training used the image, by the digest of its pixels; None if
            that is unknown.
        reason: Why there is no prediction; None if there is one.
        label: True label, if known.
    """

    key: str
    finding: str | None
    patient: str | None
    probabilities: Mapping[str, float]
    predicted: str | tuple[str, ...] | float | None
    possible: tuple[str, ...] | None
    views: int
    seen_in_training: bool | None
    reason: str | None
    label: Label | None = None


@dataclass(frozen=True)
class Rule:
    """How probabilities become decisions.

    Attributes:
        task: Task of the model.
        classes: Names of the classes.
        decision: Calibration and threshold of the head; None to leave the probabilities as they
            are and take the most probable class.
        threshold: Threshold of the calibrated probability of the second class; None for the most
            probable class.
        coverage: Coverage of conformal prediction sets; None for none.
    """

    task: Task
    classes: tuple[str, ...]
    decision: Decision | None = None
    threshold: Threshold | None = None
    coverage: float | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        classes: Sequence[str],
        decision: Decision | None,
        *,
        aim: Aim | None = None,
        wished: float = 0.9,
        coverage: float | None = None,
    ) -> Rule:
        """The rule of a head, with other thresholds or prediction sets if they are asked for.

        Args:
            task: Task of the model.
            classes: Names of the classes.
            decision: What the head's file says, if it is for this number of networks.
            aim: Whether the threshold is for a wished sensitivity or specificity; None for the
                threshold in the head's file.
            wished: The wished sensitivity or specificity.
            coverage: Coverage of conformal prediction sets; None for none.

        Raises:
            PlanError: The head's file does not hold what is needed for them.
            DataError: It holds too few held-out findings.
        """
        held_out = None if decision is None else decision.held_out
        threshold = None if decision is None else decision.threshold
        if held_out is None and (aim is not None or coverage is not None):
            wish = "--conformal" if aim is None else f"--{aim}"
            notes = " ".join(decision.notes) if decision is not None else ""
            raise PlanError(
                f"{wish} needs scores of held-out findings, and the head's file has none"
                f"{f' ({notes})' if notes else ''}: leave it out, or use a model that has them"
            )
        if aim is not None:
            if task != "classification" or len(classes) != 2:
                raise PlanError(f"--{aim}: a threshold needs two classes: leave it out")
            assert decision is not None
            assert held_out is not None
            threshold = threshold_for(held_out, decision.calibration, aim, wished)
        if coverage is not None and decision is not None:
            prediction_sets(  # are there enough?
                np.empty((0, len(classes))), decision, coverage, classes
            )
        return cls(task, tuple(classes), decision, threshold, coverage)

    def decide(
        self, predictions: Floats
    ) -> list[tuple[dict[str, float], str | tuple[str, ...] | float, tuple[str, ...] | None]]:
        """Probabilities by class, the decision, and the possible classes, for each case.

        Args:
            predictions: What `hydrakit.stats.tasks.predictions` returns, ``(cases, outputs)``.
        """
        if self.task == "regression":
            return [({}, float(row[0]), None) for row in predictions]
        if self.task == "multilabel":
            return [
                (
                    dict(zip(self.classes, row.tolist(), strict=True)),
                    class_names(tuple(int(each > 0.5) for each in row), self.task, self.classes),
                    None,
                )
                for row in predictions
            ]
        calibration = None if self.decision is None else self.decision.calibration
        probabilities = calibrated(predictions, calibration)
        chosen = decide(probabilities, self.threshold)
        sets = None
        if self.coverage is not None:
            assert self.decision is not None
            sets = prediction_sets(predictions, self.decision, self.coverage)
        return [
            (
                dict(zip(self.classes, row.tolist(), strict=True)),
                self.classes[int(chosen[index])],
                None
                if sets is None
                else tuple(
                    n for n, inside in zip(self.classes, sets[index], strict=True) if inside
                ),
            )
            for index, row in enumerate(probabilities)
        ]


class TrainingImages:
    """Tells whether training used an image.

    Args:
        trainings: Images of the trainings of all bodies and heads; None for a weight file that does
            not name them.
    """

    def __init__(self, trainings: Sequence[TrainingCases | None]) -> None:
        self.complete = all(each is not None for each in trainings)
        lists = [each.digests() for each in trainings if each is not None]
        self.known = {digest for digests in lists for digest in digests}
        # A file holds the smallest digests of very many images: it says nothing about larger ones.
        ends = [digests[-1] for digests in lists if len(digests) >= MAX_IMAGES]
        self.end = min(ends, default=None)

    def __contains__(self, content: str) -> bool:
        """Whether the image with this content digest is known to be of the training."""
        return bytes.fromhex(content[: 2 * IMAGE_BYTES]) in self.known

    def used(self, content: str) -> bool | None:
        """Whether training used the image with this content digest; None if that is unknown."""
        if content in self:
            return True
        beyond = self.end is not None and bytes.fromhex(content[: 2 * IMAGE_BYTES]) > self.end
        return False if self.complete and not beyond else None
