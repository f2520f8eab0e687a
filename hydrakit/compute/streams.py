"""Standard output and error of a command: a write that fails does not stop the work.

A terminal can go away, a disk can be full, the reader of a pipe can end, and an encoding lacks most
characters. None of these is a reason to lose a training run. Within `dependable`, text that cannot
be written is dropped, and `failures` says why; a character that the encoding lacks is written as
its number.

Standard output belongs to what a command prints, which may be JSON. Output of plugin code, of C
libraries and of other programs goes to standard error.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

OUTPUT, ERROR = "standard output", "standard error"

failures: dict[str, OSError | ValueError] = {}
"""The first error of each stream in the current `dependable` block, by its name."""

printing_for: ContextVar[str | None] = ContextVar("hydrakit_printing_for", default=None)
"""The plugin whose code is running; its output goes to standard error, after this text."""


class _Sink(io.RawIOBase):
    """Passes bytes on to another stream; after its first error it drops them."""

    def __init__(self, target: Any, name: str) -> None:
        self._target, self._name = target, name

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return int(self._target.fileno())

    def isatty(self) -> bool:
        return bool(self._target.isatty())

    def write(self, data: Any) -> int:
        if self._name in failures:
            return len(data)
        try:
            while (count := self._target.write(data)) is None:  # the stream does not block
                select.select([], [self._target], [])
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            failures[self._name] = error
            return len(data)
        return int(count)


class _Stream(io.TextIOWrapper):
    """A standard stream; text that plugin code prints to standard output goes to standard error."""

    def __init__(self, target: Any, before: TextIO, name: str) -> None:
        super().__init__(
            io.BufferedWriter(_Sink(target, name)),
            encoding=before.encoding,
            errors="backslashreplace",
            newline="\n",
            line_buffering=getattr(before, "line_buffering", False),
        )
        self._is_output = name == OUTPUT
        self._in_line = False

    @property
    def buffer(self) -> Any:
        """The binary stream; ASCII has none, because click would write UTF-8 into it."""
        if codecs.lookup(self.encoding).name == "ascii":
            raise AttributeError("buffer")
        return super().buffer

    def write(self, text: str) -> int:
        """Write text, or pass it on to standard error if plugin code prints it."""
        plugin = printing_for.get()
        if plugin is None or not self._is_output:
            return super().write(text)
        for line in text.splitlines(keepends=True):
            sys.stderr.write(line if self._in_line else f"{plugin}: {line}")
            self._in_line = not line.endswith("\n")
        return len(text)


@contextmanager
def dependable() -> Iterator[None]:
    """Replace the standard streams within a ``with`` block by streams whose writes do not fail."""
    failures.clear()
    _open_closed_descriptors()
    before: tuple[Any, Any] = (sys.stdout, sys.stderr)  # None if they were closed
    own: int | None = None
    original = before[0] is sys.__stdout__ and _descriptor(before[0]) == 1
    if original and os.name != "nt":  # on Windows, a duplicate of a console writes no Unicode
        before[0].flush()
        own = os.dup(1)
        os.dup2(2, 1)
    output, error = before[0] or _nowhere(), before[1] or _nowhere()
    sys.stdout, sys.stderr = (
        stream if target is None else _Stream(target, stream, name)
        for stream, target, name in (
            (output, _target(output) if own is None else io.FileIO(own, "wb"), OUTPUT),
            (error, _target(error), ERROR),
        )
    )
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if own is not None:
            os.dup2(own, 1)
        sys.stdout, sys.stderr = before


def output_failure() -> str | None:
    """Why standard output could not be written, or None; empty if its reader ended (``| head``)."""
    with suppress(AttributeError):  # plugin code may have replaced it
        sys.stdout.flush()
    error = failures.get(OUTPUT)
    if error is None:
        return None
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return ""
    return getattr(error, "strerror", None) or str(error)


def _open_closed_descriptors() -> None:
    """Give closed standard descriptors (``>&-``) a place, or the next open file would get them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w", encoding="utf-8")


def _descriptor(stream: Any) -> int | None:
    try:
        return int(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


def _target(stream: TextIO) -> Any:
    """The binary stream below a text stream; None if it has none."""
    with suppress(OSError, ValueError):
        stream.flush()
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)
