"""Checks of a plugin as a whole: a run with its components that is stopped, and whose heads move.

The run is small: two epochs in each round, on one thread of the CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from hydrakit import weights
from hydrakit.engine import run
from hydrakit.export.check import TestImages, answers
from hydrakit.hooks import (
    BodyFactory,
    DatasetAdapter,
    HeadFactory,
    InputNeeds,
    NamedComponent,
    SequenceStrategy,
    Settings,
    Window,
)
from hydrakit.plan.model import Plan
from hydrakit.plan.profiles import DEFAULT_HEAD, make_plan
from hydrakit.plan.results import EpochRecord
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round, Train
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.model import find_model, load_networks
from hydrakit.runs.rundir import RunDir
from hydrakit.testing.properties import Property, PropertySkipped
from hydrakit.testing.synthetic import synthetic_dataset

VALUES: dict[str, Any] = {
    "profile": "recommended-0.1",
    "epochs": 2,
    "select": "last",
    "epoch_size": 16,
    "batch_size": 4,
    "patience": 0,
    "bootstrap": 1,
}
"""Values of a plan that is trained in seconds."""

SMALL = {"channels": (4,), "patch": 16}
"""Options of the body `small`, for plugins without a body."""

TARGET, SUPPORT = "check-target", "check-support"  # names of synthetic datasets
CASES = 20  # of a synthetic dataset with two classes

C = TypeVar("C", bound=NamedComponent)


def _plan(datasets: Sequence[str], settings: Settings) -> list[Round]:
    """All of the first dataset, then the head of the target, and all of it."""
    kinds: list[tuple[str, Train]] = [
        (datasets[0], "all"),
        (datasets[-1], "head"),
        (datasets[-1], "all"),
    ]
    return [
        Round(
            dataset=name,
            train=train,
            head=name,
            hyperparameters=settings.hyperparameters(train, "first"),
        )
        for name, train in kinds
    ]


PLAIN = SequenceStrategy(name="check-plain", summary="Every kind of round once", plan=_plan)
"""Strategy for plugins without one."""


@dataclass(frozen=True)
class PluginSubject:
    """A plugin to check as a whole.

    Attributes:
        components: Its components.
        plugins: All components that a run may use, these among them.
        data: Folder with one folder for each dataset; None for synthetic images.
        folder: Empty folder for the files of the checks.
    """

    components: tuple[NamedComponent, ...]
    plugins: Plugins
    data: Path | None
    folder: Path

    def first(self, kind: type[C]) -> C | None:
        """The first of its components of a kind; None if it has none."""
        return next((each for each in self.components if isinstance(each, kind)), None)

    def data_of(self, dataset: DatasetAdapter) -> Path | None:
        """Folder with the data of a dataset; None without one."""
        root = None if self.data is None else self.data / dataset.name
        return root if root is not None and root.is_dir() else None

    @cached_property
    def datasets(self) -> tuple[DatasetAdapter, DatasetAdapter]:
        """A synthetic dataset, and the target: a dataset of the plugin, or a synthetic one.

        The plugin's own dataset needs data, and grey values that its body can use.
        """
        body, head = self.first(BodyFactory), self.first(HeadFactory)
        needs = InputNeeds() if body is None else body.needs
        rule: Any = "image" if needs.normalise is None else needs.normalise[0]
        given: dict[str, Any] = {
            "channels": 1 if needs.channels is None else needs.channels[0],
            "normalise": Window(window=(-4.0, 4.0)) if rule == "window" else rule,
        }
        target = synthetic_dataset(
            TARGET, cases=CASES, task="classification" if head is None else head.tasks[0], **given
        )
        for each in self.components:
            if isinstance(each, DatasetAdapter) and self.data_of(each) is not None:
                own = "window" if isinstance(each.normalise, Window) else each.normalise
                if needs.normalise is None or own in needs.normalise:
                    target = each
                    break
        # The support has the labels of the target: a strategy may give both one head.
        cases = CASES // 2 * max(2, len(target.classes))
        support = synthetic_dataset(
            SUPPORT, cases=cases, task=target.task, classes=target.classes, **given
        )
        return support, target

    @cached_property
    def all_plugins(self) -> Plugins:
        """The plugins with what a run needs and this plugin has not."""
        return self.plugins.including(PLAIN, *self.datasets)

    @cached_property
    def plan(self) -> Plan:
        """A plan with a dataset, a head, a body and a strategy of the plugin, where it has them."""
        support, target = self.datasets
        strategy, body = self.first(SequenceStrategy) or PLAIN, self.first(BodyFactory)
        head = self.first(HeadFactory)
        learns = head is not None and target.task in head.tasks
        return make_plan(
            strategy.name,
            [support.name, target.name],
            plugins=self.all_plugins,
            head=head.name if head is not None and learns else DEFAULT_HEAD,
            body="small" if body is None else body.name,
            body_options=SMALL if body is None else {},
            **VALUES,
        )

    def run(self, folder: Path, *callbacks: RunCallback) -> RunDir:
        """Run the plan in a folder, or continue it there."""
        roots = {each.name: self.data_of(each) or self.folder / each.name for each in self.datasets}
        for root in roots.values():
            root.mkdir(exist_ok=True)  # that of a synthetic dataset stays empty
        context = RunContext(
            roots=roots,
            cache=self.folder / "cache",
            device="cpu",
            threads=1,
            checkpoint_interval=0,  # after every epoch
        )
        return run(self.plan, context, out=folder, callbacks=callbacks, plugins=self.all_plugins)

    @cached_property
    def _outcome(self) -> RunDir | Exception:
        """The finished run, or why it failed."""
        try:
            return self.run(self.folder / "run", _Copy(self.folder / "run", self.killed))
        except Exception as error:
            return error

    @property
    def finished(self) -> RunDir:
        """The finished run; `killed` is then its folder as a kill in its last epoch leaves it.

        Raises:
            Exception: Whatever ends the run.
        """
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    @property
    def killed(self) -> Path:
        """Folder of the run as it was in its last epoch."""
        return self.folder / "killed"

    def require_finished(self) -> RunDir:
        """The finished run.

        Raises:
            PropertySkipped: It fails, as the first property says.
        """
        if isinstance(self._outcome, Exception):
            raise PropertySkipped("the run fails")
        return self._outcome


class _Copy(RunCallback):
    """Copies the folder of a run within each epoch: the last copy is that of the last epoch.

    A kill leaves what is on the disk at that moment, which is the checkpoint of the epoch before.
    """

    def __init__(self, run: Path, copy: Path) -> None:
        self.run, self.copy = run, copy

    def epoch(self, number: int, round: Round, record: EpochRecord) -> None:
        """Copy the folder."""
        shutil.rmtree(self.copy, ignore_errors=True)
        shutil.copytree(self.run, self.copy)


def _finishes(subject: PluginSubject) -> str:
    plan, results = subject.plan, subject.finished.results()
    assert results is not None, "the run ends without results"
    own = any(each is subject.datasets[1] for each in subject.components)
    images = f"dataset {plan.target!r}" if own else "synthetic images"
    return (
        f"{len(plan.rounds)} rounds of strategy {plan.strategy!r} on {images}, with body "
        f"{str(plan.body.name)!r} and head {plan.head_of(plan.target).name!r}"
    )


def _resumes(subject: PluginSubject) -> str:
    wanted = subject.require_finished()
    resumed = subject.run(subject.killed)
    one, other = _files(wanted), _files(resumed)
    assert one.keys() == other.keys(), "killed and resumed, it ends with other files"
    changed = sorted(name for name in one if one[name] != other[name])
    assert not changed, (
        f"killed in its last epoch and resumed, it ends with {len(changed)} other files, such as "
        f"{changed[0]}: "
        "what training changes must be in parameters or buffers, and random numbers must be torch's"
    )
    return f"{len(one)} files are equal"


def _files(run: RunDir) -> dict[str, bytes]:
    """The files of a run that do not say when and how long it was trained, by path."""
    return {
        path.relative_to(run.path).as_posix(): path.read_bytes()
        for path in run.path.rglob("*")
        if path.suffix in (".safetensors", ".csv") or path.name == "metrics.jsonl"
    }


def _heads_move(subject: PluginSubject) -> str:
    run = subject.require_finished()
    plan, plugins = run.plan(), subject.all_plugins
    body = run.round_file(1, plan.rounds[0], "body.safetensors")
    heads = sorted((run.path / "heads").glob("*.safetensors"))
    for number, head in enumerate(heads):
        folder = subject.folder / f"swapped-{number}"
        weights.swap(body, head, folder, plugins=plugins)
        model = load_networks(find_model(folder), torch.device("cpu"), plugins=plugins)
        answers(model, TestImages.of(model, None))  # raises WeightsError if any is not finite
    return f"{len(heads)} heads"


WHOLE_PROPERTIES: tuple[Property[PluginSubject], ...] = (
    Property("a run of two epochs finishes", _finishes),
    Property("killed and resumed, the run ends with the same bytes", _resumes),
    Property("each head answers on another body", _heads_move),
)
"""What a plugin with a dataset, a head, a body or a strategy must do as a whole."""
