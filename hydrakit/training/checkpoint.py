"""Checkpoints: the progress of a round on disk.

A round that is resumed from a checkpoint ends with the same weights as an uninterrupted one. Every
epoch has its own seed, so a checkpoint contains no random state. It is one safetensors file that is
written under a temporary name and renamed. Like a weight file it contains a description of itself.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hydrakit.compute.modules import StateDict
from hydrakit.compute.signals import CHECKPOINT_SECONDS
from hydrakit.errors import WeightsError
from hydrakit.plan.results import CheckpointFacts, EpochRecord, Plateau
from hydrakit.storage.records import refuse_later
from hydrakit.training.selection import Selection
from hydrakit.version import version
from hydrakit.weights import format as weightfile

RECORDS = "records"


@dataclass(frozen=True)
class Snapshot:
    """Copy of a round's progress after an epoch.

    Attributes:
        tensors: Weights, optimiser state and saved weights by name, on their device.
        records: Records of the finished epochs.
        learning_rate: Learning rate of the next epoch.
        plateau: State of the learning rate schedule.
        saved_epochs: Numbers of the epochs whose weights the selection has saved.
    """

    tensors: dict[str, Tensor]
    records: tuple[EpochRecord, ...]
    learning_rate: float
    plateau: Plateau
    saved_epochs: tuple[int, ...]


@dataclass
class RoundProgress:
    """State of a round between two epochs: everything that decides how training continues.

    Attributes:
        modules: Modules that are trained.
        optimiser: Optimiser of their parameters.
        scheduler: Learning rate schedule.
        selection: Selection of the weights that the round will end with.
        records: Records of the finished epochs.
    """

    modules: Sequence[nn.Module]
    optimiser: Optimizer
    scheduler: ReduceLROnPlateau
    selection: Selection
    records: list[EpochRecord] = field(default_factory=list)

    def over(self) -> bool:
        """Whether the round has reached its last epoch, or patience has run out."""
        settings, done = self.selection.settings, len(self.records)
        return done >= settings.epochs or self.selection.exhausted(done, settings.patience)

    def snapshot(self) -> Snapshot:
        """Copy the state. Weights saved by the selection are never modified, so not copied."""
        tensors = {
            f"module.{number}.{name}": tensor.detach().clone()
            for number, module in enumerate(self.modules)
            for name, tensor in module.state_dict().items()
        }
        for number, parameter in enumerate(self._parameters):
            for name, tensor in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{number}.{name}"] = tensor.detach().clone()
        saved = self.selection.saved
        for place, (_, states) in enumerate(saved):
            for number, state in enumerate(states):
                for name, tensor in state.items():
                    tensors[f"kept.{place}.{number}.{name}"] = tensor
        plateau = self.scheduler.state_dict()
        best = plateau["best"]
        return Snapshot(
            tensors,
            tuple(self.records),
            learning_rate=self.optimiser.param_groups[0]["lr"],
            plateau=Plateau(
                best=None if best == float("inf") else best,
                **{name: plateau[name] for name in Plateau.model_fields if name != "best"},
            ),
            saved_epochs=tuple(record.epoch for record, _ in saved),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Restore the state of a snapshot.

        Raises:
            KeyError, ValueError, RuntimeError: The snapshot belongs to other modules.
        """
        tensors, plateau = snapshot.tensors, snapshot.plateau
        for number, module in enumerate(self.modules):
            module.load_state_dict(_with_prefix(tensors, f"module.{number}."))
        self.optimiser.load_state_dict(
            {
                "state": {
                    number: {name: _copy_like(tensor, parameter) for name, tensor in state.items()}
                    for number, parameter in enumerate(self._parameters)
                    if (state := _with_prefix(tensors, f"optimiser.{number}."))
                },
                "param_groups": self.optimiser.state_dict()["param_groups"],
            }
        )
        for group in self.optimiser.param_groups:
            group["lr"] = snapshot.learning_rate
        best = float("inf") if plateau.best is None else plateau.best
        self.scheduler.load_state_dict(plateau.model_dump() | {"best": best})
        self.records[:] = snapshot.records
        saved = [
            (self.records[epoch - 1], self._saved_states(tensors, place))
            for place, epoch in enumerate(snapshot.saved_epochs)
        ]
        self.selection.restore(self.records, saved)

    def _saved_states(self, tensors: Mapping[str, Tensor], place: int) -> list[StateDict]:
        """Saved weights of one epoch, one state for each module, on the device of training."""
        return [
            {
                name: tensor.to(self._parameters[0].device)
                for name, tensor in _with_prefix(tensors, f"kept.{place}.{number}.").items()
            }
            for number in range(len(self.modules))
        ]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        parameters: list[nn.Parameter] = self.optimiser.param_groups[0]["params"]
        return parameters


