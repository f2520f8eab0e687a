"""hydrakit as a contender: its rounds, its training steps and its evaluation.

With `ours_parts` and `ours_runs` the only place of the benchmarks that knows how it is called.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import images
from benchmarks.harness import Answer, Spread
from benchmarks.settings import Settings
from hydrakit.compute.devices import Compute, choose_compute, keep_large_blocks
from hydrakit.compute.modules import freeze
from hydrakit.data.load import LoadedDataset, load
from hydrakit.data.prepared.prepare import prepare
from hydrakit.hooks import DatasetAdapter, FieldOfView, HeadFactory, Sample
from hydrakit.models.body import BodyWithHead, PaperBody
from hydrakit.models.heads import MlpOptions
from hydrakit.models.layers import Dropout
from hydrakit.plan import BodySpec, Hyperparameters, Round
from hydrakit.plan.results import EpochRecord
from hydrakit.plugins import load_plugins
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.epochs import SingleTaskEpoch
from hydrakit.training.evaluation import (
    Evaluator,
    Reference,
    compute_metrics,
    forward_in_batches,
)
from hydrakit.training.loop import train_round
from hydrakit.training.seeds import Seeds
from hydrakit.training.step import Step as TrainingStep

DROPOUT = 0.3
CLASSES = ("no", "yes")

keep_large_blocks()  # as a run does on a CPU; the other contenders have processes of their own


def adapter(name: str, *, count: int, channels: int = 1, side: int = 65) -> DatasetAdapter:
    """A dataset of noise images, each of a patient of its own; the two classes take turns."""
    seed = 10**6 * sum(map(ord, name))

    def read(root: Path, options: Any) -> Iterator[Sample]:
        for number in range(count):
            image = partial(images.noise, seed + number, channels, side)
            key = f"{number:06d}"
            yield Sample(image=image, label=number % 2, patient=key, key=key)

    return DatasetAdapter(
        name=name,
        summary="Noise",
        classes=CLASSES,
        read=read,
        field_of_view=FieldOfView(share=1.0),
        version=f"{count} x {channels} x {side}",
        layout="nothing",
        how_to_get="It makes itself.",
        citation="none",
        licence="none",
    )


def loaded(
    settings: Settings, name: str, *, train: int, val: int, exchanged: bool = False
) -> LoadedDataset:
    """A dataset as a round gets it, on the device; prepared by the first who asks.

    Args:
        settings: Of the measurements.
        name: Of the dataset.
        train: Cases to train on.
        val: Cases to validate on.
        exchanged: The two splits change places, so that the training cases can be looked at.
    """
    chosen = adapter(name, count=train + val)
    work = Path(settings.work)
    prepared = prepare(
        chosen, folder(work / "roots" / name), options={}, patch=65, cache=folder(work / "cache")
    )
    first, second = ("val", "train") if exchanged else ("train", "val")
    keys = [case.key for case in prepared.index.cases]
    splits = {key: first if number < train else second for number, key in enumerate(keys)}
    device = torch.device(settings.device)
    return load(prepared, chosen, splits=splits, patch=65, device=device)


def a_round(train: str, settings: Settings, *, epochs: int, rate: float = 1e-5) -> Round:
    """A round on the dataset `support`: each patch comes once in an epoch."""
    # A round that trains all draws a fresh view in every epoch; the authors' are on disk.
    values = Hyperparameters(
        learning_rate=rate,
        dropout=DROPOUT,
        batch_size=settings.batch,
        epochs=epochs,
        patience=None,
        augmentation="fresh" if train == "all" else "fixed",
        views=1,
    )
    return Round.model_validate(
        {"dataset": "support", "train": train, "head": "support", "hyperparameters": values}
    )


def compute(settings: Settings) -> Compute:
    """How hydrakit computes on the device unless told otherwise."""
    return choose_compute(
        settings.device,
        precision=settings.precision,
        compiled=settings.compiled,
        graphs=settings.graphs,
    )


def new_head(settings: Settings) -> nn.Module:
    """An ``mlp`` head on the device."""
    return (
        load_plugins()
        .get(HeadFactory, "mlp")
        .build(256, len(CLASSES), MlpOptions())
        .to(settings.device)
    )


def new_body(settings: Settings) -> PaperBody:
    """The paper's body on the device."""
    return PaperBody(BodySpec(), in_channels=1, dropout=DROPOUT).to(settings.device)


class _Clock:
    """Told of every epoch; remembers when each of them ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def __call__(self, record: EpochRecord) -> None:
        self.ends.append(time.perf_counter())

    def per_epoch(self) -> float:
        """Median seconds between the ends of epochs."""
        return Spread.of([later - earlier for earlier, later in pairwise(self.ends)]).median


class _Epochs:
    """A round on `support`, with a reference on `target`."""

    with_reference = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = loaded(settings, "support", train=settings.train, val=settings.val)
        self.target = loaded(settings, "target", train=settings.train, val=settings.val)

    def _round(
        self, round: Round, repeat: int, on_epoch: Callable[[EpochRecord], None]
    ) -> tuple[PaperBody, nn.Module]:
        body, head = new_body(self.settings), new_head(self.settings)
        reference = Reference(new_head(self.settings), self.target.val)
        train_round(
            round,
            body,
            head,
            self.data,
            seeds=Seeds(repeat, 2),
            compute=compute(self.settings),
            reference=reference if self.with_reference else None,
            on_epoch=on_epoch,
        )
        return body, head


class AllEpoch(_Epochs):
    """An epoch of a round that trains body and head, as a round of one epoch.

    With the figures that hydrakit gives: training (of the training pass itself), validation, and
    the reference head's validation.
    """

    def __call__(self, repeat: int) -> Answer:
        """One epoch, and all that a round does before and after it."""
        began = time.perf_counter()
        self._round(a_round("all", self.settings, epochs=1), repeat, lambda _: None)
        return Answer(time.perf_counter() - began, peak(self.settings))


class AllEpochQuick(AllEpoch):
    """As `AllEpoch`, in bfloat16."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, precision="bfloat16"))


