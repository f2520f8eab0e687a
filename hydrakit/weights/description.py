"""Description of a model's folder, ``model.json``: how the model came about, and how good it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from hydrakit.schema import Frozen, Name, Text
from hydrakit.storage.records import read_record, write_record

FILE = "model.json"


class ExpectedFigure(Frozen):
    """How good a model is expected to be on new cases of its dataset.

    Attributes:
        metric: ``AUC``, ``R2`` or ``accuracy``.
        value: The figure.
        low: Lower end of its 95 % interval; None if there is none.
        high: Upper end.
        findings: Number of findings that it was computed from; None if unknown.
        source: ``test``: the model's own test split; ``folds``: the test splits of other networks
            of the same plan, in a cross-validation; ``validation``: the split that selected its
            weights.
        reason: Why it is fair for this model, or too low or too high, in a sentence or two.
    """

    metric: Literal["AUC", "R2", "accuracy"]
    value: FiniteFloat
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    findings: Annotated[int, Field(ge=0)] | None = None
    source: Literal["test", "folds", "validation"]
    reason: Text


class ModelDescription(Frozen):
    """What ``model.json`` says.

    Attributes:
        format: Version of this format.
        hydrakit: Version of hydrakit that wrote it.
        made_by: ``run``, ``ensemble`` (the cells of a comparison), ``retrain`` (all cases of the
            target, after a comparison) or ``swap``.
        strategy: Strategy of the plan; None for ``swap``.
        target: Dataset that the model is for.
        networks: Number of networks whose predictions are averaged.
        expected: Expected figure by dataset; empty if nothing says it.
        notes: What else users must know, one sentence each.
    """

    format: Literal[1] = 1
    hydrakit: Text
    made_by: Literal["run", "ensemble", "retrain", "swap"]
    strategy: Name | None = None
    target: Name
    networks: Annotated[int, Field(gt=0)] = 1
    expected: dict[Name, ExpectedFigure] = Field(default_factory=dict)
    notes: tuple[Text, ...] = ()

    def write(self, folder: Path) -> None:
        """Write ``model.json`` into a model's folder."""
        write_record(folder / FILE, self)


def read_model_description(folder: Path) -> ModelDescription | None:
    """Read ``model.json`` of a model's folder; None if it has none.

    Raises:
        PlanError: The file is invalid.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    return read_record(path, ModelDescription, remedy="restore it, or write the model again")
