"""Runs a plan: its rounds in order, then the evaluation of the test split, if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

from torch import nn

from hydrakit import weights
from hydrakit.compute import signals
from hydrakit.compute.devices import Compute
from hydrakit.data.load import CaseSet, LoadedDataset, load, select
from hydrakit.data.origin import DataOrigin, origins_digest
from hydrakit.data.prepared.index import PreparedDataset
from hydrakit.data.quality.leakage import LeakageResult, check_leakage, data_facts
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.build import check_builds, check_heads
from hydrakit.plan.decision import Decision
from hydrakit.plan.model import Plan
from hydrakit.plan.results import (
    ENSEMBLE_FORMAT,
    FINAL_FORMAT,
    Baseline,
    EpochRecord,
    Member,
    Results,
    RoundResult,
    TestResult,
)
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs import round_cache, transfer
from hydrakit.runs.baseline import intensity_baseline, is_baseline
from hydrakit.runs.callbacks import RunCallback
from hydrakit.runs.context import RunContext
from hydrakit.runs.datasets import PlanDatasets
from hydrakit.runs.decisions import decide_other_heads, store_decisions
from hydrakit.runs.earlier import environment_of, notes_of_other_bits, refuse_other_data
from hydrakit.runs.evaluate import (
    Predictions,
    mean_prediction,
    predict,
    score,
    to_csv,
    views_of,
)
from hydrakit.runs.example_cases import save_example_cases
from hydrakit.runs.network import Network
from hydrakit.runs.rundir import EXAMPLE_CASES, RunDir
from hydrakit.runs.start import (
    check_start_heads,
    find_heads,
    find_start,
    refuse_seen_images,
    store_start,
)
from hydrakit.runs.state import RoundState
from hydrakit.runs.trace import Trace
from hydrakit.storage.files import copy, write_atomic
from hydrakit.storage.records import write_lines, write_record
from hydrakit.training.diagnostics import NOTHING_FITS, is_out_of_memory, out_of_memory_message
from hydrakit.training.loop import DivergedError, TrainingResult, train_round
from hydrakit.training.seeds import Seeds
from hydrakit.training.weight_change import weight_change
from hydrakit.version import version
from hydrakit.weights.format import DatasetCard, read_head, tensor_digest
from hydrakit.weights.start import StartTensors


@dataclass
class Session:
    """One run of a plan.

    `check` compares the data with the plan, `run` does all the rest. The methods below `run` stand
    in the order in which a run calls them.

    Attributes:
        plan: What to train.
        datasets: Prepared datasets of the plan.
        context: Where and how to compute.
        compute: Device and precision that the context chose on this machine.
        plugins: Plugins that names in the plan are looked up in.
        rundir: Folder of the run.
        callbacks: Callbacks for the events of the run.
        expected: What the datasets must be, by name, besides what the run's folder says.
        number: Number of the network in its ensemble, from 1; its plan is that of this network
            alone, except for the first, which has the plan of the ensemble.
    """

    plan: Plan
    datasets: PlanDatasets
    context: RunContext
    compute: Compute
    plugins: Plugins
    rundir: RunDir
    callbacks: RunCallback
    expected: Mapping[str, DataOrigin] = field(default_factory=dict)
    number: int = 1

    @property
    def adapters(self) -> Mapping[str, DatasetAdapter]:
        """Adapters of the plan's datasets, by name."""
        return self.datasets.adapters

    @property
    def prepared(self) -> Mapping[str, PreparedDataset]:
        """Prepared patches of the plan's datasets, by name."""
        return self.datasets.prepared

    @cached_property
    def leakage(self) -> LeakageResult:
        """Duplicates in the data, and the split of every case."""
        begun = self.rundir.facts() is not None
        return check_leakage(self.prepared, self.adapters, self.plan, begun=begun)

    @cached_property
    def loaded(self) -> dict[str, LoadedDataset]:
        """Training and validation splits of every dataset, on the device."""
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

    def check(self) -> None:
        """Check that the datasets fit the plan and each other, before anything is trained.

        Raises:
            DataError: A dataset has too few cases, or its data has changed since the run began.
            PlanError: Datasets with different classes use the same head, or the plan was changed
                within a round.
            PluginError: The body or a head has other shapes in each build.
            WeightsError: The start weights do not match the body.
        """
        check_heads(self.plan, self.adapters)
        channels = self.datasets.channels
        check_builds(self.plan, self.adapters, in_channels=channels, plugins=self.plugins)
        self.facts = {
            name: data_facts(self.prepared[name].index, self.adapters[name], self.leakage)
            for name in self.loaded
        }
        target = self.plan.target
        self.start_notes: list[str] = []
        for each in (self, *self.members):
            check_start_heads(each.plan, each.start_heads, self.adapters)
            prepared, splits = self.prepared[target], self.leakage.splits[target]
            self.start_notes += refuse_seen_images(
                *(each.start_tensors, each.start_heads, prepared, splits),
                adapter=self.adapters[target],
                seed=self.plan.effective_split_seed,
                together=[dataset.name for dataset in self.plan.datasets],
            )
        self._check_earlier_work()
        for member in self.members:
            if member.rundir.path.exists():
                RunDir.check(member.rundir.path, member.plan)
                member._check_earlier_work()

    def _check_earlier_work(self) -> None:
        """Check that the data is still that of the run's folder, and so is the plan of a round."""
        refuse_other_data(self.origins, self.expected, self.rundir)
        if self.rundir.plan_path.is_file():  # not in a search, whose rounds have other plans
            for number, round in enumerate(self.plan.rounds, start=1):
                self._state(number, round).check()

    @cached_property
    def members(self) -> list[Session]:
        """Sessions of the second and all other networks of the ensemble, with the same data."""
        members = []
        for number, rundir in enumerate(self.rundir.members(self.plan), start=2):
            member = replace(self, plan=self.plan.member(number), rundir=rundir, number=number)
            member.leakage, member.loaded, member.origins = self.leakage, self.loaded, self.origins
            member.facts = self.facts
            if member.plan.body_weights == self.plan.body_weights:
                member.start_tensors = self.start_tensors
            members.append(member)
        return members

    @cached_property
    def start_tensors(self) -> StartTensors | None:
        """Weights that the body begins with; None if they are random."""
        channels = self.datasets.channels
        return find_start(self.plan, self.rundir, in_channels=channels, plugins=self.plugins)

    @cached_property
    def start_heads(self) -> dict[str, Path]:
        """Files of the heads that begin with given weights, by name."""
        return find_heads(self.plan, self.rundir)

    @cached_property
    def origins(self) -> dict[str, DataOrigin]:
        """What the run is computed from, by dataset."""
        return {
            name: DataOrigin.of(each.index, self.adapters[name], self.leakage.splits[name])
            for name, each in self.prepared.items()
        }

    def run(self) -> None:
        """Run every round that is not on disk yet, then evaluate the test split once."""
        if all(each.rundir.results() is not None for each in (self, *self.members)):
            self._complete()
            return
        self._begin()
        if self.rundir.results() is None:  # else only another network is not finished
            self._train_rounds()
        for member in self.members:
            member._train_member()
        if self.context.test:
            self._write_results()
            self._complete()

    def _train_member(self) -> None:
        """Train the rounds of another network of an ensemble that are not on disk yet."""
        RunDir.begin(self.rundir.path, self.plan)
        with self.rundir.locked():
            if self.rundir.results() is None:
                self._begin()
                self._train_rounds()

    def _train_rounds(self) -> None:
        """Train every round that is not on disk yet."""
        network = self.new_network()
        for number, round in enumerate(self.plan.rounds, start=1):
            signals.check()
            if self.rundir.finished(number, round):
                self.rundir.clear_state(number, round)  # in case a kill prevented it
                self.callbacks.skipped(number, round)
            else:
                self.copy_or_train(number, round, network)
            network.load_round(number, round)

    def _begin(self) -> None:
        """Check the finished rounds, and write what data and which machine the run uses."""
        rundir, before = self.rundir, self.rundir.environment()
        now = environment_of(self.compute, self.plugins, self.datasets.roots)
        rundir.check_rounds(self.plan)
        for member in self.members:
            member.rundir.check_rounds(member.plan)
        rundir.unseal()
        rundir.write_facts(self.facts)
        rundir.write_json("splits.json", self.leakage.splits)
        rundir.write_json("environment.json", now)
        rundir.log("run", device=str(self.compute.device), threads=now["threads"])
        if self.number == 1:
            self.callbacks.started(self.plan, rundir, str(self.compute.device))
        else:
            self.callbacks.member(self.number, rundir)
        for note in notes_of_other_bits(rundir, self.plan, before, now):
            self.callbacks.noted(note)
        for note in dict.fromkeys(self.start_notes if self.number == 1 else ()):
            self.callbacks.noted(note)
        # Only the first network says how the weights match; for the others it is the same.
        callbacks = self.callbacks if self.number == 1 else RunCallback()
        store_start(self.start_tensors, self.start_heads, rundir, callbacks)
        for member in self.members if self.plan.member_weights else ():
            RunDir.begin(member.rundir.path, member.plan)  # now, while the files are there
            with member.rundir.locked():
                store_start(member.start_tensors, member.start_heads, member.rundir, RunCallback())

    def new_network(self) -> Network:
        """Network of the run, before its first round."""
        return Network(
            self.plan,
            self.rundir,
            adapters=self.adapters,
            loaded=self.loaded,
            device=self.compute.device,
            plugins=self.plugins,
            channels=self.datasets.channels,
            fits=self.datasets.fits,
            start_tensors=self.start_tensors,
            start_heads=self.start_heads,
            cards={
                name: DatasetCard.of(self.adapters[name], facts)
                for name, facts in self.facts.items()
            },
        )

    def copy_or_train(self, number: int, round: Round, network: Network) -> None:
        """Copy a round from the folder of shared rounds, or train it and add it to that folder."""
        folder = self.context.round_cache
        # Traced rounds contain test metrics, so they are not shared with other runs.
        if folder is None or self.context.trace_test:
            self._train_and_write(number, round, network)
            return
        key = self.round_key(number)
        if round_cache.load(folder, key, self.rundir, number, round):
            self.rundir.log("round shared", round=number, key=key)
            self.callbacks.skipped(number, round)
        else:
            self._train_and_write(number, round, network)
            round_cache.store(folder, key, self.rundir, number, self.plan)

    def round_key(self, number: int, plan: Plan | None = None) -> str:
        """Key of a round in a folder of shared rounds.

        Args:
            number: Number of the round, from 1.
            plan: Another plan for the same data; None for the session's plan.
        """
        return round_cache.key_of(
            plan or self.plan,
            number,
            contents={name: each.index.content for name, each in self.prepared.items()},
            rules={name: each.normalise for name, each in self.adapters.items()},
            splits={name: each.splits for name, each in self.loaded.items()},
            fits=self.datasets.fits,
            compute=self.compute,
            plugins=self.plugins,
        )

    def _train_and_write(self, number: int, round: Round, network: Network) -> None:
        """Train a round, or continue it, and write its folder."""
        self.rundir.log("round", round=number, dataset=round.dataset, train=round.train)
        state = self._state(number, round)
        if state.epoch:
            self.callbacks.resumed(number, round, state.epoch)
        training = self._train_or_explain(number, round, network, state)
        validation_outputs = network.validation_outputs(round)
        result = RoundResult(
            round=number,
            dataset=round.dataset,
            train=round.train,
            head=round.head,
            learning_rate=round.hyperparameters.learning_rate,
            dropout=round.hyperparameters.dropout,
            best_epoch=training.best.epoch,
            epochs=training.epochs[-1].epoch,
            val=training.best.val,
            reference_auc=training.best.reference_auc,
            seconds=state.checkpointer.seconds,
            bootstrap=state.bootstrap,
            heads=network.validation_metrics(validation_outputs),
            moved=state.weight_change,
            penalty=training.penalty,
        )
        with self.rundir.writing_round(number, round) as folder:
            network.save(folder, number, round, training)
            write_lines(folder / "metrics.jsonl", training.epochs)
            transfer.write_outputs(folder, validation_outputs)
            if state.trace is not None:
                state.trace.write(folder)
            write_record(folder / "round.json", result)
        self.rundir.log("round done", round=number, best_epoch=result.best_epoch)
        self.callbacks.finished(number, round, result)

    def _state(self, number: int, round: Round) -> RoundState:
        return RoundState(
            self.rundir.state_path(number, round),
            interval=self.context.checkpoint_interval,
            plan=self.plan.digest(),
            data=origins_digest(self.origins),
        )

    def _train_or_explain(
        self, number: int, round: Round, network: Network, state: RoundState
    ) -> TrainingResult:
        """Train a round; if training fails, raise an error that names the remedy."""
        try:
            with state.saved_on_failure():
                return self._train(number, round, network, state)
        except DivergedError as error:
            if error.result is None:
                raise
            folder, best = state.folder / "best", error.result.best
            folder.mkdir(exist_ok=True)
            network.save(folder, number, round, error.result)
            raise DivergedError(
                f"{error}. The weights of the best epoch so far ({best.epoch}, val score "
                f"{best.val.score:.3f}) are in {folder}"
            ) from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Outside the handler: the traceback would keep the tensors that filled the memory.
        raise PlanError(self._out_of_memory_message(number, round, network))

    def _train(
        self, number: int, round: Round, network: Network, state: RoundState
    ) -> TrainingResult:
        """Train a round from its beginning, or from its last checkpoint."""
        seeds = Seeds(self.plan.seed, number)
        if number == 1:
            state.bootstrap = network.start(
                seeds,
                lambda done: self.callbacks.bootstrapping(done, self.plan.bootstrap),
                known=state.read_start_scores(),
                on_scores=state.save_start_scores,
            )
        heads = network.heads_of(round, seeds)
        other_data = [self.loaded[other.dataset] for other in round.others]
        if self.context.trace_test and number <= self.plan.strategy_rounds:
            state.trace = self._trace_of(round, network, state.folder)

        def on_epoch(record: EpochRecord) -> None:
            self.callbacks.epoch(number, round, record)
            if state.trace is not None:
                state.trace(record)

        weights_before = deepcopy(network.body.state_dict())
        result = train_round(
            round,
            network.body,
            heads[0],
            self.loaded[round.dataset],
            seeds=seeds,
            others=list(zip(heads[1:], other_data, strict=True)),
            compute=self.compute,
            reference=network.reference,
            on_epoch=on_epoch,
            on_note=self._note_once,
            checkpointer=state.checkpointer,
        )
        state.weight_change = weight_change(weights_before, network.body)
        return result

    @cached_property
    def _notes(self) -> set[str]:
        """What was said about the way of computing."""
        return set()

    def _note_once(self, text: str) -> None:
        if text not in self._notes:
            self._notes.add(text)
            self.callbacks.noted(text)

    def _trace_of(self, round: Round, network: Network, folder: Path) -> Trace | None:
        """Trace of the test metrics of a round.

        A round on the target uses the head that it trains. Any other round uses the reference head;
        without one there is no trace.
        """
        if round.dataset == self.plan.target:
            head = network.heads[round.head]
        elif network.reference is not None:
            head = network.reference.head
        else:
            return None

        def read_cases() -> CaseSet:
            digests = {
                "body": weights.body_digest(network.body),
                "head": tensor_digest(head.state_dict()),
            }
            self._log_reading(by="trace", weights=[digests])
            return self._target_cases("test")

        return Trace(network.body, head, read_cases, folder=folder)

    def _target_cases(self, split: str) -> CaseSet:
        """Cases of a split of the target; a reading of the test split is logged before."""
        target = self.loaded[self.plan.target]
        return select(
            self.prepared[self.plan.target],
            self._target_keys(split),
            task=target.task,
            scale=target.scale,
            grey=target.grey,
            patch=self.plan.patch,
            device=self.compute.device,
        )

    def _target_keys(self, split: str) -> set[str]:
        """Keys of the cases of a split of the target."""
        splits = self.loaded[self.plan.target].splits
        return {key for key, name in splits.items() if name == split}

    def _log_reading(self, *, by: str, **facts: object) -> None:
        """Log that the test split is read, or an inner fold in its place, which is no such reading.

        Without ``weights`` among the facts, they are the final ones of the networks of the run.
        """
        event = "test read" if self.plan.inner is None else "inner fold read"
        facts |= {"by": by, "dataset": self.plan.target, "cases": len(self._target_keys("test"))}
        if "weights" in facts:
            self.rundir.log(event, **facts)
            return
        networks = [self] if by == "ensemble" else [self, *self.members]
        head = self.plan.target_head
        files = [each.rundir.weights(each.plan, head) for each in networks]
        self.rundir.log_reading(event, files, **facts)

    def _out_of_memory_message(self, number: int, round: Round, network: Network) -> str:
        """Error message for a round that ran out of memory."""
        if round.head in network.heads:
            image, head = self.loaded[round.dataset].val.patches[:1], network.heads[round.head]
            message = out_of_memory_message(round, network.body, head, image, self.compute)
        else:  # the memory was too small for a random start
            message = f"{self.compute.device} ran out of memory; {NOTHING_FITS}"
        return (
            f"round {number} ({round.dataset}, {round.train}): {message}. Finished rounds are on "
            "disk"
        )

    def _write_results(self) -> None:
        """Write the final weights, evaluate the test split if there is one, and write the results.

        The test split of an ensemble is read once, for all networks.
        """
        networks = [self, *self.members]
        models = [each._write_final_weights() for each in networks]
        splits = ("val",) if self.plan.final else ("val", "test")
        if not self.plan.final:
            self._log_reading(by="results")
        cases = {split: self._target_cases(split) for split in splits}
        target = self.plan.target
        classes, views = (
            self.loaded[target].classes,
            views_of(read_head(self.rundir.head_path(self.plan.target_head))),
        )
        predictions = [
            [
                predict(
                    model,
                    cases[split],
                    dataset=target,
                    split=split,
                    classes=classes,
                    views=views,
                )
                for split in splits
            ]
            for model in models
        ]
        means = [mean_prediction(each) for each in zip(*predictions, strict=True)]
        decisions: list[Decision | None] = [None] * (1 + len(networks))
        if self.plan.inner is None:  # the runs of a search, which are many, have no decisions
            pairs = [(each.rundir, each.plan) for each in networks]
            decide_other_heads(pairs, self.loaded, plugins=self.plugins, device=self.compute.device)
            rundirs, vals = [each for each, _ in pairs], [each[0] for each in predictions]
            decisions = store_decisions(self.plan.target_head, rundirs, vals)
        tests = [
            None if self.plan.final else score(each[-1], decision)
            for each, decision in zip(predictions, decisions[1:], strict=True)
        ]
        for member, own, test in zip(self.members, predictions[1:], tests[1:], strict=True):
            if member.rundir.results() is None:
                if test is not None:
                    member._log_reading(by="ensemble")
                member._write_predictions(own, member._results(test))
                member.rundir.seal()
        baseline = None
        if not self.plan.final and not is_baseline(self.plan.strategy, self.plugins):
            baseline = intensity_baseline(self.loaded[target], cases["test"])
        test = None if self.plan.final else score(means[-1], decisions[0])
        results = self._results(test, baseline)
        if self.members:
            members = tuple(
                Member(
                    number=each.number,
                    seed=each.plan.seed,
                    figures=test and test.figures,
                    seconds=sum(
                        each.rundir.round_result(number, round).seconds
                        for number, round in enumerate(each.plan.rounds, start=1)
                    ),
                )
                for each, test in zip(networks, tests, strict=True)
            )
            kind = FINAL_FORMAT if self.plan.final else ENSEMBLE_FORMAT
            results = results.model_copy(update={"format": kind, "members": members})
        self._write_predictions(means, results)

    def _write_final_weights(self) -> nn.Module:
        """Write the final weights of the network, and return body and target's head with them."""
        rundir, plan = self.rundir, self.plan
        if rundir.results() is None:
            (rundir.path / "heads").mkdir(exist_ok=True)
            for number, round in enumerate(plan.rounds, start=1):
                file = partial(rundir.round_file, number, round)
                copy(file("head.safetensors"), rundir.head_path(round.head))
                for other in round.others:
                    copy(file(f"head-{other.dataset}.safetensors"), rundir.head_path(other.head))
            copy(file("body.safetensors"), rundir.body_path)
            for path in (rundir.path / "heads").glob("*.safetensors"):
                weights.update_metadata(path, plan=plan.digest())
            if plan.last_body_round:
                weights.update_metadata(rundir.body_path, plan=plan.digest())
        model = weights.load_model(*rundir.weights(plan, plan.target_head), plugins=self.plugins)
        return model.to(self.compute.device)

    def _write_predictions(self, predictions: Sequence[Predictions], results: Results) -> None:
        """Write ``predictions.csv`` and ``results.json``."""
        rundir = self.rundir
        write_atomic(rundir.path / "predictions.csv", to_csv(predictions).encode())
        rundir.report_path.unlink(missing_ok=True)  # it describes an unfinished run
        write_record(rundir.results_path, results)

    def _results(self, test: TestResult | None, baseline: Baseline | None = None) -> Results:
        """Results of the run, from its finished rounds and the test."""
        plan, rundir = self.plan, self.rundir
        rounds = tuple(rundir.round_result(n, r) for n, r in enumerate(plan.rounds, start=1))
        val = {name: loaded.val for name, loaded in self.loaded.items()}
        outputs = transfer.RoundOutputs(rundir, plan.rounds, val, self.leakage.units)
        return Results(
            format=1 if test else FINAL_FORMAT,
            hydrakit=version(),
            plan=plan.digest(),
            strategy=plan.strategy,
            profile=plan.profile,
            target=plan.target,
            seed=plan.seed,
            rounds=rounds,
            test=test,
            transfer=transfer.transfers(plan.rounds, rounds[: plan.strategy_rounds], outputs),
            baseline=baseline,
            start=self.start_tensors.match if self.start_tensors else None,
            other_bodies={
                head: number
                for head in dict.fromkeys(head for each in plan.rounds for head in each.heads)
                for number in [plan.body_round(head)]
                if number is not None
            },
        )

    def _complete(self) -> None:
        """Add example cases, report and digests to a run with results; a repeated call is harmless.

        The digests are the last file: a run that has them is whole (`RunDir.whole`). The runs of a
        search, which are many, have no example cases, and those without a test split have none.
        """
        tested = self.plan.inner is None and not self.plan.final
        if tested and not (self.rundir.path / EXAMPLE_CASES).is_file():
            self.rundir.report_path.unlink(missing_ok=True)  # it has no example cases
            save_example_cases(self.rundir, self.prepared[self.plan.target], plugins=self.plugins)
        self.callbacks.completed(self.rundir)
        if self.rundir.seal():
            self.rundir.log("done")
