"""What hydrakit makes of a GPU: the parts of ``benchmarks/gpu.sh``, each in a process of its own.

``python -m benchmarks.gpu PART --out FOLDER`` writes ``FOLDER/PART.json``, line by line, so that a
part that is stopped has what it measured until then. The part ``table`` puts them together.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from benchmarks import images, projection
from benchmarks.harness import Answer, Spread, Worker, worker_command
from benchmarks.ours import (
    AllEpochs,
    Evaluate,
    HeadEpoch,
    HeadEpochOnDevice,
    a_round,
    compute,
    folder,
    loaded,
    new_body,
    new_head,
)
from benchmarks.settings import Settings
from benchmarks.stacked import StackedNetwork, stacked_loss
from benchmarks.table import machine, shown, table
from hydrakit.compute.devices import choose_compute, deterministic_algorithms
from hydrakit.compute.graphs import WARM_UP, Replayed, noticing_synchronisations
from hydrakit.models.body import BodyWithHead
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import forward_in_batches
from hydrakit.training.loop import TrainingResult, train_round
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step, build_optimiser

SETS = {"prostate-like": (317, 64), "brain-like": (253, 256), "lung-like": (5043, 64)}
"""Data of the size of that of the 45 cells in docs/results.md: images, and their side in pixels."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How large the measurements are."""

    patches: int = 4096
    val: int = 512
    batch: int = 128
    small_batch: int = 16
    steps: int = 50
    epochs: int = 4
    head_epochs: int = 20
    checked: int = 512
    copies: tuple[int, ...] = (1, 4, 8, 15)
    processes: int = 8
    starts: int = 200
    share: float = 1.0
    folds: int = 5
    seeds: int = 3
    strategies: str = "hydra,transfer,classical"
    cell_values: tuple[str, ...] = ()


TINY = Sizes(
    patches=20,
    val=8,
    batch=8,
    small_batch=4,
    steps=2,
    epochs=2,
    head_epochs=3,
    checked=20,
    copies=(2,),
    processes=2,
    share=0.0,
    folds=2,
    seeds=1,
    strategies="transfer,classical",
    cell_values=("--epochs", "1", "--bootstrap", "2"),
)


class Part:
    """A part of the measurements: writes its lines as they come.

    Args:
        name: Name of the part.
        settings: Where the work is done, with the folder of its files.
        sizes: How much.
        out: Folder of the results.
    """

    def __init__(self, name: str, settings: Settings, sizes: Sizes, out: Path) -> None:
        self.settings, self.sizes = settings, sizes
        self.gpu = settings.device != "cpu"
        self.device = torch.device(settings.device)
        self._path = out / f"{name}.json"
        self._lines: list[list[str]] = []

    def line(self, what: str, value: str, remark: str = "") -> None:
        """Add a line of the table."""
        print(f"{what}: {value} {remark}", file=sys.stderr, flush=True)
        self._lines.append([what, value, remark])
        self._path.write_text(json.dumps(self._lines))

    def seconds(self, work: Callable[[], object], repeats: int, *, warm: int = 6) -> float:
        """Seconds of some work, after some that warm up: compiling and recording are no part."""
        for _ in range(warm):
            work()
        self._wait()
        began = time.perf_counter()
        for _ in range(repeats):
            work()
        self._wait()
        return (time.perf_counter() - began) / repeats

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Noise images and labels on the device."""
        return (
            torch.randn(size, 1, 65, 65).to(self.device),
            torch.arange(size, device=self.device) % 2,
        )

    def step(self, size: int, **how: Any) -> Callable[[], object]:
        """A training step of the paper's network; ``how`` is that of `choose_compute`."""
        settings = replace(self.settings, batch=size)
        model = BodyWithHead(new_body(settings), new_head(settings)).train()
        values = a_round("all", settings, epochs=1).hyperparameters
        step = Step(model, choose_compute(self.settings.device, **how), values, print)
        inputs, targets = self.batch(size)
        return lambda: step(inputs, targets, "classification")


