"""Signals that stop a process: Ctrl-C, a closed terminal, requests of a scheduler, a shutdown."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
    if hasattr(signal, name)
)

CHECKPOINT_SECONDS = 5.0
"""Default seconds between two checkpoints; a longer epoch is followed by one each time."""

_received: list[int] = []
"""Signals received within the current `stoppable` block, in order."""


class StopRequested(KeyboardInterrupt):
    """A signal asks the process to end. It is not an `Exception`, so error handlers let it pass.

    Attributes:
        number: Number of the signal.
        remedy: How the user can continue the stopped work; empty if unknown.
    """

    def __init__(self, number: int, remedy: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.remedy = remedy

    @property
    def status(self) -> int:
        """Exit status of the process: 130 after Ctrl-C, 143 after any other signal."""
        return 130 if self.number == signal.SIGINT else 143

    def __str__(self) -> str:
        """Message for the user, on one line."""
        text = f"stopped by {signal.Signals(self.number).name}"
        return f"{text}: {self.remedy}" if self.remedy else text


@contextmanager
def stoppable(signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Raise `StopRequested` at a signal within a ``with`` block, so that work can be saved first.

    Python handles signals between two instructions: a running torch operation ends first. A signal
    that is ignored, as ``nohup`` does with SIGHUP, stays ignored. Outside the main thread, where
    Python allows no handlers, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for other in before:  # a second Ctrl-C stops at once; repeated other signals are ignored
            if other != signal.SIGINT:
                signal.signal(other, signal.SIG_IGN)
        _received.append(number)
        raise StopRequested(number)

    before = {
        number: signal.signal(number, stop)
        for number in signals
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    except Exception as error:
        if _received:  # C code can turn it into another exception
            raise StopRequested(_received[0]) from error
        raise
    finally:
        _received.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise `StopRequested` if a signal was received and its exception was lost.

    Python drops exceptions in destructors and C callbacks, and an imported package may catch all of
    them. Long loops therefore call this function.

    Raises:
        StopRequested: A signal was received.
    """
    if _received:
        raise StopRequested(_received[0])


def describe_stop(error: KeyboardInterrupt, remedy: str = "") -> StopRequested:
    """Add a remedy to a stop; a plain `KeyboardInterrupt` counts as Ctrl-C."""
    if isinstance(error, StopRequested):
        return StopRequested(error.number, error.remedy or remedy)
    return StopRequested(signal.SIGINT, remedy)
