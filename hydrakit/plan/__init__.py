"""A run as data: what decides a result, the profiles that fill it in, and the records of results.

This package's own names are those of `hydrakit.rounds` and `hydrakit.plan.model`.
"""

from hydrakit.plan.model import (
    BodySpec,
    BootstrapRule,
    Component,
    Copies,
    Dataset,
    Fold,
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
    "Copies",
    "Dataset",
    "Fold",
    "Hyperparameters",
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
