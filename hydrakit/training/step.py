"""One training step: the update of a model on one batch, on a GPU replayed as a CUDA graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hydrakit.compute.devices import Compute
from hydrakit.compute.graphs import Replayed, foreign_layer
from hydrakit.hooks import Task
from hydrakit.rounds import Hyperparameters
from hydrakit.stats.tasks import loss_of


class EagerAdamW(torch.optim.AdamW):
    """AdamW without the wrappers that keep torch's compiler away from its methods.

    The first call of each of them imports the compiler, which takes longer than importing torch.
    Only code within a compiled function needs them, and hydrakit compiles no optimiser.
    """

    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)
    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))


def build_optimiser(modules: Sequence[nn.Module], settings: Hyperparameters) -> EagerAdamW:
    """Adam optimiser for all trainable parameters of some modules."""
    parameters = [each for module in modules for each in module.parameters()]
    return EagerAdamW(
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
