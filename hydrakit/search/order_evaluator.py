"""Training of orders of supports, and evaluation on the validation split of the target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from hydrakit import engine, weights
from hydrakit.compute.devices import choose_device
from hydrakit.data.identity import patient_of
from hydrakit.data.load import CaseSet, select
from hydrakit.errors import HydrakitError
from hydrakit.hooks import DatasetAdapter
from hydrakit.jobs.driver import JobDriver
from hydrakit.jobs.job import Job, train_job
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.datasets import prepare_as_trained
from hydrakit.runs.evaluate import predict
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen, Name
from hydrakit.search.launched import context_here
from hydrakit.stats import tasks
from hydrakit.stats.findings import Findings
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.stats.verdict import VerdictKind, verdicts
from hydrakit.weights.format import read_head

Supports = tuple[str, ...]
Effect = Literal["helped", "hurt", "cannot tell"]
EFFECTS: Mapping[VerdictKind, Effect] = {
    "better": "helped",
    "worse": "hurt",
    "cannot tell": "cannot tell",
}


class LeaveOneOut(Frozen):
    """Effect of one support on the score of the chosen order.

    Attributes:
        support: Support that is left out.
        score: Mean validation AUC (R2 in regression) without the support.
        difference: Score of the chosen order minus the score without the support.
        low: Lower limit of the 95 % interval of the difference, paired over validation patients and
            seeds; None unless the target has two classes.
        high: Upper limit of the interval.
        p: P value, adjusted for all supports by Holm's method.
        effect: ``helped`` or ``hurt`` if p is at most 0.05 and the interval excludes 0, else
            ``cannot tell``.
        text: Effect in words.
    """

    support: Name
    score: float
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    effect: Effect = "cannot tell"
    text: str


@dataclass
class OrderEvaluator:
    """Trains orders of supports, and evaluates them on the validation split of the target.

    Attributes:
        folder: Folder of the runs and of the rounds that they share.
        plan: Function that makes the plan of an order with a seed.
        seeds: Seeds of the runs of each order.
        target: Dataset adapter of the target.
        plugins: Plugins of this process.
        context: Where and how to compute.
        callback: Called when something happens in a run of this process.
        driver: Submits the runs to a launcher; None to run one after another in this process.
    """

    folder: Path
    plan: Callable[[Supports, int], Plan]
    seeds: Sequence[int]
    target: DatasetAdapter
    plugins: Plugins
    context: RunContext
    callback: RunCallback
    driver: JobDriver | None = None

    def __post_init__(self) -> None:
        """Create the caches of runs and validation cases."""
        self._cases: dict[int, CaseSet] = {}
        self._done: dict[tuple[Supports, int], RunDir] = {}

    def path(self, order: Supports, seed: int) -> Path:
        """Folder of the run of an order."""
        return self.folder / "runs" / f"{len(order)}-{'+'.join(order)}-seed{seed}"

    def train(self, orders: Iterable[Supports]) -> Iterator[Supports]:
        """Train orders, without the test split; yield each one when all its runs are done.

        An order is taken from ``orders`` only when a process is free for it. Earlier results, and
        the data that they are from, are checked as for a run that is resumed.

        Raises:
            HydrakitError: A run is refused, or failed.
        """
        runs = ((order, seed) for order in orders for seed in self.seeds)
        left: Counter[Supports] = Counter()
        for order, seed in self._trained(runs) if self.driver is None else self._launched(runs):
            self._done[order, seed] = RunDir(self.path(order, seed))
            left[order] += 1
            if left[order] == len(self.seeds):
                yield order

    def _trained(self, runs: Iterator[tuple[Supports, int]]) -> Iterator[tuple[Supports, int]]:
        """Train runs one after another in this process."""
        for order, seed in runs:
            if (order, seed) not in self._done:
                job = self._job(order, seed)
                train_job(job, callbacks=[self.callback], plugins=self.plugins)
            yield order, seed

    def _launched(self, runs: Iterator[tuple[Supports, int]]) -> Iterator[tuple[Supports, int]]:
        """Train runs through the launcher, as many at the same time as it has processes."""
        assert self.driver is not None
        running: dict[str, tuple[Supports, int]] = {}
        while True:
            new: list[list[Job]] = []
            while len(running) < self.driver.processes and (run := next(runs, None)):
                job = self._job(*run)
                if run not in self._done:
                    engine.check_run(job.plan, job.context, out=job.out, plugins=self.plugins)
                if job.status() == "done":
                    yield run
                else:
                    new.append([job])
                    running[job.name] = run
            self.driver.submit(new)
            if not running:
                return
            for job in self.driver.poll():
                if (status := job.status()) != "done":
                    raise HydrakitError(f"{job.out}: {status}")
                yield running.pop(job.name)

    def _job(self, order: Supports, seed: int) -> Job:
        path = self.path(order, seed)
        return Job(
            name=path.name,
            plan=self.plan(order, seed),
            out=path,
            context=self.context,
            group=self.folder.resolve().name,
        )

    def scores(self, order: Supports) -> tuple[float, ...]:
        """Validation scores of the last round of a trained order, by seed."""
        scores = []
        for seed in self.seeds:
            rundir = self._done[order, seed]
            rounds = rundir.plan().rounds
            scores.append(rundir.round_result(len(rounds), rounds[-1]).val.score)
        return tuple(scores)

    def seconds(self, order: Supports) -> float:
        """Training time of a trained order, without that of rounds that other runs trained."""
        seconds = 0.0
        for seed in self.seeds:
            rundir = self._done[order, seed]
            shared = {
                (event.model_extra or {}).get("round")
                for event in rundir.events()
                if event.event == "round shared"
            }
            seconds += sum(
                rundir.round_result(number, round).seconds
                for number, round in enumerate(rundir.plan().rounds, start=1)
                if number not in shared
            )
        return seconds

    @property
    def has_two_classes(self) -> bool:
        """Whether the target has two classes, so that differences have intervals."""
        return self.target.task == "classification" and len(self.target.classes) == 2

    def counts(self) -> tuple[int, int]:
        """Numbers of positive and negative validation findings of a target with two classes."""
        cases = self._val(self._done[(), self.seeds[0]])
        labels = cases.labels[Findings.of([case.finding for case in cases.cases]).firsts]
        return int(np.sum(labels == 1)), int(np.sum(labels == 0))

    def left_out(self, chosen: Supports) -> tuple[LeaveOneOut, ...]:
        """Effect of each support: the chosen order compared with the order without the support.

        Orders without a support that were not tried are trained.
        """
        without = {each: tuple(name for name in chosen if name != each) for each in chosen}
        for _ in self.train([chosen, *without.values()]):
            pass
        best = float(np.mean(self.scores(chosen)))
        means = {each: float(np.mean(self.scores(order))) for each, order in without.items()}
        if not self.has_two_classes or not chosen:
            return tuple(
                LeaveOneOut(
                    support=each,
                    score=score,
                    difference=best - score,
                    text=f"{each}: {best - score:+.3f}; intervals need a target with two classes",
                )
                for each, score in means.items()
            )
        whole = self.score_table(chosen)
        differences = {
            (f"with {each}", f"without {each}"): compare(whole, self.score_table(order))
            for each, order in without.items()
        }
        return tuple(
            LeaveOneOut(
                support=each,
                score=means[each],
                difference=verdict.difference,
                low=verdict.low,
                high=verdict.high,
                p=verdict.p,
                effect=EFFECTS[verdict.kind],
                text=verdict.text,
            )
            for each, verdict in zip(chosen, verdicts(differences), strict=True)
        )

    def score_table(self, order: Supports) -> ScoreTable:
        """Scores of the target's validation findings by all runs of a trained order."""
        rows = []
        for seed in self.seeds:
            rundir = self._done[order, seed]
            rounds, cases = rundir.plan().rounds, self._val(rundir)
            file = partial(rundir.round_file, len(rounds), rounds[-1])
            model = weights.load_model(
                file("body.safetensors"), file("head.safetensors"), plugins=self.plugins
            ).to(cases.patches.device)
            name, classes = self.target.name, self.target.classes
            prediction = predict(model, cases, dataset=name, split="val", classes=classes)
            scores = tasks.predictions(prediction.outputs, task=cases.task, scale=cases.scale)[:, 1]
            rows += [
                Row(
                    finding=case.finding,
                    patient=patient_of(case, exact=self.target.exact_names),
                    label=int(label),
                    score=float(score),
                    seed=seed,
                )
                for case, label, score in zip(cases.cases, cases.labels, scores, strict=True)
            ]
        return gather(rows)

    def _val(self, rundir: RunDir) -> CaseSet:
        """Validation cases of the target: the same in all runs, which share their splits.

        The number of channels may differ, because each order has a body for its datasets.
        """
        plan, name = rundir.plan(), self.target.name
        path = rundir.round_file(len(plan.rounds), plan.rounds[-1], "head.safetensors")
        preprocessing = read_head(path).preprocessing
        if preprocessing.channels not in self._cases:
            prepared = prepare_as_trained(
                plan.dataset(name).applied_to(self.target),
                self.context.root_of(name),
                preprocessing,
                options=plan.dataset(name).options,
                patch=plan.patch,
            )
            keys = {key for key, split in rundir.splits()[name].items() if split == "val"}
            self._cases[preprocessing.channels] = select(
                prepared,
                keys,
                task=self.target.task,
                scale=None,
                grey=preprocessing.grey_values,
                patch=plan.patch,
                device=choose_device(context_here(self.context).device),
            )
        return self._cases[preprocessing.channels]
