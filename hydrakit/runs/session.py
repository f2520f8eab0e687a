"""A run under way: its rounds in order, skipping those that are already on disk, and the test."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from hydrakit import weights
from hydrakit.compute import signals
from hydrakit.compute.devices import Compute
from hydrakit.data.load import CaseSet, LoadedDataset, load, select
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.quality.leakage import LeakageResult, check_leakage, data_facts
from hydrakit.errors import DataError, PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.plan.model import Plan
from hydrakit.plan.results import EpochRecord, Results, RoundResult, TestResult
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs import round_cache, transfer
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.datasets import PlanDatasets
from hydrakit.runs.evaluate import predict, score, to_csv
from hydrakit.runs.network import Network
from hydrakit.runs.rundir import SHOWN, RunDir
from hydrakit.runs.shown import save_shown_cases
from hydrakit.runs.state import RoundState
from hydrakit.runs.trace import Trace
from hydrakit.storage.files import copy, write_atomic
from hydrakit.storage.records import write_lines, write_record
from hydrakit.training.diagnostics import is_out_of_memory, largest_fitting_batch
from hydrakit.training.loop import DivergedError, TrainingResult, train_round
from hydrakit.training.seeds import Seeds
from hydrakit.training.weight_change import weight_change
from hydrakit.version import version


@dataclass
class Session:
    """A run under way: what it works on, and its rounds one after another.

    Attributes:
        plan: What to train.
        datasets: The plan's datasets, prepared.
        context: Where and how.
        compute: What the context gave on this machine.
        plugins: Plugins that the plan's names are looked up in.
        rundir: Folder of the run.
        callbacks: Called when something happens.
    """

    plan: Plan
    datasets: PlanDatasets
    context: RunContext
    compute: Compute
    plugins: Plugins
    rundir: RunDir
    callbacks: RunCallback

    @property
    def adapters(self) -> Mapping[str, DatasetAdapter]:
        """The adapters of the plan's datasets, by name."""
        return self.datasets.adapters

    @property
    def prepared(self) -> Mapping[str, PreparedDataset]:
        """The prepared patches of the plan's datasets, by name."""
        return self.datasets.prepared

    @cached_property
    def leakage(self) -> LeakageResult:
        """The duplicates in the data, and the split of every case."""
        return check_leakage(self.prepared, self.adapters, self.plan)

    @cached_property
    def loaded(self) -> dict[str, LoadedDataset]:
        """Every dataset, split, on the device."""
        return {
            dataset.name: load(
                self.prepared[dataset.name],
                self.adapters[dataset.name],
                splits=self.leakage.splits[dataset.name],
                patch=self.plan.patch,
                device=self.compute.device,
            )
            for dataset in self.plan.datasets
        }

    @property
    def channels(self) -> int:
        """Of every dataset's images."""
        return next(iter(self.prepared.values())).index.channels

    def check(self) -> None:
        """See that the datasets fit the plan and each other, before anything is trained.

        Raises:
            DataError: A dataset has too few cases, other channels than another, or is not what
                it was when the run began.
            PlanError: One head is to serve datasets with different numbers of classes.
        """
        for name, prepared in self.prepared.items():
            if prepared.index.channels != self.channels:
                raise DataError(
                    f"{name}: its images have {prepared.index.channels} channels, those of "
                    f"{next(iter(self.prepared))} {self.channels}: one body needs the same of all"
                )
        served: dict[str, str] = {}
        pairs = [pair for r in self.plan.rounds for pair in zip(r.heads, r.datasets, strict=True)]
        for head, name in pairs:
            first = served.setdefault(head, name)
            here, there = self.adapters[name], self.adapters[first]
            if (here.task, len(here.classes)) != (there.task, len(there.classes)):
                raise PlanError(
                    f"head {head!r} cannot serve both {first!r} "
                    f"({there.task}, {len(there.classes)} classes) and {name!r} "
                    f"({here.task}, {len(here.classes)}): give each dataset a head of its own"
                )
        facts = {
            name: data_facts(self.prepared[name].index, self.adapters[name], self.leakage)
            for name in self.loaded
        }
        before = self.rundir.facts()
        for name in facts if before else ():
            if before is not None and before.get(name) != facts[name]:
                raise DataError(
                    f"{name}: its data is not what {self.rundir.path} began with: restore it, or "
                    "begin anew with another `--out`"
                )
        self.facts = facts

    def _write_environment(self) -> None:
        """Write on what machine this runs, from which files."""
        self.rundir.write_facts(self.facts)
        self.rundir.write_json("splits.json", self.leakage.splits)
        device = self.compute.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
        environment: dict[str, Any] = {
            "hydrakit": version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "device": str(device),
            "device_name": name,
            "precision": self.compute.precision,
            "deterministic": self.compute.deterministic,
            "compiled": self.compute.compiled,
            "threads": torch.get_num_threads(),
            "plugins": {
                each.name: f"{each.distribution} {each.version}" for each in self.plugins.records
            },
            "roots": {name: str(path) for name, path in self.datasets.roots.items()},
        }
        self.rundir.write_json("environment.json", environment)

    def run(self) -> None:
        """Run every round that is not on disk, then evaluate the test split once, if wanted."""
        if self.rundir.results() is not None:
            self._close()
            return
        self.rundir.check_rounds(self.plan)
        self.rundir.unseal()
        self._write_environment()
        self.callbacks.started(self.plan, self.rundir, str(self.compute.device))
        self.rundir.log("run", device=str(self.compute.device))
        network = self._network()
        for number, round in enumerate(self.plan.rounds, start=1):
            signals.check()
            if self.rundir.finished(number, round):
                self.rundir.clear_state(number, round)  # killed before that
                self.callbacks.skipped(number, round)
            else:
                self._train_or_copy(number, round, network)
            network.load_round(number, round)
        if self.context.test:
            self._finish(network)

    def _train_or_copy(self, number: int, round: Round, network: Network) -> None:
        """Copy a round from the folder of rounds that runs share, or train it and add it there."""
        folder = self.context.round_cache
        if folder is None or self.context.trace_test:  # a trace holds test figures: not for others
            self._run_round(number, round, network)
            return
        key = self.round_key(number)
        if round_cache.load(folder, key, self.rundir, number, round):
            self.rundir.log("round shared", round=number, key=key)
            self.callbacks.skipped(number, round)
        else:
            self._run_round(number, round, network)
            round_cache.store(folder, key, self.rundir, number, self.plan)

    def round_key(self, number: int, plan: Plan | None = None) -> str:
        """The key of a round in a folder of shared rounds.

        Args:
            number: Number of the round, from 1.
            plan: A plan for the same data; None for the session's.
        """
        return round_cache.key_of(
            plan or self.plan,
            number,
            contents={name: each.index.content for name, each in self.prepared.items()},
            splits={name: each.splits for name, each in self.loaded.items()},
            compute=self.compute,
            plugins=self.plugins,
        )

    def _network(self) -> Network:
        return Network(
            self.plan,
            self.rundir,
            adapters=self.adapters,
            loaded=self.loaded,
            device=self.compute.device,
            plugins=self.plugins,
        )

    def _train(
        self, number: int, round: Round, network: Network, state: RoundState
    ) -> TrainingResult:
        """Train a round, from where it was stopped if it was."""
        seeds = Seeds(self.plan.seed, number)
        if number == 1:
            starts = self.plan.bootstrap
            state.bootstrap = network.start(
                seeds,
                lambda n: self.callbacks.bootstrapping(n, starts),
                looked=state.looked(),
                on_look=state.look,
            )
        heads = network.heads_of(round, seeds)
        others = [self.loaded[other.dataset] for other in round.others]
        before = deepcopy(network.body.state_dict())
        if self.context.trace_test:
            state.trace = self._trace_of(round, network, state.folder)

        def on_epoch(record: EpochRecord) -> None:
            self.callbacks.epoch(number, round, record)
            if state.trace is not None:
                state.trace(record)

        trained = train_round(
            round,
            network.body,
            heads[0],
            self.loaded[round.dataset],
            seeds=seeds,
            others=list(zip(heads[1:], others, strict=True)),
            compute=self.compute,
            reference=network.reference,
            on_epoch=on_epoch,
            keeper=state.keeper,
        )
        state.moved = weight_change(before, network.body)
        return trained

    def _trace_of(self, round: Round, network: Network, folder: Path) -> Trace | None:
        """On the target through its head, elsewhere through the reference, where there is one."""
        if round.dataset == self.plan.target:
            head = network.heads[round.head]
        elif network.reference is not None:
            head = network.reference.head
        else:
            return None
        return Trace(network.body, head, lambda: self._target("test", by="trace"), folder=folder)

    def _target(self, split: str, *, by: str) -> CaseSet:
        """The target's cases of a split; that the test split is read is noted down first."""
        target = self.loaded[self.plan.target]
        keys = {key for key, name in target.splits.items() if name == split}
        if split == "test":
            self.rundir.log("test read", by=by, dataset=self.plan.target, cases=len(keys))
        return select(
            self.prepared[self.plan.target],
            keys,
            task=target.task,
            scale=target.scale,
            patch=self.plan.patch,
            device=self.compute.device,
        )

    def _state(self, number: int, round: Round) -> RoundState:
        """The round as it was left, if it was stopped."""
        folder = self.rundir.state_path(number, round)
        return RoundState(folder, every=self.context.checkpoint_interval)

    def _trained(
        self, number: int, round: Round, network: Network, state: RoundState
    ) -> TrainingResult:
        """Train a round; what goes wrong on the way is told with what can be done."""
        try:
            with state.under_way():
                return self._train(number, round, network, state)
        except DivergedError as error:
            if error.trained is None:
                raise
            folder, best = state.folder / "best", error.trained.best
            folder.mkdir(exist_ok=True)
            network.save(folder, number, round, error.trained)
            raise DivergedError(
                f"{error}. The best epoch so far ({best.epoch}, val score {best.val.score:.3f}) is "
                f"kept in {folder}"
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Here and not in the handler, whose traceback would keep what filled the memory.
        raise PlanError(self._too_little_memory(number, round, network))

    def _too_little_memory(self, number: int, round: Round, network: Network) -> str:
        size, fits = round.hyperparameters.batch_size, None
        if round.head in network.heads:  # else no random start fitted
            image, head = self.loaded[round.dataset].val.patches[:1], network.heads[round.head]
            fits = largest_fitting_batch(round, network.body, head, image, self.compute)
        if fits == size:
            remedy = "it fits now, so something else took the memory: run the same command again"
        elif fits is None:
            remedy = "not even one patch fits: take a smaller body (`--body-channels`)"
        else:
            remedy = f"batches of {fits} fit: `--batch-size {fits}` (and another `--out`)"
        return (
            f"round {number} ({round.dataset}, {round.train}): the memory of {self.compute.device} "
            f"ran out with batches of {size}; {remedy}. What is done is kept"
        )

    def _run_round(self, number: int, round: Round, network: Network) -> None:
        self.rundir.log("round", round=number, dataset=round.dataset, train=round.train)
        state = self._state(number, round)
        if state.epoch:
            self.callbacks.resumed(number, round, state.epoch)
        trained = self._trained(number, round, network, state)
        validation_outputs = network.validation_outputs(round)
        result = RoundResult(
            round=number,
            dataset=round.dataset,
            train=round.train,
            head=round.head,
            learning_rate=round.hyperparameters.learning_rate,
            dropout=round.hyperparameters.dropout,
            best_epoch=trained.best.epoch,
            epochs=trained.epochs[-1].epoch,
            val=trained.best.val,
            reference_auc=trained.best.reference_auc,
            seconds=state.keeper.seconds,
            bootstrap=state.bootstrap,
            heads=network.validation_metrics(validation_outputs),
            moved=state.moved,
        )
        with self.rundir.writing_round(number, round) as folder:
            network.save(folder, number, round, trained)
            write_lines(folder / "metrics.jsonl", trained.epochs)
            transfer.keep(folder, validation_outputs)
            if state.trace is not None:
                state.trace.write(folder)
            write_record(folder / "round.json", result)
        self.rundir.log("round done", round=number, best_epoch=result.best_epoch)
        self.callbacks.finished(number, round, result)

    def _finish(self, network: Network) -> None:
        """Give body and heads their final places, read the test split, and write the results."""
        rundir, plan = self.rundir, self.plan
        (rundir.path / "heads").mkdir(exist_ok=True)
        for number, round in enumerate(plan.rounds, start=1):
            file = partial(rundir.round_file, number, round)
            copy(file("head.safetensors"), rundir.head_path(round.head))
            for other in round.others:
                copy(file(f"head-{other.dataset}.safetensors"), rundir.head_path(other.head))
        copy(file("body.safetensors"), rundir.body_path)
        model = weights.load_model(
            rundir.body_path, rundir.head_path(plan.target_head), plugins=self.plugins
        ).to(self.compute.device)
        target = self.loaded[plan.target]
        predictions = []
        for split in ("val", "test"):
            cases = self._target(split, by="results")
            predictions.append(
                predict(model, cases, dataset=plan.target, split=split, classes=target.classes)
            )
        write_atomic(rundir.path / "predictions.csv", to_csv(predictions).encode())
        results = self._results(score(predictions[-1]))
        rundir.report_path.unlink(missing_ok=True)  # it tells of a run under way
        write_record(rundir.results_path, results)
        self._close()

    def _results(self, test: TestResult) -> Results:
        """The results of the finished rounds and of the test."""
        plan, rundir = self.plan, self.rundir
        rounds = tuple(rundir.round_result(n, r) for n, r in enumerate(plan.rounds, start=1))
        val = {name: loaded.val for name, loaded in self.loaded.items()}
        kept = transfer.RoundOutputs(rundir, plan.rounds, val, self.leakage.units)
        return Results(
            hydrakit=version(),
            plan=plan.digest(),
            strategy=plan.strategy,
            profile=plan.profile,
            target=plan.target,
            seed=plan.seed,
            rounds=rounds,
            test=test,
            transfer=transfer.transfers(plan.rounds, rounds, kept),
        )

    def _close(self) -> None:
        """Complete a run that has results; stopped anywhere in here, the same command goes on."""
        if not (self.rundir.path / SHOWN).is_file():
            save_shown_cases(self.rundir, self.prepared[self.plan.target], plugins=self.plugins)
        if self.rundir.seal():
            self.rundir.log("done")
        self.callbacks.completed(self.rundir)
