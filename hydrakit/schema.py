"""Base class of all records, and types of their fields."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)
from pydantic_core import ErrorDetails

from hydrakit.errors import utf8
from hydrakit.names import NAME_PATTERN

MAX_COUNT = 2**20  # limit for the patches of a batch and for random starts


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


Text = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_printable)]
PathText = Annotated[str, BeforeValidator(lambda path: utf8(str(path)))]
"""A path, or a message that contains one."""
OptionText = Annotated[str, StringConstraints(max_length=1000)]
VersionedName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
"""A name that may contain the number of a version, such as ``recommended-0.1``."""
Count = Annotated[int, Field(gt=0, le=MAX_COUNT)]
Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Precision = Literal["auto", "float32", "bfloat16"]


class Frozen(BaseModel):
    """An immutable record; unknown fields and infinite or missing numbers (NaN) are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


_WORDS = (
    (
        rf"String should match pattern '{re.escape(NAME_PATTERN)}'",
        "must be a name: lower-case letters, digits, '-' and '_', at most 64",
    ),
    (r"Input should be a valid integer.*", "must be a whole number"),
    (r"Input should be a valid number.*", "must be a number"),
    (r"Input should be a finite number", "must be a finite number"),
    (r"Input should be a valid string", "must be text"),
    (r"Input should be a valid boolean.*", "must be true or false"),
    (r"Input should be a valid (list|tuple|array)", "must be a list"),
    (
        r"Input should be (a valid dictionary|a dictionary or|an object).*",
        "must be a table of keys and values",
    ),
    (r"Unexpected keyword argument", "is an unknown key"),
    (r"Input should be greater than or equal to", "must be at least"),
    (r"Input should be less than or equal to", "must be at most"),
    (r"^\w+ should", "must"),
)
"""Patterns of pydantic's messages, and what users read instead."""


def plain_words(message: str) -> str:
    """A message of pydantic in the words of hydrakit's own messages."""
    for pattern, words in _WORDS:
        message, count = re.subn(pattern, words, message, count=1)
        if count:
            return message
    return message.removeprefix("Value error, ")


def main_fault(error: ValidationError) -> ErrorDetails:
    """The first error that pydantic reports, with a location in the user's words.

    Where a value may be a word or a table, a faulty table is judged as a table.
    """
    faults = error.errors(include_url=False)
    tables = [each for each in faults if not _is_word_expected(each)] or faults
    fault = tables[0]
    fault["loc"] = tuple(part for part in fault["loc"] if part not in _TAGS)
    return fault


_TAGS = ("Window",)
"""Types of tables that pydantic adds to the location of a value that may be a word or a table."""


def _is_word_expected(fault: ErrorDetails) -> bool:
    return fault["type"] == "literal_error" and isinstance(fault["input"], Mapping)


def first_fault(error: ValidationError) -> str:
    """The first error that pydantic reports, on one line."""
    fault = main_fault(error)
    where = ".".join(str(part) for part in fault["loc"])
    if not where.isprintable() or len(where) > 100:
        where = f"{ascii(where)[:100]}..."
    message = plain_words(fault["msg"])
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}: remove it, or see `hydrakit plan` for the known keys"
    if fault["type"] == "missing":
        return f"key {where!r} is missing"
    text = repr(fault["input"])
    value = f" (is {text})" if len(text) <= 60 and where else ""
    return f"{where}: {message}{value}" if where else message