# --- the parts


def checks(part: Part) -> None:
    """Whether results are what they must be."""
    sizes, device = part.sizes, part.settings.device

    def first(device: str, *, dropout: float = 0.0, epochs: int = 1, **how: Any) -> TrainingResult:
        settings = replace(part.settings, device=device, batch=sizes.batch)
        data = loaded(settings, "checked", train=sizes.checked, val=sizes.val)
        values = a_round("all", settings, epochs=epochs, rate=1e-4)
        changed = values.hyperparameters.model_copy(update={"dropout": dropout})
        round = values.model_copy(update={"hyperparameters": changed, "dataset": "checked"})
        torch.manual_seed(0)
        body, head = (
            new_body(replace(settings, device="cpu")),
            new_head(replace(settings, device="cpu")),
        )
        chosen = choose_compute(device, **how)
        with deterministic_algorithms(chosen):
            return train_round(
                round, body.to(device), head.to(device), data, seeds=Seeds(0, 2), compute=chosen
            )

    def apart(one: TrainingResult, other: TrainingResult) -> float:
        """Largest relative difference of the losses of all epochs."""
        pairs = zip(one.epochs, other.epochs, strict=True)
        return max(
            abs(float(getattr(a, split).loss) / float(getattr(b, split).loss) - 1)
            for a, b in pairs
            for split in ("train", "val")
        )

    here, there = first("cpu", precision="float32"), first(device, precision="float32")
    found = apart(here, there)
    part.line(
        "first epoch in float32, CPU and GPU apart",
        f"{found:.1e}",
        _verdict(found <= 1e-4, "at most 1e-4"),
    )
    how: dict[str, Any] = {"dropout": 0.3, "epochs": 3, "deterministic": True}
    once, again = first(device, **how), first(device, **how)
    part.line(
        "--deterministic, two runs apart",
        f"{apart(once, again):.1e}",
        _verdict(apart(once, again) == 0, "no bit"),
    )
    single = first(device, **how, graphs=False)
    part.line(
        "CUDA graphs and single kernels apart",
        f"{apart(once, single):.1e}",
        _verdict(apart(once, single) == 0, "no bit"),
    )
    quick = first(device, dropout=0.3, epochs=3, precision="bfloat16")
    part.line(
        "bfloat16 and float32 apart",
        f"{apart(quick, once):.1e}",
        "for comparison; other dropout masks count too",
    )
    part.line("synchronisations in an epoch's steps", *_synchronisations(part))


def _verdict(holds: bool, goal: str) -> str:
    return f"{'holds' if holds else 'DOES NOT HOLD'}: {goal}"


