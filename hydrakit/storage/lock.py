"""Locks, which let only one process at a time work in a folder, or only those that joined it.

The operating system locks the file ``.lock`` and releases it when the process ends for any reason.
The file ``lock.holder`` names the process, for users and for `hydrakit status`. Locks of network
file systems may be unreliable: start all processes for one folder on the same machine, or let them
join it (`joined`), which needs no locks (`hydrakit.storage.claims`). A file system that refuses
locks is refused for runs, which two processes would spoil; the cache is then locked by a file that
exists (`cache_lock`).
"""

from __future__ import annotations

import datetime
import errno
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout
from pydantic import AwareDatetime, Field

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.schema import Frozen, Text
from hydrakit.storage import claims
from hydrakit.storage.files import delete, read_whole, reason, refuse_links, walk, write_atomic

PATIENCE = 2.0
"""Seconds within which the holder of a lock must write ``lock.holder``."""

FILES = (".lock", "lock.holder")

MAX_HOLDER = 2000  # bytes of lock.holder

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of file systems without locks."""


class Holder(Frozen):
    """The process that holds a lock, or held it when it was killed.

    Attributes:
        pid: Process id.
        host: Name of the machine.
        since: Time when the lock was acquired.
    """

    pid: Annotated[int, Field(gt=0, lt=2**31)]
    host: Text
    since: AwareDatetime

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

    A process that was killed is still returned: see `Holder.alive`. A file with other content names
    no process.
    """
    try:
        text = read_whole(folder / FILES[1], max_bytes=MAX_HOLDER).decode()
        match = re.fullmatch(r"pid ([0-9]+) on (.*) since (\S+)\n", text)
        if match is None:  # it is being written
            return None
        since = datetime.datetime.fromisoformat(match[3])
        return Holder(pid=int(match[1]), host=match[2], since=since)
    except (OSError, ValueError):  # ValueError is also pydantic's
        return None


def is_first_file(name: str) -> bool:
    """Whether a file of this name may be in a folder where a command has only just begun."""
    return name in FILES or name.startswith(f".{FILES[1]}.")


class TakenOverError(HydrakitError):
    """Another process works in a folder that this process has locked, after `break_locks`."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process within a ``with`` block, after refusing links in it.

    Below a folder that processes have joined, their claims replace the locks of a file system
    without locks.

    Raises:
        HydrakitError: Another process holds the lock, or has joined the folder.
        PlanError: The folder holds a link (`refuse_links`), cannot be written, or is on a file
            system without locks.
    """
    lock, file = FileLock(folder / FILES[0]), folder / FILES[1]
    try:
        refuse_links(folder)
        try:
            _acquire(lock, folder)
        except (OSError, NotImplementedError) as error:
            if not (_refuses_locks(error) and _is_shared(folder)):
                raise
        try:
            me = Holder(pid=os.getpid(), host=platform.node(), since=_now())
            write_atomic(file, f"{me}\n".encode(), sync=False)
        except OSError:
            lock.release()
            raise
    except (OSError, NotImplementedError) as error:
        if _refuses_locks(error):
            raise PlanError(
                f"{folder}: is on a file system without locks ({_reason(error)}), where two "
                "processes could write at the same time: choose a folder on another disk with "
                "`--out`"
            ) from None
        raise PlanError(
            f"{folder}: cannot be written or locked ({_reason(error)}): choose another folder with "
            "`--out`"
        ) from None
    try:
        claims.refuse_members(folder)
        yield
    finally:
        with suppress(OSError):  # the folder was deleted meanwhile
            if _is_mine(file):
                file.unlink()
        lock.release()


def _is_shared(folder: Path) -> bool:
    """Whether a folder lies below one that processes have joined."""
    return any((parent / claims.FOLDER).is_dir() for parent in folder.absolute().parents)


def check_lock(folder: Path) -> None:
    """Check that this process still holds the lock of a folder, which others can break.

    Raises:
        TakenOverError: The lock was broken (`break_locks`).
    """
    if not _is_mine(folder / FILES[1]):
        raise TakenOverError(
            f"{folder}: another process has taken over the work here, because this one or the "
            "command that started it gave no sign of life: this one stops"
        )


