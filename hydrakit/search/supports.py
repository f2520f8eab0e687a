"""What a support adds: runs of several orders, judged on the target's validation cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from hydrakit import engine, weights
from hydrakit.compute.devices import choose_device
from hydrakit.data.load import CaseSet, select
from hydrakit.data.prepared.prepare import prepare
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plugins.registry import Plugins
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.evaluate import predict
from hydrakit.runs.rundir import RunDir
from hydrakit.schema import Frozen, Name
from hydrakit.stats import tasks
from hydrakit.stats.findings import Findings
from hydrakit.stats.paired import compare
from hydrakit.stats.score_table import Row, ScoreTable, gather
from hydrakit.stats.verdict import VerdictKind, verdicts

Supports = tuple[str, ...]
Effect = Literal["helped", "hurt", "cannot tell"]
EFFECTS: Mapping[VerdictKind, Effect] = {
    "better": "helped",
    "worse": "hurt",
    "cannot tell": "cannot tell",
}


class LeaveOneOut(Frozen):
    """What the chosen order loses without one of its supports.

    Attributes:
        support: That is left out.
        score: Mean validation AUC (of a number, R2) without it.
        difference: Of the chosen order, less that.
        low: Lower end of its 95 % interval, paired over the patients of the validation split and
            over seeds; None where the target has not two classes.
        high: Upper end.
        p: Holm's, over all supports.
        effect: ``helped`` or ``hurt`` where p is at most 0.05 and the interval is on one side of
            0; ``cannot tell``.
        text: That in words.
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
    """Trains orders, and says how they do on the target's validation split.

    Attributes:
        folder: Of the runs, and of the rounds that they share.
        plan: Makes the plan of an order, with a seed.
        seeds: Of the runs of an order.
        target: Its adapter.
        plugins: Plugins that the plans' names are looked up in.
        context: Where and how runs are computed.
        callback: Called when something happens in a run.
    """

    folder: Path
    plan: Callable[[Supports, int], Plan]
    seeds: Sequence[int]
    target: DatasetAdapter
    plugins: Plugins
    context: RunContext
    callback: RunCallback

    def __post_init__(self) -> None:
        """Nothing has been run, and no validation case been looked at."""
        self._cases: CaseSet | None = None
        self._done: dict[tuple[Supports, int], RunDir] = {}

    def path(self, order: Supports, seed: int) -> Path:
        """Of an order's run."""
        return self.folder / "runs" / f"{len(order)}-{'+'.join(order)}-seed{seed}"

    def run(self, order: Supports, seed: int) -> RunDir:
        """Train what is not yet trained of an order, and never its test."""
        if (order, seed) in self._done:
            return self._done[order, seed]
        self._done[order, seed] = engine.run(
            self.plan(order, seed),
            self.context,
            out=self.path(order, seed),
            callbacks=[self.callback],
            plugins=self.plugins,
        )
        return self._done[order, seed]

    def scores(self, order: Supports) -> tuple[float, ...]:
        """Validation figure of the last round, by seed."""
        found = []
        for seed in self.seeds:
            rundir = self.run(order, seed)
            rounds = rundir.plan().rounds
            found.append(rundir.round_result(len(rounds), rounds[-1]).val.score)
        return tuple(found)

    @property
    def has_two_classes(self) -> bool:
        """Whether differences have intervals."""
        return self.target.task == "classification" and len(self.target.classes) == 2

    def counts(self) -> tuple[int, int]:
        """Positive and negative validation findings, of two classes."""
        cases = self._val(self.run((), self.seeds[0]))
        labels = cases.labels[Findings.of([case.finding for case in cases.cases]).firsts]
        return int(np.sum(labels == 1)), int(np.sum(labels == 0))

    def left_out(self, chosen: Supports) -> tuple[LeaveOneOut, ...]:
        """What each support of an order adds to it: the order against the order without it."""
        without = {each: tuple(name for name in chosen if name != each) for each in chosen}
        best = float(np.mean(self.scores(chosen)))
        means = {each: float(np.mean(self.scores(order))) for each, order in without.items()}
        if not self.has_two_classes or not chosen:
            return tuple(
                LeaveOneOut(
                    support=each,
                    score=score,
                    difference=best - score,
                    text=f"{each}: {best - score:+.3f}; intervals are for two classes",
                )
                for each, score in means.items()
            )
        whole = self.tested(chosen)
        differences = {
            (f"with {each}", f"without {each}"): compare(whole, self.tested(order))
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

    def tested(self, order: Supports) -> ScoreTable:
        """The scores of the target's validation findings, from the runs' weights."""
        rows = []
        for seed in self.seeds:
            rundir = self.run(order, seed)
            rounds, cases = rundir.plan().rounds, self._val(rundir)
            file = partial(rundir.round_file, len(rounds), rounds[-1])
            model = weights.load_model(
                file("body.safetensors"), file("head.safetensors"), plugins=self.plugins
            ).to(cases.patches.device)
            name, classes = self.target.name, self.target.classes
            found = predict(model, cases, dataset=name, split="val", classes=classes)
            scores = tasks.predictions(found.outputs, task=cases.task, scale=cases.scale)[:, 1]
            rows += [
                Row(
                    finding=case.finding,
                    patient=case.patient,
                    label=int(label),
                    score=float(score),
                    seed=seed,
                )
                for case, label, score in zip(cases.cases, cases.labels, scores, strict=True)
            ]
        return gather(rows)

    def _val(self, rundir: RunDir) -> CaseSet:
        """The target's validation cases: the same in all runs, which share their splits."""
        if self._cases is None:
            plan, name = rundir.plan(), self.target.name
            prepared = prepare(
                self.target,
                self.context.root_of(name),
                options=plan.dataset(name).options,
                patch=plan.patch,
            )
            keys = {key for key, split in rundir.splits()[name].items() if split == "val"}
            self._cases = select(
                prepared,
                keys,
                task=self.target.task,
                scale=None,
                patch=plan.patch,
                device=choose_device(self.context.device),
            )
        return self._cases
