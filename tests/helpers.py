"""Small datasets, plans and views of folders that several test modules share.

The datasets `alpha`, `beta` and `gamma` have two classes, `delta` has three. This module is also
their plugin: `install_standin` gives a folder to put on the search path, for the command line.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import hydrakit_strategies
from hydrakit.errors import HydrakitError
from hydrakit.hooks import (
    DatasetAdapter,
    FieldOfView,
    Sample,
    Unusable,
    hookimpl,
)
from hydrakit.jobs import pool
from hydrakit.jobs.job import Job, run_job
from hydrakit.models import bodies, heads
from hydrakit.plan import BodySpec, Dataset, Hyperparameters, Plan, Round, Split
from hydrakit.plugins import Plugins

if TYPE_CHECKING:
    from torch import nn

    from hydrakit.data.load import LoadedDataset
    from hydrakit.data.prepared.index import PreparedDataset
    from hydrakit.models.body import PaperBody
    from hydrakit.runs.rundir import RunDir

SIDE = 20
BODY = BodySpec(channels=(4, 8), features=8, patch=16)
NAMES = ("alpha", "beta", "gamma")
TARGET, SUPPORT = Split(train=6, val=2, test=2), Split(train=7, val=3)


@dataclass(frozen=True, kw_only=True)
class GainOptions:
    gain: float = field(default=1.0, metadata={"help": "factor of all pixels"})


def read(root: Path, options: GainOptions) -> Iterator[Sample | Unusable]:
    """The samples of `write_dataset`, in order."""
    with np.load(root / "cases.npz") as stored:
        images, labels, patients = stored["images"], stored["labels"], stored["patients"]
        people = stored["people"] if "people" in stored else [""] * len(labels)  # golden runs
    for row, image in enumerate(images):
        yield Sample(
            image=image * np.float32(options.gain),
            label=None if labels[row] < 0 else int(labels[row]),
            patient=f"{people[row]}p{patients[row]:03d}",
            key=f"c{row:03d}",
            source=(root / "cases.npz",),
        )


def adapter(name: str, classes: tuple[str, ...] = ("benign", "malignant")) -> DatasetAdapter:
    return DatasetAdapter(
        name=name,
        summary=f"Stand-in for a dataset, {len(classes)} classes",
        classes=classes,
        read=read,
        field_of_view=FieldOfView(share=1.0),
        version="1",
        layout="cases.npz",
        how_to_get="the tests make it.",
        citation="none",
        licence="none",
        options=GainOptions,
    )


ADAPTERS = (*map(adapter, NAMES), adapter("delta", ("none", "some", "much")))


@hookimpl
def hydrakit_dataset_adapters() -> Iterator[DatasetAdapter]:
    """The stand-ins."""
    yield from ADAPTERS


def plugins() -> Plugins:
    """The stand-ins with the shipped heads and strategies, as `load_plugins` would give them."""
    return Plugins.of(
        *ADAPTERS,
        *bodies.hydrakit_body_factories(),
        *heads.hydrakit_head_factories(),
        *hydrakit_strategies.hydrakit_sequence_strategies(),
    )


def write_dataset(
    root: Path, *, seed: int, patients: int = 40, classes: int = 2, signal: float = 0.2
) -> None:
    """Noise images, with a disk in the middle that is brighter the higher the class.

    Every fifth patient has two images; classes take turns.
    """
    random = np.random.default_rng(seed)
    owners = np.array([p for p in range(patients) for _ in range(2 if p % 5 == 0 else 1)])
    labels = owners % classes
    images = random.normal(size=(len(owners), SIDE, SIDE)).astype(np.float32)
    row, column = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    disk = (row**2 + column**2 <= 16).astype(np.float32)
    images += np.float32(signal) * labels[:, None, None].astype(np.float32) * disk
    root.mkdir(parents=True)
    people = np.full(len(owners), f"{root.name}-")  # no two datasets have the same people
    np.savez(root / "cases.npz", images=images, labels=labels, patients=owners, people=people)


def write_data(folder: Path) -> Path:
    """All four datasets below a folder, which is given back."""
    for seed, each in enumerate(ADAPTERS):
        write_dataset(folder / each.name, seed=seed, classes=len(each.classes))
    return folder


def hyperparameters(**changes: Any) -> Hyperparameters:
    """Two quick epochs, with the user's changes."""
    values: dict[str, Any] = {
        "learning_rate": 3e-3,
        "dropout": 0.1,
        "batch_size": 16,
        "epochs": 2,
        "patience": None,
        "views": 1,
    }
    return Hyperparameters.model_validate(values | changes)


def round_of(dataset: str, train: str = "all", *, head: str | None = None, **changes: Any) -> Round:
    return Round.model_validate(
        {
            "dataset": dataset,
            "train": train,
            "head": head or dataset,
            "hyperparameters": hyperparameters(**changes),
        }
    )


def plan_of(*rounds: Round, **changes: Any) -> Plan:
    """A plan of rounds, of which the last one's dataset is the target."""
    target = rounds[-1].dataset
    names = dict.fromkeys(name for round in rounds for name in round.datasets)
    values: dict[str, Any] = {
        "strategy": "custom",
        "profile": "custom",
        "target": target,
        "datasets": tuple(
            Dataset(name=name, split=TARGET if name == target else SUPPORT) for name in names
        ),
        "head": "mlp",
        "body": BODY,
        "rounds": rounds,
    }
    return Plan.model_validate(values | changes)


def hydra_plan(**changes: Any) -> Plan:
    """Seven rounds, as `hydra` lists them for alpha, beta, gamma, alpha."""
    pairs = [(name, train) for name in ("beta", "gamma", "alpha") for train in ("head", "all")]
    plan = plan_of(round_of("alpha"), *(round_of(*pair) for pair in pairs))
    return plan.model_copy(update={"strategy": "hydra", **changes})


