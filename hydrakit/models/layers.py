"""Dropout that costs little on a CPU: masks from 16-bit pieces of random words.

PyTorch draws one Bernoulli number after another: 37 ms for the largest maps of a batch of 32 (3.8
million numbers, 2 cores), as long as the forward convolutions. Random words cut into four pieces
take 6 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hydrakit.compute.distributed import Part, summed
from hydrakit.plan.model import BodySpec

PIECES = 2**16  # probabilities are kept so finely on a CPU


class Dropout(nn.Dropout):
    """Dropout as `torch.nn.Dropout`; its probability is rounded to 1/65536 on a CPU.

    Attributes:
        part: Where processes share a batch, which of its rows come here. The mask is then drawn
            for the whole batch and cut: the numbers of a single process, on a CPU and on GPUs of
            one model.
    """

    part: Part | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Make each number 0 with the layer's probability, and scale the others up."""
        if not self.training or self.p == 0:
            return input
        return input * self.mask(input) * self.scale

    @property
    def scale(self) -> float:
        """What the kept numbers are multiplied by, so that the mean stays."""
        return 1 / (1 - self.p)

    def mask(self, like: Tensor) -> Tensor:
        """Which numbers of a tensor are kept: true or false, in its shape, on its device."""
        if self.part is not None:
            return self._draw(_whole(like, self.part))[self.part.rows]
        return self._draw(like)

    def _draw(self, like: Tensor) -> Tensor:
        if like.device.type == "cpu" and not torch.compiler.is_compiling():
            return keep_mask(random_pieces(like), self.p)
        return torch.rand(like.shape, device=like.device) >= self.p


class BatchNorm(nn.BatchNorm2d):
    """Batch norm as `torch.nn.BatchNorm2d`, also where processes share a batch.

    PyTorch's own for that, `torch.nn.SyncBatchNorm`, knows GPUs alone.

    Attributes:
        part: Where processes share a batch, which of its rows come here. Statistics are still
            those of the whole batch.
    """

    part: Part | None = None

    def forward(self, input: Tensor) -> Tensor:
        """Give maps ``(rows, channels, height, width)`` mean 0 and variance 1, then move them."""
        if self.part is None or not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, var = joint_statistics(input.detach(), self.part)
        count = self.part.total * input.shape[2] * input.shape[3]
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / max(count - 1, 1)), self.momentum)
        statistics = _Statistics(mean, var, count, self.eps)
        normed: Tensor = _Normed.apply(input, self.weight, self.bias, statistics)  # type: ignore[no-untyped-call]
        return normed


def joint_statistics(maps: Tensor, part: Part) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(channels,)`` over the rows of all processes, alike in every one.

    From each process's own mean and variance: differences of sums of squares would lose digits.
    """
    var, mean = torch.var_mean(maps.float(), dim=(0, 2, 3), correction=0)
    told = mean.new_zeros(part.size, 2, len(mean))
    told[part.rank, 0], told[part.rank, 1] = mean, var
    means, variances = summed(told).unbind(dim=1)
    share = (mean.new_tensor(part.counts) / part.total)[:, None]
    mean = (share * means).sum(dim=0)
    return mean, (share * (variances + (means - mean) ** 2)).sum(dim=0)


class _Statistics(NamedTuple):
    """Of a whole batch: mean and variance ``(channels,)`` of so many numbers in each."""

    mean: Tensor
    var: Tensor
    numbers: int
    eps: float


class _Normed(torch.autograd.Function):
    """Batch norm by given statistics of a batch, which depend on rows elsewhere too."""

    @staticmethod
    def forward(
        ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, statistics: _Statistics
    ) -> Tensor:
        mean, var, ctx.numbers, ctx.eps = statistics
        ctx.save_for_backward(maps, weight, mean, var)
        return functional.batch_norm(maps, mean, var, weight, bias, eps=ctx.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, var = ctx.saved_tensors
        inverse = torch.rsqrt(var + ctx.eps)
        # First as if the statistics were constants, then less what comes through them.
        of_maps, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, maps, weight, mean, var, mean, inverse, False, ctx.eps, [True, True, True]
        )
        through_var, through_mean = summed(torch.stack([of_weight, of_bias])) / ctx.numbers
        scale = weight * inverse
        slope = scale * inverse * through_var
        offset = scale * through_mean - slope * mean
        of_maps -= torch.addcmul(offset[:, None, None], maps, slope[:, None, None])
        return of_maps, of_weight, of_bias, None


class _Gathered(torch.autograd.Function):
    """Rows of all processes in one tensor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, part: Part) -> Tensor:
        ctx.part = part
        whole = rows.new_zeros(part.total, *rows.shape[1:])
        whole[part.rows] = rows
        return summed(whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # Gradients of weights become the mean over processes, but these belong to one of them.
        return grad[ctx.part.rows] * ctx.part.size, None


def gather_rows(rows: Tensor, part: Part) -> Tensor:
    """The whole batch of which each process has some rows; what follows must be alike in all."""
    whole: Tensor = _Gathered.apply(rows, part)  # type: ignore[no-untyped-call]
    return whole


def _whole(rows: Tensor, part: Part) -> Tensor:
    """An empty tensor for the whole batch, in the layout of some of its rows."""
    layout = torch.contiguous_format if rows.is_contiguous() else torch.channels_last
    shape = (part.total, *rows.shape[1:])
    if rows.ndim != 4:
        layout = torch.contiguous_format
    return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=layout)