class SmallEpoch(AllEpoch):
    """As `AllEpoch`, in the batches of the profile `recommended-0.1` and without a reference."""

    with_reference = False

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, batch=settings.small_batch))


class SmallEpochQuick(SmallEpoch):
    """As `SmallEpoch`, in bfloat16."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, precision="bfloat16"))


class AllEpochs(_Epochs):
    """An epoch within a longer round: what is done once, compiling say, is not counted."""

    def __call__(self, repeat: int) -> Answer:
        """A round of five; seconds are of one epoch."""
        clock = _Clock()
        self._round(a_round("all", self.settings, epochs=5), repeat, clock)
        return Answer(clock.per_epoch(), peak(self.settings))


class AllEpochFour(_Epochs):
    """As `AllEpoch`, with the authors' four sets each looked at in a pass of its own."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.others = [
            loaded(settings, name, train=settings.train, val=settings.val, exchanged=True).val
            for name in ("support", "target")
        ]

    def __call__(self, repeat: int) -> Answer:
        """One epoch; the training sets are looked at before the clock stops."""
        began = time.perf_counter()
        body, head = self._round(a_round("all", self.settings, epochs=1), repeat, lambda _: None)
        for cases in self.others:
            found = forward_in_batches(BodyWithHead(body, head), cases.patches)
            compute_metrics(found, cases.labels, task=cases.task, loss="cross-entropy", scale=None)
        return Answer(time.perf_counter() - began)


class HeadEpoch(_Epochs):
    """An epoch of a head round; what comes before the first epoch is told apart."""

    def __call__(self, repeat: int) -> Answer:
        """A round; seconds are of one epoch, ``before`` is the body's pass over all images."""
        clock = _Clock()
        began = time.perf_counter()
        round = a_round("head", self.settings, epochs=self.settings.head_epochs)
        self._round(round, repeat, clock)
        seconds = clock.per_epoch()
        before = clock.ends[0] - began - seconds
        return Answer(seconds, {"before": before, **peak(self.settings)})


class HeadEpochOnDevice(_Epochs):
    """As `HeadEpoch`, on the device itself: a run trains heads on the CPU beside a GPU."""

    def __call__(self, repeat: int) -> Answer:
        """Some epochs; seconds are of one, ``before`` is the body's pass over all images."""
        settings, device = self.settings, self.data.train.device
        values = a_round("head", settings, epochs=settings.head_epochs).hyperparameters
        body, head = new_body(settings), new_head(settings)
        freeze(body)
        reference = Reference(new_head(settings), self.target.val)
        evaluate = Evaluator(body, head, self.data.val, reference, values.loss)
        began = time.perf_counter()
        examples = TrainingExamples(self.data, values, Seeds(repeat, 2), fixed=True)
        examples.precompute_features(body, device)
        evaluate()
        before = time.perf_counter() - began
        step = TrainingStep(nn.Sequential(Dropout(0.0), head), compute(settings), values)
        runner, ends = SingleTaskEpoch(step, examples, head), []
        for epoch in range(1, settings.head_epochs + 1):
            runner.epoch(epoch)
            evaluate()
            ends.append(time.perf_counter())
        per_epoch = Spread.of([later - earlier for earlier, later in pairwise(ends)]).median
        return Answer(per_epoch, {"before": before})


class Step:
    """Forward, backward and Adam's step on one batch."""

    def __init__(self, settings: Settings) -> None:
        self.steps = settings.steps
        self.images = torch.randn(settings.batch, 1, 65, 65).to(settings.device)
        self.labels = torch.arange(settings.batch, device=settings.device) % 2
        model = BodyWithHead(new_body(settings), new_head(settings)).train()
        values = a_round("all", settings, epochs=1).hyperparameters
        self.step = TrainingStep(model, compute(settings), values)

    def __call__(self, repeat: int) -> Answer:
        """Some steps; seconds are of one."""
        began = time.perf_counter()
        for _ in range(self.steps):
            outputs = self.step(self.images, self.labels, "classification")
        outputs.cpu()
        return Answer((time.perf_counter() - began) / self.steps)


class StepQuick(Step):
    """As `Step`, in bfloat16."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(replace(settings, precision="bfloat16"))


class Evaluate:
    """Body and head in evaluation mode."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(0)
        self.images = torch.randn(settings.evaluated, 1, 65, 65).to(settings.device)
        self.model = BodyWithHead(new_body(settings), new_head(settings))

    def __call__(self, repeat: int) -> Answer:
        """Look at all images; seconds are of one."""
        began = time.perf_counter()
        forward_in_batches(self.model, self.images).cpu()
        return Answer((time.perf_counter() - began) / len(self.images))


def peak(settings: Settings) -> dict[str, float]:
    """Peak memory so far: of this process, and on the GPU where one is used; in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"resident": float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)}
    if settings.device != "cpu":
        found["allocated"] = float(torch.cuda.max_memory_allocated(settings.device))
    return found


def folder(path: Path) -> Path:
    """The same path, once the folder is there."""
    path.mkdir(parents=True, exist_ok=True)
    return path
