"""Says at the start of a long run on a CPU how much faster bfloat16 would be.

It is not chosen by itself: the results of a run would depend on the CPU, and the cells of a
comparison may run on several machines.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch

from hydrakit.models.body import BodyWithHead
from hydrakit.models.stem import stem_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.loop import prepare_modules
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step

if TYPE_CHECKING:
    from hydrakit.rounds import Round
    from hydrakit.runs.session import Session

LONG = 100_000
"""Images of 65 x 65 pixels in the training steps of a long run: about ten minutes on two cores."""

WORTH_SAYING = 1.3
"""Least gain in the speed of a training step."""

STEPS = 3
"""Measured steps in each precision, after one that warms up."""


def notes_of_bfloat16(session: Session) -> Iterator[str]:
    """Yield one line if a long run that begins now would be faster with bfloat16.

    Nothing is measured if the user chose a precision, or if the CPU cannot compute in bfloat16.
    """
    if session.compute.device.type != "cpu" or session.context.precision != "auto":
        return
    rounds = [each for each in session.plan.rounds if each.trains_body]
    if not cpu_has_bfloat16() or images_of(session, rounds) < LONG:
        return
    gain = measured_gain(session, rounds[0])
    if gain >= WORTH_SAYING:
        yield (
            f"this CPU trains about {gain:.1f} times as fast with `--precision bfloat16`; its "
            "results differ from those of float32, the default: use one of both for all runs that "
            "you compare"
        )


def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for bfloat16 that PyTorch uses."""
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def images_of(session: Session, rounds: list[Round]) -> float:
    """Images of 65 x 65 pixels, or as many pixels, in all training steps of some rounds."""
    count = sum(
        round.hyperparameters.epochs * len(examples)
        for round in rounds
        for examples in _examples(session, round)
    )
    return session.plan.ensemble * count * (session.plan.patch / 65) ** 2


def measured_gain(session: Session, round: Round) -> float:
    """How many times as fast a training step of a round is in bfloat16 on this machine."""
    examples = next(_examples(session, round))
    with torch.random.fork_rng(devices=[]):
        inputs, targets = next(examples.batches(1))
        steps = {}
        precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
        for precision in precisions:
            body, head = session.new_network().new_modules(round.dataset)
            prepare_modules(round, body, [head])
            model = BodyWithHead(body, head, stem_of(head, round.dataset)).train()
            compute = replace(session.compute, precision=precision)
            steps[precision] = Step(model, compute, round.hyperparameters)
        seconds: dict[str, list[float]] = {precision: [] for precision in steps}
        for _ in range(1 + STEPS):
            for precision, step in steps.items():  # in turns
                began = time.perf_counter()
                step(inputs, targets, examples.data.task)
                seconds[precision].append(time.perf_counter() - began)
    slow, fast = (min(seconds[precision][1:]) for precision in ("float32", "bfloat16"))
    return slow / fast


def _examples(session: Session, round: Round) -> Iterator[TrainingExamples]:
    """Training examples of each dataset of a round."""
    for name in round.datasets:
        yield TrainingExamples(
            session.loaded[name], round.hyperparameters, Seeds(0, 1), fixed=False
        )
