"""The network of a run: its body and heads, from round to round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from hydrakit import weights
from hydrakit.data.augment import allowed
from hydrakit.data.channels import ChannelFit
from hydrakit.data.load import LoadedDataset
from hydrakit.data.origin import splits_digest
from hydrakit.errors import PlanError
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.body import BodyModule
from hydrakit.models.build import build_body, build_head
from hydrakit.models.stem import extractor, stem_of, with_stem
from hydrakit.plan.model import Plan, StemShape
from hydrakit.plan.results import Bootstrap, Metrics
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import copy
from hydrakit.training.bootstrap import StartScores, best_start
from hydrakit.training.evaluation import Reference, compute_metrics, forward_in_batches
from hydrakit.training.loop import TrainingResult
from hydrakit.training.seeds import INITIALISATION, Seeds, seeded
from hydrakit.weights.format import DatasetCard, read_head
from hydrakit.weights.start import StartTensors


class Network:
    """Body and heads of a run after its finished rounds.

    Attributes:
        body: Body, on the device of the run.
        channels: Number of channels that the body takes.
        fits: What becomes of the images of datasets with another number, by dataset.
        heads: Heads by name; those with a stem are `hydrakit.models.stem.HeadWithStems`.
        last_head: Name of the head that was trained last on each dataset, by dataset.
        trained_on: Datasets that have trained the body, in order.
        reference: Head from the end of the first round, if that round trained on the target.
        start_tensors: Weights that the body begins with; None if they are random.
        start_heads: Files of the heads that begin with given weights, by name.
        cards: What users of the weights must know about each dataset, by name.
    """

    def __init__(
        self,
        plan: Plan,
        rundir: RunDir,
        *,
        adapters: Mapping[str, DatasetAdapter],
        loaded: Mapping[str, LoadedDataset],
        device: torch.device,
        plugins: Plugins,
        channels: int,
        fits: Mapping[str, ChannelFit],
        start_tensors: StartTensors | None = None,
        start_heads: Mapping[str, Path] = MappingProxyType({}),
        cards: Mapping[str, DatasetCard] | None = None,
    ) -> None:
        self.plan = plan
        self.rundir = rundir
        self.adapters = adapters
        self.loaded = loaded
        self.device = device
        self.plugins = plugins
        self.channels = channels
        self.fits = fits
        self.heads: dict[str, nn.Module] = {}
        self.reference: Reference | None = None
        self.start_tensors = start_tensors
        self.start_heads = start_heads
        self.cards = cards or {}
        self.trained_on: list[str] = [*start_tensors.trained_on] if start_tensors else []
        self.last_head: dict[str, str] = {}

    def start(
        self,
        seeds: Seeds,
        on_start: Callable[[int], None],
        *,
        known: StartScores | None = None,
        on_scores: Callable[[StartScores], None] = lambda _: None,
    ) -> Bootstrap:
        """Build body and first head, from the best of several random starts.

        If the body has start weights, the starts differ in their heads alone.

        Args:
            seeds: Seeds of the first round.
            on_start: As in `best_start`.
            known: As in `best_start`.
            on_scores: As in `best_start`.
        """
        first = self.plan.rounds[0]

        start_body = self._body_with_weights(seeds) if self.start_tensors else None

        def build(number: int) -> tuple[BodyModule, nn.Module]:
            with seeded(seeds.of(INITIALISATION, number), self.device):
                if start_body is not None:
                    return start_body, self._begun_head(first.head, first.dataset, start_body)
                return self.new_modules(first.dataset)

        (self.body, self.heads[first.head]), bootstrap = best_start(
            build,
            self.loaded[first.dataset].val,
            count=self.plan.bootstrap,
            rule=self.plan.bootstrap_rule,
            loss=first.hyperparameters.loss,
            on_start=on_start,
            known=known,
            on_scores=on_scores,
        )
        return bootstrap

    def _body_with_weights(self, seeds: Seeds) -> BodyModule:
        """Build a body with the start weights; tensors without one are random."""
        assert self.start_tensors is not None
        with seeded(seeds.of(INITIALISATION, 0), self.device):
            body = self._new_body()
        body.load_state_dict({**body.state_dict(), **self.start_tensors.tensors})
        return body.to(self.device)

    def _new_body(self) -> BodyModule:
        return build_body(
            self.plan.body,
            in_channels=self.channels,
            datasets=tuple(self.loaded),
            plugins=self.plugins,
        )

    def new_modules(self, dataset: str) -> tuple[BodyModule, nn.Module]:
        """Build a body, and a head for a dataset, with random weights, on the device."""
        body = self._new_body()
        head = self._new_head(dataset, body)
        return body.to(self.device), head

    def heads_of(self, round: Round, seeds: Seeds) -> list[nn.Module]:
        """Heads that a round trains, its own first.

        A head that does not exist yet is built, and so is a stem that a head does not have yet.
        """
        for number, (name, dataset) in enumerate(zip(round.heads, round.datasets, strict=True)):
            key = (INITIALISATION, number) if number else (INITIALISATION,)
            with seeded(seeds.of(*key), self.device):
                if name not in self.heads:
                    self.heads[name] = self._begun_head(name, dataset, self.body)
                elif self._lacks_stem(dataset, self.heads[name]):
                    self.heads[name] = self._with_stem(dataset, self.heads[name])
        return [self.heads[name] for name in round.heads]

    def _begun_head(self, name: str, dataset: str, body: BodyModule) -> nn.Module:
        """A head before its first round: with its given weights, or with random ones."""
        if name not in self.start_heads:
            return self._new_head(dataset, body)
        path = self.start_heads[name]
        needed = read_head(path).features
        if needed != body.features:
            raise PlanError(
                f"{path}: needs a body with {needed} features, and this one has {body.features}: "
                f"remove {name!r} from 'head_weights'"
            )
        head = weights.load_head(path, plugins=self.plugins).to(self.device)
        return self._with_stem(dataset, head) if self._lacks_stem(dataset, head) else head

    def _new_head(self, dataset: str, body: BodyModule) -> nn.Module:
        head = build_head(
            self.plan.head_of(dataset),
            features=body.features,
            outputs=len(self.adapters[dataset].classes),
            plugins=self.plugins,
        )
        if self._lacks_stem(dataset, head):
            head = self._with_stem(dataset, head)
        return head.to(self.device)

    def _lacks_stem(self, dataset: str, head: nn.Module) -> bool:
        fit = self.fits.get(dataset)
        return fit is not None and fit.rule == "stem" and stem_of(head, dataset) is None

    def _with_stem(self, dataset: str, head: nn.Module) -> nn.Module:
        fit = self.fits[dataset]
        return with_stem(head, dataset, StemShape(images=fit.images, body=fit.body)).to(self.device)

    def validation_outputs(self, round: Round) -> dict[str, Tensor]:
        """Outputs ``(cases, outputs)`` for the validation cases after a round, by dataset.

        The datasets are those of all rounds so far, each with the head trained last on it.
        """
        outputs = {}
        last_head = self.last_head | dict(zip(round.datasets, round.heads, strict=True))
        for name, head in last_head.items():
            module = extractor(self.body, self.heads[head], name)
            features = forward_in_batches(module, self.loaded[name].val.patches)
            outputs[name] = forward_in_batches(self.heads[head], features)
        return outputs

    def validation_metrics(self, validation_outputs: Mapping[str, Tensor]) -> dict[str, Metrics]:
        """Validation metrics by dataset, from `validation_outputs`."""
        vals = {name: self.loaded[name].val for name in validation_outputs}
        return {
            name: compute_metrics(
                validation_outputs[name],
                val.labels,
                task=val.task,
                loss="cross-entropy",
                scale=val.scale,
            )
            for name, val in vals.items()
        }

    def save(self, folder: Path, number: int, round: Round, result: TrainingResult) -> None:
        """Write the weight files of a round that was just trained.

        A round that freezes the body copies the body's file from the round before.
        """
        head = self.heads[round.head]
        if round.train in ("head", "none") and number > 1:
            previous = self.plan.rounds[number - 2]
            unchanged = self.rundir.round_file(number - 1, previous, "body.safetensors")
            copy(unchanged, folder / "body.safetensors")
        else:
            trained_on = [*self.trained_on]
            trained_on += round.datasets if round.train in ("all", "norm") else []
            weights.save_body(
                folder / "body.safetensors",
                self.body,
                component=self.plan.body,
                datasets=tuple(self.loaded),
                trained_on=trained_on,
                seed=self.plan.effective_split_seed,
                cases=self._body_cases(trained_on),
                **self._lineage(self.plan.rounds[:number]),
                cards={name: self.cards[name] for name in trained_on if name in self.cards},
            )
        rounds = self.plan.rounds[:number]
        self._save_head(folder / "head.safetensors", round.dataset, round.head, rounds)
        for other in round.others:
            path = folder / f"head-{other.dataset}.safetensors"
            self._save_head(path, other.dataset, other.head, rounds)
        if round.hyperparameters.carry_head == "last":
            head.load_state_dict(result.last_head)
            self._save_head(folder / "last-head.safetensors", round.dataset, round.head, rounds)

    def _lineage(self, rounds: Sequence[Round]) -> dict[str, Any]:
        """Where a body comes from, as arguments of `weights.save_body`.

        Its plan is written at the end of the run: plans with the same first rounds share them.
        """
        before = self.start_tensors.lineage if self.start_tensors else ()
        trained = [name for each in rounds if each.trains_body for name in each.datasets]
        if not trained and before and before[-1].body == weights.body_digest(self.body):
            return {"lineage": before[:-1], "plan": before[-1].plan, "data": before[-1].data}
        return {"lineage": before, "data": {name: self.loaded[name].content for name in trained}}

    def _body_cases(self, trained_on: Sequence[str]) -> weights.TrainingCases | None:
        """Images that trained the body; None if the start weights' file does not say all."""
        cases = self._training_cases([name for name in trained_on if name in self.loaded])
        start = self.start_tensors
        if start is None or not start.trained_on:
            return cases
        return None if start.cases is None else cases.including(start.cases)

    def _training_cases(self, datasets: Sequence[str]) -> weights.TrainingCases:
        """Images that rounds on some datasets use."""
        names = list(dict.fromkeys(datasets))
        return weights.TrainingCases.of(
            (content for name in names for content in self.loaded[name].used),
            {name: self.adapters[name].cohort for name in names},
        )

    def _save_head(self, path: Path, name: str, head: str, rounds: Sequence[Round]) -> None:
        adapter, fit = self.adapters[name], self.fits.get(name)
        pairs = [pair for each in rounds for pair in zip(each.heads, each.datasets, strict=True)]
        dataset = self.plan.dataset(name)
        datasets = [each for used, each in pairs if used == head]
        used_cases = self._training_cases(datasets)
        cases: weights.TrainingCases | None = used_cases
        if head in self.start_heads:
            begun = read_head(self.start_heads[head])
            cases = None if begun.cases is None else begun.cases.including(used_cases)
            datasets += begun.stems
        weights.save_head(
            path,
            self.heads[head],
            body=self.body,
            dataset=name,
            classes=adapter.classes,
            factory=self.plan.head_of(name),
            preprocessing=weights.Preprocessing(
                patch=self.plan.patch,
                channels=self.loaded[name].channels,
                field_of_view=adapter.field_of_view,
                normalisation=str(self.loaded[name].grey),
                conversion=None if fit is None or fit.rule == "stem" else fit.rule,
                grey_values=self.loaded[name].grey,
                file_rules=adapter.file_rules,
            ),
            datasets=list(dict.fromkeys(datasets)),
            content=self.loaded[name].content,
            cases=cases,
            options=dataset.options,
            split=dataset.split,
            seed=self.plan.effective_split_seed,
            copies=self.plan.copies,
            conflicts=self.plan.conflicts,
            splits=splits_digest(self.loaded[name].splits),
            task=adapter.task,
            scale=self.loaded[name].scale,
            views=self._averaged_views(name, rounds),
            card=self.cards.get(name),
        )

    def _averaged_views(self, name: str, rounds: Sequence[Round]) -> weights.AveragedViews | None:
        """Views of a dataset's cases in evaluations: drawn as those of its last augmented round.

        A head that has only seen unaugmented patches predicts from these alone.
        """
        tables = [
            each.hyperparameters.transforms
            for each in rounds
            if name in each.datasets and each.hyperparameters.augmentation != "none"
        ]
        if self.plan.test_views == 1 or not tables:
            return None
        table = allowed(tables[-1], self.loaded[name].flips)
        return weights.AveragedViews(count=self.plan.test_views, table=table)

    def load_round(self, number: int, round: Round) -> None:
        """Load body and heads from the files of a finished round.

        A round that was just trained is loaded too, so that a resumed run computes the same.
        """
        file = partial(self.rundir.round_file, number, round)
        carries_last = round.hyperparameters.carry_head == "last"
        head_path = file("last-head.safetensors" if carries_last else "head.safetensors")
        device, plugins = self.device, self.plugins
        body = weights.load_body(file("body.safetensors"), plugins=plugins)
        self.body = body.to(device)
        self.heads[round.head] = weights.load_head(head_path, plugins=plugins).to(device)
        for other in round.others:
            path = file(f"head-{other.dataset}.safetensors")
            self.heads[other.head] = weights.load_head(path, plugins=plugins).to(device)
        self.last_head |= dict(zip(round.datasets, round.heads, strict=True))
        if round.train in ("all", "norm"):
            self.trained_on += round.datasets
        if number == 1 and round.dataset == self.plan.target:
            head = weights.load_head(head_path, plugins=plugins).to(device)
            self.reference = Reference(head, self.loaded[self.plan.target].val)
