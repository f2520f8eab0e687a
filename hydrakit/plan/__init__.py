"""Plans of runs, and the records of their results."""

from hydrakit.plan.model import (
    BodySpec,
    BootstrapRule,
    Component,
    Conflicts,
    Copies,
    Dataset,
    Fold,
    LeftOut,
    NormKind,
    Plan,
    Split,
    load_plan,
)
from hydrakit.rounds import Hyperparameters, Other, Round, RoundPosition, Select, Train

__all__ = [
    "BodySpec",
    "BootstrapRule",
    "Component",
    "Conflicts",
    "Copies",
    "Dataset",
    "Fold",
    "Hyperparameters",
    "LeftOut",
    "NormKind",
    "Other",
    "Plan",
    "Round",
    "RoundPosition",
    "Select",
    "Split",
    "Train",
    "load_plan",
]
