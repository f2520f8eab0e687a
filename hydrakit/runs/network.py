"""The network of a run as its rounds leave it: one body, and the heads by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from hydrakit import weights
from hydrakit.data.load import LoadedDataset
from hydrakit.data.quality.leakage import splits_digest
from hydrakit.hooks import DatasetAdapter
from hydrakit.models.body import BodyModule
from hydrakit.models.build import build_body, build_head
from hydrakit.plan.model import Plan
from hydrakit.plan.results import Bootstrap, Metrics
from hydrakit.plugins.registry import Plugins
from hydrakit.rounds import Round
from hydrakit.runs.rundir import RunDir
from hydrakit.storage.files import copy
from hydrakit.training.bootstrap import StartScores, best_start
from hydrakit.training.evaluation import Reference, compute_metrics, forward_in_batches
from hydrakit.training.loop import TrainingResult
from hydrakit.training.seeds import INITIALISATION, Seeds, seeded

NORMALISATION = "z-score per patient"


class Network:
    """The body and the heads of a run, as its rounds so far have left them.

    Attributes:
        body: On the run's device.
        learnt: By dataset, the head that learnt it last.
        reference: The head that the first round ended with, if that was the target's.
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
    ) -> None:
        self.plan = plan
        self.rundir = rundir
        self.adapters = adapters
        self.loaded = loaded
        self.device = device
        self.plugins = plugins
        self.channels = next(iter(loaded.values())).channels
        self.heads: dict[str, nn.Module] = {}
        self.reference: Reference | None = None
        self.trained_on: list[str] = []
        self.learnt: dict[str, str] = {}

    def start(
        self,
        seeds: Seeds,
        on_start: Callable[[int], None],
        *,
        looked: StartScores | None = None,
        on_look: Callable[[StartScores], None] = lambda _: None,
    ) -> Bootstrap:
        """Begin with the random start that does best on the first round's validation split.

        Args:
            seeds: Of the first round.
            on_start: As for `best_start`, like the two below.
            looked: What was seen before a stop.
            on_look: Called with what was seen so far.
        """
        first = self.plan.rounds[0]

        def build(number: int) -> tuple[BodyModule, nn.Module]:
            with seeded(seeds.of(INITIALISATION, number), self.device):
                body = build_body(
                    self.plan.body,
                    in_channels=self.channels,
                    datasets=tuple(self.loaded),
                    plugins=self.plugins,
                )
                head = self._new_head(first.dataset, body)
                return body.to(self.device), head

        (self.body, self.heads[first.head]), bootstrap = best_start(
            build,
            self.loaded[first.dataset].val,
            count=self.plan.bootstrap,
            rule=self.plan.bootstrap_rule,
            loss=first.hyperparameters.loss,
            on_start=on_start,
            looked=looked,
            on_look=on_look,
        )
        return bootstrap

    def heads_of(self, round: Round, seeds: Seeds) -> list[nn.Module]:
        """The heads of a round, its own first: as an earlier round left them, else new ones."""
        for number, (name, dataset) in enumerate(zip(round.heads, round.datasets, strict=True)):
            if name not in self.heads:
                key = (INITIALISATION, number) if number else (INITIALISATION,)
                with seeded(seeds.of(*key), self.device):
                    self.heads[name] = self._new_head(dataset, self.body)
        return [self.heads[name] for name in round.heads]

    def _new_head(self, dataset: str, body: BodyModule) -> nn.Module:
        head = build_head(
            self.plan.head_of(dataset),
            features=body.features,
            outputs=len(self.adapters[dataset].classes),
            plugins=self.plugins,
        )
        return head.to(self.device)

    def validation_outputs(self, round: Round) -> dict[str, Tensor]:
        """What heads give for validation cases after a round, ``(cases, outputs)`` each.

        Of every dataset seen so far, through the head that learnt it last.
        """
        found = {}
        learnt = self.learnt | dict(zip(round.datasets, round.heads, strict=True))
        for name, head in learnt.items():
            self.body.use(name)
            features = forward_in_batches(self.body, self.loaded[name].val.patches)
            found[name] = forward_in_batches(self.heads[head], features)
        return found

    def validation_metrics(self, validation_outputs: Mapping[str, Tensor]) -> dict[str, Metrics]:
        """Validation metrics by dataset."""
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

    def save(self, folder: Path, number: int, round: Round, trained: TrainingResult) -> None:
        """Write a round's weights: of the best epoch, and of the head that goes on."""
        head = self.heads[round.head]
        if round.train in ("head", "none") and number > 1:
            last = self.plan.rounds[number - 2]
            before = self.rundir.round_file(number - 1, last, "body.safetensors")
            copy(before, folder / "body.safetensors")
        else:
            seen = [*self.trained_on, *(round.datasets if round.train in ("all", "norm") else [])]
            weights.save_body(
                folder / "body.safetensors",
                self.body,
                component=self.plan.body,
                datasets=tuple(self.loaded),
                trained_on=seen,
                seed=self.plan.effective_split_seed,
            )
        self._save_head(folder / "head.safetensors", round.dataset, head)
        for other in round.others:
            path = folder / f"head-{other.dataset}.safetensors"
            self._save_head(path, other.dataset, self.heads[other.head])
        if round.hyperparameters.carry_head == "last":
            head.load_state_dict(trained.last_head)
            self._save_head(folder / "last-head.safetensors", round.dataset, head)

    def _save_head(self, path: Path, name: str, head: nn.Module) -> None:
        adapter = self.adapters[name]
        dataset = self.plan.dataset(name)
        weights.save_head(
            path,
            head,
            body=self.body,
            dataset=name,
            classes=adapter.classes,
            factory=self.plan.head_of(name),
            preprocessing=weights.Preprocessing(
                patch=self.plan.patch,
                channels=self.channels,
                field_of_view=adapter.field_of_view,
                normalisation=NORMALISATION,
            ),
            options=dataset.options,
            split=dataset.split,
            seed=self.plan.effective_split_seed,
            copies=self.plan.copies,
            splits=splits_digest(self.loaded[name].splits),
            task=adapter.task,
            scale=self.loaded[name].scale,
        )

    def load_round(self, number: int, round: Round) -> None:
        """Go on from a finished round's files: the same whether it ran just now or long ago."""
        file = partial(self.rundir.round_file, number, round)
        last = round.hyperparameters.carry_head == "last"
        path = file("last-head.safetensors" if last else "head.safetensors")
        device, plugins = self.device, self.plugins
        body = weights.load_body(file("body.safetensors"), plugins=plugins)
        self.body = body.to(device)
        self.heads[round.head] = weights.load_head(path, plugins=plugins).to(device)
        for other in round.others:
            path = file(f"head-{other.dataset}.safetensors")
            self.heads[other.head] = weights.load_head(path, plugins=plugins).to(device)
        self.learnt |= dict(zip(round.datasets, round.heads, strict=True))
        if round.train in ("all", "norm"):
            self.trained_on += round.datasets
        if number == 1 and round.dataset == self.plan.target:
            head = weights.load_head(path, plugins=plugins).to(device)
            self.reference = Reference(head, self.loaded[self.plan.target].val)
