"""Rules by which files are read, in a record and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Annotated, Any

from pydantic import SerializerFunctionWrapHandler, WrapSerializer

from hydrakit.hooks import FileRules


def _content(rules: FileRules, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
    """Omit what is as by default."""
    content: dict[str, Any] = serialise(rules)
    default = {each.name: each.default for each in fields(rules)}
    return {name: value for name, value in content.items() if getattr(rules, name) != default[name]}


StoredFileRules = Annotated[FileRules, WrapSerializer(_content)]


def rules_text(rules: FileRules) -> str:
    """Rules in words, such as ``window 40/400 (centre/width), coronal plane, 3 slices``."""
    return ", ".join(_words(rules)) or "by default"


def _words(rules: FileRules) -> Iterator[str]:
    if isinstance(rules.window, tuple):
        yield f"window {rules.window[0]:g}/{rules.window[1]:g} (centre/width)"
    elif rules.window is not None:
        yield "window of the file"
    if rules.rescale is not None:
        yield "rescaled" if rules.rescale else "not rescaled"
    if rules.plane != "axial":
        yield f"{rules.plane} plane"
    if rules.slices > 1:
        yield f"{rules.slices} slices"
    if rules.channels is not None:
        yield f"channels {rules.channels}"
    if rules.axes is not None:
        yield f"positions in {rules.axes}"
    if rules.spacing is not None:
        row, column = rules.spacing
        yield f"spacing {row:g} x {column:g} mm if a file states none"
    if rules.no_mask is not None:
        yield "images without a mask whole"
    if rules.masks is not None:
        yield "masks as images"


def pixel_rules(rules: FileRules) -> FileRules:
    """The rules that decide the pixels of a file, whatever dataset it is of."""
    return replace(rules, channels=None, axes=None, spacing=None, no_mask=None, masks=None)
