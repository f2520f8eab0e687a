"""The paper's whole Hydra run, projected from measured rounds, and what they make of the device.

An epoch's time is taken as proportional to its patches.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Answer, Samples, Spread, in_turns, once, worker_command
from benchmarks.plain import plain_body, plain_head
from benchmarks.settings import Settings
from benchmarks.table import shown, table

PATCHES, VALIDATION = 16_000, 2_000
EPOCHS, STARTS = 2_000, 200
ALL_ROUNDS, HEAD_ROUNDS = 4, 3
COPIED = 2**28  # bytes


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """Measured seconds: of epochs of ``patches`` patches, and of looking at one image."""

    patches: int
    all_epoch: float
    head_epoch: float
    features: float
    image: float

    def parts(self) -> list[tuple[str, float, float]]:
        """Each part of the run: what it is, how often, and the seconds of all of it."""
        growth = PATCHES / self.patches
        alls, heads = ALL_ROUNDS * EPOCHS, HEAD_ROUNDS * EPOCHS
        return [
            (f"random start, {VALIDATION:,} cases", STARTS, STARTS * VALIDATION * self.image),
            ("epoch of body and head", alls, alls * self.all_epoch * growth),
            ("features of a head round", HEAD_ROUNDS, HEAD_ROUNDS * self.features * growth),
            ("epoch of a head", heads, heads * self.head_epoch * growth),
        ]


def report(title: str, rounds: Rounds, limits: Mapping[str, Any], memory: str) -> str:
    """The part of the page about a device."""
    parts = rounds.parts()
    total = sum(seconds for _, _, seconds in parts)
    lines = [[name, f"{count:,}", shown(s / count), shown(s)] for name, count, s in parts]
    lines.append(["the whole run", "", "", shown(total)])
    growth = VALIDATION / PATCHES * rounds.patches
    work = {
        kind: rounds.patches * limits[f"step {kind}"] + 2 * growth * limits[f"forward {kind}"]
        for kind in ("flops", "bytes")
    }
    flops, moved = (work[kind] / rounds.all_epoch for kind in ("flops", "bytes"))
    return f"""## The paper's whole Hydra run, projected: {title}

{PATCHES:,} training patches, {VALIDATION:,} to validate on; seven rounds of {EPOCHS:,} epochs (four
train all, three the head) with all figures, begun with the best of {STARTS} random starts. Measured
with {rounds.patches:,} patches; an epoch's time is taken as proportional to them.

{table(["part", "times", "each", "together"], lines)}
An epoch of body and head reaches {flops / 1e12:.3g} TFLOP/s, {flops / limits["flops"]:.0%} of the
{limits["flops"] / 1e12:.3g} TFLOP/s that a large {limits["type"]} matrix product reaches here
(counted by torch's FlopCounterMode: {limits["step flops"] / 1e9:.3g} GFLOP for an image's step). It
moves {moved / 1e9:.3g} GB/s at least, {moved / limits["bytes"]:.0%} of the
{limits["bytes"] / 1e9:.3g} GB/s of a large copy here (counted as every convolution's and dense
layer's input and output once forward and twice backward, everything else fused into them). {memory}
"""


def on_cpu(taken: Mapping[str, Samples], settings: Settings) -> str:
    """The projection from the measurements of the table, and what is not measured."""
    limits = once("projection.Limits", replace(settings, device="cpu")).facts
    answers = taken["epoch"].answers["ours"]
    memory = max(answer.facts["resident"] for answer in answers)
    part = report(
        "this CPU",
        Rounds(
            patches=settings.train,
            all_epoch=taken["epoch"].median("ours"),
            head_epoch=taken["head"].median("ours"),
            features=Spread.of([a.facts["before"] for a in taken["head"].answers["ours"]]).median,
            image=taken["evaluation"].median("ours"),
        ),
        limits,
        f"Peak memory of the process: {memory / 1e9:.2f} GB.",
    )
    told = "" if torch.cuda.is_available() else "There is no GPU here: "
    return (
        f"{part}\n{told}the run on CUDA is unmeasured by this part; `--device cuda` measures it.\n"
    )


def on_gpu(settings: Settings) -> str:
    """The projection from a few epochs of each kind of round on the GPU, at the run's full size."""
    full = replace(settings, train=PATCHES, val=VALIDATION, repeats=3, head_epochs=20)
    contenders = {"all": "ours.AllEpochs", "head": "ours.HeadEpoch", "image": "ours.Evaluate"}
    samples = in_turns(
        {name: worker_command(contender, full) for name, contender in contenders.items()},
        repeats=full.repeats,
        threads=full.threads,
    )
    limits = once("projection.Limits", full).facts
    memory = max(answer.facts["allocated"] for answer in samples.answers["all"])
    rounds = Rounds(
        patches=PATCHES,
        all_epoch=samples.median("all"),
        head_epoch=samples.median("head"),
        features=Spread.of([a.facts["before"] for a in samples.answers["head"]]).median,
        image=samples.median("image"),
    )
    return report(limits["name"], rounds, limits, f"Peak memory on it: {memory / 1e9:.2f} GB.")


class Limits:
    """What a device can do at most, measured on it, and what an image asks of it."""

    def __init__(self, settings: Settings) -> None:
        self.device = torch.device(settings.device)
        self.type = torch.float32 if self.device.type == "cpu" else torch.bfloat16

    def __call__(self, repeat: int) -> Answer:
        """All of it; the best of five tries counts."""
        gpu = self.device.type == "cuda"
        facts = {
            "name": torch.cuda.get_device_name(self.device) if gpu else "CPU",
            "type": str(self.type).removeprefix("torch."),
            "flops": self._product(8192 if gpu else 2048),
            "bytes": self._copy(),
            **demands(self.type),
        }
        return Answer(0.0, facts)

    def _product(self, side: int) -> float:
        """Floating-point operations per second of a square matrix product."""
        one = torch.randn(side, side, device=self.device, dtype=self.type)
        return 2 * side**3 / min(self._seconds(lambda: one @ one) for _ in range(5))

    def _copy(self) -> float:
        """Bytes per second that a copy reads and writes."""
        one = torch.zeros(COPIED, dtype=torch.uint8, device=self.device)
        other = torch.zeros_like(one)
        return 2 * COPIED / min(self._seconds(lambda: other.copy_(one)) for _ in range(5))

    def _seconds(self, work: Any) -> float:
        began = time.perf_counter()
        work()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter() - began


def demands(number: torch.dtype) -> dict[str, float]:
    """Operations and bytes that one image asks of a step, and of looking at it.

    Args:
        number: The type that features are in.
    """
    network = nn.Sequential(plain_body(), plain_head())
    image = torch.zeros(2, 1, 65, 65)  # two: batch norm takes no single value
    moved = 0

    def count(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        nonlocal moved
        moved += (given[0].numel() + result.numel()) * number.itemsize

    layers = [each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    hooks = [each.register_forward_hook(count) for each in layers]
    with FlopCounterMode(display=False) as forward:
        loss = network(image).sum()
    for hook in hooks:
        hook.remove()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    counted = forward.get_total_flops() / len(image)
    return {
        "forward flops": counted,
        "step flops": counted + backward.get_total_flops() / len(image),
        "forward bytes": moved / len(image),
        "step bytes": 3 * moved / len(image),
    }
