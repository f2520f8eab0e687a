"""What a run would cost, from a few measured steps of it: time, memory and disk."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from hydrakit.compute.devices import on_device, thread_count
from hydrakit.compute.modules import set_dropout
from hydrakit.data.load import LoadedDataset
from hydrakit.errors import PlanError
from hydrakit.models.body import BodyModule, BodyWithHead, set_trainable
from hydrakit.models.build import build_body, build_head
from hydrakit.plan.results import DataFacts
from hydrakit.rounds import Round
from hydrakit.runs.session import Session
from hydrakit.storage.lock import Holder, holder_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.diagnostics import is_out_of_memory, largest_fitting_batch
from hydrakit.training.epochs import Step
from hydrakit.training.evaluation import EVALUATION_BATCH, forward_in_batches
from hydrakit.training.seeds import Seeds

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 3  # are measured, after one that warms up
SHOWN = 16 * 32 * 3  # looks at a patch that the report's saliency maps take
RECORD = 1000  # bytes of an epoch's figures, in a round and in the report
REST = 3_000_000  # bytes: the report with its patches, predictions, and what is small


@dataclass(frozen=True)
class RoundCost:
    """A round, and how long it takes at most.

    Attributes:
        number: From 1.
        round: As planned.
        examples: Training patches in an epoch.
        val: Validation cases.
        seconds: With all its epochs; 0 of one that is done.
        done: Whether it is in the run's folder.
    """

    number: int
    round: Round
    examples: int
    val: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class DryRun:
    """What was found without a run.

    Attributes:
        out: Where the run would be.
        holder: The process that is at work there.
        finished: Whether that run is finished.
        device: What it would be computed on.
        facts: Of the datasets, by name.
        rounds: In order.
        memory: Bytes that the measured steps took at their height: of the GPU, else of the process;
            None where the system does not tell.
        disk: Bytes that are still to be written, at most.
        free: Bytes that are free there.
    """

    out: Path
    holder: Holder | None
    finished: bool
    device: str
    facts: dict[str, DataFacts]
    rounds: tuple[RoundCost, ...]
    memory: int | None
    disk: int
    free: int

    @property
    def seconds(self) -> float:
        """Of all rounds that are not done, at most."""
        return sum(each.seconds for each in self.rounds)


def measure(session: Session) -> DryRun:
    """Time some steps of a run, and estimate the cost of the whole.

    Args:
        session: A session whose data is prepared and checked; its folder need not exist.

    Raises:
        PlanError: Memory runs out, or the disk cannot be written or has too little room.
    """
    import torch

    run, rounds = session.rundir, session.plan.rounds
    finished = run.results_path.is_file()
    costs, left = [], []
    with torch.random.fork_rng():
        meter = _Meter(session)
        for number, round in enumerate(rounds, start=1):
            done = finished or run.finished(number, round)
            costs.append(meter.cost(number, round, done=done))
            left += [] if done else [round]
        disk = 0 if finished else meter.disk(left)
    place = _existing(run.path)
    free = shutil.disk_usage(place).free
    _check_disk(run.path, place, disk=disk, free=free)
    return DryRun(
        out=run.path,
        holder=holder_of(run.path),
        finished=finished,
        device=str(session.compute.device),
        facts=session.facts,
        rounds=tuple(costs),
        memory=_memory(session),
        disk=disk,
        free=free,
    )


@dataclass
class _Meter:
    """Measures steps of a session, each kind once."""

    session: Session
    known: dict[object, float] = field(default_factory=dict)

    def cost(self, number: int, round: Round, *, done: bool) -> RoundCost:
        """Of a round with all its epochs, and what is looked at besides."""
        loaded = [self.session.loaded[name] for name in round.datasets]
        fixed = round.train == "head"
        parts = [_examples(each, round, fixed=fixed) for each in loaded]
        several = max if round.mix == "epoch" else sum
        count = several(len(each) for each in parts)
        val = len(loaded[0].val.cases)
        seconds = 0.0 if done else self._seconds(number, round, parts[0], count)
        return RoundCost(number, round, count, val, seconds, done)

    def _seconds(self, number: int, round: Round, examples: TrainingExamples, count: int) -> float:
        plan, loaded = self.session.plan, self.session.loaded
        settings, look = round.hyperparameters, self._look()
        batches = -(-count // settings.batch_size)
        followed = plan.rounds[0].dataset == plan.target
        target = loaded[plan.target].val.cases if followed else ()
        seen = len(loaded[round.dataset].val.cases) + (len(target) if number > 1 else 0)
        if round.train == "none":
            epochs = (len(loaded[round.dataset].train_labels) + seen) * look
        elif round.train == "head":
            step = self._step(round, examples)
            epochs = (count + seen) * look + settings.epochs * batches * step
        else:
            epochs = settings.epochs * (batches * self._step(round, examples) + seen * look)
        dealt = list(loaded[plan.target].splits.values())
        if self.session.context.trace_test and (followed or round.dataset == plan.target):
            looks = 1 if round.train == "none" else settings.epochs
            epochs += looks * dealt.count("test") * look
        learnt = {name for each in plan.rounds[:number] for name in each.datasets}
        besides = sum(len(loaded[name].val.cases) for name in learnt)
        if number == 1:
            besides += plan.bootstrap * len(loaded[round.dataset].val.cases)
        if number == len(plan.rounds) and self.session.context.test:
            besides += dealt.count("val") + dealt.count("test") + SHOWN
        return epochs + besides * look

    def _look(self) -> float:
        """Seconds to put a case through the network in evaluation."""

        def measure() -> float:
            first = self.session.plan.rounds[0]
            body, _ = self._network(first)
            cases = self.session.loaded[first.dataset].val.patches[:EVALUATION_BATCH]
            return _median(lambda: forward_in_batches(body, cases), self.session) / len(cases)

        return self._once("look", measure)

    def _step(self, round: Round, examples: TrainingExamples) -> float:
        """Seconds of an update on a batch, taking the batch included."""
        size = min(round.hyperparameters.batch_size, len(examples))

        def measure() -> float:
            body, head = self._network(round)
            try:
                return self._update(round, examples, body, head)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            image = self.session.loaded[round.dataset].val.patches[:1]
            fits = largest_fitting_batch(round, body, head, image, self.session.compute)
            remedy = f"batches of {fits} fit: `--batch-size {fits}`" if fits else "none fits"
            raise PlanError(
                f"{round.dataset} {round.train}: the memory of {self.session.compute.device} ran "
                f"out with batches of {size}; {remedy}"
            )

        return self._once((round.train == "head", round.dataset, size), measure)

    def _update(
        self, round: Round, examples: TrainingExamples, body: BodyModule, head: nn.Module
    ) -> float:
        compute, settings = self.session.compute, round.hyperparameters
        task = self.session.loaded[round.dataset].task
        if round.train == "head":
            return self._head_update(round, examples, body, head)
        step = Step(BodyWithHead(body, head).train(), compute, settings)
        batches = _endless(examples)

        def update() -> None:
            inputs, targets = next(batches)
            step(inputs, targets, task)

        return _median(update, self.session)

    def _head_update(
        self, round: Round, examples: TrainingExamples, body: BodyModule, head: nn.Module
    ) -> float:
        inputs, targets = next(iter(examples.batches(1)))
        compute = self.session.compute.of_heads()
        features, targets = (
            forward_in_batches(body, inputs).to(compute.device),
            targets.to(compute.device),
        )
        task = self.session.loaded[round.dataset].task
        with on_device(head, compute.device), thread_count(1):
            step = Step(head.train(), compute, round.hyperparameters)
            return _median(lambda: step(features, targets, task), self.session)

    def _network(self, round: Round) -> tuple[BodyModule, nn.Module]:
        """A body and a head as a round would train them."""
        session = self.session
        plan, device = session.plan, session.compute.device
        body = build_body(
            plan.body,
            in_channels=session.channels,
            datasets=tuple(session.loaded),
            plugins=session.plugins,
        ).to(device)
        head = build_head(
            plan.head_of(round.dataset),
            features=body.features,
            outputs=len(session.adapters[round.dataset].classes),
            plugins=session.plugins,
        ).to(device)
        set_trainable(body, round.train)
        body.use(round.dataset)
        for module in (body, head):
            set_dropout(module, round.hyperparameters.dropout)
        return body, head

    def disk(self, rounds: Sequence[Round]) -> int:
        """Bytes that rounds, and what is written at the end, take at most."""
        body, head = (_bytes(module) for module in self._network(self.session.plan.rounds[0]))
        heads = len({name for round in self.session.plan.rounds for name in round.heads})
        total = body + heads * head + REST
        progress = 0
        for round in rounds:
            settings = round.hyperparameters
            total += body + (1 + len(round.heads)) * head + 2 * RECORD * settings.epochs
            kept = settings.window if settings.select == "averaged" else 2
            # Weights, two moments of each, and the epochs kept; a new one beside the old one.
            progress = max(progress, 2 * (3 + kept) * (body + len(round.heads) * head))
        return total + progress

    def _once(self, key: object, measure: Callable[[], float]) -> float:
        if key not in self.known:
            self.known[key] = measure()
        return self.known[key]


def _examples(data: LoadedDataset, round: Round, *, fixed: bool) -> TrainingExamples:
    return TrainingExamples(data, round.hyperparameters, Seeds(0, 1), fixed=fixed)


def _endless(examples: TrainingExamples) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of one epoch after another; a smaller last one is left out."""
    epoch = 0
    while True:
        epoch += 1
        whole: int | None = None
        for inputs, targets in examples.batches(epoch):
            whole = whole or len(targets)
            if len(targets) == whole:
                yield inputs, targets


def _median(action: Callable[[], object], session: Session) -> float:
    """Seconds that something takes once it is warm."""
    import torch

    device = session.compute.device

    def timed() -> float:
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    timed()
    return median(timed() for _ in range(STEPS))


def _bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in module.state_dict().values())


def _memory(session: Session) -> int | None:
    """Bytes at the height of what was measured."""
    import torch

    device = session.compute.device
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return None
    import resource

    height = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return height if sys.platform == "darwin" else height * 1024


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    return next(each for each in (path.absolute(), *path.absolute().parents) if each.is_dir())


def _check_disk(out: Path, place: Path, *, disk: int, free: int) -> None:
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"x")
    except OSError as error:
        raise PlanError(
            f"{out}: cannot be written ({error.strerror}): choose another folder with `--out`"
        ) from None
    if free < disk:
        raise PlanError(
            f"{out}: up to {disk:,} bytes are needed there, and {free:,} are free: make room, or "
            "choose another folder with `--out`"
        )
