"""One process at a time in a folder, and who it is.

The lock is the operating system's, on the file ``.lock``: it goes when its process does, however
that ends. Beside it ``lock.holder`` says who holds it, for people and for `hydrakit status`. On a
network file system the lock is as good as that system's: start runs of one folder on one machine.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.schema import Frozen

PATIENCE = 2.0
"""Seconds that a process has to say that it is the one that holds the lock."""

FILES = (".lock", "lock.holder")


class Holder(Frozen):
    """Who holds a lock, or held it when its process was killed.

    Attributes:
        pid: Number of the process.
        host: Name of its machine.
        since: When it took the lock.
    """

    pid: int
    host: str
    since: datetime.datetime

    def __str__(self) -> str:
        """As ``lock.holder`` has it."""
        return f"pid {self.pid} on {self.host} since {self.since.isoformat(timespec='seconds')}"

    def alive(self) -> bool | None:
        """Whether the process is there; None where it cannot be told from here."""
        if self.host != platform.node() or os.name == "nt":  # there, os.kill would end it
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # it is another user's
            pass
        began = _began(self.pid)
        return began is None or began <= self.since.timestamp() + 1  # else the number is another's


def holder_of(folder: Path) -> Holder | None:
    """Who holds the lock of a folder, as it was last said; None where nobody does.

    A process that was killed is still named: see `Holder.alive`.
    """
    try:
        text = (folder / FILES[1]).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    found = re.fullmatch(r"pid (\d+) on (.*) since (\S+)\n", text)
    if found is None:  # it is being written
        return None
    with suppress(ValueError):
        since = datetime.datetime.fromisoformat(found[3])
        return Holder(pid=int(found[1]), host=found[2], since=since)
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder.

    Raises:
        HydrakitError: Another process holds the lock.
        PlanError: The folder cannot be written.
    """
    lock, file = FileLock(folder / FILES[0]), folder / FILES[1]
    try:
        _acquire(lock, folder)
        try:
            me = Holder(pid=os.getpid(), host=platform.node(), since=_now())
            file.write_text(f"{me}\n", encoding="utf-8")
        except OSError:
            lock.release()
            raise
    except (OSError, NotImplementedError) as error:  # of file systems without locks
        reason = getattr(error, "strerror", None) or str(error)
        raise PlanError(
            f"{folder}: cannot be written, or not be locked: {reason}: choose another with `--out`"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Take a lock that is free.

    Between taking it and saying so, and between the end of a process and that of its lock, nobody
    or somebody dead is named: look again then.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            holder = holder_of(folder)
        alive = holder.alive() if holder else False
        if alive or time.monotonic() >= until:
            who = str(holder) if alive is not False else "it has not said who it is"
            raise HydrakitError(
                f"{folder}: another process is running here ({who}): wait for it, or choose "
                "another folder with `--out`"
            )
        time.sleep(0.02)


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _began(pid: int) -> float | None:
    """When a process began, in seconds since 1970; None where the system does not tell.

    Source: proc(5), /proc/[pid]/stat, field 22; /proc/stat, btime.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, ValueError, IndexError):
        return None
    return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else None
