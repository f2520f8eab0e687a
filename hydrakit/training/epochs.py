"""One epoch of a round: updates on one dataset, or on several datasets together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hydrakit.compute.devices import Compute
from hydrakit.models.body import BodyModule
from hydrakit.models.stem import stem_of
from hydrakit.plan.results import Metrics
from hydrakit.rounds import Round
from hydrakit.stats.tasks import from_tensor, loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import compute_metrics
from hydrakit.training.schedule import set_rate
from hydrakit.training.seeds import EPOCH, Seeds
from hydrakit.training.step import Step, build_optimiser


def train_one_epoch(step: Step, examples: TrainingExamples, epoch: int) -> Metrics:
    """Update a model once on every batch, and return the metrics of the training outputs."""
    step.model.train()
    data, outputs, targets = examples.data, [], []
    steps = math.ceil(len(examples) / step.settings.batch_size)
    for number, (batch_inputs, batch_targets) in enumerate(examples.batches(epoch)):
        set_rate(step.optimiser, step.settings, epoch=epoch, step=number, steps=steps)
        outputs.append(step(batch_inputs, batch_targets, data.task))
        targets.append(batch_targets)
    return _training_metrics(outputs, targets, examples)


def _training_metrics(
    outputs: Sequence[Tensor], targets: Sequence[Tensor], examples: TrainingExamples
) -> Metrics:
    """Metrics of all batches of an epoch."""
    data = examples.data
    labels = from_tensor(torch.cat(list(targets)), data.scale)
    return compute_metrics(
        torch.cat(list(outputs)),
        labels,
        task=data.task,
        loss=examples.settings.loss,
        scale=data.scale,
    )


class SingleTaskEpoch:
    """Trains the epochs of a round on one dataset.

    Attributes:
        heads: The head of the round, in a list.
        optimiser: Optimiser of all trained parameters.
        drawn: Always None: see `MultiTaskEpoch.drawn`.
    """

    drawn: str | None = None

    def __init__(self, step: Step, examples: TrainingExamples, head: nn.Module) -> None:
        self.step = step
        self.examples = examples
        self.heads = [head]
        self.optimiser = step.optimiser

    def epoch(self, epoch: int) -> Metrics:
        """Train one epoch, and return the metrics of the training outputs."""
        return train_one_epoch(self.step, self.examples, epoch)


class MultiTaskEpoch:
    """Trains the epochs of a round on several datasets, each with its own head.

    Attributes:
        heads: Heads of the datasets, the round's own head first.
        optimiser: Optimiser of all trained parameters.
        drawn: Dataset that was drawn for the current epoch, if every epoch draws one; else None.
    """

    def __init__(
        self,
        body: BodyModule,
        parts: Sequence[tuple[nn.Module, TrainingExamples]],
        round: Round,
        *,
        seeds: Seeds,
        compute: Compute,
    ) -> None:
        self.body = body
        self.parts = parts
        self.mix = round.mix
        self.settings = round.hyperparameters
        self.seeds = seeds
        self.compute = compute
        self.heads = [head for head, _ in parts]
        self.optimiser = build_optimiser([body, *self.heads], self.settings)
        self.drawn: str | None = None

    def epoch(self, epoch: int) -> Metrics:
        """Train one epoch, and return the metrics of the first dataset, or of the one drawn."""
        parts = self.parts
        if self.mix == "epoch":
            generator = self.seeds.generator(EPOCH, epoch, 2)
            parts = [parts[int(torch.randint(len(parts), (), generator=generator))]]
            self.drawn = parts[0][1].data.name
        for module in (self.body, *self.heads):
            module.train()
        # Every dataset is cut into the same number of batches, so that each step trains on all.
        steps = math.ceil(sum(len(each) for _, each in parts) / self.settings.batch_size)
        outputs, targets = [], []
        of_parts = zip(*(each.batches(epoch, steps) for _, each in parts), strict=True)
        for number, batches in enumerate(of_parts):
            set_rate(self.optimiser, self.settings, epoch=epoch, step=number, steps=steps)
            outputs.append(self._update(parts, batches))
            targets.append(batches[0][1])
        return _training_metrics(outputs, targets, parts[0][1])

    def _update(
        self,
        parts: Sequence[tuple[nn.Module, TrainingExamples]],
        batches: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Update all modules on one batch of each dataset; return the first dataset's outputs."""
        names = [examples.data.name for _, examples in parts]
        heads = [head for head, _ in parts]
        with self.compute.training():
            features = features_of(self.body, heads, names, [images for images, _ in batches])
            outputs = [head(each) for (head, _), each in zip(parts, features, strict=True)]
        total = torch.zeros((), device=outputs[0].device)
        for (_, examples), output, (_, targets) in zip(parts, outputs, batches, strict=True):
            if len(targets):
                mean = loss_of(
                    output.float(),
                    targets,
                    task=examples.data.task,
                    loss=self.settings.loss,
                    smoothing=self.settings.label_smoothing,
                )
                total = total + mean * len(targets)
        self.optimiser.zero_grad(set_to_none=True)
        (total / sum(len(targets) for _, targets in batches)).backward()
        self.optimiser.step()
        first: Tensor = outputs[0].detach().float()
        return first


def features_of(
    body: BodyModule, heads: Sequence[nn.Module], names: Sequence[str], images: Sequence[Tensor]
) -> Sequence[Tensor]:
    """Features of the images of one or several datasets, each with its head and its name.

    Images of a dataset for which its head has a stem pass the stem first. Batch norm uses the
    statistics of all images together, or of each dataset separately if the body keeps separate
    statistics.
    """
    stems = [stem_of(head, name) for head, name in zip(heads, names, strict=True)]
    images = [
        each if stem is None else stem(each) for stem, each in zip(stems, images, strict=True)
    ]
    if not body.by_dataset:
        joint: Tensor = body(torch.cat(list(images)))
        return list(joint.split([len(each) for each in images]))
    features = []
    for name, each in zip(names, images, strict=True):
        body.use(name)
        features.append(body(each))
    return features


EpochRunner = SingleTaskEpoch | MultiTaskEpoch