def _is_mine(file: Path) -> bool:
    """Whether ``lock.holder`` names this process, as far as it can be read."""
    try:
        content = read_whole(file, max_bytes=MAX_HOLDER)
    except (FileNotFoundError, ValueError):
        return False
    except OSError:
        return True
    return content.startswith(f"pid {os.getpid()} on {platform.node()} since ".encode())


@contextmanager
def joined(folder: Path) -> Iterator[claims.Participant]:
    """Join a folder within a ``with`` block, in which other processes may work that do the same.

    A process that locks the folder does so before it looks for members, and a member joins before
    it looks for such a process: at least one of the two refuses.

    Raises:
        HydrakitError: A process that did not join works there.
        PlanError: The folder holds a link, cannot be written, or is on a file system without hard
            links.
    """
    refuse_links(folder)
    with claims.Participant(folder, beat=claims.BEAT, limit=claims.LIMIT) as member:
        holder = holder_of(folder)
        if holder is not None and (alive := holder.alive()) is not False:
            remedy = "" if alive else f", or delete {folder / FILES[1]} if that process has ended"
            raise HydrakitError(
                f"{folder}: a process that does not share its work is running here ({holder}): "
                f"wait for its end{remedy}"
            )
        yield member


def break_locks(folder: Path) -> None:
    """Remove all locks in and below a folder, whose owner is known to have gone.

    A file server may keep the locks of a machine that is dead. A new file has no lock.
    """
    if folder.is_dir():
        for entry in list(walk(folder)):
            if entry.name in FILES:
                with suppress(FileNotFoundError):
                    delete(folder, Path(entry.path))


@contextmanager
def cache_lock(folder: Path, *, say: Callable[[str], object]) -> Iterator[None]:
    """Lock a folder of the cache within a ``with`` block, after waiting for other processes.

    On a file system without locks, a file that exists locks the folder: a process that is killed
    leaves it behind.

    Args:
        folder: Folder of the cache.
        say: Called with a message for the user before waiting, and if there are no locks.

    Raises:
        OSError: The folder cannot be locked.
    """
    lock: BaseFileLock = FileLock(folder / FILES[0])
    waiting = f"{folder}: another process prepares this data: waiting for it"
    try:
        _wait(lock, lambda: say(waiting))
    except (OSError, NotImplementedError) as error:
        if not _refuses_locks(error):
            raise
        path = folder / f"{FILES[0]}.soft"
        say(
            f"{folder.parent}: is on a file system without locks ({_reason(error)}), so the file "
            f"{path} replaces one: choose a cache on another disk with `--cache`, or delete that "
            "file if no process is preparing this data"
        )
        lock = SoftFileLock(path)
        _wait(lock, lambda: say(waiting))
    try:
        yield
    finally:
        lock.release()


def mark_read(descriptor: int) -> None:
    """Mark an open file of the cache as being read, until it is closed (`is_read`).

    Systems without such locks are Windows, which does not delete open files, and some file systems.
    """
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def is_read(path: Path) -> bool:
    """Whether a process reads a file of the cache (`mark_read`), or none can tell.

    Raises:
        OSError: The file cannot be opened.
    """
    if sys.platform == "win32":
        return False
    import fcntl

    with path.open("r+b") as file:  # some network file systems lock no file that is only read
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _wait(lock: BaseFileLock, say: Callable[[], object]) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say()
        lock.acquire()


def _refuses_locks(error: OSError | NotImplementedError) -> bool:
    """Whether a file system has no locks; some versions of filelock say so by the latter error."""
    return isinstance(error, NotImplementedError) or error.errno in NO_LOCKS


def _reason(error: OSError | NotImplementedError) -> str:
    return reason(error) if isinstance(error, OSError) else str(error)


def _acquire(lock: FileLock, folder: Path) -> None:
    """Acquire a lock, or raise an error that names its holder.

    For a moment after a lock is acquired or its process ends, ``lock.holder`` names no process or
    an ended one: try again then, for at most `PATIENCE` seconds.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            lock.acquire(timeout=0)
            if isinstance(lock, SoftFileLock):  # filelock replaced the lock, for lack of a better
                lock.release()
                raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
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
