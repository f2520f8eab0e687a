"""Locks, which let only one process at a time work in a folder.

The operating system locks the file ``.lock`` and releases it when the process ends for any reason.
The file ``lock.holder`` names the process, for users and for `hydrakit status`. Locks of network
file systems may be unreliable: start all processes for one folder on the same machine.
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
"""Seconds within which the holder of a lock must write ``lock.holder``."""

FILES = (".lock", "lock.holder")


class Holder(Frozen):
    """The process that holds a lock, or held it when it was killed.

    Attributes:
        pid: Process id.
        host: Name of the machine.
        since: Time when the lock was acquired.
    """

    pid: int
    host: str
    since: datetime.datetime

    def __str__(self) -> str:
        """The content of ``lock.holder``."""
        return f"pid {self.pid} on {self.host} since {self.since.isoformat(timespec='seconds')}"

    def alive(self) -> bool | None:
        """Whether the process is running; None if unknown, as on another machine."""
        if (
            self.host != platform.node() or os.name == "nt"
        ):  # on Windows, os.kill would end the process
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # the process of another user
            pass
        start = _start_time(self.pid)
        return start is None or start <= self.since.timestamp() + 1  # else the id was reused


def holder_of(folder: Path) -> Holder | None:
    """Read which process holds the lock of a folder; None if no process does.

    A process that was killed is still returned: see `Holder.alive`.
    """
    try:
        text = (folder / FILES[1]).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    match = re.fullmatch(r"pid (\d+) on (.*) since (\S+)\n", text)
    if match is None:  # it is being written
        return None
    with suppress(ValueError):
        since = datetime.datetime.fromisoformat(match[3])
        return Holder(pid=int(match[1]), host=match[2], since=since)
    return None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process within a ``with`` block.

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
    except (OSError, NotImplementedError) as error:  # file systems without locks raise the latter
        reason = getattr(error, "strerror", None) or str(error)
        raise PlanError(
            f"{folder}: cannot be written or locked ({reason}): choose another folder with `--out`"
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, folder: Path) -> None:
    """Acquire a lock, or raise an error that names its holder.

    For a moment after a lock is acquired or its process ends, ``lock.holder`` names no process or
    an ended one: try again then, for at most `PATIENCE` seconds.
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
            who = str(holder) if alive is not False else "unknown"
            raise HydrakitError(
                f"{folder}: another process is running here ({who}): wait for its end, or choose "
                "another folder with `--out`"
            )
        time.sleep(0.02)


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _start_time(pid: int) -> float | None:
    """Start time of a process in seconds since 1970; None if the system does not provide it.

    Source: proc(5), /proc/[pid]/stat, field 22; /proc/stat, btime.
    """
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        boot = re.search(r"^btime (\d+)$", Path("/proc/stat").read_text(), re.MULTILINE)
    except (OSError, ValueError, IndexError):
        return None
    return int(boot[1]) + ticks / os.sysconf("SC_CLK_TCK") if boot else None