def _synchronisations(part: Part) -> tuple[str, str]:
    settings = replace(part.settings, batch=part.sizes.checked // 8)
    data = loaded(settings, "checked", train=part.sizes.checked, val=part.sizes.val)
    values = a_round("all", settings, epochs=1).hyperparameters
    examples = TrainingExamples(data, values, Seeds(0, 2), fixed=False)
    model = BodyWithHead(new_body(settings), new_head(settings)).train()
    step = Step(model, choose_compute(part.settings.device), values)
    batches = examples.batches(1)
    for _ in range(WARM_UP + 1):  # order and views are moved here, and the graph is recorded
        step(*next(batches), "classification")
    with noticing_synchronisations() as seen:
        for inputs, targets in batches:
            step(inputs, targets, "classification")
        examples._images(torch.arange(8, device=part.device))
    return str(len(seen)), _verdict(not seen, "none")


def steps(part: Part) -> None:
    """One training step of the paper's network, and its views."""
    sizes = part.sizes
    ways: dict[str, dict[str, Any]] = {
        "single kernels": {"graphs": False},
        "CUDA graph": {},
        "CUDA graph, float32": {"precision": "float32"},
    }
    for size in (sizes.batch, sizes.small_batch):
        for name, how in ways.items():
            found = part.seconds(part.step(size, **how), sizes.steps)
            goal = "goal: about 0.5 ms; before 6.1 ms (H100)" if size == 128 else ""
            part.line(f"step of {size} images, {name}", shown(found), goal)
    settings = replace(part.settings, batch=sizes.batch)
    data = loaded(settings, "support", train=sizes.patches, val=sizes.val)
    values = a_round("all", settings, epochs=1).hyperparameters
    examples = TrainingExamples(data, values, Seeds(0, 2), fixed=False)
    epoch = part.seconds(lambda: sum(len(labels) for _, labels in examples.batches(1)), 3, warm=1)
    part.line(f"views of {sizes.batch} images", shown(epoch / (len(examples) / sizes.batch)))
    model = BodyWithHead(new_body(settings), new_head(settings))
    patches = data.val.patches
    plain = part.seconds(lambda: forward_in_batches(model, patches), 5, warm=2)
    part.line(f"looking at {len(patches)} images, single kernels", shown(plain))
    graph = Replayed(lambda: forward_in_batches(model, patches), part.device, warm_up=1)
    part.line(
        f"looking at {len(patches)} images, CUDA graph", shown(part.seconds(graph, 5, warm=2))
    )
    part.line("memory at most", f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB")


def compiled(part: Part) -> None:
    """The same step, compiled: how fast, and after how long."""
    for name, how in (("CUDA graph", {}), ("PyTorch's own graphs", {"graphs": False})):
        torch.compiler.reset()
        step = part.step(part.sizes.batch, compiled=True, **how)
        began = time.perf_counter()
        step()
        step()
        part.line(f"compiling for {name}", shown(time.perf_counter() - began))
        found = part.seconds(step, part.sizes.steps)
        part.line(
            f"step of {part.sizes.batch} images, compiled, {name}",
            shown(found),
            "before 2.1 ms (H100)",
        )


def epochs(part: Part) -> None:
    """Epochs with all figures, and what they make of the paper's run."""
    sizes = part.sizes
    base = replace(
        part.settings,
        train=sizes.patches,
        val=sizes.val,
        batch=sizes.batch,
        head_epochs=sizes.head_epochs,
        evaluated=sizes.val,
    )
    ways = {
        "single kernels": replace(base, graphs=False),
        "CUDA graph": base,
        "compiled, CUDA graph": replace(base, compiled=part.gpu),  # the part `compiled` tries it
    }
    alls = {}
    for name, settings in ways.items():
        alls[name] = AllEpochs(settings)(1).seconds
        part.line(f"epoch of body and head, {sizes.patches} patches, {name}", shown(alls[name]))
    heads = {}
    for name, kind in (("on the CPU", HeadEpoch), ("on the GPU, CUDA graph", HeadEpochOnDevice)):
        answer = kind(base)(1)
        heads[name] = answer
        part.line(f"epoch of a head, {sizes.patches} patches, {name}", shown(answer.seconds))
    image = Evaluate(base)(1).seconds
    for way, seconds in alls.items():
        for place, answer in heads.items():
            rounds = projection.Rounds(
                patches=sizes.patches,
                all_epoch=seconds,
                head_epoch=answer.seconds,
                features=answer.facts["before"],
                image=image,
            )
            total = sum(each for _, _, each in rounds.parts())
            part.line(
                f"the paper's whole run, projected: {way}, heads {place}",
                shown(total),
                _verdict(total < 20 * 60, "under 20 min"),
            )


def stacked(part: Part) -> None:
    """Many networks at once: in one step, by graphs on streams of their own, and by processes."""
    size = part.sizes.batch
    for batch in dict.fromkeys((size, part.sizes.small_batch)):
        for copies in part.sizes.copies:
            found = part.seconds(_stacked_step(part, copies, batch), part.sizes.steps) / copies
            part.line(f"{copies} networks stacked, batches of {batch}: a step of one", shown(found))
            found = part.seconds(_streams(part, copies, batch), part.sizes.steps) / copies
            part.line(
                f"{copies} networks, a stream each, batches of {batch}: a step of one",
                shown(found),
            )
        found = _processes(part, batch)
        part.line(
            f"{part.sizes.processes} processes, batches of {batch}: a step of one", shown(found)
        )


def _stacked_step(part: Part, copies: int, batch: int) -> Callable[[], object]:
    settings = replace(part.settings, batch=batch)
    networks = [BodyWithHead(new_body(settings), new_head(settings)) for _ in range(copies)]
    model = StackedNetwork(networks).train()
    values = a_round("all", settings, epochs=1).hyperparameters
    how = compute(settings)
    optimiser = build_optimiser([model], values)
    inputs = torch.randn(copies, batch, 1, 65, 65).to(part.device)
    labels = (torch.arange(batch, device=part.device) % 2).expand(copies, -1)

    def update(images: Tensor) -> Tensor:
        with how.training():
            logits = model(images)
        optimiser.zero_grad(set_to_none=True)
        loss = stacked_loss(logits.float(), labels)
        loss.backward()
        for group in optimiser.param_groups:
            group["capturable"] = torch.cuda.is_current_stream_capturing()
        optimiser.step()
        return loss.detach()

    replayed = Replayed(update, part.device)
    return lambda: replayed(inputs)


def _streams(part: Part, copies: int, batch: int) -> Callable[[], object]:
    """One step of each of several networks, whose graphs may run at the same time."""
    own = [(part.step(batch), torch.cuda.Stream(part.device)) for _ in range(copies)]

    def all_of_them() -> None:
        for step, stream in own:
            stream.wait_stream(torch.cuda.current_stream(part.device))
            with torch.cuda.stream(stream):
                step()
        for _, stream in own:
            torch.cuda.current_stream(part.device).wait_stream(stream)

    return all_of_them


class Alone:
    """A contender for `benchmarks.worker`: steps of one network; other processes take them too."""

    def __init__(self, settings: Settings) -> None:
        part = Part("alone", settings, Sizes(), Path(settings.work))
        self._step, self._part, self._steps = part.step(settings.batch), part, settings.steps

    def __call__(self, repeat: int) -> Answer:
        """Some steps; seconds are of one."""
        return Answer(self._part.seconds(self._step, self._steps, warm=6 if repeat == 0 else 0))


def _processes(part: Part, batch: int) -> float:
    """Seconds of a step of one network, if several processes have one each."""
    count = part.sizes.processes
    settings = replace(part.settings, batch=batch, steps=part.sizes.steps, threads=1)
    command = worker_command("gpu.Alone", settings)
    with ExitStack() as stack, ThreadPoolExecutor(count) as pool:
        started = [Worker(str(number), command, threads=1) for number in range(count)]
        workers = [stack.enter_context(worker) for worker in started]
        for repeat in range(2):
            answers = list(pool.map(Worker.unit, workers, [repeat] * count))
    return Spread.of([answer.seconds for answer in answers]).median / count


def cells(part: Part) -> None:
    """A whole comparison of hydra, transfer and classical on data of the real size."""
    sizes, work = part.sizes, Path(part.settings.work)
    root = folder(work / "cells")
    for name, (count, side) in SETS.items():
        pictures = images.png_folder(root, count=max(40, round(sizes.share * count)), side=side)
        pictures.rename(root / name)
        (root / name / "dataset.toml").write_text(
            f'name = "{name}"\nsummary = "Waves"\nclasses = ["no", "yes"]\nlicence = "none"\n'
            'citation = "none"\nfield_of_view = { share = 1.0 }\n'
            'pattern = "{label}/{patient}.png"\n'
        )
    order = ["prostate-like", "brain-like", "lung-like", "prostate-like"]
    command = [
        *(sys.executable, "-m", "hydrakit", "compare", "--strategies", sizes.strategies),
        *("--no-baselines", "--profile", "recommended-0.1", "--datasets", ",".join(order)),
        *("--folds", str(sizes.folds), "--seeds", str(sizes.seeds), "--data", str(root)),
        *("--cache", str(work / "cells-cache"), "--device", part.settings.device, "--strangers"),
        *sizes.cell_values,
    ]
    for name in SETS:  # prepared beforehand, as the data of the earlier figure was
        check = [sys.executable, "-m", "hydrakit", "datasets", "check", name]
        check += ["--data", str(root), "--cache", str(work / "cells-cache")]
        subprocess.run(check, check=True, stdout=subprocess.DEVNULL)
    count = len(sizes.strategies.split(",")) * sizes.folds * sizes.seeds
    out = tempfile.mkdtemp(dir=work)
    began = time.perf_counter()
    subprocess.run([*command, "--out", f"{out}/c"], check=True, stdout=subprocess.DEVNULL)
    found = time.perf_counter() - began
    remark = f"{_verdict(found < 60, 'under 60 s')}; before 2 min 5 s with 8 processes (H100)"
    part.line(f"{count} cells", shown(found), remark)


PARTS: Mapping[str, Callable[[Part], None]] = {
    each.__name__: each for each in (checks, steps, compiled, epochs, stacked, cells)
}


def pretended_gpu() -> AbstractContextManager[object]:
    """Let lines for a GPU run on the CPU: a graph does nothing, so figures mean nothing."""

    def nothing(*_: object) -> mock.MagicMock:
        return mock.MagicMock()

    def pass_over(*_: object, **__: object) -> AbstractContextManager[None]:
        return nullcontext()

    changes: dict[str, Any] = {
        **dict.fromkeys(("Stream", "current_stream", "CUDAGraph", "set_sync_debug_mode"), nothing),
        **dict.fromkeys(("stream", "graph"), pass_over),
        "get_sync_debug_mode": lambda: 0,
        "is_current_stream_capturing": lambda: False,
        "max_memory_allocated": lambda: 0,
    }
    patch: AbstractContextManager[object] = mock.patch.multiple(torch.cuda, **changes)
    return patch


def page(out: Path, command: str) -> str:
    """All lines of all parts; a part without any is said to have failed."""
    rows: list[Sequence[str]] = []
    for name in PARTS:
        path = out / f"{name}.json"
        lines = json.loads(path.read_text()) if path.is_file() else []
        state = out / f"{name}.state"
        why = "the part failed, or its time was up: see its log" if state.is_file() else "not run"
        rows += lines or [[name, "nothing", why]]
        if state.is_file() and state.read_text().strip() != "0":
            rows.append([name, "stopped", f"exit status {state.read_text().strip()}"])
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    facts = machine(command, threads=torch.get_num_threads())
    return f"# One GPU: {device}\n\n{table(['what', 'measured', 'remark'], rows)}\n{facts}\n"


def main() -> None:
    """Take one part of the measurements, or put the page together."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("--device", default="cuda", help="cpu tries everything with tiny sizes")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--work", type=Path, required=True, help="folder of other files")
    given = parser.parse_args()
    if given.part == "table":
        (given.out / "gpu.md").write_text(page(given.out, "benchmarks/gpu.sh"))
        return
    tiny = given.device == "cpu"
    threads = 1 if tiny else max(1, min(8, os.cpu_count() or 1))
    torch.set_num_threads(threads)
    settings = Settings(work=str(folder(given.work)), device=given.device, threads=threads)
    part = Part(given.part, settings, TINY if tiny else Sizes(), folder(given.out))
    with pretended_gpu() if tiny and given.part != "compiled" else nullcontext():
        PARTS[given.part](part)


if __name__ == "__main__":
    main()
