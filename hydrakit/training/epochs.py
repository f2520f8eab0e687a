"""What a round does in an epoch: updates on one dataset, or on several together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hydrakit.compute.devices import Compute
from hydrakit.hooks import Task
from hydrakit.models.body import BodyModule
from hydrakit.plan.results import Metrics
from hydrakit.rounds import Hyperparameters, Round
from hydrakit.stats.tasks import from_tensor, loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import compute_metrics
from hydrakit.training.seeds import EPOCH, Seeds


def build_optimiser(modules: Sequence[nn.Module], settings: Hyperparameters) -> torch.optim.AdamW:
    """Adam for all of some modules that is to be trained."""
    parameters = [each for module in modules for each in module.parameters()]
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,  # one call for all parameters: half of a head's step was spent here
    )


class Step:
    """One update of a model on a batch."""

    def __init__(self, model: nn.Module, compute: Compute, settings: Hyperparameters) -> None:
        self.model = model
        self.settings = settings
        self.optimiser = build_optimiser([model], settings)
        self._compute = compute
        self._forward = compute.prepared(model)

    def __call__(self, inputs: Tensor, targets: Tensor, task: Task) -> Tensor:
        """Update on a batch, and give the outputs on the way.

        Args:
            inputs: Images or features of the batch.
            targets: Targets of the batch.
            task: What a target is.
        """
        with self._compute.training():
            output: Tensor = self._forward(inputs)
        output = output.float()
        self.optimiser.zero_grad(set_to_none=True)
        loss_of(output, targets, task=task, loss=self.settings.loss).backward()
        self.optimiser.step()
        return output.detach()


def one_epoch(step: Step, examples: TrainingExamples, epoch: int) -> Metrics:
    """Update a model once on every batch; its figures are those of the outputs on the way."""
    step.model.train()
    data, logits, labels = examples.data, [], []
    for inputs, targets in examples.batches(epoch):
        logits.append(step(inputs, targets, data.task))
        labels.append(targets)
    shown = from_tensor(torch.cat(labels), data.scale)
    found = torch.cat(logits)
    return compute_metrics(found, shown, task=data.task, loss=step.settings.loss, scale=data.scale)


class SingleTaskEpoch:
    """A round on one dataset.

    Attributes:
        heads: What is trained besides the body, the round's own head first.
        optimiser: Of all that is trained.
        drawn: The dataset of the epoch last begun, where every epoch draws one; here none does.
    """

    drawn: str | None = None

    def __init__(self, step: Step, examples: TrainingExamples, head: nn.Module) -> None:
        self.step = step
        self.examples = examples
        self.heads = [head]
        self.optimiser = step.optimiser

    def epoch(self, epoch: int) -> Metrics:
        """Update the model once on every batch."""
        return one_epoch(self.step, self.examples, epoch)


class MultiTaskEpoch:
    """A round on several datasets, each with its own head; attributes as in `SingleTaskEpoch`."""

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
        """Update on every batch; the figures are of the first dataset, or of the one drawn."""
        parts = self.parts
        if self.mix == "epoch":
            generator = self.seeds.generator(EPOCH, epoch, 2)
            parts = [parts[int(torch.randint(len(parts), (), generator=generator))]]
            self.drawn = parts[0][1].data.name
        for module in (self.body, *self.heads):
            module.train()
        # As many steps for every dataset, so that each batch holds its share of all of them.
        steps = math.ceil(sum(len(each) for _, each in parts) / self.settings.batch_size)
        logits, labels = [], []
        for batches in zip(*(each.batches(epoch, steps) for _, each in parts), strict=True):
            logits.append(self._update(parts, batches))
            labels.append(batches[0][1])
        data = parts[0][1].data
        shown = from_tensor(torch.cat(labels), data.scale)
        loss = self.settings.loss
        return compute_metrics(
            torch.cat(logits), shown, task=data.task, loss=loss, scale=data.scale
        )

    def _update(
        self,
        parts: Sequence[tuple[nn.Module, TrainingExamples]],
        batches: Sequence[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Update on a batch of each dataset at once, and give the outputs of the first."""
        names = [examples.data.name for _, examples in parts]
        with self.compute.training():
            features = self._features(names, [images for images, _ in batches])
            outputs = [head(each) for (head, _), each in zip(parts, features, strict=True)]
        total = torch.zeros((), device=outputs[0].device)
        for (_, examples), output, (_, targets) in zip(parts, outputs, batches, strict=True):
            if len(targets):
                task, loss = examples.data.task, self.settings.loss
                mean = loss_of(output.float(), targets, task=task, loss=loss)
                total = total + mean * len(targets)
        self.optimiser.zero_grad(set_to_none=True)
        (total / sum(len(targets) for _, targets in batches)).backward()
        self.optimiser.step()
        shown: Tensor = outputs[0].detach().float()
        return shown

    def _features(self, names: Sequence[str], images: Sequence[Tensor]) -> Sequence[Tensor]:
        """Of each dataset's images: batch norm sees all together, or each apart."""
        if not self.body.by_dataset:
            every: Tensor = self.body(torch.cat(list(images)))
            return list(every.split([len(each) for each in images]))
        found = []
        for name, each in zip(names, images, strict=True):
            self.body.use(name)
            found.append(self.body(each))
        return found


EpochRunner = SingleTaskEpoch | MultiTaskEpoch
