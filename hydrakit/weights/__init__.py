"""Weight files: save a body or a head, load them, check them, and put a head on another body."""

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
        swap,
        weight_paths,
    )
    from hydrakit.weights.format import (
        BodyMetadata,
        HeadMetadata,
        Preprocessing,
        Probe,
        read_metadata,
    )

_HOMES = {
    "body_digest": "hydrakit.weights.files",
    "load_body": "hydrakit.weights.files",
    "load_head": "hydrakit.weights.files",
    "load_model": "hydrakit.weights.files",
    "mismatch": "hydrakit.weights.files",
    "save_body": "hydrakit.weights.files",
    "save_head": "hydrakit.weights.files",
    "swap": "hydrakit.weights.files",
    "weight_paths": "hydrakit.weights.files",
    "BodyMetadata": "hydrakit.weights.format",
    "HeadMetadata": "hydrakit.weights.format",
    "Preprocessing": "hydrakit.weights.format",
    "Probe": "hydrakit.weights.format",
    "read_metadata": "hydrakit.weights.format",
}

__all__ = [
    "BodyMetadata",
    "HeadMetadata",
    "Preprocessing",
    "Probe",
    "body_digest",
    "load_body",
    "load_head",
    "load_model",
    "mismatch",
    "read_metadata",
    "save_body",
    "save_head",
    "swap",
    "weight_paths",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
