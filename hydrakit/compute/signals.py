"""Being stopped from outside: by Ctrl-C, by the system that shares machines out, by a shut-down."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)

CHECKPOINT_SECONDS = 5.0
"""Seconds between two writings of a round's progress; epochs that last longer have one each."""

_asked: list[int] = []
"""Signals that came in the block under way, in order."""


class StopRequested(KeyboardInterrupt):
    """A signal asks the process to end; being no error, nothing that handles errors holds it.

    Attributes:
        number: Of the signal.
        remedy: How what was stopped goes on, in words; empty where nothing is known of it.
    """

    def __init__(self, number: int, remedy: str = "") -> None:
        super().__init__(number)
        self.number = number
        self.remedy = remedy

    @property
    def status(self) -> int:
        """Exit status of the process: 130 after Ctrl-C, 143 after a request of the system."""
        return 130 if self.number == signal.SIGINT else 143

    def __str__(self) -> str:
        """One line for the user."""
        text = f"stopped by {signal.Signals(self.number).name}"
        return f"{text}: {self.remedy}" if self.remedy else text


@contextmanager
def stoppable(signals: Sequence[int] = SIGNALS) -> Iterator[None]:
    """Raise `StopRequested` in a block at a signal, so that work under way can be tidied first.

    Python looks at signals between two steps of a program: an operation of torch ends before.
    Outside of the main thread, where Python allows no handlers, the block runs as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        for other in signals:  # a second Ctrl-C is heard; other requests need not be repeated
            if other != signal.SIGINT:
                signal.signal(other, signal.SIG_IGN)
        _asked.append(number)
        raise StopRequested(number)

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    except Exception as error:
        if _asked:  # code in C can make another error of it
            raise StopRequested(_asked[0]) from error
        raise
    finally:
        _asked.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def check() -> None:
    """Raise `StopRequested` if a signal came whose exception somebody swallowed.

    Python drops exceptions that arise in a destructor or a callback of C, and a package that is
    imported may catch all of them. Whatever repeats for long calls this.

    Raises:
        Stopped: A signal has asked to stop.
    """
    if _asked:
        raise StopRequested(_asked[0])


def describe_stop(error: KeyboardInterrupt, remedy: str = "") -> StopRequested:
    """What stopped a block, with how it goes on; Python's own interrupt is that of Ctrl-C."""
    if isinstance(error, StopRequested):
        return StopRequested(error.number, error.remedy or remedy)
    return StopRequested(signal.SIGINT, remedy)
