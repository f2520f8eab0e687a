"""A round's progress on disk: with it the round goes on after any stop as if nothing had happened.

Every epoch seeds itself, so that no random state has to be kept. A checkpoint is one safetensors
file, written whole beside its place and renamed; it says what it is as weight files do.
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
    """A round's progress after an epoch, apart from the modules that go on.

    Attributes:
        tensors: By name, on their device.
        records: Of the epochs.
        learning_rate: As in `CheckpointFacts`, like the two below.
        plateau: Of the schedule.
        kept: Epochs.
    """

    tensors: dict[str, Tensor]
    records: tuple[EpochRecord, ...]
    learning_rate: float
    plateau: Plateau
    kept: tuple[int, ...]


@dataclass
class RoundProgress:
    """Where a round is: all that decides how it goes on after an epoch.

    Attributes:
        modules: What is trained.
        optimiser: Of their parameters.
        scheduler: Of the learning rate.
        selection: Which weights the round will end with.
        records: Of the epochs that are over.
    """

    modules: Sequence[nn.Module]
    optimiser: Optimizer
    scheduler: ReduceLROnPlateau
    selection: Selection
    records: list[EpochRecord] = field(default_factory=list)

    def over(self) -> bool:
        """Whether the round has had all its epochs, or patience has run out."""
        settings, done = self.selection.settings, len(self.records)
        return done >= settings.epochs or self.selection.exhausted(done, settings.patience)

    def snapshot(self) -> Snapshot:
        """A copy. What selection keeps is not copied: it is replaced, never changed."""
        tensors = {
            f"module.{number}.{name}": tensor.detach().clone()
            for number, module in enumerate(self.modules)
            for name, tensor in module.state_dict().items()
        }
        for number, parameter in enumerate(self._parameters):
            for name, tensor in self.optimiser.state.get(parameter, {}).items():
                tensors[f"optimiser.{number}.{name}"] = tensor.detach().clone()
        kept = self.selection.kept
        for place, (_, states) in enumerate(kept):
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
            kept=tuple(record.epoch for record, _ in kept),
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Be as a snapshot tells.

        Raises:
            KeyError, ValueError, RuntimeError: It is of other modules.
        """
        tensors, plateau = snapshot.tensors, snapshot.plateau
        for number, module in enumerate(self.modules):
            module.load_state_dict(_below(tensors, f"module.{number}."))
        self.optimiser.load_state_dict(
            {
                "state": {
                    number: {name: _like(tensor, parameter) for name, tensor in state.items()}
                    for number, parameter in enumerate(self._parameters)
                    if (state := _below(tensors, f"optimiser.{number}."))
                },
                "param_groups": self.optimiser.state_dict()["param_groups"],
            }
        )
        for group in self.optimiser.param_groups:
            group["lr"] = snapshot.learning_rate
        best = float("inf") if plateau.best is None else plateau.best
        self.scheduler.load_state_dict(plateau.model_dump() | {"best": best})
        self.records[:] = snapshot.records
        kept = [
            (self.records[epoch - 1], self._kept_states(tensors, place))
            for place, epoch in enumerate(snapshot.kept)
        ]
        self.selection.go_on(self.records, kept)

    def _kept_states(self, tensors: Mapping[str, Tensor], place: int) -> list[StateDict]:
        """On the device of what is trained."""
        return [
            {
                name: tensor.to(self._parameters[0].device)
                for name, tensor in _below(tensors, f"kept.{place}.{number}.").items()
            }
            for number in range(len(self.modules))
        ]

    @property
    def _parameters(self) -> list[nn.Parameter]:
        found: list[nn.Parameter] = self.optimiser.param_groups[0]["params"]
        return found


class Checkpointer:
    """Keeps a round's progress: in memory after every epoch, and on disk now and then.

    Attributes:
        path: Of the checkpoint; None keeps it in memory alone.
        every: Seconds between two writings.
        held: The progress after the last epoch.
    """

    def __init__(self, path: Path | None = None, *, every: float = CHECKPOINT_SECONDS) -> None:
        self.path = path
        self.every = every
        self.held: Snapshot | None = None
        self._written = True
        self._began = self._wrote = time.monotonic()
        self._before = 0.0

    @property
    def seconds(self) -> float:
        """Of training, those before a stop included."""
        return self._before + time.monotonic() - self._began

    def begin(self, progress: RoundProgress) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            WeightsError: It is damaged, or of another round.
        """
        if self.path is not None and self.path.is_file():
            snapshot, self._before = _read(self.path)
            try:
                progress.restore(snapshot)
            except (KeyError, ValueError, RuntimeError, IndexError):
                raise WeightsError(
                    f"{self.path}: is not of this round: delete it, and the round begins anew"
                ) from None
        self.held = progress.snapshot()

    def back(self, progress: RoundProgress) -> None:
        """Go back to the progress after the last epoch."""
        assert self.held is not None
        progress.restore(self.held)

    def epoch_over(self, progress: RoundProgress) -> None:
        """An epoch is over: its progress is kept, and written down if it is time.

        Raises:
            OSError: It cannot be written.
        """
        self.held, self._written = progress.snapshot(), False
        if time.monotonic() - self._wrote >= self.every:
            self.write()

    def write(self) -> None:
        """Write down what is held, unless it is on disk already.

        Raises:
            OSError: It cannot be written.
        """
        if self.path is None or self.held is None or self._written:
            return
        held = self.held
        lines = "\n".join(record.model_dump_json() for record in held.records)
        records = torch.frombuffer(bytearray(lines.encode()), dtype=torch.uint8)
        tensors = {**held.tensors, RECORDS: records}
        facts = CheckpointFacts(
            hydrakit=version(),
            epoch=len(held.records),
            learning_rate=held.learning_rate,
            plateau=held.plateau,
            kept=held.kept,
            seconds=self.seconds,
            digest=weightfile.tensor_digest(tensors),
        )
        weightfile.write_tensors(self.path, tensors, facts)
        self._written, self._wrote = True, time.monotonic()


def read_facts(path: Path) -> CheckpointFacts:
    """What a checkpoint says, without its tensors.

    Raises:
        WeightsError: It is none, or damaged, or a later version wrote it.
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
    """A checkpoint, and the seconds of training before it."""
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
        f"{path}: is no checkpoint that hydrakit {version()} reads: it was damaged, or "
        "another version wrote it: delete it, and its round begins anew"
    )


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of the name."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _like(tensor: Tensor, parameter: nn.Parameter) -> Tensor:
    """A copy laid out in memory as a parameter is; what has another shape is a count."""
    if tensor.shape != parameter.shape:
        return tensor.clone()
    return torch.empty_like(parameter).copy_(tensor)