def run_plan(plan: Plan, out: Path, *, data: Path, cache: Path, **more: Any) -> RunDir:
    """Run a plan on the stand-ins, on the CPU unless told otherwise."""
    from hydrakit.engine import run

    places = {"out": out, "data": data, "cache": cache, "device": "cpu", "plugins": plugins()}
    return run(plan, **(places | more))


@dataclass(frozen=True)
class Runner:
    """Runs plans on the stand-ins, each in a folder of its own."""

    folder: Path
    data: Path
    cache: Path

    def __call__(self, plan: Plan, name: str = "run", **more: Any) -> RunDir:
        places = {"data": self.data, "cache": self.cache}
        return run_plan(plan, self.folder / name, **(places | more))


LOCAL_POOL = pool.LocalPool


class PoolHere(LOCAL_POOL):
    """Runs jobs in this process, one at each poll."""

    def submit(self, groups: Sequence[Sequence[Job]], folder: Path, *, processes: int) -> None:
        self.waiting = [*getattr(self, "waiting", []), *(job for group in groups for job in group)]

    def poll(self) -> list[tuple[Job, str]]:
        if not getattr(self, "waiting", []):
            return []
        job = self.waiting.pop(0)
        logger = logging.getLogger("hydrakit")
        level = logger.level
        logger.setLevel(logging.ERROR)  # as the processes do
        try:
            run_job(Job.model_validate_json(job.resolved().model_dump_json()))
        finally:
            logger.setLevel(level)
        return [(job, "exit status 0")]


class PoolBackwards(PoolHere):
    """Runs the last job first; it is interrupted at a poll if ``polls`` gives its number.

    Attributes:
        polls: Number of polls until the next one is interrupted.
        most: The most jobs that have waited at the same time.
    """

    polls = -1
    most = 0

    def poll(self) -> list[tuple[Job, str]]:
        cls = type(self)
        if cls.polls == 0:
            cls.polls = -1
            raise KeyboardInterrupt
        cls.polls -= 1
        cls.most = max(cls.most, len(self.waiting))
        self.waiting.reverse()
        ended = super().poll()
        self.waiting.reverse()
        return ended


@contextmanager
def cells_here() -> Iterator[None]:
    """Run cells of comparisons in this process: a new one takes seconds to import torch.

    Tests of the processes themselves ask for the fixture ``cell_processes``.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "LocalPool", PoolHere)
        yield


class StopError(Exception):
    """Someone pulls the plug."""


def prepared_dataset(name: str, *, data: Path, cache: Path) -> PreparedDataset:
    """The prepared patches of a stand-in."""
    from hydrakit.data.prepared.prepare import prepare

    chosen = plugins().get(DatasetAdapter, name)
    return prepare(chosen, data / name, options={}, patch=BODY.patch, cache=cache)


def load_dataset(
    name: str, *, data: Path, cache: Path, device: str = "cpu", seed: int = 0
) -> LoadedDataset:
    """A stand-in as a round gets it, shared out as a target of a plan with that seed."""
    import torch

    from hydrakit.data.load import load
    from hydrakit.data.quality.leakage import assign_splits

    chosen = plugins().get(DatasetAdapter, name)
    prepared = prepared_dataset(name, data=data, cache=cache)
    gate = assign_splits(
        {name: prepared},
        {name: chosen},
        splits={name: TARGET},
        seed=seed,
        copies="group",
        conflicts="keep",
    )
    where = torch.device(device)
    return load(prepared, chosen, splits=gate.splits[name], patch=BODY.patch, device=where)


def new_network(
    *,
    classes: int = 2,
    seed: int = 0,
    device: str = "cpu",
    dropout: float = 0.0,
    channels: int = 1,
) -> tuple[PaperBody, nn.Module]:
    """A body and an ``mlp`` head of it, whose batch-norm statistics have moved from 0 and 1."""
    import torch

    from hydrakit.models.body import PaperBody

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = PaperBody(BODY, in_channels=channels, dropout=dropout)
        body(torch.randn(8, channels, BODY.patch, BODY.patch))
        head = heads.build_mlp(BODY.features, classes)
    return body.to(device), head.to(device)


def install_standin(site: Path) -> Path:
    """A folder with the metadata of a distribution whose plugin is this module."""
    info = site / "standin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: standin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hydrakit]\nstandin = helpers\n")
    return site


def refused(action: Callable[[], object], *words: str) -> None:
    """Call what must fail with one line, in which some words are."""
    with pytest.raises(HydrakitError) as caught:
        action()
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def of_the_dead() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@contextmanager
def another_process(run: Path) -> Iterator[int]:
    """A process that holds the lock of a run's folder until it is killed at the end; its number."""
    arguments = [sys.executable, "-c", _HOLD, str(run)]
    with subprocess.Popen(
        arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process.pid
        process.kill()


_HOLD = """
import sys
from pathlib import Path
from hydrakit.runs.rundir import RunDir

with RunDir(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def tree(*folders: Path) -> dict[str, bytes | None]:
    """Every path below some folders with its bytes; folders have None."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for folder in folders
        for path in sorted(folder.rglob("*"))
    }


def forget_digests(run: Path) -> None:
    """Make a run one of a version that wrote no digests: its files are taken as they are."""
    for path in run.rglob("files.json"):
        path.unlink()


def weights_of(run: Path) -> dict[str, bytes]:
    """What two equal runs have in common, byte for byte, by path within the run."""
    found = {
        str(path.relative_to(run)): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.suffix in (".safetensors", ".csv") or path.name == "metrics.jsonl"
    }
    # Else nothing would be compared with nothing.
    assert any(name.endswith(".safetensors") for name in found), f"{run} holds no weights"
    return found
