"""One epoch of a round: updates on one dataset, or on several datasets together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hydrakit.compute.devices import Compute
from hydrakit.compute.graphs import Replayed, foreign_layer
from hydrakit.hooks import Task
from hydrakit.models.body import BodyModule
from hydrakit.models.stem import stem_of
from hydrakit.plan.results import Metrics
from hydrakit.rounds import Hyperparameters, Round
from hydrakit.stats.tasks import from_tensor, loss_of
from hydrakit.training.batches import TrainingExamples
from hydrakit.training.evaluation import compute_metrics
from hydrakit.training.schedule import set_rate
from hydrakit.training.seeds import EPOCH, Seeds


def build_optimiser(modules: Sequence[nn.Module], settings: Hyperparameters) -> torch.optim.AdamW:
    """Adam optimiser for all trainable parameters of some modules."""
    parameters = [each for module in modules for each in module.parameters()]
    return torch.optim.AdamW(
        [parameter for parameter in parameters if parameter.requires_grad],
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,  # one call for all parameters; without it a head's step takes twice as long
    )


class Step:
    """One training step: forward pass, loss, backward pass and update.

    On a GPU, the whole step is replayed as a CUDA graph (`hydrakit.compute.graphs`), but for the
    smaller batch at the end of an epoch.

    Args:
        model: Model to train, on one dataset.
        compute: How to compute.
        settings: Training values of the round.
        on_note: Called with a sentence if the step cannot be replayed.
    """

    def __init__(
        self,
        model: nn.Module,
        compute: Compute,
        settings: Hyperparameters,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model = model
        self.settings = settings
        self.optimiser = build_optimiser([model], settings)
        self._compute = compute
        self._on_note = on_note
        self._replayed: Replayed | None = None
        foreign = foreign_layer(model) if compute.graphs else None
        self._replays = compute.graphs and foreign is None
        if foreign is not None and not compute.compiled:
            on_note(
                f"the layer {foreign} is neither PyTorch's nor hydrakit's: training steps do not "
                "become a CUDA graph, which would be faster; --compile may help"
            )
        self._forward = compute.compiled_if_wanted(model, replayed=self._replays)
        self._rate = torch.zeros((), device=compute.device)
        self._rate_value = 0.0

    def __call__(self, inputs: Tensor, targets: Tensor, task: Task) -> Tensor:
        """Update the model on a batch, and return its outputs from before the update.

        Args:
            inputs: Images or features of the batch.
            targets: Targets of the batch.
            task: Task of the dataset, the same in every call.
        """
        if not self._replays:
            output = self._update(inputs, targets, task)
            self.optimiser.step()
            return output
        if self._replayed is None:
            self._replayed = Replayed(
                lambda inputs, targets: self._replayable(inputs, targets, task),
                self._compute.device,
                on_note=self._on_note,
            )
        rate = self.optimiser.param_groups[0]["lr"]
        if rate != self._rate_value:
            self._rate.fill_(rate)
            self._rate_value = rate
        return self._replayed(inputs, targets)

    def _replayable(self, inputs: Tensor, targets: Tensor, task: Task) -> Tensor:
        """Update the model with the learning rate on the device, where a replay can read it."""
        output = self._update(inputs, targets, task)
        with _rate_on_device(self.optimiser, self._rate):
            self.optimiser.step()
        return output

    def _update(self, inputs: Tensor, targets: Tensor, task: Task) -> Tensor:
        """Compute outputs and gradients."""
        settings = self.settings
        with self._compute.training():
            output: Tensor = self._model_for(inputs)(inputs)
        output = output.float()
        self.optimiser.zero_grad(set_to_none=True)
        smoothing = settings.label_smoothing
        loss_of(output, targets, task=task, loss=settings.loss, smoothing=smoothing).backward()
        return output.detach()

    def _model_for(self, inputs: Tensor) -> nn.Module:
        """The compiled model; on a GPU only for whole batches: each size is compiled anew."""
        whole = len(inputs) == self.settings.batch_size
        return self._forward if whole or self._compute.device.type == "cpu" else self.model


@contextmanager
def _rate_on_device(optimiser: torch.optim.AdamW, rate: Tensor) -> Iterator[None]:
    """Let the fused optimiser read its learning rate from a tensor within a ``with`` block.

    Outside of it the rate stays a number, which schedules and checkpoints read without waiting for
    the GPU. ``capturable`` changes no arithmetic of the fused optimiser; PyTorch asks for it in a
    recording, and warns of it elsewhere.
    """
    (group,) = optimiser.param_groups
    before = group["lr"], group["capturable"]
    recording = rate.is_cuda and torch.cuda.is_current_stream_capturing()
    group["lr"], group["capturable"] = rate, recording
    try:
        yield
    finally:
        group["lr"], group["capturable"] = before


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
