"""Weight files: save a body or a head, load them, check them, and put a head on another body."""

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
