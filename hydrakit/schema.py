"""Types that describe records: what a field may hold, and the base class of all records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from hydrakit.names import NAME_PATTERN

MAX_COUNT = 2**20  # patches in a batch, random starts


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
OptionText = Annotated[str, StringConstraints(max_length=1000)]
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Precision = Literal["auto", "float32", "bfloat16"]


class Frozen(BaseModel):
    """An immutable record that refuses unknown fields and numbers that are not finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def first_fault(error: ValidationError) -> str:
    """The first fault that pydantic found, on one line."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"])
    if not where.isprintable() or len(where) > 100:
        where = f"{ascii(where)[:100]}..."
    message = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: remove it, or see `hydrakit plan` for the keys there are"
    if fault["type"] == "missing":
        return f"key {where!r} is missing"
    shown = repr(fault["input"])
    value = f" (is {shown})" if len(shown) <= 60 and where else ""
    return f"{where}: {message}{value}" if where else message
