"""Claims: who works on what in a folder that several machines share, without a lock.

Locks of network file systems are unreliable, the clocks of machines differ, and a machine may see a
file seconds after another one has written it. Claims rely on one thing only: the server creates a
name at most once. `create_once` makes a file with a hard link, which fails if the name exists.

* A process that works in the folder is a *member*. It has a file of its own, and writes another
  number into it every few seconds (its heartbeat).
* ``NAME.0``, ``NAME.1``, ... are the generations of a claim. Each is created once and never changed
  or deleted; it holds the id of its owner, or `FREE`. The last one counts. To take a claim is to
  create its next generation, so that only one member can.
* A member that leaves creates ``ID.gone``, after freeing what it has not finished. For a member
  whose heartbeat has not changed for a time, anyone creates this file: its claims can be taken.
  Only the observer's clock measures that time, and only while it observes.
* A member that was suspended meanwhile finds ``ID.gone`` at its next heartbeat, and must stop its
  work (`Participant.check`).

The time is longer than NFS keeps outdated attributes and names (60 seconds by default), so that
whoever takes the claim of a silent member sees all that the member wrote.
"""

from __future__ import annotations

import errno
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Annotated, Self

from pydantic import Field

from hydrakit.errors import HydrakitError, PlanError
from hydrakit.schema import Frozen, Text
from hydrakit.storage.files import read_whole, reason, write_atomic

FOLDER = "claims"
"""Folder of the claims, in the folder that the machines share."""

BEAT = 10.0
"""Seconds between two heartbeats."""

LIMIT = 120.0
"""Seconds without a heartbeat after which a member's claims can be taken."""

WAIT = 0.5
"""Seconds between two tries to take a claim."""

FREE = "free"
LEFT, SILENT = "left", "silent"  # content of ID.gone

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)
"""Errors of file systems without hard links."""

_MEMBERS = "members"
_MAX_BYTES = 2000  # of each file


def create_once(path: Path, content: str) -> bool:
    """Create a file with its content, unless its name exists; whether this call created it.

    It holds between machines, also on NFS, where exclusive creation (O_EXCL) and locks may not.

    Raises:
        PlanError: The file system has no hard links.
        OSError: The file cannot be created.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        temporary.write_text(content, encoding="ascii")
        try:
            os.link(temporary, path)
        except OSError as error:
            # The server may have created the link though its answer was lost; when asked again, it
            # answers that the name exists. To open a file makes NFS ask for its attributes.
            with temporary.open("rb") as file:
                if os.fstat(file.fileno()).st_nlink == 2:
                    return True
            if isinstance(error, FileExistsError):
                return False
            if error.errno in NO_LINKS:
                raise PlanError(
                    f"{path.parent}: is on a file system without hard links ({reason(error)}), "
                    "which several machines need to share work: choose a folder on another disk"
                ) from None
            raise
        return True
    finally:
        with suppress(OSError):  # the first error counts
            temporary.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    """Content of a file; None if there is none, and empty if no member has written it."""
    try:
        return read_whole(path, max_bytes=_MAX_BYTES).decode()
    except FileNotFoundError:
        return None
    except ValueError:  # too large, no text, or no file
        return ""


class Heartbeat(Frozen):
    """Content of the file of a member.

    Attributes:
        host: Name of the machine.
        pid: Process id.
        count: Number of heartbeats.
    """

    host: Text
    pid: Annotated[int, Field(gt=0, lt=2**31)]
    count: Annotated[int, Field(ge=0)]

    def __str__(self) -> str:
        """The process in messages."""
        return f"pid {self.pid} on {self.host}"


@dataclass
class _Observed:
    """What an observer knows of a heartbeat.

    Attributes:
        content: Its last content.
        silence: Seconds for which it was observed without a change.
        changed: Whether it was seen to change.
    """

    content: str | None
    silence: float = 0.0
    changed: bool = False


@dataclass
class Observer:
    """Observes the heartbeats of a folder's members.

    Attributes:
        folder: Folder that the machines share.
        beat: Seconds between two heartbeats.
        limit: Seconds without a heartbeat after which a member is silent.
        clock: This process's clock, in seconds; it need not agree with any other.
    """

    folder: Path
    beat: float = BEAT
    limit: float = LIMIT
    clock: Callable[[], float] = time.monotonic
    _seen: dict[str, _Observed] = field(default_factory=dict, init=False)
    _last: float | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Begin to observe."""
        self.claims = self.folder / FOLDER
        self.members = self.claims / _MEMBERS

    def present(self) -> list[str]:
        """Ids of the members that have not gone, as far as is known."""
        try:
            names = {entry.name for entry in os.scandir(self.members)}
        except FileNotFoundError:
            return []
        return sorted(
            name.removesuffix(".member")
            for name in names
            if name.endswith(".member") and f"{name.removesuffix('.member')}.gone" not in names
        )

    def state(self, member: str) -> str | None:
        """`LEFT` or `SILENT` for a member that has gone; None for one that is present."""
        content = _read(self.members / f"{member}.gone")
        return content if content in (None, LEFT) else SILENT

    def describe(self, member: str) -> str:
        """Process and machine of a member."""
        try:
            text = _read(self.members / f"{member}.member")
            return str(Heartbeat.model_validate_json(text or ""))
        except (OSError, ValueError):
            return "unknown"

    def observe(self, *, without: str | None = None) -> list[str]:
        """Read all heartbeats, and declare silent members gone; the others that are present.

        Time in which this process did not observe does not count as silence: it may have been
        suspended together with the others.
        """
        now = self.clock()
        passed = 0.0 if self._last is None else min(now - self._last, 2 * self.beat)
        self._last = now
        present = []
        for member in self.present():
            if member == without:
                continue
            content = _read(self.members / f"{member}.member")
            before = self._seen.get(member)
            if before is None or before.content != content:
                self._seen[member] = _Observed(content, changed=before is not None)
            else:
                before.silence += passed
                if before.silence > self.limit:
                    create_once(self.members / f"{member}.gone", SILENT)
                    continue
            present.append(member)
        return present

    def alive(self) -> str | None:
        """Id of a member whose heartbeat was seen to change; None if there is none so far."""
        return next((member for member, each in self._seen.items() if each.changed), None)