def random_pieces(like: Tensor) -> Tensor:
    """Random int16 numbers from torch's generator of the CPU, in a tensor's shape and layout."""
    count = like.numel()
    words = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
    if not _is_dense(like):
        like = like.contiguous()
    return words.view(torch.int16)[:count].as_strided(like.shape, like.stride())


def keep_mask(pieces: Tensor, probability: float) -> Tensor:
    """Which pieces stand for a number that is kept, where one is dropped with a probability."""
    return pieces >= min(round(probability * PIECES), PIECES - 1) - PIECES // 2


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor's numbers lie without gaps, in whatever order of its axes."""
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


GROUPS = 8  # of channels in group norm, or fewer where the channels cannot be shared out
NormLayer = BatchNorm | nn.GroupNorm


class DatasetNorm(BatchNorm):
    """Batch norm whose scales and shifts all datasets share, with statistics of each dataset.

    ``running_mean`` and ``running_var`` are ``(datasets, channels)``.

    Source: Chang et al. 2019, Domain-Specific Batch Normalization (statistics alone).

    Attributes:
        active: Number of the dataset whose statistics are used, and changed in training.
    """

    def __init__(self, channels: int, datasets: int) -> None:
        super().__init__(channels)
        self.active = 0
        self.register_buffer("running_mean", torch.zeros(datasets, channels))
        self.register_buffer("running_var", torch.ones(datasets, channels))

    def forward(self, input: Tensor) -> Tensor:
        """Give maps ``(rows, channels, height, width)`` mean 0 and variance 1, then move them."""
        mean, var = statistics(self)
        assert self.momentum is not None
        return functional.batch_norm(
            input, mean, var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def statistics(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and variance ``(channels,)`` that a layer uses in evaluation mode."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if isinstance(norm, DatasetNorm):
        return norm.running_mean[norm.active], norm.running_var[norm.active]
    return norm.running_mean, norm.running_var


def build_norm(spec: BodySpec, channels: int) -> NormLayer:
    """A new layer of a body's kind."""
    if spec.norm == "group":
        return nn.GroupNorm(math.gcd(GROUPS, channels), channels)
    if spec.norm == "dataset":
        return DatasetNorm(channels, len(spec.datasets))
    return BatchNorm(channels)


def use(body: nn.Module, dataset: str, datasets: Sequence[str]) -> None:
    """Have a body use, and learn, the statistics of a dataset, where it keeps them apart.

    Raises:
        ValueError: It has none of that dataset.
    """
    layers = [layer for layer in body.modules() if isinstance(layer, DatasetNorm)]
    if layers and dataset not in datasets:
        raise ValueError(
            f"the body's batch norm has statistics of {', '.join(datasets)}, not of {dataset!r}"
        )
    for layer in layers:
        layer.active = list(datasets).index(dataset)
