"""Several processes of one machine that train one plan together, as torchrun starts them.

Every batch of a round that trains the body is shared out: the body works on each process's own
rows, the head in every process on the whole batch, which is cheap and leaves any head's own batch
norm and dropout as they are. Process 0 leads: it reads data first, and it alone writes, prints and
runs what is too small to share (head rounds, the test). The others go on from the files it wrote.

Torch is imported inside functions, since the command line asks here who leads.
"""

from __future__ import annotations

import inspect
import itertools
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor, nn
    from torch.distributed import Store  # type: ignore[attr-defined]

    Record = TypeVar("Record", bound=BaseModel)

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# How long a process waits for the others: the leader may read a large dataset for hours. One that
# fails is noticed by torchrun, which then ends all.
PATIENCE = timedelta(days=7)
MEETING = timedelta(seconds=60)  # to reach the place where processes leave each other notes
_CONNECTIONS = itertools.count()  # of this process; the others count alike
GRACE = 5.0  # seconds for the first that failed to tell why, before torchrun sees another one end


@dataclass(frozen=True)
class Part:
    """The rows of a batch that one process works on.

    Attributes:
        rank: Of the process.
        size: How many processes.
        total: Rows of the whole batch, at least one for each process.
    """

    rank: int
    size: int
    total: int

    @property
    def rows(self) -> slice:
        """This process's own."""
        return self._of(self.rank)

    @property
    def counts(self) -> list[int]:
        """How many rows each process has."""
        return [self._of(rank).stop - self._of(rank).start for rank in range(self.size)]

    def _of(self, rank: int) -> slice:
        return slice(rank * self.total // self.size, (rank + 1) * self.total // self.size)


@dataclass(frozen=True)
class ProcessGroup:
    """The processes that train together, as one of them sees them; by default it is alone.

    Attributes:
        rank: This process's number.
        size: How many there are.
        nodes: On how many machines, rounded up.
    """

    rank: int = 0
    size: int = 1
    nodes: int = 1

    @classmethod
    def here(cls) -> ProcessGroup:
        """What torchrun says in the environment; without it a process is alone."""
        if not all(name in os.environ for name in NEEDED):
            return cls()
        size = int(os.environ["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_WORLD_SIZE", size))
        return cls(int(os.environ["RANK"]), size, -(-size // local))

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def part(self, total: int) -> Part | None:
        """This process's part of a batch; None where it does the whole.

        That is where it is alone, and where a batch has fewer rows than there are processes: each
        of them then computes the same.
        """
        return Part(self.rank, self.size, total) if 1 < self.size <= total else None

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            from torch import distributed

            distributed.barrier()

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The leader runs the block, then the others, who find what it left in the cache."""
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()
        self.wait()

    def broadcast(self, record: Record) -> Record:
        """The leader's record, so that what is decided by it is the same in every process."""
        if self.size == 1:
            return record
        import torch
        from torch import distributed

        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        text = torch.frombuffer(bytearray(record.model_dump_json().encode()), dtype=torch.uint8)
        length = torch.tensor(len(text), device=device)
        distributed.broadcast(length, src=0)
        told = text.to(device) if self.is_main else text.new_empty(int(length), device=device)
        distributed.broadcast(told, src=0)
        return type(record).model_validate_json(bytes(told.tolist()))

    @contextmanager
    def together(self, device: torch.device) -> Iterator[None]:
        """Connect the processes for a block, which ends when it has ended in every one.

        NCCL connects GPUs, gloo CPUs. When one process fails, all end, and the first tells why.

        Args:
            device: This process's own.
        """
        if self.size == 1:
            yield
            return
        import torch
        from torch import distributed

        with report_first_error(), warnings.catch_warnings():
            # Of 1x1 convolutions, whose numbers lie in the same order in both layouts.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view")
            on_gpu = device.type == "cuda"
            if on_gpu:
                torch.cuda.set_device(device)
            distributed.init_process_group(
                "nccl" if on_gpu else "gloo",
                # Addresses of an earlier connection stay in the store: each has a place of its own.
                store=_store(PATIENCE, f"hydrakit/{next(_CONNECTIONS)}"),
                rank=self.rank,
                world_size=self.size,
                timeout=PATIENCE,
                device_id=device if on_gpu else None,
            )
            yield
            self.wait()
        # Not after a failure: destroying can wait for the others, who wait in turn.
        distributed.destroy_process_group()


ALONE = ProcessGroup()


@contextmanager
def report_first_error() -> Iterator[None]:
    """When a block fails in several processes, only the first to fail tells; the others exit.

    Whoever fails leaves a note at the launcher. Most failures are the same in every process, or
    come of another one that left.

    Raises:
        SystemExit: Another process failed before this one; status 1.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt):
        team = ProcessGroup.here()
        if team.size > 1 and not _is_first(team):
            time.sleep(GRACE)
            raise SystemExit(1) from None
        raise


def _is_first(team: ProcessGroup) -> bool:
    """Note down that this process failed; whether none had before."""
    first: bytes = _store(MEETING).compare_set("failed", "", str(team.rank))
    return first.decode() == str(team.rank)


def _store(timeout: timedelta, place: str = "hydrakit") -> Store:
    """A place where processes leave each other notes; torchrun keeps it."""
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    return PrefixStore(place, next(rendezvous("env://", timeout=timeout))[0])


def summed(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors of this shape, in the place of this one."""
    from torch import distributed

    distributed.all_reduce(tensor)
    return tensor


def parallel(model: nn.Module, device: torch.device) -> nn.Module:
    """A model whose gradients become the mean over all processes; it shares the weights.

    All begin with the leader's weights. Batch-norm statistics need no exchange: every process
    computes those of the whole batch.
    """
    from torch.nn.parallel import DistributedDataParallel

    known = inspect.signature(DistributedDataParallel).parameters
    renamed = "forward_sync_buffers"  # PyTorch 2.13 warns of the old name
    name = renamed if renamed in known else "broadcast_buffers"
    options: dict[str, Any] = {name: False}
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=devices, **options)
