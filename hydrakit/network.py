"""The network of a run as its rounds leave it: one body, and the heads by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from hydrakit import weights
from hydrakit.bootstrap import best_start
from hydrakit.data.gate import splits_digest
from hydrakit.data.load import Loaded
from hydrakit.files import copy
from hydrakit.hooks import DatasetAdapter
from hydrakit.models import Body
from hydrakit.plan import Plan, Round
from hydrakit.plugins import Plugins
from hydrakit.results import Bootstrap
from hydrakit.rundir import RunDir
from hydrakit.seeds import INITIALISATION, Seeds, seeded
from hydrakit.train import Trained
from hydrakit.validation import Reference

NORMALISATION = "z-score per patient"


class Network:
    """The body and the heads of a run, as its rounds so far have left them.

    Attributes:
        body: On the run's device.
        reference: The head that the first round ended with, if that was the target's.
    """

    def __init__(
        self,
        plan: Plan,
        rundir: RunDir,
        *,
        adapters: Mapping[str, DatasetAdapter],
        loaded: Mapping[str, Loaded],
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

    def start(self, seeds: Seeds, on_start: Callable[[int], None]) -> Bootstrap:
        """Begin with the random start that does best on the first round's validation split."""
        first = self.plan.rounds[0]

        def build(number: int) -> tuple[Body, nn.Module]:
            with seeded(seeds.of(INITIALISATION, number), self.device):
                body = Body(self.plan.body, in_channels=self.channels, dropout=0.0)
                return body.to(self.device), self._new_head(first)

        (self.body, self.heads[first.head]), bootstrap = best_start(
            build,
            self.loaded[first.dataset].val,
            count=self.plan.bootstrap,
            rule=self.plan.bootstrap_rule,
            loss=first.hyperparameters.loss,
            on_start=on_start,
        )
        return bootstrap

    def head(self, round: Round, seeds: Seeds) -> nn.Module:
        """The head of a round: as an earlier round left it, else a new one."""
        if round.head not in self.heads:
            with seeded(seeds.of(INITIALISATION), self.device):
                self.heads[round.head] = self._new_head(round)
        return self.heads[round.head]

    def _new_head(self, round: Round) -> nn.Module:
        factory = self.plugins.head(self.plan.head)
        classes = len(self.adapters[round.dataset].classes)
        head = factory.build(self.plan.body.features, classes, round.hyperparameters.dropout)
        return head.to(self.device)

    def save(
        self, folder: Path, number: int, round: Round, head: nn.Module, trained: Trained
    ) -> None:
        """Write a round's weights: of the best epoch, and of the head that goes on."""
        if round.train == "head" and number > 1:
            before = self.rundir.round_path(number - 1, self.plan.rounds[number - 2])
            copy(before / "body.safetensors", folder / "body.safetensors")
        else:
            seen = [*self.trained_on, *([round.dataset] if round.train == "all" else [])]
            weights.save_body(
                folder / "body.safetensors", self.body, trained_on=seen, seed=self.plan.dealt_by
            )
        self._save_head(folder / "head.safetensors", round, head)
        if round.hyperparameters.carry_head == "last":
            head.load_state_dict(trained.last_head)
            self._save_head(folder / "last-head.safetensors", round, head)

    def _save_head(self, path: Path, round: Round, head: nn.Module) -> None:
        adapter = self.adapters[round.dataset]
        dataset = self.plan.dataset(round.dataset)
        weights.save_head(
            path,
            head,
            body=self.body,
            dataset=round.dataset,
            classes=adapter.classes,
            factory=self.plan.head,
            preprocessing=weights.Preprocessing(
                patch=self.plan.body.patch,
                channels=self.channels,
                field_of_view=adapter.field_of_view,
                normalisation=NORMALISATION,
            ),
            options=dataset.options,
            split=dataset.split,
            seed=self.plan.dealt_by,
            copies=self.plan.copies,
            splits=splits_digest(self.loaded[round.dataset].splits),
            task=adapter.task,
            scale=self.loaded[round.dataset].scale,
        )

    def take(self, number: int, round: Round) -> None:
        """Go on from a finished round's files: the same whether it ran just now or long ago."""
        folder = self.rundir.round_path(number, round)
        last = folder / "last-head.safetensors"
        path = last if round.hyperparameters.carry_head == "last" else folder / "head.safetensors"
        device, plugins = self.device, self.plugins
        self.body = weights.load_body(folder / "body.safetensors").to(device)
        self.heads[round.head] = weights.load_head(path, plugins=plugins).to(device)
        if round.train == "all":
            self.trained_on.append(round.dataset)
        if number == 1 and round.dataset == self.plan.target:
            head = weights.load_head(path, plugins=plugins).to(device)
            self.reference = Reference(head, self.loaded[self.plan.target].val)