class Checkpointer:
    """Stores the progress of a round: in memory after every epoch, and on disk at intervals.

    Attributes:
        path: Path of the checkpoint; None stores the progress in memory only.
        interval: Seconds between two checkpoints on disk.
        plan: Digest of the plan, for the checkpoint.
        data: Digest of the data, for the checkpoint.
        latest: Progress after the last finished epoch.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        interval: float = CHECKPOINT_SECONDS,
        plan: str | None = None,
        data: str | None = None,
    ) -> None:
        self.path = path
        self.interval = interval
        self.plan, self.data = plan, data
        self.latest: Snapshot | None = None
        self._written = True
        self._start = self._last_write = time.monotonic()
        self._seconds_before = 0.0

    @property
    def seconds(self) -> float:
        """Seconds of training, including those before a stop."""
        return self._seconds_before + time.monotonic() - self._start

    def begin(self, progress: RoundProgress) -> None:
        """Restore the progress from the checkpoint, if there is one.

        Raises:
            WeightsError: The checkpoint is damaged, or belongs to another round.
        """
        if self.path is not None and self.path.is_file():
            snapshot, self._seconds_before = _read(self.path)
            try:
                progress.restore(snapshot)
            except (KeyError, ValueError, RuntimeError, IndexError):
                raise WeightsError(
                    f"{self.path}: belongs to another round: delete it, and run again to train the "
                    "round from its beginning"
                ) from None
        self.latest = progress.snapshot()

    def roll_back(self, progress: RoundProgress) -> None:
        """Restore the progress after the last finished epoch."""
        assert self.latest is not None
        progress.restore(self.latest)

    def epoch_finished(self, progress: RoundProgress) -> None:
        """Store the progress after an epoch, on disk too if the interval has passed.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        self.latest, self._written = progress.snapshot(), False
        if time.monotonic() - self._last_write >= self.interval:
            self.write()

    def write(self) -> None:
        """Write the latest progress to disk, unless it is there already.

        Raises:
            OSError: The checkpoint cannot be written.
        """
        if self.path is None or self.latest is None or self._written:
            return
        snapshot = self.latest
        lines = "\n".join(record.model_dump_json() for record in snapshot.records)
        records = torch.frombuffer(bytearray(lines.encode()), dtype=torch.uint8)
        tensors = {**snapshot.tensors, RECORDS: records}
        facts = CheckpointFacts(
            hydrakit=version(),
            epoch=len(snapshot.records),
            learning_rate=snapshot.learning_rate,
            plateau=snapshot.plateau,
            kept=snapshot.saved_epochs,
            seconds=self.seconds,
            digest=weightfile.tensor_digest(tensors),
            plan=self.plan,
            data=self.data,
        )
        weightfile.write_tensors(self.path, tensors, facts)
        self._written, self._last_write = True, time.monotonic()


def read_facts(path: Path) -> CheckpointFacts:
    """Read the description of a checkpoint, without its tensors.

    Raises:
        WeightsError: The file is not a checkpoint or is damaged, or a later version wrote it.
    """
    try:
        text = weightfile.read_description(path)
    except WeightsError:
        raise _damaged(path) from None
    refuse_later(path, text, error=WeightsError)
    try:
        return CheckpointFacts.model_validate_json(text)
    except ValidationError:
        raise _damaged(path) from None


def _read(path: Path) -> tuple[Snapshot, float]:
    """Read a checkpoint, and the seconds of training before it."""
    facts = read_facts(path)
    try:
        tensors = weightfile.read_tensors(path, facts.digest)
        lines = bytes(tensors.pop(RECORDS).numpy()).splitlines()
        records = tuple(EpochRecord.model_validate_json(line) for line in lines)
    except (WeightsError, KeyError, ValidationError):
        raise _damaged(path) from None
    if len(records) != facts.epoch:
        raise _damaged(path)
    snapshot = Snapshot(tensors, records, facts.learning_rate, facts.plateau, facts.kept)
    return snapshot, facts.seconds


def _damaged(path: Path) -> WeightsError:
    return WeightsError(
        f"{path}: hydrakit {version()} cannot read this checkpoint: it is damaged, or another "
        "version wrote it: delete it, and run again to train the round from its beginning"
    )


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors with a prefix in their names, by the rest of the name."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _copy_like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """Copy a tensor into the memory layout of its parameter; a step count is copied as it is."""
    if tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter).copy_(tensor)