def refuse_members(folder: Path) -> None:
    """Refuse a folder in which members are at work, after waiting for a sign of life.

    The waiting ends with the first heartbeat. Only where all members were killed it lasts for
    `LIMIT` seconds.

    Raises:
        HydrakitError: A member is at work.
    """
    observer = Observer(folder, BEAT, LIMIT)
    present = observer.observe()
    if present:
        logging.getLogger("hydrakit").warning(
            f"{folder}: {observer.describe(present[0])} shares work here (--join), or was killed: "
            f"waiting for a sign of life for up to {LIMIT:g} seconds"
        )
    while present:
        time.sleep(BEAT / 4)
        present = observer.observe()
        if (member := observer.alive()) is not None:
            raise HydrakitError(
                f"{folder}: {observer.describe(member)} shares work here (--join): use --join too, "
                "wait for its end, or choose another folder with `--out`"
            )


class Participant(Observer):
    """This process as a member, in a ``with`` block; a thread writes its heartbeat and observes.

    At the end of the block, claims that are not finished become free, and the member leaves.

    Attributes:
        id: Id of the member, different for each process and block.
        held: Generations of the claims that it has taken and not finished, by name.
    """

    def __init__(
        self,
        folder: Path,
        *,
        beat: float = BEAT,
        limit: float = LIMIT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(folder, beat, limit, clock)
        self.id = secrets.token_hex(8)
        self.held: dict[str, int] = {}
        self._top: dict[str, int] = {}  # generation of each claim that is known to exist
        self._count = 0
        self._last_beat = clock()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        """Join, and start the thread."""
        self.join()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the thread, and leave."""
        self._stop.set()
        self._thread.join()
        self.leave()

    def join(self) -> None:
        """Become a member, with a first heartbeat.

        Raises:
            PlanError: The folder cannot be written.
        """
        try:
            self.members.mkdir(parents=True, exist_ok=True)
            self._write()
        except OSError as error:
            raise PlanError(
                f"{self.members}: cannot be written ({reason(error)}): choose another folder"
            ) from None

    def leave(self) -> None:
        """Free the claims that are not finished, and go."""
        if self._lost:
            return
        with suppress(OSError):  # the folder cannot be reached: others notice the silence
            for name in list(self.held):
                self.release(name)
            create_once(self.members / f"{self.id}.gone", LEFT)

    def heartbeat(self) -> None:
        """Write a heartbeat, and observe the others; the thread calls it."""
        try:
            self._write()
            self._lost = self._lost or self.state(self.id) is not None
            self.observe(without=self.id)
        except OSError as error:
            if self.clock() - self._last_beat > self.limit:
                self._lost = True
                logging.getLogger("hydrakit").warning(f"{self.members}: {reason(error)}")

    def check(self) -> None:
        """Refuse to go on after others have declared this member gone.

        Raises:
            HydrakitError: They have, or this process could not write its heartbeat for as long.
        """
        if self._lost:
            raise HydrakitError(
                f"{self.folder}: this process was suspended, or could not reach the folder, for "
                f"over {self.limit:g} seconds, so that others take over its work: run the same "
                "command again to join them"
            )

    def owner(self, name: str) -> str | None:
        """Id of the member that owns a claim, present or gone; None for a claim that is free.

        A claim without content is free: a file server that lost power can leave one.
        """
        generation, content = self._latest(name)
        return None if generation < 0 or content in (FREE, "") else content

    def is_open(self, name: str, *, again: bool = False) -> bool:
        """Whether a claim can be taken, as far as is known.

        Args:
            name: Name of the claim.
            again: Whether finished work of members that have left is done again.
        """
        owner = self.owner(name)
        if owner is None:
            return True
        if owner == self.id:
            return False
        state = self.state(owner)
        return state == SILENT or (again and state == LEFT)

    def take(self, name: str, *, again: bool = False) -> bool:
        """Take a claim if it can be taken; whether this member owns it now.

        Args:
            name: Name of the claim, fit for a file.
            again: See `is_open`.

        Raises:
            HydrakitError: As in `check`.
            OSError: The folder cannot be read or written.
        """
        self.check()
        if name in self.held:
            return True
        if not self.is_open(name, again=again):
            return False
        generation = self._top.get(name, -1) + 1
        if not create_once(self._path(name, generation), self.id):
            return False
        self.held[name] = self._top[name] = generation
        return True

    @contextmanager
    def holding(self, name: str) -> Iterator[None]:
        """Hold a claim within a ``with`` block, after waiting for it, and free it then.

        Raises:
            HydrakitError: As in `check`.
            OSError: The folder cannot be read or written.
        """
        while not self.take(name):
            time.sleep(min(WAIT, self.beat))
        try:
            yield
        finally:
            self.release(name)

    def others(self) -> list[str]:
        """Processes and machines of the other members that have not gone, as far as is known."""
        return [self.describe(each) for each in self.present() if each != self.id]

    def taken_over(self, name: str) -> bool:
        """Whether someone else has owned a claim of this member before."""
        return self.held[name] > 0

    def finish(self, name: str) -> None:
        """Keep a claim for good: its work is done."""
        self.held.pop(name, None)

    def release(self, name: str) -> None:
        """Free a claim.

        Raises:
            OSError: The folder cannot be written.
        """
        generation = self.held.pop(name) + 1
        create_once(self._path(name, generation), FREE)

    def _write(self) -> None:
        self._count += 1
        beat = Heartbeat(host=platform.node() or "unknown", pid=os.getpid(), count=self._count)
        path = self.members / f"{self.id}.member"
        write_atomic(path, beat.model_dump_json().encode(), sync=False)
        self._last_beat = self.clock()

    def _work(self) -> None:
        """Main function of the thread; without it, others would take over work that goes on."""
        try:
            while not self._stop.wait(self.beat):
                self.heartbeat()
        finally:
            self._lost = self._lost or not self._stop.is_set()

    def _path(self, name: str, generation: int) -> Path:
        return self.claims / f"{name}.{generation}"

    def _latest(self, name: str) -> tuple[int, str]:
        """Number and content of the last generation of a claim that can be seen; -1 for none."""
        generation = self._top.get(name, -1)
        content = "" if generation < 0 else _read(self._path(name, generation)) or ""
        while (following := _read(self._path(name, generation + 1))) is not None:
            generation, content = generation + 1, following
        self._top[name] = generation
        return generation, content
