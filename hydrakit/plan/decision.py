"""What turns a head's outputs into decisions: calibration, threshold and held-out scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, FiniteFloat, PositiveFloat, model_validator

from hydrakit.schema import Frozen, Text

MAX_HELD_OUT = 5_000  # findings whose scores a head's file holds

Share = Annotated[float, Field(ge=0, le=1)]
Aim = Literal["sensitivity", "specificity"]


class Calibration(Frozen):
    """Correction of probabilities, fitted to held-out findings.

    ``temperature`` multiplies the logarithms of the probabilities by ``slope`` (1 / T) and
    normalises their sum to 1; the order of cases of two classes stays the same. ``platt``, for two
    classes, gives the logit of the second class ``slope * logit + intercept``.

    Attributes:
        method: The rule.
        slope: Factor of the logarithms or of the logit; above 0.
        intercept: Of ``platt``: number that is added to the logit.
    """

    method: Literal["temperature", "platt"]
    slope: Annotated[PositiveFloat, Field(allow_inf_nan=False)]
    intercept: FiniteFloat = 0.0

    @model_validator(mode="after")
    def _check_intercept(self) -> Self:
        if self.method == "temperature" and self.intercept:
            raise ValueError("a temperature has no intercept")
        return self


class Threshold(Frozen):
    """Share from which on a case counts as the second of two classes.

    Attributes:
        aim: What the threshold was chosen for.
        wished: Wished sensitivity or specificity.
        value: The threshold, of the calibrated probability of the second class.
        sensitivity: Sensitivity at the threshold on the held-out findings.
        specificity: Specificity at the threshold on them.
    """

    aim: Aim
    wished: Share
    value: Share
    sensitivity: Share
    specificity: Share


class HeldOut(Frozen):
    """Labels and scores of findings that did not train the network, without any identifier.

    Attributes:
        labels: Class of each finding.
        probabilities: Probabilities of the classes before calibration, for each finding.
    """

    labels: Annotated[tuple[int, ...], Field(max_length=MAX_HELD_OUT)]
    probabilities: Annotated[tuple[tuple[Share, ...], ...], Field(max_length=MAX_HELD_OUT)]

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if len(self.labels) != len(self.probabilities):
            raise ValueError("each finding needs a label and probabilities")
        widths = {len(row) for row in self.probabilities}
        if len(widths) > 1 or any(not 0 <= each < max(widths) for each in self.labels):
            raise ValueError("each finding needs a probability of every class, and one of them")
        return self


class Decision(Frozen):
    """How the probabilities of a head, or of an ensemble, are calibrated and turned into classes.

    Attributes:
        networks: Number of networks whose mean probabilities it is for: a single network of an
            ensemble is calibrated differently.
        source: Findings that it was chosen on: those of the ``validation`` split, or the test
            splits of all folds of a comparison (``out-of-fold``).
        calibration: Correction of the probabilities; None if they stay as they are.
        threshold: Threshold between two classes; None for the most probable class.
        held_out: The findings, from which other thresholds and prediction sets are computed; None
            if they are too few.
        notes: Why something is missing, one sentence each.
    """

    networks: Annotated[int, Field(gt=0)] = 1
    source: Literal["validation", "out-of-fold"]
    calibration: Calibration | None = None
    threshold: Threshold | None = None
    held_out: HeldOut | None = None
    notes: tuple[Text, ...] = ()

    def check_classes(self, count: int) -> None:
        """Check that it is for a number of classes.

        Raises:
            ValueError: It is for another number.
        """
        platt = self.calibration is not None and self.calibration.method == "platt"
        if count != 2 and (platt or self.threshold is not None):
            raise ValueError("a threshold and Platt scaling are for two classes")
        rows = self.held_out.probabilities if self.held_out is not None else ()
        if rows and len(rows[0]) != count:
            raise ValueError("the held-out findings have another number of classes than the head")

    def words(self, classes: Sequence[str]) -> str:
        """What it says, in a few sentences.

        Args:
            classes: Names of the classes.
        """
        several = "" if self.networks == 1 else f" of the mean of {self.networks} networks"
        count = len(self.held_out.labels) if self.held_out is not None else 0
        fitted = self.calibration
        if fitted is None:
            text = f"probabilities{several} as they are"
        elif fitted.method == "platt":
            text = (
                f"probabilities{several} calibrated (logit x {fitted.slope:.3g} "
                f"{fitted.intercept:+.3g})"
            )
        else:
            text = f"probabilities{several} calibrated (temperature {1 / fitted.slope:.3g})"
        chosen = self.threshold
        if chosen is None:
            text += "; the most probable class is predicted"
        else:
            text += (
                f"; {classes[1]!r} from a probability of {chosen.value:.3f} on, for a "
                f"{chosen.aim} of {chosen.wished:g}: sensitivity {chosen.sensitivity:.3f} and "
                f"specificity {chosen.specificity:.3f} there"
            )
        if fitted is not None or chosen is not None:
            text += f"; chosen on {count} {self.source} findings"
        return ". ".join((text, *(note.removesuffix(".") for note in self.notes)))
