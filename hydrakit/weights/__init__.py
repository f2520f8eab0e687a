"""Weight files: save, load and check bodies and heads, and combine a head with another body."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrakit.weights.files import (
        body_digest,
        load_body,
        load_head,
        load_model,
        mismatch,
        save_body,
        save_head,
        set_decision,
    )
    from hydrakit.weights.folders import swap, weight_paths
    from hydrakit.weights.format import (
        AveragedViews,
        BodyMetadata,
        HeadMetadata,
        Preprocessing,
        Probe,
        TrainingCases,
        read_metadata,
    )

__all__ = [
    "AveragedViews",
    "BodyMetadata",
    "HeadMetadata",
    "Preprocessing",
    "Probe",
    "TrainingCases",
    "body_digest",
    "load_body",
    "load_head",
    "load_model",
    "mismatch",
    "read_metadata",
    "save_body",
    "save_head",
    "set_decision",
    "swap",
    "weight_paths",
]


_MODULE = {
    **dict.fromkeys(("BodyMetadata", "HeadMetadata", "Preprocessing", "Probe"), "format"),
    **dict.fromkeys(("AveragedViews", "TrainingCases", "read_metadata"), "format"),
    **dict.fromkeys(("swap", "weight_paths"), "folders"),
}


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = _MODULE.get(name, "files")
        return getattr(import_module(f"hydrakit.weights.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
