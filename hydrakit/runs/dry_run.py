"""Estimates time, memory and disk space of a run from a few measured steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import nn

from hydrakit.compute.devices import on_device, peak_memory, thread_count
from hydrakit.compute.graphs import WARM_UP
from hydrakit.compute.modules import count_parameters
from hydrakit.errors import PlanError
from hydrakit.models.body import BodyWithHead
from hydrakit.models.stem import extractor, stem_of
from hydrakit.plan.results import DataFacts
from hydrakit.rounds import Round
from hydrakit.runs.session import Session
from hydrakit.storage.lock import Holder, holder_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.diagnostics import is_out_of_memory, out_of_memory_message
from hydrakit.training.evaluation import EVALUATION_BATCH, forward_in_batches
from hydrakit.training.loop import prepare_modules
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step

STEPS = 3  # measured steps of each kind, after those that warm up
EPOCH_BYTES = 2000  # metrics of an epoch, in the round's folder and in the report
OTHER_BYTES = 3_000_000  # report with its patches, predictions, and small files


@dataclass(frozen=True)
class RoundCost:
    """Estimated cost of one round.

    Attributes:
        number: Number of the round, from 1.
        round: Round of the plan.
        examples: Training patches in an epoch.
        val: Validation cases.
        seconds: Maximum training time, with all epochs, of all networks that have not finished the
            round; 0 if there are none.
        networks: Number of networks of the ensemble that have not finished the round.
    """

    number: int
    round: Round
    examples: int
    val: int
    seconds: float
    networks: int

    @property
    def done(self) -> bool:
        """Whether the round is finished."""
        return self.networks == 0


@dataclass(frozen=True)
class DryRun:
    """Result of a dry run.

    Attributes:
        out: Folder of the run.
        holder: Process that is using the folder, if there is one.
        finished: Whether the run is finished.
        ensemble: Number of networks.
        device: Device that the run would use.
        facts: Description of the data, by dataset.
        rounds: Cost of each round.
        parameters: Number of parameters of the body, and of the target's head.
        memory: Peak memory of the measured steps in bytes, of the GPU or else of the process; None
            if the system does not report it.
        disk: Maximum number of bytes that are still to be written.
        free: Number of free bytes.
    """

    out: Path
    holder: Holder | None
    finished: bool
    ensemble: int
    device: str
    facts: dict[str, DataFacts]
    rounds: tuple[RoundCost, ...]
    parameters: tuple[int, int]
    memory: int | None
    disk: int
    free: int

    @property
    def seconds(self) -> float:
        """Maximum training time of all unfinished rounds."""
        return sum(each.seconds for each in self.rounds)


def measure(session: Session) -> DryRun:
    """Measure some training steps of a run, and estimate the cost of the whole run.

    Args:
        session: Session after its check; the folder of the run need not exist.

    Raises:
        PlanError: Memory or disk space is too small, or the disk cannot be written.
    """
    plan, rundir, times = session.plan, session.rundir, dict[object, float]()
    networks = rundir.networks(plan)
    waiting = [each for each in networks if not each.results_path.is_file()]
    finished = not waiting
    with torch.random.fork_rng():
        rounds = tuple(
            _cost(
                session,
                number,
                round,
                sum(not each.finished(number, round) for each in waiting),
                times,
            )
            for number, round in enumerate(plan.rounds, start=1)
        )
        body, head = session.new_network().new_modules(plan.target)
    disk = 0 if finished else _disk_bytes(rounds, body, head)
    return DryRun(
        out=rundir.path,
        holder=holder_of(rundir.path),
        finished=finished,
        ensemble=plan.ensemble,
        device=str(session.compute.device),
        facts=session.facts,
        rounds=rounds,
        parameters=(count_parameters(body), count_parameters(head)),
        memory=peak_memory(session.compute.device),
        disk=disk,
        free=rundir.check_disk(disk),
    )


def _cost(
    session: Session, number: int, round: Round, networks: int, times: dict[object, float]
) -> RoundCost:
    """Cost of a round for some networks.

    ``times`` collects seconds, so that each kind of step is measured once.
    """
    plan, loaded, settings = session.plan, session.loaded, round.hyperparameters
    parts = [
        TrainingExamples(loaded[name], settings, Seeds(0, 1), fixed=round.train == "head")
        for name in round.datasets
    ]
    count = (max if round.mix == "epoch" else sum)(len(each) for each in parts)
    val = len(loaded[round.dataset].val.cases)
    if not networks:
        return RoundCost(number, round, count, val, 0.0, networks)
    # The reference head is evaluated on the target after each epoch too.
    cases = sum(len(loaded[name].val.cases) for name in {round.dataset, plan.target})
    # A frozen body computes the features of all cases once, if no stem before it is trained.
    fit = session.datasets.fits.get(round.dataset)
    has_stem = fit is not None and fit.rule == "stem"
    trains_body = round.train in ("all", "norm") or (round.train == "head" and has_stem)
    cases = cases * settings.epochs if trains_body else cases + count
    cases += plan.bootstrap * val if number == 1 else 0  # each random start is evaluated
    if "case" not in times:
        module = extractor(*session.new_network().new_modules(round.dataset), round.dataset)
        batch = loaded[round.dataset].val.patches[:EVALUATION_BATCH]
        evaluation = _time(lambda: forward_in_batches(module, batch), session.compute.device)
        times["case"] = evaluation / len(batch)
    seconds = cases * times["case"]
    if round.train != "none" and settings.solver == "steps":
        kind = (round.train == "head", round.dataset, settings.batch_size)
        if kind not in times:
            times[kind] = _time_step(session, round, parts[0])
        seconds += settings.epochs * -(-count // settings.batch_size) * times[kind]
    return RoundCost(number, round, count, val, networks * seconds, networks)


def _time_step(session: Session, round: Round, examples: TrainingExamples) -> float:
    """Seconds of one training step of a round."""
    settings, task, compute = round.hyperparameters, examples.data.task, session.compute
    body, head = session.new_network().new_modules(round.dataset)
    prepare_modules(round, body, [head])
    try:
        stem = stem_of(head, round.dataset)
        if round.train != "head" or stem is not None:
            step = Step(BodyWithHead(body, head, stem).train(), compute, settings)
            return _time(lambda: step(*next(examples.batches(1)), task), compute.device)
        images, targets = next(examples.batches(1))
        compute = compute.for_cached_features()
        features = forward_in_batches(body, images).to(compute.device)
        targets = targets.to(compute.device)
        with on_device(head, compute.device), thread_count(1):
            step = Step(head.train(), compute, settings)
            return _time(lambda: step(features, targets, task), compute.device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Outside the handler: the traceback would keep the tensors that filled the memory.
    image = session.loaded[round.dataset].val.patches[:1]
    message = out_of_memory_message(round, body, head, image, session.compute)
    raise PlanError(f"{round.dataset} {round.train}: {message}")


def _time(action: Callable[[], object], device: torch.device) -> float:
    """Median seconds of an action, after repetitions that warm up."""
    warm_up = WARM_UP + 1 if device.type == "cuda" else 1  # there, the last one records a graph
    seconds = []
    for _ in range(warm_up + STEPS):
        start = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[warm_up:])


def _disk_bytes(rounds: Sequence[RoundCost], body: nn.Module, head: nn.Module) -> int:
    """Maximum number of bytes that rounds and the final files need."""
    body_bytes, head_bytes = (
        sum(tensor.nbytes for tensor in module.state_dict().values()) for module in (body, head)
    )
    total, checkpoint = int(body_bytes) + OTHER_BYTES, 0
    for cost in rounds:
        round, settings = cost.round, cost.round.hyperparameters
        if cost.done:
            continue
        weights = body_bytes + len(round.heads) * head_bytes
        # In the round's folder and at the end of the run; "last-head.safetensors" is one more.
        own = weights + (1 + len(round.heads)) * head_bytes + EPOCH_BYTES * settings.epochs
        total += cost.networks * own
        saved = settings.window if settings.select == "averaged" else 2
        # Weights, two moments of Adam, and saved epochs; the new file exists beside the old one.
        checkpoint = max(checkpoint, 2 * (3 + saved) * weights)
    return total + checkpoint
