"""A field of view in a file, and in words."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import SerializerFunctionWrapHandler, WrapSerializer

from hydrakit.hooks import FieldOfView


def _content(view: FieldOfView, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
    """Omit the newer size where it is not given: older plans keep their digests."""
    content: dict[str, Any] = serialise(view)
    if view.mask is None:
        content.pop("mask", None)  # absent already if only some fields are written
    return content


StoredView = Annotated[FieldOfView, WrapSerializer(_content)]


def view_text(view: FieldOfView | None) -> str:
    """A field of view in words."""
    if view is None:
        return "unknown"
    if view.millimetres is not None:
        return f"{view.millimetres:g} mm"
    if view.mask is not None:
        return f"{view.mask:g} times the lesion in its mask"
    return f"{view.share:g} of the image"
